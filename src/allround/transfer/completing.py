"""Scores that nobody measured, from those of other models: predictions, and how far off they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.seeds import seed_of
from allround.evaluation.model_scores import ModelScores
from allround.transfer.matrix import Values

#: How often gaps of other models are filled anew, and known scores that are hidden at most to measure the error.
ROUNDS, HIDDEN = 10, 300


@dataclass(frozen=True)
class CompletionError:
    """How far predictions of hidden scores are off. error: the root mean square, in units of the score. explained: the
    share of the squared error that is left by the mean of the other models on the same task and that this removes (R^2
    beside that mean); 0 is no better. hidden: how many scores were hidden, one at a time."""

    completion: str
    error: float
    explained: float
    hidden: int


def complete(name: str, others: Values, given: Values, settings: Mapping[str, object] | None = None) -> Values:
    """The scores of a model on all T tasks, from those that are known of it, which stay as they are.

    name: of the family `complete`. others: (M, T), the scores of other models, all known. given: (T,), NaN where it is
    not known. Errors: nothing is known of the model, or of the others.
    """
    asked = f"predict scores by '{name}'"
    if not len(others) or np.isnan(others).any() or np.isnan(given).all():
        raise AllroundError(asked, "no score of the model is known, or one of the other models is not",
                            "give one score or more, and all those of the others")  # fmt: skip
    entry = registry.find("complete", name)
    found = np.asarray(entry.load()(others, given, **entry.resolve(settings or {})), dtype=np.float64)
    return np.where(np.isnan(given), found, given)


def fill(scores: ModelScores, name: str = "low_rank", settings: Mapping[str, object] | None = None) -> ModelScores:
    """A table without gaps: each score that is not known is predicted from the model's others and from other models.

    Gaps begin with the sum of what the model and the task add to the mean, and each model is then completed from the
    present table, several times.

    >>> table = ModelScores.of({"a": {"x": 0.5, "y": 0.2}, "b": {"x": 0.7, "y": 0.4}, "c": {"x": 0.6}})
    >>> fill(table, "additive").values.round(3).tolist()
    [[0.5, 0.2], [0.7, 0.4], [0.6, 0.3]]
    """
    missing = np.isnan(scores.values)
    if missing.all(1).any():
        raise AllroundError("fill a table of scores", "no score of a model is known", "leave this model out")
    table = _sums(scores.values)
    for _ in range(ROUNDS if missing.any() else 0):
        for model in np.flatnonzero(missing.any(1)):
            table[model] = complete(name, np.delete(table, model, axis=0), scores.values[model], settings)
    return replace(scores, values=table)


def _sums(values: Values) -> Values:
    """Gaps filled with what the model and the task add to each other, by alternating means."""
    known = ~np.isnan(values)
    zeros = np.where(known, values, 0.0)
    models = np.zeros((len(values), 1))
    for _ in range(50):
        tasks = (zeros - models * known).sum(0) / np.maximum(known.sum(0), 1)
        models = ((zeros - tasks * known).sum(1) / np.maximum(known.sum(1), 1))[:, None]
    return np.where(known, values, models + tasks)


def completion_errors(
    scores: ModelScores, names: Sequence[str] | None = None, *, seed: int = 0
) -> list[CompletionError]:
    """How well each completion predicts scores that are known, each hidden in turn (at most `HIDDEN`, drawn at random).

    names: of the family `complete`; all by default. Errors: a model or a task with a single score, or two models.
    """
    known = np.argwhere(~np.isnan(scores.values))
    usable = [(m, t) for m, t in known.tolist()
              if (~np.isnan(scores.values[m])).sum() > 1 and (~np.isnan(scores.values[:, t])).sum() > 1]  # fmt: skip
    if len(scores.models) < 3 or not usable:
        raise AllroundError("say how well scores are predicted", "too few of them are known",
                            "give three models or more, with some tasks in common")  # fmt: skip
    order = np.random.default_rng(seed_of(seed, "complete")).permutation(len(usable))[:HIDDEN]
    names = registry.names("complete") if names is None else names
    gaps: dict[str, list[float]] = {name: [] for name in ("", *names)}
    for model, task in (usable[place] for place in order):
        hidden = scores.values.copy()
        hidden[model, task] = np.nan
        truth, others = scores.values[model, task], np.delete(_sums(hidden), model, axis=0)
        gaps[""].append(float(np.nanmean(hidden[:, task]) - truth))
        for name in names:
            gaps[name].append(float(complete(name, others, hidden[model])[task] - truth))
    base = float(np.mean(np.square(gaps.pop(""))))
    return [CompletionError(name, float(np.sqrt(np.mean(np.square(own)))),
                            1 - float(np.mean(np.square(own))) / max(base, 1e-300), len(own))
            for name, own in gaps.items()]  # fmt: skip
