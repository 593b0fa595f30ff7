"""Augmentations beyond Detectron2's: what they change, and what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from PIL import Image
from pycocotools import mask as mask_utils

from crispmask import get_config
from crispmask.data import augmentations
from crispmask.data.mapper import ImageMapper
from crispmask.errors import UserError

SIZE = 20
OPTS = (
    *("INPUT.MIN_SIZE_TRAIN", (SIZE,), "INPUT.MASK_FORMAT", "bitmask", "INPUT.RANDOM_FLIP", "none"),
    *("MODEL.MASK_ON", True, "INPUT.FORMAT", "RGB"),
)


def mapper(*opts: object, is_train: bool = True) -> ImageMapper:
    return ImageMapper(get_config(None, [*OPTS, *opts]), is_train=is_train)


def noise(folder: Path, masks: list[np.ndarray]) -> dict[str, Any]:
    """An image (20, 20) of noise with the objects of some masks."""
    path = folder / "noise.png"
    picture = np.random.default_rng(0).integers(60, 180, (SIZE, SIZE, 3), np.uint8)
    Image.fromarray(picture).save(path)
    encoded = [mask_utils.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
    rows = [
        {"segmentation": rle, "bbox": mask_utils.toBbox(rle).tolist(), "bbox_mode": 1, "category_id": number}
        for number, rle in enumerate(encoded)
    ]
    return {"file_name": str(path), "height": SIZE, "width": SIZE, "annotations": rows}


def rectangle(y0: int, x0: int, y1: int, x1: int) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_turns_are_of_all_four_quarters_and_turn_masks_along(tmp_path: Path) -> None:
    mask = rectangle(2, 3, 9, 18)
    record = noise(tmp_path, [mask])
    picture = mapper()(record)["image"]
    turning, seen = mapper("INPUT.RANDOM_TURN", True), set()
    for seed in range(20):
        np.random.seed(seed)
        made = turning(record)
        (turns,) = [k for k in range(4) if torch.equal(made["image"], torch.rot90(picture, k, (1, 2)))]
        expected = torch.from_numpy(np.rot90(mask, turns).copy())
        assert torch.equal(made["instances"].gt_masks.tensor[0], expected)
        assert torch.allclose(
            made["instances"].gt_boxes.tensor, made["instances"].gt_masks.get_bounding_boxes().tensor
        )
        seen.add(turns)
    assert seen == {0, 1, 2, 3}


def test_a_turn_without_opencv_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentations, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"INPUT\.RANDOM_TURN needs OpenCV: pip install"):
        mapper("INPUT.RANDOM_TURN", True)
    mapper("INPUT.RANDOM_TURN", True, is_train=False)


@pytest.mark.parametrize("name", ["BRIGHTNESS", "CONTRAST", "SATURATION", "LIGHTING"])
def test_colours_change_as_far_as_the_key_says_and_objects_do_not(tmp_path: Path, name: str) -> None:
    record = noise(tmp_path, [rectangle(2, 3, 9, 18)])
    plain = mapper()(record)
    strength = 100.0 if name == "LIGHTING" else 0.25
    changing = mapper(f"INPUT.COLOR_JITTER.{name}", strength)
    pictures = set()
    for seed in range(20):
        np.random.seed(seed)
        made = changing(record)
        assert made["image"].dtype == torch.uint8
        assert torch.equal(made["instances"].gt_masks.tensor, plain["instances"].gt_masks.tensor)
        pictures.add(made["image"].numpy().tobytes())
        factor = made["image"].float().mean() / plain["image"].float().mean()
        assert name != "BRIGHTNESS" or 0.74 < factor < 1.26
    assert len(pictures) > 10 and plain["image"].numpy().tobytes() not in pictures
    evaluation = mapper(f"INPUT.COLOR_JITTER.{name}", strength, "INPUT.MIN_SIZE_TEST", SIZE, is_train=False)
    assert torch.equal(evaluation(record)["image"], plain["image"])


def test_a_crop_leaves_what_detectron2_leaves(tmp_path: Path) -> None:
    """Masks that lie outside are not decoded; the boxes of the file may be anything."""
    rng = np.random.default_rng(1)
    corners = [np.sort(rng.integers(0, SIZE + 1, (2, 2)), axis=0) for _ in range(30)]
    masks = [rectangle(*low, *high) for low, high in corners if (high > low).all()]
    record = noise(tmp_path, masks)
    for row in record["annotations"]:
        row["bbox"] = [0, 0, SIZE, SIZE]
    crop = ("INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [0.4, 0.4], "INPUT.RANDOM_FLIP", "horizontal")
    cfg = get_config(None, [*OPTS, *crop])
    theirs, ours = DatasetMapper(cfg, is_train=True), mapper(*crop)
    counts = set()
    for seed in range(20):
        made = []
        for each in (theirs, ours):
            np.random.seed(seed)
            made.append(each(record)["instances"])
        assert torch.equal(made[0].gt_masks.tensor, made[1].gt_masks.tensor)
        assert torch.equal(made[0].gt_boxes.tensor, made[1].gt_boxes.tensor)
        assert torch.equal(made[0].gt_classes, made[1].gt_classes)
        counts.add(len(made[0]))
    assert len(counts) > 3 and max(counts) < len(masks)


def test_a_crop_of_an_image_without_objects_is_one_without_objects(tmp_path: Path) -> None:
    cropping = mapper("INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [0.2, 0.2])
    crowd = noise(tmp_path, [rectangle(0, 0, 9, 9)])
    crowd["annotations"][0]["iscrowd"] = 1
    for record in (noise(tmp_path, []), crowd):
        made = cropping(record)
        assert len(made["instances"]) == 0 and "annotations" not in made
    far = noise(tmp_path, [rectangle(0, 0, 4, 4)])
    np.random.seed(0)
    assert {len(cropping(far)["instances"]) for _ in range(200)} == {0, 1}
