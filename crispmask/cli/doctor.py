"""What is installed here, which kernels run, which data sets are there, what is missing and what mends it.

Nothing is changed. The exit code is 1 where something is missing that CrispMask cannot do without; data sets
and a GPU it can do without. Send the output along with a question.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten

import crispmask
from crispmask.cli.output import say
from crispmask.errors import UserError
from crispmask.heads import heads

OK, MISSING, NOTE = "ok", "missing", "note"
INSTALL_DETECTRON2 = (
    "python tools/install_detectron2.py (of a clone), or pip install --no-build-isolation "
    "git+https://github.com/facebookresearch/detectron2.git"
)
INSTALL_TORCH = "pip install torch torchvision, see https://pytorch.org/get-started for other CUDA versions"
NEED_FILES = "train_net.py names the files that a data set lacks; your own data need none of these"
# Base requirements
OF_EVALUATION = ("jinja2", "msgspec", "numpy", "Pillow", "pycocotools", "rich")
# Import names of packages that are optional, and what they are for
OPTIONAL = {
    "cv2": ("opencv-python-headless", "Detectron2's Visualizer"),
    "tensorboard": ("tensorboard", "curves of a training"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        status: ``ok``; ``missing``: nothing works without it; ``note``: something is slower or not there.
        subject: what was looked at.
        found: what was found.
        remedy: what to do; empty: nothing.
    """

    status: str
    subject: str
    found: str
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``crispmask doctor`` has no flags."""


def run(args: argparse.Namespace) -> None:
    """Print the report.

    Raises:
        SystemExit: with 1, something is missing that CrispMask cannot do without, or a part of what models
            need.
    """
    found: dict[str, set[str]] = {OK: set(), MISSING: set(), NOTE: set()}
    for finding in examine():
        found[finding.status].add(finding.subject)
        say(f"{finding.status:8}{finding.subject:28}{finding.found}")
        if finding.remedy:
            say(f"{'':8}-> {finding.remedy}")
    if not found[MISSING]:
        return
    # Of an installation for evaluation alone, nothing of models is there
    if found[OK].issuperset(OF_EVALUATION) and "torch" in found[MISSING]:
        say("evaluate, compare and analyze boundary, errors and incoherence need none of what is missing.")
        say("For models: pip install 'crispmask[models]', and then Detectron2: " + INSTALL_DETECTRON2)
        return
    raise SystemExit(1)


def examine() -> Iterator[Finding]:
    """Everything that is looked at, in order; what depends on something missing is left out."""
    yield Finding(OK, "Python", f"{platform.python_version()}, {platform.platform()}, {os.cpu_count()} cores")
    yield Finding(OK, "CrispMask", f"{crispmask.__version__} in {Path(crispmask.__file__).parent}")
    yield from requirements()
    torch_works = yield from _whether_ok("torch", examine_torch)
    if not torch_works:
        return
    yield from examine_devices()
    if (yield from _whether_ok("Detectron2", examine_detectron2)):
        yield from _guarded("heads", examine_heads)
        yield from _guarded("data sets", examine_datasets)


def requirements() -> Iterator[Finding]:
    """The packages that CrispMask requires, by its own metadata, and optional ones."""
    try:
        required = metadata.requires("crispmask") or []
    except metadata.PackageNotFoundError:
        yield Finding(NOTE, "CrispMask's metadata", "not installed, run from a folder", "pip install -e .")
        required = []
    used = [line for line in required if "extra ==" not in line or re.search("extra == .models.", line)]
    names = [re.split(r"[^\w.-]", line)[0] for line in used]
    for name in (name for name in names if name != "torch"):
        try:
            yield Finding(OK, name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(MISSING, name, "not installed", f"pip install {name}")
    yield from _examine_optional(OPTIONAL)
    yield from _guarded("heads", _examine_optional_of_heads)


def _examine_optional(packages: Mapping[str, tuple[str, str]]) -> Iterator[Finding]:
    """Those of some optional packages that are not there."""
    for module, (package, purpose) in packages.items():
        if find_spec(module) is None:
            yield Finding(NOTE, package, f"not installed; it is for {purpose}", f"pip install {package}")


def _examine_optional_of_heads() -> Iterator[Finding]:
    for head in heads():
        yield from _examine_optional(head.optional_packages)


def examine_torch() -> Iterator[Finding]:
    """torch, its CUDA, and whether torchvision belongs to it."""
    if find_spec("torch") is None:
        yield Finding(MISSING, "torch", "not installed", INSTALL_TORCH)
        return
    import torch

    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 4):
        yield Finding(MISSING, "torch", f"{torch.__version__} is older than 2.4", INSTALL_TORCH)
    else:
        yield Finding(OK, "torch", f"{torch.__version__}, {built}")
    try:
        import_module("torchvision.ops")
    except Exception as error:  # a mismatch shows as whatever its C++ library raises
        yield Finding(MISSING, "torchvision", f"does not fit this torch: {_line(error)}", INSTALL_TORCH)


def examine_devices() -> Iterator[Finding]:
    """GPUs with their memory, Triton, and what the ops run on."""
    yield from _guarded("GPU", examine_gpus)
    yield from _guarded("Triton", examine_triton)
    yield from _guarded("kernels", examine_kernels)


def examine_gpus() -> Iterator[Finding]:
    """Each GPU, or why there is none; one that does not answer is a finding of its own."""
    import torch

    for index in range(torch.cuda.device_count()):
        yield from _guarded(f"GPU {index}", partial(_examine_gpu, index))
    if not torch.cuda.is_available():
        driver = shutil.which("nvidia-smi")
        found = (
            "torch sees none, though there is an NVIDIA driver" if driver else "none: models run on the CPU"
        )
        yield Finding(NOTE, "GPU", found, INSTALL_TORCH if driver and not torch.version.cuda else "")


def _examine_gpu(index: int) -> Iterator[Finding]:
    import torch

    device = torch.cuda.get_device_properties(index)
    free, total = (size / 2**30 for size in torch.cuda.mem_get_info(index))
    capability = f"compute capability {device.major}.{device.minor}"
    yield Finding(OK, f"GPU {index}", f"{device.name}, {capability}, {free:.1f} of {total:.1f} GB free")


def examine_triton() -> Iterator[Finding]:
    """Triton's version by the module itself: its distribution has other names on some platforms."""
    if find_spec("triton") is None:
        yield Finding(NOTE, "Triton", "not installed")
    else:
        yield Finding(OK, "Triton", import_module("triton").__version__)


def examine_kernels() -> Iterator[Finding]:
    """Run an op where models would run, and compare it with its reference."""
    import torch

    from crispmask.ops import mask_boundary
    from crispmask.ops.dispatch import triton_kernels

    if not torch.cuda.is_available():
        yield Finding(OK, "kernels", "the torch reference, on the CPU")
        return
    if triton_kernels() is None:
        remedy = f"pip install triton, or {INSTALL_TORCH}"
        yield Finding(NOTE, "kernels", "the torch reference, slower than Triton's", remedy)
        return
    masks = torch.ones(1, 16, 16, dtype=torch.bool)
    if torch.equal(mask_boundary(masks.cuda(), 2).cpu(), mask_boundary(masks, 2)):
        yield Finding(OK, "kernels", "Triton's, equal to the torch reference on a small mask")
    else:
        remedy = "uninstall Triton to run the reference, and report this"
        yield Finding(MISSING, "kernels", "Triton's give other results than the torch reference", remedy)


def examine_detectron2() -> Iterator[Finding]:
    """Which Detectron2 it is, and whether its compiled ops are there and load."""
    if find_spec("detectron2") is None:
        yield Finding(MISSING, "Detectron2", "not installed", INSTALL_DETECTRON2)
        return
    import detectron2

    import_module("detectron2.modeling")
    found = f"{detectron2.__version__}, {_origin(detectron2.__name__)}, in {Path(detectron2.__file__).parent}"
    yield Finding(OK, "Detectron2", found)
    try:
        import_module("detectron2._C")
        yield Finding(OK, "Detectron2's _C", "there, for deformable convolutions and rotated boxes")
    except ImportError as error:
        built = not isinstance(error, ModuleNotFoundError)
        found = (
            f"broken: {_line(error)}" if built else "not built; only deformable convolutions (DCN) need it"
        )
        remedy = "python tools/install_detectron2.py --source repository"
        yield Finding(MISSING if built else NOTE, "Detectron2's _C", found, remedy)


def _origin(module: str) -> str:
    """Where pip took Detectron2 from: its main branch and its release both call themselves 0.6."""
    if module != "detectron2":
        return f"as carried by {module}"
    try:
        source = json.loads(metadata.distribution("detectron2").read_text("direct_url.json") or "{}")
    except metadata.PackageNotFoundError:
        return "not installed by pip"
    if "vcs_info" in source:
        return f"the official repository at commit {source['vcs_info']['commit_id'][:7]}"
    return f"from {source.get('url', 'a wheel')}"


def examine_heads() -> Iterator[Finding]:
    """The packages of the mask heads."""
    for head in heads():
        try:
            import_module(head.package)
            yield Finding(OK, head.package, "registered")
        except ImportError as error:
            found = f"cannot be imported: {_line(error)}"
            yield Finding(MISSING, head.package, found, "pip install -e . again")


def examine_datasets() -> Iterator[Finding]:
    """The data sets of the configs, and whether their files are there."""
    from crispmask import model_zoo
    from crispmask.config import get_config
    from crispmask.data import UnknownDatasetError, require_dataset

    root = os.environ.get("DETECTRON2_DATASETS")
    found = root or f"not set, so {Path('datasets').absolute()}"
    yield Finding(OK if root else NOTE, "$DETECTRON2_DATASETS", found)
    configs = [get_config(name).DATASETS for name in model_zoo.names()]
    published = (dataset for row in model_zoo.published() for dataset in row.figures)
    names = {name for node in configs for name in (*node.TRAIN, *node.TEST)} | set(published)
    absent = []
    for name in sorted(names):
        if name.startswith("shapes_"):
            yield _examine_shapes(name)
            continue
        try:
            require_dataset(name)
            yield Finding(OK, name, "there")
        except (UnknownDatasetError, OSError, ModuleNotFoundError):
            absent.append(name)
    if absent:
        found = f"not there, and needed only by those who use them: {', '.join(absent)}"
        yield Finding(NOTE, "other data sets", found, NEED_FILES)


def _examine_shapes(name: str) -> Finding:
    """Whether a split of the generated data set is there."""
    from crispmask.data.shapes import is_complete, shapes_folder

    split, folder = name.removeprefix("shapes_"), shapes_folder()
    return Finding(OK, name, f"there, in {folder}" if is_complete(folder, split) else "made on first use")


def _guarded(subject: str, examination: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """An examination that may fail in whatever way: that is a finding too."""
    try:
        yield from examination()
    except UserError as error:  # says the way out
        yield Finding(MISSING, subject, str(error))
    except Exception as error:
        yield Finding(MISSING, subject, f"{type(error).__name__}: {_line(error)}", "report this line")


def _whether_ok(subject: str, examination: Callable[[], Iterator[Finding]]) -> Generator[Finding, None, bool]:
    """Pass the findings on; the value of ``yield from`` is whether nothing was missing."""
    works = True
    for finding in _guarded(subject, examination):
        works &= finding.status != MISSING
        yield finding
    return works


def _line(error: BaseException) -> str:
    return shorten(str(error), 160, placeholder=" ...") or type(error).__name__
