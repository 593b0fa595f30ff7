"""Whether models differ on a data set: AP and Boundary AP of two or more results files, with intervals.

GT is COCO-format ground truth and every PREDICTIONS a list of COCO-format results (image_id, category_id,
score, segmentation); the first is the one that the others are compared to.

The images are drawn again, as many as there are, with replacement: --resamples times, the same draws for all
files. The intervals hold the middle 95 % of what comes out: of the AP of each file, and of the difference of
two files in the same draws. Where that of a difference does not hold 0, other images from the same source
would hardly turn it around; "above 0" is the share of the draws in which it is above 0. The intervals tell of
the choice of images, not of another training of the models.

--per-class has the p value of every class's difference, corrected for the number of classes as Benjamini and
Hochberg do: of the classes with at most 0.05 one in twenty is expected to differ by chance. --output writes
report.html, a page with all of it and with pictures of the objects that the models draw most differently.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from crispmask.cli.arguments import (
    TASKS,
    add_files,
    add_pictures,
    add_protocol,
    check_pictures,
    idle_flags,
    short_names,
)
from crispmask.cli.output import (
    check_output_file,
    check_output_folder,
    print_notes,
    print_table,
    say,
    write_csv,
    write_json,
    write_whole,
)
from crispmask.errors import UserError

if TYPE_CHECKING:
    from crispmask.evaluation.coco.instance_eval import InstanceEval
    from crispmask.evaluation.compare import Comparison, Difference, Interval
    from crispmask.evaluation.formats.coco import GroundTruth
    from crispmask.evaluation.progress import Progress

CSV_COLUMNS = (
    *("iou_type", "metric", "of", "minus", "value", "low", "high"),
    *("share_above", "p_value", "adjusted_p_value"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``crispmask compare``."""
    parser.add_argument("ground_truth", metavar="GT", help="COCO-format JSON")
    parser.add_argument("predictions", metavar="PREDICTIONS", nargs="+", help="results JSON, two or more")
    add_protocol(parser, ["coco", "lvis"])
    parser.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="how often images are drawn (default: 1000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default: 0)")
    parser.add_argument(
        "--all-pairs", action="store_true", help="compare every two files, not only each to the first"
    )
    add_files(parser)
    parser.add_argument("--output", metavar="FOLDER", help="for report.html, a page with pictures")
    add_pictures(parser, "objects of a kind")


def run(args: argparse.Namespace) -> None:
    """Compare, print the tables and write the files.

    Raises:
        UserError: unreadable or wrong input; the message names the row.
    """
    if len(args.predictions) < 2:
        raise UserError("One results file has nothing to be compared to: give two or more.")
    inputs = args.ground_truth, *args.predictions
    json_file = check_output_file(args.json, inputs)
    csv_file = check_output_file(args.csv, (*inputs, args.json))
    files = short_names(args.predictions)
    check_pictures(args)
    folder = check_output_folder(args.output) if args.output else None
    if folder:
        _check_files(inputs)
    from crispmask.evaluation.compare import check_draws, compare
    from crispmask.evaluation.formats.checks import faults_as_sentences
    from crispmask.evaluation.progress import Progress

    progress, idle = Progress(), idle_flags(args)
    try:
        check_draws(args.resamples, args.seed)
        with faults_as_sentences():
            gt, evaluations, notes = _evaluate(args, files, progress)
            draws = {"resamples": args.resamples, "seed": args.seed, "all_pairs": args.all_pairs}
            comparison = compare(evaluations, **draws, progress=progress)
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    # Files first, for who reads what is printed may stop; and it is printed where a file cannot be written
    try:
        if json_file:
            write_json(json_file, _report(args, files, comparison))
        if csv_file:
            write_csv(csv_file, CSV_COLUMNS, _csv_rows(comparison))
        if folder:
            with faults_as_sentences():
                page = _page(args, gt, files, comparison, progress)
            write_whole(folder / "report.html", page)
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    finally:
        print_notes([*idle, *notes])
        _print_files(args, files, comparison)
        print_table(*_table(comparison, classes=False))
        if args.per_class:
            print_table(*_table(comparison, classes=True))
    if folder:
        say(f"page: {folder / 'report.html'}")


def _check_files(paths: Iterable[str]) -> None:
    """Refuse pipes, which can be read once alone: the page reads the masks again."""
    for path in paths:
        if os.path.exists(path) and not os.path.isfile(path):
            raise UserError(f"'{path}' is no file, and --output reads it twice: save it as a file first.")


def _evaluate(
    args: argparse.Namespace, files: Mapping[str, str], progress: Progress
) -> tuple[GroundTruth, dict[str, dict[str, InstanceEval]], list[str]]:
    """The data set, evaluations by model and task, and what has to be known of them."""
    from crispmask.evaluation.build import default_ratio, read_truth
    from crispmask.evaluation.coco.protocol import check_options, evaluate_source
    from crispmask.evaluation.notes import collected_notes
    from crispmask.evaluation.processes import check_workers

    tasks = [TASKS[kind] for kind in args.iou_type]
    if args.dilation_ratio is None:
        args.dilation_ratio = default_ratio(args.protocol)
    options = {"dilation_ratio": args.dilation_ratio, "max_dets": args.max_dets}
    check_options(tasks, **options)
    options |= {"lazy": True, "workers": check_workers(args.workers), "progress": progress}
    rules = {name: getattr(args, name) for name in ("official", "class_agnostic", "max_outline")}
    with collected_notes() as notes:
        gt = read_truth(args.ground_truth, args.protocol, progress=progress, **rules)
    evaluations, own_notes = {}, {}
    for name, path in files.items():
        with collected_notes() as own_notes[name], _faults_of(path):
            evaluations[name] = evaluate_source(gt, path, tasks, **options)
    return gt, evaluations, [*notes, *_named(own_notes)]


def _page(
    args: argparse.Namespace,
    gt: GroundTruth,
    files: Mapping[str, str],
    comparison: Comparison,
    progress: Progress,
) -> str:
    """The page, with pictures where masks were compared."""
    from crispmask.analysis.compare_report import Pictures, build_report
    from crispmask.analysis.image_files import ImageFiles
    from crispmask.analysis.object_quality import assess_objects
    from crispmask.analysis.page import render
    from crispmask.evaluation.formats.coco import load_dataset, read_predictions

    pictures = None
    if args.worst and set(args.iou_type) & {"mask", "boundary"}:
        images = load_dataset(args.ground_truth, progress)["images"]
        shown = ImageFiles(images, args.images, gt.sizes, args.value_range)
        objects = {
            name: assess_objects(
                gt, read_predictions(path, gt, progress), args.dilation_ratio, progress=progress
            )
            for name, path in files.items()
        }
        pictures = Pictures(gt, shown, objects, args.worst, progress)
    protocol = f"Protocol: {_protocol(args)}."
    return render(build_report(comparison, {"ground truth": args.ground_truth, **files}, protocol, pictures))


@contextmanager
def _faults_of(path: str) -> Iterator[None]:
    """Name the file of a row, of which there are several."""
    try:
        yield
    except ValueError as error:
        raise error if path in str(error) else ValueError(f"'{path}': {error}") from error


def _named(notes: Mapping[str, list[str]]) -> list[str]:
    """Notes of several models: those of all are said once, others with the name of their model."""
    first, *others = notes.values()
    shared = [sentence for sentence in first if all(sentence in other for other in others)]
    own = [f"{name}: {s}" for name, sentences in notes.items() for s in sentences if s not in shared]
    return [*shared, *own]


def _print_files(args: argparse.Namespace, files: Mapping[str, str], comparison: Comparison) -> None:
    lines = {"ground truth": args.ground_truth, **files}
    lines["protocol"] = _protocol(args)
    lines["resamples"] = f"{comparison.resamples} of {comparison.images} images, seed {args.seed}"
    width = max(map(len, lines))
    for name, text in lines.items():
        say(f"{name:{width}}  {text}")


def _protocol(args: argparse.Namespace) -> str:
    words = [args.protocol, f"boundary {100 * args.dilation_ratio:g}% of the diagonal"]
    words += [word.replace("_", "-") for word in ("official", "class_agnostic") if getattr(args, word)]
    return ", ".join([*words, *([f"best {args.max_dets} detections"] if args.max_dets else [])])


def _table(comparison: Comparison, *, classes: bool) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the figures, or of the classes, those that differ most surely first."""
    kinds = {task: kind for kind, task in TASKS.items()}
    columns = ["class" if classes else "", "AP of", *comparison.models]
    for first, second in comparison.pairs:
        columns += [f"{second} - {first}", "corrected p" if classes else "above 0"]
    rows = []
    for task, figures in comparison.figures.items():
        chosen = [name for name in figures if name.startswith("AP/") is classes]
        if classes:
            pair = comparison.pairs[0]
            chosen.sort(key=lambda name: _order(comparison.differences[task][name][pair]))
        for name in chosen:
            row = [name.removeprefix("AP/"), kinds[task], *map(_with_interval, figures[name].values())]
            for difference in comparison.differences[task][name].values():
                # Of models that do not differ in any draw it would read as "surely worse"
                is_same = difference.value == difference.low == difference.high == 0
                share = "nan%" if is_same else f"{100 * difference.share_above:.1f}%"
                row += [_with_interval(difference, "+"), f"{difference.adjusted:.3f}" if classes else share]
            rows.append([None if cell in ("nan", "nan%") else cell for cell in row])
    return columns, rows


def _order(difference: Difference) -> tuple[bool, float, float]:
    """What classes are sorted by: those without a figure last."""
    return difference.value != difference.value, difference.adjusted, -abs(difference.value)


def _with_interval(figure: Interval, sign: str = "") -> str | None:
    if figure.value != figure.value:
        return None
    return f"{figure.value:{sign}.1f} [{figure.low:{sign}.1f}, {figure.high:{sign}.1f}]"


def _report(args: argparse.Namespace, files: Mapping[str, str], comparison: Comparison) -> dict[str, Any]:
    """What was asked for, and all figures."""
    asked = ("protocol", "dilation_ratio", "max_dets", "official", "class_agnostic", "max_outline", "seed")
    report: dict[str, Any] = {"ground_truth": args.ground_truth, "predictions": dict(files)}
    report |= {name: getattr(args, name) for name in asked if getattr(args, name) not in (None, False)}
    report |= {"resamples": comparison.resamples, "images": comparison.images, "results": {}}
    for kind, task in ((kind, TASKS[kind]) for kind in args.iou_type):
        report["results"][kind] = {
            name: {
                "models": {model: asdict(figure) for model, figure in figures.items()},
                "differences": [
                    {"of": second, "minus": first, **asdict(difference)}
                    for (first, second), difference in comparison.differences[task][name].items()
                ],
            }
            for name, figures in comparison.figures[task].items()
        }
    return report


def _csv_rows(comparison: Comparison) -> list[list[Any]]:
    kinds = {task: kind for kind, task in TASKS.items()}
    rows: list[list[Any]] = []
    for task, by_name in comparison.figures.items():
        for name, figures in by_name.items():
            for model, figure in figures.items():
                rows.append([kinds[task], name, model, "", *asdict(figure).values(), "", "", ""])
            for (first, second), difference in comparison.differences[task][name].items():
                rows.append([kinds[task], name, second, first, *asdict(difference).values()])
    return rows
