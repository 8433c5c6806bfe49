"""The default schedule of every learned merge, on real rows: it must not end below its start."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from allround.core import registry
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import score
from allround.merging.learn.learning import Learning, preset
from allround.merging.learn.run import LearnedMerge, learn
from allround.models.systems.multi_task_model import MultiTaskModel

if TYPE_CHECKING:
    from conftest import Tuned  # type: ignore[attr-defined]

#: Those that learn in steps.
PRESETS = [e.name for e in registry.entries("learn") if not e.facts.get("closed")]


def run(tuned: Tuned, learning: Learning) -> LearnedMerge:
    return learn(tuned.base, tuned.specialists(), tuned.suite.tasks, learning, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def accuracy(digit_specialists: Tuned) -> Callable[[LearnedMerge], float]:
    """Mean accuracy in percent on the test rows of three tasks, 449 each."""
    tuned = digit_specialists

    def measure(made: LearnedMerge) -> float:
        model = MultiTaskModel(made.encoder, {})
        scores = []
        for name in tuned.folders:
            task = tuned.suite.tasks[name]
            model.add_task(task.definition, made.heads[name])
            scores.append(score(predict_split(model, task, "test")))
        return 100 * sum(scores) / len(scores)

    return measure


@pytest.fixture(scope="module")
def starts() -> dict[float, float]:
    """The accuracy at the start, by scale: presets share it."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_the_default_schedule_does_not_end_below_its_start(
    name: str, digit_specialists: Tuned, accuracy: Callable[[LearnedMerge], float], starts: dict[float, float]
) -> None:
    learning = preset(name)
    assert not learning.centred and learning.keep == 1, "the start is that of the scale alone"
    if learning.scale not in starts:
        starts[learning.scale] = accuracy(run(digit_specialists, learning.with_(steps=0, phases=())))
    made = run(digit_specialists, learning)
    assert made.record["steps"] > 0
    assert accuracy(made) >= starts[learning.scale]
