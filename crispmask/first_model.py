"""How to get a model: said wherever there is none, or what a training starts from in its place."""

from __future__ import annotations

import shlex
from pathlib import PurePath

from crispmask.errors import UserError
from crispmask.model_list import Published, name_of, published

PAGE = "docs/fine_tuning.md"
ZOO_MODEL = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"
# What Detectron2 calls its backbones, in whatever place they are
_BACKBONES = "ImageNetPretrained/"
# A file that its authors' page does not name
_DOWNLOADED = "DOWNLOADED.pth"


def require_model(weights: str, config_file: str = "", *, given: bool = True) -> None:
    """Stop where there is no trained model to run, before anything is fetched.

    Args:
        weights: ``MODEL.WEIGHTS``.
        config_file: path of the config; empty: not known.
        given: the user named the weights. Those that a config of the package names are what its training
            starts from.

    Raises:
        UserError: with the ways to a model.
    """
    name = name_of(config_file) if config_file else ""
    if weights and _BACKBONES not in weights and (given or not name):
        return
    if weights and (given or name):
        whose = f"'{weights}'" + ("" if given else f", the MODEL.WEIGHTS of {name},")
        reason = f"{whose} is what a training starts from, and no model."
    else:
        reason = "MODEL.WEIGHTS is empty, so there is no model to run."
    raise UserError(f"{reason} {how_to_get_a_model(name)}")


def how_to_get_a_model(config: str = "") -> str:
    """Three ways to a trained model, in a sentence with their commands.

    Args:
        config: name of a config of the package that is wanted; empty: any.
    """
    row = _offered(config)
    train = f"python train_net.py --config-file {shlex.quote(config or row.config)} --from {ZOO_MODEL}"
    return (
        f"Train one on generated shapes in minutes (make demo), make one of what its authors offer "
        f"({convert_command(row)}; the file is {row.weights}), or train one on your images ({train} "
        f"--train-json FILE --train-images FOLDER): {PAGE} has the steps."
    )


def convert_command(row: Published) -> str:
    """The command that makes a checkpoint that its authors offer one of ours."""
    return f"crispmask convert --source {row.release} {row.file or _DOWNLOADED} {converted_file(row)}"


def converted_file(row: Published) -> str:
    """What that command calls the result."""
    return "_".join(PurePath(row.config).with_suffix(".safetensors").parts)


def _offered(config: str) -> Published:
    """A checkpoint of the authors: of this config, else of its method and data set, else any."""
    rows = [row for row in published() if row.weights and row.config]
    method = PurePath(config).parts[:2]
    return max(rows, key=lambda row: (row.config == config, PurePath(row.config).parts[:2] == method))
