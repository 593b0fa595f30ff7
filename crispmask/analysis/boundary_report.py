"""The page of ``crispmask analyze boundary``: where outlines are wrong, in one or more results files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pycocotools import mask as mask_utils

from crispmask.analysis.charts import Charts, histogram
from crispmask.analysis.gallery import Exhibition, largest_differences
from crispmask.analysis.image_files import ImageFiles
from crispmask.analysis.object_quality import ObjectQuality, summarize
from crispmask.analysis.page import Number, Page, Paragraph, Section, Table
from crispmask.evaluation.formats.coco import GroundTruth
from crispmask.evaluation.masks.boundary_iou import boundary_width
from crispmask.evaluation.progress import Progress

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


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
    images: ImageFiles,
    progress: Progress,
) -> Page:
    """The whole page.

    Args:
        gt: the data set, ``gt_path`` its name.
        files: one results file or more.
        ratio: boundary width as a share of the image diagonal.
        worst: objects that are shown of each kind.
        images: the images of the data set.
        progress: where to say how far it is.
    """
    objects = {file.label: file.objects for file in files}
    compared = len(files) > 1
    most = min(worst, len(files[0].objects)) * (len(files) + compared)
    exhibition = Exhibition(gt, images, most, progress=progress)
    sections = [largest_differences(objects, worst, exhibition)] if compared else []
    sections += [_worst(number, file, worst, exhibition) for number, file in enumerate(files, 1)]
    sections += [
        Section("Average precision", "figures", [_ap_table(files), _protocol(ratio)]),
        Section("Objects", "objects", [_size_table(files), _histograms(files), _thin(gt, files, ratio)]),
        Section("Classes", "classes", [_class_table(gt, files)]),
        Section("Files", "files", [_inputs(gt_path, files)]),
    ]
    return Page("Boundary analysis", _summary(files), sections)


def _summary(files: Sequence[Assessment]) -> str:
    said = [
        f"{file.label} reaches a Boundary AP of {file.figures['boundary']['AP']:.1f} and a mask AP of "
        f"{file.figures['mask']['AP']:.1f}"
        for file in files
    ]
    return f"{', '.join(said)}, over {len(files[0].objects)} objects."


def _worst(number: int, file: Assessment, count: int, exhibition: Exhibition) -> Section:
    """The objects that a file found with the lowest Boundary IoU."""
    found = sorted((o.pair for o in file.objects if o.pair), key=lambda pair: pair.boundary_iou)
    text = f"The lowest Boundary IoU among the {len(found)} objects that {file.label} found."
    gallery = exhibition.gallery([{file.label: pair} for pair in found[:count]])
    return Section(f"Worst outlines of {file.label}", f"worst-{number}", [Paragraph(text), gallery])


def _ap_table(files: Sequence[Assessment]) -> Table:
    rows: list[list[object]] = []
    for kind in ("mask", "boundary"):
        base = files[0].figures[kind]
        rows += [[file.label, kind, *_compared(file.figures[kind], base)] for file in files]
    caption = "AP of masks and of boundaries" + (
        f", and the difference to {files[0].label}" * (len(files) > 1)
    )
    return Table(caption, ["predictions", "of", *METRICS], rows, texts=2)


def _compared(figures: Mapping[str, float], base: Mapping[str, float]) -> list[object]:
    if figures is base:
        return [base[metric] for metric in METRICS]
    return [
        Number(figures[m], f"{figures[m]:.1f}", f"{figures[m] - base[m]:+.1f}")
        if math.isfinite(figures[m])
        else figures[m]
        for m in METRICS
    ]


def _protocol(ratio: float) -> Paragraph:
    return Paragraph(
        f"COCO's protocol. The boundary is {100 * ratio:g}% of the image diagonal wide; AP of boundaries "
        "takes the smaller of mask IoU and Boundary IoU."
    )


def _thin(gt: GroundTruth, files: Sequence[Assessment], ratio: float) -> Paragraph:
    """Say for how many objects AP of masks and of boundaries cannot differ."""
    objects, thin = files[0].objects, 0
    for item in objects:
        width = boundary_width(*gt.size(item.annotation["image_id"]), ratio)
        thin += min(mask_utils.toBbox(item.annotation["segmentation"])[2:]) <= 2 * width
    return Paragraph(
        f"{thin} of {len(objects)} objects have a side of at most twice the width of the boundary: they are "
        "all boundary, and of two such masks the Boundary IoU is the mask IoU."
    )


def _size_table(files: Sequence[Assessment]) -> Table:
    rows: list[list[object]] = []
    for file in files:
        for size in ("all", "small", "medium", "large"):
            s = summarize(item for item in file.objects if size in ("all", item.size))
            rows.append([file.label, size, s.objects, s.found, 100 * s.mask_iou, 100 * s.boundary_iou])
    caption = (
        "An object is found if a prediction of its class has a mask IoU of 0.5 or more with it, whatever its "
        "score; the means are over the objects that were found."
    )
    columns = ["predictions", "size", "objects", "found", "mean mask IoU", "mean Boundary IoU"]
    return Table(caption, columns, rows, texts=2)


def _histograms(files: Sequence[Assessment]) -> Charts:
    pairs = {file.label: [item.pair for item in file.objects if item.pair] for file in files}
    values = {
        "Mask IoU": {label: [pair.mask_iou for pair in group] for label, group in pairs.items()},
        "Boundary IoU": {label: [pair.boundary_iou for pair in group] for label, group in pairs.items()},
    }
    return Charts([histogram(f"{name} of the objects found", name, by) for name, by in values.items()])


def _class_table(gt: GroundTruth, files: Sequence[Assessment]) -> Table:
    """The classes that have objects, the lowest Boundary AP of the last file first."""
    rows: list[tuple[float, list[object]]] = []
    for category_id, name in gt.class_names.items():
        groups = [[o for o in file.objects if o.annotation["category_id"] == category_id] for file in files]
        if not groups[0]:
            continue
        sums = [summarize(group) for group in groups]
        ap = [[file.figures[kind][f"AP/{name}"] for file in files] for kind in ("mask", "boundary")]
        means = [100 * s.boundary_iou for s in sums]
        row = [name, sums[0].objects, *ap[0], *ap[1], *(s.found for s in sums), *means]
        rows.append((ap[1][-1], row))
    rows.sort(key=lambda pair: pair[0])
    names = ("mask AP", "Boundary AP", "found", "mean Boundary IoU")
    columns = [f"{name} {file.label}" if len(files) > 1 else name for name in names for file in files]
    return Table("The lowest Boundary AP first", ["class", "objects", *columns], [row for _, row in rows])


def _inputs(gt_path: str, files: Sequence[Assessment]) -> Table:
    rows = [("ground truth", gt_path), *((file.label, file.path) for file in files)]
    return Table("What the page was made from", ["", "file"], rows, texts=2)
