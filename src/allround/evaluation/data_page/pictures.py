"""Pictures of a task's data: how often each label occurs, how targets are spread, how long the texts are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from allround.core.words import plural
from allround.evaluation.pictures import (
    Picture,
    add_axes,
    colour,
    grid,
    name_part,
    picture,
    shortened,
    style,
    ticks,
    write,
)
from allround.tasks.task import SPLITS

#: Points: the width of a picture, from its left to the bars, room at its right, the height of a row of bars.
_WIDTH, _LEFT, _RIGHT, _ROW = 620.0, 170.0, 40.0, 22.0
#: Labels that are drawn; the others are counted in the last row.
MOST = 25
#: Steps of a histogram.
STEPS = 30
_INKS = dict(zip(SPLITS, ("m0", "m5", "m1"), strict=True))


@style()
def plot_labels(counts: Mapping[str, Counter[str]]) -> Picture:
    """Rows of each label, the commonest first, one bar a label with a part for each split."""
    total = sum(counts.values(), Counter())
    labels = [label for label, _ in total.most_common(MOST)]
    rest = [label for label in total if label not in labels]
    names = [*labels, f"{len(rest)} more"] if rest else labels
    made = picture(_WIDTH, 64 + _ROW * len(names) + 24)
    _legend(made)
    bottom = 44 + _ROW * len(names)
    axes = add_axes(made, _LEFT, 44, _WIDTH - _RIGHT, bottom)
    most = max([*(total[label] for label in labels), sum(total[label] for label in rest), 1])
    grid(axes, [value for value in ticks(0, most, 5) if value == int(value)] or [0, most], across=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    for place, name in enumerate(names):
        write(made, _LEFT - 10, 44 + _ROW * place + 15, shortened(name.strip() or repr(name), 24), align="right")
        left = 0
        for split in SPLITS:
            count = counts[split][name] if place < len(labels) else sum(counts[split][label] for label in rest)
            (bar,) = axes.barh([place], [count], left=[left], height=0.62, color=colour(_INKS[split]), linewidth=0)
            name_part(bar, f"{name}: {plural(count, f'{split} row')}")
            left += count
    return made


@style()
def plot_spread(values: Mapping[str, Sequence[float]], what: str) -> Picture:
    """How many rows of each split have values in each of some steps of their range. what: they are, in words."""
    made = picture(_WIDTH, 250)
    _legend(made)
    axes = add_axes(made, 64, 44, _WIDTH - _RIGHT, 206)
    every = np.concatenate([np.asarray(found, dtype=np.float64) for found in values.values()])
    marks = ticks(float(every.min()), float(every.max()), 6)
    edges = np.linspace(marks[0], marks[-1], STEPS + 1)
    heights = {split: np.histogram(np.asarray(values[split]), edges)[0] for split in SPLITS}
    grid(axes, marks, across=False)
    most = int(sum(heights.values(), np.zeros(STEPS, dtype=int)).max())
    grid(axes, [value for value in ticks(0, most, 4) if value == int(value)] or [0, most], across=True)
    under = np.zeros(STEPS, dtype=int)
    for split in SPLITS:
        bars = axes.bar(
            edges[:-1], heights[split], bottom=under, width=np.diff(edges) * 0.92, align="edge",
            color=colour(_INKS[split]), linewidth=0,
        )  # fmt: skip
        for bar, count, start, end in zip(bars, heights[split].tolist(), edges[:-1], edges[1:], strict=True):
            name_part(bar, f"{start:.4g} to {end:.4g}: {plural(count, f'{split} row')}")
        under = under + heights[split]
    write(made, (64 + _WIDTH - _RIGHT) / 2, 240, what, ink="soft", align="center")
    return made


def _legend(made: Picture) -> None:
    at = _LEFT
    for split in SPLITS:
        write(made, at, 24, "■", ink=_INKS[split])
        write(made, at + 16, 24, split, ink="soft")
        at += 110
