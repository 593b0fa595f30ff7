"""Set CrispMask up in a virtual environment: `make setup` calls this.

Makes the environment if there is none, installs CrispMask (editable) with its development tools, keeping a
torch that is there and new enough, and then Detectron2. It stops at the first failure with one sentence
that says what to do. Only the standard library is used, and it runs on any Python 3.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 10)
OLDEST_TORCH = (2, 4)
# The environment as it lies at the end, on its own disk; what pip downloads and keeps may lie on another
FREE_GB = 7


class SetupError(Exception):
    """The set-up cannot go on. The message is one sentence for the user."""


def run(command, reason, **env):
    """Run a command with its output shown; raise SetupError with ``reason`` where it fails."""
    if subprocess.run([str(part) for part in command], env=dict(os.environ, **env)).returncode != 0:
        raise SetupError(reason)


def ask(python, code):
    """What ``python -c code`` prints, or None where it fails."""
    try:
        result = subprocess.run([str(python), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return None
    return result.stdout.decode().strip() if result.returncode == 0 else None


def numbers(version):
    """``"2.4.1+cpu"`` -> ``(2, 4)``."""
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2])


def environment(folder):
    """The Python of the virtual environment in ``folder``, which is made where there is none."""
    python = folder / "bin" / "python"
    if not folder.exists():
        check_python(sys.executable)
        step(f"Making the virtual environment {folder} with Python {sys.version.split()[0]}")
        run(
            [sys.executable, "-m", "venv", folder],
            "This Python cannot make virtual environments: install its venv module "
            "(on Debian and Ubuntu: apt install python3-venv), remove "
            f"{folder} and try again.",
        )
    elif ask(python, "") is None:
        raise SetupError(
            f"{folder} is there but holds no working Python: remove it, or name another with VENV=path."
        )
    check_python(python)
    if ask(python, "import pip") is None:
        run([python, "-m", "ensurepip"], f"{folder} has no pip and cannot get one: remove it and try again.")
    return python


def check_python(python):
    """Raise SetupError where a Python is too old."""
    version = ask(python, "import sys; print('%d.%d' % sys.version_info[:2])")
    if numbers(version) < OLDEST_PYTHON:
        raise SetupError(
            f"CrispMask needs Python 3.10 or newer and {python} is {version}: "
            "install a newer one and name it with PYTHON=/path/to/python3."
        )


def install_packages(python, folder, torch=""):
    """Install CrispMask with what it needs, around a torch and torchvision that are there already.

    ``torch`` is a requirement, such as ``torch==2.4.*``, in place of the one that is there.
    """
    version = "import importlib.metadata as m; print(m.version('{}'))"
    found = {name: ask(python, version.format(name)) for name in ("torch", "torchvision")}
    kept = {} if torch else {name: number for name, number in found.items() if number}
    if "torch" not in kept or numbers(kept["torch"]) < OLDEST_TORCH:
        if shutil.disk_usage(str(folder)).free < FREE_GB * 1e9:
            raise SetupError(
                f"the environment needs {FREE_GB} GB of free disk at {folder}: make room, or use VENV=path."
            )
        if "torch" in kept:
            step(f"torch {kept['torch']} is older than 2.4 and will be replaced")
        kept = {}
    names = ", ".join(f"{name} {number} is kept" for name, number in kept.items())
    step(f"Installing PyTorch and the other requirements ({names or 'some minutes: about 3 GB to download'})")
    constraints = folder / "crispmask-constraints.txt"
    wanted = [torch] if torch else [f"{name}=={number}" for name, number in kept.items()]
    constraints.write_text("".join(f"{requirement}\n" for requirement in wanted))
    # Python compiles what it imports: compiling the ten thousand files of torch ahead takes most of a minute
    pip = [python, "-m", "pip", "--quiet", "install", "--no-compile", "-c", constraints]
    advice = (
        "the reason is above; check the network, or pip's index settings, and run the same command again."
    )
    run([*pip, "setuptools>=77,<81", "wheel"], f"pip could not install setuptools: {advice}")
    # Without isolation the build finds the setuptools of the line above and no index is asked for it
    run(
        [*pip, "--no-build-isolation", "-e", f"{ROOT}[dev]"],
        f"pip could not install the requirements: {advice}",
    )
    if ask(python, "import torch, torchvision") is None:
        raise SetupError(
            "torch and torchvision are installed but cannot be imported together: install builds that "
            "belong together (see INSTALL.md) and run the same command again."
        )


def compile_packages(python):
    """Compile what is installed if Python is told not to: every process would do it, for many seconds."""
    if not sys.dont_write_bytecode:
        return
    step("Compiling the installed packages, since PYTHONDONTWRITEBYTECODE keeps Python from it (a minute)")
    packages = ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))")
    # Some packages hold files that are no Python, such as templates
    subprocess.run(
        [str(python), "-m", "compileall", "-qq", "-j", "0", packages],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def step(text):
    """Say what is done next."""
    print(f"==> {text}", flush=True)


def main():
    """Command line. 0: everything is installed; 1: not, with one sentence on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="the virtual environment to use")
    parser.add_argument("--torch", default="", help='a requirement, such as "torch==2.4.*"')
    parser.add_argument(
        "--detectron2", choices=("", "repository", "index"), default="", help="that one and no other"
    )
    args = parser.parse_args()
    folder = args.venv.absolute()
    os.environ["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    try:
        python = environment(folder)
        install_packages(python, folder, args.torch)
        step("Installing Detectron2")
        run(
            [
                python,
                ROOT / "tools" / "install_detectron2.py",
                *(["--source", args.detectron2] if args.detectron2 else []),
            ],
            "Detectron2 could not be installed: the reason is above.",
        )
        compile_packages(python)
    except SetupError as error:
        print(f"Set-up stopped: {error}", file=sys.stderr)
        return 1
    step(f"Ready. To use it: source {folder}/bin/activate")
    return 0


if __name__ == "__main__":
    sys.exit(main())
