"""Every config of the package builds its model, names known data sets and says only what differs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

import crispmask
import crispmask.data.builtin
import refinemask_d2
import transfiner_d2
from crispmask import get_config
from crispmask.engine.freeze import freeze_modules
from tests.transfiner.tiny_query import MISSING_LIBRARY
from transfiner_d2.config import VARIANTS

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
BASES = {*CONFIGS.glob("Base-*.yaml"), *(CONFIGS / "recipes").glob("*.yaml")}
LEAVES = sorted(path.relative_to(CONFIGS).as_posix() for path in set(CONFIGS.rglob("*.yaml")) - BASES)
# Their data sets are named on the command line
OWN_DATA = [leaf for leaf in LEAVES if leaf.startswith(("own_data/", "nuclei/"))]
REFINEMASK = [leaf for leaf in LEAVES if leaf.startswith("refinemask/")]


def build(cfg: CfgNode) -> torch.nn.Module:
    """The model without memory for its weights."""
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


def baseline_of(leaf: str) -> str:
    _, dataset, name = leaf.split("/")
    return f"baselines/{dataset}/mask_rcnn_{name}"


def test_every_row_of_the_paper_has_a_config():
    rows = [f"coco/R_{depth}_FPN_{schedule}x" for depth in (50, 101) for schedule in (1, 2)]
    rows += ["lvis/R_50_FPN_1x", "lvis/R_101_FPN_1x", "cityscapes/R_50_FPN_1x"]
    for row in rows:
        assert f"refinemask/{row}.yaml" in LEAVES
        assert baseline_of(f"refinemask/{row}.yaml") in LEAVES


def test_every_model_of_mask_transfiner_has_a_config():
    """Those of the paper, and both variants where there is a released checkpoint."""
    rows = ["cityscapes/R_50_FPN_1x", "bdd100k/R_101_FPN_3x", "coco/cascade_R_50_FPN_1x"]
    models = ["coco/R_50_FPN_1x", "lvis/X_101_FPN_1x"]
    backbones = ("R_50", "R_50_DCN", "R_101", "R_101_DCN", "Swin_T", "Swin_B")
    models += [f"coco/{backbone}_FPN_3x" for backbone in backbones]
    for row in [*rows, *models, *(f"{model}_released" for model in models)]:
        assert f"transfiner/{row}.yaml" in LEAVES
        released = row.endswith("_released")
        assert ("released" if released else "paper") == get_config(
            f"transfiner/{row}.yaml"
        ).MODEL.TRANSFINER.VARIANT
    assert "shapes/transfiner_R_18_FPN.yaml" in LEAVES


@pytest.mark.parametrize("leaf", LEAVES)
def test_config_builds_its_model(leaf):
    if MISSING_LIBRARY and "query" in leaf:
        pytest.skip(MISSING_LIBRARY)
    cfg = get_config(CONFIGS / leaf)
    if any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE):
        pytest.importorskip("detectron2._C", reason="Detectron2 has no deformable convolution without _C")
    model = build(cfg)
    assert model.roi_heads.num_classes == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    assert {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} <= set(DatasetCatalog.list())
    assert bool(cfg.DATASETS.TRAIN and cfg.DATASETS.TEST) == (leaf not in OWN_DATA)
    freeze_modules(model, cfg.CRISPMASK.FREEZE)


@pytest.mark.parametrize("leaf", LEAVES)
def test_config_is_short(leaf):
    assert len((CONFIGS / leaf).read_text().splitlines()) < 20


@pytest.mark.parametrize("leaf", [leaf for leaf in REFINEMASK if baseline_of(leaf) in LEAVES])
def test_baseline_differs_in_the_head_alone(leaf):
    """Data, schedule, backbone and input are those of the Mask R-CNN beside it."""
    ours, baseline = get_config(CONFIGS / leaf), get_config(CONFIGS / baseline_of(leaf))
    for cfg in (ours, baseline):
        cfg.MODEL.ROI_HEADS.NAME = cfg.MODEL.ROI_MASK_HEAD.NAME = ""
        cfg.MODEL.REFINEMASK = CfgNode()
    assert ours == baseline


@pytest.mark.parametrize("place", ["own_data", "nuclei"])
@pytest.mark.parametrize("backbone", ["R_18", "R_50"])
def test_heads_for_own_data_share_all_but_the_head(place: str, backbone: str) -> None:
    """So that what differs between them is the head, whichever config a user types."""
    leaves = [leaf for leaf in OWN_DATA if leaf.startswith(f"{place}/") and backbone in leaf]
    if (place, backbone) == ("nuclei", "R_50"):
        assert leaves == []
        return
    methods = ("mask_rcnn", "refinemask", "transfiner")
    assert leaves == [f"{place}/{method}_{backbone}_FPN.yaml" for method in methods]
    configs = [get_config(leaf) for leaf in leaves]
    heads = {cfg.MODEL.ROI_MASK_HEAD.NAME for cfg in configs}
    assert heads == {"MaskRCNNConvUpsampleHead", "RefineMaskHead", "TransfinerMaskHead"}
    for cfg in configs:
        assert cfg.INPUT.MASK_FORMAT == "bitmask" and cfg.INPUT.COPY_PASTE.PROBABILITY > 0
        cfg.MODEL.ROI_HEADS.NAME = cfg.MODEL.ROI_MASK_HEAD.NAME = ""
        cfg.CRISPMASK.LR_FACTORS = []  # for the transformer
        assert cfg == configs[0]


@pytest.mark.parametrize(
    ("leaf", "count"),
    [
        ("coco/R_50_FPN_1x", 6_407_003),
        ("coco/R_101_FPN_2x", 6_407_003),
        ("lvis/R_50_FPN_1x", 6_910_869),
        ("cityscapes/R_50_FPN_1x", 6_372_155),
        ("coco/R_50_FPN_1x_v2", 6_317_678),
    ],
)
def test_parameters_of_the_mask_head(leaf, count):
    head = build(get_config(f"refinemask/{leaf}.yaml")).roi_heads.mask_head
    assert sum(parameter.numel() for parameter in head.parameters()) == count


EPOCHS = {  # epochs, the epochs after which the rate drops, and the images of one
    "coco/R_50_FPN_1x": (12, (8, 11), 117_266),
    "coco/R_101_FPN_1x": (12, (8, 11), 117_266),
    "coco/R_50_FPN_2x": (24, (16, 22), 117_266),
    "coco/R_101_FPN_2x": (24, (16, 22), 117_266),
    "cityscapes/R_50_FPN_1x": (64, (56,), 2_975),
}


@pytest.mark.parametrize("leaf", EPOCHS)
def test_schedule_is_that_of_the_release(leaf):
    epochs, drops, images = EPOCHS[leaf]
    solver = get_config(f"refinemask/{leaf}.yaml").SOLVER
    iterations = images / solver.IMS_PER_BATCH
    assert pytest.approx(epochs * iterations, rel=0.01) == solver.MAX_ITER
    assert pytest.approx([drop * iterations for drop in drops], rel=0.01) == solver.STEPS


def test_recipe_is_that_of_the_release():
    """What every model of the paper shares, Detectron2's defaults included."""
    for leaf in REFINEMASK:
        cfg = get_config(leaf)
        solver, rpn, roi = cfg.SOLVER, cfg.MODEL.RPN, cfg.MODEL.ROI_HEADS
        assert (solver.MOMENTUM, solver.WEIGHT_DECAY, solver.GAMMA) == (0.9, 1e-4, 0.1)
        assert pytest.approx(0.001) == solver.WARMUP_FACTOR
        assert (solver.WARMUP_METHOD, solver.WARMUP_ITERS) == ("linear", 500)
        clip = solver.CLIP_GRADIENTS
        assert (clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE) == (True, "full_model", 35, 2)
        assert (rpn.BATCH_SIZE_PER_IMAGE, rpn.POSITIVE_FRACTION, rpn.NMS_THRESH) == (256, 0.5, 0.7)
        assert rpn.IOU_THRESHOLDS == [0.3, 0.7] and rpn.SMOOTH_L1_BETA == 0
        assert rpn.PRE_NMS_TOPK_TRAIN == 2000 and rpn.PRE_NMS_TOPK_TEST == rpn.POST_NMS_TOPK_TEST == 1000
        assert (roi.BATCH_SIZE_PER_IMAGE, roi.POSITIVE_FRACTION, roi.IOU_THRESHOLDS) == (512, 0.25, [0.5])
        assert roi.NMS_THRESH_TEST == 0.5
        assert (1e-4 if "lvis" in leaf else 0.05) == roi.SCORE_THRESH_TEST
        assert (300 if "lvis" in leaf else 100) == cfg.TEST.DETECTIONS_PER_IMAGE
        assert (1.0 if "cityscapes" in leaf else 0.0) == cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA
        assert cfg.INPUT.RANDOM_FLIP == "horizontal" and cfg.INPUT.FORMAT == "RGB"
        assert not cfg.MODEL.RESNETS.STRIDE_IN_1X1 and cfg.MODEL.BACKBONE.FREEZE_AT == 2
        if "cascade" not in leaf:
            assert rpn.POST_NMS_TOPK_TRAIN == 1000 and cfg.MODEL.REFINEMASK.BOX_LOSS_WEIGHT == 2
    cityscapes = get_config("refinemask/cityscapes/R_50_FPN_1x.yaml").INPUT
    assert (cityscapes.MIN_SIZE_TRAIN, cityscapes.MIN_SIZE_TRAIN_SAMPLING) == ((800, 1024), "range")
    assert (cityscapes.MAX_SIZE_TRAIN, cityscapes.MIN_SIZE_TEST, cityscapes.MAX_SIZE_TEST) == (
        2048,
        1024,
        2048,
    )


def flat(node: CfgNode, prefix: str = "") -> dict[str, object]:
    keys: dict[str, object] = {}
    for key, value in node.items():
        keys |= flat(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {prefix + key: value}
    return keys


SOURCES = {
    "refinemask_d2/config.py": refinemask_d2.add_refinemask_config,
    "transfiner_d2/config.py": transfiner_d2.add_transfiner_config,
    "crispmask/config.py": crispmask.add_crispmask_config,
}


@pytest.mark.parametrize("source", [*SOURCES, "transfiner_d2/query/config.py"])
def test_every_key_has_a_comment(source):
    """A comment stands above the key or above the run of keys that it belongs to."""
    lines = (ROOT / source).read_text().splitlines()
    for assignment in (n for n in ast.walk(ast.parse("\n".join(lines))) if isinstance(n, ast.Assign)):
        target = assignment.targets[0]
        is_key = isinstance(target, ast.Attribute) and target.attr.isupper()
        if not is_key or isinstance(assignment.value, ast.Call):
            continue
        above = target.lineno - 2
        while above >= 0 and lines[above].strip() and not lines[above].strip().startswith("#"):
            above -= 1
        assert lines[above].strip().startswith("#"), f"{source}: {ast.unparse(target)} has no comment"


@pytest.mark.parametrize("source", SOURCES)
def test_every_key_is_read(source):
    before, cfg = flat(get_cfg()), get_cfg()
    SOURCES[source](cfg)
    files = [
        path
        for package in ("crispmask", "refinemask_d2", "transfiner_d2")
        for path in (ROOT / package).rglob("*.py")
    ]
    attributes = {
        node.attr
        for path in [*files, ROOT / "train_net.py"]
        if path.name != "config.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    unread = {key for key in flat(cfg).keys() - before.keys() if key.split(".")[-1] not in attributes}
    assert not unread


RELEASED = "transfiner/coco/R_50_FPN_3x_released.yaml"


def test_a_variant_writes_its_values_below_those_beside_it(tmp_path):
    """The config says what runs: no key is open, and what a file or a command line says besides counts."""
    paper, released = get_config().MODEL.TRANSFINER, get_config(RELEASED).MODEL.TRANSFINER
    assert None not in paper.values() and set(paper) == set(released)
    differing = {key for key in paper if paper[key] != released[key]}
    assert differing == {"VARIANT", *VARIANTS["released"]}
    file = tmp_path / "mine.yaml"
    file.write_text("MODEL: {TRANSFINER: {TOP_K: 3, VARIANT: released}}")
    mine = get_config(file).MODEL.TRANSFINER
    assert (mine.TOP_K, mine.FFN_DIM) == (3, released.FFN_DIM)
    back = get_config(RELEASED, ["MODEL.TRANSFINER.TOP_K", "7", "MODEL.TRANSFINER.VARIANT", "paper"])
    assert CfgNode({**paper, "TOP_K": 7}) == back.MODEL.TRANSFINER


def test_a_saved_config_holds_the_values_that_ran(tmp_path):
    cfg = get_config(RELEASED, ["MODEL.TRANSFINER.TRAIN_NODES", "99"])
    saved = tmp_path / "config.yaml"
    saved.write_text(cfg.dump())
    assert get_config(saved).MODEL.TRANSFINER == cfg.MODEL.TRANSFINER
    assert "TRAIN_NODES: 99" in saved.read_text() and "null" not in cfg.MODEL.TRANSFINER.dump()
    alone = get_cfg()
    crispmask.add_crispmask_config(alone)
    refinemask_d2.add_refinemask_config(alone)
    transfiner_d2.add_transfiner_config(alone)
    alone.merge_from_file(str(saved))
    assert alone.MODEL.TRANSFINER == cfg.MODEL.TRANSFINER


def test_a_null_of_an_earlier_version_is_the_value_of_the_variant(tmp_path):
    saved = tmp_path / "config.yaml"
    keys = "VARIANT: released, FFN_DIM: null, THRESHOLDS: null, TOP_K: 3"
    saved.write_text(f"VERSION: 2\nMODEL: {{TRANSFINER: {{{keys}}}}}\n")
    released, found = get_config(RELEASED).MODEL.TRANSFINER, get_config(saved).MODEL.TRANSFINER
    assert found == CfgNode({**released, "TOP_K": 3})


def test_a_variant_that_was_not_written_is_noticed():
    """Detectron2 merges the name alone: the model would be the paper's under the other name."""
    cfg = get_cfg()
    for add in (crispmask.add_crispmask_config, transfiner_d2.add_transfiner_config):
        add(cfg)
    cfg.MODEL.DEVICE = "cpu"
    plain = cfg.clone()
    plain.merge_from_file(str(CONFIGS / RELEASED))
    with pytest.raises(ValueError, match=r"VARIANT is 'released', and no other key .*\.get_config"):
        build_model(plain)
    transfiner_d2.write_variant(cfg, "released")
    cfg.merge_from_file(str(CONFIGS / RELEASED))
    assert cfg.MODEL.TRANSFINER == get_config(RELEASED).MODEL.TRANSFINER


def test_every_key_of_a_config_differs_from_its_base():
    """A leaf states only what differs."""
    for leaf in LEAVES:
        content = yaml.safe_load((CONFIGS / leaf).read_text())
        base = (CONFIGS / leaf).parent / content.pop("_BASE_")
        before, after = flat(get_config(base)), flat(get_config(CONFIGS / leaf))
        repeated = [key for key in flat(CfgNode(content)) if before[key] == after[key]]
        assert not repeated, f"{leaf} repeats {repeated}"


def test_parameters_that_learn_slower_exist():
    """A part of a name that fits none would leave the rate as it is, in silence."""
    if MISSING_LIBRARY:
        pytest.skip(MISSING_LIBRARY)
    cfg = get_config(CONFIGS / "transfiner/coco/query_R_50_FPN.yaml")
    names = [name for name, _ in build(cfg).named_parameters()]
    assert cfg.CRISPMASK.LR_FACTORS
    for part, _ in cfg.CRISPMASK.LR_FACTORS:
        assert any(part in name for name in names), part
