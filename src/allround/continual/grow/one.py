"""one: modules inside a frozen encoder that all arrivals share, and a head for each, less sure of what is far off."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from allround.continual.growing import GrowingLearner
from allround.continual.outliers import tuned_head, virtual_outliers
from allround.continual.parts import Part, mixes
from allround.continual.strategy import Strategy
from allround.core.registry import method
from allround.models.encoder import Encoder
from allround.models.encoders.sharing import Sharing
from allround.models.head import HeadState
from allround.models.running import features_of
from allround.models.share.plan import Choice, Insert, Mixing, Plan
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task
from allround.training.settings import Settings


@method(
    source="OVOR: Huang, Chen and Hsu, ICLR 2024, arXiv:2402.04129; learners/ood.py and learners/default.py of "
    "jpmorganchase/ovor"
)
class One(GrowingLearner):
    """Each arrival trains the same modules further, and a head of its own labels; then that head is tuned against
    virtual outliers (`allround.continual.outliers`).

    share: "lora", or "prompts", vectors in front of what each block of a transformer reads. size: the rank, or the
    number of vectors. weight: of the loss on energies; 0 for no outliers. steps: of the head. boundary: whether
    outliers lie around rows at the boundary, as the paper has it; in the authors' code they are the noise alone. count:
    outliers for each label.
    """

    def __init__(
        self,
        encoder: Encoder,
        strategy: Strategy,
        *,
        share: Literal["lora", "prompts"] = "lora",
        size: int = 8,
        rate: float = 1e-3,
        weight: float = 0.1,
        steps: int = 200,
        boundary: bool = True,
        count: int = 40,
    ) -> None:
        super().__init__(encoder, strategy)
        lora = Insert("linear", Mixing(Choice("lora", {"rank": size, "alpha": 2.0 * size})))
        prompts = Insert("blocks", Mixing(Choice("prompt")), length=size)
        self.plan = Plan(inserts=(lora if share == "lora" else prompts,), frozen=True, rate=rate)
        self.weight, self.head_steps, self.boundary, self.count = weight, steps, boundary, count

    def extend(
        self, arrived: Mapping[str, Task], number: int, settings: Settings, *, seed: int, scratch: Path | None
    ) -> list[Part]:
        tasks = list(arrived.values())
        if not self.grown.bodies:
            width = self.encoder.features(tasks[0].definition)
            encoder = Sharing(self.encoder, self.plan, [[task.name for task in tasks]], [width])
            self.grown.bodies.append(MultiTaskModel(encoder, {}))
        (body,) = self.grown.bodies
        for task in tasks:
            body.encoder.add_task(task.name)
            body.add_task(task.definition)
        self.train(body, tasks, settings, seed=seed, scratch=scratch)
        for task in tasks:
            if self.weight and mixes(task.definition) and body.head(task.name).sort == "linear":
                self.tune(body, task, seed)
        return [Part(name, number, 0, task.name) for name, task in arrived.items()]

    def tune(self, body: MultiTaskModel, task: Task, seed: int) -> None:
        """Tune the head of a task against outliers."""
        split, definition = task.splits["train"], body.definition(task.name)
        features = features_of(body.encoder, body.prepare(task.name, split.inputs), definition).values.double()
        generator = torch.Generator().manual_seed(seed % 2**63)
        outliers = virtual_outliers(features, self.count * len(definition.labels), generator, boundary=self.boundary)
        head = tuned_head(body.head(task.name).stored(), features, torch.as_tensor(split.targets), outliers,
                          weight=self.weight, steps=self.head_steps)  # fmt: skip
        body.definitions.pop(task.name)
        body.add_task(definition, HeadState(head))
