"""The picture of a comparison: hand-made SVG that stands alone; its colours follow the reader's choice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from allround.core.words import count, plural
from allround.merging.diff import EMBEDDINGS, HELD, OTHER, Diff, Part
from allround.merging.diff_words import at, cosine_text, share_text

_LEFT, _PLOT, _RIGHT, _PANEL, _GAP, _EDGE, _TOP = 64, 566, 300, 132, 54, 24, 106
#: Width of the places of what is in no layer.
_ZONE = 94
_STYLE = """
.allround-diff { --paper: #ffffff; --ink: #1b1d20; --soft: #575c65; --rule: #dfe2e6; --tint: #eef0f2; --on: #ffffff;
  --plus: #1d5796; --minus: #b2560f; --m0: #1d5796; --m1: #c2570c; --m2: #14703f; --m3: #8a3ea8; --m4: #a9861a;
  --m5: #148a96; --m6: #c2255c; --m7: #5c6570; font-family: system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
@media (prefers-color-scheme: dark) { .allround-diff { --paper: #15171a; --ink: #e4e6e9; --soft: #a2a8b1;
  --rule: #33373d; --tint: #2a2d32; --on: #ffffff; --plus: #3f83c8; --minus: #c9681f; --m0: #7db4f0; --m1: #f0a060;
  --m2: #6fcf97; --m3: #cf94e8; --m4: #e0c25a; --m5: #62ced8; --m6: #f2789f; --m7: #a8b0ba; } }
.allround-diff text { fill: var(--ink); font-size: 13px; }
.allround-diff .title { font-size: 18px; font-weight: 650; }
.allround-diff .head { font-weight: 600; }
.allround-diff .rest { font-weight: 400; fill: var(--soft); }
.allround-diff .soft { fill: var(--soft); font-size: 12px; }
.allround-diff .tick { fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; }
.allround-diff .paper { fill: var(--paper); }
.allround-diff .grid { stroke: var(--rule); stroke-width: 1; }
.allround-diff .axis { stroke: var(--soft); stroke-width: 1; }
.allround-diff .line { fill: none; stroke-width: 1.75; stroke-linejoin: round; }
.allround-diff .chance { fill: none; stroke: var(--soft); stroke-width: 1.25; stroke-dasharray: 4 3; }
.allround-diff .one { stroke: var(--ink); fill: var(--ink); }
.allround-diff .line.one { fill: none; }
.allround-diff .cell { stroke: var(--paper); stroke-width: 2; }
.allround-diff .none { fill: var(--tint); }
.allround-diff .plus { fill: var(--plus); }
.allround-diff .minus { fill: var(--minus); }
.allround-diff .strong { fill: var(--on); }
""" + "".join(
    f".allround-diff .m{n} {{ stroke: var(--m{n}); fill: var(--m{n}); }} .allround-diff .line.m{n} {{ fill: none; }} "
    f".allround-diff .open.m{n} {{ fill: var(--paper); stroke-width: 1.5; }}\n"
    for n in range(8)
)


def draw(found: Diff, *, titled: bool = True) -> str:
    """The picture as SVG; titled: with what it shows, for a file of its own."""
    return _Picture(found).draw(titled=titled)


class _Picture:
    def __init__(self, found: Diff) -> None:
        self.found, self.k = found, len(found.models)
        self.groups = found.groups
        self.parts: list[str] = []
        layers = [g for g in self.groups if g.name.startswith("layer ")]
        before = any(g.name == EMBEDDINGS for g in self.groups)
        after = any(g.name == OTHER for g in self.groups)
        inner = _PLOT - _ZONE * (before + after)
        self.slot = inner / max(1, len(layers))
        first = _LEFT + _ZONE * before
        self.x = {g.name: first + self.slot * (n + 0.5) for n, g in enumerate(layers)}
        self.x |= {EMBEDDINGS: _LEFT + _ZONE / 2, OTHER: _LEFT + _PLOT - _ZONE / 2}
        if not layers:  # what is left spreads over the whole width
            places = [g.name for g in self.groups]
            self.x |= {name: _LEFT + _PLOT * (n + 0.5) / len(places) for n, name in enumerate(places)}
        self.layers = layers
        self.size = 3.2 if self.slot >= 14 else 2.2

    def draw(self, *, titled: bool = True) -> str:
        """The SVG as text; without its title where the page around it has one."""
        found, several = self.found, self.k > 1
        top: float = _TOP
        per_model = range(self.k)
        title = "Change, %", "norm of the change / norm of the base's weights"
        top = self._panel(top, title, [(i, [_percent(at(g.relative, i)) for g in self.groups]) for i in per_model])
        if several:
            title = "Cosine", "between the changes, mean of all pairs"
            top = self._panel(top, title, [(None, [g.cosine for g in self.groups])], least=0.1)
            title = "Sign conflicts, %", "of entries that two or more models change (dashed: random signs)"
            chance = [_percent(g.chance) for g in self.groups]
            top = self._panel(top, title, [(None, [_percent(g.conflict) for g in self.groups])], chance)
        if any(g.held_by for g in self.groups):
            title = "Rank, %", f"singular values that hold {share_text(HELD)} of the squared change, of all"
            top = self._panel(top, title, [(i, [_percent(_held(g, i)) for g in self.groups]) for i in per_model])
        self._layer_names(top - _GAP + 4)
        bottom = max(top, self._side(_TOP) + 20)
        width = _LEFT + _PLOT + 40 + _RIGHT + _EDGE
        subtitle = f"{plural(len(self.layers), 'layer')}, {count(found.total.entries)} weights"
        said = f"{found.title}: {subtitle}"
        above = 0 if titled else _TOP - 36
        start = [
            f'<svg class="allround-diff" xmlns="http://www.w3.org/2000/svg" '
            f'viewBox="0 {above} {width} {bottom - above:.0f}" role="img" aria-label="{escape(said)}">',
            f"<title>{escape(said)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="paper" width="{width}" height="{bottom:.0f}"/>',
            f'<text class="title" x="{_EDGE}" y="36">{escape(_shortened(found.title, 88))}</text>',
            f'<text class="soft" x="{_EDGE}" y="56">{escape(subtitle)}'
            f"{'; the values of a layer are over all its weights' if self.layers else ''}</text>",
        ]
        return "\n".join([*start, *self.parts, "</svg>"]) + "\n"

    def _add(self, text: str) -> None:
        self.parts.append(text)

    def _panel(
        self,
        top: float,
        title: tuple[str, str],
        lines: Sequence[tuple[int | None, list[float | None]]],
        chance: list[float | None] | None = None,
        least: float = 0.0,
    ) -> float:
        """One row of the picture, under the one before; returns where the next begins.

        title: its first words, and the rest. lines: of each model, or of all together (None). chance: a dashed line.
        least: how far the axis reaches both ways, at least.
        """
        known = [v for _, values in lines for v in values if v is not None]
        known += [v for v in chance or [] if v is not None]
        ticks = _even_ticks(min([-least, *known]), max([least, *known]))
        low, high, base = ticks[0], ticks[-1], top + _PANEL

        def y(value: float) -> float:
            return base - _PANEL * (value - low) / (high - low)

        rest = f'<tspan class="rest">{escape(title[1])}</tspan>'
        self._add(f'<text class="head" x="{_EDGE}" y="{top - 14}">{escape(title[0])} {rest}</text>')
        for tick in ticks:
            kind = "axis" if tick == 0 else "grid"
            self._add(f'<line class="{kind}" x1="{_LEFT}" x2="{_LEFT + _PLOT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
            self._add(
                f'<text class="tick" x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{_minus(tick)}</text>'
            )
        if chance is not None and any(v is not None for v in chance):
            for run in self._runs(chance):
                if len(run) > 1:
                    self._add(f'<polyline class="chance" points="{_points((x, y(v)) for _, x, v in run)}"/>')
            for name, x, value in self._alone(chance):
                half = min(14, self.slot / 3) if name.startswith("layer ") else 14
                ends = f'x1="{x - half:.1f}" x2="{x + half:.1f}" y1="{y(value):.1f}" y2="{y(value):.1f}"'
                self._add(f'<line class="chance" {ends}/>')
        for number, values in lines:
            kind = "one" if number is None else f"m{number % 8}"
            for run in self._runs(values):
                if len(run) > 1:
                    self._add(f'<polyline class="line {kind}" points="{_points((x, y(v)) for _, x, v in run)}"/>')
        for number, values in lines:
            kind = "one" if number is None else f"m{number % 8}"
            who = "" if number is None else f"{self.found.models[number]}, "
            for group, height in zip(self.groups, values, strict=True):
                if height is None:
                    continue
                x = self.x[group.name] + (0 if group.name.startswith("layer ") else self._beside(number))
                said = escape(f"{who}{group.name}: {height:.3g}")
                self._add(f"<g><title>{said}</title>{_mark(number, kind, x, y(height), self.size)}</g>")
        return base + _GAP

    def _beside(self, number: int | None) -> float:
        """How far from the middle of its place a model's mark stands, where none are joined by lines."""
        return 0.0 if number is None or self.k == 1 else (number - (self.k - 1) / 2) * min(12.0, 62 / self.k)

    def _runs(self, values: list[float | None]) -> list[list[tuple[str, float, float]]]:
        """The layers' values in stretches without gaps."""
        runs: list[list[tuple[str, float, float]]] = [[]]
        for group, value in zip(self.groups, values, strict=True):
            if group.name.startswith("layer ") and value is not None:
                runs[-1].append((group.name, self.x[group.name], value))
            elif runs[-1]:
                runs.append([])
        return [run for run in runs if run]

    def _alone(self, values: list[float | None]) -> list[tuple[str, float, float]]:
        """The values that no line reaches."""
        lonely = {run[0][0] for run in self._runs(values) if len(run) == 1}
        return [(g.name, self.x[g.name], v) for g, v in zip(self.groups, values, strict=True)
                if v is not None and (g.name in lonely or not g.name.startswith("layer "))]  # fmt: skip

    def _layer_names(self, y: float) -> None:
        """What stands under the lowest row."""
        every = next((s for s in (1, 2, 4, 5, 8, 10, 20, 50, 100, 200) if s * self.slot >= 24), 500)
        for group in self.groups:
            x, layer = self.x[group.name], group.name.startswith("layer ")
            if layer and int(group.name[6:]) % every:
                continue
            words = [group.name[6:]] if layer else ["head,", "other"] if group.name == OTHER else [group.name]
            for line, word in enumerate(words):
                place = f'x="{x:.1f}" y="{y + 14 + 15 * line:.1f}" text-anchor="middle"'
                self._add(f'<text class="tick" {place}>{word}</text>')
        if self.layers:
            middle = (self.x[self.layers[0].name] + self.x[self.layers[-1].name]) / 2
            self._add(f'<text class="soft" x="{middle:.1f}" y="{y + 33:.1f}" text-anchor="middle">layer</text>')

    def _side(self, top: float) -> float:
        """The models' names, and the cosine of every pair; returns where it ends."""
        left = _LEFT + _PLOT + 40
        y = top - 14.0
        self._add(f'<text class="head" x="{left}" y="{y:.1f}">{"Models" if self.k > 1 else "Model"}</text>')
        for number, name in enumerate(self.found.models):
            y += 21
            kind = f"m{number % 8}"
            self._add(f'<line class="line {kind}" x1="{left}" x2="{left + 24}" y1="{y - 4:.1f}" y2="{y - 4:.1f}"/>')
            self._add(_mark(number, kind, left + 12, y - 4, 3.6))
            full = f"<title>{escape(name)}</title>"
            label = escape(_shortened(f"{number + 1}  {name}" if self.k > 1 else name, 36))
            self._add(f'<text x="{left + 32}" y="{y:.1f}">{full}{label}</text>')
        return y if self.k == 1 else self._heat(left, y + 44)

    def _heat(self, left: float, y: float) -> float:
        found = self.found
        self._add(f'<text class="head" x="{left}" y="{y:.1f}">Cosine between the changes, all weights</text>')
        across = _RIGHT - 26
        side = min(52.0, across / self.k)
        x0, y0 = left + 24, y + 32
        for i in range(self.k):
            middle = i * side + side / 2
            place = f'x="{x0 + middle:.1f}" y="{y0 - 7:.1f}" text-anchor="middle"'
            self._add(f'<text class="tick" {place}>{i + 1}</text>')
            place = f'x="{x0 - 8:.1f}" y="{y0 + middle + 4:.1f}" text-anchor="end"'
            self._add(f'<text class="tick" {place}>{i + 1}</text>')
            for j in range(self.k):
                value = found.cosines[i][j]
                at = f'x="{x0 + j * side:.1f}" y="{y0 + i * side:.1f}" width="{side:.1f}" height="{side:.1f}"'
                said = escape(f"{found.models[i]} and {found.models[j]}: {cosine_text(value)}")
                self._add(f'<g><title>{said}</title><rect class="cell none" {at}/>')
                strength = 0.0 if value is None or i == j else min(1.0, abs(value))
                if strength:
                    kind = "plus" if value is not None and value > 0 else "minus"
                    self._add(f'<rect class="cell {kind}" {at} fill-opacity="{strength:.3f}"/>')
                text = cosine_text(value)
                if side < 30:
                    text = text.replace("0.", ".")
                font = min(13.0, (side - 5) / (2.6 if side < 30 else 3.1))
                kind = "strong" if strength > 0.55 else "soft" if i == j else ""
                place = f'x="{x0 + (j + 0.5) * side:.1f}" y="{y0 + (i + 0.5) * side + font * 0.35:.1f}"'
                text = text.replace("-", "−") if value is not None else "–"
                style = f'style="font-size:{font:.1f}px" text-anchor="middle"'
                self._add(f'<text class="{kind}" {place} {style}>{text}</text></g>')
        end = y0 + self.k * side + 20
        for word in ("1: the same direction; 0: nothing in common;", "−1: opposite directions"):
            self._add(f'<text class="soft" x="{left}" y="{end:.1f}">{word}</text>')
            end += 17
        return end


def _minus(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _held(part: Part, i: int) -> float | None:
    """The share of the singular values that hold most of a model's change."""
    held, side = at(part.held_by, i), at(part.side, i)
    return held / side if held and side else None


def _shortened(name: str, most: int) -> str:
    """A long name without its middle."""
    return name if len(name) <= most else f"{name[: most * 3 // 5 - 1]}…{name[len(name) - most * 2 // 5 :]}"


def _points(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _mark(number: int | None, kind: str, x: float, y: float, r: float) -> str:
    """A model's sign: four shapes, filled or open, so that none is told by its colour alone."""
    shape = 0 if number is None else (number + number // 8) % 4
    kind = f"{kind} open" if number is not None and number % 8 >= 4 else kind
    if shape == 0:
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{r:g}"/>'
    if shape == 1:
        return f'<rect class="{kind}" x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r:g}" height="{2 * r:g}"/>'
    s = r * 1.35
    corners = (
        [(x, y - s), (x + s, y), (x, y + s), (x - s, y)] if shape == 2 else [(x, y - s), (x + s, y + r), (x - s, y + r)]
    )
    return f'<polygon class="{kind}" points="{_points(corners)}"/>'


def _even_ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers around [low, high].

    >>> _even_ticks(0, 4.2), _even_ticks(-0.1, 0.32), _even_ticks(0, 0)
    ([0, 1, 2, 3, 4, 5], [-0.1, 0, 0.1, 0.2, 0.3, 0.4], [0, 0.5, 1])
    """
    if high <= low:
        return [0, 0.5, 1]
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(
        f * power for f in (1, 2, 5, 10, 20) if math.ceil(high / (f * power)) - math.floor(low / (f * power)) <= 6
    )
    numbers = (float(f"{n * step:.6g}") for n in range(math.floor(low / step), math.ceil(high / step) + 1))
    return [int(n) if n == int(n) and abs(n) < 1e6 else n for n in numbers]
