"""Stop a diverging run where it diverges, with the names of the loss and of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm

from crispmask.errors import NonFiniteError

ADVICE = (
    "look at these images and their annotations, lower SOLVER.BASE_LR, or set SOLVER.CLIP_GRADIENTS "
    '(CLIP_TYPE "full_model")'
)


def describe_losses(losses: Mapping[str, torch.Tensor], batch: Sequence[Mapping[str, Any]]) -> str | None:
    """What is wrong with the losses of a batch: ``loss_mask is nan on images a.png, b.png``; None if nothing.

    Args:
        losses: name to scalar tensor.
        batch: the images' dicts in Detectron2's format.
    """
    if all(torch.stack([torch.isfinite(value).all() for value in losses.values()]).tolist()):
        return None
    values = {name: value.detach().float().sum().item() for name, value in losses.items()}
    wrong = [f"{name} is {value}" for name, value in values.items() if value - value != 0]
    return f"{' and '.join(wrong)} on images {name_images(batch)}"


def name_images(batch: Sequence[Mapping[str, Any]]) -> str:
    """``a.png, b.png``, with the image id where a file name is missing."""
    return ", ".join(
        str(image.get("file_name") or f"id {image.get('image_id', 'unknown')}") for image in batch
    )


def stop_together(failure: str | None, *, iteration: int, device: torch.device) -> None:
    """Raise on all ranks if any rank has a failure. Every rank must call this once in a step.

    Args:
        failure: what went wrong on this rank, or None.
        iteration: number of the step, for the message.
        device: device of the process group's tensors.

    Raises:
        NonFiniteError: naming what failed on every rank that failed.
    """
    failed = torch.tensor(float(failure is not None), device=device)
    if comm.get_world_size() > 1:
        dist.all_reduce(failed)
    if failed.item() == 0:
        return
    found = "; ".join(
        f"{text} (rank {rank})" for rank, text in enumerate(comm.all_gather(failure)) if text is not None
    )
    raise NonFiniteError(f"Training stopped at iteration {iteration}: {found}: {ADVICE}.")
