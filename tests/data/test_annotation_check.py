"""``crispmask data check``: all faults at once, and a file without them."""

import json
import shutil

import own_data
import pytest
from own_data import annotations
from test_own_data import UNDERSTOOD, WRONG, every, image, row

from crispmask.cli import main
from crispmask.data.annotation_check import check_annotation_file
from crispmask.data.coco import read_coco
from crispmask.evaluation import evaluate

NO_LISTS = {"neg_category_ids": [], "not_exhaustive_category_ids": []}


@pytest.fixture
def folder(tmp_path):
    own_data.write_images(tmp_path / "images")
    return tmp_path


def written(folder, *spoils):
    data = annotations()
    for spoil in spoils:
        spoil(data)
    file = folder / "annotations.json"
    file.write_text(json.dumps(data))
    return str(file)


def test_summary(folder, capsys):
    file = written(folder, row(iscrowd=1), lambda data: data["annotations"].pop())
    assert main(["data", "check", file, "--images", str(folder / "images")]) == 0
    printed = capsys.readouterr().out
    for line in ("3, 0 without annotations", "5, 1 of them crowd regions", "0 small, 4 medium, 0 large"):
        assert line in printed
    assert "99" in printed and "lid" in printed and "all there" in printed


def test_all_faults_are_named_at_once(folder, capsys):
    spoils = (
        row(category_id=6),
        lambda data: data["annotations"][3].update(segmentation=[[1, 1, 1e9, 5, 5, 5]]),
        lambda data: data["annotations"][4]["segmentation"].append([1, 2]),
        image(file_name="gone.jpg"),
    )
    file = written(folder, *spoils)
    assert main(["data", "check", file, "--images", str(folder / "images")]) == 2
    printed = capsys.readouterr()
    for part in ("Annotation 1 (id 2) has category_id 6", "Annotation 3 (id 4) has a polygon", "gone.jpg"):
        assert part in printed.out
    assert "3, of which 2 can be used" in printed.out and "6, of which 2 can be used" in printed.out
    assert "cannot be used as it is, for 3 faults" in printed.err


@pytest.mark.parametrize("spoil", UNDERSTOOD)
def test_what_is_understood_has_no_faults(folder, spoil):
    shutil.copy(folder / "images/more/im 3.jpg", folder / "images/im 3.jpg")
    found = check_annotation_file(written(folder, spoil), str(folder / "images"))
    assert found.errors == [] and found.images.sentences("") == []
    assert len(found.content["annotations"]) == 6


@pytest.mark.parametrize(("spoil", "sentence"), [(s, t) for s, t in WRONG if "nothing to train" not in t])
def test_fixed_file_can_be_used(folder, spoil, sentence, capsys):
    file, fixed = written(folder, spoil), folder / "fixed.json"
    code = main(["data", "check", file, "--images", str(folder / "images"), "--fix", str(fixed)])
    if "no 'images'" in sentence or "same id" in sentence:
        assert code == 2 and not fixed.exists()
        return
    assert code == 0
    assert main(["data", "check", str(fixed), "--images", str(folder / "images")]) == 0
    images = read_coco(str(fixed), str(folder / "images"))
    assert 0 < sum(len(d["annotations"]) for d in images.dicts) <= 6
    if "mask" not in sentence:
        assert evaluate(fixed, [], iou_type="segm")["AP"] == 0


def test_fixed_file_has_what_other_tools_need(folder):
    keys = ("id", "bbox", "area", "iscrowd")
    file = written(folder, lambda data: [a.pop(key) for a in data["annotations"] for key in keys])
    fixed = folder / "fixed.json"
    assert main(["data", "check", file, "--images", str(folder / "images"), "--fix", str(fixed)]) == 0
    rows, right = json.loads(fixed.read_text())["annotations"], annotations()["annotations"]
    assert [r["id"] for r in rows] == [1, 2, 3, 4, 5, 6]
    assert [{k: r[k] for k in ("bbox", "area", "iscrowd", "segmentation")} for r in rows] == [
        {k: r[k] for k in ("bbox", "area", "iscrowd", "segmentation")} for r in right
    ]


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (every(ignore=1), ("marked with ignore, left out of training: 6", "nothing to train on")),
        (
            every(bbox=[500, 500, 9, 9]),
            ("outside of their image, left out of training: 6", "nothing to train"),
        ),
        (every(iscrowd=1), ("nothing to train on: all its 6 annotations are crowd regions",)),
        (every(segmentation=[]), ("none of the 6 objects has a mask",)),
    ],
)
def test_what_stops_a_training_alone_is_told(folder, capsys, spoil, parts):
    assert main(["data", "check", written(folder, spoil)]) == 0
    printed = capsys.readouterr().out
    assert all(part in printed for part in ("for training:", *parts))


def test_images_of_lvis_are_found_where_its_loader_finds_them(folder):
    def spoil(data):
        for entry in data["images"]:
            entry.update(coco_url=f"http://images.org/more/{entry['file_name'].split('/')[-1]}", **NO_LISTS)
            entry["file_name"] = "COCO_val2014.jpg"

    for name in ("1.jpg", "2.png"):
        shutil.copy(folder / "images" / name, folder / "images/more" / name)
    found = check_annotation_file(written(folder, spoil), str(folder / "images"))
    assert found.images.paths == set()
    assert found.content["images"][0]["file_name"] == "more/1.jpg"
    no_address = written(folder, lambda data: data["images"][0].update(coco_url=7, **NO_LISTS))
    assert check_annotation_file(no_address, str(folder / "images")).images.paths == set()


def test_what_an_evaluation_by_the_rules_of_lvis_refuses_is_named_and_left_out(folder):
    def spoil(data):
        for entry in data["images"]:
            entry.update(NO_LISTS)
        del data["images"][0]["neg_category_ids"]
        data["images"][1]["not_exhaustive_category_ids"] = ["7"]
        data["categories"][0]["frequency"] = "often"

    found = check_annotation_file(written(folder, spoil))
    for part in ("no neg_category_ids", "has not_exhaustive_category_ids ['7']", "has frequency 'often'"):
        assert sum(part in error for error in found.errors) == 1, part
    assert len(found.errors) == 3 and len(found.content["images"]) == 1
    (folder / "fixed.json").write_text(json.dumps(found.content))
    assert not check_annotation_file(folder / "fixed.json").errors


def test_file_that_is_none(tmp_path, capsys):
    for content in ("", "[]", "{}", '{"images": 3}', '{"images": [], "categories": [], "annotations": [1]}'):
        (tmp_path / "file.json").write_text(content)
        assert main(["data", "check", str(tmp_path / "file.json")]) == 2
        message = capsys.readouterr().err
        assert "file.json" in message and "Traceback" not in message
    assert main(["data", "check", str(tmp_path / "none.json")]) == 2
