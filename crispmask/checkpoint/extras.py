"""What is in a weight file and no part of its model: copies, values for the input, and names of a wrapper."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_PREPROCESSOR = "data_preprocessor."
_COPY = "ema_"
_COMPILED = "_orig_mod"


def leave_out_extras(model: dict[str, Any]) -> list[str]:
    """Take what MMDetection and MMEngine write among the weights out of them, in place; say what.

    These are ``ema_backbone_conv1_weight``, the copy of ``backbone.conv1.weight`` that averaging of weights
    keeps, and ``data_preprocessor.mean``, for which the config has a value here.

    Args:
        model: names, with or without ``module.``, and tensors.
    """
    copies = _copies(model)
    inputs = [name for name in model if _plain(name).startswith(_PREPROCESSOR)]
    if len(copies) + len(inputs) == len(model):
        return []  # a file of nothing else is none of theirs
    for name in (*copies, *inputs):
        del model[name]
    notes = {
        "ema_* left out: the copies that averaging keeps beside the weights.": len(copies),
        "data_preprocessor.* left out: the config has MODEL.PIXEL_MEAN and MODEL.PIXEL_STD.": len(inputs),
    }
    return [f"{n} tensor{'s' * (n > 1)} named {note}" for note, n in notes.items() if n]


def drop_compiled_names(model: dict[str, Any]) -> None:
    """Take the part ``_orig_mod``, which torch.compile puts around a module, out of names, in place."""
    renamed = {_without_wrapper(name): value for name, value in model.items()}
    if len(renamed) < len(model) or list(renamed) == list(model):
        return
    model.clear()
    model.update(renamed)
    if versions := getattr(model, "_metadata", None):  # those of the modules
        model._metadata = {_without_wrapper(name): version for name, version in versions.items()}  # type: ignore[attr-defined]


def _without_wrapper(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def _copies(names: Iterable[str]) -> list[str]:
    """The names that are ``ema_`` and another of them, with underscores for its dots."""
    names = list(names)
    flat = {_COPY + _plain(name).replace(".", "_") for name in names}
    return [name for name in names if _plain(name) in flat]


def _plain(name: str) -> str:
    return name.removeprefix("module.")
