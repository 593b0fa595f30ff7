"""What torchrun, or another launcher, says to a process in its environment."""

from __future__ import annotations

import os
from dataclasses import dataclass

from crispmask.errors import ProcessError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_START = "start the run with torchrun, which sets them"


@dataclass(frozen=True)
class Ranks:
    """The place of a process in the run.

    Attributes:
        rank, world_size: its number among all processes, from 0, and how many there are.
        local_rank, local_size: the same on its machine; ``local_size`` is 1 where nobody says.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int


def started_by_torchrun() -> bool:
    """Whether the environment gives this process its rank."""
    return all(name in os.environ for name in VARIABLES)


def read_ranks() -> Ranks | None:
    """The place that the environment gives to this process; None: it gives none.

    Raises:
        ProcessError: a variable is no number, or out of range.
    """
    if not started_by_torchrun():
        return None
    world_size = _number("WORLD_SIZE", 1)
    local_size = _number("LOCAL_WORLD_SIZE", 1, world_size) if "LOCAL_WORLD_SIZE" in os.environ else None
    rank = _number("RANK", 0, world_size - 1)
    local_rank = _number("LOCAL_RANK", 0, (local_size or world_size) - 1)
    _number("MASTER_PORT", 1, 65535)
    if not os.environ["MASTER_ADDR"].strip():
        raise ProcessError(f"MASTER_ADDR is empty: {_START}.")
    return Ranks(rank, world_size, local_rank, local_size or 1)


def check_incomplete() -> None:
    """Stop where the environment has a part of the variables: every process would be a run of its own.

    Raises:
        ProcessError: naming those that are there and those that are not.
    """
    there = [name for name in VARIABLES[:3] if name in os.environ]
    if not there or started_by_torchrun() or os.environ.get("WORLD_SIZE") == "1":
        return
    missing = ", ".join(name for name in VARIABLES if name not in os.environ)
    given = ", ".join(there)
    raise ProcessError(f"The environment has {given} but not {missing}: {_START} all, or unset {given}.")


def _number(name: str, least: int, most: int | None = None) -> int:
    text = os.environ[name]
    try:
        value = int(text)
    except ValueError:
        raise ProcessError(f"{name} is '{text}', which is no whole number: {_START}.") from None
    if value < least or (most is not None and value > most):
        asked = f"from {least} to {most}" if most is not None else f"{least} or more"
        raise ProcessError(f"{name} is {value}; it must be {asked}: {_START}.")
    return value
