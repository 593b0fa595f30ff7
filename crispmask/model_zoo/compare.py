"""Measured figures beside published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crispmask.model_list import Published

# What is told of a data set that nothing was published for
MAIN_METRICS = ("segm/AP", "boundary/AP", "bbox/AP")
# Their annotations are with an evaluation server
SECRET = ("coco_2017_test", "coco_2017_test-dev")


@dataclass(frozen=True)
class Comparison:
    """One figure.

    Attributes:
        dataset: name in Detectron2's catalog.
        metric: task/metric, as ``segm/AP``.
        published: AP in 0..100 in the authors' table; None: not published.
        ours: AP in 0..100 measured here; None: not measured.
        note: what must be known before the two are compared, or why there is only one.
    """

    dataset: str
    metric: str
    published: float | None
    ours: float | None
    note: str = ""

    @property
    def difference(self) -> float | None:
        """Ours minus published; None where one is not there."""
        if self.published is None or self.ours is None:
            return None
        return self.ours - self.published


def published_datasets(rows: Sequence[Published]) -> list[str]:
    """Data sets of the figures, each once."""
    return list(dict.fromkeys(dataset for row in rows for dataset in row.figures))


def compare(
    rows: Sequence[Published],
    measured: Mapping[str, Mapping[str, Mapping[str, float]]],
    reasons: Mapping[str, str],
) -> list[Comparison]:
    """Every published figure, and the main ones that were measured beside them.

    Args:
        rows: what was published of the model.
        measured: data set: task: metric: AP in 0..100, as evaluators give them.
        reasons: data set: why it was not measured.
    """
    found = []
    for row in rows:
        for dataset, values in row.figures.items():
            ours = _flat(measured.get(dataset, {}))
            note = row.note if dataset in measured else reasons.get(dataset, "not measured")
            found += [Comparison(dataset, m, value, ours.get(m), note) for m, value in values.items()]
    told = {(figure.dataset, figure.metric) for figure in found}
    for dataset, results in measured.items():
        ours = _flat(results)
        found += [
            Comparison(dataset, metric, None, ours[metric], "not published")
            for metric in MAIN_METRICS
            if metric in ours and (dataset, metric) not in told
        ]
    return found


def _flat(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {f"{task}/{metric}": value for task, values in results.items() for metric, value in values.items()}
