"""Make a wheel of Detectron2 0.6 out of the wheel of LabGym, which carries a complete copy in a sub-package.

Only ``LabGym/detectron2`` and the notice that comes with it are taken: that part is Apache-2.0, the rest of
LabGym is not and is left out. Its modules import each other as ``LabGym.detectron2.x``, so they stay
there, and a one-file package ``detectron2`` makes every ``detectron2.x`` the very same module.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

CARRIER = "LabGym==3.1.2"
CARRIER_SHA256 = "a2900cff8a3fb508e1975f19b5f9abd9f261966db87b0c332697fb4138c1cb2b"
CARRIED = "LabGym/detectron2/"
NOTICE = "LabGym/NOTICE.txt"
ALIAS = Path(__file__).with_name("detectron2_alias.py")
DIST_INFO = "detectron2-0.6.dist-info"

# What 0.6 imports; versions as the official setup.py bounds them
REQUIREMENTS = [
    "cloudpickle",
    "fvcore>=0.1.5,<0.1.6",
    "hydra-core>=1.1",
    "iopath>=0.1.7,<0.1.10",
    "matplotlib",
    "numpy",
    "omegaconf>=2.1,<2.4",
    "packaging",
    "Pillow>=7.1",
    "pycocotools>=2.0.2",
    "setuptools<81",  # it imports pkg_resources
    "tabulate",
    "tensorboard",
    "termcolor>=1.1",
    "tqdm>4.29.0",
    "yacs>=0.1.8",
]


def repack(carrier: Path, folder: Path) -> Path:
    """Write ``detectron2-0.6-py3-none-any.whl`` into ``folder`` and return its path.

    Args:
        carrier: the LabGym wheel; its hash has been checked.
        folder: where the new wheel goes.
    """
    with zipfile.ZipFile(carrier) as source:
        files = {name: source.read(name) for name in source.namelist() if name.startswith(CARRIED)}
        files[f"{DIST_INFO}/licenses/NOTICE.txt"] = source.read(NOTICE)
    files["detectron2/__init__.py"] = ALIAS.read_bytes()
    files[f"{DIST_INFO}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{DIST_INFO}/METADATA"] = metadata().encode()
    records = [f"{name},{digest(data)},{len(data)}\n" for name, data in files.items()]
    files[f"{DIST_INFO}/RECORD"] = "".join([*records, f"{DIST_INFO}/RECORD,,\n"]).encode()
    wheel = folder / "detectron2-0.6-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in files.items():
            target.writestr(name, data)
    return wheel


def metadata() -> str:
    """The METADATA file: pip resolves the requirements from it and can uninstall by its name."""
    lines = ["Metadata-Version: 2.1", "Name: detectron2", "Version: 0.6", "License: Apache-2.0"]
    lines += [f"Summary: Detectron2 0.6 as carried by the wheel of {CARRIER}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in REQUIREMENTS]
    return "\n".join(lines) + "\n"


def digest(data: bytes) -> str:
    """Hash in the form that RECORD files use."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
