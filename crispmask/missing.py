"""Packages that only a part of CrispMask needs: what to install where one of them is missing.

The evaluator runs on the base requirements alone; models, training and pictures of results need the extra
``models``, and Detectron2, which is on no package index.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from crispmask.errors import print_error

# Package that is imported -> how to get it
_IN_MODELS = ["torch", "torchvision", "fvcore", "yacs", "yaml", "safetensors", "contourpy", "shapely"]
_COMMANDS = {
    **dict.fromkeys(_IN_MODELS, "pip install 'crispmask[models]'"),
    "cityscapesscripts": "pip install cityscapesscripts",
    **{name: f"pip install {name}" for name in ("jinja2", "msgspec", "numpy", "pycocotools", "rich")},
    "PIL": "pip install Pillow",
    "detectron2": "make setup in a clone of CrispMask, or python tools/install_detectron2.py",
}


def how_to_install(error: ImportError) -> str | None:
    """A sentence with the command that installs what was not found; None if CrispMask does not know it."""
    package = (error.name or "").split(".")[0]
    if not isinstance(error, ModuleNotFoundError) or package not in _COMMANDS:
        return None
    return f"This needs the package {package}, which is not installed: {_COMMANDS[package]}."


def require_models(program: str) -> None:
    """End a program with one sentence where a package is missing that every model needs."""
    for package in ("torch", "torchvision", "fvcore", "detectron2"):
        if find_spec(package) is None:
            print_error(program, how_to_install(ModuleNotFoundError(name=package)) or package)
            raise SystemExit(2)


@contextmanager
def explained_imports() -> Iterator[None]:
    """Give the import error of a missing package the sentence of :func:`how_to_install`.

    Raises:
        ModuleNotFoundError: the package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        sentence = how_to_install(error)
        if sentence is None or sentence == error.msg:
            raise
        raise ModuleNotFoundError(sentence, name=error.name) from None
