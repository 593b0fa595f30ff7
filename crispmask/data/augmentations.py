"""What a training does to its images beyond Detectron2's resizing, cropping and mirroring."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import transforms as T
from numpy.typing import NDArray

from crispmask.errors import UserError


def build_augmentations(
    cfg: CfgNode, augmentations: Sequence[T.Augmentation], is_train: bool
) -> list[T.Augmentation]:
    """Detectron2's augmentations of a config, then ``INPUT.RANDOM_TURN`` and ``INPUT.COLOR_JITTER``.

    Raises:
        UserError: a package that an augmentation needs is not there.
    """
    made = [_keeping_pixels(augmentation) for augmentation in augmentations]
    if not is_train:
        return made
    if cfg.INPUT.RANDOM_TURN:
        if find_spec("cv2") is None:
            raise UserError("INPUT.RANDOM_TURN needs OpenCV: pip install opencv-python-headless.")
        made.append(T.RandomRotation([0, 90, 180, 270], sample_style="choice"))
    jitter = cfg.INPUT.COLOR_JITTER
    for strength, kind in (
        (jitter.BRIGHTNESS, T.RandomBrightness),
        (jitter.CONTRAST, T.RandomContrast),
        (jitter.SATURATION, T.RandomSaturation),
    ):
        if strength:
            made.append(kind(1 - strength, 1 + strength))
    if jitter.LIGHTING:
        made.append(T.RandomLighting(jitter.LIGHTING))
    return made


class KeepPixels(T.Augmentation):
    """Detectron2's resizing, which leaves a pixel of a side that it would shrink to nothing."""

    def __init__(self, resize: T.ResizeShortestEdge) -> None:
        super().__init__()
        self.resize = resize

    def get_transform(self, image: NDArray[Any]) -> Any:
        """The transform of an image (H, W, C)."""
        transform = self.resize.get_transform(image)
        if isinstance(transform, T.ResizeTransform) and min(transform.new_h, transform.new_w) < 1:
            size = max(1, transform.new_h), max(1, transform.new_w)
            return T.ResizeTransform(transform.h, transform.w, *size, transform.interp)
        return transform


def _keeping_pixels(augmentation: T.Augmentation) -> T.Augmentation:
    return KeepPixels(augmentation) if isinstance(augmentation, T.ResizeShortestEdge) else augmentation
