"""Weights into a model: safely read, strictly fitted, and told where they do not fit."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlparse

import torch
from detectron2.checkpoint import DetectionCheckpointer
from tabulate import tabulate
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from crispmask.checkpoint.class_rows import ClassFit, ModelClasses, fit_classes
from crispmask.checkpoint.download import fetch, naming_download, verified_address
from crispmask.checkpoint.files import open_weight_file, read_weight_file
from crispmask.checkpoint.fine_tuning import describe_fine_tuning, fine_tuning_rows
from crispmask.checkpoint.integrity import refuse_other_numbers
from crispmask.checkpoint.origin import origin_of
from crispmask.checkpoint.report import WeightReport, is_backbone, is_optional, is_part
from crispmask.errors import UserError
from crispmask.text import ON_TERMINAL

logger = logging.getLogger(__name__)


class UnfitWeightsError(UserError):
    """A weight file is not one of this model."""


def load_weights(
    model: nn.Module,
    path: str | Path,
    *,
    strict: bool = True,
    drop: Sequence[str] = (),
    classes: ModelClasses | None = None,
) -> WeightReport:
    """Load a weight file into a model, in place.

    Args:
        model: any model of Detectron2.
        path: file, URL or ``detectron2://`` name; safetensors, ``.pth``, or a ``.pkl`` of arrays. It may end
            in ``?sha256=<64 hex digits>``, which the file must then have.
        strict: every tensor of the model must be in the file and every tensor of the file in the model;
            False: what fits is taken, and a table of the rest is logged.
        drop: modules of the model that get nothing from the file.
        classes: those of the model, to which layers with a row a class are fitted; None: they are not.

    Returns:
        What fitted.

    Raises:
        UnfitWeightsError: it does not fit (with ``strict``) or nothing in it fits; the message has the
            likely cause and lists the names.
        UserError: the file cannot be fetched or read, or has another hash.
    """
    checkpointer = WeightCheckpointer(model, strict=strict, drop=drop, classes=classes)
    checkpointer.load(str(path), checkpointables=[])
    return checkpointer.report


class WeightCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, which reads no code and drops no tensor in silence."""

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        strict: bool = True,
        drop: Sequence[str] = (),
        classes: ModelClasses | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            model, save_dir, kwargs: of Detectron2's checkpointer.
            strict, drop, classes: as for :func:`load_weights`; taking up a run heeds the first alone.
        """
        super().__init__(model, save_dir, **kwargs)
        self.strict, self.drop, self.classes = strict, tuple(drop), classes
        self.report = WeightReport(total=0)
        self._given, self._resumes = "", False

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a checkpoint, see :func:`load_weights`.

        Args:
            path: as there; empty: nothing is loaded.
            checkpointables: names of what else is taken from the file; None: all, and as this takes up a
                run, its weights must fit even where ``strict`` is False.
        """
        address = verified_address(path)
        local = str(fetch(address)) if address else ""
        if local and not isinstance(self.model, DistributedDataParallel):
            # Processes of a run tell each other first which of them have the file
            open_weight_file(local).close()
        if ("matching_heuristics", "True") in parse_qsl(urlparse(address).query):
            local = f"{local}?matching_heuristics=True"
        self._given, self._resumes = path, checkpointables is None
        return super().load(local, checkpointables)

    def _load_file(self, filename: str) -> dict[str, Any]:
        notes: list[str] = []
        with naming_download(self._given):
            content = read_weight_file(filename, tell=notes.append)
        for note in notes:
            logger.info("'%s': %s", self._given, note)
            if self._resumes and any(f"its part '{key}'" in note for key in self.checkpointables):
                raise UserError(f"Weight file '{self._given}' cannot be resumed from: {note}")
        if ("matching_heuristics", "True") in parse_qsl(self._parsed_url_during_load.query):
            content["matching_heuristics"] = True
        return content

    def _load_model(self, checkpoint: dict[str, Any]) -> None:
        refuse_other_numbers(self._given, _without_floats(checkpoint["model"], self.model))
        drop = () if self._resumes else self.drop
        kept = {name: value.clone() for name, value in self.model.state_dict().items() if is_part(name, drop)}
        fit = None if self._resumes else self._fit_classes(checkpoint)
        try:
            found = super()._load_model(checkpoint)
        except (ValueError, AssertionError) as error:
            if not checkpoint.get("matching_heuristics"):
                raise
            raise UnfitWeightsError(
                f"Weight file '{self._given}' does not fit the model: its names must be guessed, and more "
                f"than one guess is possible: give a file with the names of the model."
            ) from error
        # load_state_dict would set the statistics of frozen batch norms that it is not given
        state = self.model.state_dict()
        for name, value in kept.items():
            state[name].copy_(value)
        wrong = {name for name, _, _ in found.incorrect_shapes}
        absent = [*found.missing_keys, *_made_up(found.missing_keys, self.model)]
        unexpected = [name for name in found.unexpected_keys if not is_optional(name)]
        self.report = WeightReport(
            total=sum(not is_optional(name) for name in self.model.state_dict()),
            missing=tuple(n for n in absent if not (n in wrong or n in kept or is_optional(n))),
            unexpected=tuple(name for name in unexpected if not is_part(name, drop)),
            wrong_shapes=tuple(item for item in found.incorrect_shapes if item[0] not in kept),
            left_out=tuple(name for name in kept if not is_optional(name)),
            dropped=tuple(name for name in unexpected if is_part(name, drop)),
            backbone_only=is_backbone(set(self.model.state_dict()).difference(absent, wrong, kept)),
            class_fit=fit,
        )
        self._tell(checkpoint)

    def _fit_classes(self, checkpoint: Mapping[str, Any]) -> ClassFit | None:
        if self.classes is None:
            return None
        return fit_classes(
            checkpoint["model"],
            self.model.state_dict(),
            self.classes,
            origin_of(self._given, checkpoint).class_names,
            by_suffix=bool(checkpoint.get("matching_heuristics")),
        )

    def _tell(self, metadata: Mapping[str, Any]) -> None:
        fits = self.report.fits
        if not fits and (self.strict or self._resumes or not self.report.loaded):
            converted_for = _converted_for(metadata)
            raise UnfitWeightsError(self.report.explain(self._given, converted_for=converted_for))
        if self.classes is not None and not self._resumes:
            table = _table(fine_tuning_rows(self.report, self.model.state_dict()), "what becomes of them")
            told = describe_fine_tuning(self.report, self._given)
            logger.info("%s\n%s", told, table, extra=ON_TERMINAL)
        elif not fits:
            logger.warning(
                "'%s' gives %d of %d tensors of the model, which keeps its own values for the others. Not "
                "loaded:\n%s",
                self._given,
                self.report.loaded,
                self.report.total,
                _table(self.report.rows()),
            )
        elif self.report.left_out:
            logger.info("'%s' gives nothing to %s: CRISPMASK.DROP.", self._given, ", ".join(self.drop))


def _table(rows: Sequence[tuple[str, int, str]], said: str = "why") -> str:
    return tabulate(rows, headers=["tensors", "number", said], tablefmt="github")


def _made_up(missing: Collection[str], model: nn.Module) -> list[str]:
    """Statistics of frozen batch norms that are not in a file, nor the weights beside them.

    Detectron2 sets them itself, and does not name them, as files of its first version have the weights alone.
    """
    names = (name for name in model.state_dict() if name.endswith((".running_mean", ".running_var")))
    return [n for n in names if n not in missing and f"{n.rpartition('.')[0]}.weight" in missing]


def _converted_for(metadata: Mapping[str, Any]) -> str:
    """Config that our convert wrote into a file; empty: another program wrote it, or no config was known."""
    config, made_by = metadata.get("config"), metadata.get("made_by")
    ours = isinstance(made_by, str) and made_by.startswith("crispmask ")
    return config if ours and isinstance(config, str) else ""


def _without_floats(weights: Mapping[str, Any], model: nn.Module) -> list[str]:
    """Names of a file under which the model has floating-point numbers and the file has others."""
    ours = model.state_dict()
    wanted = {name.removeprefix("module.") for name, value in ours.items() if value.is_floating_point()}
    return [
        name
        for name, value in weights.items()
        if name.removeprefix("module.") in wanted and not torch.as_tensor(value).is_floating_point()
    ]
