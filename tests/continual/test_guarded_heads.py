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

#: Enough to forget: without a guard most of the first two arrivals is lost.
FORGETTING = Settings(epochs=12, batch_size=8, learning_rate=1e-2, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def digits() -> Suite:
    return Suite.load("digits", only=["digit"], limit={"train": 100, "validation": 50, "test": 300})


@pytest.fixture(scope="module")
def kept(digits: Suite, small_image: SmallImage) -> dict[str, float]:
    """The mean accuracy on the first two of three arrivals, after the third."""
    arrivals = split_labels(digits["digit"], 2, "task").arrivals[:3]
    found = {}
    for name in ("none", "ewc", "lwf", "si", "agem", "ogd", "tag"):
        plan = strategy_of(name)
        learner = begin(copy.deepcopy(small_image), plan)
        for arrival in arrivals:
            learner.learn(arrival, plan, FORGETTING, fit=True)
        right = []
        for arrival in arrivals[:2]:
            split = arrival.tasks[0].splits["test"]
            answers = np.asarray(learner.system.answers(arrival.tasks[0].name, split.inputs).predictions)
            right.append(float((answers == np.asarray(split.targets)).mean()))
        found[name] = float(np.mean(right))
    return found


@pytest.mark.parametrize("name", ["ewc", "lwf", "si", "agem", "ogd", "tag"])
def test_guards_keep_more_than_none(kept: dict[str, float], name: str) -> None:
    assert kept["none"] < 0.85, "the data make a model forget"
    assert kept[name] > kept["none"], kept
