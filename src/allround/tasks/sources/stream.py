"""Rows of a file or of standard input, some at a time: they may be more than memory holds."""

from __future__ import annotations

import codecs
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from allround.core.errors import AllroundError
from allround.core.reading import check_parquet, open_file
from allround.tasks.sources.sniff import UTF8, parted
from allround.tasks.sources.text_files import MAX_LINE, SEPARATORS, Room, csv_rows, lines_of, names_of, objects

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch

_T = TypeVar("_T")

#: What stands for standard input.
STDIN = "-"
#: The ending of a file -> the format of its rows.
FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".txt": "txt"}
#: Rows that are read at once.
WINDOW = 1024


class Window(ABC):
    """Some rows that follow each other.

    first: the number of the first, counted from 0. names: of their columns.
    """

    first: int
    names: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def column(self, name: str) -> Sequence[object]:
        """The cells of a column, as the file holds them: those of a CSV file are texts."""

    def has(self, name: str) -> bool:
        return name in self.names

    def objects(self) -> Iterator[dict[str, object]]:
        """The rows, each a new dictionary of its cells."""
        columns = [self.column(name) for name in self.names]
        for number in range(len(self)):
            yield {name: column[number] for name, column in zip(self.names, columns, strict=True)}

    def arrays(self) -> list[Array]:
        """The columns for a Parquet file."""
        import pyarrow as pa

        return [pa.array(self.column(name)) for name in self.names]


class Texts(Window):
    """Rows of a CSV or TSV file: every cell is a text, empty where there is none. separator: what parts the cells."""

    def __init__(self, first: int, names: Sequence[str], rows: Sequence[Sequence[str]], separator: str) -> None:
        self.first, self.names, self.rows, self.separator = first, tuple(names), rows, separator

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> Sequence[object]:
        place = self.names.index(name)
        return [row[place] for row in self.rows]

    def arrays(self) -> list[Array]:
        import pyarrow as pa

        return [pa.array([row[place] or None for row in self.rows], pa.string()) for place in range(len(self.names))]


class Lines(Window):
    """Lines of text, each the one input of a row, whatever a task calls its column. name: what it is called here."""

    def __init__(self, first: int, lines: Sequence[str], name: str) -> None:
        self.first, self.lines, self.names = first, lines, (name,)

    def __len__(self) -> int:
        return len(self.lines)

    def has(self, name: str) -> bool:
        return True

    def column(self, name: str) -> Sequence[object]:
        return self.lines


class Objects(Window):
    """Rows as dictionaries, of a JSONL file or from Python; keys that a row lacks are missing cells."""

    def __init__(self, first: int, rows: Sequence[Mapping[str, object]]) -> None:
        self.first, self.rows = first, rows
        self.names = tuple(dict.fromkeys(name for row in rows for name in row))

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> Sequence[object]:
        return [row.get(name) for row in self.rows]

    def objects(self) -> Iterator[dict[str, object]]:
        return (dict(row) for row in self.rows)


class Batch(Window):
    """Rows of a Parquet file or of an Arrow table."""

    def __init__(self, first: int, batch: RecordBatch) -> None:
        self.first, self.batch = first, batch
        self.names = tuple(batch.schema.names)

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def column(self, name: str) -> Sequence[object]:
        """Bytes are those of a file, as `datasets` has them: `{"bytes": ..., "path": None}`."""
        found: list[object] = self.batch.column(self.names.index(name)).to_pylist()
        return [{"bytes": cell, "path": None} if isinstance(cell, bytes) else cell for cell in found]

    def arrays(self) -> list[Array]:
        return list(self.batch.columns)


def format_of(file: str, given: str | None, asked: str) -> str:
    """The format of a file's rows: as given, or by its ending; of standard input a text a line.

    >>> format_of("rows.CSV", None, "read it"), format_of("-", None, "read it"), format_of("-", "jsonl", "read it")
    ('csv', 'txt', 'jsonl')
    """
    known = sorted(set(FORMATS.values()))
    if given is not None and given not in known:
        raise AllroundError(asked, f"'{given}' is not a format", f"use one of: {', '.join(known)}")
    found = given or ("txt" if file == STDIN else FORMATS.get(Path(file).suffix.lower()))
    if found is None:
        ending = f"files ending in '{Path(file).suffix}' are not known"
        raise AllroundError(asked, ending, f"use one of: {', '.join(sorted(FORMATS))}; or give the format")
    if found == "parquet" and file == STDIN:
        raise AllroundError(asked, "Parquet cannot be read from standard input", "give the file, or csv, tsv or jsonl")
    return found


def read_windows(
    file: Path | str, format: str | None = None, *, rows: int = WINDOW, line: str = "text"
) -> Iterator[Window]:
    """The rows of a CSV, TSV, JSONL, JSON, Parquet or text file, or of standard input (`-`), some at a time.

    line: the name of the one column of a text file.

    Of standard input, rows that are there are given at once, without waiting for more. A JSON file that is one array
    is read as a whole. Errors: a file that cannot be read, or has no rows.
    """
    file = str(file)
    asked = "read standard input" if file == STDIN else f"read '{file}'"
    found = format_of(file, format, asked)
    windows = _parquet(Path(file), asked, rows) if found == "parquet" else _written(file, found, asked, rows, line)
    empty = True
    for window in windows:
        empty = False
        yield window
    if empty:
        raise AllroundError(asked, "it has no rows", "put rows in it")


def _parquet(path: Path, asked: str, rows: int) -> Iterator[Window]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = 0
    try:
        with open_file(path, asked=asked) as file:
            check_parquet(file, asked=asked)
            for batch in pq.ParquetFile(file).iter_batches(batch_size=rows, use_threads=False):
                batch.validate(full=True)  # also that texts are UTF-8
                if batch.num_rows:
                    yield Batch(first, batch)
                    first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        found = f"it is not readable as parquet: {str(error).strip()}"
        raise AllroundError(asked, found, "correct the file") from error


def _written(file: str, format: str, asked: str, rows: int, line: str) -> Iterator[Window]:
    """Windows of a file of text."""
    lines: Iterator[str]
    live = None
    if file == STDIN:
        lines = live = _Live(sys.stdin.buffer, asked)
    else:
        lines = lines_of(
            Path(file), asked, newline="\n" if format == "jsonl" else "", encoding=UTF8 if format == "jsonl" else None
        )
    first = 0
    if format == "txt":
        for texts in _some((text.rstrip("\r\n") for text in lines), live, rows):
            yield Lines(first, texts, line)
            first += len(texts)
    elif format == "jsonl":
        for found in _some(objects(lines, asked), live, rows):
            yield Objects(first, found)
            first += len(found)
    else:
        # Of standard input only the first line is looked at, so that nothing waits for more of them.
        head = islice(lines, 1) if live else lines
        separator, rest = parted(head, None, SEPARATORS[format])
        read = csv_rows(chain(rest, lines) if live else rest, separator, asked)
        names = names_of(next(read, (0, [""]))[1], asked)
        for cells in _some(_even(read, len(names), asked), live, rows):
            yield Texts(first, names, cells, separator)
            first += len(cells)


def _even(rows: Iterable[tuple[int, list[str]]], width: int, asked: str) -> Iterator[list[str]]:
    """Rows of CSV, each with a cell for every column."""
    room = Room(asked)
    for count, (line, row) in enumerate(rows, 1):
        room.there += len(row)
        if len(row) < width:
            room.check(count, width)
        if len(row) > width:
            found = f"line {line} has {len(row)} cells, and the first line names {width} columns"
            raise AllroundError(asked, f"it is not readable as csv: {found}", "correct the file")
        yield row + [""] * (width - len(row))


def _some(found: Iterator[_T], live: _Live | None, count: int) -> Iterator[list[_T]]:
    """So many at a time; of a live stream those that are there."""
    if live is None:
        while some := list(islice(found, count)):
            yield some
        return
    some = []
    for one in found:
        some.append(one)
        if len(some) == count or live.waits:
            yield some
            some = []
    if some:
        yield some


class _Live:
    """The lines of a stream, with their ends. waits: the next one is not there yet."""

    def __init__(self, file: BinaryIO, asked: str) -> None:
        self.file, self.asked = file, asked
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.lines: list[str] = []
        self.rest = ""
        self.number = 0

    @property
    def waits(self) -> bool:
        return not self.lines

    def __iter__(self) -> _Live:
        return self

    def __next__(self) -> str:
        while not self.lines:
            data = self.file.read1(1 << 16)  # type: ignore[attr-defined]
            try:
                text = self.rest + self.decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                found = f"it is not UTF-8 text: {error.reason}, after line {self.number}"
                raise AllroundError(self.asked, found, "give UTF-8") from error
            *whole, self.rest = text.split("\n")
            if "\0" in text or len(self.rest) > MAX_LINE:
                wrong = "a NUL byte" if "\0" in text else f"more than {MAX_LINE:,} characters"
                raise AllroundError(self.asked, f"a line after line {self.number} holds {wrong}", "give rows of text")
            self.lines = [f"{line}\n" for line in reversed(whole)]
            if not data and not self.lines:
                if not self.rest:
                    raise StopIteration
                self.lines, self.rest = [self.rest], ""
        self.number += 1
        return self.lines.pop()


def in_windows(rows: Iterable[Mapping[str, object]], count: int = WINDOW) -> Iterator[Window]:
    """Dictionaries as windows."""
    first = 0
    left = iter(rows)
    while some := list(islice(left, count)):
        yield Objects(first, some)
        first += len(some)
