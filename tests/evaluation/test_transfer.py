"""What a scoreboard says of held-out tasks: means by hand, over all of them and over each category."""

from __future__ import annotations

import numpy as np
import pytest

from allround.evaluation.predictions import Predictions
from allround.evaluation.scoreboard import Scoreboard, ScoredSystem
from allround.tasks.definition import Definition

TARGETS = np.array([0, 1] * 20)


def definition(name: str, role: str = "held_out", category: str = "") -> Definition:
    return Definition(name, "classification", ("x",), "text", "accuracy", ("no", "yes"), role=role, category=category)


DEFINITIONS = {
    "seen": definition("seen", "train"),
    "near": definition("near", category="qa"),
    "far": definition("far", category="nli"),
    "odd": definition("odd", category="qa"),
}
#: Right answers of 40, by system and task.
RIGHT = {"base": (20, 20, 10, 30), "joint": (40, 40, 10, 30)}


def board(reference: str | None) -> Scoreboard:
    made = {}
    for system, counts in RIGHT.items():
        for (name, one), right in zip(DEFINITIONS.items(), counts, strict=True):
            answers = np.where(np.arange(40) < right, TARGETS, 1 - TARGETS)
            made[system, name] = Predictions(one, "test", TARGETS, answers)
    systems = [ScoredSystem("base", "base"), ScoredSystem("joint", "joint")]
    best = "joint" if reference else None
    return Scoreboard.make(DEFINITIONS, systems, made, reference=reference, best=best, resamples=200)


def test_held_out_tasks_have_means_of_their_own() -> None:
    found = board("base")
    assert found.mean["joint"].value == 2.0  # of the task that was trained on alone
    transfer = found.transfer or {}
    assert list(transfer) == ["", "nli", "qa"]
    assert transfer[""]["joint"].score.value == pytest.approx((1.0 + 0.25 + 0.75) / 3)
    assert transfer["qa"]["base"].score.value == pytest.approx((0.5 + 0.75) / 2)
    joint = transfer[""]["joint"]
    assert joint.gain is not None and joint.retention is not None
    assert joint.gain.value == pytest.approx(0.5 / 3)
    assert joint.retention.value == pytest.approx((2.0 + 1.0 + 1.0) / 3)
    # The answers differ on one task alone, on half of its rows: the interval of the mean is a third as wide.
    assert joint.gain.low is not None and 0.1 < joint.gain.low < joint.gain.value
    assert joint.verdict == "better" and transfer["nli"]["joint"].verdict == "no difference found"
    assert "On 3 held-out tasks (120 test rows), which nothing was trained on, joint scores 66.7" in found.answer()[-1]
    assert "better than the base by 16.7 points" in found.answer()[-1]
    assert found.answer()[0].endswith("as a mean over 1 task (40 test rows).")


def test_without_a_reference_the_scores_are_listed() -> None:
    found = board(None)
    transfer = (found.transfer or {})[""]["joint"]
    assert transfer.gain is None and transfer.retention is None
    assert found.answer()[1:] == [
        f"On 3 held-out tasks (120 test rows), which it was not trained on, {name} scores {score} as a mean."
        for name, score in (("base", _span(found, "base")), ("joint", _span(found, "joint")))
    ]


def _span(found: Scoreboard, name: str) -> str:
    score = (found.transfer or {})[""][name].score
    return f"{100 * score.value:.1f} [{100 * (score.low or 0):.1f}, {100 * (score.high or 0):.1f}]"
