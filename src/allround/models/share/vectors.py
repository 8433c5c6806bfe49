"""A vector of each task, which gates and generators of weights read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from allround.models.named import NamedModules
from allround.models.share.plan import Vectors


class _Vector(nn.Module):
    def __init__(self, size: int, given: Sequence[float] | None) -> None:
        super().__init__()
        if given is None:
            self.numbers = nn.Parameter(torch.randn(size))
        else:
            self.register_buffer("numbers", torch.tensor(given, dtype=torch.float32))


class TaskVectors(nn.Module):
    """The vectors of a plan's tasks: those that it gives stay as they are, the others are learned."""

    def __init__(self, plan: Vectors) -> None:
        super().__init__()
        self.plan = plan
        self.tasks = NamedModules()

    @property
    def size(self) -> int:
        return next((len(given) for given in self.plan.given.values()), self.plan.size)

    def add_tasks(self, names: Sequence[str]) -> None:
        for name in names:
            self.tasks[name] = _Vector(self.size, self.plan.given.get(name))

    def forward(self, task: str) -> Tensor:
        """(size,)"""
        found = self.tasks[task].numbers
        assert isinstance(found, Tensor)
        return found

    def own(self, task: str) -> dict[str, nn.Parameter]:
        return {f"tasks.{task}.{name}": p for name, p in self.tasks[task].named_parameters()}
