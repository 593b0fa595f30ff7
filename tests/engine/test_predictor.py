"""The predictor gives what Detectron2's gives, for batches too, and takes no weights that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from crispmask.engine.predictor import Predictor
from crispmask.errors import UserError
from tests.engine.tiny_checkpoint import save_tiny_weights
from tests.engine.tiny_training import tiny_config


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    save_tiny_weights(path)
    return str(path)


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 255, (90 + 10 * i, 120, 3), np.uint8) for i in range(count)]


@pytest.mark.parametrize("channels", ["BGR", "RGB"])
def test_one_picture_gives_what_detectron2_gives(weights: str, channels: str) -> None:
    cfg = tiny_config("MODEL.WEIGHTS", weights, "INPUT.FORMAT", channels)
    (picture,) = pictures(1)
    (found,) = Predictor(cfg)([picture])
    expected = DefaultPredictor(cfg)(picture[:, :, ::-1])["instances"]
    assert len(found) > 10 and found.pred_masks.shape[1:] == picture.shape[:2]
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_masks, expected.pred_masks)


def test_pictures_of_a_batch_keep_their_sizes_and_order(weights: str) -> None:
    predictor = Predictor(tiny_config("MODEL.WEIGHTS", weights))
    batch = pictures(3)
    found = predictor(batch)
    assert [one.image_size for one in found] == [picture.shape[:2] for picture in batch]
    assert predictor([]) == []


@pytest.mark.parametrize(
    ("opts", "named"),
    [
        (["MODEL.WEIGHTS", ""], "MODEL.WEIGHTS is empty"),
        (["MODEL.WEIGHTS", "nowhere.pth"], "nowhere.pth"),
        (["MODEL.ROI_MASK_HEAD.NUM_CONV", "2"], "mask_fcn2"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "3"], "box_predictor"),
    ],
)
def test_weights_must_be_there_and_fit(weights: str, opts: list[str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        Predictor(tiny_config("MODEL.WEIGHTS", weights, *opts))


def test_a_model_without_instances_is_refused(tmp_path: Path) -> None:
    words = ["MODEL.META_ARCHITECTURE", "SemanticSegmentor", "MODEL.SEM_SEG_HEAD.NORM", "BN"]
    cfg = tiny_config(*words, "MODEL.WEIGHTS", str(tmp_path / "semantic.pth"))
    torch.save({"model": build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    with pytest.raises(UserError, match="gives sem_seg and no instances"):
        Predictor(cfg)(pictures(1))
