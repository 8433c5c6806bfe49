"""What a gate is: it weighs modules for a task."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Gate(nn.Module, ABC):
    """Weighs `count` modules for one task, from vectors of `width` numbers that it may read.

    own: which of the modules are the task's own, where it has some. channels: where it is not 0, a gate weighs each of
    the numbers that a module gives, and there are so many.
    """

    channels = 0

    def __init__(self, count: int, width: int, own: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.count, self.width, self.own = count, width, own
        self.share = 0.0

    @abstractmethod
    def forward(self, values: Tensor) -> Tensor:
        """(*, width) -> weights (*, count), or (count,) where they do not depend on the vectors; with `channels`
        (*, count, channels).

        While the model is not training they depend on nothing random.
        """

    def __getstate__(self) -> dict[str, object]:
        """What a copy gets: all but what was remembered of the last batch, which hangs on the graph of that batch."""
        return {name: None if isinstance(value, Tensor) else value for name, value in self.__dict__.items()}

    def penalty(self) -> Tensor | None:
        """What is added to the loss of the task, from the weights that were given last; None where nothing is."""
        return None

    def progressed(self, share: float) -> None:
        """Told how much of the training is done."""
        self.share = share


def uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator | None = None) -> Tensor:
    """Numbers between -bound and bound."""
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound
