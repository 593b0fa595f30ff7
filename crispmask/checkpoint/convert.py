"""Names of the authors' released checkpoints turned into the names of the models here.

The values stay as they are: no layer of these models is transposed or permuted between the code bases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NoReturn, TypeVar

from crispmask.heads import registered_sources
from crispmask.releases import Release, rename

Value = TypeVar("Value")

# Values that no model here needs: counters, and tables that follow from the window size of Swin
_IGNORED = re.compile(r"(num_batches_tracked|relative_position_index)$")


def convert_state_dict(state_dict: Mapping[str, Value], source: str) -> dict[str, Value]:
    """Rename the entries of a released checkpoint.

    Args:
        state_dict: names and values; a part of a checkpoint is converted to a part of a model. A leading
            ``module.`` is removed; counters of batches and index tables are left out.
        source: whose checkpoint it is, a name of ``crispmask convert --source`` that a head registers.

    Returns:
        The values under the names of the Detectron2 model, in the same order.

    Raises:
        ValueError: ``source`` is not known, or two names of the file are one name here.
        KeyError: a name does not belong to the released model.
    """
    names, unknown = translate_names(state_dict, source)
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise KeyError(f"'{unknown[0]}'{more} is not a name of a released {source} checkpoint.")
    return under_new_names(state_dict, names)


def under_new_names(values: Mapping[str, Value], names: Mapping[str, str]) -> dict[str, Value]:
    """The values under other names.

    Args:
        values: names and values; those without a new name are left out.
        names: new names of the old ones.

    Raises:
        ValueError: two of them would have the same name.
    """
    olds: dict[str, str] = {}
    for old, new in names.items():
        if (other := olds.setdefault(new, old)) != old:
            raise ValueError(f"'{other}' and '{old}' are both '{new}' here: take out the one that is wrong.")
    return {new: values[old] for new, old in olds.items()}


def translate_names(names: Iterable[str], source: str) -> tuple[dict[str, str], list[str]]:
    """Our names of the names of a released checkpoint, and those that it cannot have.

    Args:
        names: as in the file; see :func:`convert_state_dict`.
        source: see :func:`convert_state_dict`.

    Raises:
        ValueError: ``source`` is not known.
    """
    rules = release_of(source).rules
    if not rules:
        _refuse(source)
    ours = {name: rename(name.removeprefix("module."), rules) for name in names if not _IGNORED.search(name)}
    unknown = [theirs for theirs, name in ours.items() if name is None]
    return {theirs: name for theirs, name in ours.items() if name is not None}, unknown


def release_of(source: str) -> Release:
    """How the checkpoints of a source are read.

    Raises:
        ValueError: no head registers it.
    """
    for head, known in registered_sources():
        if known.name == source:
            return head.load(known.release)
    return _refuse(source)


def _refuse(source: str) -> NoReturn:
    names = [known.name for head, known in registered_sources() if head.load(known.release).rules]
    raise ValueError(f"Checkpoint source {source!r} is not known; it must be one of: {', '.join(names)}.")


def released_source(names: Iterable[str]) -> str | None:
    """The source that a checkpoint with these names comes from; None if it is none of those known."""
    names = [name.removeprefix("module.") for name in names]
    for _, source in registered_sources():
        if any(name.startswith(source.signature) for name in names):
            return source.name
    return None
