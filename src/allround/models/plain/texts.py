"""Texts as frequencies of their words and of short strings of characters; pairs of texts also as what they share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack

from allround.models.plain.reader import Arrays, Reader, Strengths, check_array, check_names
from allround.models.plain.vocabulary import Tfidf, Vocabulary
from allround.tasks.definition import Definition
from allround.tasks.values import Row

#: Words, and each sign that is part of none.
_WORD = re.compile(r"\w+|[^\w\s]")
#: Lengths of the strings of characters.
LENGTHS = (3, 4)
#: Numbers that say what two texts share.
SHARED = 6


@dataclass(frozen=True)
class Texts(Reader):
    """TF-IDF of words and pairs of words, and of strings of 3 and 4 characters within words.

    Of a pair of texts a and b: the numbers of both, |a - b| and a * b for words, and how like they are: cosines, and
    which words they share, standardised by `centre` and `scale`.
    """

    words_of: Tfidf
    characters: Tfidf
    pair: bool
    centre: NDArray[np.float32]
    scale: NDArray[np.float32]

    sort = "texts"
    words = "TF-IDF of words and characters"
    strengths: ClassVar[Strengths] = {"labels": (1.0, 10.0, 100.0), "numbers": (0.1, 1.0, 10.0)}

    @classmethod
    def of(cls, rows: Sequence[Row], definition: Definition) -> Texts:
        texts = [str(text) for row in rows for text in row]
        made = [Tfidf.of([split(text) for text in texts]) for split in (word_terms, character_terms)]
        none = np.zeros(0, np.float32)
        if not definition.pair:
            return cls(made[0], made[1], False, none, none)
        shared = cls(made[0], made[1], True, np.zeros(SHARED, np.float32), np.ones(SHARED, np.float32))._shared(rows)
        scale = shared.std(0)
        return cls(made[0], made[1], True, shared.mean(0), np.where(scale > 0, scale, 1).astype(np.float32))

    @property
    def width(self) -> int:
        words, characters = len(self.words_of.idf), len(self.characters.idf)
        return 4 * words + 2 * characters + SHARED if self.pair else words + characters

    @property
    def stored(self) -> int:
        return len(self.words_of.idf) + len(self.characters.idf) + 2 * len(self.centre)

    def numbers(self, rows: Sequence[Row]) -> csr_matrix:
        sides = [[str(row[place]) for row in rows] for place in range(1 + self.pair)]
        words = [self.words_of.numbers([word_terms(text) for text in side]) for side in sides]
        characters = [self.characters.numbers([character_terms(text) for text in side]) for side in sides]
        parts = [*words, *characters]
        if self.pair:
            shared = (self._shared(rows) - self.centre) / self.scale
            parts += [abs(words[0] - words[1]), words[0].multiply(words[1]), csr_matrix(shared)]
        return hstack(parts, format="csr", dtype=np.float32)

    def _shared(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """What the texts of each pair share: (n, SHARED)."""
        found = []
        for a, b in ((set(word_terms(str(one))), set(word_terms(str(other)))) for one, other in rows):
            both = len(a & b)
            found.append([both / max(1, len(a | b)), both / max(1, len(a)), both / max(1, len(b)),
                          np.log((1 + len(a)) / (1 + len(b)))])  # fmt: skip
        cosines = []
        for tfidf, split in ((self.words_of, word_terms), (self.characters, character_terms)):
            one, other = (tfidf.numbers([split(str(row[place])) for row in rows]) for place in (0, 1))
            cosines.append(np.asarray(one.multiply(other).sum(1)).reshape(-1, 1))
        return np.concatenate([np.array(found, np.float32).reshape(-1, SHARED - 2), *cosines], 1).astype(np.float32)

    def written(self) -> tuple[dict[str, Any], Arrays]:
        arrays: dict[str, NDArray[np.generic]] = {
            "words": self.words_of.vocabulary.written(),
            "word_idf": self.words_of.idf,
            "characters": self.characters.vocabulary.written(),
            "character_idf": self.characters.idf,
        }
        if self.pair:
            arrays |= {"centre": self.centre, "scale": self.scale}
        return {}, arrays

    @classmethod
    def read(cls, about: Mapping[str, Any], arrays: Arrays, definition: Definition) -> Texts:
        shared = ("centre", "scale") if definition.pair else ()
        check_names(arrays, ("words", "word_idf", "characters", "character_idf", *shared))
        if about:
            raise ValueError(f"it says {', '.join(map(str, about))[:50]} of texts")
        made = []
        for part, idf in (("words", "word_idf"), ("characters", "character_idf")):
            vocabulary = Vocabulary.read(arrays[part])
            made.append(Tfidf(vocabulary, check_array(arrays, idf, (len(vocabulary.terms),))))
        none = np.zeros(0, np.float32)
        centre, scale = (check_array(arrays, name, (SHARED,)) for name in shared) if shared else (none, none)
        if not (scale > 0).all():
            raise ValueError("'scale' is not above 0")
        return cls(made[0], made[1], definition.pair, centre, scale)


def word_terms(text: str) -> list[str]:
    """The words and signs of a text in small letters, and each two that follow each other.

    >>> word_terms("So, good")
    ['so', ',', 'good', 'so ,', ', good']
    """
    words = _WORD.findall(text.lower())
    return [*words, *(f"{one} {other}" for one, other in pairwise(words))]


def character_terms(text: str) -> list[str]:
    """The strings of 3 and 4 characters of each word of a text, with a space before and after it.

    A word that is shorter stands for itself.

    >>> character_terms("Good")
    [' go', 'goo', 'ood', 'od ', ' goo', 'good', 'ood ']
    """
    found: list[str] = []
    for word in text.lower().split():
        shown = f" {word} "
        for length in LENGTHS:
            found += [shown[start : start + length] for start in range(max(1, len(shown) - length + 1))]
            if len(shown) <= length:
                break
    return found
