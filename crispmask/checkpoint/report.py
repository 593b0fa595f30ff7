"""What of a weight file found no place in a model, the cause, and the message that says so.

Shapes are plain tuples; names are those of ``state_dict``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from crispmask.checkpoint.convert import released_source
from crispmask.first_model import how_to_get_a_model
from crispmask.heads import TrainingPart, heads

if TYPE_CHECKING:
    from crispmask.checkpoint.class_rows import ClassFit

Shape = tuple[int, ...]
# Names that a file may lack or have in excess: they follow from the config, or nothing reads them
_OPTIONAL = (
    *("pixel_mean", "pixel_std", "anchor_generator.cell_anchors", "num_batches_tracked"),
    *("relative_position_index", "attn_mask"),  # Swin
)
MAX_GROUPS = 12
# Why a tensor is not loaded that CRISPMASK.DROP names
LEFT_OUT = "in CRISPMASK.DROP"
# So few tensors that do not fit are no sign of another model
FEW = 3

_CLASS_LAYER = "roi_heads.box_predictor.cls_score.weight"
# Detectron2's layers that depend on the number of classes; those of heads are in the same form
_CLASS_OUTPUTS: dict[str, Sequence[tuple[int, int]]] = {
    "cls_score": [(1, 1)],
    "bbox_pred": [(4, 0)],
    "predictor": [(1, 0)],
}


@dataclass(frozen=True)
class WeightReport:
    """How the tensors of a file fit a model.

    Attributes:
        total: number of tensors of the model.
        missing: names of the model that the file lacks.
        unexpected: names of the file that the model lacks.
        wrong_shapes: name, shape in the file, shape in the model.
        left_out: names of the model that were to get nothing from the file.
        dropped: names of the file that were left out for it, and that the model lacks.
        backbone_only: what the file gives is the backbone, or a part of it, and nothing else.
        class_fit: how class layers were fitted to other classes; None: they were not.
    """

    total: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong_shapes: tuple[tuple[str, Shape, Shape], ...] = ()
    left_out: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    backbone_only: bool = False
    class_fit: ClassFit | None = None

    @property
    def problems(self) -> int:
        """Number of tensors, of the file or of the model, that have no counterpart."""
        return len(self.missing) + len(self.unexpected) + len(self.wrong_shapes)

    @property
    def classes(self) -> tuple[int, int] | None:
        """Number of classes of the file and of the model, if that is all that differs; None: it is not.

        A part that only training uses may be missing too.
        """
        if not self.wrong_shapes or self.unexpected or (self.missing and not self._lacking):
            return None
        found = [_class_counts(*item) for item in self.wrong_shapes]
        return next((counts for counts in found[0] if all(counts in other for other in found)), None)

    @property
    def _lacking(self) -> TrainingPart | None:
        """The part that only training uses and that is all that the file lacks; None: there is none."""
        found = (part for head in heads() for part in head.training_parts if self.missing)
        return next((p for p in found if all(name.startswith(p.prefix) for name in self.missing)), None)

    @property
    def fits(self) -> bool:
        """Every tensor of the model is there, and no other."""
        return self.problems == 0

    @property
    def loaded(self) -> int:
        """Number of tensors of the model that the file gives."""
        return (
            self.total - len(self.missing) - len(self.wrong_shapes) - len(self.left_out) - len(self.renewed)
        )

    @property
    def renewed(self) -> tuple[str, ...]:
        """Names of class layers for which the file has no class of the model."""
        fit = self.class_fit
        return tuple(name for name in fit.tensors if name not in fit.adapted) if fit else ()

    @property
    def untrained(self) -> list[str]:
        """Names of the model of which a part, or all, keeps the values that the model was built with."""
        wrong = [name for name, _, _ in self.wrong_shapes]
        partly = self.class_fit.tensors if self.class_fit and self.class_fit.new else ()
        return [*self.missing, *wrong, *self.left_out, *partly]

    def allowing(self, patterns: Sequence[str]) -> WeightReport:
        """The report without what is missing or has another shape and matches a shell pattern.

        Args:
            patterns: as ``roi_heads.mask_head.*``.
        """
        return replace(
            self,
            missing=tuple(name for name in self.missing if not _matches(name, patterns)),
            wrong_shapes=tuple(item for item in self.wrong_shapes if not _matches(item[0], patterns)),
        )

    def counting_as_missing(self, patterns: Sequence[str]) -> WeightReport:
        """The report with tensors of another shape that match a shell pattern as missing ones."""
        left_out = tuple(name for name, _, _ in self.wrong_shapes if _matches(name, patterns))
        kept = tuple(item for item in self.wrong_shapes if item[0] not in left_out)
        return replace(self, missing=(*self.missing, *left_out), wrong_shapes=kept)

    def unused(self, patterns: Sequence[str]) -> list[str]:
        """The patterns that match nothing of what :meth:`allowing` would leave out."""
        names = [*self.missing, *(name for name, _, _ in self.wrong_shapes)]
        return [pattern for pattern in patterns if not any(_matches(name, [pattern]) for name in names)]

    def explain(self, file: str, *, model: str = "the model", converted_for: str = "") -> str:
        """One text for a file that does not fit: what it lacks, has in excess, has otherwise, and the cause.

        Args:
            file: path of the file, as it was given.
            model: what it does not fit.
            converted_for: config that the file says it belongs to; empty: it does not say.
        """
        lines = [f"Weight file '{file}' does not fit {model}: {self.cause(converted_for)}"]
        lines += [f"  {why}: {with_count(name, count)}" for name, count, why in self.rows()]
        return "\n".join(lines)

    def rows(self) -> list[tuple[str, int, str]]:
        """Groups of names, their number, and why they are not loaded."""
        rows = [
            (f"{name} (file: {_times(theirs)}, model: {_times(ours)})", 1, "other shape")
            for name, theirs, ours in self.wrong_shapes
        ]
        if len(rows) > MAX_GROUPS:
            names = [name for name, _, _ in self.wrong_shapes]
            rows = [(name, count, "other shape") for name, count in group_names(names)]
        rows += [(name, count, "not in the file") for name, count in group_names(self.missing)]
        rows += [(name, count, "not in the model") for name, count in group_names(self.unexpected)]
        return rows + [
            (name, count, LEFT_OUT) for name, count in group_names((*self.left_out, *self.dropped))
        ]

    def cause(self, converted_for: str = "") -> str:
        """The likeliest cause, and the way out, in one sentence."""
        if source := released_source(self.unexpected):
            return (
                f"it has the names of a released {source} checkpoint. Convert it first: "
                f"crispmask convert --source {source} FILE.pth FILE.safetensors"
            )
        if self.backbone_only:
            return f"it is a backbone, from which a training starts, and no model. {how_to_get_a_model()}"
        if classes := self.classes:
            more = f" {' '.join(part.opts)}" if (part := self._lacking) else ""
            return (
                f"it has {classes[0]} class{'es' * (classes[0] != 1)} and the model {classes[1]}. Give "
                f"MODEL.ROI_HEADS.NUM_CLASSES {classes[0]}{more}, or the config of the file."
            )
        if (part := self._lacking) and not (self.wrong_shapes or self.unexpected):
            return f"it {part.reason}. Give {' '.join(part.opts)}."
        if self.problems <= FEW and FEW * self.problems < self.total:
            made_for = f" It was converted for {converted_for}." if converted_for else ""
            return f"{self._few()}{made_for}"
        if converted_for:
            return f"it was converted for another config. Give {converted_for}."
        if not self.loaded:
            return "it is of another model. Give the config that it was trained with."
        others = (*self.unexpected, *(name for name, _, _ in self.wrong_shapes))
        if _CLASS_LAYER in self.missing and not any(name.startswith("roi_heads.") for name in others):
            return "it holds no box head, as a file to start training from. Give weights of a trained model."
        parts = {part_of(name) for name in (*self.missing, *others)}
        if len(parts) == 1:
            (changed,) = parts
            absent = "" if others else ", or not there"
            return f"its {changed} is another one{absent}. Give the config that it was trained with."
        return "it is of another model. Give the config that it was trained with."

    def _few(self) -> str:
        """The cause where nearly everything fits: the file is of this model, and something happened to it."""
        parts = [
            (len(self.missing), "not there"),
            (len(self.wrong_shapes), "of another shape"),
            (len(self.unexpected), "too many"),
        ]
        found = ", ".join(f"{count} {_are(count)} {what}" for count, what in parts if count)
        remedy = "the weights as they were saved, or the config that they were trained with"
        return f"nearly all tensors fit, but {found}: it was edited or is damaged. Give {remedy}."


def compare_shapes(model: Mapping[str, Shape], file: Mapping[str, Shape]) -> WeightReport:
    """Report of names and shapes, without loading anything."""
    model = {name: shape for name, shape in model.items() if not is_optional(name)}
    file = {name: shape for name, shape in file.items() if not is_optional(name)}
    both = [name for name in model if name in file]
    return WeightReport(
        total=len(model),
        missing=tuple(name for name in model if name not in file),
        unexpected=tuple(name for name in file if name not in model),
        wrong_shapes=tuple((n, file[n], model[n]) for n in both if file[n] != model[n]),
        backbone_only=is_backbone(n for n in both if file[n] == model[n]),
    )


def is_optional(name: str) -> bool:
    """Whether a file need not hold the value: it follows from the config, or nothing reads it."""
    return any(part in name for part in _OPTIONAL)


def is_backbone(given: Iterable[str]) -> bool:
    """Whether the tensors that a file gives are of the backbone alone."""
    given = [name for name in given if not is_optional(name)]
    return bool(given) and all(is_part(name, ["backbone"]) for name in given)


def is_part(name: str, modules: Sequence[str]) -> bool:
    """Whether a tensor is one of some modules, which are named as in ``model.named_modules()``."""
    return name.startswith(tuple(f"{module}." for module in modules))


def _class_counts(name: str, theirs: Shape, ours: Shape) -> list[tuple[int, int]]:
    """Numbers of classes with which a layer would have these shapes, likeliest first; none: of no number."""
    parts = [part for part in name.split(".")[:-1] if not part.isdigit()]
    if not (parts and theirs and ours) or theirs[1:] != ours[1:]:
        return []
    counts = []
    of_heads = (pair for head in heads() for pair in head.class_layers.get(parts[-1], ()))
    for factor, more in (*_CLASS_OUTPUTS.get(parts[-1], ()), *of_heads):
        pair = [divmod(rows - more, factor) for rows in (theirs[0], ours[0])]
        if all(rest == 0 and number > 0 for number, rest in pair):
            counts.append((pair[0][0], pair[1][0]))
    return counts


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def part_of(name: str) -> str:
    """The part of a detector that a tensor belongs to, in words."""
    parts = {
        "backbone.": "backbone",
        "proposal_generator.": "proposal generator",
        "roi_heads.box_": "box head",
        "roi_heads.mask_": "mask head",
    }
    return next((part for prefix, part in parts.items() if name.startswith(prefix)), "architecture")


def group_names(
    names: Iterable[str], limit: int = MAX_GROUPS, *, by_module: bool = False
) -> list[tuple[str, int]]:
    """Names with their number, those of one module in one group where there are more than ``limit``, or
    ``by_module`` always.

    A group is written ``module.*``; every name is in exactly one, of which the last is ``others`` where there
    are too many modules.
    """
    names = list(names)
    groups = Counter(_cut(name, max(name.count("."), 1)) if by_module else name for name in names)
    for depth in range(max((name.count(".") for name in names), default=0), 0, -1):
        if len(groups) <= limit:
            break
        groups = Counter(_cut(name, depth) for name in names)
    found = list(groups.items())
    if len(found) > limit:
        found = [*found[: limit - 1], ("others", sum(count for _, count in found[limit - 1 :]))]
    return found


def with_count(name: str, count: int) -> str:
    """A group of :func:`group_names` in words: its name, and how many it has if more than one."""
    return f"{name} ({count})" if count > 1 else name


def _cut(name: str, depth: int) -> str:
    parts = name.split(".")
    return name if len(parts) <= depth else ".".join(parts[:depth]) + ".*"


def _times(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "a number"
