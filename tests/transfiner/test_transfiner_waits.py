"""How often inference waits for the device."""

from __future__ import annotations

import warnings

import pytest
import torch
from detectron2.structures import Boxes, Instances
from pretend_device import There, pretended_device, put_there
from tiny_transfiner import tiny_config, tiny_head

from tests.refinemask.tiny_refinemask import random_features

SIZE = (96, 128)
BOXES = [[[5.0, 8, 60, 70], [40, 20, 120, 90], [3, 3, 30, 90]], [[9.0, 9, 50, 50], [60, 40, 127, 95]]]
SETTINGS = {
    "paper": {},
    "paper, depth 1": {"DEPTH": 1},
    "paper, depth 2": {"DEPTH": 2},
    "paper, depth 4": {"DEPTH": 4},
    "paper, turned down": {"MAX_NODES": 9, "TOP_K": 1, "SKIP_LEVELS": (2,), "JOINT": False},
    "coarse": {"DEPTH": 0},
    "released": {"VARIANT": "released"},
    "released, best RoIs": {"VARIANT": "released", "TOP_K": 1},
    "full": {"REGION": "full"},
    "dense": {"ATTENTION": "dense"},
}


def infer(head, to) -> list[Instances]:
    """Masks for given boxes in two images; ``to`` puts a tensor on the device of the head."""
    detections = []
    for boxes, scores in zip(BOXES, ([0.2, 0.9, 0.4], [0.7, 0.8]), strict=True):
        found = Instances(SIZE, pred_boxes=Boxes(to(torch.tensor(boxes))), scores=to(torch.tensor(scores)))
        found.pred_classes = to(torch.zeros(len(boxes), dtype=torch.int64))
        detections.append(found)
    features = random_features(tiny_config(), SIZE, images=2)
    with torch.no_grad():
        return head.eval()({name: to(feature) for name, feature in features.items()}, detections)


@pytest.mark.parametrize("name", SETTINGS)
def test_inference_waits_twice_at_most(name):
    head = tiny_head(tiny_config(**SETTINGS[name]))
    expected = infer(head, lambda x: x)
    with pretended_device() as waits:
        found = infer(put_there(head), There)
    assert len(waits) <= 2, waits
    for there, here in zip(found, expected, strict=True):
        torch.testing.assert_close(there.pred_masks.here, here.pred_masks)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", SETTINGS)
def test_inference_on_a_gpu_waits_twice_at_most(name):
    head = tiny_head(tiny_config(**SETTINGS[name])).cuda()
    infer(head, lambda x: x.cuda())
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            infer(head, lambda x: x.pin_memory().cuda(non_blocking=True))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len([wait for wait in waits if "synchronizing" in str(wait.message)]) <= 2


WAITS = {
    "item": lambda x, index: x.sum().item(),
    "bool": lambda x, index: bool(x.any()),
    "cpu": lambda x, index: x.cpu(),
    "nonzero": lambda x, index: x.nonzero(),
    "mask": lambda x, index: x[x > 0],
    "repeats": lambda x, index: torch.repeat_interleave(x.long()),
    "index on the CPU": lambda x, index: x[index],
    "copy": lambda x, index: index.to(x.device),
}


@pytest.mark.parametrize("name", WAITS)
def test_waits_are_counted(name):
    with pretended_device() as waits:
        WAITS[name](There(torch.ones(3)), torch.tensor([0, 2]))
    assert len(waits) == 1
    with pytest.raises(AssertionError), pretended_device():
        There(torch.ones(3)) + torch.ones(3)
    with pytest.raises(AssertionError), pretended_device():
        There(torch.ones(3)) + torch.tensor([1.0, 2, 3], device=There(torch.ones(1)).device)
