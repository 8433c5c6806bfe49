"""adapt: layers with Gaussian weights that all arrivals share; each arrival learns which units it scales."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from allround.continual.growing import GrowingLearner
from allround.continual.head.posterior import divergence
from allround.continual.parts import Part
from allround.continual.strategy import Strategy
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.encoder import Encoder
from allround.models.encoders.adaptive import Adaptive
from allround.models.fitting import fit_head
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.wrapping import width_of
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.term import Term

if TYPE_CHECKING:
    from allround.models.model import Model


@method(
    source="CLAW: Adel, Zhao and Turner, ICLR 2020, arXiv:1911.09514, from the abstract; the posterior of one arrival "
    "as the prior of the next: Nguyen et al., ICLR 2018, arXiv:1710.10628"
)
class Adapt(GrowingLearner):
    """One body with an encoder `Adaptive`, trained by variational inference. The Gaussians that an arrival ends with
    are the prior of those of the next one, which holds weights that are known well; an arrival may scale units as it
    needs them, and each one that it does is paid for.

    Formula: loss + weight / rows * (KL(q_t || q_{t-1}) + sum_j KL(Bernoulli(p_j) || Bernoulli(rare)))

    units: of each layer. weight: of the divergences. rare: how likely a unit is adapted before anything is known.
    deviation: of the prior of the first arrival.
    """

    def __init__(
        self,
        encoder: Encoder,
        strategy: Strategy,
        *,
        units: Sequence[int] = (256, 256),
        weight: float = 1.0,
        rare: float = 0.1,
        deviation: float = 1.0,
    ) -> None:
        super().__init__(encoder, strategy)
        if not units or min(units) < 1 or weight < 0 or not 0 < rare < 1 or deviation <= 0:
            raise AllroundError(
                "adapt units to arrivals",
                f"units is {tuple(units)}, weight {weight}, rare {rare} and deviation {deviation}",
                "give layers of 1 unit or more, a weight of 0 or more, rare between 0 and 1, a deviation above 0",
            )
        self.units, self.weight, self.rare, self.deviation = tuple(units), weight, rare, deviation
        #: The means and deviations of all weights after the last arrival.
        self.prior: dict[str, Tensor] = {}

    @property
    def remembered(self) -> dict[str, Tensor]:
        return self.prior

    def recall(self, tensors: Mapping[str, Tensor]) -> None:
        self.prior.update(tensors)

    def extend(
        self, arrived: Mapping[str, Task], number: int, settings: Settings, *, seed: int, scratch: Path | None
    ) -> list[Part]:
        tasks = list(arrived.values())
        if not self.grown.bodies:
            width = width_of(self.encoder, tasks[0].definition)
            self.grown.bodies.append(MultiTaskModel(Adaptive(self.encoder, width, self.units), {}))
        (body,) = self.grown.bodies
        adaptive = body.encoder
        assert isinstance(adaptive, Adaptive)
        for task in tasks:
            adaptive.add_task(task.name)
            body.add_task(task.definition, fit_head(adaptive, task).state)
        adaptive.learns = tuple(task.name for task in tasks)
        # The posterior is that of the last step; the best state on validation may be that before the first one.
        self.train(body, tasks, settings.with_(keep="last"), seed=seed, scratch=scratch,
                   terms=[self.divergences(tasks)])  # fmt: skip
        for layer, one in enumerate(adaptive.gaussians):
            self.prior[f"mean {layer}"] = one.mean.detach().clone()
            self.prior[f"deviation {layer}"] = one.log_deviation.detach().exp()
        return [Part(name, number, 0, task.name) for name, task in arrived.items()]

    def divergences(self, tasks: Sequence[Task]) -> Divergences:
        """What holds the weights and counts the adapted units while tasks are learned."""
        weight = self.weight / sum(len(task.splits["train"]) for task in tasks)
        return Divergences(self.prior, weight, self.rare, self.deviation)


class Divergences(Term):
    """The divergences of an `Adaptive` encoder from a prior: of its weights, and of the switches of tasks that learn.

    prior: "mean 0" and "deviation 0" of each layer; where it is empty, means of 0 and one deviation for all.
    """

    def __init__(self, prior: Mapping[str, Tensor], weight: float, rare: float, deviation: float) -> None:
        super().__init__()
        self.prior, self.weight, self.rare, self.deviation = dict(prior), weight, rare, deviation

    def penalty(self, model: Model) -> Tensor:
        assert isinstance(model, MultiTaskModel)
        encoder = model.encoder
        assert isinstance(encoder, Adaptive)
        found = []
        for layer, one in enumerate(encoder.gaussians):
            mean = self.prior.get(f"mean {layer}", torch.zeros_like(one.mean)).to(one.mean)
            deviation = self.prior.get(f"deviation {layer}", torch.full_like(one.mean, self.deviation)).to(one.mean)
            found.append(divergence(one.mean, one.log_deviation.exp(), mean, deviation))
        for task in encoder.learns or ():
            found += [switch_divergence(one.switch, self.rare).sum() for one in encoder.of_task(task)]
        return self.weight * torch.stack(found).sum()


def switch_divergence(switch: Tensor, rare: float) -> Tensor:
    """KL(Bernoulli(p) || Bernoulli(rare)) for the log odds of p.

    >>> round(float(switch_divergence(torch.zeros(1), 0.1)), 4)  # 0.5 ln(0.5 / 0.1) + 0.5 ln(0.5 / 0.9)
    0.5108
    """
    p = switch.sigmoid()
    log_p, log_rest = torch.nn.functional.logsigmoid(switch), torch.nn.functional.logsigmoid(-switch)
    return p * (log_p - math.log(rare)) + (1 - p) * (log_rest - math.log(1 - rare))
