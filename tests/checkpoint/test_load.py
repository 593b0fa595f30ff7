"""Weights into a model: strict by default, told in a table where not, compared with their hash."""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.utils.file_io import PathHandler, PathManager

from crispmask.checkpoint import load_weights
from crispmask.checkpoint.files import write_safetensors
from crispmask.errors import UserError
from tests.checkpoint.tiny_detector import tiny_detector

State = dict[str, torch.Tensor]
CLASSIFIER = "roi_heads.box_predictor.cls_score"
MASK = "roi_heads.mask_head."


@pytest.fixture
def state() -> State:
    return tiny_detector(seed=1).state_dict()


def save(folder: Path, state: State, **beside: object) -> Path:
    path = folder / "model.pth"
    torch.save({"model": state, **beside}, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pkl"])
def test_whole_file_is_loaded(suffix: str, state: State, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    if suffix == ".pth":
        torch.save({f"module.{name}": value for name, value in state.items()}, path)
    elif suffix == ".pkl":
        arrays = {name: value.numpy() for name, value in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "test"}))
    else:
        write_safetensors(path, state, {})
    model = tiny_detector()
    report = load_weights(model, path)
    assert report.fits and report.loaded == report.total == len(state) - 1  # without the counter of batches
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


def test_values_from_the_config_and_counters_need_not_be_there(state: State, tmp_path: Path) -> None:
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    state |= {
        "pixel_mean": torch.zeros(3),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.ones(3),
    }
    assert load_weights(tiny_detector(), save(tmp_path, state)).fits


def drop(start: str) -> Callable[[State], State]:
    return lambda state: {name: value for name, value in state.items() if not name.startswith(start)}


def renamed(ours: str, theirs: str) -> Callable[[State], State]:
    return lambda state: {name.replace(ours, theirs): value for name, value in state.items()}


def classes(count: int) -> Callable[[State], State]:
    return lambda state: tiny_detector(count).state_dict()


CORRUPTIONS: dict[str, tuple[Callable[[State], State], list[str]]] = {
    "missing key": (
        drop(f"{MASK}predictor.bias"),
        ["nearly all tensors fit, but 1 is not there", f"not in the file: {MASK}predictor.bias"],
    ),
    "extra key": (
        lambda state: {**state, f"{MASK}extra.weight": torch.zeros(2)},
        ["nearly all tensors fit, but 1 is too many", f"not in the model: {MASK}extra.weight"],
    ),
    "wrong shape": (
        lambda state: {**state, "backbone.bottom_up.res2.0.conv1.weight": torch.zeros(8, 4, 1, 1)},
        [
            "but 1 is of another shape: it was edited or is damaged",
            "conv1.weight (file: 8 x 4 x 1 x 1, model: 4 x 4 x 1 x 1)",
        ],
    ),
    "another head": (
        renamed(MASK, f"{MASK}x."),
        ["its mask head is another one. Give the config that it was trained with", f"{MASK}predictor.bias"],
    ),
    "no mask head": (
        drop(MASK),
        ["its mask head is another one, or not there. Give the config", f"{MASK}predictor"],
    ),
    "another RPN": (
        renamed("proposal_generator.", "proposal_generator.x."),
        ["its proposal generator is another one"],
    ),
    "other classes": (
        classes(7),
        ["it has 7 classes and the model 3", "MODEL.ROI_HEADS.NUM_CLASSES 7", f"{CLASSIFIER}.bias"],
    ),
    "backbone only": (drop("roi_heads."), ["no box head, as a file to start training from"]),
    "before the boundary head": (
        drop(f"{MASK}boundary_head."),
        ["before the release had a boundary head", "MODEL.TRANSFINER.BOUNDARY_LOSS_WEIGHT 0.0"],
    ),
    "released refinemask": (
        renamed(MASK, "roi_head.mask_head.stages."),
        ["names of a released refinemask checkpoint", "crispmask convert --source refinemask"],
    ),
    "released transfiner": (
        renamed(MASK, f"{MASK}encoder."),
        ["names of a released transfiner checkpoint", "crispmask convert --source transfiner"],
    ),
    "nothing fits": (renamed("", "x"), ["it is of another model"]),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_what_does_not_fit_is_listed_with_the_likely_cause(
    corruption: str, state: State, tmp_path: Path
) -> None:
    corrupt, sentences = CORRUPTIONS[corruption]
    path = save(tmp_path, corrupt(state))
    with pytest.raises(UserError) as error:
        load_weights(tiny_detector(), path)
    assert str(error.value).startswith(f"Weight file '{path}' does not fit the model: ")
    for sentence in sentences:
        assert sentence in str(error.value)


def test_a_converted_file_says_its_config(state: State, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    metadata = {"config": "refinemask/coco/R_50_FPN_1x.yaml", "made_by": "crispmask 1.0 convert"}
    write_safetensors(path, drop(MASK)(state), metadata)
    with pytest.raises(UserError, match=r"converted for another config. Give refinemask/coco/R_50_FPN_1x\."):
        load_weights(tiny_detector(), path)
    write_safetensors(path, drop(f"{MASK}predictor")(state), metadata)
    with pytest.raises(UserError, match=r"but 2 are not there.* It was converted for refinemask/coco/R_50"):
        load_weights(tiny_detector(), path)


@pytest.mark.parametrize("beside", [{}, {"made_by": "another 1.0"}, {"made_by": 3}])
def test_a_config_of_another_program_is_no_advice(
    beside: dict[str, object], state: State, tmp_path: Path
) -> None:
    path = save(tmp_path, drop(MASK)(state), config="lr: 0.1", **beside)
    with pytest.raises(UserError, match="does not fit the model") as error:
        load_weights(tiny_detector(), path)
    assert "lr: 0.1" not in str(error.value)


def test_numbers_that_are_no_floats_are_named(state: State, tmp_path: Path) -> None:
    wrong = {f"module.{n}": v.int() if n.startswith(f"{MASK}predictor") else v for n, v in state.items()}
    path = tmp_path / "model.pth"
    torch.save(wrong, path)
    with pytest.raises(UserError, match=rf"'{path}' cannot be used: it is damaged or was quantized") as error:
        load_weights(tiny_detector(), path, strict=False)
    names = [f"  module.{MASK}predictor.{part}" for part in ("weight", "bias")]
    assert str(error.value).splitlines()[1:] == names


def test_many_names_are_listed_by_module(tmp_path: Path) -> None:
    state = {f"backbone.layer{i}.{j}.weight": torch.zeros(1) for i in range(9) for j in range(9)}
    with pytest.raises(UserError) as error:
        load_weights(tiny_detector(), save(tmp_path, {**tiny_detector().state_dict(), **state}))
    lines = str(error.value).splitlines()
    assert len(lines) == 10 and lines[1] == "  not in the model: backbone.layer0.* (9)"


def test_very_many_modules_are_counted(state: State, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_weights(tiny_detector(), save(tmp_path, state | {f"ema_{i}": torch.ones(1) for i in range(99)}))
    lines = str(error.value).splitlines()
    assert len(lines) == 13 and lines[1:3] == ["  not in the model: ema_0", "  not in the model: ema_1"]
    assert lines[-1] == "  not in the model: others (88)"


def test_lenient_loading_takes_what_fits_and_tables_the_rest(
    state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {**classes(7)(state), "fc.weight": torch.zeros(2)}
    del state[f"{MASK}boundary_head.classifier.bias"]
    model, before = tiny_detector(), tiny_detector().state_dict()
    with caplog.at_level(logging.WARNING):
        path = save(tmp_path, state)
        report = load_weights(model, path, strict=False)
    after = model.state_dict()
    assert report.loaded == report.total - 5
    torch.testing.assert_close(after[f"{CLASSIFIER}.weight"], before[f"{CLASSIFIER}.weight"])
    rpn = "proposal_generator.rpn_head.conv.weight"
    torch.testing.assert_close(after[rpn], state[rpn])
    (table,) = (message for message in caplog.messages if "Not loaded" in message)
    assert f"'{path}' gives {report.loaded} of {report.total} tensors" in table
    assert re.search(r"cls_score\.weight \(file: 8 x 8, model: 4 x 8\) +\| +1 \| other shape", table)
    assert re.search(r"boundary_head\.classifier\.bias +\| +1 \| not in the file", table)
    assert re.search(r"fc\.weight +\| +1 \| not in the model", table)


def test_even_lenient_loading_wants_something_that_fits(state: State, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it is of another model"):
        load_weights(tiny_detector(), save(tmp_path, renamed("", "x")(state)), strict=False)


def test_backbone_of_the_model_zoo(state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A pickle of arrays without the prefix of the model, and with the classifier of ImageNet."""
    start = "backbone.bottom_up."
    arrays = {n.removeprefix(start): v.numpy() for n, v in state.items() if n.startswith(start)}
    content = {"model": {**arrays, "stem.fc.weight": state[f"{CLASSIFIER}.weight"].numpy()}}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({**content, "__author__": "torchvision", "matching_heuristics": True}))
    model = tiny_detector()
    report = load_weights(model, path, strict=False)
    assert report.loaded == 5
    weight = start + "res2.0.conv1.weight"
    torch.testing.assert_close(model.state_dict()[weight], state[weight])
    assert "R-50.pkl' gives 5 of 13 tensors" in caplog.text and "stem.fc.weight" in caplog.text


def test_names_with_more_than_one_guess(tmp_path: Path) -> None:
    content = {"model": {"conv1.weight": torch.ones(4, 4, 1, 1).numpy()}, "__author__": "test"}
    path = tmp_path / "ambiguous.pkl"
    path.write_bytes(pickle.dumps({**content, "matching_heuristics": True}))
    with pytest.raises(UserError, match=rf"'{path}' does not fit the model: its names must be guessed"):
        load_weights(AmbiguousModel(), path)


class AmbiguousModel(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("a", "b"):
            self.add_module(name, torch.nn.ModuleDict({"conv1": torch.nn.Conv2d(4, 4, 1, bias=False)}))


class Mirror(PathHandler):
    """Stands for a server: ``mirror://name`` is a file of a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def _get_supported_prefixes(self) -> list[str]:
        return ["mirror://"]

    def _get_local_path(self, path: str, **kwargs: object) -> str:
        return str(self.folder / path.removeprefix("mirror://"))


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    PathManager.register_handler(Mirror(tmp_path), allow_override=True)
    return tmp_path


def test_stated_hash_is_compared(state: State, mirror: Path) -> None:
    path = save(mirror, state)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for address in (str(path), "mirror://model.pth"):
        assert load_weights(tiny_detector(), f"{address}?sha256={digest.upper()}").fits
        with pytest.raises(UserError, match=rf"has sha256 {digest}, not {'0' * 64}: .* delete it"):
            load_weights(tiny_detector(), f"{address}?sha256={'0' * 64}")


def test_hash_in_the_name_of_a_download_is_compared(state: State, mirror: Path) -> None:
    path = save(mirror, state)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.rename(mirror / f"model-{digest[:8]}.pth")
    assert load_weights(tiny_detector(), f"mirror://model-{digest[:8]}.pth").fits
    save(mirror, state).rename(mirror / "model-00c0ffee.pth")
    with pytest.raises(UserError, match=f"has sha256 {digest[:8]}, not 00c0ffee"):
        load_weights(tiny_detector(), "mirror://model-00c0ffee.pth")
    # A file that is no download may be called as one likes
    assert load_weights(tiny_detector(), mirror / "model-00c0ffee.pth").fits


def test_a_date_in_the_name_of_a_download_is_no_hash(state: State, mirror: Path) -> None:
    path = save(mirror, state)
    path.rename(mirror / "model-20210812.pth")
    assert load_weights(tiny_detector(), "mirror://model-20210812.pth").fits
    save(mirror, state).rename(mirror / "model-20211399.pth")
    with pytest.raises(UserError, match="not 20211399"):
        load_weights(tiny_detector(), "mirror://model-20211399.pth")


def test_hash_of_a_download_that_states_none_is_logged(
    state: State, mirror: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digest = hashlib.sha256(save(mirror, state).read_bytes()).hexdigest()
    with caplog.at_level(logging.INFO):
        load_weights(tiny_detector(), "mirror://model.pth")
    assert f"mirror://model.pth?sha256={digest}" in caplog.text


@pytest.mark.parametrize("digits", ["00", "", "xyz", "g" * 64, "0" * 65, f"{'0' * 64}&sha256={'1' * 64}"])
def test_what_is_no_hash_is_refused(digits: str, state: State, mirror: Path) -> None:
    save(mirror, state)
    with pytest.raises(
        UserError, match="states no SHA-256, which has 64 hexadecimal digits: give those that"
    ):
        load_weights(tiny_detector(), f"mirror://model.pth?sha256={digits}")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.pth", tmp_path):
        with pytest.raises(UserError, match=rf"Weight file '{path}' cannot be opened: .*: correct the path"):
            load_weights(tiny_detector(), path)
    with pytest.raises(UserError, match=r"'http://\[::1' has no valid address: Invalid IPv6 URL"):
        load_weights(tiny_detector(), "http://[::1")
    address = "http://127.0.0.1:9/model.pth"  # where nobody listens
    with pytest.raises(
        UserError, match=rf"'{address}' cannot be fetched \(.*refused.*\): download it otherwise"
    ):
        load_weights(tiny_detector(), address)


def test_unknown_question_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"asks for md5: only \?sha256= is known"):
        load_weights(tiny_detector(), f"{tmp_path}/model.pth?md5=0")
