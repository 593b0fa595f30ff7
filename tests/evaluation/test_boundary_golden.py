"""The numbers of the official Boundary IoU tool, to the last bit."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crispmask.evaluation import evaluate
from crispmask.evaluation.coco.protocol import evaluate_coco, figures_of
from crispmask.evaluation.lvis.protocol import evaluate_lvis

GOLDEN = Path(__file__).parents[1] / "golden" / "boundary_coco"
GT, RESULTS = GOLDEN / "gt.json", GOLDEN / "dt.json"
LVIS = GOLDEN.with_name("boundary_lvis")


@pytest.fixture(scope="module")
def expected():
    with np.load(GOLDEN / "expected.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("ratio", [0.02, 0.01])
@pytest.mark.parametrize("tasks", [("segm", "boundary"), ("boundary",)])
def test_every_precision_is_bit_equal_to_the_official_tool(expected, lazy, ratio, tasks):
    evaluations = evaluate_coco(GT, RESULTS, tasks, dilation_ratio=ratio, lazy=lazy)
    boundary = evaluations["boundary"]
    assert np.array_equal(boundary.precision, expected[f"boundary_{ratio}_precision"])
    assert np.array_equal(boundary.stats, expected[f"boundary_{ratio}_stats"])
    if "segm" in tasks:
        assert np.array_equal(evaluations["segm"].stats, expected["mask_stats"])


def test_evaluate_gives_percent_and_every_class(expected):
    figures = evaluate(GT, RESULTS)
    named = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert [figures[name] for name in named] == (expected["boundary_0.02_stats"][:6] * 100).tolist()
    classes = expected["boundary_0.02_precision"][:, :, :, 0, -1]
    per_class = [100 * classes[:, :, k][classes[:, :, k] > -1].mean() for k in range(6)]
    assert [figures[f"AP/c{k}"] for k in range(1, 7)] == pytest.approx(per_class, rel=1e-14)
    assert len(figures) == 6 + 6 + len(per_class)


def test_evaluate_takes_loaded_objects_and_leaves_them_alone(expected):
    gt, results = json.loads(GT.read_text()), json.loads(RESULTS.read_text())
    figures = evaluate(gt, results, iou_type="mask")
    assert figures["AP"] == expected["mask_stats"][0] * 100
    assert figures == evaluate(gt, results, iou_type="segm")
    assert gt == json.loads(GT.read_text())
    assert results == json.loads(RESULTS.read_text())


def test_ratio_decides_how_strict_the_boundary_is():
    strict, loose = (evaluate(GT, RESULTS, dilation_ratio=r)["AP"] for r in (0.005, 0.5))
    assert strict < evaluate(GT, RESULTS)["AP"] < loose
    # Every object of these images lies within half the diagonal of its own outline.
    assert loose == evaluate(GT, RESULTS, iou_type="segm")["AP"]


def test_detectron2_is_not_needed(expected):
    code = (
        "import sys; sys.modules['detectron2'] = None\n"
        "from crispmask.evaluation import evaluate\n"
        "print(evaluate(*sys.argv[1:], iou_type='segm')['AP'])"
    )
    command = [sys.executable, "-c", code, str(GT), str(RESULTS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=GOLDEN.parents[2], check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(expected["mask_stats"][0] * 100)


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("tasks", [("segm", "boundary"), ("boundary",)])
def test_lvis_is_bit_equal_to_the_official_tool(lazy, tasks):
    evaluations = evaluate_lvis(LVIS / "gt.json", LVIS / "dt.json", tasks, lazy=lazy)
    with np.load(LVIS / "expected.npz") as expected:
        for task in tasks:
            figures = figures_of(evaluations[task], "@")
            names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]
            assert [figures[name] for name in names] == [expected[f"{task}/{name}"] * 100 for name in names]
            direct = evaluate(LVIS / "gt.json", LVIS / "dt.json", protocol="lvis", iou_type=task)
            assert direct == pytest.approx(figures, rel=0, abs=0, nan_ok=True)
