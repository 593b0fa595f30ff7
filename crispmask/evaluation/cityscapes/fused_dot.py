"""A dot product with the same bits on every machine.

``np.dot`` sums in the order that suits the vector units of the machine, so its last bits differ from one to
the next. Official figures come from machines with AVX-512, and this is the sum of OpenBLAS there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Numbers that a pass takes together: four registers of eight, then four of four
_WIDE, _NARROW = 32, 16


def fused_dot(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Dot product of two finite (N,) arrays, made to be fast where ``second`` is mostly zero."""
    narrow = len(first) - len(first) % _NARROW
    wide = len(first) - len(first) % _WIDE
    lanes = np.array(_add_to_lanes([0.0] * _WIDE, first[:wide], second[:wide])).reshape(4, 2, 4)
    lanes = (lanes[:, 0] + lanes[:, 1]).reshape(-1).tolist()
    registers = np.array(_add_to_lanes(lanes, first[wide:narrow], second[wide:narrow])).reshape(4, 4)
    lower, upper = (((registers[0] + registers[1]) + registers[2]) + registers[3]).reshape(2, 2)
    total = [float((lower + upper).sum())]
    return _add_to_lanes(total, first[narrow:], second[narrow:])[0]


def _add_to_lanes(lanes: list[float], first: NDArray[np.float64], second: NDArray[np.float64]) -> list[float]:
    """Add the product at position i to lane i modulo their number, one after the other."""
    used = np.flatnonzero(second)
    for i, a, b in zip(used.tolist(), first[used].tolist(), second[used].tolist(), strict=True):
        lane = i % len(lanes)
        lanes[lane] = _multiply_add(a, b, lanes[lane])
    return lanes


def _multiply_add(a: float, b: float, c: float) -> float:
    """``a * b + c`` rounded once. Denominators are powers of two, and a quotient of integers is exact."""
    (a_top, a_bottom), (b_top, b_bottom), (c_top, c_bottom) = (x.as_integer_ratio() for x in (a, b, c))
    bottom = a_bottom * b_bottom
    return (a_top * b_top * c_bottom + c_top * bottom) / (bottom * c_bottom)
