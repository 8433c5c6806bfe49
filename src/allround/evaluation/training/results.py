"""What is known of joint trainings: scores and retention over seeds, what was tried, what each costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from allround.core.errors import AllroundError, suggestion
from allround.core.files import hash_json
from allround.core.schema import STRICT
from allround.core.words import percent, span_text
from allround.evaluation.facts import TaskFacts
from allround.evaluation.intervals import Interval, verdict
from allround.evaluation.timeless import timeless
from allround.tasks.definition import Definition

#: What every method is compared with, beside the specialists.
EQUAL = "equal"
SPECIALISTS = "specialists"

#: What a comparison that is saved begins with.
FORMAT = "allround training comparison 1"


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
        """What it says as a difference of which higher is better."""
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
    trainings, over all seeds, whose best state on validation is that before the first step. further: bytes that one
    further task would store, beside the encoder as it is; None where it was not measured."""

    __pydantic_config__ = STRICT

    seconds: float = 0.0
    steps: float = 0.0
    backward_passes: float = 0.0
    examples: dict[str, float] = field(default_factory=dict)
    peak_memory: int | None = None
    skipped: int = 0
    choices: int = 0
    unmoved: int = 0
    further: int | None = None


@dataclass(frozen=True)
class Difference:
    """A method compared with another system.

    mean: the difference of mean retention at 95%. tasks: differences of scores, turned so that higher is better, each
    at a level that holds for all tasks together (Bonferroni).
    """

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
    equal: Difference
    specialists: Difference

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
    settings: dict[str, object]
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
class Baseline:
    """A system beside the methods that is no joint training, such as boosted trees; it does not depend on the seed."""

    __pydantic_config__ = STRICT

    name: str
    title: str
    cost: TrainingCost
    test: Measured


@dataclass(frozen=True)
class TrainingResults:
    """Joint trainings side by side.

    seeds: those that everything was trained with. sweep: fixed weights tried on validation at the rate of `equal`.
    tasks: facts of the data. settings: what all trainings have in common. resamples: of the bootstrap over test rows.
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
    tasks: list[TaskFacts] = field(default_factory=list)
    settings: dict[str, object] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, object] = field(default_factory=dict)
    baselines: list[Baseline] = field(default_factory=list)

    def data(self) -> dict[str, object]:
        """Plain data of all fields."""
        definitions = {name: one.to_json() for name, one in self.definitions.items()}
        found = {"format": FORMAT, **asdict(self), "definitions": definitions}
        return found if self.baselines else {name: value for name, value in found.items() if name != "baselines"}

    def fingerprint(self) -> str:
        """A hash of all but timings, memory, dates and the machine: the same for two runs with one seed."""
        return hash_json(timeless(self.data()))

    def method(self, name: str) -> Training:
        """The method called `name`."""
        for one in self.methods:
            if one.name == name:
                return one
        known = [one.name for one in self.methods]
        raise AllroundError(f"show the method '{name}'", "it was not compared", suggestion(name, known))

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
        return self.reference.cost.choices + sum(one.cost.choices for one in self.tested)

    @property
    def title(self) -> str:
        about = self.provenance
        where = f": {about['suite']} on {about['base']}" if "suite" in about and "base" in about else ""
        return f"Joint trainings compared{where}"

    @property
    def tested(self) -> list[Baseline | Training]:
        """All that is compared with the specialists: what stands beside the methods, then the methods."""
        return [*self.baselines, *self.methods]

    def is_equal(self, one: Baseline | Training) -> bool:
        """Whether tuned weights came out as equal ones, so that the two are one model."""
        weights = one.settings.get("weights") if isinstance(one, Training) else None
        alike = isinstance(weights, Mapping) and len(set(weights.values())) == 1
        return one.name == "tuned" and alike and EQUAL in [m.name for m in self.methods]

    def check_names(self) -> None:
        """A ValueError where a part lacks a task, a seed or a choice."""
        tasks, seeds, test = set(self.definitions), len(self.seeds), [one.test for one in self.tested]
        if not self.methods or not seeds or len({one.name for one in self.tested}) < len(self.tested):
            raise ValueError("a method or a seed is missing, or a method is there twice")
        if any(sum(tried.chosen for tried in one.tried) != 1 for one in self.methods):
            raise ValueError("a method does not have exactly one chosen setting")
        whole: list[Mapping[str, object]] = [
            self.rows,
            self.reference.rates,
            self.reference.tried,
            self.reference.scores,
        ]
        whole += [part for one in test for part in (one.scores, one.equal.tasks, one.specialists.tasks)]
        if any(set(part) != tasks for part in whole):
            raise ValueError("its parts do not have the same tasks")
        kept = [set(one.retention) for one in test]
        if any(found != kept[0] or not found <= tasks for found in kept):
            raise ValueError("the retentions are not of the same tasks")
        estimates = [e for one in test for part in (one.scores, one.retention) for e in part.values()]
        if any(len(one.validation) != seeds for one in self.methods) or any(len(e.seeds) > seeds for e in estimates):
            raise ValueError("its parts do not have the same seeds")
