"""Small boards for the tests of this folder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from allround.evaluation.predictions import Predictions
from allround.evaluation.scoreboard import Scoreboard, ScoredSystem
from allround.models.cost import Cost
from allround.tasks.definition import Definition

SYSTEMS = [
    ScoredSystem("floor", "floor", "Majority", cost=Cost(parameters_stored=10, parameters_used=10)),
    ScoredSystem("specialists", "specialists", "One model a task", single=False, cost=Cost(100.0, 900, 300, 100, 50.0)),
    ScoredSystem(
        "joint", "joint", "Joint training", {"temperature": 2.0}, cost=Cost(110.0, 900, 100, 100, 51.0, 3, 30.0)
    ),
    ScoredSystem("ties", "merge", "TIES", {"keep": 0.2}, cost=Cost(100.0, 900, 100, 100, 52.0, 9, 20.0)),
    ScoredSystem("average", "merge", "Average", cost=Cost(100.0, 900, 100, 100, 52.0, 1, 2.0)),
]
RIGHT = {"floor": 0.5, "specialists": 0.95, "joint": 0.9, "ties": 0.9, "average": 0.6}


def parts(names: tuple[str, ...] = ("one", "two"), label: str = "no") -> dict[str, Any]:
    """Arguments of `Scoreboard.make`: joint and ties answer alike, average is worse; a task of rmse comes last."""
    definitions: dict[str, Definition] = {}
    predictions: dict[tuple[str, str], Predictions] = {}
    n = 400
    for task in names:
        definitions[task] = Definition(task, "classification", ("x",), "text", "accuracy", (label, "yes"))
        rank = np.random.default_rng(len(task)).permutation(n) / n
        for name, share in RIGHT.items():
            targets = np.ones(n, dtype=np.int64)
            predictions[name, task] = Predictions(definitions[task], "test", targets, (rank < share).astype(np.int64))
    definitions["error"] = Definition("error", "regression", ("x",), "text", "rmse", scale=10.0)
    targets = np.random.default_rng(5).normal(size=n)
    noise = np.random.default_rng(6).normal(size=n)
    for name, share in RIGHT.items():
        predictions[name, "error"] = Predictions(definitions["error"], "test", targets, targets + noise * (1.2 - share))
    return {"definitions": definitions, "systems": SYSTEMS, "predictions": predictions}


def board(**change: Any) -> Scoreboard:
    """A board with `ties` as the best."""
    names = {key: change.pop(key) for key in ("names", "label") if key in change}
    validation = {(s.name, "one"): RIGHT[s.name] for s in SYSTEMS}
    given = {"best": "ties", "resamples": 200, "validation": validation, **parts(**names), **change}
    return Scoreboard.make(**given)


def slower(systems: list[ScoredSystem]) -> list[ScoredSystem]:
    """The same systems on a slower day."""
    return [
        replace(s, cost=replace(s.cost, training_seconds=999.0, examples_per_second=1.0, search_seconds=7.0))
        for s in systems
    ]
