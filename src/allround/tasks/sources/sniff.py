"""How a file of text is written: its encoding, and what parts its cells, found out where nobody says it."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from allround.core.reading import open_file

#: What may part cells where a source does not say it.
DELIMITERS = (",", ";", "\t", "|")
#: Lines that are looked at to find the delimiter, and characters of them.
_LINES, _CHARACTERS = 100, 1 << 18
#: UTF-8, with a byte order mark or without.
UTF8 = "utf-8-sig"
_BOMS = {codecs.BOM_UTF8: UTF8, codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_BLOCK = 1 << 20
#: Spreadsheet programs may say the delimiter in the first line.
_SAID = re.compile(r"\s*sep=(.)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class TextForm:
    """How a source says that its files of text are written; None where it does not say."""

    encoding: str | None = None
    delimiter: str | None = None

    def note(self, name: str, encoding: str, delimiter: str, usual: str) -> str:
        """What a user should know of how the file `name` was read; empty where it is as one expects, or as was said.

        >>> TextForm().note("a.csv", "cp1252", ";", ","), TextForm(delimiter=";").note("a.csv", UTF8, ";", ",")
        ("a.csv is read as cp1252 with ';' between cells", '')
        """
        about = [f"as {encoding}"] if encoding != UTF8 and not self.encoding else []
        about += [f"with {shown(delimiter)} between cells"] if delimiter != usual and not self.delimiter else []
        return f"{name} is read {' '.join(about)}" if about else ""


def shown(delimiter: str) -> str:
    """A delimiter in a message.

    >>> shown(";"), shown("\\t")
    ("';'", 'a tab')
    """
    return "a tab" if delimiter == "\t" else f"'{delimiter}'"


def encoding_of(path: Path, asked: str) -> str:
    """The encoding of a file: what its first bytes say, UTF-8 where all of it is, UTF-16 where every second byte is
    zero, else that of western Windows.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_file(path, asked=asked) as file:
        head = file.read(_BLOCK)
        for bom, encoding in _BOMS.items():
            if head.startswith(bom):
                return encoding
        first, second = head[0:4096:2], head[1:4096:2]
        for zeros, encoding in ((second, "utf-16-le"), (first, "utf-16-be")):
            if len(zeros) > 1 and zeros.count(0) > 0.8 * len(zeros):
                return encoding
        block, strange = head, False
        while block:
            try:
                decoder.decode(block)
            except UnicodeDecodeError:
                strange = True
                break
            block = file.read(_BLOCK)
        if not strange and not decoder.getstate()[0]:
            return UTF8
    return _western(path, asked)


def _western(path: Path, asked: str) -> str:
    decoder = codecs.getincrementaldecoder("cp1252")()
    with open_file(path, asked=asked) as file:
        while block := file.read(_BLOCK):
            try:
                decoder.decode(block)
            except UnicodeDecodeError:
                return "latin-1"
    return "cp1252"


def parted(lines: Iterator[str], delimiter: str | None, usual: str) -> tuple[str, Iterator[str]]:
    """What parts the cells of the lines of a CSV file, and all lines that hold rows.

    delimiter: as the user says it; None: found out from the first lines. Of those that part the first line, it is one
    by which the other lines have as many cells, then the one with the most cells, then the usual one. A first line such
    as `sep=;` says it too, and holds no row.

    >>> delimiter, lines = parted(iter(["a;b\\n", "1,5;x, y\\n"]), None, ",")
    >>> delimiter, list(lines)
    (';', ['a;b\\n', '1,5;x, y\\n'])
    """
    head: list[str] = []
    for line in lines:
        head.append(line)
        if len(head) == _LINES or sum(map(len, head)) > _CHARACTERS:
            break
    said = _SAID.fullmatch(head[0]) if head else None
    if said:
        head = head[1:]
    rest = chain(head, lines)
    if delimiter is not None or said:
        return delimiter or said[1], rest  # type: ignore[index]
    found = [(one, _shape(head, one)) for one in sorted(DELIMITERS, key=lambda one: one != usual)]
    several = [(one, shape) for one, shape in found if shape[1] > 1]
    return (max(several, key=lambda pair: pair[1])[0] if several else usual), rest


def _shape(lines: list[str], delimiter: str) -> tuple[bool, int]:
    """Whether all rows have as many cells as the first, and how many that has. The last row may be cut."""
    try:
        rows = [row for row in islice(csv.reader(lines, delimiter=delimiter), _LINES) if row]
    except csv.Error:
        return False, 0
    widths = [len(row) for row in (rows[:-1] if len(rows) > 2 else rows)]
    return (len(set(widths)) == 1, widths[0]) if widths else (False, 0)
