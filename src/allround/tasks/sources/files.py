"""Files of rows: one for each split, or a folder or an archive that holds them."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from allround.core.errors import AllroundError
from allround.core.reading import check_file
from allround.tasks.sources.archive import archive_of, unpack
from allround.tasks.sources.image_folder import read_images
from allround.tasks.sources.names import SPLIT_NAMES
from allround.tasks.sources.parquet import read_parquet
from allround.tasks.sources.sniff import TextForm
from allround.tasks.sources.text_files import Columns, read_columns
from allround.tasks.task import SPLITS

if TYPE_CHECKING:
    from typing import TypeAlias

    from datasets import Dataset

    #: Columns of files of text, and data sets of all others.
    Rows: TypeAlias = Dataset | Columns

#: The ending of a file -> its format.
FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}


def read_place(path: Path, format: str | None, written: Collection[str], form: TextForm) -> dict[str, Rows]:
    """The rows of a path: a file (all its rows are for training), a folder, a zip file, or a folder in one.

    format: of the files, where their endings do not say it. written: columns that stay text as it is written.
    form: how files of text are written.
    """
    archive = archive_of(path)
    if archive is not None:
        with tempfile.TemporaryDirectory(prefix="allround-") as folder:
            unpack(archive, Path(folder))
            try:
                return _folder(Path(folder) / path.relative_to(archive), path, format, written, form)
            except AllroundError as error:
                asked, found = (part.replace(folder, str(archive)) for part in (error.asked, error.found))
                raise AllroundError(asked, found, error.do) from error
    if path.is_dir():
        return _folder(path, path, format, written, form)
    return read_files({"train": path}, format, written, form)


def _folder(folder: Path, shown: Path, format: str | None, written: Collection[str], form: TextForm) -> dict[str, Rows]:
    if not folder.is_dir():
        raise AllroundError(f"read '{shown}'", "there is no such folder in the archive", "check the path")
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        split = SPLIT_NAMES.get(file.stem.lower())
        if split and not file.is_dir() and file.suffix.lower() in FORMATS and format != "images":
            found.setdefault(split, []).append(file)
    for split, files in found.items():
        if len(files) > 1:
            raise AllroundError(
                f"read the folder '{shown}'",
                f"{' and '.join(f.name for f in files)} are both the {split} split",
                "keep one, or name the files: source: {train: ..., test: ...}",
            )
    if found:
        return read_files({split: found[split][0] for split in SPLITS if split in found}, format, written, form)
    return {**read_images(folder, shown)}


def read_files(
    files: Mapping[str, Path], format: str | None, written: Collection[str] = (), form: TextForm | None = None
) -> dict[str, Rows]:
    """The rows of one file for each split. format, written, form: as for `read_place`."""
    formats = {split: _format(path, format) for split, path in files.items()}
    text = {split: (path, formats[split]) for split, path in files.items() if formats[split] != "parquet"}
    read: dict[str, Rows] = dict(read_columns(text, written, form))
    return {split: read[split] if split in read else read_parquet(path) for split, path in files.items()}


def _format(path: Path, format: str | None) -> str:
    asked = f"read '{path}'"
    check_file(path, asked=asked)
    format = format or FORMATS.get(path.suffix.lower())
    if format is None or format == "images":
        raise AllroundError(
            asked,
            f"files ending in '{path.suffix}' are not known",
            f"use one of: {', '.join(sorted(FORMATS))}, or set `format`",
        )
    if path.stat().st_size == 0:
        raise AllroundError(asked, "the file is empty", "put rows in it")
    return format
