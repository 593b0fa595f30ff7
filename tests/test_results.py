"""A prediction: its objects, masks, polygons and rows, and what it is drawn as."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as mask_utils

from crispmask.errors import UserError
from crispmask.evaluation.masks.boundary_iou import boundary_width
from crispmask.evaluation.masks.encode import encode_crop
from crispmask.ops import mask_boundary
from crispmask.pasting import encode_pasted
from crispmask.polygons import mask_polygons, ring_area
from crispmask.results import Classes, Result

SIZE = (60, 80)
CLASSES = Classes(("cat", "dog"), (17, "d-5"))


def made(number: int = 6, seed: int = 0) -> tuple[Result, torch.Tensor]:
    """A result with a picture, and its masks as Detectron2 pastes them."""
    torch.manual_seed(seed)
    corners = torch.rand(number, 2, 2) * torch.tensor([90.0, 70.0]) - 5
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1) + 1], dim=1)
    boxes = boxes.clamp(torch.zeros(4), torch.tensor([80.0, 60, 80, 60]))
    coarse = torch.rand(number, 1, 4, 4)
    soft = torch.nn.functional.interpolate(coarse, (28, 28), mode="bilinear")[:, 0]
    result = Result(
        size=SIZE,
        boxes=boxes.numpy(),
        scores=np.linspace(0.9, 0.1, number, dtype=np.float32),
        class_indices=np.arange(number) % 2,
        classes=CLASSES,
        rles=tuple(encode_pasted(soft, boxes, SIZE)),
        box_probabilities=soft.numpy(),
        picture=np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), np.uint8),
    )
    return result, paste_masks_in_image(soft, Boxes(boxes), SIZE)


def test_masks_are_those_that_detectron2_pastes() -> None:
    result, masks = made()
    assert masks.any(dim=(1, 2)).all()
    assert np.array_equal(result.masks, masks.numpy())
    assert np.array_equal(result.soft_masks >= 0.5, masks.numpy())
    for found, mask in zip(result, masks.numpy(), strict=True):
        assert np.array_equal(found.mask, mask) and found.area == mask.sum()
        assert np.array_equal(found.soft_mask >= 0.5, mask)


def test_rows_are_those_that_detectron2_writes() -> None:
    result, masks = made()
    instances = Instances(SIZE, pred_boxes=Boxes(torch.from_numpy(result.boxes)), pred_masks=masks)
    instances.scores = torch.from_numpy(result.scores)
    instances.pred_classes = torch.from_numpy(result.class_indices)
    expected = instances_to_coco_json(instances, 7)
    for row in expected:
        row["category_id"] = CLASSES.category_ids[row["category_id"]]
    assert result.rows(7) == expected


def test_objects_are_chosen_by_score_place_and_condition() -> None:
    result, _ = made(6)
    assert len(result.above(0.5)) == 3 and len(result.above(0.95)) == 0
    assert [found.score for found in result[::-1].best(2)] == pytest.approx([0.9, 0.74])
    assert result[-1].class_name == "dog" and result[-1].category_id == "d-5"
    dogs = result[result.class_indices == 1]
    assert dogs.class_names == ["dog"] * 3 and np.array_equal(dogs.masks, result.masks[1::2])
    assert np.array_equal(dogs.soft_masks, result.soft_masks[1::2])
    assert len(result[[]]) == 0 and result[[2, 0]].scores.tolist() == result.scores[[2, 0]].tolist()
    with pytest.raises(IndexError):
        result[6]
    assert repr(dogs) == "<Result: 80 x 60, 3 objects: 3 dog>"


def test_no_objects_are_a_result_like_another() -> None:
    result, _ = made()
    empty = result.above(1)
    assert empty.masks.shape == (0, *SIZE) and empty.soft_masks.shape == (0, *SIZE)
    assert empty.rows(1) == [] and empty.polygons() == [] and list(empty) == []
    assert np.array_equal(np.asarray(empty.draw()), result.picture)
    assert repr(empty) == "<Result: 80 x 60, 0 objects>"


def filled(polygons: list, size: tuple[int, int]) -> np.ndarray:
    """The mask of polygons by pycocotools: outlines minus holes."""
    mask = np.zeros(size, int)
    for part in polygons:
        for ring in part:
            for points in [ring] if isinstance(ring, np.ndarray) else ring:
                mask += mask_utils.decode(mask_utils.frPyObjects([points.ravel().tolist()], *size))[..., 0]
    assert set(np.unique(mask)) <= {0, 1, 2}
    return mask == 1


@pytest.mark.parametrize("seed", range(5))
def test_polygons_give_the_mask_again(seed: int) -> None:
    result, _ = made(seed=seed)
    for found in result:
        assert np.array_equal(filled(found.polygons(), SIZE), found.mask)
    # Parts that touch at corners, holes in holes, and the border of the image
    noise = np.random.default_rng(seed).random((30, 40)) < 0.5
    parts = mask_polygons(noise)
    total = sum(ring_area(part.outline) - sum(map(ring_area, part.holes)) for part in parts)
    assert abs(total - noise.sum()) < 0.3 * noise.sum()
    even = sum(filled([part], noise.shape) for part in parts)
    assert np.array_equal(even, noise)


def test_a_ring_keeps_its_hole_and_parts_stay_apart() -> None:
    mask = np.zeros(SIZE, bool)
    mask[5:40, 10:50], mask[15:25, 20:30], mask[50:55, 60:70] = True, False, True
    ring, dot = mask_polygons(mask)
    assert len(ring.holes) == 1 and dot.holes == ()
    assert ring.outline.min(axis=0).tolist() == [10, 5] and ring.outline.max(axis=0).tolist() == [50, 40]
    # Straight lines have no vertices but at their ends, where corners are cut
    assert len(ring.outline) == len(ring.holes[0]) == len(dot.outline) == 8
    simple, other = mask_polygons(mask, tolerance=1.0)
    assert len(simple.outline) + len(simple.holes[0]) + len(other.outline) < 24
    assert (filled([simple, other], SIZE) != mask).sum() < 20
    assert mask_polygons(np.zeros(SIZE, bool)) == []


def test_polygons_of_an_object_lie_where_it_is() -> None:
    result, _ = made()
    for found, parts in zip(result, result.polygons(tolerance=0.5), strict=True):
        x0, y0, x1, y1 = found.box
        points = np.concatenate([part.outline for part in parts])
        assert (points >= [x0 - 1, y0 - 1]).all() and (points <= [x1 + 1, y1 + 1]).all()


def test_a_notebook_shows_the_drawn_picture() -> None:
    result, _ = made()
    shown = np.asarray(Image.open(io.BytesIO(result._repr_png_())))
    assert shown.shape == (*SIZE, 3) and not np.array_equal(shown, result.picture)
    assert np.array_equal(shown, np.asarray(result.draw()))
    (first, *_) = made(1)
    lines = np.asarray(first.draw(labels=False, style="outline"))
    changed, (mask,) = (lines != first.picture).any(axis=2), first.masks
    assert changed.any() and changed.sum() < mask.sum()
    # Corners are rounded, by less than half a pixel
    assert (changed & ~mask).sum() < 0.1 * changed.sum()
    assert result.draw(scale=3).size == (240, 180)
    with pytest.raises(UserError, match="no style 'dots': give fill, outline, boundary"):
        result.draw(style="dots")


def test_the_band_drawn_is_the_one_that_boundary_iou_counts() -> None:
    mask = np.zeros(SIZE, bool)
    mask[10:40, 15:60], mask[20:35, 30:50] = True, False
    rles = (encode_crop(mask.T, (0, 0, *SIZE[::-1]), SIZE),)
    arrays = np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.int64)
    grey = np.full((*SIZE, 3), 128, np.uint8)
    band = mask_boundary(torch.from_numpy(mask), boundary_width(*SIZE, 0.02)).numpy()
    drawn = np.asarray(
        Result(SIZE, *arrays, CLASSES, rles, picture=grey).draw(style="boundary", labels=False)
    )
    changed = np.abs(drawn.astype(int) - grey).max(axis=2) > 20
    # Corners of pixels are rounded
    assert band.sum() < mask.sum() and (changed != band).sum() <= 8


def test_a_result_without_picture_or_masks_says_so() -> None:
    result, _ = made()
    bare = Result(SIZE, result.boxes, result.scores, result.class_indices, CLASSES)
    assert bare._repr_png_() is None
    for wish, named in (
        (bare.draw, "keeps no picture"),
        (lambda: bare.masks, "boxes alone"),
        (lambda: bare.soft_masks, "no probabilities"),
        (lambda: bare.draw(result.picture[:-1]), "result of one of"),
    ):
        with pytest.raises(UserError, match=named):
            wish()
    assert all("segmentation" not in row for row in bare.rows(1))
    assert not np.array_equal(np.asarray(bare.draw(result.picture)), result.picture)


def test_supervision_gets_all_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = made()
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="pip install supervision"):
        result.to_supervision()
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=lambda **given: given))
    given = result.to_supervision()
    assert given["xyxy"] is result.boxes and np.array_equal(given["mask"], result.masks)
    assert given["class_id"].tolist() == [0, 1] * 3 and given["data"]["class_name"][1] == "dog"
