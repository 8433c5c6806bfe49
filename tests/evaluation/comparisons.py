"""A small comparison of trainings for the tests of this folder, of made-up answers."""

from __future__ import annotations

from typing import Any

import numpy as np

from allround.evaluation.predictions import Predictions
from allround.evaluation.training import (
    EQUAL,
    SPECIALISTS,
    Reference,
    Training,
    TrainingComparison,
    TrainingCost,
    Tried,
    measure,
)
from allround.tasks.definition import Definition

ROWS = 400
SEEDS = (0, 1, 2)
#: Share of right answers with seed 0; a seed more takes a row more away.
RIGHT = {
    SPECIALISTS: (0.90, 0.90, 0.90),
    EQUAL: (0.90, 0.88, 0.89),
    "tuned": (0.90, 0.885, 0.89),
    "uw": (0.90, 0.88, 0.89),
    "nash_mtl": (0.90, 0.60, 0.89),
}


def definition(task: str) -> Definition:
    return Definition(task, "classification", ("x",), "text", "accuracy", ("no", "yes"))


def answers(task: str, share: float, seed: int) -> Predictions:
    """Right on the first rows of a fixed mixed order; the targets are all the second label."""
    rank = np.random.default_rng(len(task)).permutation(ROWS)
    right = (rank < round(share * ROWS) - seed).astype(np.int64)
    return Predictions(definition(task), "test", np.ones(ROWS, dtype=np.int64), right)


def predictions(
    tasks: tuple[str, ...] = ("one", "two", "three"), seeds: tuple[int, ...] = SEEDS
) -> dict[tuple[str, int, str], Predictions]:
    return {
        (name, seed, task): answers(task, shares[number % 3], seed)
        for name, shares in RIGHT.items()
        for seed in seeds
        for number, task in enumerate(tasks)
    }


def comparison(
    tasks: tuple[str, ...] = ("one", "two", "three"),
    seeds: tuple[int, ...] = SEEDS,
    names: tuple[str, ...] = tuple(RIGHT)[1:],
    **change: Any,
) -> TrainingComparison:
    definitions = {task: definition(task) for task in tasks}
    found = measure([SPECIALISTS, *names], definitions, seeds, predictions(tasks, seeds), resamples=200)
    cost = TrainingCost(12.0, 300.0, 3.0, dict.fromkeys(tasks, 4800.0), 2**30, 0, 3)

    def tried(name: str, factor: float = 1.0, chosen: bool = True, **more: Any) -> Tried:
        kept = {task: RIGHT[name][number % 3] / 0.9 * factor for number, task in enumerate(tasks)}
        return Tried(0.001 * factor, float(np.mean(list(kept.values()))), dict(kept), chosen, 12.0, **more)

    sweep = [tried(EQUAL, 1.0, False, weights=dict.fromkeys(tasks, 1.0))]
    sweep += [tried("tuned", 1.0, True, weights={task: 0.5 + number for number, task in enumerate(tasks)})]
    methods = [
        Training(
            name,
            {"weights": sweep[1].weights} if name == "tuned" else {},
            0.001,
            sweep if name == "tuned" else [tried(name), tried(name, 0.99, False)],
            tuple(tried(name).mean for _ in seeds),
            cost,
            found[name],
        )
        for name in names
    ]
    rates = {task: {"0.001": 0.9, "0.003": 0.8} for task in tasks}
    given: dict[str, Any] = {
        "definitions": definitions,
        "methods": methods,
        "reference": Reference(dict.fromkeys(tasks, 0.001), rates, found[SPECIALISTS].scores, cost),
        "sweep": sweep,
        "seeds": seeds,
        "rows": dict.fromkeys(tasks, ROWS),
        "seed": 0,
        "resamples": 200,
        "tasks": [{"name": t, "kind": "classification", "metric": "accuracy", "inputs": ["x"], "labels": 2,
                   "train": 1000, "validation": 200, "test": ROWS, "notes": []} for t in tasks],
        "settings": {"epochs": 3, "mix": "all"},
        "provenance": {"suite": "made up", "base": "nothing", "machine": "a machine", "date": "2026-01-02",
                       "workers": 2, "total_seconds": 75.0, "versions": {"torch": "2.0"}},
    }  # fmt: skip
    return TrainingComparison(**{**given, **change})
