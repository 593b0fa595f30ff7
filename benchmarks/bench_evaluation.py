"""Time and memory of evaluators of masks and boundaries, as whole processes, on generated sets.

    OMP_NUM_THREADS=1 python benchmarks/bench_evaluation.py [small] [city] [real] [--scale 10]

`small` has many good detections, `city` large images, `real` 100 detections an image, mostly wrong, as a
model gives. Every tool is started anew for each run, the tools in turn: CPU seconds are those of its process
from start to end, the least of all runs; the ratio is to vernier on the same task. Tools that are not
installed are left out. Prints Markdown.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pycocotools.mask as mask_utils

from crispmask.testing import Shape, make_set

SETS = {
    "small": Shape(100, 480, 640, 8, 20, 10, 0.9),
    "city": Shape(12, 1024, 2048, 30, 80, 8, 0.9),
    "real": Shape(60, 480, 640, 8, 100, 80, 0.25),
}


# What a process of a tool runs; GT, DT and TASKS are there, and it prints an AP for each task
OURS = """
from crispmask.evaluation.build import evaluate_tasks
figures = evaluate_tasks(GT, DT, "coco", TASKS, workers={workers})
print(*(figures[task]["AP"] for task in TASKS))
"""
VERNIER = """
from pathlib import Path
from vernier.instance import Boundary, Evaluator, Segm
contents = [Path(path).read_bytes() for path in (GT, DT)]
kinds = {"segm": Segm, "boundary": Boundary}
print(*(100 * Evaluator(iou=kinds[task]()).evaluate(*contents).stats[0] for task in TASKS))
"""
OF_COCO = """
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO(GT)
    found = truth.loadRes(DT)
    figures = []
    for task in TASKS:
        evaluation = COCOeval(truth, found, task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        figures.append(100 * evaluation.stats[0])
print(*figures)
"""
PYCOCOTOOLS = "from pycocotools.coco import COCO\nfrom pycocotools.cocoeval import COCOeval\n" + OF_COCO
HOTCOCO = "from hotcoco import COCO, COCOeval\n" + OF_COCO
FASTER = (
    "from faster_coco_eval import COCO\nfrom faster_coco_eval import COCOeval_faster as COCOeval\n" + OF_COCO
)
ANALYZE = """
import contextlib, io
from crispmask.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    main({words})
print()
"""
# Of this process alone: what the system tells of a child begins with the memory of its parent
PEAK = """
from pathlib import Path
lines = Path("/proc/self/status").read_text().splitlines()
print(*(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")))
"""
MASK, BOUNDARY, BOTH = ("segm",), ("boundary",), ("segm", "boundary")


class Run(NamedTuple):
    """A tool, what it runs, and its tasks; ``is_slow``: it is run once."""

    tool: str
    package: str
    source: str
    tasks: tuple[str, ...]
    is_slow: bool = False


RUNS = [
    Run("crispmask", "crispmask", OURS.format(workers=1), BOUNDARY),
    Run("crispmask, 2 workers", "crispmask", OURS.format(workers=2), BOUNDARY),
    Run("vernier", "vernier", VERNIER, BOUNDARY),
    Run("faster-coco-eval", "faster_coco_eval", FASTER, BOUNDARY, is_slow=True),
    Run("crispmask", "crispmask", OURS.format(workers=1), BOTH),
    Run("vernier", "vernier", VERNIER, BOTH),
    Run("crispmask", "crispmask", OURS.format(workers=1), MASK),
    Run("vernier", "vernier", VERNIER, MASK),
    Run("hotcoco", "hotcoco", HOTCOCO, MASK),
    Run("faster-coco-eval", "faster_coco_eval", FASTER, MASK),
    Run("pycocotools", "pycocotools", PYCOCOTOOLS, MASK),
]
# What else the command does with such files; without an AP that others give
GT_BOXES = ANALYZE.format(words='["evaluate", GT, DT, "--gt-boxes"]')
ANALYZE_BOUNDARY = ANALYZE.format(words='["analyze", "boundary", GT, DT, "--output", OUT]')
VERBS = [
    Run("crispmask evaluate --gt-boxes", "crispmask", GT_BOXES, BOTH, is_slow=True),
    Run("crispmask analyze boundary", "crispmask", ANALYZE_BOUNDARY, BOTH, is_slow=True),
]


class Cost(NamedTuple):
    """CPU and wall seconds of a process and those that it started, its memory, and what it printed."""

    cpu: float
    wall: float
    megabytes: float
    figures: tuple[float, ...]


def run(source: str, gt: Path, results: Path, tasks: tuple[str, ...]) -> Cost:
    """Run a tool in a process of its own."""
    inputs = [*map(str, (gt, results, gt.parent / "out")), list(tasks)]
    source = f"GT, DT, OUT, TASKS = {inputs!r}\n" + source + PEAK
    start = time.perf_counter()
    # Python keeps what it compiled, as it does where a package is installed
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", source]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        printed = process.stdout.read() if process.stdout else ""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    wall = time.perf_counter() - start
    *figures, megabytes = map(float, printed.split())
    return Cost(used.ru_utime + used.ru_stime, wall, megabytes, tuple(figures))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sets", nargs="*", default=[], metavar="set", help=f"any of {', '.join(SETS)}; default: all"
    )
    parser.add_argument("--scale", type=float, default=10.0, help="times the images of a set (default 10)")
    parser.add_argument("--repeat", type=int, default=3, help="best of this many runs (default 3)")
    parser.add_argument("--verbs", action="store_true", help="--gt-boxes and analyze boundary, too")
    args = parser.parse_args()
    if unknown := set(args.sets) - set(SETS):
        parser.error(f"unknown set {unknown.pop()!r}; choose from {', '.join(SETS)}")
    runs = [r for r in [*RUNS, *(VERBS if args.verbs else ())] if find_spec(r.package)]
    print(f"{describe_machine()}\n")
    for name in args.sets or SETS:
        shape = SETS[name]._replace(images=max(1, round(SETS[name].images * args.scale)))
        print(f"`{name}`: {shape.images} images of {shape.width} x {shape.height}, ", end="")
        print(f"{shape.images * shape.objects} objects, {shape.images * shape.detections} rows, ", end="")
        print(f"{shape.categories} classes\n")
        print("| task | tool | CPU s | ratio | wall s | memory, MB | AP |")
        print("|:--|:--|--:|--:|--:|--:|--:|")
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, "gt.json"), Path(folder, "results.json")]
            truth, results = make_set(shape)
            for row in results:  # some tools need a box
                row["bbox"] = mask_utils.toBbox(row["segmentation"]).tolist()
            for path, content in zip(paths, (truth, results), strict=True):
                path.write_text(json.dumps(content))
            best = {place: Cost(math.inf, math.inf, math.inf, ()) for place in range(len(runs))}
            # Taken in turn, so that a change in the machine's load meets all of them
            for repeat in range(args.repeat):
                for place, own in enumerate(runs):
                    if repeat == 0 or not own.is_slow:
                        seen = run(own.source, *paths, own.tasks)
                        figures = (min(pair) for pair in zip(best[place][:3], seen[:3], strict=True))
                        best[place] = Cost(*figures, seen.figures)
        peers = {r.tasks: best[place].cpu for place, r in enumerate(runs) if r.tool == "vernier"}
        for place, own in enumerate(runs):
            cost = best[place]
            ratio = f"{cost.cpu / peers[own.tasks]:.2f}" if own.tasks in peers and cost.figures else "–"
            aps = ", ".join(f"{ap:.3f}" for ap in cost.figures) or "–"
            task = " + ".join("mask" if task == "segm" else task for task in own.tasks)
            print(f"| {task} | {own.tool} | {cost.cpu:.2f} | {ratio} | {cost.wall:.2f} | ", end="")
            print(f"{cost.megabytes:.0f} | {aps} |", flush=True)
        print()


def describe_machine() -> str:
    """Processor, its number of threads, its load, and the versions that decide the times."""
    from crispmask.engine.cost import cpu_name

    packages = ("numpy", "msgspec", "pycocotools", "vernier", "hotcoco", "faster-coco-eval")
    names = {"faster-coco-eval": "faster_coco_eval"}
    found = (name for name in packages if find_spec(names.get(name, name)))
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in found)
    load = f"load {os.getloadavg()[0]:.1f}"
    return f"{cpu_name()}, {os.cpu_count()} threads, {load}; Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    main()
