"""Robust multi-task boosting: a round by hand, outliers that were planted, and what it refuses."""

import numpy as np
import pytest

from allround.core.errors import AllroundError
from allround.models.robust_boosting import RobustSettings, RobustTrees, fit_robust
from allround.models.systems.rmtgb import Rmtgb
from allround.tasks.make import make_task
from allround.tasks.task import Task


def made(outliers: set[int], labels: bool = False) -> list[Task]:
    """Six tasks on three columns; those of the outliers want the opposite of what the others want."""
    rng, tasks = np.random.default_rng(0), []
    for number in range(6):
        x = rng.uniform(-1, 1, (90, 3))
        y = (np.sin(3 * x[:, 0]) + x[:, 1]) * (-1 if number in outliers else 1) + rng.normal(0, 0.1, 90)
        targets = np.where(y > 0, "high", "low").tolist() if labels else y.tolist()
        rows = [{"a": a, "b": b, "c": c, "y": t} for (a, b, c), t in zip(x.tolist(), targets, strict=True)]
        data = {"train": rows[:60], "validation": rows[60:], "test": rows[60:]}
        kind = "classification" if labels else "regression"
        tasks.append(make_task(f"task{number}", kind=kind, inputs=["a", "b", "c"], target="y", data=data))
    return tasks


@pytest.fixture(scope="module")
def fitted() -> tuple[RobustTrees, dict[str, float]]:
    return fit_robust(made({1}), settings=RobustSettings(shared=40, grouped=80, own=2))


@pytest.fixture(scope="module")
def planted(fitted: tuple[RobustTrees, dict[str, float]]) -> RobustTrees:
    return fitted[0]


def test_the_planted_outlier_is_found_under_its_own_name(planted: RobustTrees) -> None:
    assert planted.outliers() == ["task1"] and Rmtgb(planted).outliers == ["task1"]


def test_groups_mend_what_a_shared_function_cannot(fitted: tuple[RobustTrees, dict[str, float]]) -> None:
    losses = fitted[1]
    assert losses["grouped"] < 0.6 * losses["shared"] and losses["own"] <= losses["grouped"]


def test_no_tree_is_a_stump(planted: RobustTrees) -> None:
    roots = [*planted.shared.roots.tolist(), len(planted.shared.value)]
    assert min(np.diff(roots)) > 3


def test_one_round_is_the_rate_times_the_mean_of_what_is_left() -> None:
    rows = [{"x": x, "y": y} for x, y in ((0.0, 1.0), (0.0, 3.0), (1.0, 5.0), (1.0, 11.0))]
    data = dict.fromkeys(("train", "validation", "test"), rows)
    tasks = [make_task(n, kind="regression", inputs=["x"], target="y", data=data) for n in ("first", "second")]
    settings = RobustSettings(shared=1, grouped=0, own=0, rate=0.5, rows=1)
    found, losses = fit_robust(tasks, settings=settings)
    # The mean is 5; of (2 - 5) and (8 - 5) half is added.
    definition = tasks[1].definition
    said = found.outputs("second", [(0.0,), (1.0,)]) * definition.scale + definition.center
    assert np.allclose(said, [3.5, 6.5])
    variance = np.var([1.0, 3.0, 5.0, 11.0])
    left = np.mean((np.array([1.0, 3.0, 5.0, 11.0]) - [3.5, 3.5, 6.5, 6.5]) ** 2) / variance
    assert losses == pytest.approx({"shared": left, "grouped": left, "own": left})
    assert found.outliers() == []


def test_labels_are_answered_by_odds() -> None:
    trees, losses = fit_robust(made(set(), labels=True), settings=RobustSettings(shared=20, grouped=0, own=0))
    answers = Rmtgb(trees).answers("task3", [(0.5, 0.8, 0.0), (-0.5, -0.8, 0.0)], scores=True)
    assert losses["shared"] < 0.6 * np.log(2)
    assert answers.predictions.tolist() == [0, 1] and np.allclose(np.sum(answers.scores, 1), 1)  # type: ignore[union-attr, arg-type]


def test_tasks_that_cannot_share_trees() -> None:
    mixed = [made(set())[0], made(set(), labels=True)[1]]
    for tasks in (mixed, mixed[:1]):
        with pytest.raises(AllroundError, match="two tasks or more on the same columns"):
            fit_robust(tasks)
    with pytest.raises(AllroundError, match="depth of at least 2"):
        RobustSettings(depth=1)
