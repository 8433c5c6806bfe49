"""What came of shrinking a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from allround.evaluation.intervals import Interval
from allround.evaluation.timing import RowTime


@dataclass(frozen=True)
class Size:
    """How large a model is. share: of the original's work for a row, in multiply-adds. parameters: of encoder and
    heads. bytes: of its weights. time: of a row on this machine."""

    share: float
    parameters: int
    bytes: int
    time: RowTime


@dataclass(frozen=True)
class TaskKept:
    """What a smaller model keeps of a task, on test rows.

    retention: of the original's score. specialist: of its specialist's, where one was given. difference: from the
    original's score, higher is better.
    """

    task: str
    metric: str
    rows: int
    original: float
    score: Interval
    retention: Interval | None
    difference: Interval
    specialist: Interval | None = None


@dataclass(frozen=True)
class Tried:
    """A smaller model that was tried. validation: mean retention of the original's validation scores; None where it is
    undefined."""

    way: str
    share: float
    validation: float | None
    seconds: float


@dataclass(frozen=True)
class Smaller:
    """The best model of one size that was asked for.

    asked: the size, in words. way: how parts were chosen, by validation rows, among `tried`. kept: by group the numbers
    of the parts that stay; groups: how many there were. tasks, mean, specialists: on test rows; mean retention of the
    original, and of specialists.
    """

    asked: str
    way: str
    size: Size
    kept: Mapping[str, Sequence[int]]
    groups: Mapping[str, int]
    validation: float | None
    tried: Sequence[Tried]
    tasks: Sequence[TaskKept]
    mean: Interval | None
    specialists: Interval | None = None


@dataclass(frozen=True)
class Shrunk:
    """A model that was shrunk, to one size or several.

    chosen: the one of `smaller` that was written. keep: the share of the original's validation scores that it had to
    keep where several sizes were asked for. unjudged: tasks of the model of which no rows were given. threads: of the
    timing.
    """

    model: str
    original: Size
    smaller: Sequence[Smaller]
    chosen: int
    keep: float
    unjudged: Sequence[str]
    threads: int
    seconds: float
    facts: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, object] = field(default_factory=dict)

    @property
    def written(self) -> Smaller:
        return self.smaller[self.chosen]

    def speed(self, one: Smaller) -> RowTime:
        """How many times as fast as the original a model is."""
        return RowTime(*(old / new for old, new in zip(self.original.time, one.size.time, strict=True)))

    @property
    def knee(self) -> int | None:
        """The size from which on a smaller one costs more score than it saves work, by the test rows of the curve; None
        where there are fewer than two sizes or no retention."""
        points = [(1.0, 1.0), *((one.size.share, one.mean.value) for one in self.smaller if one.mean is not None)]
        place = knee(points)
        return None if place is None or len(points) <= len(self.smaller) else place - 1 if place else None


def choose(smaller: Sequence[tuple[float, float | None]], keep: float) -> int:
    """Which of several sizes is written: the smallest that keeps enough, or the one that keeps most where none does.

    smaller: share of the work, and mean retention on validation rows.

    >>> choose([(0.75, 0.99), (0.5, 0.98), (0.25, 0.9)], 0.97), choose([(0.5, 0.9), (0.25, 0.8)], 0.97)
    (1, 0)
    """
    fine = [n for n, (_, kept) in enumerate(smaller) if kept is not None and kept >= keep]
    if fine:
        return min(fine, key=lambda n: smaller[n][0])
    return max(range(len(smaller)), key=lambda n: smaller[n][1] or 0.0)


def knee(points: Sequence[tuple[float, float]]) -> int | None:
    """The point of a curve that lies furthest above the line from its first to its last point; None where none does.

    Source: Satopaa et al., Kneedle, ICDCS Workshops 2011, with the points as they are.

    >>> knee([(1.0, 1.0), (0.75, 0.99), (0.5, 0.97), (0.25, 0.7)]), knee([(1.0, 1.0), (0.5, 0.9)])
    (2, None)
    """
    order = sorted(range(len(points)), key=lambda n: points[n][0])
    if len(points) < 3:
        return None
    x, y = np.array([points[n] for n in order]).T
    above = y - np.interp(x, [x[0], x[-1]], [y[0], y[-1]])
    best = int(above.argmax())
    return order[best] if above[best] > 1e-9 else None
