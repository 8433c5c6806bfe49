"""A stream's results in words, in Markdown and in tables on a console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allround.continual.results import MEASURES, PICKS, StreamResults
from allround.core.progress import make_console
from allround.core.words import count, duration, plural, printable, size_text
from allround.evaluation.intervals import Interval, verdict
from allround.evaluation.tables import console_table, fitting_columns, markdown_table, markdown_text

if TYPE_CHECKING:
    from rich.console import Console

#: Strategies that every comparison has: nothing against forgetting, heads without training, and everything anew.
REFERENCES = ("none", "ridge", "joint")
_FIRST_OUT = ("backward", "steps", "rows", "learned")


def words(found: StreamResults) -> list[str]:
    """What the stream shows, in sentences."""
    lines = []
    best = next((name for name in found.strategies if name.partition(":")[0] not in ("joint", "cumulative")), None)
    if best is not None:
        mean = found.mean(best, "final")
        lines.append(f"Of the strategies that do not keep all rows, {best} ends best: {_points(mean)}, with "
                     f"{size_text(found.cost(best, 'bytes'))} remembered.")  # fmt: skip
    courses = len(found.of(found.strategies[0]))
    rivals = [name for name in found.strategies if name not in REFERENCES] if "ridge" in found.strategies else []
    for name in rivals:
        gap = found.difference(name, "ridge")
        said = {"better": "better than ridge", "worse": "worse than ridge"}.get(
            verdict(gap), "no difference from ridge"
        )
        known = f"{said}, " if courses > 1 else ""
        lines.append(f"{name}: {known}{_signed(gap)} points{'' if courses > 1 else ' against ridge'}.")
    if courses < 2:
        lines.append("There is one seed and one order only: another order may give another ranking. Give --seeds 3 "
                     "--orders 3 before you believe a difference.")  # fmt: skip
    return lines


def table(found: StreamResults) -> tuple[list[str], list[list[str]]]:
    """A row for each strategy."""
    further = list(PICKS) if any(course.picks for course in found.courses) else []
    head = ["strategy", *MEASURES, *further, "remembered", "rows", "stored", "steps", "time"]
    body = []
    for name in found.strategies:
        values = [_points(found.mean(name, measure), long=measure == "final") for measure in MEASURES]
        picks = found.of(name)[0].picks
        values += [_points(found.mean(name, measure), long=False) if picks else "" for measure in further]
        rows, steps = (f"{found.cost(name, what):,.0f}" for what in ("rows", "steps"))
        body.append([name, *values, size_text(found.cost(name, "bytes")), rows, count(found.of(name)[0].stored), steps,
                     duration(found.cost(name, "seconds"))])  # fmt: skip
    return head, body


def legend(found: StreamResults) -> str:
    """What the columns are."""
    courses = len(found.of(found.strategies[0]))
    over = f"means over {plural(courses, 'course')}, with 95% intervals (Student's t)" if courses > 1 else "one course"
    measures = MEASURES | (PICKS if any(course.picks for course in found.courses) else {})
    said = "; ".join(f"{name}: {what}" for name, what in measures.items())
    return (
        f"Scores are {found.metric} x 100 on test rows, {over}. {said}. Remembered: rows, statistics and copies of "
        "weights that are kept between two arrivals, and what tells a row's arrival; stored: numbers in the system."
    )


def markdown(found: StreamResults) -> str:
    """Everything as Markdown."""
    lines = [f"# {markdown_text(found.title)}", "", *(f"- {markdown_text(line)}" for line in words(found)), ""]
    lines += [*markdown_table(*table(found)), "", markdown_text(legend(found)), ""]
    lines += [f"- {markdown_text(f'{name}: {text}')}" for name, text in found.facts.items()]
    lines += [f"- {markdown_text(note)}" for note in found.notes]
    return "\n".join(lines) + "\n"


def print_results(found: StreamResults, console: Console | None = None) -> None:
    """Print the table and what it shows."""
    console = console or make_console()
    head, body = table(found)
    shown = console_table()
    kept = fitting_columns(head, body, console.width, first_out=_FIRST_OUT)
    for place in kept:
        shown.add_column(head[place], justify="left" if place == 0 else "right", no_wrap=True)
    for row in body:
        shown.add_row(*(printable(row[place]) for place in kept))
    console.print()
    console.print(shown)
    for line in (legend(found), "", *words(found)):
        console.print(printable(line), markup=False, highlight=False)


def _points(one: Interval, *, long: bool = True) -> str:
    if one.low is None or one.high is None or not long:
        return f"{100 * one.value:.1f}"
    return f"{100 * one.value:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]"


def _signed(one: Interval) -> str:
    ends = "" if one.low is None or one.high is None else f" [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
    return f"{100 * one.value:+.1f}{ends}"
