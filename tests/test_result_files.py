"""Predictions as files of other programs, read back."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from crispmask.evaluation.masks.encode import encode_crop
from crispmask.polygons import Polygon
from crispmask.result_files import save_labelme, save_masks, save_soft_masks, save_yolo, save_yolo_names
from crispmask.results import Classes, Result
from tests.test_results import filled, made

SIZE = (60, 80)


def result_of(*masks: np.ndarray) -> Result:
    """Objects of the classes ``cat``, ``a/b: c`` and so on in turn."""
    number = len(masks)
    return Result(
        size=SIZE,
        boxes=np.zeros((number, 4), np.float32),
        scores=np.linspace(0.5, 0.9, number, dtype=np.float32),
        class_indices=np.arange(number) % 2,
        classes=Classes(("cat", "a/b: c"), (3, "x")),
        rles=tuple(encode_crop(mask.T, (0, 0, *SIZE[::-1]), SIZE) for mask in masks),
    )


@pytest.fixture
def ring_and_parts() -> tuple[np.ndarray, np.ndarray]:
    """An object with a hole, and one of three parts."""
    ring, parts = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    ring[5:40, 10:50], ring[15:25, 20:30] = True, False
    parts[45:55, 5:15] = parts[42:50, 30:45] = parts[50:58, 60:75] = True
    return ring, parts


def test_masks_are_one_file_each_best_first(ring_and_parts: tuple, tmp_path: Path) -> None:
    files = save_masks(result_of(*ring_and_parts), tmp_path / "masks")
    assert [path.name for path in files] == ["001_a-b-c.png", "002_cat.png"]
    for path, mask in zip(files, ring_and_parts[::-1], strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), mask.astype(np.uint8) * 255)
    assert save_masks(result_of(), tmp_path / "none") == [] and not (tmp_path / "none").exists()


def test_soft_masks_are_the_probabilities(tmp_path: Path) -> None:
    result, _ = made()
    files = save_soft_masks(result, tmp_path)
    assert len(files) == len(result)
    for path, soft in zip(files, result.soft_masks, strict=True):
        assert np.abs(np.asarray(Image.open(path)) / 255 - soft).max() <= 0.5 / 255 + 1e-6


def drawn(points: np.ndarray) -> np.ndarray:
    """The mask of a ring (V, 2)."""
    return filled([Polygon(points)], SIZE)


def test_yolo_labels_join_parts_and_fill_holes(ring_and_parts: tuple, tmp_path: Path) -> None:
    ring, parts = ring_and_parts
    result = result_of(ring, parts, np.zeros(SIZE, bool))
    assert save_yolo(result, tmp_path / "labels" / "a.txt") == 1
    lines = [line.split() for line in (tmp_path / "labels" / "a.txt").read_text().splitlines()]
    assert [line[0] for line in lines] == ["0", "1"]
    masks = [drawn(np.array(line[1:], float).reshape(-1, 2) * SIZE[::-1]) for line in lines]
    ring[15:25, 20:30] = True
    assert (masks[0] ^ ring).sum() <= 20
    # What joins the parts has no pixel
    assert (parts ^ masks[1]).sum() <= 20
    save_yolo_names(result.classes, tmp_path / "data.yaml")
    assert yaml.safe_load((tmp_path / "data.yaml").read_text())["names"] == {0: "cat", 1: "a/b: c"}
    assert save_yolo(result_of(), tmp_path / "none.txt") == 0 and (tmp_path / "none.txt").read_text() == ""


def test_labelme_keeps_parts_and_holes(ring_and_parts: tuple, tmp_path: Path) -> None:
    image, path = tmp_path / "images" / "a.jpg", tmp_path / "out" / "labelme" / "a.json"
    save_labelme(result_of(*ring_and_parts), path, image)
    document = json.loads(path.read_text())
    assert document["imagePath"] == "../../images/a.jpg"
    assert (document["imageHeight"], document["imageWidth"]) == SIZE
    masked, *polygons = document["shapes"]
    assert masked["shape_type"] == "mask" and masked["label"] == "cat"
    (x0, y0), (x1, y1) = masked["points"]
    crop = np.asarray(Image.open(io.BytesIO(base64.b64decode(masked["mask"]))))
    mask = np.zeros(SIZE, bool)
    mask[y0 : y1 + 1, x0 : x1 + 1] = crop
    assert np.array_equal(mask, ring_and_parts[0])
    assert [shape["shape_type"] for shape in polygons] == ["polygon"] * 3
    assert {shape["group_id"] for shape in polygons} == {1}
    together = np.any([drawn(np.array(shape["points"])) for shape in polygons], axis=0)
    assert (together ^ ring_and_parts[1]).sum() <= 20
