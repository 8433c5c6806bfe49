"""One step's gradient: each task's own, one graph alive at a time, and what a balancer makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from allround.core.entry import Entry
from allround.core.errors import AllroundError
from allround.core.seeds import seed_of
from allround.models.model import Model, device_of
from allround.tasks.task import Task
from allround.training.balancing import Balancer, StepView, rescaled
from allround.training.gradient_arithmetic import Gradient, add_scaled, assign_gradient, dot, norm_of, separate
from allround.training.gramians import COLUMNS, gramian_of
from allround.training.losses import Part, PartLosses
from allround.training.processes import Processes
from allround.training.task_gradients import TaskGradient, TaskGradients
from allround.training.term import Term


@dataclass(frozen=True)
class StepResult:
    """What a step did. seen: what it has shown, or None where no task was left. weights: of the tasks seen. bad: tasks
    left out because their loss or gradient was not finite. rate: the mean of the tasks' own rates."""

    seen: StepView | None
    weights: tuple[float, ...]
    bad: tuple[int, ...]
    rate: float = 1.0


class Gradients:
    """Computes the steps of one training.

    A step follows the mean over the tasks present of their weighted gradients; with `raw_scale` their weighted sum,
    with the weights as the method has them. A head follows its own task's gradient: weighted where the balancer weighs
    losses, plain where it weighs gradients of shared weights.
    """

    def __init__(
        self,
        model: Model,
        tasks: Sequence[Task],
        entry: Entry,
        make: Callable[[], Balancer],
        *,
        processes: Processes,
        products: Callable[[], AbstractContextManager[None]],
        raw_scale: bool = False,
        flat: float = 0.0,
        accumulate: int = 1,
        rates: Sequence[float] = (),
        terms: Sequence[Term] = (),
        seed: int = 0,
    ) -> None:
        self.model, self.tasks, self.processes = model, list(tasks), processes
        self.entry, self.needs, self.seed = entry, set(entry.needs), seed
        self.raw = raw_scale or entry.facts["raw"]
        self.rates = list(rates or [1.0] * len(self.tasks))
        self.together = bool(self.needs & {"gramian", "gradients"} or entry.facts["together"])
        # What the neighbourhood adds to the gradients is weighed by a balancer of its own, with its own memory.
        self.balancers = [make()] + ([make()] if flat and self.together else [])
        self.shared = [p for p in model.shared().values() if p.requires_grad]
        self.heads = [[p for p in model.own(t.name).values() if p.requires_grad] for t in self.tasks]
        self.sizes = [p.numel() for p in self.shared]
        if not self.shared and (self.together or "features" in self.needs):
            raise AllroundError(f"balance by '{entry.name}'", "no weights that the tasks share are trained",
                                "use another balancer, such as equal")  # fmt: skip
        self.matrix: Tensor | None = None
        self.number = 0
        self.progress = 0.0
        check_parts(entry, flat, accumulate)
        self.part_losses = PartLosses(model, self.tasks, processes, products, terms, "features" in self.needs)
        self.task_gradients = TaskGradients(self.part_losses, self.shared, self.heads, flat, accumulate)

    @property
    def backward_passes(self) -> int:
        """How many backward passes were made in all."""
        return self.task_gradients.backward_passes

    # -- one step --------------------------------------------------------------------------------------------------

    def step(self, parts: Sequence[Part], number: int, progress: float, held: Sequence[Part] = ()) -> StepResult:
        """Leave the gradient of one step in the parameters' `grad`.

        held: batches of validation rows, one of each task, for balancers that look at validation.
        """
        for p in (*self.shared, *(p for head in self.heads for p in head)):
            p.grad = None
        self.number, self.progress, self.task_gradients.bad = number, progress, []
        if "features" in self.needs:
            return self._by_features(parts)
        return self._side_by_side(parts) if self.together else self._one_by_one(parts, held)

    @torch.no_grad()
    def losses(self, parts: Sequence[Part], tasks: Sequence[int]) -> Tensor:
        """The mean losses of some tasks on the rows of a step, as the model is now: (k,) float64."""
        made = [self.part_losses.compute(part, self.part_losses.own_rows(part))[1] for part in parts]
        found = {one.task: float(one.value) for losses in made for one in losses}
        return self.processes.add(torch.tensor([found[t] for t in tasks], dtype=torch.float64))

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Random numbers of this step alone, alike in every process."""
        device = device_of(self.model)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed_of(self.seed, "balance", self.number))
            yield

    def _one_by_one(self, parts: Sequence[Part], held: Sequence[Part]) -> StepResult:
        """Add up weighted gradients as they come, and mend their common factor at the end."""
        (balancer,) = self.balancers
        with self._seeded():
            everyone = balancer.everyone()
        if everyone is not None and not self.raw:
            everyone = rescaled(everyone)
        aim = self.task_gradients.validation(held) if "validation" in self.needs else None
        summed = "norms" in self.needs or aim is not None
        total: Gradient = [None] * len(self.shared)
        found: list[TaskGradient] = []
        for one in self.task_gradients.each(parts, summed):
            if aim is not None:
                one.dot = dot(one.shared, aim)
            if everyone is not None:
                one.weight = float(everyone[one.task])
            else:
                with self._seeded():
                    one.weight = balancer.early(one.task, one.loss, one.norm)
            total = add_scaled(total, one.shared, one.weight * self.rates[one.task])
            one.shared = []
            found.append(one)
        if not found:
            return StepResult(None, (), tuple(self.task_gradients.bad))
        if not summed and not self.task_gradients.flat:
            total = self.processes.add_each(total, self.shared)
        seen = self._seen(found)
        early = torch.tensor([one.weight for one in found], dtype=torch.float64)
        if self.raw:
            weights = early if everyone is not None else self._weigh(balancer, seen)
        else:
            weights = rescaled(early, everyone)
        lead = int(early.abs().argmax())
        factor = float(weights[lead] / early[lead]) if early[lead] else 0.0
        return self._finish(total, factor, found, weights, seen)

    def _side_by_side(self, parts: Sequence[Part]) -> StepResult:
        """Keep the gradients as rows of a matrix; the balancer looks at them, or at their inner products."""
        most = sum(len(part.tasks) for part in parts)
        matrix = self._room(most * len(self.balancers))
        found: list[TaskGradient] = []
        touched = torch.zeros(len(self.shared))
        # A task that is left out leaves its row to the next.
        for one in self.task_gradients.each(parts, True, lambda: matrix[len(found)], lambda: matrix[most + len(found)]):
            touched += torch.tensor([float(g is not None) for g in one.shared])
            one.shared = []
            found.append(one)
        if not found:
            return StepResult(None, (), tuple(self.task_gradients.bad))
        total = torch.zeros(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
        shown: list[tuple[StepView, Tensor]] = []
        for balancer, start in zip(self.balancers, (0, most), strict=False):
            rows = matrix[start : start + len(found)]
            seen = self._seen(found, gramian_of(rows).cpu(), rows)
            if type(balancer).combine is not Balancer.combine:
                total += self._combine(balancer, seen)
                weights = torch.ones(len(found), dtype=torch.float64)
            else:
                weights = self._weigh(balancer, seen)
                with self._seeded():
                    everyone = balancer.everyone()
                weights = weights if self.raw else rescaled(weights, everyone)
                rates = torch.tensor([self.rates[one.task] for one in found], dtype=torch.float64)
                total += (weights * rates).to(rows) @ rows
            shown.append((seen, weights))
        self.processes.add(touched)
        parts_of = zip(total.split(self.sizes), self.shared, touched.tolist(), strict=True)
        seen, weights = shown[0]
        if len(shown) > 1:
            self.balancers[1].learn(shown[1][0])
        return self._finish([g.view_as(p) if t else None for g, p, t in parts_of], 1.0, found, weights, seen)

    def _by_features(self, parts: Sequence[Part]) -> StepResult:
        """Keep the graphs of all tasks: the balancer looks at features, and at the losses' gradients by them."""
        (balancer,) = self.balancers
        second = self.entry.facts["second_order"]
        found: list[TaskGradient] = []
        losses: list[Tensor] = []
        kept: list[tuple[Tensor, Tensor]] = []
        labelled: set[tuple[int, ...]] = set()
        for part in parts:
            features, made = self.part_losses.compute(part, self.part_losses.own_rows(part))
            for loss in made:
                slope = torch.zeros_like(features)
                if loss.value.requires_grad:
                    (slope,) = torch.autograd.grad(loss.value, features, create_graph=second, retain_graph=True)
                    self.task_gradients.backward_passes += 1
                told = torch.tensor(
                    [float(loss.value.detach()), float(torch.isfinite(slope).all())], dtype=torch.float64
                )
                value, fine = self.processes.add(told).tolist()
                if not math.isfinite(value) or fine < self.processes.count:
                    self.task_gradients.bad.append(loss.task)
                    continue
                found.append(TaskGradient(loss.task, value, loss.rows, loss.terms))
                losses.append(loss.value)
                kept.append(
                    (
                        self.part_losses.gather_rows(features[loss.own], loss),
                        self.part_losses.gather_rows(slope[loss.own], loss),
                    )
                )
                labelled.add((id(part.feed), *np.flatnonzero(part.feed.places[loss.task][part.rows] >= 0).tolist()))
        if not found:
            return StepResult(None, (), tuple(self.task_gradients.bad))
        widths = sorted({features.shape[1] for features, _ in kept})
        if len(widths) > 1:
            raise AllroundError(
                f"balance by '{self.entry.name}'", f"the tasks have features of {len(widths)} lengths: {widths}",
                "use tasks that the encoder reads alike, or another balancer",
            )  # fmt: skip
        # Rows of different tasks have nothing to do with each other, unless they are the same: then only what one
        # shift of all features would do can be compared.
        alike = len(labelled) == 1
        flat = torch.stack([(s if alike else s.sum(0)).detach().reshape(-1).double() for _, s in kept])
        gramian = (flat @ flat.T).cpu()
        seen = self._seen(found, gramian, flat)
        weights = self._weigh(balancer, seen)
        weights = weights if self.raw else rescaled(weights)
        scale = 1 if self.raw else len(found)
        rates = [self.rates[one.task] for one in found]
        goal = sum(w * r * loss for w, r, loss in zip(weights.tolist(), rates, losses, strict=True))
        with self._seeded():
            penalty = balancer.penalty([f for f, _ in kept], [s for _, s in kept])
        goal = (goal if penalty is None else goal + penalty) / scale
        heads = [p for one in found for p in self.heads[one.task]]
        total: Gradient = [None] * (len(self.shared) + len(heads))
        if goal.requires_grad:
            total = separate(torch.autograd.grad(goal, [*self.shared, *heads], allow_unused=True))
        total = self.processes.add_each(total, [*self.shared, *heads])
        self.task_gradients.backward_passes += 1
        if not math.isfinite(norm_of(total)):
            return self._without_bad(parts, found)
        own = iter(total[len(self.shared) :])
        for one in found:  # its own rate is that of its head's steps
            head = self.heads[one.task]
            assign_gradient(head, [next(own) for _ in head], 1 / (self.rates[one.task] or 1.0))
        return self._finish(total[: len(self.shared)], float(scale), found, weights, seen)

    def _without_bad(self, parts: Sequence[Part], found: Sequence[TaskGradient]) -> StepResult:
        """The step without the tasks whose own gradient is not finite."""
        for _ in self.task_gradients.each(parts, False):
            pass
        self.task_gradients.bad = list(dict.fromkeys(self.task_gradients.bad))
        left = [replace(part, tasks=[t for t in part.tasks if t not in self.task_gradients.bad]) for part in parts]
        if all(one.task not in self.task_gradients.bad for one in found):
            return StepResult(None, (), (*self.task_gradients.bad, *(one.task for one in found)))
        return self._by_features([part for part in left if part.tasks])

    def _finish(
        self, total: Gradient, factor: float, found: list[TaskGradient], weights: Tensor, seen: StepView
    ) -> StepResult:
        """Hand the gradients to the parameters, and let the balancer learn.

        factor: what is still to be done to the sum of the shared gradients; heads that have no gradient yet get their
        task's own, with its weight where losses are weighed.
        """
        count = 1 if self.raw else len(found)
        sizes = weights.abs() / weights.abs().sum() if weights.abs().sum() else torch.zeros_like(weights)
        rates = [self.rates[one.task] for one in found]
        rate = float(sum(s * r for s, r in zip(sizes.tolist(), rates, strict=True))) if sizes.any() else 1.0
        # What the tasks' rates share goes into the learning rate: optimisers take a common factor out of gradients.
        assign_gradient(self.shared, total, factor / count / (rate or 1.0))
        weighed = self.entry.facts["by"] == "losses"
        for one, weight in zip(found, weights.tolist(), strict=True):
            if one.heads:
                assign_gradient(self.heads[one.task], one.heads, (weight if weighed else 1) / count)
        self.balancers[0].learn(seen)
        return StepResult(seen, tuple(weights.tolist()), tuple(self.task_gradients.bad), rate)

    # -- what balancers see and say --------------------------------------------------------------------------------

    def _seen(
        self, found: Sequence[TaskGradient], gramian: Tensor | None = None, gradients: Tensor | None = None
    ) -> StepView:
        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64)

        norms = column([one.norm for one in found])
        return StepView(
            tasks=torch.tensor([one.task for one in found]),
            losses=column([one.loss for one in found]),
            rows=column([one.rows for one in found]),
            terms=column([one.terms for one in found]),
            norms=norms if gramian is None else gramian.diagonal().clamp_min(0).sqrt(),
            gramian=gramian,
            gradients=gradients,
            validation=column([one.dot for one in found]),
            progress=self.progress,
        )

    def _weigh(self, balancer: Balancer, seen: StepView) -> Tensor:
        with self._seeded():
            return balancer.weigh(seen).double()

    def _combine(self, balancer: Balancer, seen: StepView) -> Tensor:
        assert seen.gradients is not None
        rates = torch.tensor([self.rates[t] for t in seen.tasks.tolist()]).to(seen.gradients)[:, None]
        made = []
        with self._seeded():
            for start in range(0, seen.gradients.shape[1], COLUMNS):
                columns = seen.gradients[:, start : start + COLUMNS]
                made.append(balancer.combine(replace(seen, gradients=columns * rates)))
        return torch.cat(made)

    def _room(self, rows: int) -> Tensor:
        """Room for gradients side by side, kept from step to step."""
        if self.matrix is None or len(self.matrix) < rows:
            first = self.shared[0]
            self.matrix = torch.empty(rows, sum(self.sizes), dtype=first.dtype, device=first.device)
        return self.matrix


def check_parts(entry: Entry, flat: float, accumulate: int) -> None:
    """An error for a balancer that cannot work with parts of batches, or with second gradients."""
    if "features" in entry.needs and (flat or accumulate > 1):
        raise AllroundError(
            f"balance by '{entry.name}' with " + (f"flat={flat}" if flat else f"accumulate={accumulate}"),
            f"'{entry.name}' looks at the features of a whole step at once",
            "leave that out, or choose another balancer",
        )
