"""Joint trainings side by side: retention over several seeds, what each costs, and what can be said of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from allround.core.errors import AllroundError, suggestion
from allround.core.files import hash_json, json_text, read_settings
from allround.core.outputs import write_texts
from allround.core.progress import make_console
from allround.core.schema import STRICT, checked
from allround.evaluation.intervals import LEVEL, Bootstrap, Interval, over_seeds, verdict
from allround.evaluation.predictions import Predictions
from allround.evaluation.scoreboard import (
    MARKS,
    _md,
    _md_table,
    _plain,
    _table,
    _timeless,
    _width,
    _wrapped,
    count,
    duration,
    listed,
    percent,
    plural,
    shown,
    span_text,
)
from allround.tasks.definition import Definition

if TYPE_CHECKING:
    from rich.console import Console

#: What every method is compared with, beside the specialists.
EQUAL = "equal"
SPECIALISTS = "specialists"

_FORMAT = "allround training comparison 1"
#: What a comparison is saved as.
FILES = ("comparison.json", "comparison.md", "comparison.svg", "comparison.html")


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds on the test rows: the value, its interval (None: undefined), and the value of each seed."""

    __pydantic_config__ = STRICT

    value: float
    low: float | None
    high: float | None
    seeds: tuple[float, ...] = ()

    @property
    def verdict(self) -> str:
        """What it says as a difference of which more is better."""
        return verdict(Interval(self.value, self.low, self.high))

    @property
    def points(self) -> str:
        """The difference in points: `+1.2 [0.3, 2.1]`."""
        return percent(self.value, signed=True) + span_text(self.low, self.high, signed=True)

    @property
    def share(self) -> str:
        """The share in percent: `98.2 [97.1, 99.3]`."""
        return percent(self.value) + span_text(self.low, self.high)


@dataclass(frozen=True)
class Tried:
    """One setting, by its scores on the validation rows with the first seed: a learning rate, or weights of tasks.

    retention: validation score / the specialist's validation score, for each task; None where that is undefined.
    """

    __pydantic_config__ = STRICT

    learning_rate: float
    mean: float
    retention: dict[str, float | None]
    chosen: bool = False
    seconds: float = 0.0
    weights: dict[str, float] = field(default_factory=dict)

    @property
    def worst(self) -> float:
        """The least retention."""
        return min((r for r in self.retention.values() if r is not None), default=0.0)


@dataclass(frozen=True)
class TrainingCost:
    """What a training takes. seconds, steps, examples: means over the seeds, and backward passes a step. peak_memory:
    bytes, the most of any seed, None where it was not measured. skipped: times that a task was left out of a step
    because its loss was not finite, over all seeds. choices: settings compared on validation to find this one. unmoved:
    trainings, over all seeds, whose best state on validation is that before the first step."""

    __pydantic_config__ = STRICT

    seconds: float = 0.0
    steps: float = 0.0
    backward_passes: float = 0.0
    examples: dict[str, float] = field(default_factory=dict)
    peak_memory: int | None = None
    skipped: int = 0
    choices: int = 0
    unmoved: int = 0


@dataclass(frozen=True)
class Beside:
    """A method beside another system. mean: the difference of mean retention at 95%. tasks: differences of scores,
    turned so that more is better, each at a level that is right for all tasks together (Bonferroni)."""

    __pydantic_config__ = STRICT

    mean: Estimate | None
    tasks: dict[str, Estimate]

    @property
    def verdict(self) -> str:
        return self.mean.verdict if self.mean else "no difference found"

    def where(self, said: str) -> list[str]:
        """The tasks with this verdict."""
        return [task for task, found in self.tasks.items() if found.verdict == said]


@dataclass(frozen=True)
class Measured:
    """A system on the test rows. scores and retention by task; mean over the tasks where retention is defined."""

    __pydantic_config__ = STRICT

    scores: dict[str, Estimate]
    retention: dict[str, Estimate]
    mean: Estimate | None
    equal: Beside
    specialists: Beside

    @property
    def worst(self) -> str | None:
        """The task of least retention."""
        return min(self.retention, key=lambda task: self.retention[task].value) if self.retention else None


@dataclass(frozen=True)
class Training:
    """One method: how its settings were found on validation, what it takes, and what it gives on test.

    settings: what differs from the others. validation: mean retention on the validation rows, for each seed.
    """

    __pydantic_config__ = STRICT

    name: str
    settings: dict[str, Any]
    learning_rate: float
    tried: list[Tried]
    validation: tuple[float, ...]
    cost: TrainingCost
    test: Measured

    @property
    def validation_mean(self) -> float:
        return float(np.mean(self.validation))

    @property
    def chosen(self) -> Tried:
        """The setting that was chosen, on validation."""
        return next(one for one in self.tried if one.chosen)

    @property
    def at_edge(self) -> bool:
        """Whether the best learning rate was the least or the largest that was tried."""
        rates = {one.learning_rate for one in self.tried}
        return len(rates) > 2 and self.learning_rate in (min(rates), max(rates))


@dataclass(frozen=True)
class Reference:
    """The specialists: for each task the learning rates tried with their validation scores, and the one chosen."""

    __pydantic_config__ = STRICT

    rates: dict[str, float]
    tried: dict[str, dict[str, float]]
    scores: dict[str, Estimate]
    cost: TrainingCost


@dataclass(frozen=True)
class TrainingComparison:
    """What `make` found out.

    seeds: those that everything was trained with. sweep: fixed weights tried on validation at the rate of `equal`.
    tasks: facts of the data. settings: what all trainings have in common. level: of the intervals.
    """

    __pydantic_config__ = STRICT

    definitions: dict[str, Definition]
    methods: list[Training]
    reference: Reference
    sweep: list[Tried]
    seeds: tuple[int, ...]
    rows: dict[str, int]
    seed: int
    resamples: int
    tasks: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    # -- reading and writing -------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain data, from which `from_json` makes the same comparison."""
        plain = asdict(self)
        definitions = {name: one.to_json() for name, one in self.definitions.items()}
        return {"format": _FORMAT, **plain, "definitions": definitions, "words": self.words()}

    @classmethod
    def from_json(
        cls, value: Mapping[str, Any], *, asked: str = "read a comparison of trainings"
    ) -> TrainingComparison:
        """The comparison that `to_json` was made from. Errors: any other data."""
        do = "read a comparison.json that this version of allround wrote, or make it again"
        if not isinstance(value, Mapping) or value.get("format") != _FORMAT:
            found = repr(value.get("format"))[:50] if isinstance(value, Mapping) else type(value).__name__
            raise AllroundError(asked, f"its format is {found}, not {_FORMAT!r}", do)
        made = checked(cls, {k: v for k, v in value.items() if k not in ("format", "words")}, asked, do)
        try:
            for name, definition in value["definitions"].items():
                if Definition.from_json(definition).name != name:
                    raise ValueError(f"the definition of '{name}' has another name")
            made._check_names()
        except ValueError as error:
            raise AllroundError(asked, f"it is damaged: {error}", do) from None
        return made

    def _check_names(self) -> None:
        """A ValueError where a part lacks a task, a seed or a choice."""
        tasks, seeds, test = set(self.definitions), len(self.seeds), [one.test for one in self.methods]
        if not self.methods or not seeds or len({one.name for one in self.methods}) < len(self.methods):
            raise ValueError("there is no method or no seed in it, or one twice")
        if any(sum(tried.chosen for tried in one.tried) != 1 for one in self.methods):
            raise ValueError("of the settings of a method that were tried, not one is chosen")
        whole: list[Mapping[str, Any]] = [self.rows, self.reference.rates, self.reference.tried, self.reference.scores]
        whole += [part for one in test for part in (one.scores, one.equal.tasks, one.specialists.tasks)]
        if any(set(part) != tasks for part in whole):
            raise ValueError("a part of it has other tasks than the rest")
        kept = [set(one.retention) for one in test]
        if any(found != kept[0] or not found <= tasks for found in kept):
            raise ValueError("retention is of other tasks than the rest")
        estimates = [e for one in test for part in (one.scores, one.retention) for e in part.values()]
        if any(len(one.validation) != seeds for one in self.methods) or any(len(e.seeds) > seeds for e in estimates):
            raise ValueError("a part of it has other seeds than the rest")

    def save(self, folder: Path | str, *, force: bool = False) -> None:
        """Write comparison.json, comparison.md, comparison.svg and comparison.html.

        Files that are there are replaced only where `save` wrote them and they are unchanged, or with `force`.
        """
        write_texts(folder, self.files(), "TrainingComparison.save", force=force)

    def files(self) -> dict[str, str]:
        """What `save` writes, by the names of the files."""
        from allround.evaluation.training_page import html, svg

        return dict(zip(FILES, (json_text(self.to_json()), self.markdown(), svg(self), html(self)), strict=True))

    @classmethod
    def load(cls, folder: Path | str) -> TrainingComparison:
        """Read what `save` wrote."""
        path = Path(folder) / "comparison.json"
        return cls.from_json(read_settings(path), asked=f"read {path}")

    def fingerprint(self) -> str:
        """A hash of all but timings, memory, dates and the machine: the same for two runs with one seed."""
        return hash_json(_timeless({k: v for k, v in self.to_json().items() if k != "words"}))

    def method(self, name: str) -> Training:
        """The method called `name`."""
        for one in self.methods:
            if one.name == name:
                return one
        known = [one.name for one in self.methods]
        raise AllroundError(f"show the method '{name}'", "it was not compared", suggestion(name, known))

    # -- in words ------------------------------------------------------------------------------------------------

    @property
    def best(self) -> Training:
        """The method of the highest mean retention on the validation rows, over all seeds; of equals, the first."""
        return max(self.methods, key=lambda one: one.validation_mean)

    @property
    def counted(self) -> list[str]:
        """The tasks that mean retention is over."""
        return list(self.methods[0].test.retention)

    @property
    def choices(self) -> int:
        """Settings compared on the validation rows, in all; the choice of the best method is one of the methods."""
        return self.reference.cost.choices + sum(one.cost.choices for one in self.methods)

    def words(self) -> list[str]:
        """The verdict in a few plain sentences."""
        lines = [*self._beside_equal(), self._best_words(), self._specialist_words(), self._unmoved_words()]
        lines.append(self._choice_words())
        edges = [one.name for one in self.methods if one.at_edge and one.name != "tuned"]
        if edges:
            lines.append(
                f"The best learning rate was the least or the largest tried for {listed(edges)}: more --trials may "
                "find a better one."
            )
        if len(self.seeds) == 1:
            lines.append("All is of one seed: the intervals cover the choice of test rows, not that of the seed.")
        return [line for line in lines if line]

    def _same(self, one: Training) -> bool:
        """Whether tuned weights came out as equal ones, so that the two are one model."""
        weights = set(one.settings.get("weights", {}).values())
        return one.name == "tuned" and len(weights) == 1 and EQUAL in [m.name for m in self.methods]

    def _beside_equal(self) -> list[str]:
        """Each method beside equal weights: those without a difference in one sentence, the others one by one."""
        others = [one for one in self.methods if one.name != EQUAL]
        twins = [one.name for one in others if self._same(one)]
        lines, alike = [], []
        for one in others:
            beside = one.test.equal
            worse, better = beside.where("worse"), beside.where("better")
            if one.name in twins:
                continue
            if beside.verdict == "no difference found" and not worse and not better:
                alike.append(one.name)
                continue
            parts = []
            if beside.mean is not None:
                found = f"({beside.mean.points} points of mean retention)"
                said = "no difference found" if beside.verdict == "no difference found" else beside.verdict
                parts.append(f"{said} on the mean {found}")
            total = len(beside.tasks)
            parts += [f"{word} on {len(names)} of {plural(total, 'task')} ({', '.join(names)})"
                      for word, names in (("worse", worse), ("better", better)) if names]  # fmt: skip
            lines.append(f"{one.name} beside {EQUAL}: {'; '.join(parts)}.")
        if alike:
            lines.insert(0, f"No difference found between {EQUAL} and {' or '.join(listed(alike).rsplit(' and ', 1))}, "
                         f"on the mean of {plural(len(self.definitions), 'task')} or on any of them.")  # fmt: skip
        if twins:
            lines.append(f"Of the weights tried for tuned, equal ones were best on validation: tuned is {EQUAL}.")
        return lines

    def _best_words(self) -> str:
        best = self.best
        if len(self.methods) == 1:
            return ""
        alike = [one.name for one in self.methods if one.validation_mean == best.validation_mean]
        alike = [name for name in alike if name != best.name and not self._same(self.method(name))]
        tie = f" (the same as {listed(alike)})" if alike else ""
        test = f"; on test it keeps {best.test.mean.share}%" if best.test.mean else ""
        return (
            f"Best on validation, of {len(self.methods)} methods: {best.name}{tie}, mean retention "
            f"{percent(best.validation_mean)}% (mean of {plural(len(self.seeds), 'seed')}){test}."
        )

    def _specialist_words(self) -> str:
        """Whether joint training loses against a model for each task."""
        groups: dict[str, list[str]] = {}
        for one in self.methods:
            if one.test.mean is not None and not self._same(one):
                said = one.test.specialists.verdict
                found = f" ({one.test.mean.share}%)" if said != "no difference found" else ""
                groups.setdefault(said, []).append(one.name + found)
        if not groups:
            return f"Mean retention has no meaning here: no score of the {SPECIALISTS} is above zero."
        parts = []
        for said, text in (("worse", "joint training loses with"), ("better", "it gains with"),
                           ("no difference found", "no difference is found with")):  # fmt: skip
            if said in groups:
                parts.append(f"{text} {listed(groups[said])}")
        return f"Against the {SPECIALISTS} (100%), on the mean, {'; '.join(parts)}."

    def _unmoved_words(self) -> str:
        """Trainings that gave nothing: where they are the rule, methods are alike because none did anything."""
        runs = len(self.seeds)
        found: dict[int, list[str]] = {}
        for one in self.methods:
            if one.cost.unmoved and not self._same(one):
                found.setdefault(one.cost.unmoved, []).append(one.name)
        parts = [f"{listed(names)} ({times} of {plural(runs, 'seed')})" for times, names in found.items()]
        if self.reference.cost.unmoved:
            total = runs * len(self.definitions)
            parts.append(f"the {SPECIALISTS} ({self.reference.cost.unmoved} of {plural(total, 'training')})")
        if not parts:
            return ""
        return (
            f"No state was better on validation than that before the first step with {listed(parts)}: what is scored "
            "there is the base with its heads."
        )

    def _choice_words(self) -> str:
        tried = sum(one.cost.choices for one in self.methods)
        return (
            f"{plural(self.choices, 'setting')} were compared on validation rows: {tried} of joint training, "
            f"{self.reference.cost.choices} of the {SPECIALISTS}."
        )

    def how(self) -> str:
        """How it was measured, in words."""
        rows = sum(self.rows.values())
        several = len(self.seeds) > 1
        seeds = (
            f"Brackets are 95% intervals of means over {len(self.seeds)} seeds "
            f"({', '.join(str(seed) for seed in self.seeds)}). They cover two sources of noise: the seeds (Student's "
            f"distribution, {plural(len(self.seeds) - 1, 'degree')} of freedom) and the test rows (bootstrap, "
            f"{self.resamples} resamples, the same rows for all systems and seeds); the two are added in squares."
            if several
            else f"Brackets are 95% intervals over the test rows alone (bootstrap, {self.resamples} resamples, the "
            f"same rows for all systems): there is one seed ({self.seeds[0]})."
        )
        return (
            f"All trainings start from the same base with the same heads; seeds change the order of the rows and what "
            f"training draws at random. Learning rates and weights were chosen on validation rows with seed "
            f"{self.seeds[0]}, with the same number of learning rates for every method and for each specialist. "
            f"Specialists see the rows of their task as often as a joint training does, unless a note says otherwise. "
            f"Retention is the score divided by that of the {SPECIALISTS} of the same seed, on {rows:,} test rows, "
            f"which no choice has seen. {seeds} Verdicts on the mean are at 95%, each for itself: of twenty methods "
            f"that do not differ, about one is expected to seem to. Verdicts on single tasks are right for all "
            f"{len(self.definitions)} tasks of a method together (Bonferroni: each at "
            f"{100 * task_level(len(self.definitions)):.4g}%)."
        )

    def memory_words(self) -> str:
        """What the figures of memory are of."""
        if all(one.cost.peak_memory is None for one in self.methods):
            return "Peak memory was not measured on this machine."
        return (
            "Peak memory is the most that the training process held while it trained, libraries included (on a GPU: "
            "the tensors on it), the largest of the seeds."
        )

    # -- tables --------------------------------------------------------------------------------------------------

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Head and body of the table of methods, specialists first."""
        head = ["method", "mean retention", f"beside {EQUAL}", "worst task", "learning rate", "validation", "choices",
                "training", "steps", "backward passes a step", "peak memory"]  # fmt: skip
        cost = self.reference.cost
        rates = sorted(set(self.reference.rates.values()))
        spread = rate(rates[0]) if len(rates) == 1 else f"{rate(rates[0])} to {rate(rates[-1])}"
        body = [[SPECIALISTS, "100", "", "", spread, "100", str(cost.choices), duration(cost.seconds),
                 count(cost.steps), f"{cost.backward_passes:.3g}", gigabytes(cost.peak_memory)]]  # fmt: skip
        for one in self.methods:
            test, worst, cost = one.test, one.test.worst, one.cost
            body.append([
                one.name + ("*" if one is self.best and len(self.methods) > 1 else ""),
                test.mean.share if test.mean else "",
                test.equal.mean.points if test.equal.mean and one.name != EQUAL else "",
                f"{percent(test.retention[worst].value)} {worst}" if worst else "",
                rate(one.learning_rate),
                percent(one.validation_mean),
                str(cost.choices),
                duration(cost.seconds),
                count(cost.steps),
                f"{cost.backward_passes:.3g}",
                gigabytes(cost.peak_memory),
            ])  # fmt: skip
        return head, body

    def mark(self, method: str, task: str) -> str:
        """ "-" or "+" where a score is worse or better than that of equal weights."""
        return MARKS[self.method(method).test.equal.tasks[task].verdict] if method != EQUAL else ""

    def legend(self) -> str:
        """What the numbers and marks mean."""
        parts = [
            f"Means over {plural(len(self.seeds), 'seed')}, on {sum(self.rows.values()):,} test rows; brackets are 95% "
            f"intervals. Retention: score / score of the {SPECIALISTS}, in percent. Beside {EQUAL}: the difference of "
            "mean retention, in points. Validation: mean retention on the validation rows. Choices: settings compared "
            "there. Training: one training; for the specialists, all of them."
        ]
        if len(self.methods) > 1:
            parts.append("* best on validation.")
        return " ".join(parts)

    def task_cells(self, task: str) -> list[str]:
        """The score of the specialist on a task, then each method's retention of it."""
        metric = self.definitions[task].metric
        found = self.reference.scores[task]
        cells = [shown(found.value, metric) + span_text(found.low, found.high, metric=metric)]
        for one in self.methods:
            kept = one.test.retention.get(task)
            text = kept.share if kept else "undefined"
            cells.append(f"{text} {self.mark(one.name, task)}".strip())
        return cells

    def markdown(self) -> str:
        """The comparison as Markdown."""
        lines = [f"# {_md(self.title)}", "", *(f"- {_md(line)}" for line in self.words()), "", "## Methods", ""]
        lines += [*_md_table(*self.table()), "", _md(self.legend()), "", _md(self.memory_words())]
        lines += ["", "## Task by task", ""]
        head = ["task", "metric", "test rows", SPECIALISTS, *(one.name for one in self.methods)]
        body = [[t, d.metric, str(self.rows[t]), *self.task_cells(t)] for t, d in self.definitions.items()]
        lines += [*_md_table(head, body), "", _md(self.task_legend())]
        lines += ["", "## What was tried on validation rows", "", *_md_table(*self.tried_table())]
        lines += ["", "## How this was measured", "", _md(self.how())]
        lines += [""] + [f"- {_md(f'{name}: {text}')}" for name, text in self.facts()]
        if self.notes:
            lines += ["", "## Notes", "", *(f"- {_md(note)}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    @property
    def title(self) -> str:
        about = self.provenance
        where = f": {about['suite']} on {about['base']}" if "suite" in about and "base" in about else ""
        return f"Joint trainings compared{where}"

    def task_legend(self) -> str:
        """What stands in the table of tasks."""
        return (
            f"Scores of the {SPECIALISTS} x 100 (metrics of which lower is better in their own units), retention of "
            f"the methods in percent, means over {plural(len(self.seeds), 'seed')}. - worse, + better than {EQUAL}: "
            f"the difference of scores lies on one side of 0, at a level that is right for all tasks together."
        )

    def tried_table(self) -> tuple[list[str], list[list[str]]]:
        """Every setting that was tried: of the methods, then of the sweep; the seed is the first one."""
        head = ["method", "learning rate", "weights", "mean retention", "least retention", "chosen"]
        body = []
        for one in self.methods:
            for tried in one.tried if one.name != "tuned" else []:
                body.append([one.name, rate(tried.learning_rate), "", percent(tried.mean), percent(tried.worst),
                             "chosen" if tried.chosen else ""])  # fmt: skip
        for tried in self.sweep:
            weights = ", ".join(f"{task} {weight:.2f}" for task, weight in tried.weights.items())
            body.append(["sweep", rate(tried.learning_rate), weights, percent(tried.mean), percent(tried.worst),
                         "chosen" if tried.chosen else ""])  # fmt: skip
        return head, body

    def facts(self) -> list[tuple[str, str]]:
        """What the figures belong to, in pairs."""
        found = [
            ("Seeds", ", ".join(str(seed) for seed in self.seeds)),
            ("Rows measured on", f"{sum(self.rows.values()):,} of the test split"),
            ("Common to all", ", ".join(f"{name} {value}" for name, value in self.settings.items())),
        ]
        about = self.provenance
        found += [(title, str(about[key])) for key, title in (("date", "Date"), ("machine", "Machine")) if key in about]
        if about.get("workers"):
            found.append(("Trainings at a time", str(about["workers"])))
        if about.get("total_seconds"):
            found.append(("This run", duration(float(about["total_seconds"]))))
        if about.get("versions"):
            found.append(("Versions", ", ".join(f"{n} {v}" for n, v in about["versions"].items())))
        found.append(("Fingerprint", f"{self.fingerprint()[:16]} (of everything but timings and memory)"))
        return found

    def print(self, console: Console | None = None) -> None:
        """Print tables and verdict in ASCII, within the console's width."""
        from rich.text import Text

        console = console or make_console()
        head, body = self.table()
        body = [[_wrapped(_plain(row[0])), *map(_plain, row[1:])] for row in body]
        kept = list(range(len(head)))
        # What is left out where there is little room.
        for name in ("steps", "choices", "peak memory", "validation", "learning rate", "backward passes a step"):
            if sum(_width(head[i], body, i) + 2 for i in kept) - 2 > console.width:
                kept = [i for i in kept if head[i] != name]
        table = _table()
        for i in kept:
            table.add_column(head[i], justify="left" if head[i] in ("method", "worst task") else "right")
        for row in body:
            table.add_row(*(Text(row[i]) for i in kept))
        console.print(table)
        console.print()
        self._print_tasks(console)
        console.print()
        console.print(Text(_plain(f"{self.legend()} {self.task_legend()}"), style="dim"))
        console.print()
        for line in self.words():
            console.print(Text(_plain(line)))

    def _print_tasks(self, console: Console) -> None:
        from rich.text import Text

        left = max(len(task) for task in self.definitions) + 8
        names = [SPECIALISTS, *(one.name for one in self.methods)]
        cells = {task: [cell.split(" [")[0] + cell.partition("]")[2] for cell in self.task_cells(task)]
                 for task in self.definitions}  # fmt: skip
        for number, block in enumerate(_blocks(names, console.width - left)):
            if number:
                console.print()
            table = _table()
            table.add_column("task", no_wrap=True)
            table.add_column("rows", justify="right")
            for i in block:
                table.add_column(Text(_wrapped(_plain(names[i]))), justify="right", no_wrap=True)
            for task in self.definitions:
                table.add_row(Text(_plain(task)), str(self.rows[task]), *(Text(cells[task][i]) for i in block))
            console.print(table)


def task_level(tasks: int) -> float:
    """The level of an interval for one of several tasks, so that all of them hold together at 95% (Bonferroni).

    >>> task_level(1), task_level(10)
    (0.95, 0.995)
    """
    return 1 - (1 - LEVEL) / tasks


def measure(
    names: Sequence[str],
    definitions: Mapping[str, Definition],
    seeds: Sequence[int],
    predictions: Mapping[tuple[str, int, str], Predictions],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Measured]:
    """Systems on the test rows; predictions are keyed (system, seed, task), of the `specialists` and `equal` too.

    The mean is over the tasks where the retention of every system with every seed is defined.
    """
    made = [
        Bootstrap.make(
            {(n, t): predictions[n, one, t] for n in names for t in definitions},
            reference=SPECIALISTS,
            seed=seed,
            resamples=resamples,
        )
        for one in seeds
    ]
    tasks = [t for t in definitions if all(t in board.defined(n) for board in made for n in names)]
    level = task_level(len(definitions))

    def mean(name: str, of: Sequence[str], less: str | None = None) -> Estimate:
        pairs = [board.mean_over(name, of) for board in made]
        if less is not None:
            others = [board.mean_over(less, of) for board in made]
            pairs = [(a - c, b - d) for (a, b), (c, d) in zip(pairs, others, strict=True)]
        return _estimate(pairs)

    def score(name: str, task: str, less: str | None = None) -> Estimate:
        pairs = [(board.points[name, task], board.resampled[name, task]) for board in made]
        if less is None:
            return _estimate(pairs)
        sign = 1.0 if made[0].better[task] == "higher" else -1.0
        others = [(board.points[less, task], board.resampled[less, task]) for board in made]
        return _estimate([(sign * (a - c), sign * (b - d)) for (a, b), (c, d) in zip(pairs, others, strict=True)],
                         level)  # fmt: skip

    def beside(name: str, other: str) -> Beside:
        return Beside(mean(name, tasks, other) if tasks else None, {t: score(name, t, other) for t in definitions})

    return {
        name: Measured(
            {t: score(name, t) for t in definitions},
            {t: mean(name, [t]) for t in tasks},
            mean(name, tasks) if tasks else None,
            beside(name, EQUAL),
            beside(name, SPECIALISTS),
        )
        for name in names
    }


def _estimate(pairs: Sequence[tuple[float, Any]], level: float = LEVEL) -> Estimate:
    values = [float(value) for value, _ in pairs]
    return Estimate(*over_seeds(values, np.stack([resampled for _, resampled in pairs]), level=level), tuple(values))


def front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of the points that no other one beats in both coordinates, from left to right.

    >>> front([(1, 3), (2, 2), (1, 1), (3, 0)])
    [(1, 3), (2, 2), (3, 0)]
    """
    found: list[tuple[float, float]] = []
    for point in sorted(set(points), reverse=True):
        if not found or point[1] > found[-1][1]:
            found.append(point)
    return found[::-1]


def rate(value: float) -> str:
    """A learning rate in few letters.

    >>> rate(0.001), rate(1e-5 / 3)
    ('0.001', '3.33e-06')
    """
    return f"{value:.3g}"


def gigabytes(size: int | None) -> str:
    """
    >>> gigabytes(3 * 2**29), gigabytes(None)
    ('1.50 GiB', '')
    """
    return "" if size is None else f"{size / 2**30:.2f} GiB"


def _blocks(names: Sequence[str], width: int) -> Iterable[list[int]]:
    """Columns in groups that fit."""
    block: list[int] = []
    used = 0
    for number, name in enumerate(names):
        wide = 2 + max(8, *(len(line) for line in _wrapped(name).splitlines()))
        if block and used + wide > width:
            yield block
            block, used = [], 0
        block.append(number)
        used += wide
    if block:
        yield block
