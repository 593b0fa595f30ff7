"""``crispmask doctor``: what it finds here, and where things are missing or broken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from crispmask.cli import doctor, main

ROOT = Path(__file__).parents[2]


def findings(*examinations: object) -> dict[str, tuple[str, str, str]]:
    """Status, what was found and the remedy, by subject."""
    found = (finding for examination in examinations for finding in examination())
    return {item.subject: (item.status, item.found, item.remedy) for item in found}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the command prints, by subject, on a machine with COCO val and nothing of COCO train."""
    root = tmp_path_factory.mktemp("datasets")
    (root / "coco" / "annotations").mkdir(parents=True)
    (root / "coco" / "val2017").mkdir()
    (root / "coco" / "annotations" / "instances_val2017.json").write_text("{}")
    (root / "shapes" / "annotations").mkdir(parents=True)
    (root / "shapes" / "train").mkdir()
    (root / "shapes" / "annotations" / "instances_train.json").write_text("{}")
    result = subprocess.run(
        [sys.executable, "-m", "crispmask", "doctor"],
        cwd=ROOT,
        env={**os.environ, "DETECTRON2_DATASETS": str(root)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.replace("\n        -> ", " -> ").splitlines()
    return {line[8:36].strip(): f"{line[:8].strip()}: {line[36:]}" for line in lines}


def test_versions_and_places_of_this_machine(report: dict[str, str]) -> None:
    import detectron2

    assert f"ok: {torch.__version__}, built for" in report["torch"]
    assert str(Path(detectron2.__file__).parent) in report["Detectron2"]
    assert report["refinemask_d2"] == report["transfiner_d2"] == "ok: registered"
    assert report["CrispMask"].endswith(str(ROOT / "crispmask"))
    if not torch.cuda.is_available():
        assert report["kernels"] == "ok: the torch reference, on the CPU"


def test_data_sets_that_are_here_and_those_that_are_not(report: dict[str, str]) -> None:
    assert report["coco_2017_val"] == "ok: there"
    assert report["shapes_val"] == "ok: made on first use"
    assert report["shapes_train"].startswith("ok: there, in ") and report["shapes_train"].endswith("/shapes")
    said = report["other data sets"]
    absent = re.match(r"note: not there, and needed only by .+: (.+) -> train_net.py names", said)
    names = absent[1].split(", ")
    assert {"coco_2017_train", "lvis_v1_val", "lvis_v0.5_val_cocofied"} <= {*names}
    assert not {"coco_2017_val", "shapes_val", "shapes_train"} & {*names}


def test_a_bare_python_is_told_what_to_install() -> None:
    """Without site-packages: no torch, no Detectron2, nothing."""
    result = subprocess.run(
        [sys.executable, "-S", "-m", "crispmask", "doctor"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1, result.stderr
    assert "missing torch" in result.stdout and "-> pip install torch torchvision" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


def test_missing_detectron2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "detectron2" else found(name))
    with pytest.raises(SystemExit) as exit_:
        main(["doctor"])
    printed = capsys.readouterr().out
    assert exit_.value.code == 1 and "refinemask_d2" not in printed
    assert "missing Detectron2" in printed and "-> python tools/install_detectron2.py" in printed


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (ImportError("_C.so: undefined symbol: _ZN3c10"), "missing", "broken: _C.so: undefined symbol"),
        (ModuleNotFoundError("No module named 'detectron2._C'"), "note", "not built; only deformable"),
    ],
)
def test_compiled_ops(
    error: ImportError, status: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = doctor.import_module

    def refuse(name: str) -> object:
        if name == "detectron2._C":
            raise error
        return imported(name)

    monkeypatch.setattr(doctor, "import_module", refuse)
    found = findings(doctor.examine_detectron2)["Detectron2's _C"]
    assert found[0] == status and sentence in found[1]
    assert found[2] == "python tools/install_detectron2.py --source repository"


def test_torch_that_is_too_old_and_a_torchvision_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> object:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(doctor, "import_module", refuse)
    monkeypatch.setattr(torch, "__version__", "2.3.1")
    found = findings(doctor.examine_torch)
    assert found["torch"][:2] == ("missing", "2.3.1 is older than 2.4")
    assert "does not fit this torch: operator torchvision::nms" in found["torchvision"][1]


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pretended one, whose kernels are not run: only what is said of it."""
    device = SimpleNamespace(name="Tesla T4", major=7, minor=5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (3 << 29, 15 << 30))
    monkeypatch.setattr("crispmask.ops.dispatch.triton_kernels", lambda: None)
    found = findings(doctor.examine_devices)
    assert found["GPU 0"][:2] == ("ok", "Tesla T4, compute capability 7.5, 1.5 of 15.0 GB free")
    assert found["kernels"][:2] == ("note", "the torch reference, slower than Triton's")


def test_a_gpu_that_does_not_answer_hides_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(index: int) -> tuple[int, int]:
        if index == 0:
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
        return 3 << 29, 15 << 30

    device = SimpleNamespace(name="Tesla T4", major=7, minor=5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
    monkeypatch.setattr(torch.cuda, "mem_get_info", refuse)
    monkeypatch.setattr("crispmask.ops.dispatch.triton_kernels", lambda: None)
    found = findings(doctor.examine_devices)
    assert found["GPU 0"][:2] == ("missing", "RuntimeError: CUDA error: uncorrectable ECC error encountered")
    assert found["GPU 1"][0] == "ok" and {"Triton", "kernels"} <= set(found)


def test_triton_whose_distribution_has_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: name)
    monkeypatch.setattr(doctor, "import_module", lambda name: SimpleNamespace(__version__="3.1.0"))
    monkeypatch.setattr(doctor.metadata, "version", lambda name: pytest.fail("there is no such distribution"))
    assert findings(doctor.examine_triton)["Triton"][:2] == ("ok", "3.1.0")


def test_driver_without_a_gpu_build_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.version, "cuda", None)
    status, found, remedy = findings(doctor.examine_devices)["GPU"]
    assert (status, found) == ("note", "torch sees none, though there is an NVIDIA driver")
    assert remedy == doctor.INSTALL_TORCH


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU to run Triton's kernels on")
def test_kernels_on_a_gpu() -> None:
    assert findings(doctor.examine_kernels)["kernels"][0] == "ok"
