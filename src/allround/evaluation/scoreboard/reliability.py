"""The picture of reliability: how often answers of like confidence are right, task by task."""

from __future__ import annotations

import math

from matplotlib.axes import Axes

from allround.core.errors import AllroundError, suggestion
from allround.evaluation.calibration import CalibrationFacts, Reliability
from allround.evaluation.pictures import (
    Picture,
    add_axes,
    colour,
    grid,
    name_points,
    picture,
    shortened,
    style,
    write,
)
from allround.evaluation.scoreboard.scores import Scores

#: The least width of a panel, its height, and the room around its axes, in points.
_PANEL, _HEIGHT = 168.0, 206.0
_LEFT, _RIGHT, _ABOVE, _BELOW = 34.0, 10.0, 26.0, 40.0
_TICKS = (0.0, 50.0, 100.0)


@style()
def plot_reliability(board: Scores, system: str | None = None, *, width: float = 720.0) -> Picture:
    """The share of right answers against confidence for each task of a system; by default of the best.

    A panel for each task whose answers have confidences: hollow points are as the system answered, filled ones after
    calibration, each a bin of answers; on the dashed line confidence is what it should be. width: in points.
    Errors: a board without calibration, or one of another system.
    """
    asked = "draw the reliability of a system"
    found = board.calibration or {}
    if not found:
        raise AllroundError(asked, "the scoreboard says nothing of calibration", "build with --calibrate temperature")
    name = system or (board.best if board.best in found else next(iter(found)))
    if name not in found:
        raise AllroundError(asked, f"nothing is known of the calibration of '{name}'", suggestion(str(name), found))
    panels = {task: one for task, one in found[name].items() if one.before or one.after}
    if not panels:
        raise AllroundError(asked, f"no task of '{name}' has confidences", "leave this picture out")
    columns = max(1, min(len(panels), int(width // _PANEL)))
    room = min(width / columns, 1.1 * _PANEL)
    made = picture(width, _HEIGHT * math.ceil(len(panels) / columns))
    for number, (task, one) in enumerate(panels.items()):
        left, top = room * (number % columns), _HEIGHT * (number // columns)
        side = min(room - _LEFT - _RIGHT, _HEIGHT - _ABOVE - _BELOW)
        axes = add_axes(made, left + _LEFT, top + _ABOVE, left + _LEFT + side, top + _ABOVE + side)
        write(made, left + _LEFT, top + 14, shortened(task, int(side / 7.5)), bold=True)
        _panel(axes, one)
    return made


def _panel(axes: Axes, one: CalibrationFacts) -> None:
    grid(axes, _TICKS, across=True)
    grid(axes, _TICKS, across=False)
    axes.tick_params(labelsize=10)
    axes.set_xlabel("confidence, %", color=colour("soft"), fontsize=10, labelpad=2)
    axes.plot([0, 100], [0, 100], color=colour("soft"), linewidth=1, dashes=(4, 3), zorder=0.6)
    if one.before:
        _bins(axes, one.before, hollow=True)
    if one.after:
        _bins(axes, one.after, hollow=False)


def _bins(axes: Axes, found: Reliability, *, hollow: bool) -> None:
    x, y = ([100 * getattr(one, part) for one in found.bins] for part in ("confidence", "right"))
    ink = colour("base" if hollow else "merge")
    (line,) = axes.plot(x, y, "o", color=ink, markersize=5, markerfacecolor=colour("paper") if hollow else ink,
                        linestyle="-", linewidth=1, alpha=0.9, clip_on=False, zorder=2 if hollow else 3)  # fmt: skip
    name_points(line, [f"{one.count} answers: {100 * one.right:.0f}% right" for one in found.bins])
