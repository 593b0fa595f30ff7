"""The numbers of the official Cityscapes evaluation, with and without boundaries, to the last bit."""

from pathlib import Path

import numpy as np
import pytest

from crispmask.evaluation import evaluate
from crispmask.evaluation.cityscapes.fused_dot import fused_dot

GOLDEN = Path(__file__).parents[1] / "golden" / "boundary_cityscapes"
GT, PREDICTIONS = GOLDEN / "gt", GOLDEN / "predictions.json"
CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")


@pytest.fixture(scope="module")
def expected():
    with np.load(GOLDEN / "expected.npz") as arrays:
        return {name: float(value) for name, value in arrays.items()}


@pytest.mark.parametrize(
    ("iou_type", "ratio", "key"),
    [
        ("mask", None, "mask"),
        ("boundary", None, "boundary_0.005"),
        ("boundary", 0.005, "boundary_0.005"),
        ("boundary", 0.02, "boundary_0.02"),
    ],
)
def test_every_figure_is_bit_equal_to_the_official_tool(expected, iou_type, ratio, key):
    figures = evaluate(GT, PREDICTIONS, "cityscapes", iou_type, ratio)
    names = ["AP", "AP50", *(f"AP/{name}" for name in CLASSES)]
    assert {name: figures[name] for name in names} == {n: expected[f"{key}/{n}"] * 100 for n in names}


def test_coco_figures_come_beside_the_official_ones():
    figures = evaluate(GT, PREDICTIONS, "cityscapes", "mask")
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", *(f"AP/{name}" for name in CLASSES)]
    names += ["AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    assert list(figures)[10:] == [f"coco/{name}" for name in names]
    assert figures["coco/AP"] != figures["AP"]
    # No object of these small images is large.
    assert np.isnan(figures["coco/APl"]) and figures["coco/APs"] > 0 and figures["coco/APm"] > 0


def test_sum_of_products_depends_on_no_machine():
    rng = np.random.default_rng(0)
    for size in (0, 1, 15, 16, 17, 31, 32, 48, 63, 200):
        first, second = rng.random(size), rng.random(size) * (rng.random(size) < 0.5)
        assert fused_dot(first, second) == pytest.approx(float(first @ second), rel=1e-14)
    # One rounding: the product and the sum rounded apart would give 0.
    tiny = 2.0**-30
    assert fused_dot(np.array([1.0, 1 + tiny]), np.array([-1.0 - 2 * tiny, 1 + tiny])) == tiny**2
