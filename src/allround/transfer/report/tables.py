"""Relations between tasks in Markdown, and in tables on a console."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from allround.core.progress import make_console
from allround.core.words import duration, printable
from allround.evaluation.tables import console_table, fitting_columns, markdown_table, markdown_text, wrapped
from allround.tasks.metric import better
from allround.transfer.blending import ranked
from allround.transfer.findings import Findings, Judged
from allround.transfer.matrix import TaskMatrix
from allround.transfer.report.words import estimators_legend, legend, marked, words
from allround.transfer.score import ScoreDifference

if TYPE_CHECKING:
    from rich.console import Console

#: Columns that are left out first where a console is narrow.
_FIRST_OUT = ("time", "vs popularity", "of all, %", "Spearman", "regret@3")


def markdown(found: Findings) -> str:
    """Everything as Markdown."""
    lines = [f"# {markdown_text(found.title)}", "", *(f"- {markdown_text(line)}" for line in words(found))]
    if found.measured is not None:
        lines += ["", "## Measured", "", *markdown_table(*measured_table(found)), "", markdown_text(legend(found))]
        lines += ["", "## How good each estimate was", "", *markdown_table(*judged_table(found)), "",
                  markdown_text(estimators_legend(found))]  # fmt: skip
    lines += ["", "## Expected by all estimates together", "", *markdown_table(*expected_table(found, found.together))]
    lines += ["", markdown_text(EXPECTED), "", "## How this was made", ""]
    lines += [f"- {markdown_text(f'{name}: {text}')}" for name, text in facts(found)]
    lines += [f"- {markdown_text(note)}" for note in found.notes]
    return "\n".join(lines) + "\n"


#: What the numbers of what is expected are.
EXPECTED = (
    "The place of each source (row) among those of a target (column), 1 being the one to tune on first, by the mean of "
    "its ranks over all estimates. It is no forecast of a gain."
)


def measured_table(found: Findings) -> tuple[list[str], list[list[str]]]:
    """Gains: a row for each source, a column for each target."""
    known = {(one.source, one.target): marked(found, one) for one in found.effects}
    return ["source", *found.order], [[s, *(known.get((s, t), "") for t in found.order)] for s in found.order]


def expected_table(found: Findings, matrix: TaskMatrix) -> tuple[list[str], list[list[str]]]:
    """Places: a row for each source, a column for each target."""
    known = [name for name in found.order if name in matrix.sources]
    known += [name for name in matrix.sources if name not in known]
    places = places_of(matrix.take(known, found.order))
    return ["source", *found.order], [[s, *row] for s, row in zip(known, places, strict=True)]


def places_of(matrix: TaskMatrix) -> list[list[str]]:
    """The place of each source among those of a target, the best one's being 1; sources that are equal share one."""
    ranks = ranked(matrix.gains)
    counts = np.maximum((~np.isnan(ranks)).sum(0) - 1, 0)
    places = 1 + (1 - ranks) * counts
    return [["" if np.isnan(place) else f"{place:g}" for place in row] for row in places]


def judged_table(found: Findings) -> tuple[list[str], list[list[str]]]:
    """A row for each estimate, the best first."""
    head = ["estimate", "NDCG", "vs random", "vs popularity", "regret@1", "regret@3", "Spearman",
            "best found", "of all, %", "time"]  # fmt: skip
    scale = 100 if all(better(found.metrics[task]) == "higher" for task in found.tasks) else 1
    return head, [_row(one, scale) for one in found.judged]


def _row(one: Judged, scale: int) -> list[str]:
    score = one.score
    low, high = one.share
    counted = one.targets and score.name != "random"
    return [
        score.name,
        _number(score.mean("ndcg")),
        _difference(one.beside_random),
        _difference(one.beside_popularity),
        _number(scale * score.mean("regret@1")),
        _number(scale * score.mean("regret@3")),
        _number(score.mean("spearman")),
        f"{one.hits} of {one.targets}" if counted else "",
        f"{100 * one.hits / one.targets:.0f} [{100 * low:.0f}, {100 * high:.0f}]" if counted else "",
        duration(score.seconds) if score.seconds else "",
    ]


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.2f}".replace("-", "−")


def _difference(gap: ScoreDifference | None) -> str:
    if gap is None:
        return ""
    return f"{gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]".replace("-", "−")


def facts(found: Findings) -> list[tuple[str, str]]:
    """What was looked at, what was left out, and why."""
    listed = [(name, text) for name, text in found.facts.items()]
    return listed + [(f"without {name}", reason) for name, reason in found.left_out.items()]


def print_relations(found: Findings, console: Console | None = None) -> None:
    """Print the advice, what was measured, and how good the estimates were."""
    console = console or make_console()
    title = "Expected: places of the sources (rows) for each target (columns)"
    tables = [(title, expected_table(found, found.together), EXPECTED)]
    if found.measured is not None:
        tables = [
            ("Measured gains", measured_table(found), legend(found)),
            ("How good each estimate was", judged_table(found), estimators_legend(found)),
        ]
    for title, (head, body), below in tables:
        console.print(f"\n{title}", style="bold")
        kept = fitting_columns(head, body, console.width, first_out=_FIRST_OUT)
        table = console_table()
        for place in kept:
            table.add_column(wrapped(head[place]) if place else head[place], justify="right" if place else "left")
        for row in body:
            table.add_row(*(_ascii(row[place]) for place in kept))
        console.print(table)
        console.print(_ascii(below), style="dim")
    console.print()
    for line in words(found):
        console.print(_ascii(line))


def _ascii(text: str) -> str:
    return printable(text).replace("−", "-")
