"""Pictures of how tasks relate: who helps whom with the tree of tasks, a map, and how good the estimates were."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from allround.evaluation.pictures import (
    Picture,
    add_axes,
    colour,
    grid,
    name_part,
    name_points,
    picture,
    shortened,
    style,
    svg_text,
    text_width,
    ticks,
    write,
)
from allround.transfer.blending import ranked
from allround.transfer.findings import Findings
from allround.transfer.report.tables import places_of
from allround.transfer.report.words import gain_text, legend, marked

#: Width of a picture on a screen, in points.
WIDTH = 520.0
_TREE, _HEAD = 64.0, 78.0


@style()
def plot_matrix(found: Findings, *, width: float = WIDTH) -> Picture:
    """Sources in rows and targets in columns, like tasks beside each other, with their tree."""
    made = picture(width, _matrix_height(found, width))
    _draw_matrix(made, found, 0, 0, width)
    return made


@style()
def plot_map(found: Findings, *, width: float = WIDTH) -> Picture:
    """Tasks as points of a plane, like ones near each other."""
    made = picture(width, 0.62 * width)
    _draw_map(made, found, 0, 0, width)
    return made


@style()
def plot_estimates(found: Findings, *, width: float = WIDTH) -> Picture:
    """The NDCG of each estimate beside that of a random order."""
    made = picture(width, 44 + 24 * len(found.judged))
    _draw_estimates(made, found, 0, 0, width)
    return made


@style()
def plot(found: Findings) -> Picture:
    """All of them below each other, with what they show."""
    parts = [(matrix_title(found), _matrix_height(found, WIDTH), _draw_matrix, matrix_caption(found)),
             ("A map of the tasks", 0.62 * WIDTH, _draw_map, map_caption(found))]  # fmt: skip
    if found.judged:
        parts.append(("Estimates against what was measured", 44 + 24 * len(found.judged), _draw_estimates,
                      estimates_caption(found)))  # fmt: skip
    lines = [textwrap.wrap(caption, 84) for *_, caption in parts]
    high = 56 + sum(height + 30 + 17 * len(below) + 30 for (_, height, *_), below in zip(parts, lines, strict=True))
    made = picture(WIDTH + 48, high)
    write(made, 24, 32, found.title, size=16, bold=True)
    top = 56.0
    for (title, height, draw, _), below in zip(parts, lines, strict=True):
        write(made, 24, top + 12, title, size=13, bold=True)
        draw(made, found, 24, top + 26, WIDTH)
        for line, text in enumerate(below):
            write(made, 24, top + 30 + height + 17 * line + 10, text, size=11.5, ink="soft")
        top += height + 30 + 17 * len(below) + 30
    return made


def svg(found: Findings) -> str:
    """`plot` as a file of its own."""
    return svg_text(plot(found), found.title)


def matrix_title(found: Findings) -> str:
    return "Expected places of the sources" if found.measured is None else "Measured gains"


def matrix_caption(found: Findings) -> str:
    """What the matrix shows."""
    tree = "Right: the tree of the tasks by average linkage, in whose order they stand."
    if found.measured is not None:
        return f"{legend(found)} Blue: helps; orange: hurts. {tree}"
    return f"Rows are sources, columns targets; 1: the source to tune on first, by all estimates together. {tree}"


def map_caption(found: Findings) -> str:
    by = "what was measured" if found.measured is not None else "all estimates together"
    return (
        f"How alike tasks are by {by}, as well as a plane can show it (classical scaling). One colour for each group "
        "of tasks that are closest to each other."
    )


def estimates_caption(found: Findings) -> str:
    return (
        "NDCG of each estimate's order of the sources, mean over targets. Dashed: a random order. Lines: the interval "
        "of the difference from it, at a level that holds for all estimates together."
    )


def _margin(found: Findings) -> float:
    return min(150.0, 10 + max(text_width(shortened(task, 20), 12) for task in found.tasks))


def _side(found: Findings, width: float) -> float:
    return (width - _margin(found) - _TREE) / max(1, len(found.tasks))


def _matrix_height(found: Findings, width: float) -> float:
    return _HEAD + min(38.0, _side(found, width)) * len(found.tasks) + 10


def _draw_matrix(made: Picture, found: Findings, x: float, y: float, width: float) -> None:
    tasks, left, wide = found.order, x + _margin(found), _side(found, width)
    high, count = min(38.0, wide), len(tasks)
    top = y + _HEAD
    axes = add_axes(made, left, top, left + wide * count, top + high * count)
    axes.set_xlim(0, count)
    axes.set_ylim(count, 0)
    texts, strengths, words = _cells(found)
    font = min(12.0, 0.34 * wide)
    for i, source in enumerate(tasks):
        write(made, left - 8, top + high * (i + 0.5) + 4, shortened(source, 20), ink="soft", align="right")
        label = write(made, left + wide * (i + 0.5), top - 8, shortened(source, 14), ink="soft")
        label.set_rotation(40)
        label.set_rotation_mode("anchor")
        for j, target in enumerate(tasks):
            strength = strengths[i][j]
            shade = colour("tint") if i == j or not strength else colour("plus" if strength > 0 else "minus")
            cell = Rectangle((j, i), 1, 1, facecolor=(shade, 1.0 if not strength else min(1.0, abs(strength))),
                             edgecolor=colour("paper"), linewidth=2, clip_on=False)  # fmt: skip
            name_part(axes.add_patch(cell), words[i][j] or f"{source} and {target}: not known")
            axes.annotate(texts[i][j], (j + 0.5, i + 0.5), (0, -0.35 * font), textcoords="offset points",
                          fontsize=font, color=colour("on" if abs(strength) > 0.55 else "ink"),
                          horizontalalignment="center")  # fmt: skip
    if count > 1:
        _draw_tree(add_axes(made, left + wide * count + 8, top, x + width, top + high * count), found)


def _cells(found: Findings) -> tuple[list[list[str]], list[list[float]], list[list[str]]]:
    """The text, the strength from -1 to 1, and the words of each pair, in the order of the tasks."""
    order = found.order
    if found.measured is not None:
        known = {(one.source, one.target): one for one in found.effects}
        most = max((abs(one.gain) for one in found.effects), default=0.0) or 1.0
        texts = [[marked(found, known[s, t]) if (s, t) in known else "" for t in order] for s in order]
        strengths = [[known[s, t].gain / most if (s, t) in known else 0.0 for t in order] for s in order]
        said = {"better": "helps", "worse": "hurts", "none": "no difference found"}
        words = [[f"{s} to {t}: {gain_text(found, known[s, t])}, {said[known[s, t].verdict]}" if (s, t) in known else ""
                  for t in order] for s in order]  # fmt: skip
        return texts, strengths, words
    matrix = found.together.take(order, order)
    texts = places_of(matrix)
    strengths = np.nan_to_num(ranked(matrix.gains)).tolist()
    words = [[f"{s} for {t}: place {texts[i][j]}" if texts[i][j] else "" for j, t in enumerate(order)]
             for i, s in enumerate(order)]  # fmt: skip
    return texts, strengths, words


def _draw_tree(axes: Axes, found: Findings) -> None:
    from scipy.cluster.hierarchy import dendrogram

    made = dendrogram(found.tree, no_plot=True)
    high = max(max(place) for place in made["dcoord"]) or 1.0
    axes.set_xlim(0, 1)
    axes.set_ylim(10 * len(found.tasks), 0)
    for heights, places in zip(made["dcoord"], made["icoord"], strict=True):
        axes.plot(np.array(heights) / high * 0.96, places, color=colour("soft"), linewidth=1.25, clip_on=False)


def places(found: Findings) -> np.ndarray:
    """(n, 2): the tasks as points of a plane by classical scaling; their distance is 1 less their scaled likeness."""
    apart = ~np.eye(len(found.tasks), dtype=bool)
    alike = found.alike
    known = alike[apart & ~np.isnan(alike)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    distance = np.where(np.isnan(alike), 1.0, (high - alike) / (high - low if high > low else 1.0)) + 0.2
    distance = np.where(apart, (distance + distance.T) / 2, 0.0)
    centre = np.eye(len(distance)) - 1 / len(distance)
    values, vectors = np.linalg.eigh(-0.5 * centre @ distance**2 @ centre)
    return np.asarray(vectors[:, ::-1][:, :2] * np.sqrt(np.maximum(values[::-1][:2], 0)))


def _draw_map(made: Picture, found: Findings, x: float, y: float, width: float) -> None:
    height = 0.62 * width
    axes = add_axes(made, x + 40, y + 14, x + width - 90, y + height - 14)
    points = places(found)
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    room = np.maximum(points.max(0) - points.min(0), 1e-6)
    low, high = points.min(0) - 0.05 * room, points.max(0) + 0.05 * room
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    for number, group in enumerate(found.clusters):
        for task in group:
            place = points[found.tasks.index(task)]
            (dot,) = axes.plot(*place, "o", markersize=8, color=colour(f"m{number % 8}"), clip_on=False, zorder=3)
            name_points(dot, [f"{task}, with {', '.join(one for one in group if one != task) or 'no other'}"])
            axes.annotate(shortened(task, 20), place, (8, 3), textcoords="offset points", fontsize=12,
                          color=colour("ink"), annotation_clip=False)  # fmt: skip


def _draw_estimates(made: Picture, found: Findings, x: float, y: float, width: float) -> None:
    rows = found.judged
    margin = min(0.4 * width, 14 + max(text_width(shortened(one.score.name, 24), 12) for one in rows))
    axes = add_axes(made, x + margin, y + 6, x + width - 10, y + 6 + 24 * len(rows))
    random = next((one.score.mean("ndcg") for one in rows if one.score.name == "random"), 0.0)
    ends = [
        random + side for one in rows if one.beside_random for side in (one.beside_random.low, one.beside_random.high)
    ]
    values = [one.score.mean("ndcg") for one in rows if not np.isnan(one.score.mean("ndcg"))]
    grid(axes, ticks(max(0.0, min([*ends, *values])), min(1.05, max([*ends, *values]))), across=False)
    axes.axvline(random, color=colour("soft"), linewidth=1, dashes=(4, 3), zorder=0.6)
    axes.set_ylim(len(rows), 0)
    for row, one in enumerate(rows):
        value = one.score.mean("ndcg")
        write(made, x + margin - 10, y + 6 + 24 * (row + 0.5) + 4, shortened(one.score.name, 24), align="right",
              ink="soft" if one.score.name in ("random", "popularity") else "ink")  # fmt: skip
        if one.beside_random is not None:
            ends = [random + one.beside_random.low, random + one.beside_random.high]
            axes.plot(ends, [row + 0.5] * 2, color=colour("merge"), linewidth=1.5, zorder=2)
        if not np.isnan(value):
            (dot,) = axes.plot([value], [row + 0.5], "o", markersize=6, color=colour("merge"), zorder=3)
            name_points(dot, [f"{one.score.name}: NDCG {value:.3f}"])
