"""Time and memory of whole models, in inference and in training, against Mask R-CNN.

    python benchmarks/bench_models.py [--device cuda:0] [--rows paper released] [--amp bfloat16] [--polygons]

A row is a model with ResNet-50-FPN. Inference is one image, from its pixels to masks of its original size
(0.6 of the input's, as 480 is of 800); a training iteration is one step of the package's trainer: forward,
backward, optimizer. The goals on a GPU: at least 0.8 of Mask R-CNN's images per second; an iteration at most
1.35 times as long, with at most 1.4 times the memory.

Weights, images and objects are drawn from one seed, so what a trained model would do is set:
- every row has the backbone and the solver of Detectron2's own recipe, and a learning rate of 0;
- the norms of the backbone and the FPN's last layers give every channel mean 0 and variance 1;
- the lowest score lets 100 detections through; at 0 there would be 80 times as many boxes to suppress;
- 128 RoIs of an image are foreground in training, the most that Detectron2 samples, made by shaking the
  objects' boxes: a drawn proposal network would find hardly any;
- the cascade of Mask Transfiner finds the shares that bench_heads.py states, and its released variant has the
  weights of its golden file. ROWS and calibrate() are taken from there, so that both tables speak of the same
  models; tokens are counted as there, reference tokens among them.

Times on a CPU are CPU seconds of the process, on a GPU those of the clock; the median is printed. MB is the
model, the optimizer's state, and what a run adds to them at most.
"""

import argparse
import gc
import itertools
import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
from bench_heads import ROWS, Row, calibrate
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from timing import cpu_cost, gpu_cost
from torch import Tensor, nn

from crispmask import get_config
from crispmask.engine.cost import cpu_name, describe_device
from crispmask.engine.optimizer import build_optimizer
from crispmask.engine.steps import TrainSteps
from crispmask.engine.trainer import AMP_DTYPES

Batch = list[dict[str, Any]]

DEFAULT_ROWS = ["Mask R-CNN", "RefineMask", "paper", "released"]
# Detectron2's recipe is the cheaper one of the two that the configs have, so ratios are the larger
COMMON = (
    *("MODEL.RESNETS.STRIDE_IN_1X1", True, "SOLVER.CLIP_GRADIENTS.ENABLED", False),
    *("SOLVER.BASE_LR", 0.0, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
)
DETECTIONS = 100
COLUMNS = (
    *("model", "detections", "tokens", "s / image", "images/s, of Mask R-CNN's", "MB", "times Mask R-CNN"),
    *("foreground RoIs", "s / iteration", "times Mask R-CNN", "MB", "times Mask R-CNN"),
)
NOT_MEASURED = "not measured"


class Cost(NamedTuple):
    """Seconds, and bytes at the peak; 0 where the system does not tell."""

    seconds: float
    peak: int


class Figures(NamedTuple):
    """What is known of a row; a cost that could not be measured is None."""

    detections: int
    tokens: int
    inference: Cost | None
    foreground: float
    training: Cost | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, help=f"cpu, cuda or cuda:N (here: {device})")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=DEFAULT_ROWS)
    parser.add_argument("--size", nargs=2, type=int, default=[800, 1344], metavar=("H", "W"))
    parser.add_argument("--images-per-batch", type=int, default=2, help="in training")
    parser.add_argument("--objects", type=int, default=7, help="of a training image; COCO has 7 on average")
    parser.add_argument("--foreground", type=int, default=128, help="RoIs of a training image, at most 128")
    parser.add_argument("--polygons", action="store_true", help="objects as polygons, as COCO has them")
    parser.add_argument("--amp", choices=list(AMP_DTYPES), help="autocast type; default: none")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each measurement")
    args = parser.parse_args()
    device = find_device(args.device)
    kind = "polygons" if args.polygons else "bitmasks"
    print(f"{describe(device)}; {args.size[0]} x {args.size[1]} pixels, {args.amp or 'float32'};")
    print(f"a training iteration is of {args.images_per_batch} images with {args.objects} {kind} each\n")
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|")
    base: Figures | None = None
    for name in dict.fromkeys(["Mask R-CNN", *args.rows]):
        figures = measure(ROWS[name], args, device)
        base = base or figures
        print_row(name, figures, base)
        # What is left of the model, so that the next row does not hold it
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def find_device(name: str) -> torch.device:
    """A device with its index, made the current one."""
    device = torch.device(name)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    return device


def describe(device: torch.device) -> str:
    processor = f"{cpu_name()}, {torch.get_num_threads()} thread(s)"
    gpu = f"{describe_device(device)}, " if device.type == "cuda" else ""
    return f"{gpu}{processor}, torch {torch.__version__}"


def print_row(name: str, row: Figures, base: Figures) -> None:
    inference = cells_of(row.inference, base.inference)
    inference[1] = ratio(base.inference, row.inference, "seconds")  # of images per second
    training = cells_of(row.training, base.training)
    cells = [name, str(row.detections), str(row.tokens or "-"), *inference]
    cells += [f"{row.foreground:.0f}", *training]
    print("| " + " | ".join(cells) + " |", flush=True)


def cells_of(cost: Cost | None, base: Cost | None) -> list[str]:
    """Seconds and their ratio, MB and their ratio."""
    seconds = f"{cost.seconds:.3f}" if cost else NOT_MEASURED
    megabytes = f"{cost.peak / 2**20:.0f}" if cost and cost.peak else NOT_MEASURED
    return [seconds, ratio(cost, base, "seconds"), megabytes, ratio(cost, base, "peak")]


def ratio(cost: Cost | None, base: Cost | None, field: str) -> str:
    if cost is None or base is None or not getattr(cost, field) or not getattr(base, field):
        return NOT_MEASURED
    return f"{getattr(cost, field) / getattr(base, field):.2f}"


def measure(row: Row, args: argparse.Namespace, device: torch.device) -> Figures:
    """Inference and training of one model."""
    cfg = get_config(row.config, ["MODEL.DEVICE", str(device), *COMMON, *row.opts])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    image = draw_image(args.size, 0)
    detections, tokens = prepare(model, image, row.shares, autocast(device, args.amp))
    inference = attempt(lambda: measure_inference(model, image, args, device))
    batch = [draw_objects(args, seed) for seed in range(args.images_per_batch)]
    shake_proposals(model, args.foreground - args.objects)
    with EventStorage() as storage:
        training = attempt(lambda: measure_training(cfg, model, batch, args, device))
        foreground = storage.latest().get("roi_head/num_fg_samples", (math.nan, 0))[0]
    return Figures(detections, tokens, inference, foreground, training)


def attempt(work: Callable[[], Cost]) -> Cost | None:
    """None, and a line on stderr, where the GPU has too little memory."""
    try:
        return work()
    except torch.cuda.OutOfMemoryError as error:
        print(error, file=sys.stderr)
        return None


def measure_inference(model: nn.Module, image: Batch, args: argparse.Namespace, device: torch.device) -> Cost:
    @torch.no_grad()
    def run() -> None:
        with autocast(device, args.amp):
            model(image)

    return cost_of(run, held_by(model), args.repeat, device)


def measure_training(
    cfg: CfgNode, model: nn.Module, batch: Batch, args: argparse.Namespace, device: torch.device
) -> Cost:
    optimizer = build_optimizer(cfg, model)
    steps = TrainSteps(model, itertools.repeat(batch), optimizer, amp_dtype=AMP_DTYPES.get(args.amp))

    def run() -> None:
        steps.run_step()
        # Gradients are what a run adds, so they must not stay
        optimizer.zero_grad(set_to_none=True)

    # The first step makes the optimizer's state; float16 skips steps until its loss scale fits
    for _ in range(20):
        run()
        if optimizer.state:
            break
    return cost_of(run, held_by(model, optimizer), args.repeat, device)


def cost_of(run: Callable[[], object], held: int, repeat: int, device: torch.device) -> Cost:
    seconds, grown = (cpu_cost if device.type == "cpu" else gpu_cost)(run, repeat)
    return Cost(seconds, held + grown if grown else 0)


def held_by(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> int:
    """Bytes of the weights, and of the state of their optimizer."""
    tensors = [*model.parameters(), *model.buffers()]
    states = optimizer.state.values() if optimizer else ()
    tensors += [value for state in states for value in state.values() if isinstance(value, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def autocast(device: torch.device, amp: str | None) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype=AMP_DTYPES.get(amp), enabled=amp is not None)


@torch.no_grad()
def prepare(
    model: nn.Module, image: Batch, shares: tuple[float, float], context: AbstractContextManager[Any]
) -> tuple[int, int]:
    """Make a drawn model work as much as a trained one; the number of detections and tokens that it has."""
    settle_norms(model, image)
    heads = model.roi_heads
    with context:
        limit_detections(model, image)
        boxes = detect(model, image).pred_boxes.tensor
    refines = hasattr(heads.mask_head, "quadtree")
    tokens: list[int] = []
    if refines:
        features = model.backbone(model.preprocess_image(image).tensor)
        calibrate(heads, features, boxes, shares)
        body = heads.mask_head.quadtree.refiner.body
        hook = body.register_forward_pre_hook(lambda _, args: tokens.append(len(args[0])))
    with context:
        (output,) = model(image)
    if refines:
        hook.remove()
    return len(output["instances"]), sum(tokens)


def settle_norms(model: nn.Module, image: Batch) -> None:
    """Give the frozen norms the statistics of an image, without which the features grow block by block.

    The maps of the FPN get mean 0 and variance 1, as those of bench_heads.py have.
    """

    def settle(norm: FrozenBatchNorm2d, args: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(args[0], dim=(0, 2, 3))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
    maps = model.backbone(model.preprocess_image(image).tensor)
    for hook in hooks:
        hook.remove()
    for level in (2, 3, 4, 5):
        conv = getattr(model.backbone, f"fpn_output{level}")
        variance, mean = torch.var_mean(maps[f"p{level}"], dim=(0, 2, 3))
        conv.weight *= variance.rsqrt()[:, None, None, None]
        conv.bias.copy_((conv.bias - mean) * variance.rsqrt())


def limit_detections(model: nn.Module, image: Batch) -> None:
    """Raise the lowest score as far as all detections that an image may have are still found."""
    predictor = model.roi_heads.box_predictor
    logits: list[Tensor] = []
    hook = predictor.register_forward_hook(lambda _, __, output: logits.append(output[0]))
    detect(model, image)
    hook.remove()
    scores = logits[0].float().softmax(dim=1)[:, :-1].flatten().sort(descending=True).values
    candidates = 10 * DETECTIONS
    while candidates < len(scores):
        predictor.test_score_thresh = float(scores[candidates])
        if len(detect(model, image)) == DETECTIONS:
            return
        candidates *= 2
    predictor.test_score_thresh = 0.0


def detect(model: nn.Module, image: Batch) -> Instances:
    """Detections without masks, in pixels of the input."""
    model.roi_heads.mask_on = False
    (found,) = model.inference(image, do_postprocess=False)
    model.roi_heads.mask_on = True
    return found


def shake_proposals(model: nn.Module, count: int) -> None:
    """Replace the last ``count`` proposals of a training image by boxes that overlap its objects."""
    # At most 8% of a side, so the IoU is above 0.5
    shifts = 0.16 * torch.rand(max(count, 0), 4, generator=torch.Generator().manual_seed(0)) - 0.08

    def replace(_: nn.Module, args: tuple[Any, ...], output: tuple[list[Instances], Any]) -> None:
        for proposals, truth in zip(output[0], args[2], strict=True):
            boxes = truth.gt_boxes.tensor
            boxes = boxes[torch.arange(len(shifts), device=boxes.device) % len(boxes)]
            sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
            shaken = Boxes(boxes + shifts.to(boxes.device) * sides)
            shaken.clip(truth.image_size)
            kept = proposals.proposal_boxes[: len(proposals) - len(shifts)]
            proposals.proposal_boxes = Boxes.cat([kept, shaken])

    model.proposal_generator.register_forward_hook(replace)


def draw_image(size: tuple[int, int], seed: int) -> Batch:
    """A batch of one image of coarse and fine noise, as Detectron2's models take it."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(1, 3, *size)
    for stride in (1, 4, 16, 64):
        noise = torch.rand(1, 3, *(-(-side // stride) for side in size), generator=generator)
        image += nn.functional.interpolate(noise, size=tuple(size), mode="bilinear", align_corners=False)
    original = {"height": round(0.6 * size[0]), "width": round(0.6 * size[1])}
    return [{"image": (63 * image[0]).to(torch.uint8), "image_id": seed, **original}]


def draw_objects(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """An image with ellipses, of 2% to 20% of its height in radius."""
    rng = np.random.default_rng(seed)
    height, width = args.size
    angles = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    outlines = []
    for _ in range(args.objects):
        radii = height * np.exp(rng.uniform(math.log(0.02), math.log(0.2), 2))
        outline = rng.uniform([0, 0], [width, height]) + radii * circle
        outlines.append([outline.clip(0, [width, height]).ravel()])
    polygons = PolygonMasks(outlines)
    truth = Instances((height, width))
    truth.gt_boxes = polygons.get_bounding_boxes()
    truth.gt_classes = torch.from_numpy(rng.integers(80, size=args.objects))
    truth.gt_masks = polygons if args.polygons else BitMasks.from_polygon_masks(polygons, height, width)
    return {**draw_image(args.size, seed)[0], "instances": truth}


if __name__ == "__main__":
    main()
