"""The two charts of results: named points in a plane, and a line of values for each system."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from allround.core.words import percent, printable
from allround.evaluation.labels import Box, Spot, apart, end, place
from allround.evaluation.pictures import add_axes, colour, grid, shortened, text_width, ticks, write

#: Shapes of points by role; other roles are triangles.
_SHAPES = {"specialists": ("s", 10.0), "joint": ("D", 9.2)} | dict.fromkeys(("merge", "base", "floor"), ("o", 10.0))
_OTHER_SHAPE = ("^", 10.5)
#: Roles whose points are hollow.
_HOLLOW = ("base", "floor")
#: The colour of each role; other roles share one.
_INKS = {"floor": "base", "base": "base", "specialists": "specialists", "joint": "joint", "merge": "merge"}
_OTHER_INK = "m2"
#: Height of a line of values, and the room above and below all lines, in points.
ROW, ABOVE, BELOW = 30.0, 26.0, 46.0
#: In pictures narrower than this, names stand above their lines, each of which is so high.
NARROW, TALL_ROW = 500.0, 44.0
#: Letters of the longest name that is written in full.
LONGEST = 24


@dataclass(frozen=True)
class Point:
    """A system in a plane: a value, and the ends of its interval along y. ringed: the chosen one."""

    name: str
    role: str
    x: float
    y: float
    low: float
    high: float
    ringed: bool = False


@dataclass(frozen=True)
class Row:
    """A system's value (a share) with its interval, single values it is made of, and words beside them."""

    name: str
    role: str
    value: float
    low: float | None
    high: float | None
    dots: tuple[float, ...] = ()
    words: str = ""
    ringed: bool = False
    bold: bool = False


def draw_points(
    axes: Axes,
    points: Sequence[Point],
    *,
    others: Iterable[tuple[float, float, float]] = (),
    whiskers: bool = True,
) -> None:
    """Points with their names, in axes whose limits are set.

    others: what else is drawn, as places in the axes' units and half widths in points. whiskers: draw intervals, and
    set points side by side where theirs would hide each other.
    """
    scale = 72 / axes.figure.dpi

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = axes.transData.transform((x, y))
        return float(across) * scale, float(up) * scale

    spots = []
    for point in points:
        (x, y), low, high = at(point.x, point.y), at(point.x, point.low)[1], at(point.x, point.high)[1]
        width = text_width(shortened(point.name, LONGEST), 13, bold=point.ringed) + 2
        spots.append(Spot(x, y, low, high, width, point.ringed))
    frame = axes.get_window_extent()
    if whiskers:
        spots = apart(spots, frame.x0 * scale, frame.x1 * scale)
    inside = Box(frame.x0 * scale + 2, frame.y0 * scale + 2, frame.x1 * scale + 14, frame.y1 * scale + 18)
    boxes = [Box.around(*at(x, y), half) for x, y, half in others]
    for point, spot, label in zip(points, spots, place(spots, inside, boxes), strict=True):
        x = float(axes.transData.inverted().transform((spot.x / scale, spot.y / scale))[0])
        if whiskers:
            axes.plot([x, x], [point.low, point.high], color=_ink(point.role), alpha=0.65, linewidth=1.5,
                      solid_capstyle="butt", clip_on=False, zorder=2)  # fmt: skip
        _mark(axes, x, point.y, point.role, point.ringed)
        middle = {"left": label.box.left, "right": label.box.right, "center": (label.box.left + label.box.right) / 2}
        axes.annotate(
            printable(shortened(point.name, LONGEST)),
            (x, point.y),
            (middle[label.align] - spot.x, label.box.bottom + 4 - spot.y),
            textcoords="offset points",
            fontsize=13,
            fontweight="bold" if point.ringed else "normal",
            color=colour("ink"),
            horizontalalignment=label.align,
            verticalalignment="baseline",
            annotation_clip=False,
            bbox={"facecolor": colour("paper"), "edgecolor": "none", "boxstyle": "square,pad=0.05"},
            zorder=1.7,
        )
        if label.leader:
            _leader(axes, (x, point.y), spot, label.box)


def draw_rows(
    figure: Figure,
    rows: Sequence[Row],
    *,
    top: float,
    left: float,
    right: float,
    names: float = 0.0,
    words: float = 0.0,
    title: str,
    heading: str = "",
) -> float:
    """A line for each row: its name, its value in percent with the interval, and words; returns where they end.

    top, left, right: edges in points. names, words: the width of the names at the left, and of the words at the right;
    without them, both stand above the line. title: of the axis. heading: of the words. A value far below the others is
    given in words, at the left edge.
    """
    low, high = _range(rows)
    values = ticks(100 * low, 100 * high, 5)
    above = not names
    height, middle = (TALL_ROW, 0.68) if above else (ROW, 0.5)
    bottom = top + height * len(rows)
    edge = 12 if above else 0  # room for half of the first and the last number of the axis
    axes = add_axes(figure, left + names + edge, top, right - words - edge, bottom)
    grid(axes, values, across=False, marked=100)
    axes.set_ylim(len(rows), 0)
    axes.set_xlabel(title, color=colour("soft"), fontsize=12, labelpad=6)
    if heading:
        write(figure, right, top - 10, heading, ink="soft", align="right")
    for place_, row in enumerate(rows):
        y = place_ + middle
        base = top + height * y + 4.5
        line = base - 19 if above else base
        room = (right - left) * 0.6 if above else names
        name = write(figure, left, line, shortened(row.name, max(8, int(room / 8.2))), size=13, bold=row.ringed)
        texts = [name]
        if row.words:
            words_room = (right - left) * 0.4 if above else words
            said = shortened(row.words, max(8, int(words_room / 7)))
            ink = "ink" if row.bold else "soft"
            texts.append(write(figure, right, line, said, ink=ink, bold=row.bold, align="right"))
        for text in texts if above else ():  # lines of the grid do not cross words
            text.set_bbox({"facecolor": colour("paper"), "edgecolor": "none", "pad": 1})
        if row.value < low:
            write(figure, left + names, base, f"◂ {percent(row.value)}", ink="soft")
            continue
        if row.low is not None and row.high is not None:
            axes.plot([100 * row.low, 100 * row.high], [y, y], color=_ink(row.role), alpha=0.65, linewidth=1.5,
                      solid_capstyle="butt", clip_on=False, zorder=2)  # fmt: skip
        if len(row.dots) > 1:
            dots = [100 * value for value in row.dots]
            axes.plot(dots, [y + 9 / height] * len(dots), "o", color=colour("soft"), markersize=4, markeredgewidth=0,
                      alpha=0.55, clip_on=False, zorder=2)  # fmt: skip
        _mark(axes, 100 * row.value, y, row.role, row.ringed, ring=17)
    return bottom + BELOW


def _range(rows: Sequence[Row]) -> tuple[float, float]:
    """The least and the largest value to draw: one far below the others would squeeze them together."""
    middle = median(row.value for row in rows)
    reach = max(5 * median(abs(row.value - middle) for row in rows), 0.1)
    near = [row for row in rows if row.value >= middle - reach]
    ends = [end for row in near for end in (row.low, row.high, row.value) if end is not None]
    ends += [dot for row in near for dot in row.dots]
    return min(ends), max(ends)


def _ink(role: str) -> str:
    return colour(_INKS.get(role, _OTHER_INK))


def _mark(axes: Axes, x: float, y: float, role: str, ringed: bool, ring: float = 20) -> None:
    shape, size = _SHAPES.get(role, _OTHER_SHAPE)
    hollow = role in _HOLLOW
    if ringed:
        axes.plot([x], [y], "o", markersize=ring, markerfacecolor="none", markeredgecolor=colour("ink"),
                  markeredgewidth=1.25, clip_on=False, zorder=3)  # fmt: skip
    axes.plot([x], [y], shape, markersize=size, markerfacecolor=colour("paper") if hollow else _ink(role),
              markeredgecolor=_ink(role) if hollow else colour("paper"), markeredgewidth=1.75 if hollow else 1,
              clip_on=False, zorder=3)  # fmt: skip


def _leader(axes: Axes, at: tuple[float, float], spot: Spot, box: Box) -> None:
    """A thin line from a point to a name that stands away from it."""
    x, y = end(spot, box)
    axes.annotate(
        "",
        at,
        (x - spot.x, y - spot.y),
        textcoords="offset points",
        arrowprops={"arrowstyle": "-", "linewidth": 0.75, "color": colour("soft"), "shrinkA": 0,
                    "shrinkB": 12 if spot.ringed else 8},
        annotation_clip=False,
        zorder=1.5,
    )  # fmt: skip
