"""Pictures of a stream: scores along it and in the end, and how alike arrivals are beside what is forgotten."""

from __future__ import annotations

import numpy as np

from allround.continual.report import REFERENCES
from allround.continual.results import StreamResults
from allround.core.words import plural, size_text
from allround.evaluation.charts import ABOVE, BELOW, NARROW, ROW, TALL_ROW, Row, draw_rows
from allround.evaluation.pictures import (
    Picture,
    add_axes,
    colour,
    grid,
    name_points,
    number,
    picture,
    shortened,
    style,
    svg_text,
    text_width,
    ticks,
    write,
)

#: Width of each picture, in points.
WIDTH = 520.0
#: Strategies that have a line of their own.
LINES = 8
_HEIGHT = 360.0
#: Dashes of the strategies that all others are measured against.
_REFERENCE = (5, 3)


def drawn(found: StreamResults) -> list[str]:
    """The strategies whose curves are drawn: all references, and of the others those that end best."""
    rest = [name for name in found.strategies if name not in REFERENCES]
    kept = {*REFERENCES, *rest[: LINES - len(REFERENCES)]}
    return [name for name in found.strategies if name in kept]


@style()
def plot_curves(found: StreamResults, *, width: float = WIDTH) -> Picture:
    """The mean score on all arrivals so far after each one, in points; the mean over courses. width: in points."""
    made = picture(width, _HEIGHT)
    names = drawn(found)
    curves = {name: 100 * np.mean([np.nanmean(course.scores, 1) for course in found.of(name)], 0) for name in names}
    steps = list(range(1, len(next(iter(curves.values()))) + 1))
    most = max(8, int(0.3 * width / 7.5))
    room = max(text_width(shortened(name, most), 12) for name in names) + 16
    axes = add_axes(made, 40, 30, width - room, _HEIGHT - 46)
    low, high = min(map(np.min, curves.values())), max(map(np.max, curves.values()))
    grid(axes, ticks(low, high, 6), across=True)
    shown = steps if len(steps) <= 10 else [step for step in steps if step == 1 or step % -(-len(steps) // 8) == 0]
    axes.set_xticks(shown, [number(step) for step in shown])
    axes.set_xlim(1, steps[-1])
    axes.set_xlabel("arrivals learned", color=colour("soft"), fontsize=12, labelpad=6)
    write(made, 2, 14, f"{found.metric} x 100, mean over arrivals so far", ink="soft")
    places = apart_by({name: float(curve[-1]) for name, curve in curves.items()}, axes.get_ylim(), _HEIGHT - 76)
    for place, (name, curve) in enumerate(curves.items()):
        ink = colour(f"m{place % LINES}")
        (line,) = axes.plot(steps, curve, "o-", color=ink, linewidth=2, markersize=5, clip_on=False, zorder=2)
        if name in REFERENCES:
            line.set_dashes(_REFERENCE)
        name_points(line, [f"{name} after {plural(step, 'arrival')}: {value:.1f}"
                           for step, value in zip(steps, curve, strict=True)])  # fmt: skip
        write(made, width - room + 12, places[name] + 34, shortened(name, most), ink=f"m{place % LINES}")
    return made


def apart_by(
    values: dict[str, float], limits: tuple[float, float], height: float, least: float = 15.0
) -> dict[str, float]:
    """Where the names of lines stand, in points from the top: near the ends of these, and not over one another.

    >>> apart_by({"a": 10.0, "b": 9.9, "c": 0.0}, (0.0, 10.0), 100.0)
    {'a': 0.0, 'b': 15.0, 'c': 100.0}
    """
    low, high = limits
    names = sorted(values, key=lambda name: -values[name])
    places = [(high - values[name]) / (high - low) * height for name in names]
    for place in range(1, len(places)):
        places[place] = max(places[place], places[place - 1] + least)
    for place in reversed(range(len(places))):
        places[place] = min(places[place], height - least * (len(places) - 1 - place))
    return dict(zip(names, places, strict=True))


@style()
def plot_final(found: StreamResults, *, width: float = WIDTH) -> Picture:
    """The final score of each strategy with its interval, single courses as small dots, and what it remembers."""
    rows = []
    for name in found.strategies:
        mean = found.mean(name, "final")
        dots = tuple(course.measures["final"] for course in found.of(name))
        role = "base" if name in REFERENCES else "merge"
        rows.append(Row(name, role, mean.value, mean.low, mean.high, dots, size_text(found.cost(name, "bytes"))))
    narrow = width < NARROW
    height = ABOVE + (TALL_ROW if narrow else ROW) * len(rows) + BELOW
    made = picture(width, height)
    edge = 4 * narrow
    draw_rows(made, rows, top=ABOVE, left=edge, right=width - edge, names=0 if narrow else 150,
              words=0 if narrow else 90, title=f"final {found.metric} x 100", heading="remembered")  # fmt: skip
    return made


@style()
def plot_overlap(found: StreamResults, *, width: float = WIDTH) -> Picture:
    """For each two arrivals in a row how much the base sees them alike, and how far the score on the first fell when
    the second was learned without any care (`none`)."""
    assert found.overlap is not None
    pairs = np.array(found.overlap.drops(found.of("none")))
    made = picture(width, _HEIGHT)
    axes = add_axes(made, 40, 30, width - 14, _HEIGHT - 46)
    grid(axes, ticks(float(pairs[:, 0].min()), float(pairs[:, 0].max()), 6), across=False, margin=0.03)
    fell = 100 * pairs[:, 1]
    grid(axes, ticks(min(0.0, float(fell.min())), float(fell.max()), 6), across=True, marked=0)
    axes.set_xlabel("overlap of two arrivals to the base, from 0 to 1", color=colour("soft"), fontsize=12, labelpad=6)
    write(made, 2, 14, "points lost on the first when the second came", ink="soft")
    axes.plot(pairs[:, 0], fell, "o", color=colour("m0"), markersize=7, alpha=0.75, clip_on=False, zorder=2)
    return made


def curves_svg(found: StreamResults) -> str:
    """The curves as a picture of their own."""
    return svg_text(plot_curves(found), f"{found.title}: the mean score on all arrivals so far, after each one")
