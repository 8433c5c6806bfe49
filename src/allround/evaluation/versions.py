"""Two versions of a model on the same rows: what got better, what got worse, and which answers changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from allround.core.errors import AllroundError
from allround.core.seeds import seed_of
from allround.core.words import percent, shown
from allround.evaluation.flips import Flips, flips_of, right_rows
from allround.evaluation.gate import holm
from allround.evaluation.intervals import LEVEL, Bootstrap, Interval, check_same_rows
from allround.evaluation.predictions import Predictions
from allround.tasks.kind import kind
from allround.tasks.metric import better

#: The metric whose difference follows from the rows that turned alone, so that it has an exact test.
_EXACT = "accuracy"


@dataclass(frozen=True)
class LabelFlips:
    """The rows of one label, and how many of them turned from right to wrong, and from wrong to right."""

    label: str
    rows: int
    lost: int
    gained: int


@dataclass(frozen=True)
class TaskVersions:
    """One task as two versions answer it.

    old, new: scores with 95% intervals. difference: new less old, turned so that higher is better. p: of the
    difference, by `test` ("mcnemar", exact, or "bootstrap"), after Holm's correction over tasks. flips: None for tasks
    of numbers. by_label: the labels with flips, the most first. confidence: the mean of each version, where both give
    one.
    """

    task: str
    metric: str
    rows: int
    old: Interval
    new: Interval
    difference: Interval
    p: float
    test: str
    flips: Flips | None
    by_label: Sequence[LabelFlips] = ()
    confidence: tuple[float, float] | None = None

    @property
    def verdict(self) -> str:
        """ "better", "worse", or "no difference found" at 5% over all tasks."""
        if self.p > 1 - LEVEL:
            return "no difference found"
        return "better" if self.difference.value > 0 else "worse"


@dataclass(frozen=True)
class Gates:
    """What a new version must keep to. None: not asked.

    max_flips: the share of a task's rows that may turn from right to wrong. max_drop: how far a task's score may fall,
    in the metric's units (0.01 is one point). no_worse_task: no task may be worse. floor: for each task the share of
    rows that turn between two versions that are meant to be alike; so many may turn in any case.
    """

    max_flips: float | None = None
    max_drop: float | None = None
    no_worse_task: bool = False
    floor: Mapping[str, float] = field(default_factory=dict)

    def broken(self, one: TaskVersions) -> list[str]:
        """What a task does not keep to, in words."""
        found = []
        if self.max_flips is not None and one.flips is not None:
            allowed = max(self.max_flips, self.floor.get(one.task, 0.0))
            if one.flips.lost_share > allowed:
                found.append(f"{percent(one.flips.lost_share)}% of its rows turn from right to wrong, more than "
                             f"{percent(allowed)}%")  # fmt: skip
        if self.max_drop is not None and -one.difference.value > self.max_drop:
            sense = better(one.metric)
            found.append(f"its score falls by {shown(-one.difference.value, sense)}, more than "
                         f"{shown(self.max_drop, sense)}")  # fmt: skip
        if self.no_worse_task and one.verdict == "worse":
            found.append("it is worse")
        return found


def compare(
    old: Mapping[str, Predictions],
    new: Mapping[str, Predictions],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> list[TaskVersions]:
    """Compare two versions on the tasks that both answered, in the order of the old one.

    Tasks scored by accuracy have McNemar's exact test: of the rows that only one version answers rightly, as many
    should be either's. Others have the paired bootstrap: twice the share of resamples on the other side of zero.

    Errors: no task in common; answers to other rows; other labels.
    """
    shared = [task for task in old if task in new]
    if not shared:
        raise AllroundError("compare two versions", f"they answered no task in common: {', '.join(old)} and "
                            f"{', '.join(new)}", "give answers to the same tasks")  # fmt: skip
    pairs = {task: (old[task], as_defined(new[task], old[task])) for task in shared}
    for task, (before, after) in pairs.items():
        check_same_rows(before, after, f"compare two versions on the task '{task}'")
    drawn = resampled(pairs, seed=seed, resamples=resamples)
    found = [_compared(task, *pairs[task], drawn) for task in shared]
    return [replace(one, p=p) for one, p in zip(found, holm([one.p for one in found]), strict=True)]


def resampled(
    pairs: Mapping[str, tuple[Predictions, Predictions]], *, seed: int = 0, resamples: int = 1000
) -> Bootstrap:
    """The paired bootstrap of both versions, "old" and "new", on each task. Where the metric is accuracy, a resample is
    how many rows only one of them answers rightly, both, or none: these four counts are drawn together, which is the
    same as drawing rows, and takes no time."""
    others = {task: pair for task, pair in pairs.items() if pair[0].definition.metric != _EXACT}
    made = {(name, task): pair[place] for task, pair in others.items() for place, name in enumerate(("old", "new"))}
    drawn = Bootstrap.make(made, seed=seed, resamples=resamples)
    points, rows, senses = dict(drawn.points), dict(drawn.resampled), dict(drawn.better)
    for task, (before, after) in pairs.items():
        if task in others:
            continue
        was, now = right_rows(before), right_rows(after)
        counts = np.array([(was & now).sum(), (was & ~now).sum(), (~was & now).sum(), (~was & ~now).sum()])
        generator = np.random.default_rng(seed_of(seed, "versions", task))
        draws = generator.multinomial(len(was), counts / len(was), resamples)
        for name, right, column in (("old", was, 1), ("new", now, 2)):
            points[name, task] = float(right.mean())
            rows[name, task] = (draws[:, 0] + draws[:, column]) / len(was)
        senses[task] = "higher"
    return Bootstrap(points, rows, senses)


def _compared(task: str, before: Predictions, after: Predictions, drawn: Bootstrap) -> TaskVersions:
    flips, difference = flips_of(before, after), drawn.task_difference("new", "old", task)
    if flips is not None and before.definition.metric == _EXACT:
        p, test = mcnemar(flips.lost, flips.gained), "mcnemar"
    else:
        p, test = bootstrap_p(drawn.resampled["new", task] - drawn.resampled["old", task]), "bootstrap"
    sure = None
    if before.confidence is not None and after.confidence is not None:
        sure = float(np.mean(before.confidence)), float(np.mean(after.confidence))
    return TaskVersions(task, before.definition.metric, len(before), drawn.score("old", task), drawn.score("new", task),
                        difference, p, test, flips, label_flips(before, after), sure)  # fmt: skip


def mcnemar(lost: int, gained: int) -> float:
    """The two-sided exact p-value of McNemar's test.

    >>> round(mcnemar(1, 9), 4), mcnemar(3, 3), mcnemar(0, 0)  # 2 * (1 + 10) / 2^10
    (0.0215, 1.0, 1.0)
    """
    from scipy.stats import binomtest

    return 1.0 if lost + gained == 0 else float(binomtest(lost, lost + gained, 0.5).pvalue)


def bootstrap_p(gaps: np.ndarray) -> float:
    """Twice the smaller share of resampled differences on either side of zero, of which each counts one more.

    >>> bootstrap_p(np.array([0.1] * 98 + [-0.1]))
    0.04
    """
    known = gaps[np.isfinite(gaps)]
    if not len(known):
        return 1.0
    least = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (least + 1) / (len(known) + 1))


def label_flips(before: Predictions, after: Predictions) -> list[LabelFlips]:
    """Flips by the label of the row, the most first; none for tasks whose rows have no single label."""
    if before.definition.kind != "classification":
        return []
    was, now, targets = right_rows(before), right_rows(after), np.asarray(before.targets)
    found = []
    for number, label in enumerate(before.definition.labels):
        own = targets == number
        found.append(LabelFlips(label, int(own.sum()), int((own & was & ~now).sum()), int((own & ~was & now).sum())))
    changed = [one for one in found if one.lost or one.gained]
    return sorted(changed, key=lambda one: (-one.lost, -one.gained, one.label))


def new_errors(
    old: Mapping[str, Predictions], new: Mapping[str, Predictions], count: int = 50
) -> list[dict[str, object]]:
    """The rows that only the old version answers rightly, over all tasks; those that the new one is surest of come
    first. Each with its task, its number in the split, its target and both answers: the next test set."""
    found: list[tuple[float, dict[str, object]]] = []
    for task in old:
        if task not in new or kind(old[task].definition.kind).numeric:
            continue
        before, after = old[task], as_defined(new[task], old[task])
        rules, definition = kind(before.definition.kind), before.definition
        targets, was, now = (rules.decode(values, definition)
                             for values in (before.targets, before.predictions, after.predictions))  # fmt: skip
        for row in np.flatnonzero(right_rows(before) & ~right_rows(after)).tolist():
            sure = None if after.confidence is None else float(after.confidence[row])
            about = {"task": task, "split": before.split, "row": row, "target": targets[row], "before": was[row],
                     "now": now[row], "confidence": sure}  # fmt: skip
            found.append((-1.0 if sure is None else sure, about))
    found.sort(key=lambda pair: -pair[0])
    return [about for _, about in found[:count]]


def as_defined(made: Predictions, like: Predictions) -> Predictions:
    """Predictions encoded as others of the same task are: their order of labels, their scale.

    Errors: another kind of task, or other labels.
    """
    own, other = made.definition, like.definition
    if own == other:
        return made
    asked = f"compare two versions on the task '{other.name}'"
    if (own.kind, own.metric) != (other.kind, other.metric):
        raise AllroundError(asked, f"one has it as {own.kind} by {own.metric}, and the other as {other.kind} by "
                            f"{other.metric}", "give answers to the same task")  # fmt: skip
    if set(own.labels) != set(other.labels):
        odd = sorted(set(own.labels) ^ set(other.labels))
        raise AllroundError(asked, f"their labels are not the same: {', '.join(odd[:5])} differ",
                            "give answers to the same task")  # fmt: skip
    rules = kind(own.kind)
    targets, said = (rules.encode(rules.decode(values, own), other) for values in (made.targets, made.predictions))
    order = [own.labels.index(label) for label in other.labels]
    scores = made.scores
    if scores is not None:
        scores = [row[:, order] for row in scores] if isinstance(scores, list) else scores[:, order]
    return replace(made, definition=other, targets=targets, predictions=said, scores=scores)
