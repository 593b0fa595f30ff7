"""Copy-paste: what lies above covers what lies below, in the picture, the masks and the boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetFromList, build_detection_train_loader
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from PIL import Image
from pycocotools import mask as mask_utils

from crispmask import get_config
from crispmask.data.copy_paste import CopyPaste
from crispmask.data.mapper import ImageMapper
from crispmask.modeling.groundtruth import full_masks
from tests.data.command_line import ROOT

TINY = ROOT / "tests" / "engine" / "tiny.yaml"
BELOW, ABOVE = 10, 200
SEEDS = range(30)


def instances(masks: torch.Tensor, first_class: int = 0) -> Instances:
    """Objects with masks (N, H, W) bool, in the boxes of these, each of a class of its own."""
    boxes = BitMasks(masks).get_bounding_boxes()
    classes = torch.arange(len(masks)) + first_class
    return Instances(tuple(masks.shape[1:]), gt_boxes=boxes, gt_classes=classes, gt_masks=BitMasks(masks))


def record(height: int, width: int, value: int, *, seed: int = 0, number: int = 3) -> dict[str, Any]:
    """A mapped image of one grey value with random rectangles."""
    rng = np.random.default_rng(seed)
    masks = torch.zeros(number, height, width, dtype=torch.bool)
    for mask in masks:
        y, x = rng.integers(0, height - 2), rng.integers(0, width - 2)
        mask[y : y + rng.integers(2, height), x : x + rng.integers(2, width)] = True
    image = torch.full((3, height, width), value, dtype=torch.uint8)
    return {"image": image, "instances": instances(masks, first_class=100 if value == ABOVE else 0)}


def naive(below: dict[str, Any], above: dict[str, Any], shift: tuple[int, int], chosen: list[int]) -> Any:
    """Picture and {class: mask} pixel by pixel, of all objects that keep a pixel."""
    _, height, width = below["image"].shape
    picture = below["image"].clone()
    bottom = below["instances"]
    ids = bottom.gt_classes.tolist()
    masks = {name: mask.clone() for name, mask in zip(ids, bottom.gt_masks, strict=True)}
    top = above["instances"]
    for index in chosen:
        masks[int(top.gt_classes[index])] = torch.zeros(height, width, dtype=torch.bool)
    for y in range(height):
        for x in range(width):
            from_y, from_x = y - shift[0], x - shift[1]
            if not (0 <= from_y < above["image"].shape[1] and 0 <= from_x < above["image"].shape[2]):
                continue
            hits = [i for i in chosen if top.gt_masks.tensor[i, from_y, from_x]]
            if hits:
                picture[:, y, x] = above["image"][:, from_y, from_x]
                for mask in masks.values():
                    mask[y, x] = False
                for index in hits:
                    masks[int(top.gt_classes[index])][y, x] = True
    return picture, {name: mask for name, mask in masks.items() if mask.any()}


def drawn_numbers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the code draws from NumPy from now on."""
    drawn: list[Any] = []
    for name in ("randint", "permutation"):
        original = getattr(np.random, name)

        def draw(*args: Any, original: Any = original) -> Any:
            drawn.append(original(*args))
            return drawn[-1]

        monkeypatch.setattr(np.random, name, draw)
    return drawn


@pytest.mark.parametrize("size", [(8, 9), (5, 12), (12, 5), (15, 16)])
def test_pixels_masks_and_boxes_are_those_of_a_loop_over_pixels(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    drawn = drawn_numbers(monkeypatch)
    for seed in SEEDS:
        np.random.seed(seed)
        drawn.clear()
        below, above = record(8, 9, BELOW, seed=seed), record(*size, ABOVE, seed=seed + 99)
        before = below["image"].clone()
        made = dict(below)
        CopyPaste(1.0, 2, 0.0).paste(made, above)
        number, order, *shift = drawn
        picture, masks = naive(below, above, tuple(shift), order[:number].tolist())
        assert 1 <= number <= 2 and torch.equal(made["image"], picture)
        found = made["instances"]
        assert sorted(found.gt_classes.tolist()) == sorted(masks)
        ids = found.gt_classes.tolist()
        for name, mask, box in zip(ids, found.gt_masks, found.gt_boxes, strict=True):
            assert torch.equal(mask, masks[name])
            assert torch.equal(box, BitMasks(mask[None]).get_bounding_boxes().tensor[0])
        assert torch.equal(below["image"], before), "the image that a data loader may keep was changed"


def test_every_number_of_objects_and_every_place_comes() -> None:
    counts, places = set(), set()
    for seed in range(200):
        np.random.seed(seed)
        above = record(4, 4, ABOVE, number=1)
        above["instances"] = instances(torch.ones(1, 4, 4, dtype=torch.bool))
        below = record(6, 5, BELOW, number=0)
        CopyPaste(1.0, 30, 0.0).paste(below, above)
        places.add(tuple(below["instances"].gt_boxes.tensor[0, :2].tolist()))
        many = record(6, 5, BELOW, number=0)
        CopyPaste(1.0, 3, 0.0).paste(many, record(6, 5, ABOVE, number=5))
        counts.add(len(many["instances"]))
    assert places == {(x, y) for x in (0, 1) for y in (0, 1, 2)}
    assert counts == {1, 2, 3}


@pytest.mark.parametrize(("min_visible", "stays"), [(0.2, True), (0.25, True), (0.3, False), (1.0, False)])
def test_a_covered_object_stays_while_enough_of_it_is_seen(min_visible: float, stays: bool) -> None:
    below, above = record(4, 4, BELOW, number=0), record(4, 4, ABOVE, number=0)
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[0], masks[1, :, :3], masks[2, 3, 3] = True, True, True
    below["instances"] = instances(masks)
    # A box of the annotator's, wider than the mask
    below["instances"].gt_boxes.tensor[2] = torch.tensor([2.5, 2.5, 4, 4])
    above["instances"] = instances(masks[1:2], first_class=7)
    CopyPaste(1.0, 30, min_visible).paste(below, above)
    # The first keeps a quarter, the second nothing, the third all and its box
    assert below["instances"].gt_classes.tolist() == ([0, 2, 7] if stays else [2, 7])
    boxes = below["instances"].gt_boxes.tensor.tolist()
    assert boxes[-2:] == [[2.5, 2.5, 4, 4], [0, 0, 3, 4]]
    assert not stays or boxes[0] == [3, 0, 4, 4]


def test_what_the_border_cuts_off_is_no_object_and_covers_nothing() -> None:
    seen = set()
    for seed in SEEDS:
        np.random.seed(seed)
        below, above = record(4, 4, BELOW), record(4, 8, ABOVE, number=0)
        above["instances"] = instances(torch.ones(1, 4, 8, dtype=torch.bool), first_class=7)
        before = below["instances"]
        CopyPaste(1.0, 30, 0.6).paste(below, above)  # a half can be seen at most
        assert below["instances"] is before and (below["image"] == BELOW).all()
        CopyPaste(1.0, 30, 0.5).paste(below, above)
        assert (below["image"] == ABOVE).all()
        seen.add(tuple(below["instances"].gt_classes.tolist()))
    assert seen == {(7,)}


def test_polygons_become_the_bitmaps_that_they_mean() -> None:
    outline = np.array([1.0, 1.0, 6.0, 1.5, 5.0, 6.0])
    polygons = PolygonMasks([[outline], [outline[::-1].copy() + 1.0]])
    below, above = record(8, 8, BELOW), record(8, 8, ABOVE, number=1)
    below["instances"] = Instances(
        (8, 8),
        gt_boxes=polygons.get_bounding_boxes(),
        gt_classes=torch.tensor([0, 1]),
        gt_masks=polygons,
    )
    above["instances"] = instances(torch.ones(1, 8, 8, dtype=torch.bool).triu(2), first_class=7)
    CopyPaste(1.0, 30, 0.0).paste(below, above)
    left = full_masks(polygons, 8, 8) & ~torch.ones(8, 8, dtype=torch.bool).triu(2)
    assert torch.equal(below["instances"].gt_masks.tensor[:2], left)
    # The other way round: a donor with polygons
    taken = record(8, 8, BELOW, number=0)
    donor = {**above, "instances": Instances((8, 8), gt_masks=polygons, gt_classes=torch.tensor([0, 1]))}
    CopyPaste(1.0, 30, 0.0).paste(taken, donor)
    found = taken["instances"]
    for name, mask in zip(found.gt_classes, found.gt_masks, strict=True):
        assert torch.equal(mask, full_masks(polygons, 8, 8)[name])


def test_images_without_objects_get_and_give_them() -> None:
    boxes, classes = Boxes(torch.zeros(0, 4)), torch.zeros(0, dtype=torch.long)
    nothing = Instances((5, 6), gt_boxes=boxes, gt_classes=classes)
    empty = {"image": torch.full((3, 5, 6), BELOW, dtype=torch.uint8), "instances": nothing}
    full = record(5, 6, ABOVE)
    objects, image = full["instances"], full["image"]
    CopyPaste(1.0, 30, 0.0).paste(full, empty)
    assert full["instances"] is objects and full["image"] is image
    CopyPaste(1.0, 30, 0.0).paste(empty, empty)
    assert len(empty["instances"]) == 0
    CopyPaste(1.0, 30, 0.0).paste(empty, full)
    found = empty["instances"]
    assert len(found) > 0 and torch.equal(found.gt_masks.tensor.any(0), (empty["image"] == ABOVE)[0])


def test_objects_with_boxes_alone_are_neither_covered_nor_pasted() -> None:
    boxes = {"gt_boxes": Boxes(torch.tensor([[0.0, 0, 4, 4]])), "gt_classes": torch.tensor([0])}
    below, above = (
        {**record(5, 5, value), "instances": Instances((5, 5), **boxes)} for value in (BELOW, ABOVE)
    )
    for first, second in ((below, record(5, 5, ABOVE)), (record(5, 5, BELOW), above)):
        before = dict(first)
        CopyPaste(1.0, 30, 0.0).paste(first, second)
        assert all(first[key] is before[key] for key in before)


def own_images(folder: Path, number: int = 4) -> list[dict[str, Any]]:
    """Dicts of images of one grey value each: an object and a crowd region; the first has no object."""
    dicts = []
    for index in range(number):
        path = folder / f"{index}.png"
        Image.fromarray(np.full((24, 24, 3), 40 * index, np.uint8)).save(path)
        mask, crowd = (np.zeros((24, 24), np.uint8, order="F") for _ in range(2))
        mask[4 + index : 14, 4:12], crowd[:, 16:] = 1, 1
        rows = [
            {
                "segmentation": mask_utils.encode(each),
                "bbox": mask_utils.toBbox(mask_utils.encode(each)).tolist(),
                "bbox_mode": 1,
                "category_id": 0,
                "iscrowd": is_crowd,
            }
            for each, is_crowd in ((mask, 0), (crowd, 1))
        ]
        rows = rows[1:] if index == 0 else rows
        dicts.append(
            {"file_name": str(path), "height": 24, "width": 24, "image_id": index, "annotations": rows}
        )
    return dicts


OPTS = (
    *("INPUT.MIN_SIZE_TRAIN", (24,), "INPUT.MASK_FORMAT", "bitmask", "INPUT.RANDOM_FLIP", "none"),
    *("INPUT.COPY_PASTE.PROBABILITY", 1.0, "MODEL.MASK_ON", True),
)


def test_the_mapper_pastes_objects_of_others_and_no_crowd_regions(tmp_path: Path) -> None:
    dicts = own_images(tmp_path)
    mapper = ImageMapper(get_config(None, OPTS), is_train=True, others=dicts)
    seen = set()
    for seed in range(20):
        np.random.seed(seed)
        made = mapper(dicts[0])
        union = torch.zeros(24, 24, dtype=torch.bool)
        for mask in made["instances"].gt_masks if len(made["instances"]) else ():
            union |= mask
        values = made["image"][0][union].unique().tolist()
        assert (made["image"][0][~union] == 0).all() and len(values) <= 1
        seen.update(values)
        assert [made["file_name"], made["image_id"]] == [dicts[0]["file_name"], 0]
    assert seen == {40, 80, 120}
    with pytest.raises(ValueError, match="needs others"):
        ImageMapper(get_config(None, OPTS), is_train=True)
    plain = ImageMapper(get_config(None, OPTS), is_train=False)(dicts[1])
    assert (plain["image"] == 40).all(), "the evaluation pastes nothing"


def test_the_probability_is_the_share_of_images_that_get_objects(tmp_path: Path) -> None:
    dicts = own_images(tmp_path)
    cfg = get_config(None, [*OPTS, "INPUT.COPY_PASTE.PROBABILITY", 0.25])
    mapper = ImageMapper(cfg, is_train=True, others=dicts[1:])
    np.random.seed(0)
    share = np.mean([len(mapper(dicts[0])["instances"]) > 0 for _ in range(400)])
    assert 0.19 < share < 0.31


def test_a_loader_of_several_processes_repeats_itself_and_its_processes_do_not(tmp_path: Path) -> None:
    dicts = own_images(tmp_path)
    cfg = get_config(None, OPTS)
    runs = []
    for _ in range(2):
        torch.manual_seed(5)
        mapper = ImageMapper(cfg, is_train=True, others=DatasetFromList(dicts, copy=False))
        loader = build_detection_train_loader(
            dicts[:1] * 8, mapper=mapper, total_batch_size=1, num_workers=2, aspect_ratio_grouping=False
        )
        batches = iter(loader)
        runs.append(torch.stack([next(batches)[0]["image"] for _ in range(8)]))
        del batches
    assert torch.equal(*runs)
    assert not torch.equal(runs[0][::2], runs[0][1::2]), "both processes draw the same numbers"


@pytest.mark.parametrize("head", ["", "RefineMask", "Transfiner"])
def test_heads_learn_from_batches_with_and_without_pasted_objects(shapes_root: Path, head: str) -> None:
    """Polygons beside bitmaps, since ``INPUT.MASK_FORMAT`` is polygon."""
    heads = {
        "": (),
        "RefineMask": ("MODEL.ROI_MASK_HEAD.NAME", "RefineMaskHead"),
        "Transfiner": ("MODEL.ROI_MASK_HEAD.NAME", "TransfinerMaskHead"),
    }[head]
    heads = (*heads, "MODEL.ROI_HEADS.NAME", f"{head}ROIHeads") if head else heads
    cfg = get_config(TINY, [*heads, "INPUT.COPY_PASTE.PROBABILITY", 1.0, "INPUT.MASK_FORMAT", "polygon"])
    dicts = DatasetCatalog.get("shapes_train")
    for row in (row for image in dicts for row in image["annotations"]):
        x, y, width, height = row["bbox"]
        row["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    torch.manual_seed(0)
    np.random.seed(0)
    pasting = ImageMapper(cfg, is_train=True, others=dicts)
    plain = ImageMapper(get_config(TINY, ["INPUT.MASK_FORMAT", "polygon"]), is_train=True)
    batch = [pasting(dicts[0]), plain(dicts[1])]
    kinds = [type(image["instances"].gt_masks) for image in batch]
    assert kinds == [BitMasks, PolygonMasks]
    model = build_model(cfg).train()
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert any("mask" in name for name in losses)
