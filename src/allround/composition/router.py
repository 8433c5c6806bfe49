"""What a router is: it says how much each module of a library has to say about a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from allround.composition.modules.bank import ModuleBank
from allround.core import registry
from allround.core.errors import AllroundError
from allround.models.batch import Features
from allround.tasks.definition import Definition


@dataclass(frozen=True)
class RouteRows:
    """Rows of one task that a router is fitted on: of training, never of test.

    module: the number of the module that was tuned on the task; None where there is none. prepared: for the bank's
    encoder. targets: encoded labels, for routers that need them.
    """

    definition: Definition
    module: int | None
    prepared: Sequence[Any]
    targets: Any = None


@dataclass
class Seen:
    """What a router looks at of a batch of rows.

    features: of the base alone, (n, d), the mean over a row's words where it has several vectors. task: that of all
    rows, for a router that is told.
    """

    features: Tensor
    task: str | None = None


class Router(ABC):
    """Weighs the modules of a bank: for a row at once, or for each place of a row at each layer.

    A router is made with its settings, then fitted on rows or given the state that it had. Its weights of a row depend
    on that row alone.
    """

    name: ClassVar[str]
    #: Where it decides: once for a row ("row"), or at each layer for each place ("place").
    level: ClassVar[str] = "row"
    #: Whether it gives weights to several modules of a row; else to one.
    mixes: ClassVar[bool] = True
    #: Whether it is told which task a row is of.
    told: ClassVar[bool] = False

    def __init__(self) -> None:
        self.count = 0

    def fit(self, bank: ModuleBank, tasks: Mapping[str, RouteRows], seed: int) -> None:
        """Fit it on rows of the tasks. The bank's encoder is left as it was."""
        self.count = len(bank)

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What was fitted, as tensors."""

    @abstractmethod
    def restore(self, bank: ModuleBank, state: Mapping[str, Tensor]) -> None:
        """Take up a state. Errors: ValueError for tensors that are none of its own."""

    def weights(self, seen: Seen) -> Tensor:
        """(n, modules), of a router that decides once for a row."""
        raise NotImplementedError(f"the router '{self.name}' decides at each layer")

    def gate(self, layer: str, values: Tensor) -> Tensor:
        """(n, *, modules) from what a layer reads, of a router that decides there."""
        raise NotImplementedError(f"the router '{self.name}' decides once for a row")

    @property
    def parameters(self) -> int:
        """How many numbers it stores."""
        return sum(t.numel() for t in self.state().values())


def make_router(name: str, values: Mapping[str, object] | None = None) -> Router:
    """A router by its name, with its settings, not fitted yet."""
    entry = registry.find("route", name)
    made: Router = entry.load()(**entry.resolve(values or {}))
    return made


def row_vectors(features: Features, count: int) -> Tensor:
    """One vector for each of `count` rows: the mean over its words, where a row has one for each.

    >>> row_vectors(Features(torch.tensor([[1.0], [3.0], [5.0]]), (2, 1)), 2).tolist()
    [[2.0], [5.0]]
    """
    if not features.lengths:
        return features.values
    parts = features.values.split(list(features.lengths))
    return torch.stack([p.mean(0) if len(p) else p.new_zeros(p.shape[-1]) for p in parts[:count]])


@torch.inference_mode()
def base_vectors(bank: ModuleBank, rows: RouteRows, batch_size: int = 64) -> Tensor:
    """What the base alone makes of rows, (n, d), in their order."""
    from allround.models.running import batches

    bank.encoder.eval()
    found: list[Tensor] = [torch.empty(0)] * len(rows.prepared)
    for numbers, batch in batches(bank.encoder, rows.prepared, rows.definition, batch_size):
        made = row_vectors(bank.encoder(batch), batch.size).float().cpu()
        for number, vector in zip(numbers, made, strict=True):
            found[number] = vector
    return torch.stack(found)


def labelled_vectors(bank: ModuleBank, tasks: Mapping[str, RouteRows]) -> tuple[Tensor, Tensor]:
    """The base's vectors of all rows of tasks that have a module, and the number of that module for each."""
    vectors, modules = [], []
    for rows in tasks.values():
        if rows.module is not None and len(rows.prepared):
            made = base_vectors(bank, rows)
            vectors.append(made)
            modules.append(torch.full((len(made),), rows.module))
    if not vectors:
        raise AllroundError(
            "fit a router", "none of the tasks has a module of its own", "give rows of the tasks of the modules"
        )
    return torch.cat(vectors), torch.cat(modules)


def taken_state(state: Mapping[str, Tensor], **shapes: tuple[int | None, ...]) -> list[Tensor]:
    """Tensors of a state by their names, in that order. None in a shape: any length. Errors: ValueError."""
    if set(state) != set(shapes):
        raise ValueError(f"it holds {', '.join(sorted(state)) or 'nothing'}, and not {', '.join(sorted(shapes))}")
    for name, shape in shapes.items():
        found = tuple(state[name].shape)
        if len(found) != len(shape) or any(w is not None and w != f for w, f in zip(shape, found, strict=True)):
            raise ValueError(f"'{name}' has the shape {found}, and not {shape}")
    return [state[name].float() for name in shapes]
