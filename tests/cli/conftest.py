"""A checkpoint that every verb with a model can run."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of ``tests/engine/tiny.yaml``."""
    from tests.engine.tiny_checkpoint import save_tiny_weights

    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    save_tiny_weights(path)
    return path
