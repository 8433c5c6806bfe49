"""The scoreboard as a page: one HTML file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allround.core.outputs import write_texts
from allround.evaluation.scoreboard import (
    Comparison,
    Scoreboard,
    System,
    count,
    duration,
    percent,
    plural,
    shown,
    span_text,
)

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

#: Lower ends of the heat map's steps of retention, from the second on; step 5 is "as good as the reference".
_STEPS = (0.70, 0.80, 0.90, 0.95, 0.985, 1.015, 1.05)

_WIDTH, _HEIGHT = 520, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 16, 22, 50
_LETTER, _LINE = 8.0, 16.5


def write_report(
    board: Scoreboard, path: Path | str, *, extra: Mapping[str, Any] | None = None, force: bool = False
) -> None:
    """Write one HTML file with inline styles and figures; it asks for nothing from outside and runs no script.

    A file that is there is replaced only where `write_report` wrote it and it is unchanged, or with `force`.

    extra, all optional: title; commands and python (how to use the saved model, as text); choices (a list of
    {method, settings, validation, chosen}: what was tried on validation rows); tasks (a list of {name, kind,
    metric, train, validation, test, labels, notes}); budget, precision, machine, date (text); versions ({name:
    version}); seconds_total; peak_memory (bytes).
    """
    path = Path(path)
    write_texts(path.parent, {path.name: html(board, extra=extra)}, "write_report", force=force)


def template(
    path: Path, filters: Mapping[str, Callable[..., Any]], functions: Mapping[str, Callable[..., Any]] | None = None
) -> Template:
    """A page's template: text in it is escaped, and a value that is not given is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(filters)
    environment.globals.update(functions or {})
    return environment.get_template(path.name)


def html(board: Scoreboard, *, extra: Mapping[str, Any] | None = None) -> str:
    """The page that `write_report` writes."""
    given = dict(extra or {})
    page = template(
        Path(__file__).with_name("report.html.j2"),
        {"percent": percent, "count": count, "duration": duration, "settings": _settings, "breakable": _breakable},
        {"percent": percent, "span": span_text, "shown": shown, "step": _step, "plural": plural},
    )
    return page.render(
        board=board,
        title=given.get("title") or "Scoreboard",
        answer=board.answer(),
        systems=board.systems,
        rivals=board.best != board.reference and any(c.other == board.best for c in board.comparisons),
        compared=_compared(board),
        undefined=any(cell.retention is None for cells in board.cells.values() for cell in cells.values()),
        key=_key(),
        figures=_figures(board),
        choices=_choices(given.get("choices") or []),
        tasks=_tasks(board, given.get("tasks") or []),
        workers=board.provenance.get("workers"),
        choice=board.notes.get("choice"),
        budget=given.get("budget") or board.notes.get("budget"),
        facts=_facts(board, given),
        commands=given.get("commands"),
        python=given.get("python"),
    )


def _settings(settings: Mapping[str, Any] | str | None) -> str:
    """Settings in a line: `scale 0.3, keep 0.2`."""
    if not settings:
        return "defaults"
    if isinstance(settings, str):
        return settings
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items()
    )


def _breakable(name: str) -> Markup:
    """A name that may be broken after an underscore or a plus."""
    from markupsafe import Markup, escape

    return Markup(str(escape(name)).replace("_", "_<wbr>").replace("+", "+<wbr>"))


def _compared(board: Scoreboard) -> list[tuple[str, Comparison | None, Comparison | None]]:
    """Each system with its comparisons: to the reference, and to the best."""
    found = []
    for system in board.systems:
        pair = board.comparison(system.name, board.reference or ""), board.comparison(system.name, board.best or "")
        if any(pair):
            found.append((system.name, *pair))
    return found


def _step(retention: float | None) -> int:
    """The colour step of a retention, 0 to 7."""
    return -1 if retention is None else sum(retention >= end for end in _STEPS)


def _key() -> list[tuple[int, str]]:
    ends = [f"{100 * end:g}" for end in _STEPS]
    middle = [f"{low} to {high}" for low, high in pairwise(ends)]
    return list(enumerate([f"below {ends[0]}", *middle, f"{ends[-1]} and more"]))


def _choices(choices: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was tried, by method, the better settings first."""
    methods: dict[str, list[dict[str, Any]]] = {}
    for choice in choices:
        row = {"settings": None, "validation": None, "chosen": False, **choice}
        methods.setdefault(str(choice.get("method", "")), []).append(row)
    for rows in methods.values():
        rows.sort(key=lambda row: -math.inf if row["validation"] is None else row["validation"], reverse=True)
    return [{"method": method, "rows": rows} for method, rows in methods.items()]


def _tasks(board: Scoreboard, given: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Facts of each task: the board's, overlaid with those given."""
    by_name = {str(task.get("name")): task for task in given}
    found = []
    for name, definition in board.definitions.items():
        row: dict[str, Any] = {
            "name": name,
            "kind": definition.kind,
            "metric": definition.metric,
            "train": None,
            "validation": None,
            "test": None,
            board.split: board.n(name),
            "labels": len(definition.labels) or None,
            "notes": (),
        }
        row.update(by_name.get(name, {}))
        notes: dict[str, None] = {}
        for texts in ((board.notes.get("tasks") or {}).get(name), row["notes"]):
            notes.update(dict.fromkeys([texts] if isinstance(texts, str) else texts or ()))
        if isinstance(row["labels"], (list, tuple)):
            row["labels"] = len(row["labels"])
        found.append({**row, "notes": list(notes)})
    return found


def _facts(board: Scoreboard, given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What else the reader may want to know of the run, in pairs."""
    facts = [("Seed", str(board.seed)), ("Rows measured on", f"{board.rows:,} of the {board.split} split")]
    if given.get("date"):
        facts.append(("Date", str(given["date"])))
    if given.get("machine"):
        facts.append(("Machine", str(given["machine"])))
    if given.get("precision"):
        facts.append(("Matrix products in training", str(given["precision"])))
    if given.get("seconds_total"):
        facts.append(("Whole run", duration(float(given["seconds_total"]))))
    if given.get("peak_memory"):
        facts.append(("Peak memory", f"{float(given['peak_memory']) / 2**30:.1f} GiB"))
    if given.get("versions"):
        facts.append(("Versions", ", ".join(f"{name} {version}" for name, version in given["versions"].items())))
    facts.append(("Fingerprint", f"{board.fingerprint()[:16]} (of everything but timings)"))
    return facts


# Figures: hand-made SVG, so that its colours follow the page's.


@dataclass(frozen=True)
class Point:
    """A system in a figure, in its units: x a cost, y a retention in percent."""

    name: str
    role: str
    best: bool
    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class _Spot:
    """A point on the page."""

    point: Point
    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: _Box) -> float:
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, wide) * max(0.0, high)


def _figures(board: Scoreboard) -> list[dict[str, Any]]:
    """Mean retention against each cost that is known of at least two systems."""
    if not board.mean:
        return []
    made = []
    for title, axis, cost in (
        ("Parameters stored", "parameters stored for all tasks (log scale)", lambda s: s.cost.parameters_stored),
        ("Training time", "seconds of training, search and merging (log scale)", lambda s: _seconds(s)),
    ):
        shown_systems, left_out = _worth_drawing(board)
        points = [_point(board, s, float(cost(s))) for s in shown_systems if cost(s) > 0]
        left_out += [s for s in shown_systems if cost(s) <= 0]
        if len(points) < 2:
            continue
        aside = [f"{s.name} {percent(board.mean[s.name].value)}%" for s in left_out]
        made.append({"title": title, "svg": _scatter(points, axis, title), "aside": aside})
    return made


def _seconds(system: System) -> float:
    return system.cost.training_seconds + system.cost.search_seconds + system.cost.merge_seconds


def _worth_drawing(board: Scoreboard) -> tuple[list[System], list[System]]:
    """The systems to draw; a floor or base far below all others is named beside the figure instead."""
    known = [s for s in board.systems if s.name in board.mean]
    values = [board.mean[s.name].value for s in known if s.role not in ("floor", "base")]
    if not values:
        return known, []
    least = min(values) - max(0.03, 0.5 * (max(values) - min(values)))
    aside = [s for s in known if s.role in ("floor", "base") and board.mean[s.name].value < least]
    return [s for s in known if s not in aside], aside


def _point(board: Scoreboard, system: System, x: float) -> Point:
    mean = board.mean[system.name]
    low = mean.value if mean.low is None else mean.low
    high = mean.value if mean.high is None else mean.high
    return Point(system.name, system.role, system.name == board.best, x, 100 * mean.value, 100 * low, 100 * high)


def _scatter(points: Sequence[Point], axis: str, title: str) -> Markup:
    from markupsafe import Markup, escape

    y_ticks = _ticks(min(p.low for p in points), max(p.high for p in points))
    low, high = y_ticks[0], y_ticks[-1]
    x_ticks = _log_ticks(min(p.x for p in points), max(p.x for p in points))
    left, right = math.log10(x_ticks[0]), math.log10(x_ticks[-1])

    def at_x(x: float) -> float:
        inner = _WIDTH - _LEFT - _RIGHT - 40
        return _LEFT + 20 + inner * (math.log10(x) - left) / (right - left)

    def at_y(y: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - y) / (high - low)

    spots = _apart([_Spot(p, at_x(p.x), at_y(p.y), at_y(p.low), at_y(p.high)) for p in points])
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}: mean retention of each system '
        f'against {escape(axis)}" xmlns="http://www.w3.org/2000/svg">'
    ]
    base = _HEIGHT - _BOTTOM
    for y in y_ticks:
        kind = "whole" if y == 100 else "grid"
        parts.append(
            f'<line class="{kind}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at_y(y):.1f}" y2="{at_y(y):.1f}"/>'
        )
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{at_y(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in x_ticks:
        parts.append(f'<line class="axis" x1="{at_x(x):.1f}" x2="{at_x(x):.1f}" y1="{base}" y2="{base + 5}"/>')
        parts.append(f'<text class="tick" x="{at_x(x):.1f}" y="{base + 19}" text-anchor="middle">{_short(x)}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="name" x="{middle:.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{escape(axis)}</text>')
    for spot in spots:
        ends = f'x1="{spot.x:.1f}" x2="{spot.x:.1f}" y1="{spot.low:.1f}" y2="{spot.high:.1f}"'
        parts.append(f'<line class="whisker {spot.point.role}" {ends}/>')
    parts += [_shape(spot) for spot in spots]
    for spot, box, anchor in _labels(spots):
        if (leader := _leader(spot, box)) is not None:
            parts.append(leader)
        x = {"start": box.left, "middle": (box.left + box.right) / 2, "end": box.right}[anchor]
        kind = "label best" if spot.point.best else "label"
        place = f'x="{x:.1f}" y="{box.bottom - 4:.1f}" text-anchor="{anchor}"'
        parts.append(f'<text class="{kind}" {place}>{escape(_cut(spot.point.name))}</text>')
    parts.append("</svg>")
    return Markup("\n".join(parts))


def _cut(name: str) -> str:
    return name if len(name) <= 24 else name[:22] + "…"


def _ticks(low: float, high: float) -> list[float]:
    """Some five round numbers around [low, high]."""
    span = max(high - low, 1.0)
    step = next(s for s in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1e3, 1e6, math.inf) if span / s <= 6)
    if math.isinf(step):
        return [low, high]
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 6) for i in range(first, max(last, first + 1) + 1)]


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


def _apart(spots: Sequence[_Spot]) -> list[_Spot]:
    """Points of about the same cost, set side by side where their intervals would hide each other."""
    placed: list[_Spot] = []
    for spot in sorted(spots, key=lambda s: (s.x, s.y)):
        x = spot.x
        for shift in (0, 11, -11, 22, -22, 33, -33, 44, -44):
            x = spot.x + shift
            near = (other for other in placed if abs(other.x - x) < 10)
            if all(spot.low + 6 < other.high - 6 or spot.high - 6 > other.low + 6 for other in near):
                break
        placed.append(_Spot(spot.point, x, spot.y, spot.low, spot.high))
    return placed


def _shape(spot: _Spot) -> str:
    x, y, size = spot.x, spot.y, 5.0
    kind = f"point {spot.point.role}"
    ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="10"/>' if spot.point.best else ""
    if spot.point.role == "specialists":
        return f'{ring}<rect class="{kind}" x="{x - size:.1f}" y="{y - size:.1f}" width="10" height="10"/>'
    if spot.point.role == "joint":
        corners = [(x, y - 6.5), (x + 6.5, y), (x, y + 6.5), (x - 6.5, y)]
        return f'{ring}<polygon class="{kind}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in corners)}"/>'
    return f'{ring}<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{size:g}"/>'


def _labels(spots: Sequence[_Spot], others: Iterable[_Box] = ()) -> list[tuple[_Spot, _Box, str]]:
    """A place for each name, near its point, over nothing else: the first free one of many tried.

    others: what else is drawn.
    """
    taken = [*others, *(_Box(s.x - 8, s.y - 8, s.x + 8, s.y + 8) for s in spots)]
    taken += [_Box(s.x - 2, s.high, s.x + 2, s.low) for s in spots]
    leaders: list[tuple[float, float]] = []
    found = []
    for spot in sorted(spots, key=lambda s: (not s.point.best, s.y, -s.x)):
        wide = _LETTER * len(_cut(spot.point.name)) + 2
        best, least = None, math.inf
        for number, (box, anchor) in enumerate(_places(spot, wide)):
            if 0.8 * number >= least:
                break  # what lies further away is no better
            out = max(0.0, _LEFT + 2 - box.left) + max(0.0, box.right - _WIDTH + 2)
            out += max(0.0, 2 - box.top) + max(0.0, box.bottom - (_HEIGHT - _BOTTOM - 2))
            penalty = 0.8 * number + 50 * out + sum(box.overlap(other) for other in taken)
            if penalty >= least:
                continue
            line = _line(spot, box)
            penalty += sum(box.overlap(_around(*dot, 2)) for dot in leaders)
            penalty += sum(_around(*dot, 2).overlap(other) for dot in line for other in taken)
            penalty += sum(_around(*dot, 4).overlap(_around(*other, 4)) for dot in line for other in leaders) / 4
            if penalty < least:
                best, least = (box, anchor), penalty
        assert best is not None
        taken.append(best[0])
        leaders += _line(spot, best[0])
        found.append((spot, *best))
    return found


def _around(x: float, y: float, half: float) -> _Box:
    return _Box(x - half, y - half, x + half, y + half)


def _line(spot: _Spot, box: _Box) -> list[tuple[float, float]]:
    """Dots along the line from a point to its name, where there is one."""
    x, y = _end(spot, box)
    long = math.hypot(x - spot.x, y - spot.y)
    if long < 18:
        return []
    steps = int(long / 4)
    return [(spot.x + (x - spot.x) * i / steps, spot.y + (y - spot.y) * i / steps) for i in range(4, steps)]


def _places(spot: _Spot, wide: float) -> Iterable[tuple[_Box, str]]:
    for step in (11, 22, 36, 52, 70, 90, 115, 140):
        distance = step + 3 if spot.point.best else step
        for degrees in (0, 180, 30, -30, 150, -150, 60, -60, 120, -120, 90, -90):
            x = spot.x + distance * math.cos(math.radians(degrees))
            y = spot.y - distance * math.sin(math.radians(degrees))
            if abs(degrees) == 90:
                yield _Box(x - wide / 2, y - _LINE / 2, x + wide / 2, y + _LINE / 2), "middle"
            elif abs(degrees) < 90:
                yield _Box(x, y - _LINE / 2, x + wide, y + _LINE / 2), "start"
            else:
                yield _Box(x - wide, y - _LINE / 2, x, y + _LINE / 2), "end"


def _end(spot: _Spot, box: _Box) -> tuple[float, float]:
    return min(max(spot.x, box.left), box.right), min(max(spot.y, box.top + 3), box.bottom - 3)


def _leader(spot: _Spot, box: _Box) -> str | None:
    """A thin line from a point to a name that stands away from it."""
    x, y = _end(spot, box)
    long = math.hypot(x - spot.x, y - spot.y)
    begin = (12 if spot.point.best else 8) / max(long, 1e-9)
    if long < 18 or begin > 0.7:
        return None
    return (
        f'<line class="leader" x1="{spot.x + begin * (x - spot.x):.1f}" y1="{spot.y + begin * (y - spot.y):.1f}" '
        f'x2="{x:.1f}" y2="{y:.1f}"/>'
    )
