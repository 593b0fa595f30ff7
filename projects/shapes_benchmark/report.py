"""Pictures of the objects whose outline the models draw most differently, as one HTML file."""

from __future__ import annotations

import base64
import html
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import torch
from numpy.typing import NDArray
from PIL import Image

from crispmask.data.images import read_image
from crispmask.evaluation.boundary_iou import boundary_iou
from crispmask.ops import mask_boundary

Mask = NDArray[np.bool_]
PICTURE_SIDE = 288
OUTLINE_COLOR = np.array([255, 32, 96], dtype=np.uint8)
MIN_AREA = 400


@dataclass(frozen=True)
class Comparison:
    """One ground-truth object that every model found.

    ``truth`` and ``masks`` (by model) are (H, W) bool, ``scores`` are Boundary IoU in [0, 1].
    """

    image: Path
    category: str
    truth: Mask
    masks: dict[str, Mask]
    scores: dict[str, float]

    @property
    def spread(self) -> float:
        """Boundary IoU of the best model minus that of the worst."""
        return max(self.scores.values()) - min(self.scores.values())


def compare(annotations: Path, images: Path, results: dict[str, Path]) -> list[Comparison]:
    """Match every object to the best prediction of each model and score the outlines.

    Args:
        annotations: COCO instances JSON; ``images``: folder of its images.
        results: COCO results JSON of each model, by the name it is shown with.

    Returns:
        Objects of at least ``MIN_AREA`` pixels that every model found: same class, mask IoU above 0.5.
    """
    data = json.loads(annotations.read_text())
    names = {category["id"]: category["name"] for category in data["categories"]}
    files = {image["id"]: images / image["file_name"] for image in data["images"]}
    predictions = {
        model: _by_image_and_class(json.loads(path.read_text())) for model, path in results.items()
    }
    found = []
    for truth in data["annotations"]:
        if truth.get("iscrowd") or truth["area"] < MIN_AREA:
            continue
        key = truth["image_id"], truth["category_id"]
        best = {model: _best(truth["segmentation"], rows.get(key, [])) for model, rows in predictions.items()}
        if all(mask is not None for mask in best.values()):
            mask = mask_util.decode(truth["segmentation"]).astype(bool)
            scores = {
                model: boundary_iou(torch.from_numpy(mask), torch.from_numpy(other))
                for model, other in best.items()
            }
            found.append(Comparison(files[key[0]], names[key[1]], mask, best, scores))
    return found


def write_report(path: Path, table: str, comparisons: list[Comparison], count: int = 16) -> None:
    """Write the table and the ``count`` objects with the largest difference between models to ``path``."""
    shown = sorted(comparisons, key=lambda c: c.spread, reverse=True)[:count]
    rows = "\n".join(_row(comparison) for comparison in shown)
    path.write_text(
        _PAGE.format(table=html.escape(table), summary=_summary(comparisons, len(shown)), rows=rows)
    )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>CrispMask: shapes benchmark</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1260px; padding: 0 1rem; }}
pre {{ background: #f4f4f6; padding: 1rem; overflow-x: auto; }}
section {{ display: grid; grid-auto-flow: column; grid-auto-columns: 1fr; gap: .5rem; margin: 0 0 1.5rem; }}
figure {{ margin: 0; }} img {{ width: 100%; }} figcaption {{ font-size: 13px; }}
</style></head><body>
<h1>Shapes benchmark</h1>
<pre>{table}</pre>
<p>{summary}</p>
{rows}
</body></html>
"""


def _summary(comparisons: list[Comparison], shown: int) -> str:
    if not comparisons:
        return "No object was found by every model: train longer to compare outlines."
    first, *others = models = list(comparisons[0].scores)
    better = ", ".join(f"{m} in {sum(c.scores[m] > c.scores[first] for c in comparisons)}" for m in others)
    means = ", ".join(f"{m} {100 * np.mean([c.scores[m] for c in comparisons]):.1f}" for m in models)
    return html.escape(
        f"{len(comparisons)} objects of at least {MIN_AREA} pixels were found by every model. "
        f"Mean Boundary IoU: {means}. A better outline than that of {first}: {better}. "
        f"Below, the {shown} objects with the largest difference, zoomed where the masks disagree."
    )


def _row(comparison: Comparison) -> str:
    window = _window(comparison)
    image = read_image(comparison.image)
    panels = [("image", None), ("ground truth", comparison.truth)]
    panels += [
        (f"{m}, Boundary IoU {100 * s:.1f}", comparison.masks[m]) for m, s in comparison.scores.items()
    ]
    figures = "".join(
        f'<figure><img src="{_data_url(_zoom(image, mask, window))}" alt="{html.escape(caption)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, mask in panels
    )
    title = html.escape(f"{comparison.category}, {comparison.image.name}")
    return f"<h2>{title}</h2>\n<section>{figures}</section>"


def _window(comparison: Comparison) -> tuple[int, int, int]:
    """Left, top and side in pixels of a square around the place where the masks disagree most."""
    first, *others = comparison.masks.values()
    rows, columns = np.nonzero(comparison.truth)
    object_side = max(int(np.ptp(rows)), int(np.ptp(columns))) + 1
    height, width = comparison.truth.shape
    side = int(np.clip(0.6 * object_side, 40, min(height, width)))
    differs = sum((first ^ other).astype(int) for other in others)
    sums = np.pad(differs, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(inside.argmax(), inside.shape)
    return int(left), int(top), side


def _zoom(image: NDArray[np.uint8], mask: Mask | None, window: tuple[int, int, int]) -> Image.Image:
    left, top, side = window
    size = (PICTURE_SIDE, PICTURE_SIDE)
    crop = image[top : top + side, left : left + side]
    picture = np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.BICUBIC)).copy()
    if mask is not None:
        enlarged = Image.fromarray(mask[top : top + side, left : left + side]).resize(
            size, Image.Resampling.NEAREST
        )
        inside = torch.from_numpy(np.array(enlarged, dtype=bool))
        picture[inside.numpy()] = picture[inside.numpy()] // 2 + OUTLINE_COLOR // 2
        picture[mask_boundary(inside, 2).numpy()] = OUTLINE_COLOR
    return Image.fromarray(picture)


def _data_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _by_image_and_class(rows: list[dict]) -> dict[tuple[int, int], list[dict]]:
    grouped: dict[tuple[int, int], list[dict]] = {}
    for row in rows:
        grouped.setdefault((row["image_id"], row["category_id"]), []).append(row["segmentation"])
    return grouped


def _best(truth: dict, candidates: list[dict]) -> Mask | None:
    if not candidates:
        return None
    ious = mask_util.iou(candidates, [truth], [0])[:, 0]
    if ious.max() <= 0.5:
        return None
    return mask_util.decode(candidates[int(ious.argmax())]).astype(bool)
