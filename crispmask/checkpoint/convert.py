"""Names of the authors' released checkpoints turned into the names of the models here.

The values stay as they are: no layer of these models is transposed or permuted between the code bases.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")
Rule = tuple[re.Pattern[str], str]

# Values that no model here needs: counters, and tables that follow from the window size of Swin
_IGNORED = re.compile(r"(num_batches_tracked|relative_position_index)$")
# A part of a name that no other model has
_SIGNATURES = {
    "refinemask": "roi_head.mask_head.stages.",
    "transfiner": "roi_heads.mask_head.encoder.",
    "transformers": "model.decoder.layers.0.encoder_attn.",
}


def convert_state_dict(state_dict: Mapping[str, Value], source: str) -> dict[str, Value]:
    """Rename the entries of a released checkpoint.

    Args:
        state_dict: names and values; a part of a checkpoint is converted to a part of a model. A leading
            ``module.`` is removed; counters of batches and index tables are left out.
        source: ``"refinemask"``, the release of RefineMask (an MMDetection fork), or ``"transfiner"``, that
            of Mask Transfiner (a Detectron2 fork).

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
    if source not in _RULES:
        raise ValueError(
            f"Checkpoint source {source!r} is not known; it must be one of: {', '.join(_RULES)}."
        )
    ours = {
        name: _rename(name.removeprefix("module."), source) for name in names if not _IGNORED.search(name)
    }
    unknown = [theirs for theirs, name in ours.items() if name is None]
    return {theirs: name for theirs, name in ours.items() if name is not None}, unknown


def released_source(names: Iterable[str]) -> str | None:
    """The source that a checkpoint with these names comes from; None if it is none of those known."""
    names = [name.removeprefix("module.") for name in names]
    for source, start in _SIGNATURES.items():
        if any(name.startswith(start) for name in names):
            return source
    return None


def _rename(name: str, source: str) -> str | None:
    for pattern, template in _RULES[source]:
        if match := pattern.fullmatch(name):
            return _PLACE.sub(lambda place: _fill(place, match), template)
    return None


def _fill(place: re.Match[str], match: re.Match[str]) -> str:
    """Text for ``{group}``, or for ``{group+1}``, ``{group-1}``, ``{group*2}`` of a number."""
    text = match[place["group"]]
    return str(_OPERATORS[place["operator"]](int(text), int(place["number"]))) if place["operator"] else text


_PLACE = re.compile(r"\{(?P<group>\w+)(?:(?P<operator>[-+*])(?P<number>\d+))?\}")
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def _rules(prefix: str, ours: str, table: Mapping[str, str]) -> list[Rule]:
    return [(re.compile(re.escape(prefix) + name), ours + template) for name, template in table.items()]


_WB = r"\.(?P<wb>weight|bias)"
_BN = r"\.(?P<wb>weight|bias|running_mean|running_var)"
_BLOCK = r"layer(?P<l>\d)\.(?P<i>\d+)\."
_STAGE = r"stages\.(?P<k>[012])\."
_LAYER = "quadtree.refiner.body.layers.{i}."

_MMDET_RESNET_FPN = [
    *_rules(
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
    *_rules(
        "neck.",
        "backbone.",
        {
            r"lateral_convs\.(?P<i>\d)\.conv" + _WB: "fpn_lateral{i+2}.{wb}",
            r"fpn_convs\.(?P<i>\d)\.conv" + _WB: "fpn_output{i+2}.{wb}",
        },
    ),
    *_rules(
        "rpn_head.",
        "proposal_generator.rpn_head.",
        {
            r"rpn_conv" + _WB: "conv.{wb}",
            r"rpn_cls" + _WB: "objectness_logits.{wb}",
            r"rpn_reg" + _WB: "anchor_deltas.{wb}",
        },
    ),
    *_rules(
        "roi_head.bbox_head.",
        "roi_heads.",
        {
            r"shared_fcs\.(?P<i>\d)" + _WB: "box_head.fc{i+1}.{wb}",
            r"fc_cls" + _WB: "box_predictor.cls_score.{wb}",
            r"fc_reg" + _WB: "box_predictor.bbox_pred.{wb}",
        },
    ),
]

# A stack holds a convolution at every second place, each followed by a ReLU.
_REFINEMASK_HEAD = _rules(
    "roi_head.mask_head.",
    "roi_heads.mask_head.",
    {
        r"instance_convs\.(?P<i>\d)\.conv" + _WB: "instance_convs.{i*2}.{wb}",
        r"semantic_convs\.(?P<i>\d)\.conv" + _WB: "semantic_head.convs.{i*2}.{wb}",
        r"semantic_logits" + _WB: "semantic_head.logits.{wb}",
        _STAGE + r"semantic_transform_in" + _WB: "stages.{k}.semantic_in.{wb}",
        _STAGE + r"semantic_transform_out" + _WB: "stages.{k}.semantic_out.{wb}",
        _STAGE + r"instance_logits" + _WB: "stages.{k}.logits.{wb}",
        _STAGE + r"fuse_conv\.0" + _WB: "stages.{k}.fuse.{wb}",
        _STAGE + r"fuse_conv\.1\.dilation_conv_(?P<d>[123])\.conv" + _WB: "stages.{k}.dilated.{d-1}.{wb}",
        _STAGE + r"fuse_conv\.1\.merge_conv\.conv" + _WB: "stages.{k}.merge.{wb}",
        _STAGE + r"fuse_transform_out" + _WB: "stages.{k}.squeeze.{wb}",
        r"final_instance_logits" + _WB: "final_logits.{wb}",
        r"stage_instance_logits\.(?P<k>[012])" + _WB: "stages.{k}.logits.{wb}",
        r"stage_instance_logits\.3" + _WB: "final_logits.{wb}",
    },
)

# Mask Transfiner's release is a fork of Detectron2: all but the mask branch keeps its name.
_TRANSFINER = _rules(
    "",
    "",
    {
        r"(?P<name>(?:backbone|proposal_generator|roi_heads\.box_\w+)\..+)": "{name}",
        r"roi_heads\.mask_pooler\.conv_norm_relus_semantic\.(?P<i>[0246])"
        + _WB: "roi_heads.mask_head.detail_convs.{i}.{wb}",
    },
) + _rules(
    "roi_heads.mask_head.",
    "roi_heads.mask_head.",
    {
        r"(?P<layer>mask_fcn[1-4]|deconv|predictor)" + _WB: "coarse.{layer}.{wb}",
        r"deconv_bo" + _WB: "boundary_head.deconv.{wb}",
        r"predictor_bo" + _WB: "boundary_head.classifier.{wb}",
        r"predictor_semantic_s" + _WB: "semantic_classifier.{wb}",
        **{
            rf"mask_fcn_uncertain{k}" + _WB: f"quadtree.detector.convs.{2 * k - 2}." + "{wb}"
            for k in (1, 2, 3, 4)
        },
        r"deconv_uncertain" + _WB: "quadtree.detector.deconv.{wb}",
        r"predictor_uncertain" + _WB: "quadtree.detector.classifier.{wb}",
        r"encoder\.conv_fuse" + _WB: "quadtree.refiner.fuse.{wb}",
        r"encoder\.conv_r1\.(?P<i>[02])" + _WB: "quadtree.refiner.decoder.{i}.{wb}",
        r"encoder\.layers\.(?P<i>\d)\.self_attn\.in_proj_(?P<wb>weight|bias)": _LAYER
        + "attention.in_proj.{wb}",
        r"encoder\.layers\.(?P<i>\d)\.self_attn\.out_proj" + _WB: _LAYER + "attention.out_proj.{wb}",
        r"encoder\.layers\.(?P<i>\d)\.(?P<layer>linear[12]|norm[12])" + _WB: _LAYER + "{layer}.{wb}",
    },
)

_RULES: dict[str, list[Rule]] = {
    "refinemask": [*_REFINEMASK_HEAD, *_MMDET_RESNET_FPN],
    "transfiner": _TRANSFINER,
}
SOURCES = tuple(_RULES)
