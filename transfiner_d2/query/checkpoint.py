"""Weights of Hugging Face's Deformable DETR and DETR under the names of the query-based detector.

Both generations of the library's names are read. Its backbone is left out: it is not that of Detectron2, and
the maps that the detector reads here come from an FPN.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

_PREFIX = "proposal_generator."
# Names of version 4 that version 5 changed, inside encoder and decoder layers
_NEWER = (
    (re.compile(r"(_attn)\.out_proj\."), r"\1.o_proj."),
    (re.compile(r"(layers\.\d+)\.(fc[12])\."), r"\1.mlp.\2."),
)
_NAMES = {
    r"model\.input_proj\.(\d+\..+)": r"tokens.projections.\1",
    r"model\.encoder\.(.+)": r"detector.encoder.\1",
    r"model\.decoder\.(layers\..+)": r"detector.decoder_\1",
    r"model\.level_embed": r"detector.map_codes",
    r"model\.query_position_embeddings\.(.+)": r"detector.start.queries.\1",
    r"model\.reference_points\.(.+)": r"detector.start.point.\1",
    r"model\.enc_output\.(.+)": r"detector.start.inputs.0.\1",
    r"model\.enc_output_norm\.(.+)": r"detector.start.inputs.1.\1",
    r"model\.pos_trans\.(.+)": r"detector.start.queries.0.\1",
    r"model\.pos_trans_norm\.(.+)": r"detector.start.queries.1.\1",
    r"(?:model\.decoder\.)?class_embed\.(\d+)\.(.+)": r"detector.class_heads.\1.\2",
    r"(?:model\.decoder\.)?bbox_embed\.(\d+)\.(.+)": r"detector.box_heads.\1.\2",
}
_PLAIN_NAMES = {
    r"model\.input_projection\.(.+)": r"tokens.projections.0.\1",
    r"model\.(encoder|decoder)\.(.+)": r"detector.\1.\2",
    r"model\.query_position_embeddings\.(.+)": r"detector.queries.\1",
    r"class_labels_classifier\.(.+)": r"detector.class_head.\1",
    r"bbox_predictor\.(.+)": r"detector.box_head.\1",
}
_HEAD = re.compile(r"detector\.(class|box)_heads\.(\d+)\.(.+)")


def convert_transformers_detector(
    state_dict: Mapping[str, Tensor], *, box_refine: bool = True, categories: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """Rename the detector of ``DeformableDetrForObjectDetection`` or ``DetrForObjectDetection``.

    Args:
        state_dict: of the whole model; its backbone is left out.
        box_refine: as ``MODEL.QUERY.BOX_REFINE``: heads for each layer, or one for all; DETR has one anyway.
        categories: outputs of the class heads to keep, in the order of the classes here. The models trained
            on COCO have one for each category number, 91 with gaps: give the 80 numbers
            (``list(MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id)``). None: all.

    Returns:
        Values by their names in ``QueryTransfiner``. Where maps have another number of channels than FPN's,
        the projections do not fit and must be learnt anew.

    Raises:
        KeyError: a name is of neither model.
    """
    plain = any(name.startswith("class_labels_classifier.") for name in state_dict)
    renamed = {
        _rename(name, _PLAIN_NAMES if plain else _NAMES): value
        for name, value in state_dict.items()
        if not name.startswith("model.backbone.")
    }
    if not plain:
        renamed = _assign_heads(renamed, box_refine)
    if categories is not None:
        renamed = {name: _keep_classes(name, value, categories, plain) for name, value in renamed.items()}
    return {_PREFIX + name: value for name, value in renamed.items()}


def _rename(name: str, names: Mapping[str, str]) -> str:
    newer = name
    for pattern, replacement in _NEWER:
        newer = pattern.sub(replacement, newer)
    for name_pattern, template in names.items():
        if match := re.fullmatch(name_pattern, newer):
            return match.expand(template)
    raise KeyError(f"'{name}' is not a name of a Deformable DETR or DETR model of transformers.")


def _assign_heads(values: Mapping[str, Tensor], box_refine: bool) -> dict[str, Tensor]:
    """Heads of each layer, written out where the file shares them, and that of the encoder."""
    layers = 1 + max(
        int(name.split(".")[2]) for name in values if name.startswith("detector.decoder_layers.")
    )
    result = {name: value for name, value in values.items() if not _HEAD.fullmatch(name)}
    heads = {(m[1], int(m[2]), m[3]): value for name, value in values.items() if (m := _HEAD.fullmatch(name))}
    for kind, rest in {(kind, rest): None for kind, _, rest in heads}:
        shared = heads[kind, 0, rest]
        for index in range(layers if box_refine else 1):
            result[f"detector.{kind}_heads.{index}.{rest}"] = heads.get((kind, index, rest), shared)
        if "detector.start.inputs.0.weight" in values:
            value = heads.get((kind, layers, rest), shared)
            # Only its first output is trained, for "an object"
            result[f"detector.start.{kind}_head.{rest}"] = value[:1] if kind == "class" else value
    return result


def _keep_classes(name: str, value: Tensor, categories: Sequence[int], plain: bool) -> Tensor:
    if plain and name.startswith("detector.class_head."):
        return value[[*categories, -1]]  # "no object" is the last
    return value[list(categories)] if name.startswith("detector.class_heads.") else value
