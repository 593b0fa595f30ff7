"""Whole released checkpoints: renamed, matched with the config that they belong to, and written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import crispmask
from crispmask import model_list
from crispmask.checkpoint.convert import release_of, released_source, translate_names, under_new_names
from crispmask.checkpoint.download import fetch_verified, file_hash, naming_download
from crispmask.checkpoint.files import (
    SAFETENSORS,
    VALUE_RANGE,
    read_weight_file,
    write_atomically,
    write_safetensors,
)
from crispmask.checkpoint.integrity import refuse_other_numbers
from crispmask.checkpoint.model_info import MODEL_INFO, describe_model
from crispmask.checkpoint.report import (
    MAX_GROUPS,
    Shape,
    WeightReport,
    compare_shapes,
    group_names,
    is_optional,
    with_count,
)
from crispmask.checkpoint.shapes import config_shapes
from crispmask.checkpoint.unpickler import shown
from crispmask.config import get_config
from crispmask.errors import UserError
from crispmask.heads import heads, registered_sources
from crispmask.releases import Release

# A file whose names stay as they are
DETECTRON2 = "detectron2"
# What stands beside the weights and says what they are
_CARRIED = {"model", "__author__", "matching_heuristics", "config", VALUE_RANGE, MODEL_INFO}
_CARRIED |= {"made_by", "made_from", "made_from_sha256"}


@dataclass(frozen=True)
class Conversion:
    """A checkpoint under our names.

    Attributes:
        tensors: on the CPU.
        config: name or path of the config that it belongs to; empty: not known, as for a backbone.
        opts: ``KEY, VALUE, ...`` that the config needs with it.
        also_fits: other configs with exactly this model, of another schedule.
        report: how it fits the model of the config.
        file_report: how the whole file does, with the tensors of another shape that are left out.
        unused_patterns: those of ``allow_missing`` that matched nothing.
        metadata: what is written beside the tensors.
        notes: what could not be checked, in sentences.
        is_part: the code base gives but a part of the model, which is of no use before it is trained.
    """

    tensors: dict[str, Tensor]
    config: str
    opts: tuple[str, ...]
    also_fits: tuple[str, ...]
    report: WeightReport
    file_report: WeightReport
    unused_patterns: tuple[str, ...]
    metadata: dict[str, str]
    notes: tuple[str, ...] = ()
    is_part: bool = False


@dataclass(frozen=True)
class _Fit:
    config: str
    opts: tuple[str, ...]
    report: WeightReport


def convert_checkpoint(
    path: str | Path,
    source: str,
    *,
    config: str = "",
    opts: Sequence[str] = (),
    allow_missing: Sequence[str] = (),
    trust_pickle: bool = False,
) -> Conversion:
    """Convert a whole checkpoint and check every name and shape of it.

    Args:
        path: the released file, or its address; either with ``?sha256=<64 hex digits>`` or not.
        source: one that a head registers, or ``detectron2``: the names stay as they are.
        config: config that it belongs to; empty: the one of the release that fits best is found, and for
            ``detectron2`` nothing is checked.
        opts: ``KEY, VALUE, ...`` that the config, given or found, has on top.
        allow_missing: shell patterns of names (ours) that the file may lack, or have in another shape, in
            which they are left out.
        trust_pickle: see :func:`read_weight_file`.

    Raises:
        UserError: the file cannot be read, is not of this source, or does not fit; the message lists what.
        FileNotFoundError: there is no such config.
    """
    path = str(path)
    local = fetch_verified(path)
    notes: list[str] = []
    with naming_download(path):
        content = read_weight_file(local, trust_pickle=trust_pickle, tell=notes.append)
    notes += _beside_the_weights(content)
    tensors = _as_tensors(path, content["model"], source)
    metadata = {
        "__author__": str(content.get("__author__", source)) if source == DETECTRON2 else source,
        "made_from": local.name,
        "made_from_sha256": file_hash(local),
        "made_by": f"crispmask {crispmask.__version__} convert",
    }
    if content.get("matching_heuristics"):
        metadata["matching_heuristics"] = "True"
    for key in (VALUE_RANGE, MODEL_INFO):
        if key in content:
            metadata[key] = content[key] if isinstance(content[key], str) else json.dumps(content[key])
    if source == DETECTRON2 and not config:
        unchecked = WeightReport(total=0)
        unused = tuple(allow_missing)
        return Conversion(tensors, "", (), (), unchecked, unchecked, unused, metadata, tuple(notes))
    release = Release() if source == DETECTRON2 else release_of(source)
    tensors = _renamed(path, tensors, source if release.rules else "")
    opts, absent = tuple(opts), tuple[str, ...]()
    if release.take_part:
        part = release.take_part(path, local, tensors, config, opts)
        tensors, configs, opts, absent = part.tensors, [part.config], part.opts, part.absent
        notes += part.notes
    else:
        configs = [config] if config else release_configs(source)
    refuse_other_numbers(
        path, [n for n, v in tensors.items() if not (v.is_floating_point() or is_optional(n))]
    )
    allowed = (*allow_missing, *absent)
    best, others = _best_fit(tensors, configs, allowed, opts)
    unused = tuple(best.report.unused(allow_missing))
    _require_fit(path, best, allowed, unused)
    report = best.report.counting_as_missing(allowed)
    tensors = {name: value for name, value in tensors.items() if name not in report.missing}
    metadata["config"] = " ".join((best.config, *best.opts))
    is_part = release.take_part is not None
    if report.fits and not is_part and MODEL_INFO not in metadata:
        metadata[MODEL_INFO] = json.dumps(describe_model(get_config(best.config, best.opts)).to_dict())
    fit = (best.config, best.opts, others, report, best.report)
    return Conversion(tensors, *fit, unused, metadata, tuple(notes), is_part)


def write_conversion(conversion: Conversion, path: Path) -> None:
    """Write to ``path``, safetensors or a ``.pth`` that plain Detectron2 reads, by the ending of its name.

    Raises:
        OSError: it cannot be written; a file that was there is then as it was.
    """
    if path.suffix == SAFETENSORS:
        write_safetensors(path, conversion.tensors, conversion.metadata)
    else:
        content = {"model": conversion.tensors, **conversion.metadata}
        write_atomically(path, lambda file: torch.save(content, file))


def release_configs(source: str) -> list[str]:
    """Names of the configs that checkpoints of a release may belong to.

    Those of which the authors offer a checkpoint come first.
    """
    offered = [row.config for row in model_list.published() if row.release == source and row.weights]
    (head,) = (head for head, known in registered_sources() if known.name == source)
    is_config = release_of(source).is_config
    names = [name for name in model_list.names() if name.startswith(f"{head.name}/") and is_config(name)]
    return list(dict.fromkeys([*offered, *names]))


def model_shapes(config: str, opts: Sequence[str] = ()) -> dict[str, Shape]:
    """Names and shapes of the tensors of a config's model, which takes no memory.

    Raises:
        UserError: the model has deformable convolutions, and Detectron2's compiled ops are not here.
    """
    return config_shapes(get_config(config, opts), config)


def _beside_the_weights(content: Mapping[str, Any]) -> list[str]:
    """A sentence on what the file holds beside the weights and the result does not."""
    names = [shown(name, 40) for name in content if name not in _CARRIED]
    more = f" and {len(names) - MAX_GROUPS} more" if len(names) > MAX_GROUPS else ""
    found = f"{', '.join(names[:MAX_GROUPS])}{more}"
    return [f"what stands beside the weights is left out: {found}."] if names else []


def _as_tensors(path: str, model: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    found = released_source(model)
    if found and found != source:
        raise UserError(
            f"Weight file '{path}' has the names of a released {found} checkpoint: give --source {found}."
        )
    return {name: torch.as_tensor(value) for name, value in model.items()}


def _renamed(path: str, model: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Tensors under our names, by the rules of a source; empty: without ``module.`` alone."""
    names: Mapping[str, str] = {name: name.removeprefix("module.") for name in model}
    unknown: Sequence[str] = ()
    if source:
        names, unknown = translate_names(model, source)
    if unknown:
        lines = [f"Weight file '{path}' is no released {source} checkpoint, which has no such names:"]
        lines += [f"  {with_count(*group)}" for group in group_names(unknown)]
        raise UserError("\n".join(lines))
    try:
        return under_new_names(model, names)
    except ValueError as error:
        raise UserError(f"Weight file '{path}' has a tensor twice: {error}") from error


def _require_fit(path: str, best: _Fit, allowed: Sequence[str], unused: Sequence[str]) -> None:
    report = best.report.allowing(allowed)
    if report.fits:
        return
    lines = [report.explain(path, model=f"the model of {best.config}")]
    if not report.unexpected:  # what the model does not have, it cannot allow
        lines.append("  --allow-missing PATTERN converts it without them")
    lines += [f"  --allow-missing '{pattern}' matches nothing" for pattern in unused]
    raise UserError("\n".join(lines))


def _best_fit(
    tensors: Mapping[str, Tensor], configs: Sequence[str], allowed: Sequence[str], opts: tuple[str, ...]
) -> tuple[_Fit, tuple[str, ...]]:
    """The config whose model is nearest, and the others with the same model."""
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    deformable = any(".conv2_offset." in name for name in tensors)
    # Such models cannot even be built without Detectron2's compiled ops
    alike = [
        name
        for name in configs
        if any(get_config(name, opts).MODEL.RESNETS.DEFORM_ON_PER_STAGE) == deformable
    ]
    groups = _same_models(alike or configs, opts)
    fits = [fit for names in groups for fit in _fits(shapes, names[0], opts)]
    best = min(fits, key=lambda fit: _distance(fit.report, allowed))
    (others,) = (names[1:] for names in groups if names[0] == best.config)
    return best, tuple(others)


def _distance(report: WeightReport, allowed: Sequence[str]) -> tuple[int, ...]:
    """How far a file is from a model: the least is nearest, and of equals the first."""
    problems = report.allowing(allowed).problems
    if problems and report.classes:  # then the first such model is as good as any
        return 1, len(report.missing)
    return 2 if problems else 0, problems, -report.loaded


def _same_models(configs: Sequence[str], opts: Sequence[str]) -> list[list[str]]:
    """Configs in groups that have the same model, down to what it starts from."""
    groups: dict[str, list[str]] = {}
    for name in configs:
        cfg = get_config(name, opts)
        cfg.MODEL.WEIGHTS = ""
        groups.setdefault(cfg.MODEL.dump(), []).append(name)
    return list(groups.values())


def _fits(shapes: Mapping[str, Shape], config: str, opts: tuple[str, ...]) -> Iterator[_Fit]:
    """The model of a config; and, for a checkpoint that lacks a part that only training uses, the one
    without it."""
    fit = _Fit(config, opts, compare_shapes(model_shapes(config, opts), shapes))
    yield fit
    for part in (part for head in heads() for part in head.training_parts):
        if any(name.startswith(part.prefix) for name in fit.report.missing):
            without = (*opts, *part.opts)
            yield _Fit(config, without, compare_shapes(model_shapes(config, without), shapes))
