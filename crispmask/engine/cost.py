"""Time and memory of a model at work."""

from __future__ import annotations

import ctypes
import gc
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")


def timed(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """What ``work`` gives and the seconds that it took, those of the GPU among them."""
    _wait_for(device)
    start = time.perf_counter()
    result = work()
    _wait_for(device)
    return result, time.perf_counter() - start


class PeakMemory:
    """The most memory in use since this was made, above what was in use then.

    On a GPU this is what torch allocates. On the CPU it is what the process holds in memory, known on Linux
    alone; what it freed before but still keeps is given back first, as far as the C library can.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self._before: float = torch.cuda.memory_allocated(device)
            return
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):
            # Linux: start to count the peak anew
            Path("/proc/self/clear_refs").write_text("5")
        self._before = _resident_peak()

    def megabytes(self) -> float:
        """In units of 2^20 bytes; NaN where the system does not say."""
        if self._device.type == "cuda":
            return (torch.cuda.max_memory_allocated(self._device) - self._before) / 2**20
        return (_resident_peak() - self._before) / 2**20


def describe_device(device: torch.device) -> str:
    """The name of a GPU, or the number of threads on the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def cpu_name() -> str:
    """Model of the CPU as Linux tells it, else what the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _resident_peak() -> float:
    """Bytes; NaN where there is no /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return 1024 * float(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
