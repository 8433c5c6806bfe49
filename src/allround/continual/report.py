"""A stream's results in words, in Markdown and in tables on a console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allround.continual.results import AHEAD, BEHIND, MEASURES, PICKS, StreamResults
from allround.core.progress import make_console
from allround.core.words import count, duration, plural, printable, size_text
from allround.evaluation.intervals import Interval, verdict
from allround.evaluation.tables import fitted_table, markdown_table, markdown_text

if TYPE_CHECKING:
    from rich.console import Console

#: Strategies that every comparison has: nothing against forgetting, heads without training, and everything anew.
REFERENCES = ("none", "ridge", "joint")
_FIRST_OUT = ("forward", "behind", "backward", "steps", "rows", "learned", "stored", "oracle", "picked")


def words(found: StreamResults) -> list[str]:
    """What the stream shows, in sentences."""
    first, *others = summary(found)
    return [first, *beside_ridge(found), *others]


def best_of(found: StreamResults) -> str:
    """The strategy that ends best, of those that do not keep all rows."""
    return next(name for name in found.strategies if name.partition(":")[0] not in ("joint", "cumulative"))


def summary(found: StreamResults) -> list[str]:
    """What the stream shows as a whole."""
    best = best_of(found)
    score, kept = _points(found.mean(best, "final")), size_text(found.cost(best, "bytes"))
    lines = [f"Of the strategies that do not keep all rows, {best} ends best: {score}, with {kept} remembered."]
    rivals = [name for name in found.strategies if name not in REFERENCES]
    for name in dict.fromkeys([best, *rivals[:1]]):
        if (spread := found.spread(name)) is not None:
            lines.append(f"The final score of {name} varies by {100 * spread[0]:.1f} points (standard deviation) over "
                         f"orders, and by {100 * spread[1]:.1f} over the seeds of an order.")  # fmt: skip
    pairs = [] if found.overlap is None else found.overlap.drops(found.of("none"))
    if found.overlap is not None and (alike := found.overlap.correlation(found.of("none"))) is not None:
        lines.append(f"How much none forgets of an arrival when the next one comes has a rank correlation of "
                     f"{alike:+.2f} with how alike the base sees the two, over {len(pairs)} pairs.")  # fmt: skip
    if found.kernel is not None and (alike := found.kernel.correlation(found.of("none"))) is not None:
        lines.append(f"With the NTK overlap, that of the gradients of the whole network, it has one of {alike:+.2f}.")
    if len(found.of(best)) < 2:
        lines.append("There is one seed and one order only: another order may give another ranking. Give --seeds 3 "
                     "--orders 3 before you believe a difference.")  # fmt: skip
    return lines


def beside_ridge(found: StreamResults) -> list[str]:
    """A sentence for each strategy that is no reference."""
    if "ridge" not in found.strategies:
        return []
    lines = []
    for name in (name for name in found.strategies if name not in REFERENCES):
        gap = found.difference(name, "ridge")
        if gap.low is None:
            lines.append(f"{name}: {signed_text(gap)} points against ridge.")
            continue
        said = {"better": "better than ridge", "worse": "worse than ridge"}
        lines.append(f"{name}: {said.get(verdict(gap), 'no difference from ridge')}, {signed_text(gap)} points.")
    return lines


def table(found: StreamResults) -> tuple[list[str], list[list[str]]]:
    """A row for each strategy."""
    shown = measured(found)
    head = ["strategy", *shown, "remembered", "rows", "stored", "steps", "time"]
    body = []
    for name in found.strategies:
        own = measures_of(found, name)
        values = [_points(own[measure], long=measure == "final") if measure in own else "" for measure in shown]
        rows, steps = (f"{found.cost(name, what):,.0f}" for what in ("rows", "steps"))
        body.append([name, *values, size_text(found.cost(name, "bytes")), rows, count(found.of(name)[0].stored), steps,
                     duration(found.cost(name, "seconds"))])  # fmt: skip
    return head, body


def measured(found: StreamResults) -> dict[str, str]:
    """What is said of the strategies of a stream, and what it means."""
    of = {measure for course in found.courses for measure in course.measures}
    every = MEASURES | BEHIND | AHEAD | PICKS
    return {name: what for name, what in every.items() if name in of or name in BEHIND}


def measures_of(found: StreamResults, strategy: str) -> dict[str, Interval]:
    """What can be said of a strategy, by the names of `measured`."""
    own = found.of(strategy)[0].measures
    return {**{name: found.mean(strategy, name) for name in own}, "behind": found.behind(strategy)}


def courses_words(found: StreamResults) -> str:
    """What the means are taken over, in words."""
    courses = len(found.of(found.strategies[0]))
    return f"means over {plural(courses, 'course')}, with 95% intervals (Student's t)" if courses > 1 else "one course"


def points_text(one: Interval, *, signed: bool = False) -> str:
    """A share in points, with a real minus sign.

    >>> points_text(Interval(-0.123, None, None)), ends_text(Interval(0.5, 0.25, 0.75))
    ('−12.3', '[25.0, 75.0]')
    """
    return (f"{100 * one.value:+.1f}" if signed else f"{100 * one.value:.1f}").replace("-", "−")


def ends_text(one: Interval, *, signed: bool = False) -> str:
    """The ends of its interval, where it has some."""
    if one.low is None or one.high is None:
        return ""
    ends = (f"{100 * end:+.1f}" if signed else f"{100 * end:.1f}" for end in (one.low, one.high))
    return f"[{', '.join(ends)}]".replace("-", "−")


def legend(found: StreamResults) -> str:
    """What the columns are."""
    said = "; ".join(f"{name}: {what}" for name, what in measured(found).items())
    return (
        f"Scores are {found.metric} x 100 on test rows, {courses_words(found)}. {said}. Remembered: rows, statistics "
        "and copies of weights that are kept between two arrivals, and what tells a row's arrival; stored: numbers in "
        "the system."
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
    console.print()
    console.print(fitted_table(head, body, console.width, first_out=_FIRST_OUT))
    for line in (legend(found), "", *words(found)):
        console.print(printable(line), markup=False, highlight=False)


def _points(one: Interval, *, long: bool = True) -> str:
    if one.low is None or one.high is None or not long:
        return f"{100 * one.value:.1f}"
    return f"{100 * one.value:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]"


def signed_text(one: Interval) -> str:
    """A difference in points, with its interval."""
    ends = "" if one.low is None or one.high is None else f" [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
    return f"{100 * one.value:+.1f}{ends}"
