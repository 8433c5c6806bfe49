"""The curve of sizes: what smaller models keep, over the work that they have."""

from __future__ import annotations

from allround.evaluation.charts import Point, draw_points
from allround.evaluation.pictures import Picture, add_axes, colour, grid, picture, style, ticks, write
from allround.evaluation.smaller.result import Shrunk

WIDTH, _HEIGHT = 640.0, 360.0


@style()
def plot_curve(found: Shrunk, *, width: float = WIDTH) -> Picture | None:
    """Mean retention on test rows over the share of the work, with 95% intervals; None where retention is undefined.
    width: in points."""
    known = [(number, one, one.mean) for number, one in enumerate(found.smaller) if one.mean is not None]
    if not known:
        return None
    points = [Point("original", "specialists", 100.0, 100.0, 100.0, 100.0)]
    for number, one, mean in known:
        low, high = (mean.value if end is None else end for end in (mean.low, mean.high))
        points.append(Point(one.asked, "merge", 100 * one.size.share, 100 * mean.value, 100 * low, 100 * high,
                            number == found.knee))  # fmt: skip
    made = picture(width, _HEIGHT)
    axes = add_axes(made, 46, 28, width - 16, _HEIGHT - 50)
    ends = [end for point in points for end in (point.low, point.high)]
    grid(axes, ticks(0.0, 100.0, 5), across=False, margin=0.03)
    grid(axes, ticks(min(ends), max(ends), 5), across=True, marked=100)
    axes.set_xlabel("work for a row, % of the original", color=colour("soft"), fontsize=12, labelpad=6)
    write(made, 2, 12, "scores kept, %", ink="soft")
    line = sorted((point.x, point.y) for point in points)
    axes.plot(*zip(*line, strict=True), color=colour("base"), linewidth=1.5, clip_on=False, zorder=1.6)
    draw_points(axes, points)
    return made


def curve_caption(found: Shrunk) -> str:
    """What the curve shows."""
    ring = " Ring: the knee, the point furthest above the line between the ends." if found.knee is not None else ""
    return f"Mean retention over tasks on test rows; lines are 95% intervals over rows.{ring}"
