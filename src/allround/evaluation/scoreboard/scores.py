"""What is known of systems on tasks: scores, retention, what each system costs, and how they compare."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from typing_extensions import TypedDict

from allround.core.errors import AllroundError, suggestion
from allround.core.schema import STRICT
from allround.core.words import percent, span_text
from allround.evaluation.calibration import CalibrationFacts
from allround.evaluation.intervals import retention
from allround.models.cost import Cost
from allround.tasks.definition import Definition
from allround.tasks.metric import better

#: What retention is drawn against.
CostName = Literal["stored", "seconds"]

#: Marks of a score beside the reference's, by verdict.
MARKS = {"better": "+", "worse": "-", "no difference found": ""}


@dataclass(frozen=True)
class ScoredSystem:
    """Something that answers every task.

    role: what sort of system it is, in one word: floor, base, specialists, joint and merge have colours and words of
    their own. single: all tasks share one set of encoder weights.
    """

    __pydantic_config__ = STRICT

    name: str
    role: str
    title: str = ""
    settings: dict[str, object] = field(default_factory=dict)
    single: bool = True
    cost: Cost = field(default_factory=Cost)

    def __post_init__(self) -> None:
        if not self.role.isidentifier():
            raise AllroundError(
                f"show the system '{self.name}'", f"its role is {self.role!r}", "give one word, such as joint or merge"
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
    """`system` compared with `other`: the paired difference of mean retention, and a verdict for each task's score."""

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
        'ties vs joint: worse by 1.0 points of mean retention [0.4, 2.0]; worse on 1 of 2 tasks: a; better on 1: b.'
        """
        return f"{self.system} vs {self.other}: {self.mean_words}; {self.task_words}."

    @property
    def mean_words(self) -> str:
        """How the means differ."""
        if self.difference is None:
            return "no retention is defined"
        if self.verdict == "no difference found":
            span = span_text(self.low, self.high, signed=True)
            return f"no difference found in mean retention ({percent(self.difference, signed=True)} points{span})"
        ends = (self.low, self.high) if self.difference >= 0 else (_negative(self.high), _negative(self.low))
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
class Transfer:
    """A system on tasks that nothing is trained on: the mean of its scores, and what it keeps of the reference's.

    gain: how far the mean lies above that of the reference; verdict: what that says. None where there is no reference.
    """

    __pydantic_config__ = STRICT

    score: Summary
    retention: Summary | None = None
    gain: Summary | None = None
    verdict: str = "no difference found"


@dataclass(frozen=True)
class AdaptedScore:
    """A system on a held-out task before and after it was adapted to a few of the task's rows.

    task: "" is the mean over those whose metrics are higher where better. rows, held: training rows that it was adapted
    on, and validation rows that the state was chosen on; of a mean, those of the task that has most. before: zero-shot;
    None where its head needs training. gain: after less before. over_base: after, less the base's after the same
    rows; None of the base itself. Both are turned so that higher is better; change and verdict say what they mean.
    """

    __pydantic_config__ = STRICT

    system: str
    task: str
    metric: str
    rows: int
    held: int
    n: int
    after: Summary
    before: Summary | None = None
    gain: Summary | None = None
    change: str | None = None
    over_base: Summary | None = None
    verdict: str | None = None


class Notes(TypedDict, total=False):
    """Warnings of each task, specialists that were trained too short, routers that were left out, scores of tasks with
    several prompts, what measures find, how energy was measured, how the budget was shared and the best system chosen,
    in words."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    tasks: dict[str, list[str]]
    training: list[str]
    routing: list[str]
    prompts: list[str]
    measures: list[str]
    energy: list[str]
    budget: list[str] | str
    choice: str


@dataclass(frozen=True)
class Repeats:
    """The runs whose mean a board shows. of: what they differ by, seed or fold. names: of the runs.

    scores[system][task]: one of each run, in the order of the names.
    """

    __pydantic_config__ = STRICT

    of: str
    names: list[str]
    scores: dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Scores:
    """Systems on tasks. `cells[system][task]`; mean, worst and validation by system.

    Scores are of `split`; `validation` has the scores that choices were made by. `comparisons` are with the
    reference and with the best system. repeats: the runs whose mean the scores are; None for a single run.
    calibration: how far the scores of some systems can be trusted, by task; None where that was not looked at.
    transfer: each system on the held-out tasks, "" being all of them, and on those of each category; None where no task
    is held out. adapted: systems after training on a few rows of held-out tasks. Retention, its mean and worst are over
    the tasks that were trained on.
    """

    __pydantic_config__ = STRICT

    definitions: dict[str, Definition]
    systems: list[ScoredSystem]
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
    notes: Notes
    provenance: dict[str, object]
    repeats: Repeats | None = None
    calibration: dict[str, dict[str, CalibrationFacts]] | None = None
    transfer: dict[str, dict[str, Transfer]] | None = None
    adapted: list[AdaptedScore] | None = None

    def system(self, name: str) -> ScoredSystem:
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
        metrics = {task: definition.metric for task, definition in self.trained.items()}
        found = [retention(mine[t], theirs[t], better(m)) for t, m in metrics.items() if t in mine and t in theirs]
        known = [value for value in found if value is not None]
        return math.fsum(known) / len(known) if known else None

    def scores(self) -> dict[str, dict[str, float]]:
        """The score of each system on each task."""
        return {system: {task: cell.score for task, cell in cells.items()} for system, cells in self.cells.items()}

    @property
    def trained(self) -> dict[str, Definition]:
        """The tasks that training could see; means are over these."""
        return {task: definition for task, definition in self.definitions.items() if definition.trained}

    def of_role(self, role: str) -> list[str]:
        """The tasks of a role."""
        return [task for task, definition in self.definitions.items() if definition.role == role]

    @property
    def rows(self) -> int:
        """Rows of the split, over all tasks."""
        return sum(self.n(task) for task in self.definitions)

    @property
    def trained_rows(self) -> int:
        """Rows of the split, over the tasks that training could see."""
        return sum(self.n(task) for task in self.trained)

    def n(self, task: str) -> int:
        """Rows of one task that the scores were measured on."""
        return next((cells[task].n for cells in self.cells.values()), 0)

    def mark(self, system: str, task: str) -> str:
        """ "-" or "+" where a score is worse or better than the reference's."""
        found = self.comparison(system, self.reference or "")
        return MARKS[found.tasks[task]] if found else ""

    def check_names(self) -> None:
        """A ValueError where a part speaks of other systems or tasks than those of the board."""
        names, tasks = [system.name for system in self.systems], list(self.definitions)
        if len(set(names)) < len(names):
            raise ValueError("a system is there twice")
        whole: list[tuple[Iterable[str], list[str]]] = [
            (self.cells, names),
            *((cells, tasks) for cells in self.cells.values()),
        ]
        whole += [(c.tasks, tasks) for c in self.comparisons]
        if self.repeats is not None:
            whole += [(self.repeats.scores, names), *((scores, tasks) for scores in self.repeats.scores.values())]
        some: list[tuple[Iterable[str | None], list[str]]] = [
            (self.mean, names),
            (self.worst, names),
            (self.validation, names),
        ]
        some += [(scores, tasks) for scores in self.validation.values()]
        some += [(found, names) for found in (self.transfer or {}).values()]
        some += [([one.system for one in self.adapted or ()], names)]
        some += [([v for one in self.adapted or () for v in (one.change, one.verdict) if v is not None], list(MARKS))]
        some += [(self.calibration or {}, names), *((found, tasks) for found in (self.calibration or {}).values())]
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


def _negative(value: float | None) -> float | None:
    return None if value is None else -value
