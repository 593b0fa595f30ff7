"""``crispmask data convert``: what each format holds arrives, and what is wrong with a file is counted."""

import json
import shutil
from pathlib import Path

import numpy as np
import other_formats as formats
import pytest
from PIL import Image
from pycocotools import mask as mask_utils

from crispmask.cli import main
from crispmask.evaluation.masks.rle import to_rle


def convert(source, *words, code=0):
    """The content of the file that the verb writes for a source."""
    output = Path(str(source) + ".json")
    try:
        done = main(["data", "convert", str(source), "--output", str(output), *map(str, words)])
    except SystemExit as end:
        done = end.code
    assert done == code
    return json.loads(output.read_text()) if output.is_file() else None


def decoded(row):
    return mask_utils.decode(to_rle(row["segmentation"], formats.HEIGHT, formats.WIDTH)).astype(bool)


def objects(content):
    """(class name, mask) of each object by file name without suffix and its folders above ``night``."""
    names = {category["id"]: category["name"] for category in content["categories"]}
    stems = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    found = {stem: [] for stem in stems.values()}
    for row in content["annotations"]:
        found[stems[row["image_id"]]].append((names[row["category_id"]], decoded(row)))
    return found


@pytest.mark.parametrize("name", formats.WRITERS)
def test_scene_arrives_to_the_pixel(tmp_path, name, capsys):
    source = tmp_path / "source"
    formats.WRITERS[name](source)
    content = convert(source)
    found = objects(content)
    assert set(found) == {"a", "b", "c"} and found["c"] == []
    # Those of label maps have no class, and come in the order of their values
    classes = {"label-map": ["object"]}.get(name, list(formats.CLASSES))
    order = {"label-map": [2, 0, 1], "masks": [0, 2, 1]}.get(name, [0, 1, 2])
    assert sorted(c["name"] for c in content["categories"]) == sorted(classes)
    assert [c["id"] for c in content["categories"]] == list(range(1, len(classes) + 1))
    for stem in "ab":
        for (class_name, mask), index in zip(found[stem], order, strict=True):
            expected = "object" if name == "label-map" else formats.CLASSES[formats.OBJECTS[index][0]]
            assert class_name == expected
            assert np.array_equal(mask, formats.masks()[index]), (stem, index)
    root = capsys.readouterr().out.split("folder of the images: ")[1].splitlines()[0]
    assert main(["data", "check", f"{source}.json", "--images", root]) == 0
    assert "all there" in capsys.readouterr().out


def test_file_has_what_other_tools_need(tmp_path):
    formats.write_voc(tmp_path / "source")
    content = convert(tmp_path / "source")
    hole = content["annotations"][0]
    assert hole["bbox"] == [4, 4, 20, 20] and hole["area"] == 20 * 20 - 6 * 8 and hole["iscrowd"] == 0
    assert [row["id"] for row in content["annotations"]] == [1, 2, 3, 4, 5, 6]
    assert content["images"][1] == {
        "id": 2,
        "file_name": "JPEGImages/night/b.png",
        "height": formats.HEIGHT,
        "width": formats.WIDTH,
    }


def test_parts_of_a_data_set_are_files_of_a_folder(tmp_path, capsys):
    formats.write_yolo(tmp_path / "source")
    output = tmp_path / "out"
    assert main(["data", "convert", str(tmp_path / "source"), "--output", str(output)]) == 0
    files = {path.name: json.loads(path.read_text()) for path in output.iterdir()}
    assert {name: len(content["images"]) for name, content in files.items()} == {
        "instances_train.json": 2,
        "instances_val.json": 1,
    }
    assert files["instances_val.json"]["categories"] == files["instances_train.json"]["categories"]
    assert len(convert(tmp_path / "source", "--split", "val")["images"]) == 1
    assert main(["data", "convert", str(tmp_path / "source"), "--output", "x.json", "--split", "test"]) == 2
    assert "no part 'test' but train, val" in capsys.readouterr().err


@pytest.mark.parametrize("name", formats.WRITERS)
def test_an_image_that_is_none_is_left_out_and_the_rest_done(tmp_path, name, capsys):
    source = tmp_path / "source"
    formats.WRITERS[name](source)
    next(source.rglob("a.jpg")).write_bytes(b"no image")
    assert {Path(i["file_name"]).stem for i in convert(source, code=1)["images"]} == {"b", "c"}
    assert "images that cannot be read, left out with their objects: 1" in capsys.readouterr().out


def test_nothing_usable_is_one_sentence(tmp_path, capsys):
    formats.write_cvat(tmp_path / "source")
    shutil.rmtree(tmp_path / "source/images")
    assert convert(tmp_path / "source", code=2) is None
    message = capsys.readouterr().err
    assert "no image that can be used: images that are not there" in message and "--images" in message


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda source: source.mkdir(), "looks like none of"),
        (lambda source: None, "There is no"),
        (lambda source: [formats.write_cvat(source), formats.write_labelme(source)], "cvat: say which"),
    ],
)
def test_format_that_cannot_be_told(tmp_path, capsys, make, sentence):
    make(tmp_path / "source")
    assert convert(tmp_path / "source", code=2) is None
    assert sentence in capsys.readouterr().err


def test_the_file_of_a_source_stands_for_its_folder(tmp_path):
    formats.write_cvat(tmp_path / "cvat")
    formats.write_yolo(tmp_path / "yolo")
    for file in (tmp_path / "cvat/annotations.xml", tmp_path / "yolo/data.yaml"):
        output = tmp_path / "out.json"
        assert main(["data", "convert", str(file), "--output", str(output)]) == 0
        assert len(json.loads(output.read_text())["annotations"]) == 6


def test_files_that_are_no_source(tmp_path, capsys):
    for name, part in (("set.zip", "unpack it"), ("coco.json", "used as it is")):
        (tmp_path / name).write_text("{}")
        assert main(["data", "convert", str(tmp_path / name), "--output", str(tmp_path / "o.json")]) == 2
        assert part in capsys.readouterr().err


def test_images_elsewhere_give_the_folder_above(tmp_path, capsys):
    formats.write_labelme(tmp_path / "set/labels")
    (tmp_path / "set/pictures").mkdir()
    for name in formats.IMAGES:
        target = tmp_path / "set/pictures" / name
        target.parent.mkdir(exist_ok=True)
        (tmp_path / "set/labels" / name).rename(target)
    content = convert(tmp_path / "set/labels", "--images", tmp_path / "set/pictures")
    assert [image["file_name"] for image in content["images"]] == ["a.jpg", "c.jpg", "night/b.png"]
    assert f"folder of the images: {tmp_path / 'set/pictures'}" in capsys.readouterr().out


def test_annotations_made_for_another_size(tmp_path, capsys):
    formats.write_cvat(tmp_path / "source")
    Image.new("RGB", (32, 24)).save(tmp_path / "source/images/a.jpg")
    assert len(convert(tmp_path / "source", code=1)["images"]) == 2
    assert "(32 x 24 pixels, not 64 x 48 pixels)" in capsys.readouterr().out


class TestYolo:
    def write(self, folder, lines):
        formats.write_yolo(folder)
        formats.write_text(folder / "labels/train/a.txt", "\n".join(lines) + "\n")
        return folder

    def test_bad_lines_are_counted_and_the_others_read(self, tmp_path, capsys):
        bad = ["0 0.1 0.1 oops 0.2", "x", "7 0.5 0.5 0.1 0.1", "0 10 10 20 10 20 20", "-1 .5 .5 .1 .1"]
        content = convert(self.write(tmp_path / "source", [*formats.yolo_lines(), *bad]), code=1)
        assert len(objects(content)["a"]) == 3
        printed = capsys.readouterr().out
        assert "no class and numbers, left out: 3, line 4 of" in printed
        assert "a class that has no name, left out: 1, 7 in line 6" in printed
        assert "no shares of the image, 0 to 1, left out: 1" in printed

    def test_box_has_no_mask_unless_it_is_wanted(self, tmp_path, capsys):
        source = self.write(tmp_path / "source", ["1 0.5 0.5 0.25 0.5"])
        (row,) = (r for r in convert(source)["annotations"] if r["image_id"] == 1)
        assert row["segmentation"] == [] and row["bbox"] == [24, 12, 16, 24]
        assert "objects with a box alone, which have no mask: 1" in capsys.readouterr().out
        (row,) = (r for r in convert(source, "--boxes-as-masks")["annotations"] if r["image_id"] == 1)
        assert row["area"] == 16 * 24

    def test_confidence_and_repeated_lines(self, tmp_path, capsys):
        line = formats.yolo_lines()[2]
        content = convert(self.write(tmp_path / "source", [line, line, f"{line} 0.9"]))
        found = objects(content)["a"]
        assert len(found) == 2 and all(np.array_equal(mask, formats.masks()[2]) for _, mask in found)
        printed = capsys.readouterr().out
        assert "repeat another one, left out: 1" in printed and "taken for a confidence" in printed

    def test_layouts_of_others(self, tmp_path):
        """A folder of Roboflow, lists of images, names by number, a path of another machine."""
        formats.write_yolo(tmp_path / "source")
        write = formats.write_text
        for text in (
            "train: ../images/train\nval: ../images/val\nnames: [pot, lid]\n",
            "path: /data/of/another/machine\ntrain: [images/train]\nval: val.txt\nnames: [pot, lid]\n",
            "train: images\\train\nval: images/val\nnames: {1: lid, 0: pot}\n",
        ):
            write(tmp_path / "source/data.yaml", text)
            write(tmp_path / "source/val.txt", "./images/val/c.jpg\n")
            content = convert(tmp_path / "source")
            assert [c["name"] for c in content["categories"]] == ["pot", "lid"]
            assert len(content["images"]) == 3 and len(content["annotations"]) == 6

    def test_classes_of_one_name_are_one(self, tmp_path, capsys):
        formats.write_yolo(tmp_path / "source")
        formats.write_text(tmp_path / "source/data.yaml", "train: images/train\nnames: [pot, pot, lid]\n")
        content = convert(tmp_path / "source")
        assert [(c["id"], c["name"]) for c in content["categories"]] == [(1, "pot"), (2, "lid")]
        assert {row["category_id"] for row in content["annotations"]} == {1}
        assert "several classes of one name, taken as one class: 1, 'pot'" in capsys.readouterr().out

    def test_without_a_yaml_file(self, tmp_path, capsys):
        formats.write_yolo(tmp_path / "source")
        (tmp_path / "source/data.yaml").unlink()
        assert convert(tmp_path / "source", code=2) is None
        assert "give --classes" in capsys.readouterr().err
        formats.write_text(tmp_path / "source/classes.txt", "pot\nlid\n")
        assert len(convert(tmp_path / "source")["annotations"]) == 6

    def test_what_the_yaml_file_lacks_is_named(self, tmp_path, capsys):
        formats.write_yolo(tmp_path / "source")
        for text, part in (
            ("names: [a]\n", "names no folder of images"),
            ("names: 3\ntrain: images/train\n", "no list 'names'"),
            ("names: [a]\ntrain: nowhere\n", "'nowhere', which is not there"),
            ("names: [a\n", "is no YAML"),
            ("names: {0: a, 4000000000: b}\ntrain: images/train\n", "not numbered from 0"),
            ("names: [é]\n", "say its encoding with --encoding"),
        ):
            formats.write_text(tmp_path / "source/data.yaml", text, "cp1252")
            assert convert(tmp_path / "source", code=2) is None
            assert part in capsys.readouterr().err


class TestLabelMe:
    def shape(self, kind, points, **others):
        return {"label": "pot", "shape_type": kind, "points": points, "group_id": None, **others}

    def converted(self, folder, shapes, *words, code=0):
        formats.write_labelme(folder, shapes)
        return [r for r in convert(folder, *words, code=code)["annotations"] if r["image_id"] == 1]

    def test_other_shapes(self, tmp_path, capsys):
        shapes = [
            self.shape("circle", [[30, 20], [40, 20]]),
            self.shape("rectangle", [[20, 10], [4, 4]]),
            self.shape("point", [[3, 3]]),
            self.shape("line", [[3, 3], [9, 9]]),
        ]
        circle, box = self.converted(tmp_path / "source", shapes)
        assert circle["area"] == pytest.approx(np.pi * 100, rel=0.02)
        assert box["bbox"] == [4, 4, 16, 6] and box["segmentation"] == []
        printed = capsys.readouterr().out
        assert "circles and ellipses, taken as polygons: 2" in printed
        assert "other shapes without area, left out: 4, 'point'" in printed

    def test_bad_shapes_are_counted_and_the_others_read(self, tmp_path, capsys):
        square = formats.points(formats.outline(1, 1, 9, 9))
        shapes = [
            self.shape("polygon", square),
            self.shape("polygon", square[:2]),
            self.shape("polygon", [[1, 2], [3, "x"]]),
            self.shape("polygon", None),
            self.shape("mask", [[1, 1], [3, 3]], mask="no PNG"),
            self.shape("mask", [[1, 1], [3, 3]], mask=formats.png_text(np.ones((9, 9), bool))),
            self.shape("mask", [[99, 1], [107, 9]], mask=formats.png_text(np.ones((9, 9), bool))),
            7,
        ]
        assert len(self.converted(tmp_path / "source", shapes, code=1)) == 1
        printed = capsys.readouterr().out
        for part in (
            "parts of polygons without three corners, left out: 2",
            "without a label or without points, left out: 6",
            "no PNG of the size of their box, left out: 4",
            "empty or outside of their image, left out: 2",
        ):
            assert part in printed

    def test_shapes_of_a_group_with_two_labels_are_two_objects(self, tmp_path):
        square = formats.points(formats.outline(1, 1, 9, 9))
        shapes = [
            {**self.shape("polygon", square), "group_id": 0},
            {**self.shape("polygon", square), "group_id": 0, "label": "lid"},
        ]
        assert len(self.converted(tmp_path / "source", shapes)) == 2

    def test_mask_over_the_border_is_cut(self, tmp_path):
        mask = formats.png_text(np.ones((10, 10), bool))
        (row,) = self.converted(tmp_path / "source", [self.shape("mask", [[-4, 44], [5, 53]], mask=mask)])
        assert row["bbox"] == [0, 44, 6, 4]

    def test_files_that_are_none(self, tmp_path, capsys):
        source = tmp_path / "source"
        formats.write_labelme(source)
        (source / "half.json").write_text('{"shapes": [')
        (source / "other.json").write_text("[1]")
        text = (source / "a.json").read_text(encoding="utf-8-sig")
        (source / "inside.json").write_text(
            text.replace('"imageData": null', '"imageData": "AAAA"').replace("a.jpg", "gone.jpg")
        )
        Image.new("RGB", (5, 5)).save(source / "new.jpg")
        assert len(convert(source, code=1)["images"]) == 3
        printed = capsys.readouterr().out
        for part in (
            "no complete JSON, left out with their images: 1",
            "JSON files without shapes, which are not LabelMe's, left out: 1",
            "in their JSON file alone, left out with their objects",
            "images without a JSON file, which are not in the result: 1",
        ):
            assert part in printed

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gbk"])
    def test_encodings(self, tmp_path, encoding):
        source = tmp_path / "source"
        formats.write_labelme(source, [{**self.shape("polygon", [[1, 1], [9, 1], [9, 9]]), "label": "锅"}])
        for path in source.rglob("*.json"):
            formats.write_text(path, path.read_text(encoding="utf-8-sig"), encoding)
        words = ("--encoding", "gbk") if encoding == "gbk" else ()
        assert [c["name"] for c in convert(source, *words)["categories"]] == ["锅"]


class TestCvat:
    def converted(self, folder, shapes, *words, code=0):
        formats.write_cvat(folder, shapes)
        return [r for r in convert(folder, *words, code=code)["annotations"] if r["image_id"] == 1]

    def test_other_shapes(self, tmp_path, capsys):
        shapes = (
            '<box label="lid" xtl="1.0" ytl="2.0" xbr="11.0" ybr="8.0"></box>'
            '<box label="lid" xtl="20" ytl="20" xbr="40" ybr="24" rotation="90"></box>'
            '<ellipse label="lid" cx="30" cy="20" rx="20" ry="10" rotation="90"></ellipse>'
            '<polyline label="lid" points="1,1;2,2"></polyline><tag label="lid"></tag>'
            '<polygon label="new" points="1,1;9,1;9,9"><attribute name="is_crowd">true</attribute></polygon>'
        )
        box, turned, ellipse, crowd = self.converted(tmp_path / "source", shapes)
        assert box["bbox"] == [1, 2, 10, 6] and box["segmentation"] == []
        assert turned["bbox"] == pytest.approx([28, 12, 4, 20])
        assert ellipse["bbox"] == pytest.approx([20, 0, 20, 40], abs=0.1)
        assert crowd["iscrowd"] == 1 and crowd["category_id"] == 3
        assert "other shapes without area, left out: 4, 'polyline'" in capsys.readouterr().out
        row = self.converted(tmp_path / "other", shapes, "--boxes-as-masks")[1]
        assert row["area"] == 80

    def test_bad_shapes_are_counted_and_the_others_read(self, tmp_path, capsys):
        shapes = (
            '<polygon label="lid" points="1,1;9,1;9,oops"></polygon><polygon points="1,1;9,1;9,9"></polygon>'
            '<polygon label="lid" points="1,1;9,1"></polygon><polygon label="lid" points="1,1;9,1;nan,9"/>'
            '<mask label="lid" rle="3,4" left="0" top="0" width="3" height="3"></mask><box label="lid"></box>'
            '<mask label="lid" rle="0,3600000000" left="0" top="0" width="60000" height="60000"></mask>'
            '<polygon label="lid" points="1,1;9,1;9,9"></polygon>'
        )
        assert len(self.converted(tmp_path / "source", shapes, code=1)) == 1
        printed = capsys.readouterr().out
        for part in (
            "a label or with values that are no numbers, left out: 6",
            "without three corners, left out: 2",
            "corners that are no numbers or far outside, left out: 2",
            "run lengths do not fill their box, left out: 4",
        ):
            assert part in printed

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
    def test_declared_encodings(self, tmp_path, encoding):
        formats.write_cvat(tmp_path / "source", encoding=encoding)
        assert convert(tmp_path / "source")["categories"][0]["name"] == formats.CLASSES[0]

    def test_files_that_are_none(self, tmp_path, capsys):
        formats.write_cvat(tmp_path / "source")
        file = tmp_path / "source/annotations.xml"
        text = file.read_text(encoding="utf-8")
        for spoilt, part in (
            (text[:-20], "is no complete XML"),
            (text.replace("</annotations>", "<track></track></annotations>"), "the tracks of a video"),
        ):
            file.write_text(spoilt, encoding="utf-8")
            assert convert(tmp_path / "source", code=2) is None
            assert part in capsys.readouterr().err

    def test_names_of_windows(self, tmp_path, capsys):
        formats.write_cvat(tmp_path / "source")
        file = tmp_path / "source/annotations.xml"
        file.write_text(file.read_text(encoding="utf-8").replace("night/b", "night\\b"), encoding="utf-8")
        assert len(objects(convert(tmp_path / "source"))["b"]) == 3
        assert "file names with backslashes" in capsys.readouterr().out


class TestVoc:
    def test_colours_of_a_palette_and_of_pixels(self, tmp_path):
        """Without labelmap.txt the classes are VOC's; in colours, the objects are those of any colour."""
        source = tmp_path / "source"
        formats.write_voc(source)
        for place in ("SegmentationObject", "SegmentationClass"):
            path = source / place / "a.png"
            Image.open(path).convert("RGB").save(path)
        found = objects(convert(source))
        assert [name for name, _ in found["a"]] == [formats.CLASSES[i] for i in (1, 0, 0)]
        assert {mask.sum() for _, mask in found["a"]} == {mask.sum() for mask in formats.masks()}
        (source / "labelmap.txt").unlink()
        content = convert(source)
        assert len(content["categories"]) == 20
        assert {name for name, _ in objects(content)["b"]} == {"aeroplane", "bicycle"}
        assert {name for name, _ in objects(content)["a"]} == {"aeroplane", "bicycle"}
        names = convert(source, "--classes", "pot", "lid")["categories"]
        assert [category["name"] for category in names] == ["pot", "lid"]

    def test_void_pixels_are_told(self, tmp_path, capsys):
        formats.write_voc(tmp_path / "source")
        assert all(not mask[0].any() for _, mask in objects(convert(tmp_path / "source"))["a"])
        assert "border around objects, which belong to none: 3" in capsys.readouterr().out

    def test_boxes_of_an_image_without_pixels(self, tmp_path):
        source = tmp_path / "source"
        formats.write_voc(source)
        for place in ("SegmentationObject", "SegmentationClass"):
            (source / place / "c.png").unlink()
        bounds = "<xmin>1</xmin><ymin>3</ymin><xmax>10</xmax><ymax>12</ymax>"
        bad = "<object><name>lid</name></object>"
        xml = f"<annotation><object><name>lid</name><bndbox>{bounds}</bndbox></object>{bad}</annotation>"
        formats.write_text(source / "Annotations/c.xml", xml)
        row = convert(source, code=1)["annotations"][-1]
        assert row["bbox"] == [0, 2, 10, 10] and row["segmentation"] == []

    def test_pixels_of_no_class_and_names_without_image(self, tmp_path, capsys):
        source = tmp_path / "source"
        formats.write_voc(source)
        formats.save(np.zeros((formats.HEIGHT, formats.WIDTH), np.uint8), source / "SegmentationClass/a.png")
        (source / "SegmentationClass/night/b.png").unlink()
        list_file = source / "ImageSets/Segmentation/train.txt"
        list_file.write_text(list_file.read_text() + "gone\n")
        content = convert(source, code=1)
        assert len(content["images"]) == 2 and content["annotations"] == []
        printed = capsys.readouterr().out
        for part in ("whose pixels have no class, left out: 3", "without an image, left out: 1, 'gone'"):
            assert part in printed
        assert "without a file in SegmentationClass" in printed


class TestMasks:
    @pytest.mark.parametrize(
        ("dtype", "suffix"),
        [(np.uint8, ".png"), (np.uint16, ".png"), (np.int32, ".tif"), (np.float32, ".tif")],
    )
    def test_label_maps_of_many_types(self, tmp_path, dtype, suffix):
        formats.write_label_maps(tmp_path / "source", dtype, suffix)
        found = objects(convert(tmp_path / "source", "--classes", "cell"))["a"]
        assert [name for name, _ in found] == ["cell"] * 3
        assert sorted(mask.sum() for _, mask in found) == sorted(mask.sum() for mask in formats.masks())

    def test_label_maps_beside_their_images_and_elsewhere(self, tmp_path, capsys):
        formats.write_label_maps(tmp_path / "source")
        for folder in ("images", "masks"):
            shutil.copytree(tmp_path / "source" / folder, tmp_path / "beside", dirs_exist_ok=True)
        formats.write_images(tmp_path / "beside", ["d.jpg"])
        content = convert(tmp_path / "beside")
        assert len(content["images"]) == 3 and len(content["annotations"]) == 6
        assert "images without a label map, which are not in the result: 1" in capsys.readouterr().out
        words = ("--format", "label-map", "--images", tmp_path / "source/images")
        assert len(convert(tmp_path / "source/masks", *words)["annotations"]) == 6

    def test_label_maps_in_colours(self, tmp_path):
        formats.write_label_maps(tmp_path / "source")
        colors = np.stack(
            [formats.numbered((0, 5, 5)), formats.numbered((9, 0, 0)), formats.numbered((1, 1, 2))]
        )
        path = tmp_path / "source/masks/a_mask.png"
        formats.save(colors.astype(np.uint8).transpose(1, 2, 0), path)
        assert len(objects(convert(tmp_path / "source"))["a"]) == 3

    def test_label_maps_that_cannot_be_used(self, tmp_path, capsys):
        source = tmp_path / "source"
        formats.write_label_maps(source)
        formats.save(np.full((formats.HEIGHT, formats.WIDTH), 0.5, np.float32), source / "masks/a_mask.tif")
        (source / "masks/a_mask.png").unlink()
        formats.save(np.ones((5, 5), np.uint8), source / "masks/c_mask.png")
        formats.save(formats.numbered((1, 0, 0)).astype(np.uint8), source / "masks/night/b_mask.png")
        formats.save(formats.numbered().astype(np.uint8), source / "masks/gone.png")
        assert len(convert(source, code=1)["images"]) == 1
        printed = capsys.readouterr().out
        for part in (
            "label maps that cannot be read, left out with their images: 1",
            "of another size than their annotations say",
            "masks without an image of their name, left out: 1",
            "one value alone, which is taken for one object: 1",
        ):
            assert part in printed

    def write(self, folder, place):
        formats.write_images(folder / "images")
        for name in formats.IMAGES[:2]:
            for index, mask in enumerate(formats.masks()):
                formats.save(mask.astype(np.uint8) * 255, folder / place(Path(name).with_suffix(""), index))

    def test_layouts_of_single_masks(self, tmp_path):
        self.write(tmp_path / "flat", lambda stem, i: f"masks/{stem}_{i}.png")
        self.write(tmp_path / "named", lambda stem, i: f"masks/{stem}_mask_{i}.png")
        for name in ("flat", "named"):
            assert len(objects(convert(tmp_path / name, "--format", "masks"))["b"]) == 3
        for name in formats.IMAGES[:2]:
            folder = tmp_path / "bowl" / Path(name).stem
            formats.write_images(folder / "images", [Path(name).name])
            for index, mask in enumerate(formats.masks()):
                formats.save(mask.astype(np.uint8) * 255, folder / "masks" / f"{index}.png")
        found = objects(convert(tmp_path / "bowl"))
        assert [name for name, _ in found["a"]] == ["object"] * 3
        assert np.array_equal(found["b"][0][1], formats.masks()[0])

    def test_pictures_of_a_mask(self, tmp_path, capsys):
        """With alpha, of one bit, of 0 and 1, smooth at the border; and those that are none."""
        source, mask = tmp_path / "source", formats.masks()[0]
        formats.write_images(source / "images")
        alpha = np.zeros((*mask.shape, 4), np.uint8)
        alpha[..., 3] = 255 * mask
        smooth = np.where(mask, 250, 20).astype(np.uint8)
        for index, pixels in enumerate((alpha, mask, mask.astype(np.uint8), smooth)):
            formats.save(pixels, source / f"masks/a/{index}.png")
        formats.save(np.zeros_like(smooth), source / "masks/a/4.png")
        formats.save(smooth[:5], source / "masks/a/5.png")
        (source / "masks/a/6.png").write_bytes(b"none")
        formats.save(smooth, source / "masks/gone/1.png")
        found = objects(convert(source, code=1))["a"]
        assert len(found) == 4 and all(np.array_equal(own, mask) for _, own in found)
        printed = capsys.readouterr().out
        for part in (
            "without a pixel",
            "another size than their image",
            "cannot be read",
            "without an image",
        ):
            assert f"{part}" in printed
        assert "kept as images without objects: 2" in printed
