"""Where labels go: near their objects, inside the picture, and none on another.

Shapes: N objects. Places are pixels, x to the right and y down, ends exclusive.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

# Lines of text by which a label may be moved away from its box when the places at it are taken
MOST_LINES = 4

Box = tuple[float, float, float, float]
Size = tuple[int, int]


def place_labels(boxes: Sequence[Box], sizes: Sequence[Size], picture: Size) -> list[tuple[int, int] | None]:
    """Places for labels, those of the first objects first.

    A label lies above its box, inside of it, or below, or is moved from there. One that finds no place of its
    own, or is larger than the picture, has none.

    Args:
        boxes: N of x0, y0, x1, y1.
        sizes: N of width and height of a label.
        picture: width and height.

    Returns:
        N of x, y of the upper left corner, or None.
    """
    taken = np.empty((0, 4), int)
    places: list[tuple[int, int] | None] = []
    for box, size in zip(boxes, sizes, strict=True):
        place = next((p for p in _candidates(box, size, picture) if _is_free(p, size, taken)), None)
        if place is not None:
            taken = np.vstack([taken, (*place, place[0] + size[0], place[1] + size[1])])
        places.append(place)
    return places


def _candidates(box: Box, size: Size, picture: Size) -> Iterator[tuple[int, int]]:
    """Places inside of the picture, the best first."""
    x0, y0, x1, y1 = map(round, box)
    width, height = size
    room_x, room_y = picture[0] - width, picture[1] - height
    if room_x < 0 or room_y < 0:
        return
    columns = (x0, x1 - width, (x0 + x1 - width) // 2, x0 - width, x1)
    rows = [y0 - height, y0, y1, y1 - height]
    rows += [row for k in range(1, MOST_LINES + 1) for row in (y0 + k * height, y0 - (k + 1) * height)]
    rows += [y1 + k * height for k in range(1, MOST_LINES + 1)]
    for row in rows:
        # Above the picture is no place, for the first line is one that is tried anyway
        if 0 <= row <= room_y:
            for column in columns:
                yield min(max(0, column), room_x), row
    yield min(max(0, x0), room_x), min(max(0, y0), room_y)


def _is_free(place: tuple[int, int], size: Size, taken: np.ndarray) -> bool:
    (x, y), (width, height) = place, size
    apart = (taken[:, 0] >= x + width) | (taken[:, 2] <= x) | (taken[:, 1] >= y + height) | (taken[:, 3] <= y)
    return bool(apart.all())
