"""Work in several processes: its order, and how all of them end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crispmask.evaluation.processes import map_in_processes

ROOT = Path(__file__).parents[2]
# Writes the ids of its workers, which then sleep
SLEEPER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from crispmask.evaluation.processes import map_in_processes
from tests.evaluation.test_processes import tell_and_sleep
list(map_in_processes(tell_and_sleep, sys.argv[2], range(2), 2))
"""


def plus(shared: int, item: int) -> int:
    return shared + item


def end_itself(shared: int, item: int) -> int:
    if item == shared:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def tell_and_sleep(folder: str, item: int) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(120)


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    assert list(map_in_processes(plus, 5, range(40), workers)) == list(range(5, 45))


def test_a_process_that_is_killed_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"One of 2 processes was ended.*give fewer workers"):
        list(map_in_processes(end_itself, 3, range(8), 2))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a process that its parent has ended")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_one_that_started_them(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-c", SLEEPER, str(ROOT), str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT) as main:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        workers = [int(path.name) for path in tmp_path.iterdir()]
        assert len(workers) == 2 and all(map(is_alive, workers))
        main.send_signal(number)
    deadline = time.monotonic() + 20
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, workers))
