"""The scoreboard that users hold: made from predictions, said in words, saved, read back, and drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from allround.core.errors import AllroundError
from allround.core.files import hash_json, json_text, read_settings
from allround.core.outputs import write_texts
from allround.core.schema import checked
from allround.evaluation.predictions import Predictions
from allround.evaluation.scoreboard import tables, words
from allround.evaluation.scoreboard.export import score_table
from allround.evaluation.scoreboard.frame import to_frame
from allround.evaluation.scoreboard.measure import measure
from allround.evaluation.scoreboard.scores import CostName, Notes, ScoredSystem, Scores
from allround.evaluation.timeless import timeless
from allround.tasks.definition import Definition

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from rich.console import Console

_FORMAT = "allround scoreboard 1"
#: What a scoreboard is saved as.
FILES = ("scoreboard.json", "scoreboard.md")


@dataclass(frozen=True)
class Scoreboard(Scores):
    """Systems on tasks: scores and retention with intervals, costs, and what can be said of the differences.

    `cells[system][task]`; mean, worst and validation by system. Scores are of `split`; `validation` has the scores
    that choices were made by. `comparisons` are with the reference and with the best system. notes: {"tasks": {task:
    [warning]}, "training": [words], "routing": [words], "prompts": [words], "budget": words, "choice": words}.
    """

    @classmethod
    def make(
        cls,
        definitions: Mapping[str, Definition],
        systems: Iterable[ScoredSystem],
        predictions: Mapping[tuple[str, str], Predictions],
        *,
        reference: str | None = "specialists",
        validation: Mapping[tuple[str, str], float] | None = None,
        best: str | None = None,
        seed: int = 0,
        resamples: int = 1000,
        notes: Notes | None = None,
        provenance: Mapping[str, object] | None = None,
    ) -> Scoreboard:
        """Score every system on every task; predictions and validation are keyed (system, task).

        Without a system named `reference` there are scores, and no retention. `best` names the system that was
        chosen on validation rows. An AllroundError where a system did not answer a task, or not the same rows.

        >>> import numpy as np
        >>> d = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes"))
        >>> right = Predictions(d, "test", np.array([0, 1, 1, 0]), np.array([0, 1, 1, 0]))
        >>> half = Predictions(d, "test", np.array([0, 1, 1, 0]), np.array([0, 1, 0, 1]))
        >>> systems = [ScoredSystem("specialists", "specialists", single=False), ScoredSystem("ties", "merge")]
        >>> made = {("specialists", "t"): right, ("ties", "t"): half}
        >>> board = Scoreboard.make({"t": d}, systems, made, best="ties")
        >>> board.cells["ties"]["t"].score, board.mean["ties"].value, board.worst["ties"].task
        (0.5, 0.5, 't')
        """
        made = measure(
            definitions,
            systems,
            predictions,
            reference=reference,
            validation=validation,
            best=best,
            seed=seed,
            resamples=resamples,
            notes=notes,
            provenance=provenance,
        )
        return cls(**{field.name: getattr(made, field.name) for field in fields(made)})

    def answer(self) -> list[str]:
        """The answer in a few plain sentences."""
        return words.answer(self)

    def method(self) -> str:
        """How scores and intervals were measured, in words."""
        return words.method(self)

    def legend(self) -> str:
        """What the numbers and signs of the tables mean."""
        return words.legend(self)

    def markdown(self) -> str:
        """The board as Markdown: the answer, the systems, the scores, the comparisons, how it was measured."""
        return tables.markdown(self)

    def print(self, console: Console | None = None) -> None:
        """Print the board in ASCII, in tables that fit the console's width."""
        tables.print_scores(self, console)

    def to_frame(self) -> DataFrame:
        """The board as a table of pandas, with one row for each system and task.

        Columns: system, role, best (whether it was chosen), task, metric; score, low, high, n, retention,
        retention_low and retention_high, as in `Cell`, shares of 1; and what the system costs, as in `Cost`.

        >>> import numpy as np
        >>> d = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes"))
        >>> right = Predictions(d, "test", np.array([0, 1, 1, 0]), np.array([0, 1, 1, 0]))
        >>> half = Predictions(d, "test", np.array([0, 1, 1, 0]), np.array([0, 1, 0, 1]))
        >>> systems = [ScoredSystem("specialists", "specialists", single=False), ScoredSystem("ties", "merge")]
        >>> board = Scoreboard.make({"t": d}, systems, {("specialists", "t"): right, ("ties", "t"): half})
        >>> board.to_frame()[["system", "task", "score", "retention"]].to_string(index=False).splitlines()[-1]
        '       ties    t    0.5        0.5'
        """
        return to_frame(self)

    def to_csv(self) -> str:
        """The table of `to_frame` as CSV, with all digits."""
        text: str = self.to_frame().to_csv(index=False, lineterminator="\n")
        return text

    def to_markdown(self, *, intervals: bool = True) -> str:
        """The scores as a table of Markdown: a row for each system, a column for each task, the best in bold."""
        return score_table(self).markdown(intervals=intervals)

    def to_latex(self, *, intervals: bool = True) -> str:
        """The same table for LaTeX, with the rules of the package booktabs.

        Path("table.tex").write_text(Scoreboard.load("runs/support").to_latex())
        """
        return score_table(self).latex(intervals=intervals)

    def plot_retention(self, *, width: float = 720.0) -> Figure:
        """Draw mean retention of each system with its 95% interval; small dots are single tasks.

        width: in points; below 500, names stand above their lines. A notebook shows the figure;
        `figure.savefig("retention.png")` writes it.
        Errors: a board without retention.

        >>> import numpy as np
        >>> d = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes"))
        >>> right = Predictions(d, "test", np.array([0, 1, 1, 0]), np.array([0, 1, 1, 0]))
        >>> half = Predictions(d, "test", np.array([0, 1, 1, 0]), np.array([0, 1, 0, 1]))
        >>> systems = [ScoredSystem("specialists", "specialists", single=False), ScoredSystem("ties", "merge")]
        >>> board = Scoreboard.make({"t": d}, systems, {("specialists", "t"): right, ("ties", "t"): half})
        >>> board.plot_retention().axes[0].get_xlabel()
        'retention, % (large: mean over the tasks; small dots: single tasks)'
        """
        from allround.evaluation.scoreboard.pictures import plot_retention

        return plot_retention(self, width=width)

    def plot_cost(self, by: CostName = "stored", *, width: float = 520.0) -> Figure:
        """Draw mean retention of each system with its 95% interval against a cost.

        by: "stored", the parameters stored for all tasks, or "seconds" of training, search and merging. width: in
        points. Circles are merged models, diamonds joint ones, squares specialists, triangles other systems, such as
        trees; hollow ones a base or floor; a ring marks the best.
        Errors: a board without retention; a cost that fewer than two systems have.

        >>> import numpy as np
        >>> d = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes"))
        >>> right = Predictions(d, "test", np.array([0, 1, 1, 0]), np.array([0, 1, 1, 0]))
        >>> half = Predictions(d, "test", np.array([0, 1, 1, 0]), np.array([0, 1, 0, 1]))
        >>> from allround.models.cost import Cost
        >>> systems = [ScoredSystem("specialists", "specialists", single=False, cost=Cost(parameters_stored=2_000_000)),
        ...            ScoredSystem("ties", "merge", cost=Cost(parameters_stored=1_000_000))]
        >>> board = Scoreboard.make({"t": d}, systems, {("specialists", "t"): right, ("ties", "t"): half})
        >>> board.plot_cost("stored").axes[0].get_xlabel()
        'parameters stored for all tasks (log scale)'
        """
        from allround.evaluation.scoreboard.pictures import plot_cost

        return plot_cost(self, by, width=width)

    def plot_reliability(self, system: str | None = None, *, width: float = 720.0) -> Figure:
        """Draw how often answers of like confidence are right, task by task: hollow before calibration, filled after.

        system: by default the best. width: in points. Errors: a board that says nothing of calibration.

        >>> import numpy as np
        >>> from dataclasses import replace
        >>> from allround.evaluation.calibration import CalibrationFacts, reliability
        >>> d = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes"))
        >>> scores = np.array([[0.1, 0.9], [0.1, 0.9], [0.4, 0.6]])
        >>> made = Predictions(d, "test", np.array([1, 0, 1]), np.array([1, 1, 1]), scores=scores)
        >>> facts = {"ties": {"t": CalibrationFacts("none", 3, before=reliability(made))}}
        >>> board = Scoreboard.make({"t": d}, [ScoredSystem("ties", "merge")], {("ties", "t"): made})
        >>> replace(board, calibration=facts).plot_reliability().axes[0].lines[-1].get_ydata().tolist()
        [100.0, 50.0]
        """
        from allround.evaluation.scoreboard.reliability import plot_reliability

        return plot_reliability(self, system, width=width)

    def to_json(self) -> dict[str, object]:
        """Plain data, from which `from_json` makes the same board."""
        value = asdict(self)
        value["definitions"] = {name: d.to_json() for name, d in self.definitions.items()}
        for name in (
            "repeats",
            "calibration",
            "transfer",
            "adapted",
        ):  # a board without them is as boards were before there were any
            if getattr(self, name) is None:
                del value[name]
        return {"format": _FORMAT, **value}

    @classmethod
    def from_json(cls, value: Mapping[str, object], *, asked: str = "read a scoreboard") -> Scoreboard:
        """The inverse of `to_json`. Errors: any other data."""
        do = "give a scoreboard.json that this version of allround wrote"
        if not isinstance(value, Mapping) or value.get("format") != _FORMAT:
            found = repr(value.get("format"))[:50] if isinstance(value, Mapping) else type(value).__name__
            raise AllroundError(asked, f"its format is {found}, not {_FORMAT!r}", do)
        made = checked(cls, {key: item for key, item in value.items() if key != "format"}, asked, do)
        try:
            for name, definition in made.definitions.items():
                if Definition.from_json(definition.to_json()).name != name:
                    raise ValueError(f"the definition of '{name}' has another name")
            made.check_names()
        except ValueError as error:
            raise AllroundError(asked, f"it is damaged: {error}", do) from None
        return made

    def save(self, folder: Path | str, *, force: bool = False) -> None:
        """Write scoreboard.json and scoreboard.md.

        Files that are there are replaced only where `save` wrote them and they are unchanged, or with `force`.
        """
        write_texts(folder, self.files(), "Scoreboard.save", force=force)

    def files(self) -> dict[str, str]:
        """What `save` writes, by the names of the files."""
        return dict(zip(FILES, (json_text(self.to_json()), self.markdown()), strict=True))

    @classmethod
    def load(cls, folder: Path | str) -> Scoreboard:
        """Read what `save` wrote."""
        path = Path(folder) / "scoreboard.json"
        return cls.from_json(read_settings(path), asked=f"read {path}")

    def fingerprint(self) -> str:
        """A hash of all but timings, dates and the machine: the same for two runs with one seed."""
        return hash_json(timeless(self.to_json()))
