"""Checkpoints that are whole or not there: a run may be killed at any moment and still resumes."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from detectron2.checkpoint import DetectionCheckpointer

from crispmask.errors import UserError


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writes.

    Files are ``<save_dir>/<name>.pth`` and ``last_checkpoint``, which is written after the file it names.
    """

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            return super()._load_file(filename)
        except (EOFError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            raise UserError(
                f"Weight file '{filename}' cannot be read: it is cut short, or no checkpoint "
                f"({' '.join(str(error).split())[:120]})."
            ) from error

    def save(self, name: str, **kwargs: Any) -> None:
        """Write model, trainer state and ``kwargs`` to ``<name>.pth`` and point ``last_checkpoint`` to it."""
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: item.state_dict() for key, item in self.checkpointables.items()}
        data = {"model": self.model.state_dict(), **states, **kwargs}
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", path)
        write_atomically(path, lambda file: torch.save(data, file))
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the name of the newest checkpoint to ``last_checkpoint``."""
        path = Path(self.save_dir) / "last_checkpoint"
        write_atomically(path, lambda file: file.write(last_filename_basename.encode()))


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Fill ``path`` through a temporary file beside it, so that a reader sees the old file or the new one.

    Args:
        path: file to write; ``<path>.tmp`` is overwritten, so what a killed run left there is reused.
        write: called with the open file.

    Raises:
        OSError: the disk is full or not writable; ``path`` is then as it was.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    if os.name == "posix":  # the new name must be on the disk too before anything refers to it
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
