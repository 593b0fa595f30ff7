"""One optimizer step: micro-batches, autocast, loss scaling, the guard and global gradient clipping."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from crispmask.engine.guard import ADVICE, describe_losses, name_images, stop_together
from crispmask.errors import NonFiniteError

Losses = dict[str, torch.Tensor]
Batch = Sequence[Mapping[str, Any]]


class TrainSteps(SimpleTrainer):
    """Detectron2's training loop with another step.

    The gradient of a step is the mean over its micro-batches, and over the ranks of a
    ``DistributedDataParallel`` model, which communicate once a step.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Batch],
        optimizer: torch.optim.Optimizer,
        *,
        accumulation_steps: int = 1,
        amp_dtype: torch.dtype | None = None,
        clip_norm: float | None = None,
        clip_norm_type: float = 2.0,
    ) -> None:
        """
        Args:
            model: batch to dict of scalar losses.
            data_loader: gives batches without end.
            optimizer: of the parameters of ``model``.
            accumulation_steps: micro-batches a step.
            amp_dtype: autocast type of the forward pass, ``bfloat16`` or ``float16`` (which also
                scales the loss); None: no autocast.
            clip_norm: largest norm of all gradients together; None: no clipping.
            clip_norm_type: order of that norm.
        """
        super().__init__(model, data_loader, optimizer)
        self.accumulation_steps = accumulation_steps
        self.amp_dtype = amp_dtype
        self.clip_norm = clip_norm
        self.clip_norm_type = clip_norm_type
        self.device = next(model.parameters()).device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp_dtype == torch.float16)

    def run_step(self) -> None:
        """Average the gradients of the micro-batches and update the parameters once.

        Raises:
            NonFiniteError: on every rank, before the update, if a loss of any rank is not finite.
        """
        self.optimizer.zero_grad(set_to_none=True)
        records, images, data_time = [], [], 0.0
        for index in range(self.accumulation_steps):
            last = index + 1 == self.accumulation_steps
            start = time.perf_counter()
            batch = next(self._data_loader_iter)
            data_time += time.perf_counter() - start
            with self._gradient_sync(last):
                losses, failure = self._forward(batch)
                # A rank that fails early comes here early; the others meet it at their last micro-batch
                if last or failure is not None:
                    stop_together(failure, iteration=self.iter, device=self.device)
                self.scaler.scale(total_loss(losses) / self.accumulation_steps).backward()
            records.append({name: value.detach() for name, value in losses.items()})
            images.append(name_images(batch))
        self._clip(", ".join(images))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._write_metrics(mean_losses(records), data_time)

    def _gradient_sync(self, enabled: bool) -> AbstractContextManager[Any]:
        """Keep the ranks from exchanging gradients, except with the last micro-batch."""
        if enabled or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def _forward(self, batch: Batch) -> tuple[Losses, str | None]:
        """Losses of a micro-batch, and what is not finite in it."""
        with torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
            try:
                losses = self.model(batch)
            except FloatingPointError as error:  # Detectron2's proposals, from weights that are NaN
                return {}, f"{str(error).rstrip('.')} on images {name_images(batch)}"
        return losses, describe_losses(losses, batch)

    def _clip(self, images: str) -> None:
        """Clip the norm of all gradients, which came from ``images``."""
        if self.clip_norm is None:
            return
        self.scaler.unscale_(self.optimizer)
        parameters = [value for group in self.optimizer.param_groups for value in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm, self.clip_norm_type).item()
        # With loss scaling the scaler skips such a step by itself
        if norm - norm != 0 and not self.scaler.is_enabled():
            raise NonFiniteError(
                f"Training stopped at iteration {self.iter}: the gradient norm is {norm} on images {images}: "
                f"{ADVICE}."
            )
        get_event_storage().put_scalar("grad_norm", norm)

    def state_dict(self) -> dict[str, Any]:
        """State of the loop, the optimizer and, with float16, the loss scale."""
        state = super().state_dict()
        if self.scaler.is_enabled():
            state["grad_scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up a state; one saved without loss scaling starts it afresh."""
        super().load_state_dict(state_dict)
        if "grad_scaler" in state_dict:
            self.scaler.load_state_dict(state_dict["grad_scaler"])


def total_loss(losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Sum of scalar losses as a float32 scalar, whatever their types."""
    return torch.stack([value.float() for value in losses.values()]).sum()


def mean_losses(records: Sequence[Losses]) -> Losses:
    """Mean of each loss over the micro-batches, float32."""
    names = records[0]
    return {name: torch.stack([record[name].float() for record in records]).mean() for name in names}
