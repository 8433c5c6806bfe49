"""CSV, TSV and JSON files as columns: each has one type over all rows and all splits, and labels stay as written."""

from __future__ import annotations

import csv
import io
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from allround.core.errors import AllroundError
from allround.core.reading import MAX_COLUMNS, MAX_VALUES, open_file, parse_json
from allround.tasks.sources.sniff import UTF8, TextForm, encoding_of, parted, shown
from allround.tasks.values import MISSING_WORDS

if TYPE_CHECKING:
    from pyarrow import Array, ChunkedArray

#: An object of a JSON file, by its keys.
JsonObject: TypeAlias = dict[str, object]

#: What each format of text parts its cells by; JSON has no cells.
SEPARATORS = {"csv": ",", "tsv": "\t", "json": ""}
#: Characters of a cell and of a line.
MAX_LINE = 16 << 20
#: Characters and values of a file that is one JSON array, which is read as a whole.
MAX_ARRAY = 256 << 20
MAX_ARRAY_VALUES = 10_000_000
_LINES = "write one JSON object a line"
#: Cells that are absent may take this many times the room of those that are there, and so many in any case.
_SPARSE = 20
_SMALL = 2_000_000
#: Rows of a CSV file, or cells, that are put into columns at once.
_ROWS, _CELLS = 10_000, 1_000_000

_NUMBER = r"(?i)^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?$|^[+-]?inf(inity)?$"
_WHOLE = r"^[+-]?[0-9]+$"
#: Words of files that are truth values.
BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
#: The limit of a cell's length is one for the whole process.
_FIELD_LIMIT = threading.Lock()


class Columns(Mapping[str, list[object]]):
    """The columns of a file by name, each a list of one value a row; None where it is missing.

    >>> columns = Columns({"text": ["a", "b"], "label": [0, 1]}, 2)
    >>> columns.count, columns["label"], columns.row(1)
    (2, [0, 1], {'text': 'b', 'label': 1})
    """

    def __init__(self, columns: Mapping[str, list[object] | ChunkedArray], count: int) -> None:
        self._columns = dict(columns)
        self.count = count
        #: What a user should know of how the file was read.
        self.notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> list[object]:
        column = self._columns[name]
        return column if isinstance(column, list) else column.to_pylist()

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def rename(self, names: Mapping[str, str]) -> Columns:
        """The same under other names. names: old -> new; the others stay."""
        found = Columns({names.get(name, name): column for name, column in self._columns.items()}, self.count)
        found.notes = self.notes
        return found

    def row(self, number: int) -> dict[str, object]:
        return {
            name: column[number] if isinstance(column, list) else column[number].as_py()
            for name, column in self._columns.items()
        }


def read_columns(
    files: Mapping[str, tuple[Path, str]], as_written: Collection[str] = (), form: TextForm | None = None
) -> dict[str, Columns]:
    """The columns of the files of a source. files: split -> path, and its format, one of `SEPARATORS`.

    form: how the files are written; what it does not say is found out, and a note of the columns says what was.

    as_written: columns of labels. Their cells stay text, and their JSON numbers become text as they are spelt, so that
    `01` is not `1`, and `1e5` is not `100000`. Every other column of CSV files is whole numbers, decimals, truth values
    or text, whichever fits all its cells in all files; a column of JSON files that holds text beside numbers is text.
    Cells that are empty are missing; so are words such as `NA` in a column of numbers.

    Errors: files that are broken, empty, too wide, or nested too deeply, with the line.
    """
    form, notes = form or TextForm(), dict.fromkeys(files, "")
    cells: dict[str, dict[str, ChunkedArray]] = {}
    for split, (path, format) in files.items():
        if SEPARATORS[format]:
            cells[split], notes[split] = _read_csv(path, SEPARATORS[format], form)
    read = _typed(cells, as_written)
    objects = {split: path for split, (path, format) in files.items() if not SEPARATORS[format]}
    rows = {split: _read_json(path, as_written, form) for split, path in objects.items()}
    mixed = _mixed(list(rows.values())).difference(as_written)
    if mixed:
        rows = {split: _read_json(path, {*as_written, *mixed}, form) for split, path in objects.items()}
        for part in rows.values():
            for name in mixed & part.columns.keys():
                part.columns[name] = [value if value is None else str(value) for value in part.columns[name]]
    read.update({split: Columns(part.columns, part.count) for split, part in rows.items()})
    for split, note in notes.items():
        read[split].notes = (note,) if note else ()
    return {split: read[split] for split in files}


class Room:
    """Counts cells, so that a few that are there do not take the room of many that are absent."""

    def __init__(self, asked: str) -> None:
        self.asked = asked
        self.there = 0

    def check(self, rows: int, columns: int) -> None:
        if rows * columns > _SPARSE * self.there + _SMALL:
            raise AllroundError(
                self.asked,
                f"its first {rows:,} rows have {columns:,} columns, and almost all cells are missing",
                "keep the columns that most rows have",
            )


def _too_wide(asked: str) -> AllroundError:
    return AllroundError(asked, f"it has more than {MAX_COLUMNS:,} columns", "keep the columns that the tasks need")


# CSV and TSV.


def _read_csv(path: Path, usual: str, form: TextForm) -> tuple[dict[str, ChunkedArray], str]:
    """The cells of a file by column, all as text; None where a cell is empty. And a note, where the file is unusual.

    usual: what parts cells, if nothing says or shows it.
    """
    import pyarrow as pa

    asked = f"read '{path}'"
    room = Room(asked)
    names: list[str] = []
    parts: list[list[Array]] = []
    rows: list[list[str]] = []
    count = 0
    encoding = form.encoding or encoding_of(path, asked)
    separator, lines = parted(lines_of(path, asked, newline="", encoding=encoding), form.delimiter, usual)
    for line, row in csv_rows(lines, separator, asked):
        if not names:
            names = names_of(row, asked)
            parts = [[] for _ in names]
            continue
        if len(row) > len(names):
            found = f"line {line} has {len(row)} cells, and the first line names {len(names)} columns"
            do = (
                f"correct the file, or set `delimiter` in the source: {shown(separator)} parts the cells as it was read"
            )
            raise AllroundError(asked, f"it is not readable as csv: {found}", do)
        count += 1
        room.there += len(row)
        if len(row) < len(names):
            room.check(count, len(names))
            row += [""] * (len(names) - len(row))
        rows.append(row)
        if len(rows) == _ROWS or len(rows) * len(names) > _CELLS:
            _put(rows, parts)
    _put(rows, parts)
    if not count:
        raise AllroundError(asked, "the file has no rows", "put rows in it")
    note = form.note(path.name, encoding, separator, usual)
    return {name: pa.chunked_array(part) for name, part in zip(names, parts, strict=True)}, note


def _put(rows: list[list[str]], parts: list[list[Array]]) -> None:
    import pyarrow as pa

    if rows:
        for part, column in zip(parts, zip(*rows, strict=True), strict=True):
            part.append(pa.array([cell or None for cell in column], pa.large_string()))
        rows.clear()


def names_of(row: list[str], asked: str) -> list[str]:
    """The names of columns by the first row."""
    if len(row) > MAX_COLUMNS:
        raise _too_wide(asked)
    twice = [name for name, n in Counter(row).items() if n > 1]
    if twice:
        raise AllroundError(asked, f"it has {row.count(twice[0])} columns called '{twice[0]}'", "rename all but one")
    return [name or f"Unnamed: {i}" for i, name in enumerate(row)]


def csv_rows(lines: Iterable[str], separator: str, asked: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a file with the lines that they end in; blank lines are left out.

    lines: with their ends. While rows are left to read, no other file of CSV can be read.
    """
    ended = False

    def until_end() -> Iterator[str]:
        nonlocal ended
        yield from lines
        ended = True

    with _FIELD_LIMIT:
        before = csv.field_size_limit(MAX_LINE)
        reader = csv.reader(until_end(), delimiter=separator)
        try:
            for row in reader:
                if ended:  # the reader asked for one more line to end this row
                    raise csv.Error("a quotation mark before it is never closed")
                if row and not (len(row) == 1 and row[0].isspace()):
                    yield reader.line_num, row
        except csv.Error as error:
            found = f"it is not readable as csv: line {reader.line_num}: {error}"
            raise AllroundError(asked, found, "correct the file") from error
        finally:
            csv.field_size_limit(before)


def lines_of(path: Path, asked: str, newline: str, encoding: str | None = None) -> Iterator[str]:
    """The lines of a text, none of them longer than `MAX_LINE`. encoding: found out where it is not given."""
    number = 0
    encoding = encoding or encoding_of(path, asked)
    with open_file(path, asked=asked) as file, io.TextIOWrapper(file, encoding=encoding, newline=newline) as text:
        try:
            while line := text.readline(MAX_LINE):
                number += 1
                if len(line) == MAX_LINE:
                    found = f"line {number} has more than {MAX_LINE:,} characters"
                    raise AllroundError(asked, found, "check that this is a file of rows")
                if "\0" in line:
                    raise AllroundError(asked, f"line {number} holds a NUL byte, so it is not text", "save it as UTF-8")
                yield line
        except UnicodeDecodeError as error:
            found = f"it is not {encoding.upper().removesuffix('-SIG')} text: {error.reason}"
            raise AllroundError(asked, found, "save it as UTF-8, or set `encoding` in the source") from error


def _typed(cells: Mapping[str, dict[str, ChunkedArray]], as_written: Collection[str]) -> dict[str, Columns]:
    """Each column in the one type that fits all its cells in all splits."""
    made: dict[str, dict[str, ChunkedArray]] = {split: dict(columns) for split, columns in cells.items()}
    for name in {name: None for columns in cells.values() for name in columns}:
        found = {split: columns[name] for split, columns in cells.items() if name in columns}
        for split, column in zip(found, _one_type(list(found.values()), name in as_written), strict=True):
            made[split][name] = column
    return {split: Columns(columns, len(next(iter(columns.values())))) for split, columns in made.items()}


def _one_type(columns: list[ChunkedArray], as_written: bool) -> list[ChunkedArray]:
    """The columns of one name in all splits, converted alike."""
    import pyarrow as pa
    import pyarrow.compute as pc

    words = pa.chunked_array([chunk for column in columns for chunk in column.chunks]).unique().drop_null()
    trimmed = pc.utf8_trim_whitespace(words)
    absent = pc.is_in(pc.utf8_lower(trimmed), pa.array(MISSING_WORDS, pa.large_string()))
    others = trimmed.filter(pc.invert(absent))
    if len(others) and pc.all(pc.match_substring_regex(others, _NUMBER)).as_py():
        values = pc.if_else(absent, None, words if as_written else _numbers(pc.if_else(absent, None, trimmed)))
    elif len(words) and not as_written and set(words.to_pylist()) <= BOOLEANS.keys():
        values = pa.array([BOOLEANS[word] for word in words.to_pylist()])
    else:
        return columns
    return [values.take(pc.index_in(column, words)) for column in columns]


def _numbers(words: Array) -> Array:
    """Whole numbers where all are and 64 bits hold them, else decimals."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pc.all(pc.match_substring_regex(words, _WHOLE)).as_py():
        try:
            return pc.utf8_ltrim(words, "+").cast(pa.int64())
        except pa.ArrowInvalid:
            pass
    return words.cast(pa.float64())


# JSON.


@dataclass
class _Objects:
    """The objects of a file by their keys. sorts: the types of each column's values."""

    columns: dict[str, list[object]]
    sorts: dict[str, set[type]]
    count: int = 0


def _mixed(files: Collection[_Objects]) -> set[str]:
    """The columns that hold text beside numbers or truth values, or these beside each other."""
    sorts: dict[str, set[type]] = {}
    for file in files:
        for name, found in file.sorts.items():
            sorts.setdefault(name, set()).update(float if sort is int else sort for sort in found)
    return {name for name, found in sorts.items() if len(found) > 1 and found <= {str, float, bool}}


def _read_json(path: Path, as_written: Collection[str], form: TextForm) -> _Objects:
    """as_written: keys whose values have their numbers as text, as they are spelt."""
    asked = f"read '{path}'"
    room = Room(asked)
    found = _Objects({}, {})
    lines = lines_of(path, asked, newline="\n", encoding=form.encoding or UTF8)  # as the standard of JSON demands
    for row in objects(lines, asked, frozenset(as_written)):
        for name, value in row.items():
            if name not in found.columns:
                if len(found.columns) == MAX_COLUMNS:
                    raise _too_wide(asked)
                found.columns[name], found.sorts[name] = [], set()
            _fill(found.columns[name], found.count, len(found.columns), room)
            found.columns[name].append(value)
            if value is not None:
                found.sorts[name].add(type(value))
        room.there += len(row)
        found.count += 1
    if not found.count:
        raise AllroundError(asked, "the file has no rows", "put rows in it")
    for column in found.columns.values():
        _fill(column, found.count, len(found.columns), room)
    return found


def _fill(column: list[object], rows: int, columns: int, room: Room) -> None:
    """Put None where rows lack the column."""
    if len(column) < rows:
        room.check(rows, columns)
        column.extend([None] * (rows - len(column)))


def objects(lines: Iterator[str], asked: str, as_written: frozenset[str] = frozenset()) -> Iterator[JsonObject]:
    """The objects of a file: of one array, or one a line."""
    first = True
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        if first and text.startswith("["):
            yield from _array(text, lines, asked, as_written)
            return
        first = False
        if not text.startswith("{"):
            raise AllroundError(asked, f"line {number} is not a JSON object: {text[:60]}", _LINES)
        try:
            found = _parse(text, as_written)
        except ValueError as error:
            words = f"line {number} is not readable as JSON: {error}"
            raise AllroundError(asked, words, "correct or remove that line") from error
        yield from found if isinstance(found, list) else [found]


def _array(start: str, lines: Iterator[str], asked: str, as_written: frozenset[str]) -> list[JsonObject]:
    """The objects of an array, which begins with `start` and goes on in the other lines."""
    parts, size = [start], len(start)
    for line in lines:
        parts.append(line)
        size += len(line)
        if size > MAX_ARRAY:
            raise AllroundError(asked, f"it is an array of more than {MAX_ARRAY:,} characters", _LINES)
    try:
        rows = _parse("\n".join(parts), as_written, MAX_ARRAY_VALUES)
    except ValueError as error:
        raise AllroundError(asked, f"it is not readable as JSON: {error}", _LINES) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise AllroundError(asked, "it is an array with values that are not objects", _LINES)
    return rows


def _parse(text: str, as_written: frozenset[str], max_values: int = MAX_VALUES) -> JsonObject | list[JsonObject]:
    """An object, or an array of them; the numbers under some of their keys as text."""
    value: JsonObject | list[JsonObject] = parse_json(text, max_values=max_values, object_pairs_hook=_once)
    if not as_written:
        return value
    spelt = parse_json(text, max_values=max_values, parse_int=str, parse_float=str)
    for row, other in zip(value, spelt, strict=True) if isinstance(value, list) else [(value, spelt)]:
        if isinstance(row, dict):
            row.update((key, other[key]) for key in as_written & row.keys())
    return value


def _once(pairs: list[tuple[str, object]]) -> JsonObject:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"the key '{twice[:60]}' occurs twice in an object")
    return found
