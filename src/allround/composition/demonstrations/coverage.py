"""coverage: the set of examples that together say most of what the row says, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from allround.composition.demonstrating import Demonstrations, best
from allround.core.registry import method


@method(
    source="Gupta et al., Findings of EMNLP 2023, arXiv:2305.14907, section 4; Shivanshu-Gupta/icl-coverage",
    paper="Coverage-based Example Selection for In-Context Learning",
)
class Coverage(Demonstrations):
    """Chooses by BERTScore-Recall: the mean, over the tokens of the row, of the largest cosine with a token of an
    example (BSR) or of any example of a set (Set-BSR), whose examples are taken greedily.

    together: by sets; else each example by itself. encoder: a text encoder whose states are compared; left out, those
    of the language model after half of its layers.
    Differs: the authors read tokens by a DeBERTa tuned on MNLI.
    """

    name = "coverage"

    def __init__(self, *, count: int = 4, together: bool = True, encoder: str = "") -> None:
        super().__init__(count)
        self.together, self.encoder = together, encoder

    def choose(self, task: str, texts: Sequence[str]) -> list[list[int]]:
        numbers = self.pool(task)
        tokens = self.reader.tokens(self.bank.texts(numbers))
        starts = np.cumsum([0, *(len(one) for one in tokens[:-1])])
        every = np.concatenate(tokens)
        found = []
        for own in self.reader.tokens(texts):
            recall = np.asarray(np.maximum.reduceat(every @ own.T, starts) / len(own), dtype=np.float32)
            if self.together:
                found.append([numbers[place] for place in greedy(recall, self.count)])
            else:
                found.append(best(recall.sum(1), numbers, self.count))
        return found


def greedy(recall: NDArray[np.float32], count: int) -> list[int]:
    """The rows (examples) taken one after the other, so that the sum over columns (tokens) of the largest entry grows
    most; where none grows it any more, they are taken as from the beginning.

    >>> greedy(np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.5]], dtype=np.float32), 3)
    [0, 2, 1]
    """
    chosen: list[int] = []
    covered = np.full(recall.shape[1], -np.inf, dtype=np.float32)
    score = -np.inf
    while len(chosen) < min(count, len(recall)):
        gained = np.round(np.maximum(recall, covered).sum(1), 5)
        gained[chosen] = -np.inf
        place = int(gained.argmax())
        if gained[place] > score:
            chosen.append(place)
            covered, score = np.maximum(covered, recall[place]), gained[place]
        else:
            covered, score = np.full_like(covered, -np.inf), -np.inf
    return chosen
