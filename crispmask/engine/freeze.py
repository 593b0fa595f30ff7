"""Training a part of a model: the rest stays as its weights were loaded."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.layers import FrozenBatchNorm2d
from torch import nn


def freeze_modules(model: nn.Module, names: Sequence[str]) -> None:
    """Keep the parameters and the BatchNorm statistics of some modules as they are in training, in place.

    Args:
        model: before it is given to an optimizer or to DistributedDataParallel.
        names: of modules, as in ``model.named_modules()``: ``backbone.bottom_up``.

    Raises:
        ValueError: the model has no such module, or nothing is left to train.
    """
    for name in names:
        module = _module(model, name)
        frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(module).requires_grad_(False)
        if frozen is not module:
            above, _, last = name.rpartition(".")
            model.get_submodule(above).add_module(last, frozen)
    if names and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"CRISPMASK.FREEZE {tuple(names)} leaves nothing to train.")


def _module(model: nn.Module, name: str) -> nn.Module:
    """The module of a name.

    Raises:
        ValueError: there is none; with the names that lie beside it.
    """
    module, path = model, ""
    for part in name.split("."):
        children = dict(module.named_children())
        if part not in children:
            inside = f"'{path}'" if path else "the model"
            raise ValueError(
                f"CRISPMASK.FREEZE names '{name}', but {inside} has no module '{part}'; "
                f"its modules: {', '.join(children) or 'none'}."
            )
        module, path = children[part], f"{path}.{part}".lstrip(".")
    return module
