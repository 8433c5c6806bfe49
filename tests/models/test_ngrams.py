"""N-grams of texts: what occurs is found, nothing else follows, and scores are those of a computation by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from allround.models import ngrams as module
from allround.models.identifiers import sample_ngrams
from allround.models.ngrams import NgramIndex, Span, gain, rank_texts


def test_the_index_is_that_of_plain_counting() -> None:
    generator = np.random.default_rng(0)
    texts = [tuple(generator.integers(0, 4, size).tolist()) for size in (0, 1, 7, 3, 20, 12)]
    index = NgramIndex(texts, longest=3)
    counts = Counter(
        text[start : start + length]
        for text in texts
        for length in (1, 2, 3)
        for start in range(len(text) - length + 1)
    )
    for a in range(5):
        for b in range(5):
            for c in range(5):
                for ngram in ((a,), (a, b), (a, b, c)):
                    span = index.find(ngram)
                    assert len(span) == counts[ngram]
                    where = [n for n, text in enumerate(texts) if ngram in _ngrams(text, len(ngram))]
                    assert index.texts_with(span).tolist() == where
    for ngram in [(), *(one for one in counts if len(one) < 3)]:
        tokens, spans = index.after(index.find(ngram), len(ngram))
        assert tokens.tolist() == sorted({one[-1] for one in counts if one[:-1] == ngram})
        assert spans == [index.find((*ngram, token)) for token in tokens.tolist()]
    assert index.after(index.find((0, 0, 0)), 3)[1] == [], "an index of 3 tokens knows no fourth"
    assert len(index.find((0, 0, 0, 0))) == 0
    assert index.find(()) == index.everywhere == Span(0, 43)


def _ngrams(text: tuple[int, ...], length: int) -> set[tuple[int, ...]]:
    return {text[start : start + length] for start in range(len(text) - length + 1)}


@pytest.mark.parametrize("texts", [[], [()], [(1, 2), (3,)]])
def test_an_index_of_nothing_or_of_too_much(texts: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_TOKENS", 2)
    with pytest.raises(ValueError, match=f"the texts have {sum(map(len, texts))} tokens"):
        NgramIndex(texts, 2)


def test_gains_by_hand() -> None:
    """p = 1/2 and f = (1 + 5) / (55 + 5) = 1/10: the odds are 1 and 1/9. f = 1/2: even odds, or 1 to 9."""
    assert gain(math.log(0.5), 1, 55) == pytest.approx(math.log(9))
    assert gain(math.log(0.5), 25, 55) == pytest.approx(0)
    assert gain(math.log(0.1), 25, 55) == pytest.approx(-math.log(9))
    assert gain(math.log(0.9), 1, 7, smoothing=0) == pytest.approx(math.log(9 * 6))
    assert math.isfinite(gain(0.0, 3, 3, smoothing=0)), "a model that is certain, of texts with one token alone"


def test_scores_by_hand() -> None:
    """Two texts, (1 2 3 4) and (3 4 1 5): 8 tokens, and with smoothing 0 f = 1/8 for what occurs once, 2/8 for twice.

    (1 2) with p = 1/2: w = log(1 * 7)^2. (3 4) with p = 3/4: w = log(3 * 3)^2. (2 3 4) with p = 1/8: 0.
    (4 1) with p = 1/3: w = log(1/2 * 7)^2. The token 5 with p = 1/5: log(1/4 * 7); 1 with p = 1/2: log(1 * 3).
    The first text has (3 4) and (1 2), which share no token. The second has (3 4), then (4 1) has no free place, and
    1 and 5 are left.
    """
    index = NgramIndex([(1, 2, 3, 4), (3, 4, 1, 5)], 3)
    said = {(1, 2): 1 / 2, (3, 4): 3 / 4, (2, 3, 4): 1 / 8, (4, 1): 1 / 3, (9, 9): 1 / 2}
    found = dict(rank_texts(index, {ngram: math.log(p) for ngram, p in said.items()},
                            {5: math.log(1 / 5), 1: math.log(1 / 2), 9: -0.1}, smoothing=0))  # fmt: skip
    assert found == pytest.approx({0: math.log(7) ** 2 + math.log(9) ** 2,
                                   1: math.log(9) ** 2 + math.log(7 / 4) + math.log(3)})  # fmt: skip
    assert list(found) == [0, 1]


def test_scores_are_those_of_seal() -> None:
    """Numbers that `aggregate_evidence` of seal/keys.py gave for an index of these texts, with its own defaults."""
    index = NgramIndex([(5, 6, 7, 8, 5, 6, 9, 5), (6, 7, 8, 6, 7, 10, 11), (9, 9, 5, 6), (10,) * 20], 3)
    said = {(5, 6): 0.7, (6, 7, 8): 0.4, (7, 8): 0.3, (5,): 0.9, (9, 9, 5): 0.2}
    found = rank_texts(index, {ngram: math.log(p) for ngram, p in said.items()},
                       {6: math.log(0.5), 9: math.log(0.6), 10: math.log(0.3), 11: math.log(0.35)})  # fmt: skip
    assert [text for text, _ in found] == [0, 2, 1, 3] and found[3][1] < 0, "the last one is none of SEAL's"
    assert dict(found[:3]) == pytest.approx({0: 16.38124512299034, 2: 15.773817767732387, 1: 3.0579902689721736})


def test_what_is_said_twice_counts_less() -> None:
    """(1 2) occurs twice in a text and counts once; of (2 3) behind it half the tokens are new: 1 - 0.8 + 0.8 / 2."""
    index = NgramIndex([(1, 2, 9, 1, 2, 9, 2, 3, 1), (7, 7, 7, 7, 7, 7, 7)], 2)
    first = gain(math.log(0.9), 2, 16) ** 2
    second = gain(math.log(0.5), 1, 16) ** 2
    token = gain(math.log(0.8), 3, 16)
    assert first > second > 0 < token
    found = rank_texts(index, {(1, 2): math.log(0.9), (2, 3): math.log(0.5)}, {1: math.log(0.8)})
    assert found == [(0, pytest.approx(first + 0.6 * second + 0.2 * token))]
    assert rank_texts(index, {(8,): -0.1}, {}) == []


def test_a_token_that_is_an_ngram_does_not_count_again() -> None:
    index = NgramIndex([(1, 2), (3,) * 9], 2)
    (found,) = rank_texts(index, {(1,): math.log(0.9)}, {1: math.log(0.9)})
    assert found == (0, pytest.approx(gain(math.log(0.9), 1, 11) ** 2))


def test_texts_without_weight_come_last() -> None:
    """Nothing here is more probable than its share of the texts: what is least so decides, of n-grams and tokens."""
    index = NgramIndex([(1, 2, 3), (4, 4, 4), (1, 3), (5,), (6,)], 2)
    found = rank_texts(index, {(1,): math.log(0.2), (1, 2): math.log(0.01)}, {4: math.log(0.1), 5: math.log(0.6)})
    assert [text for text, _ in found] == [3, 0, 2, 1], "and the last text has nothing that was written"
    assert [score > 0 for _, score in found] == [True, False, False, False]
    assert dict(found)[0] == dict(found)[2] == pytest.approx(gain(math.log(0.2), 2, 10))


def test_few_texts_are_scored_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    index = NgramIndex([(1, 9), (2, 9), (1, 2), (3,) * 20], 2)
    given = {(1,): math.log(0.9), (2,): math.log(0.8)}
    assert [text for text, _ in rank_texts(index, given, {})] == [2, 0, 1]
    monkeypatch.setattr(module, "IN_FULL", 2)
    assert [text for text, _ in rank_texts(index, given, {})] == [2, 0]


def test_ngrams_to_learn() -> None:
    text = "the bank has lost my card and I need a new one soon"
    words = text.split()
    generator = np.random.default_rng(0)
    every = sample_ngrams(text, None, count=99, length=4, generator=generator)
    assert sorted(every) == sorted(" ".join(words[n : n + 4]) for n in range(10))
    drawn = [sample_ngrams(text, "LOST my card", count=1, length=4, generator=generator)[0] for _ in range(400)]
    often = Counter(drawn)
    assert often.most_common(1)[0][0] == "lost my card and"
    # e^2 for it, e^(5/3) for "my card and", e for "has lost my" and "card and I", about 1 for six others
    assert 0.25 < often["lost my card and"] / 400 < 0.6
