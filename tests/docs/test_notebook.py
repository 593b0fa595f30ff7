"""The notebook of the docs runs from top to bottom."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs.reader import ROOT

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder inside of a clone, with two iterations in place of its own."""
    (tmp_path / "train_net.py").symlink_to(ROOT / "train_net.py")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    for cell in notebook.cells:
        cell.source = cell.source.replace("ITERATIONS = 40", "ITERATIONS = 2")
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs)
    assert "mask      AP" in said and "boundary  AP" in said
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert (tmp_path / "quickstart/model/model_final.pth").is_file()
