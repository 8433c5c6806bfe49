"""What came of shrinking a model: as sentences and tables, on a console, in Markdown, as a page and as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from allround.core.files import json_text
from allround.core.progress import make_console
from allround.core.words import (
    count,
    duration,
    listed,
    percent,
    plural,
    printable,
    share_text,
    shown,
    size_text,
    span_text,
)
from allround.evaluation.intervals import Interval, verdict
from allround.evaluation.smaller.result import Shrunk, Size, Smaller
from allround.evaluation.tables import fitted_table, markdown_table, markdown_text
from allround.tasks.metric import better

if TYPE_CHECKING:
    from rich.console import Console

#: What is written of a shrunk model.
FILES = ("shrink.json", "shrink.md", "shrink.html")

Table = tuple[list[str], list[list[str]]]
_FIRST_OUT = ("rows", "parameters", "together, ms")


def title(found: Shrunk) -> str:
    return f"A model at {share_text(found.written.size.share)} of its work"


def answer(found: Shrunk) -> str:
    """The answer, in two sentences."""
    one, speed = found.written, found.speed(found.written)
    kept = "Retention is undefined, as no score of the original is above 0"
    if one.mean is not None:
        over = plural(len(one.tasks), "task")
        kept = f"It keeps {_interval(one.mean)}% of the original's scores on test rows, the mean over {over}"
    return (
        f"The model has {share_text(one.size.share)} of the original's work for a row, by {one.way}, and is "
        f"{speed.alone:.1f} times as fast for single rows ({speed.together:.1f} times in batches). {kept}."
    )


def sentences(found: Shrunk) -> list[str]:
    """The answer, and what has to be known beside it."""
    one = found.written
    lines = [answer(found), removed(one)]
    worse = [each.task for each in one.tasks if verdict(each.difference) == "worse"]
    if worse:
        lines.append(f"Worse than the original on test rows: {listed(worse)}.")
    else:
        lines.append("No task was found to be worse than with the original.")
    if one.specialists is not None:
        lines.append(f"It keeps {_interval(one.specialists)}% of the specialists' scores.")
    if len(found.smaller) > 1:
        enough = one.validation is not None and one.validation >= found.keep
        said = f"No size keeps {percent(found.keep)}% on validation rows; the one that keeps most was written."
        lines.append(f"It is the smallest that keeps {percent(found.keep)}% on validation rows." if enough else said)
    if found.knee is not None:
        lines.append(f"The knee of the curve is at {share_text(found.smaller[found.knee].size.share)} of the work.")
    if found.unjudged:
        lines.append(f"No rows of {listed(found.unjudged)} were given: what became of them was not measured.")
    return lines


def removed(one: Smaller) -> str:
    """What was removed where, in a sentence."""
    parts = []
    if "layers" in one.kept:
        layers = listed([str(n + 1) for n in one.kept["layers"]])
        parts.append(f"layers {layers} of {one.groups['layers']} stay")
    gone = set() if "layers" not in one.kept else set(range(one.groups["layers"])) - set(one.kept["layers"])
    units = {n: len(k) for n, k in one.kept.items() if n != "layers" and _layer(n) not in gone}
    if units and len(set(units.values())) == 1 and len(units) > 1:
        name, number = next(iter(units.items()))
        parts.append(f"{number} of {one.groups[name]} units in each layer")
    else:
        parts += [f"{number} of {one.groups[name]} parts of {name}" for name, number in units.items()]
    return f"What stays: {'; '.join(parts)}." if parts else "Nothing was removed."


def _layer(group: str) -> int | None:
    kind, _, number = group.partition(".")
    return int(number) if kind == "units" else None


def sizes_table(found: Shrunk) -> Table:
    """A row for each size, and the original."""
    head = ["size", "way", "work", "kept, %", "kept, validation, %", "alone, ms", "times as fast", "together, ms",
            "parameters", "weights"]  # fmt: skip
    body = [["original", "", "100%", "100.0", "100.0", *_size(found.original, None)]]
    for number, one in enumerate(found.smaller):
        name = one.asked
        name += " (written)" if number == found.chosen and len(found.smaller) > 1 else ""
        name += " (knee)" if number == found.knee else ""
        kept = "" if one.mean is None else _interval(one.mean)
        held = "" if one.validation is None else percent(one.validation)
        body.append([name, one.way, share_text(one.size.share), kept, held,
                     *_size(one.size, found.speed(one).alone)])  # fmt: skip
    return head, body


def _size(size: Size, speed: float | None) -> list[str]:
    return [f"{size.time.alone:.2f}", "" if speed is None else f"{speed:.2f}", f"{size.time.together:.2f}",
            count(size.parameters), size_text(size.bytes)]  # fmt: skip


def ways_table(found: Shrunk) -> Table:
    """A row for each way that was tried, on validation rows."""
    body = [
        [one.asked, way.way, share_text(way.share), "" if way.validation is None else percent(way.validation),
         duration(way.seconds)]
        for one in found.smaller
        for way in one.tried
    ]  # fmt: skip
    return ["size", "way", "work", "kept, validation, %", "training"], body


def tasks_table(one: Smaller) -> Table:
    """A row for each task of a smaller model, on test rows."""
    beside = any(each.specialist is not None for each in one.tasks)
    head = ["task", "metric", "rows", "original", "smaller", "kept, %", "difference"]
    body = []
    for each in one.tasks:
        sense = better(each.metric)
        difference = each.difference
        said = verdict(difference) if verdict(difference) != "no difference found" else "none found"
        cells = [each.task, each.metric, str(each.rows), shown(each.original, sense),
                 f"{shown(each.score.value, sense)}{span_text(each.score.low, each.score.high, better=sense)}",
                 "" if each.retention is None else _interval(each.retention), said]  # fmt: skip
        body.append([*cells, "" if each.specialist is None else _interval(each.specialist)] if beside else cells)
    return [*head, "of specialist, %"] if beside else head, body


def _interval(value: Interval) -> str:
    return f"{percent(value.value)}{span_text(value.low, value.high)}"


def legend(found: Shrunk) -> list[str]:
    """How the figures were measured."""
    return [
        "Work: multiply-adds of the encoder for a row. Kept: the share of the original's score, with a paired "
        "bootstrap interval over rows (95%); of several tasks the mean.",
        "Ways, and sizes, are chosen on validation rows; the best way of each size was scored on test rows, once.",
        f"Milliseconds of a row on this machine's CPU with {plural(found.threads, 'thread')}, from the row to the "
        "answer: alone, or together with others in batches of up to 64. Models took turns at every row and batch, of "
        "which the shortest of five rounds counts.",
        f"Rows: {found.facts['rows']}.",
    ]


def markdown(found: Shrunk) -> str:
    """Everything as Markdown."""
    lines = [f"# {markdown_text(title(found))}", "", markdown_text(answer(found)), ""]
    lines += [f"- {markdown_text(line)}" for line in sentences(found)[1:]]
    lines += ["", "## Sizes", "", *markdown_table(*sizes_table(found)), ""]
    lines += ["## Tasks, on test rows", "", *markdown_table(*tasks_table(found.written)), ""]
    lines += ["## Ways, on validation rows", "", *markdown_table(*ways_table(found)), ""]
    lines += [f"- {markdown_text(line)}" for line in legend(found)]
    return "\n".join(lines) + "\n"


def print_shrunk(found: Shrunk, console: Console | None = None) -> None:
    """Print the answer and the tables."""
    console = console or make_console()
    console.print()
    for line in sentences(found):
        console.print(printable(line), markup=False, highlight=False)
    for head, body in (sizes_table(found), tasks_table(found.written), ways_table(found)):
        console.print()
        console.print(fitted_table(head, body, console.width, first_out=_FIRST_OUT))


def page(found: Shrunk) -> str:
    """Everything as a page that needs nothing else."""
    from markupsafe import Markup

    from allround.evaluation.pages import template
    from allround.evaluation.pictures import page_colours, page_style, svg_text
    from allround.evaluation.smaller.pictures import curve_caption, plot_curve

    picture = plot_curve(found)
    made = template(Path(__file__).with_name("page.html.j2"), {}, {})
    return made.render(
        title=title(found),
        answer=answer(found),
        sentences=sentences(found)[1:],
        sizes=sizes_table(found),
        tasks=tasks_table(found.written),
        ways=ways_table(found),
        curve=None if picture is None else Markup(svg_text(picture, "What smaller models keep", inline=True)),
        caption=curve_caption(found),
        removed=[(one.asked, removed(one)) for one in found.smaller],
        legend=legend(found),
        picture_style=Markup(page_style()),
        light_colours=Markup(page_colours()),
        dark_colours=Markup(page_colours(dark=True)),
        facts={"model": found.model, "suite": found.facts["suite"], "time": duration(found.seconds),
               **{name: str(found.provenance[name]) for name in ("allround", "seed", "workers")}},
    )  # fmt: skip


def files(found: Shrunk) -> dict[str, str]:
    """The files of a shrunk model by name."""
    return dict(zip(FILES, (json_text(plain(found), allow_nan=False), markdown(found), page(found)), strict=True))


def plain(found: Shrunk) -> dict[str, object]:
    """Everything as plain data."""
    return {
        "format": "allround shrink 1",
        "model": found.model,
        "answer": answer(found),
        "keep": found.keep,
        "written": found.written.asked,
        "knee": None if found.knee is None else found.smaller[found.knee].asked,
        "original": _plain_size(found.original),
        "sizes": [_plain_smaller(one) for one in found.smaller],
        "unjudged": list(found.unjudged),
        "threads": found.threads,
        "seconds": found.seconds,
        "facts": dict(found.facts),
        "provenance": dict(found.provenance),
    }


def _plain_size(size: Size) -> dict[str, object]:
    return {"share": size.share, "parameters": size.parameters, "bytes": size.bytes,
            "milliseconds": size.time._asdict()}  # fmt: skip


def _plain_smaller(one: Smaller) -> dict[str, object]:
    return {
        "asked": one.asked,
        "way": one.way,
        **_plain_size(one.size),
        "kept": {name: list(parts) for name, parts in one.kept.items()},
        "of": dict(one.groups),
        "validation": one.validation,
        "ways": [{"way": way.way, "share": way.share, "validation": way.validation, "seconds": way.seconds}
                 for way in one.tried],
        "test": {
            "retention": None if one.mean is None else one.mean._asdict(),
            "specialists": None if one.specialists is None else one.specialists._asdict(),
            "tasks": {
                each.task: {
                    "metric": each.metric, "rows": each.rows, "original": each.original,
                    "score": each.score._asdict(), "difference": each.difference._asdict(),
                    "retention": None if each.retention is None else each.retention._asdict(),
                    "specialist": None if each.specialist is None else each.specialist._asdict(),
                }
                for each in one.tasks
            },
        },
    }  # fmt: skip
