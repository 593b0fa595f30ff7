"""The trainer on a real model and real files, in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_training import NO_TEST, four_images, gradients, tiny_config, tiny_model, tiny_steps

from crispmask.engine import Trainer, UserError, argument_parser, setup_run

pytestmark = pytest.mark.usefixtures("shapes_root")


@pytest.fixture
def undo_determinism() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def trained_weights(folder: Path, *opts: str) -> dict[str, torch.Tensor]:
    """Two iterations of a run as ``train_net.py`` does it."""
    cfg = tiny_config(*NO_TEST, "OUTPUT_DIR", str(folder), "CRISPMASK.DETERMINISTIC", "True", *opts)
    setup_run(cfg, argument_parser().parse_args([]))
    trainer = Trainer(cfg)
    trainer.train()
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


@pytest.mark.usefixtures("undo_determinism")
def test_a_seed_repeats_a_run_bit_by_bit(tmp_path: Path) -> None:
    first, again, other = (
        trained_weights(tmp_path / name, "SEED", seed) for name, seed in (("a", "4"), ("b", "4"), ("c", "5"))
    )
    assert torch.are_deterministic_algorithms_enabled()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_bfloat16_runs_the_layers_and_leaves_losses_and_gradients_in_float32() -> None:
    model = tiny_model()
    seen: dict[str, torch.dtype] = {}
    model.backbone.register_forward_hook(lambda _, __, out: seen.update({k: v.dtype for k, v in out.items()}))
    model.register_forward_hook(lambda _, __, out: seen.update({k: v.dtype for k, v in out.items()}))
    steps = tiny_steps(model, [four_images()[:1]], amp_dtype=torch.bfloat16)
    steps.train(0, 1)
    assert seen["p2"] == torch.bfloat16
    losses = {name: dtype for name, dtype in seen.items() if name.startswith("loss_")}
    assert len(losses) == 5 and set(losses.values()) == {torch.float32}
    assert {value.dtype for value in gradients(model).values()} == {torch.float32}


def test_test_time_augmentation_is_evaluated_and_written_too(tmp_path: Path) -> None:
    trainer = Trainer(
        tiny_config(
            *("OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "1"),
            *("TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64, 96)"),
        )
    )
    trainer.train()
    written = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    assert {"segm/AP", "boundary/AP", "segm_TTA/AP", "boundary_TTA/AP"} <= written.keys()
    assert (tmp_path / "inference_TTA" / "coco_instances_results.json").is_file()


def test_full_model_clipping_is_taken_from_the_config(tmp_path: Path) -> None:
    clip = "SOLVER.CLIP_GRADIENTS."
    opts = [f"{clip}ENABLED", "True", f"{clip}CLIP_TYPE", "full_model", f"{clip}CLIP_VALUE", "0.001"]
    frozen = ["SOLVER.WEIGHT_DECAY", "0.0", "SOLVER.WARMUP_ITERS", "0", "SOLVER.BASE_LR", "1.0"]
    cfg = tiny_config(*NO_TEST, "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "1", *opts, *frozen)
    trainer = Trainer(cfg)
    before = [value.detach().clone() for value in trainer.model.parameters()]
    trainer.train()
    moved = torch.cat(
        [(new - old).detach().flatten() for new, old in zip(trainer.model.parameters(), before, strict=True)]
    )
    assert moved.norm().item() == pytest.approx(0.001, rel=1e-2)
    assert cfg.SOLVER.CLIP_GRADIENTS.ENABLED


def test_clipping_of_detectron2_still_works(tmp_path: Path) -> None:
    opts = ["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value"]
    optimizer = Trainer.build_optimizer(tiny_config(*opts), torch.nn.Linear(2, 2))
    assert type(optimizer).__name__ == "SGDWithGradientClip"


def test_resuming_with_another_model_is_refused(tmp_path: Path) -> None:
    folder = ("OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "1")
    Trainer(tiny_config(*NO_TEST, *folder)).train()
    other = Trainer(tiny_config(*NO_TEST, *folder, "MODEL.MASK_ON", "False"))
    sentence = rf"run in '{tmp_path}' cannot be resumed.*its mask head is another one"
    with pytest.raises(UserError, match=sentence) as caught:
        other.resume_or_load(resume=True)
    assert "\n  not in the model: roi_heads.mask_head.deconv.bias" in str(caught.value)


def test_rle_masks_read_as_polygons_are_refused_before_training(tmp_path: Path) -> None:
    cfg = tiny_config(*NO_TEST, "OUTPUT_DIR", str(tmp_path), "INPUT.MASK_FORMAT", "polygon")
    with pytest.raises(UserError, match=r"\.png' has RLE masks: give INPUT.MASK_FORMAT bitmask"):
        Trainer(cfg)
