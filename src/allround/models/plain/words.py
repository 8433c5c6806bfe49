"""Each word of a row as what it is, how it is written, and what stands beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from scipy.sparse import csr_matrix

from allround.models.plain.reader import Arrays, Reader, Strengths, check_names
from allround.models.plain.vocabulary import Vocabulary
from allround.tasks.definition import Definition
from allround.tasks.values import Row

#: Words before and after a word that are looked at.
WINDOW = 2
#: Most letters of the beginnings and ends of a word.
ENDS = 3


@dataclass(frozen=True)
class Words(Reader):
    """One row of numbers for each word: which of the terms that `terms_of` gives are there."""

    vocabulary: Vocabulary

    sort = "words"
    words = "words, their spelling and the words beside them"
    strengths: ClassVar[Strengths] = {"labels": (0.1, 1.0, 10.0), "numbers": (0.1, 1.0, 10.0)}

    @classmethod
    def of(cls, rows: Sequence[Row], definition: Definition) -> Words:
        return cls(Vocabulary.of(_terms(rows)))

    @property
    def width(self) -> int:
        return len(self.vocabulary.terms)

    @property
    def stored(self) -> int:
        return 0

    def numbers(self, rows: Sequence[Row]) -> csr_matrix:
        return self.vocabulary.counts(_terms(rows))

    def written(self) -> tuple[dict[str, Any], Arrays]:
        return {}, {"terms": self.vocabulary.written()}

    @classmethod
    def read(cls, about: Mapping[str, Any], arrays: Arrays, definition: Definition) -> Words:
        check_names(arrays, ("terms",))
        if about:
            raise ValueError(f"it says {', '.join(map(str, about))[:50]} of words")
        return cls(Vocabulary.read(arrays["terms"]))


def _terms(rows: Sequence[Row]) -> list[list[str]]:
    return [terms for row in rows for terms in terms_of(cast("list[str]", row[0]))]


def terms_of(words: Sequence[str]) -> list[list[str]]:
    """The terms of each word: itself and its neighbours by their distance, its shape, its beginnings and ends.

    >>> terms_of(["Ada", "saw"])[1][:7]
    ['0=saw', '-1=ada', '1=', '-2=', '2=', 'shape=x', '^s']
    """
    low = [word.lower() for word in words]
    found = []
    for place, word in enumerate(low):
        terms = [f"0={word}"]
        for step in range(1, WINDOW + 1):
            terms.append(f"-{step}={low[place - step] if place >= step else ''}")
            terms.append(f"{step}={low[place + step] if place + step < len(low) else ''}")
        terms.append(f"shape={shape(words[place])}")
        for length in range(1, min(ENDS, len(word)) + 1):
            terms += [f"^{word[:length]}", f"{word[-length:]}$"]
        found.append(terms)
    return found


def shape(word: str) -> str:
    """How a word is written: letters as X or x, digits as 0, other signs as they are; each run once.

    >>> shape("BRCA1"), shape("Ataxia-telangiectasia"), shape("12.5")
    ('X0', 'Xx-x', '0.0')
    """
    found = ""
    for sign in word:
        kind = "0" if sign.isdigit() else "X" if sign.isupper() else "x" if sign.isalpha() else sign
        if not found.endswith(kind):
            found += kind
    return found
