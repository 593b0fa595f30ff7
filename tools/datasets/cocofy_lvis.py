"""Make the annotation files of AP*: what LVIS says about COCO's 80 classes, under COCO's category ids.

    python tools/datasets/cocofy_lvis.py

reads lvis_v0.5_val.json and lvis_v1_val.json, or the one that is there, in $DETECTRON2_DATASETS/lvis (or
--folder), and writes lvis_v0.5_val_cocofied.json and lvis_v1_val_cocofied.json beside them. Of LVIS v1 val
only the images of val2017 are kept: the others are of train2017, which COCO models have seen. Then

    python train_net.py --eval-only ... DATASETS.TEST "('lvis_v1_val_cocofied',)"

reports AP*, and `crispmask evaluate --protocol lvis` does so on a results file.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from crispmask.cli.output import write_whole
from crispmask.errors import UserError, exit_on_user_error
from crispmask.evaluation.formats.coco import load_dataset
from crispmask.evaluation.lvis.cocofied import COCO_SYNSETS, cocofy, missing_synsets

# File -> folder of the images that are kept
FILES = {"lvis_v0.5_val.json": None, "lvis_v1_val.json": "val2017"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser() / "lvis"
    parser.add_argument("--folder", type=Path, default=default, help=f"where LVIS's files are ({default})")
    folder = parser.parse_args().folder
    sources = [folder / name for name in FILES if (folder / name).is_file()]
    with exit_on_user_error():
        if not sources:
            raise UserError(f"There is neither {' nor '.join(FILES)} in '{folder}': name their folder.")
        for source in sources:
            write_cocofied(source, FILES[source.name])


def write_cocofied(source: Path, image_folder: str | None) -> None:
    """Write ``<source>_cocofied.json`` and print what it covers.

    Raises:
        UserError: the file is not LVIS's, or the other cannot be written.
    """
    try:
        lvis = load_dataset(source)
        cocofied = cocofy(lvis, image_folder)
    except ValueError as error:
        raise UserError(f"'{source}' cannot be used: {error}") from error
    target = source.with_name(f"{source.stem}_cocofied.json")
    write_whole(target, json.dumps(cocofied))
    missing = missing_synsets(cocofied["categories"])
    print(f"{target}")
    print(f"  {len(cocofied['images'])} of {len(lvis['images'])} images", end="")
    print(f", {len(cocofied['annotations'])} of {len(lvis['annotations'])} annotations", end="")
    print(f", {len(COCO_SYNSETS) - len(missing)} of COCO's {len(COCO_SYNSETS)} categories")
    if missing:
        print(f"  without {', '.join(missing)}")


if __name__ == "__main__":
    main()
