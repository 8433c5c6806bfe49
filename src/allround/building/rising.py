"""Trainings that ended while they still got better: a specialist like that is a weak reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from allround.core.words import shown
from allround.tasks.metric import better
from allround.tasks.task import Task
from allround.training.course import Evaluation

#: By which share an error must have fallen since the evaluation before.
FALL = 0.02


def rising_words(task: Task, evaluations: Sequence[Evaluation]) -> str | None:
    """What is to be said of a specialist that was still getting better at its last evaluation; None if it was not.

    It was if its last validation score is its best, not perfect, and above the one before by more than one standard
    error of a share on as many rows; an error must have fallen by more than 2 %.
    """
    name, side = task.definition.name, better(task.definition.metric)
    scores = [one["scores"][name] for one in evaluations if name in one["scores"]]
    if len(scores) < 2 or not still_rising(scores, len(task.splits["validation"]), side):
        return None
    before, last = (shown(score, side) for score in scores[-2:])
    return (
        f"The specialist of {name} was still getting better at its last evaluation ({before}, then {last} on "
        "validation): train it longer (--epochs), or retention looks too good."
    )


def still_rising(scores: Sequence[float], rows: int, side: str) -> bool:
    """Whether the last of some scores is the best, and better than the one before by more than noise.

    rows: that they were measured on. side: higher or lower, which is better.

    >>> still_rising([0.5, 0.81, 0.86], 100, "higher"), still_rising([0.5, 0.81, 0.84], 100, "higher")
    (True, False)
    >>> still_rising([0.5, 0.8, 0.9, 0.7], 100, "higher"), still_rising([4.0, 3.0, 2.9], 100, "lower")
    (False, True)
    >>> still_rising([0.5, 1.0], 100, "higher")
    False
    """
    before, last = scores[-2:]
    if side == "lower":
        return last < (1 - FALL) * before and last <= min(scores)
    share = min(max((before + last) / 2, 0.0), 1.0)
    return last - before > math.sqrt(share * (1 - share) / rows) and max(scores) <= last < 1


def rising_specialists(tasks: Mapping[str, Task], evaluations: Mapping[str, Sequence[Evaluation]]) -> list[str]:
    """The same of each task's specialist, where it is to be said. evaluations: of each that was not given."""
    found = [rising_words(task, evaluations.get(name, ())) for name, task in tasks.items()]
    return [words for words in found if words is not None]
