"""What a gate is: it weighs modules for a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError

#: A use that a gate begins with is at least this far from 0 and from 1, so that training can still change it.
MARGIN = 0.1


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

    def begin(self, uses: Sequence[float]) -> None:
        """Begin with using each module that is not the task's own so much: from 0 (hardly) to 1 (surely).

        Errors: a gate that cannot begin from such numbers.
        """
        raise AllroundError(
            f"begin a gate of the sort '{type(self).__name__}' from given numbers",
            "its weights follow from what it reads",
            "take a way to share whose tasks have weights of their own, such as poly",
        )

    def __getstate__(self) -> dict[str, object]:
        """What a copy gets: all but what was remembered of the last batch, which hangs on the graph of that batch."""
        return {name: None if isinstance(value, Tensor) else value for name, value in self.__dict__.items()}

    def penalty(self) -> Tensor | None:
        """What is added to the loss of the task, from the weights that were given last; None where nothing is."""
        return None

    def progressed(self, share: float) -> None:
        """Told how much of the training is done."""
        self.share = share


def bounded(uses: Sequence[float]) -> Tensor:
    """Uses of modules, within `MARGIN` of neither 0 nor 1.

    >>> bounded([0.0, 0.3, 1.0]).tolist() == torch.tensor([0.1, 0.3, 0.9]).tolist()
    True
    """
    return torch.tensor(list(uses)).clamp(MARGIN, 1 - MARGIN)


def uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator | None = None) -> Tensor:
    """Numbers between -bound and bound."""
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound
