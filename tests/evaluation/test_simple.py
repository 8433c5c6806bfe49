"""What a scoreboard says of simple systems: whether one would have done, and where a specialist is below one."""

from __future__ import annotations

import numpy as np
import pytest

from allround.evaluation.predictions import Predictions
from allround.evaluation.scoreboard import Scoreboard, ScoredSystem
from allround.evaluation.scoreboard.pool import RepeatedRun, pool
from allround.evaluation.scoreboard.words import answer
from allround.models.cost import Cost
from allround.tasks.definition import Definition

ROLES = {
    "base": ("base", "heads on the frozen base", 60.0),
    "specialists": ("specialists", "a model tuned for each task", 300.0),
    "joint": ("joint", "one model trained on all tasks", 300.0),
    "linear": ("baseline", "a linear model for each task, on TF-IDF", 4.0),
    "reference": ("reference", "the better of specialist and base: the base on b, specialists elsewhere", 0.0),
}  # fmt: skip
#: Which of 200 rows each system answers rightly, on the tasks a, b and c: the first so many of a fixed order.
RIGHT = {
    "base": (150, 150, 150),
    "specialists": (180, 120, 148),
    "joint": (178, 150, 150),
    "linear": (100, 110, 190),
    "reference": (180, 150, 148),
}


def board(
    reference: str = "specialists", names: tuple[str, ...] = tuple(ROLES), **right: tuple[int, ...]
) -> Scoreboard:
    definitions = {t: Definition(t, "classification", ("x",), "text", "accuracy", ("no", "yes")) for t in "abc"}
    predictions = {}
    for name in names:
        for place, task in enumerate("abc"):
            count = {**RIGHT, **right}[name][place]
            answers = (np.arange(200) < count).astype(np.int64)
            predictions[name, task] = Predictions(definitions[task], "test", np.ones(200, np.int64), answers)
    systems = [
        ScoredSystem(n, ROLES[n][0], ROLES[n][1], single=n in ("base", "joint"), cost=Cost(ROLES[n][2])) for n in names
    ]
    return Scoreboard.make(definitions, systems, predictions, reference=reference, best="joint", resamples=200)


WITHOUT = ("base", "specialists", "joint", "linear")


def test_the_base_is_named_where_no_difference_was_found() -> None:
    said = answer(board(names=WITHOUT, base=(178, 150, 149)))
    assert said[1].startswith(
        "Would a simple way do as well, in mean retention? The base with fitted heads (1 min 0 s): as good, no "
        "difference found. A linear model for each task, on TF-IDF (4.0 s): worse by "
    )
    # Means of retention: joint (178/180 + 150/120 + 150/148) / 3, linear (100/180 + 110/120 + 190/148) / 3.
    gap = 100 * ((178 - 100) / 180 + (150 - 110) / 120 + (150 - 190) / 148) / 3
    assert said[1].endswith(f"worse by {gap:.1f} points.")


def test_a_specialist_below_a_simple_system_is_said_with_the_verdict() -> None:
    said = answer(board(names=WITHOUT))
    assert (
        "The specialist is worse than a simple system on b (60.0, base 75.0) and c (74.0, linear 95.0). "
        "That inflates retention on b and c." in said
    )
    unsure = answer(board(names=WITHOUT, specialists=(180, 149, 190)))
    assert "The specialist scores below a simple system on b (74.5, base 75.0); no difference was found." in unsure
    both = answer(board(names=WITHOUT, specialists=(180, 149, 148)))
    assert "It is no better than one on b (74.5, base 75.0): no difference was found." in both
    none = answer(board(names=WITHOUT, specialists=(190, 190, 190)))
    assert not any("specialist" in line and "simple" in line for line in none)


def test_where_the_base_is_the_reference_nothing_is_inflated() -> None:
    made = board("reference")
    said = answer(made)
    assert said[0].endswith("of the score of the reference, as a mean over 3 tasks (600 test rows).")
    assert said[1] == f"The reference is {ROLES['reference'][1]}."
    assert any(line.endswith("and c (74.0, linear 95.0). That inflates retention on c.") for line in said)
    assert made.cells["joint"]["b"].retention == pytest.approx(1.0)
    pairs = [(c.system, c.other) for c in made.comparisons]
    assert ("base", "specialists") in pairs and ("linear", "specialists") in pairs and len(set(pairs)) == len(pairs)
    assert Scoreboard.from_json(made.to_json()) == made


def test_a_board_without_simple_systems_says_nothing_of_them() -> None:
    said = answer(board(names=("specialists", "joint")))
    assert not any("simple" in line for line in said)


def test_runs_with_different_references_are_pooled_with_one() -> None:
    runs = {}
    for name, reference in (("seed 0", "specialists"), ("seed 1", "reference")):
        made = board(reference, WITHOUT if reference == "specialists" else tuple(ROLES))
        answers = {
            (s.name, t): Predictions(d, "test", np.ones(200, np.int64),
                                     (np.arange(200) < RIGHT[s.name][place]).astype(np.int64))
            for s in made.systems for place, (t, d) in enumerate(made.definitions.items())
        }  # fmt: skip
        runs[name] = RepeatedRun(made, answers)
    pooled = pool(runs, of="seed", best="joint", notes={}, provenance={})
    assert pooled.reference == "reference"
    assert pooled.system("reference").title.startswith("in each run the better of specialist and base on each task")
    # Of b the specialist's 120 rows in one run, the base's 150 in the other.
    assert pooled.cells["reference"]["b"].score == pytest.approx((120 + 150) / 2 / 200)
    assert pooled.cells["joint"]["b"].retention == pytest.approx(150 / 135)
