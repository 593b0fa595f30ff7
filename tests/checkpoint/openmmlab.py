"""Checkpoints as MMDetection and MMEngine write them, with classes of packages that are not here."""

from __future__ import annotations

import sys
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch


@contextmanager
def foreign_class(module: str, name: str) -> Iterator[type]:
    """A class of a package that is here only as long as something of it is written."""

    def statistics(self: Any) -> float:
        return float(self.values.mean())

    kind = type(name, (), {"__module__": module, "statistics": statistics})
    names = [module[:i] for i, letter in enumerate(f"{module}.") if letter == "."]
    added = {part: ModuleType(part) for part in names if part not in sys.modules}
    added[module].__dict__[name] = kind
    sys.modules.update(added)
    try:
        yield kind
    finally:
        for part in added:
            del sys.modules[part]


def mmengine_checkpoint(state: Mapping[str, torch.Tensor], save: Any) -> None:
    """Give ``save`` what MMEngine's runner writes after an epoch, its hook for averaged weights among it."""
    with (
        foreign_class("mmengine.logging.message_hub", "MessageHub") as Hub,
        foreign_class("mmengine.logging.history_buffer", "HistoryBuffer") as Buffer,
    ):
        hub, buffer = Hub(), Buffer()
        buffer.values = np.arange(3.0)
        buffer.odd = np.array([buffer.values, "x"], dtype=object)
        buffer.methods = {"mean": buffer.statistics}  # which pickle writes as a call of getattr
        hub.scalars = OrderedDict(loss=buffer, last=np.float64(0.5))
        save(
            {
                "meta": {"epoch": 12, "dataset_meta": {"classes": ("a", "b"), "palette": [(1, 2, 3)]}},
                "state_dict": OrderedDict(state),
                "message_hub": hub,
                "optimizer": {
                    "state": defaultdict(dict, {0: {"step": torch.tensor(3.0)}}),
                    "param_groups": [],
                },
                "param_schedulers": [{"step_size": 1, "last_step": 3}],
                "ema_state_dict": {"steps": torch.tensor(4), **{f"module.{n}": v for n, v in state.items()}},
            }
        )


def with_ema_copies(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As MMDetection 2's hook adds them to the model, which is written as a whole."""
    return {**state, **{f"ema_{name.replace('.', '_')}": value for name, value in state.items()}}
