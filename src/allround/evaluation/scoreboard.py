"""Systems x tasks: scores, retention, what each system costs, and what can be said of the differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allround.core.errors import AllroundError, suggestion
from allround.core.files import hash_json, json_text, read_settings
from allround.core.outputs import write_texts
from allround.core.progress import make_console
from allround.core.schema import STRICT, checked, fitted
from allround.evaluation.intervals import Bootstrap, retention, verdict
from allround.evaluation.predictions import Predictions
from allround.tasks.definition import Definition
from allround.tasks.metric import better

if TYPE_CHECKING:
    from rich.console import Console

ROLES = ("floor", "base", "specialists", "joint", "merge")

#: Marks of a score beside the reference's, by verdict.
MARKS = {"better": "+", "worse": "-", "no difference found": ""}

_FORMAT = "allround scoreboard 1"
#: What a scoreboard is saved as.
FILES = ("scoreboard.json", "scoreboard.md")
#: The notes that are shown, and what they are.
_NOTES: dict[str, Any] = {"tasks": dict[str, list[str]] | None, "budget": list[str] | str | None, "choice": str | None}


@dataclass(frozen=True)
class Cost:
    """What a system costs.

    training_seconds and training_examples: all training that it rests on, its specialists' too. parameters_stored:
    numbers on disk for all tasks. parameters_used: numbers that one input passes. examples_per_second: when
    predicting. search_choices: settings compared on validation rows, in search_seconds. merge_seconds: of merging
    itself, once; merge_rows: rows that it looked at.
    """

    __pydantic_config__ = STRICT

    training_seconds: float = 0.0
    training_examples: int = 0
    parameters_stored: int = 0
    parameters_used: int = 0
    examples_per_second: float | None = None
    search_choices: int = 0
    search_seconds: float = 0.0
    merge_seconds: float = 0.0
    merge_rows: int = 0


@dataclass(frozen=True)
class System:
    """Something that answers every task. single: all tasks share one set of encoder weights."""

    __pydantic_config__ = STRICT

    name: str
    role: str
    title: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    single: bool = True
    cost: Cost = field(default_factory=Cost)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise AllroundError(
                f"show the system '{self.name}'", f"'{self.role}' is no role", suggestion(self.role, ROLES)
            )


@dataclass(frozen=True)
class Cell:
    """One system on one task: score and retention with their 95% intervals, on n rows. None: undefined."""

    __pydantic_config__ = STRICT

    score: float
    low: float | None
    high: float | None
    n: int
    retention: float | None = None
    retention_low: float | None = None
    retention_high: float | None = None


@dataclass(frozen=True)
class Summary:
    """Retention over all tasks where it is defined: the mean, or the worst and the task it belongs to."""

    __pydantic_config__ = STRICT

    value: float
    low: float | None
    high: float | None
    task: str | None = None


@dataclass(frozen=True)
class Comparison:
    """`system` beside `other`: the paired difference of mean retention, and a verdict for each task's score."""

    __pydantic_config__ = STRICT

    system: str
    other: str
    difference: float | None
    low: float | None
    high: float | None
    verdict: str
    tasks: dict[str, str]

    @property
    def words(self) -> str:
        """The comparison in words.

        >>> Comparison("ties", "joint", -0.01, -0.02, -0.004, "worse", {"a": "worse", "b": "better"}).words
        'ties beside joint: worse by 1.0 points of mean retention [0.4, 2.0]; worse on 1 of 2 tasks: a; better on 1: b.'
        """
        return f"{self.system} beside {self.other}: {self.mean_words}; {self.task_words}."

    @property
    def mean_words(self) -> str:
        """How the means differ."""
        if self.difference is None:
            return "no retention is defined"
        if self.verdict == "no difference found":
            span = span_text(self.low, self.high, signed=True)
            return f"no difference found in mean retention ({percent(self.difference, signed=True)} points{span})"
        ends = (self.low, self.high) if self.difference >= 0 else (_minus(self.high), _minus(self.low))
        return f"{self.verdict} by {percent(abs(self.difference))} points of mean retention{span_text(*ends)}"

    @property
    def task_words(self) -> str:
        """On which tasks the scores differ."""
        total = len(self.tasks)
        parts: list[str] = []
        for word in ("worse", "better", "no difference found"):
            names = [task for task, found in self.tasks.items() if found == word]
            if names and len(names) == total:
                parts.append(f"{word} on all {total} tasks" if total > 1 else f"{word} on the one task")
            elif names:
                of = "" if parts else f" of {total} tasks"
                which = "" if word == "no difference found" else f": {', '.join(names)}"
                parts.append(f"{word} on {len(names)}{of}{which}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Scoreboard:
    """What `make` found out. `cells[system][task]`; mean, worst and validation by system.

    Scores are of `split`; `validation` has the scores that choices were made by. `comparisons` are with the
    reference and with the best system. notes: {"tasks": {task: [warning]}, "budget": words}.
    """

    __pydantic_config__ = STRICT

    definitions: dict[str, Definition]
    systems: list[System]
    cells: dict[str, dict[str, Cell]]
    mean: dict[str, Summary]
    worst: dict[str, Summary]
    validation: dict[str, dict[str, float]]
    comparisons: list[Comparison]
    reference: str | None
    best: str | None
    split: str
    seed: int
    resamples: int
    notes: dict[str, Any]
    provenance: dict[str, Any]

    @classmethod
    def make(
        cls,
        definitions: dict[str, Definition],
        systems: list[System],
        predictions: Mapping[tuple[str, str], Predictions],
        *,
        reference: str | None = "specialists",
        validation: Mapping[tuple[str, str], float] | None = None,
        best: str | None = None,
        seed: int = 0,
        resamples: int = 1000,
        notes: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Scoreboard:
        """Score every system on every task; predictions and validation are keyed (system, task).

        Without a system named `reference` there are scores, and no retention. `best` names the system that was
        chosen on validation rows. An AllroundError where a system did not answer a task, or not the same rows.

        >>> import numpy as np
        >>> d = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes"))
        >>> right = Predictions(d, "test", np.array([0, 1, 1, 0]), np.array([0, 1, 1, 0]))
        >>> half = Predictions(d, "test", np.array([0, 1, 1, 0]), np.array([0, 1, 0, 1]))
        >>> systems = [System("specialists", "specialists", single=False), System("ties", "merge")]
        >>> made = {("specialists", "t"): right, ("ties", "t"): half}
        >>> board = Scoreboard.make({"t": d}, systems, made, best="ties")
        >>> board.cells["ties"]["t"].score, board.mean["ties"].value, board.worst["ties"].task
        (0.5, 0.5, 't')
        """
        names = [system.name for system in systems]
        reference = reference if reference in names else None
        _check(definitions, names, predictions, best)
        wanted = {(s, t): predictions[s, t] for t in definitions for s in names}
        splits = sorted({made.split for made in wanted.values()})
        if len(splits) > 1:
            raise AllroundError("make a scoreboard", f"it mixes the splits {', '.join(splits)}", "predict one split")
        bootstrap = Bootstrap.make(wanted, reference=reference, seed=seed, resamples=resamples)
        cells = {s: {t: _cell(bootstrap, s, t, len(wanted[s, t])) for t in definitions} for s in names}
        mean, worst = {}, {}
        for name in names:
            if found := bootstrap.mean_retention(name):
                mean[name] = Summary(*found)
            if least := bootstrap.worst_retention(name):
                worst[name] = Summary(*least[1], task=least[0])
        pairs = [(s, reference) for s in names if reference and s != reference]
        pairs += [(s, best) for s in names if best and reference != best and s not in (reference, best)]
        return cls(
            definitions=dict(definitions),
            systems=list(systems),
            cells=cells,
            mean=mean,
            worst=worst,
            validation=_nested(validation or {}),
            comparisons=[_compare(bootstrap, s, other, definitions) for s, other in pairs],
            reference=reference,
            best=best,
            split=splits[0] if splits else "test",
            seed=seed,
            resamples=resamples,
            notes=dict(notes or {}),
            provenance=dict(provenance or {}),
        )

    def system(self, name: str) -> System:
        """The system called `name`."""
        for system in self.systems:
            if system.name == name:
                return system
        known = [system.name for system in self.systems]
        raise AllroundError(f"show the system '{name}'", "it is not on the scoreboard", suggestion(name, known))

    def comparison(self, system: str, other: str) -> Comparison | None:
        """The comparison of `system` with `other` (the reference or the best), where there is one."""
        return next((c for c in self.comparisons if (c.system, c.other) == (system, other)), None)

    def validation_mean(self, system: str) -> float | None:
        """Mean retention on validation rows, over the tasks where it is defined."""
        mine, theirs = self.validation.get(system, {}), self.validation.get(self.reference or "", {})
        metrics = {task: definition.metric for task, definition in self.definitions.items()}
        found = [retention(mine[t], theirs[t], better(m)) for t, m in metrics.items() if t in mine and t in theirs]
        known = [value for value in found if value is not None]
        return math.fsum(known) / len(known) if known else None

    @property
    def rows(self) -> int:
        """Rows of the split, over all tasks."""
        return sum(self.n(task) for task in self.definitions)

    def n(self, task: str) -> int:
        """Rows of one task that the scores were measured on."""
        return next((cells[task].n for cells in self.cells.values()), 0)

    def answer(self) -> list[str]:
        """The answer in a few plain sentences."""
        total = f"{plural(len(self.definitions), 'task')} ({plural(self.rows, self.split + ' row')})"
        if self.best is None:
            return [f"{listed([s.name for s in self.systems])} on {total}."]
        best, lines = self.system(self.best), []
        name = f"{best.name} ({best.title})" if best.title and best.title != best.name else best.name
        mean, worst = self.mean.get(self.best), self.worst.get(self.best)
        undefined = [t for t, cell in self.cells[self.best].items() if mean and cell.retention is None]
        if undefined:
            counted = [t for t in self.definitions if t not in undefined]
            rows = sum(self.n(t) for t in counted)
            total = f"{plural(len(counted), 'task')} ({plural(rows, self.split + ' row')})"
        kind = "single model" if best.single else "system"
        if self.reference is None or mean is None:
            return [f"The best {kind}, chosen on validation rows, is {name}; measured on {total}."]
        lines.append(
            f"The best {kind}, chosen on validation rows, is {name}. It keeps {percent(mean.value)}%"
            f"{span_text(mean.low, mean.high)} of the score of the {self.reference}, as a mean over {total}."
        )
        if undefined:
            lines.append(
                f"Retention has no meaning on {listed(undefined)}, where the score of the {self.reference} is not "
                "above zero."
            )
        if worst and worst.task and percent(worst.value) != percent(1.0):
            cell, theirs = self.cells[self.best][worst.task], self.cells[self.reference][worst.task]
            metric = self.definitions[worst.task].metric
            lines.append(
                f"Its worst task is {worst.task}: {percent(worst.value)}% retention, {metric} "
                f"{shown(cell.score, metric)} against {shown(theirs.score, metric)} on {plural(cell.n, 'row')}."
            )
        if cost := self._cost_sentence(best):
            lines.append(cost)
        if rivals := self._rival_sentence():
            lines.append(rivals)
        return lines

    def _cost_sentence(self, best: System) -> str:
        theirs = self.system(self.reference or "")
        if not best.cost.parameters_stored or not theirs.cost.parameters_stored:
            return ""
        stored, before = (count(s.cost.parameters_stored) for s in (best, theirs))
        encoders = f"one encoder instead of {len(self.definitions)}, " if best.single and not theirs.single else ""
        spent, before_spent = best.cost.training_seconds, theirs.cost.training_seconds
        time = f" Training took {duration(spent)}, against {duration(before_spent)}." if spent and before_spent else ""
        if spent and spent == before_spent:
            time = f" Nothing is trained beyond the {self.reference} ({duration(spent)})."
            if best.cost.merge_rows:
                rows = plural(best.cost.merge_rows, "row")
                time = (
                    f" Beyond the {self.reference} ({duration(spent)}) it took {duration(best.cost.merge_seconds)}, on "
                    f"{rows}, to merge."
                )
        return f"It stores {encoders}{stored} parameters instead of {before}.{time}"

    def _rival_sentence(self) -> str:
        """The best beside each other single system."""
        found: dict[str, list[str]] = {}
        for c in self.comparisons:
            rival = self.system(c.system)
            if (
                c.other == self.best
                and rival.single
                and rival.role in ("base", "joint", "merge")
                and c.difference is not None
            ):
                found.setdefault(c.verdict, []).append(c.system)
        # A comparison says how the rival is beside the best; turn it round.
        phrases = [
            f"{text} {listed(found[said])}"
            for said, text in (
                ("worse", "it is better than"),
                ("better", "it is worse than"),
                ("no difference found", "no difference was found from"),
            )
            if said in found
        ]
        return f"In mean retention {'; '.join(phrases)}." if phrases else ""

    # Out and in.

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        value["definitions"] = {name: d.to_json() for name, d in self.definitions.items()}
        return {"format": _FORMAT, **value}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, asked: str = "read a scoreboard") -> Scoreboard:
        """The inverse of `to_json`. Errors: any other data."""
        do = "give a scoreboard.json that this version of allround wrote"
        if not isinstance(value, Mapping) or value.get("format") != _FORMAT:
            found = repr(value.get("format"))[:50] if isinstance(value, Mapping) else type(value).__name__
            raise AllroundError(asked, f"its format is {found}, not {_FORMAT!r}", do)
        made = checked(cls, {key: item for key, item in value.items() if key != "format"}, asked, do)
        try:
            for name, definition in value["definitions"].items():
                if Definition.from_json(definition).name != name:
                    raise ValueError(f"the definition of '{name}' has another name")
            made._check_names()
            for key, kind in _NOTES.items():
                fitted(kind, made.notes.get(key))
        except ValueError as error:
            raise AllroundError(asked, f"it is damaged: {error}", do) from None
        return made

    def _check_names(self) -> None:
        """A ValueError where a part speaks of other systems or tasks than those of the board."""
        names, tasks = [system.name for system in self.systems], list(self.definitions)
        if len(set(names)) < len(names):
            raise ValueError("a system is in it twice")
        whole: list[tuple[Iterable[str], list[str]]] = [
            (self.cells, names),
            *((cells, tasks) for cells in self.cells.values()),
        ]
        whole += [(c.tasks, tasks) for c in self.comparisons]
        some: list[tuple[Iterable[str | None], list[str]]] = [
            (self.mean, names),
            (self.worst, names),
            (self.validation, names),
        ]
        some += [(scores, tasks) for scores in self.validation.values()]
        some += [([n for n in (self.reference, self.best) if n is not None], names)]
        some += [((c.system, c.other), names) for c in self.comparisons]
        some += [([s.task], tasks) for s in self.worst.values()]
        some += [([c.verdict, *c.tasks.values()], list(MARKS)) for c in self.comparisons]
        for given, known in whole:
            if set(given) != set(known):
                raise ValueError(f"{', '.join(sorted(set(given) ^ set(known)))[:100]} is in one part of it only")
        for part, known in some:
            strange = [str(name) for name in part if name not in known]
            if strange:
                raise ValueError(f"'{strange[0][:50]}' is not one of {', '.join(known)[:200]}")

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
        return hash_json(_timeless(self.to_json()))

    def markdown(self) -> str:
        """The board as Markdown: the answer, the systems, the scores, the comparisons, how it was measured."""
        lines = ["# Scoreboard", "", *(_md(line) for line in self.answer()), "", "## Systems", ""]
        lines += _md_table(*self._systems_table())
        lines += ["", f"## Scores on the {self.split} rows", ""]
        head = ["task", "metric", "rows", *(s.name for s in self.systems)]
        body = []
        for task, definition in self.definitions.items():
            shown_cells = []
            for system in self.systems:
                cell = self.cells[system.name][task]
                span = span_text(cell.low, cell.high, metric=definition.metric)
                shown_cells.append(
                    f"{shown(cell.score, definition.metric)}{span} {self.mark(system.name, task)}".strip()
                )
            body.append([task, definition.metric, str(self.n(task)), *shown_cells])
        lines += _md_table(head, body)
        lines += ["", _md(self.legend())]
        if self.comparisons:
            lines += ["", "## Compared", "", *(f"- {_md(c.words)}" for c in self.comparisons)]
        lines += ["", "## How this was measured", "", _md(self.method())]
        warnings = self.notes.get("tasks") or {}
        extra = [f"{task}: {text}" for task, texts in warnings.items() for text in _texts(texts)]
        extra += _texts(self.notes.get("budget"))
        if extra:
            lines += ["", "## Notes", "", *(f"- {_md(line)}" for line in extra)]
        return "\n".join(lines) + "\n"

    def method(self) -> str:
        """How scores and intervals were measured, in words."""
        return (
            f"Scores are of the {self.split} rows, {self.rows} in all, which no choice has seen. Brackets are 95% "
            f"percentile intervals of a bootstrap over the rows of each task ({self.resamples} resamples, seed "
            f"{self.seed}), paired: all systems are scored on the same resamples. A difference is called better or "
            "worse where the 95% interval of the paired difference lies on one side of 0, and otherwise no difference "
            "was found. Intervals cover the choice of rows, not the choice of training seed."
        )

    def legend(self) -> str:
        """What the numbers and marks of the tables mean."""
        parts = ["Scores x 100; metrics of which lower is better in their own units."]
        if self.reference:
            parts.append(
                f"Retention: score / score of {self.reference}, in percent (turned round where lower is better)."
            )
            parts.append(f"- worse, + better than {self.reference} on the same rows.")
        if self.best:
            parts.append("* best, chosen on validation rows.")
        return " ".join(parts)

    def mark(self, system: str, task: str) -> str:
        """ "-" or "+" where a score is worse or better than the reference's."""
        found = self.comparison(system, self.reference or "")
        return MARKS[found.tasks[task]] if found else ""

    def _systems_table(self) -> tuple[list[str], list[list[str]]]:
        retentions = ["mean retention", "worst retention"] if self.mean else []
        head = ["system", "role", *retentions, "stored", "used", "trained on", "training", "merged on", "merging",
                "inputs/s", "choices"]  # fmt: skip
        body = []
        for system in self.systems:
            cost, row = system.cost, [system.name + ("*" if system.name == self.best else ""), system.role]
            if retentions:
                mean, worst = self.mean.get(system.name), self.worst.get(system.name)
                if system.name == self.reference:
                    row += ["100", "100"]
                else:
                    row.append(f"{percent(mean.value)}{span_text(mean.low, mean.high)}" if mean else "")
                    row.append(f"{percent(worst.value)} {worst.task}" if worst else "")
            row += [count(cost.parameters_stored), count(cost.parameters_used), count(cost.training_examples)]
            merging = [count(cost.merge_rows), duration(cost.merge_seconds)] if system.role == "merge" else ["", ""]
            row += [duration(cost.training_seconds), *merging]
            row += [count(cost.examples_per_second), count(cost.search_choices)]
            body.append(row)
        return head, body

    def print(self, console: Console | None = None) -> None:
        """Print the board in ASCII, in tables that fit the console's width."""
        from rich.text import Text

        console = console or make_console()
        console.print(Text(_plain(" ".join(self.answer()))))
        console.print()
        if self.reference is not None:
            self._print_systems(console)
        self._print_tasks(console)
        by_metric: dict[str, list[str]] = {}
        for task, definition in self.definitions.items():
            by_metric.setdefault(definition.metric, []).append(task)
        metrics = "; ".join(f"{metric}: {', '.join(tasks)}" for metric, tasks in by_metric.items())
        console.print()
        console.print(Text(_plain(f"{self.legend()} Metrics are {metrics}."), style="dim"))

    def _print_systems(self, console: Console) -> None:
        from rich.text import Text

        head, body = self._systems_table()
        body = [[_wrapped(_plain(row[0])), *map(_plain, row[1:])] for row in body]
        kept = [i for i, name in enumerate(head) if name not in ("role", "used", "inputs/s", "trained on")]
        for name in ("choices", "merged on", "training", "merging"):  # what is left out where there is little room
            if sum(_width(head[i], body, i) + 2 for i in kept) - 2 > console.width:
                kept = [i for i in kept if head[i] != name]
        table = _table()
        for i in kept:
            table.add_column(head[i], justify="left" if head[i] in ("system", "worst retention") else "right")
        for row, system in zip(body, self.systems, strict=True):
            table.add_row(*(Text(row[i]) for i in kept), style="bold" if system.name == self.best else None)
        console.print(table)
        console.print()

    def _print_tasks(self, console: Console) -> None:
        """Scores of every task; with their intervals where there is no reference to compare with."""
        from rich.text import Text

        for number, block in enumerate(self._blocks(console.width)):
            if number:
                console.print()
            table = _table()
            table.add_column("task", no_wrap=True)
            table.add_column("rows", justify="right")
            for system in block:
                table.add_column(Text(_wrapped(_plain(system.name))), justify="right", no_wrap=True)
            for task, definition in self.definitions.items():
                cells = []
                for system in block:
                    mark = self.mark(system.name, task)
                    cell = self.cells[system.name][task]
                    text = f"{shown(cell.score, definition.metric)}{mark or ' '}"
                    if self.reference is None:
                        text = text.rstrip() + span_text(cell.low, cell.high, metric=definition.metric)
                    cells.append(Text(text, style={"-": "red", "+": "green"}.get(mark, "")))
                table.add_row(Text(_plain(task)), str(self.n(task)), *cells)
            console.print(table)

    def _blocks(self, width: int) -> Iterable[list[System]]:
        """Systems in groups whose columns fit beside the tasks'."""
        left = max((len(task) for task in self.definitions), default=4) + 8
        block: list[System] = []
        used = left
        for system in self.systems:
            wide = 2 + max(6, *(len(line) for line in _wrapped(system.name).splitlines()))
            if block and used + wide - 2 > width:
                yield block
                block, used = [], left
            block.append(system)
            used += wide
        if block:
            yield block


def _check(
    definitions: Mapping[str, Definition],
    names: list[str],
    predictions: Mapping[tuple[str, str], Predictions],
    best: str | None,
) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise AllroundError("make a scoreboard", f"two systems are called '{twice[0]}'", "name each system once")
    if best is not None and best not in names:
        raise AllroundError(f"call '{best}' the best system", "it is not among the systems", suggestion(best, names))
    missing = [(s, t) for s in names for t in definitions if (s, t) not in predictions]
    if missing:
        system, task = missing[0]
        raise AllroundError(
            f"compare {len(names)} systems on {len(definitions)} tasks",
            f"the system '{system}' did not answer the task '{task}'"
            + (f", nor {len(missing) - 1} other pairs" if len(missing) > 1 else ""),
            "predict every task with every system",
        )


def _cell(bootstrap: Bootstrap, system: str, task: str, n: int) -> Cell:
    kept = bootstrap.retention(system, task)
    return Cell(*bootstrap.score(system, task), n, *(kept or (None, None, None)))


def _compare(bootstrap: Bootstrap, system: str, other: str, tasks: Iterable[str]) -> Comparison:
    verdicts = {task: verdict(bootstrap.task_difference(system, other, task)) for task in tasks}
    found = bootstrap.difference(system, other)
    if found is None:
        return Comparison(system, other, None, None, None, "no difference found", verdicts)
    return Comparison(system, other, *found, verdict(found), verdicts)


def _nested(values: Mapping[tuple[str, str], float]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for (system, task), value in values.items():
        found.setdefault(system, {})[task] = float(value)
    return found


_TIMELY = {"date", "time", "started", "finished", "machine", "host", "hostname", "examples_per_second", "peak_memory"}


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in _TIMELY and not str(k).endswith("seconds")}
        return {key: _timeless(item) for key, item in kept.items()}
    if isinstance(value, (list, tuple)):
        return [_timeless(item) for item in value]
    return value


# Numbers in words.


def percent(value: float, *, signed: bool = False) -> str:
    """A share x 100 with one decimal.

    >>> percent(0.9731), percent(0.021, signed=True), percent(-0.0001)
    ('97.3', '+2.1', '0.0')
    """
    rounded = round(100 * value, 1) + 0.0
    return f"{rounded:+.1f}" if signed and rounded else f"{rounded:.1f}"


def shown(score: float, metric: str) -> str:
    """A score as people read it: x 100, or in the metric's own units where lower is better.

    >>> shown(0.8125, "accuracy"), shown(0.8125, "rmse")
    ('81.2', '0.812')
    """
    return percent(score) if better(metric) == "higher" else f"{score:.3g}"


def span_text(low: float | None, high: float | None, *, metric: str = "accuracy", signed: bool = False) -> str:
    """An interval in brackets, after a space; empty where there is none.

    >>> span_text(0.961, 0.984)
    ' [96.1, 98.4]'
    """
    if low is None or high is None:
        return ""
    low_text, high_text = (percent(v, signed=True) if signed else shown(v, metric) for v in (low, high))
    return f" [{low_text}, {high_text}]"


def count(value: float | None) -> str:
    """A count in few letters.

    >>> count(22_700_000), count(1234), count(999), count(None)
    ('22.7 M', '1,234', '999', '')
    """
    if value is None:
        return ""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= 0.99995 * size:
            return f"{value / size:.1f} {unit}"
    return f"{value / 1000:.0f} k" if value >= 99_999.5 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(0.4), duration(75), duration(5400)
    ('0.4 s', '1 min 15 s', '1 h 30 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s" if seconds else "0 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def plural(number: int, noun: str) -> str:
    """
    >>> plural(1, "task"), plural(2100, "row")
    ('1 task', '2,100 rows')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def listed(names: list[str]) -> str:
    """
    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def _texts(value: Any) -> list[str]:
    """One text, several, or none, as a list."""
    return [] if not value else [value] if isinstance(value, str) else [str(item) for item in value]


def _plain(text: str) -> str:
    """Text that cannot steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _md(text: str) -> str:
    """Text that says in Markdown what it says plainly."""
    for sign in "\\`*#|":
        text = text.replace(sign, f"\\{sign}")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("](", "]\\(")
    return " ".join(text.split())


def _md_table(head: list[str], body: list[list[str]]) -> list[str]:
    rows = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(cell if cell == "---" else _md(cell) for cell in row) + " |" for row in rows]


def _table() -> Any:
    from rich.box import Box
    from rich.table import Table

    ascii_box = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
    return Table(box=ascii_box, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")


def _width(title: str, body: list[list[str]], column: int) -> int:
    """Of a column of a table on the screen."""
    return max(len(line) for text in (title, *(row[column] for row in body)) for line in text.split("\n"))


def _wrapped(name: str) -> str:
    """A name in lines of some ten letters, broken after "_", "-" and "+"."""
    lines = [""]
    for part in name.replace("_", "_\n").replace("-", "-\n").replace("+", "+\n").split("\n"):
        if lines[-1] and len(lines[-1]) + len(part) > 10:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)
