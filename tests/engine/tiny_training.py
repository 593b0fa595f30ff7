"""A small Mask R-CNN on four real images, and what a process does with it in the tests."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from crispmask.engine import NonFiniteError, TrainSteps, UserError, load_config
from crispmask.engine.trainer import distribute

# Options of a training that is not evaluated
NO_TEST = ("DATASETS.TEST", "()")
TINY = str(Path(__file__).with_name("tiny.yaml"))
Gradients = dict[str, torch.Tensor]


def tiny_config(*opts: str) -> CfgNode:
    return load_config(TINY, ["INPUT.RANDOM_FLIP", "none", *opts])


def tiny_model() -> torch.nn.Module:
    seed_all_rng(3)
    return build_model(tiny_config()).train()


def four_images() -> list[dict]:
    """All images of ``shapes_train``, mapped as in training."""
    mapper = DatasetMapper(tiny_config(), is_train=True)
    return [mapper(image) for image in DatasetCatalog.get("shapes_train")]


def tiny_steps(model: torch.nn.Module, batches: list[list[dict]], **options: object) -> TrainSteps:
    # Random weights behind frozen batch norm have steep gradients
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)
    # The same random proposals and anchors are drawn wherever the same images are seen
    seed_all_rng(7)
    return TrainSteps(model, cycle(batches), optimizer, **options)


def gradients(model: torch.nn.Module) -> Gradients:
    return {
        name.removeprefix("module."): value.grad.clone()
        for name, value in model.named_parameters()
        if value.requires_grad
    }


def refuse() -> None:
    raise UserError("the toaster is not plugged in: plug it in.")


def gradients_of_one_rank(folder: str) -> None:
    """Train on this rank's two images, as one batch and as two micro-batches; save what came out.

    At last, rank 1 alone meets an image that is not a number.
    """
    rank, results = comm.get_rank(), {}
    mine = four_images()[2 * rank : 2 * rank + 2]
    for name, batches in {"batch": [mine], "micro": [mine[:1], mine[1:]]}.items():
        steps = tiny_steps(distribute(tiny_model()), batches, accumulation_steps=len(batches))
        steps.train(0, 1)
        results[f"{name}_gradients"] = gradients(steps.model)
        steps.train(1, 3)
        results[f"{name}_weights"] = steps.model.module.state_dict()
    if rank == 1:
        mine[0]["image"] = torch.full_like(mine[0]["image"], float("nan"), dtype=torch.float32)
    try:
        steps.train(3, 4)
    except NonFiniteError as error:
        results["error"] = str(error)
    torch.save(results, Path(folder) / f"rank{rank}.pth")
