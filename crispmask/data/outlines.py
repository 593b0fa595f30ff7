"""The outlines of the eight categories of the shapes data set.

An outline is a list of closed contours, float64 (V, 2) arrays of (x, y) vertices. A point belongs to the
shape where the contours wind around it a non-zero number of times: contours of one direction add up (the
strokes of a letter), a contour of the opposite direction cuts a hole (a ring).

Frame: the shape's own, x right and y down, centred near the origin, about [-1, 1] along the longer side.
``fine`` is the smallest width in that frame that is still drawn; it keeps teeth and strokes wide enough to
be seen on small objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

Outline = list[np.ndarray]

# Strokes on a grid of 5 x 5 points, row by row from the top left: (column, row) pairs joined by lines.
LETTERS = {
    "A": ["04 20 44", "12 32"],
    "E": ["40 00 04 44", "02 32"],
    "F": ["40 00 04", "02 32"],
    "H": ["00 04", "40 44", "02 42"],
    "K": ["00 04", "40 02 44"],
    "M": ["04 00 23 40 44"],
    "N": ["04 00 44 40"],
    "P": ["04 00 30 41 32 02"],
    "R": ["04 00 30 41 32 02", "22 44"],
    "S": ["41 30 10 01 12 32 43 34 14 03"],
    "W": ["00 14 21 34 40"],
    "X": ["00 44", "40 04"],
    "Y": ["00 22 40", "22 24"],
    "Z": ["00 40 04 44"],
}


def stroke(path: np.ndarray, radius: float) -> Outline:
    """Contours of a pen of half-width ``radius`` led along ``path`` (V, 2): flat ends, round joints."""
    start, end = path[:-1], path[1:]
    along = (end - start) / np.linalg.norm(end - start, axis=1, keepdims=True)
    side = radius * along[:, ::-1] * (1, -1)
    bars = np.stack([start + side, end + side, end - side, start - side], axis=1)
    joint = radius * _circle(16)
    return [*bars, *(point + joint for point in path[1:-1])]


def star(rng: np.random.Generator, fine: float) -> Outline:
    """A star of five to nine points."""
    points = min(int(rng.integers(5, 10)), max(5, int(np.pi / fine)))
    radius = np.tile([1.0, rng.uniform(0.35, 0.55)], points)
    return [radius[:, None] * _circle(2 * points)]


def gear(rng: np.random.Generator, fine: float) -> Outline:
    """A wheel with trapezoid teeth and, where it is large enough, a round bore."""
    teeth = min(int(rng.integers(9, 20)), max(6, int(np.pi / fine)))
    root = 1 - rng.uniform(0.16, 0.26)
    steps = np.arange(teeth)[:, None] + [0.0, 0.42, 0.54, 0.88]
    angle = 2 * np.pi * steps.ravel() / teeth
    radius = np.tile([root, root, 1.0, 1.0], teeth)[:, None]
    bore = rng.uniform(0.2, 0.4)
    wheel = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return [wheel, bore * _circle(32)[::-1]] if bore > fine else [wheel]


def comb(rng: np.random.Generator, fine: float) -> Outline:
    """A straight back with parallel teeth on one side."""
    teeth = min(int(rng.integers(5, 14)), max(3, int(0.8 / fine)))
    depth, back = rng.uniform(0.6, 1.0), rng.uniform(0.2, 0.3)
    tooth = 2 / (2 * teeth - 1)
    left = -1 + 2 * tooth * np.arange(teeth)
    x = np.stack([left, left, left + tooth, left + tooth], axis=1).ravel()
    y = np.tile([back, depth, depth, back], teeth)
    contour = np.stack([x, y], axis=1)[1:-1]
    return [np.concatenate([contour, [[1.0, 0.0], [-1.0, 0.0]]]) - (0, depth / 2)]


def pipe(rng: np.random.Generator, fine: float) -> Outline:
    """A tube of constant width with one or two round bends and a flange at each end."""
    radius = max(rng.uniform(0.11, 0.17), 0.6 * fine)
    bends = rng.integers(1, 3)
    heading, path = 0.0, [np.zeros(2), np.array([rng.uniform(0.3, 0.9), 0.0])]
    turn_side = rng.choice([-1, 1])
    for _ in range(bends):
        turn = turn_side * rng.uniform(0.35, 0.6) * np.pi
        path.extend(_bend(path[-1], heading, turn, 2 * radius))
        heading += turn
        path.append(path[-1] + rng.uniform(0.4, 0.9) * _direction(heading))
        turn_side = -turn_side
    tube = np.stack(path)
    flanges = [tube[[0, 1]], tube[[-1, -2]]]
    caps = [np.stack([a, a + 0.9 * radius * _unit(b - a)]) for a, b in flanges]
    return [*stroke(tube, radius), *(bar for cap in caps for bar in stroke(cap, 1.6 * radius))]


def ring(rng: np.random.Generator, fine: float) -> Outline:
    """A round or elliptic band around a hole."""
    axes = np.array([1.0, rng.uniform(0.6, 1.0)])
    width = max(rng.uniform(0.16, 0.4), 0.8 * fine) * axes[1]
    return [_circle(96) * axes, (_circle(96) * np.maximum(axes - width, 0.1))[::-1]]


def leaf(rng: np.random.Generator, fine: float) -> Outline:
    """A pointed, slightly curved blade whose edge is cut like a saw, on a short stalk."""
    teeth = min(int(rng.integers(7, 14)), max(3, int(1.2 / fine)))
    breadth, curve = rng.uniform(0.35, 0.6), rng.uniform(-0.25, 0.25)
    # Every tooth rises slowly towards the tip of the blade and falls back at once.
    along = np.repeat(np.linspace(0, 1, teeth + 1), 2)[1:-1]
    depth = np.tile([1.0 - rng.uniform(0.2, 0.32), 1.0], teeth)
    width = breadth * np.sin(np.pi * (0.04 + 0.96 * along) ** 0.8) * depth
    x = 2 * along - 1
    spine = curve * (1 - x**2)
    upper, lower = np.stack([x, spine - width], axis=1), np.stack([x, spine + width], axis=1)
    stalk = np.array([[-0.96, 0.0], [-1.26, -0.3 * curve]])
    return [np.concatenate([upper, lower[::-1]]), *stroke(stalk, max(0.05, 0.35 * fine))]


def letter(rng: np.random.Generator, fine: float) -> Outline:
    """A capital letter, drawn with strokes so that no font is needed."""
    radius, narrow = max(rng.uniform(0.13, 0.2), 0.45 * fine), rng.uniform(0.7, 0.95)
    outline: Outline = []
    for points in LETTERS[str(rng.choice(sorted(LETTERS)))]:
        grid = np.array([[int(point[0]), int(point[1])] for point in points.split()], dtype=np.float64)
        outline += stroke((grid - 2) / 2 * (narrow, 1.0), radius)
    return outline


def rod(rng: np.random.Generator, fine: float) -> Outline:
    """A long thin bar with a point at one end."""
    radius = max(rng.uniform(0.025, 0.06), 0.4 * fine)
    tip = np.array([[0.85, -radius], [1.0, 0.0], [0.85, radius]])
    return [np.concatenate([tip, [[-1.0, radius], [-1.0, -radius]]])]


OUTLINES: dict[str, Callable[[np.random.Generator, float], Outline]] = {
    "star": star,
    "gear": gear,
    "comb": comb,
    "pipe": pipe,
    "ring": ring,
    "leaf": leaf,
    "letter": letter,
    "rod": rod,
}


def place(outline: Outline, extent: float, angle: float, centre: Sequence[float] | np.ndarray) -> Outline:
    """Turn an outline by ``angle`` (radians) and fit it into the image.

    Args:
        extent: longer side of the bounding box after turning, in pixels.
        centre: (x, y) of that box, in pixels.

    Returns:
        Contours in image coordinates, where pixel (row i, column j) covers [j, j + 1] x [i, i + 1].
    """
    cos, sin = math.cos(angle), math.sin(angle)
    turned = [contour @ np.array([[cos, sin], [-sin, cos]]) for contour in outline]
    low, high = bounds(turned)
    scale = extent / (high - low).max()
    return [(contour - (low + high) / 2) * scale + np.asarray(centre) for contour in turned]


def bounds(outline: Outline) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest (x, y) of an outline."""
    vertices = np.concatenate(outline)
    return vertices.min(axis=0), vertices.max(axis=0)


def _circle(vertices: int) -> np.ndarray:
    angle = 2 * np.pi * np.arange(vertices) / vertices
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _direction(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle)])


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _bend(start: np.ndarray, heading: float, turn: float, radius: float) -> list[np.ndarray]:
    """Points of an arc that leaves ``start`` along ``heading`` and turns by ``turn`` radians."""
    side = np.sign(turn) * np.pi / 2
    pivot = start + radius * _direction(heading + side)
    angles = heading - side + np.linspace(0, turn, 13)[1:]
    return [pivot + radius * _direction(angle) for angle in angles]
