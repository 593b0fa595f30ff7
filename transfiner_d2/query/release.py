"""Checkpoints of Hugging Face's Deformable DETR and DETR, which the query-based model may start from.

Such a file gives the ResNet and the detector. FPN, the projections that read it and the mask branch are not
in it, so the model is by nature not whole: the rest is learnt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import Tensor

from crispmask.config import get_config
from crispmask.errors import UserError
from crispmask.releases import MMDETECTION, Part, Release, rename

from .checkpoint import convert_transformers_detector

CONFIG = "transfiner/coco/query_R_50_FPN.yaml"
# What is learnt anew
ABSENT = ("backbone.fpn_*", "proposal_generator.tokens.projections.*", "roi_heads.*")
ABSENT_BACKBONE = "backbone.bottom_up.*"

# The numbers of COCO's categories, with gaps: 0..90
_COCO_NUMBERS = 91
_PLAIN_CLASSES = "class_labels_classifier.bias"
# timm's ResNet, which is named as torchvision's
_RESNET = re.compile(r"model\.backbone\.(?:conv_encoder\.)?model\.((?:conv1|bn1|layer\d)\..+)")
_COUNTER = "num_batches_tracked"
# What a Deformable DETR with so many maps reads
_MAPS = {1: ("p5",), 3: ("p3", "p4", "p5"), 4: ("p3", "p4", "p5", "p6")}
# Numbers that may be others with the same shapes, and their names in config.json behind encoder_ and decoder_
_STATED = {"NUM_HEADS": "attention_heads", "NUM_POINTS": "n_points"}
_LAYER = re.compile(r"model\.(encoder|decoder)\.layers\.(\d+)\.")


def stated_settings(file: Path) -> dict[str, int]:
    """Keys of ``MODEL.QUERY`` that no shape tells, by the ``config.json`` beside a file, where there is one.

    Raises:
        UserError: it cannot be read, or encoder and decoder are not alike, as they are here.
    """
    path = file.with_name("config.json")
    if not path.is_file():
        return {}
    try:
        content = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"'{path}' beside the weights is no JSON object: correct it, or take it away."
        ) from error
    settings: dict[str, int] = {}
    for key, name in _STATED.items():
        words = [f"{part}_{name}" for part in ("encoder", "decoder")]
        values = [content[word] for word in words if word in content]
        if not all(isinstance(value, int) and value > 0 for value in values):
            raise UserError(f"'{path}' has {values} for {' and '.join(words)}, which must be whole numbers.")
        if len(set(values)) > 1:
            raise UserError(f"'{path}' has two values for {' and '.join(words)}, which are one number here.")
        if values:
            settings[key] = values[0]
    return settings


def take_detector(
    path: str, file: Path, model: Mapping[str, Tensor], config: str, opts: Sequence[str]
) -> Part:
    """The parts of such a checkpoint that the query-based model has too; see :class:`Release`.

    Raises:
        UserError: it is of another model, or the config is, or ``config.json`` beside it cannot be read.
    """
    config, stated = config or CONFIG, stated_settings(file)
    cfg = get_config(config, opts)
    if cfg.MODEL.META_ARCHITECTURE != "QueryTransfiner":
        raise UserError(
            f"{config} has no query-based detector, which is all that a file of transformers gives: give "
            f"{CONFIG}, or no --config."
        )
    try:
        found = {**_detector_keys(model, cfg.MODEL.QUERY), **stated}
        detector = _detector(model, cfg, box_refine=found["BOX_REFINE"])
    except (KeyError, StopIteration, ValueError) as error:
        reason = error.args[0] if error.args and isinstance(error.args[0], str) else "parts of it are missing"
        raise UserError(
            f"Weight file '{path}' is no Deformable DETR or DETR of transformers: {reason.rstrip('.')}."
        ) from error
    other = {key: value for key, value in found.items() if cfg.MODEL.QUERY[key] != value}
    keys = tuple(word for key, value in other.items() for word in (f"MODEL.QUERY.{key}", str(value)))
    resnet = _resnet(model)
    absent = ABSENT if resnet else (*ABSENT, ABSENT_BACKBONE)
    opts = (*keys, *opts)
    notes = () if "NUM_HEADS" in stated else (_on_trust(get_config(config, opts).MODEL.QUERY.NUM_HEADS),)
    return Part({**resnet, **detector}, config, opts, absent, notes)


def _on_trust(heads: int) -> str:
    return (
        f"MODEL.QUERY.NUM_HEADS {heads} is taken on trust: no shape tells it, and no config.json beside the "
        f"file does."
    )


def _detector(model: Mapping[str, Tensor], cfg: CfgNode, *, box_refine: bool) -> dict[str, Tensor]:
    categories = _categories(model, cfg)
    renamed = convert_transformers_detector(model, box_refine=box_refine, categories=categories)
    # Those of the file read the ResNet's maps
    return {name: value for name, value in renamed.items() if ".tokens.projections." not in name}


def _detector_keys(model: Mapping[str, Tensor], node: CfgNode) -> dict[str, Any]:
    """Keys of ``MODEL.QUERY``, which ``node`` is, that describe the detector of the file."""
    return {**_sizes(model), **(_plain_keys() if _PLAIN_CLASSES in model else _deformable_keys(model, node))}


def _sizes(model: Mapping[str, Tensor]) -> dict[str, Any]:
    layers = [(m[1], int(m[2])) for name in model if (m := _LAYER.match(name))]
    hidden = next(v for n, v in model.items() if re.search(r"encoder\.layers\.0\.(mlp\.)?fc1\.bias", n))
    sizes: dict[str, Any] = {
        "FFN_DIM": len(hidden),
        "ENCODER_LAYERS": 1 + max(index for part, index in layers if part == "encoder"),
        "DECODER_LAYERS": 1 + max(index for part, index in layers if part == "decoder"),
    }
    queries = model.get("model.query_position_embeddings.weight")
    return sizes if queries is None else {**sizes, "NUM_QUERIES": len(queries)}


def _plain_keys() -> dict[str, Any]:
    keys = {"DETECTOR": "plain", "IN_FEATURES": ("p5",), "CLASS_LOSS": "softmax", "BOX_REFINE": False}
    return {**keys, "CLASS_WEIGHT": 1.0, "CLASS_COST": 1.0}


def _deformable_keys(model: Mapping[str, Tensor], node: CfgNode) -> dict[str, Any]:
    two_stage = "model.enc_output.weight" in model
    keys = {"TWO_STAGE": two_stage, "BOX_REFINE": two_stage or _refines(model), "DETECTOR": "deformable"}
    keys |= {"CLASS_LOSS": "focal", "CLASS_WEIGHT": 2.0, "CLASS_COST": 2.0}
    # The projections are learnt anyway, so any maps will do, as long as they are as many
    maps, count = tuple(node.IN_FEATURES), len(model["model.level_embed"])
    return {**keys, "IN_FEATURES": maps if len(maps) == count else _MAPS.get(count, maps)}


def _refines(model: Mapping[str, Tensor]) -> bool:
    """Whether each layer has box heads of its own; a file may hold the shared ones once or many times."""
    if any(name.startswith("model.decoder.bbox_embed.") for name in model):
        return True
    first, second = (model.get(f"bbox_embed.{index}.layers.0.weight") for index in (0, 1))
    return first is not None and second is not None and not first.equal(second)


def _categories(model: Mapping[str, Tensor], cfg: CfgNode) -> list[int] | None:
    """Outputs of the class heads to keep: those of COCO's classes where there is one for each number."""
    names = (_PLAIN_CLASSES, "class_embed.0.bias", "model.decoder.class_embed.0.bias")
    outputs = next((len(model[name]) - (name == _PLAIN_CLASSES) for name in names if name in model), 0)
    if outputs != _COCO_NUMBERS or cfg.MODEL.ROI_HEADS.NUM_CLASSES != 80:
        return None
    return list(MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id)


def _resnet(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values of the backbone under our names; none, where it is no ResNet of timm."""
    found = {f"backbone.{m[1]}": value for name, value in model.items() if (m := _RESNET.fullmatch(name))}
    found = {name: value for name, value in found.items() if not name.endswith(_COUNTER)}
    names = {name: rename(name, MMDETECTION) for name in found}
    return {} if None in names.values() else {str(ours): found[theirs] for theirs, ours in names.items()}


RELEASE = Release(take_part=take_detector)
