"""The picture of the changes between checkpoints: by layer, and for every pair of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from allround.core.words import cosine_text, count, plural, printable, share_text
from allround.evaluation.pictures import (
    Picture,
    add_axes,
    colour,
    grid,
    name_part,
    name_points,
    number,
    picture,
    shortened,
    style,
    svg_text,
    ticks,
    write,
)
from allround.merging.diff.changes import HELD, Changes, Part, at
from allround.merging.diff.groups import EMBEDDINGS, OTHER

#: Points: from the left to the panels, their width, the room at the right, the height of a panel, the room below it,
#: the edge of the picture, and the top of the first panel, with and without a title.
_LEFT, _PLOT, _RIGHT, _PANEL, _GAP, _EDGE = 64.0, 566.0, 300.0, 132.0, 54.0, 24.0
_TOP, _TOP_UNTITLED = 106.0, 40.0
_WIDTH = _LEFT + _PLOT + 40 + _RIGHT + _EDGE
#: Width of the places of what is in no layer.
_ZONE = 94.0
_SHAPES = ("o", "s", "D", "^")

Values = list[float | None]


@dataclass(frozen=True)
class _Panel:
    """A row of the picture. lines: of each model by its number, or of all together (None). chance: a dashed line.

    least: how far the axis reaches both ways, at least.
    """

    title: str
    rest: str
    lines: list[tuple[int | None, Values]]
    chance: Values
    least: float = 0.0


@style()
def plot(found: Changes, *, titled: bool = True) -> Picture:
    """Each layer's change, cosine, conflict and rank, and the cosine of every pair.

    titled: with what was compared, for a picture that stands alone.
    """
    several, panels = len(found.models) > 1, _panels(found)
    top = _TOP if titled else _TOP_UNTITLED
    bottom = top + len(panels) * (_PANEL + _GAP)
    side = _heat_side(found)
    names_end = top - 14 + 21 * len(found.models)
    heat_end = names_end + 44 + 32 + side * len(found.models) + 54 if several else names_end
    made = picture(_WIDTH, max(bottom, heat_end + 20))
    if titled:
        write(made, _EDGE, 36, shortened(found.title, 88), size=17, bold=True)
        layers = any(group.name.startswith("layer ") for group in found.groups)
        about = "; the values of a layer are over all its weights" if layers else ""
        write(made, _EDGE, 56, _subtitle(found) + about, ink="soft")
    places = _Places.of(found)
    for place, panel in enumerate(panels):
        _draw_panel(made, found, places, panel, top + place * (_PANEL + _GAP), last=place == len(panels) - 1)
    _draw_names(made, found, top - 14)
    if several:
        _draw_heat(made, found, names_end + 44, side)
    return made


def svg(found: Changes) -> str:
    """`plot` as a file of its own."""
    return svg_text(plot(found), said(found))


def said(found: Changes) -> str:
    """What the picture shows, in words."""
    return f"{found.title}: {_subtitle(found)}"


def _subtitle(found: Changes) -> str:
    layers = sum(group.name.startswith("layer ") for group in found.groups)
    return f"{plural(layers, 'layer')}, {count(found.total.entries)} weights"


def _panels(found: Changes) -> list[_Panel]:
    groups, models = found.groups, range(len(found.models))
    none: Values = [None] * len(groups)
    made = [
        _Panel(
            "Change, %",
            "norm of the change / norm of the base's weights",
            [(i, [_percent(at(g.relative, i)) for g in groups]) for i in models],
            none,
        )
    ]
    if len(found.models) > 1:
        title = "between the changes, mean of all pairs"
        made.append(_Panel("Cosine", title, [(None, [g.cosine for g in groups])], none, 0.1))
        title = "of entries that two or more models change (dashed: random signs)"
        conflicts: list[tuple[int | None, Values]] = [(None, [_percent(g.conflict) for g in groups])]
        made.append(_Panel("Sign conflicts, %", title, conflicts, [_percent(g.chance) for g in groups]))
    if any(group.held_by for group in groups):
        title = f"singular values that hold {share_text(HELD)} of the squared change, of all"
        made.append(_Panel("Rank, %", title, [(i, [_percent(_held(g, i)) for g in groups]) for i in models], none))
    return made


@dataclass(frozen=True)
class _Places:
    """Where groups stand along a panel, in points from its left, and how wide the place of a layer is."""

    x: dict[str, float]
    slot: float

    @classmethod
    def of(cls, found: Changes) -> _Places:
        names = [group.name for group in found.groups]
        layers = [name for name in names if name.startswith("layer ")]
        if not layers:  # what there is spreads over the whole width
            return cls({name: _PLOT * (n + 0.5) / len(names) for n, name in enumerate(names)}, _PLOT)
        before, after = EMBEDDINGS in names, OTHER in names
        slot = (_PLOT - _ZONE * (before + after)) / len(layers)
        x = {name: _ZONE * before + slot * (n + 0.5) for n, name in enumerate(layers)}
        return cls({**x, EMBEDDINGS: _ZONE / 2, OTHER: _PLOT - _ZONE / 2}, slot)

    @property
    def size(self) -> float:
        """Half the size of a mark."""
        return 3.2 if self.slot >= 14 else 2.2


def _draw_panel(figure: Picture, found: Changes, places: _Places, panel: _Panel, top: float, *, last: bool) -> None:
    known = [v for values in (*(values for _, values in panel.lines), panel.chance) for v in values if v is not None]
    axes = add_axes(figure, _LEFT, top, _LEFT + _PLOT, top + _PANEL)
    axes.set_xlim(0, _PLOT)
    low, high = min([-panel.least, *known]), max([panel.least, *known])
    grid(axes, ticks(low, high) if high > low else [0, 0.5, 1], across=True)
    axes.axhline(0, color=colour("soft"), linewidth=1, zorder=0.6)
    write(figure, _EDGE, top - 14, panel.title, size=13, bold=True)
    write(figure, _LEFT + _PLOT, top - 14, panel.rest, ink="soft", align="right")
    dashed = [([places.x[name] for name, _ in run], [value for _, value in run])
              for run in _runs(found, panel.chance) if len(run) > 1]  # fmt: skip
    for name, value in _alone(found, panel.chance):
        half = min(14.0, places.slot / 3) if name.startswith("layer ") else 14.0
        dashed.append(([places.x[name] - half, places.x[name] + half], [value, value]))
    for x, y in dashed:
        axes.plot(x, y, color=colour("soft"), linewidth=1.25, dashes=(4, 3), clip_on=False, zorder=1)
    for model, values in panel.lines:
        for run in _runs(found, values):
            axes.plot([places.x[name] for name, _ in run], [value for _, value in run], color=_ink(model),
                      linewidth=1.75, solid_joinstyle="round", clip_on=False, zorder=2)  # fmt: skip
    for model, values in panel.lines:
        drawn = [(group.name, value) for group, value in zip(found.groups, values, strict=True) if value is not None]
        x = [places.x[name] + (0 if name.startswith("layer ") else _aside(model, found)) for name, _ in drawn]
        who = "" if model is None else f"{found.models[model]}, "
        words = [printable(f"{who}{name}: {value:.3g}") for name, value in drawn]
        _marks(axes, x, [value for _, value in drawn], model, places.size, words)
    if last:
        _name_groups(axes, found, places)


def _name_groups(axes: Axes, found: Changes, places: _Places) -> None:
    """What stands under the lowest panel."""
    every = next((s for s in (1, 2, 4, 5, 8, 10, 20, 50, 100, 200) if s * places.slot >= 24), 500)
    marks, names = [], []
    for group in found.groups:
        layer = group.name.removeprefix("layer ") if group.name.startswith("layer ") else ""
        if layer and int(layer) % every:
            continue
        marks.append(places.x[group.name])
        names.append(layer or ("head,\nother" if group.name == OTHER else group.name))
    axes.set_xticks(marks, names)
    layers = [group.name for group in found.groups if group.name.startswith("layer ")]
    if layers:
        middle = (places.x[layers[0]] + places.x[layers[-1]]) / 2
        axes.annotate("layer", (middle / _PLOT, 0), (0, -36), xycoords="axes fraction", textcoords="offset points",
                      fontsize=12, color=colour("soft"), horizontalalignment="center")  # fmt: skip


def _draw_names(figure: Picture, found: Changes, y: float) -> None:
    """The models' names with their marks."""
    left = _LEFT + _PLOT + 40
    several = len(found.models) > 1
    write(figure, left, y, "Models" if several else "Model", size=13, bold=True)
    axes = add_axes(figure, left, y, left + 24, y + 21 * len(found.models))
    axes.set_xlim(0, 24)
    axes.set_ylim(21 * len(found.models), 0)
    for model, name in enumerate(found.models):
        height = 21 * (model + 1) - 4
        axes.plot([0, 24], [height, height], color=_ink(model), linewidth=1.75, clip_on=False, zorder=2)
        _marks(axes, [12], [height], model, 3.6, [name])
        label = shortened(f"{model + 1}  {name}" if several else name, 36)
        name_part(write(figure, left + 32, y + 21 * (model + 1), label, size=13), name)


def _heat_side(found: Changes) -> float:
    """The side of a cell of the cosines."""
    return min(52.0, (_RIGHT - 26) / len(found.models))


def _draw_heat(figure: Picture, found: Changes, y: float, side: float) -> None:
    """The cosine of every pair of models."""
    k, left = len(found.models), _LEFT + _PLOT + 40
    write(figure, left, y, "Cosine between the changes, all weights", size=13, bold=True)
    axes = add_axes(figure, left + 24, y + 32, left + 24 + k * side, y + 32 + k * side)
    axes.set_xlim(0, k)
    axes.set_ylim(k, 0)
    numbers = [str(i + 1) for i in range(k)]
    axes.set_xticks([i + 0.5 for i in range(k)], numbers)
    axes.set_yticks([i + 0.5 for i in range(k)], numbers)
    axes.xaxis.tick_top()
    small = side < 30
    font = min(13.0, (side - 5) / (2.6 if small else 3.1))
    for i, row in enumerate(found.cosines):
        for j, value in enumerate(row):
            strength = 0.0 if value is None or i == j else min(1.0, abs(value))
            words = printable(f"{found.models[i]} and {found.models[j]}: {cosine_text(value)}")
            _cell(axes, i, j, colour("tint"), 1.0, words)
            if value is not None and strength:
                _cell(axes, i, j, colour("plus" if value > 0 else "minus"), strength, words)
            text = cosine_text(value).replace("0.", ".") if small else cosine_text(value)
            text = "–" if value is None else text.replace("-", "−")
            ink = "on" if strength > 0.55 else "soft" if i == j else "ink"
            axes.annotate(text, (j + 0.5, i + 0.5), (0, -0.35 * font), textcoords="offset points", fontsize=font,
                          color=colour(ink), horizontalalignment="center")  # fmt: skip
    end = y + 32 + k * side + 20
    write(figure, left, end, "1: the same direction; 0: nothing in common;", ink="soft")
    write(figure, left, end + 17, f"{number(-1)}: opposite directions", ink="soft")


def _cell(axes: Axes, row: int, column: int, shade: str, strength: float, words: str) -> None:
    cell = Rectangle((column, row), 1, 1, facecolor=(shade, strength), edgecolor=colour("paper"), linewidth=2,
                     clip_on=False)  # fmt: skip
    name_part(axes.add_patch(cell), words)


def _ink(model: int | None) -> str:
    return colour("ink" if model is None else f"m{model % 8}")


def _marks(
    axes: Axes, x: Sequence[float], y: Sequence[float], model: int | None, half: float, words: Sequence[str]
) -> None:
    """A model's marks: four shapes, filled or open, so that none is told by its colour alone."""
    shape = _SHAPES[0 if model is None else (model + model // 8) % 4]
    hollow = model is not None and model % 8 >= 4
    size = 2 * half * (0.95 if shape == "D" else 1.15 if shape == "^" else 1)
    (line,) = axes.plot(x, y, shape, linestyle="none", markersize=size, color=_ink(model),
                        markerfacecolor=colour("paper") if hollow else _ink(model), markeredgecolor=_ink(model),
                        markeredgewidth=1.5 if hollow else 1, clip_on=False, zorder=3)  # fmt: skip
    name_points(line, words)


def _aside(model: int | None, found: Changes) -> float:
    """How far from the middle of its place a model's mark stands, where none are joined by lines."""
    k = len(found.models)
    return 0.0 if model is None or k == 1 else (model - (k - 1) / 2) * min(12.0, 62 / k)


def _runs(found: Changes, values: Values) -> list[list[tuple[str, float]]]:
    """The layers' values in stretches without gaps."""
    runs: list[list[tuple[str, float]]] = [[]]
    for group, value in zip(found.groups, values, strict=True):
        if group.name.startswith("layer ") and value is not None:
            runs[-1].append((group.name, value))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _alone(found: Changes, values: Values) -> list[tuple[str, float]]:
    """The values that no line reaches."""
    joined = {name for run in _runs(found, values) if len(run) > 1 for name, _ in run}
    return [(g.name, v) for g, v in zip(found.groups, values, strict=True) if v is not None and g.name not in joined]


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _held(part: Part, i: int) -> float | None:
    """The share of the singular values that hold most of a model's change."""
    held, side = at(part.held_by, i), at(part.side, i)
    return held / side if held and side else None
