"""What was found about the data of a suite, as a page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from allround.core.words import plural
from allround.evaluation.data_page.pictures import plot_labels, plot_spread
from allround.evaluation.pages import template
from allround.evaluation.pictures import Picture, page_colours, page_style, svg_text
from allround.tasks.checks.finding import Finding, has_labels, targets_of
from allround.tasks.checks.labels import label_counts
from allround.tasks.column_types import columns_in_words
from allround.tasks.kind import kind
from allround.tasks.passages import Passages
from allround.tasks.suite import Suite
from allround.tasks.task import SPLITS, Task
from allround.tasks.values import Target

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class _Section:
    """A task on the page."""

    task: Task
    findings: Sequence[Finding]
    columns: Mapping[str, str]
    pictures: Sequence[tuple[str, Markup]]

    @property
    def rows(self) -> str:
        return ", ".join(f"{split} {len(self.task.splits[split])}" for split in SPLITS)


def html(suite: Suite, findings: Mapping[str, Sequence[Finding]]) -> str:
    """A section for each task: what was found, its columns, and pictures."""
    from markupsafe import Markup

    sections = [_section(task, findings.get(task.name, ())) for task in suite]
    found = sum(len(section.findings) for section in sections)
    return template(Path(__file__).with_name("page.html.j2"), {}).render(
        title=f"Data of {suite.name}",
        verdict=f"{plural(len(sections), 'task')}, {plural(found, 'warning')}.",
        description=suite.description,
        sections=sections,
        picture_style=Markup(page_style()),
        light=Markup(page_colours()),
        dark=Markup(page_colours(dark=True)),
    )


def _section(task: Task, findings: Sequence[Finding]) -> _Section:
    from markupsafe import Markup

    d = task.definition
    shown = {words: Markup(svg_text(made, words, inline=True)) for words, made in _pictures(task).items()}
    columns = columns_in_words(d.inputs, d.columns) if d.columns else {}
    return _Section(task, findings, columns, list(shown.items()))


def _pictures(task: Task) -> dict[str, Picture]:
    """The pictures of a task, by what they show."""
    targets, found = targets_of(task), {}
    if has_labels(task.definition):
        found["Rows of each label"] = plot_labels(label_counts(targets))
    elif kind(task.definition.kind).ranked:
        counts = {split: [float(len([g for g in one.values() if g > 0])) for one in task.splits[split].targets]
                  for split in SPLITS}  # fmt: skip
        found["Relevant passages of each query"] = plot_spread(counts, "passages")
    elif kind(task.definition.kind).written:
        lengths = {split: [_words(answers) for answers in _first(targets[split])] for split in SPLITS}
        found["Words of each answer"] = plot_spread(lengths, "words")
    else:
        numbers = {split: [float(value) for value in targets[split]] for split in SPLITS}  # type: ignore[arg-type]
        found["Targets"] = plot_spread(numbers, "target")
    if task.definition.modality == "text":
        words = {split: [_words(row) for row in task.splits[split].inputs] for split in SPLITS}
        found["Words of each row"] = plot_spread(words, "words")
    return found


def _first(answers: Sequence[Target]) -> list[tuple[object]]:
    """The first accepted answer of each row."""
    return [(one[0] if isinstance(one, list) else one,) for one in answers]


def _words(row: Sequence[object]) -> float:
    texts = [value for value in row if not isinstance(value, Passages)]
    return float(sum(len(value) if isinstance(value, list) else len(str(value).split()) for value in texts))
