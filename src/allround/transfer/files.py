"""Matrices of transfer as files: one row for each pair, in CSV or Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allround.core.errors import AllroundError
from allround.core.files import atomic_file
from allround.core.reading import check_parquet, open_file
from allround.transfer.matrix import TaskMatrix

#: Columns of a file. Those before `source` are the same in all rows of a matrix.
COLUMNS = ("name", "kind", "higher_is_better", "symmetric", "seconds", "seeds", "source", "target", "value", "error")
_TEXTS = ("name", "kind", "seeds", "source", "target")
#: Bytes of a file, and tasks of a matrix: more than anybody compares.
_MAX_BYTES, _MAX_TASKS = 100 << 20, 5_000


def write_matrices(path: Path | str, matrices: Iterable[TaskMatrix]) -> None:
    """Write matrices into one file, `.parquet` or `.csv`. The file appears whole.

    Errors: another ending; two matrices of one name.
    """
    import pyarrow.csv
    import pyarrow.parquet

    path, matrices = Path(path), list(matrices)
    ending = check_ending(path, "write")
    names = [matrix.name for matrix in matrices]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise AllroundError(f"write {path}", f"two matrices are called '{twice}'", "give them different names")
    table = to_table(matrices)
    with atomic_file(path) as new, open(new, "wb") as file:
        (pyarrow.parquet.write_table if ending == ".parquet" else pyarrow.csv.write_csv)(table, file)


def to_table(matrices: Sequence[TaskMatrix]) -> Any:
    """Matrices as a table of Arrow with the columns `COLUMNS`, one row for each pair; unknown values are empty."""
    import pyarrow as pa

    texts, flags, numbers = pa.string(), pa.bool_(), pa.float64()
    types = (texts, texts, flags, flags, numbers, texts, texts, texts, numbers, numbers)
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for m in matrices:
        count = m.values.size
        about = (m.name, m.kind, m.higher_is_better, m.symmetric, m.seconds, " ".join(map(str, m.seeds)))
        for name, value in zip(COLUMNS, about, strict=False):
            columns[name] += [value] * count
        columns["source"] += [source for source in m.sources for _ in m.targets]
        columns["target"] += list(m.targets) * len(m.sources)
        for name, values in (
            ("value", m.values),
            ("error", np.full(m.values.shape, np.nan) if m.errors is None else m.errors),
        ):
            columns[name] += [None if np.isnan(value) else value for value in values.ravel().tolist()]
    return pa.table({name: pa.array(columns[name], kind) for name, kind in zip(COLUMNS, types, strict=True)})


def read_matrices(path: Path | str) -> dict[str, TaskMatrix]:
    """What `write_matrices` wrote: matrices by their names, in their order. Errors: anything else."""
    path = Path(path)
    asked = f"read the matrices of transfer in {path}"
    ending = check_ending(path, "read")
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    with open_file(path, asked=asked) as file:
        try:
            if ending == ".parquet":
                check_parquet(file, asked=asked)
                table = pyarrow.parquet.read_table(file)
            else:
                if path.stat().st_size > _MAX_BYTES:
                    raise AllroundError(asked, f"it has more than {_MAX_BYTES:,} bytes", "check that this is the file")
                texts = pyarrow.csv.ConvertOptions(
                    column_types={name: pa.string() for name in _TEXTS},
                    strings_can_be_null=False,
                )
                table = pyarrow.csv.read_csv(file, convert_options=texts)
            names, rows = table.column_names, table.to_pylist()  # texts that are not UTF-8 show here
        except (pa.ArrowException, OSError, ValueError) as error:
            said = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise AllroundError(
                asked, f"it is no such file: {said}", "write it again: allround.transfer.files.write_matrices"
            ) from error
    if tuple(names) != COLUMNS:
        raise AllroundError(
            asked,
            f"its columns are {', '.join(names[:12])}",
            f"give a file with the columns {', '.join(COLUMNS)}",
        )
    odd = [name for name in _TEXTS if not pa.types.is_string(table.schema.field(name).type)]
    if odd:
        raise AllroundError(
            asked, f"its column '{odd[0]}' holds no texts", "write it again: allround.transfer.files.write_matrices"
        )
    groups: dict[object, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["name"], []).append(row)
    return {str(name): _matrix(str(name), rows, asked) for name, rows in groups.items()}


def _matrix(name: str, rows: Sequence[dict[str, Any]], asked: str) -> TaskMatrix:
    """One matrix from its rows."""
    first = rows[0]
    sources, targets = (list(dict.fromkeys(row[what] for row in rows)) for what in ("source", "target"))
    try:
        if len(sources) * len(targets) != len(rows) or max(len(sources), len(targets)) > _MAX_TASKS:
            raise ValueError(f"it has {len(rows)} rows for {len(sources)} sources and {len(targets)} targets")
        if any(row[key] != first[key] for row in rows for key in COLUMNS[:6]):
            raise ValueError("rows of one matrix say different things of it")
        shape = len(sources), len(targets)
        order = [(source, target) for source in sources for target in targets]
        if [(row["source"], row["target"]) for row in rows] != order:
            raise ValueError("its rows are not in the order of sources and targets")
        if not all(isinstance(one, str) for one in (*sources, *targets)):
            raise ValueError("a row has no source, or no target")
        values, errors = (
            np.array([np.nan if row[key] is None else float(row[key]) for row in rows]).reshape(shape)
            for key in ("value", "error")
        )
        return TaskMatrix(
            name,
            tuple(sources),
            tuple(targets),
            values,
            None if np.isnan(errors).all() else errors,
            first["kind"],
            bool(first["higher_is_better"]),
            bool(first["symmetric"]),
            float(first["seconds"]),
            tuple(int(seed) for seed in (first["seeds"] or "").split()),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise AllroundError(
            asked, f"'{name}' is damaged: {error}", "write it again: allround.transfer.files.write_matrices"
        ) from error


def check_ending(path: Path, what: str) -> str:
    """The ending of a file of matrices. Errors: another one."""
    if path.suffix not in (".parquet", ".csv"):
        raise AllroundError(
            f"{what} matrices of transfer: {path}",
            f"its name ends in '{path.suffix}'",
            "give a name that ends in .parquet or .csv",
        )
    return path.suffix
