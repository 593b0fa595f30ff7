"""Checkpoints that are whole or not there: a run may be killed at any moment and still resumes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from crispmask.checkpoint.files import write_atomically
from crispmask.checkpoint.load import WeightCheckpointer


class AtomicCheckpointer(WeightCheckpointer):
    """Strict and safe loading, see :class:`WeightCheckpointer`, and atomic writes.

    Files are ``<save_dir>/<name>.pth`` and ``last_checkpoint``, which is written after the file it names.
    """

    def __init__(self, *args: Any, metadata: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """
        Args:
            args, kwargs: of :class:`WeightCheckpointer`.
            metadata: what is written beside the weights and is no state: strings, numbers, lists.
        """
        super().__init__(*args, **kwargs)
        self.metadata = dict(metadata or {})

    def save(self, name: str, **kwargs: Any) -> None:
        """Write model, trainer state and ``kwargs`` to ``<name>.pth`` and point ``last_checkpoint`` to it."""
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: item.state_dict() for key, item in self.checkpointables.items()}
        data = {"model": self.model.state_dict(), **self.metadata, **states, **kwargs}
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", path)
        write_atomically(path, lambda file: torch.save(data, file))
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the name of the newest checkpoint to ``last_checkpoint``."""
        path = Path(self.save_dir) / "last_checkpoint"
        write_atomically(path, lambda file: file.write(last_filename_basename.encode()))
