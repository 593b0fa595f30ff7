"""``crispmask demo`` on real files: pictures, results, and what goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils

from crispmask.cli import main
from crispmask.evaluation import evaluate

TINY = str(Path(__file__).parents[1] / "engine" / "tiny.yaml")


def demo(weights: Path, images: object, output: Path, *more: object) -> list[str]:
    images = images if isinstance(images, list) else [images]
    words = ["--config-file", TINY, "--weights", weights, "--output", output, *more]
    return list(map(str, ["demo", "--input", *images, *words]))


def test_folder_becomes_pictures_and_results(
    tiny_weights: Path, shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, results = shapes_root / "shapes" / "val", tmp_path / "new" / "results.json"
    output = tmp_path / "drawn" / "here"
    flags = ["--json", results, "--score-threshold", 0, "--batch-size", 3, "--scale", 2]
    assert main(demo(tiny_weights, images, output, *flags)) == 0
    assert f"4 of 4 images drawn into {output}" in capsys.readouterr().out
    for path in images.iterdir():
        before = np.asarray(Image.open(path))
        after = np.asarray(Image.open(output / path.name))
        assert after.shape == (192, 192, 3)
        assert not np.array_equal(after[::2, ::2], before)
    rows = json.loads(results.read_text())
    # Named like COCO's images, so ids are those of the annotation file, and so are those of the classes
    assert {row["image_id"] for row in rows} == {1, 2, 3, 4}
    assert {row["category_id"] for row in rows} <= set(range(1, 9))
    assert all(row["file_name"] == f"{row['image_id']:06d}.png" for row in rows)
    assert mask_utils.decode(rows[0]["segmentation"]).shape == (96, 96)
    assert (
        evaluate(shapes_root / "shapes/annotations/instances_val.json", results, iou_type="mask")["AP"] >= 0
    )


def test_real_command_names_what_it_cannot_read_and_goes_on(
    tiny_weights: Path, shapes_root: Path, tmp_path: Path
) -> None:
    good = shapes_root / "shapes" / "val" / "000002.png"
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(good.read_bytes()[:500])
    (tmp_path / "grey.png").write_bytes(good.read_bytes())
    Image.open(good).convert("L").save(tmp_path / "grey.png")
    inputs = [broken, tmp_path / "missing.png", good, tmp_path / "grey.png"]
    done = subprocess.run(
        [sys.executable, "-m", "crispmask", *demo(tiny_weights, inputs, tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 2 and "broken.jpg" in lines[0] and "missing.png" in lines[1]
    assert "2 of 4 images" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"000002.png", "grey.png"}


def test_image_without_detections_is_still_written(tiny_weights: Path, tmp_path: Path) -> None:
    grey = np.full((50, 70, 3), 128, np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    out = tmp_path / "out"
    flags = ["--score-threshold", 1.0, "--json", tmp_path / "results.json"]
    assert main(demo(tiny_weights, tmp_path / "grey.png", out, *flags)) == 0
    assert np.array_equal(np.asarray(Image.open(out / "grey.png")), grey)
    assert json.loads((tmp_path / "results.json").read_text()) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--input", "{empty}"], "holds no image"),
        (["--output", "{images}"], "would be overwritten"),
        (["--json", "{weights}"], "would be overwritten: give another file"),
        (["--json", "{weights}", "--weights", "{weights}?sha256=" + "0" * 64], "would be overwritten"),
        (["--json", "{images}/a.png"], "would be overwritten: give another file"),
        (["--batch-size", "0"], "--batch-size"),
        (["--score-threshold", "1.5"], "--score-threshold 1.5"),
        (["--score-threshold", "nan"], "--score-threshold nan"),
        (
            [
                "MODEL.RESNETS.DEFORM_ON_PER_STAGE",
                "[False,True,True,True]",
                "MODEL.RESNETS.DEFORM_MODULATED",
                "True",
            ],
            "MODEL.DEVICE cuda",
        ),
        (["--weights", "nowhere.pth"], "nowhere.pth"),
        (["--config-file", "nowhere.yaml"], "nowhere.yaml"),
        (["MODEL.ROI_HEADS.NUM_CLASES", "3"], "NUM_CLASSES"),
        (["MODEL.WEIGHTS", ""], "MODEL.WEIGHTS is empty"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], named: str
) -> None:
    folders = {"empty": tmp_path / "empty", "images": tmp_path / "images"}
    for folder in folders.values():
        folder.mkdir()
    Image.new("RGB", (20, 20)).save(folders["images"] / "a.png")
    words = demo(tiny_weights, folders["images"], tmp_path / "out")
    assert main([*words, *(word.format(**folders, weights=tiny_weights) for word in change)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and named in err
    assert not (tmp_path / "out").exists() and len(list(folders["images"].iterdir())) == 1


def small_images(folder: Path) -> Path:
    """Pictures of odd shapes and kinds beside one that is good."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    sizes = {"good": (80, 60), "thin": (3000, 4), "tall": (1, 400), "dot": (1, 1), "strip": (900, 1)}
    for name, (width, height) in sizes.items():
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.mark.parametrize("batch_size", [1, 3])
def test_pictures_of_any_shape_are_done(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], batch_size: int
) -> None:
    images, flags = small_images(tmp_path / "images"), ["--batch-size", batch_size, "--score-threshold", 0]
    assert main(demo(tiny_weights, images, tmp_path / "out", *flags)) == 0
    assert capsys.readouterr().out.startswith("5 of 5 images drawn")
    for path in images.iterdir():
        assert Image.open(tmp_path / "out" / path.name).size == Image.open(path).size


def test_it_is_said_that_nothing_is_found_and_that_folders_are_left_out(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    small_images(images / "shelf")
    (images / "shelf" / "good.png").rename(images / "good.png")
    (images / "notes").mkdir()
    words = demo(tiny_weights, images, images / "shelf" / "out", "--score-threshold", 1)
    assert main(words) == 0
    left_out, drawn, nothing = capsys.readouterr().out.splitlines()
    assert "are left out" in left_out and "shelf': --recursive" in left_out
    assert drawn.startswith("1 of 1 image drawn") and drawn.endswith(", 0 objects in all")
    assert nothing.startswith("note: no object has a score of 1 or more")
    # Nothing is said of the folder that is written to
    assert main(demo(tiny_weights, images, images / "shelf", "--score-threshold", 0)) == 0
    (drawn,) = capsys.readouterr().out.splitlines()
    assert " 0 objects" not in drawn


def test_what_fails_in_a_batch_is_named_and_the_others_are_done(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from crispmask.engine.predictor import Predictor

    whole = Predictor.predict

    def greedy(self: Predictor, pictures: list[np.ndarray], *more: object, **options: object) -> list:
        for picture in pictures:
            if picture.shape[:2] == (1, 1):
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate much")
            if picture.shape[:2] == (400, 1):
                raise ValueError("height and width must be > 0\nand more")
        return whole(self, pictures, *more, **options)

    monkeypatch.setattr(Predictor, "predict", greedy)
    images = small_images(tmp_path / "images")
    (images / "nowhere.png").symlink_to(tmp_path / "nothing.png")
    results = tmp_path / "results.json"
    flags = ["--batch-size", 4, "--score-threshold", 0, "--json", results]
    with pytest.raises(SystemExit, match=r"^1$"):
        main(demo(tiny_weights, images, tmp_path / "out", *flags))
    out, err = capsys.readouterr()
    assert "3 of 6 images drawn" in out
    lines = {Path(line.split("'")[1]).name: line for line in err.splitlines()}
    assert "needs more memory" in lines.pop("dot.png")
    assert lines.pop("tall.png").endswith(" cannot be worked on: height and width must be > 0 and more.")
    assert "There is no image file" in lines.pop("nowhere.png") and not lines
    assert {row["file_name"] for row in json.loads(results.read_text())} == {
        "good.png",
        "thin.png",
        "strip.png",
    }


def test_a_full_disk_for_one_picture_is_named(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = small_images(tmp_path / "images"), tmp_path / "out"
    (out / "tall.png").mkdir(parents=True)
    whole = Image.Image.save

    def full(self: Image.Image, file: object, *args: object, **kwargs: object) -> None:
        whole(self, file, *args, **kwargs)
        if self.size == (3000, 4):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(SystemExit, match=r"^1$"):
        main(demo(tiny_weights, images, out))
    printed = capsys.readouterr()
    assert "3 of 5 images drawn" in printed.out
    lines = sorted(printed.err.splitlines())
    assert len(lines) == 2 and "tall.png' cannot be written: Is a directory" in lines[0]
    assert lines[1].endswith("thin.png' cannot be written: No space left on device.")
    assert {path.name for path in out.iterdir()} == {"good.png", "dot.png", "strip.png", "tall.png"}


def test_a_sixteen_bit_copy_gives_the_same_detections(
    tiny_weights: Path, shapes_root: Path, tmp_path: Path
) -> None:
    grey = np.asarray(Image.open(shapes_root / "shapes" / "val" / "000002.png").convert("L"))
    Image.fromarray(grey).save(tmp_path / "1.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "2.png")
    Image.fromarray(grey.astype(np.uint16)).save(tmp_path / "3.tif")
    results = tmp_path / "results.json"
    inputs = [tmp_path / name for name in ("1.png", "2.png", "3.tif")]
    flags = ["--json", results, "--score-threshold", 0, "INPUT.VALUE_RANGE", "(0, 255)"]
    assert main(demo(tiny_weights, inputs[:1] + inputs[2:], tmp_path / "out", *flags)) == 0
    by_key = json.loads(results.read_text())
    assert main(demo(tiny_weights, inputs[:2], tmp_path / "out", *flags[:-2])) == 0
    by_type = json.loads(results.read_text())
    for rows in (by_key, by_type):
        first = [{**row, "image_id": 0, "file_name": ""} for row in rows if row["image_id"] == 1]
        other = [{**row, "image_id": 0, "file_name": ""} for row in rows if row["image_id"] != 1]
        assert len(first) > 10 and first == other
