"""Passages from a file, and folders as BEIR has them: a corpus, queries, and a table of grades for each split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from allround.core.errors import AllroundError
from allround.tasks.passages import BLOCK, Passages
from allround.tasks.sources.files import read_files
from allround.tasks.sources.load import place_of
from allround.tasks.sources.text_files import Columns
from allround.tasks.values import is_missing, plain

if TYPE_CHECKING:
    from allround.tasks.sources.files import Rows
    from allround.tasks.spec import TaskSpec

CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels"
#: Split -> its table of grades in a folder of BEIR.
TABLES = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
_IDS = ("_id", "id")
_WRITTEN = (*_IDS, "text", "title", "query-id", "corpus-id")


def read_passages(path: Path) -> Passages:
    """The passages of a JSONL, CSV, TSV or Parquet file: columns `_id` (or `id`), `text` and, if there is one, `title`.

    Errors: a file without them, empty ids, ids that stand there twice, and all that a file of rows can have.
    """
    import pyarrow as pa

    asked = f"read the passages in '{path}'"
    rows = read_files({"train": path}, None, _WRITTEN)["train"]
    names = _names(rows)
    name = next((one for one in _IDS if one in names), None)
    if name is None or "text" not in names:
        raise AllroundError(
            asked, f"it has the columns {', '.join(names)}", "give each passage `_id` (or `id`) and `text`"
        )
    ids = _texts(rows, name)
    if empty := [row for row, one in enumerate(ids) if not one]:
        raise AllroundError(asked, f"{name} is empty in {len(empty)} rows, first in row {empty[0]}", "fill it in")
    parts = []
    titles = _texts(rows, "title") if "title" in names else None
    texts = _texts(rows, "text")
    for start in range(0, len(ids), BLOCK):
        stop = start + BLOCK
        some = texts[start:stop]
        if titles is not None:
            some = [f"{title} {text}".strip() for title, text in zip(titles[start:stop], some, strict=True)]
        try:
            parts.append(pa.array(some, pa.large_string()))
        except UnicodeEncodeError as error:
            raise AllroundError(asked, f"a text is not valid Unicode: {error.reason}", "replace the broken characters"
                                ) from None  # fmt: skip
    try:
        return Passages(pa.array(ids, pa.large_string()), pa.concat_arrays(parts))
    except ValueError as error:
        raise AllroundError(asked, str(error), "give each passage an id of its own") from None


def beir_folder(spec: TaskSpec, base_dir: Path, data_dir: Path | None) -> Path | None:
    """The folder of a task's source, where it is laid out as BEIR does it."""
    local = data_dir is not None and spec.local is not None
    source = spec.local if local and spec.local is not None else spec.source
    given = source.path or source.name
    if given is None:
        return None
    path = place_of(given, base_dir, data_dir if local else None)
    return path if (path / CORPUS).is_file() and (path / QRELS).is_dir() else None


def passages_file(spec: TaskSpec, base_dir: Path, data_dir: Path | None) -> Path:
    """The file that holds the passages of a task: the one that it names, or that of its folder."""
    if spec.passages is not None:
        return place_of(spec.passages, base_dir, data_dir if spec.local is not None else None)
    folder = beir_folder(spec, base_dir, data_dir)
    assert folder is not None
    return folder / CORPUS


def read_beir(folder: Path, query: str, target: str) -> dict[str, Columns]:
    """The rows of a folder of BEIR by split, with the columns `query` and `target`.

    A row is a query that its split has grades of; queries without a relevant passage are left out, and a note says so.
    """
    asked = f"read '{folder}'"
    queries = read_passages(folder / QUERIES)
    found: dict[str, Columns] = {}
    for split, name in TABLES.items():
        path = folder / QRELS / name
        if not path.is_file():
            continue
        rows = read_files({"train": path}, None, _WRITTEN)["train"]
        names = _names(rows)
        if lost := [one for one in ("query-id", "corpus-id", "score") if one not in names]:
            raise AllroundError(f"read '{path}'", f"it has no column '{lost[0]}'; it has: {', '.join(names)}",
                                "give the columns query-id, corpus-id and score")  # fmt: skip
        grades: dict[str, dict[str, object]] = {}
        for one, other, grade in zip(_texts(rows, "query-id"), _texts(rows, "corpus-id"), rows["score"], strict=True):
            if grades.setdefault(one, {}).setdefault(other, grade) != grade:
                raise AllroundError(f"read '{path}'", f"the passage '{other}' has two grades for the query '{one}'",
                                    "keep one of them")  # fmt: skip
        if unknown := [one for one in grades if one not in queries]:
            raise AllroundError(f"read '{path}'", f"the query '{unknown[0]}' is not in {QUERIES}", "add it there")
        kept = [one for one, own in grades.items() if any(isinstance(g, int | float) and g > 0 for g in own.values())]
        if kept:
            found[split] = Columns(
                {query: [queries[one] for one in kept], target: [grades[one] for one in kept]}, len(kept)
            )
            if gone := len(grades) - len(kept):
                words = f"{gone} of {len(grades)} {split} queries have no relevant passage and are left out"
                found[split].notes = (words,)
    if not found:
        raise AllroundError(asked, f"{QRELS} has no grades above 0", f"add {QRELS}/train.tsv")
    return found


def _names(rows: Rows) -> list[str]:
    return list(rows) if isinstance(rows, Columns) else list(rows.column_names)


def _texts(rows: Rows, name: str) -> list[str]:
    values: Sequence[object] = rows[name]
    return ["" if is_missing(value) else value if isinstance(value, str) else plain(value) for value in values]
