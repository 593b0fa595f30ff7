"""``crispmask demo --show``: sheets that show what Mask Transfiner did with the best objects of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crispmask.errors import UserError
from crispmask.visualization.closeups import Closeup, sheet
from crispmask.visualization.overlay import DrawnObject, draw_objects

from .drawing import draw_attention, draw_nodes, spread_nodes
from .encoder import SequenceEncoder
from .inspection import inspect_quadtrees
from .mask_head import TransfinerMaskHead

if TYPE_CHECKING:
    from detectron2.structures import Instances

    from crispmask.engine.predictor import Predictor

# Objects of an image, the best scores first, and nodes of an object
MOST_OBJECTS, NODES = 6, 4


def check_views(predictor: Predictor, kinds: Sequence[str]) -> None:
    """Stop before the work where the model has nothing to show.

    Raises:
        UserError: the model has no quadtree, or no attention.
    """
    head = getattr(getattr(predictor.model, "roi_heads", None), "mask_head", None)
    if not isinstance(head, TransfinerMaskHead):
        raise UserError(f"--show {kinds[0]} is for Mask Transfiner: give one of its configs, or no --show.")
    if "attention" in kinds and not isinstance(head.quadtree.refiner.body, SequenceEncoder):
        raise UserError("--show attention needs attention: this model's MODEL.TRANSFINER.REFINER has none.")


def view_sheets(
    predictor: Predictor,
    picture: NDArray[np.uint8],
    kinds: Sequence[str],
    score_threshold: float,
) -> dict[str, NDArray[np.uint8]]:
    """A sheet of each kind, with a row for each object; none without an object.

    Args:
        predictor: with a Mask Transfiner model.
        picture: (H, W, 3) uint8 RGB.
        kinds: ``quadtree``: a tile of the object and one of each level. ``attention``: tiles of what some of
            its nodes attend to in the last layer.
        score_threshold: lowest score of an object.
    """

    def best(found: Instances) -> list[int]:
        shown = found.scores.argsort(descending=True)[:MOST_OBJECTS]
        return shown[found.scores[shown] >= score_threshold].tolist()

    choose = _spread_over_object if "attention" in kinds else None
    (view,) = inspect_quadtrees(predictor.model, [predictor.model_input(picture)], choose, best)
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    found = view.instances
    for index in best(found):
        inside = view.views[index]
        box = found.pred_boxes.tensor[index].numpy()
        crop = Closeup.around(box[None])
        title = f"{predictor.classes.names[found.pred_classes[index]]} {100 * found.scores[index]:.0f}%"
        if not len(inside.quadtree):
            title += ", no node"
        outline = DrawnObject(found.pred_masks[index].numpy(), tuple(box), "", (255, 0, 80))
        first = {"object": (title, crop.tile(draw_objects(picture, [outline], 2), scale=2))}
        tiles = {"quadtree": _level_tiles, "attention": _attention_tiles}
        for kind, lines in rows.items():
            lines.append(first | tiles[kind](picture, crop, inside))
    return {kind: sheet(lines) for kind, lines in rows.items() if lines}


def _spread_over_object(quadtree: Any) -> list[int]:
    """Nodes of the finest level that was refined, far apart from each other."""
    refined = quadtree.refined.numpy()
    levels = quadtree.levels.numpy()
    if not refined.any():
        return []
    finest = np.flatnonzero(refined & (levels == levels[refined].max()))
    return spread_nodes(quadtree.boxes.numpy(), quadtree.scores.numpy(), finest, NODES)


def _level_tiles(picture: NDArray[np.uint8], crop: Closeup, view: Any) -> dict[str, tuple[str, Any]]:
    tree, tiles = view.quadtree, {}
    for level in tree.levels.unique().tolist():
        here = (tree.levels == level).numpy()
        refined = tree.refined.numpy()[here]
        tile = draw_nodes(picture, crop, tree.boxes.numpy()[here], level, refined)
        tiles[f"level {level + 1}"] = f"{here.sum()} nodes, {refined.sum()} of them refined", tile
    return tiles


def _attention_tiles(picture: NDArray[np.uint8], crop: Closeup, view: Any) -> dict[str, tuple[str, Any]]:
    tiles = {}
    for number, node in enumerate(view.attention, 1):
        arrays = (node.points.numpy(), node.levels.numpy(), node.weights[-1].numpy())
        tile = draw_attention(picture, crop, *arrays, view.quadtree.boxes[node.node].numpy())
        tiles[f"node {number}"] = f"what it attends to of {len(node.points)} tokens", tile
    return tiles
