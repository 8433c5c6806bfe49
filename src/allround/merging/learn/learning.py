"""A learned merge as data: what is learned, by which objective, from where, in how many steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from allround.core import registry
from allround.core.errors import AllroundError, suggestion
from allround.tasks.definition import Definition
from allround.tasks.kind import kind

OPTIMISERS = ("adam", "adamw", "sgd")
HEADS = ("kept", "learned", "fitted")


#: Rows of each task in a step, where neither the preset nor the encoder says how many.
BATCH = 16


@dataclass(frozen=True)
class Learning:
    """Merged weights S + sum_t (c_t - scale) e_t, or a mask of them, with what is free in them fitted to an objective.

    parametrisation, objective: by name, with their settings. S is the start: base + scale * sum_t e_t, unless another
    one is given beside this. e_t: the changes, with all but the `keep` largest entries of each model set to zero, and
    with `elect` only where their sign is that of the sum over models. heads: "kept" are the specialists'; "learned"
    ones are learned along, at `head_rate`; "fitted" ones are fitted anew on the merged encoder in the end, on all
    training rows with their labels. rows: of each task; batch: of each task in a step (None: as many as the encoder
    says, 16, or 8 of a language model); the losses of the tasks are added up. phases: which of the parametrisation's
    parts are learned in how many steps, one after the other; by default all of them in `steps`. clip: the most that
    the norm of the gradient may be (0: any). decay: whether the rate falls to zero, by a half cosine. group: merge so
    many models at a time, and then the merged ones (0: all at once). centred: the changes are those from the mean of
    the models, which is the base then. guard: of the start and the states after each quarter of the steps, the one is
    kept whose answers are nearest to the specialists', for objectives that get better while answers get worse.
    """

    parametrisation: str
    objective: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    objective_settings: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 0.3
    keep: float = 1.0
    elect: bool = False
    heads: str = "kept"
    steps: int = 100
    rate: float = 0.01
    head_rate: float = 0.001
    optimiser: str = "adam"
    weight_decay: float = 0.0
    clip: float = 0.0
    decay: bool = False
    batch: int | None = None
    rows: int = 256
    phases: tuple[tuple[str, int], ...] = ()
    group: int = 0
    centred: bool = False
    guard: bool = False

    def __post_init__(self) -> None:
        registry.find("parametrisation", self.parametrisation).resolve(self.settings)
        registry.find("objective", self.objective).resolve(self.objective_settings)
        for what, value, choices in (("optimiser", self.optimiser, OPTIMISERS), ("heads", self.heads, HEADS)):
            if value not in choices:
                raise AllroundError(f"learn with {what} '{value}'", "there is no such choice",
                                    suggestion(value, choices))  # fmt: skip
        for name, least in {"steps": 0, "batch": 1, "rows": 1, "group": 0, "weight_decay": 0}.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise AllroundError(f"learn with {name}={getattr(self, name)}", "that is too little",
                                    f"give at least {least}")  # fmt: skip
        if self.group == 1:
            raise AllroundError("merge one model at a time", "a group of one is no merge", "give group=2 or more")
        for rate in (self.rate, self.head_rate):
            if not 0 < rate < math.inf:
                raise AllroundError(f"learn at the rate {rate}", "that is no positive number", "give one such as 0.01")
        for name, value in {**self.settings, **self.objective_settings}.items():
            if name in ("temperature", "speed") and not value > 0:
                raise AllroundError(f"learn with {name}={value}", "that is no positive number", "give one such as 0.5")
        if not 0 < self.keep <= 1:
            raise AllroundError(f"keep {self.keep} of each change", "it is not between 0 and 1", "give one such as 0.2")

    @property
    def needs(self) -> tuple[str, ...]:
        """What is looked at beside the rows: "labels", "specialist"."""
        needs = registry.find("objective", self.objective).needs
        return (*needs, "specialist") if self.guard and "specialist" not in needs else needs

    @property
    def compares_answers(self) -> bool:
        """Whether answers are compared, and not the features that they follow from."""
        return bool(registry.find("objective", self.objective).facts["reads"] == "answers")

    @property
    def labelled(self) -> bool:
        """Whether labels are looked at."""
        return "labels" in self.needs or self.heads == "fitted"

    @property
    def split(self) -> str:
        """Where rows come from unless another split is asked for.

        Validation where coefficients alone are learned without labels: the specialists have not been tuned on its
        inputs, so that their answers say something. Train where labels are looked at, or where so much is learned that
        scores on the rows themselves would mean nothing (heads, components, masks), since choices are made on
        validation.
        """
        few = self.parametrisation in ("task", "layer", "block") and self.heads != "learned"
        return "validation" if few and "labels" not in self.needs else "train"

    @property
    def step_rows(self) -> int:
        """Rows of each task in a step."""
        return self.batch or BATCH

    @property
    def all_steps(self) -> int:
        """Steps over all phases."""
        return sum(steps for _, steps in self.phases) if self.phases else self.steps

    def check_split(self, split: str) -> None:
        """An error for test rows where their labels would be looked at."""
        if split == "test" and "labels" in self.needs:
            raise AllroundError(
                f"learn on the test rows by the objective '{self.objective}'",
                "it looks at their labels, and then the test measures nothing",
                "use an objective without labels (entropy, divergence, pseudo, features), or another split",
            )

    def check(self, definitions: Iterable[Definition]) -> None:
        """An error for tasks of a kind that the objective has no meaning for.

        Where answers are written and compared, each token of theirs is a choice, as in a classification.
        """
        kinds = registry.find("objective", self.objective).facts["kinds"]
        for definition in definitions:
            if definition.harness:
                raise AllroundError(
                    f"learn task '{definition.name}' by '{self.objective}'",
                    "it is a task of the lm-evaluation-harness, whose answers are no distribution to learn from",
                    "leave it out, or use merge methods that learn nothing, such as average",
                )
            if kind(definition.kind).ranked and self.compares_answers:
                raise AllroundError(
                    f"learn task '{definition.name}' by '{self.objective}'",
                    "its answers rank passages, and are no distribution to learn from",
                    "learn by features (allround learn --objective features), or leave the task out",
                )
            written = definition.head == "generate" or kind(definition.kind).written
            if written and self.compares_answers and "classification" in (kinds or ()):
                continue
            if kinds and definition.kind not in kinds:
                fitting = [e.name for e in registry.entries("objective")
                           if definition.kind in (e.facts["kinds"] or (definition.kind,))]  # fmt: skip
                raise AllroundError(
                    f"learn task '{definition.name}' by '{self.objective}'",
                    f"it is of the kind {definition.kind}, and the objective takes {', '.join(kinds)}",
                    f"use one of: {', '.join(fitting)}; or leave the task out",
                )

    def with_(self, **values: Any) -> Learning:
        """A copy with some values replaced."""
        return replace(self, **values)

    def to_json(self) -> dict[str, Any]:
        entry = registry.find("parametrisation", self.parametrisation)
        objective = registry.find("objective", self.objective)
        return {
            **{k: v for k, v in vars(self).items() if k not in ("settings", "objective_settings", "phases")},
            "settings": entry.resolve(self.settings),
            "objective_settings": objective.resolve(self.objective_settings),
            **({"phases": [list(phase) for phase in self.phases]} if self.phases else {}),
        }


@dataclass(frozen=True)
class ClosedForm(Learning):
    """A merge that follows from rows by a formula; nothing is learned in steps.

    form: which one; `regmean_pp` is the only one. Of a `Learning` it has the rows and the batch.
    """

    parametrisation: str = "task"
    objective: str = "features"
    steps: int = 0
    form: str = "regmean_pp"
    form_settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    @property
    def compares_answers(self) -> bool:
        """It sees the rows that it is computed from with their answers, where these are written."""
        return True

    @property
    def split(self) -> str:
        return "train"

    def check(self, definitions: Iterable[Definition]) -> None:
        """It takes tasks of every kind."""

    def to_json(self) -> dict[str, Any]:
        return {"form": self.form, **self.form_settings, "rows": self.rows, "batch": self.batch}


def preset(name: str, values: Mapping[str, Any] | None = None) -> Learning:
    """The learning that a preset stands for; a parametrisation's name stands for `custom` with it.

    values: of the preset's own parameters, and of `rows`, `batch`, `steps` and `rate`.

    >>> preset("adamerging").objective, preset("layer", {"objective": "label"}).objective
    ('entropy', 'label')
    """
    values = dict(values or {})
    if name in registry.names("parametrisation"):
        if values.get("parametrisation", name) != name:
            raise AllroundError(
                f"learn '{name}'", f"the parametrisation '{values['parametrisation']}' is given too", "name one of them"
            )
        values, name = {"parametrisation": name, **values}, "custom"
    known = [*registry.names("learn"), *registry.names("parametrisation")]
    if name not in registry.names("learn"):
        raise AllroundError(
            f"learn '{name}'", "there is no preset or parametrisation of that name", suggestion(name, known)
        )
    entry = registry.find("learn", name)
    own = {p.name for p in entry.parameters}
    common = {k: values.pop(k) for k in ("rows", "batch", "steps", "rate") if k in values and k not in own}
    made: Learning = entry.load()(**entry.resolve(values))
    return made.with_(**common)
