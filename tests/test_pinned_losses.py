"""The losses of tiny models over 20 steps are those that were written down."""

from __future__ import annotations

import pytest

from tests.golden import pinned_losses
from tests.transfiner.tiny_query import MISSING_LIBRARY

# Seen between CPUs (plain, AVX2, AVX-512), one and two threads, torch 2.4 and 2.14: 5e-7
ROUNDING = 2e-6
# RefineMask learns at the cells near the boundary that it predicts: a probability that is rounded to the
# other side of 0.5 moves cells in or out. Seen: 2.5e-4, and 5e-7 in the first five steps
MOVED_CELLS, STEPS_WITHOUT = 1e-3, 5


@pytest.mark.parametrize("name", pinned_losses.MODELS)
def test_losses_are_those_of_before(name: str) -> None:
    if name.startswith("query") and MISSING_LIBRARY:
        pytest.skip(MISSING_LIBRARY)
    expected, found = pinned_losses.read(name), pinned_losses.curves(name)
    assert list(found) == list(expected)
    for loss, values in expected.items():
        assert len(found[loss]) == len(values) == pinned_losses.STEPS
        assert values[-1] != values[0], f"{loss} learns nothing"
        exact = STEPS_WITHOUT if name.startswith("refinemask") else len(values)
        assert found[loss][:exact] == pytest.approx(values[:exact], rel=ROUNDING)
        assert found[loss] == pytest.approx(values, rel=MOVED_CELLS)
