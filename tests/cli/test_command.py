"""The command itself: help without heavy imports, one sentence for errors, quiet ends."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from crispmask.cli import VERBS, main

GOLDEN = Path(__file__).parents[1] / "golden" / "boundary_coco"
EVALUATE = ["evaluate", str(GOLDEN / "gt.json"), str(GOLDEN / "dt.json")]
HEAVY = ("torch", "detectron2", "numpy", "pycocotools", "rich", "PIL")


def verbs(table: dict = VERBS) -> list[list[str]]:
    """Words of every verb, those of verbs with verbs of their own among them."""
    found = []
    for name, (target, _) in table.items():
        found += [[name]] if isinstance(target, str) else [[name], *([name, *v] for v in verbs(target))]
    return found


@pytest.mark.parametrize("words", verbs(), ids=" ".join)
def test_help_of_every_verb_comes_without_heavy_imports(words: list[str]) -> None:
    code = (
        f"import sys; from crispmask.cli import main\ntry:\n    main({[*words, '--help']})\n"
        f"except SystemExit as end:\n    assert end.code == 0\n"
        f"assert not (loaded := set({HEAVY}) & set(sys.modules)), loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: crispmask {' '.join(words)} ")


def test_command_and_module_say_the_version() -> None:
    installed = Path(sys.executable).with_name("crispmask")
    commands = [[sys.executable, "-m", "crispmask"], *([[str(installed)]] if installed.exists() else [])]
    for command in commands:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout[:10]) == (0, "crispmask ")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "VERB"),
        (["evaluat"], "'evaluat' is no verb of crispmask: did you mean crispmask evaluate?"),
        (["data", "chek"], "'chek' is no verb of crispmask data: did you mean crispmask data check?"),
        (["check", "gt.json"], "did you mean crispmask data check?"),
        (["boundry"], "did you mean crispmask analyze boundary?"),
        (["xyz"], "'xyz' is no verb of crispmask: there are evaluate, compare, demo,"),
        (["data", "demo"], "'demo' is no verb of crispmask data: did you mean crispmask demo?"),
        (["evaluate", "gt.json"], "PREDICTIONS"),
        (["evaluate", "gt.json", "dt.json", "--iou-type", "polygon"], "'polygon'"),
        (["evaluate", "gt.json", "dt.json", "--dilation-ratio", "wide"], "'wide'"),
        (["data", "check", "gt.json", "--image", "a", "b"], "arguments: b; crispmask data check --help"),
    ],
)
def test_mistyped_words_are_one_sentence(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("crispmask: ") and named in err and "--help" in err


def test_interrupt_is_one_line_and_closed_pipe_none() -> None:
    code = (
        "import sys; from crispmask.cli import evaluate, main\ndef run(args):\n    {}\nevaluate.run = run\n"
    )
    code += f"sys.exit(main({EVALUATE}))"
    # A shell's background jobs, which tests may run in, start with the signal ignored
    raised = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    interrupted = code.format(f"{raised}; signal.raise_signal(signal.SIGINT)")
    done = subprocess.run([sys.executable, "-c", interrupted], capture_output=True, text=True, timeout=60)
    again = f"Again with: {shlex.join(['crispmask', *EVALUATE])}"
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == f"crispmask: stopped. Nothing was written. {again}\n"

    printing = code.format("print('x' * 1000000)")
    process = subprocess.Popen(
        [sys.executable, "-c", printing], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(60) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no disk that is always full")
def test_a_full_disk_is_named_and_does_not_hide_the_exit_code() -> None:
    command = [sys.executable, "-m", "crispmask", *EVALUATE, "--iou-type", "mask"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        message = "crispmask: What is printed cannot be read or written: No space left on device.\n"
        assert (done.returncode, done.stderr) == (2, message)
        wrong = subprocess.run([*command, "--max-dets", "0"], stdout=subprocess.PIPE, stderr=full, timeout=60)
        assert (wrong.returncode, wrong.stdout) == (2, b"")


def test_a_closed_output_is_no_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Python has no stdout where the shell closed it."""
    monkeypatch.setattr(sys, "stdout", None)
    assert main([*EVALUATE, "--iou-type", "mask", "--json", str(tmp_path / "figures.json")]) == 0
    assert (tmp_path / "figures.json").is_file()
