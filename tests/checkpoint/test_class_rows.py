"""Rows of classes find their place in a model of other classes: by name, or by order."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import refinemask_d2  # noqa: F401  registers its heads
import transfiner_d2  # noqa: F401
from crispmask.checkpoint.class_rows import ClassLayer, ModelClasses, find_class_layers, fit_classes
from crispmask.checkpoint.report import Shape
from crispmask.checkpoint.shapes import config_shapes
from crispmask.config import get_config

BOXES = {"cls_score": ClassLayer(1, 1), "bbox_pred": ClassLayer(4, 0)}
MASK = "roi_heads.mask_head."


def state(classes: int, first: int, agnostic: bool = False) -> dict[str, torch.Tensor]:
    """A box predictor of two inputs, whose rows are numbered from ``first`` on."""
    boxes = 4 if agnostic else 4 * classes
    rows = {"cls_score": classes + 1, "bbox_pred": boxes}
    return {name: first + torch.arange(2.0 * count).reshape(count, 2) for name, count in rows.items()}


def fit(file: dict, names: list[str], file_names: list[str], model: dict | None = None, layers=BOXES):
    model = state(len(names), 1000) if model is None else model
    weights = dict(file)
    found = fit_classes(weights, model, ModelClasses(len(names), tuple(names), layers), file_names)
    return found, weights, model


def test_rows_of_the_same_name_are_taken_and_the_background_stays() -> None:
    file = state(3, 0)
    found, weights, model = fit(file, ["yak", "Fire Hydrant", "cat", "emu"], ["cat", "dog", "fire_hydrant"])
    assert found.pairs == ((1, 2), (2, 0)) and found.new == (0, 3) and found.file_count == 3
    scores = weights["cls_score"]
    assert torch.equal(scores[[1, 2, 4]], file["cls_score"][[2, 0, 3]])
    assert torch.equal(scores[[0, 3]], model["cls_score"][[0, 3]])
    boxes = weights["bbox_pred"].reshape(4, 4, 2)
    assert torch.equal(boxes[[1, 2]], file["bbox_pred"].reshape(3, 4, 2)[[2, 0]])
    assert torch.equal(boxes[[0, 3]], model["bbox_pred"].reshape(4, 4, 2)[[0, 3]])
    assert found.tensors == found.adapted == ("cls_score", "bbox_pred")
    assert found.with_others == ("cls_score",)


def test_as_many_classes_in_another_order_are_put_right() -> None:
    file = state(2, 0)
    found, weights, _ = fit(file, ["dog", "cat"], ["cat", "dog"])
    assert torch.equal(weights["cls_score"], file["cls_score"][[1, 0, 2]]) and not found.new
    found, weights, _ = fit(file, ["cat", "dog"], ["cat", "dog"])
    assert weights == file and found.tensors == () and found.pairs == ((0, 0), (1, 1))


@pytest.mark.parametrize(("names", "file_names"), [(["cat", "dog"], []), (["", ""], ["cat", "dog"])])
def test_without_names_the_order_counts(names: list[str], file_names: list[str]) -> None:
    file = state(2, 0)
    weights = dict(file)
    model = ModelClasses(2, tuple(filter(None, names)), BOXES)
    found = fit_classes(weights, state(2, 1000), model, file_names)
    assert found.by_order and found.tensors == () and weights == file


def test_without_names_and_of_another_number_all_are_new_but_the_background() -> None:
    file = state(3, 0)
    found, weights, model = fit(file, ["cat", "dog"], [])
    assert found.new == (0, 1) and found.adapted == ("cls_score",)
    assert torch.equal(weights["cls_score"][:2], model["cls_score"][:2])
    assert torch.equal(weights["cls_score"][2], file["cls_score"][3])
    assert torch.equal(weights["bbox_pred"], model["bbox_pred"])


def test_a_name_that_stands_twice_is_no_name() -> None:
    found, _, _ = fit(state(3, 0), ["cat", "dog"], ["cat", "cat", "dog"])
    assert found.pairs == ((1, 2),)


def test_layers_for_all_classes_alike_stay() -> None:
    """In the file, in the model, or in both."""
    agnostic, layers = state(3, 0, agnostic=True), {"cls_score": BOXES["cls_score"]}
    found, weights, _ = fit(agnostic, ["dog", "cat"], ["cat", "dog", "yak"])
    assert found.tensors == ("cls_score",) and torch.equal(weights["bbox_pred"], agnostic["bbox_pred"])
    model = state(2, 1000, agnostic=True)
    for file in (agnostic, state(3, 0)):
        found, weights, _ = fit(file, ["dog", "cat"], ["cat", "dog", "yak"], model, layers)
        assert found.tensors == ("cls_score",) and torch.equal(weights["bbox_pred"], file["bbox_pred"])


def test_arrays_wrapped_models_and_files_without_such_layers() -> None:
    file = {f"module.{name}": value.numpy().astype(np.float16) for name, value in state(3, 0).items()}
    _, weights, _ = fit(file, ["dog", "cat"], ["cat", "dog", "yak"])
    assert weights["module.cls_score"].dtype == torch.float32
    np.testing.assert_array_equal(weights["module.cls_score"], file["module.cls_score"][[1, 0, 3]])
    assert fit({"conv1.weight": torch.zeros(3)}, ["cat"], [])[0] is None


@cache
def shapes(config: str, classes: int) -> dict[str, Shape]:
    return config_shapes(get_config(config, ["MODEL.ROI_HEADS.NUM_CLASSES", classes]))


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        ("baselines/coco/mask_rcnn_R_50_FPN_1x.yaml", {f"{MASK}predictor": (1, 0)}),
        (
            "refinemask/coco/R_50_FPN_1x.yaml",
            {**{f"{MASK}stages.{n}.logits": (1, 0) for n in range(3)}, f"{MASK}final_logits": (1, 0)},
        ),
        ("transfiner/coco/R_50_FPN_1x_released.yaml", {f"{MASK}coarse.predictor": (1, 0)}),
    ],
)
def test_the_layers_of_every_head_are_found(config: str, layers: dict[str, tuple[int, int]]) -> None:
    found = find_class_layers(shapes(config, 3), shapes(config, 4), 3)
    boxes = {"cls_score": (1, 1), "bbox_pred": (4, 0)}
    expected = layers | {f"roi_heads.box_predictor.{name}": rows for name, rows in boxes.items()}
    assert found == {
        f"{name}.{part}": ClassLayer(*rows) for name, rows in expected.items() for part in ("weight", "bias")
    }


def test_the_layers_of_a_query_based_model_are_found() -> None:
    config = "shapes/query_transfiner_R_18_FPN.yaml"
    found = find_class_layers(shapes(config, 3), shapes(config, 4), 3)
    heads = [f"proposal_generator.detector.class_heads.{layer}" for layer in range(2)]
    assert found == {f"{name}.{part}": ClassLayer(1, 0) for name in heads for part in ("weight", "bias")}
