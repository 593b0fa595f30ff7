"""Cityscapes' rules: against a plain restatement on whole images, and in small cases counted by hand."""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crispmask.evaluation import evaluate
from crispmask.evaluation.cityscapes.truth import find_instance_files
from crispmask.evaluation.masks.boundary_iou import boundary_width
from crispmask.ops import mask_boundary
from crispmask.testing import write_cityscapes
from tests.data.image_files import png_start

NAMES = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
VOID = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
CAR, BUS = 26, 28
IMAGE = "aachen_000000_000019"


def naive_class_ap(images, label_id, threshold, ratio):
    """AP of a class and threshold. ``images``: pairs of an id map and (label id, score, mask) of each row."""
    kept, missed, wanted_at_all, predicted_at_all = [], 0, False, False
    for ids, predictions in images:
        mine = [(score, mask) for label, score, mask in predictions if label == label_id and mask.any()]
        predicted_at_all |= bool(mine)
        numbers = [n for n in np.unique(ids).tolist() if (n if n < 1000 else n // 1000) == label_id]
        hits = {number: [] for number in numbers}
        for score, mask in mine:
            overlapping = {n: overlap(mask, ids == n, ratio) for n in numbers}
            overlapping = {n: value for n, value in overlapping.items() if value is not None}
            for number in (n for n, value in overlapping.items() if value > threshold):
                hits[number].append(score)
            if max(overlapping.values(), default=0) > threshold:
                continue
            forgiven = int((mask & np.isin(ids, VOID)).sum())
            for number in overlapping:
                shared = int((mask & (ids == number)).sum())
                forgiven += shared * ((number < 1000) + int((ids == number).sum() < 100))
            if forgiven / int(mask.sum()) <= threshold:
                kept.append((score, 0))
        for number in numbers:
            if number < 1000 or (ids == number).sum() < 100:
                continue
            wanted_at_all = True
            scores = sorted(hits[number])
            missed += not scores
            kept += [(score, int(i == len(scores) - 1)) for i, score in enumerate(scores)]
    if not (wanted_at_all and predicted_at_all):
        return 0.0 if wanted_at_all else np.nan
    right_in_all = sum(right for _, right in kept)
    points = []
    for cut in sorted({score for score, _ in kept}):
        right = sum(r for score, r in kept if score >= cut)
        points.append(
            (right / sum(score >= cut for score, _ in kept), right / (right_in_all + missed)),
        )
    precision, recall = zip(*points, (1.0, 0.0), strict=True)
    padded = [recall[0], *recall, 0.0]
    return sum(p * (padded[i] - padded[i + 2]) / 2 for i, p in enumerate(precision))


def overlap(mask, truth, ratio):
    """IoU of two masks, or the smaller of it and Boundary IoU; None if they do not touch."""
    pairs = [(mask, truth)]
    if ratio is not None:
        width = boundary_width(*mask.shape, ratio)
        pairs.append(tuple(mask_boundary(torch.from_numpy(m), width).numpy() for m in (mask, truth)))
    if not all((a & b).any() for a, b in pairs):
        return None
    return min((a & b).sum() / (a | b).sum() for a, b in pairs)


def read_images(folder, rows):
    for name, path in find_instance_files(folder).items():
        of_image = [row for row in rows if row["image"] == name]
        masks = [mask_utils.decode(row["segmentation"]).astype(bool) for row in of_image]
        yield (
            np.asarray(Image.open(path)),
            [(r["label_id"], r["score"], mask) for r, mask in zip(of_image, masks, strict=True)],
        )


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_a_plain_restatement(tmp_path, seed):
    rows = write_cityscapes(tmp_path, images=3, height=120, width=200, objects=14, detections=30, seed=seed)
    images = list(read_images(tmp_path / "gtFine" / "val", rows))
    for ratio in (None, 0.005, 0.03):
        figures = evaluate(tmp_path / "gtFine", rows, "cityscapes", "boundary" if ratio else "mask", ratio)
        table = np.array(
            [[naive_class_ap(images, k, t, ratio) for t in np.arange(0.5, 1.0, 0.05)] for k in NAMES]
        )
        assert 0.5 < figures["AP"] < 95
        assert figures["AP"] == pytest.approx(100 * np.nanmean(table), rel=1e-12)
        assert figures["AP50"] == pytest.approx(100 * np.nanmean(table[:, 0]), rel=1e-12)
        for name, row in zip(NAMES.values(), table, strict=True):
            assert figures[f"AP/{name}"] == pytest.approx(100 * row.mean(), rel=1e-12, nan_ok=True)


# ---- by hand: one image of 100 x 200 pixels


def rectangle(x0, y0, x1, y1):
    mask = np.zeros((100, 200), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def prediction(mask, score, label_id=CAR):
    rle = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    rle = {"size": rle["size"], "counts": rle["counts"].decode()}
    return {"image": IMAGE, "label_id": label_id, "score": score, "segmentation": rle}


@pytest.fixture
def city(tmp_path):
    """A function that writes an id map, painted in order, and gives the AP of cars and the other figures."""

    def write_and_evaluate(painted, rows, iou_type="mask", ratio=None):
        ids = np.full((100, 200), 7, np.uint16)
        for value, mask in painted:
            ids[mask] = value
        folder = tmp_path / "gtFine" / "val" / "aachen"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids).save(folder / f"{IMAGE}_gtFine_instanceIds.png")
        return evaluate(tmp_path / "gtFine" / "val", rows, "cityscapes", iou_type, ratio)

    return write_and_evaluate


OBJECT = rectangle(10, 10, 40, 40)
ELSEWHERE = rectangle(120, 10, 150, 40)


def test_of_two_predictions_of_an_object_the_better_scored_counts(city):
    """The other is wrong, also if it fits better; at a lower score it costs nothing."""
    loose = rectangle(10, 10, 40, 34)  # IoU 0.8: enough for thresholds 0.5 to 0.75
    tight_first = city([(26000, OBJECT)], [prediction(OBJECT, 0.9), prediction(loose, 0.5)])
    assert tight_first["AP"] == tight_first["AP/car"] == tight_first["AP50"] == 100
    loose_first = city([(26000, OBJECT)], [prediction(OBJECT, 0.5), prediction(loose, 0.9)])
    assert loose_first["AP50"] == 100
    # At and beyond 0.8 the loose one is wrong: precision 1/2 at recall 1, then 0: two steps of half.
    assert loose_first["AP"] == pytest.approx((6 * 100 + 4 * 25) / 10)


def test_a_prediction_that_finds_nothing_is_wrong(city):
    figures = city([(26000, OBJECT)], [prediction(OBJECT, 0.5), prediction(ELSEWHERE, 0.9)])
    assert figures["AP"] == 25
    assert city([(26000, OBJECT)], [prediction(ELSEWHERE, 0.9)])["AP"] == 0


@pytest.mark.parametrize(
    ("value", "costs"),
    [
        (CAR, False),  # a group of the class
        (BUS, True),  # a group of another class
        (4, False),  # static is void
        (29, False),  # and so is a group of caravans
        (29000, True),  # but not a single caravan
        (7, True),  # road is not
    ],
)
def test_what_forgives_a_prediction_that_finds_nothing(city, value, costs):
    """Half inside OBJECT's neighbour: no threshold finds it, more than half of it lies there."""
    region = rectangle(100, 0, 200, 100)
    stray = rectangle(120, 10, 150, 40)
    rows = [prediction(OBJECT, 0.5), prediction(stray, 0.9)]
    assert city([(26000, OBJECT), (value, region)], rows)["AP"] == (25 if costs else 100)


def test_forgiveness_needs_a_share_above_the_threshold(city):
    """60% on void: forgiven at 0.5 and 0.55, wrong from 0.6 on."""
    stray = rectangle(100, 10, 150, 40)
    figures = city(
        [(26000, OBJECT), (4, rectangle(100, 0, 130, 100))], [prediction(OBJECT, 0.5), prediction(stray, 0.9)]
    )
    assert figures["AP"] == pytest.approx((2 * 100 + 8 * 25) / 10)


def test_a_prediction_that_finds_a_group_counts_as_nothing(city):
    group = rectangle(100, 10, 150, 40)
    figures = city([(26000, OBJECT), (CAR, group)], [prediction(OBJECT, 0.5), prediction(group, 0.9)])
    assert figures["AP"] == 100


def test_small_objects_need_not_be_found(city):
    small, enough = rectangle(100, 50, 109, 61), rectangle(100, 50, 110, 60)  # 99 and 100 pixels
    assert city([(26000, OBJECT), (26001, small)], [prediction(OBJECT, 0.5)])["AP"] == 100
    assert city([(26000, OBJECT), (26001, enough)], [prediction(OBJECT, 0.5)])["AP"] == 50
    found = [prediction(OBJECT, 0.5), prediction(small, 0.9)]
    assert city([(26000, OBJECT), (26001, small)], found)["AP"] == 100
    assert np.isnan(city([(26001, small)], found)["AP"])


def test_pixels_of_a_small_group_forgive_twice(city):
    """A third of the prediction lies on a group of 90 pixels: 2/3 forgive it at 0.5, 0.55, 0.6 and 0.65."""
    stray = rectangle(100, 10, 127, 20)
    figures = city(
        [(26000, OBJECT), (CAR, rectangle(100, 10, 109, 20))],
        [prediction(OBJECT, 0.5), prediction(stray, 0.9)],
    )
    assert figures["AP"] == pytest.approx((4 * 100 + 6 * 25) / 10)


def test_by_boundary_the_interior_of_a_group_forgives_nothing(city):
    group, inside = rectangle(80, 0, 200, 100), rectangle(120, 30, 160, 70)
    painted, rows = [(26000, OBJECT), (CAR, group)], [prediction(OBJECT, 0.5), prediction(inside, 0.9)]
    assert city(painted, rows)["AP"] == 100
    assert city(painted, rows, "boundary", 0.005)["AP"] == 25
    # Void has no boundary: it forgives as before.
    painted[1] = (4, group)
    assert city(painted, rows, "boundary", 0.005)["AP"] == 100


def test_boundary_sees_what_the_mask_overlooks(city):
    object_, shifted = rectangle(10, 10, 90, 90), rectangle(12, 10, 92, 90)
    mask = city([(26000, object_)], [prediction(shifted, 0.9)])
    boundary = city([(26000, object_)], [prediction(shifted, 0.9)], "boundary", 0.005)
    assert mask["AP"] == 100 > boundary["AP"] == boundary["coco/AP"]


def test_images_without_predictions_count(city):
    figures = city([(26000, OBJECT), (28000, ELSEWHERE)], [prediction(OBJECT, 0.5)])
    assert (figures["AP"], figures["AP/car"], figures["AP/bus"]) == (50, 100, 0)
    assert np.isnan(figures["AP/train"])
    assert city([(26000, OBJECT)], [])["AP"] == 0
    assert np.isnan(city([], [prediction(OBJECT, 0.5)])["AP"])


def test_predictions_that_are_all_forgiven_give_zero(city):
    painted = [(26000, OBJECT), (4, rectangle(100, 0, 200, 100))]
    assert city(painted, [prediction(ELSEWHERE, 0.9)])["AP"] == 0


def test_empty_masks_and_other_labels_are_left_out(city):
    rows = [prediction(OBJECT, 0.5), prediction(OBJECT & False, 0.9), prediction(ELSEWHERE, 0.9, label_id=29)]
    assert city([(26000, OBJECT)], rows)["AP"] == 100


def test_coco_figures_treat_groups_as_crowd(city):
    group = rectangle(100, 10, 190, 90)
    rows = [prediction(OBJECT, 0.5), prediction(rectangle(120, 20, 150, 50), 0.9)]
    figures = city([(26000, OBJECT), (CAR, group)], rows)
    # pycocotools adds an epsilon to the denominator of precision.
    assert figures["coco/AP"] == pytest.approx(100) == figures["coco/APs"]
    assert np.isnan(figures["coco/APl"])


# ---- bad input


@pytest.fixture(scope="module")
def golden():
    """Folder and rows of the golden files."""
    folder = Path(__file__).parents[1] / "golden" / "boundary_cityscapes"
    return folder / "gt", json.loads((folder / "predictions.json").read_text())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image": "bonn_000000_000019"},
            "Prediction 1 has image 'bonn_000000_000019'.*'aachen_000000_000019'",
        ),
        ({"image": None}, "Prediction 1 has image None"),
        ({"image": []}, r"Prediction 1 has image \[\]"),
        ({"label_id": 99}, "Prediction 1 has label_id 99: .* 24, 25, 26"),
        ({"label_id": "car"}, "Prediction 1 has label_id 'car'"),
        ({"label_id": True}, "Prediction 1 has label_id True"),
        ({"score": float("nan")}, "Prediction 1 has score nan"),
        ({"score": "high"}, "Prediction 1 has score 'high'"),
        ({"segmentation": None}, "Prediction 1 "),
        ({"segmentation": {"size": [200, 100], "counts": "Pde4"}}, r"size \[200, 100\], not \[100, 200\]"),
        ({"segmentation": {"size": [100, 200], "counts": "P"}}, "prediction 1 .*cut short"),
    ],
)
def test_a_wrong_row_is_named(city, changes, message):
    rows = [prediction(OBJECT, 0.5), {**prediction(OBJECT, 0.9), **changes}]
    with pytest.raises(ValueError, match=message):
        city([(26000, OBJECT)], rows)


# What JSON can hold, in any place
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150)
@given(data=st.data())
def test_anything_in_a_row_is_refused_or_evaluated(golden, data):
    rows = [dict(row) for row in golden[1][:3]]
    row = data.draw(st.sampled_from(rows))
    key = data.draw(st.sampled_from([*row, "size", "counts"]))
    if key in row:
        row[key] = data.draw(JSON)
    else:
        row["segmentation"] = {**row["segmentation"], key: data.draw(JSON)}
    try:
        figures = evaluate(golden[0], rows, "cityscapes", data.draw(st.sampled_from(["mask", "boundary"])))
    except ValueError as error:
        assert "rediction" in str(error) and len(str(error)) < 400
    else:
        assert 0 <= figures["AP"] <= 100


def test_predictions_that_are_no_rows(city, tmp_path):
    with pytest.raises(ValueError, match="Entry 1 of the predictions is not a dict"):
        city([(26000, OBJECT)], [prediction(OBJECT, 0.5), "car"])
    with pytest.raises(ValueError, match="list"):
        city([(26000, OBJECT)], {"image": IMAGE})
    of_coco = {"image_id": 1, "category_id": 3, "score": 0.5, "segmentation": [[1, 1, 9, 1, 9, 9]]}
    with pytest.raises(
        ValueError, match="Prediction 0 has no image: results of Cityscapes have image, label_id"
    ):
        city([(26000, OBJECT)], [of_coco])
    with pytest.raises(ValueError, match="No predictions file"):
        city([(26000, OBJECT)], tmp_path / "nowhere.json")
    path = tmp_path / "cut.json"
    path.write_text(json.dumps([prediction(OBJECT, 0.5)])[:-20])
    with pytest.raises(ValueError, match=r"cut\.json"):
        city([(26000, OBJECT)], path)
    path.write_text(json.dumps([prediction(OBJECT, 0.5)]))
    assert city([(26000, OBJECT)], path)["AP"] == 100


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((10, 10, 3), np.uint8),
        np.full((10, 10), 34, np.uint16),
        np.full((10, 10), 34000, np.uint16),
        np.full((10, 10), 65535, np.uint16),
        np.zeros((10, 10), bool),
    ],
)
def test_a_file_that_holds_no_instance_ids_is_named(tmp_path, pixels):
    (tmp_path / "aachen").mkdir()
    Image.fromarray(pixels).save(tmp_path / "aachen" / f"{IMAGE}_gtFine_instanceIds.png")
    with pytest.raises(ValueError, match=f"{IMAGE}_gtFine_instanceIds.png' is no instanceIds image"):
        evaluate(tmp_path, [], "cityscapes")


@pytest.mark.parametrize("keep", [0, 20, 60, 0.9])
def test_a_broken_image_is_named(city, tmp_path, keep):
    city([(26000, OBJECT)], [])
    path = next(tmp_path.rglob("*.png"))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=f"{path.name}' cannot be read"):
        evaluate(tmp_path / "gtFine", [], "cityscapes")


@pytest.mark.parametrize("header", [png_start(30_000, 30_000), png_start(8, 8, keep=9)])
def test_a_bad_header_is_named(city, tmp_path, header):
    city([(26000, OBJECT)], [])
    path = next(tmp_path.rglob("*.png"))
    path.write_bytes(header)
    with pytest.raises(ValueError, match=rf"{path.name}' cannot be read: .*\.$"):
        evaluate(tmp_path / "gtFine", [], "cityscapes")


def test_a_folder_without_ground_truth_says_what_is_needed(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="give the folder of a split, as gtFine/val"):
            evaluate(folder, [], "cityscapes")
    with pytest.raises(ValueError, match="supported: segm, boundary"):
        evaluate(tmp_path, [], "cityscapes", "bbox")


def test_an_image_in_two_cities_is_refused(tmp_path):
    for city in ("aachen", "bonn"):
        (tmp_path / city).mkdir()
        Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / city / f"{IMAGE}_gtFine_instanceIds.png")
    with pytest.raises(ValueError, match=f"{IMAGE}_gtFine_instanceIds.png' twice"):
        evaluate(tmp_path, [], "cityscapes")
