"""Which part of a grown system a row is for: what a way to select sees, and what it must give."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from allround.continual.parts import PartHolder
from allround.continual.rows import Memory
from allround.core import registry
from allround.models.running import features_of
from allround.tasks.task import Task
from allround.tasks.values import Row


class RowView:
    """Rows of one task, as the parts of a grown system and its base see them. Everything is computed once.

    parts: the numbers of the parts that may answer.
    """

    def __init__(
        self, system: PartHolder, task: str, rows: Sequence[Row], parts: Sequence[int], batch_size: int = 64
    ) -> None:
        self.system, self.task, self.rows, self.parts = system, task, rows, tuple(parts)
        self.batch_size = batch_size
        self._features: dict[int, Tensor] = {}

    @cached_property
    def base(self) -> Tensor:
        """Features of the encoder as it was before the first arrival, (n, d)."""
        definition = self.system.definitions[self.task]
        with self.system.plain() as encoder:
            return features_of(encoder, encoder.prepare(self.rows, definition), definition).values

    def features(self, part: int) -> Tensor:
        """Features of the encoder of a part, (n, d)."""
        if part not in self._features:
            one = self.system.parts[part]
            body = self.system.bodies[one.body]
            found = features_of(body.encoder, body.prepare(one.name, self.rows), body.definition(one.name))
            self._features[part] = found.values
        return self._features[part]

    @torch.no_grad()
    def outputs(self, part: int) -> Tensor:
        """What the head of a part gives, (n, labels)."""
        one = self.system.parts[part]
        body = self.system.bodies[one.body]
        found: Tensor = body.output_head(one.name)(self.features(part))
        return found

    def probabilities(self, part: int) -> Tensor:
        """What a part answers, (n, labels): the probabilities of its own labels."""
        one = self.system.parts[part]
        found = self.system.bodies[one.body].answers(one.name, self.rows, batch_size=self.batch_size, scores=True)
        return torch.as_tensor(np.asarray(found.scores), dtype=torch.float64)


class Select(ABC):
    """Weighs the parts of a system that know a task, for each row.

    state: what it has learned, by name; stored with the system, and counted as remembered.
    """

    #: Whether it picks a part for each row, so that it can be right or wrong.
    picks: ClassVar[bool] = True
    #: What becomes of a label that several parts know: its probabilities are added ("sum"), or their mean is taken over
    #: these parts, whatever their weights ("mean").
    mix: ClassVar[str] = "sum"

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def arrived(self, system: PartHolder, arrived: Mapping[int, Task], memory: Memory, seed: int) -> None:  # noqa: B027
        """Learn from what has arrived. arrived: the rows of each new part, as a task of its own labels. memory: as it
        is after the arrival."""

    @abstractmethod
    def scores(self, view: RowView) -> Tensor:
        """(n, parts): the logarithms of the weights of `view.parts`, up to a constant of each row."""

    def probabilities(self, view: RowView, part: int) -> Tensor:
        """The probabilities of the labels of a part, (n, labels), where labels exclude each other: those of its head,
        among the labels that are the task's."""
        known = view.system.definitions[view.task].labels
        given = view.probabilities(part)
        own = torch.tensor([label in known for label in view.system.definition_of(part).labels])
        return given * own / (given * own).sum(1, keepdim=True).clamp_min(1e-300)


def make_select(name: str, values: Mapping[str, object] | None = None) -> Select:
    """A way to select by its name, with its parameters.

    >>> type(make_select("even")).__name__
    'Even'
    """
    entry = registry.find("select", name)
    made: Select = entry.load()(**entry.resolve(values or {}))
    return made
