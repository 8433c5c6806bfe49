"""IBCL: posteriors of heads, and heads for preferences among arrivals."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from allround.continual.head.posterior import PRIORS, Posterior, posterior
from allround.continual.rows import Memory
from allround.continual.stream import rotated
from allround.core.errors import AllroundError
from allround.models.encoders.small_image import SmallImage
from allround.models.head import HeadState
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.tasks.task import Task


@pytest.fixture(scope="module")
def model(small_image: SmallImage, digits_suite: Suite) -> MultiTaskModel:
    return MultiTaskModel(copy.deepcopy(small_image), {"digit": digits_suite["digit"].definition}).eval()


@pytest.fixture(scope="module")
def arrivals(digits_suite: Suite) -> list[Task]:
    """The digits as they are, and upside down."""
    return [one.tasks[0] for one in rotated(digits_suite["digit"], 2, 360).arrivals]


def made(model: MultiTaskModel, arrivals: list[Task], **values: object) -> tuple[Posterior, list[HeadState]]:
    policy = Posterior(steps=120, **values)  # type: ignore[arg-type]
    return policy, [policy.make(model, one, Memory()) for one in arrivals]


def test_a_preference_is_a_mix_of_the_arrivals_heads(model: MultiTaskModel, arrivals: list[Task]) -> None:
    """By hand: all for one arrival gives its head, halves give the mean; nothing is trained for it."""
    first, second, even = (made(model, arrivals, preference=p)[1][-1] for p in ([1, 0], [0, 1], None))
    assert not torch.allclose(first["weight"], second["weight"])
    assert torch.allclose(even["weight"], (first["weight"] + second["weight"]) / 2, atol=1e-6)
    alone = made(model, arrivals[:1])[1][0]
    assert torch.equal(alone["weight"], first["weight"])
    for head, task in ((first, arrivals[0]), (second, arrivals[1])):
        asked = MultiTaskModel(model.encoder, {})
        asked.add_task(task.definition, dict(head))
        split = task.splits["train"]
        assert (np.asarray(asked.answers("digit", split.inputs).predictions) == split.targets).mean() > 0.5


def test_posteriors_that_are_alike_are_kept_once(model: MultiTaskModel, arrivals: list[Task]) -> None:
    apart, _ = made(model, arrivals)
    alike, _ = made(model, arrivals, distance=100.0)
    assert apart.state["digit"]["of"].tolist() == [0, 1] and len(apart.state["digit"]["means"]) == 2
    assert alike.state["digit"]["of"].tolist() == [0, 0] and len(alike.state["digit"]["means"]) == 1
    assert apart.state["digit"]["means"].shape[1] == len(PRIORS)


def test_a_row_leaves_a_prior_that_it_says_nothing_about() -> None:
    """A row of zeros says nothing about the weights: their posterior is the prior."""
    prior = torch.full((2, 3), 0.5), torch.full((2, 3), 0.3)
    mean, spread = posterior(torch.zeros(4, 3), torch.eye(2)[[0, 1, 0, 1]], *prior, steps=200, rate=0.05, seed=0)
    assert torch.allclose(mean, prior[0], atol=1e-2) and torch.allclose(spread, prior[1], atol=1e-2)
    x = torch.tensor([[1.0, 0.0, 0.0]]).expand(200, 3)
    mean, spread = posterior(x, torch.eye(2)[[0] * 200], *prior, steps=300, rate=0.05, seed=0)
    assert mean[0, 0] > mean[1, 0] + 1 and spread[0, 0] < 0.3 and abs(float(spread[0, 1]) - 0.3) < 1e-2


@pytest.mark.parametrize("preference", [[-1.0, 2.0], [0.0, 0.0], [1.0]])
def test_preferences_are_checked(preference: list[float], model: MultiTaskModel, arrivals: list[Task]) -> None:
    with pytest.raises(AllroundError, match="weigh arrivals"):
        made(model, arrivals, preference=preference)
