"""Whether this machine can run what is asked for: processes, devices, places to meet and to write.

Every check raises :class:`UserError`.
"""

from __future__ import annotations

import argparse
import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from urllib.parse import urlsplit

import torch
from detectron2.config import CfgNode

from crispmask.engine.torchrun import check_incomplete, read_ranks
from crispmask.errors import UserError

# More processes a core than this cannot be meant: somebody counts GPUs that are not there
MAX_PROCESSES_PER_CORE = 2


def check_processes(cfg: CfgNode, args: argparse.Namespace) -> list[str]:
    """Enough GPUs or cores, an address for several machines, and a batch that can be divided."""
    torchrun = read_ranks()
    if args.num_machines == 1:
        check_incomplete()
    here = max(torchrun.local_size, torchrun.local_rank + 1) if torchrun else args.num_gpus
    world_size = torchrun.world_size if torchrun else max(1, here) * args.num_machines
    asked = f"torchrun --nproc-per-node {here}" if torchrun else f"--num-gpus {here}"
    if here < 0:
        raise UserError(f"{asked} is no number of processes: give 1 or more.")
    notes = check_devices(cfg.MODEL.DEVICE, here, asked) + describe_idle_flags(args, torchrun is not None)
    if not 0 <= args.machine_rank < args.num_machines:
        raise UserError(
            f"--machine-rank {args.machine_rank} does not exist with --num-machines {args.num_machines}: "
            f"number the machines from 0."
        )
    if not torchrun:
        check_dist_url(args.dist_url, args.num_machines)
    if not args.eval_only and cfg.SOLVER.IMS_PER_BATCH % world_size and not cfg.SOLVER.REFERENCE_WORLD_SIZE:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be divided among {world_size} "
            f"processes: give a multiple of {world_size}."
        )
    return notes


def describe_idle_flags(args: argparse.Namespace, torchrun: bool) -> list[str]:
    """A sentence for flags about processes that have no effect."""
    usual = {"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
    if not torchrun and max(args.num_gpus, 1) * args.num_machines > 1:
        return []
    if not torchrun:  # one process: the other flags are what makes it one
        usual = {"dist_url": "auto"}
    given = [f"--{name.replace('_', '-')}" for name, value in usual.items() if getattr(args, name) != value]
    reason = "torchrun says how many processes there are and where" if torchrun else "there is one process"
    verb = "has" if len(given) == 1 else "have"
    return [f"{', '.join(given)} {verb} no effect: {reason}."] if given else []


def check_dist_url(url: str, num_machines: int) -> None:
    """``--dist-url`` is a place where processes can meet."""
    if url == "auto":
        if num_machines > 1:
            raise UserError("--num-machines needs --dist-url: give tcp://<address of machine 0>:<free port>.")
        return
    try:
        parts = urlsplit(url)
        good = parts.scheme == "file" or (parts.scheme == "tcp" and parts.hostname and parts.port)
    except ValueError:  # a port that is none
        good = False
    if not good:
        raise UserError(f"--dist-url '{url}' is no place to meet: give tcp://<address>:<port>, or auto.")


def check_devices(device: str, processes: int, asked: str) -> list[str]:
    """A GPU for each process; on the CPU, not more processes than the cores can carry.

    Args:
        device: ``MODEL.DEVICE``.
        processes: processes on this machine.
        asked: how the user asked for them.
    """
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise UserError(f"MODEL.DEVICE '{device}' is no device: give cuda or cpu.") from error
    if kind not in ("cpu", "cuda"):
        if processes > 1:
            raise UserError(f"{asked} needs MODEL.DEVICE cuda or cpu; on '{device}' one process can run.")
        check_other_device(device)
        return [f"MODEL.DEVICE '{device}' is not tested: cuda and cpu are."]
    if kind == "cuda":
        gpus = torch.cuda.device_count()
        if processes > gpus:
            raise UserError(f"{asked} is more than the {gpus} GPU(s) of this machine: give {gpus} or fewer.")
        return []
    cores = os.cpu_count() or 1
    if processes > cores * MAX_PROCESSES_PER_CORE:
        raise UserError(
            f"{asked} is more than this machine, without a GPU in use and with {cores} CPU core(s), can run: "
            f"give {cores} or fewer."
        )
    if processes > cores:
        return [f"{asked} is more than the {cores} CPU core(s): the processes will wait for each other."]
    return []


def check_other_device(device: str) -> None:
    """A device that is neither a CPU nor of CUDA is there and keeps the numbers that are put on it."""
    try:
        torch.ones(1, device=device).item()
    except (AssertionError, ImportError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"MODEL.DEVICE '{device}' is not there: give cuda or cpu.") from error


def check_output_dir(folder: str) -> None:
    """``OUTPUT_DIR`` can be made and written into; nothing is made here."""
    if not folder or "://" in folder:
        raise UserError(f"OUTPUT_DIR '{folder}' is no folder of this machine: give one.")
    try:
        folder.encode()
    except UnicodeEncodeError as error:  # its bytes are of another encoding; TensorBoard takes none such
        raise UserError(f"OUTPUT_DIR {folder!r} is no text in UTF-8: give another name.") from error
    path = Path(os.path.abspath(folder))
    there = next(above for above in (path, *path.parents) if os.path.lexists(above))
    try:
        for name in (path, *(there / part for part in path.relative_to(there).parts)):
            with suppress(FileNotFoundError):
                os.lstat(name)  # a name that is too long shows
        with TemporaryFile(dir=there):
            pass
    except (OSError, ValueError) as error:
        reason = f"'{there}': {getattr(error, 'strerror', None) or error}"
        raise UserError(
            f"OUTPUT_DIR '{folder}' cannot be made or written ({reason}): give a folder."
        ) from error
