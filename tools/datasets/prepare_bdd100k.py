#!/usr/bin/env python
"""Make COCO-format files of BDD100K's instance segmentation labels, for bdd100k_ins_seg_train and _val.

    python tools/datasets/prepare_bdd100k.py
    python tools/datasets/prepare_bdd100k.py --split val --root /data/bdd100k
    python tools/datasets/prepare_bdd100k.py LABELS --output FILE

The first makes both splits from the labels below $DETECTRON2_DATASETS/bdd100k, the last one file from labels
that lie anywhere.
Labels are a folder of bitmasks (labels/ins_seg/bitmasks/<split>) or a JSON of run lengths
(labels/ins_seg/rles/ins_seg_<split>.json); where both are there, the bitmasks are read. The files go to
annotations/ins_seg_<split>.json. Crowd and ignored objects become crowd regions (iscrowd).
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from crispmask.cli.output import print_notes, write_whole
from crispmask.errors import UserError, exit_on_user_error
from crispmask.evaluation.bdd100k.classes import class_ids_of
from crispmask.evaluation.bdd100k.truth import to_coco
from crispmask.evaluation.formats.coco import read_ground_truth
from crispmask.evaluation.formats.findings import Findings

SPLITS = ("train", "val")


def find_labels(folder: Path, split: str) -> Path:
    """Labels of a split below the folder ``bdd100k``.

    Raises:
        UserError: there are none.
    """
    base = folder / "labels" / "ins_seg"
    places = (base / "bitmasks" / split, base / "rles" / f"ins_seg_{split}.json")
    for place in places:
        if place.exists():
            return place
    raise UserError(f"No labels of the {split} split: neither '{places[0]}' nor '{places[1]}' is there.")


def convert(labels: Path, output: Path) -> None:
    """Write the COCO-format file of some labels, whole or not at all.

    Raises:
        UserError: the labels cannot be read, are not BDD100K's, or the file cannot be written.
    """
    findings = Findings()
    try:
        content = to_coco(labels, findings=findings)
        if "annotations" not in content:
            raise ValueError(f"'{labels}' holds no labels of BDD100K.")
        truth = read_ground_truth(content)
        class_ids_of(content["categories"])
    except ValueError as error:
        raise UserError(str(error)) from error
    write_whole(output, json.dumps(content))
    images, objects = len(content["images"]), len(content["annotations"])
    crowds = sum(annotation["iscrowd"] for annotation in truth.annotations)
    print(f"{output}: {images} images, {objects} objects, {crowds} of them crowd or ignored")
    print_notes(findings.notes())


def main(argv: Sequence[str] | None = None) -> None:
    """The whole command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("labels", nargs="?", type=Path, help="folder of bitmasks or JSON of run lengths")
    parser.add_argument("--output", type=Path, help="COCO-format file to write, together with LABELS")
    parser.add_argument("--split", choices=SPLITS, nargs="+", default=SPLITS)
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser() / "bdd100k",
        help="the folder bdd100k (default: in $DETECTRON2_DATASETS)",
    )
    args = parser.parse_args(argv)
    if (args.labels is None) != (args.output is None):
        parser.error("LABELS and --output go together")
    with exit_on_user_error():
        if args.labels is not None:
            convert(args.labels, args.output)
            return
        for split in args.split:
            convert(find_labels(args.root, split), args.root / "annotations" / f"ins_seg_{split}.json")


if __name__ == "__main__":
    main()
