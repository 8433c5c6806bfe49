"""Opening files that may be anything: only regular files are read, and documents only up to a size.

Every file that is read in this package is opened here. A named pipe or a device would let a reader wait for ever; a
library that opens files by itself is given a path only after `check_file` or `check_folder`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import warnings
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from allround.core.errors import AllroundError

#: Bytes of a file that somebody wrote by hand.
MAX_WRITTEN = 1 << 20
#: Bytes and values of a document that a program wrote, such as the tokenizer of 256,000 tokens: about three times that.
MAX_BYTES = 100 << 20
MAX_VALUES = 5_000_000
#: Values of settings and records, such as a config.json with the names of 100,000 classes: what reads them is slow with
#: more, and takes up to 700 bytes for each.
MAX_SETTINGS = 500_000
#: How deeply lists and objects may lie in each other: more than any program writes, less than any library's own limit.
MAX_DEPTH = 64
#: Columns of a table.
MAX_COLUMNS = 10_000
#: Cells and letters that a Parquet file may stand for: so many for each of its bytes, and so many in any case.
_EXPANDED, _SMALL = 100, 20_000_000
#: Rows of a Parquet file that are measured at once.
_BATCH = 10_000

_SORTS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_file(path: Path | str, *, asked: str | None = None) -> BufferedReader:
    """Open a regular file for reading bytes; it never waits. asked: what for, in messages.

    Errors: no such file; a folder, a pipe, a socket or a device; no permission.

    >>> open_file("/dev/zero")
    Traceback (most recent call last):
    ...
    allround.core.errors.AllroundError: asked: read '/dev/zero'
    found: it is a device, not a file
    do:    give a regular file
    """
    asked = asked or f"read '{path}'"
    try:
        # Of a pipe that nobody writes to, opening waits too, unless it is told not to.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        raise _unreadable(asked, error) from error
    try:
        _check_sort(os.fstat(handle).st_mode, asked)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def check_file(path: Path | str, *, asked: str | None = None) -> None:
    """An error unless a path is a regular file that can be opened: for libraries that open it by themselves."""
    open_file(path, asked=asked).close()


def check_folder(folder: Path | str, *, asked: str | None = None) -> None:
    """An error where something in a folder is neither a file nor a folder: for libraries that read what is in it."""
    for path in sorted(Path(folder).rglob("*")):
        mode = path.stat().st_mode if path.exists() else stat.S_IFREG
        if not stat.S_ISDIR(mode):
            _check_sort(mode, asked or f"read the folder '{folder}'", what=f"'{path.name}' in it")


def read_bytes(path: Path | str, *, what: str = "file", max_bytes: int = MAX_BYTES, asked: str | None = None) -> bytes:
    """The bytes of a regular file. what: it is, in messages. Errors: those of `open_file`; too large."""
    asked = asked or f"read the {what} '{path}'"
    with open_file(path, asked=asked) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= max_bytes:
            try:
                found = file.read(max_bytes + 1)
            except OSError as error:
                raise _unreadable(asked, error) from error
            if len(found) <= max_bytes:
                return found
            size = len(found)
    raise AllroundError(
        asked, f"it has {size:,} bytes; a {what} has at most {max_bytes:,}", "check that this is the file"
    )


def read_text(path: Path | str, *, what: str = "file", max_bytes: int = MAX_WRITTEN, asked: str | None = None) -> str:
    """The text of a file that somebody wrote. Errors: those of `read_bytes`; no UTF-8."""
    asked = asked or f"read the {what} '{path}'"
    found = read_bytes(path, what=what, max_bytes=max_bytes, asked=asked)
    try:
        return found.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise AllroundError(asked, f"it is not UTF-8 text: {error.reason}", "save it as UTF-8") from error


@contextlib.contextmanager
def image_errors() -> Iterator[None]:
    """While PIL reads an image, whatever it raises becomes a ValueError: of damaged images it raises anything.

    Its warning that an image has very many pixels (90 million) is an error, as it is for twice as many.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield
        except Exception as error:
            raise ValueError(str(error).strip() or type(error).__name__) from error


def check_parquet(file: BufferedReader, *, asked: str) -> None:
    """An error where a Parquet file has too many columns, or stands for far more than its size: equal cells take no
    room in it.

    Columns of text are read by their dictionaries, in which each cell stands once. Errors: also those of Arrow.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    size = os.fstat(file.fileno()).st_size
    most = _EXPANDED * size + _SMALL
    found = pq.ParquetFile(file)
    if found.metadata.num_columns > MAX_COLUMNS:
        raise AllroundError(asked, f"it has more than {MAX_COLUMNS:,} columns", "keep those that are needed")
    total = found.metadata.num_rows * found.metadata.num_columns
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    texts = [field.name for field in found.schema_arrow if any(is_kind(field.type) for is_kind in kinds)]
    if total <= most and texts:
        coded = pq.ParquetFile(file, read_dictionary=texts)
        for batch in coded.iter_batches(batch_size=_BATCH, columns=texts):
            for column in batch.columns:
                total += pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0
            if total > most:
                break
    if total > most:
        raise AllroundError(
            asked,
            f"its {size:,} bytes stand for more than {most:,} cells and letters",
            "check that this is the file; or write the same rows as CSV or JSONL",
        )


def parse_json(text: str, *, max_values: int = MAX_VALUES, **hooks: Any) -> Any:
    """The value that JSON stands for. hooks: those of `json.loads`, such as `object_pairs_hook`.

    Errors: a ValueError where it is not JSON, where it is nested too deeply, and, before it takes any memory, where it
    has too many values.

    >>> parse_json('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    >>> parse_json("[" * 100 + "]" * 100)
    Traceback (most recent call last):
    ...
    ValueError: it is nested more than 64 levels deep
    """
    opening = text.count("[") + text.count("{")
    if opening + text.count(",") > max_values:
        raise ValueError(f"it has more than {max_values:,} values")
    try:
        value = json.loads(text, **hooks)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep") from None
    if opening > MAX_DEPTH and is_deep(value):
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    return value


def is_deep(value: Any) -> bool:
    """Whether lists and dictionaries lie in each other more than `MAX_DEPTH` levels deep."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (list, dict))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (list, dict))
        ]
    return bool(level)


def _check_sort(mode: int, asked: str, what: str = "it") -> None:
    if not stat.S_ISREG(mode):
        sort = next((name for test, name in _SORTS if test(mode)), "something else")
        raise AllroundError(asked, f"{what} is {sort}, not a file", "give a regular file")


def _unreadable(asked: str, error: Exception) -> AllroundError:
    if isinstance(error, FileNotFoundError):
        return AllroundError(asked, "the file is not there", "check the path")
    if isinstance(error, OSError) and error.errno == errno.ENXIO:  # it cannot even be opened
        return AllroundError(asked, "it is a socket, not a file", "give a regular file")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return AllroundError(asked, f"it cannot be read: {reason}", "check the path and its permissions")
