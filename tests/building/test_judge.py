"""The choice of the best system, by validation scores alone."""

from __future__ import annotations

from allround.building.judge import Judge
from allround.building.options import Constraints

JUDGE = Judge({"a": "accuracy", "b": "rmse"}, {"a": 0.8, "b": 2.0})
SCORES = {"joint": {"a": 0.8, "b": 2.5}, "ties": {"a": 0.4, "b": 1.0}, "average": {"a": 0.76, "b": 2.0}}
SIZES = {"joint": 10, "ties": 10, "average": 20}


def test_retentions_by_hand() -> None:
    assert JUDGE.retentions(SCORES["joint"]) == {"a": 1.0, "b": 0.8}
    assert JUDGE.retentions(SCORES["ties"]) == {"a": 0.5, "b": 2.0}, "rmse: lower is better"
    assert JUDGE.mean(SCORES["ties"]) == 1.25


def test_without_constraints_the_best_mean_wins() -> None:
    best, words = JUDGE.choose(SCORES, SIZES, Constraints(), tried=7)
    assert best == "ties"
    assert (
        words == "Chosen on validation: ties, mean retention 125.0%, out of 3 single models (7 merge settings tried)."
    )


def test_a_better_one_that_breaks_a_constraint_is_passed_over_and_named() -> None:
    best, words = JUDGE.choose(SCORES, SIZES, Constraints(worst=0.9), tried=0)
    assert best == "average"
    assert "ties is better but retains 50.0% of a, less than the 90.0% asked for" in words


def test_when_nobody_satisfies_the_best_is_taken_and_what_it_breaks_is_said() -> None:
    best, words = JUDGE.choose(SCORES, SIZES, Constraints(worst=0.9, max_parameters=15), tried=0)
    assert best == "ties"
    assert "No single model satisfies that on validation; ties retains 50.0% of a" in words


def test_one_task_may_be_asked_for_alone() -> None:
    assert JUDGE.choose(SCORES, SIZES, Constraints(keep={"a": 0.99}), tried=0)[0] == "joint"


def test_where_the_specialist_scores_nothing_the_task_does_not_count() -> None:
    judge = Judge({"a": "accuracy", "b": "pearson"}, {"a": 0.5, "b": -0.1})
    assert judge.retentions({"a": 0.5, "b": 0.3}) == {"a": 1.0, "b": None}
    assert judge.mean({"a": 0.5, "b": 0.3}) == 1.0
