"""Learners whose systems grow: each arrival becomes a part, and what was there stays."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from allround.continual.learner import StreamLearner, bytes_of, with_labels
from allround.continual.parts import Part, mixes
from allround.continual.rows import Memory
from allround.continual.strategy import Strategy
from allround.continual.stream import Arrival, renamed
from allround.continual.systems.grown import Grown
from allround.core.errors import AllroundError
from allround.core.seeds import seed_of
from allround.models.encoder import Encoder
from allround.models.system import System
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.term import Term
from allround.training.trainer import train


class GrowingLearner(StreamLearner):
    """Learns the tasks of an arrival as new parts of a `Grown` system, then tells the way to select about them.

    A subclass says in `extend` what is trained. encoder: the base.
    """

    def __init__(self, encoder: Encoder, strategy: Strategy) -> None:
        self.encoder = encoder.eval()
        self.strategy = strategy
        self.memory = Memory()
        self.grown = Grown(strategy.select, strategy.select_settings)

    @property
    def system(self) -> Grown:
        return self.grown

    def adopt(self, system: System) -> None:
        assert isinstance(system, Grown)
        self.grown = system

    @property
    def bytes(self) -> int:
        return super().bytes + bytes_of(self.grown.select.state)

    def learn(
        self,
        arrival: Arrival,
        strategy: Strategy,
        settings: Settings,
        *,
        seed: int = 0,
        scratch: Path | None = None,
        base: Encoder | None = None,
        fit: bool = False,
    ) -> None:
        started = time.perf_counter()
        grown = self.grown
        number = 1 + max((part.arrival for part in grown.parts), default=-1)
        whole, own = [], {}
        for task in arrival.tasks:
            one = with_labels(task, grown.definitions.get(task.name))
            check_labels(one.definition, grown.definitions.get(task.name))
            grown.definitions[task.name] = one.definition
            whole.append(one)
            own[task.name] = as_known(renamed(task, f"{task.name}-{number}"), one)
        torch.manual_seed(seed_of(seed, "grow", arrival.name))
        parts = self.extend(own, number, settings, seed=seed_of(seed, arrival.name), scratch=scratch)
        grown.parts += [part for part in parts if part not in grown.parts]
        for body in grown.bodies:
            body.eval()
        if strategy.memory != "none":
            self.memory = self.memory.with_arrival(whole, self.view(parts), strategy.memory, strategy.bytes, seed=seed,
                                                   name=f"{parts[0].arrival}: {arrival.name}")  # fmt: skip
        arrived = {grown.parts.index(part): own[part.task] for part in parts if part.task in own}
        grown.select.arrived(grown, arrived, self.memory, seed_of(seed, "select", arrival.name))
        self.seconds += time.perf_counter() - started

    @abstractmethod
    def extend(
        self, arrived: Mapping[str, Task], number: int, settings: Settings, *, seed: int, scratch: Path | None
    ) -> list[Part]:
        """Learn what arrived, and give the parts that answer it: new ones, or such as were there and learned on.

        arrived: the rows of each task by its name, as a task that has a name of its own. number: of the arrival.
        """

    def train(
        self,
        body: MultiTaskModel,
        tasks: Sequence[Task],
        settings: Settings,
        *,
        seed: int,
        scratch: Path | None,
        terms: Sequence[Term] = (),
    ) -> None:
        """Train a body on tasks that it has, its best state on their validation rows, unless the settings say
        otherwise; not at all where the strategy changes heads alone."""
        if self.strategy.changes == "all":
            several = {"mix": "all", "sample": "uniform"} if len(tasks) > 1 else {}
            chosen = settings.with_(heads="tuned", **several)
            self.steps += train(body, tasks, chosen, seed=seed, scratch=scratch, terms=terms).steps

    def view(self, parts: Sequence[Part]) -> MultiTaskModel:
        """A model that reads the tasks of parts as these do."""
        body = self.grown.bodies[parts[0].body]
        made = MultiTaskModel(body.encoder, {})
        made.definitions = {part.task: body.definition(part.name) for part in parts if part.body == parts[0].body}
        return made


def check_labels(new: Definition, known: Definition | None) -> None:
    """Errors: further labels of a task whose rows may have several."""
    if known is not None and new.labels != known.labels and not mixes(new):
        raise AllroundError(
            f"learn further labels of '{new.name}' as a part of their own",
            f"it is a task of the kind {new.kind}, and parts with different labels answer tasks with one label a row",
            "use a strategy with one model, such as er",
        )


def as_known(task: Task, whole: Task) -> Task:
    """A task of an arrival with the numbers that standardise the targets of the whole task."""
    known = whole.definition
    return task.as_defined(replace(task.definition, center=known.center, scale=known.scale, head=""))
