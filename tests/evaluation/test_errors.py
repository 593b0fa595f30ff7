"""Kinds of error and what they cost: counted by hand, and against rows that are put right one by one."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
import pytest

from crispmask.evaluation import evaluate
from crispmask.evaluation.errors import KINDS, ModelErrors, find_errors
from crispmask.evaluation.formats.coco import read_ground_truth, read_predictions
from crispmask.evaluation.lvis.protocol import read_lvis
from crispmask.evaluation.masks.outlines import agreements, boundary, with_true_outline
from crispmask.testing import Shape, make_set
from tests.analysis.rectangles import dataset, encode, row
from tests.evaluation.lvis_sets import make_lvis

CAT, DOG = 1, 2
RATIO = 0.02
SHAPE = Shape(images=5, height=120, width=160, objects=7, detections=12, categories=3, found=0.7)


def errors_of(gt: dict, rows: list[dict], **options: Any) -> ModelErrors:
    truth = read_ground_truth(copy.deepcopy(gt))
    return find_errors(truth, read_predictions(copy.deepcopy(rows), truth), **options)


def scene() -> tuple[dict, list[dict]]:
    """Five objects, and a detection of every kind, by falling score."""
    gt = dataset(
        [
            row(CAT, (10, 10, 40, 40)),
            row(CAT, (10, 60, 40, 90)),
            row(DOG, (60, 10, 90, 40)),
            row(DOG, (60, 60, 90, 90)),
            row(CAT, (30, 30, 60, 60), image=2),
        ]
    )
    rows = [
        row(CAT, (10, 10, 40, 40), score=0.95),  # right
        row(DOG, (10, 60, 40, 90), score=0.9),  # a cat
        row(DOG, (60, 25, 90, 55), score=0.85),  # half beside its dog: IoU 1/3
        row(CAT, (10, 12, 40, 42), score=0.8),  # the first one again
        row(CAT, (60, 28, 90, 58), score=0.75),  # beside a dog, and no cat
        row(DOG, (5, 44, 9, 56), score=0.7),  # nothing
        row(CAT, (32, 32, 58, 58), image=2, score=0.65),  # two pixels too small: IoU 0.75, of boundaries 0.2
    ]
    return gt, rows


def test_a_detection_of_every_kind_is_counted() -> None:
    errors = errors_of(*scene())
    assert errors.counts == dict.fromkeys(KINDS, 1)
    assert len(errors.matches) == 2
    assert [m.area for m in errors.matches] == [900, 900]
    whole, small = (m.agreements[RATIO] for m in errors.matches)
    assert whole == (1, 1, 1, 1)
    assert (small.mask_iou, small.boundary_iou) == (26**2 / 30**2, 100 / (324 + 276 - 100))
    # The outline is two pixels off, and near is three
    assert (small.precision, small.recall, small.f_measure) == (1, 1, 1)
    assert small.f_measure > errors_of(*scene(), ratios=[0.005]).matches[1].agreements[0.005].f_measure == 0


FIXES = {
    "class": lambda gt, rows: rows[1].update(category_id=CAT),
    "location": lambda gt, rows: rows[2].update(segmentation=gt["annotations"][2]["segmentation"]),
    "both": lambda gt, rows: rows.pop(4),
    "duplicate": lambda gt, rows: rows.pop(3),
    "background": lambda gt, rows: rows.pop(5),
    "missed": lambda gt, rows: gt["annotations"].pop(3),
    "outline": lambda gt, rows: rows[6].update(segmentation=gt["annotations"][4]["segmentation"]),
}


def figures(gt: dict, rows: list[dict]) -> dict[str, dict[str, float]]:
    return {
        kind: {name: evaluate(gt, rows, iou_type=kind)[name] for name in ("AP", "AP50", "AP75")}
        for kind in ("mask", "boundary")
    }


@pytest.mark.parametrize("kind", KINDS)
def test_fixing_a_kind_is_putting_its_row_right(kind: str) -> None:
    gt, rows = scene()
    errors = errors_of(gt, rows)
    assert errors.as_it_is == figures(gt, rows)
    FIXES[kind](gt, rows)
    assert errors.alone[kind] == figures(gt, rows)


def test_all_fixed_is_perfect_and_each_step_adds_one() -> None:
    errors = errors_of(*scene())
    assert errors.in_order["outline"]["boundary"]["AP"] == pytest.approx(100)
    assert errors.in_order["class"] == errors.alone["class"]
    values = [errors.as_it_is["boundary"]["AP"], *(f["boundary"]["AP"] for f in errors.in_order.values())]
    assert values == sorted(values)
    # The outline costs nothing of mask AP50, and half of the cats' of boundaries
    assert errors.alone["outline"]["mask"]["AP50"] == errors.as_it_is["mask"]["AP50"]
    assert errors.alone["outline"]["boundary"]["AP50"] > errors.as_it_is["boundary"]["AP50"]


class Naive:
    """The same, with whole masks and one detection after the other."""

    def __init__(self, gt: dict, rows: list[dict]) -> None:
        self.gt, self.rows = copy.deepcopy(gt), copy.deepcopy(rows)
        sizes = {im["id"]: (im["height"], im["width"]) for im in gt["images"]}
        for a in self.gt["annotations"]:
            if isinstance(a["segmentation"], list):
                rles = mask_utils.frPyObjects(a["segmentation"], *sizes[a["image_id"]])
                a["segmentation"] = mask_utils.merge(rles)
        self.sizes = sizes
        self.target: dict[int, dict] = {}
        self.kind: dict[int, str] = {}
        self.used: set[int] = set()
        for image in sizes:
            self._match(image)
        for image in sizes:
            self._name(image)
        meant = {self.target[k]["id"] for k in self.target if self.kind.get(k) in ("class", "location", None)}
        self.missed = [a for a in self.gt["annotations"] if not a["iscrowd"] and a["id"] not in meant]

    def _ious(self, row: dict, truths: list[dict]) -> list[float]:
        flags = [a["iscrowd"] for a in truths]
        return mask_utils.iou([row["segmentation"]], [a["segmentation"] for a in truths], flags)[0].tolist()

    def _own(self, image: int) -> tuple[list[dict], list[int]]:
        truths = [a for a in self.gt["annotations"] if a["image_id"] == image]
        own = [k for k, r in enumerate(self.rows) if r["image_id"] == image]
        return truths, sorted(own, key=lambda k: -self.rows[k]["score"])

    def _match(self, image: int) -> None:
        truths, own = self._own(image)
        for k in own:
            row = self.rows[k]
            same = [a for a in truths if a["category_id"] == row["category_id"]]
            pairs = list(zip(self._ious(row, same), same, strict=True)) if same else []
            free = [(iou, a) for iou, a in pairs if iou >= 0.5 and a["id"] not in self.used]
            objects = [pair for pair in free if not pair[1]["iscrowd"]]
            if objects:
                self.target[k] = max(objects, key=lambda pair: pair[0])[1]
                self.used.add(self.target[k]["id"])
            elif free:
                self.kind[k] = "ignored"

    def _name(self, image: int) -> None:
        truths, own = self._own(image)
        truths = [a for a in truths if not a["iscrowd"]]
        for k in own:
            row = self.rows[k]
            if k in self.target or k in self.kind:
                continue
            ious = list(zip(self._ious(row, truths), truths, strict=True)) if truths else []
            same = [p for p in ious if p[1]["category_id"] == row["category_id"]]
            other = [p for p in ious if p[1]["category_id"] != row["category_id"]]
            best, best_other = (max(side, key=lambda p: p[0], default=(0, None)) for side in (same, other))
            if 0.1 <= best[0] < 0.5:
                self.kind[k], self.target[k] = "location", best[1]
            elif best_other[0] >= 0.5:
                self.kind[k], self.target[k] = "class", best_other[1]
            elif best[0] >= 0.5:
                self.kind[k] = "duplicate"
            else:
                self.kind[k] = "background" if max(best[0], best_other[0]) < 0.1 else "both"

    def fixed(self, kinds: tuple[str, ...]) -> tuple[dict, list[dict]]:
        """The data set and the rows without these kinds of error."""
        changed = [k for k in self.kind if self.kind[k] in kinds]
        chosen: dict[int, int] = {}
        for k in sorted(changed, key=lambda k: -self.rows[k]["score"]):
            if k in self.target and self.target[k]["id"] not in self.used:
                chosen.setdefault(self.target[k]["id"], k)
        rows = []
        for k, old in enumerate(self.rows):
            row = dict(old)
            if k in changed and k not in chosen.values():
                continue
            if k in changed and self.kind[k] == "class":
                row["category_id"] = self.target[k]["category_id"]
            if k in changed and self.kind[k] == "location":
                row["segmentation"] = self.target[k]["segmentation"]
            elif "outline" in kinds and self.kind.get(k) in (None, "class"):
                row["segmentation"] = self._mended(row, self.target[k])
            rows.append(row)
        missed = {a["id"] for a in self.missed} if "missed" in kinds else set()
        return {**self.gt, "annotations": [a for a in self.gt["annotations"] if a["id"] not in missed]}, rows

    def _mended(self, row: dict, truth: dict) -> dict:
        masks = [mask_utils.decode(r["segmentation"]).astype(bool) for r in (truth, row)]
        height, width = self.sizes[row["image_id"]]
        pixels = max(1, round(RATIO * np.hypot(height, width)))
        before = [np.count_nonzero(a & b) / np.count_nonzero(a | b) for a, b in (masks, bands(masks, pixels))]
        steps = np.arange(0.5, 1, 0.05) - 1e-9
        if not ((before[0] >= steps) & (min(before) < steps)).any():
            return row["segmentation"]
        band = np.logical_or(*bands(masks, pixels))
        return encode(np.where(band, *masks))


def bands(masks: list[np.ndarray], width: int) -> list[np.ndarray]:
    """Boundaries by their definition: pixels with one outside of the mask in the square around them."""
    result = []
    for mask in masks:
        padded = np.pad(mask, width)
        eroded = np.ones_like(mask)
        for y in range(2 * width + 1):
            for x in range(2 * width + 1):
                eroded &= padded[y : y + mask.shape[0], x : x + mask.shape[1]]
        result.append(mask & ~eroded)
    return result


def messy_set(seed: int) -> tuple[dict, list[dict]]:
    """Some masks are moved by a part of their width, some classes are mixed up, some objects not found."""
    gt, rows = make_set(SHAPE, seed)
    for k, r in enumerate(rows):
        if k % 4 == 0:
            mask = mask_utils.decode(r["segmentation"])
            r["segmentation"] = encode(np.roll(mask, max(1, int(mask.any(axis=0).sum()) // 2), axis=1))
        if k % 5 == 1:
            r["category_id"] = 1 + r["category_id"] % 3
    return gt, rows


@pytest.mark.parametrize("seed", range(3))
def test_fixes_are_those_of_rows_put_right_one_by_one(seed: int) -> None:
    gt, rows = messy_set(seed)
    naive = Naive(gt, rows)
    errors = errors_of(gt, rows, ratios=[])
    names = [*naive.kind.values(), *(["missed"] * len(naive.missed))]
    assert {k: n for k, n in errors.counts.items() if k != "outline"} == {
        k: names.count(k) for k in KINDS if k != "outline"
    }
    assert set(names) >= {*KINDS} - {"outline"}
    for number, kind in enumerate(KINDS, 1):
        for found, kinds in ((errors.alone[kind], (kind,)), (errors.in_order[kind], KINDS[:number])):
            expected = figures(*naive.fixed(kinds))
            for task, values in expected.items():
                assert found[task] == pytest.approx(values, abs=1e-9), (kind, kinds)


def test_boundary_ap_at_every_width_is_that_of_evaluate() -> None:
    gt, rows = make_set(SHAPE, 5)
    errors = errors_of(gt, rows, ratios=[0.005, 0.05])
    assert list(errors.by_width) == [0.005, 0.02, 0.05]
    for ratio, values in errors.by_width.items():
        expected = evaluate(gt, rows, dilation_ratio=ratio)
        assert values == {name: expected[name] for name in ("AP", "AP50", "AP75")}
    assert errors.by_width[0.02] == errors.as_it_is["boundary"]


def test_lvis_leaves_alone_what_is_not_judged() -> None:
    gt, rows = make_lvis(seed=3)
    truth = read_lvis(copy.deepcopy(gt))
    errors = find_errors(truth, read_predictions(rows, truth), ratios=[])
    expected = evaluate(gt, rows, "lvis")
    assert errors.as_it_is["boundary"]["AP"] == expected["AP"]
    coco = errors_of({**gt, "annotations": [{**a, "iscrowd": 0} for a in gt["annotations"]]}, rows, ratios=[])
    assert 0 < errors.counts["background"] < coco.counts["background"]


def test_nothing_found_is_missed_and_nothing_to_find_is_background() -> None:
    gt, rows = scene()
    errors = errors_of(gt, [])
    assert errors.counts == {**dict.fromkeys(KINDS, 0), "missed": 5}
    assert errors.as_it_is["mask"]["AP"] == 0 and not errors.matches
    errors = errors_of({**gt, "annotations": []}, rows)
    assert errors.counts["background"] == len(rows) == sum(errors.counts.values())
    assert np.isnan(errors.alone["background"]["boundary"]["AP"])


def test_outlines_agree_as_counted_pixel_by_pixel() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        masks = [np.kron(rng.random((5, 6)) < 0.5, np.ones((4, 5))).astype(bool) for _ in range(2)]
        outlines = [np.argwhere(mask) for mask in bands(masks, 1)]
        widths = [1, 2, 4]
        for width, found in zip(widths, agreements(*masks, widths), strict=True):
            gaps = np.abs(outlines[0][:, None] - outlines[1][None]).max(axis=2)
            shares = [float((gaps.min(axis=axis) <= width).mean()) for axis in (0, 1)]
            assert [found.precision, found.recall] == pytest.approx(shares)
            own = bands(masks, width)
            assert found.boundary_iou == np.logical_and(*own).sum() / np.logical_or(*own).sum()
            mended = with_true_outline(*masks, width)
            assert np.array_equal(mended, np.where(np.logical_or(*own), *masks))
    empty = np.zeros((4, 4), bool)
    assert agreements(empty, empty, [2])[0] == (0, 0, 0, 0)
    assert not boundary(empty, 1).any()
