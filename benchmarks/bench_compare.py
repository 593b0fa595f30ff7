"""Time of comparing two results files against that of evaluating them, and how often intervals are right.

    OMP_NUM_THREADS=1 python benchmarks/bench_compare.py [--scale 10] [--coverage]

Times are CPU seconds of mask AP and Boundary AP of two results files of the set `real` of
bench_evaluation.py, JSON included, and of 1,000 resamples of both, the best of some in turn. `--coverage`
draws sets of images from a large one: an interval of AP should hold the mean AP of such sets, and one of a
difference the difference on the large set, in 95 of 100 draws; so should those of differences between a model
that misses objects and one with false alarms, on sets of their own. Prints Markdown.
"""

import argparse
import json
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_evaluation import SETS, Shape, describe_machine, make_set
from crispmask.evaluation.coco.instance_eval import InstanceEval, Matching
from crispmask.evaluation.coco.matching import Matches
from crispmask.evaluation.coco.precision import Ranking, accumulate
from crispmask.evaluation.coco.protocol import evaluate_coco
from crispmask.evaluation.compare import compare
from crispmask.testing import differently_failing


def other_model(rows: list[dict[str, Any]], noise: float, seed: int = 1) -> list[dict[str, Any]]:
    """The same masks with other scores, and a few of them gone."""
    rng = np.random.default_rng(seed)
    kept = [row for row in rows if rng.random() < 0.97]
    return [{**row, "score": float(np.clip(row["score"] + noise * rng.normal(), 0, 1))} for row in kept]


def measure_time(scale: float, repeat: int) -> None:
    shape = SETS["real"]._replace(images=round(SETS["real"].images * scale))
    gt, rows = make_set(shape)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("gt.json", "a.json", "b.json")]
        for path, content in zip(paths, (gt, rows, other_model(rows, 0.05)), strict=True):
            path.write_text(json.dumps(content))
        times = {"two evaluations": math.inf, "1,000 resamples of both": math.inf}
        for _ in range(repeat):
            start = time.process_time()
            evaluations = {path.stem: evaluate_coco(str(paths[0]), str(path)) for path in paths[1:]}
            middle = time.process_time()
            compare(evaluations, resamples=1000)
            for what, seconds in zip(times, (middle - start, time.process_time() - middle), strict=True):
                times[what] = min(times[what], seconds)
    size = f"{shape.images} images, {shape.images * shape.detections} rows, {shape.categories} classes"
    print("| set | what | CPU seconds | ratio |\n|:--|:--|--:|--:|")
    for what, seconds in times.items():
        print(f"| real, {size} | {what} | {seconds:.2f} | {seconds / times['two evaluations']:.2f} |")


def measure_coverage(draws: int, resamples: int) -> None:
    print("\n| classes | images of a draw | intervals of | draws | hold the truth |\n|--:|--:|:--|--:|--:|")
    for classes, images in ((5, 100), (10, 300)):
        shape = Shape(3000, 96, 128, objects=6, detections=15, categories=classes, found=0.7)
        # Another set than the one that the kind of interval was chosen on
        gt, rows = make_set(shape, seed=7)
        large = [evaluate_coco(gt, own, ("segm",))["segm"] for own in (rows, other_model(rows, 0.15))]
        whole = [evaluation.stats[0] * 100 for evaluation in large]
        values, figures, differences = [], [], []
        for draw in range(draws):
            chosen = np.sort(np.random.default_rng([7, draw]).choice(shape.images, images, replace=False))
            own = {name: part_of(e, chosen) for name, e in zip("ab", large, strict=True)}
            found = compare({name: {"segm": e} for name, e in own.items()}, resamples=resamples, seed=draw)
            figures.append(found.figures["segm"]["AP"]["a"])
            differences.append(found.differences["segm"]["AP"]["a", "b"])
            values.append(figures[-1].value)
        for what, intervals, truth in (
            ("AP", figures, np.mean(values)),
            ("the difference of two models", differences, whole[1] - whole[0]),
        ):
            share = np.mean([i.low <= truth <= i.high for i in intervals])
            print(f"| {classes} | {images} | {what} | {draws} | {100 * share:.0f} % |", flush=True)


def measure_failures(sets: int, resamples: int) -> None:
    """Models with false alarms against models that miss objects: the truth is the mean over all sets."""
    print("\n| classes | images | AP | sets | hold the true difference | p of 0.05 or less |")
    print("|--:|--:|--:|--:|--:|--:|")
    for classes, images, alarms in ((20, 1000, 1.1), (80, 300, 1.2), (80, 1000, 1.1), (200, 1000, 1.1)):
        found, figures = [], []
        for seed in range(sets):
            gt, *results = differently_failing(images, classes, found=0.55, alarms=alarms, seed=seed)
            models = {n: evaluate_coco(gt, rows, ("segm",)) for n, rows in zip("ab", results, strict=True)}
            comparison = compare(models, resamples=resamples, seed=seed)
            found.append(comparison.differences["segm"]["AP"]["a", "b"])
            figures.append([comparison.figures["segm"]["AP"][name].value for name in "ab"])
        first, second = np.mean(figures, axis=0)
        held = np.mean([i.low <= second - first <= i.high for i in found])
        sure = np.mean([i.p_value <= 0.05 for i in found])
        row = [
            classes,
            images,
            f"{first:.1f}, {second:.1f}",
            sets,
            f"{100 * held:.0f} %",
            f"{100 * sure:.0f} %",
        ]
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def part_of(evaluation: InstanceEval, images: np.ndarray) -> InstanceEval:
    """The evaluation of some images alone, ascending indices."""
    old, number = evaluation.matching, len(evaluation.class_names)
    places = np.full(len(old.image_ids), -1)
    places[images] = np.arange(len(images))
    d, g = (np.flatnonzero(places[side] >= 0) for side in (old.ranking.images, old.images))
    ranking = Ranking(*(column[d] for column in vars(old.ranking).values()))
    ranking = replace(ranking, images=places[ranking.images])
    matches = Matches(old.matches.matched[:, d], old.matches.ignored[:, d])
    flags = old.is_unjudged[:, d], old.is_ignored[:, g]
    columns = old.classes[g], places[old.images[g]]
    matching = Matching(ranking, matches, flags[0], *columns, flags[1], [old.image_ids[i] for i in images])
    counts = [np.bincount(columns[0][~own], minlength=number) for own in flags[1]]
    curves = accumulate(ranking, matches, flags[0], np.stack(counts, axis=1), [1, 10, 100])
    return replace(evaluation, curves=curves, matching=matching)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of the images of the set (default 1)")
    parser.add_argument("--repeat", type=int, default=3, help="best of this many runs (default 3)")
    parser.add_argument("--coverage", action="store_true", help="how often intervals hold the truth, minutes")
    parser.add_argument("--draws", type=int, default=200, help="sets that are drawn for it (default 200)")
    args = parser.parse_args()
    print(f"{describe_machine()}\n")
    measure_time(args.scale, args.repeat)
    if args.coverage:
        measure_coverage(args.draws, 300)
        measure_failures(args.draws // 2, 300)


if __name__ == "__main__":
    main()
