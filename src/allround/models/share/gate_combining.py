"""Gates that need to see what modules give."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from allround.models.share.gate_base import Gate


class Combiner(Gate):
    """A gate that makes one vector of those of all modules."""

    @abstractmethod
    def combine(self, values: Tensor, found: Tensor) -> Tensor:
        """What is read, (*, width), and what the modules give, (*, count, outputs) -> (*, outputs)."""

    def forward(self, values: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no weights without what the modules give")
