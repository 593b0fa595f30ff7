"""Training a part of a model: the rest stays as its weights were loaded."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

from crispmask.checkpoint.fine_tuning import describe_new_classes
from crispmask.checkpoint.report import WeightReport, group_names, is_part, with_count
from crispmask.errors import UserError

# Modules that drop by a rate "p"; and names of rates elsewhere: attention drops in a call, without a module
_DROPPING = (_DropoutNd, StochasticDepth)
_RATES = ("dropout", "attention_dropout", "activation_dropout")


def freeze_modules(model: nn.Module, names: Sequence[str]) -> None:
    """Keep some modules as they are in training, in place: parameters, BatchNorm statistics, no dropout.

    Args:
        model: before it is given to an optimizer or to DistributedDataParallel.
        names: of modules, as in ``model.named_modules()``: ``backbone.bottom_up``.

    Raises:
        UserError: the model has no such module, or nothing is left to train.
    """
    for name in names:
        module = find_module(model, name, "CRISPMASK.FREEZE")
        frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(module).requires_grad_(False)
        if frozen is not module:
            above, _, last = name.rpartition(".")
            model.get_submodule(above).add_module(last, frozen)
        _drop_nothing(frozen)
    if names and not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"CRISPMASK.FREEZE {tuple(names)} leaves nothing to train.")


def check_frozen_weights(report: WeightReport, names: Sequence[str], weights: str) -> None:
    """What is not trained has to come from the weights that a training starts from.

    Args:
        report: what was loaded.
        names: of frozen modules.
        weights: path of the file, as it was given.

    Raises:
        UserError: tensors of a frozen module were not in the file, or had another shape there.
    """
    frozen = [name for name in report.untrained if is_part(name, names)]
    if not frozen:
        return
    modules = ", ".join(name for name in names if any(is_part(tensor, [name]) for tensor in frozen))
    otherwise = "leave them out of CRISPMASK.FREEZE, which --freeze-detector fills"
    fit = report.class_fit
    if report.backbone_only:
        raise UserError(
            f"Weight file '{weights}' is a backbone and no detector, so {modules} would stay random: give "
            f"the weights of a trained detector, or {otherwise}."
        )
    if fit is not None and set(frozen) <= set(fit.tensors):
        raise UserError(
            f"Weight file '{weights}' knows no {describe_new_classes(fit)}, so frozen layers of {modules} "
            f"would stay random: {otherwise}."
        )
    lines = [
        f"Weight file '{weights}' lacks tensors of modules in CRISPMASK.FREEZE, which would stay random: "
        f"give weights that have them (--from fits those of other classes), or {otherwise}."
    ]
    raise UserError("\n".join([*lines, *(f"  {with_count(*group)}" for group in group_names(frozen))]))


def _drop_nothing(module: nn.Module) -> None:
    """Set the rates of dropout and stochastic depth to zero: what is trained behind sees what it will get.

    Evaluation mode would do it as well, but an RPN proposes otherwise in it.
    """
    for part in module.modules():
        if isinstance(part, _DROPPING):
            part.p = 0.0
        for name in _RATES:
            # A module of that name has a rate of its own
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)


def find_module(model: nn.Module, name: str, key: str) -> nn.Module:
    """The module of a name, which a config key has.

    Raises:
        UserError: there is none; with the names that lie beside it.
    """
    module, path = model, ""
    for part in name.split("."):
        children = dict(module.named_children())
        if part not in children:
            inside = f"'{path}'" if path else "the model"
            raise UserError(
                f"{key} names '{name}', but {inside} has no module '{part}'; "
                f"its modules: {', '.join(children) or 'none'}."
            )
        module, path = children[part], f"{path}.{part}".lstrip(".")
    return module
