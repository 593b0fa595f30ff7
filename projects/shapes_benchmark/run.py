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
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = (
    *("model", "box AP", "AP", "AP50", "Boundary AP"),
    *("parameters", "s / image", "peak memory", "training"),
)


@dataclass(frozen=True)
class Training:
    """A config below ``configs/shapes``, the training whose weights it starts from, and who asks for it."""

    config: str
    start: str | None
    query: bool = False

    @property
    def path(self) -> str:
        return f"configs/shapes/{self.config}_R_18_FPN.yaml"


# Their boxes are evaluated with the masks of the models that start from them
STARTS = {
    "Pretraining": Training("pretraining", None),
    "Detector": Training("detector", "Pretraining"),
    "Query detector": Training("query_detector", "Detector", query=True),
}
MODELS = {
    "Mask R-CNN": Training("mask_rcnn", "Detector"),
    "RefineMask": Training("refinemask", "Detector"),
    "Mask Transfiner": Training("transfiner", "Detector"),
    "Query Mask R-CNN": Training("query_mask_rcnn", "Query detector", query=True),
    "Query Transfiner": Training("query_transfiner", "Query detector", query=True),
}


def main() -> int:
    from crispmask.interrupt import exit_on_interrupt
    from crispmask.startup import prepare

    prepare()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=ROOT / "output" / "demo", help="folder for all results"
    )
    parser.add_argument("--num-gpus", default="1", help="processes of the training, as for train_net.py")
    parser.add_argument("--query", action="store_true", help="the query-based models as well")
    parser.add_argument("--reuse", action="store_true", help="keep what an earlier run has finished there")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for every config")
    args = parser.parse_args()
    args.output = args.output.resolve()
    os.chdir(ROOT)
    try:
        with exit_on_interrupt("run.py", lambda: describe_kept(args.output)):
            for name, start in chosen(STARTS, args.query).items():
                if not is_finished(name, start, args):
                    weights = checkpoint(args.output, start.start) if start.start else None
                    train(name, start, weights, args, "DATASETS.TEST", "()")
            rows = {name: run_model(name, model, args) for name, model in chosen(MODELS, args.query).items()}
    except subprocess.CalledProcessError as error:
        print(
            f"The demo stopped because this command failed: {' '.join(map(str, error.cmd))}", file=sys.stderr
        )
        return 2
    table = format_table(rows)
    (args.output / "table.md").write_text(table + "\n")
    print("\n" + table)
    print(f"\nPictures: {make_report(args, rows)}")
    return 0


def describe_kept(folder: Path) -> str:
    """What is kept of an interrupted demo, and the command that goes on."""
    words = [word for word in sys.argv[1:] if word != "--reuse"]
    command = shlex.join(["python", sys.argv[0], "--reuse", *words])
    return f"Trainings that were finished are in {folder}. Go on with: {command}"


def chosen(trainings: dict[str, Training], query: bool) -> dict[str, Training]:
    return {name: training for name, training in trainings.items() if query or not training.query}


def run_model(name: str, model: Training, args: argparse.Namespace) -> dict[str, Any]:
    """Train, evaluate and measure one model; its row of the table, which is kept in ``row.json``."""
    kept = results_folder(args.output, name) / "row.json"
    if kept.exists() and is_finished(name, model, args):
        return json.loads(kept.read_text())
    kept.unlink(missing_ok=True)
    training = train(name, model, checkpoint(args.output, model.start), args)
    print(f"== {name}: measuring speed and memory", flush=True)
    script = Path(__file__).with_name("measure.py")
    measured = subprocess.run(
        [sys.executable, script, model.path, checkpoint(args.output, name), *args.opts],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    metrics = last_evaluation(results_folder(args.output, name))
    row = {**metrics, **json.loads(measured.stdout.splitlines()[-1]), "training": training}
    kept.write_text(json.dumps(row))
    return row


def train(name: str, training: Training, weights: Path | None, args: argparse.Namespace, *opts: str) -> float:
    """Train one model from weights into its folder, and evaluate it; the seconds it took."""
    folder = results_folder(args.output, name)
    recipe = folder / "recipe.yaml"
    recipe.unlink(missing_ok=True)
    print(f"== {name}: training with {training.path} into {folder}", flush=True)
    began = time.perf_counter()
    command = [sys.executable, "train_net.py", "--config-file", training.path, "--num-gpus", args.num_gpus]
    start = () if weights is None else ("MODEL.WEIGHTS", weights)
    subprocess.run([*command, "OUTPUT_DIR", folder, *start, *opts, *args.opts], check=True)
    seconds = time.perf_counter() - began
    recipe.write_text(settings(training, args))
    return seconds


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
