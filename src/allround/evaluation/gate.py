"""A gate for a new version of a model: what each old task must keep, decided with the uncertainty of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from allround.core.words import percent
from allround.evaluation.flips import Flips, flips_of
from allround.evaluation.intervals import LEVEL, Bootstrap, Interval
from allround.evaluation.predictions import Predictions

if TYPE_CHECKING:
    from allround.tasks.metric import Array


@dataclass(frozen=True)
class GatedTask:
    """What a gate finds of one task.

    before, after: scores. retention: after / before with its two-sided 95% interval; None where there is nothing to
    keep, as the score before is not above 0. low: the one-sided 95% lower bound of the retention. p: how likely so much
    would be kept if the task kept less than it must, after Holm's correction for the number of tasks. flips: None for
    tasks of numbers. reasons: why it does not pass, in words; none where it does.
    """

    task: str
    metric: str
    rows: int
    before: float
    after: float
    retention: Interval | None
    low: float | None
    p: float
    flips: Flips | None
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.reasons


def gate(
    before: Mapping[str, Predictions],
    after: Mapping[str, Predictions],
    *,
    keep: float = 0.98,
    max_flips: float = 0.02,
    seed: int = 0,
    resamples: int = 1000,
) -> list[GatedTask]:
    """Judge each task that two versions of a model answered.

    A task passes if it keeps `keep` of its score, and no more than `max_flips` of its rows turn from right to wrong.
    That it keeps so much must be shown, not merely likely: the hypothesis that it keeps less is rejected at 5% by the
    paired bootstrap, with Holm's correction over tasks. A task whose answers did not change passes.

    Errors: tasks that only one of the versions answered, or answered on other rows.
    """
    if set(before) != set(after):
        raise ValueError("the versions answered other tasks")
    found = {(name, task): made for name, of in (("before", before), ("after", after)) for task, made in of.items()}
    drawn = Bootstrap.make(found, reference="before", seed=seed, resamples=resamples)
    changed = {task: flips_of(made, after[task]) for task, made in before.items()}
    p_values = dict(zip(before, holm([_p(drawn, task, keep) for task in before]), strict=True))
    return [_judged(task, before[task], drawn, changed[task], p_values[task], keep, max_flips) for task in before]


def _p(drawn: Bootstrap, task: str, keep: float) -> float:
    """The share of resamples in which the task keeps less than it must; 0 where there is nothing to keep."""
    rows = _kept(drawn, task)
    return 0.0 if rows is None else float((rows < keep).mean())


def _kept(drawn: Bootstrap, task: str) -> Array | None:
    """The retention on each resample; a resample in which it is undefined has nothing to lose."""
    if drawn.retention("after", task) is None:
        return None
    _, rows = drawn.mean_over("after", [task])
    return np.where(np.isnan(rows), np.inf, rows)


def _judged(
    task: str, made: Predictions, drawn: Bootstrap, flips: Flips | None, p: float, keep: float, max_flips: float
) -> GatedTask:
    kept, rows = drawn.retention("after", task), _kept(drawn, task)
    low = None if rows is None else float(np.quantile(rows, 1 - LEVEL))
    reasons = []
    if kept is not None and p > 1 - LEVEL:
        said = f"keeps {percent(kept.value)}%"
        worse = kept.value < keep
        reasons.append(f"{said}, less than {percent(keep)}%" if worse else
                       f"{said}, but its {len(made)} rows do not show that it keeps {percent(keep)}%")  # fmt: skip
    if flips is not None and flips.lost_share > max_flips:
        reasons.append(f"{percent(flips.lost_share)}% of its rows turn from right to wrong, more than "
                       f"{percent(max_flips)}%")  # fmt: skip
    scores = drawn.points["before", task], drawn.points["after", task]
    return GatedTask(task, made.definition.metric, len(made), *scores, kept, low, p, flips, tuple(reasons))


def holm(values: Sequence[float]) -> list[float]:
    """P-values corrected for how many there are (Holm, Scandinavian Journal of Statistics 6, 1979).

    >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    found, least = [0.0] * len(values), 0.0
    for place, number in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        least = max(least, min(1.0, (len(values) - place) * values[number]))
        found[number] = least
    return found
