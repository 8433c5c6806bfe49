"""Starts for a new task in the order in which they should be tried, as users hold them: said, printed and saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from allround.core.outputs import check_out_file, output_file
from allround.core.progress import make_console
from allround.core.words import duration, listed, plural, printable
from allround.evaluation.tables import console_table, fitting_columns, wrapped
from allround.transfer.blending import blend
from allround.transfer.files import check_ending, write_matrices
from allround.transfer.findings import TOGETHER
from allround.transfer.matrix import TaskMatrix
from allround.transfer.report.tables import places_of

if TYPE_CHECKING:
    from rich.console import Console

#: What a ranking is worth.
WORTH = (
    "No estimate is sure: on eight text tasks such a ranking was not found to be better than a random order. Tune from "
    "each of these for a few minutes, and compare. allround relate --measure pairs says how good each estimate is on "
    "tasks like yours."
)


@dataclass(frozen=True)
class Starts:
    """Sources ranked as starts for a task, the first one being the one to try first.

    found = allround.sources(["models/topic", "models/mood"], "new.yml")
    found.best(5)

    starts: the folder of each model, or the task of a suite whose specialist would be the start, by the name of the
    source. estimates: a row for each source, one column, the task. left_out: estimators that said nothing, and why.
    seconds: what all of it took.
    """

    task: str
    starts: Mapping[str, str]
    estimates: tuple[TaskMatrix, ...]
    left_out: Mapping[str, str]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @cached_property
    def together(self) -> TaskMatrix:
        """What all estimates together expect: the mean rank of each source."""
        return blend(TOGETHER, self.estimates)

    def best(self, count: int | None = None) -> list[str]:
        """The starts, the best first: folders of models, or tasks. count: at most so many."""
        return [self.starts[name] for name in self.together.best(self.task, count)]

    def words(self, top: int = 5) -> list[str]:
        """Which to try first, by what, and how good such a ranking is."""
        known = self.together.best(self.task)
        lines = [
            f"Try first for {self.task}: {listed(known[:top])}.",
            f"{plural(len(known), 'source')} ranked by {plural(len(self.estimates), 'estimate')} together "
            f"({duration(self.seconds)}).",
        ]
        unknown = [name for name in self.starts if name not in known]
        if unknown:
            lines.append(f"Nothing can be said of {listed(unknown)}: they do not read the rows of {self.task}, or no "
                         "estimate applies to them.")  # fmt: skip
        return [*lines, *self.notes, WORTH]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The place of each source by all estimates together, and by each, the best first."""
        places = {one.name: [row[0] for row in places_of(one)] for one in (self.together, *self.estimates)}
        order = np.argsort(-np.nan_to_num(self.together.gains[:, 0], nan=-1.0), kind="stable").tolist()
        body = [[self.together.sources[row], *(places[name][row] for name in places)] for row in order]
        return ["source", "all", *(one.name for one in self.estimates)], body

    def print(self, top: int = 5, console: Console | None = None) -> None:
        """Print the table and what follows from it, in ASCII, within the console's width."""
        console = console or make_console()
        head, body = self.table()
        kept = fitting_columns(head, body, console.width, first_out=head[:1:-1])
        table = console_table()
        for place in kept:
            table.add_column(wrapped(head[place]) if place else head[place], justify="right" if place else "left")
        for row in body:
            table.add_row(*(printable(row[place]) for place in kept))
        console.print(table)
        console.print("Places of the sources: 1 is the one to try first.", style="dim")
        console.print()
        for line in self.words(top):
            console.print(printable(line), markup=False, highlight=False)

    def to_json(self) -> dict[str, object]:
        """Plain data: the order, the place of each source by each estimate, and what was left out."""
        head, body = self.table()
        return {
            "task": self.task,
            "best": self.best(),
            "sources": [{**dict(zip(head, row, strict=True)), "start": self.starts[row[0]]} for row in body],
            "left_out": dict(self.left_out),
            "seconds": self.seconds,
        }

    def save(self, path: Path | str, command: str = "Starts.save", *, force: bool = False) -> None:
        """Write the estimates, and what they say together, into one file, `.csv` or `.parquet`."""
        check_ending(Path(path), "write")
        check_out_file(path, command, force=force)
        with output_file(path, command, force=force) as new:
            write_matrices(new, [self.together, *self.estimates])
