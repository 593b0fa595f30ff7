"""Start the processes of a run: one, several on this machine (GPU or CPU), or those torchrun started."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException, start_processes

from crispmask.errors import exit_on_user_error

TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def started_by_torchrun() -> bool:
    """Whether the environment already gives this process its rank."""
    return all(name in os.environ for name in TORCHRUN_VARIABLES)


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
    """
    if started_by_torchrun():
        rank, world_size, local_rank = (int(os.environ[name]) for name in TORCHRUN_VARIABLES[:3])
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        return _run_rank(main, args, rank, world_size, local_rank, local_size, "env://", device)
    if num_processes * num_machines <= 1:
        return main(*args)
    url = f"tcp://127.0.0.1:{free_port()}" if dist_url == "auto" else dist_url
    job = (main, args, num_processes, num_machines, machine_rank, url, device)
    try:
        start_processes(_spawned, args=job, nprocs=num_processes)
    except ProcessExitedException as error:
        if error.exit_code != 2:
            raise
        raise SystemExit(2) from None  # a UserError, printed where it happened
    return None


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
    with exit_on_user_error():
        _run_rank(main, args, rank, num_machines * local_size, local_rank, local_size, url, device)


def _run_rank(
    main: Callable[..., Any],
    args: tuple[Any, ...],
    rank: int,
    world_size: int,
    local_rank: int,
    local_size: int,
    url: str,
    device: str,
) -> Any:
    """Join the process group, run, and leave it."""
    on_gpu = device != "cpu"
    if on_gpu:
        torch.cuda.set_device(local_rank)
    backend = "nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, init_method=url, world_size=world_size, rank=rank)
    comm.create_local_process_group(local_size)
    comm.synchronize()
    result = main(*args)
    # After a failure the others may never come to a collective, so only a good run says goodbye
    dist.destroy_process_group()
    return result
