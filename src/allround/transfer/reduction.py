"""A choice of tasks in words: on a console, in Markdown, and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from allround.core.files import json_text
from allround.core.progress import make_console
from allround.core.words import percent, plural, printable
from allround.evaluation.tables import fitted_table, markdown_table, markdown_text
from allround.transfer.completing import CompletionError
from allround.transfer.reducing import Reduced

FILES = ("reduce.json", "reduce.md")
LEGEND = (
    "Errors x 100: how far the mean score over all tasks is off, the root mean square over models that are left "
    "out in turn. Random tasks: as many, completed in the same way. Random rows: as many rows as the chosen tasks "
    "have, as many of each task. The best of many choices looks better than it is."
)


@dataclass(frozen=True)
class Reduction:
    """What was found for a table of scores. completions: how well single scores are predicted."""

    tasks: int
    models: int
    found: Sequence[Reduced]
    completions: Sequence[CompletionError] = ()

    @property
    def best(self) -> list[Reduced]:
        """For each number of tasks the choice with the least error."""
        counts = dict.fromkeys(len(one.chosen) for one in self.found)
        return [min((one for one in self.found if len(one.chosen) == n), key=lambda one: one.error) for n in counts]

    @property
    def warnings(self) -> list[str]:
        """Where choosing tasks is no better than chance at equal cost."""
        lines = []
        for one in self.best:
            count = plural(len(one.chosen), "task")
            if one.random_rows is not None and one.error >= one.random_rows:
                lines.append(
                    f"Do not choose {count}: {one.rows:,} rows drawn at random from all tasks are nearer at the same "
                    f"cost: {percent(one.random_rows)} points, not {percent(one.error)}."
                )
            elif one.error >= one.random_tasks:
                lines.append(f"Do not choose {count} by {one.way}: as many at random are off by "
                             f"{percent(one.random_tasks)} points, not {percent(one.error)}.")  # fmt: skip
        if any(one.random_rows is None for one in self.found):
            lines.append("How far off random rows are is not known: this takes the number of rows of each task, and "
                         "scores that are shares of right answers.")  # fmt: skip
        return lines

    def table(self) -> tuple[list[str], list[list[str]]]:
        """A row for each choice."""
        head = ["tasks", "chosen by", "completed by", "error", "random tasks", "random rows", "rows"]
        body = [[str(len(one.chosen)), one.way, one.completion, percent(one.error), percent(one.random_tasks),
                 "" if one.random_rows is None else percent(one.random_rows),
                 "" if one.rows is None else f"{one.rows:,}"] for one in self.found]  # fmt: skip
        return head, body

    @property
    def sentences(self) -> list[str]:
        """The choice of least error for each number of tasks, warnings, and how well scores are predicted."""
        lines = [f"{plural(len(one.chosen), 'task')} by {one.way}, completed by {one.completion}: "
                 f"{', '.join(one.chosen)}" for one in self.best]  # fmt: skip
        lines += self.warnings
        for found in self.completions:
            lines.append(f"A single score is predicted by {found.completion} with an error of {percent(found.error)} "
                         f"points; of the squared error of the task's mean it removes {percent(found.explained)}% "
                         f"({found.hidden:,} scores hidden one at a time).")  # fmt: skip
        return lines

    def print(self) -> None:
        """Print the table and the sentences."""
        console = make_console()
        head, body = self.table()
        console.print()
        console.print(fitted_table(head, body, console.width, first_out=("rows",)))
        for line in (LEGEND, "", *self.sentences):
            console.print(printable(line), markup=False, highlight=False)

    def files(self) -> dict[str, str]:
        """The files of the result, by name."""
        lines = [f"# {self.tasks} tasks, {self.models} models", "", *markdown_table(*self.table()), "", LEGEND, ""]
        lines += [f"- {markdown_text(line)}" for line in self.sentences]
        return dict(zip(FILES, (json_text(self.to_json()), "\n".join(lines) + "\n"), strict=True))

    def to_json(self) -> dict[str, object]:
        """Everything as plain data."""
        return {
            "format": "allround reduce 1",
            "tasks": self.tasks,
            "models": self.models,
            "choices": [{**vars(one), "chosen": list(one.chosen), "loses": one.loses} for one in self.found],
            "best": [list(one.chosen) for one in self.best],
            "warnings": self.warnings,
            "completions": [vars(one) for one in self.completions],
        }
