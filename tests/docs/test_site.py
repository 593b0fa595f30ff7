"""The site is built without a warning, and holds what its pages promise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.reader import ROOT


@pytest.mark.skipif(
    sys.version_info < (3, 11),
    reason="the mkdocstrings of Python 3.10 breaks on its newest pymdown-extensions",
)
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site"
    # Docstrings are on the pages of the reference, with the types of arguments
    assert "dilation_ratio" in (site / "api" / "evaluation" / "index.html").read_text()
    # A link that README and INSTALL have into the code is text here, one into docs/ leads to a page
    install = (site / "install" / "index.html").read_text()
    assert "make setup" in install and 'href="tools/' not in install
