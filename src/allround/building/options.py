"""What a user can ask of `build`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from allround.building.joint import TUNED, Joint, read_joint, read_share
from allround.core import registry
from allround.core.errors import AllroundError, suggestion
from allround.evaluation.calibration import check_coverage, check_method
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.roles import GUARD, HELD_OUT
from allround.training.settings import Settings

#: What retention can be measured against: on each task the better of specialist and base, or the specialist.
REFERENCES = ("best", "specialists")
#: The routers that are tried where a library is given: one that learns from rows, and one that needs none.
ROUTERS = ("classifier", "arrow")
#: The largest retention that can be asked for; more is a typo (2 for 2%, say).
MOST = 1.5


@dataclass(frozen=True)
class Constraints:
    """What the best single model must satisfy; all of it is judged on validation.

    worst: smallest retention that every task must have. keep: the same for single tasks. max_parameters: most
    parameters that the model may store. single: one model for all tasks; otherwise the specialists, baselines and
    ensembles may be chosen too. one_set: one set of weights for all rows, which routed systems have not. guards:
    smallest share of the base's score that must be kept on each task whose role is guard.
    """

    worst: float | None = None
    keep: Mapping[str, float] = field(default_factory=dict)
    max_parameters: int | None = None
    single: bool = True
    one_set: bool = False
    guards: float | None = None

    def __post_init__(self) -> None:
        for value in [self.worst, self.guards, *self.keep.values()]:
            if value is not None and not 0 < value <= MOST:
                raise AllroundError(
                    f"ask for a retention of {value}",
                    f"retention is a share of the reference's score, and this is not between 0 and {MOST}",
                    "give a share such as 0.95",
                )
        if self.max_parameters is not None and self.max_parameters < 1:
            raise AllroundError(
                f"ask for at most {self.max_parameters} parameters", "the limit must be at least 1", "give at least 1"
            )

    def check(self, roles: Mapping[str, str]) -> None:
        """Errors: what cannot be kept. roles: of all tasks."""
        for name in self.keep:
            if name not in roles:
                raise AllroundError(f"keep the retention of task '{name}'", "the suite has no such task",
                                    suggestion(name, roles))  # fmt: skip
            if roles[name] == HELD_OUT:
                raise AllroundError(f"keep the retention of task '{name}'",
                                    "it is held out, so that no choice may look at it",
                                    "leave this out, or give the task `role: guard`")  # fmt: skip
        if self.guards is not None and GUARD not in roles.values():
            raise AllroundError(f"keep {100 * self.guards:g}% of the base's score on guards",
                                "no task of the suite has the role guard",
                                "name the task (TASK=SHARE), or give a task `role: guard`")  # fmt: skip

    def broken(
        self, retentions: Mapping[str, float | None], parameters: int, guards: Mapping[str, float | None] | None = None
    ) -> list[str]:
        """What a system breaks, in words. guards: how much is kept of the base's score on each guard.

        >>> Constraints(worst=0.9).broken({"a": 0.95, "b": 0.8}, 10)
        ['retains 80.0% of b, less than the 90.0% asked for']
        """
        found = []
        guards = guards or {}
        for task, retention in {**retentions, **guards}.items():
            wanted = self.keep.get(task, self.guards if task in guards else self.worst)
            if wanted is not None and retention is not None and retention < wanted:
                found.append(f"retains {100 * retention:.1f}% of {task}, less than the {100 * wanted:.1f}% asked for")
        if self.max_parameters is not None and parameters > self.max_parameters:
            found.append(f"stores {parameters:,} parameters, more than the {self.max_parameters:,} allowed")
        return found

    def words(self) -> str:
        """The constraints as a sentence, or nothing."""
        parts = ["one set of weights for all rows"] if self.one_set else []
        parts += [f"every task retains at least {100 * self.worst:g}%"] if self.worst is not None else []
        parts += [f"{task} retains at least {100 * least:g}%" for task, least in self.keep.items()]
        if self.guards is not None:
            parts.append(f"every guard keeps at least {100 * self.guards:g}% of the base's score")
        if self.max_parameters is not None:
            parts.append(f"at most {self.max_parameters:,} parameters stored")
        return "; ".join(parts)


@dataclass(frozen=True)
class RouterChoice:
    """A routed system as it was asked for. merge: the merge that is its base, with what each specialist has beyond it
    as a module (the way of Twin-Merging); None for the base that the specialists were tuned from."""

    router: str
    settings: Mapping[str, object] = field(default_factory=dict)
    combine: str = "outputs"
    combine_settings: Mapping[str, object] = field(default_factory=dict)
    merge: str | None = None

    @classmethod
    def read(cls, text: str) -> RouterChoice:
        """From `ROUTER[@MERGE][+COMBINATION]`, router and combination with settings behind a colon.

        >>> choice = RouterChoice.read("arrow:top=2@ties+pick")
        >>> choice.merge, choice.combine, choice.words
        ('ties', 'pick', 'arrow:top=2@ties+pick')
        """
        first, _, combine = text.partition("+")
        router, at, merge = first.partition("@")
        name, settings = registry.spelled("route", router)
        found, values = registry.spelled("combine", combine) if combine.strip() else ("outputs", {})
        if at and merge.strip() not in registry.names("learn"):
            registry.find("merge", merge.strip())
        return cls(name, settings, found, values, merge.strip() if at else None)

    @property
    def words(self) -> str:
        """As it is written."""
        found = _spelled(self.router, self.settings)
        found += "" if self.merge is None else f"@{self.merge}"
        if self.combine != "outputs" or self.combine_settings:
            found += f"+{_spelled(self.combine, self.combine_settings)}"
        return found

    @property
    def system(self) -> str:
        """What a build calls the system, also as the name of a folder.

        >>> RouterChoice.read("arrow:top=2+pick").system
        'routed-arrow-top=2-pick'
        """
        return "routed-" + re.sub(r"[^A-Za-z0-9._=-]+", "-", self.words).strip("-")


def _spelled(name: str, values: Mapping[str, object]) -> str:
    return name + (":" + ";".join(f"{key}={value}" for key, value in values.items()) if values else "")


@dataclass(frozen=True)
class Options:
    """How to build.

    seeds: how many, from `seed` on; with more than one all is built with each, and a budget is shared among them.
    folds: test every row once, in so many builds, and make the model in one more; 0 for none. methods: merge methods
    and presets of learned merges; `None` for those that are worth trying. trials: most settings tried for each.
    joint: whether to train the joint model. balance: further joint models, with a batch of every task in each step,
    by balancers as `NAME` or `NAME:key=value;key=value`; `None` for those that are worth trying. share: further joint
    models by ways to share, written alike, such as `mmoe:experts=4`. routers: systems of the base with a module of
    each specialist and a router, as `ROUTER` or `ROUTER+COMBINATION` with settings written alike, such as
    `classifier` or `arrow:top=2+pick`; `None` for `ROUTERS` where there is a library, and for none otherwise. library:
    a library of modules of the base; a module whose card names a task is the specialist of it, and all others are
    further modules of routed systems. demonstrations: the base, a language model, shown training rows that these
    ways choose, such as `coverage:count=4`. baselines: score what works without a network too: a linear model for each
    task and, unless `trees` is false, boosted trees where all tasks are on tables. rmtgb: robust trees that the tasks
    share too, where all read the same columns. reference: what retention is measured against, one of `REFERENCES`.
    ensemble: try the mean of the answers of specialists, joint models and trees too. groups: a joint model for
    each of so many groups of tasks, put together by estimates of transfer, or `auto`. sizes: make a `small_table` in a
    few sizes, and take the best on validation. head: the sort of all heads, see `allround.methods("head")`; `None` is
    what the base would choose. specialists: models that are already tuned, by task: folders or Hub ids of what
    allround, transformers, sentence-transformers, SetFit or PEFT saved. budget: minutes, or `None`. workers:
    processes, `None` for one a core. ray: the address of a Ray cluster that does the work (HOST:PORT, or `auto` for
    the one that this machine belongs to); its machines must share the run folder. calibrate: how scores are corrected
    on validation: `temperature`, `isotonic` or `none`. coverage: the share of rows whose target the sets of answers
    shall hold, such as 0.9; left out, there are no sets. track: names of trackers (tensorboard, mlflow, wandb), which
    write into the folder `track` of the run. energy: a country in three letters, such as DEU, to measure the energy of
    answering with. adapt: training rows of each held-out task that base, joint model and
    the best single model are adapted to it on; `None` leaves that out.
    """

    settings: Settings = field(default_factory=Settings)
    seed: int = 0
    seeds: int = 1
    folds: int = 0
    methods: tuple[str, ...] | None = None
    trials: int = 12
    joint: bool = True
    baselines: bool = True
    trees: bool = True
    rmtgb: bool = False
    reference: str = "best"
    ensemble: bool = False
    sizes: bool = False
    balance: tuple[str, ...] | None = None
    share: tuple[str, ...] = ()
    routers: tuple[str, ...] | None = None
    library: str | None = None
    demonstrations: tuple[str, ...] = ()
    groups: int | str | None = None
    head: str | None = None
    specialists: Mapping[str, str] = field(default_factory=dict)
    budget: float | None = None
    workers: int | None = None
    ray: str | None = None
    track: tuple[str, ...] = ()
    constraints: Constraints = field(default_factory=Constraints)
    adapt: int | None = None
    resamples: int = 1000
    calibrate: str = "temperature"
    coverage: float | None = None
    energy: str | None = None

    def __post_init__(self) -> None:
        if self.head is not None:
            registry.find("head", self.head)
        check_method(self.calibrate)
        check_coverage(self.coverage)
        for name in self.methods or ():
            if name not in registry.names("learn"):
                registry.find("merge", name)
        for way in self.demonstrations:
            registry.spelled("demonstrations", way)
        for choice in self.router_choices():
            tried = [*self.chosen("merge"), *self.chosen("learn")]
            if choice.merge is not None and choice.merge not in tried:
                raise AllroundError(
                    f"route by '{choice.words}'",
                    f"the merge '{choice.merge}' is not among those that are tried",
                    suggestion(choice.merge, tried),
                )
        if self.groups not in (None, "auto") and not (isinstance(self.groups, int) and self.groups > 1):
            raise AllroundError(
                f"build joint models for {self.groups} groups of tasks",
                "it must be a number above 1, or auto",
                "give 2 or more, or auto, which chooses on validation",
            )
        for joint in self.joints():
            if joint.name == TUNED:
                raise AllroundError(
                    f"build a joint model by '{TUNED}'",
                    "tuned weights come from a sweep of many joint models",
                    "run `allround compare-training`, and give the weights that it chose: fixed:weights={TASK: WEIGHT}",
                )
        for name, low in {"seeds": 1, "trials": 1, "resamples": 100}.items():
            if getattr(self, name) < low:
                raise AllroundError(f"build with {name}={getattr(self, name)}", f"{name} must be at least {low}",
                                    f"give at least {low}")  # fmt: skip
        if self.reference not in REFERENCES:
            raise AllroundError(
                f"measure retention against '{self.reference}'",
                "there is no reference of that name",
                suggestion(self.reference, REFERENCES),
            )
        if self.folds and (self.folds < 2 or self.seeds > 1):
            raise AllroundError(
                f"build in {self.folds} folds" + (f" with {self.seeds} seeds" if self.seeds > 1 else ""),
                "there must be at least 2 folds" if self.folds < 2 else "seeds and folds each build everything again",
                "give folds of 2 or more, such as 5" if self.folds < 2 else "give one of them",
            )
        if self.adapt is not None and (self.adapt < 1 or self.times > 1):
            raise AllroundError(
                f"adapt to held-out tasks on {self.adapt} rows"
                + (f" in {self.times} builds" if self.times > 1 else ""),
                "there must be at least 1 row" if self.adapt < 1 else "each build would draw rows of its own",
                "give 1 or more, such as 32" if self.adapt < 1 else "leave `adapt`, or `seeds` and `folds`, out",
            )
        if self.budget is not None and not 0 < self.budget < math.inf:
            raise AllroundError(
                f"build in {self.budget} minutes",
                "a budget must be a positive number of minutes",
                "give a positive budget",
            )
        if self.workers is not None and self.workers < 1:
            raise AllroundError(f"build with {self.workers} workers", "workers must be at least 1", "give at least 1")

    @property
    def times(self) -> int:
        """How many whole builds it takes."""
        return self.folds + 1 if self.folds else self.seeds

    def joints(self) -> list[Joint]:
        """The further joint models that are tried."""
        if not self.joint:
            return []
        names = self.balance
        if names is None:
            names = tuple(entry.name for entry in registry.entries("balance") if entry.facts["build"])
        return [*map(read_joint, names), *map(read_share, self.share)]

    def router_choices(self) -> list[RouterChoice]:
        """The routed systems that are tried."""
        names = (ROUTERS if self.library is not None else ()) if self.routers is None else self.routers
        return [RouterChoice.read(text) for text in names]

    def learned(self, definitions: Iterable[Definition]) -> list[str]:
        """The presets of learned merges that are tried: by themselves none where a task is one of the
        lm-evaluation-harness, or ranks passages: there are no answers to learn from."""
        skip = self.methods is None and any(d.harness or kind(d.kind).ranked for d in definitions)
        return [] if skip else self.chosen("learn")

    def chosen(self, family: str) -> list[str]:
        """The methods of a family ("merge" or "learn") that are tried."""
        if self.methods is not None:
            return [name for name in self.methods if name in registry.names(family)]
        return [entry.name for entry in registry.entries(family) if entry.facts["build"]]
