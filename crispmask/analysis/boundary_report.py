"""The page of ``crispmask analyze boundary``: where outlines are wrong, in one or two results files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from crispmask.analysis import html
from crispmask.analysis.error_maps import EXTRA, MISSED, error_map, most_wrong, picture_of, whole_object
from crispmask.analysis.object_quality import ObjectQuality, summarize
from crispmask.analysis.pairs import MAX_DECODED, Pair
from crispmask.evaluation.boundary_iou import boundary_width
from crispmask.evaluation.inputs import GroundTruth, Row
from crispmask.evaluation.progress import Progress

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
# Pixels of a window that is cut out, in which windows are compared by sums of 8 bytes a pixel
MAX_WINDOW = 2**26
# Image of an id, (H, W, 3) uint8 RGB; None: there is none
ImageReader = Callable[[object], NDArray[np.uint8] | None]
# Page of objects, each with the pair of every file
Gallery = Callable[[Sequence[tuple[Row, Mapping[str, Pair]]]], str]


@dataclass(frozen=True)
class Assessment:
    """A results file: its AP and every object.

    Attributes:
        label: short name.
        path: whole name.
        figures: ``mask`` and ``boundary`` figures of ``average_precisions``.
        objects: in the order of the annotations, the same for every file.
    """

    label: str
    path: str
    figures: Mapping[str, Mapping[str, float]]
    objects: Sequence[ObjectQuality]


def build_report(
    gt: GroundTruth,
    gt_path: str,
    files: Sequence[Assessment],
    ratio: float,
    *,
    worst: int,
    read: ImageReader,
    progress: Progress,
) -> str:
    """The whole page.

    Args:
        gt: the data set, ``gt_path`` its name.
        files: one or two results files.
        ratio: boundary width as a share of the image diagonal.
        worst: objects that are shown of each kind.
        read: gives the image of an id.
        progress: where to say how far it is.
    """
    gallery = partial(_gallery, gt, read, progress)
    parts = [
        _inputs(gt_path, files, ratio),
        html.table(["", *_ap_columns(files)], _ap_rows(files)),
        _thin_objects(gt, files[0].objects, ratio),
        "<h2>Objects</h2>",
        _size_table(files),
        _histograms(files),
        "<h2>Classes</h2>",
        html.table(["class", *_class_columns(files)], _class_rows(gt, files), tall=True),
    ]
    if len(files) == 2:
        parts.append(_differences(files, worst, gallery))
    parts += [_worst(file, worst, gallery) for file in files]
    return html.page("Boundary analysis", "\n".join(parts))


def _inputs(gt_path: str, files: Sequence[Assessment], ratio: float) -> str:
    names = [("ground truth", gt_path), *((file.label, file.path) for file in files)]
    return html.table(["", "file"], names, texts=2) + html.paragraph(
        f"COCO's protocol. The boundary is {100 * ratio:g}% of the image diagonal wide; AP of boundaries "
        "takes the smaller of mask IoU and Boundary IoU."
    )


def _ap_columns(files: Sequence[Assessment]) -> list[str]:
    columns = [f"{kind} {file.label}" for kind in ("mask", "boundary") for file in files]
    return columns + (["mask difference", "boundary difference"] if len(files) == 2 else [])


def _ap_rows(files: Sequence[Assessment]) -> list[list[object]]:
    rows: list[list[object]] = []
    for metric in METRICS:
        values = [[file.figures[kind][metric] for file in files] for kind in ("mask", "boundary")]
        differences = [f"{pair[1] - pair[0]:+.1f}" for pair in values] if len(files) == 2 else []
        rows.append([metric, *values[0], *values[1], *differences])
    return rows


def _thin_objects(gt: GroundTruth, objects: Sequence[ObjectQuality], ratio: float) -> str:
    """Say for how many objects AP of masks and of boundaries cannot differ."""
    thin = 0
    for item in objects:
        width = boundary_width(*gt.size(item.annotation["image_id"]), ratio)
        thin += min(mask_utils.toBbox(item.annotation["segmentation"])[2:]) <= 2 * width
    return html.paragraph(
        f"{thin} of {len(objects)} objects have a side of at most twice the width of the boundary: they are "
        "all boundary, and of two such masks the Boundary IoU is the mask IoU."
    )


def _size_table(files: Sequence[Assessment]) -> str:
    rows: list[list[object]] = []
    for file in files:
        for size in ("all", "small", "medium", "large"):
            s = summarize(item for item in file.objects if size in ("all", item.size))
            rows.append([file.label, size, s.objects, s.found, 100 * s.mask_iou, 100 * s.boundary_iou])
    text = html.paragraph(
        "An object is found if a prediction of its class has a mask IoU of 0.5 or more with it, whatever its "
        "score; the means are over the objects that were found."
    )
    columns = ["predictions", "size", "objects", "found", "mean mask IoU", "mean Boundary IoU"]
    return text + html.table(columns, rows, texts=2)


def _histograms(files: Sequence[Assessment]) -> str:
    pairs = {file.label: [item.pair for item in file.objects if item.pair] for file in files}
    charts = [
        html.histogram(title, {label: [value(pair) for pair in group] for label, group in pairs.items()})
        for title, value in (("mask IoU", _mask_iou), ("Boundary IoU", _boundary_iou))
    ]
    key = html.color_key(dict(zip(pairs, html.SERIES_COLORS, strict=False)))
    return f'{key}<div class="row">{"".join(charts)}</div>'


def _class_columns(files: Sequence[Assessment]) -> list[str]:
    names = ("mask AP", "boundary AP", "found", "mean Boundary IoU")
    return ["objects", *(f"{name} {file.label}" for name in names for file in files)]


def _class_rows(gt: GroundTruth, files: Sequence[Assessment]) -> list[list[object]]:
    """Rows of the classes that have objects, the lowest Boundary AP of the last file first."""
    rows: list[list[object]] = []
    for category_id, name in gt.class_names.items():
        groups = [[o for o in file.objects if o.annotation["category_id"] == category_id] for file in files]
        if not groups[0]:
            continue
        sums = [summarize(group) for group in groups]
        ap = [[file.figures[kind][f"AP/{name}"] for file in files] for kind in ("mask", "boundary")]
        means = [100 * s.boundary_iou for s in sums]
        rows.append([name, sums[0].objects, *ap[0], *ap[1], *(s.found for s in sums), *means])
    last = 1 + 2 * len(files)
    return sorted(rows, key=lambda row: row[last])


def _differences(files: Sequence[Assessment], count: int, gallery: Gallery) -> str:
    """The objects that both files found and whose outlines differ most."""
    first, second = files
    both = [(a, b) for a, b in zip(first.objects, second.objects, strict=True) if a.pair and b.pair]
    both.sort(key=lambda pair: abs(_gain(*pair)), reverse=True)
    better = sum(_gain(*pair) > 0 for pair in both)
    only = [
        sum(bool(a.pair) and not b.pair for a, b in zip(x.objects, y.objects, strict=True))
        for x, y in ((first, second), (second, first))
    ]
    text = (
        f"Both found {len(both)} objects, and {second.label} has the higher Boundary IoU in {better} of "
        f"them. {only[0]} objects were found by {first.label} alone, {only[1]} by {second.label} alone."
    )
    shown = gallery([(a.annotation, {first.label: a.pair, second.label: b.pair}) for a, b in both[:count]])
    return f"<h2>Largest differences</h2>{html.paragraph(text)}{shown}"


def _worst(file: Assessment, count: int, gallery: Gallery) -> str:
    """The objects that a file found with the lowest Boundary IoU."""
    found = sorted((o for o in file.objects if o.pair), key=lambda item: _boundary_iou(item.pair))
    shown = gallery([(o.annotation, {file.label: o.pair}) for o in found[:count]])
    text = f"The lowest Boundary IoU among the {len(found)} objects that {file.label} found."
    title = html.escape(f"Worst outlines of {file.label}")
    return f"<h2>{title}</h2>{html.paragraph(text)}{shown}"


def _gallery(
    gt: GroundTruth,
    read: ImageReader,
    progress: Progress,
    entries: Sequence[tuple[Row, Mapping[str, Pair]]],
) -> str:
    """Objects, each with the pairs of the files, below the key of their colours."""
    shown = (_gallery_entry(gt, *entry, read) for entry in progress.track(entries, "Pictures of the page"))
    return _KEY + "".join(shown)


def _gallery_entry(gt: GroundTruth, annotation: Row, pairs: Mapping[str, Pair], read: ImageReader) -> str:
    """An object: its image, and of every file the error map of the whole and of a part, enlarged."""
    name = gt.class_names[annotation["category_id"]]
    title = f"{name}, image {annotation['image_id']}, annotation {annotation['id']}"
    heading = f"<h3>{html.escape(title)}</h3>"
    rows = [annotation, *(pair.prediction for pair in pairs.values())]
    if not _can_be_drawn(gt.size(annotation["image_id"]), rows):
        return heading + html.paragraph("Too large to be drawn.")
    truth = _decode(annotation)
    found = {label: _decode(pair.prediction) for label, pair in pairs.items()}
    whole = whole_object(truth, np.logical_or.reduce(list(found.values())))
    image = read(annotation["image_id"])
    figures = [] if image is None else [html.figure(picture_of(image, whole), "image")]
    for label, mask in found.items():
        pair = pairs[label]
        caption = f"{label}: mask IoU {100 * pair.mask_iou:.1f}, Boundary IoU {100 * pair.boundary_iou:.1f}"
        figures.append(html.figure(error_map(truth, mask, image, whole), caption))
    for label, mask in found.items():
        # Of two predictions, the place where they differ most, the same for both
        zoom = most_wrong(*found.values()) if len(found) == 2 else most_wrong(truth, mask)
        caption = f"{label}: {zoom.side} pixels wide; {_pixels(pairs[label])} in all"
        figures.append(html.figure(error_map(truth, mask, image, zoom), caption))
    return f'{heading}<div class="row">{"".join(figures)}</div>'


def _can_be_drawn(size: tuple[int, int], rows: Sequence[Row]) -> bool:
    """Whether an image and the square around masks of it have few enough pixels."""
    boxes = np.array([mask_utils.toBbox(row["segmentation"]) for row in rows])
    extent = (boxes[:, :2] + boxes[:, 2:]).max(axis=0) - boxes[:, :2].min(axis=0)
    return size[0] * size[1] <= MAX_DECODED and extent.max() ** 2 <= MAX_WINDOW


def _decode(row: Row) -> NDArray[np.bool_]:
    return mask_utils.decode(row["segmentation"]).astype(bool)


def _pixels(pair: Pair) -> str:
    return f"{pair.missed} pixels missed, {pair.extra} extra"


def _mask_iou(pair: Pair) -> float:
    return pair.mask_iou


def _boundary_iou(pair: Pair) -> float:
    return pair.boundary_iou


def _gain(first: ObjectQuality, second: ObjectQuality) -> float:
    return second.pair.boundary_iou - first.pair.boundary_iou


_KEY = html.color_key(
    {"missed": f"rgb{tuple(MISSED.tolist())}", "extra": f"rgb{tuple(EXTRA.tolist())}", "true outline": "#000"}
)
