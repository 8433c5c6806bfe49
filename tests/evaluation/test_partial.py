"""Scores from part of the rows: how often the interval holds, against random rows, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.evaluation.flips import right_rows
from allround.evaluation.partial import TaskRows, choose_rows, estimate
from allround.evaluation.predictions import Predictions
from allround.models.encoders.small_image import SmallImage
from allround.models.fitting import fit_head
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.suite import Suite

MOOD = Definition("mood", "classification", ("x",), "text", "accuracy", ("good", "bad"))


def versions(rows: int, seed: int = 0) -> tuple[Predictions, Predictions]:
    """An old version that knows how sure it may be, and a new one that changes what the old was unsure of."""
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0.5, 1, rows)
    right = rng.random(rows) < sure
    turned = right ^ (rng.random(rows) < 0.3 * (1 - sure))
    targets = np.zeros(rows, dtype=np.int64)
    old, new = (Predictions(MOOD, "test", targets, (~one).astype(np.int64), sure.tolist()) for one in (right, turned))
    return old, new


def test_an_estimate_by_hand() -> None:
    """Two strata of four rows, two answered of each; the second one changed in one of its two."""
    drawn = TaskRows("mood", 8, [np.arange(4), np.arange(4, 8)], [np.array([0, 1]), np.array([4, 5])],
                     np.array([1, 1, 1, 1, 0, 0, 0, 0], dtype=bool))  # fmt: skip
    found = estimate(drawn, np.array([True, True, True, False]))
    assert found.value == pytest.approx(0.5 + 0.5 * 0 + 0.5 * 0.5)
    common = (1 + 1) / (4 + 2)
    shares = [(0 + 4 * common) / 6, (1 + 4 * common) / 6]
    half = 1.959964 * (sum(0.25 * 0.5 * p * (1 - p) / 2 for p in shares)) ** 0.5
    assert found.low == pytest.approx(0.75 - half) and found.high == pytest.approx(min(1, 0.75 + half))


def test_the_interval_holds_and_is_narrower_than_that_of_random_rows() -> None:
    """200 draws of a tenth of 400 rows each."""
    old, new = versions(400)
    truth, right = float(right_rows(new).mean()), right_rows(new)
    held, widths, plain = 0, [], []
    for seed in range(200):
        (drawn,) = choose_rows({"mood": 400}, 40, old={"mood": old}, seed=seed)
        assert len(drawn.answered) <= 40
        one = estimate(drawn, right[drawn.answered])
        assert one.low is not None and one.high is not None
        held += one.low <= truth <= one.high
        widths.append(one.high - one.low)
        (alone,) = choose_rows({"mood": 400}, 40, seed=seed)
        other = estimate(alone, right[alone.answered])
        assert other.low is not None and other.high is not None
        plain.append(other.high - other.low)
    assert held >= 190 and np.mean(widths) < 0.75 * np.mean(plain)


def test_all_rows_leave_nothing_to_guess() -> None:
    old, new = versions(60)
    (drawn,) = choose_rows({"mood": 60}, 60, old={"mood": old})
    found = estimate(drawn, right_rows(new)[drawn.answered])
    assert found.low == pytest.approx(found.value) == found.high == pytest.approx(right_rows(new).mean())


def test_dear_rows_are_answered_less() -> None:
    drawn = choose_rows({"a": 1000, "b": 1000}, 500, costs={"a": 1.0, "b": 4.0})
    counts = {one.task: len(one.answered) for one in drawn}
    assert counts["a"] == pytest.approx(2 * counts["b"], rel=0.05) and counts["a"] + 4 * counts["b"] <= 500
    with pytest.raises(AllroundError, match="is too small"):
        choose_rows({"a": 1000}, 2)
    with pytest.raises(AllroundError, match="it answered 60 rows"):
        choose_rows({"mood": 50}, 20, old={"mood": versions(60)[0]})


def test_the_command(tmp_path: Path, small_image: SmallImage, digits_suite: Suite) -> None:
    digit = digits_suite["digit"]
    model = MultiTaskModel(small_image, {})
    model.add_task(digit.definition, fit_head(small_image, digit).state)
    model.save(tmp_path / "m")
    words = ["evaluate", str(tmp_path / "m"), "digits", "--only", "digit", "--limit", "test=100"]
    ran = CliRunner().invoke(app, [*words, "--budget", "50rows", "--beside", str(tmp_path / "m")])
    assert ran.exit_code == 0, ran.output
    assert "Estimated from 50 of 100 rows" in ran.output and "What changed since" in ran.output
    assert CliRunner().invoke(app, [*words, "--budget", "5s"]).exit_code == 0
    for more, said in (
        (["--budget", "ten"], "it is no budget"),
        (["--budget", "50rows", "-o", str(tmp_path / "o")], "--out needs the answers to all rows"),
        (["--beside", "m"], "there is no --budget"),
    ):
        failed = CliRunner().invoke(app, [*words, *more])
        assert failed.exit_code != 0 and said in str(failed.exception), failed.output
