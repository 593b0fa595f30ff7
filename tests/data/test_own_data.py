"""Faults of annotation files that people have: used with a count, or named before the first iteration."""

import json
import math
import shutil

import own_data
import pytest
from command_line import ROOT
from detectron2.data import MetadataCatalog
from own_data import HEIGHT, WIDTH, as_detectron2_reads, registered
from PIL import Image
from pycocotools import mask as mask_utils

from crispmask.config import get_config
from crispmask.data.coco import read_coco
from crispmask.data.contents import check_contents, load_training_images
from crispmask.data.images import ImageError
from crispmask.data.mapper import ImageMapper
from crispmask.engine import Trainer, UserError, argument_parser, check_run, load_config
from crispmask.engine.checks import check_dataset, check_same_classes
from crispmask.evaluation import evaluate


@pytest.fixture
def folder(tmp_path):
    own_data.write_images(tmp_path / "images")
    return tmp_path


def row(**values):
    """Spoils the second annotation, whose id is 2."""
    return lambda data: data["annotations"][1].update(values)


def every(**values):
    return lambda data: [a.update(values) for a in data["annotations"]]


def without(key):
    return lambda data: [a.pop(key) for a in data["annotations"]]


def image(**values):
    """Spoils the entry of the image in a folder."""
    return lambda data: data["images"][2].update(values)


def points(annotation):
    """Corners as pairs, as LabelMe has them."""
    (outline,) = annotation["segmentation"]
    return [list(corner) for corner in zip(outline[::2], outline[1::2], strict=True)]


TINY = ROOT / "tests/engine/tiny.yaml"
# Faults that are read as what they mean
UNDERSTOOD = [
    without("bbox"),
    without("area"),
    without("iscrowd"),
    without("id"),
    every(id=7),
    every(bbox=None),
    every(bbox=[]),
    every(bbox=[0, 0, 0, 0]),
    every(bbox=["10", "10", "40", "30"]),
    every(area="1200"),
    lambda data: [im.pop("height") for im in data["images"]],
    lambda data: [a.update(segmentation=a["segmentation"][0]) for a in data["annotations"]],
    lambda data: [a.update(segmentation=points(a)) for a in data["annotations"]],
    lambda data: [a.update(segmentation=[points(a)]) for a in data["annotations"]],
    lambda data: [a["segmentation"].append([1, 2, 3, 4]) for a in data["annotations"]],
    lambda data: [a["segmentation"].insert(0, []) for a in data["annotations"]],
    lambda data: data["annotations"].append(dict(data["annotations"][0])),
    image(file_name="more\\im 3.jpg"),
    image(file_name="more/im%203.jpg"),
    image(file_name="C:\\data\\more\\im%203.jpg"),
]
# Faults that only the author of a file can mend, and what is said of them
WRONG = [
    (row(category_id=6), r"Annotation 1 \(id 2\) has category_id 6: the ground truth has no such"),
    (row(image_id=6), r"Annotation 1 \(id 2\) has image_id 6: the ground truth has no such image"),
    (row(iscrowd="no"), r"Annotation 1 \(id 2\) has iscrowd 'no': 0 or 1 is needed"),
    (row(segmentation=[[1, 1, math.inf, 5, 5, 5]]), r"Annotation 1 \(id 2\) .*corner that is no number"),
    (row(segmentation=[["1", "1", "9", "5", "5", "5"]]), r"Annotation 1 \(id 2\) .*polygons that cannot"),
    (row(segmentation=[[[1, 1, 9], [9, 9, 1]]]), r"Annotation 1 \(id 2\) .*polygons that cannot"),
    (row(segmentation="mask"), r"Annotation 1 \(id 2\) has segmentation 'mask'"),
    (row(segmentation={"size": [8, 8], "counts": "0P2"}), r"Annotation 1 \(id 2\) has size \[8, 8\]"),
    (row(segmentation={"size": [HEIGHT, WIDTH], "counts": "04"}), r"annotation 1 \(id 2\) .*do not fill"),
    (row(segmentation=None, bbox=[1, 2, "x", 4]), r"Annotation 1 \(id 2\) has bbox"),
    (every(iscrowd=1), "nothing to train on: all its 6 annotations are crowd regions"),
    (lambda data: data.update(annotations=[]), "nothing to train on: it has no annotations"),
    (every(segmentation=[]), "None of the 6 objects .* has a mask: give .*MODEL.MASK_ON False"),
    (lambda data: data.pop("categories"), "has no 'categories'"),
    (lambda data: data.pop("images"), "has no 'images'"),
    (lambda data: data["images"].append(data["images"][0]), "Entries 0 and 3 of 'images' .*same id 17"),
    (image(height="80"), "Entry 2 of 'images' has height '80'"),
    (image(file_name=None), "Entry 2 of 'images' has no file_name"),
    (image(file_name="gone.jpg"), r"1 of the 3 images .* not there, '.*gone\.jpg' for one: put them in"),
    (
        image(width=WIDTH + 1),
        "have another size .* is 100 x 80 pixels .*, not 101 x 80: correct the entry",
    ),
]


def config(name, *opts):
    data = f"('{name}',)"
    return get_config(None, ["MODEL.MASK_ON", "True", "DATASETS.TRAIN", data, "DATASETS.TEST", data, *opts])


def objects(name, *opts):
    return [a for d in load_training_images(config(name, *opts)) for a in d["annotations"]]


def test_file_without_faults_is_read_as_by_detectron2(folder):
    with registered(folder) as name:
        assert check_contents(name, training=True, masks=True) == []
        assert load_training_images(config(name)) == as_detectron2_reads(folder)
        assert MetadataCatalog.get(name).thing_classes == ["pot", "lid"]


@pytest.mark.parametrize("spoil", UNDERSTOOD)
def test_what_can_be_understood_is_trained_on_as_if_it_were_right(folder, spoil):
    shutil.copy(folder / "images/more/im 3.jpg", folder / "images/im 3.jpg")
    with registered(folder) as name:
        expected = [{**a, "iscrowd": 0} for a in objects(name)]
    with registered(folder, spoil) as name:
        check_contents(name, training=True, masks=True)
        assert [a["category_id"] for a in objects(name)] == [a["category_id"] for a in expected]
        for found, right in zip(objects(name), expected, strict=True):
            assert found["segmentation"] == right["segmentation"]
            assert found["bbox"] == pytest.approx(right["bbox"])


@pytest.mark.parametrize("mask", [None, [], [[]], [[1, 2, 3, 4]], {}])
def test_object_without_mask_is_left_out_of_masks_and_kept_for_boxes(folder, mask):
    with registered(folder, row(segmentation=mask)) as name:
        notes = check_contents(name, training=True, masks=True)
        assert any("objects without a mask" in note and "annotation 1 (id 2)" in note for note in notes)
        assert len(objects(name)) == 5
        assert len(objects(name, "MODEL.MASK_ON", "False")) == 6


@pytest.mark.parametrize(("spoil", "sentence"), WRONG)
def test_all_else_is_a_sentence_before_training(folder, spoil, sentence):
    with registered(folder, spoil) as name, pytest.raises(UserError, match=sentence) as caught:
        check_dataset(config(name, "MODEL.ROI_HEADS.NUM_CLASSES", "2"), name, eval_only=False)
    assert "\n" not in str(caught.value) and (
        "annotations.json" in str(caught.value) or name in str(caught.value)
    )


def test_picture_turned_by_exif_is_told_from_one_of_another_size(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "images/1.jpg").save(folder / "images/1.jpg", exif=exif)
    with registered(folder) as name:
        with pytest.raises(ValueError, match=r"is 80 x 100 pixels .*, not 100 x 80: its EXIF tag turns it"):
            check_contents(name, training=True, masks=True)
        assert check_contents(name, training=True, masks=True, headers=False) == []


def test_images_that_are_none_are_counted_where_they_are_skipped(folder):
    (folder / "images/1.jpg").write_bytes(b"no image")
    (folder / "images/2.png").unlink()
    with registered(folder) as name:
        with pytest.raises(ValueError, match=r"1 of the 3 images .* are not there"):
            check_contents(name, training=True, masks=True)
        (note,) = check_contents(name, training=True, masks=True, skip_unreadable=True)
        assert "2 of 3 images cannot be read and are skipped" in note


def test_images_of_which_all_are_none_are_not_skipped(folder):
    for file in ("1.jpg", "2.png", "more/im 3.jpg"):
        (folder / "images" / file).write_bytes(b"no image")
    with registered(folder) as name, pytest.raises(ValueError, match=r"3 of the 3 images .* cannot be read"):
        check_contents(name, training=True, masks=True, skip_unreadable=True)


def test_data_set_without_images_is_not_evaluated_on(folder):
    def spoil(data):
        data.update(images=[], annotations=[])

    with registered(folder, spoil) as name, pytest.raises(UserError, match="has no images"):
        check_dataset(config(name), name, eval_only=True)


def test_images_that_an_evaluation_needs_are_not_skipped(folder):
    (folder / "images/1.jpg").unlink()
    skip = ("CRISPMASK.UNREADABLE_IMAGES", "skip", "MODEL.ROI_HEADS.NUM_CLASSES", "2")
    with registered(folder) as name:
        assert check_dataset(config(name, *skip, "DATASETS.TEST", "()"), name, eval_only=False)
        with pytest.raises(UserError, match=r"1\.jpg' for one: put them in place"):
            check_dataset(config(name, *skip), name, eval_only=False)


def test_name_that_two_images_would_share_is_not_guessed(folder):
    spoil = image(file_name="elsewhere/1.jpg")
    with registered(folder, spoil) as name, pytest.raises(ValueError, match=r"elsewhere/1\.jpg' for one"):
        check_contents(name, training=True, masks=True)


def test_file_that_two_names_could_mean_is_neithers(folder):
    def spoil(data):
        data["images"][0]["file_name"], data["images"][1]["file_name"] = "a/1.jpg", "b/1.jpg"

    with registered(folder, spoil) as name, pytest.raises(ValueError, match=r"2 of the 3 .* are not there"):
        check_contents(name, training=True, masks=True)


def test_address_in_a_folder_of_images_is_no_image(folder):
    spoil = image(file_name="https://example.org/gone.jpg")
    with registered(folder, spoil) as name, pytest.raises(ValueError, match=r"gone\.jpg' for one: put them"):
        check_contents(name, training=True, masks=True)


def test_addresses_and_whole_paths_are_taken_as_by_detectron2(folder):
    nowhere = "http://127.0.0.1:9/annotations.json"

    def spoil(data):
        for entry in data["images"]:
            entry["file_name"] = str(folder / "images" / entry["file_name"])

    with registered(folder, spoil) as name:
        del MetadataCatalog.get(name).image_root
        MetadataCatalog.get(name).image_root = ""
        assert check_dataset(config(name, "MODEL.ROI_HEADS.NUM_CLASSES", "2"), name, eval_only=False) == []
        del MetadataCatalog.get(name).json_file
        MetadataCatalog.get(name).json_file = nowhere
        with pytest.raises(UserError, match=f"'{nowhere}' cannot be fetched: .*refused"):
            check_dataset(config(name), name, eval_only=False)
    with pytest.raises(ImageError, match=r"1\.jpg' cannot be fetched: .*refused"):
        ImageMapper(config(name), is_train=False).read("http://127.0.0.1:9/1.jpg")


def test_ignored_objects_are_left_out_of_training(folder):
    with registered(folder, row(ignore=1)) as name:
        assert len(objects(name)) == 5
        (note,) = check_contents(name, training=True, masks=True)
        assert "marked with ignore, left out of training: 1" in note


def test_objects_outside_of_their_image_are_left_out_of_training(folder):
    square = [WIDTH, 5, WIDTH + 20, 5, WIDTH + 20, 25, WIDTH, 25]
    with registered(folder, row(segmentation=[square], bbox=[WIDTH, 5, 20, 20])) as name:
        assert len(objects(name)) == 5
        (note,) = check_contents(name, training=True, masks=True)
        assert "objects outside of their image, left out of training: 1, annotation 1 (id 2)" in note


@pytest.mark.parametrize("has_mask", [True, False])
def test_objects_in_shares_of_their_image_are_left_out_of_training(folder, has_mask):
    """As YOLO writes corners and boxes; a pixel in the corner of an image is an object."""
    share, corner = [0.1, 0.1, 0.4, 0.1, 0.4, 0.5], [0, 0, 1, 0, 1, 1, 0, 1]
    masks = ([share], [corner]) if has_mask else ([], [])

    def spoil(data):
        row(segmentation=masks[0], bbox=[0.1, 0.1, 0.3, 0.4])(data)
        data["annotations"][2].update(segmentation=masks[1], bbox=[0, 0, 1, 1])

    with registered(folder, spoil) as name:
        assert len(objects(name, "MODEL.MASK_ON", "False")) == 5
        notes = check_contents(name, training=True, masks=False)
        assert any(
            "in shares of their image's size" in note and "1, annotation 1 (id 2)" in note for note in notes
        )


@pytest.mark.parametrize("with_area", [True, False])
@pytest.mark.parametrize("as_runs", [True, False])
def test_boxes_with_ends_in_place_of_sides_are_told(folder, as_runs, with_area):
    def spoil(data):
        for annotation in data["annotations"]:
            x, y, width, height = annotation["bbox"]
            annotation["bbox"] = [x, y, x + width, y + height]
            if not with_area:
                del annotation["area"]
            if as_runs:
                runs = mask_utils.frPyObjects(annotation["segmentation"], HEIGHT, WIDTH)[0]
                annotation["segmentation"] = {**runs, "counts": runs["counts"].decode()}

    with registered(folder, lambda data: None) as name:
        assert check_contents(name, training=True, masks=True) == []
    with registered(folder, spoil) as name:
        assert len(objects(name)) == 6
        (note,) = check_contents(name, training=True, masks=True)
        assert "boxes that are not those of their masks" in note


def test_a_picture_that_two_entries_have_is_told(folder):
    with registered(folder, image(file_name="1.jpg")) as name:
        notes = check_contents(name, training=True, masks=True)
        assert any("that several images have" in note and "1, '1.jpg'" in note for note in notes)


def test_pointer_of_git_lfs_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(ValueError, match=r"a.json' is a pointer of Git LFS: git lfs pull"):
        read_coco(str(path), str(tmp_path))


@pytest.mark.parametrize("spoil", [*UNDERSTOOD, *(spoil for spoil, _ in WRONG)])
def test_the_evaluation_accepts_what_training_accepts(folder, spoil):
    """But for what it has no need of: images, and something to learn from."""
    with registered(folder, spoil):
        file = str(folder / "annotations.json")
        try:
            read_coco(file, str(folder / "images"))
            refused = False
        except ValueError as error:
            refused = "no file_name" not in str(error)
        data = json.loads((folder / "annotations.json").read_text())
        knows_sizes = all("height" in im for im in data.get("images", ()))
        has_masks = any(a.get("segmentation") for a in data["annotations"]) or not data["annotations"]
        iou_type = "segm" if knows_sizes and has_masks else "bbox"
        if refused:
            with pytest.raises(ValueError, match=r"\.$"):
                evaluate(file, [], iou_type="segm")
        else:
            assert set(evaluate(file, [], iou_type=iou_type)) >= {"AP", "AP50"}


def test_keypoints_are_points_as_detectron2_has_them(folder):
    points = [10, 20, 2, 0, 0, 0]
    with registered(folder, every(keypoints=points, num_keypoints=1)) as name:
        assert {tuple(a["keypoints"]) for a in objects(name)} == {(10.5, 20.5, 2, 0.5, 0.5, 0)}
        assert load_training_images(config(name)) == as_detectron2_reads(folder)


@pytest.mark.parametrize("points", [[10, 20], [10, "20", 2], 7, {"x": 1}, [10, 20, None]])
def test_keypoints_that_are_none_are_left_out(folder, points):
    with registered(folder, row(keypoints=points)) as name:
        assert all("keypoints" not in a for a in objects(name))
        (note,) = check_contents(name, training=True, masks=True)
        assert "lists of keypoints that are no x, y and visibility each, left out: 1" in note


def test_keypoints_of_a_model_are_those_of_its_data_set(folder):
    opts = ("MODEL.KEYPOINT_ON", "True", "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", "2")
    opts += ("MODEL.ROI_HEADS.NUM_CLASSES", "2", "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE", "0")
    with registered(folder, row(keypoints=[10, 20, 2, 0, 0, 0])) as name:
        with pytest.raises(UserError, match="without keypoint_names and keypoint_flip_map"):
            check_dataset(config(name, *opts), name, eval_only=False)
        MetadataCatalog.get(name).set(keypoint_names=["head", "tail"], keypoint_flip_map=[])
        check_dataset(config(name, *opts), name, eval_only=False)
        assert {len(a["keypoints"]) for a in objects(name, *opts)} == {6}
        other = (*opts, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", "3")
        with pytest.raises(UserError, match=r"NUM_KEYPOINTS is 3 but data set .* has 2"):
            check_dataset(config(name, *other), name, eval_only=False)
        few = (*opts, "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE", "2")
        with pytest.raises(ValueError, match="has an object to train on"):
            objects(name, *few)
        with pytest.raises(ValueError, match=r"has 2 keypoints, but .*NUM_KEYPOINTS is 3"):
            objects(name, *other)


def test_faults_of_both_sets_do_not_stop_a_training_at_its_evaluation(folder):
    def spoil(data):
        first, second, third, *others = data["annotations"]
        first["segmentation"] = first["segmentation"][0]
        second["segmentation"].append([1, 2, 3])
        third["segmentation"] = []
        others[0].update(id=1, bbox=None)
        others[1].pop("iscrowd")

    with registered(folder, spoil) as name:
        data = f"('{name}',)"
        opts = ["DATASETS.TRAIN", data, "DATASETS.TEST", data, "MODEL.ROI_HEADS.NUM_CLASSES", "2"]
        opts += ["INPUT.MASK_FORMAT", "polygon", "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(folder / "out")]
        opts += ["TEST.EXPECTED_RESULTS", "[['segm', 'AP', 50, 50]]"]
        args = argument_parser().parse_args(["--config-file", str(TINY), *opts])
        cfg = load_config(args.config_file, args.opts)
        notes = check_run(cfg, args)
        (folder / "out").mkdir()
        results = Trainer(cfg).train()
    assert set(results) == {"bbox", "segm", "boundary"} and results["segm"]["AP"] >= 0
    assert sum("objects without a mask" in note for note in notes) == 1


def test_classes_of_data_sets_that_are_used_together_are_the_same():
    names = {"a_of_a_test": ["pot", "lid"], "b_of_a_test": ["pot", "cup"]}
    for name, classes in names.items():
        MetadataCatalog.get(name).set(thing_classes=classes)
    first, second = names
    assert check_same_classes([first, first], [first]) == []
    with pytest.raises(UserError, match=r"'b_of_a_test' has other .* 'a_of_a_test' \('cup' is 'lid' there\)"):
        check_same_classes([first, second], [])
    (note,) = check_same_classes([first], [second])
    assert "by their order" in note
    for name in names:
        MetadataCatalog.remove(name)
