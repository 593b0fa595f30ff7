"""What is in a weight file and no part of its model: copies, values for the input, and names of a wrapper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

_PREPROCESSOR = "data_preprocessor."
_COPY = "ema_"
# Modules that torch.compile, FSDP and activation checkpointing put around others
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_LIGHTNING = "pytorch-lightning_version"


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


def drop_wrapper_names(model: dict[str, Any]) -> None:
    """Take what wrappers of modules put into names, ``_orig_mod`` and the like, out of them, in place."""
    renamed = {_without_wrapper(name): value for name, value in model.items()}
    if len(renamed) < len(model) or list(renamed) == list(model):
        return
    model.clear()
    model.update(renamed)
    if versions := getattr(model, "_metadata", None):  # those of the modules
        model._metadata = {_without_wrapper(name): version for name, version in versions.items()}  # type: ignore[attr-defined]


def _without_wrapper(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _copies(names: Iterable[str]) -> list[str]:
    """The names that are ``ema_`` and another of them, with underscores for its dots."""
    names = list(names)
    flat = {_COPY + _plain(name).replace(".", "_") for name in names}
    return [name for name in names if _plain(name) in flat]


def _plain(name: str) -> str:
    return name.removeprefix("module.")


def drop_lightning_name(content: dict[str, Any]) -> list[str]:
    """Take the name that a Lightning module has for its model out of names, in place; say which it is.

    Args:
        content: of a checkpoint, with its weights as ``model``.
    """
    model = content["model"]
    first = {str(name).partition(".")[0] for name in model}
    if _LIGHTNING not in content or len(first) != 1 or any("." not in str(name) for name in model):
        return []
    content["model"] = {str(name).partition(".")[2]: value for name, value in model.items()}
    return [f"it is of Lightning: '{first.pop()}.', with which all names begin, is taken off them."]


def other_weights(content: Mapping[str, Any]) -> list[str]:
    """A sentence for each part of a checkpoint that has other values under the names of its weights."""
    names = set(content["model"])
    parts = [key for key, value in content.items() if key != "model" and isinstance(value, Mapping)]
    twins = [key for key in parts if 2 * len(names & set(content[key])) > len(names)]
    return [f"other weights with the same names, under '{key}', are not taken." for key in twins]


def parts_with_weights(content: Mapping[str, Any]) -> list[str]:
    """Keys of the parts that are dicts of tensors."""
    return [
        str(key)
        for key, value in content.items()
        if isinstance(value, Mapping) and any(isinstance(part, Tensor) for part in value.values())
    ]
