"""Pictures that lie inside of a page, as small as they have to be."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

Picture = NDArray[np.uint8]

# Of all pictures of a page together, unless they are so many that one would have less than the smallest
# share; written as text they take a third more
MOST_BYTES, SMALLEST_SHARE = 1_200_000, 6_000
# From faithful to small
_QUALITIES = (90, 80, 65, 50, 35)
# A picture without loss seldom takes fewer bytes a pixel
_LEAST_LOSSLESS = 0.3


def share_of_each(pictures: int) -> int:
    """Bytes for each of the pictures of a page."""
    return max(SMALLEST_SHARE, MOST_BYTES // max(1, pictures))


def data_url(picture: Picture, most_bytes: int) -> str:
    """A picture as the address of an image, WebP or PNG, whichever is smaller.

    Without loss if it fits, else as well as it fits, else in half the size.

    Args:
        picture: (H, W, 3) uint8 RGB.
        most_bytes: what it may take.
    """
    image = Image.fromarray(picture)
    while True:
        kind, data = _encoded(image, most_bytes)
        if len(data) <= most_bytes or min(image.size) < 32:
            return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        image = image.reduce(2)


def _encoded(image: Image.Image, most_bytes: int) -> tuple[str, bytes]:
    """The most faithful encoding that fits, else the smallest that there is."""
    webp = features.check("webp")
    found = []
    if not webp or image.width * image.height * _LEAST_LOSSLESS <= most_bytes:
        found = [("png", _saved(image, "PNG", optimize=True))]
        if webp:
            found.append(("webp", _saved(image, "WEBP", lossless=True)))
    for quality in _QUALITIES if webp else ():
        if any(len(data) <= most_bytes for _, data in found):
            break
        found.append(("webp", _saved(image, "WEBP", quality=quality)))
    return min(found, key=lambda item: len(item[1]))


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()
