"""Layers with a row for each class, fitted to another list of classes: rows of classes of one name are kept.

Shapes: K classes of the model, F of the file; a layer has ``per_class`` rows a class, in their order, and
behind them ``others`` rows, as that of the background.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from crispmask.checkpoint.report import Shape


@dataclass(frozen=True)
class ClassLayer:
    """Rows of a tensor along its first dimension."""

    per_class: int
    others: int

    def classes(self, rows: int) -> int | None:
        """Number of classes of a tensor with so many rows; None: it has none."""
        number, rest = divmod(rows - self.others, self.per_class)
        return number if number > 0 and rest == 0 else None


@dataclass(frozen=True)
class ModelClasses:
    """What is known of the classes of a model.

    Attributes:
        count: K.
        names: K, or none where nothing says them.
        layers: of the tensors that depend on K, by their names.
    """

    count: int
    names: tuple[str, ...] = ()
    layers: Mapping[str, ClassLayer] = field(default_factory=dict)


@dataclass(frozen=True)
class ClassFit:
    """How the classes of a file became those of a model.

    Attributes:
        names: of the K classes of the model, or none.
        file_names: of the F classes of the file, or none.
        file_count: F.
        pairs: class of the model and that of the file whose rows it got.
        new: classes of the model that got none.
        tensors: names of the model that were fitted, as classes are not those of the file in its order.
        with_others: those of them that have rows of no class, which are the file's.
    """

    names: tuple[str, ...]
    file_names: tuple[str, ...]
    file_count: int
    pairs: tuple[tuple[int, int], ...]
    new: tuple[int, ...]
    tensors: tuple[str, ...]
    with_others: tuple[str, ...] = ()

    @property
    def adapted(self) -> tuple[str, ...]:
        """Those of ``tensors`` that got rows of the file; the others are as the model was built."""
        return self.tensors if self.pairs else self.with_others

    @property
    def by_order(self) -> bool:
        """Whether classes were paired by their order, for want of names."""
        return bool(self.pairs) and not (self.names and self.file_names)


def find_class_layers(
    shapes: Mapping[str, Shape], with_another: Mapping[str, Shape], classes: int
) -> dict[str, ClassLayer]:
    """The tensors of a model that depend on its number of classes.

    Args:
        shapes: of the model with K classes.
        with_another: of the same model with K + 1.
        classes: K.
    """
    layers = {}
    for name, shape in shapes.items():
        more = with_another.get(name, shape)
        if more == shape or more[1:] != shape[1:]:
            continue
        per_class = more[0] - shape[0]
        layers[name] = ClassLayer(per_class, shape[0] - per_class * classes)
    return layers


def fit_classes(
    weights: dict[str, Any],
    model: Mapping[str, Tensor],
    classes: ModelClasses,
    file_names: Sequence[str],
    *,
    by_suffix: bool = False,
) -> ClassFit | None:
    """Give class layers of a file the rows that the model has, in place.

    Classes are paired by their names, where both sides have them, else by their order, where both have as
    many. The rows of others are those of ``model``, as they are.

    Args:
        weights: names and arrays or tensors of the file.
        model: the state of the model.
        classes: its classes.
        file_names: those of the file, in the order of its rows; none: they are not known.
        by_suffix: names of the file may lack the start of those of the model.

    Returns:
        None where the file has no such layer.
    """
    found = {name: key for name in classes.layers if (key := _key_of(name, weights, by_suffix))}
    shapes = {name: tuple(weights[key].shape) for name, key in found.items()}
    counts = {name: classes.layers[name].classes(shape[0]) for name, shape in shapes.items() if shape}
    # One for all classes looks like the layer of a single class
    file_count = max((count for count in counts.values() if count), default=0)
    if not file_count:
        return None
    if len(file_names) != file_count:
        file_names = ()
    pairs = pair_classes(classes.names, file_names, classes.count, file_count)
    paired = {ours for ours, _ in pairs}
    new = tuple(index for index in range(classes.count) if index not in paired)
    fits = file_count == classes.count and all(ours == theirs for ours, theirs in pairs) and not new
    changed = []
    for name, key in found.items():
        value = torch.as_tensor(weights[key])
        if fits or counts.get(name) != file_count or value.shape[1:] != model[name].shape[1:]:
            continue
        weights[key] = _take_rows(value, model[name], classes.layers[name], pairs)
        changed.append(name)
    with_others = tuple(name for name in changed if classes.layers[name].others)
    return ClassFit(classes.names, tuple(file_names), file_count, pairs, new, tuple(changed), with_others)


def pair_classes(
    ours: Sequence[str], theirs: Sequence[str], count: int, file_count: int
) -> tuple[tuple[int, int], ...]:
    """Places of a class in the model and in the file, see :func:`fit_classes`."""
    if ours and theirs:
        places = {name: index for index, name in enumerate(_unique(theirs)) if name}
        return tuple((i, places[name]) for i, name in enumerate(_unique(ours)) if name in places)
    return tuple((index, index) for index in range(count)) if count == file_count else ()


def _unique(names: Sequence[str]) -> list[str]:
    """Names without what data sets write differently; empty where two would be the same."""
    plain = [" ".join(name.replace("_", " ").split()).casefold() for name in names]
    counts = Counter(plain)
    return [name if counts[name] == 1 else "" for name in plain]


def _take_rows(theirs: Tensor, ours: Tensor, layer: ClassLayer, pairs: Sequence[tuple[int, int]]) -> Tensor:
    result = ours.detach().cpu().clone()
    theirs = theirs.to(result.dtype)
    for place, source in pairs:
        rows = slice(place * layer.per_class, (place + 1) * layer.per_class)
        result[rows] = theirs[source * layer.per_class : (source + 1) * layer.per_class]
    if layer.others:
        result[-layer.others :] = theirs[-layer.others :]
    return result


def _key_of(name: str, weights: Mapping[str, Any], by_suffix: bool) -> str:
    """The name of a tensor in a file; empty: it has none."""
    for key in (name, f"module.{name}"):
        if key in weights:
            return key
    ends = [key for key in weights if name.endswith(f".{key}")] if by_suffix else []
    return max(ends, key=len, default="")
