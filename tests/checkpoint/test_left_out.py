"""What stands beside the weights or among them and is none: left out, and said."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import pytest
import torch

from crispmask.checkpoint import load_weights, read_weight_file
from crispmask.checkpoint.load import WeightCheckpointer
from crispmask.errors import UserError
from tests.checkpoint.openmmlab import foreign_class, mmengine_checkpoint, with_ema_copies
from tests.checkpoint.tiny_detector import tiny_detector
from tests.checkpoint.written_weights import WEIGHTS, dump, torch_save


def read(path: Path) -> tuple[dict, list[str]]:
    notes: list[str] = []
    return read_weight_file(path, tell=notes.append), notes


@pytest.mark.parametrize("old", [False, True])
def test_classes_beside_the_weights_are_left_out(old: bool, tmp_path: Path) -> None:
    path = tmp_path / "epoch_12.pth"
    mmengine_checkpoint(WEIGHTS, partial(torch.save, f=path, _use_new_zipfile_serialization=not old))
    content, notes = read(path)
    for name, value in WEIGHTS.items():
        assert torch.equal(content["model"][name], value)
    assert "message_hub" not in content
    assert content["meta"]["epoch"] == 12 and content["optimizer"]["state"][0]["step"] == 3
    (note,) = notes
    assert "'message_hub', which is no weights, is left out: it needs mmengine.logging.message_hub." in note


def test_classes_beside_the_weights_of_a_pickle(tmp_path: Path) -> None:
    with foreign_class("detectron.utils", "Config") as Config:
        config = Config()
        config.__dict__.update(lr=0.1, itself=config)
        arrays = {name: value.numpy() for name, value in WEIGHTS.items()}
        path = dump(tmp_path / "x.pkl", {"model": arrays, "__author__": "x", "cfg": config})
    content, notes = read(path)
    assert set(content) == {"model", "__author__"} and "detectron.utils.Config" in notes[0]


def test_names_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    odd = "\x1b[31m" + "x" * 1000
    arrays = {"a": WEIGHTS["a.weight"].numpy()}
    with foreign_class("mypackage", odd) as Odd:
        path = dump(tmp_path / "x.pkl", {"model": arrays, "__author__": "x", f"\ud800{odd}\n": Odd()})
    (note,) = read(path)[1]
    assert note.isprintable() and len(note) < 300 and "mypackage.\\x1b[31m" in note


def test_a_run_is_not_taken_up_without_its_state(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with foreign_class("mypackage.schedules", "Warmup") as Warmup:
        path = torch_save(
            tmp_path / "x.pth", {"model": model.state_dict(), "optimizer": {"warmup": Warmup()}}
        )
    assert load_weights(model, path).fits
    with pytest.raises(
        UserError, match=r"cannot be resumed from: its part 'optimizer', .* mypackage\.schedules"
    ):
        WeightCheckpointer(model, optimizer=optimizer).load(str(path))


@pytest.mark.parametrize("where", ["value", "whole", "names"])
def test_classes_that_the_weights_need_are_refused(where: str, tmp_path: Path) -> None:
    with foreign_class("mypackage.tensors", "Packed") as Packed:
        odd = Packed()
        odd.values = torch.ones(3)
        state = {"value": {**WEIGHTS, "b": odd}, "whole": odd, "names": {odd: torch.ones(1)}}[where]
        path = torch_save(tmp_path / "x.pth", {"state_dict": state})
    with pytest.raises(
        UserError, match=r"'mypackage\.tensors\.Packed'|key of type mypackage\.tensors\.Packed is no name"
    ):
        read_weight_file(path)


def test_whole_modules_are_refused_by_name(tmp_path: Path) -> None:
    path = torch_save(tmp_path / "x.pth", tiny_detector())
    with pytest.raises(UserError, match=r"would run code of its author \('torch\.nn\.modules\.container"):
        read_weight_file(path)


def test_copies_of_averaging_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = tiny_detector(seed=1).state_dict()
    extras = {"data_preprocessor.mean": torch.ones(3), "data_preprocessor.std": torch.ones(3)}
    model = {f"module.{name}": value for name, value in with_ema_copies(state).items()} | extras
    path = torch_save(tmp_path / "x.pth", {"model": model})
    with caplog.at_level(logging.INFO):
        assert load_weights(tiny_detector(), path).fits
    assert f"{len(state)} tensors named ema_* left out" in caplog.text
    assert "2 tensors named data_preprocessor.* left out: the config has MODEL.PIXEL_MEAN" in caplog.text


def test_what_is_only_called_so_stays(tmp_path: Path) -> None:
    model = {"ema_a": torch.ones(1), "ema_b.weight": torch.ones(1), "a.ema_c": torch.ones(1)}
    assert set(read(torch_save(tmp_path / "x.pth", model))[0]["model"]) == set(model)
    alone = {"data_preprocessor.mean": torch.ones(3)}
    assert set(read(torch_save(tmp_path / "x.pth", alone))[0]["model"]) == set(alone)


def test_versions_of_modules_stay(tmp_path: Path) -> None:
    """Detectron2 turns names of older versions of its heads into those of today by them."""
    state = tiny_detector().state_dict()
    state._metadata[""]["odd"] = object  # a name that nothing is known of
    state._metadata["backbone"] = {"version": "2"}
    model = read(torch_save(tmp_path / "x.pth", {"model": state}))[0]["model"]
    versions = model._metadata
    assert versions["backbone.bottom_up.res2.0.norm"] == {"version": 2} and versions[""] == {"version": 1}
    assert "backbone" not in versions


@pytest.mark.parametrize(
    "prefix",
    [
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "_fsdp_wrapped_module.",
        "_checkpoint_wrapped_module.",
    ],
)
def test_names_of_a_compiled_model_are_those_of_the_model(prefix: str, tmp_path: Path) -> None:
    model = tiny_detector()
    compiled = {f"{prefix}{name}": value + 1 for name, value in model.state_dict().items()}
    torch.save({"model": compiled}, tmp_path / "compiled.pth")
    report = load_weights(model, tmp_path / "compiled.pth")
    assert report.fits and report.loaded == report.total
    name, value = next(iter(model.state_dict().items()))
    assert torch.equal(value, compiled[prefix + name])


def test_a_lightning_checkpoint_is_that_of_its_model(tmp_path: Path) -> None:
    model = tiny_detector()
    state = {f"net.{name}": value + 1 for name, value in model.state_dict().items()}
    content = {"state_dict": state, "pytorch-lightning_version": "2.1.0", "epoch": 3}
    found, notes = read(torch_save(tmp_path / "x.ckpt", content))
    assert set(found["model"]) == set(model.state_dict())
    assert any("Lightning: 'net.'" in note for note in notes)
    assert load_weights(model, tmp_path / "x.ckpt").fits


def test_weights_beside_the_weights_are_named(tmp_path: Path) -> None:
    state = tiny_detector().state_dict()
    content = {"model": state, "ema": {name: value + 1 for name, value in state.items()}, "other": {"a": 1}}
    found, notes = read(torch_save(tmp_path / "x.pth", content))
    assert notes == ["other weights with the same names, under 'ema', are not taken."]
    name, value = next(iter(state.items()))
    assert torch.equal(found["model"][name], value)


def test_weights_under_a_name_that_is_not_known_are_named(tmp_path: Path) -> None:
    state = tiny_detector().state_dict()
    path = torch_save(tmp_path / "x.pth", {"net": state, "params_ema": state, "epoch": 3})
    with pytest.raises(UserError, match=r"x.pth' has its weights in a part .* are 'net', 'params_ema'\."):
        read(path)


def test_statistics_that_no_file_gave_are_not_counted_as_loaded(tmp_path: Path) -> None:
    model = tiny_detector()
    weights = {name: value for name, value in model.state_dict().items() if "backbone" not in name}
    torch.save({"model": weights}, tmp_path / "half.pth")
    report = load_weights(model, tmp_path / "half.pth", strict=False)
    assert report.loaded == len(weights) and any("running_mean" in name for name in report.missing)
