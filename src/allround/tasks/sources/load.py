"""A source: its rows by split, wherever they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from allround.core.errors import AllroundError, suggestion
from allround.core.files import is_hub_id, is_inside
from allround.tasks.sources.archive import archive_of
from allround.tasks.sources.files import FORMATS, read_files, read_place
from allround.tasks.sources.hub import read_hub
from allround.tasks.sources.parquet import check_whole
from allround.tasks.sources.scikit_learn import read_sklearn
from allround.tasks.sources.sniff import TextForm
from allround.tasks.sources.text_files import Columns
from allround.tasks.spec import SourceSpec

if TYPE_CHECKING:
    from allround.tasks.sources.files import Rows


def load_raw(
    source: str | SourceSpec,
    *,
    base_dir: Path | str,
    data_dir: Path | str | None = None,
    as_written: Collection[str] = (),
) -> dict[str, Rows]:
    """Read a source: split ("train", "validation", "test") -> rows, in memory, with columns renamed.

    base_dir: where relative paths begin. data_dir: given for a `local` source, whose paths are then inside that
    folder. Images have the columns `image` and `label`.
    as_written: columns (by their new names) that stay text as written in CSV, TSV and JSON files; see `read_columns`.
    Nothing is left behind on disk, except that Hub sets stay in the user's Hub cache.

    Raises `AllroundError` where the source is missing, empty, broken or hostile.
    """
    spec = SourceSpec(name=source) if isinstance(source, str) else source
    written = {theirs for theirs, ours in spec.columns.items() if ours in as_written}
    written.update(name for name in as_written if name not in spec.columns)
    form = TextForm(spec.encoding, spec.delimiter)
    read: dict[str, Rows]
    if spec.sklearn is not None:
        read = {**read_sklearn(spec.sklearn)}
    elif spec.files:
        files = {split: place_of(name, base_dir, data_dir) for split, name in spec.files.items()}
        read = _whole(read_files(files, spec.format, written, form))
    else:
        path = _path(spec, base_dir, data_dir)
        read = _whole(read_place(path, spec.format, written, form)) if path is not None else {**read_hub(spec)}
    return {split: _rename(rows, spec.columns, split) for split, rows in read.items()}


def _whole(read: dict[str, Rows]) -> dict[str, Rows]:
    """The same, after a check that no row names an image that is somewhere else."""
    for split, rows in read.items():
        if not isinstance(rows, Columns):
            check_whole(rows, split)
    return read


def _path(spec: SourceSpec, base_dir: Path | str, data_dir: Path | str | None) -> Path | None:
    """The path that is meant, or None for a Hub id."""
    if spec.hub is not None:
        if data_dir is not None:
            raise AllroundError(
                f"read '{spec.hub}' as a local copy",
                "it is an id on the Hub, and a local copy is in the data folder",
                "set `local` to a folder or to files in the data folder",
            )
        return None
    given = spec.path or spec.name or ""
    path = place_of(given, base_dir, data_dir)
    if spec.path is not None or data_dir is not None or path.exists() or archive_of(path):
        return path
    if not is_hub_id(given) or Path(given).suffix in (*FORMATS, ".zip"):
        return path  # no Hub id looks like this, so the error is about a path
    return None


def place_of(given: str, base_dir: Path | str, data_dir: Path | str | None) -> Path:
    """The path that a name means: from `base_dir`, or of local copies inside `data_dir`."""
    if data_dir is None:
        try:
            path = Path(base_dir) / Path(given).expanduser()
            path.exists()
        except (OSError, RuntimeError, ValueError) as error:  # a name too long, no such home, a NUL
            raise AllroundError(f"read '{given}'", f"no file can be there: {error}", "check the path") from error
        return path
    if not is_inside(given):
        raise AllroundError(
            f"read the local folder '{given}'",
            "it points outside the data folder",
            "name a folder inside the data folder, without '..'",
        )
    return Path(data_dir) / given


def _rename(rows: Rows, columns: dict[str, str], split: str) -> Rows:
    if not columns:
        return rows
    have = list(rows) if isinstance(rows, Columns) else rows.column_names
    for theirs in columns:
        if theirs not in have:
            raise AllroundError(
                f"rename the column '{theirs}' of {split}", "there is no column of that name", suggestion(theirs, have)
            )
    after = [columns.get(name, name) for name in have]
    twice = [name for name, n in Counter(after).items() if n > 1]
    if twice:
        raise AllroundError(
            f"rename a column of {split} to '{twice[0]}'",
            "there is another column of that name",
            "give that one another name too, under `columns`",
        )
    return rows.rename(columns) if isinstance(rows, Columns) else rows.rename_columns(columns)
