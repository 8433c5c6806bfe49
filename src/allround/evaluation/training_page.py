"""A comparison of joint trainings as a page and as a figure, drawn by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from allround.evaluation.report import (
    _BOTTOM,
    _HEIGHT,
    _LEFT,
    _RIGHT,
    _TOP,
    _WIDTH,
    Point,
    _around,
    _Box,
    _breakable,
    _cut,
    _labels,
    _leader,
    _settings,
    _shape,
    _Spot,
    _ticks,
    template,
)
from allround.evaluation.scoreboard import count, duration, listed, percent, plural, shown, span_text
from allround.evaluation.training import (
    EQUAL,
    SPECIALISTS,
    Training,
    TrainingComparison,
    Tried,
    front,
    gigabytes,
    rate,
)

if TYPE_CHECKING:
    from markupsafe import Markup

#: Height of a row of the figure of test results, and where its line of names and of differences end.
_ROW = 34
_NAMES, _SIDE = 136, 132
_GAP = 40

#: Of the figure alone; on the page its colours follow the page's.
_STYLE = """
svg { font-family: system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
text { fill: #1b1d20; font-size: 13.5px; }
.tick, .name, .note { fill: #575c65; font-size: 12px; font-variant-numeric: tabular-nums; }
.title { font-size: 16px; font-weight: 650; }
.label { paint-order: stroke; stroke: #ffffff; stroke-width: 3.5px; stroke-linejoin: round; }
.best { font-weight: 700; }
.grid { stroke: #d6d9de; stroke-width: 1; }
.whole { stroke: #575c65; stroke-width: 1; stroke-dasharray: 4 3; }
.axis { stroke: #575c65; stroke-width: 1; }
.leader { stroke: #575c65; stroke-width: 0.75; }
.ring { fill: none; stroke: #1b1d20; stroke-width: 1.25; }
.whisker { stroke-width: 1.5; opacity: 0.65; }
.whisker.merge { stroke: #1d5796; } .whisker.joint { stroke: #a34f0b; }
.point { stroke: #ffffff; stroke-width: 1; } .point.merge { fill: #1d5796; } .point.joint { fill: #a34f0b; }
.seed { fill: #575c65; opacity: 0.55; }
.sweep { fill: #ffffff; stroke: #767c86; stroke-width: 1.5; }
.front { fill: none; stroke: #767c86; stroke-width: 1.5; }
"""


@dataclass(frozen=True)
class _Drawn:
    """A figure: its title, the SVG, and what stands below."""

    title: str
    svg: Markup
    height: float
    caption: str


def html(comparison: TrainingComparison) -> str:
    """A page that needs nothing else: verdict, tables, figures, what was tried, how it was measured."""
    page = template(
        Path(__file__).with_name("training.html.j2"),
        {"percent": percent, "count": count, "duration": duration, "settings": _settings, "breakable": _breakable,
         "rate": rate, "gigabytes": gigabytes},
        {"plural": plural, "percent": percent, "shown": shown, "span": span_text},
    )  # fmt: skip
    return page.render(
        board=comparison,
        reference=comparison.reference,
        figures=_figures(comparison),
        equal=EQUAL,
        specialists=SPECIALISTS,
        words=comparison.words(),
        test_rows=sum(comparison.rows.values()),
    )


def svg(comparison: TrainingComparison) -> str:
    """The two figures side by side, with what they were measured on."""
    figures = _figures(comparison)
    wide = len(figures) * _WIDTH + (len(figures) - 1) * _GAP + 40
    lines = [_lines(figure.caption, 82) for figure in figures]
    high = 86 + max(figure.height for figure in figures) + 17 * max(len(one) for one in lines) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high:g}" width="{wide}" height="{high:g}" '
        f'role="img" aria-label="{_text(comparison.title)}">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{wide}" height="{high:g}" fill="#ffffff"/>',
        f'<text class="title" x="20" y="32">{_text(comparison.title)}</text>',
    ]
    for number, (figure, below) in enumerate(zip(figures, lines, strict=True)):
        x = 20 + number * (_WIDTH + _GAP)
        parts.append(f'<text class="best" x="{x}" y="64">{_text(figure.title)}</text>')
        opening = f'<svg x="{x}" y="76" width="{_WIDTH}" height="{figure.height:g}" '
        parts.append(str(figure.svg).replace("<svg ", opening, 1))
        for line, text in enumerate(below):
            parts.append(f'<text class="note" x="{x}" y="{100 + figure.height + 17 * line:g}">{_text(text)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _lines(text: str, letters: int) -> list[str]:
    """Text in lines of so many letters at most."""
    found = [""]
    for word in text.split():
        if found[-1] and len(found[-1]) + 1 + len(word) > letters:
            found.append("")
        found[-1] = f"{found[-1]} {word}".strip()
    return found


def _text(text: str) -> str:
    from markupsafe import escape

    return str(escape(text))


def _figures(comparison: TrainingComparison) -> list[_Drawn]:
    found = [_trade_off(comparison)]
    if any(one.test.mean for one in comparison.methods):
        found.append(_forest(comparison))
    return found


# The first figure: what was tried on validation, and where the methods stand.


def _role(method: Training) -> str:
    """Fixed weights are drawn as diamonds, balancers as circles."""
    return "joint" if method.name.partition(":")[0] in (EQUAL, "tuned", "fixed") else "merge"


def _place(comparison: TrainingComparison, tried: Tried) -> tuple[float, float]:
    """Where a setting stands, in percent: retention of the two tasks, or mean and least retention of more."""
    if len(comparison.definitions) == 2:
        first, other = (100 * (tried.retention[task] or 0.0) for task in comparison.definitions)
        return first, other
    return 100 * tried.mean, 100 * tried.worst


def _inside(points: Sequence[tuple[float, float]]) -> Callable[[tuple[float, float]], bool]:
    """Whether a point lies near enough to the others to be drawn: one far below them would squeeze them together."""
    ends = []
    for axis in (0, 1):
        values = [point[axis] for point in points]
        middle = median(values)
        ends.append(middle - max(5 * median(abs(v - middle) for v in values), 3.0))
    return lambda point: point[0] >= ends[0] and point[1] >= ends[1]


def _trade_off(comparison: TrainingComparison) -> _Drawn:
    """Methods and the weight sweep on the validation rows, with the front of the sweep."""
    from markupsafe import Markup

    named: dict[tuple[float, float], list[Training]] = {}
    for one in comparison.methods:
        named.setdefault(_place(comparison, one.chosen), []).append(one)
    swept = [_place(comparison, tried) for tried in comparison.sweep]
    inside = _inside([*named, *swept])
    drawn = {place: ones for place, ones in named.items() if inside(place)}
    dots = [place for place in swept if inside(place)]
    line = [place for place in front(swept) if inside(place)]
    both = [*drawn, *dots]
    x_ticks, y_ticks = (_ticks(min(p[i] for p in both), max(p[i] for p in both)) for i in (0, 1))

    def at(place: tuple[float, float]) -> tuple[float, float]:
        across = (place[0] - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (place[1] - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return (
            _LEFT + 12 + (_WIDTH - _LEFT - _RIGHT - 24) * across,
            _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * up,
        )

    if len(comparison.definitions) == 2:
        titles = [f"retention of {task}, %" for task in comparison.definitions]
    else:
        titles = ["mean retention, %", "least retention of a task, %"]
    parts = _axes(x_ticks, y_ticks, at, titles)
    if len(line) > 1:
        parts.append(f'<polyline class="front" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, line))}"/>')
    parts += [f'<circle class="sweep" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in map(at, dots)]
    spots, shared = [], []
    for place, ones in drawn.items():
        x, y = at(place)
        best = comparison.best in ones and len(comparison.methods) > 1
        name = ", ".join(one.name for one in ones)
        if len(name) > 24:
            shared.append(listed([one.name for one in ones]))
            name = f"{ones[0].name} + {len(ones) - 1} more"
        spots.append(_Spot(Point(name, _role(ones[0]), best, *place, place[1], place[1]), x, y, y, y))
    others = [_around(*at(dot), 5) for dot in dots]
    others += [_around(*dot, 3) for a, b in pairwise(line) for dot in _between(at(a), at(b))]
    parts += [_shape(spot) for spot in spots]
    parts += _names(spots, others)
    far = [f"{one.name} ({place[0]:.1f}, {place[1]:.1f})" for place, ones in named.items() if not inside(place)
           for one in ones]  # fmt: skip
    hidden = len(swept) - len(dots)
    far += [f"{plural(hidden, 'point')} of the sweep"] if hidden else []
    rows = sum(task["validation"] for task in comparison.tasks) if comparison.tasks else None
    caption = (
        f"Validation rows{f' ({rows:,})' if rows else ''}, seed {comparison.seeds[0]}: each method with its chosen "
        f"settings. Right and up is better; 100 is the {SPECIALISTS}."
    )
    if swept:
        caption += (
            f" Hollow dots: the sweep of fixed weights, {plural(len(swept), 'point')}"
            f"{'; the line joins those that no other one beats' if len(line) > 1 else ''}."
        )
    caption += f" Diamonds: fixed weights.{' Ring: best on validation.' if len(comparison.methods) > 1 else ''}"
    if shared:
        caption += f" At one place: {'; '.join(shared)}."
    if far:
        caption += f" Far below and not drawn: {', '.join(far)}."
    label = f"Trade-off on validation: {titles[1]} against {titles[0]}"
    return _Drawn("On validation: methods and the weight sweep", Markup(_svg(parts, _HEIGHT, label)), _HEIGHT, caption)


def _svg(parts: Iterable[str], height: float, label: str) -> str:
    opening = f'<svg viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{_text(label)}" '
    return "\n".join([f'{opening}xmlns="http://www.w3.org/2000/svg">', *parts, "</svg>"])


def _axes(
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    at: Callable[[tuple[float, float]], tuple[float, float]],
    titles: Sequence[str],
) -> list[str]:
    base = _HEIGHT - _BOTTOM
    parts = []
    for y in y_ticks:
        high = at((x_ticks[0], y))[1]
        kind = "whole" if y == 100 else "grid"
        parts.append(f'<line class="{kind}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{high:.1f}" y2="{high:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{high + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in x_ticks:
        across = at((x, y_ticks[0]))[0]
        if x == 100:
            parts.append(f'<line class="whole" x1="{across:.1f}" x2="{across:.1f}" y1="{_TOP}" y2="{base}"/>')
        parts.append(f'<line class="axis" x1="{across:.1f}" x2="{across:.1f}" y1="{base}" y2="{base + 5}"/>')
        parts.append(f'<text class="tick" x="{across:.1f}" y="{base + 19}" text-anchor="middle">{x:g}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="name" x="{middle:.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{_text(titles[0])}</text>'
    )
    parts.append(f'<text class="name" x="2" y="{_TOP - 10}">{_text(titles[1])}</text>')
    return parts


def _names(spots: Sequence[_Spot], others: Iterable[_Box]) -> list[str]:
    """The names of points, each in a free place."""
    parts = []
    for spot, box, anchor in _labels(spots, others):
        if (leader := _leader(spot, box)) is not None:
            parts.append(leader)
        x = {"start": box.left, "middle": (box.left + box.right) / 2, "end": box.right}[anchor]
        kind = "label best" if spot.point.best else "label"
        place = f'x="{x:.1f}" y="{box.bottom - 4:.1f}" text-anchor="{anchor}"'
        parts.append(f'<text class="{kind}" {place}>{_text(_cut(spot.point.name))}</text>')
    return parts


def _between(a: tuple[float, float], b: tuple[float, float]) -> list[tuple[float, float]]:
    """Dots along a line."""
    steps = max(1, int(max(abs(a[0] - b[0]), abs(a[1] - b[1])) / 6))
    return [(a[0] + (b[0] - a[0]) * i / steps, a[1] + (b[1] - a[1]) * i / steps) for i in range(steps + 1)]


# The second figure: the test rows.


def _forest(comparison: TrainingComparison) -> _Drawn:
    """Mean retention on the test rows, a line for each method, beside equal weights in words."""
    from markupsafe import Markup

    known = [(one, one.test.mean) for one in comparison.methods if one.test.mean is not None]
    middle = median(mean.value for _, mean in known)
    reach = max(5 * median(abs(mean.value - middle) for _, mean in known), 0.1)
    near = [mean for _, mean in known if mean.value >= middle - reach]
    ends = [end for m in near for end in (m.low, m.high, *m.seeds) if end is not None]
    ticks = _ticks(100 * min([*ends, *(m.value for m in near)]), 100 * max([*ends, *(m.value for m in near)]))
    if len(ticks) > 5:
        ticks = ticks[::2] + ([ticks[-1] + ticks[1] - ticks[0]] if len(ticks) % 2 == 0 else [])
    right = _WIDTH - _SIDE
    top, bottom = 30.0, 30.0 + _ROW * len(known)
    height = bottom + 48

    def at(value: float) -> float:
        return _NAMES + (right - _NAMES) * (100 * value - ticks[0]) / (ticks[-1] - ticks[0])

    parts = [f'<text class="name" x="{_WIDTH}" y="{top - 14:g}" text-anchor="end">beside {EQUAL}, points</text>']
    for tick in ticks:
        x, kind = at(tick / 100), "whole" if tick == 100 else "grid"
        parts.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{top:g}" y2="{bottom:g}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 18:g}" text-anchor="middle">{tick:g}</text>')
    parts.append(
        f'<text class="name" x="{(_NAMES + right) / 2:.1f}" y="{height - 8:g}" text-anchor="middle">mean retention, '
        f"%</text>"
    )
    for number, (one, mean) in enumerate(known):
        y, role = top + _ROW * (number + 0.5), _role(one)
        best = one is comparison.best and len(comparison.methods) > 1
        parts.append(
            f'<text class="{"best" if best else "plain"}" x="0" y="{y + 4.5:g}">{_text(_short(one.name))}</text>'
        )
        if mean in near:
            if mean.low is not None and mean.high is not None:
                parts.append(f'<line class="whisker {role}" x1="{at(mean.low):.1f}" x2="{at(mean.high):.1f}" '
                             f'y1="{y:g}" y2="{y:g}"/>')  # fmt: skip
            if len(mean.seeds) > 1:
                parts += [f'<circle class="seed" cx="{at(v):.1f}" cy="{y + 9:g}" r="1.8"/>' for v in mean.seeds]
            x = at(mean.value)
            point = Point(one.name, role, best, mean.value, 0.0, 0.0, 0.0)
            parts.append(_shape(_Spot(point, x, y, y, y)))
        else:
            parts.append(f'<text class="tick" x="{_NAMES}" y="{y + 4:g}">&#9666; {percent(mean.value)}</text>')
        if one.name != EQUAL and one.test.equal.mean is not None:
            said = one.test.equal.mean
            kind = "tick best" if said.verdict != "no difference found" else "tick"
            words = said.points.replace("-", "−")
            parts.append(f'<text class="{kind}" x="{_WIDTH}" y="{y + 4:g}" text-anchor="end">{words}</text>')
    caption = (
        f"Test rows ({sum(comparison.rows.values()):,}), mean over {plural(len(comparison.seeds), 'seed')}; lines are "
        f"95% intervals"
        + (" over seeds and rows, small dots single seeds." if len(comparison.seeds) > 1 else " over rows.")
        + f" 100 is the {SPECIALISTS}. Right: the paired difference to {EQUAL}, bold where it is not 0 at 95%."
    )
    label = "Mean retention of each method on the test rows"
    return _Drawn("On test: mean retention of each method", Markup(_svg(parts, height, label)), height, caption)


def _short(name: str) -> str:
    return name if len(name) <= 17 else name[:16] + "…"
