"""The losses of a step's tasks, on the rows that this process computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from allround.models.batch import Batch, Features, TaskLoss, positions
from allround.models.model import Model, device_of
from allround.tasks.kind import Encoded
from allround.tasks.task import Task
from allround.training.feeds import Feed
from allround.training.processes import Processes
from allround.training.term import Term


@dataclass(frozen=True)
class Part:
    """A batch of one feed, and those of its tasks that are trained on it. split: where its rows come from."""

    feed: Feed
    rows: list[int]
    tasks: list[int]
    split: str = "train"


@dataclass
class PartLoss:
    """A task's loss on some rows of a part, as a share of the mean loss over the whole part.

    rows, terms: labelled rows and single losses of the whole part. own: places of its rows among the features; among:
    places of its rows among the labelled ones of the whole part.
    """

    task: int
    value: Tensor
    rows: int
    terms: int
    own: Tensor
    among: Tensor


class PartLosses:
    """Computes the losses of parts of a step.

    products: the precision of matrix products. features: whether features are computed apart, for balancers that look
    at them.
    """

    def __init__(
        self,
        model: Model,
        tasks: Sequence[Task],
        processes: Processes,
        products: Callable[[], AbstractContextManager[None]],
        terms: Sequence[Term],
        features: bool,
    ) -> None:
        self.model, self.tasks, self.processes, self.products = model, list(tasks), processes, products
        self.terms, self.features = list(terms), features
        self.shown = features or any(term.reads_features for term in self.terms)

    def own_rows(self, part: Part) -> list[int]:
        """The rows of a part that this process computes."""
        return self.processes.share(part.rows)

    def compute(self, part: Part, rows: list[int]) -> tuple[Tensor, list[PartLoss]]:
        """Features of some rows of a part, where the balancer looks at them, and the losses of its tasks on the rows.

        Losses are sums divided by the terms of the whole part: over all processes and pieces they add up to the mean
        loss. A task without a labelled row in the whole part is left out.
        """
        feed, device = part.feed, device_of(self.model)
        first = self.tasks[part.tasks[0]].name
        mine = {t: [place for place, i in enumerate(rows) if feed.places[t][i] >= 0] for t in part.tasks}
        features, made = torch.zeros(0), {}
        with self.products():
            if rows:
                targets = {self.tasks[t].name: self._targets(part, t, [rows[i] for i in mine[t]]) for t in mine}
                asked = {self.tasks[t].name: mine[t] for t in mine}
                batch = self.model.collate([feed.rows[i] for i in rows], asked, targets)
                batch = replace(batch, numbers=self._numbers(part, rows, mine)).to(device)
                found = self.model.features(batch) if self.shown else None
                made = {n: self._with_terms(n, one, batch, found) for n, one in self.model.losses(batch, found).items()}
                features = found.values if found is not None and self.features else features
            elif self.features:
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

    def gather_rows(self, mine: Tensor, loss: PartLoss) -> Tensor:
        """The rows of all processes, those of this one among them: (n, d) -> (terms, d).

        Only its own rows carry a graph, since each process adds its part of the gradient.
        """
        if self.processes.count == 1:
            return mine
        empty = torch.zeros(loss.terms, mine.shape[1], dtype=mine.dtype, device=mine.device)
        others = self.processes.add(empty.index_copy(0, loss.among, mine.detach()))
        return others.index_copy(0, loss.among, mine)

    def _with_terms(self, task: str, loss: TaskLoss, batch: Batch, features: Features | None) -> TaskLoss:
        """A task's loss as the terms weigh it, with what they add to it."""
        factor = math.prod(term.own_loss(task) for term in self.terms)
        loss = loss if factor == 1 else replace(loss, mean=factor * loss.mean)
        added = {type(term).__name__: term.task_loss(self.model, task, batch, features) for term in self.terms}
        extra = {name: value for name, value in added.items() if value is not None}
        return replace(loss, extra={**loss.extra, **extra}) if extra else loss

    def _numbers(
        self, part: Part, rows: Sequence[int], mine: Mapping[int, Sequence[int]]
    ) -> dict[str, tuple[int, ...]]:
        """The numbers of each task's rows in its training split; nothing for rows of other splits.

        mine: for each task, the rows among these that it has a label for.
        """
        if part.split != "train":
            return {}
        places = part.feed.places
        return {self.tasks[t].name: tuple(int(places[t][rows[at]]) for at in some) for t, some in mine.items()}

    def _targets(self, part: Part, task: int, rows: Sequence[int]) -> Encoded:
        """The targets of a task in some rows of a feed."""
        places = part.feed.places[task]
        return self.tasks[task].splits[part.split].take([int(places[i]) for i in rows]).targets
