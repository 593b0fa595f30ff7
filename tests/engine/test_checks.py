"""What cannot work is refused before anything starts: exit code 2 and one sentence on stderr."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

import crispmask
import train_net
from crispmask.engine import Trainer, UserError, argument_parser, check_run, checks, load_config

TINY = str(Path(__file__).with_name("tiny.yaml"))
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}

pytestmark = pytest.mark.usefixtures("shapes_root")


def check(*words: str, folder: Path) -> tuple[CfgNode, list[str]]:
    """The config of a command line and the notes of its checks."""
    args = argument_parser().parse_args(["--config-file", TINY, *words, "OUTPUT_DIR", str(folder)])
    cfg = load_config(args.config_file, args.opts)
    return cfg, check_run(cfg, args)


@pytest.mark.parametrize(
    ("flags", "opts", "expected"),
    [
        ("--num-gpus 1000", "", ["--num-gpus 1000", "or fewer"]),
        ("--num-gpus -1", "", ["--num-gpus -1", "1 or more"]),
        ("--num-machines 2", "", ["--dist-url", "tcp://"]),
        ("--machine-rank 1", "", ["--machine-rank 1", "--num-machines 1"]),
        ("--eval-only --resume", "", ["no checkpoint", "OUTPUT_DIR"]),
        ("", "SOLVER.MAX_ITERS 3", ["SOLVER.MAX_ITERS", "SOLVER.MAX_ITER?"]),
        ("", "SOLVER.IMS_PER_BATCH 3 --num-gpus 2", ["'--num-gpus'", "before the first key"]),
        ("--num-gpus 2", "SOLVER.IMS_PER_BATCH 3", ["SOLVER.IMS_PER_BATCH 3", "multiple of 2"]),
        ("", "DATASETS.TRAIN ('shape_train',)", ["'shape_train'", "shapes_train"]),
        ("", "DATASETS.TRAIN ()", ["DATASETS.TRAIN is empty"]),
        ("", "INPUT.COPY_PASTE.PROBABILITY 1.5", ["PROBABILITY 1.5 must lie between 0 and 1"]),
        ("", "INPUT.COPY_PASTE.MIN_VISIBLE -0.1", ["MIN_VISIBLE -0.1 must lie between 0 and 1"]),
        ("", "INPUT.COPY_PASTE.MAX_OBJECTS 0", ["MAX_OBJECTS 0 must be 1 or more"]),
        ("", "INPUT.COPY_PASTE.PROBABILITY 0.5 MODEL.LOAD_PROPOSALS True", ["LOAD_PROPOSALS", "masks alone"]),
        ("", "INPUT.COPY_PASTE.PROBABILITY 0.5 MODEL.KEYPOINT_ON True", ["KEYPOINT_ON", "masks alone"]),
        ("", "INPUT.COLOR_JITTER.CONTRAST 20.0", ["CONTRAST 20.0 must lie between 0 and 1"]),
        ("", "INPUT.COLOR_JITTER.LIGHTING -1.0", ["LIGHTING -1.0 must be 0 or more"]),
        (
            "",
            "INPUT.COLOR_JITTER.SATURATION 0.2 INPUT.FORMAT L",
            ["SATURATION needs", "RGB or BGR"],
        ),
        ("--eval-only", "DATASETS.TEST ()", ["DATASETS.TEST is empty"]),
        ("", "DATASETS.TEST ('coco_2017_val',)", ["'coco_2017_val'", "instances_val2017.json"]),
        ("", "MODEL.ROI_HEADS.NUM_CLASSES 80", ["'shapes_train' has 8 classes", "NUM_CLASSES 8"]),
        ("", "MODEL.DEVICE gpu0", ["MODEL.DEVICE 'gpu0'", "give cuda or cpu"]),
        ("--num-gpus 2", "MODEL.DEVICE mps", ["--num-gpus 2", "on 'mps' one process"]),
        (
            "",
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE [False,True,True,True]",
            ["DEFORM_ON_PER_STAGE", "are trained on a GPU only", "MODEL.DEVICE cuda"],
        ),
        (
            "--eval-only",
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE [False,True,True,True] MODEL.RESNETS.DEFORM_MODULATED True",
            ["with modulation", "run on a GPU only", "MODEL.DEVICE cuda"],
        ),
        ("", "MODEL.WEIGHTS nowhere/model.pth", ["'nowhere/model.pth'", "correct the path"]),
        ("", "MODEL.WEIGHTS catalog://no/such/model", ["catalog://no/such/model", "download it"]),
        ("", "CRISPMASK.OPTIMIZER adam", ["CRISPMASK.OPTIMIZER 'adam'", "SGD or ADAMW"]),
        ("", "CRISPMASK.AMP_DTYPE half", ["CRISPMASK.AMP_DTYPE 'half'", "bfloat16 or float16"]),
        ("", "INPUT.MASK_FORMAT rle", ["INPUT.MASK_FORMAT 'rle'", "polygon or bitmask"]),
        ("", "CRISPMASK.ACCUMULATION_STEPS 0", ["ACCUMULATION_STEPS 0"]),
        ("", "SOLVER.MAX_ITER 0", ["SOLVER.MAX_ITER", "1 or more"]),
        ("", "SOLVER.CHECKPOINT_PERIOD 0", ["SOLVER.CHECKPOINT_PERIOD 0", "1 or more"]),
        ("", "SOLVER.BASE_LR 1e400", ["SOLVER.BASE_LR inf", "finite"]),
        ("", "SOLVER.LR_SCHEDULER_NAME Step", ["SOLVER", "Unknown LR scheduler: Step"]),
        ("", "SOLVER.WARMUP_METHOD cosine", ["SOLVER", "Unknown warmup method: cosine"]),
        ("", "SOLVER.STEPS ('a',)", ["SOLVER", "make no optimizer and schedule"]),
        ("", "SOLVER.MOMENTUM -1.0", ["Invalid momentum value: -1.0"]),
        ("", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE all", ["CLIP_TYPE 'all'", "value, norm or full_model"]),
        ("", "SEED 4294967296", ["SEED 4294967296 is too large"]),
        ("", "DATALOADER.SAMPLER_TRAIN Sampler", ["SAMPLER_TRAIN 'Sampler'", "TrainingSampler"]),
        ("", "DATALOADER.NUM_WORKERS 1000000", ["NUM_WORKERS 1000000", "at most 1024"]),
        ("", "MODEL.FPN.OUT_CHANNELS 0", ["MODEL.FPN.OUT_CHANNELS 0", "1 or more"]),
        ("", "MODEL.ROI_BOX_HEAD.FC_DIM -1", ["ROI_BOX_HEAD.FC_DIM -1", "1 or more"]),
        ("", "MODEL.RPN.CONV_DIMS [0]", ["MODEL.RPN.CONV_DIMS [0]", "1 or more"]),
        ("", "MODEL.PIXEL_STD [1.0,0.0,1.0]", ["MODEL.PIXEL_STD [1.0, 0.0, 1.0]", "above 0"]),
        ("", "MODEL.PIXEL_STD [1.0]", ["MODEL.PIXEL_STD [1.0]", "3 as in"]),
        ("", "MODEL.PIXEL_MEAN [1.0,1e400,1.0]", ["MODEL.PIXEL_MEAN", "a finite number"]),
        ("", "INPUT.FORMAT RGBA", ["INPUT.FORMAT RGBA has 4 channels", "3 numbers"]),
        ("", "DATALOADER.NUM_WORKERS -1", ["DATALOADER.NUM_WORKERS -1", "0 or more"]),
        ("", "DATASETS.TEST (1,)", ["DATASETS has 1", "give names"]),
        ("", "INPUT.RANDOM_FLIP both", ["INPUT.RANDOM_FLIP 'both'", "horizontal, vertical or none"]),
        ("", "INPUT.FORMAT XYZ", ["INPUT.FORMAT 'XYZ'", "BGR or RGB"]),
        ("", "INPUT.MIN_SIZE_TRAIN ()", ["INPUT.MIN_SIZE_TRAIN ()", "sizes in pixels"]),
        ("", "INPUT.MIN_SIZE_TRAIN_SAMPLING range", ["INPUT.MIN_SIZE_TRAIN (96,)", "the largest size"]),
        ("", "INPUT.MAX_SIZE_TEST 0", ["INPUT.MAX_SIZE_TEST 0", "1 or more"]),
        ("", "TEST.EXPECTED_RESULTS [['segm',1]]", ["TEST.EXPECTED_RESULTS", "give rows"]),
        ("", "MODEL.DEVICE meta", ["MODEL.DEVICE 'meta' is not there"]),
        (
            "",
            "TEST.BOUNDARY.DILATION_RATIO -1.0",
            ["TEST.BOUNDARY.DILATION_RATIO", "above 0 and 1 at most, not -1.0"],
        ),
    ],
)
def test_refused(
    flags: str, opts: str, expected: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    with pytest.raises(SystemExit) as exit_:
        train_net.run(["--config-file", TINY, *flags.split(), "OUTPUT_DIR", str(folder), *opts.split()])
    assert exit_.value.code == 2
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1 and "Traceback" not in sentence
    for word in expected:
        assert word in sentence
    assert not folder.exists()  # nothing was started


def test_under_torchrun_its_numbers_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {**TORCHRUN, "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="divided among 4 processes"):
        check(folder=tmp_path)
    check("SOLVER.IMS_PER_BATCH", "8", folder=tmp_path)


def test_an_evaluator_that_does_not_exist_is_said_before_training(tmp_path: Path) -> None:
    name = "panoptic_toy"
    DatasetCatalog.register(name, list)
    classes = MetadataCatalog.get("shapes_train").thing_classes
    MetadataCatalog.get(name).set(thing_classes=classes, evaluator_type="coco_panoptic_seg")
    try:
        with pytest.raises(UserError, match=r"'panoptic_toy'.*coco_panoptic_seg"):
            check("--eval-only", "DATASETS.TEST", f"('{name}',)", folder=tmp_path)
        (note,) = check("DATASETS.TEST", f"('{name}',)", folder=tmp_path)[1]
        assert "trained, but not evaluated" in note
        assert check("DATASETS.TRAIN", f"('{name}',)", folder=tmp_path)[1] == []
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_class_names_that_come_with_the_file_are_read(tmp_path: Path, shapes_root: Path) -> None:
    from detectron2.data.datasets import register_coco_instances

    name = "my_shapes"
    annotations = shapes_root / "shapes" / "annotations" / "instances_val.json"
    register_coco_instances(name, {}, str(annotations), str(shapes_root / "shapes" / "val"))
    try:
        with pytest.raises(UserError, match="'my_shapes' has 8 classes"):
            check(
                "--eval-only",
                "DATASETS.TEST",
                f"('{name}',)",
                "MODEL.ROI_HEADS.NUM_CLASSES",
                "9",
                folder=tmp_path,
            )
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_model_that_cannot_be_built_is_one_sentence() -> None:
    cfg = crispmask.get_config(
        "shapes/refinemask_R_18_FPN.yaml", ["MODEL.DEVICE", "cpu", "MODEL.REFINEMASK.EXIT_STAGE", 0]
    )
    with pytest.raises(UserError, match=r"cannot be built: MODEL\.REFINEMASK\.EXIT_STAGE is 0"):
        Trainer.build_model(cfg)


def test_resuming_with_no_checkpoint_starts_anew_with_a_note(tmp_path: Path) -> None:
    notes = check("--resume", folder=tmp_path / "new")[1]
    assert len(notes) == 1 and str(tmp_path / "new") in notes[0]


def test_resuming_does_not_need_the_first_weights_any_more(tmp_path: Path) -> None:
    (tmp_path / "model_0000009.pth").touch()
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    assert check("--resume", "MODEL.WEIGHTS", "gone.pth", folder=tmp_path)[1] == []


def test_a_new_run_in_the_folder_of_another_is_told(tmp_path: Path) -> None:
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    (note,) = check(folder=tmp_path)[1]
    assert str(tmp_path) in note and "--resume" in note


def test_last_checkpoint_that_names_nothing(tmp_path: Path) -> None:
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    with pytest.raises(UserError, match=r"last_checkpoint' names 'model_0000009\.pth'"):
        check("--resume", folder=tmp_path)


def test_last_checkpoint_that_is_empty(tmp_path: Path) -> None:
    (tmp_path / "last_checkpoint").touch()
    with pytest.raises(UserError, match=r"Cannot resume: '.*last_checkpoint' names ''"):
        check("--resume", folder=tmp_path)


def test_evaluating_random_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--eval-only has nothing to evaluate"):
        check("--eval-only", folder=tmp_path)


def test_wandb_must_be_installed_to_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        check("CRISPMASK.WANDB_PROJECT", "outlines", folder=tmp_path)
