"""Pictures of a comparison of trainings: the trade-off on validation, and mean retention on the test rows."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from matplotlib.figure import Figure

from allround.core.errors import AllroundError
from allround.core.words import listed, plural
from allround.evaluation.charts import (
    ABOVE,
    BELOW,
    LONGEST,
    NARROW,
    ROW,
    TALL_ROW,
    Point,
    Row,
    draw_points,
    draw_rows,
)
from allround.evaluation.pictures import Picture, add_axes, colour, grid, picture, style, svg_text, ticks, write
from allround.evaluation.training.results import EQUAL, SPECIALISTS, Baseline, Training, TrainingResults, Tried

#: Width of each of the two pictures, in points.
WIDTH = 520.0
_HEIGHT, _GAP, _EDGE = 380.0, 40.0, 20.0
Place = tuple[float, float]


@style()
def plot_trade_off(results: TrainingResults, *, width: float = WIDTH) -> Picture:
    """The methods and the sweep of fixed weights on the validation rows, in percent of the specialists.

    Of two tasks each has an axis; of more the axes are mean retention and the least retention of a task. width: in
    points.
    """
    made = picture(width, _HEIGHT)
    _draw_trade_off(made, results, 0, 0, width)
    return made


@style()
def plot_retention(results: TrainingResults, *, width: float = WIDTH) -> Picture:
    """Mean retention of each method on the test rows with its 95% interval; small dots are single seeds.

    width: in points; below `NARROW`, names stand above their lines.
    """
    rows = _rows(results)
    if not rows:
        raise AllroundError(
            "draw the retention of methods",
            f"retention is undefined: no score of the {SPECIALISTS} is above 0",
            "compare trainings on tasks that the specialists learn",
        )
    made = picture(width, ABOVE + (TALL_ROW if width < NARROW else ROW) * len(rows) + BELOW)
    _draw_retention(made, rows, 0, 0, width)
    return made


@style()
def plot(results: TrainingResults) -> Picture:
    """Both pictures side by side, with what they were measured on."""
    rows = _rows(results)
    captions = [trade_off_caption(results)] + ([retention_caption(results)] if rows else [])
    titles = ["On validation: methods and the weight sweep", "On test: mean retention of each method"]
    lines = [textwrap.wrap(caption, 84) for caption in captions]
    high = max(_HEIGHT, ABOVE + ROW * len(rows) + BELOW if rows else 0)
    wide = len(captions) * WIDTH + (len(captions) - 1) * _GAP + 2 * _EDGE
    made = picture(wide, 82 + high + 17 * max(map(len, lines)) + 24)
    write(made, _EDGE, 32, results.title, size=16, bold=True)
    for number, (title, below) in enumerate(zip(titles, lines, strict=False)):
        left = _EDGE + number * (WIDTH + _GAP)
        write(made, left, 64, title, size=13, bold=True)
        height = _HEIGHT if number == 0 else ABOVE + ROW * len(rows) + BELOW
        for line, text in enumerate(below):
            write(made, left, 82 + height + 17 * (line + 1), text, size=11.5, ink="soft")
    _draw_trade_off(made, results, _EDGE, 76, WIDTH)
    if rows:
        _draw_retention(made, rows, _EDGE + WIDTH + _GAP, 76, WIDTH)
    return made


def svg(results: TrainingResults) -> str:
    """`plot` as a file of its own."""
    return svg_text(plot(results), results.title)


def trade_off_caption(results: TrainingResults) -> str:
    """What the trade-off shows, where several methods share a place, and what is not drawn."""
    shown = _Shown.of(results)
    rows = sum(task.get("validation") or 0 for task in results.tasks)
    parts = [
        f"Validation rows{f' ({rows:,})' if rows else ''}, seed {results.seeds[0]}: each method with its chosen "
        f"settings. Right and up is better; 100 is the {SPECIALISTS}."
    ]
    if shown.swept:
        line = "; the line joins those that no other one beats" if len(shown.line) > 1 else ""
        parts.append(f"Hollow dots: the sweep of fixed weights, {plural(len(shown.swept), 'point')}{line}.")
    parts.append("Diamonds: fixed weights.")
    if len(results.methods) > 1:
        parts.append("Ring: best on validation.")
    shared = [listed([one.name for one in ones]) for ones in shown.methods.values() if len(_joined(ones)) > LONGEST]
    if shared:
        parts.append(f"At one place: {'; '.join(shared)}.")
    far = [f"{one.name} ({place[0]:.1f}, {place[1]:.1f})" for place, ones in shown.far.items() for one in ones]
    if hidden := len(shown.swept) - len(shown.dots):
        far.append(f"{plural(hidden, 'point')} of the sweep")
    if far:
        parts.append(f"Far below and not drawn: {', '.join(far)}.")
    return " ".join(parts)


def retention_caption(results: TrainingResults) -> str:
    """What the picture of the test rows shows."""
    several = len(results.seeds) > 1
    over = "over seeds and rows, small dots single seeds" if several else "over rows"
    return (
        f"Test rows ({sum(results.rows.values()):,}), mean over {plural(len(results.seeds), 'seed')}; lines are 95% "
        f"intervals {over}. 100 is the {SPECIALISTS}. Right: the paired difference to {EQUAL}, bold where it is not 0 "
        "at 95%."
    )


def front(points: Iterable[Place]) -> list[Place]:
    """Those of the points that no other one beats in both coordinates, from left to right.

    >>> front([(1, 3), (2, 2), (1, 1), (3, 0)])
    [(1, 3), (2, 2), (3, 0)]
    """
    found: list[Place] = []
    for point in sorted(set(points), reverse=True):
        if not found or point[1] > found[-1][1]:
            found.append(point)
    return found[::-1]


@dataclass(frozen=True)
class _Shown:
    """What the trade-off draws: methods by place, and those far below; the sweep, its drawn dots, and its front."""

    methods: dict[Place, list[Training]]
    far: dict[Place, list[Training]]
    swept: list[Place]
    dots: list[Place]
    line: list[Place]

    @classmethod
    def of(cls, results: TrainingResults) -> _Shown:
        methods: dict[Place, list[Training]] = {}
        for one in results.methods:
            methods.setdefault(_place(results, one.chosen), []).append(one)
        swept = [_place(results, tried) for tried in results.sweep]
        least = _least([*methods, *swept])
        near = {place for place in (*methods, *swept) if place[0] >= least[0] and place[1] >= least[1]}
        return cls(
            {place: ones for place, ones in methods.items() if place in near},
            {place: ones for place, ones in methods.items() if place not in near},
            swept,
            [place for place in swept if place in near],
            [place for place in front(swept) if place in near],
        )


def _place(results: TrainingResults, tried: Tried) -> Place:
    """Where a setting stands, in percent: retention of the two tasks, or mean and least retention of more."""
    if len(results.definitions) == 2:
        first, other = (100 * (tried.retention[task] or 0.0) for task in results.definitions)
        return first, other
    return 100 * tried.mean, 100 * tried.worst


def _least(places: Sequence[Place]) -> Place:
    """From where on places are drawn: one far below the others would squeeze them together."""
    ends = []
    for values in zip(*places, strict=True):
        middle = median(values)
        ends.append(middle - max(5 * median(abs(v - middle) for v in values), 3.0))
    return ends[0], ends[1]


def _role(method: Baseline | Training) -> str:
    """Fixed weights are drawn as diamonds, balancers as circles, and what is no joint training as triangles."""
    if isinstance(method, Baseline):
        return "baseline"
    return "joint" if method.name.partition(":")[0] in (EQUAL, "tuned", "fixed") else "merge"


def _joined(ones: Sequence[Training]) -> str:
    return ", ".join(one.name for one in ones)


def _draw_trade_off(figure: Figure, results: TrainingResults, left: float, top: float, width: float) -> None:
    shown = _Shown.of(results)
    places = [*shown.methods, *shown.dots]
    x_ticks, y_ticks = (ticks(min(p[i] for p in places), max(p[i] for p in places), 5) for i in (0, 1))
    if len(results.definitions) == 2:
        titles = [f"retention of {task}, %" for task in results.definitions]
    else:
        titles = ["mean retention, %", "least retention of a task, %"]
    axes = add_axes(figure, left + 46, top + 28, left + width - 16, top + _HEIGHT - 50)
    grid(axes, x_ticks, across=False, marked=100, margin=0.03)
    grid(axes, y_ticks, across=True, marked=100)
    axes.set_xlabel(titles[0], color=colour("soft"), fontsize=12, labelpad=6)
    write(figure, left + 2, top + 12, titles[1], ink="soft")
    if len(shown.line) > 1:
        axes.plot(*zip(*shown.line, strict=True), color=colour("base"), linewidth=1.5, clip_on=False, zorder=1.6)
    if shown.dots:
        axes.plot(*zip(*shown.dots, strict=True), "o", markersize=7, markerfacecolor=colour("paper"),
                  markeredgecolor=colour("base"), markeredgewidth=1.5, clip_on=False, zorder=1.8)  # fmt: skip
    points = []
    for place, ones in shown.methods.items():
        name = _joined(ones)
        name = name if len(name) <= LONGEST else f"{ones[0].name} + {len(ones) - 1} more"
        ringed = results.best in ones and len(results.methods) > 1
        points.append(Point(name, _role(ones[0]), *place, place[1], place[1], ringed))
    others = [(*dot, 5.0) for dot in shown.dots]
    for a, b in pairwise(shown.line):
        others += [(a[0] + (b[0] - a[0]) * i / 40, a[1] + (b[1] - a[1]) * i / 40, 3.0) for i in range(41)]
    draw_points(axes, points, others=others, whiskers=False)


def _rows(results: TrainingResults) -> list[Row]:
    rows = []
    for one in results.tested:
        mean, beside = one.test.mean, one.test.equal.mean
        if mean is None:
            continue
        ringed = one is results.best and len(results.methods) > 1
        row = Row(one.name, _role(one), mean.value, mean.low, mean.high, mean.seeds, ringed=ringed)
        if one.name != EQUAL and beside is not None:
            found = beside.verdict != "no difference found"
            row = replace(row, words=beside.points.replace("-", "−"), bold=found)
        rows.append(row)
    return rows


def _draw_retention(figure: Figure, rows: Sequence[Row], left: float, top: float, width: float) -> None:
    narrow, title, heading = width < NARROW, "mean retention, %", f"vs {EQUAL}, points"
    draw_rows(
        figure,
        rows,
        top=top + ABOVE,
        left=left + 4 * narrow,
        right=left + width - 4 * narrow,
        names=0 if narrow else 136,
        words=0 if narrow else 140,
        title=title,
        heading=heading,
    )
