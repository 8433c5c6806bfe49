"""Pictures of a scoreboard: how much each system keeps, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from allround.core.errors import AllroundError
from allround.core.words import percent
from allround.evaluation.charts import ABOVE, BELOW, NARROW, ROW, TALL_ROW, Point, Row, draw_points, draw_rows
from allround.evaluation.pictures import Picture, add_axes, colour, grid, name_points, picture, style, ticks, write
from allround.evaluation.scoreboard.scores import CostName, ScoredSystem, Scores
from allround.evaluation.scoreboard.simple import SIMPLE

#: Costs to draw, and what they are.
COSTS: dict[CostName, str] = {
    "stored": "parameters stored for all tasks (log scale)",
    "seconds": "seconds of training, search and merging (log scale)",
}
#: Roles of systems that may lie far below the others, and are then named beside the picture.
FAR = ("floor", *SIMPLE)
_HEIGHT = 380.0
#: With more systems than this only the best merges have names.
MOST_NAMED, BEST_MERGES = 10, 2


@style()
def plot_retention(board: Scores, *, width: float = 720.0) -> Picture:
    """Mean retention of each system with its 95% interval, the highest first; single tasks as small dots, and the worst
    task in words.

    width: in points; below `NARROW`, names stand above their lines.
    """
    _check(board, "draw the retention of systems")
    rows = []
    known = [system for system in board.systems if system.name in board.mean]
    for system in sorted(known, key=lambda system: -board.mean[system.name].value):
        mean, worst = board.mean[system.name], board.worst.get(system.name)
        shares = [board.cells[system.name][task].retention for task in board.trained]
        kept = [share for share in shares if share is not None]
        words = f"{percent(worst.value)} {worst.task}" if worst and system.name != board.reference else ""
        low, high = (None, None) if system.name == board.reference else (mean.low, mean.high)
        best = system.name == board.best
        dots = () if system.name == board.reference else tuple(kept)
        rows.append(Row(system.name, system.role, mean.value, low, high, dots, words, best, best))
    if width < NARROW:
        made = picture(width, ABOVE + TALL_ROW * len(rows) + BELOW)
        draw_rows(made, rows, top=ABOVE, left=4, right=width - 4, title="retention, %", heading="worst task")
        return made
    made = picture(width, ABOVE + ROW * len(rows) + BELOW)
    title = "retention, % (large: mean over the tasks; small dots: single tasks)"
    draw_rows(made, rows, top=ABOVE, left=4, right=width - 4, names=170, words=150, title=title, heading="worst task")
    return made


@style()
def plot_cost(board: Scores, by: CostName = "stored", *, width: float = 520.0) -> Picture:
    """Mean retention of each system with its 95% interval against a cost.

    by: "stored", the parameters stored for all tasks, or "seconds" of training, search and merging. width: in points.
    Circles are merged, diamonds trained jointly, squares specialists, triangles other systems, such as trees; hollow
    ones a base or floor; a ring is the chosen one.
    Systems without this cost, and a base, a baseline or the floor far below all others, are named below the picture.
    """
    asked = f"draw retention against {by!r}"
    if by not in COSTS:
        raise AllroundError(asked, "it is not a cost that is drawn", f"use one of: {', '.join(COSTS)}")
    _check(board, asked)
    drawn, left_out = drawn_by(board, by)
    if len(drawn) < 2:
        raise AllroundError(asked, f"this cost is known of {len(drawn)} systems", "compare at least two systems")
    points = [_point(board, system, _cost(system, by)) for system in drawn]
    made = picture(width, _HEIGHT + 16 * bool(left_out))
    axes = add_axes(made, 46, 28, width - 16, _HEIGHT - 50)
    across = _log_ticks(min(p.x for p in points), max(p.x for p in points))
    axes.set_xscale("log")
    margin = (across[-1] / across[0]) ** 0.05
    axes.set_xlim(across[0] / margin, across[-1] * margin)
    axes.set_xticks(across, [_short(x) for x in across])
    axes.set_xticks([], minor=True)
    axes.tick_params(axis="x", length=5)
    axes.spines["bottom"].set(visible=True, color=colour("soft"), linewidth=1)
    grid(axes, ticks(min(p.low for p in points), max(p.high for p in points)), across=True, marked=100)
    axes.set_xlabel(COSTS[by], color=colour("soft"), fontsize=12, labelpad=6)
    write(made, 2, 12, "mean retention, %", ink="soft")
    named, plain = _named(points)
    if plain:
        x, y = zip(*((point.x, point.y) for point in plain), strict=True)
        (dots,) = axes.plot(x, y, "o", color=colour("merge"), markersize=5, markeredgewidth=0, alpha=0.5, zorder=1.9)
        name_points(dots, [f"{point.name}: {point.y:.1f}" for point in plain])
    draw_points(axes, named, others=[(point.x, point.y, 3) for point in plain])
    if left_out:
        aside = ", ".join(f"{system.name} {percent(board.mean[system.name].value)}%" for system in left_out)
        write(made, 2, _HEIGHT + 8, f"Not drawn: {aside}", ink="soft")
    return made


def _named(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """The points with names, and those that are small dots: of many systems, all merges but the best and the chosen
    one."""
    merges = sorted((p for p in points if p.role == "merge" and not p.ringed), key=lambda point: -point.y)
    plain = merges[BEST_MERGES:] if len(points) > MOST_NAMED else []
    return [point for point in points if point not in plain], plain


def drawn_by(board: Scores, by: CostName) -> tuple[list[ScoredSystem], list[ScoredSystem]]:
    """The systems to draw against a cost, and those whose retention is known but which are named aside."""
    known = [s for s in board.systems if s.name in board.mean]
    values = [board.mean[s.name].value for s in known if s.role not in FAR]
    least = min(values) - max(0.03, 0.5 * (max(values) - min(values))) if values else -math.inf
    far = [s for s in known if s.role in FAR and board.mean[s.name].value < least]
    drawn = [s for s in known if s not in far and _cost(s, by) > 0]
    return drawn, [s for s in known if s not in drawn]


def _check(board: Scores, asked: str) -> None:
    if not board.mean:
        raise AllroundError(
            asked,
            "the scoreboard has no retention: it has no specialists, or none whose score is above 0",
            "make a scoreboard with the specialists as its reference, as `build` does",
        )


def _cost(system: ScoredSystem, by: CostName) -> float:
    cost = system.cost
    if by == "stored":
        return float(cost.parameters_stored)
    return cost.training_seconds + cost.search_seconds + cost.merge_seconds


def _point(board: Scores, system: ScoredSystem, x: float) -> Point:
    mean = board.mean[system.name]
    low = mean.value if mean.low is None else mean.low
    high = mean.value if mean.high is None else mean.high
    return Point(system.name, system.role, x, 100 * mean.value, 100 * low, 100 * high, system.name == board.best)


def _log_ticks(low: float, high: float) -> list[float]:
    """Numbers 1, 2 or 5 times a power of ten around [low, high]; powers alone when the range is wide."""
    numbers = [factor * 10.0**power for power in range(-4, 16) for factor in (1, 2, 5)]
    if high / low > 300:
        numbers = numbers[::3]
    first = max((i for i, number in enumerate(numbers) if number <= low), default=0)
    last = min((i for i, number in enumerate(numbers) if number >= high), default=len(numbers) - 1)
    return numbers[first : max(last, first + 1) + 1]


def _short(value: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"
