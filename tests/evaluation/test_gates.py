"""Flips and the gate for a new version: counted by hand, and what a gate must refuse."""

from __future__ import annotations

import numpy as np
import pytest

from allround.core.errors import AllroundError
from allround.evaluation.flips import Flips, flips_of, right_rows
from allround.evaluation.gate import GatedTask, gate, holm
from allround.evaluation.predictions import Predictions
from allround.tasks.definition import Definition

LABELS = Definition("mood", "classification", ("x",), "text", "accuracy", ("good", "bad", "so"))
NUMBERS = Definition("stars", "regression", ("x",), "text", "pearson")


def said(answers: list[int], targets: list[int]) -> Predictions:
    return Predictions(LABELS, "test", np.array(targets), np.array(answers))


def one(before: Predictions, after: Predictions, **more: float) -> GatedTask:
    (found,) = gate({"mood": before}, {"mood": after}, **more)  # type: ignore[arg-type]
    return found


def test_flips_are_counted_by_hand() -> None:
    targets = [0, 0, 1, 1, 2, 2]
    old, new = said([0, 0, 1, 0, 1, 0], targets), said([0, 1, 1, 1, 0, 0], targets)
    assert flips_of(old, new) == Flips(rows=6, lost=1, gained=1, changed=1)
    assert flips_of(old, old) == Flips(6, 0, 0, 0)
    assert right_rows(old).tolist() == [True, True, True, False, False, False]
    tags = Definition("tags", "token_classification", ("x",), "text", "token_accuracy", ("a", "b"))
    words = [np.array([0, 1]), np.array([1])]
    tagged = Predictions(tags, "test", words, [np.array([0, 1]), np.array([0])])
    assert flips_of(tagged, Predictions(tags, "test", words, [np.array([0, 0]), np.array([1])])) == Flips(2, 1, 1, 0)
    numbers = Predictions(NUMBERS, "test", np.array([1.0, 2.0]), np.array([1.0, 2.5]))
    assert flips_of(numbers, numbers) is None
    with pytest.raises(AllroundError, match="did not answer the same rows"):
        flips_of(old, said([0], [0]))


def test_unchanged_answers_pass_whatever_the_rows() -> None:
    few = said([0, 1, 1], [0, 1, 2])
    found = one(few, few, keep=1.0, max_flips=0.0)
    assert found.passed and found.p == 0 and found.low == 1 and found.retention == (1.0, 1.0, 1.0)


def test_a_clear_loss_does_not_pass_and_few_rows_show_nothing() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 1000).tolist()
    worse = [(t + 1) % 3 if n % 10 == 0 else t for n, t in enumerate(targets)]
    found = one(said(targets, targets), said(worse, targets))
    assert not found.passed and found.p == 1 and found.flips == Flips(1000, 100, 0, 0)
    assert found.reasons[0].startswith("keeps 90.0%, less than 98.0%") and "10.0% of its rows turn" in found.reasons[1]
    assert found.low is not None and 0.88 < found.low < 0.90
    one_of_fifty = [(t + 1) % 3 if n == 0 else t for n, t in enumerate(targets[:50])]
    few = one(said(targets[:50], targets[:50]), said(one_of_fifty, targets[:50]), max_flips=0.05)
    assert few.retention is not None and few.retention.value >= 0.98
    assert few.reasons == ("keeps 98.0%, but its 50 rows do not show that it keeps 98.0%",)


def test_many_rows_show_that_enough_is_kept() -> None:
    """A thousandth is lost of 4,000 rows: the lower bound is far above 98%."""
    targets = [0, 1, 2, 0] * 1000
    slightly = [(t + 1) % 3 if n % 1000 == 0 else t for n, t in enumerate(targets)]
    found = one(said(targets, targets), said(slightly, targets))
    assert found.passed and found.flips is not None and found.flips.lost_share == 0.001


def test_nothing_to_keep_passes() -> None:
    rows = np.array([1.0, 2.0, 3.0])
    upside_down, better = (Predictions(NUMBERS, "test", rows, np.array(made)) for made in ([3.0, 2, 1], [1.0, 2, 3]))
    (found,) = gate({"stars": upside_down}, {"stars": better})
    assert found.retention is None and found.passed and found.flips is None


def test_holm_by_hand_and_over_tasks() -> None:
    """Of three tasks alone at 0.03 each, none passes together at 0.05."""
    assert holm([0.03, 0.03, 0.03]) == pytest.approx([0.09, 0.09, 0.09])
    assert holm([]) == []
    with pytest.raises(ValueError, match="other tasks"):
        gate({"mood": said([0], [0])}, {})
