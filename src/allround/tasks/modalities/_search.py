"""Search: a query as a text, and the passages that it is answered from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from allround.tasks.definition import Definition
from allround.tasks.modality import Example, Fail, Modality, check_present, check_unicode
from allround.tasks.passages import Passages, passages_of
from allround.tasks.values import Row, Value, short

if TYPE_CHECKING:
    from pyarrow import Array, ChunkedArray


class Search(Modality):
    """Two columns: queries, and `Passages`, or what `passages_of` reads as such."""

    noun = "a text and the passages to search"
    most_columns = 2
    fewer = "name the column of queries, and that of passages where rows have their own"
    rows = 8192
    searches = True

    def recognises(self, value: object) -> bool:
        return isinstance(value, (str, Passages, list, tuple, Mapping))

    def fits(self, value: object) -> bool:
        return isinstance(value, (str, Passages))

    def read(self, name: str, column: Mapping[str, Sequence[object]], fail: Fail) -> dict[str, list[Value]]:
        found: dict[str, list[Value]] = {}
        for split, values in column.items():
            check_present(name, split, values, "text", fail)
            read: list[Value] = []
            known: dict[int, Value] = {}  # one object for all rows that give the same one
            for number, value in enumerate(values):
                try:
                    if id(value) not in known:
                        known[id(value)] = value if isinstance(value, str) else passages_of(value)
                    read.append(known[id(value)])
                except ValueError as error:
                    raise fail(
                        f"the passages '{name}' of {split} cannot be read in row {number}: {error}",
                        "give a list of different texts, or of passages with `id` and `text`",
                    ) from error
            wrong = [i for i, one in enumerate(read) if one is None or isinstance(one, str) != isinstance(read[0], str)]
            if wrong:
                raise fail(
                    f"input '{name}' of {split} is neither text nor passages in {len(wrong)} of {len(values)} rows, "
                    f"such as {short(values[wrong[0]])} in row {wrong[0]}",
                    "give queries as text, and passages as lists of texts",
                )
            check_unicode(name, split, [one for one in read if isinstance(one, str)], fail)
            for one in {id(one): one for one in read if isinstance(one, Passages)}.values():
                check_unicode(name, split, one.ids, fail)
                for start in range(0, len(one), self.rows):
                    check_unicode(name, split, one.texts(start, start + self.rows), fail)
            found[split] = read
        return found

    def read_row(self, definition: Definition, cells: Sequence[object], row: int) -> Row:
        query, *rest = cells
        return (self.parse(query, row), *(_passages(cell) for cell in rest))

    def row_of(self, given: tuple[object, ...]) -> Row:
        return tuple(_passages(value) if place else value for place, value in enumerate(given))  # type: ignore[misc]

    def parse(self, value: object, row: int) -> Value:
        """A text that is the JSON of a list or a mapping is passages; any other is a query."""
        found = _passages(value)
        return found if isinstance(found, Passages) else value  # type: ignore[return-value]

    def to_arrow(self, values: Sequence[Value]) -> Array:
        """Texts; or passages as a dictionary, so that those which rows share are written once."""
        import pyarrow as pa

        if not values or isinstance(values[0], str):
            return pa.array(values, pa.large_string())
        every: dict[Passages, int] = {}
        places = [every.setdefault(one, len(every)) for one in values]  # type: ignore[arg-type]
        pairs = [one.arrays for one in every]
        ids, texts = (pa.concat_arrays([_plain(pair[side]) for pair in pairs]) for side in (0, 1))
        ends = [0]
        for one in every:
            ends.append(ends[-1] + len(one))
        fields = pa.StructArray.from_arrays([ids, texts], ["id", "text"])
        listed = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), fields)
        return pa.DictionaryArray.from_arrays(pa.array(places, pa.int32()), listed)

    def from_arrow(self, column: ChunkedArray) -> list[Value]:
        import pyarrow as pa

        if not pa.types.is_dictionary(column.type):
            return list(column.to_pylist())
        found: list[Value] = []
        for chunk in column.chunks:
            made = [Passages(*(part.values.field(name) for name in ("id", "text")))
                    for part in _alone(chunk.dictionary)]  # fmt: skip
            found += [made[place] for place in chunk.indices.to_pylist()]
        return found

    def example(self, columns: int) -> Example:
        texts = ["First passage.", "Second passage."]
        words = f"\"Some query\" '{json.dumps(texts)}'"
        return Example(("Some query", Passages.of(texts)), words, f'[("Some query", {texts})]')


def _plain(array: Array) -> Array:
    import pyarrow as pa

    return array.cast(pa.large_string())


def _alone(lists: Array) -> list[Array]:
    """Each list of an array, as an array whose values are that list's."""
    import pyarrow as pa

    starts = lists.offsets.to_pylist()
    return [
        pa.LargeListArray.from_arrays(pa.array([0, stop - start], pa.int64()), lists.values.slice(start, stop - start))
        for start, stop in pairwise(starts)
    ]


def _passages(cell: object) -> Value:
    """Passages, where a cell holds such, also as JSON; else the cell as it is."""
    value = cell
    if isinstance(cell, str):
        if cell.strip()[:1] not in ("[", "{"):
            return cell
        try:
            value = json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    try:
        return passages_of(value) or value  # type: ignore[return-value]
    except ValueError:
        return value  # type: ignore[return-value]
