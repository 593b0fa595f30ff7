"""Times of the boundary and quadtree ops at the sizes of a COCO image with 100 RoIs, on the CPU and on a GPU.

    python benchmarks/bench_ops.py [--seconds 1]

Every figure is the median of repeated runs. "floor" is the time that moving the op's input and output once
takes at the copy bandwidth measured in the same run. Without a GPU its columns say "not measured".
"""

import argparse
import importlib.util
import platform
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torchvision.ops import roi_align

from crispmask.ops import (
    boundary_band,
    build_quadtree,
    erosion_residue,
    gather_nodes,
    incoherence,
    mask_boundary,
)
from crispmask.ops.boundary import _boundary_band_reference, _mask_boundary_reference
from crispmask.ops.incoherence import _incoherence_reference

IMAGE = (480, 640)
WIDTH = 16  # 2% of the diagonal of a 640 x 480 image
ROIS = 100
REFERENCE = "torch reference"
# Sides of square objects: COCO counts 41% small, 34% medium and 24% large ones (limits 32 and 96).
SIDES = [20] * 41 + [60] * 34 + [170] * 25


class Case(NamedTuple):
    """One row: an op, what it is compared with, and the bytes it has to move."""

    name: str
    run: Callable[[], object]
    baseline_name: str
    baseline: Callable[[], object]
    bytes_moved: int


def median_seconds(run: Callable[[], object], seconds: float, device: str) -> float:
    """Median time of ``run`` over about ``seconds``, at least 5 runs; on a GPU by its own clock."""
    run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        if device == "cuda":
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            stop.record()
            stop.synchronize()
            times.append(start.elapsed_time(stop) / 1000)
        else:
            begin = time.perf_counter()
            run()
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


def copy_bandwidth(device: str, seconds: float) -> float:
    """Bytes read and written per second when a 64 MB tensor is copied."""
    source = torch.empty(64 << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / median_seconds(lambda: target.copy_(source), seconds, device)


def disc(side: int) -> np.ndarray:
    """A filled ellipse that touches all four sides."""
    return cv2.ellipse(np.zeros((side, side), np.uint8), ((side / 2, side / 2), (side, side), 0), 1, -1)


def full_image_erosion(mask: np.ndarray) -> np.ndarray:
    """The official tool's boundary: pad, erode by 3 x 3 as many times as the width, cut, subtract."""
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return mask - cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=WIDTH)[1:-1, 1:-1]


def boundary_of_objects(seconds: float) -> Table:
    """Boundary of one object of COCO size on the CPU, against erosion of the image that it lies in."""
    table = Table(
        title=f"mask_boundary on the CPU, width {WIDTH}, image {IMAGE[1]} x {IMAGE[0]}, us an object"
    )
    for column in (
        "object",
        "full-image erosion (OpenCV)",
        "op on the crop",
        "ratio",
        "without dispatch",
        "ratio",
    ):
        table.add_column(column, justify="right")
    totals = [0.0, 0.0, 0.0]
    for side in sorted(set(SIDES)):
        crop = disc(side)
        image = np.zeros(IMAGE, np.uint8)
        image[100 : 100 + side, 100 : 100 + side] = crop
        tensor = torch.from_numpy(crop).bool()
        runs = (
            lambda image=image: full_image_erosion(image),
            lambda tensor=tensor: mask_boundary(tensor, WIDTH),
            lambda crop=crop: erosion_residue(crop, WIDTH, crop.copy()),
        )
        times = [median_seconds(run, seconds, "cpu") for run in runs]
        totals = [t + n * SIDES.count(side) / len(SIDES) for t, n in zip(totals, times, strict=True)]
        add_boundary_row(table, f"{side} x {side}", times)
    add_boundary_row(table, "COCO mix", totals)
    return table


def add_boundary_row(table: Table, name: str, times: list[float]) -> None:
    """Append microseconds and the two ratios to the first."""
    full, op, bare = times
    cells = (1e6 * full, 1e6 * op, full / op, 1e6 * bare, full / bare)
    table.add_row(name, *(f"{cell:.1f}" for cell in cells))


def cases(device: str) -> list[Case]:
    """The ops at the size of a COCO image with 100 RoIs, each with what it replaces."""
    generator = torch.Generator().manual_seed(0)
    image_masks = torch.zeros(ROIS, *IMAGE, dtype=torch.bool)
    for i in range(ROIS):
        side = SIDES[i]
        image_masks[i, 50 : 50 + side, 50 : 50 + side] = torch.from_numpy(disc(side)).bool()
    roi_masks = torch.from_numpy(disc(224)).bool().expand(ROIS, -1, -1).contiguous()
    grids = roi_masks[:, ::2, ::2].contiguous()
    image_boxes = torch.tensor([[50, 50, 50 + side, 50 + side] for side in SIDES], device=device)
    image_masks, roi_masks, grids = (m.to(device) for m in (image_masks, roi_masks, grids))
    levels = incoherence(roi_masks, 3)
    features = [torch.randn(1, 256, 200 >> i, 304 >> i, generator=generator).to(device) for i in range(3)]
    low = torch.rand(ROIS, 2, generator=generator) * 400
    boxes = torch.cat([torch.zeros(ROIS, 1), low, low + 200], 1).to(device)
    scales = (1 / 4, 1 / 8, 1 / 16)
    feature_levels = torch.tensor([2, 1, 0], device=device).expand(ROIS, 3)
    nodes = build_quadtree(levels, 0.5)

    def gather() -> torch.Tensor:
        return gather_nodes(
            features, boxes, nodes, scales=scales, feature_levels=feature_levels, grid_size=28
        )

    def dense() -> list[torch.Tensor]:
        pairs = zip(features[::-1], scales[::-1], (28, 56, 112), strict=True)
        return [roi_align(f, boxes, side, scale, 0, aligned=True) for f, scale, side in pairs]

    count = len(nodes.roi)
    return [
        Case(
            f"mask_boundary {tuple(image_masks.shape)}",
            lambda: mask_boundary(image_masks, WIDTH),
            REFERENCE,
            lambda: _mask_boundary_reference(image_masks, WIDTH, None),
            2 * image_masks.numel(),
        ),
        Case(
            "the same in the boxes of COCO-size objects",
            lambda: mask_boundary(image_masks, WIDTH, image_boxes),
            "whole images",
            lambda: mask_boundary(image_masks, WIDTH),
            2 * image_masks.numel(),
        ),
        Case(
            f"boundary_band {tuple(grids.shape)}, width 2",
            lambda: boundary_band(grids, 2),
            REFERENCE,
            lambda: _boundary_band_reference(grids, 2),
            2 * grids.numel(),
        ),
        Case(
            f"incoherence {tuple(roi_masks.shape)}, 3 levels",
            lambda: incoherence(roi_masks, 3),
            REFERENCE,
            lambda: _incoherence_reference(roi_masks, 3),
            roi_masks.numel() + sum(level.numel() for level in levels),
        ),
        Case(
            f"build_quadtree, {count} nodes",
            lambda: build_quadtree(levels, 0.5),
            "nonzero of every level of every RoI",
            lambda: [level[i].nonzero() for i in range(ROIS) for level in levels],
            sum(level.numel() for level in levels) + 5 * 8 * count,
        ),
        Case(
            f"gather_nodes, {count} nodes, 256 channels",
            gather,
            "dense RoIAlign at 28, 56, 112",
            dense,
            5 * 4 * 256 * count,
        ),
    ]


def op_table(seconds: float) -> Table:
    """CPU and GPU times of every op, its baseline and its floor, in milliseconds."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    table = Table(title=f"Ops at the size of a COCO image with {ROIS} RoIs, ms")
    for column in ("op", "against", "CPU", "CPU baseline", "CPU floor", "GPU", "GPU baseline", "GPU floor"):
        table.add_column(column)
    rows: dict[int, list[str]] = {}
    for device in devices:
        bandwidth = copy_bandwidth(device, seconds)
        for i, case in enumerate(cases(device)):
            cells = [f"{1000 * median_seconds(case.run, seconds, device):.3f}"]
            if device == "cpu" and case.baseline_name == REFERENCE:
                cells.append("the same")
            else:
                cells.append(f"{1000 * median_seconds(case.baseline, seconds, device):.3f}")
            cells.append(f"{1000 * case.bytes_moved / bandwidth:.3f}")
            rows.setdefault(i, [case.name, case.baseline_name]).extend(cells)
    for row in rows.values():
        table.add_row(*row, *["not measured"] * (8 - len(row)))
    return table


def main() -> None:
    """Print what the figures were taken on, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to repeat each measurement")
    seconds = parser.parse_args().seconds
    console = Console(width=160)
    cv2.setNumThreads(torch.get_num_threads())
    triton = "not installed"
    if importlib.util.find_spec("triton"):
        triton = importlib.import_module("triton").__version__
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none: not measured"
    console.print(
        f"CPU {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads; GPU {gpu}"
    )
    console.print(
        f"torch {torch.__version__}, triton {triton}, OpenCV {cv2.__version__}, NumPy {np.__version__}"
    )
    console.print(boundary_of_objects(seconds))
    console.print(op_table(seconds))


if __name__ == "__main__":
    main()
