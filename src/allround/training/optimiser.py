"""The optimiser of a training, and the learning rates of its groups of parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from allround.models.model import Model
from allround.tasks.task import Task
from allround.training.gradients import Gradients
from allround.training.settings import Settings


def make_optimiser(
    model: Model, tasks: Sequence[Task], gradients: Gradients, settings: Settings, rate: float, rates: Sequence[float]
) -> torch.optim.Optimizer:
    """The optimiser of the parameters that follow gradients. rates: factors on the learning rate, by task.

    Its groups have a `factor` on the rate, a task's own, or None where it is that of the step; and `times`, a further
    factor, by which the model learns in some parts faster than in others.
    """
    times = model.added() | {id(p): model.head_factor() for t in tasks for p in model.of_head(t.name).values()}
    groups: list[dict[str, object]] = []
    for parameters, factor in ((gradients.shared, None), *zip(gradients.heads, rates, strict=True)):
        by_times: dict[float, list[Tensor]] = {}
        for parameter in parameters:
            by_times.setdefault(times.get(id(parameter), 1.0), []).append(parameter)
        groups += [{"params": some, "factor": factor, "times": own} for own, some in by_times.items()]
    optimisers = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    made: torch.optim.Optimizer = optimisers[settings.optimiser](
        groups, lr=rate, weight_decay=settings.weight_decay, fused=True
    )
    return made


def follow_rate(optimiser: torch.optim.Optimizer, rate: float, step: float) -> None:
    """Set the rate of each group. step: the mean of the rates of the tasks in the step."""
    for group in optimiser.param_groups:
        group["lr"] = rate * (step if group["factor"] is None else group["factor"]) * group["times"]
