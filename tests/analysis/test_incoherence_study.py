"""Table 1 against a computation pixel by pixel, and cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crispmask.analysis.incoherence_study import SHARES, fill, study_incoherence
from crispmask.evaluation import evaluate
from crispmask.evaluation.formats.coco import read_ground_truth, read_predictions
from crispmask.testing import Shape, make_set
from tests.analysis.rectangles import SIDE, dataset, encode, row

MEDIUM = Shape(images=3, height=320, width=400, objects=4, detections=10, categories=2, found=0.9)


class Naive:
    """The definition, cell by cell and pixel by pixel."""

    def __init__(self, truth: np.ndarray, box: list[float], size: int, depth: int) -> None:
        self.truth, self.box, self.size, self.finest = truth, box, size, size << depth

    def label(self, mask: np.ndarray, i: int, j: int, side: int) -> bool:
        """Of a cell: that of the finest cell that nearest-neighbour downsampling leaves."""
        x, y, width, height = self.box
        step = self.finest // side
        row = math.floor(y + (i * step + 0.5) / self.finest * height)
        column = math.floor(x + (j * step + 0.5) / self.finest * width)
        inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
        return bool(inside and mask[row, column])

    def incoherent(self, i: int, j: int, side: int) -> bool:
        children = {self.label(self.truth, 2 * i + a, 2 * j + b, 2 * side) for a in (0, 1) for b in (0, 1)}
        return len(children) == 2 and (side == self.size or self.incoherent(i // 2, j // 2, side // 2))

    def shares(self, mask: np.ndarray, side: int) -> dict[str, float]:
        step, cells = self.finest // side, range(self.finest)
        table = [
            (
                self.incoherent(i // step, j // step, side),
                self.label(mask, i, j, self.finest) != self.label(self.truth, i, j, self.finest),
            )
            for i in cells
            for j in cells
        ]
        inside, wrong = np.array(table).T
        shares = (inside.mean(), inside[wrong].mean(), 1 - wrong[inside].mean(), 1 - wrong[~inside].mean())
        return dict(zip(SHARES, (100 * float(share) for share in shares), strict=True))

    def filled(self, mask: np.ndarray, side: int) -> np.ndarray:
        x, y, width, height = self.box
        result = mask.copy()
        for pixel in np.ndindex(*mask.shape):
            u, v = (pixel[1] + 0.5 - x) / width, (pixel[0] + 0.5 - y) / height
            if 0 <= u < 1 and 0 <= v < 1 and self.incoherent(int(v * side), int(u * side), side):
                result[pixel] = self.truth[pixel]
        return result


@pytest.mark.parametrize("box", [[20.3, 15.8, 50.9, 33.2], [-6.5, 40.0, 60.25, 70.0], [30, 30, 3.5, 2.25]])
def test_shares_and_filled_pixels_are_those_of_the_definition(box: list[float]) -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:80, :90]
    truth = ((x - 40) ** 2 + 2 * (y - 35) ** 2 < 700) & (rng.random((80, 90)) > 0.05)
    found = ((x - 42) ** 2 + 2 * (y - 36) ** 2 < 600) ^ (rng.random((80, 90)) > 0.95)
    annotation = {**row(1, (0, 0, 1, 1)), "segmentation": encode(truth), "bbox": box}
    gt = {**dataset([annotation]), "images": [{"id": 1, "height": 80, "width": 90}]}
    prediction = {**row(1, (0, 0, 1, 1), score=1.0), "segmentation": encode(found), "bbox": box}
    levels = study(gt, [prediction], size=6, depth=2).levels
    naive = Naive(truth, box, 6, 2)
    for level, side in zip(levels, (6, 12), strict=True):
        assert level.means == pytest.approx(naive.shares(found, side), nan_ok=True)
        better = fill(found, truth, box, region_of(naive, side))
        assert np.array_equal(better, naive.filled(found, side))
        # A cell of the smallest box is smaller than a pixel and may hold no centre of one
        assert box[2] < 6 or not np.array_equal(better, found)


def region_of(naive: Naive, side: int) -> np.ndarray:
    return np.array([[naive.incoherent(i, j, side) for j in range(side)] for i in range(side)])


def study(gt: dict, rows: list[dict], **options: int):
    truth = read_ground_truth(gt)
    return study_incoherence(truth, read_predictions(rows, truth), **options)


def test_shares_and_filled_masks_by_hand() -> None:
    """A box of 2 x 2 cells, of which the right ones are incoherent: the object ends in the middle of them."""
    gt = dataset([row(1, (0, 0, 40, 40), segmentation=encode(_image((0, 0, 40, 30))))])
    # Wrong: columns 30 to 40 of the right half, which is incoherent, and a corner of the left half
    found = _image((0, 0, 40, 40)) & ~_image((0, 0, 10, 10))
    result = study(gt, [row(1, (0, 0, 40, 40), score=1.0, segmentation=encode(found))], size=2, depth=1)
    (level,) = result.levels
    assert result.num_objects == 1 and level.size == 2
    wrong, corner = 400 + 100, 100
    assert (
        level.means
        == level.pooled
        == pytest.approx(
            {
                "percent": 50,
                "recall_err": 100 * (wrong - corner) / wrong,
                "accuracy_inside": 50,
                "accuracy_outside": 100 * (800 - corner) / 800,
            }
        )
    )
    # Filled, only the corner is wrong: mask IoU 1100 of 1200 passes 9 of 10 thresholds
    assert level.ap == pytest.approx(90)
    assert result.ap == pytest.approx(evaluate(gt, _rows(gt, found), iou_type="mask")["AP"])


def _image(*rectangles: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    for y0, x0, y1, x1 in rectangles:
        mask[y0:y1, x0:x1] = True
    return mask


def _rows(gt: dict, mask: np.ndarray) -> list[dict]:
    return [row(1, (0, 0, 40, 40), score=1.0, segmentation=encode(mask))]


def test_filling_helps_more_from_level_to_level_and_leaves_the_input_alone() -> None:
    gt, rows = make_set(MEDIUM, 3)
    before = [r["segmentation"]["counts"] for r in rows]
    result = study(gt, rows)
    assert [r["segmentation"]["counts"] for r in rows] == before
    assert result.ap == evaluate(gt, rows, iou_type="mask")["AP"]
    assert result.boundary_ap == evaluate(gt, rows)["AP"]
    aps = [level.ap for level in result.levels]
    assert aps[0] > aps[1] > result.ap and result.levels[0].boundary_ap > result.boundary_ap
    percents = [level.means["percent"] for level in result.levels]
    assert 30 > percents[0] > percents[1] > percents[2] > 0


def test_objects_are_counted_once_but_duplicates_are_filled_too() -> None:
    gt = dataset([row(1, (0, 0, 40, 40), segmentation=encode(_image((0, 0, 40, 30))))])
    wrong = row(1, (0, 0, 40, 40), score=0.9)
    # The duplicate has the worse box and the higher score: unfilled, it would take the object
    duplicate = row(1, (0, 0, 40, 38), score=1.0)
    result = study(gt, [wrong, duplicate], size=2, depth=1)
    assert result.num_objects == 1
    assert result.levels[0].ap == pytest.approx(100)


def test_grid_that_memory_does_not_hold_is_refused() -> None:
    gt = dataset([row(1, (0, 0, 40, 40))])
    rows = [row(1, (0, 0, 40, 40), score=1.0)]
    assert study(gt, rows, size=2048, depth=1).num_objects == 1
    for size, depth in ((2049, 1), (1024, 5), (10**9, 8)):
        with pytest.raises(ValueError, match=f"grid of {size << depth} cells a side, but 4096 is the limit"):
            study(gt, rows, size=size, depth=depth)


def test_nothing_to_count_is_nan_not_an_error() -> None:
    gt = dataset([row(1, (0, 0, 40, 40))])
    for rows in ([], [row(1, (60, 60, 90, 90), score=1.0)], [row(2, (0, 0, 40, 40), score=1.0)]):
        result = study(gt, rows)
        assert result.num_objects == 0 and result.ap == 0
        assert all(math.isnan(value) for value in result.levels[0].means.values())
    perfect = study(gt, [row(1, (0, 0, 40, 40), score=1.0)])
    assert math.isnan(perfect.levels[0].means["recall_err"]) and perfect.ap == pytest.approx(100)
    assert perfect.levels[0].means["accuracy_outside"] == 100


def test_crowds_have_no_incoherent_region() -> None:
    gt = dataset([row(1, (0, 0, 40, 40), iscrowd=1)])
    assert study(gt, [row(1, (0, 0, 40, 40), score=1.0)]).num_objects == 0
