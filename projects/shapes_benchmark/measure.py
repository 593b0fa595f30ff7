"""Parameters, seconds per image and peak memory of one trained model, measured in a process of its own."""

from __future__ import annotations

import argparse
import json
import statistics
from functools import partial
from itertools import islice
from typing import Any

if __name__ == "__main__":
    from crispmask.startup import prepare

    prepare()

import torch
from detectron2.modeling import build_model

import crispmask
import crispmask.data.builtin
from crispmask.checkpoint import load_weights
from crispmask.engine.cost import PeakMemory, describe_device, timed
from crispmask.engine.trainer import Trainer


def measure(config: str, weights: str, opts: list[str], images: int = 30, warm_up: int = 5) -> dict[str, Any]:
    """Run a model over test images, one at a time, masks pasted into the image included.

    Args:
        config: config file; ``weights``: checkpoint; ``opts``: ``KEY VALUE`` overrides.
        images: how many are timed, after ``warm_up`` others.

    Returns:
        ``parameters``, median ``seconds`` per image, ``peak_mb`` of memory (2^20 bytes) above the loaded
        model: allocated on the GPU, or resident in the process on the CPU, and the ``device``.
    """
    default = "cuda" if torch.cuda.is_available() else "cpu"
    cfg = crispmask.get_config(config, ["MODEL.DEVICE", default, "MODEL.WEIGHTS", weights, *opts])
    device = torch.device(cfg.MODEL.DEVICE)
    model = build_model(cfg).eval()
    load_weights(model, cfg.MODEL.WEIGHTS)
    loader = Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])
    memory = PeakMemory(device)
    with torch.no_grad():
        seconds = [timed(partial(model, batch), device)[1] for batch in islice(loader, warm_up + images)]
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": statistics.median(seconds[warm_up:] or seconds),
        "peak_mb": memory.megabytes(),
        "device": describe_device(device),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("weights")
    parser.add_argument("opts", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    print(json.dumps(measure(args.config, args.weights, args.opts)))
