"""Panoptic quality against a plain computation and another tool, and what is wrong in files."""

import json
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crispmask.cli import main
from crispmask.evaluation import evaluate
from crispmask.evaluation.masks.boundary_iou import boundary_width
from crispmask.evaluation.masks.label_maps import label_boundaries
from crispmask.evaluation.notes import collected_notes
from crispmask.evaluation.panoptic.protocol import evaluate_panoptic

SIZE = (60, 80)
CATEGORIES = [
    {"id": 1, "name": "cat", "isthing": 1},
    {"id": 2, "name": "dog", "isthing": 1},
    {"id": 7, "name": "sky", "isthing": 0},
    {"id": 9, "name": "sea", "isthing": 0},
]


def rectangles(rng, number):
    """(H, W) ids: rectangles over each other, some of them above one byte, on void."""
    ids = np.zeros(SIZE, np.int64)
    for k in range(1, number + 1):
        y, x = (rng.integers(0, side - 10) for side in SIZE)
        h, w = (rng.integers(8, side // 2) for side in SIZE)
        ids[y : y + h, x : x + w] = k if k % 2 else 70_000 + k
    return ids


def segments(ids, categories):
    return [
        {"id": int(k), "category_id": categories[int(k)], "iscrowd": 0, "area": int((ids == k).sum())}
        for k in np.unique(ids)
        if k
    ]


def make_images(seed):
    """Ids and segments of the ground truth and the prediction of three images."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(3):
        truth = rectangles(rng, 6)
        found = np.roll(truth, rng.integers(-2, 3, 2), (0, 1))
        found[found == 0] = rng.choice([0, 5_000])
        categories = {int(k): int(rng.choice([1, 2, 7])) for k in np.unique([*truth.ravel(), 5_000])}
        own = segments(truth, categories)
        for segment in own:
            segment["iscrowd"] = int(segment["category_id"] < 3 and rng.random() < 0.3)
        rng.shuffle(own)
        others = {k: c if rng.random() < 0.9 else 1 for k, c in categories.items()}
        images.append((truth, own, found, segments(found, others)))
    return images


def write(folder, images):
    """The two JSON files, with folders beside them."""
    paths = []
    for name, place in (("gt", 0), ("pred", 2)):
        (folder / name).mkdir()
        annotations = []
        for number, image in enumerate(images, 1):
            ids, own = image[place : place + 2]
            colours = np.stack([ids % 256, ids // 256 % 256, ids // 256**2], axis=-1).astype(np.uint8)
            Image.fromarray(colours).save(folder / name / f"{number}.png")
            annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": own})
        paths.append(folder / f"{name}.json")
        sizes = [{"id": a["image_id"], "height": SIZE[0], "width": SIZE[1]} for a in annotations]
        content = {"images": sizes, "annotations": annotations, "categories": CATEGORIES}
        paths[-1].write_text(json.dumps(content))
    return paths


@pytest.fixture
def folder(tmp_path_factory):
    return lambda: tmp_path_factory.mktemp("panoptic")


def band(mask, width):
    """The boundary of a mask, by erosion of the whole image."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return mask & ~eroded.astype(bool)


def plain_quality(images, ratio=None):
    """Category id -> found, false, missed and sum of IoUs, one pair at a time."""
    counts = {}

    def count(category_id, place, value=1):
        counts.setdefault(category_id, [0, 0, 0, 0.0])[place] += value

    def iou(first, second, void):
        shared = (first & second).sum()
        return shared / ((first | second).sum() - (second & void).sum()) if shared else 0

    for truth, own, found, others in images:
        width = boundary_width(*truth.shape, ratio or 0.02)
        matched = set(), set()
        for a in own:
            for b in others:
                if a["iscrowd"] or a["category_id"] != b["category_id"]:
                    continue
                masks = truth == a["id"], found == b["id"]
                value = iou(*masks, truth == 0)
                if ratio:
                    value = min(value, iou(*(band(mask, width) for mask in masks), truth == 0))
                if value > 0.5:
                    count(a["category_id"], 0)
                    count(a["category_id"], 3, value)
                    matched[0].add(a["id"])
                    matched[1].add(b["id"])
        for a in own:
            if a["id"] not in matched[0] and not a["iscrowd"]:
                count(a["category_id"], 2)
        crowds = {a["category_id"]: a["id"] for a in own if a["iscrowd"]}
        for b in others:
            mask = found == b["id"]
            excused = np.isin(truth[mask], [0, crowds.get(b["category_id"], 0)]).mean()
            if b["id"] not in matched[1] and excused <= 0.5:
                count(b["category_id"], 1)
    return counts


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([0.01, 0.03, 0.2]))
def test_figures_are_those_of_a_plain_computation(tmp_path_factory, seed, ratio):
    images = make_images(seed)
    paths = write(tmp_path_factory.mktemp("panoptic"), images)
    ours = evaluate_panoptic(*paths, dilation_ratio=ratio)
    for task, figures in ours.items():
        counts = plain_quality(images, ratio if task == "boundary" else None)
        qualities = {}
        for category in CATEGORIES:
            found, false, missed, ious = counts.get(category["id"], (0, 0, 0, 0))
            weight = found + false / 2 + missed / 2
            if weight:
                qualities[category["name"]] = (ious / weight, ious / max(found, 1), found / weight)
            else:
                assert math.isnan(figures[f"PQ/{category['name']}"])
        groups = {"": qualities, "_th": qualities.keys() & {"cat", "dog"}}
        groups["_st"] = qualities.keys() & {"sky", "sea"}
        for place, name in enumerate(("PQ", "SQ", "RQ")):
            for category, values in qualities.items():
                assert figures[f"{name}/{category}"] == pytest.approx(100 * values[place], abs=1e-9)
            for suffix, members in groups.items():
                expected = 100 * np.mean([qualities[m][place] for m in members]) if members else math.nan
                assert figures[f"{name}{suffix}"] == pytest.approx(expected, abs=1e-9, nan_ok=True)


# PQ, SQ and RQ that the Boundary IoU tool (boundary-iou-api, 37d2558) gives for the images of a seed
OFFICIAL = {
    2: {
        "segm": (55.81407008843596, 87.66485425784802, 64.98316498316498),
        "boundary": (23.271034145181954, 61.638842318457506, 36.7003367003367),
    },
    5: {
        "segm": (64.07421555374931, 87.11588884201157, 73.80952380952381),
        "boundary": (36.49631225935842, 66.81724267642274, 54.76190476190476),
    },
}


@pytest.mark.parametrize("seed", OFFICIAL)
def test_figures_are_those_of_the_official_tool(tmp_path, seed):
    for task, figures in evaluate_panoptic(*write(tmp_path, make_images(seed))).items():
        # The official tool adds up in another order than some versions of NumPy
        found = [figures[name] for name in ("PQ", "SQ", "RQ")]
        assert found == pytest.approx(OFFICIAL[seed][task], rel=1e-14)


def test_mask_quality_is_that_of_another_tool(tmp_path):
    try:
        from vernier import panoptic
    except Exception as error:
        pytest.skip(f"vernier of the dev extra does not import: {error}")
    images = make_images(11)
    ours = evaluate_panoptic(*write(tmp_path, images), ("segm",))["segm"]
    sides = []
    for place in (0, 2):
        maps = {i: image[place].astype(np.uint32) for i, image in enumerate(images, 1)}
        own = {str(i): [{**s, "bbox": [0, 0, 1, 1]} for s in im[place + 1]] for i, im in enumerate(images, 1)}
        sides.append((maps, json.dumps(own).encode()))
    truth = panoptic.Dataset.from_arrays(*sides[0], json.dumps(CATEGORIES).encode())
    found = panoptic.Predictions.from_arrays(*sides[1])
    theirs = panoptic.Evaluator(parity_mode="strict").evaluate(truth, found)
    assert 10 < ours["PQ"] < 90
    assert [ours["PQ"], ours["SQ_th"], ours["RQ_st"]] == [
        100 * value for value in (theirs.pq, theirs.sq_things, theirs.rq_stuff)
    ]


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 32), st.integers(1, 40), st.integers(1, 40))
def test_boundaries_of_a_label_map_are_those_of_the_masks_of_its_labels(seed, width, height, columns):
    labels = np.random.default_rng(seed).integers(0, 3, (height // 6 + 1, columns // 6 + 1))
    labels = np.kron(labels, np.ones((6, 6), np.int64))[:height, :columns]
    expected = np.zeros(labels.shape, bool)
    for label in range(3):
        expected |= band(labels == label, width)
    assert np.array_equal(label_boundaries(labels, width), expected)


def test_a_shifted_segment_loses_in_boundaries_first(folder):
    truth = np.full(SIZE, 2)
    truth[10:50, 10:60] = 1
    found = np.full(SIZE, 2)
    found[11:51, 11:61] = 1
    own = segments(truth, {1: 1, 2: 7})
    paths = write(folder(), [(truth, own, found, segments(found, {1: 1, 2: 7}))])
    mask, boundary = (evaluate(*paths, "panoptic", kind, 0.05) for kind in ("mask", "boundary"))
    assert mask["PQ/cat"] == pytest.approx(100 * 39 * 49 / (2 * 40 * 50 - 39 * 49))
    assert boundary["SQ_th"] < 80 < mask["SQ_th"] and math.isnan(boundary["PQ/dog"])
    narrow = evaluate(*paths, "panoptic", "boundary", 0.001)
    assert narrow["PQ/cat"] == 0 < boundary["PQ/cat"]


def test_folders_and_objects_in_memory(folder, capsys):
    root = folder()
    paths = write(root, make_images(3))
    expected = evaluate(*paths, "panoptic")
    for name in ("gt", "pred"):
        (root / name).rename(root / f"{name} png")
    folders = {"gt_folder": root / "gt png", "pred_folder": root / "pred png"}
    loaded = [json.loads(path.read_text()) for path in paths]
    for sources in (paths, loaded):
        assert evaluate(*sources, "panoptic", **folders) == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    with pytest.raises(ValueError, match=r"no folder '.*gt' of the PNGs of the ground truth: give gt_folder"):
        evaluate(*paths, "panoptic")
    words = ["--gt-folder", str(root / "gt png"), "--pred-folder", str(root / "pred png"), "--per-class"]
    out = root / "figures.json"
    command = ["evaluate", *map(str, paths), "--protocol", "panoptic", *words, "--json", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "PQ_th" in printed and "boundary SQ" in printed and "sky" in printed
    assert json.loads(out.read_text())["results"]["boundary"]["PQ"] == expected["PQ"]


def test_any_number_of_processes_gives_the_same(folder):
    paths = write(folder(), make_images(4))
    one, two = (evaluate(*paths, "panoptic", workers=number) for number in (1, 2))
    assert one == pytest.approx(two, rel=0, abs=0, nan_ok=True)


def edited(change):
    """Evaluate files after a change to the prediction's annotations and the first image."""

    def run(root):
        images = make_images(5)
        paths = write(root, images)
        content = json.loads(paths[1].read_text())
        change(content, root / "pred" / "1.png")
        paths[1].write_text(json.dumps(content))
        return evaluate(*paths, "panoptic")

    return run


def other_pixels(array):
    return lambda content, path: Image.fromarray(array).save(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c, _: c["annotations"].pop(), "1 of 3 images .* have no prediction, image 3 for one"),
        (
            lambda c, _: c["annotations"].append(c["annotations"][0]),
            "Annotation 3 .* of image 1, which has",
        ),
        (
            lambda c, _: c["annotations"][0].pop("file_name"),
            "0 of the predictions has file_name None",
        ),
        (lambda c, _: c["annotations"][0].update(file_name="../gt/1.png"), "a PNG in its folder is needed"),
        (lambda c, _: c["annotations"][0]["segments_info"].pop(), r"1.png' has pixels of segment \d+, which"),
        (
            lambda c, _: c["annotations"][0]["segments_info"].append({"id": 99, "category_id": 1}),
            "1.png' has no pixel of segment 99",
        ),
        (
            lambda c, _: c["annotations"][0]["segments_info"][0].update(category_id=55),
            "Segment 0 of annotation 0 of the predictions has category_id 55",
        ),
        (lambda c, _: c["annotations"][0]["segments_info"][0].update(id=0), "has id 0: an integer from 1"),
        (lambda c, _: c.pop("annotations"), "has 'annotations': the predictions file has none"),
        (other_pixels(np.zeros((60, 80), np.uint8)), "1.png' holds no segments: .* not L"),
        (other_pixels(np.zeros((60, 81, 3), np.uint8)), r"1.png' has size \[60, 81\]"),
        (lambda _, path: path.unlink(), "There is no image file"),
    ],
)
def test_faults_are_named(folder, change, said):
    with pytest.raises(ValueError, match=said):
        edited(change)(folder())


def test_what_is_left_out_is_noted(folder):
    def change(content, path):
        content["annotations"].append({**content["annotations"][0], "image_id": 77})

    with collected_notes() as notes:
        edited(change)(folder())
    assert notes == ["predictions of images that the ground truth does not have, left out: 1, image 77"]
    paths = write(folder(), make_images(5))
    content = json.loads(paths[0].read_text())
    content["annotations"][0]["segments_info"][0]["area"] += 1
    removed = content["annotations"][1]["segments_info"].pop()
    paths[0].write_text(json.dumps(content))
    with collected_notes() as notes:
        evaluate(*paths, "panoptic")
    assert removed["id"] and [note.split(":")[0] for note in notes] == [
        "segments of the ground truth whose area is not that of their pixels, which count here",
        "images of the ground truth with pixels of a segment that their segments_info does not have",
    ]


@pytest.mark.parametrize("option", ["max_dets", "official", "class_agnostic", "scores", "ignore_label"])
def test_options_of_other_protocols_are_refused(option):
    with pytest.raises(ValueError, match=f"Protocol panoptic has no .*--{option.replace('_', '-')} out"):
        evaluate("gt.json", "pred.json", "panoptic", **{option: 1})
    with pytest.raises(ValueError, match="no boxes"):
        evaluate("gt.json", "pred.json", "panoptic", "bbox")
