"""The heads that are installed, and what each hands over to the rest of CrispMask.

A head is a package that holds a file ``crispmask_head.py`` with ``HEAD = Head(...)`` in it. That file is run
without its package, because a package of models imports torch, which a help text must not wait for. So
everything heavy is named there as ``"module:attribute"`` and loaded when it is used.

A package is found if it lies in a folder of ``sys.path``, as one in a clone or in site-packages does. One
that Python finds in another way, as by the import hook of an editable install, has an entry point of the
group ``crispmask.heads`` whose value is the name of the package.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec, module_from_spec, resolve_name, spec_from_file_location
from itertools import starmap
from pathlib import Path
from typing import Any

from crispmask.errors import UserError

REGISTRATION = "crispmask_head.py"
ENTRY_POINTS = "crispmask.heads"


@dataclass(frozen=True)
class Source:
    """A code base whose checkpoints ``crispmask convert`` makes ours.

    Attributes:
        name: for ``--source``.
        release: reference to a :class:`crispmask.releases.Release`.
        signature: how a name of its checkpoints begins that no other model has.
        help: whose checkpoints they are, and what is to be known of them, for the help text.
    """

    name: str
    release: str
    signature: str
    help: str


@dataclass(frozen=True)
class TrainingPart:
    """A part of a model that only training uses, and that older weight files lack.

    Attributes:
        prefix: how the names of its tensors begin.
        opts: ``KEY, VALUE`` of the config that leaves it out.
        reason: why a file lacks it, as a sentence that goes on from "it".
    """

    prefix: str
    opts: tuple[str, str]
    reason: str


@dataclass(frozen=True)
class Dial:
    """Settings of a trained model that ``crispmask analyze dial`` turns, without training anything again.

    Attributes:
        section: of the config, in which they are keys.
        values: the keys, and the values that are tried of each by itself.
        levels: keys with a value a level, and their number: one value stands for that of every level.
        check: reference to ``f(cfg) -> None``, which raises a ValueError that names the key that is wrong.
        help: what is to be known of the settings, for the help text.
    """

    section: str
    values: Mapping[str, tuple[Any, ...]]
    check: str
    levels: Mapping[str, int] = field(default_factory=dict)
    help: str = ""


@dataclass(frozen=True)
class Views:
    """Sheets that show a model at work, for ``crispmask demo --show``.

    Attributes:
        kinds: names of the sheets, and what each shows, for the help text.
        check: reference to ``f(predictor, kinds) -> None``, which raises a
            :class:`crispmask.errors.UserError` where the model has nothing to show.
        draw: reference to ``f(predictor, picture, kinds, score_threshold) -> dict``: a picture (H, W, 3)
            uint8 RGB gives a sheet of each kind, or none without an object.
    """

    kinds: Mapping[str, str]
    check: str
    draw: str


@dataclass(frozen=True)
class Head:
    """What a package registers. All but the first two fields may be left out.

    A reference is ``"module:attribute"``; a module that begins with a dot is one of the package.

    Attributes:
        name: of its folder in ``configs/``, in lower case.
        add_config: reference to ``f(cfg) -> None``, which adds the keys of the head in place.
        title: the name of the method as its paper writes it; empty: ``name``.
        presets: reference to a dict of ``f(cfg, value) -> None`` by config keys: where a file or command line
            gives the key, it writes the values that the key stands for, before all others are merged.
        idle_keys: reference to a tuple of :class:`crispmask.idle_keys.IdleKeys`.
        mask_heads: names of its classes in Detectron2's ``ROI_MASK_HEAD_REGISTRY``.
        meta_architectures: names of its classes in ``META_ARCH_REGISTRY`` that have
            ``MODEL.ROI_HEADS.NUM_CLASSES`` classes.
        detector_keys: config keys that only training could teach a detector of the head anew, and that no
            shape tells: ``--freeze-detector`` takes them from the weights.
        recipe: a config for data of one's own, which ``crispmask data check`` adapts if none is given; of
            several heads, that of the first counts.
        dial: settings of a trained model; None: there are none.
        views: sheets that show a model at work; None: there are none.
        sources: code bases whose checkpoints become models of the head.
        training_parts: parts of its models that only training uses.
        class_layers: layers that depend on the number of classes K, by the last part of their name: pairs
            (a, b) for a * K + b outputs, likeliest first.
        optional_packages: import names of packages that only a part of the head needs: what ``pip install``
            calls them, and what they are for.
        figures: file in its package with what was published and measured of its models, in the form of
            ``crispmask/figures.yaml``; empty: there is none.
        package: its package; filled in where it is found, as is
        folder: that of the package.
    """

    name: str
    add_config: str
    title: str = ""
    presets: str = ""
    idle_keys: str = ""
    mask_heads: tuple[str, ...] = ()
    meta_architectures: tuple[str, ...] = ()
    detector_keys: tuple[str, ...] = ()
    recipe: str = ""
    dial: Dial | None = None
    views: Views | None = None
    sources: tuple[Source, ...] = ()
    training_parts: tuple[TrainingPart, ...] = ()
    class_layers: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    optional_packages: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    figures: str = ""
    package: str = ""
    folder: Path = Path()

    def load(self, reference: str) -> Any:
        """The object that a reference names; its module is imported.

        Raises:
            UserError: there is no such module or attribute.
        """
        module, _, attribute = reference.partition(":")
        try:
            found = import_module(module, self.package)
        except ModuleNotFoundError as error:
            if error.name != resolve_name(module, self.package):
                raise  # a package that the module needs
            found = None
        if not hasattr(found, attribute):
            raise UserError(
                f"Head package '{self.package}' registers '{reference}', which is not there: correct "
                f"{self.package}/{REGISTRATION}."
            )
        return getattr(found, attribute)


def heads() -> tuple[Head, ...]:
    """All heads that are installed, in the order of their names.

    Raises:
        UserError: a registration cannot be run, or two packages give one name to different things.
    """
    return _heads_on(tuple(sys.path))


def import_heads() -> None:
    """Import the packages of all heads, by which their classes get into Detectron2's registries."""
    for head in heads():
        import_module(head.package)


def registered_sources() -> Iterator[tuple[Head, Source]]:
    """The sources of all heads, each with its head."""
    for head in heads():
        for source in head.sources:
            yield head, source


@cache
def _heads_on(search_path: tuple[str, ...]) -> tuple[Head, ...]:
    places = {**_by_entry_point(), **dict(_in_folders(search_path))}
    found = sorted(starmap(_read, sorted(places.items())), key=lambda head: head.name)
    owners: dict[tuple[str, str], str] = {}
    for head in found:
        for what in _names_of(head):
            if (other := owners.setdefault(what, head.package)) != head.package:
                raise UserError(
                    f"Head packages '{other}' and '{head.package}' both have the {what[0]} '{what[1]}': "
                    f"rename that of one in its {REGISTRATION}, or remove the package."
                )
    return tuple(found)


def _names_of(head: Head) -> Iterator[tuple[str, str]]:
    """What a head calls by a name that no other head may have."""
    yield "head", head.name
    yield from (("source", source.name) for source in head.sources)
    yield from (("sheet", kind) for kind in (head.views.kinds if head.views else ()))


def _in_folders(search_path: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Packages and their registrations; of two with one name Python imports the first, which comes last."""
    for folder in reversed(search_path):
        for file in sorted(Path(folder).glob(f"*/{REGISTRATION}")):
            yield file.parent.name, file


def _by_entry_point() -> dict[str, Path]:
    found = {}
    for point in entry_points(group=ENTRY_POINTS):
        spec = find_spec(point.value)
        for folder in (spec and spec.submodule_search_locations) or ():
            found[point.value] = Path(folder) / REGISTRATION
    return found


def _read(package: str, file: Path) -> Head:
    """The ``HEAD`` of a registration, without importing its package."""
    spec = spec_from_file_location(f"{package}.{file.stem}", file)
    assert spec and spec.loader  # the name ends in .py
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        head = module.HEAD
    except Exception as error:  # whatever the code of somebody else raises
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(
            f"Head package '{package}' cannot be used, as '{file}' fails ({reason.rstrip('.')}): correct it, "
            "or remove the package."
        ) from error
    if not isinstance(head, Head):
        raise UserError(f"HEAD of '{file}' is a {type(head).__name__}: it must be a crispmask.heads.Head.")
    return replace(head, package=package, folder=file.parent)
