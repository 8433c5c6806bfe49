"""Searching: the passages of each query's row that are most alike to it, exactly and in little memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from allround.models.batch import Answers
from allround.models.encoder import Encoder
from allround.models.head import Head
from allround.models.heads.ranking import Ranking
from allround.models.indexed import IndexedPassages
from allround.models.late import Vectors, count_of, products
from allround.models.running import features_of
from allround.tasks.contrast import TOKENS
from allround.tasks.kinds.retrieval import MOST
from allround.tasks.passages import Passages

#: Passages, and queries, whose scores are computed at once.
PASSAGES, QUERIES = 8192, 512
#: Passages that are read at once where the vectors of their tokens are compared.
BY_TOKEN = 512
#: Collections of at most so many passages are encoded together; larger ones, and all by token, one after the other.
SMALL = 1024
#: Vectors, of texts or of tokens, that are kept from one window of rows to the next.
MOST_KEPT = 1_000_000


class Searcher:
    """Answers rows of tasks that rank passages.

    Vectors of passages are kept while a `keeping` lasts, so that passages which all rows share are encoded once.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, list[Vectors]] | None = None
        self._weights: Hashable = None

    @contextmanager
    def keeping(self, weights: Hashable = None) -> Iterator[None]:
        """Keep vectors of passages. weights: says which weights the encoder has until this ends, where it has one set
        after the other; a set that comes again finds its vectors."""
        before = self._kept, self._weights
        self._kept, self._weights = {} if self._kept is None else self._kept, weights
        try:
            yield
        finally:
            self._kept, self._weights = before

    def answers(self, reader: VectorReader, rows: Sequence[Any]) -> Answers:
        """The answers to prepared rows. Errors: numbers that are not finite."""
        return Answers([tuple(row) for row in self.ranked(reader, rows)])

    @torch.inference_mode()
    def ranked(self, reader: VectorReader, rows: Sequence[Any]) -> list[dict[str, float]]:
        """The first passages of each prepared row, best first, with their scores. See `answers`."""
        queries = reader.queries(rows)
        found: list[dict[str, float]] = [{}] * len(rows)
        together: dict[Passages, list[int]] = {}
        for number, row in enumerate(rows):
            together.setdefault(row["passages"], []).append(number)
        small = [one for one in together if len(one) <= SMALL and not isinstance(one, IndexedPassages)]
        pooled = _pooled(reader, small) if len(small) > 1 and not reader.by_token else {}
        for passages, numbers in together.items():
            if isinstance(passages, IndexedPassages):
                passages.check(reader.encoder, reader.head.definition)
                assert isinstance(queries, Tensor)
                scores, places = passages.nearest(queries[numbers], MOST)
            else:
                blocks = [pooled[passages]] if passages in pooled else self._blocks(reader, passages)
                scores, places = top(queries[numbers], blocks, MOST, reader.head.scores)
            for number, own, best in zip(numbers, scores.tolist(), places.tolist(), strict=True):
                pairs = zip(best, own, strict=True)  # an index may find fewer, and then gives -1
                found[number] = {passages.ids[place]: score for place, score in pairs if place >= 0}
        return found

    def _blocks(self, reader: VectorReader, passages: Passages) -> Iterator[Vectors]:
        """The vectors of passages, block after block."""
        key = self._weights, reader.head.definition.name, passages.content
        if self._kept is not None and key in self._kept:
            yield from self._kept[key]
            return
        parts: list[Vectors] = []
        count = sum(count_of(part) for kept in (self._kept or {}).values() for part in kept)
        step = BY_TOKEN if reader.by_token else PASSAGES
        for start in range(0, len(passages), step):
            part = reader.texts(passages.texts(start, start + step))
            count += count_of(part)
            parts = [*parts, part] if self._kept is not None and count <= MOST_KEPT else []
            yield part
        if self._kept is not None and parts:
            self._kept[key] = parts


@dataclass(frozen=True)
class VectorReader:
    """What makes vectors of texts as a task's head compares them, float32: (n, d), or those of their tokens."""

    encoder: Encoder
    head: Ranking
    batch_size: int

    @classmethod
    def of(cls, encoder: Encoder, head: Head, batch_size: int = 64) -> VectorReader:
        """For a head of the sort `ranking`."""
        assert isinstance(head, Ranking)
        return cls(encoder, head, batch_size)

    @property
    def by_token(self) -> bool:
        """Whether a text has a vector for each of its tokens, and so takes many times the memory."""
        return self.head.contrast.compare == TOKENS

    def queries(self, rows: Sequence[Any]) -> Vectors:
        """Those of prepared rows' queries."""
        return self.vectors([{**row, "ids": row["ids"][:1]} for row in rows])

    def texts(self, texts: Sequence[str]) -> Vectors:
        """Those of passages."""
        return self.vectors(self.encoder.prepare_passages(texts, self.head.definition))

    def vectors(self, ready: Sequence[Any]) -> Vectors:
        """Those of prepared texts."""
        return self.head.vectors(features_of(self.encoder, ready, self.head.definition, self.batch_size))


def _pooled(reader: VectorReader, small: Sequence[Passages]) -> dict[Passages, Vectors]:
    """The vectors of small collections; a text that several have is encoded once."""
    texts = list(dict.fromkeys(text for one in small for text in one.texts()))
    places = {text: place for place, text in enumerate(texts)}
    vectors = reader.texts(texts)
    return {one: vectors[[places[text] for text in one.texts()]] for one in small}


def top(
    queries: Vectors, blocks: Iterable[Vectors], count: int, compare: Callable[[Vectors, Vectors], Tensor] = products
) -> tuple[Tensor, Tensor]:
    """The scores of each query with the `count` passages that have the highest ones, the highest first, and their
    positions, (n, count) each; of equal ones the first. queries: (n, d). blocks: of the passages' vectors, (m, d) each.
    compare: what gives the scores of some queries and passages, (n, m); products of their vectors.

    >>> top(torch.tensor([[1.0, 0.0]]), [torch.tensor([[0.5, 0.0], [0.0, 1.0]]), torch.tensor([[0.5, 1.0]])], 2)[1]
    tensor([[0, 2]])
    """
    best = torch.empty(len(queries), 0)
    places = torch.empty(len(queries), 0, dtype=torch.long)
    start = 0
    for block in blocks:
        some = [slice(i, i + QUERIES) for i in range(0, len(queries), QUERIES)]
        kept = [_merged(compare(queries[i], block), best[i], places[i], start, count) for i in some]
        best, places = (torch.cat(parts) for parts in zip(*kept, strict=True))
        start += len(block)
    return best, places


def _merged(scores: Tensor, best: Tensor, places: Tensor, start: int, count: int) -> tuple[Tensor, Tensor]:
    """The best of what was found so far and of the scores of a further block, which begins at a position."""
    few = min(count, scores.shape[1])
    values, columns = scores.topk(few, 1)
    if few < scores.shape[1]:  # of scores that are equal to the last one, `topk` takes any
        tied = torch.nonzero((scores >= values[:, -1:]).sum(1) > few).flatten()
        if len(tied):
            some = scores[tied].sort(dim=1, descending=True, stable=True)
            values[tied], columns[tied] = some.values[:, :few], some.indices[:, :few]
    columns, order = columns.sort(1)
    values, columns = torch.cat([best, values.gather(1, order)], 1), torch.cat([places, columns + start], 1)
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values[:, :count], columns.gather(1, order)[:, :count]
