"""``crispmask convert``: whole released checkpoints become models that give the released code's numbers."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from crispmask import get_config, model_zoo
from crispmask.checkpoint import load_weights, read_weight_file
from crispmask.cli import main
from tests.checkpoint import released_refinemask, released_transfiner
from tests.checkpoint.pickle_bomb import RunsCode
from tests.refinemask import conftest as refinemask_golden
from tests.transfiner import conftest as transfiner_golden

GOLDEN = Path(__file__).parents[1] / "golden"
REFINEMASK, TRANSFINER = "refinemask/coco/R_50_FPN_1x.yaml", "transfiner/coco/R_50_FPN_1x_released.yaml"


def drawn(shapes: dict[str, tuple[int, ...]], golden: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A value for every tensor: that of the golden file for the mask head, small random ones for the rest."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: golden[name] if name in golden else 0.01 * torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def refinemask_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the release's code writes it: everything, on top of it the optimizer and the config."""
    expected = np.load(GOLDEN / "refinemask_coco_seed0.npz")
    golden = refinemask_golden.golden_state_dict(expected)
    state = drawn(released_refinemask.checkpoint(50, 80, 80), golden)
    path = tmp_path_factory.mktemp("released") / "r50-coco-1x.pth"
    meta = {"epoch": 12, "mmcv_version": "1.0.5", "CLASSES": ("person",)}
    content = {"meta": meta, "state_dict": state, "optimizer": {"param_groups": [{"lr": 2e-4}], "state": {}}}
    torch.save(content, path, _use_new_zipfile_serialization=False)  # torch 1.5
    return path


@pytest.fixture(scope="module")
def transfiner_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    golden = transfiner_golden.golden_state_dict(np.load(GOLDEN / "transfiner_coco_seed0.npz"))
    state = drawn(released_transfiner.checkpoint(TRANSFINER), golden)
    path = tmp_path_factory.mktemp("released") / "model_final.pth"
    torch.save({"model": state, "iteration": 89999, "trainer": {"hooks": {}}}, path)
    return path


def test_refinemask_checkpoint_gives_the_golden_numbers(
    refinemask_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "refinemask.safetensors"
    assert main(["convert", "--source", "refinemask", str(refinemask_file), str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"365 tensors, which are 365 of 365 of the model of {REFINEMASK}\n" in printed
    assert "of another schedule: refinemask/coco/R_50_FPN_2x.yaml" in printed
    assert f"crispmask verify {REFINEMASK} {out}\n" in printed
    assert f"--eval-only --config-file {REFINEMASK} MODEL.WEIGHTS {out}\n" in printed

    model = model_zoo.get(REFINEMASK, weights=out, device="cpu").eval()
    expected = np.load(GOLDEN / "refinemask_coco_seed0.npz")
    case = refinemask_golden.GoldenCase("coco", expected, model)
    with torch.no_grad():
        results = model.roi_heads.forward_with_given_boxes(case.features(), case.detections())
    masks = torch.cat([result.pred_masks[:, 0] for result in results])
    merged = torch.from_numpy(expected["merged_logits"]).sigmoid()
    torch.testing.assert_close(masks, merged, rtol=1e-4, atol=2e-5)
    released = read_weight_file(refinemask_file)["model"]
    for ours, theirs in {
        "backbone.bottom_up.res5.2.conv3.norm.running_var": "backbone.layer4.2.bn3.running_var",
        "roi_heads.box_predictor.bbox_pred.weight": "roi_head.bbox_head.fc_reg.weight",
    }.items():
        torch.testing.assert_close(model.state_dict()[ours], released[theirs], rtol=0, atol=0)


def test_transfiner_checkpoint_gives_the_golden_numbers(
    transfiner_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To a ``.pth``, which Detectron2's own checkpointer reads."""
    out = tmp_path / "transfiner.pth"
    assert main(["convert", "--source", "transfiner", str(transfiner_file), str(out)]) == 0
    assert f"of the model of {TRANSFINER}\n" in capsys.readouterr().out
    model = build_model(get_config(TRANSFINER, ["MODEL.DEVICE", "cpu"])).eval()
    DetectionCheckpointer(model).load(str(out))
    assert load_weights(model, out).fits
    case = transfiner_golden.GoldenCase(np.load(GOLDEN / "transfiner_coco_seed0.npz"), model)
    with torch.no_grad():
        (result,) = model.roi_heads.forward_with_given_boxes(case.features(), case.detections())
    torch.testing.assert_close(result.pred_masks[:, 0], case.array("mask_probs"), rtol=1e-4, atol=1e-4)


def test_the_result_says_where_it_comes_from(transfiner_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "transfiner"
    assert main(["convert", "--source", "transfiner", str(transfiner_file), str(out)]) == 0
    content = read_weight_file(f"{out}.safetensors")
    assert content["config"] == TRANSFINER and content["made_from"] == "model_final.pth"
    assert content["made_from_sha256"] == hashlib.sha256(transfiner_file.read_bytes()).hexdigest()


def test_hash_and_address_of_the_input(
    transfiner_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = hashlib.sha256(transfiner_file.read_bytes()).hexdigest()
    words = ["--source", "transfiner"]
    out = tmp_path / "out file.safetensors"
    assert main(["convert", *words, f"{transfiner_file}?sha256={digest}", str(out)]) == 0
    assert f"crispmask verify {TRANSFINER} '{out}'\n" in capsys.readouterr().out
    wrong = f"{transfiner_file}?sha256={'0' * 64}"
    assert "it is cut short or another file" in failure([*words, wrong, out], capsys)
    address = "http://127.0.0.1:9/model.pth"  # where nobody listens
    assert f"'{address}' cannot be fetched" in failure([*words, address, out], capsys)


def failure(words: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says when it fails."""
    assert main(["convert", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_nothing_is_written_where_it_does_not_fit(
    transfiner_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = read_weight_file(transfiner_file)["model"]
    del state["proposal_generator.rpn_head.conv.bias"]
    broken, out = tmp_path / "broken.pth", tmp_path / "out.safetensors"
    torch.save({"model": state}, broken)
    words = ["--source", "transfiner", broken, out]
    said = failure(words, capsys)
    assert said.startswith(
        f"crispmask: Weight file '{broken}' does not fit the model of transfiner/coco/R_50"
    )
    assert "nearly all tensors fit, but 1 is not there: it was edited or is damaged" in said
    assert "\n  not in the file: proposal_generator.rpn_head.conv.bias\n" in said
    assert not out.exists()
    assert main(["convert", *map(str, words), "--allow-missing", "*.rpn_head.*", "--allow-missing", "x"]) == 0
    printed = capsys.readouterr().out
    assert "  not in the file: proposal_generator.rpn_head.conv.bias\n" in printed
    assert "  --allow-missing 'x' matches nothing\n" in printed
    commands = {line.split(":  ")[0]: line.split(":  ")[1] for line in printed.splitlines() if ":  " in line}
    config = f"--config-file {TRANSFINER} MODEL.WEIGHTS {out}"
    lenient = "CRISPMASK.STRICT_WEIGHTS False"
    assert commands == {
        "Train it, also what is missing": f"python train_net.py {config}",
        "Compare it with the published figures": f"crispmask verify {TRANSFINER} {out} {lenient}",
        "Evaluate it": f"python train_net.py --eval-only {config} {lenient}",
    }


def test_wrong_words_are_said_before_the_file_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.pth"
    source.write_bytes(b"")
    assert "OUT 'x.onnx' ends in '.onnx': it must end in .safetensors or .pth" in failure(
        [source, "x.onnx"], capsys
    )
    assert "are the same file" in failure([source, tmp_path / "." / "in.pth"], capsys)
    assert "are the same file" in failure([f"{source}?sha256={'0' * 64}", source], capsys)
    assert "is a folder: give the name of a file" in failure([source, tmp_path], capsys)
    assert "make it first" in failure([source, tmp_path / "new" / "x.pth"], capsys)
    assert "No config file 'x.yaml'" in failure([source, "x.pth", "--config", "x.yaml"], capsys)
    assert "Give --config a path that exists" in failure([source, "x.pth", "--config", "x.yaml"], capsys)
    assert "--allow-missing needs something to check against" in failure(
        [source, "x.pth", "--allow-missing", "*"], capsys
    )
    assert "has no valid address" in failure(["http://[::1/in.pth", "x.pth"], capsys)
    assert "in.pth' is empty" in failure([source, tmp_path / "x.pth"], capsys)
    assert "invalid choice: 'mmdet'" in failure([source, "x.pth", "--source", "mmdet"], capsys)


def test_old_pickle_is_made_safe_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A backbone whose pickle needs code, then loaded by name matching as Detectron2 loads such files."""
    old, new = tmp_path / "R-50.pkl", tmp_path / "R-50.safetensors"
    arrays = {"weight": np.float32([[1, 2]]), "stem.fc.bias": np.float32([3])}
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    old.write_bytes(pickle.dumps({**content, "code": RunsCode(tmp_path / "trap")}))
    assert f"crispmask convert --trust-pickle {old} {new}" in failure([old, new], capsys)
    assert not new.exists() and not (tmp_path / "trap").exists()
    assert main(["convert", "--trust-pickle", str(old), str(new)]) == 0
    assert "2 tensors, unchecked" in capsys.readouterr().out and (tmp_path / "trap").is_dir()
    model = torch.nn.ModuleDict({"backbone": torch.nn.Linear(2, 1, bias=False)})
    assert load_weights(model, new, strict=False).loaded == 1
    assert model["backbone"].weight.tolist() == [[1, 2]]


def test_full_disk_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")

    source, out = tmp_path / "in.pth", tmp_path / "out.pth"
    torch.save({"a.weight": torch.ones(1)}, source)
    monkeypatch.setattr(torch, "save", full)
    assert f"'{out}' cannot be written: is the disk full?" in failure([source, out], capsys)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    "config", [TRANSFINER, TRANSFINER.removesuffix(".yaml"), f"configs/{TRANSFINER[:-5]}"]
)
def test_config_is_named_as_in_the_zoo(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in.pth", tmp_path / "out.pth"
    torch.save({"proposal_generator.rpn_head.conv.bias": torch.ones(256)}, source)
    words = [str(source), str(out), "--config", config, "--allow-missing", "*"]
    assert main(["convert", *words]) == 0
    assert TRANSFINER in capsys.readouterr().out


@pytest.mark.parametrize("flags_first", [False, True])
def test_keys_of_the_config_are_checked_printed_and_kept(
    flags_first: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in.pth", tmp_path / "out.pth"
    torch.save({"roi_heads.box_predictor.cls_score.bias": torch.ones(4)}, source)
    names, flags = [str(source), str(out)], ["--config", TRANSFINER, "--allow-missing", "*"]
    keys = ["MODEL.ROI_HEADS.NUM_CLASSES", "3"]
    assert main(["convert", *(flags + names if flags_first else names + flags), *keys]) == 0
    printed = capsys.readouterr().out
    assert "of another shape" not in printed
    assert f"--config-file {TRANSFINER} MODEL.WEIGHTS {out} {' '.join(keys)}\n" in printed
    assert f"crispmask verify {TRANSFINER} {out} {' '.join(keys)} " in printed
    assert read_weight_file(out)["config"] == f"{TRANSFINER} {' '.join(keys)}"


def test_wrong_keys_are_said_before_the_file_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.pth"
    source.write_bytes(b"")
    names, refinemask = [source, tmp_path / "x.pth"], ["--source", "refinemask"]
    key = "MODEL.ROI_HEADS.NUM_CLASSES"
    assert "KEY VALUE pairs change a config: give --config" in failure([*names, key, "3"], capsys)
    assert f"'{key}' has no value" in failure([*names, *refinemask, key], capsys)
    assert "did you mean" in failure([*names, *refinemask, "MODEL.ROI_HEADS.NUM_CLASES", "3"], capsys)
    assert "takes a value of type int" in failure([*refinemask, *names, key, "three"], capsys)
    assert "unrecognized arguments: --trust" in failure([*names, *refinemask, key, "3", "--trusted"], capsys)
    assert "--sorce (did you mean --source?)" in failure(["--sorce", "refinemask", *names], capsys)


def test_names_of_data_parallel_fit_a_config(tmp_path: Path) -> None:
    """As where such a file is loaded."""
    source, out = tmp_path / "in.pth", tmp_path / "out.pth"
    torch.save({"module.proposal_generator.rpn_head.conv.bias": torch.ones(256)}, source)
    words = [str(source), str(out), "--config", TRANSFINER, "--allow-missing", "*"]
    assert main(["convert", *words]) == 0
    assert list(read_weight_file(out)["model"]) == ["proposal_generator.rpn_head.conv.bias"]


def test_tensors_of_another_shape_are_not_called_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in.pth", tmp_path / "out.pth"
    name, other = "proposal_generator.rpn_head.conv.bias", "proposal_generator.rpn_head.conv.weight"
    torch.save({name: torch.ones(7), other: torch.ones(256, 256, 3, 3)}, source)
    words = [str(source), str(out), "--config", TRANSFINER, "--allow-missing", "*"]
    assert main(["convert", *words]) == 0
    printed = capsys.readouterr().out
    assert f"  of another shape, left out: {name} (file: 7, model: 256)\n" in printed
    assert "not in the file: backbone" in printed and f"not in the file: {name}" not in printed
    assert list(read_weight_file(out)["model"]) == [other]
