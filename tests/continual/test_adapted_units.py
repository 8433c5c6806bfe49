"""CLAW: weights that are Gaussians, the posterior that is the next prior, and units that each arrival scales."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from allround.continual.grow.adapt import Adapt, Divergences
from allround.continual.learner import begin
from allround.continual.strategy import strategy_of
from allround.continual.stream import Arrival, split_labels
from allround.core.errors import AllroundError
from allround.models.encoders.adaptive import Adaptive
from allround.models.encoders.small_image import SmallImage
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.training.settings import Settings

QUICK = Settings(epochs=6, batch_size=16, learning_rate=3e-3, device="cpu", precision="fp32")


def made(encoder: SmallImage, **values: object) -> Adapt:
    learner = begin(copy.deepcopy(encoder), strategy_of("claw", {"units": [16], **values}))
    assert isinstance(learner, Adapt)
    return learner


def test_units_are_scaled_by_hand(small_image: SmallImage) -> None:
    """Expected: 1 + p s tanh(a), with p = 1/2, s = 3 and tanh(a) = 0.5 for the second unit."""
    encoder = Adaptive(small_image, 2, [2], ["a"]).eval()
    (layer,), (own,) = encoder.gaussians, encoder.of_task("a")
    with torch.no_grad():
        layer.mean.copy_(torch.eye(2))
        own.log_size.copy_(torch.tensor([0.0, math.log(3.0)]))
        own.share.copy_(torch.tensor([0.0, math.atanh(0.5)]))
    assert torch.allclose(encoder.read(torch.tensor([[1.0, 2.0]]), "a"), torch.tensor([[1.0, 2.0 * 1.75]]))
    mean, deviation = layer(torch.tensor([[3.0, 4.0]]))
    assert mean.tolist() == [[3.0, 4.0]] and torch.allclose(deviation, torch.full((1, 2), 0.02 * 5))
    encoder.train()
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = torch.stack([encoder.read(torch.tensor([[3.0, 4.0]]), "a")[0] for _ in range(2000)])
    assert float(drawn[:, 0].std()) == pytest.approx(0.1, rel=0.06), "units that are not adapted vary by their weights"
    ratio = drawn[:, 1] / 4
    assert float((ratio < 1.15).float().mean()) == pytest.approx(float((ratio > 2.35).float().mean()), abs=0.05)


def test_divergences_by_hand(small_image: SmallImage) -> None:
    encoder = Adaptive(small_image, 2, [3], ["a"])
    encoder.learns = ("a",)
    model = MultiTaskModel(encoder, {})
    (layer,) = encoder.gaussians
    prior = {"mean 0": layer.mean.detach() - 0.02, "deviation 0": layer.log_deviation.detach().exp()}
    term = Divergences(prior, 0.5, 0.1, 1.0)
    switches = 3 * (0.5 * math.log(0.5 / 0.1) + 0.5 * math.log(0.5 / 0.9))
    assert float(term.penalty(model).detach()) == pytest.approx(0.5 * (6 * 0.5 + switches), rel=1e-5), (
        "6 weights, one deviation off"
    )


@pytest.fixture(scope="module")
def halves(digits_suite: Suite) -> tuple[Arrival, ...]:
    return split_labels(digits_suite["digit"], 5, "class").arrivals


def test_the_posterior_of_an_arrival_holds_the_next_one(small_image: SmallImage, halves: tuple[Arrival, ...]) -> None:
    moved = {}
    for weight in (0.0, 1.0):
        learner = made(small_image, weight=weight)
        learner.learn(halves[0], learner.strategy, QUICK)
        encoder = learner.grown.bodies[0].encoder
        assert isinstance(encoder, Adaptive)
        before = encoder.gaussians[0].mean.detach().clone()
        assert torch.equal(learner.remembered["mean 0"], before)
        assert torch.allclose(learner.remembered["deviation 0"].log(), encoder.gaussians[0].log_deviation)
        assert learner.divergences([halves[1].tasks[0]]).weight == weight / len(halves[1].tasks[0].splits["train"])
        learner.learn(halves[1], learner.strategy, QUICK)
        moved[weight] = float((encoder.gaussians[0].mean.detach() - before).norm())
        old, new = (encoder.of_task(name)[0].switch.detach() for name in ("digit-0", "digit-1"))
        assert not torch.equal(old, new), "each arrival has switches of its own"
        if weight:
            assert float(new.sigmoid().mean()) < 0.49, "an adaptation costs"
    assert moved[1.0] < 0.5 * moved[0.0]


def test_what_cannot_be_adapted_is_said(small_image: SmallImage) -> None:
    with pytest.raises(AllroundError, match="rare 1"):
        made(small_image, rare=1.0)
