"""What came of adding a task: as sentences and tables, on a console, in Markdown, as a page and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from allround.continual.addition import Addition, TriedWay
from allround.core.files import json_text
from allround.core.progress import make_console
from allround.core.words import count, duration, listed, percent, plural, printable, shown, span_text
from allround.evaluation.gate import GatedTask
from allround.evaluation.intervals import verdict
from allround.evaluation.tables import fitted_table, markdown_table, markdown_text
from allround.tasks.metric import better

if TYPE_CHECKING:
    from rich.console import Console

#: What is written of an addition.
FILES = ("add-task.json", "add-task.md", "add-task.html")

Table = tuple[list[str], list[list[str]]]
_FIRST_OUT = ("stored", "right → wrong", "wrong → right", "time")


def answer(found: Addition) -> str:
    """The answer, in a sentence or two."""
    way = found.written
    if way is None:
        return (f"{found.task} was not added: {_nothing_passed(found)} Nothing was written; give --write-anyway to "
                "write the best way all the same.")  # fmt: skip
    sense, tested = better(found.metric), found.tested
    assert tested is not None
    score = f"{shown(tested.score.value, sense)}{span_text(tested.score.low, tested.score.high, better=sense)}"
    beside = shown(tested.specialist.value, sense)
    said = {"better": "better than", "worse": "worse than"}.get(verdict(tested.difference), "no difference found from")
    first = f"{found.task} was added by {way.name}"
    if found.forced:
        first += f", although {_nothing_passed(found).rstrip('.')}"
    text = f"{first}: test {found.metric} {score}, {said} the specialist's {beside} on {plural(tested.rows, 'row')}."
    return f"{text} {_old_in_words(found, way)}"


def _nothing_passed(found: Addition) -> str:
    if not found.tried:
        return "no way could be tried."
    return f"none of {listed([one.name for one in found.tried])} passes the gate for the old tasks."


def _old_in_words(found: Addition, way: TriedWay) -> str:
    many = "old task" if len(found.old) == 1 else plural(len(found.old), "old task")
    if way.exact:
        return f"The answers of the {many} stay as they were, to the bit; it took {duration(way.seconds)}."
    tested = found.tested.old if found.tested is not None else ()
    if not tested:
        passes = "passes" if len(found.old) == 1 else "pass"
        return f"The {many} {passes} the gate on the rows that were remembered; it took {duration(way.seconds)}."
    lost = [one.task for one in tested if not one.passed]
    flips = [one.flips for one in tested if one.flips is not None]
    rows, wrong = sum(f.rows for f in flips), sum(f.lost for f in flips)
    share = f"{percent(wrong / rows)}% of their test rows turn from right to wrong" if rows else ""
    if lost:
        return f"On test rows, the gate is not passed for {listed(lost)}{'; ' + share if share else ''}."
    every = f"The {many} passes" if len(found.old) == 1 else f"All {many} pass"
    return f"{every} the gate on test rows too{'; ' + share if share else ''}; it took {duration(way.seconds)}."


def sentences(found: Addition) -> list[str]:
    """The answer, and what has to be known beside it."""
    lines = [answer(found)]
    way = found.written
    if way is not None and not way.reaches(found.reach) and way.retention is not None:
        lines.append(f"It does not reach {percent(found.reach)}% of the specialist on validation rows: "
                     f"{percent(way.retention)}%.")  # fmt: skip
    rivals = [one for one in found.tried if one is not way]
    if way is not None and rivals:
        times = sorted(one.seconds for one in rivals)
        span = duration(times[0]) if len(times) == 1 else f"{duration(times[0])} to {duration(times[-1])}"
        others = "The other way that was tried" if len(times) == 1 else "The other ways that were tried"
        lines.append(f"{others} took {span}; the table has the validation scores.")
    for one in found.tried:
        failed = [each for each in one.gates if not each.passed]
        lines += [f"{one.name} does not pass: {each.task} {'; '.join(each.reasons)}." for each in failed[:1]]
        if len(failed) > 1:
            lines[-1] = lines[-1].rstrip(".") + f", and {len(failed) - 1} more of the old tasks."
    if found.floor is not None:
        lines.append(f"Two seeds of one recipe with all rows turn up to {percent(found.floor)}% of the validation rows "
                     f"of a task from right to wrong; so {percent(found.max_flips)}% are allowed.")  # fmt: skip
    reasons = dict.fromkeys(found.left_out.values())
    for why in reasons:
        names = [name for name, other in found.left_out.items() if other == why]
        lines.append(f"Not tried: {listed(names)}, as {why}.")
    return lines


def ways_table(found: Addition) -> Table:
    """A row for each way that was tried, on validation rows."""
    sense = better(found.metric)
    head = ["way", found.task, "of specialist, %", "least kept, %", "right → wrong", "wrong → right", "old tasks",
            "stored", "time"]  # fmt: skip
    body = [["specialist", shown(found.specialist, sense), "100.0", "", "", "", "", "",
             duration(found.specialist_seconds)]]  # fmt: skip
    for one in found.tried:
        flips = one.flips
        lost, gained = ("" if flips is None else f"{percent(n / flips[0])}%" for n in (flips or (1, 0, 0))[1:])
        kept = [each.retention.value for each in one.gates if each.retention is not None]
        old = "unchanged" if one.exact else "pass" if one.passed else "do not pass" if one.gates else "not judged"
        name = f"{one.name} (chosen)" if one.name == found.chosen else one.name
        of = "" if one.retention is None else percent(one.retention)
        least = "100.0" if one.exact else percent(min(kept)) if kept else ""
        body.append([name, shown(one.score, sense), of, least, "0.0%" if one.exact else lost,
                     "0.0%" if one.exact else gained, old, f"{count(one.stored)}", duration(one.seconds)])  # fmt: skip
    return head, body


def gate_table(old: Sequence[GatedTask]) -> Table:
    """A row for each old task of the model that was written, on test rows."""
    head = ["old task", "metric", "rows", "before", "now", "kept, %", "at least, %", "right → wrong", "wrong → right",
            "gate"]  # fmt: skip
    body = []
    for one in old:
        sense = better(one.metric)
        kept = "" if one.retention is None else percent(one.retention.value)
        low = "" if one.low is None else percent(one.low)
        flips = ["", ""] if one.flips is None else [str(one.flips.lost), str(one.flips.gained)]
        verdict_of = "passes" if one.passed else "; ".join(one.reasons)
        body.append([one.task, one.metric, str(one.rows), shown(one.before, sense), shown(one.after, sense), kept, low,
                     *flips, verdict_of])  # fmt: skip
    return head, body


def legend(found: Addition) -> list[str]:
    """How the figures were measured."""
    return [
        f"Ways are compared on validation rows ({found.facts['rows']} rows of {found.task}); the model that is written "
        "was scored on test rows once.",
        f"An old task passes if it keeps {percent(found.keep)}% of its score, which its rows must show (paired "
        "bootstrap, one-sided 95% bound, Holm's correction over tasks), and if at most "
        f"{percent(found.max_flips)}% of its rows turn from right to wrong.",
        "Least kept: of the old task that keeps the least. Stored: numbers that the model holds more than before.",
        f"Old tasks: {found.old_rows}.",
        f"The specialist was tuned on {found.task} alone, from {found.facts['base']}. A way is good enough from "
        f"{percent(found.reach)}% of its validation score.",
    ]


def markdown(found: Addition) -> str:
    """Everything as Markdown."""
    lines = [f"# {markdown_text(title(found))}", "", markdown_text(answer(found)), ""]
    lines += [f"- {markdown_text(line)}" for line in sentences(found)[1:]]
    lines += ["", "## Ways, on validation rows", "", *markdown_table(*ways_table(found)), ""]
    if found.tested is not None and found.tested.old:
        lines += ["## Old tasks, on test rows", "", *markdown_table(*gate_table(found.tested.old)), ""]
    lines += [f"- {markdown_text(line)}" for line in legend(found)]
    return "\n".join(lines) + "\n"


def title(found: Addition) -> str:
    return f"{found.task} added to {plural(len(found.old), 'task')}" if found.written else f"{found.task} not added"


def print_addition(found: Addition, console: Console | None = None) -> None:
    """Print the answer and the tables."""
    console = console or make_console()
    tables = [ways_table(found)]
    if found.tested is not None and found.tested.old:
        tables.append(gate_table(found.tested.old))
    console.print()
    for line in sentences(found):
        console.print(printable(line), markup=False, highlight=False)
    for head, body in tables:
        console.print()
        console.print(fitted_table(head, body, console.width, first_out=_FIRST_OUT))


def page(found: Addition) -> str:
    """Everything as a page that needs nothing else."""
    from markupsafe import Markup

    from allround.evaluation.pages import template
    from allround.evaluation.pictures import page_colours, page_style

    made = template(Path(__file__).with_name("addition.html.j2"), {}, {})
    tested = gate_table(found.tested.old) if found.tested is not None and found.tested.old else None
    return made.render(
        title=title(found),
        answer=answer(found),
        sentences=sentences(found)[1:],
        ways=ways_table(found),
        old=tested,
        chosen=found.written.name if found.written is not None else "",
        legend=legend(found),
        picture_style=Markup(page_style()),
        light_colours=Markup(page_colours()),
        dark_colours=Markup(page_colours(dark=True)),
        facts={"model": found.model, "base": found.facts["base"], "time": duration(found.seconds), **_made_by(found)},
    )


def _made_by(found: Addition) -> dict[str, str]:
    return {name: str(found.provenance[name]) for name in ("allround", "seed", "workers") if name in found.provenance}


def files(found: Addition) -> dict[str, str]:
    """The files of an addition by name."""
    return dict(zip(FILES, (json_text(plain(found), allow_nan=False), markdown(found), page(found)), strict=True))


def plain(found: Addition) -> dict[str, object]:
    """Everything as plain data."""
    tested = found.tested
    return {
        "format": "allround add-task 1",
        "task": found.task,
        "metric": found.metric,
        "model": found.model,
        "passed": found.passed,
        "chosen": found.chosen,
        "forced": found.forced,
        "answer": answer(found),
        "keep": found.keep,
        "max_flips": found.max_flips,
        "reach": found.reach,
        "flip_floor": found.floor,
        "specialist": {"validation": found.specialist, "seconds": found.specialist_seconds},
        "ways": [
            {"way": one.name, "validation": one.score, "retention": one.retention, "exact": one.exact,
             "passed": one.passed, "seconds": one.seconds, "stored": one.stored, "unjudged": list(one.unjudged),
             "old": [_plain_gate(each) for each in one.gates]}
            for one in found.tried
        ],
        "not_tried": dict(found.left_out),
        "test": None if tested is None else {
            "score": tested.score._asdict(), "specialist": tested.specialist._asdict(),
            "difference": tested.difference._asdict(), "rows": tested.rows,
            "retention": None if tested.retention is None else tested.retention._asdict(),
            "old": [_plain_gate(each) for each in tested.old],
        },
        "old_rows": found.old_rows,
        "seconds": found.seconds,
        "facts": dict(found.facts),
        "provenance": dict(found.provenance),
    }  # fmt: skip


def _plain_gate(one: GatedTask) -> dict[str, object]:
    return {
        "task": one.task,
        "metric": one.metric,
        "rows": one.rows,
        "before": one.before,
        "after": one.after,
        "retention": None if one.retention is None else one.retention._asdict(),
        "at_least": one.low,
        "p": one.p,
        "flips": None
        if one.flips is None
        else {
            "right_to_wrong": one.flips.lost,
            "wrong_to_right": one.flips.gained,
            "wrong_otherwise": one.flips.changed,
        },
        "passed": one.passed,
        "reasons": list(one.reasons),
    }
