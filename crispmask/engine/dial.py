"""What settings of a trained model bring and cost, over the same images."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import islice, product
from tempfile import TemporaryDirectory
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_test_loader

from crispmask.data.mapper import ImageMapper
from crispmask.engine.cost import PeakMemory, timed
from crispmask.engine.trained_model import load_trained_model
from crispmask.engine.value_checks import value_of
from crispmask.engine.value_range import stored_value_range
from crispmask.errors import UserError
from crispmask.evaluation.build import build_evaluator, evaluator_type
from crispmask.heads import Dial
from crispmask.modeling.typed import device_of

# Images that are run once before anything is measured: the first ones set up memory and choose algorithms
WARM_UP = 2

Settings = dict[str, Any]
Track = Callable[[Sequence[Any], str], Iterable[Any]]


@dataclass(frozen=True)
class Measurement:
    """A model with some settings.

    Attributes:
        settings: keys of the dial that differ from the config.
        figures: results by task (``segm``, ``boundary``), as the evaluator gives them.
        milliseconds: median time of an image, masks at its size included.
        megabytes: most memory in use above that of the loaded model; NaN: not known.
    """

    settings: Settings
    figures: Mapping[str, Mapping[str, float]]
    milliseconds: float
    megabytes: float


def one_at_a_time(cfg: CfgNode, dial: Dial) -> Iterator[Settings]:
    """The config as it is, then every other value of a dial, one key at a time."""
    yield {}
    for key, values in dial.values.items():
        now = value_of(cfg, f"{dial.section}.{key}")
        yield from ({key: value} for value in values if value != now)


def all_combinations(values: Mapping[str, Sequence[Any]]) -> Iterator[Settings]:
    """The config as it is, then every combination of the values of some keys."""
    yield {}
    for combination in product(*values.values()):
        yield dict(zip(values, combination, strict=True))


def as_overrides(settings: Settings, dial: Dial) -> list[str]:
    """``KEY, VALUE, ...`` of a config; one value stands for that of every level."""
    overrides = []
    for key, value in settings.items():
        if key in dial.levels and not isinstance(value, tuple):
            value = (value,) * dial.levels[key]
        overrides += [f"{dial.section}.{key}", str(value)]
    return overrides


def first_images(cfg: CfgNode, limit: int) -> list[dict[str, Any]]:
    """The first images of the first data set of ``DATASETS.TEST``, as Detectron2 lists them; 0: all.

    Raises:
        UserError: its evaluator counts images that were left out as ones without predictions.
    """
    name = cfg.DATASETS.TEST[0]
    images = DatasetCatalog.get(name)
    if 0 < limit < len(images) and evaluator_type(name) == "cityscapes_instance":
        raise UserError(
            f"'{name}' is evaluated on all of its {len(images)} images or not at all: give --limit 0."
        )
    return images[: limit or None]


def measure(cfg: CfgNode, images: list[dict[str, Any]], settings: Settings, track: Track) -> Measurement:
    """Run and evaluate the model of a config.

    Args:
        cfg: the config with the settings in it.
        images: of :func:`first_images`.
        settings: what is told of it.
        track: wraps the batches, to show progress, with a title.

    Raises:
        UserError: the model cannot be built or loaded.
    """
    cfg = stored_value_range(cfg)
    model = load_trained_model(cfg)
    device = device_of(model)
    loader = build_detection_test_loader(images, mapper=ImageMapper(cfg, is_train=False), num_workers=0)
    with TemporaryDirectory() as folder, torch.inference_mode():
        evaluator = build_evaluator(cfg, cfg.DATASETS.TEST[0], folder)

        def run(batch: Any) -> float:
            outputs, spent = timed(lambda: model(batch), device)
            evaluator.process(batch, outputs)
            return spent

        evaluator.reset()
        for batch in islice(loader, WARM_UP):
            run(batch)
        evaluator.reset()
        memory = PeakMemory(device)
        seconds = [run(batch) for batch in track(loader, f"{settings or 'as it is'}")]
        megabytes = memory.megabytes()
        figures = _evaluate(evaluator, [image["image_id"] for image in images])
    return Measurement(settings, figures, 1000 * statistics.median(seconds), megabytes)


def _evaluate(evaluator: Any, image_ids: list[Any]) -> dict[str, dict[str, float]]:
    """Results on these images, which are all of them where an evaluator knows no ``img_ids``."""
    if "img_ids" in signature(evaluator.evaluate).parameters:
        return evaluator.evaluate(img_ids=image_ids)
    return evaluator.evaluate()
