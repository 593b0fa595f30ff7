"""Time and memory of the mask branches on the same feature maps and boxes.

    OMP_NUM_THREADS=1 python benchmarks/bench_heads.py [--rois 10] [--rows paper released]
    OMP_NUM_THREADS=1 python benchmarks/bench_heads.py --released-code FOLDER

A row is the mask branch alone, from FPN maps of an 800 x 1344 image and given boxes to mask probabilities:
Detectron2's own, RefineMask's, and Mask Transfiner's variants. Weights are drawn, so the cascades of the
paper's variant are set to find 14% of the coarsest cells, the share that the paper counts (Table 1), and 35%
of the quadrants of an incoherent cell, for which Eq. 1 gives 33% on generated shapes; "dense" finds 20%
and 50%. The released variant has the weights of its golden file, with which it takes all of the coarsest
cells and many of the others. With a checkout of github.com/SysCV/transfiner, the released code itself runs on
the same weights and inputs, and its masks are compared. It refines 10 RoIs, however many there are.

Times on a CPU are CPU seconds of the process, which other work on the machine changes little; on a GPU they
are those of the clock. MB is what the memory grows by at most.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from timing import cpu_cost, gpu_cost
from torch import Tensor, nn

from crispmask import get_config
from crispmask.checkpoint import convert_state_dict
from crispmask.engine.cost import cpu_name
from transfiner_d2.incoherence import CascadeDetector

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "tests" / "golden"
SIZE = (800, 1344)
TRANSFINER = "transfiner/coco/R_50_FPN_1x.yaml"


class Row(NamedTuple):
    """A model: its config, and the shares of roots and of quadrants that its cascade finds."""

    config: str
    opts: tuple[object, ...] = ()
    shares: tuple[float, float] = (0.14, 0.35)


ROWS = {
    "Mask R-CNN": Row("baselines/coco/mask_rcnn_R_50_FPN_1x.yaml"),
    "RefineMask": Row("refinemask/coco/R_50_FPN_1x.yaml"),
    "paper": Row(TRANSFINER),
    "paper, dense": Row(TRANSFINER, shares=(0.2, 0.5)),
    "paper, depth 2": Row(TRANSFINER, ("MODEL.TRANSFINER.DEPTH", 2)),
    "paper, depth 4": Row(TRANSFINER, ("MODEL.TRANSFINER.DEPTH", 4)),
    "paper, 300 nodes": Row(TRANSFINER, ("MODEL.TRANSFINER.MAX_NODES", 300)),
    "released": Row("transfiner/coco/R_50_FPN_1x_released.yaml"),
}


class Cost(NamedTuple):
    """Tokens of all RoIs, seconds and peak bytes, and the masks."""

    tokens: int
    seconds: float
    peak: int
    masks: Tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rois", type=int, default=10, help="boxes in the image")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each row; the median is printed")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--released-code", metavar="FOLDER", help="a checkout of SysCV/transfiner")
    args = parser.parse_args()
    inputs = draw_inputs(args.rois)
    print(f"{describe()}; {args.rois} boxes, features of {SIZE[0]} x {SIZE[1]} pixels\n")
    print("| mask branch | tokens / RoI | CPU ms | times Mask R-CNN | MB | GPU ms | times Mask R-CNN | MB |")
    print("|---|---|---|---|---|---|---|---|")
    base: dict[str, float] = {}
    for name in dict.fromkeys(["Mask R-CNN", *args.rows]):
        costs = {"cpu": measure(ROWS[name], inputs, torch.device("cpu"), args.repeat)}
        if torch.cuda.is_available():
            costs["cuda"] = measure(ROWS[name], inputs, torch.device("cuda"), args.repeat)
        base = base or {device: cost.seconds for device, cost in costs.items()}
        print_row(name, costs, base, args.rois)
    if args.released_code:
        cost = measure_released_code(args.released_code, inputs, args.repeat)
        print_row("released, the authors' code", {"cpu": cost}, base, args.rois)
        print(f"\nLargest difference of the masks to those of the authors' code: {compare(cost, inputs):.1e}")


def print_row(name: str, costs: dict[str, Cost], base: dict[str, float], rois: int) -> None:
    cells = [name, str(round(costs["cpu"].tokens / rois) or "-")]
    for device in ("cpu", "cuda"):
        cost = costs.get(device)
        if cost is None:
            cells += ["not measured"] * 3
            continue
        times = f"{cost.seconds / base[device]:.1f}"
        cells += [
            f"{1000 * cost.seconds:.0f}",
            times,
            f"{cost.peak / 2**20:.0f}" if cost.peak else "not measured",
        ]
    print("| " + " | ".join(cells) + " |", flush=True)


def draw_inputs(rois: int) -> tuple[dict[str, Tensor], Tensor]:
    """FPN maps of one image and (rois, 4) boxes of 60 to 260 pixels a side."""
    generator = torch.Generator().manual_seed(0)
    maps = {
        f"p{level}": torch.randn(1, 256, SIZE[0] >> level, SIZE[1] >> level, generator=generator)
        for level in (2, 3, 4, 5)
    }
    corners, sides = torch.rand(2, rois, 2, generator=generator)
    corners = corners * torch.tensor([SIZE[1] * 0.7, SIZE[0] * 0.7])
    return maps, torch.cat([corners, corners + 60 + 200 * sides], dim=1)


@torch.no_grad()
def measure(row: Row, inputs: tuple[dict[str, Tensor], Tensor], device: torch.device, repeat: int) -> Cost:
    """Cost of one mask branch."""
    features, boxes = {name: level.to(device) for name, level in inputs[0].items()}, inputs[1].to(device)
    torch.manual_seed(0)
    heads = build_model(get_config(row.config, ["MODEL.DEVICE", device.type, *row.opts])).eval().roi_heads
    tokens: list[int] = []
    if hasattr(heads.mask_head, "quadtree"):
        calibrate(heads, features, boxes, row.shares)
        body = heads.mask_head.quadtree.refiner.body
        hook = body.register_forward_pre_hook(lambda _, args: tokens.append(len(args[0])))

    def run() -> Tensor:
        classes = torch.zeros(len(boxes), dtype=torch.int64, device=device)
        found = Instances(SIZE, pred_boxes=Boxes(boxes), pred_classes=classes)
        (result,) = heads.forward_with_given_boxes(features, [found])
        return result.pred_masks

    masks = run()
    if tokens:
        hook.remove()
    return Cost(sum(tokens), *(cpu_cost if device.type == "cpu" else gpu_cost)(run, repeat), masks)


def calibrate(
    heads: nn.Module, features: dict[str, Tensor], boxes: Tensor, shares: tuple[float, float]
) -> None:
    """Give a cascade biases with which it finds the wanted shares of cells; a single map golden weights."""
    head = heads.mask_head
    tree, detector = head.quadtree, head.quadtree.detector
    if not isinstance(detector, CascadeDetector):
        weights = {f"roi_heads.{key}": value for key, value in golden_weights().items()}
        converted = convert_state_dict(weights, "transfiner")
        heads.load_state_dict({k.removeprefix("roi_heads."): v for k, v in converted.items()}, strict=False)
        return
    classes = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    coarse = head.coarse_masks(features, [Boxes(boxes)], classes)
    detector.classifier.weight.normal_()
    detector.classifier.bias -= detector(*coarse).quantile(1 - shares[0])
    detector.finer[-1].weight.normal_()
    for _ in range(4 if len(tree.sizes) > 1 else 0):
        # Fewer nodes of one level are fewer candidates of the next, so the share settles in steps
        found, _ = detector.cells(*coarse, detector(*coarse))
        children = (found.level > 0) & found.incoherent[found.parent]
        detector.finer[-1].bias -= found.scores[children].logit().quantile(1 - shares[1])


def golden_weights() -> dict[str, Tensor]:
    """The weights of the golden file, by their released names without "roi_heads."."""
    spec = importlib.util.spec_from_file_location("golden", GOLDEN / "golden.py")
    golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden)
    expected = np.load(GOLDEN / "transfiner_coco_seed0.npz")
    weights = {}
    for key, shape in zip(expected["keys"].tolist(), expected["shapes"].tolist(), strict=True):
        override = f"override/{key}"
        sides = tuple(int(side) for side in shape.split(","))
        drawn = expected[override] if override in expected.files else golden.weight(key, sides, 0)
        weights[key.removeprefix("roi_heads.")] = torch.from_numpy(drawn)
    return weights


def measure_released_code(folder: str, inputs: tuple[dict[str, Tensor], Tensor], repeat: int) -> Cost:
    """Cost of the authors' code, in a process of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        path = f"{temporary}/inputs"
        data = {"weights": golden_weights(), "features": inputs[0], "boxes": inputs[1], "image_size": SIZE}
        torch.save(data, path)
        command = [sys.executable, str(HERE / "released_code.py"), folder, path, str(repeat)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        return Cost(*json.loads(output.splitlines()[-1]), torch.load(f"{path}.masks"))


def compare(cost: Cost, inputs: tuple[dict[str, Tensor], Tensor]) -> float:
    """Largest difference between the masks of the authors' code and ours."""
    ours = measure(ROWS["released"], inputs, torch.device("cpu"), 1).masks
    return float((ours - cost.masks).abs().max())


def describe() -> str:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{cpu_name()}, {torch.get_num_threads()} thread(s), {gpu}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
