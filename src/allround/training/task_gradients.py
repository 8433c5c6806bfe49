"""Each task's own gradient in a step, one after the other, so that one graph is alive at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from allround.training.gradient_arithmetic import Gradient, add_scaled, norm_of, separate, write_row
from allround.training.losses import Part, PartLosses


@dataclass
class TaskGradient:
    """A task's gradient in a step, by the shared weights and by those of its head, and what is known of it.

    rows, terms: labelled rows and single losses of the step. norm: of the shared gradient. dot: its inner product with
    the gradient on validation rows. weight: the one that the balancer has given so far.
    """

    task: int
    loss: float
    rows: int
    terms: int
    shared: Gradient = field(default_factory=list)
    heads: Gradient = field(default_factory=list)
    norm: float = math.nan
    dot: float = math.nan
    weight: float = 1.0


class TaskGradients:
    """Computes the tasks' gradients.

    shared, heads: the parameters that are trained, `heads` by task. flat: the radius of sharpness-aware steps.
    accumulate: the number of pieces in which a batch is computed. bad: the tasks that were left out since the list was
    last replaced, because their loss or gradient was not finite. backward_passes: how many were made in all.
    """

    def __init__(
        self,
        losses: PartLosses,
        shared: Sequence[Tensor],
        heads: Sequence[Sequence[Tensor]],
        flat: float,
        accumulate: int,
    ) -> None:
        self.losses, self.shared, self.heads = losses, list(shared), heads
        self.flat, self.accumulate = flat, accumulate
        self.sizes = [p.numel() for p in self.shared]
        self.bad: list[int] = []
        self.backward_passes = 0

    def each(
        self,
        parts: Sequence[Part],
        summed: bool,
        row: Callable[[], Tensor] | None = None,
        flat_row: Callable[[], Tensor] | None = None,
    ) -> Iterator[TaskGradient]:
        """The gradients of a step's tasks, one after the other; those that are not finite are left out.

        summed: whether each is to be that of all processes. row: gives the row that the next one is written to;
        flat_row: the row for what its neighbourhood adds to it.
        """
        for part in parts:
            for one in self._compute(part):
                if summed or self.flat:
                    one.shared = self.losses.processes.add_each(one.shared, self.shared)
                if not self._is_finite(one):
                    self.bad.append(one.task)
                    continue
                if row is not None:
                    write_row(row(), one.shared, self.sizes)
                if self.flat:
                    near = self._nearby(part, one)
                    if near is None:
                        self.bad.append(one.task)
                        continue
                    one.heads = near.heads
                    if flat_row is None:
                        one.shared = near.shared
                    else:
                        write_row(flat_row(), add_scaled(near.shared, one.shared, -1.0), self.sizes)
                yield one

    def validation(self, held: Sequence[Part]) -> Gradient:
        """The gradient, by the shared weights, of the mean over tasks of their losses on validation rows."""
        total: Gradient = [None] * len(self.shared)
        for one in self.each(held, True):
            total = add_scaled(total, one.shared, 1 / sum(len(part.tasks) for part in held))
        self.bad.clear()
        return total

    def _is_finite(self, one: TaskGradient) -> bool:
        """Whether a task's loss and gradient are finite in every process; also makes them those of all processes."""
        processes = self.losses.processes
        one.norm = norm_of(one.shared)
        told = torch.tensor([one.loss, float(math.isfinite(one.norm))], dtype=torch.float64)
        one.loss, fine = processes.add(told).tolist()
        one.heads = processes.add_each(one.heads, self.heads[one.task])
        return math.isfinite(one.loss) and fine == processes.count and math.isfinite(norm_of(one.heads))

    def _compute(self, part: Part) -> Iterator[TaskGradient]:
        """Gradients on this process's rows of a part. A feed of several tasks goes through the encoder once."""
        own = self.losses.own_rows(part)
        pieces = [own[i :: self.accumulate] for i in range(max(1, min(self.accumulate, len(own))))]
        so_far: dict[int, TaskGradient] = {}
        for rows in pieces:
            last = rows is pieces[-1]
            losses = self.losses.compute(part, rows)[1]
            while losses:
                loss = losses.pop(0)
                parameters = [*self.shared, *self.heads[loss.task]]
                made: Sequence[Tensor | None] = [None] * len(parameters)
                if loss.value.requires_grad:
                    made = separate(
                        torch.autograd.grad(loss.value, parameters, retain_graph=bool(losses), allow_unused=True)
                    )
                    self.backward_passes += 1
                one = so_far.get(loss.task) or TaskGradient(loss.task, 0.0, loss.rows, loss.terms)
                one.loss += float(loss.value.detach())
                one.shared = add_scaled(one.shared, made[: len(self.shared)], 1.0)
                one.heads = add_scaled(one.heads, made[len(self.shared) :], 1.0)
                so_far[loss.task] = one
                del made, loss
                if last:
                    yield so_far.pop(one.task)

    def _nearby(self, part: Part, one: TaskGradient) -> TaskGradient | None:
        """The task's gradient where its loss is about highest within the radius `flat`."""
        kept = [p.data for p in self.shared]
        scale = self.flat / (one.norm + 1e-12)
        try:
            for p, g in zip(self.shared, one.shared, strict=True):
                if g is not None:
                    p.data = p.data + scale * g
            (near,) = self._compute(replace(part, tasks=[one.task]))
        finally:
            for p, data in zip(self.shared, kept, strict=True):
                p.data = data
        near.shared = self.losses.processes.add_each(near.shared, self.shared)
        return near if self._is_finite(near) else None
