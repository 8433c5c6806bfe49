"""The budget: the least cut that fits, never below the floors, said in words."""

from __future__ import annotations

from typing import Any

import pytest

from allround.building.budget import (
    FILL,
    BudgetPlan,
    Passes,
    estimate,
    joint_time,
    learning_time,
    make_plan,
    scaled,
    with_extras,
)
from allround.merging.learn.learning import preset
from allround.tasks.suite import Suite
from allround.training.settings import Settings

SPEED = {"train": 0.1, "predict": 0.01}


def plan(suite: Suite, minutes: float, **changes: Any) -> BudgetPlan:
    arguments: dict[str, Any] = {
        "spent": 0.0,
        "trials": 12,
        "methods": 3,
        "passes": Passes(3),
        "joint": True,
        "workers": 2,
    }
    return make_plan(suite.tasks, dict.fromkeys(suite.tasks, SPEED), minutes=minutes, **{**arguments, **changes})


@pytest.fixture(scope="module")
def large() -> Suite:
    return Suite.load("digits", only=["digit", "ink"])


def test_estimate_by_hand(large: Suite) -> None:
    speed = dict.fromkeys(large.tasks, SPEED)
    seconds = estimate(large.tasks, speed, share=1.0, trials=2, methods=1, passes=Passes(1), joint=False, workers=1)
    rows = {s: len(large.tasks["digit"].splits[s]) for s in ("train", "validation", "test")}
    predicted = 2 * rows["validation"] + 3 * (rows["validation"] + rows["test"]) + 2 * rows["validation"]
    assert seconds == pytest.approx(2 * (0.1 * rows["train"] + 0.01 * (predicted + rows["train"])))


def test_few_rows_are_seen_until_there_are_enough_steps(large: Suite) -> None:
    """20 rows a task are 3 batches of 8: 27 epochs for 80 steps, and 14 of both tasks together."""
    few = Suite.load("digits", only=["digit", "ink"], limit={"train": 20}).tasks
    speed, passes = {name: {"train": 0.1, "predict": 0.0} for name in few}, Passes.of(Settings(batch_size=8), 3, 80)
    alike = {"share": 1.0, "trials": 1, "methods": 0, "workers": 1}
    assert estimate(few, speed, passes=passes, joint=True, **alike) == pytest.approx(2 * 20 * 0.1 * (27 + 14))
    assert joint_time(few, speed, passes=passes, workers=1) == pytest.approx(2 * 20 * 0.1 * 14)
    asked = Passes.of(Settings(epochs=2), 3, 80)
    assert estimate(few, speed, passes=asked, joint=False, **alike) == pytest.approx(2 * 20 * 0.1 * 2)
    by_task = Passes.of(Settings(batch_size=8, batch_sizes={"digit": 20, "regression": 10}), 3, 80)
    assert [by_task.over({name: 20}, few) for name in ("digit", "ink")] == [80, 40]
    short = plan(large, 1e-6, passes=Passes.of(Settings(), 1, 10**6))
    assert short.epochs == 1 and "1 epoch instead of 1, and 1000000 steps at least" in short.words


def test_a_large_budget_cuts_nothing(large: Suite) -> None:
    found = plan(large, 1000)
    assert (found.share, found.trials, found.epochs) == (1.0, 12, None)
    assert "nothing was cut" in found.words


def test_first_trials_then_rows_then_epochs(large: Suite) -> None:
    whole = plan(large, 1000).estimate / 60 / FILL
    fewer = plan(large, whole * 0.98)
    assert (fewer.share, fewer.trials, fewer.epochs) == (1.0, 4, None)
    rows = plan(large, whole * 0.6)
    assert 0 < rows.share < 1 and rows.epochs is None and rows.estimate <= whole * 0.6 * 60 * FILL
    assert f"{100 * rows.share:.0f}% of the rows" in rows.words
    speed = dict.fromkeys(large.tasks, SPEED)
    least = estimate(large.tasks, speed, share=0.0, trials=4, methods=3, passes=Passes(3), joint=True, workers=2)
    epochs = plan(large, 0.98 * least / 60 / FILL)
    assert epochs.epochs == 1 and "1 epoch instead of 3" in epochs.words


def test_the_floors_hold_and_an_impossible_budget_is_admitted(large: Suite) -> None:
    least = plan(large, 1e-6)
    assert least.share == 0 and "more than the budget" in least.words
    task = large.tasks["digit"]
    assert [scaled(task, s, 0.0) for s in ("train", "validation", "test")] == [64, 50, 100]
    assert scaled(task, "train", 1.0) == len(task.splits["train"])


def test_the_time_of_a_learned_merge_by_hand(large: Suite) -> None:
    learning = preset("divmerge", {"rows": 40, "batch": 8, "steps": 5})
    rows = {s: len(large.tasks["digit"].splits[s]) for s in ("train", "validation", "test")}
    found = learning_time(large.tasks, dict.fromkeys(large.tasks, SPEED), learning, trials=3, workers=2)
    once = 5 * 8 * 0.1 + (40 + rows["validation"]) * 0.01
    assert found == pytest.approx(2 * (3 * once + (rows["validation"] + rows["test"]) * 0.01) / 2)


def test_the_time_of_a_further_joint_model_by_hand(large: Suite) -> None:
    rows = {s: len(large.tasks["digit"].splits[s]) for s in ("train", "validation", "test")}
    found = joint_time(large.tasks, dict.fromkeys(large.tasks, SPEED), passes=Passes(3), workers=2)
    once = 3 * rows["train"] * 0.1 + (5 * rows["validation"] + rows["test"]) * 0.01
    assert found == pytest.approx(2 * once / 2)


def test_extras_come_cheapest_first_and_never_where_something_was_cut(large: Suite) -> None:
    costs = {"dear": 400.0, "cheap": 20.0, "middle": 90.0}
    whole = plan(large, 1000)
    room = with_extras(whole, costs, (whole.estimate + 150) / 60 / FILL)
    assert room.left_out == ("dear",) and room.estimate == whole.estimate + 110
    assert "Beside that: cheap, middle (1.8 min more)" in room.words
    assert "No time for dear (about 6.7 min)" in room.words
    assert with_extras(whole, costs, 1000).left_out == ()
    short = plan(large, whole.estimate / 60 / FILL * 0.98)
    cut = with_extras(short, costs, 1000)
    assert short.cut and cut.left_out == tuple(costs) and "No time for dear" in cut.words
