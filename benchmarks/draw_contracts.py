"""Draw docs/figures/contracts.svg, the picture of the four contracts: python benchmarks/draw_contracts.py"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from allround.evaluation.pictures import COLOURS, svg_text

OUT = Path(__file__).resolve().parents[1] / "docs" / "figures" / "contracts.svg"
INK, SOFT, RULE, TINT = (COLOURS[name][0] for name in ("ink", "soft", "rule", "tint"))

#: Size of all text but titles, in points.
SIZE = 11.5


def box(axes: Axes, x: float, y: float, width: float, height: float, title: str, lines: list[str], edge: str) -> None:
    """A box with a bold title and lines of text."""
    from matplotlib.patches import FancyBboxPatch

    shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=4", fc=TINT, ec=edge, lw=1.4)
    axes.add_patch(shape)
    axes.text(x + 10, y + height - 12, title, va="top", ha="left", weight="bold", size=13, color=INK)
    for number, line in enumerate(lines):
        axes.text(x + 10, y + height - 34 - 17 * number, line, va="top", ha="left", size=SIZE, color=SOFT)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], words: str, dx: float, dy: float) -> None:
    axes.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.2})
    axes.text((start[0] + end[0]) / 2 + dx, (start[1] + end[1]) / 2 + dy, words, size=SIZE, color=INK, va="center")


def draw() -> Figure:
    """The picture, 720 x 500 points."""
    width, height = 720, 500
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    blue, orange, green, purple = (COLOURS[name][0] for name in ("m0", "m1", "m2", "m3"))
    axes.text(15, 484, "used by predict, evaluate, build, reports", size=SIZE, color=SOFT, va="center")
    box(axes, 15, 362, 325, 108, "1  System", [
        "answers tasks, by any means",
        "answer(task, rows), cost(tasks), write, read",
        "ensemble · linear_models · residual_store",
        "trees · zipped",
    ], blue)  # fmt: skip
    axes.text(380, 484, "used by trainer, learned merges, alignment", size=SIZE, color=SOFT, va="center")
    box(axes, 380, 362, 325, 108, "2  Model", [
        "a system whose weights can be trained",
        "prepare, collate, losses, features,",
        "shared, own",
        "multi_task_model",
    ], orange)  # fmt: skip
    arrow(axes, (380, 416), (340, 416), "", 0, 0)
    axes.text(360, 427, "is a", size=SIZE, color=INK, ha="center", va="center")
    box(axes, 15, 166, 325, 142, "3  Encoder and Head", [
        "encoder(batch) gives Features:",
        "a vector for each row or word",
        "head.loss(...), head.answer(...)",
        "text · image · small_image · small_table · module",
        "linear · mlp · mlp_relu · mlp_tanh",
        "a Likelihood reads the numbers of a head",
    ], green)  # fmt: skip
    arrow(axes, (450, 362), (300, 308), "is made of", -102, 4)
    box(axes, 380, 166, 325, 142, "4  Term", [
        "changes how a model is trained",
        "before, task_loss, penalty, edit,",
        "stepped, after",
        "l2_sp",
        "keeps its state by the name of the task",
    ], purple)  # fmt: skip
    arrow(axes, (560, 308), (560, 362), "acts on the training of", 8, 0)
    box(axes, 15, 15, 690, 92, "Kind, Metric, Modality", [
        "say what a task is: what goes in, what a target is, what counts as good",
        "they know nothing about models",
        "classification · multilabel · ordinal · regression · token_classification",
    ], RULE)  # fmt: skip
    arrow(axes, (180, 166), (180, 107), "answer what a kind asks", 8, 0)
    return figure


if __name__ == "__main__":
    OUT.write_text(svg_text(draw(), "The four contracts, and what speaks to them"), encoding="utf-8")
