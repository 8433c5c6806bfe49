"""Where the names of points stand in a picture: near their points, over nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

#: Height of a line of text, in points.
LINE = 16.5


@dataclass(frozen=True)
class Box:
    """A part of a picture, in points; y grows upwards."""

    left: float
    bottom: float
    right: float
    top: float

    @classmethod
    def around(cls, x: float, y: float, half: float) -> Box:
        return cls(x - half, y - half, x + half, y + half)

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, wide) * max(0.0, high)


@dataclass(frozen=True)
class Spot:
    """A point of a picture with a name so wide, and the ends of its interval. ringed: with a ring around it."""

    x: float
    y: float
    low: float
    high: float
    width: float
    ringed: bool = False


@dataclass(frozen=True)
class Label:
    """Where a name stands: left of, right of, or in the middle over `x`; and whether a line leads to it from so far
    away from its point."""

    box: Box
    align: str
    leader: bool


def apart(spots: Sequence[Spot], left: float = -math.inf, right: float = math.inf) -> list[Spot]:
    """The spots in their order, set side by side where their intervals would hide each other.

    left, right: the edges that no spot may leave.
    """
    placed: dict[int, Spot] = {}
    for number, spot in sorted(enumerate(spots), key=lambda pair: (pair[1].x, -pair[1].y)):
        x = spot.x
        for shift in (0, 14, -14, 28, -28, 42, -42):
            if not left + 8 <= spot.x + shift <= right - 8:
                continue
            x = spot.x + shift
            near = (other for other in placed.values() if abs(other.x - x) < 13)
            if all(spot.low - 6 > other.high + 6 or spot.high + 6 < other.low - 6 for other in near):
                break
        placed[number] = Spot(x, spot.y, spot.low, spot.high, spot.width, spot.ringed)
    return [placed[number] for number in range(len(spots))]


def place(spots: Sequence[Spot], inside: Box, others: Iterable[Box] = ()) -> list[Label]:
    """A place for each name: the best of many tried, first of those with a ring, then from above.

    inside: the part of the picture that names should stay in. others: what else is drawn.
    """
    taken = [*others, *(Box.around(s.x, s.y, 8) for s in spots)]
    taken += [Box(s.x - 2, s.low, s.x + 2, s.high) for s in spots]
    leaders: list[tuple[float, float]] = []
    found: dict[int, Label] = {}
    for number, spot in sorted(enumerate(spots), key=lambda pair: (not pair[1].ringed, -pair[1].y, -pair[1].x)):
        best, least = None, math.inf
        for order, (box, align) in enumerate(_places(spot)):
            if 0.8 * order >= least:
                break  # what lies further away is no better
            out = max(0.0, inside.left - box.left) + max(0.0, box.right - inside.right)
            out += max(0.0, inside.bottom - box.bottom) + max(0.0, box.top - inside.top)
            penalty = 0.8 * order + 50 * out + sum(box.overlap(other) for other in taken)
            if penalty >= least:
                continue
            line = _line(spot, box)
            penalty += sum(box.overlap(Box.around(*dot, 2)) for dot in leaders)
            penalty += sum(Box.around(*dot, 2).overlap(other) for dot in line for other in taken)
            penalty += sum(Box.around(*dot, 4).overlap(Box.around(*other, 4)) for dot in line for other in leaders) / 4
            if penalty < least:
                best, least = Label(box, align, _distance(spot, box) >= 18), penalty
        assert best is not None
        taken.append(best.box)
        leaders += _line(spot, best.box)
        found[number] = best
    return [found[number] for number in range(len(spots))]


def end(spot: Spot, box: Box) -> tuple[float, float]:
    """The place of a name that is nearest to its point: where a line to it ends."""
    return min(max(spot.x, box.left), box.right), min(max(spot.y, box.bottom + 3), box.top - 3)


def between(a: tuple[float, float], b: tuple[float, float], step: float = 6) -> list[tuple[float, float]]:
    """Dots along a line from a to b.

    >>> between((0, 0), (12, 0))
    [(0.0, 0.0), (6.0, 0.0), (12.0, 0.0)]
    """
    steps = max(1, int(max(abs(a[0] - b[0]), abs(a[1] - b[1])) / step))
    return [(a[0] + (b[0] - a[0]) * i / steps, a[1] + (b[1] - a[1]) * i / steps) for i in range(steps + 1)]


def _distance(spot: Spot, box: Box) -> float:
    x, y = end(spot, box)
    return math.hypot(x - spot.x, y - spot.y)


def _line(spot: Spot, box: Box) -> list[tuple[float, float]]:
    """Dots along the line from a point to its name, where there is one."""
    if _distance(spot, box) < 18:
        return []
    return between((spot.x, spot.y), end(spot, box), 4)[4:-1]


def _places(spot: Spot) -> Iterator[tuple[Box, str]]:
    for step in (11, 22, 36, 52, 70, 90, 115, 140):
        distance = step + 3 if spot.ringed else step
        for degrees in (0, 180, 30, -30, 150, -150, 60, -60, 120, -120, 90, -90):
            x = spot.x + distance * math.cos(math.radians(degrees))
            y = spot.y + distance * math.sin(math.radians(degrees))
            if abs(degrees) == 90:
                yield Box(x - spot.width / 2, y - LINE / 2, x + spot.width / 2, y + LINE / 2), "center"
            elif abs(degrees) < 90:
                yield Box(x, y - LINE / 2, x + spot.width, y + LINE / 2), "left"
            else:
                yield Box(x - spot.width, y - LINE / 2, x, y + LINE / 2), "right"
