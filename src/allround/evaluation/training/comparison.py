"""The comparison of trainings that users hold: said in words, saved, read back, and drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from allround.core.errors import AllroundError
from allround.core.files import json_text, read_settings
from allround.core.outputs import write_texts
from allround.core.schema import checked
from allround.evaluation.training import tables, words
from allround.evaluation.training.frame import to_frame
from allround.evaluation.training.results import FORMAT, TrainingResults
from allround.tasks.definition import Definition

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from rich.console import Console

#: What a comparison is saved as.
FILES = ("comparison.json", "comparison.md", "comparison.svg", "comparison.html")


@dataclass(frozen=True)
class TrainingComparison(TrainingResults):
    """Joint trainings side by side: retention over several seeds, what each costs, and what can be said of them.

    seeds: those that everything was trained with. sweep: fixed weights tried on validation at the rate of `equal`.
    tasks: facts of the data. settings: what all trainings have in common. resamples: of the bootstrap over test rows.
    """

    def to_json(self) -> dict[str, object]:
        """Plain data, from which `from_json` makes the same comparison."""
        return {**self.data(), "words": self.words()}

    @classmethod
    def from_json(
        cls, value: Mapping[str, object], *, asked: str = "read a comparison of trainings"
    ) -> TrainingComparison:
        """The comparison that `to_json` was made from. Errors: any other data."""
        do = "read a comparison.json that this version of allround wrote, or make it again"
        if not isinstance(value, Mapping) or value.get("format") != FORMAT:
            found = repr(value.get("format"))[:50] if isinstance(value, Mapping) else type(value).__name__
            raise AllroundError(asked, f"its format is {found}, not {FORMAT!r}", do)
        made = checked(cls, {k: v for k, v in value.items() if k not in ("format", "words")}, asked, do)
        try:
            for name, definition in made.definitions.items():
                if Definition.from_json(definition.to_json()).name != name:
                    raise ValueError(f"the definition of '{name}' has another name")
            made.check_names()
        except ValueError as error:
            raise AllroundError(asked, f"it is damaged: {error}", do) from None
        return made

    def save(self, folder: Path | str, *, force: bool = False) -> None:
        """Write comparison.json, comparison.md, comparison.svg and comparison.html.

        Files that are there are replaced only where `save` wrote them and they are unchanged, or with `force`.
        """
        write_texts(folder, self.files(), "TrainingComparison.save", force=force)

    def files(self) -> dict[str, str]:
        """What `save` writes, by the names of the files."""
        from allround.evaluation.training.page import html
        from allround.evaluation.training.pictures import svg

        return dict(zip(FILES, (json_text(self.to_json()), self.markdown(), svg(self), html(self)), strict=True))

    @classmethod
    def load(cls, folder: Path | str) -> TrainingComparison:
        """Read what `save` wrote."""
        path = Path(folder) / "comparison.json"
        return cls.from_json(read_settings(path), asked=f"read {path}")

    def words(self) -> list[str]:
        """The verdict in a few plain sentences."""
        return words.words(self)

    def markdown(self) -> str:
        """The comparison as Markdown."""
        return tables.markdown(self)

    def print(self, console: Console | None = None) -> None:
        """Print tables and verdict in ASCII, within the console's width."""
        tables.print_results(self, console)

    def to_frame(self) -> DataFrame:
        """The comparison as a table of pandas, with one row for each method and task, the specialists first.

        Columns: method, task, metric, n (test rows); score, retention and difference (of the score to that of equal
        weights, turned so that higher is better), each with `_low` and `_high`, as shares of 1, means over the seeds;
        learning_rate, seconds, steps, backward_passes (a step), peak_memory (bytes) and choices, as in `TrainingCost`;
        further_task (bytes that one further task would store).

            compared = TrainingComparison.load("runs/compared")
            compared.to_frame().pivot(index="task", columns="method", values="retention")
        """
        return to_frame(self)

    def to_csv(self) -> str:
        """The table of `to_frame` as CSV, with all digits."""
        text: str = self.to_frame().to_csv(index=False, lineterminator="\n")
        return text

    def to_markdown(self, *, intervals: bool = True) -> str:
        """Mean scores over the seeds as a table of Markdown: a row for each method, a column for each task."""
        return tables.score_table(self).markdown(intervals=intervals)

    def to_latex(self, *, intervals: bool = True) -> str:
        """The same table for LaTeX, with the rules of the package booktabs."""
        return tables.score_table(self).latex(intervals=intervals)

    def plot(self) -> Figure:
        """Draw `plot_trade_off` and `plot_retention` side by side, with what they were measured on."""
        from allround.evaluation.training.pictures import plot

        return plot(self)

    def plot_trade_off(self) -> Figure:
        """Draw the methods and the sweep of fixed weights on the validation rows, in percent of the specialists.

        Of two tasks each has an axis; of more the axes are mean retention and the least retention of a task. Diamonds
        are fixed weights, circles balancers, hollow dots the sweep; a ring marks the best on validation. Methods far
        below all others are not drawn.
        """
        from allround.evaluation.training.pictures import plot_trade_off

        return plot_trade_off(self)

    def plot_retention(self) -> Figure:
        """Draw mean retention of each method on the test rows with its 95% interval; small dots are single seeds.

        Errors: a comparison without retention.
        """
        from allround.evaluation.training.pictures import plot_retention

        return plot_retention(self)
