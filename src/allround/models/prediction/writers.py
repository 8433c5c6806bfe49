"""Writing rows with their answers: CSV, TSV, JSONL and Parquet; cells of a CSV file stay as they were written."""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from allround.core.errors import AllroundError
from allround.models.prediction.answers import Answered
from allround.models.prediction.cells import BrokenCell, of_type
from allround.models.prediction.columns import AnswerColumns
from allround.tasks.column_types import ColumnType
from allround.tasks.sources.stream import Texts, Window

if TYPE_CHECKING:
    from pyarrow import Table
    from pyarrow.parquet import ParquetWriter

#: The ending of a file -> how it is written.
FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet"}


class Writer(ABC):
    """Writes windows of rows, one after the other. columns: those of the answers."""

    def __init__(self, columns: AnswerColumns) -> None:
        self.columns = columns

    @abstractmethod
    def write(self, answered: Answered) -> None: ...


class JsonLines(Writer):
    """An object a line. Cells of a CSV file that the tasks read as numbers are written as numbers."""

    def __init__(self, columns: AnswerColumns, file: TextIO) -> None:
        super().__init__(columns)
        self.file = file
        self.numbers = {
            name: type_
            for definition in columns.definitions.values()
            for name, type_ in zip(definition.inputs, definition.columns, strict=False)
            if type_.type == "number"
        }

    def write(self, answered: Answered) -> None:
        values = self.columns.values(answered)
        window = answered.window
        numbers = self.numbers if isinstance(window, Texts) else {}
        for place, row in enumerate(window.objects()):
            for name, type_ in numbers.items():
                row[name] = _as_number(type_, name, row[name])
            made = {name: column[place] for name, column in values.items()}
            shown = {name: _shown(cell, window.first + place) for name, cell in row.items()}
            self.file.write(json.dumps({**shown, **made}, ensure_ascii=False, default=str) + "\n")


class Separated(Writer):
    """CSV or TSV, with the names of the columns first. A list is written as JSON. What parts the cells of a CSV file
    does so in the new one."""

    def __init__(self, columns: AnswerColumns, file: TextIO, separator: str) -> None:
        super().__init__(columns)
        self.file, self.separator = file, separator
        self.names: tuple[str, ...] | None = None

    def write(self, answered: Answered) -> None:
        window, values = answered.window, self.columns.values(answered)
        if self.names is None:
            self.names = window.names
            if self.separator == "," and isinstance(window, Texts):
                self.separator = window.separator
            self.writer = csv.writer(self.file, delimiter=self.separator, lineterminator="\n")
            self.writer.writerow([*self.names, *values])
        _check_names(window, self.names)
        columns = [window.column(name) if window.has(name) else [None] * len(window) for name in self.names]
        for place, cells in enumerate(zip(*columns, *values.values(), strict=True)):
            self.writer.writerow([_cell(_shown(cell, window.first + place)) for cell in cells])


class Parquet(Writer):
    """A Parquet file; the columns of a Parquet file stay as they are."""

    def __init__(self, columns: AnswerColumns, path: Path) -> None:
        super().__init__(columns)
        self.path = path
        self.writer: ParquetWriter | None = None

    def write(self, answered: Answered) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = with_answers(answered, self.columns)
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.path, table.schema)
        schema = self.writer.schema
        if table.schema != schema:
            _check_names(answered.window, [name for name in schema.names if name not in self.columns.types()])
            try:
                lacking = [name for name in schema.names if name not in table.schema.names]
                for name in lacking:
                    table = table.append_column(name, pa.nulls(len(table), schema.field(name).type))
                table = table.select(schema.names).cast(schema)
            except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
                found = f"cells of rows from {answered.window.first} on are of another type than those before: {error}"
                raise AllroundError("write the answers as Parquet", found, "write a .jsonl file") from error
        self.writer.write_table(table)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def with_answers(answered: Answered, columns: AnswerColumns) -> Table:
    """A window and its answers as an Arrow table."""
    import pyarrow as pa

    types, values = columns.types(), columns.values(answered)
    try:
        arrays = answered.window.arrays()
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        found = f"a column holds values of several types: {error}"
        raise AllroundError("write the answers as Parquet", found, "write a .jsonl file") from error
    names = [*answered.window.names, *types]
    return pa.Table.from_arrays([*arrays, *(pa.array(values[n], t) for n, t in types.items())], names)


@contextmanager
def writer_to(path: Path, format: str, columns: AnswerColumns) -> Iterator[Writer]:
    """A writer into a new file."""
    if format == "parquet":
        made = Parquet(columns, path)
        try:
            yield made
        finally:
            made.close()
        return
    with open(path, "w", encoding="utf-8", newline="") as file:
        yield text_writer(file, format, columns)


def text_writer(file: TextIO, format: str, columns: AnswerColumns) -> Writer:
    """A writer of text: CSV, TSV or JSONL."""
    if format == "jsonl":
        return JsonLines(columns, file)
    return Separated(columns, file, "\t" if format == "tsv" else ",")


def _check_names(window: Window, names: Sequence[str]) -> None:
    more = [name for name in window.names if name not in names]
    if more:
        raise AllroundError(
            "write the rows as a table",
            f"the rows from {window.first} on have a column '{more[0]}', which those before lack",
            "write a .jsonl file",
        )


def _as_number(type_: ColumnType, name: str, cell: object) -> object:
    try:
        return of_type(type_, name, cell)
    except BrokenCell:
        return cell


def _shown(cell: object, number: int) -> object:
    """A cell as text can show it: of an image its name."""
    if isinstance(cell, dict) and isinstance(cell.get("bytes"), bytes):
        return cell.get("path") or f"row {number}"
    return cell


def _cell(cell: object) -> str:
    if cell is None or isinstance(cell, str):
        return cell or ""
    if isinstance(cell, (list, dict)):
        return json.dumps(cell, ensure_ascii=False, default=str)
    return str(cell)
