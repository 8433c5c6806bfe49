"""Fewer tasks in place of a whole benchmark: which ones, and how far the score from them alone is off.

The error is always that of models which the choice has not seen: each model is left out in turn, tasks are chosen by
the others, and its mean score over all tasks is estimated from its scores on those alone. Beside it stand tasks drawn
at random, and as many rows as the chosen tasks have, drawn at random from all tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.seeds import seed_of
from allround.evaluation.model_scores import ModelScores
from allround.transfer.completing import complete
from allround.transfer.matrix import TaskMatrix, Values

#: How the whole is estimated from the chosen tasks, if nothing else is asked for.
COMPLETIONS = ("mean", "low_rank")
#: Numbers of tasks that are tried, and draws of tasks at random.
COUNTS, DRAWS = (1, 2, 3, 5, 8, 10, 20), 100
#: Models that a table must have, so that one can be left out and the others can be compared.
FEWEST = 3


@dataclass(frozen=True, eq=False)
class KnownTasks:
    """What a choice of tasks may look at: the scores of models on all tasks, (M, T), and how well examples of a task
    (row) serve another one (column), (T, T); None where it is not known."""

    scores: Values
    transfer: Values | None = None


@dataclass(frozen=True)
class Reduced:
    """A choice of tasks and its error. chosen: by all models. error: the root mean square over models that were left
    out, in units of the score. random_tasks: of as many tasks at random, completed in the same way. random_rows: of as
    many rows at random, None where it is not known. rows: of the chosen tasks, None where not known."""

    way: str
    completion: str
    chosen: tuple[str, ...]
    error: float
    random_tasks: float
    random_rows: float | None
    rows: int | None

    @property
    def loses(self) -> bool:
        """Whether a choice at random would do at least as well."""
        return self.error >= min(self.random_tasks, np.inf if self.random_rows is None else self.random_rows)


def similarity(points: Values, slack: float = 1.5) -> Values:
    """(n, n): how near n points are: `slack` times the largest distance, less the distance.

    >>> similarity(np.array([[0.0], [1.0], [4.0]])).tolist()
    [[6.0, 5.0, 2.0], [5.0, 6.0, 3.0], [2.0, 3.0, 6.0]]
    """
    distance = np.sqrt(np.square(points[:, None] - points[None]).sum(-1))
    return np.asarray(slack * distance.max() - distance)


def choose(way: str, known: KnownTasks, count: int, settings: Mapping[str, object] | None = None) -> list[int]:
    """The numbers of `count` tasks that stand for all. way: of the family `reduce`. Errors: a count that cannot be;
    a way that needs transfer where there is none."""
    entry, tasks = registry.find("reduce", way), known.scores.shape[1]
    asked = f"choose {count} of {tasks} tasks by '{way}'"
    if not 1 <= count <= tasks:
        raise AllroundError(asked, "there is no such choice", f"give 1 to {tasks}")
    if "transfer" in entry.needs and known.transfer is None:
        raise AllroundError(asked, "it needs transfer between all tasks", "give a matrix of it, or another way")
    found = list(entry.load()(known, count, **entry.resolve(settings or {})))
    assert len(set(found)) == count, f"{way} chose {found}"
    return found


def random_rows_error(scores: Values, rows: Sequence[int], budget: float) -> float:
    """The standard error of a model's mean score over tasks, where `budget` rows are drawn at random without
    replacement, as many of each task as it allows. scores: (T,), shares of right answers.

    Formula: var = 1/T^2 sum_t p_t (1 - p_t) / m_t * (n_t - m_t) / (n_t - 1)

    >>> round(random_rows_error(np.array([0.5, 0.5]), [101, 101], 50), 6)  # sqrt(1/4 * 2 * 0.25 / 25 * 76 / 100)
    0.061644
    """
    sizes = np.asarray(rows, dtype=np.float64)
    drawn, left, open_ = np.zeros(len(sizes)), float(budget), np.ones(len(sizes), dtype=bool)
    while open_.any() and left > 1e-9:
        added = np.minimum(left / open_.sum(), sizes[open_] - drawn[open_])
        drawn[open_] += added
        left -= added.sum()
        open_ &= drawn < sizes - 1e-9
        if left < 1e-9 * budget:
            break
    spread = scores * (1 - scores) / np.maximum(drawn, 1e-9) * (sizes - drawn) / np.maximum(sizes - 1, 1)
    return float(np.sqrt(spread.sum()) / len(sizes))


def reduce_tasks(
    scores: ModelScores,
    *,
    counts: Sequence[int] | None = None,
    ways: Sequence[str] | None = None,
    completions: Sequence[str] = COMPLETIONS,
    transfer: TaskMatrix | None = None,
    seed: int = 0,
) -> list[Reduced]:
    """Choose tasks by several ways, and say how far off the score is that follows from them.

    counts: how many tasks; by default some up to half of them. ways: of the family `reduce`, with settings as in
    "score_similarity:by=correlation"; by default all whose needs are met. completions: of the family `complete`.
    transfer: from every task to every task, such as the score on the target behind examples of the source.

    Errors: fewer than three models; a score that is not known; a matrix of other tasks.
    """
    asked = f"choose some of {len(scores.tasks)} tasks"
    if len(scores.models) < FEWEST:
        raise AllroundError(asked, f"there are scores of {len(scores.models)} models",
                            f"give {FEWEST} or more: each is left out in turn")  # fmt: skip
    if scores.gaps:
        raise AllroundError(asked, f"{scores.gaps} scores are not known",
                            "leave these out, or fill the gaps: allround.transfer.completing.fill")  # fmt: skip
    known = KnownTasks(scores.values, None if transfer is None else _between(transfer, scores.tasks, asked))
    if ways is None:
        ways = [entry.name for entry in registry.entries("reduce")
                if known.transfer is not None or "transfer" not in entry.needs]  # fmt: skip
    if counts is None:
        counts = [count for count in COUNTS if 2 * count <= len(scores.tasks)] or [1]
    found = []
    for count in counts:
        drawn = {name: _random_tasks(scores, count, name, seed) for name in completions}
        for named in ways:
            way, settings = registry.spelled("reduce", named)
            chosen = [choose(way, KnownTasks(scores.without(m), known.transfer), count, settings)
                      for m in range(len(scores.models))]  # fmt: skip
            own = choose(way, known, count, settings)
            by_rows, rows = _random_rows(scores, chosen), None
            if scores.rows is not None:
                rows = sum(scores.rows[task] for task in own)
            for name in completions:
                gaps = [_gap(scores, m, tasks, name) for m, tasks in enumerate(chosen)]
                found.append(Reduced(named, name, tuple(scores.tasks[t] for t in own), _rms(gaps), drawn[name], by_rows,
                                     rows))  # fmt: skip
    return found


def _gap(scores: ModelScores, model: int, tasks: Sequence[int], completion: str) -> float:
    """By how much the mean score of a model is off that is estimated from some tasks."""
    given = np.full(len(scores.tasks), np.nan)
    given[list(tasks)] = scores.values[model, list(tasks)]
    return float(complete(completion, scores.without(model), given).mean() - scores.values[model].mean())


def _random_tasks(scores: ModelScores, count: int, completion: str, seed: int) -> float:
    generator = np.random.default_rng(seed_of(seed, "reduce", str(count)))
    draws = [generator.choice(len(scores.tasks), count, replace=False) for _ in range(DRAWS)]
    return _rms([_gap(scores, m, tasks.tolist(), completion) for tasks in draws for m in range(len(scores.models))])


def _random_rows(scores: ModelScores, chosen: Sequence[Sequence[int]]) -> float | None:
    if scores.rows is None or not scores.counted:
        return None
    spent = [sum(scores.rows[task] for task in tasks) for tasks in chosen]
    return _rms([random_rows_error(scores.values[m], scores.rows, rows) for m, rows in enumerate(spent)])


def _between(transfer: TaskMatrix, tasks: Sequence[str], asked: str) -> Values:
    """Transfer between tasks, in their order. A task's value for itself that is not known is taken to be the best that
    any task has for it."""
    found = np.array(transfer.take(tasks, tasks).gains)
    own = np.eye(len(tasks), dtype=bool)
    if np.isnan(found[~own]).any():
        raise AllroundError(asked, f"'{transfer.name}' does not know the transfer between all tasks",
                            "give a matrix with a value for each pair, or another way to choose")  # fmt: skip
    best = np.where(own, -np.inf, found).max(0)
    return np.where(own & np.isnan(found), best[None], found)


def _rms(gaps: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(gaps))))
