"""A comparison of two versions in words: on a console, in Markdown for a pull request, and as plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from allround.core.files import json_text
from allround.core.progress import make_console
from allround.core.words import listed, percent, plural, printable, shown, span_text
from allround.evaluation.measuring import Measured, shown_interval
from allround.evaluation.tables import fitted_table, markdown_table, markdown_text
from allround.evaluation.versions import TaskVersions
from allround.tasks.metric import better

if TYPE_CHECKING:
    from rich.console import Console

#: What is written of a comparison.
FILES = ("compare.json", "compare.md", "new-errors.jsonl")
_FIRST_OUT = ("confidence", "test", "p", "metric", "rows", "wrong → right")
#: Labels with flips that are named for a task.
_LABELS = 3


@dataclass(frozen=True)
class VersionsResult:
    """Two versions compared. broken: what each task does not keep to, in words. errors: see `versions.new_errors`.
    only: tasks that one version alone answered. notes: what has to be known beside that. measures: each of the old
    version and of the new one."""

    old: str
    new: str
    tasks: Sequence[TaskVersions]
    broken: Mapping[str, Sequence[str]]
    errors: Sequence[Mapping[str, object]]
    only: Sequence[str] = ()
    notes: Sequence[str] = field(default=())
    measures: Sequence[tuple[Measured, Measured]] = ()

    @property
    def passed(self) -> bool:
        return not any(self.broken.values())

    def files(self) -> dict[str, str]:
        """The files of the comparison, by name."""
        lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in self.errors)
        return dict(zip(FILES, (json_text(plain(self), allow_nan=False), markdown(self), lines), strict=True))


def answer(found: VersionsResult) -> str:
    """The answer, in a sentence or two."""
    sorts = {said: [one.task for one in found.tasks if one.verdict == said] for said in ("worse", "better")}
    parts = [f"{said} on {listed(names)}" for said, names in sorts.items() if names]
    unclear = len(found.tasks) - sum(map(len, sorts.values()))
    if unclear:
        which = f"{unclear} of {plural(len(found.tasks), 'task')}" if parts else "any task"
        parts.append(f"no difference found on {which}")
    flips = [one.flips for one in found.tasks if one.flips is not None]
    text = f"The new version: {', '.join(parts)}."
    if flips:
        rows, lost, gained = sum(f.rows for f in flips), sum(f.lost for f in flips), sum(f.gained for f in flips)
        text += (f" {percent(lost / rows)}% of {rows:,} rows turn from right to wrong, and {percent(gained / rows)}% "
                 "from wrong to right.")  # fmt: skip
    failed = [task for task, why in found.broken.items() if why]
    if failed:
        text += f" The gate is not passed: {'; '.join(f'{task}: {listed(found.broken[task])}' for task in failed)}."
    return text


def table(found: VersionsResult) -> tuple[list[str], list[list[str]]]:
    """A row for each task."""
    head = ["task", "metric", "rows", "old", "new", "difference", "verdict", "p", "test", "right → wrong",
            "wrong → right", "confidence"]  # fmt: skip
    body = []
    for one in found.tasks:
        sense = better(one.metric)
        gap = one.difference
        points = percent(gap.value, signed=True) if sense == "higher" else f"{gap.value:+.3g}"
        ends = span_text(gap.low, gap.high, signed=True) if sense == "higher" else ""
        turned = () if one.flips is None else (one.flips.lost, one.flips.gained)
        flips = [f"{n} ({percent(n / one.rows)}%)" for n in turned] or ["", ""]
        sure = "" if one.confidence is None else " → ".join(map(percent, one.confidence))
        body.append([one.task, one.metric, f"{one.rows:,}", shown(one.old.value, sense), shown(one.new.value, sense),
                     f"{points}{ends}", one.verdict, f"{one.p:.3f}", one.test, *flips, sure])  # fmt: skip
    return head, body


def sentences(found: VersionsResult) -> list[str]:
    """What has to be known beside the table."""
    lines = []
    for one in found.tasks:
        worst = [label for label in one.by_label if label.lost][:_LABELS]
        if worst and (found.broken.get(one.task) or one.verdict == "worse"):
            named = ", ".join(f"{label.label} ({label.lost} of {label.rows})" for label in worst)
            lines.append(f"{one.task}: rows that turn from right to wrong are most often of the labels {named}.")
    for old, new in found.measures:
        both = " → ".join(shown_interval(one.interval, one.share) for one in (old, new))
        change = shown_interval(new.less(old), new.share, signed=True)
        lines.append(f"{new.name[:1].upper()}{new.name[1:]}: {both}, a difference of {change}.")
    if found.only:
        lines.append(f"Only one of the versions answered {listed(list(found.only))}, which is left out.")
    return [*lines, *found.notes]


LEGEND = (
    "Scores x 100; in the metric's own units where lower is better. Difference: new less old, turned so that higher is "
    "better, with its paired 95% interval; p: exact McNemar test for accuracy, else the paired bootstrap, with Holm's "
    "correction over tasks. Confidence: the mean that each version gives its answers."
)


def markdown(found: VersionsResult) -> str:
    """Everything as Markdown."""
    state = "passes the gate" if found.passed else "does not pass the gate"
    title = f"# {markdown_text(found.new)} {state}, beside {markdown_text(found.old)}"
    lines = [title, "", markdown_text(answer(found)), "", *markdown_table(*table(found)), "", markdown_text(LEGEND), ""]
    lines += [f"- {markdown_text(line)}" for line in sentences(found)]
    return "\n".join(lines) + "\n"


def print_versions(found: VersionsResult, console: Console | None = None) -> None:
    """Print the answer and the table."""
    console = console or make_console()
    head, body = table(found)
    console.print()
    for line in (answer(found), *sentences(found)):
        console.print(printable(line), markup=False, highlight=False)
    console.print()
    console.print(fitted_table(head, body, console.width, first_out=_FIRST_OUT))
    console.print(printable(LEGEND), markup=False, highlight=False)


def plain(found: VersionsResult) -> dict[str, object]:
    """Everything as plain data."""
    return {
        "format": "allround compare 1",
        "old": found.old,
        "new": found.new,
        "passed": found.passed,
        "answer": answer(found),
        "tasks": {
            one.task: {
                "metric": one.metric, "rows": one.rows, "old": one.old._asdict(), "new": one.new._asdict(),
                "difference": one.difference._asdict(), "verdict": one.verdict, "p": one.p, "test": one.test,
                "flips": None if one.flips is None else {
                    "right_to_wrong": one.flips.lost, "wrong_to_right": one.flips.gained,
                    "wrong_otherwise": one.flips.changed,
                },
                "by_label": [{"label": label.label, "rows": label.rows, "right_to_wrong": label.lost,
                              "wrong_to_right": label.gained} for label in one.by_label],
                "confidence": None if one.confidence is None else {"old": one.confidence[0], "new": one.confidence[1]},
                "broken": list(found.broken.get(one.task, ())),
            }
            for one in found.tasks
        },
        "measures": [{"name": new.name, "old": old.interval._asdict(), "new": new.interval._asdict(),
                      "difference": new.less(old)._asdict()} for old, new in found.measures],
        "only": list(found.only),
        "notes": list(found.notes),
    }  # fmt: skip
