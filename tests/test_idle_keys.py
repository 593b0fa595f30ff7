"""Keys and flags that change nothing are named, and only what somebody set."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from crispmask import get_config, model_zoo
from crispmask.cli import main
from crispmask.engine import argument_parser, check_run, load_config
from crispmask.engine.machine_checks import describe_idle_flags
from crispmask.idle_keys import describe_idle_keys

TINY = str(Path(__file__).parent / "engine" / "tiny.yaml")


def idle(*opts: str, path: str = "", purpose: str = "train") -> list[str]:
    return describe_idle_keys(get_config(path or None, opts), path, opts, purpose)


@pytest.mark.parametrize(
    ("config", "opts", "reason"),
    [
        ("", "MODEL.SWIN.EMBED_DIM 128", "no Swin"),
        ("transfiner/coco/Swin_T_FPN_3x.yaml", "MODEL.RESNETS.DEPTH 101", "no ResNet"),
        ("", "CRISPMASK.LR_FACTORS [['backbone',0.1]]", "not ADAMW"),
        ("", "CRISPMASK.OPTIMIZER ADAMW SOLVER.MOMENTUM 0.8", "not SGD"),
        ("", "CRISPMASK.AMP_DTYPE float16", "AMP.ENABLED is False"),
        ("", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE 5.0", "CLIP_GRADIENTS.ENABLED is False"),
        (
            "",
            "SOLVER.CLIP_GRADIENTS.ENABLED True SOLVER.CLIP_GRADIENTS.NORM_TYPE 1.0",
            "CLIP_TYPE value takes no norm",
        ),
        ("", "SOLVER.LR_SCHEDULER_NAME WarmupCosineLR SOLVER.STEPS (5,)", "not WarmupMultiStepLR"),
        ("", "SOLVER.LR_SCHEDULER_NAME WarmupCosineLR SOLVER.GAMMA 0.5", "no steps"),
        ("", "SOLVER.BASE_LR_END 0.001", "not WarmupCosineLR"),
        ("", "SOLVER.WARMUP_ITERS 0 SOLVER.WARMUP_METHOD constant", "WARMUP_ITERS is 0"),
        ("", "MODEL.MASK_ON False TEST.BOUNDARY.ENABLED True", "MASK_ON is False"),
        ("", "MODEL.MASK_ON False MODEL.ROI_MASK_HEAD.NUM_CONV 2", "MASK_ON is False"),
        (TINY, "TEST.BOUNDARY.ENABLED False TEST.BOUNDARY.DILATION_RATIO 0.1", "BOUNDARY.ENABLED is False"),
        ("", "TEST.AUG.FLIP False", "AUG.ENABLED is False"),
        ("", "TEST.PRECISE_BN.NUM_ITER 3", "PRECISE_BN.ENABLED is False"),
        ("", "MODEL.RESNETS.DEFORM_NUM_GROUPS 2", "DEFORM_ON_PER_STAGE has no stage"),
        ("", "MODEL.ANCHOR_GENERATOR.ANGLES [[0]]", "not RotatedAnchorGenerator"),
        ("", "INPUT.CROP.SIZE (0.5,0.5)", "CROP.ENABLED is False"),
        (TINY, "INPUT.COPY_PASTE.MAX_OBJECTS 3", "COPY_PASTE.PROBABILITY is 0.0"),
        ("", "MODEL.MASK_ON False INPUT.COPY_PASTE.PROBABILITY 0.5", "MASK_ON is False"),
        ("", "MODEL.META_ARCHITECTURE RetinaNet MODEL.ROI_HEADS.NUM_CLASSES 3", "one stage"),
        ("", "MODEL.RETINANET.NUM_CLASSES 3", "not RetinaNet"),
        ("", "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS 5", "KEYPOINT_ON is False"),
        ("", "MODEL.ROI_BOX_CASCADE_HEAD.IOUS (0.5,)", "no cascade"),
        ("", "DATALOADER.REPEAT_THRESHOLD 0.1", "repeats no image"),
        (TINY, "DATASETS.TEST () TEST.EVAL_PERIOD 5", "DATASETS.TEST is empty"),
        (TINY, "MODEL.REFINEMASK.EXIT_STAGE 2", "not RefineMask's"),
        ("refinemask/coco/R_50_FPN_1x.yaml", "MODEL.ROI_MASK_HEAD.NUM_CONV 2", "RefineMask has its"),
        ("refinemask/coco/R_50_FPN_1x.yaml", "MODEL.TRANSFINER.DEPTH 2", "not Mask Transfiner's"),
        ("transfiner/coco/R_50_FPN_1x.yaml", "MODEL.QUERY.DIM 128", "not QueryTransfiner"),
        ("transfiner/coco/query_R_50_FPN_1x.yaml", "MODEL.RPN.NMS_THRESH 0.5", "query-based"),
    ],
)
def test_a_key_without_effect_is_named(config: str, opts: str, reason: str) -> None:
    if config.startswith("transfiner/coco/query"):
        config = next(name for name in model_zoo.names() if "QueryTransfiner" in str(get_config(name)))
    words = opts.split()
    (note,) = idle(*words, path=config)
    assert note.startswith(f"{words[-2]} has no effect: ") and reason in note


def test_keys_with_an_effect_are_not_named() -> None:
    for opts in (
        ("SOLVER.AMP.ENABLED", "True", "CRISPMASK.AMP_DTYPE", "float16"),
        ("CRISPMASK.OPTIMIZER", "ADAMW", "CRISPMASK.LR_FACTORS", "[['backbone', 0.1]]"),
        ("SOLVER.STEPS", "(3,)", "SOLVER.GAMMA", "0.5", "SOLVER.MOMENTUM", "0.8"),
        ("MODEL.ROI_MASK_HEAD.NUM_CONV", "2", "TEST.BOUNDARY.DILATION_RATIO", "0.1", "SEED", "3"),
    ):
        assert idle(*opts, path=TINY) == []
    assert idle("MODEL.TRANSFINER.DEPTH", "2", path="transfiner/coco/R_50_FPN_1x.yaml") == []


def test_no_config_of_the_package_sets_a_key_in_vain() -> None:
    found = {name: describe_idle_keys(get_config(name), name, (), "train") for name in model_zoo.names()}
    assert {name: notes for name, notes in found.items() if notes} == {}


def test_a_file_answers_for_its_own_lines(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text("MODEL: {SWIN: {EMBED_DIM: 128}}\nSOLVER: {BASE_LR_END: 0.001}\n")
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text("_BASE_: base.yaml\nMODEL: {SWIN: {WINDOW_SIZE: 12, DEPTHS: [2, 2, 6, 2]}}\n")
    (note,) = idle(path=str(leaf))
    assert note.startswith("MODEL.SWIN.WINDOW_SIZE has no effect"), "not what is inherited, nor a default"
    assert len(idle(path=str(base))) == 2


def test_a_config_that_a_run_has_saved_answers_for_nothing(tmp_path: Path) -> None:
    saved = tmp_path / "config.yaml"
    saved.write_text(get_config("refinemask/coco/R_50_FPN_1x.yaml", ["MODEL.TRANSFINER.DROPOUT", 0.5]).dump())
    assert idle(path=str(saved)) == []
    assert len(idle("MODEL.TRANSFINER.DROPOUT", "0.4", path=str(saved))) == 1


def test_what_a_purpose_does_not_read_is_told_of_the_command_line_alone() -> None:
    opts = ("SOLVER.BASE_LR", "0.1", "SOLVER.MAX_ITER", "3", "DATALOADER.NUM_WORKERS", "1")
    said = "SOLVER.BASE_LR, SOLVER.MAX_ITER have no effect: nothing is trained."
    assert idle(*opts, path=TINY) == []
    assert idle(*opts, path=TINY, purpose="evaluate") == [said]
    evaluated = "DATALOADER.NUM_WORKERS has no effect: nothing is evaluated."
    assert sorted(idle(*opts, path=TINY, purpose="predict")) == [evaluated, said]


@pytest.mark.usefixtures("shapes_root")
def test_a_run_tells_them(tmp_path: Path) -> None:
    words = ["--config-file", TINY, "OUTPUT_DIR", str(tmp_path), "MODEL.SWIN.EMBED_DIM", "8"]
    args = argument_parser().parse_args(words)
    notes = check_run(load_config(args.config_file, args.opts), args)
    assert [note for note in notes if note.startswith("MODEL.SWIN.EMBED_DIM has no effect")]


@pytest.mark.parametrize(
    ("flags", "torchrun", "named"),
    [
        ([], False, ""),
        (["--num-gpus", "2"], False, ""),
        (["--num-gpus", "2", "--dist-url", "tcp://a:5"], False, ""),
        (["--dist-url", "tcp://a:5"], False, "--dist-url has no effect: there is one process."),
        ([], True, ""),
        (["--num-gpus", "8"], True, "--num-gpus has no effect: torchrun"),
        (["--num-machines", "2", "--machine-rank", "1"], True, "--num-machines, --machine-rank have no"),
    ],
)
def test_flags_about_processes(flags: list[str], torchrun: bool, named: str) -> None:
    notes = describe_idle_flags(argument_parser().parse_args(flags), torchrun)
    assert len(notes) == bool(named) and "".join(notes).startswith(named)


def test_a_width_without_boundaries_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    golden = Path(__file__).parent / "golden" / "boundary_coco"
    words = ["evaluate", str(golden / "gt.json"), str(golden / "dt.json"), "--dilation-ratio", "0.1"]
    said = "note: --dilation-ratio has no effect: --iou-type has no boundary.\n"
    for kinds, expected in ((["bbox"], True), (["bbox", "boundary"], False)):
        assert main([*words, "--iou-type", *kinds]) == 0
        assert (said in capsys.readouterr().out) == expected


def test_weights_that_are_given_twice(capsys: pytest.CaptureFixture[str]) -> None:
    from crispmask.cli.models import print_idle_keys

    opts = ["MODEL.WEIGHTS", "b.pth", "TEST.EVAL_PERIOD", "3"]
    args = argparse.Namespace(config_file=TINY, weights="a.pth", opts=opts)
    print_idle_keys(args, get_config(TINY, opts), "predict")
    out = capsys.readouterr().out
    assert "note: --weights has no effect: MODEL.WEIGHTS is given, too.\n" in out
    assert "note: TEST.EVAL_PERIOD has no effect: nothing is evaluated.\n" in out


@pytest.mark.parametrize(
    "opts",
    [
        *("MODEL.RPN.BATCH_SIZE_PER_IMAGE 5", "MODEL.ROI_HEADS.POSITIVE_FRACTION 0.5", "VIS_PERIOD 5"),
        *("MODEL.RPN.LOSS_WEIGHT 0.5", "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA 0.5", "INPUT.MASK_FORMAT bitmask"),
        *("INPUT.RANDOM_TURN True", "INPUT.COLOR_JITTER.CONTRAST 0.2", "INPUT.COPY_PASTE.PROBABILITY 0.5"),
        *("CRISPMASK.UNREADABLE_IMAGES skip", "DATALOADER.FILTER_EMPTY_ANNOTATIONS False"),
    ],
)
def test_what_only_training_reads_is_named_in_an_evaluation(opts: str) -> None:
    (note,) = idle(*opts.split(), path=TINY, purpose="evaluate")
    assert note == f"{opts.split()[0]} has no effect: nothing is trained."
    assert idle(*opts.split(), path=TINY) == []


def test_losses_that_decide_what_is_in_a_model_have_an_effect() -> None:
    words = ("MODEL.TRANSFINER.BOUNDARY_LOSS_WEIGHT", "0.0", "MODEL.TRANSFINER.SEMANTIC_LOSS_WEIGHT", "0.0")
    assert idle(*words, path="transfiner/coco/R_50_FPN_1x.yaml", purpose="evaluate") == []


def test_a_key_that_is_given_twice_is_named() -> None:
    (note,) = idle("SEED", "1", "SEED", "2")
    assert note == "SEED is given 2 times: the last value counts."
