"""The paired bootstrap: draws, coverage, pairing, orientation, and what is undefined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from allround.core.errors import AllroundError
from allround.evaluation import intervals
from allround.evaluation.intervals import Bootstrap, Interval, draws, interval, retention, verdict
from allround.evaluation.predictions import Predictions
from allround.tasks.definition import Definition

BINARY = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes"))


def answers(right: Any, definition: Definition = BINARY) -> Predictions:
    """Binary answers that are right where `right` says so."""
    right = np.asarray(right, dtype=bool)
    return Predictions(definition, "test", np.ones(len(right), dtype=np.int64), right.astype(np.int64))


def numbers(targets: Any, predictions: Any, metric: str) -> Predictions:
    definition = Definition("t", "regression", ("x",), "text", metric)
    return Predictions(definition, "test", np.asarray(targets, float), np.asarray(predictions, float))


def test_draws_are_the_same_in_any_blocks_and_differ_by_task_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_of(task: str = "t", seed: int = 0) -> Any:
        return np.concatenate(list(draws(task, 30, seed=seed, resamples=50)))

    whole = all_of()
    assert whole.shape == (50, 30) and (whole.sum(1) == 30).all()
    monkeypatch.setattr(intervals, "_BLOCK", 100)
    assert (all_of() == whole).all()
    assert (all_of("u") != whole).any() and (all_of(seed=1) != whole).any()


def test_scores_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    targets = rng.normal(size=40)
    made = {("a", "t"): numbers(targets, targets + rng.normal(size=40), "spearman")}
    whole = Bootstrap.make(made, resamples=30).resampled["a", "t"]
    monkeypatch.setattr(intervals, "_BLOCK", 7 * 40)
    assert (Bootstrap.make(made, resamples=30).resampled["a", "t"] == whole).all()


def test_interval_of_an_accuracy_is_that_of_the_binomial() -> None:
    right = np.arange(1000) < 800
    found = Bootstrap.make({("a", "t"): answers(right)}, resamples=4000).score("a", "t")
    spread = 1.96 * np.sqrt(0.8 * 0.2 / 1000)
    assert found.value == 0.8
    assert found.low == pytest.approx(0.8 - spread, abs=0.002)
    assert found.high == pytest.approx(0.8 + spread, abs=0.002)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng, covered = np.random.default_rng(11), 0
    for trial in range(300):
        found = Bootstrap.make({("a", f"t{trial}"): answers(rng.random(200) < 0.7)}, resamples=300)
        low, high = found.score("a", f"t{trial}")[1:]
        covered += low is not None and high is not None and low <= 0.7 <= high
    # 300 trials at 95%: standard error 1.3%; the percentile interval is a little short at n = 200.
    assert 0.91 <= covered / 300 <= 0.98


def test_the_same_answers_differ_by_exactly_nothing() -> None:
    right = np.random.default_rng(0).random(300) < 0.8
    made = {(s, t): answers(right) for s in ("specialists", "a", "b") for t in ("t", "u")}
    found = Bootstrap.make(made, reference="specialists", resamples=200)
    assert found.difference("a", "b") == Interval(0.0, 0.0, 0.0)
    assert found.retention("a", "t") == Interval(1.0, 1.0, 1.0)
    assert found.task_difference("a", "b", "t") == Interval(0.0, 0.0, 0.0)
    assert verdict(Interval(0.0, 0.0, 0.0)) == "no difference found"


def test_pairing_finds_what_separate_intervals_hide() -> None:
    right = np.random.default_rng(0).random(500) < 0.8
    fewer = right & (np.arange(500) % 50 != 0)
    made = {("specialists", "t"): answers(right), ("a", "t"): answers(right), ("b", "t"): answers(fewer)}
    found = Bootstrap.make(made, reference="specialists")
    a, b = found.score("a", "t"), found.score("b", "t")
    assert b.high is not None and a.low is not None and b.high > a.low
    difference = found.difference("b", "a")
    assert difference is not None and verdict(difference) == "worse"
    turned = found.difference("a", "b")
    assert turned is not None and verdict(turned) == "better"
    assert (turned.low, turned.high) == pytest.approx((-(difference.high or 0), -(difference.low or 0)))


def test_retention_of_errors_is_turned_round() -> None:
    targets = np.linspace(-1, 1, 50)
    noise = np.tile([1.0, -1.0], 25)
    made = {
        ("specialists", "t"): numbers(targets, targets + noise, "rmse"),
        ("a", "t"): numbers(targets, targets + 2 * noise, "rmse"),
    }
    found = Bootstrap.make(made, reference="specialists", resamples=50)
    assert found.points["a", "t"] == pytest.approx(2.0)
    assert found.retention("a", "t") == pytest.approx((0.5, 0.5, 0.5))
    assert found.task_difference("a", "specialists", "t") == pytest.approx((-1.0, -1.0, -1.0))


@pytest.mark.parametrize(
    ("score", "reference", "better", "expected"),
    [
        (0.45, 0.9, "higher", 0.5),
        (-0.2, 0.4, "higher", -0.5),
        (0.5, 0.0, "higher", None),
        (0.5, -0.1, "higher", None),
        (2.0, 1.0, "lower", 0.5),
        (0.0, 1.0, "lower", None),
        (1.0, 0.0, "lower", None),
    ],
)
def test_retention_by_hand(score: float, reference: float, better: str, expected: float | None) -> None:
    assert retention(score, reference, better) == expected


def test_undefined_tasks_are_left_out_of_the_mean() -> None:
    none, all_ = np.zeros(40, bool), np.ones(40, bool)
    half = np.arange(40) % 2 == 0
    made = {
        ("specialists", "t"): answers(none),
        ("a", "t"): answers(half),
        ("specialists", "u"): answers(all_),
        ("a", "u"): answers(half),
    }
    found = Bootstrap.make(made, reference="specialists", resamples=100)
    assert found.retention("a", "t") is None
    mean, worst = found.mean_retention("a"), found.worst_retention("a")
    assert mean is not None and mean.value == 0.5
    assert worst is not None and worst[0] == "u" and worst[1].value == 0.5
    alone = Bootstrap.make({("a", "t"): answers(half)}, resamples=100)
    assert alone.mean_retention("a") is None and alone.worst_retention("a") is None
    assert alone.difference("a", "a") is None


def test_resamples_without_a_retention_are_left_out_or_make_the_interval_undefined() -> None:
    assert interval(0.3, np.array([np.nan, 0.1, 0.5])).low == pytest.approx(0.11)
    assert interval(0.3, np.array([np.nan, np.nan, 0.5])) == Interval(0.3, None, None)


def test_mean_and_worst_by_hand() -> None:
    made = {}
    for task, share in (("t", 40), ("u", 20), ("v", 30)):
        made["specialists", task] = answers(np.ones(40, bool))
        made["a", task] = answers(np.arange(40) < share)
    found = Bootstrap.make(made, reference="specialists", resamples=500)
    mean, worst = found.mean_retention("a"), found.worst_retention("a")
    assert mean is not None and mean.value == pytest.approx(0.75)
    assert mean.low is not None and mean.high is not None and mean.low < 0.75 < mean.high
    assert worst is not None and worst[0] == "u" and worst[1].value == 0.5


@pytest.mark.parametrize(
    "change",
    [
        lambda p: answers(np.ones(11, bool)),
        lambda p: Predictions(BINARY, "validation", p.targets, p.predictions),
        lambda p: Predictions(BINARY, "test", 1 - p.targets, p.predictions),
    ],
)
def test_other_rows_are_no_pairs(change: Callable[[Predictions], Predictions]) -> None:
    one = answers(np.ones(10, bool))
    with pytest.raises(AllroundError, match="did not answer the same rows"):
        Bootstrap.make({("a", "t"): one, ("b", "t"): change(one)})
