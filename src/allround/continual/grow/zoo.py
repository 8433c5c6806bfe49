"""zoo: each arrival trains a further small model, together with past tasks that the models so far do worst on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from allround.continual.growing import GrowingLearner
from allround.continual.parts import Part, mixes
from allround.continual.strategy import Strategy
from allround.continual.stream import renamed
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.core.seeds import seed_of
from allround.models.encoder import Encoder
from allround.models.fitting import fit_head
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task
from allround.training.settings import Settings


@method(source="Model Zoo: Ramesh and Chaudhari, ICLR 2022, arXiv:2106.03027, section 4; modelzoo.py of the authors")
class Zoo(GrowingLearner):
    """An arrival trains a copy of the base, with a head for each of its tasks and of `others` past ones, on rows that
    are remembered of these. Past tasks are drawn without replacement, by the loss of all models so far that know them.

    Formula: p_t ~ exp((l_t - mean l) / mean l), cut to [1e-4, 1e3], l_t being the loss on remembered rows of task t
    Differs: the mean is over past tasks alone; in the authors' code tasks that have not come yet enter it. Models are
    kept, where that code keeps what they predicted.
    """

    def __init__(self, encoder: Encoder, strategy: Strategy, *, others: int = 4) -> None:
        super().__init__(encoder, strategy)
        if others < 0:
            raise AllroundError("train past tasks with a new one", f"others is {others}", "give 0 or more")
        self.others = others

    def extend(
        self, arrived: Mapping[str, Task], number: int, settings: Settings, *, seed: int, scratch: Path | None
    ) -> list[Part]:
        body = MultiTaskModel(copy.deepcopy(self.encoder), {})
        tasks = dict(arrived)
        for name in self.drawn(arrived, seed):
            old = self.memory.tasks[name]
            rows = replace(old.splits["train"], slices={})
            tasks[name] = replace(renamed(old, f"{name}-{number}"), splits={**old.splits, "train": rows,
                                                                            "validation": rows})  # fmt: skip
        for task in tasks.values():
            body.add_task(replace(task.definition, head=""), fit_head(body.encoder, task).state)
        keep = settings.with_(keep="last") if len(tasks) > len(arrived) else settings
        self.train(body, list(tasks.values()), keep, seed=seed, scratch=scratch)
        self.grown.bodies.append(body)
        return [Part(name, number, len(self.grown.bodies) - 1, task.name) for name, task in tasks.items()]

    def drawn(self, arrived: Mapping[str, Task], seed: int) -> list[str]:
        """The past tasks that are trained with an arrival."""
        names = [name for name in self.memory.tasks if name not in arrived]
        if not names:
            return []
        shares = draw_shares([self.loss(name) for name in names])
        count = min(self.others, len(names))
        found = np.random.default_rng(seed_of(seed, "zoo")).choice(len(names), count, replace=False, p=shares)
        return [names[place] for place in sorted(found)]

    def loss(self, name: str) -> float:
        """The loss of the system on what is remembered of a task; where labels do not exclude each other, the mean of
        the losses of its models."""
        task = self.memory.tasks[name]
        split = task.splits["train"]
        if mixes(task.definition):
            scores = np.asarray(self.grown.answers(name, split.inputs, scores=True).scores)
            return float(-np.log(np.maximum(scores[np.arange(len(split)), split.targets], 1e-12)).mean())
        parts = [self.grown.parts[part] for part in self.grown.parts_of(name)]
        bodies = [(self.grown.bodies[part.body], part.name) for part in parts]
        return float(np.mean([body.validate(inner, body.prepare(inner, split.inputs), split.targets)[1]
                              for body, inner in bodies]))  # fmt: skip


def draw_shares(losses: Sequence[float]) -> np.ndarray:
    """The probability of each past task.

    >>> draw_shares([1.0, 3.0]).round(3).tolist()  # exp(-1/2) and exp(1/2), over their sum
    [0.269, 0.731]
    """
    values = np.asarray(losses)
    mean = max(values.mean(), 1e-12)
    weights = np.clip(np.exp((values - mean) / mean), 1e-4, 1e3)
    shares: np.ndarray = weights / weights.sum()
    return shares
