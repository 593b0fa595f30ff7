"""Train Mask R-CNN, RefineMask and Mask Transfiner on generated shapes, alike, and compare them.

A detector is trained first, on small images and then on images of their own size. All models start from it,
each with a new mask head, and train that alone: they have the same boxes and differ in their masks.
``--query`` adds a query-based detector, and two models that start from that one.
Everything goes through ``train_net.py``. Writes ``table.md`` and ``report.html`` to the output folder.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from plan import Stage, Watch

ROOT = Path(__file__).resolve().parents[2]
# Whose time measure.py takes, those that warm up among them
TIMED_IMAGES = 35
COLUMNS = (
    *("model", "box AP", "AP", "AP50", "Boundary AP"),
    *("parameters", "s / image", "peak memory", "training"),
)


@dataclass(frozen=True)
class Training:
    """A config below ``configs/shapes``, the training whose weights it starts from, and what it costs."""

    config: str
    start: str | None
    # Of an iteration and of an image that is evaluated, in convolutions as plan.py measures them
    costs: tuple[float, float]
    query: bool = False

    @property
    def path(self) -> str:
        return f"configs/shapes/{self.config}_R_18_FPN.yaml"


# Their boxes are evaluated with the masks of the models that start from them
STARTS = {
    "Pretraining": Training("pretraining", None, (27.7, 4.1)),
    "Detector": Training("detector", "Pretraining", (45.4, 7.2)),
    "Query detector": Training("query_detector", "Detector", (15, 5), query=True),
}
MODELS = {
    "Mask R-CNN": Training("mask_rcnn", "Detector", (14, 7.5)),
    "RefineMask": Training("refinemask", "Detector", (43, 12.2)),
    "Mask Transfiner": Training("transfiner", "Detector", (29, 9.8)),
    "Query Mask R-CNN": Training("query_mask_rcnn", "Query detector", (15, 5), query=True),
    "Query Transfiner": Training("query_transfiner", "Query detector", (20, 10), query=True),
}


def main() -> int:
    from crispmask.interrupt import exit_on_interrupt
    from crispmask.startup import prepare

    prepare()
    from crispmask.engine.progress import describe_seconds

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=ROOT / "output" / "demo", help="folder for all results"
    )
    parser.add_argument("--num-gpus", default="1", help="processes of the training, as for train_net.py")
    parser.add_argument("--query", action="store_true", help="the query-based models as well")
    parser.add_argument("--reuse", action="store_true", help="keep what an earlier run has finished there")
    parser.add_argument("--verbose", action="store_true", help="show everything that goes to the logs")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for every config")
    args = parser.parse_args()
    args.output, began = args.output.resolve(), time.monotonic()
    os.chdir(ROOT)
    try:
        with exit_on_interrupt("run.py", lambda: describe_kept(args.output)):
            args.watch = make_plan(args)
            for name, start in chosen(STARTS, args.query).items():
                if not is_finished(name, start, args):
                    weights = checkpoint(args.output, start.start) if start.start else None
                    train(name, start, weights, args, "DATASETS.TEST", "()")
            rows = {name: run_model(name, model, args) for name, model in chosen(MODELS, args.query).items()}
    except subprocess.CalledProcessError as error:
        words = " ".join(map(str, error.cmd))
        print(f"{error.stderr or ''}The demo stopped because this command failed: {words}", file=sys.stderr)
        return 2
    table = format_table(rows)
    (args.output / "table.md").write_text(table + "\n")
    print(f"\n{table}\n\nIt took {describe_seconds(time.monotonic() - began)}.")
    print(f"\nPictures: {make_report(args, rows)}")
    return 0


def make_plan(args: argparse.Namespace) -> Watch:
    """Measure this machine for a second, and print what is to be done and how long it will take.

    Data that can be generated is, before that. Where a config is wrong there is no plan, for ``train_net.py``
    says what is wrong.
    """
    from plan import Stage, Watch, measure_convolution

    import crispmask.data.builtin  # registers the data sets
    from crispmask.data import require_dataset
    from crispmask.engine.progress import describe_seconds
    from crispmask.engine.run_log import log_on_terminal

    trainings = {**chosen(STARTS, args.query), **chosen(MODELS, args.query)}
    todo = {name: training for name, training in trainings.items() if not is_done(name, training, args)}
    try:
        configs = {name: crispmask.get_config(training.path, args.opts) for name, training in todo.items()}
        with log_on_terminal():
            for dataset in {name for config in configs.values() for name in datasets(config)}:
                require_dataset(dataset)
        stages = [stage(name, training, configs[name]) for name, training in todo.items()]
    except (AssertionError, KeyError, OSError, ValueError):
        return Watch([Stage(name, 0, 0, 0, *training.costs) for name, training in todo.items()], 0)
    watch = Watch(stages, measure_convolution(), verbose=args.verbose)
    if stages:
        minutes = describe_seconds(watch.total())
        print(f"Plan: {len(stages)} trainings, about {minutes} by what one second of this machine gave")
        print(f"{watch.plan()}\nTheir logs in full: {args.output}/*/log.txt", flush=True)
    return watch


def describe_kept(folder: Path) -> str:
    """What is kept of an interrupted demo, and the command that goes on."""
    words = [word for word in sys.argv[1:] if word != "--reuse"]
    command = shlex.join(["python", sys.argv[0], "--reuse", *words])
    return f"Trainings that were finished are in {folder}. Go on with: {command}"


def chosen(trainings: dict[str, Training], query: bool) -> dict[str, Training]:
    return {name: training for name, training in trainings.items() if query or not training.query}


def run_model(name: str, model: Training, args: argparse.Namespace) -> dict[str, Any]:
    """Train, evaluate and measure one model; its row of the table, which is kept in ``row.json``."""
    kept = row_file(args.output, name)
    if is_done(name, model, args):
        return json.loads(kept.read_text())
    kept.unlink(missing_ok=True)
    training = train(name, model, checkpoint(args.output, model.start), args)
    print(f"[{args.watch.place(name)} {name}] measuring speed and memory", flush=True)
    script = Path(__file__).with_name("measure.py")
    measured = subprocess.run(
        [sys.executable, script, model.path, checkpoint(args.output, name), *args.opts],
        check=True,
        stdout=subprocess.PIPE,
        # Warnings of libraries; main shows them if it fails
        stderr=None if args.verbose else subprocess.PIPE,
        text=True,
    )
    metrics = last_evaluation(results_folder(args.output, name))
    print(f"[{args.watch.place(name)} {name}] {describe_figures(metrics)}", flush=True)
    row = {**metrics, **json.loads(measured.stdout.splitlines()[-1]), "training": training}
    kept.write_text(json.dumps(row))
    return row


def train(name: str, training: Training, weights: Path | None, args: argparse.Namespace, *opts: str) -> float:
    """Train one model from weights into its folder, and evaluate it; the seconds it took."""
    folder = results_folder(args.output, name)
    recipe = folder / "recipe.yaml"
    recipe.unlink(missing_ok=True)
    print(f"== {args.watch.place(name)} {name}: training with {training.path} into {folder}", flush=True)
    began = time.perf_counter()
    command = [sys.executable, "train_net.py", "--config-file", training.path, "--num-gpus", args.num_gpus]
    start = () if weights is None else ("MODEL.WEIGHTS", weights)
    command += ["--verbose"] if args.verbose else []
    args.watch.run(name, [*map(str, [*command, "OUTPUT_DIR", folder, *start, *opts, *args.opts])])
    seconds = time.perf_counter() - began
    recipe.write_text(settings(training, args))
    return seconds


def is_done(name: str, training: Training, args: argparse.Namespace) -> bool:
    """Whether nothing is left to do for a training, or for a model and its row of the table."""
    has_row = name in STARTS or row_file(args.output, name).exists()
    return has_row and is_finished(name, training, args)


def is_finished(name: str, training: Training, args: argparse.Namespace) -> bool:
    """Whether ``--reuse`` may keep a training: same settings, and its start was not trained again since."""
    made, recipe = checkpoint(args.output, name), results_folder(args.output, name) / "recipe.yaml"
    if not (args.reuse and made.exists() and recipe.exists()):
        return False
    start = training.start and checkpoint(args.output, training.start)
    newer = not start or start.stat().st_mtime <= made.stat().st_mtime
    return newer and recipe.read_text() == settings(training, args)


def settings(training: Training, args: argparse.Namespace) -> str:
    """The config of a training, in full; empty where it is wrong, which ``train_net.py`` says best."""
    import crispmask

    try:
        return crispmask.get_config(training.path, args.opts).dump()
    except (AssertionError, KeyError, ValueError):
        return ""


def stage(name: str, training: Training, config: CfgNode) -> Stage:
    """What a training does, for the plan."""
    from detectron2.data import DatasetCatalog
    from plan import Stage

    evaluated = () if name in STARTS else config.DATASETS.TEST
    images = sum(len(DatasetCatalog.get(dataset)) for dataset in evaluated)
    return Stage(name, config.SOLVER.MAX_ITER, images, min(images, TIMED_IMAGES), *training.costs)


def datasets(config: CfgNode) -> tuple[str, ...]:
    """Names of those that a config reads."""
    return (*config.DATASETS.TRAIN, *config.DATASETS.TEST)


def row_file(output: Path, name: str) -> Path:
    """Where the row of a model is kept."""
    return results_folder(output, name) / "row.json"


def describe_figures(metrics: dict[str, float]) -> str:
    """The main figures of an evaluation on one line."""
    names = {"bbox/AP": "box AP", "segm/AP": "AP", "boundary/AP": "Boundary AP"}
    return ", ".join(f"{label} {metrics[key]:.1f}" for key, label in names.items() if key in metrics)


def checkpoint(output: Path, name: str) -> Path:
    return results_folder(output, name) / "model_final.pth"


def results_folder(output: Path, name: str) -> Path:
    return output / name.lower().replace(" ", "_").replace("-", "_")


def last_evaluation(folder: Path) -> dict[str, float]:
    """The newest results in a training's ``metrics.json``, by ``<task>/<metric>``."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return next(line for line in reversed(lines) if "segm/AP" in line)


def format_table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown table of all models, with the machine below it."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for name, row in rows.items():
        lines.append("| " + " | ".join([name, *(text for _, text in figures(row))]) + " |")
    return "\n".join([*lines, "", machine(next(iter(rows.values()))["device"])])


def figures(row: dict[str, Any]) -> list[tuple[float, str]]:
    """The figures of a model below ``COLUMNS``: value, and text with its unit."""
    boundary = row.get("boundary/AP", math.nan)
    return [
        (row["bbox/AP"], f"{row['bbox/AP']:.1f}"),
        (row["segm/AP"], f"{row['segm/AP']:.1f}"),
        (row["segm/AP50"], f"{row['segm/AP50']:.1f}"),
        (boundary, f"{boundary:.1f}"),
        (row["parameters"], f"{row['parameters'] / 1e6:.2f} M"),
        (row["seconds"], f"{row['seconds']:.3f}"),
        (row["peak_mb"], f"{row['peak_mb']:.0f} MB"),
        (row["training"], f"{row['training']:.0f} s"),
    ]


def machine(device: str) -> str:
    """One line on where the table was made."""
    import detectron2
    import torch

    from crispmask.engine.cost import cpu_name

    return (
        f"{device} ({cpu_name()}), torch {torch.__version__}, "
        f"Detectron2 {detectron2.__version__}, Python {platform.python_version()}."
    )


def make_report(args: argparse.Namespace, rows: dict[str, dict[str, Any]]) -> Path:
    """Write the page of all models."""
    from detectron2.data import MetadataCatalog
    from report import build_page, outlines

    import crispmask
    import crispmask.data.builtin
    from crispmask.analysis.page import Number, Table, render

    config = crispmask.get_config(MODELS[next(iter(rows))].path, args.opts)
    data = MetadataCatalog.get(config.DATASETS.TEST[0])
    predictions = "inference/coco_instances_results.json"
    results = {name: results_folder(args.output, name) / predictions for name in rows}
    cells = [[name, *(Number(*figure) for figure in figures(row))] for name, row in rows.items()]
    table = Table("Figures of all models", COLUMNS, cells)
    speed = {name: (row["seconds"], row.get("boundary/AP", math.nan)) for name, row in rows.items()}
    pictures = outlines(Path(data.json_file), Path(data.image_root), results)
    page = build_page(pictures, table, speed, machine(next(iter(rows.values()))["device"]))
    path = args.output / "report.html"
    path.write_text(render(page), encoding="utf-8", errors="backslashreplace")
    return path


if __name__ == "__main__":
    sys.exit(main())
