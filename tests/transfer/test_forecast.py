"""Scores of larger models from a ladder of smaller ones."""

from __future__ import annotations

import numpy as np
import pytest

from allround.core import checking, registry
from allround.core.errors import AllroundError
from allround.transfer.forecasting import LadderRuns, forecast, forecast_errors


def ladder(top: float = 1.0, noise: float = 0.0) -> LadderRuns:
    """Four sizes on three amounts of data, with a power law of the loss and a sigmoid of the score. Two states on the
    way of each run have more loss."""
    rng, rows = np.random.default_rng(0), []
    for n in (2e8, 4e8, 8e8, 1.6e9):
        for d in (4e9, 1.6e10, 6.4e10):
            for part in (0.3, 0.6, 1.0):
                loss = 12 / n**0.2 + 250 / (part * d) ** 0.3 + 0.5
                score = top - 0.75 / (1 + np.exp(-4 * (loss - 0.9))) + noise * rng.normal()
                rows.append({"parameters": n, "data": d, "loss": loss, "score": score, "final": part == 1})
    return LadderRuns.of(rows)


def test_they_are_documented() -> None:
    for entry in registry.entries("forecast"):
        checking.documented(entry, names={"LadderRuns": LadderRuns, "np": np})


def test_a_planted_law_is_found() -> None:
    runs = ladder()
    errors = {one.way: one for one in forecast_errors(runs)}
    assert errors["model_ladder"].error < 0.01 and errors["one_step"].error < 0.01
    assert len(errors["one_step"].true) == 3
    truth = 1 - 0.75 / (1 + np.exp(-4 * (12 / 1e10**0.2 + 250 / 1e12**0.3 + 0.5 - 0.9)))
    assert forecast("model_ladder", runs, 1e10, 1e12) == pytest.approx(truth, abs=0.02)


def test_the_size_that_is_forecast_is_not_looked_at() -> None:
    runs = ladder()
    other = runs.score.copy()
    other[runs.parameters == 1.6e9] = 0.1
    changed = LadderRuns(runs.parameters, runs.data, runs.loss, other, runs.final)
    for one, two in zip(forecast_errors(runs), forecast_errors(changed), strict=True):
        assert one.predicted == two.predicted and two.error > 0.2


def test_what_is_no_ladder_is_refused() -> None:
    runs = ladder()
    with pytest.raises(AllroundError, match="it has 2 sizes"):
        forecast_errors(runs.take(runs.parameters < 5e8))
    with pytest.raises(AllroundError, match="five or more"):
        runs.take(runs.parameters < 3e8)
    with pytest.raises(AllroundError, match="not above 0"):
        LadderRuns(runs.parameters, runs.data, 0 * runs.loss, runs.score, runs.final)
    with pytest.raises(AllroundError, match="differ in length"):
        LadderRuns(runs.parameters[:5], runs.data, runs.loss, runs.score, runs.final)
