"""BDD100K's labels: both forms give the same data set, and what is wrong with a file is said."""

import json

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crispmask.evaluation.bdd100k.truth import to_coco
from tests.data.image_files import png_start

SIZE = (40, 60)
CLASSES = ["pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
# Per object: category, flags (truncated, occluded, crowd, ignored), number, box x0, y0, x1, y1
IMAGES = {
    "b-2": [
        (3, 0b0000, 1, (2, 2, 20, 20)),
        (1, 0b0010, 2, (10, 10, 30, 30)),
        (4, 0b0001, 300, (40, 5, 55, 35)),
    ],
    "a-1": [(8, 0b1111, 65535, (0, 0, 60, 40))],
    "c-3": [],
}


def paint(objects):
    """(H, W, 4) bitmask; later objects cover earlier ones."""
    pixels = np.zeros((*SIZE, 4), np.uint8)
    for category, flags, number, (x0, y0, x1, y1) in objects:
        pixels[y0:y1, x0:x1] = category, flags, number >> 8, number & 255
    return pixels


def visible(objects):
    """Mask of what is left of each object."""
    ids = np.zeros(SIZE, int)
    for place, (*_, (x0, y0, x1, y1)) in enumerate(objects, 1):
        ids[y0:y1, x0:x1] = place
    return [ids == place for place in range(1, len(objects) + 1)]


def encode(mask):
    rle = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def frame(name, objects, **entries):
    labels = []
    for (category, flags, number, _), mask in zip(objects, visible(objects), strict=True):
        attributes = {key: bool(flags >> bit & 1) for bit, key in enumerate(("ignored", "crowd", "occluded"))}
        labels.append(
            {
                "id": str(number),
                "category": CLASSES[category - 1],
                "attributes": attributes,
                "rle": encode(mask),
            }
        )
    size = {"height": SIZE[0], "width": SIZE[1]}
    return {"name": f"{name}.jpg", "size": size, "labels": labels, **entries}


@pytest.fixture
def bitmasks(tmp_path):
    for name, objects in IMAGES.items():
        Image.fromarray(paint(objects)).save(tmp_path / f"{name}.png")
    return tmp_path


def test_bitmasks(bitmasks):
    content = to_coco(bitmasks)
    assert [(im["id"], im["file_name"]) for im in content["images"]] == [
        (1, "a-1.jpg"),
        (2, "b-2.jpg"),
        (3, "c-3.jpg"),
    ]
    assert all((im["height"], im["width"]) == SIZE for im in content["images"])
    assert content["categories"] == [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
    bicycle, car, crowd, ignored = content["annotations"]
    assert [a["id"] for a in content["annotations"]] == [1, 2, 3, 4]
    assert [a["image_id"] for a in content["annotations"]] == [1, 2, 2, 2]
    assert [a["category_id"] for a in content["annotations"]] == [8, 3, 1, 4]
    assert [a["iscrowd"] for a in content["annotations"]] == [1, 0, 1, 1]
    assert [(a["crowd"], a["ignored"]) for a in (car, crowd, ignored)] == [(0, 0), (1, 0), (0, 1)]
    assert (bicycle["area"], bicycle["bbox"]) == (2400, [0, 0, 60, 40])
    for annotation, mask in zip((car, crowd, ignored), visible(IMAGES["b-2"]), strict=True):
        assert np.array_equal(mask_utils.decode(annotation["segmentation"]), mask)
        assert annotation["area"] == mask.sum()
    assert car["bbox"] == [2, 2, 18, 18]


def test_run_lengths_give_the_same_data_set(bitmasks, tmp_path):
    frames = [frame(name, objects) for name, objects in IMAGES.items()]
    expected = to_coco(bitmasks)
    assert to_coco(frames) == expected
    for number, content in enumerate((frames, {"frames": frames, "config": None})):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(content))
        assert to_coco(path) == to_coco(str(path)) == expected


def test_size_of_a_frame_is_found_elsewhere():
    objects = IMAGES["b-2"]
    for frames, size in (
        ([frame("x", objects, size=None)], SIZE),
        (
            {
                "frames": [frame("x", objects, size=None)],
                "config": {"imageSize": {"height": 40, "width": 60}},
            },
            SIZE,
        ),
        ([frame("x", [], size=None)], (720, 1280)),
        ([{"name": "x.jpg"}], (720, 1280)),
    ):
        image = to_coco(frames)["images"][0]
        assert (image["height"], image["width"]) == size


@pytest.mark.parametrize(
    ("given", "category", "iscrowd"),
    [
        ("person", "pedestrian", 0),
        ("bike", "bicycle", 0),
        ("motor", "motorcycle", 0),
        ("caravan", "car", 0),
        ("van", "car", 0),
        ("train", "train", 0),
        ("other person", "pedestrian", 1),
        ("other vehicle", "car", 1),
        ("trailer", "truck", 1),
    ],
)
def test_old_names(given, category, iscrowd):
    one = frame("x", IMAGES["b-2"][:1])
    one["labels"][0] |= {"category": given, "attributes": None}
    (annotation,) = to_coco([one])["annotations"]
    assert (annotation["category_id"], annotation["iscrowd"]) == (CLASSES.index(category) + 1, iscrowd)


def test_what_is_in_cocos_format_stays(tmp_path):
    content = {"images": [], "annotations": [], "categories": []}
    assert to_coco(content) is content
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content))
    assert to_coco(path) == content


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), "must be an RGBA image"),
        (np.zeros((4, 4), np.uint8), "must be an RGBA image"),
        (np.full((4, 4, 4), 9, np.uint8), "category 9 is beyond 8"),
    ],
)
def test_an_image_that_is_no_bitmask_is_named(tmp_path, pixels, message):
    Image.fromarray(pixels).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=rf"x\.png' is no bitmask: .*{message}"):
        to_coco(tmp_path)


def test_a_broken_image_is_named(bitmasks):
    path = bitmasks / "b-2.png"
    for content in (path.read_bytes()[:60], png_start(30_000, 30_000), png_start(8, 8, keep=9)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"b-2\.png' cannot be read"):
            to_coco(bitmasks)


def test_a_folder_without_bitmasks(tmp_path):
    with pytest.raises(ValueError, match="No bitmask"):
        to_coco(tmp_path)
    with pytest.raises(ValueError, match="No ground truth file"):
        to_coco(tmp_path / "nowhere.json")


def broken(**entries):
    one = frame("x", IMAGES["b-2"][:2])
    one["labels"][1] |= entries
    return one


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([broken(category="traffic light")], r"Label 1 of frame 'x\.jpg' has category 'traffic light'"),
        ([broken(category=None)], r"Label 1 of frame 'x\.jpg' has category None"),
        ([frame("x", [], labels=[{"category": "car"}] * 2)], r"None of the 2 labels has an rle: give"),
        ([broken(rle=None, poly2d=[{}])], r"Label 1 of frame 'x\.jpg' has no rle, but poly2d: give"),
        ([broken(rle={"size": [40, 60], "counts": "P"})], r"mask of label 1 of frame 'x\.jpg' is cut short"),
        (
            [broken(rle={"size": [60, 40], "counts": "Pd4"})],
            r"Label 1 of frame 'x\.jpg' has size \[60, 40\]",
        ),
        ([broken(attributes={"crowd": "false"})], r"Label 1 of frame 'x\.jpg' has crowd 'false'"),
        ([broken(attributes="x")], r"Label 1 of frame 'x\.jpg' has attributes 'x'"),
        ([frame("x", []), frame("x", [])], "Frame 1 has name 'x.jpg', which is there twice"),
        ([{"name": "x.jpg"}, {"name": 3}], "Frame 1 has name 3"),
        ([{"labels": []}, {"name": "x.jpg"}], "Frame 0 has name None, .* needs its own"),
        ([{"url": "x"}, {"name": "x.jpg"}], "Frame 0 has name None, .* needs its own"),
        ({"frames": {"name": "x.jpg"}}, "The frames must be a list"),
        ([{"name": "x.jpg"}, 3], "Entry 1 of the frames is not a dict"),
        ([{"name": "x.jpg", "labels": [3]}], r"Entry 0 of the labels of frame 'x\.jpg' is not a dict"),
        ([{"name": "x.jpg", "labels": "many"}], r"The labels of frame 'x\.jpg' must be a list"),
        ([{"name": "x.jpg", "size": {"height": -1, "width": 3}}], r"Frame 'x\.jpg' has height -1"),
        ([{"name": "x.jpg", "size": [40, 60]}], r"Frame 'x\.jpg' has size \[40, 60\]: a dict with height"),
    ],
)
def test_a_wrong_label_is_named(frames, message):
    with pytest.raises(ValueError, match=message):
        to_coco(frames)


# What JSON can hold, in any place
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150)
@given(data=st.data())
def test_anything_in_a_frame_is_refused_or_read(data):
    one = frame("x", IMAGES["b-2"])
    inside = data.draw(st.sampled_from([one, one["size"], one["labels"][0], one["labels"][0]["rle"]]))
    inside[data.draw(st.sampled_from(sorted(inside)))] = data.draw(JSON)
    try:
        content = to_coco([one])
    except ValueError as error:
        assert len(str(error)) < 400
    else:
        assert len(content["images"]) == 1
