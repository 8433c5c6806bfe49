"""Measures: what the answers of a system say beside the scores of its tasks, each with an interval over rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from allround.core import registry
from allround.core.errors import AllroundError, suggestion
from allround.core.words import percent, span_text
from allround.evaluation.intervals import Interval, draws, interval
from allround.evaluation.predictions import Predictions
from allround.tasks.metric import Array
from allround.tasks.task import Task

RESAMPLES = 1000


@dataclass(frozen=True)
class MeasureView:
    """What a measure may look at: the answers of one system.

    predictions: by task. prompts: of tasks that are put in several ways, one for each prompt, in their order. tasks,
    split, answer: their rows, and what answers the split of a task, where the system is at hand. fit: what fits a new
    head on the training rows of a task and answers the split with it, where the system has an encoder.
    """

    predictions: Mapping[str, Predictions]
    prompts: Mapping[str, Sequence[Predictions]] = field(default_factory=dict)
    tasks: Mapping[str, Task] = field(default_factory=dict)
    split: str = "test"
    answer: Callable[[Task], Predictions] | None = None
    fit: Callable[[Task], Predictions] | None = None

    def of(self, task: str, asked: str) -> Predictions:
        """The answers to a task. Errors: a task that was not answered."""
        if task not in self.predictions:
            raise AllroundError(asked, f"the task '{task}' was not answered", suggestion(task, list(self.predictions)))
        return self.predictions[task]

    def answering(self, asked: str) -> Callable[[Task], Predictions]:
        """What answers further rows. Errors: the system is not at hand."""
        if self.answer is None:
            raise AllroundError(asked, "there are answers alone, and the system has to answer more rows",
                                "evaluate the model itself: allround evaluate MODEL SUITE --measure ...")  # fmt: skip
        return self.answer

    def fitting(self, asked: str) -> Callable[[Task], Predictions]:
        """What fits a head and answers with it. Errors: the system is not at hand, or has no encoder."""
        if self.fit is None:
            raise AllroundError(asked, "there is no encoder that a head could read",
                                "evaluate a model of one encoder with heads: allround evaluate")  # fmt: skip
        return self.fit

    def several(self, asked: str) -> Mapping[str, Sequence[Predictions]]:
        """The tasks that are put in several ways. Errors: none is."""
        if not self.prompts:
            raise AllroundError(asked, "no task was answered with several prompts",
                                "evaluate a language model on a task with several `prompts`")  # fmt: skip
        return self.prompts


@dataclass(frozen=True, eq=False)
class Measured:
    """One number. name: what it is of, in words. resampled: on resamples of the rows, (B,), which are the same for all
    systems. share: whether it is shown x 100."""

    name: str
    value: float
    resampled: Array
    share: bool = True

    @property
    def interval(self) -> Interval:
        return interval(self.value, self.resampled)

    def less(self, other: Measured) -> Interval:
        """How much more this is than another system's, with the paired interval."""
        return interval(self.value - other.value, self.resampled - other.resampled)

    @property
    def words(self) -> str:
        """The number with its interval.

        >>> Measured("recall", 0.5, np.full(10, 0.5)).words
        'recall: 50.0 [50.0, 50.0]'
        """
        return f"{self.name}: {shown_interval(self.interval, self.share)}"


def shown_interval(found: Interval, share: bool, *, signed: bool = False) -> str:
    """A number with its interval, x 100 if it is a share."""
    if share:
        return percent(found.value, signed=signed) + span_text(found.low, found.high, signed=signed)
    sign = "+" if signed else ""
    ends = "" if found.low is None or found.high is None else f" [{found.low:{sign}.3g}, {found.high:{sign}.3g}]"
    return f"{found.value:{sign}.3g}{ends}"


def measured(name: str, task: str, rows: int, statistic: Callable[[Array], Array], *, share: bool = True) -> Measured:
    """A statistic of rows and its resamples. statistic: from how often each row counts, (b, n), to (b,)."""
    blocks = [statistic(weights) for weights in draws(task, rows, seed=0, resamples=RESAMPLES)]
    return Measured(name, float(statistic(np.ones((1, rows)))[0]), np.concatenate(blocks), share)


def mean_of(name: str, task: str, values: Array, *, share: bool = True) -> Measured:
    """The mean of a value of each row, (n,).

    >>> mean_of("right", "t", np.array([1.0, 0.0, 1.0, 1.0])).value
    0.75
    """
    values = np.asarray(values, dtype=np.float64)
    return measured(name, task, len(values), lambda weights: weights @ values / weights.sum(1), share=share)


def measure(text: str, view: MeasureView) -> list[Measured]:
    """What a measure finds. text: its name and settings, as in "weakest_link:whole=story;parts=read+add"."""
    name, settings = registry.spelled("measure", text)
    found: Iterable[Measured] = registry.find("measure", name).load()(view, **settings)
    return list(found)


def words_of(measures: Iterable[str], view: MeasureView) -> list[str]:
    """What measures find, in words."""
    return [one.words for text in measures for one in measure(text, view)]


def names_in(text: str, asked: str, count: int | None = None) -> list[str]:
    """Names of tasks with plus signs between.

    >>> names_in("digit+parity", "compare", 2)
    ['digit', 'parity']
    """
    found = [name.strip() for name in text.split("+") if name.strip()]
    if len(found) < 2 or (count is not None and len(found) != count):
        raise AllroundError(asked, f"it names {len(found)} tasks: {text!r}",
                            f"name {count or 'two or more'} with a plus sign between: digit+parity")  # fmt: skip
    return found


def scores_of(made: Predictions, asked: str) -> Array:
    """The probability of each label, (n, labels). Errors: a task without."""
    if made.scores is None or isinstance(made.scores, list) or not len(made):
        raise AllroundError(asked, f"the answers to '{made.definition.name}' lack the probability of each label",
                            "give answers to a task with one label a row, with their scores")  # fmt: skip
    return np.asarray(made.scores, dtype=np.float64)
