"""What a combination is: it makes one answer of what the modules that a row uses give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from allround.composition.modules.bank import Gate, ModuleBank
from allround.composition.router import RouteRows, taken_state
from allround.core import registry
from allround.models.batch import Answers, Batch
from allround.models.encoder import Encoder
from allround.models.systems.multi_task_model import MultiTaskModel


class Combine:
    """Answers a batch of rows of one task, by the weights that a router gives the modules.

    A plain one lets each layer add the modules' changes, each times its weight.
    """

    name: ClassVar[str]
    #: The levels of routers that it takes.
    levels: ClassVar[tuple[str, ...]] = ("row", "place")
    #: Whether a row uses all modules that have a weight; else the one of the largest.
    mixes: ClassVar[bool] = True
    #: Whether the two factors of low-rank changes are averaged each by itself.
    apart: ClassVar[bool] = False
    #: Whether a row whose weights are one for a module, and zero for the others, is answered as by that module alone.
    plain: ClassVar[bool] = False
    #: Whether modules answer each by itself, so that passages are encoded once for each, whatever the weights of a row.
    by_module: ClassVar[bool] = False
    #: A larger model that answers in the base's place, where the combination has one.
    larger: Encoder | None = None

    def fit(self, bank: ModuleBank, tasks: Mapping[str, RouteRows], seed: int) -> None:
        """Fit it on training rows of the tasks. Most have nothing to fit. The bank's encoder is left as it was."""

    def state(self) -> dict[str, Tensor]:
        """What was fitted, as tensors."""
        return {}

    def restore(self, bank: ModuleBank, state: Mapping[str, Tensor]) -> None:
        """Take up a state. Errors: ValueError for tensors that are none of its own."""
        taken_state(state)

    @property
    def parameters(self) -> int:
        """How many numbers it stores."""
        return sum(t.numel() for t in self.state().values())

    def take(self, larger: Encoder, base: Encoder) -> None:
        """Use a larger model. Errors: a combination that has no use for one; a model that does not fit the base."""
        raise ValueError(f"the combination '{self.name}' takes no larger model")

    def weighed(self, weights: Tensor) -> Tensor:
        """The weights that are used, from those that a router gives: (*, modules)."""
        return weights

    def answer(
        self,
        model: MultiTaskModel,
        bank: ModuleBank,
        task: str,
        batch: Batch,
        weighing: Tensor | Gate,
        *,
        scores: bool = False,
    ) -> Answers:
        """The answers to the rows of a batch. weighing: (n, modules) for a router of rows, or its gate."""
        with bank.using(self._used(weighing), apart=self.apart):
            return model.answered(task, model.features(batch), scores=scores)

    def rank(
        self,
        model: MultiTaskModel,
        bank: ModuleBank,
        task: str,
        rows: Sequence[Any],
        weighing: Tensor | Gate,
        *,
        batch_size: int = 64,
    ) -> Answers:
        """The answers to prepared rows of a task that ranks passages. Passages are encoded with each set of weights
        that a row has, and by a gate as the gate weighs each of them."""
        searcher = model.searcher
        if not isinstance(weighing, Tensor):
            with searcher.keeping("gate"), bank.using(self._used(weighing), apart=self.apart):
                return model.answer_prepared(task, rows, batch_size=batch_size)
        sets, group = torch.unique(self.weighed(weighing), dim=0, return_inverse=True)
        found, order = [], []
        for number, weights in enumerate(sets):
            own = (group == number).nonzero().squeeze(1).tolist()
            used = weights[None].to(model.device)
            with searcher.keeping(tuple(weights.tolist())), bank.using(used, apart=self.apart):
                found.append(model.answer_prepared(task, [rows[row] for row in own], batch_size=batch_size))
            order += own
        return Answers.join(found).take(sorted(range(len(order)), key=order.__getitem__))

    def _used(self, weighing: Tensor | Gate) -> Tensor | Gate:
        if isinstance(weighing, Tensor):
            return self.weighed(weighing)
        return lambda layer, values: self.weighed(weighing(layer, values))


def make_combine(name: str, values: Mapping[str, object] | None = None) -> Combine:
    """A combination by its name, with its settings."""
    entry = registry.find("combine", name)
    made: Combine = entry.load()(**entry.resolve(values or {}))
    return made


def largest(weights: Tensor) -> Tensor:
    """One for the largest weight of each, zero for the others; zero for all where none is above zero.

    >>> largest(torch.tensor([[0.2, 0.5], [0.0, 0.0]])).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    best = weights.argmax(-1, keepdim=True)
    return torch.zeros_like(weights).scatter_(-1, best, (weights.gather(-1, best) > 0).to(weights.dtype))
