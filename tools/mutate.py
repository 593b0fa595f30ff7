"""Change the code in small ways, one at a time, and see whether the tests notice.

    python tools/mutate.py --count 300 --seed 0 [--only transfiner_d2] [--minutes 60]

Draws places from the modules of ``TESTS``, changes each in a copy of the tree, and runs the tests that are
listed for the module, the fastest first, until one fails. Prints a line a mutant and the shares at the end:
`killed` (a test failed), `late` (tests did not end in time, as in an endless loop), `survived`. What
survived is either another way to write the same, or something that no test protects: read it.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_TRANSFINER = (
    "tests/test_pinned_losses.py",
    "tests/transfiner/test_transfiner_nodes.py",
    "tests/transfiner/test_transfiner_layers.py",
    "tests/test_losses_of_heads.py",
    "tests/transfiner/test_transfiner_dial.py",
    "tests/transfiner/test_transfiner_golden.py",
    "tests/transfiner/test_transfiner_ablations.py",
    "tests/transfiner/test_transfiner_robust.py",
    "tests/transfiner/test_transfiner_waits.py",
)
_QUERY = (
    "tests/transfiner/test_query_losses.py",
    "tests/test_pinned_losses.py",
    "tests/transfiner/test_query_library.py",
    "tests/transfiner/test_query_checks.py",
    "tests/transfiner/test_query_model.py",
)
_COCO = (
    "tests/evaluation/test_coco_protocol.py",
    "tests/evaluation/test_official.py",
    "tests/evaluation/test_cocoeval.py",
    "tests/evaluation/test_boundary_golden.py",
    "tests/evaluation/test_resampling.py",
    "tests/evaluation/test_bounds.py",
    "tests/evaluation/test_boundary_pairs.py",
    "tests/evaluation/test_limits.py",
    "tests/evaluation/test_bad_input.py",
)
# Modules, or folders of them, and the tests that are theirs
TESTS: dict[str, tuple[str, ...]] = {
    "transfiner_d2/incoherence.py": _TRANSFINER,
    "transfiner_d2/nodes.py": _TRANSFINER,
    "transfiner_d2/quadtree.py": _TRANSFINER,
    "transfiner_d2/refiner.py": _TRANSFINER,
    "transfiner_d2/encoder.py": _TRANSFINER,
    "transfiner_d2/pyramid.py": _TRANSFINER,
    "transfiner_d2/mask_head.py": _TRANSFINER,
    "transfiner_d2/targets.py": _TRANSFINER,
    "transfiner_d2/losses.py": _TRANSFINER,
    "transfiner_d2/selection.py": _TRANSFINER,
    "transfiner_d2/query/losses.py": _QUERY,
    "transfiner_d2/query/matching.py": _QUERY,
    "transfiner_d2/query/detector.py": _QUERY,
    "transfiner_d2/query/deformable.py": _QUERY,
    "transfiner_d2/query/tokens.py": _QUERY,
    "refinemask_d2": ("tests/test_pinned_losses.py", "tests/test_losses_of_heads.py", "tests/refinemask"),
    "crispmask/ops": ("tests/ops",),
    "crispmask/evaluation/coco/matching.py": _COCO,
    "crispmask/evaluation/coco/precision.py": _COCO,
    "crispmask/evaluation/coco/overlaps.py": _COCO,
    "crispmask/evaluation/coco/resampling.py": ("tests/evaluation/test_resampling.py", *_COCO),
    "crispmask/evaluation/compare.py": ("tests/evaluation/test_compare.py",),
    "crispmask/evaluation/masks": _COCO,
}
# The kernels need a GPU or the interpreter of Triton, whose tests take minutes
LEFT_OUT = {"kernels.py", "__init__.py", "dispatch.py", "config.py", "crispmask_head.py"}
_COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
_OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}
# Calls without which the value would do as well, but not the science
_DROPPED = {"detach", "sigmoid", "clamp", "float", "contiguous", "flip", "abs"}
_SWAPPED = {"min": "max", "max": "min", "amin": "amax", "amax": "amin", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """A module with one change.

    Attributes:
        path: below the root.
        line: of the change.
        change: what was there, and what is there now.
        source: the whole module.
    """

    path: Path
    line: int
    change: str
    source: str


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Every change of a module that the rules below allow."""
    tree = ast.parse((ROOT / path).read_text())
    inside = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    places = {id(part): part for function in inside for part in _parts(function)}
    for index, node in enumerate(ast.walk(tree)):
        if id(node) not in places:
            continue
        for changed in _changes(node):
            whole = copy.deepcopy(tree)
            target = next(found for number, found in enumerate(ast.walk(whole)) if number == index)
            before = ast.unparse(node)
            _replace(whole, target, changed)
            yield Mutant(path, node.lineno, f"{before}  ->  {ast.unparse(changed)}", ast.unparse(whole))


def _parts(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """What a function does, without its docstring, its annotations and the sentences of its errors."""
    sentences = {
        id(part) for node in ast.walk(function) if isinstance(node, ast.Raise) for part in ast.walk(node)
    }
    for statement in function.body:
        yield from (part for part in ast.walk(statement) if id(part) not in sentences)


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS:
        yield ast.Compare(node.left, [_COMPARISONS[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        yield ast.BinOp(node.left, _OPERATORS[type(node.op)](), node.right)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.Invert, ast.USub)):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        name = node.func.attr
        if name in _DROPPED and not node.args:
            yield node.func.value
        if name in _SWAPPED:
            yield ast.Call(
                ast.Attribute(node.func.value, _SWAPPED[name], ast.Load()), node.args, node.keywords
            )


def _replace(tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, ast.copy_location(new, old))
            elif isinstance(value, list) and any(part is old for part in value):
                value[[part is old for part in value].index(True)] = ast.copy_location(new, old)
    ast.fix_missing_locations(tree)


def modules(only: str) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Modules with the tests that are theirs."""
    for place, tests in TESTS.items():
        found = [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py"))
        for path in found:
            if path.name not in LEFT_OUT and place.startswith(only):
                yield path.relative_to(ROOT), tests


def fate(mutant: Mutant, tests: tuple[str, ...], tree: Path, seconds: float) -> str:
    """What the tests say of a mutant: ``killed``, ``late`` or ``survived``."""
    target = tree / mutant.path
    before = target.read_text()
    target.write_text(mutant.source)
    try:
        done = subprocess.run(_command(tests), cwd=tree, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return "late"
    finally:
        target.write_text(before)
    return "survived" if done.returncode == 0 else "killed"


def require_passing(tests: tuple[str, ...], tree: Path) -> None:
    """Stop where tests fail without a change: every mutant would seem to be killed."""
    done = subprocess.run(_command(tests), cwd=tree, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"These tests fail as they are: {' '.join(tests)}\n{done.stdout[-2000:]}")


def _command(tests: tuple[str, ...]) -> list[str]:
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    return [sys.executable, "-B", "-m", "pytest", *options, *tests]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="start of a key of TESTS")
    parser.add_argument("--seconds", type=float, default=300, help="for the tests of one mutant")
    parser.add_argument("--minutes", type=float, default=0, help="stop after so long; 0: never")
    args = parser.parse_args()
    drawn = [(mutant, tests) for path, tests in modules(args.only) for mutant in mutants_of(path)]
    print(f"{len(drawn)} mutants, of which {min(args.count, len(drawn))} are tried", flush=True)
    random.Random(args.seed).shuffle(drawn)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    fates: dict[str, int] = {}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(
            ".git", ".venv*", "build", "output", "datasets", "__pycache__", ".*_cache"
        )
        shutil.copytree(ROOT, tree, ignore=ignored)
        for tests in {tests for _, tests in drawn[: args.count]}:
            require_passing(tests, tree)
        for mutant, tests in drawn[: args.count]:
            if args.minutes and time.monotonic() - start > 60 * args.minutes:
                break
            found = fate(mutant, tests, tree, args.seconds)
            fates[found] = fates.get(found, 0) + 1
            print(f"{found:8}  {mutant.path}:{mutant.line}  {mutant.change}", flush=True)
    print(", ".join(f"{name} {number}" for name, number in sorted(fates.items())))


if __name__ == "__main__":
    main()
