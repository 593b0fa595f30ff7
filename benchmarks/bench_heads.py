"""Time and memory of the mask branches on the same feature maps and boxes.

    OMP_NUM_THREADS=1 python benchmarks/bench_heads.py [--rois 10] [--device cpu] [--rows paper released]

A row is the mask branch alone, from FPN maps of an 800 x 1344 image and given boxes to mask probabilities:
Detectron2's own, RefineMask's, and Mask Transfiner's variants. Weights are drawn, so the incoherence
detectors are set to find 14% of the coarsest cells, the share that the paper counts (Table 1), and 35% of the
quadrants of an incoherent cell, the share that Eq. 1 gives for a star of five lobes. The released variant
takes nearly all of the coarsest cells anyway. On a CPU times are CPU seconds of this process, which other
work on the machine changes little; on a GPU they are those of the clock.
"""

import argparse
import platform
import time
from collections.abc import Callable, Sequence

import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from crispmask import get_config

SIZE = (800, 1344)
INCOHERENT, SPLIT = 0.14, 0.35
ROWS: dict[str, tuple[str, list[object]]] = {
    "Mask R-CNN": ("baselines/coco/mask_rcnn_R_50_FPN_1x.yaml", []),
    "RefineMask": ("refinemask/coco/R_50_FPN_1x.yaml", []),
    "paper": ("transfiner/coco/R_50_FPN_1x.yaml", []),
    "paper, depth 2": ("transfiner/coco/R_50_FPN_1x.yaml", ["MODEL.TRANSFINER.DEPTH", 2]),
    "paper, depth 4": ("transfiner/coco/R_50_FPN_1x.yaml", ["MODEL.TRANSFINER.DEPTH", 4]),
    "paper, 300 nodes": ("transfiner/coco/R_50_FPN_1x.yaml", ["MODEL.TRANSFINER.MAX_NODES", 300]),
    "released": ("transfiner/coco/R_50_FPN_1x_released.yaml", []),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rois", type=int, default=10, help="boxes in the image")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each row; the median is printed")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    args = parser.parse_args()
    inputs = draw_inputs(args.rois, torch.device(args.device))
    print(f"{describe(args.device)}; {args.rois} boxes, features of {SIZE[0]} x {SIZE[1]} pixels\n")
    print("| mask branch | tokens / RoI | ms | times Mask R-CNN | peak MB |\n|---|---|---|---|---|")
    base = None
    for name in dict.fromkeys(["Mask R-CNN", *args.rows]):
        tokens, seconds, peak = measure(*ROWS[name], inputs, args.repeat)
        base = base or seconds
        memory = f"{peak / 2**20:.0f}" if peak else "not measured"
        print(
            f"| {name} | {tokens or '-'} | {1000 * seconds:.0f} | {seconds / base:.1f} | {memory} |",
            flush=True,
        )


def draw_inputs(rois: int, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """FPN maps of one image and (rois, 4) boxes of 60 to 260 pixels a side."""
    generator = torch.Generator().manual_seed(0)
    maps = {
        f"p{level}": torch.randn(1, 256, SIZE[0] >> level, SIZE[1] >> level, generator=generator)
        for level in (2, 3, 4, 5)
    }
    corners, sides = torch.rand(2, rois, 2, generator=generator)
    corners = corners * torch.tensor([SIZE[1] * 0.7, SIZE[0] * 0.7])
    boxes = torch.cat([corners, corners + 60 + 200 * sides], dim=1)
    return {name: level.to(device) for name, level in maps.items()}, boxes.to(device)


@torch.no_grad()
def measure(
    config: str, opts: Sequence[object], inputs: tuple[dict[str, Tensor], Tensor], repeat: int
) -> tuple[int, float, int]:
    """Tokens of a RoI, seconds, and peak bytes on a GPU (0 elsewhere) of one mask branch."""
    features, boxes = inputs
    torch.manual_seed(0)
    cfg = get_config(config, ["MODEL.DEVICE", boxes.device.type, *opts])
    heads = build_model(cfg).eval().roi_heads
    counts: list[int] = []
    if hasattr(heads.mask_head, "quadtree"):
        calibrate(heads.mask_head, features, boxes)
        refiner = heads.mask_head.quadtree.refiner
        refiner.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0].order)))

    def run() -> None:
        classes = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        heads.forward_with_given_boxes(
            features, [Instances(SIZE, pred_boxes=Boxes(boxes), pred_classes=classes)]
        )

    run()
    tokens = round(sum(counts) / len(boxes))
    if boxes.device.type == "cpu":
        return tokens, median_time(run, repeat, time.process_time, lambda: None), 0
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    seconds = median_time(run, repeat, time.perf_counter, torch.cuda.synchronize)
    return tokens, seconds, torch.cuda.max_memory_allocated() - before


def median_time(
    run: Callable[[], None], repeat: int, clock: Callable[[], float], wait: Callable[[], None]
) -> float:
    times = []
    for _ in range(repeat):
        wait()
        start = clock()
        run()
        wait()
        times.append(clock() - start)
    return sorted(times)[len(times) // 2]


def calibrate(head: nn.Module, features: dict[str, Tensor], boxes: Tensor) -> None:
    """Set the detector's biases so that the wanted shares of cells are incoherent on these inputs."""
    tree, detector = head.quadtree, head.quadtree.detector
    if detector.finer is None:
        return
    maps = head.pyramid.maps(features, head.detail_convs)
    coarse = head.coarse_masks(
        maps, [Boxes(boxes)], torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    )
    thresholds = (0.5,) * len(tree.sizes)
    detector.classifier.weight.normal_()
    detector.classifier.bias -= tree.root_logits(maps, coarse).quantile(1 - INCOHERENT)
    detector.finer[-1].weight.normal_()
    for _ in range(4 if len(tree.sizes) > 1 else 0):
        # Fewer nodes of one level are fewer candidates of the next, so the share settles in steps
        found = tree.detect(maps, coarse.rois, tree.root_logits(maps, coarse), thresholds)
        children = (found.cells.level > 0) & found.incoherent[found.cells.parent]
        detector.finer[-1].bias -= found.scores[children].logit().quantile(1 - SPLIT)


def describe(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


if __name__ == "__main__":
    main()
