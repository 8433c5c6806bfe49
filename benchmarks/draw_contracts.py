"""Draw docs/figures/contracts.svg, the picture of the four contracts: python benchmarks/draw_contracts.py"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from allround.evaluation.pictures import COLOURS, svg_text

OUT = Path(__file__).resolve().parents[1] / "docs" / "figures" / "contracts.svg"
INK, SOFT, RULE, TINT = (COLOURS[name][0] for name in ("ink", "soft", "rule", "tint"))


def box(axes: Axes, x: float, y: float, width: float, height: float, title: str, lines: list[str], edge: str) -> None:
    """A box with a bold title and lines of text."""
    from matplotlib.patches import FancyBboxPatch

    shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=4", fc=TINT, ec=edge, lw=1.4)
    axes.add_patch(shape)
    axes.text(x + 10, y + height - 12, title, va="top", ha="left", weight="bold", size=12, color=INK)
    for number, line in enumerate(lines):
        axes.text(x + 10, y + height - 34 - 15 * number, line, va="top", ha="left", size=9.5, color=SOFT)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], words: str, dx: float, dy: float) -> None:
    axes.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.2})
    axes.text((start[0] + end[0]) / 2 + dx, (start[1] + end[1]) / 2 + dy, words, size=9.5, color=INK, va="center")


def draw() -> Figure:
    """The picture, 720 x 430 points."""
    width, height = 720, 430
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    blue, orange, green, purple = (COLOURS[name][0] for name in ("m0", "m1", "m2", "m3"))
    users = "predict, evaluate, build, ensembles, reports"
    axes.text(15, 412, f"use a System: {users}", size=9.5, color=SOFT, va="center")
    box(axes, 15, 300, 330, 92, "1  System", [
        "answers tasks, by whatever means",
        "answer(task, rows), cost(tasks), write, read",
        "trees · ensemble · zipped · residual_store",
    ], blue)  # fmt: skip
    axes.text(
        375, 412, "use a Model: trainer, learned merges, statistics, alignment", size=9.5, color=SOFT, va="center"
    )
    box(axes, 375, 300, 330, 92, "2  Model", [
        "a system with weights that can be trained",
        "prepare, collate, losses, features, shared, own",
        "multi_task_model",
    ], orange)  # fmt: skip
    arrow(axes, (375, 346), (345, 346), "", 0, 0)
    axes.text(360, 356, "is a", size=9.5, color=INK, ha="center", va="center")
    box(axes, 15, 130, 330, 120, "3  Encoder and Head", [
        "encoder(batch) gives Features, a vector a row or a word",
        "head.loss(features, targets), head.answer(features)",
        "encoders: text · image · small_image · small_table · module",
        "heads: linear · mlp",
        "a Likelihood reads the numbers that a head gives",
    ], green)  # fmt: skip
    arrow(axes, (450, 300), (300, 250), "is made of", -92, 4)
    box(axes, 375, 130, 330, 120, "4  Term", [
        "changes how a model is trained, beside its losses",
        "before, task_loss, penalty, edit, stepped, after",
        "terms: l2_sp",
        "state by the name of the task",
    ], purple)  # fmt: skip
    arrow(axes, (560, 250), (560, 300), "acts on the training of", 8, 0)
    box(axes, 15, 15, 690, 75, "Kind, Metric, Modality", [
        "say what a task is: what goes in, what a target is, what counts as good. They know of no model.",
        "kinds: classification · multilabel · regression · token_classification",
    ], RULE)  # fmt: skip
    arrow(axes, (180, 130), (180, 90), "answer what a kind asks", 8, 0)
    return figure


if __name__ == "__main__":
    OUT.write_text(svg_text(draw(), "The four contracts, and what speaks to them"), encoding="utf-8")
