"""Of the states that a learned merge goes through, the one whose answers are nearest to the specialists'."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from allround.core import registry
from allround.merging.learn.objective import Response
from allround.tasks.definition import Definition

#: Most rows of a task that are answered in each state.
ROWS = 128


class Guard:
    """Keeps a copy of what is learned as it was in the best of the states that it was shown.

    >>> value = torch.tensor([1.0])
    >>> guard = Guard([value])
    >>> guard.see(0, 0.5)
    >>> guard.see(1, 0.7)
    >>> guard.take_back()["kept_step"]
    0
    """

    def __init__(self, learned: Iterable[Tensor]) -> None:
        self.learned = list(learned)
        self.best = [tensor.detach().clone() for tensor in self.learned]
        self.distances: dict[int, float] = {}
        self.step = 0

    def see(self, step: int, distance: float) -> None:
        """The state after so many steps is so far from the specialists."""
        if math.isfinite(distance) and distance < min(self.distances.values(), default=math.inf):
            self.step, self.best = step, [tensor.detach().clone() for tensor in self.learned]
        self.distances[step] = distance

    def take_back(self) -> dict[str, object]:
        """Set what is learned to the best state; which one that is, and how far each was."""
        with torch.no_grad():
            for tensor, best in zip(self.learned, self.best, strict=True):
                tensor.copy_(best)
        return {"kept_step": self.step, "distances": {str(s): round(d, 6) for s, d in self.distances.items()}}


def distance(merged: Response, specialist: Response, definition: Definition) -> Tensor:
    """How far answers are from the specialist's: their divergence, or where there is no head that of the features.

    Shapes: logits (n, outputs), or features (n, d) -> ()
    """
    name = "features" if merged.logits is None else "divergence"
    settings = {"distance": "cosine"} if merged.logits is None else {}
    found: Tensor = registry.load("objective", name)(merged, specialist, torch.empty(0), definition, **settings)
    return found
