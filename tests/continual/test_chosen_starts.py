"""Choosing what an arrival begins from: the model of a task like it, and not the latest one."""

from __future__ import annotations

import copy

import pytest

from allround.continual.grow.start import Start
from allround.continual.strategy import strategy_of
from allround.continual.stream import Arrival, renamed
from allround.core.errors import AllroundError
from allround.models.encoders.small_image import SmallImage
from allround.tasks.suite import Suite
from allround.training.settings import Settings

SETTINGS = Settings(epochs=30, batch_size=16, learning_rate=3e-3, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def grown(small_image: SmallImage, digits_suite: Suite) -> Start:
    """Models of two tasks on one base: of how much ink there is, then of digits."""
    plan = strategy_of("chosen_start")
    learner = Start(copy.deepcopy(small_image), plan)
    for name in ("ink", "digit"):
        learner.learn(Arrival(name, (digits_suite[name],)), plan, SETTINGS, fit=True)
    return learner


def test_a_task_begins_from_the_model_of_one_like_it(grown: Start, digits_suite: Suite) -> None:
    """Planted: the third task is the first one again, under another name."""
    again = renamed(digits_suite["ink"], "again")
    base, ink, digit = grown.encoder, *(body.encoder for body in grown.grown.bodies)
    assert grown.start_for([again], 0) is ink
    for by, wanted in (("base", base), ("last", digit)):
        grown.by = by
        assert grown.start_for([again], 0) is wanted
    grown.by = "logme"


def test_starts_are_known(small_image: SmallImage) -> None:
    with pytest.raises(AllroundError, match="by is 'best'"):
        Start(small_image, strategy_of("chosen_start"), by="best")  # type: ignore[arg-type]
