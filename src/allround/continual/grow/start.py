"""start: each arrival trains a model of its own, which begins from the base or from the model of an earlier arrival."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from allround.continual.growing import GrowingLearner
from allround.continual.heads import columns_of
from allround.continual.parts import Part
from allround.continual.strategy import Strategy
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.core.seeds import seed_of
from allround.models.encoder import Encoder
from allround.models.fitting import fit_head
from allround.models.running import features_of
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.transfer.estimate.logme import score

#: Training rows that a start is judged by, of a task.
ROWS = 500


@method(
    source="Fisch et al., 2023, arXiv:2307.05741; the predictor of transfer is LogME: You et al., ICML 2021", exact=True
)
class Start(GrowingLearner):
    """The models of earlier arrivals are kept and never changed, so that nothing is forgotten; what they learned is
    used where it helps, and not where it would hurt.

    by: what an arrival begins from. "logme": the start, the base among them, whose features explain its training rows
    best; "base" and "last": always the base, always the latest model, what the choice has to beat.
    """

    def __init__(self, encoder: Encoder, strategy: Strategy, *, by: Literal["logme", "base", "last"] = "logme") -> None:
        super().__init__(encoder, strategy)
        if by not in ("logme", "base", "last"):
            raise AllroundError("choose a start", f"by is '{by}'", "give logme, base or last")
        self.by = by

    def extend(
        self, arrived: Mapping[str, Task], number: int, settings: Settings, *, seed: int, scratch: Path | None
    ) -> list[Part]:
        tasks = list(arrived.values())
        body = MultiTaskModel(copy.deepcopy(self.start_for(tasks, seed)), {})
        for task in tasks:
            body.add_task(task.definition, fit_head(body.encoder, task).state)
        self.train(body, tasks, settings, seed=seed, scratch=scratch)
        self.grown.bodies.append(body)
        place = len(self.grown.bodies) - 1
        return [Part(name, number, place, task.name) for name, task in arrived.items()]

    def start_for(self, tasks: list[Task], seed: int) -> Encoder:
        """The encoder to begin from; of equals the base, then the earliest."""
        starts = [self.encoder, *(body.encoder for body in self.grown.bodies)]
        if self.by != "logme" or len(starts) == 1:
            return starts[-1 if self.by == "last" else 0]
        return starts[int(np.argmax([sum(evidence(one, task, seed) for task in tasks) for one in starts]))]


def evidence(encoder: Encoder, task: Task, seed: int) -> float:
    """How well a linear model on an encoder's features explains the training rows of a task: LogME for each row."""
    rows = len(task.splits["train"])
    kept = sorted(np.random.default_rng(seed_of(seed, "start", task.name)).permutation(rows)[:ROWS].tolist())
    few = task.splits["train"].take(kept)
    found = features_of(encoder, encoder.prepare(few.inputs, task.definition), task.definition)
    columns = columns_of(Task(task.definition, {**task.splits, "train": few}))
    return score(found.values.double().cpu().numpy(), columns)
