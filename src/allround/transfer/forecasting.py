"""What a larger model will score on a task, from a ladder of smaller ones: runs of several sizes on several amounts of
data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from allround.core import registry
from allround.core.errors import AllroundError
from allround.transfer.matrix import Values

#: Differences of logarithms from which on the Huber loss is linear.
HUBER = 1e-3


@dataclass(frozen=True, eq=False)
class LadderRuns:
    """Runs of small models on one task.

    parameters, data: how large each of R models is, and on how much it was trained, (R,), above 0. loss: of the right
    answer, such as bits per byte; score: from 0 to 1, higher is better. final: whether a row is the end of its run;
    rows that are not are states on the way, and tell only how the score follows from the loss.

    Errors: other shapes; numbers that are not finite, or not above 0; fewer than five ends of runs.
    """

    parameters: Values
    data: Values
    loss: Values
    score: Values
    final: Values

    def __post_init__(self) -> None:
        asked = "read a ladder of small models"
        for name in ("parameters", "data", "loss", "score", "final"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        columns = list(vars(self).values())
        if len({len(one) for one in columns}) != 1 or not np.isfinite(np.concatenate(columns)).all():
            raise AllroundError(asked, "its columns differ in length, or hold a number that is not finite",
                                "give one finite number of each sort for each run")  # fmt: skip
        if min(self.parameters.min(), self.data.min(), self.loss.min()) <= 0:
            raise AllroundError(asked, "a size, an amount of data or a loss is not above 0", "give numbers above 0")
        if self.final.sum() < 5:
            raise AllroundError(asked, f"it has {int(self.final.sum())} runs",
                                "give five or more, as five numbers are fitted")  # fmt: skip

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, float]]) -> LadderRuns:
        """From rows with the keys parameters, data, loss and score, and final where some are states on the way."""
        names = ("parameters", "data", "loss", "score")
        columns = {name: np.array([row[name] for row in rows]) for name in names}
        return cls(**columns, final=np.array([row.get("final", True) for row in rows]))

    def take(self, rows: Values) -> LadderRuns:
        """Some of the rows. rows: (R,), true or false."""
        return LadderRuns(*(one[rows] for one in vars(self).values()))


@dataclass(frozen=True)
class ForecastError:
    """How far off forecasts of the largest size are that follow from the smaller ones alone. predicted, true: of each
    run of that size."""

    way: str
    predicted: tuple[float, ...]
    true: tuple[float, ...]

    @property
    def error(self) -> float:
        """The mean absolute error."""
        return float(np.mean(np.abs(np.subtract(self.predicted, self.true))))


def forecast(
    way: str, runs: LadderRuns, parameters: float, data: float, settings: Mapping[str, object] | None = None
) -> float:
    """The score of a model of so many parameters on so much data. way: of the family `forecast`."""
    entry = registry.find("forecast", way)
    at = np.array([[parameters, data]], dtype=np.float64)
    return float(entry.load()(runs, at, **entry.resolve(settings or {}))[0])


def forecast_errors(runs: LadderRuns, ways: Sequence[str] | None = None) -> list[ForecastError]:
    """The largest size is left out, and its final scores are forecast from the others.

    Errors: fewer than three sizes.
    """
    sizes = np.unique(runs.parameters)
    if len(sizes) < 3:
        raise AllroundError("say how well a ladder forecasts", f"it has {len(sizes)} sizes", "give three or more")
    held = runs.parameters == sizes[-1]
    ends = held & (runs.final > 0)
    kept, found = runs.take(~held), []
    for way in registry.names("forecast") if ways is None else ways:
        guesses = [forecast(way, kept, n, d) for n, d in zip(runs.parameters[ends], runs.data[ends], strict=True)]
        found.append(ForecastError(way, tuple(guesses), tuple(runs.score[ends].tolist())))
    return found


def power_law(at: Values, weights: Values) -> Values:
    """(K,): e^a / N^alpha + e^b / D^beta + E. at: (K, 2), N and D. weights: a, b, alpha, beta, E.

    >>> power_law(np.array([[100.0, 10.0]]), np.array([0.0, 0.0, 0.5, 1.0, 0.3])).round(3).tolist()
    [0.5]
    """
    a, b, alpha, beta, floor = weights
    logs = np.log(at)
    return np.asarray(np.exp(a - alpha * logs[:, 0]) + np.exp(b - beta * logs[:, 1]) + floor)


def fit_power_law(at: Values, values: Values, *, sign: float = 1.0) -> Callable[[Values], Values]:
    """A power law of size and data, fitted to values above 0: Huber loss of the differences of logarithms, by L-BFGS-B
    from a = 3, b = 6, alpha = 0.1, beta = 0.2, E = 1. sign: -1 where values grow with size: E less both powers, from
    a = 1, b = 2."""
    from scipy.optimize import minimize

    def law(points: Values, weights: Values) -> Values:
        powers = power_law(points, np.array([*weights[:4], 0.0]))
        return np.asarray(np.maximum(weights[4] + sign * powers, 1e-9))

    def loss(weights: Values) -> float:
        gaps = np.abs(np.log(law(at, weights)) - np.log(values))
        return float(np.where(gaps < HUBER, gaps**2 / 2, HUBER * (gaps - HUBER / 2)).sum())

    bounds = [(0, None), (0, None), (0, None), (0, None), (0, None)]
    start = [3.0, 6.0, 0.1, 0.2, 1.0] if sign > 0 else [1.0, 2.0, 0.1, 0.2, 1.0]
    found = minimize(loss, start, bounds=bounds, method="L-BFGS-B", tol=0.0,
                     options={"maxiter": 10_000, "maxfun": 100_000})  # fmt: skip
    return lambda points: law(points, found.x)
