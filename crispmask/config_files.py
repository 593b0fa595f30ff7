"""Config files and their bases as plain values: reading runs no code and, unless allowed, fetches nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from crispmask.errors import UserError
from crispmask.network import limited_patience
from crispmask.remote_bases import REMOTE_BASE_FLAG, remote_bases_allowed

BASE_KEY = "_BASE_"
# Detectron2's largest config has 10 kB, 500 values and 4 bases; far beyond, a file is no config or a trap
MAX_BYTES, MAX_VALUES, MAX_FILES, MAX_DIGITS = 2**18, 20_000, 100, 100


def read_config_file(path: str | Path) -> dict[str, Any]:
    """Values of a YAML file over those of its ``_BASE_``, a file or a list of files, and so on.

    Names of bases are relative to the file that names them, or start with ``/`` or ``~``.

    Raises:
        UserError: a file is not there, is no YAML of plain values, or names itself as a base; or a base is
            an address and :func:`~crispmask.remote_bases.remote_bases` does not allow it.
    """
    return _Files().read(str(path), ())


def read_own_values(path: str | Path) -> dict[str, Any]:
    """Values that a file itself has, without those of its bases; see :func:`read_config_file`."""
    values = _parse(str(path), _content(str(path), ()), _loader_of(os.path.realpath(path)))
    values.pop(BASE_KEY, None)
    return values


def read_config_text(text: str, name: str) -> dict[str, Any]:
    """Values of a whole config that is no file of its own, as one that is stored with weights.

    Args:
        text: YAML, without bases.
        name: what messages call it.

    Raises:
        UserError: it is no YAML of plain values, or too large.
    """
    if len(content := text.encode(errors="replace")) > MAX_BYTES:
        raise UserError(f"Config file '{name}' is no config: it has more than {MAX_BYTES} bytes.")
    return _parse(name, content, _Loader)


class _Files:
    """The files of one config; counts them, for bases may multiply."""

    def __init__(self) -> None:
        self._count = 0

    def read(self, path: str, chain: tuple[str, ...]) -> dict[str, Any]:
        """Values of a file and its bases; ``chain``: the files that led to it."""
        self._count += 1
        if self._count > MAX_FILES:
            raise UserError(f"Config file '{chain[0]}' has over {MAX_FILES} bases: correct its _BASE_ line.")
        content = _content(path, chain)
        place = path if _is_address(path) else os.path.realpath(path)
        if place in chain:
            names = " -> ".join((*chain[chain.index(place) :], place))
            raise UserError(f"The _BASE_ lines of these config files lead back to the first: {names}.")
        values = _parse(path, content, _loader_of(place))
        merged: dict[str, Any] = {}
        for base in _bases(path, values.pop(BASE_KEY, [])):
            _merge(self.read(_beside(path, base), (*chain, place)), merged, path)
        _merge(values, merged, path)
        return merged


class _Loader(yaml.SafeLoader):
    """Plain values, and tuples, which Detectron2's own tools write; stops where there are too many."""

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self._values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A value, in PyYAML's own way."""
        self._values += 1
        if self._values > MAX_VALUES:
            raise yaml.YAMLError(f"it has more than {MAX_VALUES} values")
        return super().compose_node(parent, index)


_Loader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)


_Kind = type[_Loader] | type[yaml.UnsafeLoader]


def _loader_of(place: str) -> _Kind:
    """How a file is read: a config of the installed Detectron2 is to be trusted as its code is.

    Its RetinaNet computes anchors in the config.
    """
    from detectron2 import model_zoo

    installed = os.path.realpath(Path(model_zoo.__file__).with_name("configs"))
    return yaml.UnsafeLoader if Path(place).is_relative_to(installed) else _Loader


def _parse(path: str, content: bytes, kind: _Kind) -> dict[str, Any]:
    """The values of a file, which must be sections."""
    if path.endswith(".py"):
        raise UserError(f"Config file '{path}' is a program (a LazyConfig) and is not run: give a YAML file.")
    loader = None
    try:
        loader = kind(content)
        node = loader.get_single_node()
        _check_node(path, node)
        values = loader.construct_document(node) if node is not None else None
    except yaml.constructor.ConstructorError as error:
        raise UserError(_explain_tag(path, error)) from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"Config file '{path}' is not valid YAML: {' '.join(str(error).split())}.") from error
    except RecursionError as error:
        raise UserError(f"Config file '{path}' is no config: its values are nested too deeply.") from error
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(values, dict):
        raise UserError(
            f"Config file '{path}' is not one of a model: give a file of 'KEY: value' lines, in sections."
        )
    return values


def _check_node(path: str, node: yaml.Node | None) -> None:
    """Stop on what YAML would read without a word: a key given twice, and references that multiply."""
    sizes: dict[int, int] = {}

    def size(part: yaml.Node) -> int:
        """Values below a node, those of references as often as they are used."""
        if id(part) not in sizes:
            sizes[id(part)] = MAX_VALUES + 1  # found again below itself, it has no end
            children = []
            if isinstance(part, yaml.ScalarNode):
                _check_number(path, part)
            elif isinstance(part, yaml.MappingNode):
                _check_keys(path, part)
                children = [child for pair in part.value for child in pair]
            elif isinstance(part, yaml.SequenceNode):
                children = part.value
            sizes[id(part)] = 1 + sum(map(size, children))
        return sizes[id(part)]

    if node is not None and size(node) > MAX_VALUES:
        raise UserError(
            f"Config file '{path}' is no config: its references (*) make more than {MAX_VALUES} values of it."
        )


def _check_keys(path: str, mapping: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in mapping.value:
        if key.tag == "tag:yaml.org,2002:merge":
            continue
        if key.tag != "tag:yaml.org,2002:str":
            raise UserError(f"Config file '{path}', line {key.start_mark.line + 1}: a key must be a word.")
        if key.value in seen:
            raise UserError(
                f"Config file '{path}', line {key.start_mark.line + 1}: the key '{key.value}' is there a "
                "second time, and only that would count: join them."
            )
        seen.add(key.value)


def _check_number(path: str, scalar: yaml.ScalarNode) -> None:
    """Stop on numbers that take long to read, for YAML has those to the base of 60 as well."""
    if len(scalar.value) > MAX_DIGITS and scalar.tag.endswith((":int", ":float")):
        line = scalar.start_mark.line + 1
        raise UserError(f"Config file '{path}', line {line}: a number has more than {MAX_DIGITS} digits.")


def _explain_tag(path: str, error: yaml.constructor.ConstructorError) -> str:
    line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
    if found := re.search(r"constructor for the tag '(.*)'", error.problem or ""):
        tag = found[1].replace("tag:yaml.org,2002:", "!!")
        return (
            f"Config file '{path}'{line}: the tag {tag} is not read, for such tags may run code: write the "
            "plain value."
        )
    return f"Config file '{path}'{line} is not valid YAML: {error.problem or error}."


def _content(path: str, chain: tuple[str, ...]) -> bytes:
    """What a file or an address holds; ``chain``: the files that led to it."""
    wanted = f"Config file '{chain[-1]}' needs '{path}'" if chain else f"Config file '{path}'"
    link = ", which" if chain else ""
    try:
        content = _fetch(path, wanted) if _is_address(path) else _read(path)
    except (OSError, ValueError) as error:
        remedy = ": correct its _BASE_ line." if chain else f": {error}."
        raise UserError(f"{wanted}{link} cannot be read{remedy}") from error
    if len(content) > MAX_BYTES:
        raise UserError(f"{wanted}{link} is no config: it has more than {MAX_BYTES} bytes.")
    return content


def _read(path: str) -> bytes:
    if not Path(path).is_file():  # a pipe would be waited for
        raise FileNotFoundError("there is no such file")
    with open(path, "rb") as file:
        return file.read(MAX_BYTES + 1)


def _fetch(address: str, wanted: str) -> bytes:
    if not remote_bases_allowed():
        raise UserError(
            f"{wanted}, an address, as its base: download it and name the file, or allow it with "
            f"{REMOTE_BASE_FLAG}."
        )
    from detectron2.utils.file_io import PathManager

    try:
        with limited_patience(), PathManager.open(address, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except Exception as error:  # whatever the network, or the handler of the address, raises
        raise UserError(f"{wanted}, which cannot be fetched: {' '.join(str(error).split())}.") from error


def _bases(path: str, value: object) -> Sequence[str]:
    bases = [value] if isinstance(value, str) else value
    if not isinstance(bases, list) or not all(isinstance(base, str) and base for base in bases):
        raise UserError(f"Config file '{path}' has the _BASE_ {value!r}: give the name of a file, or a list.")
    return bases


def _beside(path: str, base: str) -> str:
    """A base by the name that a file gives it."""
    if _is_address(base):
        return base
    if base.startswith("~"):
        return os.path.expanduser(base)
    return os.path.join(os.path.dirname(path), base)


def _is_address(path: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def _merge(values: dict[str, Any], into: dict[str, Any], path: str) -> None:
    """Put values over others, section by section, in place."""
    for key, value in values.items():
        if isinstance(value, dict) and key in into:
            if not isinstance(into[key], dict):
                raise UserError(f"Config file '{path}' has a section '{key}', which is a value in its base.")
            _merge(value, into[key], path)
        else:
            into[key] = value
