"""Time and memory of a function on a CPU and on a GPU."""

import ctypes
import time
from collections.abc import Callable
from pathlib import Path

import torch


def cpu_cost(run: Callable[[], object], repeat: int) -> tuple[float, int]:
    """Median CPU seconds of this process, and how far its memory grows above what it holds, in bytes.

    CPU seconds hardly change with other work on the machine. Memory is 0 where Linux does not tell it.
    """
    grown = _growth(run)
    times = []
    for _ in range(repeat):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return sorted(times)[len(times) // 2], grown


def gpu_cost(run: Callable[[], object], repeat: int) -> tuple[float, int]:
    """Median seconds on the clock, and peak bytes above those that are held."""
    run()
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2], torch.cuda.max_memory_allocated() - held


def _growth(run: Callable[[], object]) -> int:
    """Peak of the resident memory during ``run`` above that before it, with caches given back first."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        run()
        return 0
    before = _peak()
    run()
    return _peak() - before


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
