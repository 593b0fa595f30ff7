"""Wrong values of ``MODEL.QUERY`` and missing packages: one sentence that names the key or the package."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.modeling import build_model
from tiny_query import MISSING_LIBRARY, PLAIN, query_config

from crispmask.errors import UserError
from transfiner_d2.query import checks as query_checks

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
needs_library = pytest.mark.skipif(bool(MISSING_LIBRARY), reason=MISSING_LIBRARY)


@needs_library
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"DETECTOR": "yolo"}, "DETECTOR is 'yolo'; it must be one of: deformable, plain"),
        ({"CLASS_LOSS": "bce"}, "CLASS_LOSS is 'bce'; it must be one of: focal, softmax"),
        ({"IN_FEATURES": ("p3", "p9")}, "the backbone has p2, p3, p4, p5, p6"),
        ({"IN_FEATURES": (["p5"],)}, "IN_FEATURES is (['p5'],); the backbone has p2, p3, p4, p5, p6"),
        ({"IN_FEATURES": ()}, "the backbone has p2, p3, p4, p5, p6"),
        ({"IN_FEATURES": ("p5", "p3")}, "it must name each map once, the finest first"),
        ({"IN_FEATURES": ("p3", "p3")}, "it must name each map once, the finest first"),
        ({"DETECTOR": "plain"}, "the 'plain' detector reads one map"),
        ({**PLAIN, "TWO_STAGE": True}, "TWO_STAGE needs BOX_REFINE True and DETECTOR 'deformable'"),
        ({"TWO_STAGE": True, "BOX_REFINE": False}, "TWO_STAGE needs BOX_REFINE True"),
        ({"DIM": 48}, "DIM is 48; it must be a multiple of 32"),
        ({"NUM_HEADS": 5}, "DIM is 32; it must be a multiple of 32 and of NUM_HEADS, 5"),
        ({"L1_COST": -1.0}, "L1_COST is -1.0; it must be 0 or more"),
        (dict.fromkeys(query_checks.COSTS, 0.0), "CLASS_COST, L1_COST and GIOU_COST are all 0; one must be"),
        ({"GIOU_WEIGHT": float("nan")}, "GIOU_WEIGHT is nan; it must be 0 or more"),
        ({"DROPOUT": 1.5}, "DROPOUT is 1.5; it must be 0 or more, and below 1"),
        ({"NO_OBJECT_WEIGHT": 0.0}, "NO_OBJECT_WEIGHT is 0.0; it must be above 0"),
        ({"MODEL__ROI_HEADS__NAME": "CascadeTransfinerROIHeads"}, "QueryTransfiner takes the mask branch of"),
        ({"MODEL__KEYPOINT_ON": True}, "MODEL.KEYPOINT_ON is True; it must be False: a query-based model"),
        ({"MODEL__LOAD_PROPOSALS": True}, "MODEL.LOAD_PROPOSALS is True; it must be False: a query-based"),
        ({"MODEL__ROI_HEADS__NUM_CLASSES": 0}, "MODEL.ROI_HEADS.NUM_CLASSES is 0; it must be 1 or more"),
        *(({key: 0}, f"{key} is 0; it must be 1 or more") for key in query_checks.COUNTS),
    ],
    ids=str,
)
def test_wrong_values_are_named(keys, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build_model(query_config(**keys))


@needs_library
@pytest.mark.parametrize(
    "missing", [["transformers"], ["scipy"], ["transformers", "scipy"]], ids=" and ".join
)
def test_without_the_library_one_sentence_says_what_to_install(monkeypatch, missing):
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"needs {' and '.join(missing)}: pip install scipy 'transformers"):
        build_model(query_config())


@needs_library
@pytest.mark.parametrize("found", ["4.57.1", "5.1.0", "5.1rc1"])
def test_an_old_library_is_named(monkeypatch, found):
    """Its layers take their arguments by other names."""
    monkeypatch.setattr(query_checks, "version", lambda name: found)
    with pytest.raises(UserError, match=f"needs transformers 5.2 or newer, not {found}: pip install"):
        build_model(query_config())


def test_the_oldest_version_is_that_of_the_extra():
    oldest = ".".join(map(str, query_checks.OLDEST_TRANSFORMERS))
    assert f'query = ["scipy", "transformers>={oldest}"]' in PYPROJECT.read_text()


def test_import_and_config_need_no_library():
    code = (
        "import sys; sys.modules.update(transformers=None, scipy=None); "
        "import crispmask, transfiner_d2; crispmask.get_config('transfiner/coco/query_R_50_FPN.yaml')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
