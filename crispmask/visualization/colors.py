"""Colours of classes and objects, which people with any kind of colour vision can tell apart."""

from __future__ import annotations

Color = tuple[int, int, int]

# Okabe and Ito, Color Universal Design (2008), without black: the first of each round of seven
_PALETTE: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
# Share and value of the grey that further rounds are mixed with: as it is, light, dark
_ROUNDS = ((0.0, 0), (0.5, 255), (0.4, 0))


def distinct_color(index: int) -> Color:
    """The colour (R, G, B), 0 to 255, of a class or an object; always the same, and after 21 again."""
    share, grey = _ROUNDS[index // len(_PALETTE) % len(_ROUNDS)]
    red, green, blue = (round(v + (grey - v) * share) for v in _PALETTE[index % len(_PALETTE)])
    return red, green, blue
