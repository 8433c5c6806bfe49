"""Fitting what weighs modules by passes through the base with them, all of which is frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from allround.composition.modules.bank import Gate, ModuleBank
from allround.composition.router import RouteRows
from allround.core.errors import AllroundError
from allround.models.model import Model


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """A model in evaluation whose weights have no gradients, as long as this lasts."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = model.training
    model.eval()
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        model.train(training)


def descend(
    parameters: Sequence[Tensor],
    loss: Callable[[], Tensor],
    *,
    steps: int,
    rate: float,
    warm: float = 0.0,
    clip: float | None = None,
) -> None:
    """Take steps of Adam down a loss, each on rows of its own.

    warm: the share of the steps in which the rate rises to `rate`. clip: the largest norm of a gradient.
    """
    optimiser = torch.optim.Adam(parameters, lr=rate)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / max(1.0, warm * steps))
        optimiser.zero_grad()
        value = loss()
        if not value.requires_grad:
            return  # no module changes anything, so that no weight matters
        value.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimiser.step()


def drawn(rows: RouteRows, count: int, generator: torch.Generator) -> list[int]:
    """The numbers of some rows, ascending."""
    return sorted(torch.randperm(len(rows), generator=generator)[:count].tolist())


def weighed_loss(bank: ModuleBank, rows: RouteRows, some: Sequence[int], weighing: Tensor | Gate) -> Tensor:
    """The mean loss of some rows, ascending, which use the modules by their weights (n, modules) or by a gate."""
    if isinstance(weighing, Tensor) and "texts" in bank.encoder.gives:
        found = []  # several rows would stand in one sequence, which has one set of weights
        for row, weights in zip(some, weighing, strict=True):
            with bank.using(weights[None]):
                found.append(rows.losses([row]))
        return torch.stack([one.sum for one in found]).sum() / max(1, sum(one.count for one in found))
    batch = rows.batch(some, targets=True)
    with bank.using(rows.spread(weighing, batch) if isinstance(weighing, Tensor) else weighing):
        return rows.losses_of(batch).mean


def owned(tasks: Mapping[str, RouteRows], asked: str) -> dict[int, list[RouteRows]]:
    """The rows of the tasks of each module that has some. Errors: none has."""
    found: dict[int, list[RouteRows]] = {}
    for rows in tasks.values():
        if rows.module is not None and len(rows):
            found.setdefault(rows.module, []).append(rows)
    if not found:
        raise AllroundError(asked, "none of the tasks has a module of its own",
                            "give rows of the tasks of the modules")  # fmt: skip
    return found


def check_steps(steps: int, rate: float, batch: int) -> None:
    """An error unless so many steps can be taken."""
    if steps < 1 or batch < 1 or not rate > 0:
        raise AllroundError(f"fit a router in {steps} steps of {batch} rows at the rate {rate}",
                            "steps and rows must be at least 1, and the rate above 0", "give such numbers")  # fmt: skip
