"""What the tests ran on, how many threads they take, and fixtures that several packages' tests share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest

# Before torch is imported, and inherited by the commands that tests start: tests may run side by side
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
hypothesis.settings.register_profile("crispmask", deadline=None, derandomize=True)
hypothesis.settings.load_profile("crispmask")


def pytest_report_header() -> list[str]:
    """The versions that decide what the tests exercise."""
    import torch

    cuda = (
        f"CUDA {torch.version.cuda} on {torch.cuda.get_device_name()}"
        if torch.cuda.is_available()
        else "no CUDA"
    )
    triton = f"Triton {metadata.version('triton')}" if find_spec("triton") else "no Triton"
    return [f"torch {torch.__version__}, {cuda}, {triton}", f"Detectron2 {describe_detectron2()}"]


def describe_detectron2() -> str:
    """Version, origin and kind of the installed Detectron2: main calls itself 0.6, too."""
    import detectron2

    source = json.loads(metadata.distribution("detectron2").read_text("direct_url.json") or "{}")
    if detectron2.__name__ != "detectron2":
        origin = f"as carried by {detectron2.__name__}"
    elif "vcs_info" in source:
        origin = f"at commit {source['vcs_info']['commit_id'][:7]}"
    else:
        origin = f"from {source.get('url', 'a wheel')}"
    ops = "with _C" if find_spec("detectron2._C") else "without _C"
    return f"{detectron2.__version__} {origin}, {ops} ({Path(detectron2.__file__).parent})"


@pytest.fixture(autouse=True)
def log_of_its_own() -> Iterator[None]:
    """The log of a run that a test makes in this process ends with the test."""
    yield
    if run_log := sys.modules.get("crispmask.engine.run_log"):
        run_log.stop_log()


# Appended to a training command of the shapes configs, so that it takes seconds
SMALL_RUN = [
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"),
    *("SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2"),
]


@pytest.fixture(scope="session")
def small_run() -> list[str]:
    return SMALL_RUN


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``$DETECTRON2_DATASETS`` with 4 + 4 images of 96 px of the shapes data set."""
    import crispmask.data.builtin  # noqa: F401  registers it
    from crispmask.data.shapes import write_shapes

    root = tmp_path_factory.mktemp("datasets")
    for split in ("train", "val"):
        write_shapes(root / "shapes", split, count=4, size=96, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(root))
        yield root
