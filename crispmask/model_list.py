"""Every config of the package, with the figures that were published and measured for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from crispmask.config import find_config
from crispmask.errors import UserError
from crispmask.heads import heads

FIGURES_FILE = Path(__file__).with_name("figures.yaml")
# Folders of configs that are no models: parts of others, and those for data that a user brings
NO_MODELS = ("recipes", "own_data", "nuclei")

# Data set: task/metric: value, in 0..100
Figures = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Published:
    """A row of a table that authors published.

    Attributes:
        source: which table.
        link: where it stands.
        method: name of the method there, likewise ``backbone`` and ``schedule``.
        figures: data set: task/metric: AP in 0..100.
        config: name of the config here that is this model; empty: there is none.
        release: whose checkpoints ``weights`` are, for ``crispmask convert --source``.
        weights: where the authors offer the checkpoint; empty: they do not.
        file: name of that checkpoint in the authors' scripts; empty: they do not say it.
        fps: images a second, on a GPU that is not named; None: not stated.
        note: what must be known before a figure is compared.
    """

    source: str
    link: str
    method: str
    figures: Figures
    backbone: str = ""
    schedule: str = ""
    config: str = ""
    release: str = ""
    weights: str = ""
    file: str = ""
    fps: float | None = None
    note: str = ""


@dataclass(frozen=True)
class ZooEntry:
    """A config of the package.

    Attributes:
        name: ``<method>/<data set>/<backbone>_<schedule>.yaml``.
        published: rows of its model in the authors' tables.
        converted: figures measured here with the authors' checkpoint, converted.
        trained: figures measured here with a model that was trained here.
        in_demo: the shapes benchmark trains it, and README.md has its figures.
    """

    name: str
    published: tuple[Published, ...] = ()
    converted: Figures = field(default_factory=dict)
    trained: Figures = field(default_factory=dict)
    in_demo: bool = False


def names() -> list[str]:
    """Names of all configs that are models, in the order of the alphabet."""
    root = config_root()
    found = (path.relative_to(root) for path in root.rglob("*.yaml"))
    return sorted(path.as_posix() for path in found if len(path.parts) > 1 and path.parts[0] not in NO_MODELS)


def entry(name: str) -> ZooEntry:
    """The entry of a config.

    Args:
        name: as in :func:`names`; ``configs/`` before it and ``.yaml`` after it may be there or not.

    Raises:
        UserError: there is no such config.
    """
    known = names()
    name = name.removeprefix("configs/").removesuffix(".yaml") + ".yaml"
    if name not in known:
        close = get_close_matches(name, known, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "MODEL_ZOO.md lists all."
        raise UserError(f"There is no model '{name}' in the zoo: {hint}")
    figures = _figures_of(_files())
    rows = tuple(row for row in published() if row.config == name)
    return ZooEntry(name, rows, in_demo=name in figures["demo"], **figures["measured"].get(name, {}))


def published() -> tuple[Published, ...]:
    """All rows of the authors' tables, in their order."""
    return _rows_of(_files())


def name_of(path: str | Path) -> str:
    """Name of the config at a path; empty for a file that is none of the package's."""
    path, root = Path(os.path.realpath(path)), config_root()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else ""


def config_root() -> Path:
    """Folder of the configs of the package."""
    return find_config("Base-RCNN-FPN.yaml").resolve().parent


def _files() -> tuple[Path, ...]:
    """Those of the heads, in the order of their names, and then that of the package."""
    return (*(head.folder / head.figures for head in heads() if head.figures), FIGURES_FILE)


@cache
def _rows_of(files: tuple[Path, ...]) -> tuple[Published, ...]:
    rows = []
    for source in _figures_of(files)["sources"]:
        common = {"source": source["name"], "link": source["link"], "release": source.get("release", "")}
        rows += [Published(**common, **row) for row in source["rows"]]
    return tuple(rows)


@cache
def _figures_of(files: tuple[Path, ...]) -> dict[str, Any]:
    """What all files say."""
    found: dict[str, Any] = {"sources": [], "measured": {}, "demo": []}
    for file in files:
        content = yaml.safe_load(file.read_text())
        found["sources"] += content.get("sources", [])
        found["measured"] |= content.get("measured", {})
        found["demo"] += content.get("demo", [])
    return found
