"""task_id: the module of the task that is asked for, which the router is told."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from allround.composition.modules.bank import ModuleBank
from allround.composition.router import Router, RouteRows, Seen, taken_state
from allround.core.registry import method


@method(source="what a router could reach at best if each task is served best by its own module; nothing is fitted")
class TaskId(Router):
    """Is told the task of each row, and gives it the module that was tuned on that; a task without one gets the base.

    It stands for specialists stored as modules. Needs no rows.
    """

    name = "task_id"
    mixes = False
    told = True

    def __init__(self) -> None:
        super().__init__()
        self.modules: dict[str, int] = {}

    def fit(self, bank: ModuleBank, tasks: Mapping[str, RouteRows], seed: int) -> None:
        super().fit(bank, tasks, seed)
        self.modules = {name: rows.module for name, rows in tasks.items() if rows.module is not None}

    def state(self) -> dict[str, Tensor]:
        return {f"task.{name}": torch.tensor([number]) for name, number in self.modules.items()}

    def restore(self, bank: ModuleBank, state: Mapping[str, Tensor]) -> None:
        self.count = len(bank)
        taken_state(state, **dict.fromkeys((name for name in state if name.startswith("task.")), (1,)))
        self.modules = {name.removeprefix("task."): int(number) for name, number in state.items()}
        if not all(0 <= number < self.count for number in self.modules.values()):
            raise ValueError("it names a module that is not there")

    def weights(self, seen: Seen) -> Tensor:
        found = seen.features.new_zeros(len(seen.features), self.count)
        module = self.modules.get(seen.task or "")
        if module is not None:
            found[:, module] = 1
        return found
