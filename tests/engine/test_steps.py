"""One training step on a model small enough to know every gradient."""

from __future__ import annotations

from itertools import repeat

import pytest
import torch
from torch import nn

from crispmask.engine import NonFiniteError, TrainSteps
from crispmask.engine.steps import mean_losses, total_loss


class Line(nn.Module):
    """Two losses of the weights (3,) on the images' vectors ``x`` (3,)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        values = torch.stack([image["x"] for image in batch]) * self.weight
        return {"loss_square": values.square().sum(dim=1).mean(), "loss_mask": values.sum(dim=1).mean()}


def image(*x: float, **info: object) -> dict:
    return {"x": torch.tensor(x), **info}


def step(batches: list[list[dict]], **options: object) -> TrainSteps:
    """One step with learning rate 1 over the micro-batches: the parameters move by minus the gradient."""
    model = Line()
    steps = TrainSteps(
        model,
        batches,
        torch.optim.SGD(model.parameters(), lr=1.0),
        accumulation_steps=len(batches),
        **options,
    )
    steps.train(0, 1)
    return steps


def endless(model: nn.Module, **options: object) -> TrainSteps:
    """Training on one image over and over."""
    batches = repeat([image(1, 2, 3, file_name="a.png")])
    return TrainSteps(model, batches, torch.optim.SGD(model.parameters(), lr=0.1), **options)


def movement(steps: TrainSteps) -> torch.Tensor:
    return Line().weight.detach() - steps.model.weight.detach()


def test_accumulated_gradient_is_that_of_the_whole_batch() -> None:
    images = [image(1, 2, 3), image(-1, 0, 2), image(0, 1, 1), image(2, 2, -2)]
    whole = step([images])
    in_parts = step([images[:2], images[2:]])
    torch.testing.assert_close(movement(in_parts), movement(whole), rtol=1e-6, atol=1e-6)
    logged = [steps.storage.latest()["total_loss"][0] for steps in (whole, in_parts)]
    assert logged[0] == pytest.approx(logged[1], rel=1e-6)


def test_clipping_takes_the_norm_over_everything_and_keeps_the_direction() -> None:
    images = [[image(1, 2, 3)]]
    free = movement(step(images))
    clipped = step(images, clip_norm=0.5)
    assert movement(clipped).norm().item() == pytest.approx(0.5, rel=1e-4)
    assert torch.cosine_similarity(movement(clipped), free, dim=0).item() == pytest.approx(1.0, abs=1e-6)
    assert clipped.storage.latest()["grad_norm"][0] == pytest.approx(free.norm().item(), rel=1e-5)


def test_clipping_leaves_a_small_gradient_alone() -> None:
    images = [[image(1, 2, 3)]]
    torch.testing.assert_close(movement(step(images, clip_norm=1e6)), movement(step(images)))


def test_loss_scaling_of_float16_is_undone_before_clipping() -> None:
    clipped = step([[image(1, 2, 3)]], clip_norm=0.5, amp_dtype=torch.float16)
    assert clipped.scaler.get_scale() > 1
    assert movement(clipped).norm().item() == pytest.approx(0.5, rel=1e-4)
    assert clipped.storage.latest()["grad_norm"][0] < 100


def test_loss_scale_is_part_of_the_state() -> None:
    scaled = step([[image(1, 2, 3)]], amp_dtype=torch.float16)
    scaled.scaler.update(128.0)
    resumed = step([[image(1, 2, 3)]], amp_dtype=torch.float16)
    resumed.load_state_dict(scaled.state_dict())
    assert resumed.scaler.get_scale() == 128.0
    resumed.load_state_dict(step([[image(1, 2, 3)]]).state_dict())  # of a run without scaling
    assert resumed.scaler.get_scale() == 128.0


def test_total_loss_is_summed_in_float32() -> None:
    terms = {"a": torch.tensor(256.0, dtype=torch.bfloat16), "b": torch.tensor(1.0, dtype=torch.bfloat16)}
    assert terms["a"] + terms["b"] == 256  # bfloat16 has no 257
    assert total_loss(terms).dtype == torch.float32 and total_loss(terms) == 257
    assert mean_losses([terms, {"a": terms["b"], "b": terms["b"]}])["a"] == 128.5


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_loss_stops_before_the_update_and_names_loss_and_images(bad: float) -> None:
    model = Line()
    good = [image(1, 2, 3, file_name="good.png")]
    wrong = [image(0, bad, 0, file_name="street/7.png"), image(1, 1, 1, image_id=12)]
    steps = TrainSteps(model, [good, good, wrong], torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(NonFiniteError) as caught:
        steps.train(0, 3)
    text = str(caught.value)
    for word in ("iteration 2", "loss_mask is", "street/7.png", "id 12"):
        assert word in text
    assert "good.png" not in text
    assert torch.isfinite(model.weight).all()


def test_guard_names_only_the_loss_that_went_wrong() -> None:
    class OneBad(Line):
        def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
            losses = super().forward(batch)
            return {**losses, "loss_mask": losses["loss_mask"] / 0}

    model = OneBad()
    steps = endless(model)
    with pytest.raises(NonFiniteError, match=r"loss_mask is inf on images a\.png") as caught:
        steps.train(0, 1)
    assert "loss_square" not in str(caught.value)


def test_guard_looks_at_every_micro_batch() -> None:
    with pytest.raises(NonFiniteError, match=r"b\.png"):
        step([[image(0, float("nan"), 0, file_name="b.png")], [image(1, 2, 3, file_name="c.png")]])


def test_divergence_inside_the_model_names_the_images_too() -> None:
    class Diverged(Line):
        def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
            raise FloatingPointError("Predicted boxes contain NaN.")

    model = Diverged()
    steps = endless(model)
    with pytest.raises(NonFiniteError, match=r"Predicted boxes contain NaN on images a\.png"):
        steps.train(0, 1)


def test_non_finite_gradient_is_not_applied() -> None:
    class SteepRoot(Line):
        def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
            return {"loss_root": (self.weight - self.weight.detach()).sqrt().sum()}  # 0, with slope infinity

    model = SteepRoot()
    steps = endless(model, clip_norm=1.0)
    with pytest.raises(NonFiniteError, match=r"gradient norm is inf on images a\.png"):
        steps.train(0, 1)
    assert torch.isfinite(model.weight).all()
