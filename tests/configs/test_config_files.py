"""Config files are values: nothing in them runs, is fetched unasked, or is lost without a word."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from detectron2.config import get_cfg
from detectron2.model_zoo import get_config_file

from crispmask import get_config
from crispmask.cli import main
from crispmask.config_files import read_config_file
from crispmask.engine import UserError, argument_parser, load_config
from crispmask.remote_bases import remote_bases

RUNS_CODE = "SOLVER:\n  MAX_ITER: !!python/object/apply:os.system ['touch {}']\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of the folder ``tmp_path/served``."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "served").mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    handler.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("place", ["file", "base", "remote base"])
def test_code_in_a_config_does_not_run(place: str, tmp_path: Path, address: str) -> None:
    ran = tmp_path / "ran"
    path = write(tmp_path / "served" / "evil.yaml", RUNS_CODE.format(ran))
    if place != "file":
        base = path if place == "base" else f"{address}/evil.yaml"
        path = write(tmp_path / "leaf.yaml", f"_BASE_: {base}\nSEED: 1\n")
    said = r"evil\.yaml', line 2: the tag !!python/object/apply:os\.system"
    with remote_bases(True), pytest.raises(UserError, match=said):
        load_config(str(path), [])
    assert not ran.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["demo", "--input", "x.png", "--output", "out", "--config-file"],
        ["analyze", "dial", "--config-file"],
        ["convert", "in.pth", "out.pth", "--config"],
    ],
    ids=lambda words: words[0],
)
def test_no_verb_runs_it(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "evil.yaml", RUNS_CODE.format(tmp_path / "ran"))
    assert main([*words, str(path)]) == 2
    assert "the tag !!python/object/apply:os.system" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_an_override_runs_nothing(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for value in (
        f"__import__('os').system('touch {ran}')",
        f"!!python/object/apply:os.system ['touch {ran}']",
    ):
        assert value == load_config("", ["OUTPUT_DIR", value]).OUTPUT_DIR
    with pytest.raises(UserError, match="nested too deeply"):
        load_config("", ["OUTPUT_DIR", "-" * 100_000 + "1"])
    assert not ran.exists()


def test_an_address_is_fetched_if_that_is_allowed(tmp_path: Path, address: str) -> None:
    write(tmp_path / "served" / "a" / "leaf.yaml", "_BASE_: ../base.yaml\nSOLVER: {MAX_ITER: 7}\n")
    write(tmp_path / "served" / "base.yaml", "SOLVER: {MAX_ITER: 5, BASE_LR: 0.5}\n")
    leaf = write(tmp_path / "leaf.yaml", f"_BASE_: {address}/a/leaf.yaml\n")
    with pytest.raises(UserError, match=r"leaf.yaml' needs 'http://.*--allow-remote-base"):
        get_config(leaf)
    with remote_bases(argument_parser().parse_args(["--allow-remote-base"]).allow_remote_base):
        solver = get_config(leaf).SOLVER
    assert (solver.MAX_ITER, solver.BASE_LR) == (7, 0.5)
    with pytest.raises(UserError, match="--allow-remote-base"):
        get_config(leaf)


def test_an_address_that_does_not_answer_is_one_sentence(tmp_path: Path, address: str) -> None:
    leaf = write(tmp_path / "leaf.yaml", f"_BASE_: {address}/nothing.yaml\n")
    with (
        remote_bases(True),
        pytest.raises(UserError, match=r"nothing\.yaml', which cannot be fetched: .*404"),
    ):
        get_config(leaf)


def test_bases_are_merged_as_detectron2_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "one.yaml", "SOLVER: {MAX_ITER: 1, BASE_LR: 0.25}\nSEED: 4\n")
    write(tmp_path / "two.yaml", "_BASE_: ~/one.yaml\nSOLVER: {MAX_ITER: 2}\n")
    leaf = write(
        tmp_path / "more" / "leaf.yaml", "_BASE_: [../two.yaml, ../one.yaml]\nSOLVER: {STEPS: [3]}\n"
    )
    found, expected = get_config(leaf), get_cfg()
    expected.merge_from_file(str(leaf), allow_unsafe=False)
    assert found.SOLVER == expected.SOLVER and found.SOLVER.MAX_ITER == 1 and found.SOLVER.STEPS == (3,)


def test_what_detectron2_writes_is_read(tmp_path: Path) -> None:
    """A config that was saved, one of another version, tuples, and its own RetinaNet, which computes."""
    cfg = get_config("transfiner/coco/R_50_FPN_1x.yaml")
    saved = get_config(write(tmp_path / "saved.yaml", cfg.dump()))
    assert saved.SOLVER == cfg.SOLVER and saved.MODEL.TRANSFINER == cfg.MODEL.TRANSFINER
    old = write(tmp_path / "old.yaml", "MODEL: {WEIGHT: x.pth, MASK_ON: true}\n")
    assert get_config(old).MODEL.WEIGHTS == "x.pth"
    sizes = write(tmp_path / "sizes.yaml", "INPUT: {MIN_SIZE_TRAIN: !!python/tuple [5, 6]}\n")
    assert get_config(sizes).INPUT.MIN_SIZE_TRAIN == (5, 6)
    zoo = get_config(get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml"))
    assert zoo.MODEL.ANCHOR_GENERATOR.SIZES[0][0] == 32


@pytest.mark.parametrize(
    ("text", "key"),
    [("MODEL: 5\n", "MODEL"), ("VERSION: 2\nMODEL: {RPN: [a]}\n", "MODEL.RPN"), ("INPUT:\n", "INPUT")],
)
def test_a_value_in_place_of_a_section_is_named(text: str, key: str, tmp_path: Path) -> None:
    path = write(tmp_path / "one.yaml", text)
    with pytest.raises(UserError, match=rf"one\.yaml': {key} is a section and has "):
        load_config(str(path), [])


@pytest.mark.parametrize("length", [1, 3])
def test_bases_in_a_circle_are_named(length: int, tmp_path: Path) -> None:
    for index in range(length):
        write(tmp_path / f"{index}.yaml", f"_BASE_: {(index + 1) % length}.yaml\n")
    with pytest.raises(UserError, match="lead back to the first") as error:
        get_config(tmp_path / "0.yaml")
    assert all(f"{index}.yaml" in str(error.value) for index in range(length))


BOMB = "a: &a0 [x, x]\n" + "".join(f"b{i}: &a{i + 1} {{p: *a{i}, q: *a{i}}}\n" for i in range(30))
MERGED = "a: &a0 {x: 1}\n" + "".join(f"b{i}: &a{i + 1} {{<<: [*a{i}, *a{i}]}}\n" for i in range(30))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "references"),
        (MERGED, "references"),
        ("a: &a [*a]\n", "references"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("# " + "x" * 2**18 + "\nSEED: 1\n", "more than 262144 bytes"),
        ("SEED: [" + "1," * 20_000 + "]\n", "more than 20000 values"),
        ("SEED: " + "1:" * 100_000 + "1\n", "line 1: a number has more than 100 digits"),
        ("SOLVER: {BASE_LR: " + "1:" * 1000 + "1.0}\n", "line 1: a number has more than 100 digits"),
        (
            "SOLVER: {MAX_ITER: 1}\nSOLVER: {BASE_LR: 0.1}\n",
            "line 2: the key 'SOLVER' is there a second time",
        ),
        ("1: 2\n", "a key must be a word"),
        ("[1]: 2\n", "a key must be a word"),
        ("_BASE_: 3\n", "_BASE_ 3: give the name of a file"),
        ('_BASE_: ""\n', "_BASE_ ''"),
        ('_BASE_: "a\\0b.yaml"\n', "correct its _BASE_ line"),
        ("_BASE_: .\n", "correct its _BASE_ line"),
        ("_BASE_: base.yaml\nSOLVER: {MAX_ITER: {A: 1}}\n", "'MAX_ITER', which is a value in its base"),
        ("VERSION: 3\n", "VERSION 3: only 1 to 2"),
        ("VERSION: two\n", "VERSION 'two'"),
        ("SEED: !mine 3\n", "the tag !mine is not read"),
        ("", "'KEY: value' lines"),
    ],
)
def test_what_is_no_config_is_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "SOLVER: {MAX_ITER: 3}\n")
    path = write(tmp_path / "wrong.yaml", text)
    with pytest.raises(UserError) as error:
        get_config(path)
    assert said in str(error.value) and "wrong.yaml" in str(error.value) and "\n" not in str(error.value)


def test_bases_that_multiply_are_stopped(tmp_path: Path) -> None:
    for index in range(30):
        write(tmp_path / f"{index}.yaml", f"_BASE_: [{index + 1}.yaml, {index + 1}.yaml]\n")
    write(tmp_path / "30.yaml", "SEED: 1\n")
    with pytest.raises(UserError, match="has over 100 bases"):
        read_config_file(tmp_path / "0.yaml")
