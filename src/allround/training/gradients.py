"""One step's gradient: each task's own, one graph alive at a time, and what a balancer makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from allround.core.entry import Entry
from allround.core.errors import AllroundError
from allround.core.seeds import seed_of
from allround.models.batch import Batch, Features, TaskLoss, positions
from allround.models.model import Model, device_of
from allround.tasks.kind import Encoded
from allround.tasks.task import Task
from allround.training.balancing import Balancer, StepView, rescaled
from allround.training.feeds import Feed
from allround.training.gramians import COLUMNS, gramian_of
from allround.training.processes import Processes
from allround.training.term import Term

#: One tensor for each parameter, or None where the loss does not depend on it.
Gradient = list[Tensor | None]


@dataclass(frozen=True)
class Part:
    """A batch of one feed, and those of its tasks that are trained on it. split: where its rows come from."""

    feed: Feed
    rows: list[int]
    tasks: list[int]
    split: str = "train"


@dataclass
class PartLoss:
    """A task's loss on some rows of a batch, as a share of the mean over the whole batch.

    rows, terms: labelled rows and single losses of the whole batch. own: places of its rows among the features; among:
    places of its rows among the labelled ones of the whole batch.
    """

    task: int
    value: Tensor
    rows: int
    terms: int
    own: Tensor
    among: Tensor


@dataclass
class TaskGradient:
    """A task's gradient in a step, and what is known of it."""

    task: int
    loss: float
    rows: int
    terms: int
    shared: Gradient = field(default_factory=list)
    heads: Gradient = field(default_factory=list)
    norm: float = math.nan
    dot: float = math.nan
    weight: float = 1.0


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
        self.model, self.tasks, self.processes, self.products = model, list(tasks), processes, products
        self.entry, self.needs, self.seed = entry, set(entry.needs), seed
        self.raw = raw_scale or entry.facts["raw"]
        self.flat, self.accumulate, self.terms = flat, accumulate, list(terms)
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
        self.backward_passes = 0
        self.number = 0
        self.progress = 0.0
        self.bad: list[int] = []
        check_parts(entry, flat, accumulate)

    # -- one step --------------------------------------------------------------------------------------------------

    def step(self, parts: Sequence[Part], number: int, progress: float, held: Sequence[Part] = ()) -> StepResult:
        """Leave the gradient of one step in the parameters' `grad`.

        held: batches of validation rows, one of each task, for balancers that look at validation.
        """
        for p in (*self.shared, *(p for head in self.heads for p in head)):
            p.grad = None
        self.number, self.progress, self.bad = number, progress, []
        if "features" in self.needs:
            return self._by_features(parts)
        return self._side_by_side(parts) if self.together else self._one_by_one(parts, held)

    @torch.no_grad()
    def losses(self, parts: Sequence[Part], tasks: Sequence[int]) -> Tensor:
        """The mean losses of some tasks on the rows of a step, as the model is now: (k,) float64."""
        found = {one.task: float(one.value) for part in parts for one in self._forward(part, self._own(part))[1]}
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
        aim = self._held(held) if "validation" in self.needs else None
        summed = "norms" in self.needs or aim is not None
        total: Gradient = [None] * len(self.shared)
        found: list[TaskGradient] = []
        for one in self._each(parts, summed):
            if aim is not None:
                one.dot = _dot(one.shared, aim)
            if everyone is not None:
                one.weight = float(everyone[one.task])
            else:
                with self._seeded():
                    one.weight = balancer.early(one.task, one.loss, one.norm)
            total = _added(total, one.shared, one.weight * self.rates[one.task])
            one.shared = []
            found.append(one)
        if not found:
            return StepResult(None, (), tuple(self.bad))
        if not summed and not self.flat:
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
        for one in self._each(parts, True, lambda: matrix[len(found)], lambda: matrix[most + len(found)]):
            touched += torch.tensor([float(g is not None) for g in one.shared])
            one.shared = []
            found.append(one)
        if not found:
            return StepResult(None, (), tuple(self.bad))
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
            features, made = self._forward(part, self._own(part))
            for loss in made:
                slope = torch.zeros_like(features)
                if loss.value.requires_grad:
                    (slope,) = torch.autograd.grad(loss.value, features, create_graph=second, retain_graph=True)
                    self.backward_passes += 1
                told = torch.tensor(
                    [float(loss.value.detach()), float(torch.isfinite(slope).all())], dtype=torch.float64
                )
                value, fine = self.processes.add(told).tolist()
                if not math.isfinite(value) or fine < self.processes.count:
                    self.bad.append(loss.task)
                    continue
                found.append(TaskGradient(loss.task, value, loss.rows, loss.terms))
                losses.append(loss.value)
                kept.append((self._whole(features[loss.own], loss), self._whole(slope[loss.own], loss)))
                labelled.add((id(part.feed), *np.flatnonzero(part.feed.places[loss.task][part.rows] >= 0).tolist()))
        if not found:
            return StepResult(None, (), tuple(self.bad))
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
            total = _apart(torch.autograd.grad(goal, [*self.shared, *heads], allow_unused=True))
        total = self.processes.add_each(total, [*self.shared, *heads])
        self.backward_passes += 1
        if not math.isfinite(_norm(total)):
            return self._without_bad(parts, found)
        own = iter(total[len(self.shared) :])
        for one in found:  # its own rate is that of its head's steps
            head = self.heads[one.task]
            _give(head, [next(own) for _ in head], 1 / (self.rates[one.task] or 1.0))
        return self._finish(total[: len(self.shared)], float(scale), found, weights, seen)

    def _without_bad(self, parts: Sequence[Part], found: Sequence[TaskGradient]) -> StepResult:
        """The step without the tasks whose own gradient is not finite."""
        for _ in self._each(parts, False):
            pass
        self.bad = list(dict.fromkeys(self.bad))
        left = [replace(part, tasks=[t for t in part.tasks if t not in self.bad]) for part in parts]
        if all(one.task not in self.bad for one in found):
            return StepResult(None, (), (*self.bad, *(one.task for one in found)))
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
        _give(self.shared, total, factor / count / (rate or 1.0))
        weighed = self.entry.facts["by"] == "losses"
        for one, weight in zip(found, weights.tolist(), strict=True):
            if one.heads:
                _give(self.heads[one.task], one.heads, (weight if weighed else 1) / count)
        self.balancers[0].learn(seen)
        return StepResult(seen, tuple(weights.tolist()), tuple(self.bad), rate)

    # -- the tasks' gradients ----------------------------------------------------------------------------------------

    def _each(
        self,
        parts: Sequence[Part],
        summed: bool,
        row: Callable[[], Tensor] | None = None,
        flat_row: Callable[[], Tensor] | None = None,
    ) -> Iterator[TaskGradient]:
        """The gradients of a step's tasks, one after the other; those that are not finite are left out.

        summed: whether each is to be that of all processes. row: where the next one is written to; flat_row: where
        what its neighbourhood adds to it is.
        """
        for part in parts:
            for one in self._gradients(part):
                if summed or self.flat:
                    one.shared = self.processes.add_each(one.shared, self.shared)
                if not self._fine(one):
                    self.bad.append(one.task)
                    continue
                if row is not None:
                    _write(row(), one.shared, self.sizes)
                if self.flat:
                    near = self._nearby(part, one)
                    if near is None:
                        self.bad.append(one.task)
                        continue
                    one.heads = near.heads
                    if flat_row is None:
                        one.shared = near.shared
                    else:
                        _write(flat_row(), _added(near.shared, one.shared, -1.0), self.sizes)
                yield one

    def _fine(self, one: TaskGradient) -> bool:
        """Whether a task's loss and gradient are finite in every process; also makes them those of all processes."""
        one.norm = _norm(one.shared)
        told = torch.tensor([one.loss, float(math.isfinite(one.norm))], dtype=torch.float64)
        one.loss, fine = self.processes.add(told).tolist()
        one.heads = self.processes.add_each(one.heads, self.heads[one.task])
        return math.isfinite(one.loss) and fine == self.processes.count and math.isfinite(_norm(one.heads))

    def _gradients(self, part: Part) -> Iterator[TaskGradient]:
        """Gradients on this process's rows of a part. A feed of several tasks goes through the encoder once."""
        own = self._own(part)
        pieces = [own[i :: self.accumulate] for i in range(max(1, min(self.accumulate, len(own))))]
        so_far: dict[int, TaskGradient] = {}
        for rows in pieces:
            last = rows is pieces[-1]
            losses = self._forward(part, rows)[1]
            while losses:
                loss = losses.pop(0)
                parameters = [*self.shared, *self.heads[loss.task]]
                made: Sequence[Tensor | None] = [None] * len(parameters)
                if loss.value.requires_grad:
                    made = _apart(
                        torch.autograd.grad(loss.value, parameters, retain_graph=bool(losses), allow_unused=True)
                    )
                    self.backward_passes += 1
                one = so_far.get(loss.task) or TaskGradient(loss.task, 0.0, loss.rows, loss.terms)
                one.loss += float(loss.value.detach())
                one.shared = _added(one.shared, made[: len(self.shared)], 1.0)
                one.heads = _added(one.heads, made[len(self.shared) :], 1.0)
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
            (near,) = self._gradients(replace(part, tasks=[one.task]))
        finally:
            for p, data in zip(self.shared, kept, strict=True):
                p.data = data
        near.shared = self.processes.add_each(near.shared, self.shared)
        return near if self._fine(near) else None

    def _held(self, held: Sequence[Part]) -> Gradient:
        """The gradient of the mean over tasks of their losses on validation rows."""
        total: Gradient = [None] * len(self.shared)
        for one in self._each(held, True):
            total = _added(total, one.shared, 1 / sum(len(part.tasks) for part in held))
        self.bad.clear()
        return total

    def _own(self, part: Part) -> list[int]:
        return self.processes.share(part.rows)

    def _forward(self, part: Part, rows: list[int]) -> tuple[Tensor, list[PartLoss]]:
        """Features of some rows of a part, where the balancer looks at them, and the losses of its tasks on the rows.

        Losses are sums divided by the terms of the whole part: over all processes and pieces they add up to the mean
        loss. A task without a labelled row in the whole part is not there.
        """
        feed, device = part.feed, device_of(self.model)
        first = self.tasks[part.tasks[0]].name
        mine = {t: [place for place, i in enumerate(rows) if feed.places[t][i] >= 0] for t in part.tasks}
        features, made = torch.zeros(0), {}
        with self.products():
            if rows:
                targets = {self.tasks[t].name: self._targets(part, t, [rows[i] for i in mine[t]]) for t in mine}
                asked = {self.tasks[t].name: mine[t] for t in mine}
                batch = self.model.collate([feed.rows[i] for i in rows], asked, targets).to(device)
                found = self.model.features(batch) if "features" in self.needs else None
                made = {n: self._with_terms(n, one, batch, found) for n, one in self.model.losses(batch, found).items()}
                features = found.values if found is not None else features
            elif "features" in self.needs:
                features = torch.zeros(0, self.model.width(first), device=device)
        losses = []
        for task in part.tasks:
            labelled = [i for i in part.rows if feed.places[task][i] >= 0]
            if not labelled:
                continue
            here = {rows[i] for i in mine[task]}
            own = positions(mine[task], feed.lengths[rows])
            among = positions([n for n, i in enumerate(labelled) if i in here], feed.lengths[labelled])
            terms = int(feed.lengths[labelled].sum())
            value = torch.zeros((), device=device)
            one = made.get(self.tasks[task].name)
            if one is not None and one.count:
                value = one.value if one.count == terms else one.value * (one.count / terms)
            losses.append(PartLoss(task, value, len(labelled), terms, own.to(device), among.to(device)))
        return features, losses

    def _with_terms(self, task: str, loss: TaskLoss, batch: Batch, features: Features | None) -> TaskLoss:
        """A task's loss with what the terms add to it."""
        added = {type(term).__name__: term.task_loss(self.model, task, batch, features) for term in self.terms}
        extra = {name: value for name, value in added.items() if value is not None}
        return replace(loss, extra={**loss.extra, **extra}) if extra else loss

    def _targets(self, part: Part, task: int, rows: Sequence[int]) -> Encoded:
        """The targets of a task in some rows of a feed."""
        places = part.feed.places[task]
        return self.tasks[task].splits[part.split].take([int(places[i]) for i in rows]).targets

    def _whole(self, mine: Tensor, loss: PartLoss) -> Tensor:
        """Rows of this process among those of all; only its own carry a graph, since each process adds its part of the
        gradient."""
        if self.processes.count == 1:
            return mine
        empty = torch.zeros(loss.terms, mine.shape[1], dtype=mine.dtype, device=mine.device)
        others = self.processes.add(empty.index_copy(0, loss.among, mine.detach()))
        return others.index_copy(0, loss.among, mine)

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


def _apart(gradient: Sequence[Tensor | None]) -> Gradient:
    """The same numbers, each tensor in memory of its own: autograd may give one tensor twice, or one number as many."""
    seen: set[int] = set()
    made: Gradient = []
    for g in gradient:
        if g is not None and (g.data_ptr() in seen or not g.is_contiguous()):
            g = g.clone(memory_format=torch.contiguous_format)
        if g is not None:
            seen.add(g.data_ptr())
        made.append(g)
    return made


def _added(one: Sequence[Tensor | None], other: Sequence[Tensor | None], weight: float) -> Gradient:
    """one + weight * other, in the memory of the first (of the second, where the first is nothing yet)."""
    made: Gradient = []
    for a, b in zip(one or [None] * len(other), other, strict=True):
        if b is None:
            made.append(a)
        elif a is None:
            made.append(b if weight == 1 else b.mul_(weight))
        else:
            made.append(a.add_(b, alpha=weight))
    return made


def _write(row: Tensor, gradient: Gradient, sizes: Sequence[int]) -> None:
    for place, g in zip(row.split(sizes), gradient, strict=True):
        if g is None:
            place.zero_()
        else:
            place.copy_(g.reshape(-1))


def _give(parameters: Sequence[Tensor], gradient: Gradient, factor: float) -> None:
    for p, g in zip(parameters, gradient, strict=True):
        p.grad = g if g is None or factor == 1 else g.mul_(factor)


def _norm(gradient: Sequence[Tensor | None]) -> float:
    there = [g for g in gradient if g is not None]
    return float(torch.stack(torch._foreach_norm(there)).norm()) if there else 0.0


def _dot(one: Gradient, other: Gradient) -> float:
    pairs = zip(one, other, strict=True)
    return sum(float((a * b).sum(dtype=torch.float64)) for a, b in pairs if a is not None and b is not None)
