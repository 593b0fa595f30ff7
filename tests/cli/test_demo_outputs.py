"""``crispmask demo --save`` and ``--show``: what it writes beside the pictures, and that programs read it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_utils

from crispmask.cli import main
from crispmask.evaluation import evaluate
from tests.cli.test_demo_verb import demo


@pytest.fixture
def images(shapes_root: Path, tmp_path: Path) -> Path:
    """Two images in a folder and two in one below, under names that are no numbers."""
    folder = tmp_path / "images"
    (folder / "deeper").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "deeper/a.png", "deeper/c.png"), 1):
        shutil.copy(shapes_root / "shapes" / "val" / f"{number:06d}.png", folder / name)
    return folder


ALL = [word for kind in ("masks", "json", "soft", "yolo", "labelme") for word in ("--save", kind)]


def test_everything_is_saved_and_agrees(
    tiny_weights: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ["--recursive", "--score-threshold", 0.1, "TEST.DETECTIONS_PER_IMAGE", 5]
    assert main(demo(tiny_weights, images, out, *ALL, *flags)) == 0
    assert "4 of 4 images drawn" in capsys.readouterr().out
    rows = json.loads((out / "results.json").read_text())
    assert {(row["image_id"], row["file_name"]) for row in rows} == {
        (1, "a.png"),
        (2, "b.png"),
        (3, "deeper/a.png"),
        (4, "deeper/c.png"),
    }
    for stem in ("a", "b", "deeper/a", "deeper/c"):
        assert Image.open(out / f"{stem}.png").size == (96, 96)
        own = [row for row in rows if row["file_name"] == f"{stem}.png"]
        masks = sorted((out / "masks" / stem).iterdir())
        soft = sorted((out / "soft" / stem).iterdir())
        assert len(masks) == len(soft) == len(own) == 5
        for row, mask, probability in zip(own, masks, soft, strict=True):
            expected = mask_utils.decode(row["segmentation"]).astype(bool)
            assert np.array_equal(np.asarray(Image.open(mask)) == 255, expected)
            near = np.asarray(Image.open(probability)).astype(int) - 127.5
            assert (near[expected] >= -1).all() and (near[~expected] <= 1).all()
        labels = (out / "labels" / f"{stem}.txt").read_text().splitlines()
        visible = [row for row in own if mask_utils.area(row["segmentation"])]
        assert [int(line.split()[0]) + 1 for line in labels] == [row["category_id"] for row in visible]
        document = json.loads((out / "labelme" / f"{stem}.json").read_text())
        opened = (out / "labelme" / f"{stem}.json").parent / document["imagePath"]
        assert opened.resolve() == (images / f"{stem}.png").resolve()
    assert "star" in (out / "data.yaml").read_text()


def annotation_file(path: Path, shapes_root: Path, names: dict[str, str], **change: object) -> Path:
    """The shapes' annotations with other file names, ids 100 larger, and what ``change`` says."""
    dataset = json.loads((shapes_root / "shapes/annotations/instances_val.json").read_text())
    for image in dataset["images"]:
        image["file_name"] = names.get(image["file_name"], image["file_name"])
        image["id"] += 100
    for annotation in dataset["annotations"]:
        annotation["image_id"] += 100
    path.write_text(json.dumps({**dataset, **change}))
    return path


NAMES = {"000001.png": "a.png", "000002.png": "images/b.png", "000004.png": "deeper/c.png"}


def test_results_have_the_ids_of_an_images_file(
    tiny_weights: Path, images: Path, shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = annotation_file(tmp_path / "truth.json", shapes_root, NAMES)
    shutil.copy(images / "b.png", images / "odd.png")
    results = tmp_path / "results.json"
    flags = ["--images-json", truth, "--json", results, "--score-threshold", 0]
    assert main(demo(tiny_weights, images, tmp_path / "out", *flags)) == 0
    assert "1 of 3 images are not in" in capsys.readouterr().out
    rows = json.loads(results.read_text())
    assert {(row["image_id"], row["file_name"]) for row in rows} == {(101, "a.png"), (102, "b.png")}
    assert (tmp_path / "out" / "odd.png").is_file()
    assert evaluate(truth, results, iou_type="mask")["AP"] >= 0
    assert main(["evaluate", str(truth), str(results)]) == 0


def test_classes_are_found_by_name_where_ids_differ(
    tiny_weights: Path, images: Path, shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = annotation_file(tmp_path / "truth.json", shapes_root, NAMES)
    dataset = json.loads(truth.read_text())
    for category in dataset["categories"]:
        category["id"] = 50 - category["id"]
    truth.write_text(json.dumps(dataset))
    words = demo(tiny_weights, images / "a.png", tmp_path / "out", "--save", "json", "--score-threshold", 0)
    assert main([*words, "--images-json", str(truth)]) == 0
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert rows and {row["category_id"] for row in rows} <= set(range(42, 50))
    dataset["categories"][2]["name"] = "teapot"
    truth.write_text(json.dumps(dataset))
    assert main([*words, "--images-json", str(truth)]) == 2
    assert "has no category 'comb'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--images-json", "{truth}"], "--images-json is for results"),
        (["--save", "json", "--images-json", "{nowhere}"], "nowhere.json"),
        (["--save", "json", "--images-json", "{other}"], "has none of the images, 'a.png' for one"),
        (["--save", "json", "--images-json", "{text}"], "text.json"),
        (["--show", "compare"], "belong together"),
        (["--compare", "{weights}"], "belong together"),
        (["--show", "compare", "--compare", "nowhere.pth"], "nowhere.pth"),
        (["--every", "0"], "--every"),
        (["--frames", "0"], "--frames"),
        (["--input", "{images}/*.gif"], "No file fits"),
    ],
)
def test_wishes_that_cannot_be_are_one_sentence(
    tiny_weights: Path,
    images: Path,
    shapes_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    named: str,
) -> None:
    places = {name: tmp_path / f"{name}.json" for name in ("truth", "nowhere", "other", "text")}
    annotation_file(places["truth"], shapes_root, NAMES)
    annotation_file(places["other"], shapes_root, {})
    places["text"].write_text('{"images": [{"id": 1}], "categories": []}')
    words = [word.format(**places, weights=tiny_weights, images=images) for word in flags]
    assert main(demo(tiny_weights, images, tmp_path / "out", *words)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and named in err
    assert not (tmp_path / "out").exists()


def test_nothing_to_draw_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--weights", "a.pth", "--output", str(tmp_path)]) == 2
    assert "There is nothing to draw: give --input" in capsys.readouterr().err


def test_styles_and_a_comparison_stand_beside_the_picture(
    tiny_weights: Path, images: Path, tmp_path: Path
) -> None:
    other = torch.load(tiny_weights)
    predictor = "roi_heads.mask_head.predictor."
    for name in (f"{predictor}weight", f"{predictor}bias"):
        other["model"][name] = -other["model"][name]
    torch.save(other, tmp_path / "other.pth")
    flags = [
        "--show",
        "outline",
        "--show",
        "boundary",
        "--show",
        "compare",
        "--compare",
        tmp_path / "other.pth",
    ]
    flags += ["--score-threshold", 0.1, "TEST.DETECTIONS_PER_IMAGE", 4]
    assert main(demo(tiny_weights, images / "a.png", tmp_path / "out", *flags)) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"a.png", "a-outline.png", "a-boundary.png", "a-compare.png"}
    picture, fill, line, band = (
        np.asarray(Image.open(path)).astype(int)
        for path in (
            images / "a.png",
            *(tmp_path / "out" / f"a{kind}.png" for kind in ("", "-outline", "-boundary")),
        )
    )
    changed = [(drawn != picture).any(axis=2).sum() for drawn in (line, band, fill)]
    assert 0 < changed[0] <= changed[2] and 0 < changed[1] <= changed[2] + 50
    width, height = Image.open(tmp_path / "out" / "a-compare.png").size
    assert width > 3 * 300 and height > 300
