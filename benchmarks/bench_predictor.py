"""crispmask.Predictor against Detectron2's DefaultPredictor, on the same model, weights and pictures.

    python benchmarks/bench_predictor.py [--device cuda:0] [--rows "Mask R-CNN" paper] [--batch-size 8]

A row is a model with ResNet-50-FPN of bench_models.py, made to find 100 objects in a drawn picture of 480 x
640, which the model sees with 800 x 1067 pixels. Everything from the array to the objects is timed, reading
files is not. DefaultPredictor takes one picture at a time and gives masks of the whole picture; the Predictor
gives run lengths, and masks of the picture when they are asked for: the column with masks asks.

The predictors take turns, so that other work on the machine meets them alike. Times on a CPU are CPU seconds
of the process, on a GPU those of the clock; the median is printed. The goals: no slower than DefaultPredictor
at batch size 1 on the CPU, and at least 1.5 times its images per second at batch size 8 on a GPU.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench_heads import ROWS
from bench_models import COMMON, Row, autocast, describe, draw_image, find_device, prepare
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from crispmask import Predictor, get_config

COLUMNS = ("model", "DefaultPredictor", "Predictor", "ratio", "with masks", "ratio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, help=f"cpu, cuda or cuda:N (here: {device})")
    parser.add_argument(
        "--rows", nargs="+", choices=list(ROWS), default=["Mask R-CNN", "RefineMask", "paper"]
    )
    parser.add_argument("--size", nargs=2, type=int, default=[480, 640], metavar=("H", "W"))
    parser.add_argument("--batch-size", type=int, default=1, help="pictures at once, of the Predictor")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each measurement")
    args = parser.parse_args()
    device = find_device(args.device)
    height, width = args.size
    print(f"{describe(device)}; {height} x {width} pixels, batch size {args.batch_size}; seconds per image\n")
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|")
    for name in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            cfg = trained(ROWS[name], args, device, Path(folder) / "model.pth")
            default, ours, masks = measure(cfg, args, device)
        cells = [
            f"{default:.3f}",
            f"{ours:.3f}",
            f"{ours / default:.2f}",
            f"{masks:.3f}",
            f"{masks / default:.2f}",
        ]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def trained(row: Row, args: argparse.Namespace, device: torch.device, path: Path) -> CfgNode:
    """The config of a model that finds 100 objects, whose weights are written."""
    opts = ["MODEL.DEVICE", str(device), *COMMON, *row.opts]
    torch.manual_seed(0)
    model = build_model(get_config(row.config, opts)).eval()
    prepare(
        model, draw_image([800, 800 * args.size[1] // args.size[0]], 0), row.shares, autocast(device, None)
    )
    torch.save({"model": model.state_dict()}, path)
    score = model.roi_heads.box_predictor.test_score_thresh
    return get_config(
        row.config, [*opts, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", float(score), "MODEL.WEIGHTS", str(path)]
    )


def measure(cfg: CfgNode, args: argparse.Namespace, device: torch.device) -> tuple[float, float, float]:
    """Seconds per image of DefaultPredictor, of the Predictor, and of it with masks of the whole picture."""
    picture = draw_image(args.size, 0)[0]["image"].numpy().transpose(1, 2, 0)
    pictures = [np.ascontiguousarray(picture)] * args.batch_size
    default, predictor = DefaultPredictor(cfg), Predictor(cfg)
    works = {
        "default": lambda: [default(one[..., ::-1]) for one in pictures],
        "ours": lambda: predictor(pictures, batch_size=args.batch_size),
        "masks": lambda: [one.masks for one in predictor(pictures, batch_size=args.batch_size)],
    }
    assert len(works["default"]()[0]["instances"]) == len(works["ours"]()[0])
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(args.repeat):
        for name, work in works.items():
            seconds[name].append(timed(work, device) / args.batch_size)
    return tuple(map(statistics.median, seconds.values()))


def timed(work: Callable[[], object], device: torch.device) -> float:
    """CPU seconds on a CPU, else seconds of the clock."""
    if device.type == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
