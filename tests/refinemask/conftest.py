"""Models and inputs of the golden files: what the released code computes from drawn weights."""

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

HEIGHT, WIDTH, COUNTS, SEED = 128, 160, (3, 2), 0
CONFIGS = {
    "coco": "refinemask/coco/R_50_FPN_1x.yaml",
    "lvis": "refinemask/lvis/R_50_FPN_1x.yaml",
    "cityscapes": "refinemask/cityscapes/R_50_FPN_1x.yaml",
    "v2_coco": "refinemask/coco/R_50_FPN_1x_v2.yaml",
}


@dataclass
class GoldenCase:
    """One golden file with the model that must reproduce it."""

    name: str
    expected: np.lib.npyio.NpzFile
    model: torch.nn.Module

    @property
    def head(self) -> torch.nn.Module:
        return self.model.roi_heads.mask_head

    @property
    def num_classes(self) -> int:
        return self.model.roi_heads.num_classes

    def features(self) -> dict[str, torch.Tensor]:
        shapes = {f"p{level}": (len(COUNTS), 256, HEIGHT >> level, WIDTH >> level) for level in (2, 3, 4, 5)}
        return {name: torch.from_numpy(golden.feature(name, shape, SEED)) for name, shape in shapes.items()}

    def detections(self) -> list[Instances]:
        return [
            Instances((HEIGHT, WIDTH), pred_boxes=Boxes(boxes), pred_classes=classes)
            for boxes, classes in self._drawn()
        ]

    def proposals(self) -> list[Instances]:
        return [
            Instances(
                (HEIGHT, WIDTH),
                proposal_boxes=Boxes(boxes),
                gt_classes=classes,
                gt_masks=PolygonMasks([[golden.polygon(box)] for box in boxes.numpy()]),
            )
            for boxes, classes in self._drawn()
        ]

    def _drawn(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [
            (
                torch.from_numpy(golden.boxes(f"image{i}", n, HEIGHT, WIDTH, SEED)),
                torch.from_numpy(golden.labels(f"image{i}", n, self.num_classes, SEED)),
            )
            for i, n in enumerate(COUNTS)
        ]


def golden_state_dict(expected: np.lib.npyio.NpzFile) -> dict[str, torch.Tensor]:
    """The weights of a golden file under their released names."""
    shapes = [tuple(int(n) for n in str(shape).split(",")) for shape in expected["shapes"]]
    return {
        str(key): torch.from_numpy(golden.weight(str(key), shape, SEED))
        for key, shape in zip(expected["keys"], shapes, strict=True)
    }


@pytest.fixture(scope="session", params=list(CONFIGS))
def golden_case(request: pytest.FixtureRequest) -> GoldenCase:
    expected = np.load(GOLDEN / f"refinemask_{request.param}_seed0.npz")
    cfg = crispmask.get_config(CONFIGS[request.param], ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg).eval()
    result = model.load_state_dict(
        convert_state_dict(golden_state_dict(expected), "refinemask"), strict=False
    )
    left = [key for key in result.missing_keys if key.startswith("roi_heads.mask_head.")]
    assert not result.unexpected_keys and not left
    return GoldenCase(request.param, expected, model)
