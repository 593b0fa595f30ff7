"""A trained model for pictures that are in no data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from numpy.typing import NDArray

from crispmask.checkpoint import load_weights
from crispmask.data.mapper import ImageMapper
from crispmask.engine.checks import check_deformable_convolutions, check_weight_file
from crispmask.engine.trainer import Trainer
from crispmask.engine.value_range import stored_value_range
from crispmask.errors import UserError
from crispmask.model_zoo.first_model import require_model


class Predictor:
    """The model of a config, with its weights, ready for batches of pictures.

    Pictures are resized as in the evaluation (``INPUT.MIN_SIZE_TEST``, ``INPUT.MAX_SIZE_TEST``) and given to
    the model in the channel order of ``INPUT.FORMAT``; results have the size of the picture.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """
        Args:
            cfg: the config; ``MODEL.WEIGHTS`` is a trained checkpoint of exactly this model.

        Raises:
            UserError: there are no weights, they cannot be read, or they are those of another model.
        """
        self.cfg = cfg = stored_value_range(cfg)
        self.model = load_trained_model(cfg)
        self.mapper = ImageMapper(cfg, is_train=False)

    def __call__(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Instances]:
        """Detections of each picture, on the CPU.

        Args:
            pictures: (H, W, 3) uint8 RGB, each of its own size; they are one batch.

        Returns:
            As Detectron2's models give them: ``pred_boxes`` in pixels of the picture, ``scores``,
            ``pred_classes`` and, from a model with masks, ``pred_masks`` (R, H, W) bool.

        Raises:
            UserError: the model finds no instances but something else.
        """
        if not pictures:
            return []
        with torch.inference_mode():
            outputs = self.model([self.model_input(picture) for picture in pictures])
        if "instances" not in outputs[0]:
            found = ", ".join(outputs[0])
            raise UserError(f"The model of this config gives {found} and no instances: give one that does.")
        return [output["instances"].to("cpu") for output in outputs]

    def read(self, path: str | Path) -> NDArray[np.uint8]:
        """The picture of a file as the training read it, (H, W, 3) uint8 RGB.

        Raises:
            ImageError: the file cannot be read, see :func:`crispmask.data.images.read_image`.
        """
        return self.mapper.read(str(path))

    def model_input(self, picture: NDArray[np.uint8]) -> dict[str, Any]:
        """What Detectron2's models take for a picture (H, W, 3) uint8 RGB."""
        return self.mapper.model_input(picture)


def load_trained_model(cfg: CfgNode) -> torch.nn.Module:
    """The model of a config in evaluation mode, every weight of it from ``MODEL.WEIGHTS``, unless
    ``CRISPMASK.STRICT_WEIGHTS`` is off.

    Raises:
        UserError: there are no weights, they are those of a backbone alone, they cannot be read, or they do
            not fit; or the model cannot run on the CPU.
    """
    require_model(cfg.MODEL.WEIGHTS)
    check_deformable_convolutions(cfg, training=False)
    check_weight_file(cfg.MODEL.WEIGHTS)
    model = Trainer.build_model(cfg)
    report = load_weights(model, cfg.MODEL.WEIGHTS, strict=cfg.CRISPMASK.STRICT_WEIGHTS)
    if report.backbone_only:
        raise UserError(f"Weight file '{cfg.MODEL.WEIGHTS}' cannot be run: {report.cause()}")
    return model.eval()
