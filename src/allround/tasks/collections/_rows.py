"""The rows of a data set that a collection describes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from allround.tasks.collection import ImportedRow
from allround.tasks.sources.load import load_raw
from allround.tasks.sources.text_files import Columns
from allround.tasks.spec import SourceSpec

if TYPE_CHECKING:
    from datasets import Dataset


def rows_of(source: SourceSpec, base_dir: Path) -> dict[str, list[ImportedRow]]:
    """The rows of a source by split. base_dir: where relative paths begin."""
    return {split: list(_rows(found)) for split, found in load_raw(source, base_dir=base_dir).items()}


def _rows(found: Columns | Dataset) -> Iterator[ImportedRow]:
    if isinstance(found, Columns):
        columns = {name: found[name] for name in found}
        yield from ({name: values[row] for name, values in columns.items()} for row in range(found.count))
        return
    for row in found:
        assert isinstance(row, Mapping)
        yield dict(row)
