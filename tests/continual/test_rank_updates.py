"""Incremental rank updates: what an arrival adds, by hand."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from allround.continual.growing import GrowingLearner
from allround.continual.learner import begin
from allround.continual.strategy import strategy_of
from allround.continual.stream import of_tasks, renamed
from allround.models.encoders.sharing import Sharing
from allround.models.encoders.small_image import SmallImage
from allround.tasks.suite import Suite
from allround.training.settings import Settings

QUICK = Settings(epochs=2, batch_size=16, learning_rate=1e-2, keep="last", device="cpu", precision="fp32")


def test_an_arrival_adds_matrices_and_weighs_the_old_ones(small_image: SmallImage, digits_suite: Suite) -> None:
    plan = strategy_of("rank_updates", {"rank": 2})
    learner = begin(copy.deepcopy(small_image), plan)
    assert isinstance(learner, GrowingLearner)
    first, second = of_tasks("two", [digits_suite["digit"], renamed(digits_suite["digit"], "again")]).arrivals
    learner.learn(first, plan, QUICK)
    before = {name: value.clone() for name, value in learner.grown.bodies[0].state_dict().items()}
    learner.learn(second, plan, QUICK)
    after = learner.grown.bodies[0].state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items()), "what was there stays"
    encoder = learner.grown.bodies[0].encoder
    assert isinstance(encoder, Sharing)
    mixture = next(encoder.mixtures())
    one, other = (part.name for part in learner.grown.parts)
    selector = dict(mixture.gate(other).named_parameters())["numbers"]
    assert len(dict(mixture.gate(one).named_parameters())["numbers"]) == 2 and len(selector) == 4
    begun = torch.tensor([0.05, 0.05, 0.45, 0.45])
    assert ((selector - begun).abs() > 1e-4).all(), "the numbers of old matrices are learned as well"

    values = torch.randn(3, mixture.width, generator=torch.Generator().manual_seed(0))
    wanted: Tensor = torch.zeros(3, mixture.outputs)
    for owner, numbers in ((one, selector[:2]), (other, selector[2:])):
        bank = dict(mixture.bank(owner).named_parameters())
        for number in range(2):
            matrix = 4.0 * bank["b"][number] @ bank["a"][number]  # twice the rank
            assert torch.linalg.matrix_rank(matrix) == 1
            wanted = wanted + numbers[number] * values @ matrix.T
    assert torch.allclose(mixture.mixed(values, other), wanted, atol=1e-5)
