"""What a fine-tuning took from a weight file, told: carried over, adapted, new, dropped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crispmask.checkpoint.class_rows import ClassFit
from crispmask.checkpoint.report import LEFT_OUT, WeightReport, group_names, is_optional

CARRIED, ADAPTED, NEW, DROPPED = "carried over", "adapted", "new", "dropped"
# Groups of a kind, and names of classes in a sentence
MAX_GROUPS, MAX_NAMES = 6, 8

Row = tuple[str, int, str]


def fine_tuning_rows(report: WeightReport, model: Iterable[str]) -> list[Row]:
    """Groups of tensors, their number, and what became of them.

    Args:
        report: how the file fits the model.
        model: names of all tensors of the model.
    """
    wrong = [name for name, _, _ in report.wrong_shapes]
    fit = report.class_fit
    others = {*report.missing, *wrong, *report.left_out, *(fit.tensors if fit else ())}
    carried = [name for name in model if name not in others and not is_optional(name)]
    return [
        *_rows(carried, CARRIED),
        *(_adapted_rows(fit) if fit else ()),
        *_rows(report.renewed, f"{NEW}: no class of the file"),
        *_rows(report.missing, f"{NEW}: not in the file"),
        *_rows(wrong, f"{NEW}: of another shape in the file"),
        *_rows(report.left_out, f"{NEW}: {LEFT_OUT}"),
        *_rows(report.unexpected, f"{DROPPED}: not in the model"),
        *_rows(report.dropped, f"{DROPPED}: {LEFT_OUT}"),
    ]


def describe_fine_tuning(report: WeightReport, file: str) -> str:
    """One paragraph: how much was taken from a file, and of which classes."""
    fit = report.class_fit
    adapted = len(fit.adapted) if fit else 0
    dropped = len(report.unexpected) + len(report.dropped)
    counts = {
        CARRIED: report.loaded - adapted,
        ADAPTED: adapted,
        NEW: report.total - report.loaded,
    }
    taken = join_words([f"{count} {what}" for what, count in counts.items() if count], " and ")
    gone = f"; {dropped} of the file {DROPPED}" if dropped else ""
    sentence = f"Fine-tuning from '{file}': of {report.total} tensors of the model {taken}{gone}."
    return f"{sentence} {_describe_classes(fit)}" if fit else sentence


def _describe_classes(fit: ClassFit) -> str:
    count = len(fit.pairs) + len(fit.new)
    if not (fit.names and fit.file_names):
        whose = "the file" if fit.names else "the model" if fit.file_names else "the file and the model"
        if fit.by_order:
            return f"The {count} classes are taken in their order, for their names in {whose} are not known."
        return (
            f"The file has {fit.file_count} classes and the model {count}; as the names of those in {whose} "
            f"are not known, all rows of classes are new."
        )
    if fit.pairs == tuple((index, index) for index in range(fit.file_count)) and not fit.new:
        return f"The {count} classes are those of the file."
    carried = f"carried over {_some([fit.names[ours] for ours, _ in fit.pairs])}"
    new = f"new {_some([fit.names[index] for index in fit.new])}"
    return f"Of {count} classes, by their names: {carried}; {new}."


def describe_new_classes(fit: ClassFit) -> str:
    """The classes of a model that a file has no rows for, in words that follow "no"."""
    if fit.names and fit.file_names:
        return f"class {_some([fit.names[index] for index in fit.new], ' or ')}"
    return f"names of its {fit.file_count} classes, to find those of the model among them"


def _adapted_rows(fit: ClassFit) -> list[Row]:
    share = f"{ADAPTED}: rows of {len(fit.pairs)} of {len(fit.pairs) + len(fit.new)} classes"
    plain = [name for name in fit.adapted if name not in fit.with_others]
    return [*_rows(fit.with_others, f"{share} and of the background"), *_rows(plain, share)]


def _some(names: Sequence[str], before_last: str = ", ") -> str:
    if len(names) > MAX_NAMES:
        return f"{', '.join(names[:MAX_NAMES])} and {len(names) - MAX_NAMES} more"
    return join_words(names, before_last) or "none"


def join_words(words: Sequence[str], before_last: str) -> str:
    """Words with commas between them, and another word before the last."""
    start = [", ".join(words[:-1])] if len(words) > 1 else []
    return before_last.join([*start, *words[-1:]])


def _rows(names: Iterable[str], what: str) -> list[Row]:
    return [(name, count, what) for name, count in group_names(names, MAX_GROUPS, by_module=True)]
