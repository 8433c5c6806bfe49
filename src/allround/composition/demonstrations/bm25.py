"""bm25: the examples that share rare words with the row."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from allround.composition.demonstrating import Demonstrations, best
from allround.composition.examples import Bank
from allround.composition.text_reading import TextReader
from allround.core.errors import AllroundError
from allround.core.registry import method


@method(source="Okapi BM25: Robertson and Zaragoza, Foundations and Trends in IR 3(4), 2009, section 3; log(1 + x) of "
        "the inverse document frequency as in Lucene, so that none is below zero")  # fmt: skip
class Bm25(Demonstrations):
    """The `count` examples of the row's task with the largest BM25 score of their texts; words are lower-cased runs of
    letters and digits.

    Formula: sum over words w of the row: log(1 + (n - df_w + 0.5) / (df_w + 0.5)) * f (k1 + 1) / (f + k1 (1 - b + b
    length / mean length)), with f how often w is in the example.
    """

    name = "bm25"

    def __init__(self, *, count: int = 4, k1: float = 1.5, b: float = 0.75) -> None:
        super().__init__(count)
        if not (k1 >= 0 and 0 <= b <= 1):
            raise AllroundError(f"score texts by BM25 with k1={k1} and b={b}", "k1 must be 0 or more, b from 0 to 1",
                                "give such numbers")  # fmt: skip
        self.k1, self.b = k1, b

    def begin(self, bank: Bank, reader: TextReader) -> None:
        super().begin(bank, reader)
        self._index: dict[str, tuple[dict[str, int], np.ndarray]] = {}

    def choose(self, task: str, texts: Sequence[str]) -> list[list[int]]:
        numbers = self.pool(task)
        if task not in self._index:
            self._index[task] = self._weights(self.bank.texts(numbers))
        places, weights = self._index[task]
        found = []
        for text in texts:
            words = [places[word] for word in _words(text) if word in places]
            found.append(best(weights[:, words].sum(1), numbers, self.count))
        return found

    def _weights(self, texts: Sequence[str]) -> tuple[dict[str, int], np.ndarray]:
        """What each word of the bank adds to the score of each text: (texts, words)."""
        words = [_words(text) for text in texts]
        places = {word: place for place, word in enumerate(sorted({word for some in words for word in some}))}
        counts = np.zeros((len(texts), len(places)), dtype=np.float32)
        for number, some in enumerate(words):
            np.add.at(counts[number], [places[word] for word in some], 1)
        lengths = counts.sum(1, keepdims=True)
        inside = (counts > 0).sum(0)
        rare = np.log1p((len(texts) - inside + 0.5) / (inside + 0.5))
        share = self.k1 * (1 - self.b + self.b * lengths / max(float(lengths.mean()), 1e-12))
        return places, rare * counts * (self.k1 + 1) / (counts + share + 1e-12)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
