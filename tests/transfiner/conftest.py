"""The released model with the weights of its golden file, and the inputs that go with it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, PolygonMasks

import crispmask
from crispmask.checkpoint import convert_state_dict

GOLDEN = Path(__file__).parents[1] / "golden"
_spec = importlib.util.spec_from_file_location("golden", GOLDEN / "golden.py")
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

SIDE, COUNT, MIN_SIZE, SEED = 320, 6, 24, 0


@dataclass
class GoldenCase:
    """The golden file with the model that must reproduce it."""

    expected: np.lib.npyio.NpzFile
    model: torch.nn.Module

    @property
    def head(self) -> torch.nn.Module:
        return self.model.roi_heads.mask_head

    def array(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.expected[name])

    def features(self) -> dict[str, torch.Tensor]:
        shapes = {f"p{level}": (1, 256, SIDE >> level, SIDE >> level) for level in (2, 3, 4, 5)}
        return {name: torch.from_numpy(golden.feature(name, shape, SEED)) for name, shape in shapes.items()}

    def detections(self) -> list[Instances]:
        boxes, classes = _drawn()
        return [Instances((SIDE, SIDE), pred_boxes=Boxes(boxes), pred_classes=classes)]

    def proposals(self) -> list[Instances]:
        boxes, classes = _drawn()
        masks = PolygonMasks([[golden.polygon(box)] for box in boxes.numpy()])
        return [Instances((SIDE, SIDE), proposal_boxes=Boxes(boxes), gt_classes=classes, gt_masks=masks)]


def _drawn() -> tuple[torch.Tensor, torch.Tensor]:
    boxes = golden.boxes("image0", COUNT, SIDE, SIDE, SEED, MIN_SIZE)
    return torch.from_numpy(boxes), torch.from_numpy(golden.labels("image0", COUNT, 80, SEED))


def golden_state_dict(expected: np.lib.npyio.NpzFile) -> dict[str, torch.Tensor]:
    """The weights of the golden file under their released names."""
    drawn = {}
    for key, shape in zip(map(str, expected["keys"]), expected["shapes"], strict=True):
        override = f"override/{key}"
        values = (
            expected[override]
            if override in expected.files
            else golden.weight(key, tuple(int(n) for n in str(shape).split(",")), SEED)
        )
        drawn[key] = torch.from_numpy(values)
    return drawn


@pytest.fixture(scope="session")
def golden_case() -> GoldenCase:
    expected = np.load(GOLDEN / "transfiner_coco_seed0.npz")
    opts = ["MODEL.TRANSFINER.VARIANT", "released", "MODEL.DEVICE", "cpu"]
    model = build_model(crispmask.get_config("transfiner/coco/R_50_FPN_1x.yaml", opts)).eval()
    converted = convert_state_dict(golden_state_dict(expected), "transfiner")
    result = model.load_state_dict(converted, strict=False)
    left = [key for key in result.missing_keys if key.startswith("roi_heads.mask_head.")]
    assert not result.unexpected_keys and not left
    return GoldenCase(expected, model)
