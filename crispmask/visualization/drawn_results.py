"""Predictions drawn on their picture, in the styles that a user can choose.

Shapes: H, W the picture, h, w the window of an object.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crispmask.erosion import erosion_residue
from crispmask.errors import UserError
from crispmask.evaluation.coco.protocol import DILATION_RATIO
from crispmask.evaluation.masks.boundary_iou import boundary_width
from crispmask.results import Result
from crispmask.visualization.colors import Color, distinct_color
from crispmask.visualization.overlay import DrawnObject, draw_objects

STYLES = {
    "fill": {},
    "outline": {"fill_opacity": 0.0, "line_width": 1.5},
    "boundary": {"fill_opacity": 0.65, "line_width": 0.0},
}


def draw_result(
    result: Result, picture: NDArray[np.uint8], *, style: str = "fill", scale: int = 1, labels: bool = True
) -> Image.Image:
    """A picture (H, W, 3) uint8 RGB with the objects of its result, as ``Result.draw`` gives it."""
    if style not in STYLES:
        raise UserError(f"There is no style '{style}': give {', '.join(STYLES)}.")
    objects = drawn_objects(result, labels=labels, band=style == "boundary")
    return Image.fromarray(draw_objects(picture, objects, scale, **STYLES[style]))


def drawn_objects(result: Result, *, labels: bool = True, band: bool = False) -> list[DrawnObject]:
    """What :func:`~crispmask.visualization.overlay.draw_objects` takes.

    Args:
        result: coloured by class, or by object where the model has one class.
        labels: class and score.
        band: of a mask, the pixels that Boundary IoU counts on COCO.
    """
    width = boundary_width(*result.size, DILATION_RATIO)
    drawn = []
    for found in result:
        mask, corner = (None, (0, 0)) if result.rles is None else result.mask_crop(found.index)
        if band and mask is not None:
            mask = _band(mask, width)
        label = found.label if labels else ""
        drawn.append(DrawnObject(mask, found.box, label, _color(result, found.index), corner))
    return drawn


def _band(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """(h, w) of a mask whose window is tight, so that what lies outside is background."""
    pixels = np.ascontiguousarray(mask)
    return erosion_residue(pixels, width, pixels.copy())


def _color(result: Result, index: int) -> Color:
    number = int(result.class_indices[index])
    if len(result.classes.names) == 1:
        return distinct_color(index)
    return result.classes.colors[number] if result.classes.colors else distinct_color(number)
