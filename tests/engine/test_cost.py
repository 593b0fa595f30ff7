"""Memory is counted from when it is asked for, and times are those of the work."""

from __future__ import annotations

import sys
import time

import pytest
import torch

from crispmask.engine.cost import PeakMemory, describe_device, timed

CPU = torch.device("cpu")


def use(megabytes: int) -> None:
    torch.ones(megabytes * 2**18).sum()


@pytest.mark.skipif(sys.platform != "linux", reason="memory of a process is read from /proc")
def test_peak_is_that_since_the_start_even_if_it_was_higher_before() -> None:
    use(300)
    memory = PeakMemory(CPU)
    use(60)
    assert 55 <= memory.megabytes() < 150
    assert PeakMemory(CPU).megabytes() < 30


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_peak_of_a_gpu_is_what_torch_allocates() -> None:
    device = torch.device("cuda")
    kept = torch.ones(2**20, device=device)
    memory = PeakMemory(device)
    torch.ones(2**20, device=device).add_(1)
    assert memory.megabytes() == pytest.approx(4, abs=0.1) and kept.is_cuda


def test_work_is_timed_and_its_result_given() -> None:
    result, seconds = timed(lambda: time.sleep(0.05) or "done", CPU)
    assert result == "done" and 0.05 <= seconds < 5
    assert describe_device(CPU) == f"CPU, {torch.get_num_threads()} threads"
