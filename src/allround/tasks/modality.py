"""What a modality must say: which values are its own, how data and command lines give them, how they are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.problems import Problems
from allround.tasks.column_types import ColumnType
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.values import Row, Value, is_missing

if TYPE_CHECKING:
    from pyarrow import Array, ChunkedArray

#: Makes an error of what was found and what to do; it names the task.
Fail: TypeAlias = Callable[[str, str], AllroundError]


@dataclass(frozen=True)
class Example:
    """A made-up row of a task.

    row: its values. words: the same on the command line. python: a list of such inputs in a line of Python, which needs
    the lines `imports`.
    """

    row: Row
    words: str
    python: str
    imports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """What a user chose for a column of inputs: its type in a table, and what a cell of another type is.

    type: see `column_types.understand`. stray: an "error", or "missing".
    """

    type: str | None = None
    stray: str = "error"


@dataclass(frozen=True)
class ReadColumn:
    """A column of inputs: split -> values; of a table, how it was understood; what a user should know."""

    values: dict[str, list[Value]]
    type: ColumnType | None = None
    notes: tuple[str, ...] = ()


class Modality(ABC):
    """The rules of one modality. Modalities hold no state."""

    #: One value, in messages: "a text".
    noun: ClassVar[str]
    #: The largest number of input columns, and what to do about more of them.
    most_columns: ClassVar[int | None] = None
    fewer: ClassVar[str] = ""
    #: How many rows are read at once where they are answered: few where they are large.
    rows: ClassVar[int] = 1024
    #: Whether two columns make a pair.
    pairs: ClassVar[bool] = False
    #: Whether it takes columns of several modalities together.
    mixes: ClassVar[bool] = False
    #: Whether only a prompt can put its columns into words, so that a task without one never gets it by itself.
    for_prompts: ClassVar[bool] = False
    #: Whether a value may be missing.
    gaps: ClassVar[bool] = False
    #: Whether `parse` takes a text as the name of a file, and opens it.
    files: ClassVar[bool] = False
    #: How the inputs are given where the kind of a task asks about each word; None where they have no words.
    by_word: ClassVar[type[Modality] | None] = None
    #: Whether a row is a query and passages.
    searches: ClassVar[bool] = False
    #: How the inputs are given where the kind of a task ranks passages; None where they have none.
    searched: ClassVar[type[Modality] | None] = None

    @abstractmethod
    def recognises(self, value: object) -> bool:
        """Whether a value, as data hold it, is one of this modality: the first one of a column decides."""

    @abstractmethod
    def fits(self, value: object) -> bool:
        """Whether a model can be given this value as an input."""

    @abstractmethod
    def read(self, name: str, column: Mapping[str, Sequence[object]], fail: Fail) -> dict[str, list[Value]]:
        """One column of inputs. column: split -> its values as data hold them, train first.

        Raises what `fail` makes, with the column's name, the split, how many rows, and an example.
        """

    def read_column(
        self, name: str, column: Mapping[str, Sequence[object]], fail: Fail, choice: Choice | None = None
    ) -> ReadColumn:
        """As `read`, with what was understood of the column; what is wrong with each split is said at once.

        choice: only tables have any.
        """
        found: dict[str, list[Value]] = {}
        problems = Problems()
        for split, values in column.items():
            with problems.gathered():
                found |= self.read(name, {split: values}, fail)
        if problems.errors:
            raise problems.joined(problems.errors[0].asked)
        return ReadColumn(found)

    def read_row(self, definition: Definition, cells: Sequence[object], row: int) -> Row:
        """The inputs of a row from the cells of a file or the words of a command line, one for each input column.

        Cells of a table are read as the columns of the definition say: `10001` stays text in a column of categories, a
        date is one in every spelling of the training data, and a cell of another type than its column is missing
        (`odd_cells` tells which). row: its number, for messages.
        """
        return tuple(self.parse(cell, row) for cell in cells)

    def row_of(self, given: tuple[object, ...]) -> Row:
        """A row as a caller gives it, with values as models take them."""
        return given  # type: ignore[return-value]

    def parse(self, value: object, row: int) -> Value:
        """An input from a cell of a file or a word of the command line. row: its number, for messages.

        What cannot be an input is returned as it is: the model refuses it.
        """
        return value  # type: ignore[return-value]

    def shown(self, value: object, row: int) -> object:
        """What stands beside an answer for a cell that `parse` reads."""
        return value

    def numbers(self, row: Row) -> NDArray[np.float32] | None:
        """A row as an array for a network of the user's own; None where there is no plain way to make one."""
        return None

    @abstractmethod
    def to_arrow(self, values: Sequence[Value]) -> Array:
        """One column of inputs as a task's folder keeps it."""

    def from_arrow(self, column: ChunkedArray) -> list[Value]:
        """The inverse of `to_arrow`."""
        found: list[Value] = column.to_pylist()
        return found

    @abstractmethod
    def example(self, columns: int) -> Example:
        """A made-up row of so many columns."""


def modality(name: str) -> Modality:
    """The modality called `name`.

    >>> modality("image").noun
    'an opened image'
    """
    made: Modality = registry.stateless("modality", name)
    return made


def modality_of(definition: Definition) -> Modality:
    """The modality of a task's inputs; of a task that asks about each word, that of its words; of one that ranks
    passages, that of a query and its passages.

    Errors: such a task of a modality that has no words, or no passages.

    >>> modality_of(Definition("names", "token_classification", ("words",), "text", "span_f1")).noun
    'a list of words'
    """
    found, rules = modality(definition.modality), kind(definition.kind)
    if rules.ranked:
        if found.searched is None:
            raise AllroundError(
                f"read the inputs of the task '{definition.name}'",
                f"its kind {definition.kind} ranks passages, and its modality {definition.modality} has none",
                "use modality: text, or another kind",
            )
        return found.searched()
    if not rules.per_token:
        return found
    if found.by_word is None:
        raise AllroundError(
            f"read the inputs of the task '{definition.name}'",
            f"its kind {definition.kind} asks about each word, and its modality {definition.modality} has no words",
            "use modality: text, or another kind",
        )
    return found.by_word()


def check_present(name: str, split: str, values: Sequence[object], what: str, fail: Fail) -> None:
    """An error where inputs are missing. what: they are, in the message."""
    gone = [i for i, value in enumerate(values) if is_missing(value)]
    if gone:
        raise fail(
            f"input '{name}' of {split} is missing in {len(gone)} of {len(values)} rows, first in row {gone[0]}",
            f"fill in the {what}; or leave those rows out: `missing: drop`",
        )


def check_unicode(name: str, split: str, texts: Sequence[str], fail: Fail) -> None:
    """An error where a text cannot be written as UTF-8."""
    if all(map(str.isascii, texts)):
        return
    for number, text in enumerate(texts):
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise fail(
                    f"input '{name}' of {split} is not valid Unicode, first in text {number}: {error.reason}",
                    "replace the broken characters",
                ) from error
