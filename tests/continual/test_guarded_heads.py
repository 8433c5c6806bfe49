"""Guards where each arrival has a head of its own: they run, and do no harm (Avalanche #722 saw both fail)."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from allround.continual.learner import begin
from allround.continual.strategy import strategy_of
from allround.continual.stream import split_labels
from allround.models.encoders.small_image import SmallImage
from allround.tasks.suite import Suite
from allround.training.settings import Settings

#: Large steps, at which OGD, which holds to first order, does not help (see `test_projecting_guards` for it). Enough to
#: forget: without a guard much of the first arrival is lost.
FORGETTING = Settings(epochs=12, batch_size=8, learning_rate=1e-2, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def digits() -> Suite:
    return Suite.load("digits", only=["digit"], limit={"train": 100, "validation": 30, "test": 200})


@pytest.fixture(scope="module")
def kept(digits: Suite, small_image: SmallImage) -> dict[str, float]:
    """The accuracy on the first arrival, after the second."""
    arrivals = split_labels(digits["digit"], 2, "task").arrivals[:2]
    found = {}
    for name in ("none", "ewc", "lwf", "si", "agem", "tag"):
        plan = strategy_of(name)
        learner = begin(copy.deepcopy(small_image), plan)
        for arrival in arrivals:
            learner.learn(arrival, plan, FORGETTING, fit=True)
        (task,) = arrivals[0].tasks
        answers = np.asarray(learner.system.answers(task.name, task.splits["test"].inputs).predictions)
        found[name] = float((answers == np.asarray(task.splits["test"].targets)).mean())
    return found


@pytest.mark.parametrize("name", ["ewc", "lwf", "si", "agem", "tag"])
def test_guards_keep_more_than_none(kept: dict[str, float], name: str) -> None:
    assert kept["none"] < 0.85, "the data make a model forget"
    assert kept[name] > kept["none"], kept
