"""Train Mask R-CNN and RefineMask on generated shapes, alike, and compare them.

One detector is trained first; both models start from it, so that they differ in their mask branch alone.
Everything goes through ``train_net.py``. Writes ``table.md`` and ``report.html`` to the output folder.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DETECTOR = "configs/shapes/faster_rcnn_R_18_FPN.yaml"
MODELS = {
    "Mask R-CNN": "configs/shapes/mask_rcnn_R_18_FPN.yaml",
    "RefineMask": "configs/shapes/refinemask_R_18_FPN.yaml",
}
COLUMNS = ("model", "AP", "AP50", "Boundary AP", "parameters", "s / image", "peak memory", "training")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=ROOT / "output" / "demo", help="folder for all results"
    )
    parser.add_argument("--num-gpus", default="1", help="processes of the training, as for train_net.py")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for every config")
    args = parser.parse_args()
    args.output = args.output.resolve()
    os.chdir(ROOT)
    try:
        # Its boxes are evaluated with the masks of the models that start from it
        train("Detector", DETECTOR, args, "DATASETS.TEST", "()")
        rows = {name: run_model(name, config, args) for name, config in MODELS.items()}
    except subprocess.CalledProcessError as error:
        print(
            f"The demo stopped because this command failed: {' '.join(map(str, error.cmd))}", file=sys.stderr
        )
        return 2
    table = format_table(rows)
    (args.output / "table.md").write_text(table + "\n")
    print("\n" + table)
    print(f"\nPictures: {make_report(args, table)}")
    return 0


def run_model(name: str, config: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train, evaluate and measure one model; its row of the table."""
    training = train(name, config, args, "MODEL.WEIGHTS", checkpoint(args.output, "Detector"))
    print(f"== {name}: measuring speed and memory", flush=True)
    script = Path(__file__).with_name("measure.py")
    measured = subprocess.run(
        [sys.executable, script, config, checkpoint(args.output, name), *args.opts],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    metrics = last_evaluation(results_folder(args.output, name))
    return {**metrics, **json.loads(measured.stdout.splitlines()[-1]), "training": training}


def train(name: str, config: str, args: argparse.Namespace, *opts: str | Path) -> float:
    """Train and evaluate one model into its folder; the seconds it took."""
    folder = results_folder(args.output, name)
    print(f"== {name}: training with {config} into {folder}", flush=True)
    start = time.perf_counter()
    command = [sys.executable, "train_net.py", "--config-file", config, "--num-gpus", args.num_gpus]
    subprocess.run([*command, "OUTPUT_DIR", folder, *opts, *args.opts], check=True)
    return time.perf_counter() - start


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
        cells = [
            name,
            f"{row['segm/AP']:.1f}",
            f"{row['segm/AP50']:.1f}",
            f"{row.get('boundary/AP', math.nan):.1f}",
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['seconds']:.3f}",
            f"{row['peak_mb']:.0f} MB",
            f"{row['training']:.0f} s",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", machine(next(iter(rows.values()))["device"])])


def machine(device: str) -> str:
    """One line on where the table was made."""
    import detectron2
    import torch

    from crispmask.engine.cost import cpu_name

    return (
        f"{device} ({cpu_name()}), torch {torch.__version__}, "
        f"Detectron2 {detectron2.__version__}, Python {platform.python_version()}."
    )


def make_report(args: argparse.Namespace, table: str) -> Path:
    from detectron2.data import MetadataCatalog
    from report import compare, write_report

    import crispmask
    import crispmask.data

    config = crispmask.get_config(next(iter(MODELS.values())), args.opts)
    data = MetadataCatalog.get(config.DATASETS.TEST[0])
    predictions = "inference/coco_instances_results.json"
    results = {name: results_folder(args.output, name) / predictions for name in MODELS}
    path = args.output / "report.html"
    write_report(path, table, compare(Path(data.json_file), Path(data.image_root), results))
    return path


if __name__ == "__main__":
    sys.exit(main())
