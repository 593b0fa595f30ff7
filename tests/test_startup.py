"""What commands set before torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crispmask.startup import SPIN_COUNT

ROOT = Path(__file__).parents[1]
# Says what the environment is when torch is looked for, and goes no further
SITE = """
import os, sys
class Finder:
    def find_spec(name, path=None, target=None):
        if name == "torch":
            print("spins:", os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(7)
sys.meta_path.insert(0, Finder)
"""
COMMANDS = {
    "train_net.py": ["train_net.py", "--config-file", "tests/engine/tiny.yaml"],
    "crispmask": ["-m", "crispmask", "doctor"],
    "spawned": ["-c", "import runpy; runpy.run_path('train_net.py', run_name='__mp_main__')"],
    "demo": ["projects/shapes_benchmark/run.py"],
    "demo's measurement": ["projects/shapes_benchmark/measure.py", "a.yaml", "b.pth"],
}


def spins(folder: Path, words: list[str], **variables: str) -> str:
    (folder / "sitecustomize.py").write_text(SITE)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)])])
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**kept, "PYTHONPATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 7, done.stdout + done.stderr
    return done.stdout.split("spins: ")[1].strip()


@pytest.mark.parametrize("command", COMMANDS)
def test_threads_sleep_soon_in_every_command(command: str, tmp_path: Path) -> None:
    assert spins(tmp_path, COMMANDS[command]) == f"{SPIN_COUNT} None"


def test_the_users_own_settings_count(tmp_path: Path) -> None:
    words = COMMANDS["crispmask"]
    assert spins(tmp_path, words, GOMP_SPINCOUNT="5") == "5 None"
    assert spins(tmp_path, words, OMP_WAIT_POLICY="ACTIVE") == "None ACTIVE"
    assert spins(tmp_path, words, KMP_BLOCKTIME="200") == "None None"


def test_the_predictor_is_imported_without_the_warnings_of_libraries() -> None:
    program = "import warnings; from crispmask import Predictor; warnings.warn('mine')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    # Newer Python shows the line below
    said = [line for line in done.stderr.splitlines() if "Warning" in line]
    assert said == ["<string>:1: UserWarning: mine"]
