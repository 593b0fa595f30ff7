"""The predictor gives what Detectron2's and the evaluation give, of any kind of image, and takes no weights
that do not fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from PIL import Image

import train_net
from crispmask import Predictor
from crispmask.checkpoint.model_info import describe_model
from crispmask.data.images import ImageError
from crispmask.errors import UserError
from tests.engine.tiny_checkpoint import save_tiny_weights
from tests.engine.tiny_training import TINY, tiny_config


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    save_tiny_weights(path)
    return str(path)


@pytest.fixture(scope="module")
def predictor(weights: str) -> Predictor:
    return Predictor(weights, config=TINY)


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 255, (90 + 10 * i, 120, 3), np.uint8) for i in range(count)]


@pytest.mark.parametrize("channels", ["BGR", "RGB"])
def test_one_picture_gives_what_detectron2_gives(weights: str, channels: str) -> None:
    cfg = tiny_config("MODEL.WEIGHTS", weights, "INPUT.FORMAT", channels)
    (picture,) = pictures(1)
    found = Predictor(cfg)(picture)
    expected = DefaultPredictor(cfg)(picture[:, :, ::-1])["instances"]
    assert len(found) > 10 and found.masks.shape[1:] == picture.shape[:2]
    assert np.array_equal(found.boxes, expected.pred_boxes.tensor.numpy())
    assert np.array_equal(found.scores, expected.scores.numpy())
    assert np.array_equal(found.class_indices, expected.pred_classes.numpy())
    assert np.array_equal(found.masks, expected.pred_masks.numpy())
    assert np.array_equal(found.soft_masks >= 0.5, found.masks)


def test_rows_are_those_that_the_evaluation_writes(weights: str, shapes_root: Path, tmp_path: Path) -> None:
    words = ["--config-file", TINY, "--eval-only", "OUTPUT_DIR", str(tmp_path), "MODEL.WEIGHTS", weights]
    train_net.run(words)
    expected = json.loads((tmp_path / "inference" / "coco_instances_results.json").read_text())
    predictor = Predictor(weights, config=TINY)
    files = sorted((shapes_root / "shapes" / "val").iterdir())
    rows = [row for path in files for row in predictor(path).rows(int(path.stem))]
    assert len(rows) > 100 and rows == expected


def test_any_kind_of_image_gives_the_same(predictor: Predictor, tmp_path: Path) -> None:
    (picture,) = pictures(1)
    Image.fromarray(picture).save(tmp_path / "a.png")
    expected = predictor(picture)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    others = [tmp_path / "a.png", Image.fromarray(picture), tensor, (tensor / 255), picture / 255]
    for found in [*predictor([*others, str(tmp_path / "a.png")]), predictor(picture[..., ::-1], bgr=True)]:
        assert found.rows(1) == expected.rows(1) and np.array_equal(found.picture, picture)
    assert predictor(tmp_path / "a.png").path == tmp_path / "a.png" and expected.path is None
    both = predictor(torch.stack([tensor, tensor]))
    assert [one.rows(1) for one in both] == [expected.rows(1)] * 2


def test_pictures_of_a_batch_keep_their_sizes_and_order(predictor: Predictor) -> None:
    batch = pictures(5)
    found = predictor(batch, batch_size=2)
    assert [one.size for one in found] == [picture.shape[:2] for picture in batch]
    same = [batch[0]] * 3
    alone = predictor(batch[0])
    for one in predictor(same, batch_size=3):
        assert np.allclose(one.boxes, alone.boxes, atol=1e-3) and len(one) == len(alone)
    assert predictor([]) == [] and list(predictor(iter([]))) == []


def test_a_generator_is_read_as_it_is_asked(predictor: Predictor) -> None:
    read = []

    def images() -> Iterator[np.ndarray]:
        for number, picture in enumerate(pictures(6)):
            read.append(number)
            yield picture

    results = predictor(images(), batch_size=2)
    assert read == []
    next(results)
    assert read == [0, 1]
    next(results), next(results)
    assert read == [0, 1, 2, 3]


def test_a_lowest_score_leaves_out_objects_and_nothing_else(predictor: Predictor) -> None:
    (picture,) = pictures(1)
    every = predictor(picture)
    score = float(np.median(every.scores))
    some = predictor(picture, min_score=score)
    assert 0 < len(some) < len(every) or np.ptp(every.scores) == 0
    assert some.rows(1) == every.above(score).rows(1)


def test_a_weight_file_with_its_config_is_enough(weights: str, tmp_path: Path) -> None:
    info = describe_model(tiny_config()).to_dict()
    info["category_ids"] = ["a", 5, 17, 99, "b", 1, 2, 3]
    torch.save({**torch.load(weights), "model_info": info}, tmp_path / "whole.pth")
    predictor = Predictor(tmp_path / "whole.pth", device="cpu")
    (picture,) = pictures(1)
    assert predictor(picture).boxes.tolist() == Predictor(weights, config=TINY)(picture).boxes.tolist()
    assert {row["category_id"] for row in predictor(picture).rows(1)} <= {*info["category_ids"]}
    assert predictor.classes.names[0] == "star" and predictor.classes.category_ids[3] == 99


def test_other_ways_to_name_a_model(weights: str, tmp_path: Path) -> None:
    (picture,) = pictures(1)
    expected = Predictor(weights, config=TINY)(picture).rows(1)
    config = tmp_path / "config.yaml"
    config.write_text(tiny_config("MODEL.WEIGHTS", weights).dump())
    assert Predictor(config)(picture).rows(1) == expected
    small = Predictor(config, opts=["TEST.DETECTIONS_PER_IMAGE", 3])(picture)
    assert len(small) == 3
    # A config of Detectron2 alone lacks the keys of this package
    cfg, plain = tiny_config("MODEL.WEIGHTS", weights), get_cfg()
    for key in ("MODEL", "INPUT", "TEST", "DATASETS"):
        for name in plain[key]:
            plain[key][name] = cfg[key][name]
    assert Predictor(plain)(picture).rows(1) == expected


@pytest.mark.parametrize("dtype", ["bfloat16", "half", torch.bfloat16])
def test_half_types_find_about_the_same(weights: str, dtype: str, predictor: Predictor) -> None:
    (picture,) = pictures(1)
    other = Predictor(weights, config=TINY, dtype=dtype)
    if dtype == "half":  # for which the drawn weights are too large
        with pytest.raises(UserError, match="leave the range of half: give dtype bfloat16"):
            other(picture)
        return
    found = other(picture)
    assert len(found) > 10 and found.boxes.dtype == np.float32
    assert np.array_equal(found.soft_masks >= 0.5, found.masks)


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


def test_what_names_no_model_is_one_sentence(weights: str, tmp_path: Path) -> None:
    for words, named in [
        ((weights,), {"named": "does not say what it was trained with: give config, the config"}),
        (("nowhere.pth",), {"named": "nowhere.pth"}),
        (("nowhere.yaml",), {"named": "nowhere.yaml"}),
        ((TINY,), {"config": TINY, "named": "Two config files"}),
        ((tiny_config(),), {"config": TINY, "named": "config file are given"}),
        ((TINY,), {"device": "cuda", "named": "torch sees no GPU"}),
        ((weights,), {"config": TINY, "dtype": "int8", "named": "dtype int8 is none of"}),
        ((weights,), {"config": TINY, "opts": ["MODEL.WIGHTS"], "named": "has no value"}),
        ((weights,), {"config": TINY, "opts": ["MODEL.NOSUCH", 1], "named": "no config key"}),
        ((tiny_config("MODEL.WEIGHTS", weights),), {"opts": ["A.B", 1], "named": "change to the config"}),
    ]:
        match = named.pop("named")
        if named.get("device") == "cuda" and torch.cuda.is_available():
            continue
        with pytest.raises(UserError, match=match) as raised:
            Predictor(*words, **named)
        assert "\n" not in str(raised.value)


def test_what_is_no_image_is_one_sentence_with_its_number(predictor: Predictor, tmp_path: Path) -> None:
    good = pictures(1)[0]
    (tmp_path / "text.png").write_text("text")
    for images, named in [
        (None, "NoneType is no image"),
        ({"a": good}, "dict is no image"),
        (3, "int is no image"),
        ([good, None], "Image 2: NoneType is no image"),
        ([good, good.transpose(2, 0, 1)], r"Image 2: An array of shape \(3, 90, 120\)"),
        (good * 1.0, "Image 1: Its floats are from 0 to 254"),
        (tmp_path, "There is no image file"),
        (str(tmp_path / "nowhere.png"), "nowhere.png"),
        ([good, tmp_path / "text.png"], r"text\.png' cannot be read: it is no image"),
    ]:
        with pytest.raises(ImageError, match=named) as raised:
            predictor(images)
        assert "\n" not in str(raised.value)
    for wrong in ({"batch_size": 0}, {"min_score": 2}):
        with pytest.raises(UserError, match="batch_size"):
            predictor(good, **wrong)


def test_a_model_without_instances_is_refused(tmp_path: Path) -> None:
    words = ["MODEL.META_ARCHITECTURE", "SemanticSegmentor", "MODEL.SEM_SEG_HEAD.NORM", "BN"]
    cfg = tiny_config(*words, "MODEL.WEIGHTS", str(tmp_path / "semantic.pth"))
    torch.save({"model": build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    with pytest.raises(UserError, match="gives sem_seg and no instances"):
        Predictor(cfg)(pictures(1))


def test_a_model_that_pastes_its_own_masks_and_one_of_boxes(tmp_path: Path) -> None:
    (picture,) = pictures(1)
    words = ["MODEL.META_ARCHITECTURE", "PanopticFPN", "MODEL.SEM_SEG_HEAD.NORM", "BN"]
    cfg = tiny_config(*words, "MODEL.WEIGHTS", str(tmp_path / "panoptic.pth"))
    torch.save({"model": build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    found = Predictor(cfg)(picture)
    with pytest.raises(UserError, match="no probabilities"):
        _ = found.soft_masks if len(found) else found.soft_crop(0)
    cfg = tiny_config("MODEL.MASK_ON", "False", "MODEL.WEIGHTS", str(tmp_path / "boxes.pth"))
    torch.save({"model": build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    assert Predictor(cfg)(picture).rles is None
