"""expert: a copy of the encoder for each of the first arrivals; later ones tune the copy that tells them apart best."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch

from allround.continual.gaussians import divergence, fit
from allround.continual.growing import GrowingLearner
from allround.continual.parts import Part
from allround.continual.strategy import Strategy
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.encoder import Encoder
from allround.models.running import features_of
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.terms.feature_distillation import FeatureDistillation


@method(source="SEED: Rypesc et al., ICLR 2024, arXiv:2401.10191, section 3.3; src/approach/seed.py of grypesc/SEED")
class Expert(GrowingLearner):
    """Each of the first `experts` arrivals trains a copy of the encoder. Of later ones the copy is tuned in whose
    features the Gaussians of the new labels overlap least: whose mean divergence over all pairs, each with itself
    included, is the largest. It is held near its old features. All copies have a part for each arrival since they
    began.

    alpha: share of the loss that holds the features. rate: share of the learning rate with which a copy is tuned
    further. ridge: see the way to select `gaussians`.

    Differs: a copy begins as the base, and shares no layers with others; the loss is divided by 1 - alpha; `rate`,
    since the steps of AdamW do not get shorter with the gradient, as those of the authors' SGD do.
    """

    def __init__(
        self,
        encoder: Encoder,
        strategy: Strategy,
        *,
        experts: int = 5,
        alpha: float = 0.99,
        rate: float = 0.1,
        ridge: float = 0.01,
    ) -> None:
        super().__init__(encoder, strategy)
        if experts < 1 or not 0 <= alpha < 1:
            raise AllroundError("make experts", f"experts is {experts} and alpha {alpha}",
                                "give 1 expert or more, and alpha from 0 to below 1")  # fmt: skip
        self.experts, self.alpha, self.rate, self.ridge = experts, alpha, rate, ridge

    def extend(
        self, arrived: Mapping[str, Task], number: int, settings: Settings, *, seed: int, scratch: Path | None
    ) -> list[Part]:
        bodies, tasks = self.grown.bodies, list(arrived.values())
        if len(bodies) < self.experts:
            bodies.append(MultiTaskModel(copy.deepcopy(self.encoder), {}))
            chosen, terms = len(bodies) - 1, []
        else:
            spread = [sum(self.spread(body.encoder, task) for task in tasks) for body in bodies]
            chosen = max(range(len(bodies)), key=spread.__getitem__)
            rate = self.rate * (settings.learning_rate or bodies[chosen].learning_rate)
            settings = settings.with_(learning_rate=rate)
            terms = [FeatureDistillation(weight=self.alpha / (1 - self.alpha))]
        for task in tasks:
            for body in bodies:
                body.add_task(task.definition)
        self.train(bodies[chosen], tasks, settings, seed=seed, scratch=scratch, terms=terms)
        return [Part(name, number, body, task.name) for name, task in arrived.items() for body in range(len(bodies))]

    def spread(self, encoder: Encoder, task: Task) -> float:
        """The mean divergence between the Gaussians of a task's labels in the features of an encoder."""
        split = task.splits["train"]
        x = features_of(encoder, encoder.prepare(split.inputs, task.definition), task.definition).values
        groups = torch.as_tensor(split.targets)
        made = [fit(x[groups == label], self.ridge) for label in range(len(task.definition.labels))]
        return sum(divergence(one, other) for one in made for other in made) / len(made) ** 2
