"""Passages: the texts that a query is answered from, each with an id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow import Array

#: What a column of passages is called, where all rows have the same ones.
PASSAGES = "passages"
#: Texts that are hashed or handed out at once.
BLOCK = 8192


class Passages:
    """Texts with ids, in an order; they never change. Rows of a task share one object, or each has its own.

    ids, texts: of equal length, as Arrow arrays, so that a large collection can lie in a file. `of` makes one from
    plain values. Two collections are equal where their ids and texts are.

    >>> found = Passages.of({"a": "A cat.", "b": "A dog."})
    >>> len(found), found["b"], "c" in found, found
    (2, 'A dog.', False, 2 passages: 'a', 'b')
    """

    def __init__(self, ids: Array, texts: Array) -> None:
        if len(ids) != len(texts):
            raise ValueError(f"there are {len(ids)} ids for {len(texts)} texts")
        if ids.null_count or texts.null_count:
            raise ValueError("an id or a text is missing")
        if not len(ids):
            raise ValueError("there is none")
        self._ids, self._texts = ids, texts
        if len(self.positions) < len(ids):
            seen: set[str] = set()
            twice = next(one for one in ids.to_pylist() if one in seen or seen.add(one))  # type: ignore[func-returns-value]
            raise ValueError(f"the id {twice!r} stands there twice")

    @classmethod
    def of(cls, texts: Mapping[str, str] | Sequence[str]) -> Passages:
        """From texts by their ids; of texts alone, each is its own id.

        Errors: a ValueError for an id that occurs twice, and for a collection without texts.
        """
        import pyarrow as pa

        ids = list(texts)
        values = list(texts.values()) if isinstance(texts, Mapping) else ids
        return cls(pa.array(ids, pa.large_string()), pa.array(values, pa.large_string()))

    @cached_property
    def positions(self) -> dict[str, int]:
        """The position of each id."""
        return {one: place for place, one in enumerate(self._ids.to_pylist())}

    @cached_property
    def ids(self) -> list[str]:
        """All ids, in order."""
        return list(self.positions)

    @cached_property
    def content(self) -> str:
        """A hash of the ids and texts, in order."""
        digest = hashlib.sha256()
        for start in range(0, len(self), BLOCK):
            pairs = zip(self.ids[start : start + BLOCK], self.texts(start, start + BLOCK), strict=True)
            digest.update(repr(list(pairs)).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def texts(self, start: int = 0, stop: int | None = None) -> list[str]:
        """The texts from one position to another."""
        found: list[str] = self._texts[start:stop].to_pylist()
        return found

    @property
    def arrays(self) -> tuple[Array, Array]:
        """The ids and the texts, as Arrow arrays."""
        return self._ids, self._texts

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, one: object) -> bool:
        return one in self.positions

    def __getitem__(self, one: str) -> str:
        return str(self._texts[self.positions[one]].as_py())

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Passages) and self.content == other.content)

    def __hash__(self) -> int:
        return hash(self.content)

    def __repr__(self) -> str:
        more = ", ..." if len(self) > 2 else ""
        return f"{len(self)} passages: {', '.join(repr(one) for one in self.ids[:2])}{more}"


def passages_of(value: object) -> Passages | None:
    """Passages from what a cell or a caller gives: a list of texts, texts by id, or rows with `id` and `text`.

    None where it is none of these. Errors: a ValueError in words, for what looks like passages and cannot be.

    >>> passages_of([{"_id": 7, "title": "Cats", "text": "A cat."}])["7"], passages_of("a text")
    ('Cats A cat.', None)
    """
    if isinstance(value, Passages):
        return value
    if isinstance(value, Mapping):
        texts = {str(one): text for one, text in value.items()}
        if not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("a passage is not a text")
        return Passages.of(texts) if len(texts) == len(value) else None
    if not isinstance(value, (list, tuple)):
        return None
    if all(isinstance(one, str) for one in value):
        return Passages.of(list(value))
    if not all(isinstance(one, Mapping) for one in value):
        return None
    import pyarrow as pa

    pairs = [passage_of(one) for one in value]
    return Passages(*(pa.array([pair[side] for pair in pairs], pa.large_string()) for side in (0, 1)))


def passage_of(row: Mapping[str, object]) -> tuple[str, str]:
    """The id and the text of a passage; a title stands before the text, as in BEIR. Errors: a ValueError in words."""
    one = row.get("_id", row.get("id"))
    if isinstance(one, bool) or not isinstance(one, (str, int)) or one == "":
        raise ValueError(f"a passage has the id {one!r}; give each `_id` or `id`")
    text, title = row.get("text"), row.get("title") or ""
    if not isinstance(text, str) or not isinstance(title, str):
        raise ValueError(f"the passage {str(one)!r} has no `text`")
    return str(one), f"{title} {text}".strip()
