"""What happens when something arrives: tasks are trained within a strategy, rows are remembered, heads are made."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from allround.continual.heads import HeadPolicy, make_policy
from allround.continual.learner import StreamLearner, with_labels
from allround.continual.rows import Memory, joined
from allround.continual.strategy import Strategy
from allround.continual.stream import Arrival
from allround.core.errors import AllroundError
from allround.core.seeds import seed_of
from allround.models.encoder import Encoder
from allround.models.fitting import fit_head
from allround.models.head import HeadState, make_head
from allround.models.system import System
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.task import Split, Task
from allround.training.settings import Settings
from allround.training.term import Term, make_terms
from allround.training.trainer import train


class Learner(StreamLearner):
    """One encoder, with a head for each task.

    guards, policy: objects of the strategy whose `state` is remembered. trained: heads as they were trained, where
    others took their place in the model; the next arrival goes on with them.
    """

    def __init__(self, encoder: Encoder, strategy: Strategy) -> None:
        self.model = MultiTaskModel(encoder, {}).eval()
        self.memory = Memory()
        self.guards: list[Term] = make_terms(strategy.guards)
        self.policy: HeadPolicy | None = None
        if strategy.head != "trained":
            self.policy = make_policy(strategy.head, strategy.head_settings)
        self.trained: dict[str, dict[str, Tensor]] = {}

    @classmethod
    def refusal(cls, model: MultiTaskModel, strategy: Strategy) -> str | None:
        return None

    @property
    def system(self) -> MultiTaskModel:
        return self.model

    def adopt(self, system: System) -> None:
        assert isinstance(system, MultiTaskModel)
        self.model = system

    @classmethod
    def go_on(cls, model: MultiTaskModel, strategy: Strategy, tasks: Sequence[Task] = (), *, seed: int = 0) -> Learner:
        learner = cls(model.encoder, strategy)
        learner.model = model.eval()
        for guard in learner.guards:
            guard.before(model, tasks)
            guard.after(model)
        if strategy.memory != "none" and tasks:
            learner.memory = Memory().with_arrival(
                tasks, model, strategy.memory, strategy.bytes, seed=seed, name="before"
            )
        return learner

    @property
    def remembered(self) -> dict[str, Tensor]:
        """The tensors that guards and the way to make heads remember, by names that tell them apart."""
        owners = {f"guard {number}": guard.state for number, guard in enumerate(self.guards)}
        owners |= {"head": self._of_policy, "trained": self.trained}
        return {f"{owner}|{name}|{part}": value for owner, state in owners.items()
                for name, parts in state.items() for part, value in parts.items()}  # fmt: skip

    @property
    def _of_policy(self) -> dict[str, dict[str, Tensor]]:
        return {} if self.policy is None else self.policy.state

    def recall(self, tensors: Mapping[str, Tensor]) -> None:
        for key, value in tensors.items():
            owner, name, part = key.split("|", 2)
            states = {"head": self._of_policy, "trained": self.trained}
            state = states[owner] if owner in states else self.guards[int(owner.split()[1])].state
            state.setdefault(name, {})[part] = value

    def learn(
        self,
        arrival: Arrival,
        strategy: Strategy,
        settings: Settings,
        *,
        seed: int = 0,
        scratch: Path | None = None,
        base: Encoder | None = None,
        alone: Encoder | None = None,
        fit: bool = False,
    ) -> None:
        """As `StreamLearner.learn`. alone: the base tuned on this arrival alone, where that is at hand and the strategy
        merges it."""
        started = time.perf_counter()
        for name, tensors in self.trained.items():
            self.set_head(self.model.definitions[name], HeadState(tensors))
        arrived = [with_labels(task, self.model.definitions.get(task.name)) for task in arrival.tasks]
        tasks = self.to_train(arrived, repeat=strategy.bytes is not None) if strategy.replay else arrived
        if strategy.from_base and base is None:
            raise AllroundError(f"learn '{arrival.name}' from the base", "no base was given", "give base=")
        if strategy.anew:
            self.model = MultiTaskModel(cast(Encoder, base), {}).eval()
        replays = strategy.replay and strategy.memory != "none"  # then rows of all labels are at hand
        fit = (fit or replays) and strategy.head == "trained"
        fitted = self.to_train(arrived, repeat=strategy.bytes is not None, part=True) if replays else arrived
        for task in fitted if strategy.anew else fitted[: len(arrived)]:
            self.add_head(task, fit=fit and strategy.merge is None)
        if strategy.merge is not None:
            copy = deepcopy(cast(Encoder, base)) if alone is None else alone
            if alone is None:
                self._tune_copy(copy, arrived, settings, seed_of(seed, arrival.name), scratch)
            add_change(self.model.encoder, cast(Encoder, base), copy, strategy.merge)
            for task in arrived if fit else ():
                self.set_head(task.definition, fit_head(self.model.encoder, task).state)
        elif strategy.changes == "all":
            chosen = settings.with_(heads="tuned", keep="last")
            for guard in self.guards:
                guard.remembered = list(self.memory.tasks.values())
            course = train(self.model, tasks, chosen, seed=seed_of(seed, arrival.name), scratch=scratch,
                           terms=self.guards)  # fmt: skip
            self.steps += course.steps
        if strategy.memory != "none":
            self.memory = self.memory.with_arrival(
                arrived, self.model, strategy.memory, strategy.bytes, seed=seed, name=arrival.name
            )
        if self.policy is not None:
            if strategy.changes == "all":
                self.trained = {name: dict(self.model.head(name).stored()) for name in self.model.definitions}
            for task in arrived:
                self.set_head(task.definition, self.policy.make(self.model, task, self.memory))
        self.model.eval()
        self.seconds += time.perf_counter() - started

    def _tune_copy(
        self, copy: Encoder, arrived: Sequence[Task], settings: Settings, seed: int, scratch: Path | None
    ) -> None:
        """Tune a copy of the base on what arrived alone; the model takes over its heads."""
        model = MultiTaskModel(copy, {})
        for task in arrived:
            model.add_task(replace(task.definition, head=""), self.model.head(task.name).stored())
        self.steps += train(model, arrived, settings.with_(heads="tuned", keep="last"), seed=seed,
                            scratch=scratch).steps  # fmt: skip
        for task in arrived:
            self.set_head(task.definition, model.head(task.name).stored())

    def to_train(self, arrived: Sequence[Task], *, repeat: bool, part: bool = False) -> list[Task]:
        """What arrived together with what is remembered: rows of one task in one; tasks of the memory alone behind.

        repeat: repeat remembered rows until each of their labels comes as often as a new one does on average, and those
        of the other tasks until they are as many as the new rows together. part: a fifth of the rows of each task that
        is remembered is for validation, whatever it had: of remembered rows there are no others."""
        names = {task.name for task in arrived}
        others = [old for name, old in self.memory.tasks.items() if name not in names]
        new, kept = (sum(len(task.splits["train"]) for task in tasks) for tasks in (arrived, others))
        times = max(1, round(new / max(1, kept))) if repeat else 1
        found = []
        for task in arrived:
            old = self.memory.tasks.get(task.name)
            if old is not None:
                old = old.as_defined(task.definition)
                task, old = (parted(task), parted(old)) if part else (task, old)
                task = with_old_rows(task, old, repeat=repeat)
            found.append(task)
        for old in others:
            held = parted(old) if part else replace(old, splits={**old.splits, "validation": old.splits["train"]})
            found.append(replace(held, splits={**held.splits, "train": repeated(held.splits["train"], times)}))
        return found

    def add_head(self, task: Task, *, fit: bool) -> None:
        """A head for a task that is new or has new labels: fitted on the encoder as it is, or the one there was, with
        untrained rows for what is new."""
        known = self.model.definitions.get(task.name)
        if known is not None and known.labels == task.definition.labels:
            return
        if fit:
            self.set_head(task.definition, fit_head(self.model.encoder, task).state)
        elif known is None:
            self.model.add_task(replace(task.definition, head=""))
        else:
            self.set_head(task.definition, self.model.head(task.name).stored())

    def set_head(self, definition: Definition, state: HeadState) -> None:
        set_head(self.model, definition, state)


def set_head(model: MultiTaskModel, definition: Definition, state: HeadState) -> None:
    """Give a task a head; where it has fewer outputs than the definition, the further ones begin untrained."""
    width = model.encoder.features(definition)
    fresh = make_head(state.sort, definition, width).stored()
    if "hidden_weight" in state:  # whose number of units is its own
        fresh["weight"] = fresh["weight"].new_zeros(len(fresh["weight"]), state["weight"].shape[1])
        fresh.update({name: state[name] for name in ("hidden_weight", "hidden_bias")})
    for name, value in state.items():
        fresh[name][tuple(slice(size) for size in value.shape)] = value
    model.definitions.pop(definition.name, None)
    model.add_task(replace(definition, head=""), fresh)


def parted(task: Task) -> Task:
    """A task with a fifth of its training rows for validation, whatever it had. With fewer than ten rows, both are all
    of them."""
    rows = task.splits["train"]
    if len(rows) < 10:
        return replace(task, splits={**task.splits, "validation": rows}, table=None)
    parts = {"train": [i for i in range(len(rows)) if i % 5], "validation": list(range(0, len(rows), 5))}
    return replace(task, splits={**task.splits, **{name: rows.take(one) for name, one in parts.items()}}, table=None)


@torch.no_grad()
def add_change(encoder: Encoder, base: Encoder, tuned: Encoder, share: float) -> None:
    """Add a share of what tuning changed in the base to another encoder of the same form, in place."""
    before, after = base.state_dict(), tuned.state_dict()
    for name, value in encoder.state_dict().items():
        if value.is_floating_point() and name in before and name in after:
            value += share * (after[name] - before[name]).to(value)


def with_old_rows(task: Task, old: Task, *, repeat: bool) -> Task:
    """A task with remembered rows among its training rows, and among those for validation where there are any: see
    `Learner.to_train`."""
    new, kept = task.splits["train"], old.splits["train"]
    times = 1
    if repeat and kind(task.definition.kind).fixed_labels and not kind(task.definition.kind).lists:
        per_new = len(new) / max(1, len(set(map(int, new.targets))))
        per_old = len(kept) / max(1, len(set(map(int, kept.targets))))
        times = max(1, round(per_new / max(per_old, 1e-9)))
    both = {"train": joined(bare(new), repeated(bare(kept), times))}
    if len(old.splits["validation"]):
        both["validation"] = joined(bare(task.splits["validation"]), bare(old.splits["validation"]))
    return replace(task, splits={**task.splits, **both}, table=None)


def bare(rows: Split) -> Split:
    """Rows without what stands beside their inputs and targets."""
    return replace(rows, slices={}, rows=None, keys=())


def repeated(rows: Split, times: int) -> Split:
    return rows.take([*range(len(rows))] * times)
