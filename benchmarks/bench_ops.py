"""Times of the boundary and quadtree ops at the sizes of a COCO image with 100 RoIs, on the CPU and on a GPU.

    python benchmarks/bench_ops.py [--seconds 1]

Prints Markdown: what it ran on, then tables. Every time is the median of repeated runs; on the CPU in CPU
seconds of one thread, which other work on the machine changes little, on a GPU by its own clock. "Floor" is
the time that moving an op's input and output once takes at the copy bandwidth measured in the same run.
Without a GPU its columns say "not measured".
"""

import argparse
import importlib.util
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from full_image_erosion import IMAGE, WIDTH, disc, full_image_boundary, image_with
from timing import cpu_cost, gpu_cost
from torchvision.ops import roi_align

from crispmask.engine.cost import cpu_name
from crispmask.ops import (
    Nodes,
    boundary_band,
    build_quadtree,
    erosion_residue,
    gather_nodes,
    incoherence,
    mask_boundary,
)
from crispmask.ops.boundary import _boundary_band_reference, _mask_boundary_reference
from crispmask.ops.gather import _gather_backward_reference, _gather_reference
from crispmask.ops.incoherence import _incoherence_reference

ROIS = 100
REFERENCE = "torch reference"
# Sides of square objects: COCO counts 41% small, 34% medium and 24% large ones (limits 32 and 96).
SIDES = [20] * 41 + [60] * 34 + [170] * 25
SCALES = (1 / 4, 1 / 8, 1 / 16)
GRID = 28
CHANNELS = 256


class Case(NamedTuple):
    """One row: an op, what it is compared with, and the bytes it has to move."""

    name: str
    run: Callable[[], object]
    baseline_name: str
    baseline: Callable[[], object]
    bytes_moved: int


class Reading(NamedTuple):
    """What :func:`gather_nodes` is called with."""

    features: list[torch.Tensor]
    boxes: torch.Tensor
    nodes: Nodes
    feature_levels: torch.Tensor

    def gather(self) -> torch.Tensor:
        """Features at the nodes."""
        return gather_nodes(
            self.features,
            self.boxes,
            self.nodes,
            scales=SCALES,
            feature_levels=self.feature_levels,
            grid_size=GRID,
        )

    def dense(self) -> list[torch.Tensor]:
        """RoIAlign of the whole grids, of which the nodes would be picked."""
        maps = zip(self.features[::-1], SCALES[::-1], (GRID, 2 * GRID, 4 * GRID), strict=True)
        return [roi_align(f, self.boxes, side, scale, 0, aligned=True) for f, scale, side in maps]

    def cells(self) -> torch.Tensor:
        """The nodes as the op behind takes them."""
        nodes = self.nodes
        side = GRID * 2**nodes.level
        return torch.stack([nodes.roi, self.feature_levels[nodes.roi, nodes.level], side, nodes.y, nodes.x])


def median_seconds(run: Callable[[], object], seconds: float, device: str) -> float:
    """Median time of ``run`` over about ``seconds``, at least 3 samples of a millisecond or longer."""
    run()
    began = time.perf_counter()
    run()
    calls = max(1, int(1e-3 / max(time.perf_counter() - began, 1e-7)))
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        if device == "cuda":
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(calls):
                run()
            stop.record()
            stop.synchronize()
            times.append(start.elapsed_time(stop) / 1000 / calls)
        else:
            begin = time.process_time()
            for _ in range(calls):
                run()
            times.append((time.process_time() - begin) / calls)
    return statistics.median(times)


def copy_bandwidth(device: str, seconds: float) -> float:
    """Bytes read and written per second when a 64 MB tensor is copied."""
    source = torch.empty(64 << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / median_seconds(lambda: target.copy_(source), seconds, device)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> None:
    """Print a Markdown table with ``names`` columns to the left and figures to the right."""
    print(f"\n**{title}**\n\n| {' | '.join(columns)} |")
    print("|" + "|".join("---" if i < names else "---:" for i in range(len(columns))) + "|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def print_boundaries(seconds: float) -> None:
    """Boundary of one object of COCO size on the CPU, against erosion of the image that it lies in."""
    script = Path(__file__).with_name("full_image_erosion.py")
    command = [sys.executable, str(script), "--seconds", str(seconds)]
    full = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    times = {}
    for side in sorted(set(SIDES)):
        crop, image = disc(side), image_with(side)
        tensor = torch.from_numpy(crop).bool()
        batch = tensor.expand(100, -1, -1).contiguous()
        runs: tuple[Callable[[], object], ...] = (
            lambda image=image: full_image_boundary(image),
            lambda tensor=tensor: mask_boundary(tensor, WIDTH),
            lambda crop=crop: erosion_residue(crop, WIDTH, crop.copy()),
            lambda batch=batch: mask_boundary(batch, WIDTH),
        )
        warm, op, residue, hundred = (1e6 * median_seconds(run, seconds, "cpu") for run in runs)
        times[f"{side} x {side}"] = (full, warm, op, residue, hundred / 100)
    shares = [SIDES.count(side) / len(SIDES) for side in sorted(set(SIDES))]
    columns = zip(*times.values(), strict=True)
    times["COCO mix"] = tuple(sum(s * t for s, t in zip(shares, column, strict=True)) for column in columns)
    height, width = IMAGE
    print_table(
        f"`mask_boundary` of one object on the CPU, width {WIDTH}, image {width} x {height}, µs an object",
        ("object", "full image", "full image, warm", "op, one crop", "`erosion_residue`", "op, 100 crops"),
        [(name, *_with_ratios(row)) for name, row in times.items()],
    )
    print(
        "\nFull image: `copyMakeBorder`, `cv2.erode` by 3 x 3 with 16 iterations, cut, subtract, as the"
        "\nofficial tool does, in a process like its own; warm: the same in this process, whose memory is not"
        "\nnew. In brackets: how many times as fast as the one and the other. COCO mix: 41% of the objects of"
        "\nthe first size, 34% of the second, 25% of the third. The evaluators call `erosion_residue`."
    )


def _with_ratios(row: tuple[float, ...]) -> list[str]:
    full, warm, *ours = row
    return [f"{full:.0f}", f"{warm:.0f}", *(f"{t:.1f} ({full / t:.0f}x, {warm / t:.0f}x)" for t in ours)]


def make_reading(device: str, rois: int, share: float | None = None) -> Reading:
    """FPN maps of an 800 x 1216 image and boxes of 200 pixels; a share of all cells or a disc's outline."""
    generator = torch.Generator().manual_seed(0)
    features = [
        torch.randn(1, CHANNELS, 200 >> i, 304 >> i, generator=generator).to(device) for i in range(3)
    ]
    low = torch.rand(rois, 2, generator=generator) * 400
    boxes = torch.cat([torch.zeros(rois, 1), low, low + 200], 1).to(device)
    if share is None:
        masks = torch.from_numpy(disc(8 * GRID)).bool().expand(rois, -1, -1)
        scores: list[torch.Tensor] = incoherence(masks.to(device), 3)
    else:
        grids = [torch.rand(rois, GRID << i, GRID << i, generator=generator) for i in range(3)]
        scores = [(grid < share).to(device) for grid in grids]
        scores[1:] = [torch.ones_like(level) for level in scores[1:]]
    levels = torch.tensor([2, 1, 0], device=device).expand(rois, 3)
    return Reading(features, boxes, build_quadtree(scores, 0.5), levels)


def cases(device: str) -> list[Case]:
    """The ops at the size of a COCO image with 100 RoIs, each with what it replaces."""
    image_masks = torch.from_numpy(np.stack([image_with(side) for side in SIDES])).bool().to(device)
    image_boxes = torch.tensor([[100, 100, 100 + side, 100 + side] for side in SIDES], device=device)
    roi_masks = torch.from_numpy(disc(8 * GRID)).bool().expand(ROIS, -1, -1).contiguous().to(device)
    grids = roi_masks[:, ::2, ::2].contiguous()
    levels = incoherence(roi_masks, 3)
    cells_of_levels = sum(level.numel() for level in levels)
    reading = make_reading(device, ROIS)
    count, cells, scales = len(reading.nodes.roi), reading.cells(), list(SCALES)
    grad = torch.randn(count, CHANNELS, generator=torch.Generator().manual_seed(1)).to(device)
    sizes = [side for feature in reading.features for side in feature.shape[2:]]
    backward = (grad, 1, sizes, scales, reading.boxes, cells)
    gathered = 5 * 4 * CHANNELS * count
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
            roi_masks.numel() + cells_of_levels,
        ),
        Case(
            f"build_quadtree, {count} nodes",
            lambda: build_quadtree(levels, 0.5),
            "only nonzero, RoI by RoI and level by level",
            lambda: [level[i].nonzero() for i in range(ROIS) for level in levels],
            cells_of_levels + 5 * 8 * count,
        ),
        Case(
            f"gather_nodes, {count} nodes, {CHANNELS} channels",
            reading.gather,
            REFERENCE,
            lambda: _gather_reference(reading.features, scales, reading.boxes, cells),
            gathered,
        ),
        Case("the same", reading.gather, "dense RoIAlign at 28, 56, 112", reading.dense, gathered),
        Case(
            "its gradient",
            lambda: torch.ops.crispmask.gather_cells_backward(*backward),
            REFERENCE,
            lambda: _gather_backward_reference(*backward),
            gathered + 4 * CHANNELS * sum(f[0, 0].numel() for f in reading.features),
        ),
    ]


def print_ops(devices: Sequence[str], seconds: float) -> None:
    """CPU and GPU times of every op, its baseline and its floor, in milliseconds."""
    rows: dict[int, list[str]] = {}
    for device in devices:
        bandwidth = copy_bandwidth(device, seconds)
        for i, case in enumerate(cases(device)):
            cells = [f"{1000 * median_seconds(case.run, seconds, device):.2f}"]
            if device == "cpu" and case.baseline_name == REFERENCE:
                cells.append("the same")
            else:
                cells.append(f"{1000 * median_seconds(case.baseline, seconds, device):.2f}")
            cells.append(f"{1000 * case.bytes_moved / bandwidth:.3f}")
            rows.setdefault(i, [case.name, case.baseline_name]).extend(cells)
    print_table(
        f"Ops at the size of a COCO image with {ROIS} RoIs, ms",
        ("op", "against", "CPU", "CPU, against", "CPU floor", "GPU", "GPU, against", "GPU floor"),
        [[*row, *["not measured"] * (8 - len(row))] for row in rows.values()],
        names=2,
    )


def print_memory(devices: Sequence[str]) -> None:
    """How far the memory grows when features are read at ever more nodes, and on whole grids."""
    rows = []
    for share in (0.01, 0.05, 0.2, None):
        row = []
        for device in devices:
            reading = make_reading(device, 20, share if share is not None else 0.01)
            cost = cpu_cost if device == "cpu" else gpu_cost
            run = reading.dense if share is None else reading.gather
            row.append(f"{cost(run, 1)[1] / 1e6:.0f}")
            count = len(reading.nodes.roi)
        name = f"gather_nodes, {count} nodes" if share is not None else "dense RoIAlign at 28, 56, 112"
        values = count if share is not None else 20 * 21 * GRID**2
        rows.append([name, f"{4 * CHANNELS * values / 1e6:.0f}", *row, *["not measured"] * (2 - len(row))])
    print_table(
        f"Memory of features at the nodes of 20 RoIs, {CHANNELS} channels, MB",
        ("read by", "result", "CPU growth", "GPU growth"),
        rows,
    )


def main() -> None:
    """Print what the figures were taken on, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to repeat each measurement")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    triton = "not installed"
    if importlib.util.find_spec("triton"):
        triton = importlib.import_module("triton").__version__
    has_gpu = torch.cuda.is_available()
    print(f"CPU: {cpu_name()}, 1 thread. GPU: {torch.cuda.get_device_name() if has_gpu else 'not measured'}.")
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, triton {triton}, "
        f"OpenCV {cv2.__version__}, NumPy {np.__version__}."
    )
    devices = ["cpu", *(["cuda"] if has_gpu else [])]
    print_boundaries(seconds)
    print_ops(devices, seconds)
    print_memory(devices)


if __name__ == "__main__":
    main()
