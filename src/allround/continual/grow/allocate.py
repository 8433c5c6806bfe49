"""allocate: a task that is like those of a model so far is learned by that model, and any other by a new one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from allround.composition.router import plain_vectors
from allround.continual.growing import GrowingLearner
from allround.continual.parts import Part
from allround.continual.strategy import Strategy
from allround.core.registry import method
from allround.models.encoder import Encoder
from allround.models.fitting import fit_head
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.terms.lwf import Lwf


@method(
    source="PAR: Wang et al., CVPR 2023, arXiv:2304.05288, sections 3.2 to 3.4; src/approaches/par.py of WenjinW/PAR"
)
class Allocate(GrowingLearner):
    """The distance of a task from an earlier one is how much farther its rows are from the nearest prototype of that
    one than from their own, in the features of the base. A task nearer than `threshold` to the tasks of a model, on
    average, is learned by the nearest model: where it has less than half as many rows as the largest task of that
    model, by a head alone; else all weights are tuned, held by what the old heads answer to the new rows (`lwf`). Any
    other task gets a copy of the base.

    Formula: d = mean_c mean_{i in c} log(min_k |f_i - p_k| / |f_i - p_c|), over the labels c of the new task, whose
    validation rows i have the features f_i; p are means of labels
    Differs: a mean over labels, where the authors' code has a sum, which grows with their number; new models all have
    the encoder's architecture, where the paper searches for one, so that the paper is not claimed.
    """

    def __init__(self, encoder: Encoder, strategy: Strategy, *, threshold: float = 0.25, weight: float = 1.0) -> None:
        super().__init__(encoder, strategy)
        self.threshold, self.weight = threshold, weight
        self.grown.base = self.encoder
        self.prototypes: dict[str, Tensor] = {}

    @property
    def remembered(self) -> dict[str, Tensor]:
        return self.prototypes

    def recall(self, tensors: Mapping[str, Tensor]) -> None:
        self.prototypes.update(tensors)

    def extend(
        self, arrived: Mapping[str, Task], number: int, settings: Settings, *, seed: int, scratch: Path | None
    ) -> list[Part]:
        found: list[Part] = []
        for name, task in arrived.items():
            x, groups = self.features(task)
            chosen = self.nearest(x, groups, found)
            found.append(Part(name, number, chosen, task.name))
            self.learn_by(chosen, task, settings, seed=seed, scratch=scratch)
            self.prototypes[f"{task.name}|{len(task.splits['train'])}"] = means_of(x, groups).float()
        return found

    def features(self, task: Task) -> tuple[Tensor, Tensor]:
        """The validation rows of a task in the base, (n, d), and their labels, (n,)."""
        split = task.splits["validation"]
        assert self.grown.base is not None
        values = plain_vectors(self.grown.base, task.definition, split.inputs)  # alike for texts and pairs of texts
        single = task.definition.kind == "classification"
        groups = torch.as_tensor(split.targets) if single else torch.zeros(len(split), dtype=torch.int64)
        return values.double(), groups

    def nearest(self, x: Tensor, groups: Tensor, further: list[Part]) -> int:
        """The number of the model for a task: of the nearest one, or of a new one. further: parts of this arrival."""
        known = {name.partition("|")[0]: value for name, value in self.prototypes.items()}
        parts = [*self.grown.parts, *further]
        best, chosen = self.threshold, len(self.grown.bodies)
        for body in range(len(self.grown.bodies)):
            gaps = [distance(x, groups, known[part.name].double()) for part in parts if part.body == body]
            if sum(gaps) / len(gaps) <= best:
                best, chosen = sum(gaps) / len(gaps), body
        return chosen

    def learn_by(self, chosen: int, task: Task, settings: Settings, *, seed: int, scratch: Path | None) -> None:
        """Learn a task with a model, which is made where there is none of that number."""
        bodies = self.grown.bodies
        if chosen == len(bodies):
            assert self.grown.base is not None
            bodies.append(MultiTaskModel(copy.deepcopy(self.grown.base), {}))
        body = bodies[chosen]
        counts = {name: int(count) for name, _, count in (key.partition("|") for key in self.prototypes)}
        largest = max((counts[name] for name in body.definitions), default=0)
        guard = Lwf(weight=self.weight)
        guard.before(body, [])
        guard.after(body)
        body.add_task(task.definition, fit_head(body.encoder, task).state)
        if 2 * len(task.splits["train"]) >= largest:
            # Validation rows of the new task do not show what becomes of the old ones.
            kept = settings if len(body.definitions) == 1 else settings.with_(keep="last")
            self.train(body, [task], kept, seed=seed, scratch=scratch, terms=[guard])


def means_of(x: Tensor, groups: Tensor) -> Tensor:
    """The mean of each label that there is, (labels, d)."""
    return torch.stack([x[groups == group].mean(0) for group in groups.unique()])


def distance(x: Tensor, groups: Tensor, prototypes: Tensor) -> float:
    """How far the rows of a task, (n, d) with labels (n,), are from the prototypes (k, d) of another.

    >>> x, y = torch.tensor([[0.0], [2.0], [10.0], [14.0]]), torch.tensor([0, 0, 1, 1])  # means 1 and 12
    >>> round(distance(x, y, torch.tensor([[4.0]])), 4)  # (log 4 + log 2) / 2 and (log 3 + log 5) / 2, their mean
    1.1969
    """
    found = []
    for group in groups.unique():
        mine = x[groups == group]
        own = (mine - mine.mean(0)).norm(dim=1).clamp_min(1e-12)
        found.append((torch.cdist(mine, prototypes).amin(1).clamp_min(1e-12) / own).log().mean())
    return float(torch.stack(found).mean())
