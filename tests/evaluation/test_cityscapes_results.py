"""Cityscapes' official predictions: text files and masks give what the same predictions in one JSON give."""

import json
import os
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from PIL import Image

from crispmask.evaluation import evaluate
from crispmask.evaluation.cityscapes.results import read_prediction_folder
from crispmask.evaluation.cityscapes.truth import find_instance_files, image_size
from crispmask.evaluation.formats.findings import Findings

GOLDEN = Path(__file__).parents[1] / "golden" / "boundary_cityscapes"
SIZE = (100, 200)
IMAGES = ("aachen_000000_000019", "bonn_000001_000019")
CAR, ROAD = 26, 7


def save_mask(path, mask, kind=0):
    """A mask as the tools write it: 8 bits of 0 and 255, one bit, 16 bits of 0 and 1, colours."""
    eight = Image.fromarray(mask.astype(np.uint8) * 255)
    pictures = (
        lambda: eight,
        lambda: eight.convert("1"),
        lambda: Image.fromarray(mask.astype(np.uint16)),
        lambda: eight.convert("RGB"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures[kind % 4]().save(path)


def write_folder(folder, rows, images):
    """The official folder of rows; masks lie beside the text files and below them, in several modes."""
    lines = {name: [] for name in images}
    for number, row in enumerate(rows):
        name = f"{row['image']}_{number}.png" if number % 2 else f"masks/{number}.png"
        save_mask(folder / name, mask_utils.decode(row["segmentation"]), number)
        lines[row["image"]].append(f"{name} {row['label_id']} {row['score']!r}\n")
    for name, of_image in lines.items():
        (folder / f"{name}_leftImg8bit_pred.txt").write_text("".join(of_image))
    return folder


@pytest.mark.parametrize(
    ("iou_type", "ratio", "key"), [("mask", None, "mask"), ("boundary", 0.02, "boundary_0.02")]
)
def test_every_figure_is_bit_equal_to_the_official_tool(tmp_path, iou_type, ratio, key):
    rows = json.loads((GOLDEN / "predictions.json").read_text())
    folder = write_folder(tmp_path, rows, find_instance_files(GOLDEN / "gt"))
    figures = evaluate(GOLDEN / "gt", folder, "cityscapes", iou_type, ratio)
    with np.load(GOLDEN / "expected.npz") as expected:
        official = {name: value * 100 for name, value in expected.items() if name.startswith(f"{key}/")}
    assert len(official) > 8
    for name, value in official.items():
        assert figures[name.removeprefix(f"{key}/")] == pytest.approx(value, rel=0, abs=0, nan_ok=True)
    assert figures == pytest.approx(
        evaluate(GOLDEN / "gt", rows, "cityscapes", iou_type, ratio), rel=0, abs=0, nan_ok=True
    )


@pytest.fixture
def split(tmp_path):
    """Ground truth of two images, a car in each, and official predictions of both cars."""
    for name in IMAGES:
        ids = np.full(SIZE, ROAD, np.uint16)
        ids[10:60, 20:80] = 1000 * CAR
        path = tmp_path / "gt" / name.partition("_")[0] / f"{name}_gtFine_instanceIds.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(ids).save(path)
        save_mask(tmp_path / "pred" / name / "car.png", ids >= 1000)
        (tmp_path / "pred" / name / f"{name}_pred.txt").write_text(f"car.png {CAR} 0.9\n")
    return tmp_path


def text_file(split, image=IMAGES[0]):
    return split / "pred" / image / f"{image}_pred.txt"


def score(split):
    return evaluate(split / "gt", split / "pred", "cityscapes", "mask")


def read(split):
    """Rows, and what was left out."""
    files = find_instance_files(split / "gt")
    findings = Findings()
    sizes = {name: image_size(path) for name, path in files.items()}
    return read_prediction_folder(split / "pred", sizes, findings=findings), findings.notes()


def test_a_folder_is_found_as_the_official_tool_finds_it(split):
    """The text file lies anywhere; only how its name begins and ends matters."""
    assert score(split)["AP"] == 100
    for number, name in enumerate(("_leftImg8bit_pred.txt", ".txt", "x.txt")):
        folder = split / "pred" / f"deep{number}"
        (split / "pred" / IMAGES[0]).rename(folder)
        next(folder.glob("*.txt")).rename(folder / f"{IMAGES[0]}{name}")
        assert score(split)["AP"] == 100
        folder.rename(split / "pred" / IMAGES[0])


def test_an_empty_file_is_an_image_without_predictions(split):
    text_file(split).write_text("")
    assert score(split)["AP"] == pytest.approx(50)
    for name in IMAGES:
        text_file(split, name).write_text("\n  \n")
    assert score(split)["AP"] == 0 and read(split) == ([], ())


def test_lines_are_read_as_people_write_them(split):
    text_file(split).write_bytes(b"\xef\xbb\xbfcar.png\t26.0  9e-1\r\n\r\n")
    (row, _), notes = read(split)
    assert (row["image"], row["label_id"], row["score"], notes) == (IMAGES[0], 26, 0.9, ())


def test_what_is_not_evaluated_is_left_out_and_counted(split, caplog):
    """Masks of such labels need not even be there, as for the official tool."""
    with text_file(split).open("a") as file:
        file.write(f"nowhere.png {ROAD} 0.5\nno.png 29 0.5\n")
    (split / "pred" / "readme.txt").write_text("words")
    rows, notes = read(split)
    assert len(rows) == 2
    assert notes == (
        f"text files of no image of the ground truth, not read: 1, '{split / 'pred' / 'readme.txt'}'",
        "predictions of labels that Cityscapes does not evaluate, left out: 2, line 2 of "
        f"'{text_file(split)}' for one",
    )
    assert score(split)["AP"] == 100
    assert {record.getMessage() for record in caplog.records} == set(notes)


def test_of_lines_with_one_mask_the_last_counts(split):
    """As in the official tool, which keeps them by the path of the mask."""
    text_file(split).write_text(f"car.png 28 0.9\n./car.png {CAR} 0.1\n")
    rows, notes = read(split)
    assert [(row["label_id"], row["score"]) for row in rows] == [(CAR, 0.1), (CAR, 0.9)]
    assert notes == (
        f"lines whose mask a later line names again, left out: 1, line 1 of '{text_file(split)}'",
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("car.png 26", "is 'car.png 26': the path of a mask, without blanks, a label id and a score"),
        ("my car.png 26 0.9", r"is 'my car\.png 26 0\.9'"),
        ("car.png car 0.9", "has label id 'car': Cityscapes has no such label, .* 24, 25, 26"),
        ("car.png 26.5 0.9", r"has label id '26\.5'"),
        ("car.png 34 0.9", "has label id '34'"),
        ("car.png nan 0.9", "has label id 'nan'"),
        ("car.png 26 high", "has score 'high'; a finite number"),
        ("car.png 26 nan", "has score 'nan'"),
        ("car.png 26 inf", "has score 'inf'"),
        ("{absolute} 26 0.9", "has the absolute path '.*relative to the text file is needed"),
        (
            "../../gt/car.png 26 0.9",
            "'../../gt/car.png', which leads out of '.*pred': masks lie in the folder",
        ),
        ("../../pred2/car.png 26 0.9", "leads out of"),
        ("bus.png 26 0.9", r"names a mask that cannot be used: There is no image file '.*/bus\.png'"),
        (". 26 0.9", "names a mask that cannot be used: There is no image file"),
        ("cut.png 26 0.9", r"names a mask that cannot be used: Image file '.*cut\.png' cannot be read"),
        ("text.png 26 0.9", r"text\.png' cannot be read: it is no image"),
        ("small.png 26 0.9", r"the mask '.*small\.png' of size \[50, 200\], not \[100, 200\]"),
        ("turned.png 26 0.9", r"of size \[200, 100\], not \[100, 200\]"),
        (f"{'x' * 300}.png 26 0.9", "names a mask that cannot be used"),
        (f"{'x' * 10_000}.png 26 0.9", r"has the path 'x{59}\.\.\., which no file can have\.$"),
    ],
)
def test_a_wrong_line_is_named(split, line, message):
    folder = text_file(split).parent
    save_mask(folder / "small.png", np.ones((50, 200), bool))
    save_mask(folder / "turned.png", np.ones((200, 100), bool))
    (folder / "cut.png").write_bytes((folder / "car.png").read_bytes()[:60])
    (folder / "text.png").write_text("no image")
    text = line.replace("{absolute}", str(folder / "car.png"))
    text_file(split).write_text(f"car.png {CAR} 0.9\n\n{text}\n")
    with pytest.raises(ValueError, match=f"^Line 3 of '{text_file(split)}' .*{message}"):
        score(split)


def test_a_mask_of_another_size_is_not_even_decoded(split):
    """A small file may claim pixels that fill the memory."""
    huge = Image.new("1", (30_000, 4_000))
    huge.save(text_file(split).parent / "car.png")
    with pytest.raises(ValueError, match=r"of size \[4000, 30000\], not"):
        score(split)


def test_an_unfinished_or_doubled_run_is_refused(split):
    twin = text_file(split).with_name(f"{IMAGES[0]}_other.txt")
    twin.write_text("")
    with pytest.raises(
        ValueError, match=f"Image '{IMAGES[0]}' has two files of predictions, .*leave one out"
    ):
        score(split)
    twin.unlink()
    text_file(split, IMAGES[1]).unlink()
    with pytest.raises(ValueError, match=f"1 of 2 images have no file of predictions .*'{IMAGES[1]}'.*empty"):
        score(split)
    text_file(split).unlink()
    with pytest.raises(ValueError, match=rf"No file of predictions, as '{IMAGES[0]}_pred\.txt', in"):
        score(split)


def test_a_file_that_is_no_text_is_named(split):
    for content in (b"car.png 26 \xff\n", b"car\0.png 26 0.9", "car.png 26 0.9".encode("utf-16")):
        text_file(split).write_bytes(content)
        with pytest.raises(ValueError, match=f"'{text_file(split)}' is no text"):
            score(split)
    if os.geteuid():
        text_file(split).chmod(0)
        with pytest.raises(ValueError, match="cannot be read: Permission denied"):
            score(split)
    text_file(split).unlink()
    text_file(split).symlink_to("nowhere")
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        score(split)
