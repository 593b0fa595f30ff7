"""Whole released checkpoints: renamed, matched with the config that they belong to, and written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.modeling import build_model
from torch import Tensor

import crispmask
from crispmask import model_zoo
from crispmask.checkpoint.convert import SOURCES, released_source, translate_names
from crispmask.checkpoint.download import file_hash
from crispmask.checkpoint.files import SAFETENSORS, read_weight_file, write_atomically, write_safetensors
from crispmask.checkpoint.report import Shape, WeightReport, compare_shapes, group_names
from crispmask.config import get_config
from crispmask.errors import UserError

# A file whose names stay as they are
DETECTRON2 = "detectron2"
WITHOUT_BOUNDARY_HEAD = ("MODEL.TRANSFINER.BOUNDARY_LOSS_WEIGHT", "0.0")


@dataclass(frozen=True)
class Conversion:
    """A checkpoint under our names.

    Attributes:
        tensors: on the CPU.
        config: name or path of the config that it belongs to; empty: not known, as for a backbone.
        opts: ``KEY, VALUE, ...`` that the config needs with it.
        also_fits: other configs with exactly this model, of another schedule.
        report: how it fits the model of the config.
        metadata: what is written beside the tensors.
    """

    tensors: dict[str, Tensor]
    config: str
    opts: tuple[str, ...]
    also_fits: tuple[str, ...]
    report: WeightReport
    metadata: dict[str, str]


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
    allow_missing: Sequence[str] = (),
    trust_pickle: bool = False,
) -> Conversion:
    """Convert a whole checkpoint and check every name and shape of it.

    Args:
        path: the released file.
        source: ``refinemask``, ``transfiner``, or ``detectron2``: the names stay as they are.
        config: config that it belongs to; empty: the one of the release that fits best is found, and for
            ``detectron2`` nothing is checked.
        allow_missing: shell patterns of names (ours) that the file may lack.
        trust_pickle: see :func:`read_weight_file`.

    Raises:
        UserError: the file cannot be read, is not of this source, or does not fit; the message lists what.
        FileNotFoundError: there is no such config.
    """
    path = Path(path)
    content = read_weight_file(path, trust_pickle=trust_pickle)
    tensors = _renamed(path, content["model"], source)
    metadata = {
        "__author__": str(content.get("__author__", source)) if source == DETECTRON2 else source,
        "made_from": path.name,
        "made_from_sha256": file_hash(path),
        "made_by": f"crispmask {crispmask.__version__} convert",
    }
    if content.get("matching_heuristics"):
        metadata["matching_heuristics"] = "True"
    if source == DETECTRON2 and not config:
        return Conversion(tensors, "", (), (), WeightReport(total=0), metadata)
    configs = [config] if config else release_configs(source)
    best, others = _best_fit(tensors, configs, allow_missing)
    report = best.report.without(allow_missing)
    if not report.fits:
        hint = "\n  --allow-missing PATTERN converts it without them" if report.missing else ""
        raise UserError(report.explain(path.name, model=f"the model of {best.config}") + hint)
    metadata["config"] = " ".join((best.config, *best.opts))
    return Conversion(tensors, best.config, best.opts, others, best.report, metadata)


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
    offered = [row.config for row in model_zoo.published() if row.release == source and row.weights]
    names = [name for name in model_zoo.names() if name.startswith(f"{source}/")]
    if source == "transfiner":  # the paper's own models were never released
        names = [name for name in names if name.endswith("_released.yaml")]
    return list(dict.fromkeys([*offered, *names]))


def model_shapes(config: str, opts: Sequence[str] = ()) -> dict[str, Shape]:
    """Names and shapes of the tensors of a config's model, which takes no memory.

    Raises:
        UserError: the model has deformable convolutions, and Detectron2's compiled ops are not here.
    """
    cfg = get_config(config, [*opts, "MODEL.DEVICE", "meta"])
    try:
        with torch.device("meta"):
            model = build_model(cfg)
    except ImportError as error:
        raise UserError(
            f"The model of {config} needs Detectron2's compiled ops, which are not here: "
            f"python tools/install_detectron2.py --source repository builds them."
        ) from error
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _renamed(path: Path, model: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    found = released_source(model)
    if source in SOURCES:
        names, unknown = translate_names(model, source)
    else:
        names, unknown = {name: name for name in model}, []
    if found and found != source:
        raise UserError(
            f"Weight file '{path}' has the names of a released {found} checkpoint: give --source {found}."
        )
    if unknown:
        lines = [f"Weight file '{path}' is no released {source} checkpoint, which has no such names:"]
        lines += [f"  {name}{f' ({count})' if count > 1 else ''}" for name, count in group_names(unknown)]
        raise UserError("\n".join(lines))
    return {ours: torch.as_tensor(model[theirs]) for theirs, ours in names.items()}


def _best_fit(
    tensors: Mapping[str, Tensor], configs: Sequence[str], allow_missing: Sequence[str]
) -> tuple[_Fit, tuple[str, ...]]:
    """The config whose model is nearest, and the others with the same model."""
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    deformable = any(".conv2_offset." in name for name in tensors)
    # Such models cannot even be built without Detectron2's compiled ops
    alike = [
        name for name in configs if any(get_config(name).MODEL.RESNETS.DEFORM_ON_PER_STAGE) == deformable
    ]
    groups = _same_models(alike or configs)
    fits = [fit for names in groups for fit in _fits(shapes, names[0])]
    # The first of equals
    best = min(fits, key=lambda fit: fit.report.without(allow_missing).problems)
    (others,) = (names[1:] for names in groups if names[0] == best.config)
    return best, tuple(others)


def _same_models(configs: Sequence[str]) -> list[list[str]]:
    """Configs in groups that have the same model, down to what it starts from."""
    groups: dict[str, list[str]] = {}
    for name in configs:
        cfg = get_config(name)
        cfg.MODEL.WEIGHTS = ""
        groups.setdefault(cfg.MODEL.dump(), []).append(name)
    return list(groups.values())


def _fits(shapes: Mapping[str, Shape], config: str) -> Iterator[_Fit]:
    """The model of a config; and, for a checkpoint from before the boundary head, the same without it."""
    fit = _Fit(config, (), compare_shapes(model_shapes(config), shapes))
    yield fit
    if any(".boundary_head." in name for name in fit.report.missing):
        opts = WITHOUT_BOUNDARY_HEAD
        yield _Fit(config, opts, compare_shapes(model_shapes(config, opts), shapes))
