"""``crispmask demo --show``: the sheets of a model at work that heads register."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from crispmask.heads import Head, Views, heads

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from crispmask.engine.predictor import Predictor


# Values of --show that are styles of pictures; others are sheets of tiles, which videos have none of
STYLES = ("outline", "boundary")


def view_kinds() -> list[str]:
    """Names of all sheets."""
    return [kind for head in heads() if head.views for kind in head.views.kinds]


def describe_views() -> Iterator[str]:
    """A sentence a head with sheets."""
    for head in heads():
        if head.views:
            kinds = ", ".join(f"{kind} ({what})" for kind, what in head.views.kinds.items())
            yield f"--show of {head.title or head.name}: {kinds}."


def check_views(predictor: Predictor, wanted: Sequence[str]) -> None:
    """Stop before the work where a model has nothing to show.

    Args:
        predictor: the model.
        wanted: values of ``--show``, of which sheets count.

    Raises:
        UserError: it is not of the head, or without the part of it that a sheet shows.
    """
    for head, views, kinds in _chosen(wanted):
        head.load(views.check)(predictor, kinds)


def view_sheets(
    predictor: Predictor, picture: NDArray[np.uint8], wanted: Sequence[str], score_threshold: float
) -> dict[str, NDArray[np.uint8]]:
    """A sheet of each wanted kind, with a row for each object; none without an object.

    Args:
        predictor: a model that passed :func:`check_views`.
        picture: (H, W, 3) uint8 RGB.
        wanted: values of ``--show``, of which sheets count.
        score_threshold: lowest score of an object.
    """
    sheets: dict[str, NDArray[np.uint8]] = {}
    for head, views, kinds in _chosen(wanted):
        sheets |= head.load(views.draw)(predictor, picture, kinds, score_threshold)
    return sheets


def _chosen(wanted: Sequence[str]) -> Iterator[tuple[Head, Views, list[str]]]:
    for head in heads():
        if head.views and (kinds := [kind for kind in wanted if kind in head.views.kinds]):
            yield head, head.views, kinds
