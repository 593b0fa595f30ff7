"""How long a run will take: a plan before its first iteration, then how far it is, evaluations included."""

from __future__ import annotations

import logging
import math
import re
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase
from detectron2.utils import comm
from tabulate import tabulate

from crispmask.evaluation.build import EVALUATORS, evaluator_type
from crispmask.text import ON_TERMINAL, counted

# The first word comes after so many seconds and iterations of training, without the slower first one;
# afterwards a hundred lines in all, but not more often and not more rarely than this
FIRST_SECONDS, FIRST_ITERATIONS = 1.0, 3
LEAST_SECONDS, MOST_SECONDS = 10.0, 300.0
# Iterations of which the time and the loss that are told are medians
WINDOW = 20

logger = logging.getLogger(__name__)


class Evaluations:
    """When a training is evaluated, and on how many images."""

    def __init__(self, cfg: CfgNode) -> None:
        """
        Args:
            cfg: the config of the run.
        """
        names = [name for name in cfg.DATASETS.TEST if evaluator_type(name) in EVALUATORS]
        self.images = {name: len(DatasetCatalog.get(name)) for name in names}
        self._period, self._max_iter = cfg.TEST.EVAL_PERIOD, cfg.SOLVER.MAX_ITER

    def left(self, done: int) -> int:
        """How many come after ``done`` iterations; the last one is after the last iteration."""
        if not self.images:
            return 0
        between = range(self._period, self._max_iter, self._period) if self._period > 0 else ()
        return 1 + sum(iteration > done for iteration in between)

    def follows(self, done: int) -> bool:
        """Whether one comes right after ``done`` iterations, the last excepted."""
        return self.left(done - 1) > self.left(done)


class ProgressReport(HookBase):
    """Logs the plan of a training, and then how far it is; it is put before all other hooks."""

    def __init__(self, cfg: CfgNode, num_images: int) -> None:
        """
        Args:
            cfg: the config of the run.
            num_images: what is trained on.
        """
        self._cfg, self._num_images = cfg, num_images
        self._seconds: deque[float] = deque(maxlen=WINDOW)
        self._evaluation_seconds: float | None = None
        self._trained_seconds = 0.0
        self._told_at = -math.inf
        self._began_step = self._ended_step = 0.0

    def before_train(self) -> None:
        """Log the plan."""
        self._evaluations = Evaluations(self._cfg)
        logger.info(
            describe_plan(self._cfg, self._num_images, self._evaluations.images, self.trainer.start_iter)
        )

    def before_step(self) -> None:
        """Take the time, that of an evaluation before this step, too."""
        self._began_step = time.perf_counter()
        done = self.trainer.iter
        if done > self.trainer.start_iter and self._evaluations.follows(done):
            self._evaluation_seconds = self._began_step - self._ended_step

    def after_step(self) -> None:
        """Log a line if it is time for one."""
        self._ended_step = time.perf_counter()
        done = self.trainer.iter + 1
        if done - self.trainer.start_iter == 1 and done < self.trainer.max_iter:
            return  # it is slower than all others
        seconds = self._ended_step - self._began_step
        self._seconds.append(seconds)
        self._trained_seconds += seconds
        left = self._seconds_left(done)
        first = self._told_at == -math.inf
        if first:
            due = self._trained_seconds >= FIRST_SECONDS and len(self._seconds) >= FIRST_ITERATIONS
        else:
            wait = (self._trained_seconds + left) / 100
            due = self._ended_step - self._told_at >= min(max(wait, LEAST_SECONDS), MOST_SECONDS)
        if not due and done < self.trainer.max_iter:
            return
        self._told_at = self._ended_step
        loss = self.trainer.storage.history("total_loss").median(WINDOW)
        line = iteration_line(done, self.trainer.max_iter, loss, median(self._seconds))
        whole = ", evaluation included" if first and self._evaluations.left(done) else ""
        logger.info(f"{line}; {describe_seconds(left)} left{whole}")

    def _seconds_left(self, done: int) -> float:
        step = median(self._seconds)
        evaluation = self._evaluation_seconds
        if evaluation is None:
            # An image costs about what it costs to train on it
            evaluation = sum(self._evaluations.images.values()) * step / images_per_iteration(self._cfg)
        return (self.trainer.max_iter - done) * step + self._evaluations.left(done) * evaluation


def iteration_line(done: int, total: int, loss: float, seconds: float) -> str:
    """How far a training is; ``seconds`` an iteration."""
    return f"iteration {done} of {total}: loss {loss:.3g}, {seconds:.2f} s an iteration"


def read_progress(line: str) -> tuple[str, int, int] | None:
    """``iteration`` or ``evaluated``, how many and of how many, of a line of a run; None of other lines."""
    found = re.search(r"\b(iteration|evaluated) (\d+) of (\d+)\b", line)
    return found and (found[1], int(found[2]), int(found[3]))


def images_per_iteration(cfg: CfgNode) -> int:
    """Images of one optimizer step, of all processes."""
    return cfg.SOLVER.IMS_PER_BATCH * cfg.CRISPMASK.ACCUMULATION_STEPS


def describe_plan(cfg: CfgNode, num_images: int, evaluated: Mapping[str, int], start: int) -> str:
    """What a training will do, in a few sentences.

    Args:
        cfg: its config.
        num_images: images that it trains on.
        evaluated: images of each data set that it is evaluated on.
        start: iterations that were done before.
    """
    count, batch = cfg.SOLVER.MAX_ITER - start, images_per_iteration(cfg)
    passes = count * batch / max(num_images, 1)
    processes = comm.get_world_size()
    words = f"Plan: goes on after iteration {start}, {count} more" if start else f"Plan: {count} iterations"
    words += f" of {counted(batch, 'image')}" + (f" on {processes} processes" if processes > 1 else "")
    words += f", {passes:{'.2g' if passes < 10 else '.0f'}} times the {counted(num_images, 'image')} of "
    words += ", ".join(cfg.DATASETS.TRAIN)
    words += "; " + (_describe_evaluations(cfg, evaluated) or "no evaluation")
    return f"{words}. The log in full: {Path(cfg.OUTPUT_DIR) / 'log.txt'}"


def _describe_evaluations(cfg: CfgNode, evaluated: Mapping[str, int]) -> str:
    where = " and ".join(f"the {counted(count, 'image')} of {name}" for name, count in evaluated.items())
    period = cfg.TEST.EVAL_PERIOD
    often = f"every {period} and at the end" if 0 < period < cfg.SOLVER.MAX_ITER else "at the end"
    return where and f"evaluation {often} on {where}"


def describe_seconds(seconds: float) -> str:
    """A time as people say it, with at most two units."""
    seconds = max(0, round(seconds))
    for unit, size, smaller, smaller_size in (
        *(("d", 86400, "h", 3600), ("h", 3600, "min", 60)),
        ("min", 60, "s", 10),
    ):
        if seconds >= size:
            rest = seconds % size // smaller_size * (smaller_size if smaller == "s" else 1)
            return f"{seconds // size} {unit} {rest} {smaller}" if rest else f"{seconds // size} {unit}"
    return f"{seconds} s"


def log_results(results: Mapping[str, Any], names: Iterable[str]) -> None:
    """Log the figures of an evaluation as one table a data set, without those of classes.

    Args:
        results: what Detectron2's ``test`` gives: of one data set, or by data set.
        names: of the data sets.
    """
    names = list(names)
    for name, tasks in results.items() if len(names) > 1 else [(names[0], results)] if names else ():
        figures = {task: values for task, values in tasks.items() if isinstance(values, Mapping)}
        metrics = dict.fromkeys(m for values in figures.values() for m in values if "-" not in m)
        if not metrics:
            continue
        rows = [[task, *(_figure(values, metric) for metric in metrics)] for task, values in figures.items()]
        table = tabulate(rows, ["", *metrics], floatfmt=".1f", missingval="-")
        logger.info("Results on %s:\n%s", name, table, extra=ON_TERMINAL)


def _figure(values: Mapping[str, float], metric: str) -> float | None:
    """A figure; None for one of nothing, as of small objects where there is none."""
    value = values.get(metric)
    return None if value is None or math.isnan(value) else value
