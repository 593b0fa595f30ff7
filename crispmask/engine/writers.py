"""Where the scalars of a run go: terminal with ETA, metrics.json, TensorBoard, Weights & Biases."""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import yaml
from detectron2.config import CfgNode
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)

logger = logging.getLogger(__name__)


def build_writers(cfg: CfgNode) -> list[EventWriter]:
    """Writers of a run: printer and JSON always, TensorBoard where it is installed, W&B if asked for."""
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    writers = [CommonMetricPrinter(cfg.SOLVER.MAX_ITER), JSONWriter(str(folder / "metrics.json"))]
    if find_spec("tensorboard") is None:
        logger.info("No TensorBoard files will be written: `pip install tensorboard` to have them.")
    else:
        writers.append(TensorboardXWriter(str(folder)))
    if cfg.CRISPMASK.WANDB_PROJECT:
        writers.append(WandbWriter(cfg))
    return writers


class WandbWriter(EventWriter):
    """Send the scalars to Weights & Biases, median-smoothed as Detectron2's other writers do."""

    def __init__(self, cfg: CfgNode, *, window_size: int = 20) -> None:
        """
        Args:
            cfg: the project is ``CRISPMASK.WANDB_PROJECT``, the run is named by the folder ``OUTPUT_DIR``.
            window_size: iterations of the smoothing.
        """
        folder = Path(cfg.OUTPUT_DIR).resolve()
        self._run = import_module("wandb").init(
            project=cfg.CRISPMASK.WANDB_PROJECT,
            name=folder.name,
            dir=str(folder),
            config=yaml.safe_load(cfg.dump()),
        )
        self._window_size = window_size
        self._last_step = -1

    def write(self) -> None:
        """Send every scalar that is newer than the last call, each step once."""
        steps: dict[int, dict[str, float]] = {}
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        for name, (value, step) in latest.items():
            if step > self._last_step:
                steps.setdefault(step, {})[name] = value
        for step in sorted(steps):
            self._run.log(steps[step], step=step)
            self._last_step = step

    def close(self) -> None:
        """End the run on the server."""
        self._run.finish()
