"""Losses of 20 steps of tiny models on fixed data, one text file a model in ``losses/``.

    python -m tests.golden.pinned_losses

writes the files anew. A change of one of them is a change of what is learnt, and its commit says why.

Weights, maps and objects come from NumPy's Mersenne Twister (``golden.py``). Mask Transfiner draws nodes by
``torch.randperm`` on the CPU, which gave the same from torch 2.4 to 2.15; dropout is off, for its random
numbers depend on the build of torch. All is float32: the heads cast to it themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, ImageList, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from refinemask_d2.mask_head import SEMANTIC_TARGET
from tests.golden import golden
from tests.refinemask import tiny_refinemask
from tests.transfiner import tiny_transfiner
from tests.transfiner.tiny_query import PLAIN, query_config

FOLDER = Path(__file__).parent / "losses"
STEPS, RATE = 20, 0.02
SIZE, IMAGES = (96, 128), 2
# So that some of the nodes and RoIs are drawn, and others left out
SAMPLED = {"DROPOUT": 0.0, "ATTENTION_DROPOUT": 0.0, "TRAIN_NODES": 12, "TRAIN_ROIS": 4}
MODELS: dict[str, Callable[[], CfgNode]] = {
    "refinemask_v1": lambda: tiny_refinemask.tiny_config(),
    "refinemask_v2": lambda: tiny_refinemask.tiny_config(MODEL__REFINEMASK__VARIANT="v2"),
    "transfiner_paper": lambda: tiny_transfiner.tiny_config(**SAMPLED),
    "transfiner_released": lambda: tiny_transfiner.tiny_config(VARIANT="released", **SAMPLED),
    # Three layers, so that the last one is not the second
    "query_deformable": lambda: query_config(TWO_STAGE=True, DECODER_LAYERS=3, **_of_masks(SAMPLED)),
    "query_plain": lambda: query_config(**PLAIN, **_of_masks(SAMPLED)),
}


def _of_masks(keys: dict[str, object]) -> dict[str, object]:
    return {f"MODEL__TRANSFINER__{key}": value for key, value in keys.items()}


def curves(name: str) -> dict[str, list[float]]:
    """The losses of each step, by their names, of a model of ``MODELS``."""
    cfg = MODELS[name]()
    model = build_model(cfg).train()
    draw_weights(model)
    step = query_step if cfg.MODEL.META_ARCHITECTURE == "QueryTransfiner" else head_step
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    found: dict[str, list[float]] = {}
    torch.manual_seed(0)
    for _ in range(STEPS):
        with EventStorage():
            losses = step(model, cfg)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        for key, value in losses.items():
            found.setdefault(key, []).append(value.item())
    return found


def draw_weights(model: nn.Module) -> None:
    """Give every parameter numbers that are the same on all machines."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(golden.weight(name, parameter.shape, 0)))


def features_of(cfg: CfgNode) -> dict[str, Tensor]:
    """FPN maps p2 to p6 (B, C, H, W)."""
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    shapes = {f"p{k}": (IMAGES, channels, SIZE[0] >> k or 1, SIZE[1] >> k or 1) for k in range(2, 7)}
    return {name: torch.from_numpy(golden.feature(name, shape, 0)) for name, shape in shapes.items()}


def objects_of(image: int, count: int, prefix: str) -> Instances:
    """Boxes with stars in them, under ``prefix`` boxes."""
    boxes = golden.boxes(f"image{image}", count, *SIZE, 0, 24)
    polygons = [[np.asarray(golden.polygon(box), np.float64)] for box in boxes]
    classes = torch.from_numpy(golden.labels(f"image{image}", count, tiny_refinemask.NUM_CLASSES, 0))
    fields = {f"{prefix}_boxes": Boxes(torch.from_numpy(boxes)), "gt_classes": classes}
    return Instances(SIZE, gt_masks=PolygonMasks(polygons), **fields)


def head_step(model: nn.Module, cfg: CfgNode) -> dict[str, Tensor]:
    """Losses of a mask head on given proposals."""
    features = features_of(cfg)
    target = (torch.arange(SIZE[1] // 4) % 5 > 2).expand(IMAGES, 1, SIZE[0] // 4, SIZE[1] // 4)
    proposals = [objects_of(image, 3, "proposal") for image in range(IMAGES)]
    return model.roi_heads.mask_head({**features, SEMANTIC_TARGET: target}, proposals)


def query_step(model: nn.Module, cfg: CfgNode) -> dict[str, Tensor]:
    """Losses of a query-based detector and of the masks in its boxes."""
    features, truth = features_of(cfg), [objects_of(image, 2 + image, "gt") for image in range(IMAGES)]
    images = ImageList(torch.zeros(IMAGES, 3, *SIZE), [SIZE] * IMAGES)
    proposals, losses = model.proposal_generator(images, features, truth)
    _, of_masks = model.roi_heads(images, features, proposals, truth)
    return losses | of_masks


def write(name: str, found: dict[str, list[float]]) -> None:
    """A line a step, a column a loss."""
    lines = ["  ".join(found)]
    lines += ["  ".join(f"{value:.7g}" for value in row) for row in zip(*found.values(), strict=True)]
    (FOLDER / f"{name}.txt").write_text("\n".join(lines) + "\n")


def read(name: str) -> dict[str, list[float]]:
    """What :func:`write` wrote."""
    names, *rows = ((FOLDER / f"{name}.txt").read_text()).splitlines()
    columns = zip(*(map(float, row.split()) for row in rows), strict=True)
    return dict(zip(names.split(), map(list, columns), strict=True))


if __name__ == "__main__":
    for model_name in MODELS:
        write(model_name, curves(model_name))
