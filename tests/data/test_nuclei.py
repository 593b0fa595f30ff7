"""Nuclei from generated folders laid out like those of the Data Science Bowl 2018."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils

from crispmask.data.coco import read_coco
from crispmask.data.images import read_image
from tests.data.command_line import ROOT
from tests.docs.reader import blocks, run_block

spec = importlib.util.spec_from_file_location(
    "prepare_nuclei", ROOT / "tools" / "datasets" / "prepare_nuclei.py"
)
prepare_nuclei = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare_nuclei)


def write_sample(folder: Path, name: str, masks: list[np.ndarray], color: tuple[int, int, int]) -> Path:
    """An image with alpha and its masks, of 0 and 255."""
    sample = folder / name
    for part in ("images", "masks"):
        (sample / part).mkdir(parents=True)
    height, width = masks[0].shape if masks else (16, 16)
    picture = np.full((height, width, 4), (*color, 255), np.uint8)
    for mask in masks:
        picture[mask, :3] = 128
    Image.fromarray(picture).save(sample / "images" / f"{name}.png")
    for number, mask in enumerate(masks):
        Image.fromarray(mask.astype(np.uint8) * 255).save(sample / "masks" / f"{number:03d}.png")
    return sample


def disc(y: int, x: int, radius: int = 3, size: tuple[int, int] = (16, 20)) -> np.ndarray:
    rows, columns = np.indices(size)
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 dark images of fluorescence, 10 bright and purple ones, and one without nuclei."""
    for number in range(30):
        color = (8, 8, 8) if number < 20 else (230, 200, 240)
        write_sample(tmp_path / "stage1_train", f"{number:02d}", [disc(4, 4), disc(9, 14, 4)], color)
    write_sample(tmp_path / "stage1_train", "empty", [], (8, 8, 8))
    return tmp_path / "stage1_train"


def run(*words: object) -> None:
    prepare_nuclei.main([*map(str, words)])


def contents(output: Path) -> dict[str, Any]:
    return {name: json.loads((output / f"nuclei_{name}.json").read_text()) for name in ("train", "val")}


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as exit_:
        run(*words)
    assert exit_.value.code == 2
    return capsys.readouterr().err


def test_masks_are_those_of_the_folder_and_images_are_found(folder: Path, tmp_path: Path) -> None:
    run(folder, "--output", tmp_path / "out")
    seen = 0
    for name in ("train", "val"):
        found = read_coco(str(tmp_path / "out" / f"nuclei_{name}.json"), str(folder))
        assert found.class_names == ["nucleus"] and not found.notes
        for record in found.dicts:
            masks = [mask_utils.decode(each["segmentation"]) for each in record["annotations"]]
            files = sorted((Path(record["file_name"]).parents[1] / "masks").iterdir())
            assert len(masks) == len(files)
            for mask, file in zip(masks, files, strict=True):
                assert np.array_equal(mask * 255, np.asarray(Image.open(file)))
            assert read_image(record["file_name"]).shape == (record["height"], record["width"], 3)
            seen += 1
    assert seen == 31


def test_both_parts_have_their_share_of_each_kind_and_stay_the_same(folder: Path, tmp_path: Path) -> None:
    run(folder, "--output", tmp_path / "out", "--val-share", 0.2)
    first = contents(tmp_path / "out")
    kinds = {
        name: Counter(image["file_name"] < "20" for image in content["images"] if image["width"] == 20)
        for name, content in first.items()
    }
    assert kinds == {"train": {True: 16, False: 8}, "val": {True: 4, False: 2}}
    names = [image["file_name"] for content in first.values() for image in content["images"]]
    assert len(set(names)) == 31
    chosen = sorted(image["file_name"] for image in first["val"]["images"])
    assert chosen != sorted(names)[: len(chosen)] and chosen != sorted(names)[-len(chosen) :]
    elsewhere = folder.rename(tmp_path / "moved")
    run(elsewhere, "--output", tmp_path / "again", "--val-share", 0.2)
    assert contents(tmp_path / "again") == first


def test_faults_of_the_folder_are_counted_and_the_rest_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in write_sample(folder, "unmasked", [disc(4, 4)], (8, 8, 8)).glob("masks/*"):
        path.unlink()
    (folder / "unmasked" / "masks").rmdir()
    write_sample(folder, "hollow", [disc(4, 4), np.zeros((16, 20), bool)], (8, 8, 8))
    write_sample(folder, "overlap", [disc(4, 4), disc(4, 7)], (8, 8, 8))
    write_sample(folder, "sizes", [disc(4, 4), disc(4, 12)], (8, 8, 8))
    Image.new("L", (7, 7), 255).save(folder / "sizes" / "masks" / "001.png")
    broken = write_sample(folder, "broken", [disc(4, 4)], (8, 8, 8)) / "images" / "broken.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (folder / "notes.txt").write_text("not an image")
    run(folder, "--output", tmp_path / "out")
    lines = capsys.readouterr().out
    for words in (
        r"images without a folder of masks, left out: 1, 'PLACE/unmasked'",
        r"masks without a pixel, left out: 1, 'PLACE/hollow/masks/001.png'",
        r"masks of another size than their image, left out: 1, 'PLACE/sizes/masks/001.png'",
        r"images whose nuclei share pixels, kept as they are: 1, 'PLACE/overlap/images/overlap.png'",
        r"images that cannot be read, left out: 1, image file 'PLACE/broken/images/broken.png'",
        r"kept as images without objects: 1, 'PLACE/empty/images/empty.png'",
    ):
        assert words.replace("PLACE", str(folder)) in lines
    written = contents(tmp_path / "out")
    names = {Path(i["file_name"]).stem for content in written.values() for i in content["images"]}
    assert names == {f"{n:02d}" for n in range(30)} | {"empty", "hollow", "overlap", "sizes"}
    assert sum(len(content["annotations"]) for content in written.values()) == 60 + 1 + 2 + 1


def test_a_folder_of_another_layout_says_which_one_is_meant(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--output", tmp_path / "out")
    assert f"give '{folder}'" in refusal(capsys, tmp_path, *out)
    assert "give the folder whose entries are" in refusal(capsys, folder / "00", *out)
    (tmp_path / "bare" / "a" / "images").mkdir(parents=True)
    assert "holds no nucleus" in refusal(capsys, tmp_path / "bare", *out)
    assert "lie between 0 and 1" in refusal(capsys, folder, *out, "--val-share", 1)
    assert "31 images for training and 0 for" in refusal(capsys, folder, *out, "--val-share", 0.01)
    assert not (tmp_path / "out").exists()


def test_commands_of_the_page(folder: Path, tmp_path: Path, shapes_root: Path, small_run: list[str]) -> None:
    """docs/nuclei.md, on the generated folder."""
    for name in ("train_net.py", "configs", "tools", "projects"):
        (tmp_path / name).symlink_to(ROOT / name)
    page = ROOT / "docs" / "nuclei.md"
    # Of a range of sizes both ends are given
    small_run = ["(64, 64)" if word == "(64,)" else word for word in small_run]
    for block in blocks(page):
        if block.is_run():
            run_block(block, tmp_path, small_run)
    found = {path.parent.parent.name for path in tmp_path.glob("output/nuclei/*/inference/*results.json")}
    assert found == {"mask_rcnn", "refinemask", "transfiner"}
    assert (tmp_path / "report" / "report.html").is_file()
