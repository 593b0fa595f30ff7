"""The arrows between the packages: what each may import, read from the source."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from crispmask.config import add_crispmask_config
from crispmask.heads import heads

ROOT = Path(__file__).resolve().parent.parent
HEADS = sorted(path.parent.name for path in ROOT.glob("*_d2/__init__.py"))
OURS = {"crispmask", *HEADS}


def imports(path: Path, *, module_level: bool = False) -> Iterator[str]:
    """Absolute names of what a module imports; ``module_level`` leaves out what only a call would import."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in statements(ast.parse(path.read_text()), module_level):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def statements(tree: ast.AST, module_level: bool) -> Iterator[ast.AST]:
    """All nodes of a tree; ``module_level`` leaves out the bodies of functions."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if not (module_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            yield from statements(node, module_level)


def modules(folder: str) -> list[Path]:
    """The source files of a package; there must be some, or a test would pass on nothing."""
    path = ROOT / folder
    found = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert found, f"{folder} holds no module"
    return found


def breaches(folder: str, forbidden: set[str], **kwargs: bool) -> list[str]:
    """``file: import`` for each import of a forbidden package, or of something below it."""
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules(folder)
        for name in imports(path, **kwargs)
        if any(name == package or name.startswith(package + ".") for package in forbidden)
    ]


def test_ops_import_torch_and_nothing_of_ours() -> None:
    allowed = {*sys.stdlib_module_names, "torch"}
    for path in modules("crispmask/ops"):
        names = set(imports(path))
        # Erosion is shared with the evaluation, which has no torch; both import the standard library alone
        ours = ("crispmask.ops.", "crispmask.erosion.", "crispmask.missing.")
        outside = {name for name in names if not name.startswith(ours)}
        extra = {"triton"} if path.name == "kernels.py" else set()
        assert {name.split(".")[0] for name in outside} <= allowed | extra, path.name
        if path.name != "kernels.py":
            assert not [name for name in imports(path, module_level=True) if name.endswith(".kernels")]


# What Detectron2's evaluators of data sets are made of
OF_EVALUATORS = ("evaluator.py", "device_masks.py")


@pytest.mark.parametrize("folder", ["crispmask/evaluation", "crispmask/analysis", "crispmask/erosion.py"])
def test_results_files_are_evaluated_without_torch(folder: str) -> None:
    found = breaches(folder, {"torch", "detectron2", "fvcore", "crispmask.ops"})
    assert [line for line in found if not line.split(":")[0].endswith((*OF_EVALUATORS, "build.py"))] == []


def test_the_reader_of_weights_does_not_import_the_zoo_that_loads_them() -> None:
    """What both need to know of models is in ``crispmask.model_list``."""
    assert breaches("crispmask/checkpoint", {"crispmask.model_zoo", "crispmask.engine"}) == []


def test_readers_of_files_import_no_protocol_but_that_of_their_format() -> None:
    protocols = {path.parent.name for path in (ROOT / "crispmask/evaluation").glob("*/protocol.py")}
    assert {"coco", "lvis"} <= protocols
    forbidden = {f"crispmask.evaluation.{name}" for name in protocols - {"coco"}}
    assert breaches("crispmask/evaluation/formats", forbidden) == []


@pytest.mark.parametrize("head", HEADS)
def test_heads_do_not_import_each_other(head: str) -> None:
    assert breaches(head, set(HEADS) - {head}) == []


def test_the_base_imports_no_head() -> None:
    assert breaches("crispmask", set(HEADS)) == []
    assert breaches("train_net.py", set(HEADS)) == []


def words_of(package: str) -> set[str]:
    """What only a head is called: its name and package, its classes, and its sections of ``MODEL``."""
    (head,) = (head for head in heads() if head.package == package)
    base = get_cfg()
    add_crispmask_config(base)
    sections = set(base.MODEL)
    head.load(head.add_config)(base)
    return {head.name, package, *head.mask_heads, *head.meta_architectures, *(set(base.MODEL) - sections)}


def named(path: Path, words: set[str]) -> Iterator[tuple[int, str]]:
    """Line and word for each of some words in the strings and the attributes of a module.

    Comments are not looked at, nor docstrings, which cite the papers that the functions are from; but those
    of the commands' modules are their help texts.
    """
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    left_out = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and node.body]
    left_out = left_out[1:] if "cli" in path.parts else left_out  # the module is walked first
    cited = {id(statement.value) for statement in left_out if isinstance(statement, ast.Expr)}
    for node in ast.walk(tree):
        text = node.attr if isinstance(node, ast.Attribute) else getattr(node, "value", None)
        if not isinstance(text, str) or id(node) in cited:
            continue
        yield from ((node.lineno, word) for _, word in words_in(text, words))


def words_in(text: str, words: set[str]) -> Iterator[tuple[int, str]]:
    """Line and word for each of some words that stand in a text by themselves."""
    for word in words:
        # Sections of a config are in capitals, and may be common words otherwise, as "query"
        flags = 0 if word.isupper() else re.IGNORECASE
        for found in re.finditer(rf"(?<![a-z0-9]){word}(?![a-z0-9])", text, flags):
            yield text.count("\n", 0, found.start()) + 1, word


@pytest.mark.parametrize("head", HEADS)
def test_the_base_names_no_head_in_its_strings(head: str) -> None:
    words = words_of(head)
    assert len(words) >= 4, "a head has a name, a package, a class and a section of the config"
    data = [path for kind in ("yaml", "html", "js") for path in (ROOT / "crispmask").rglob(f"*.{kind}")]
    assert len(data) >= 3
    found = [
        f"{path.relative_to(ROOT)}:{line}: {word}"
        for path in (*modules("crispmask"), ROOT / "train_net.py", *data)
        for line, word in (named(path, words) if path.suffix == ".py" else words_in(path.read_text(), words))
    ]
    assert found == [], "what belongs to a head is registered in its crispmask_head.py"


@pytest.mark.parametrize("folder", ["data", "cli"])
def test_the_reader_of_strings_sees_every_form(folder: str, tmp_path: Path) -> None:
    lines = [
        '"""Of Toy."""',
        "def f(cfg, url):",
        '    """Toy, equation 1."""',
        "    g('toys', 'stoy', url.query)  # toy",
        "    g('toy_d2.config')",
        "    g(f'{cfg}/toy/x.yaml')",
        "    g('a ToyHead')",
        "    g('MODEL.QUERY.DIM')",
        "    return cfg.MODEL.QUERY",
    ]
    path = tmp_path / folder / "x.py"
    path.parent.mkdir()
    path.write_text("\n".join(lines))
    found = {line for line, _ in named(path, {"toy", "ToyHead", "QUERY"})}
    assert found == {5, 6, 7, 8, 9} | ({1} if folder == "cli" else set())


@pytest.mark.parametrize("head", HEADS)
def test_heads_do_not_import_the_command_line(head: str) -> None:
    assert breaches(head, {"crispmask.cli", "train_net"}) == []


def test_nothing_imports_the_tests_or_tools() -> None:
    for folder in sorted(OURS):
        assert breaches(folder, {"tests", "tools", "projects", "benchmarks"}) == []


def test_tests_and_benchmarks_share_what_the_package_has() -> None:
    assert breaches("tests", {"benchmarks"}) == []


def test_the_reader_of_imports_sees_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    source = tmp_path / "crispmask" / "data" / "x.py"
    source.parent.mkdir(parents=True)
    source.write_text(
        "import a.b\nfrom . import c\nfrom ..ops import d\nif a:\n    from e import f\n"
        "def g():\n    import refinemask_d2\n"
    )
    at_import = ["a.b", "crispmask.data.c", "crispmask.ops.d", "e.f"]
    assert list(imports(source, module_level=True)) == at_import
    assert list(imports(source)) == [*at_import, "refinemask_d2"]
    assert breaches("crispmask", {"refinemask_d2"}) == ["crispmask/data/x.py: refinemask_d2"]
