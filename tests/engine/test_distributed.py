"""Two processes on the CPU do what one process would do with their halves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_training import (
    Gradients,
    four_images,
    gradients,
    gradients_of_one_rank,
    refuse,
    tiny_model,
    tiny_steps,
)

from crispmask.engine import launch


@pytest.fixture(scope="module")
def ranks(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What both ranks saved."""
    folder = tmp_path_factory.mktemp("ranks")
    launch(gradients_of_one_rank, (str(folder),), num_processes=2, device="cpu")
    return [torch.load(folder / f"rank{rank}.pth") for rank in (0, 1)]


def mean_gradients(parts: list[Gradients]) -> Gradients:
    return {name: torch.stack([part[name] for part in parts]).mean(dim=0) for name in parts[0]}


def gradients_of_one_process(micro_batches: list[list[dict]]) -> Gradients:
    steps = tiny_steps(tiny_model(), micro_batches, accumulation_steps=len(micro_batches))
    steps.train(0, 1)
    return gradients(steps.model)


@pytest.mark.parametrize("name", ["batch", "micro"])
def test_gradient_is_the_mean_of_the_halves(ranks: list[dict], name: str) -> None:
    images = four_images()
    halves = [images[:2], images[2:]]
    split = {"batch": lambda half: [half], "micro": lambda half: [half[:1], half[1:]]}[name]
    expected = mean_gradients([gradients_of_one_process(split(half)) for half in halves])
    found = ranks[0][f"{name}_gradients"]
    assert found.keys() == expected.keys()
    assert sum(value.abs().max() > 0 for value in expected.values()) > 20
    for key, value in expected.items():
        assert (found[key] - value).norm() <= 1e-5 * value.norm(), key


@pytest.mark.parametrize("name", ["batch", "micro"])
def test_ranks_stay_identical(ranks: list[dict], name: str) -> None:
    first, second = (rank[f"{name}_weights"] for rank in ranks)
    start = tiny_model().state_dict()
    assert any(not torch.equal(first[key], start[key]) for key in first)
    for key in first:
        assert torch.equal(first[key], second[key]), key
    for key, value in ranks[0][f"{name}_gradients"].items():
        assert torch.equal(value, ranks[1][f"{name}_gradients"][key]), key


def test_a_bad_image_of_one_rank_stops_both_and_is_named(ranks: list[dict]) -> None:
    bad = four_images()[2]["file_name"]
    for rank in ranks:
        assert bad in rank["error"] and "(rank 1)" in rank["error"] and "(rank 0)" not in rank["error"]


def test_a_user_error_in_a_process_ends_the_run_with_its_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        launch(refuse, num_processes=2, device="cpu")
    assert exit_.value.code == 2
    printed = capfd.readouterr().err
    assert "the toaster is not plugged in" in printed and "Traceback" not in printed
