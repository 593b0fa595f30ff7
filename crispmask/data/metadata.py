"""Metadata of data sets whose paths follow ``$DETECTRON2_DATASETS`` at the time they are asked for."""

from __future__ import annotations

import os
from pathlib import Path

from detectron2.data.catalog import Metadata


class MovableMetadata(Metadata):
    """Detectron2's metadata with a ``split`` and properties for its paths, which ``PATHS`` names."""

    PATHS: tuple[str, ...] = ()

    def as_dict(self) -> dict:
        """All attributes and the paths."""
        return {**super().as_dict(), **{key: getattr(self, key) for key in self.PATHS}}


def datasets_folder() -> Path:
    """Where Detectron2 looks for data sets: ``$DETECTRON2_DATASETS``, else ``datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser()
