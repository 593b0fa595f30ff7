"""``crispmask data show``: which images are drawn, and that their objects lie where they are."""

import json
from collections import Counter

import numpy as np
import own_data
import pytest
from own_data import annotations
from PIL import Image
from pycocotools import mask as mask_utils

from crispmask.cli import main
from crispmask.data.annotation_check import check_annotation_file
from crispmask.data.annotation_sheet import ShownImage, choose, class_colors, draw_tile, shown_images
from crispmask.data.images import read_image


@pytest.fixture
def folder(tmp_path):
    own_data.write_images(tmp_path / "images")
    return tmp_path


def written(folder, spoil=lambda data: None):
    data = annotations()
    spoil(data)
    file = folder / "annotations.json"
    file.write_text(json.dumps(data))
    return file


def images(*features):
    """Images of these (faults, category ids)."""
    return [
        ShownImage(f"{i}", f"{i}", [{"category_id": c, "iscrowd": 0} for c in classes], Counter(faults))
        for i, (faults, classes) in enumerate(features)
    ]


def test_faults_come_first_then_classes_in_as_few_images_as_need_be():
    shown = images(((), [1]), ((), [1, 2]), ((), []), (("not there",), []), ((), [3, 4, 5]), ((), [1]))
    assert choose(shown, 4) == [3, 4, 1, 2]
    assert choose(shown, 6) == [3, 4, 1, 2, 0, 5]
    assert choose(shown, 100) == [3, 4, 1, 2, 0, 5] and choose(shown, 1) == [3]


def test_one_image_for_each_kind_of_fault():
    shown = images(*[(("not there",), [])] * 30, *[((), [1])] * 30, (("annotations left out",), [2]))
    assert choose(shown, 3) == [60, 0, 30]
    # What is left is spread over the images with objects
    assert choose(shown, 6)[3:] == [31, 45, 59]


def tile_of(file, folder, index=0, side=200):
    found = check_annotation_file(file, str(folder / "images"))
    shown = shown_images(found, str(folder / "images"))[index]
    return draw_tile(shown, *class_colors(found), side), shown


def changed(tile, path):
    """(h, w) whether a pixel of the picture is not that of its image."""
    height, width = tile.picture.shape[:2]
    plain = Image.fromarray(read_image(path)).resize((width, height), Image.Resampling.LANCZOS)
    return (np.asarray(plain) != tile.picture).any(axis=2)


@pytest.mark.parametrize("as_runs", [False, True])
@pytest.mark.parametrize("side", [64, 200])
def test_objects_are_drawn_where_they_are(folder, as_runs, side):
    def spoil(data):
        del data["annotations"][1:]
        if as_runs:
            row = data["annotations"][0]
            rle = mask_utils.merge(mask_utils.frPyObjects(row["segmentation"], 80, 100))
            row["segmentation"] = {"size": [80, 100], "counts": rle["counts"].decode()}

    tile, shown = tile_of(written(folder, spoil), folder, side=side)
    assert max(tile.picture.shape) == side
    is_changed = changed(tile, shown.path)
    scale = side / 100
    box = np.zeros_like(is_changed)
    box[round(10 * scale) : round(40 * scale), round(10 * scale) : round(50 * scale)] = True
    above = np.zeros_like(box)
    above[: round(10 * scale)] = True  # its label
    assert is_changed[box].mean() > 0.9 and not is_changed[~box & ~above].any()


def test_crowds_and_boxes_look_otherwise(folder):
    def crowd(data):
        data["annotations"][0]["iscrowd"] = 1

    def box(data):
        data["annotations"][0]["segmentation"] = []

    def no_other(spoil):
        return lambda data: (spoil(data), data["annotations"].__delitem__(slice(1, None)))

    plain, crowded, boxed = (
        tile_of(written(folder, no_other(spoil)), folder)[0] for spoil in (lambda data: None, crowd, box)
    )
    assert "0 objects, 1 crowd region" in crowded.lines[1] and "1 object" in plain.lines[1]
    middle = slice(40, 70), slice(40, 90)
    differs = np.abs(crowded.picture[middle].astype(int) - plain.picture[middle]).max(axis=2) > 30
    assert 0.2 < differs.mean() < 0.8
    # A box is nothing but its line
    assert not changed(boxed, folder / "images/1.jpg")[middle].any()
    assert boxed.alarm == "without a mask"


def test_faults_are_written_at_their_image(folder):
    def spoil(data):
        data["annotations"][0]["category_id"] = 7
        data["annotations"][1]["category_id"] = 7
        data["annotations"][2]["bbox"] = [500, 500, 10, 10]
        data["images"][2]["file_name"] = "gone.jpg"

    file = written(folder, spoil)
    first, second, missing = (tile_of(file, folder, index)[0] for index in range(3))
    assert first.alarm == "2 annotations left out" and second.alarm == "outside of the image"
    assert missing.alarm == "not there" and missing.lines == ("gone.jpg",)


def test_thin_things_of_large_images_are_seen(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (3000, 2000)).save(tmp_path / "images/1.png")
    mask = np.zeros((2000, 3000), np.uint8, order="F")
    along = np.arange(500, 1500)
    mask[along, along] = 1
    rle = mask_utils.encode(mask)
    row = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0}
    row["segmentation"] = {"size": [2000, 3000], "counts": rle["counts"].decode()}
    data = {
        "images": [{"id": 1, "file_name": "1.png", "height": 2000, "width": 3000}],
        "annotations": [row],
        "categories": [{"id": 1, "name": ""}],
    }
    file = tmp_path / "a.json"
    file.write_text(json.dumps(data))
    tile, _ = tile_of(file, tmp_path, side=300)
    # A tenth of its length, without a gap
    assert (tile.picture[51:149, 51:149].max(axis=(0, 2)) > 100).all()


def test_command_writes_the_same_sheets_again(folder, capsys):
    file = written(folder)
    words = ["data", "show", str(file), "--images", str(folder / "images"), "--output"]
    assert main([*words, str(folder / "a.png"), "--limit", "2"]) == 0
    assert "2 of 3 images, 2 of the 2 classes" in capsys.readouterr().out
    assert main([*words, str(folder / "b.png"), "--limit", "2"]) == 0
    assert (folder / "a.png").read_bytes() == (folder / "b.png").read_bytes()
    wide, narrow = read_image(folder / "a.png"), folder / "narrow.png"
    assert main([*words, str(narrow), "--limit", "2", "--side", "100"]) == 0
    assert read_image(narrow).shape[1] < wide.shape[1]


def test_many_images_give_several_sheets(folder, monkeypatch, capsys):
    monkeypatch.setattr("crispmask.cli.data_show.PER_SHEET", 2)
    words = ["data", "show", str(written(folder)), "--images", str(folder / "images")]
    assert main([*words, "--output", str(folder / "s.png"), "--limit", "9"]) == 0
    assert (folder / "s.png").is_file() and (folder / "s-2.png").is_file()
    assert not (folder / "s-3.png").exists()


def test_faults_of_the_file_end_in_1_with_a_sheet(folder, capsys):
    file = written(folder, lambda data: data["images"][0].update(file_name="gone.jpg"))
    words = ["data", "show", str(file), "--images", str(folder / "images"), "--output", str(folder / "s.png")]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 1 and (folder / "s.png").is_file()
    assert "the file has 1 faults" in capsys.readouterr().out


def test_wrong_flags(folder, capsys):
    file = str(written(folder))
    right = {"--images": str(folder / "images"), "--output": str(folder / "s.png")}
    for change, part in (
        ({"--images": "nowhere"}, "no folder of images"),
        ({"--limit": "0"}, "shows nothing"),
        ({"--side": "5"}, "not between"),
        ({"--output": file}, "given twice"),
        ({"--output": str(folder / "s.txt")}, "end with .png"),
    ):
        words = [word for pair in {**right, **change}.items() for word in pair]
        assert main(["data", "show", file, *words]) == 2
        assert part in capsys.readouterr().err
