"""The page of the demo: outlines of all models side by side, their figures, and quality against time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from crispmask.analysis.charts import Charts, scatter
from crispmask.analysis.gallery import Exhibition, largest_differences
from crispmask.analysis.image_files import ImageFiles
from crispmask.analysis.object_quality import ObjectQuality, assess_objects
from crispmask.analysis.page import Page, Paragraph, Section, Table
from crispmask.evaluation.formats.coco import GroundTruth, load_dataset, read_ground_truth, read_predictions

# Pixels of an object whose outline can be judged by eye
MIN_AREA = 400
SHOWN = 12
DILATION_RATIO = 0.02


def outlines(annotations: Path, images: Path, results: Mapping[str, Path]) -> Section:
    """The objects whose outlines the models draw most differently.

    Args:
        annotations: COCO instances JSON; ``images``: folder of its images.
        results: COCO results JSON of each model, by the name it is shown with.
    """
    data = load_dataset(annotations)
    gt = read_ground_truth(data)
    objects = {model: large_objects(gt, path) for model, path in results.items()}
    files = ImageFiles(data["images"], str(images), gt.sizes)
    return largest_differences(objects, SHOWN, Exhibition(gt, files, SHOWN))


def large_objects(gt: GroundTruth, results: Path) -> list[ObjectQuality]:
    """Objects of at least ``MIN_AREA`` pixels, with the prediction that found each, if one did."""
    objects = assess_objects(gt, read_predictions(results, gt), DILATION_RATIO)
    return [item for item in objects if item.annotation["area"] >= MIN_AREA]


def build_page(
    pictures: Section, models: Table, speed: Mapping[str, tuple[float, float]], machine: str
) -> Page:
    """The page.

    Args:
        pictures: of :func:`outlines`.
        models: a row a model.
        speed: seconds an image and Boundary AP, by model.
        machine: what they were measured on.
    """
    chart = scatter("Quality against time", "seconds an image", "Boundary AP", speed)
    figures = Section("Models", "models", [models, Charts([chart]), Paragraph(f"Measured on: {machine}")])
    return Page("Mask heads on shapes", _summary(speed), [pictures, figures])


def _summary(speed: Mapping[str, tuple[float, float]]) -> str:
    """The models by Boundary AP, the best first; those without one last."""
    aps = {name: ap for name, (_, ap) in speed.items()}
    best_first = sorted(aps, key=lambda name: -aps[name] if math.isfinite(aps[name]) else math.inf)
    figures = ", ".join(f"{name} {aps[name]:.1f}".replace("nan", "–") for name in best_first)
    return f"Boundary AP of models that were trained alike: {figures}."
