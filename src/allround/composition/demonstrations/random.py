"""random: examples drawn by the row's own text, so that a row is always shown the same ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allround.composition.demonstrating import Demonstrations
from allround.core.registry import method
from allround.core.seeds import seed_of


@method(source="in-context learning with examples drawn at random: Brown et al., NeurIPS 2020, arXiv:2005.14165")
class Random(Demonstrations):
    """Draws `count` examples of the row's task. seed: of the draw. What others are to be compared with."""

    name = "random"

    def __init__(self, *, count: int = 4, seed: int = 0) -> None:
        super().__init__(count)
        self.seed = seed

    def choose(self, task: str, texts: Sequence[str]) -> list[list[int]]:
        numbers = np.asarray(self.pool(task))
        drawn = [np.random.default_rng(seed_of(self.seed, "demonstrations", task, text)) for text in texts]
        return [one.permutation(numbers)[: self.count].tolist() for one in drawn]
