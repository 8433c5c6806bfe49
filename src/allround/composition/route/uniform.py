"""uniform: every module has the same weight."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from allround.composition.modules.bank import ModuleBank
from allround.composition.router import Router, Seen, taken_state
from allround.core.registry import method


@method(source="the mean of all modules, the router mu of mttl; nothing is fitted")
class Uniform(Router):
    """Gives every module 1 / n: with outputs combined, the plain average of the modules. Needs no rows."""

    name = "uniform"

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, bank: ModuleBank, state: Mapping[str, Tensor]) -> None:
        taken_state(state)
        self.count = len(bank)

    def weights(self, seen: Seen) -> Tensor:
        return seen.features.new_full((len(seen.features), self.count), 1 / self.count)
