"""Start the processes of a run: one, several on this machine (GPU or CPU), or those torchrun started."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException, start_processes

from crispmask.engine.torchrun import Ranks, read_ranks
from crispmask.errors import ProcessError, exit_on_user_error
from crispmask.interrupt import end_with_parent, forks_ignoring_interrupts, interrupts_ignored

# Patience with a process that is told to end
SECONDS_TO_END = 10


def launch(
    main: Callable[..., Any],
    args: tuple[Any, ...] = (),
    *,
    num_processes: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    device: str = "cuda",
) -> Any:
    """Call ``main(*args)`` once in every process of the run.

    Args:
        main: a function that can be imported by name, since it also runs in new processes.
        args: its arguments; they must pickle.
        num_processes: processes on this machine; 0 and 1 both mean this one. Ignored under torchrun.
        num_machines: machines of the run, each of which calls this function.
        machine_rank: number of this machine, from 0.
        dist_url: ``tcp://host:port`` of the first machine; ``auto`` picks a port (one machine only).
        device: ``cpu`` uses gloo, anything else NCCL.

    Returns:
        what ``main`` returned when it ran in this process, else None.

    Raises:
        UserError: the environment of torchrun is wrong, or the processes cannot meet.
    """
    if ranks := read_ranks():
        return _run_rank(main, args, ranks, "env://", device)
    if num_processes * num_machines <= 1:
        return main(*args)
    url = f"tcp://127.0.0.1:{free_port()}" if dist_url == "auto" else dist_url
    job = (main, args, num_processes, num_machines, machine_rank, url, device)
    with interrupts_ignored():  # a Ctrl-C is this process's to answer
        context = start_processes(_spawned, args=job, nprocs=num_processes, join=False)
    try:
        while not context.join():
            pass
    except ProcessExitedException as error:
        if error.exit_code != 2:
            raise
        raise SystemExit(2) from None  # a UserError, printed where it happened
    except KeyboardInterrupt:
        _end(context.processes)
        raise
    return None


def _end(processes: Sequence[BaseProcess]) -> None:
    """End processes, which may wait for each other, and theirs that load data.

    Those would wait for seconds, and complain when nobody takes their data, so they are halted first.
    """
    loaders = [pid for process in processes for pid in _children(process.pid)]
    _send(loaders, signal.SIGSTOP)
    for process in processes:
        process.terminate()
    _send(loaders, signal.SIGKILL)
    for process in processes:
        process.join(SECONDS_TO_END)
        process.kill()


def _children(pid: int | None) -> list[int]:
    """Processes that the main thread of a process has started; empty where the system does not tell."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _send(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def free_port() -> int:
    """A TCP port of this machine that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _spawned(
    local_rank: int,
    main: Callable[..., Any],
    args: tuple[Any, ...],
    local_size: int,
    num_machines: int,
    machine_rank: int,
    url: str,
    device: str,
) -> None:
    rank = machine_rank * local_size + local_rank
    if device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_size))
    end_with_parent()  # torch has asked for a SIGINT, which is ignored
    with exit_on_user_error(), forks_ignoring_interrupts():
        _run_rank(main, args, Ranks(rank, num_machines * local_size, local_rank, local_size), url, device)


def _run_rank(
    main: Callable[..., Any],
    args: tuple[Any, ...],
    ranks: Ranks,
    url: str,
    device: str,
) -> Any:
    """Join the process group, run, and leave it."""
    on_gpu = device != "cpu"
    if on_gpu:
        torch.cuda.set_device(ranks.local_rank)
    _meet("nccl" if on_gpu else "gloo", ranks, url)
    comm.create_local_process_group(ranks.local_size)
    comm.synchronize()
    result = main(*args)
    # After a failure the others may never come to a collective, so only a good run says goodbye
    dist.destroy_process_group()
    return result


def _meet(backend: str, ranks: Ranks, url: str) -> None:
    """Join the process group.

    Raises:
        ProcessError: the place is taken, not there, or the others do not come.
    """
    try:
        dist.init_process_group(backend, init_method=url, world_size=ranks.world_size, rank=ranks.rank)
    except (RuntimeError, ValueError) as error:  # those of the network are RuntimeErrors
        where = url if url != "env://" else f"{os.environ['MASTER_ADDR']} port {os.environ['MASTER_PORT']}"
        reason = shorten(str(error), 160, placeholder=" ...").rstrip(".")
        raise ProcessError(
            f"The {ranks.world_size} processes of the run cannot meet at {where} ({reason}): give a free "
            "port of a machine that all of them reach."
        ) from error
