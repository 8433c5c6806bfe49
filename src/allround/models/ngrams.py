"""The n-grams of some texts: where each occurs, what may follow it, and the score of a text by the n-grams in it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

#: Tokens of a text, or of a part of it.
Tokens = tuple[int, ...]
#: Tokens of all texts together that an index takes: with n-grams of 10 tokens it then has about 200 MB.
MOST_TOKENS = 2_000_000
#: Texts whose score is computed in full: those with the highest sums of the n-grams and tokens in them.
IN_FULL = 500
#: What stands behind the end of a text.
_END = -1


@dataclass(frozen=True)
class Span:
    """The places of the texts where an n-gram begins: those from `low` to `high` in the order of `NgramIndex`."""

    low: int
    high: int

    def __len__(self) -> int:
        return self.high - self.low


class NgramIndex:
    """All n-grams of up to `longest` tokens that occur in some texts, as a sorted list of what begins at each token.

    It answers what an FM-index does, in more memory: how often an n-gram occurs, where, and which tokens follow it.
    An n-gram never reaches from one text into the next.

    Errors: a ValueError where the texts have no tokens, or more than `MOST_TOKENS`.

    >>> index = NgramIndex([(5, 6, 7), (6, 7)], longest=2)
    >>> len(index.find((6, 7))), index.texts_with(index.find((6, 7))).tolist(), len(index.find((7, 6)))
    (2, [0, 1], 0)
    """

    def __init__(self, texts: Sequence[Tokens], longest: int) -> None:
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        self.size, self.longest = int(lengths.sum()), longest
        if not 0 < self.size <= MOST_TOKENS:
            raise ValueError(f"the texts have {self.size:,} tokens")
        self.tokens = np.fromiter((token for text in texts for token in text), np.int32, self.size)
        self.counts = np.bincount(self.tokens)
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        self.text = np.repeat(np.arange(len(texts)), lengths)
        begun = np.full((self.size, longest), _END, dtype=np.int32)
        left = self.starts[self.text + 1] - np.arange(self.size)
        for depth in range(longest):
            there = np.flatnonzero(left > depth)
            begun[there, depth] = self.tokens[there + depth]
        self._order = np.lexsort(begun.T[::-1])
        self._begun = np.asfortranarray(begun[self._order])  # each column in one piece, to be searched

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def everywhere(self) -> Span:
        """Where the n-gram of no tokens begins."""
        return Span(0, self.size)

    def after(self, span: Span, length: int) -> tuple[NDArray[np.int32], list[Span]]:
        """The tokens that follow an n-gram of so many tokens, and where each longer n-gram begins."""
        if length >= self.longest:
            return np.empty(0, dtype=np.int32), []
        column = self._begun[span.low : span.high, length]
        first = int(np.searchsorted(column, 0))  # texts that end there come first
        column = column[first:]  # sorted
        places = np.flatnonzero(np.diff(column, prepend=_END))
        bounds = [*(span.low + first + places).tolist(), span.high]
        return column[places], [Span(low, high) for low, high in pairwise(bounds)]

    def find(self, ngram: Tokens) -> Span:
        """Where an n-gram begins; an empty span where it occurs nowhere."""
        low, high = 0, self.size if len(ngram) <= self.longest else 0
        for depth, token in enumerate(ngram[: self.longest]):
            column = self._begun[low:high, depth]
            low, high = (low + int(np.searchsorted(column, token, side)) for side in ("left", "right"))
        return Span(low, high)

    def places(self, span: Span) -> NDArray[np.int64]:
        """The numbers of the tokens that an n-gram begins at, among the tokens of all texts."""
        return self._order[span.low : span.high]

    def texts_with(self, span: Span) -> NDArray[np.int64]:
        """The numbers of the texts that have an n-gram, in order."""
        found: NDArray[np.int64] = np.unique(self.text[self.places(span)])
        return found


def gain(log_probability: float, count: int, size: int, smoothing: float = 5.0) -> float:
    """How much more probable an n-gram is behind a query than anywhere in the texts: the difference of log-odds.

    log(p (1 - f) / (f (1 - p))), with p behind the query and f = (count + smoothing) / (size + smoothing).
    count: of its occurrences. size: tokens of all texts.

    >>> round(gain(math.log(0.5), count=1, size=55), 4)
    2.1972
    """
    said = min(log_probability, -1e-10)
    found = min(math.log((count + smoothing) / (size + smoothing)), -1e-10)
    return said + math.log(-math.expm1(found)) - found - math.log(-math.expm1(said))


def rank_texts(
    index: NgramIndex,
    ngrams: Mapping[Tokens, float],
    tokens: Mapping[int, float],
    *,
    alpha: float = 2.0,
    beta: float = 0.8,
    smoothing: float = 5.0,
) -> list[tuple[int, float]]:
    """The texts that have some of the n-grams and tokens that a model wrote, as (number, score), the best first; of
    equal ones the first text.

    ngrams, tokens: log-probabilities behind the query; n-grams of one token count as n-grams. The weight of a token is
    its `gain`, at least 0, and that of an n-gram the same to the power of `alpha`. In each text the n-gram with the
    highest weight takes its places, then the next one those that are free, and each counts once, at 1 - beta + beta * u
    of its weight, where u is the share of its distinct tokens that no n-gram before it has. The free places that are
    left count by their tokens, each once, discounted in the same way. Texts without any weight follow by the highest
    gain, at most 0, of what they have.
    Source: Bevilacqua et al., NeurIPS 2022, arXiv:2204.10628, and seal/keys.py of facebookresearch/SEAL, whose values
    of alpha, beta and smoothing are the defaults.
    Differs: there, texts that have single tokens alone and those without weight are left out, and which texts are
    scored in full (`IN_FULL`) is not decided by the plain sum of weights.

    >>> index = NgramIndex([(5, 6, 7), (6, 8)], longest=2)
    >>> rank_texts(index, {(5, 6): math.log(0.9)}, {})[0][0]
    0
    """
    spans = {ngram: span for ngram in ngrams if (span := index.find(ngram))}
    gains = {ngram: gain(ngrams[ngram], len(span), index.size, smoothing) for ngram, span in spans.items()}
    weights = {ngram: one**alpha for ngram, one in gains.items() if one > 0}
    alone = np.full(len(index.counts), -np.inf)
    for token, said in tokens.items():
        if (token,) not in ngrams and token < len(alone) and index.counts[token]:
            alone[token] = gain(said, int(index.counts[token]), index.size, smoothing)
    single = np.maximum(alone, 0.0)
    rough = np.bincount(index.text, weights=single[index.tokens], minlength=len(index))
    for ngram, one in weights.items():
        rough[index.texts_with(spans[ngram])] += one
    best = np.argsort(-rough, kind="stable")[:IN_FULL]
    chosen = {int(text) for text in best if rough[text] > 0}
    matches: dict[int, list[tuple[float, Tokens, int]]] = defaultdict(list)
    for ngram, one in weights.items():
        places = index.places(spans[ngram])
        for text, place in zip(index.text[places].tolist(), places.tolist(), strict=True):
            if text in chosen:
                matches[text].append((-one, ngram, place))
    scores = {text: _score(index, text, sorted(matches[text]), single, beta) for text in sorted(chosen)}
    highest = np.full(len(index), -np.inf)
    np.maximum.at(highest, index.text, alone[index.tokens])
    for ngram, one in gains.items():
        with_it = index.texts_with(spans[ngram])
        highest[with_it] = np.maximum(highest[with_it], one)
    scores |= {int(text): float(highest[text]) for text in np.flatnonzero((rough == 0) & (highest > -np.inf))}
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))


def _score(
    index: NgramIndex, text: int, matches: Sequence[tuple[float, Tokens, int]], single: NDArray[np.float64], beta: float
) -> float:
    """The score of one text. matches: (-weight, n-gram, place), the highest weight first."""
    start, stop = (int(one) for one in index.starts[text : text + 2])
    taken: set[int] = set()
    covered: set[int] = set()
    before: Tokens = ()
    total = 0.0

    def discounted(some: set[int], one: float) -> float:
        return one * (1 - beta + beta * len(some - covered) / len(some)) if covered else one

    for minus, ngram, place in matches:
        places = range(place, place + len(ngram))
        if not taken.isdisjoint(places):
            continue
        if ngram != before:
            total += discounted(set(ngram), -minus)
            covered |= set(ngram)
            before = ngram
        taken.update(places)
    left = {int(index.tokens[place]) for place in range(start, stop) if place not in taken}
    return total + sum(discounted({token}, float(single[token])) for token in sorted(left))
