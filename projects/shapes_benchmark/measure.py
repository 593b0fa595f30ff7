"""Parameters, seconds per image and peak memory of one trained model, measured in a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import statistics
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from detectron2.data import build_detection_test_loader
from detectron2.modeling import build_model

import crispmask
import crispmask.data
from crispmask.checkpoint import load_weights


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
    device = cfg.MODEL.DEVICE
    model = build_model(cfg).eval()
    load_weights(model, cfg.MODEL.WEIGHTS)
    loader = build_detection_test_loader(cfg, cfg.DATASETS.TEST[0])
    seconds: list[float] = []
    held = _memory_held(device)
    with torch.no_grad():
        for batch in islice(loader, warm_up + images):
            start = time.perf_counter()
            model(batch)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": statistics.median(seconds[warm_up:] or seconds),
        "peak_mb": (_memory_peak(device) - held) / 2**20,
        "device": torch.cuda.get_device_name()
        if device == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
    }


def _memory_held(device: str) -> int:
    """Bytes in use now; where the system can, the peak is counted from here on."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _memory_peak(device)


def _memory_peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("weights")
    parser.add_argument("opts", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    print(json.dumps(measure(args.config, args.weights, args.opts)))
