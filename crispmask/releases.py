"""What is known of the checkpoints of another code base: rules that turn its names into ours.

A head registers the code bases of its own: :class:`crispmask.heads.Source`. Here are the rules' form, and the
names that MMDetection gives to a detector, which belong to no head.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# A pattern of their names, and the template of ours
Rule = tuple[re.Pattern[str], str]


@dataclass(frozen=True)
class Part:
    """What a checkpoint gives to a model of which it is only a part.

    Attributes:
        tensors: under our names.
        config: the config of the model.
        opts: ``KEY, VALUE, ...`` that make the config that of the file.
        absent: shell patterns of the names that such a file cannot have.
        notes: what could not be checked, in sentences.
    """

    tensors: dict[str, Tensor]
    config: str
    opts: tuple[str, ...]
    absent: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Release:
    """How the checkpoints of a code base are read: by ``rules``, or by ``take_part``.

    Attributes:
        rules: see :func:`rules`; the first that matches a whole name counts.
        is_config: whether a config in the folder of the head, by its name there, is one of the release.
        take_part: ``f(path, file, model, config, opts)`` for a checkpoint that gives only a part of a model,
            from which a training may start: the path for messages, the file, names without ``module.`` and
            values, the config that is wanted (empty: the usual one) and ``KEY, VALUE, ...`` on top of it. It
            raises a :class:`crispmask.errors.UserError` where the file or the config is of another model.
    """

    rules: tuple[Rule, ...] = ()
    is_config: Callable[[str], bool] = lambda name: True
    take_part: Callable[[str, Path, Mapping[str, Tensor], str, Sequence[str]], Part] | None = None


def rules(prefix: str, ours: str, table: Mapping[str, str]) -> tuple[Rule, ...]:
    """Rules for names that begin alike.

    Args:
        prefix: how their names begin.
        ours: how our names begin.
        table: patterns of the rest, with named groups, and templates of ours with ``{group}``, or with
            ``{group+1}``, ``{group-1}`` or ``{group*2}`` of a group that is a number.
    """
    return tuple((re.compile(re.escape(prefix) + name), ours + template) for name, template in table.items())


def rename(name: str, known: Sequence[Rule]) -> str | None:
    """Our name of a name of theirs; None: no rule has it."""
    for pattern, template in known:
        if match := pattern.fullmatch(name):
            return _PLACE.sub(lambda place: _fill(place, match), template)
    return None


def _fill(place: re.Match[str], match: re.Match[str]) -> str:
    """Text for ``{group}``, or for ``{group+1}``, ``{group-1}``, ``{group*2}`` of a number."""
    text = match[place["group"]]
    return str(_OPERATORS[place["operator"]](int(text), int(place["number"]))) if place["operator"] else text


_PLACE = re.compile(r"\{(?P<group>\w+)(?:(?P<operator>[-+*])(?P<number>\d+))?\}")
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


# Ends of names: what a convolution has, and what a batch normalization
WB = r"\.(?P<wb>weight|bias)"
_BN = r"\.(?P<wb>weight|bias|running_mean|running_var)"
_BLOCK = r"layer(?P<l>\d)\.(?P<i>\d+)\."

# ResNet (as in torchvision), FPN, RPN and box head
MMDETECTION = (
    *rules(
        "backbone.",
        "backbone.bottom_up.",
        {
            r"conv1\.weight": "stem.conv1.weight",
            r"bn1" + _BN: "stem.conv1.norm.{wb}",
            _BLOCK + r"conv(?P<j>\d)\.weight": "res{l+1}.{i}.conv{j}.weight",
            _BLOCK + r"bn(?P<j>\d)" + _BN: "res{l+1}.{i}.conv{j}.norm.{wb}",
            _BLOCK + r"downsample\.0\.weight": "res{l+1}.{i}.shortcut.weight",
            _BLOCK + r"downsample\.1" + _BN: "res{l+1}.{i}.shortcut.norm.{wb}",
        },
    ),
    *rules(
        "neck.",
        "backbone.",
        {
            r"lateral_convs\.(?P<i>\d)\.conv" + WB: "fpn_lateral{i+2}.{wb}",
            r"fpn_convs\.(?P<i>\d)\.conv" + WB: "fpn_output{i+2}.{wb}",
        },
    ),
    *rules(
        "rpn_head.",
        "proposal_generator.rpn_head.",
        {
            r"rpn_conv" + WB: "conv.{wb}",
            r"rpn_cls" + WB: "objectness_logits.{wb}",
            r"rpn_reg" + WB: "anchor_deltas.{wb}",
        },
    ),
    *rules(
        "roi_head.bbox_head.",
        "roi_heads.",
        {
            r"shared_fcs\.(?P<i>\d)" + WB: "box_head.fc{i+1}.{wb}",
            r"fc_cls" + WB: "box_predictor.cls_score.{wb}",
            r"fc_reg" + WB: "box_predictor.bbox_pred.{wb}",
        },
    ),
)
