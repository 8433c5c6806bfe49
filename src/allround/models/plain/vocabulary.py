"""Terms that occur in training rows, and rows as counts of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from allround.core.reading import parse_json
from allround.core.schema import fitted

#: Most terms of a vocabulary; those of the most rows are kept.
MOST_TERMS = 50_000


@dataclass(frozen=True)
class Vocabulary:
    """Terms in their order, each once."""

    terms: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[Sequence[str]], least: int = 2) -> Vocabulary:
        """The terms of at least so many rows, in alphabetical order; where there are none, all of them.

        >>> Vocabulary.of([["b", "a"], ["b", "b"], ["a", "c"]]).terms
        ('a', 'b')
        """
        counts = Counter(term for row in rows for term in set(row))
        kept = [term for term, count in counts.items() if count >= least] or list(counts) or [""]
        return cls(tuple(sorted(sorted(kept, key=lambda term: (-counts[term], term))[:MOST_TERMS])))

    @cached_property
    def places(self) -> dict[str, int]:
        """The place of each term."""
        return {term: place for place, term in enumerate(self.terms)}

    def counts(self, rows: Sequence[Sequence[str]]) -> csr_matrix:
        """How often each term is in each row: (n, terms), float32; other terms count nothing.

        >>> Vocabulary(("a", "b")).counts([["b", "x", "b"], []]).toarray().tolist()
        [[0.0, 2.0], [0.0, 0.0]]
        """
        places, indices, values, ends = self.places, [], [], [0]
        for row in rows:
            found: dict[int, int] = {}
            for term in row:
                place = places.get(term)
                if place is not None:
                    found[place] = found.get(place, 0) + 1
            for place in sorted(found):
                indices.append(place)
                values.append(found[place])
            ends.append(len(indices))
        parts = (np.array(values, np.float32), np.array(indices, np.int32), np.array(ends, np.int32))
        return csr_matrix(parts, shape=(len(rows), len(self.terms)))

    def written(self) -> NDArray[np.uint8]:
        """The bytes of a JSON list of the terms."""
        return np.frombuffer(json.dumps(self.terms).encode(), np.uint8)

    @classmethod
    def read(cls, written: NDArray[np.generic]) -> Vocabulary:
        """The inverse of `written`; a ValueError for anything else."""
        if written.dtype != np.uint8 or written.ndim != 1:
            raise ValueError("the terms of a vocabulary are not bytes")
        terms = fitted(tuple[str, ...], parse_json(written.tobytes().decode()))
        if len(set(terms)) < len(terms):
            raise ValueError("a vocabulary has a term twice")
        return cls(terms)


@dataclass(frozen=True)
class Tfidf:
    """Counts of terms, of which frequent ones weigh less (Salton and Buckley, 1988).

    A term that occurs c times in a row counts (1 + log c) * idf, where idf = log((1 + n) / (1 + d)) + 1 for a term that
    is in d of n training rows; each row is then scaled to length 1.
    """

    vocabulary: Vocabulary
    idf: NDArray[np.float32]

    @classmethod
    def of(cls, rows: Sequence[Sequence[str]]) -> Tfidf:
        vocabulary = Vocabulary.of(rows)
        seen = np.asarray((vocabulary.counts(rows) > 0).sum(0)).ravel()
        return cls(vocabulary, (np.log((1 + len(rows)) / (1 + seen)) + 1).astype(np.float32))

    def numbers(self, rows: Sequence[Sequence[str]]) -> csr_matrix:
        """(n, terms), float32, each row of length 1 or, without any known term, 0.

        >>> Tfidf.of([["a", "b"], ["a", "b"]]).numbers([["a", "b", "b"]]).toarray().astype("float64").round(3).tolist()
        [[0.509, 0.861]]
        """
        found = self.vocabulary.counts(rows)
        found.data = (1 + np.log(found.data)) * self.idf[found.indices]
        lengths = np.sqrt(np.asarray(found.multiply(found).sum(1)).ravel())
        found.data /= np.repeat(np.where(lengths > 0, lengths, 1), np.diff(found.indptr)).astype(np.float32)
        return found
