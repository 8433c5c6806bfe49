"""Systems on the test rows, over several seeds: means, intervals, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from allround.evaluation.intervals import LEVEL, Bootstrap, over_seeds, task_level
from allround.evaluation.predictions import Predictions
from allround.evaluation.training.results import EQUAL, SPECIALISTS, Difference, Estimate, Measured
from allround.tasks.definition import Definition
from allround.tasks.metric import Array


def measure(
    names: Sequence[str],
    definitions: Mapping[str, Definition],
    seeds: Sequence[int],
    predictions: Mapping[tuple[str, int, str], Predictions],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Measured]:
    """Systems on the test rows; predictions are keyed (system, seed, task), of the `specialists` and `equal` too.

    The mean is over the tasks where the retention of every system with every seed is defined.
    """
    made = [
        Bootstrap.make(
            {(n, t): predictions[n, one, t] for n in names for t in definitions},
            reference=SPECIALISTS,
            seed=seed,
            resamples=resamples,
        )
        for one in seeds
    ]
    tasks = [t for t in definitions if all(t in board.defined(n) for board in made for n in names)]
    level = task_level(len(definitions))

    def mean(name: str, of: Sequence[str], less: str | None = None) -> Estimate:
        pairs = [board.mean_over(name, of) for board in made]
        if less is not None:
            others = [board.mean_over(less, of) for board in made]
            pairs = [(a - c, b - d) for (a, b), (c, d) in zip(pairs, others, strict=True)]
        return _estimate(pairs)

    def score(name: str, task: str, less: str | None = None) -> Estimate:
        pairs = [(board.points[name, task], board.resampled[name, task]) for board in made]
        if less is None:
            return _estimate(pairs)
        sign = 1.0 if made[0].better[task] == "higher" else -1.0
        others = [(board.points[less, task], board.resampled[less, task]) for board in made]
        return _estimate([(sign * (a - c), sign * (b - d)) for (a, b), (c, d) in zip(pairs, others, strict=True)],
                         level)  # fmt: skip

    def beside(name: str, other: str) -> Difference:
        return Difference(mean(name, tasks, other) if tasks else None, {t: score(name, t, other) for t in definitions})

    return {
        name: Measured(
            {t: score(name, t) for t in definitions},
            {t: mean(name, [t]) for t in tasks},
            mean(name, tasks) if tasks else None,
            beside(name, EQUAL),
            beside(name, SPECIALISTS),
        )
        for name in names
    }


def _estimate(pairs: Sequence[tuple[float, Array]], level: float = LEVEL) -> Estimate:
    values = [float(value) for value, _ in pairs]
    return Estimate(*over_seeds(values, np.stack([resampled for _, resampled in pairs]), level=level), tuple(values))
