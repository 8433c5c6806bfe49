"""Text: a string, or two that make a pair; lists of words are joined by spaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from allround.core.registry import method
from allround.tasks.modalities._search import Search
from allround.tasks.modalities._words import Words
from allround.tasks.modality import Example, Fail, Modality, check_present, check_unicode
from allround.tasks.values import Value, short

if TYPE_CHECKING:
    from pyarrow import Array


@method(source="strings of Unicode characters")
class Text(Modality):
    """A text a column.

    >>> Text().read("x", {"train": ["fine", ["so", "so"]]}, ValueError)
    {'train': ['fine', 'so so']}
    """

    noun = "a text"
    most_columns = 2
    fewer = "name one column, or two for a pair; set modality: table if they are categories"
    pairs = True
    by_word = Words
    searched = Search

    def recognises(self, value: object) -> bool:
        return isinstance(value, str) or _is_words(value)

    def fits(self, value: object) -> bool:
        return isinstance(value, str)

    def read(self, name: str, column: Mapping[str, Sequence[object]], fail: Fail) -> dict[str, list[Value]]:
        found: dict[str, list[Value]] = {}
        for split, values in column.items():
            check_present(name, split, values, "text", fail)
            joined = [" ".join(v) if isinstance(v, (list, tuple)) and _is_words(v) else v for v in values]
            wrong = [v for v in joined if not isinstance(v, str)]
            if wrong:
                raise fail(
                    f"input '{name}' of {split} is not text in {len(wrong)} of {len(values)} rows, "
                    f"such as {short(wrong[0])}",
                    "give text, or set modality: table for numbers",
                )
            texts = [v for v in joined if isinstance(v, str)]
            check_unicode(name, split, texts, fail)
            found[split] = list(texts)
        return found

    def parse(self, value: object, row: int) -> Value:
        return " ".join(value) if isinstance(value, (list, tuple)) and _is_words(value) else value  # type: ignore[return-value]

    def to_arrow(self, values: Sequence[Value]) -> Array:
        import pyarrow as pa

        return pa.array(values, pa.large_string())

    def example(self, columns: int) -> Example:
        if columns == 2:
            words, python = '"First text" "Second text"', '[("First text", "Second text")]'
        else:
            words, python = '"Some text"', '["Some text"]'
        return Example(("one two three",) * columns, words, python)


def _is_words(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(word, str) for word in value)
