"""BDD100K's two figures: of raw predictions, and of painted ones that share no pixel."""

import json
import math

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crispmask.evaluation import evaluate
from crispmask.evaluation.bdd100k.protocol import paint
from crispmask.evaluation.formats.coco import read_ground_truth, read_predictions

SIZE = (60, 80)
# pycocotools adds an epsilon to the denominator of precision.
FULL, HALF = pytest.approx(100), pytest.approx(50, abs=0.5)
CAR, BUS = 3, 5
LEFT, RIGHT = (5, 5, 35, 45), (45, 5, 75, 45)


def box_mask(x0, y0, x1, y1):
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def encode(mask):
    rle = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def guesses(*changes):
    """A frame of predictions of the left car, with changes."""
    label = {"category": "car", "score": 0.9, "rle": encode(box_mask(*LEFT))}
    return [{"name": "one.jpg", "labels": [{**label, **change} for change in changes]}]


def prediction(box, score, category=CAR, image_id=1):
    mask = box_mask(*box) if isinstance(box, tuple) else box
    return {"image_id": image_id, "category_id": category, "score": score, "segmentation": encode(mask)}


@pytest.fixture
def labels(tmp_path):
    """A folder of one bitmask, with a car on each side."""
    pixels = np.zeros((*SIZE, 4), np.uint8)
    for number, (x0, y0, x1, y1) in enumerate((LEFT, RIGHT), 1):
        pixels[y0:y1, x0:x1] = CAR, 0, 0, number
    folder = tmp_path / "bitmasks"
    folder.mkdir()
    Image.fromarray(pixels).save(folder / "one.png")
    return folder


def test_both_figures_are_given(labels):
    figures = evaluate(labels, [prediction(LEFT, 0.9), prediction(RIGHT, 0.8)], "bdd100k")
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    assert [name for name in figures if "AP/" not in name] == [*names, *(f"nonoverlap/{n}" for n in names)]
    assert figures["AP"] == figures["nonoverlap/AP"] == figures["nonoverlap/AP/car"] == FULL
    assert np.isnan(figures["AP/train"]) and np.isnan(figures["nonoverlap/AP/train"])


def test_painting_hides_what_lies_under_a_better_score(labels):
    """A sure but wrong prediction of another class covers the left car."""
    rows = [prediction(LEFT, 0.8), prediction(RIGHT, 0.7), prediction((0, 0, 40, 60), 0.9, BUS)]
    for iou_type in ("mask", "boundary"):
        figures = evaluate(labels, rows, "bdd100k", iou_type)
        assert (figures["AP/car"], figures["nonoverlap/AP/car"]) == (FULL, HALF)
    rows[2]["score"] = 0.1
    figures = evaluate(labels, rows, "bdd100k")
    assert (figures["AP/car"], figures["nonoverlap/AP/car"]) == (FULL, FULL)


def test_a_duplicate_that_is_hidden_is_no_false_alarm(labels):
    """Second predictions of both cars, by themselves false alarms before the right car is found."""
    rows = [prediction(LEFT, 0.9), prediction(LEFT, 0.8), prediction(RIGHT, 0.7)]
    figures = evaluate(labels, rows, "bdd100k", "mask")
    assert figures["AP"] < 90 and figures["nonoverlap/AP"] == FULL


def test_boxes_have_one_figure(labels):
    figures = evaluate(labels, [prediction(LEFT, 0.9)], "bdd100k", "bbox")
    assert figures["AP"] == HALF and not any(name.startswith("nonoverlap") for name in figures)


def test_every_form_of_labels_and_predictions_gives_the_same(labels, tmp_path):
    rows = [prediction(LEFT, 0.9), prediction((40, 5, 75, 45), 0.8)]
    masks = [box_mask(*LEFT), box_mask(*RIGHT)]
    size = {"height": SIZE[0], "width": SIZE[1]}
    truth = [{"category": "car", "rle": encode(mask)} for mask in masks]
    guesses = [{"category": "van", "score": r["score"], "rle": r["segmentation"]} for r in rows]
    frames = [{"name": "one.jpg", "size": size, "labels": truth}]
    as_frames = [{"name": "one.jpg", "labels": guesses}]
    coco = {
        "images": [{"id": 1, "file_name": "one.jpg", **size}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": CAR, "segmentation": encode(m)}
            for i, m in enumerate(masks, 1)
        ],
        "categories": [{"id": CAR, "name": "car"}],
    }
    path = tmp_path / "frames.json"
    path.write_text(json.dumps({"frames": as_frames}))
    figures = evaluate(labels, rows, "bdd100k")
    assert 51 < figures["AP"] < 95
    for gt in (labels, frames, coco):
        for predictions in (rows, as_frames, path):
            again = evaluate(gt, predictions, "bdd100k")
            assert {name: again[name] for name in ("AP", "nonoverlap/AP", "AP/car")} == {
                name: figures[name] for name in ("AP", "nonoverlap/AP", "AP/car")
            }


def test_ratio_is_cocos_unless_given(labels):
    rows = [prediction((5, 5, 33, 45), 0.9), prediction((45, 5, 75, 43), 0.8)]
    assert evaluate(labels, rows, "bdd100k") == pytest.approx(
        evaluate(labels, rows, "bdd100k", dilation_ratio=0.02), nan_ok=True
    )
    assert (
        evaluate(labels, rows, "bdd100k", dilation_ratio=0.3)["AP"] > evaluate(labels, rows, "bdd100k")["AP"]
    )


def test_no_predictions(labels):
    figures = evaluate(labels, [], "bdd100k")
    assert figures["AP"] == figures["nonoverlap/AP"] == 0


@st.composite
def overlapping(draw):
    """Rows of two images, with equal scores among them, and their masks."""
    rows = []
    for _ in range(draw(st.integers(0, 8))):
        x0, x1 = sorted(draw(st.tuples(st.integers(0, 80), st.integers(0, 80))))
        y0, y1 = sorted(draw(st.tuples(st.integers(0, 60), st.integers(0, 60))))
        score = draw(st.sampled_from([0.1, 0.5, 0.9]))
        rows.append((draw(st.integers(1, 2)), score, box_mask(x0, y0, x1, y1)))
    return rows


@settings(max_examples=100)
@given(overlapping())
def test_every_pixel_belongs_to_the_best_score(drawn):
    images = [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in (1, 2)]
    truth = read_ground_truth(
        {"images": images, "annotations": [], "categories": [{"id": CAR, "name": "car"}]}
    )
    rows = read_predictions([prediction(m, score, image_id=i) for i, score, m in drawn], truth)
    painted = paint(rows, truth)
    expected = {}
    for image_id in (1, 2):
        owner = np.full(SIZE, -1)
        for place, (i, score, mask) in enumerate(drawn):
            for y, x in np.argwhere(mask) if i == image_id else ():
                if owner[y, x] < 0 or score > drawn[owner[y, x]][1]:
                    owner[y, x] = place
        expected |= {place: owner == place for place in np.unique(owner).tolist() if place >= 0}
    assert [row["index"] for row in painted] == sorted(expected)
    for row in painted:
        assert np.array_equal(mask_utils.decode(row["segmentation"]), expected[row["index"]])
        assert row["score"] == drawn[row["index"]][1]


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([{"name": "two.jpg", "labels": []}], r"Frame 'two\.jpg' of the predictions: .* no such image"),
        (guesses({"category": "lamp"}), r"Label 0 of frame 'one\.jpg' has category 'lamp'"),
        (
            guesses({"category": "trailer"}),
            r"Label 0 of frame 'one\.jpg' .* 'trailer', which is not predicted",
        ),
        ([{"name": "one.jpg", "labels": [{"category": "car"}]}], "None of the 1 labels has an rle"),
        (
            guesses({}, {"rle": None, "poly2d": [{}]}),
            r"Label 1 of frame 'one\.jpg' has no rle, but poly2d",
        ),
        (
            [{"name": "one.jpg", "labels": [{"category": "car", "rle": encode(box_mask(*LEFT))}]}],
            r"Label 0 of frame 'one\.jpg' has score None",
        ),
        ([prediction(LEFT, 0.9, category=9)], "Prediction 0 has category_id 9"),
        ([prediction(LEFT, 0.9), prediction(LEFT, 0.9, image_id=2)], "Prediction 1 has image_id 2"),
        ([{**prediction(LEFT, 0.9), "segmentation": {"size": [2, 2], "counts": "4"}}], r"size \[2, 2\]"),
        ([{"labels": []}, {"name": "one.jpg"}], "Frame 0 has name None, .* needs its own"),
        (guesses({}, {"score": math.inf}), r"^Label 1 of frame 'one\.jpg' has score inf"),
        (guesses({}, {"rle": {"size": [2, 2], "counts": "4"}}), r"^Label 1 of frame 'one\.jpg' has size"),
        (
            guesses({}, {"rle": {"size": list(SIZE), "counts": "P"}}),
            r"^The mask of label 1 of frame 'one\.jpg'",
        ),
        (
            guesses({}, {"rle": {"size": list(SIZE), "counts": 7}}),
            r"^Label 1 of frame 'one\.jpg' has counts 7",
        ),
    ],
)
def test_a_wrong_prediction_is_named(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        evaluate(labels, predictions, "bdd100k")


def coco_file(*names, first_id=1):
    """One image of a car, on the left, in COCO's format; the categories have these names."""
    ids = {name: number for number, name in enumerate(names, first_id)}
    return {
        "images": [{"id": 7, "file_name": "val/one.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": ids["car"], "segmentation": encode(box_mask(*LEFT))}
        ],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("car", "toaster"), "category 'toaster', which is no class of BDD100K .*protocol coco"),
        (("car", "trailer"), "category 'trailer', which is no class of BDD100K"),
        (("car", "van"), "two categories of BDD100K's class 'car'"),
    ],
)
def test_other_data_sets_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        evaluate(coco_file(*names), [], "bdd100k")


def test_classes_may_have_old_names_and_be_some_of_the_eight():
    gt = coco_file("person", "car")
    rows = [prediction(LEFT, 0.9, category=2, image_id=7)]
    assert evaluate(gt, rows, "bdd100k")["AP/car"] == FULL


def test_frames_follow_the_ids_of_the_file():
    """Counted from 0, as some converters do: a car has the id that BDD100K gives to riders."""
    gt = coco_file("pedestrian", "rider", "car", first_id=0)
    assert evaluate(gt, guesses({}), "bdd100k")["AP/car"] == FULL
    with pytest.raises(
        ValueError, match=r"Label 0 of frame 'one\.jpg' is a bus: the ground truth has no such"
    ):
        evaluate(gt, guesses({"category": "bus"}), "bdd100k")


def test_frames_do_not_tell_images_of_one_name_apart():
    gt = coco_file("car")
    gt["images"].append({**gt["images"][0], "id": 8, "file_name": "train/one.jpg"})
    with pytest.raises(ValueError, match=r"two images named 'one\.jpg'"):
        evaluate(gt, guesses({}), "bdd100k")
