"""Answers in Python: to dictionaries one after the other, to data frames, to Arrow tables, and from file to file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allround.core.errors import AllroundError
from allround.core.outputs import check_out_file, output_file
from allround.models.prediction.answerer import Answerer, Asking
from allround.models.prediction.answers import Answered, Counts, answer_windows
from allround.models.prediction.columns import AnswerColumns, stands_alone
from allround.models.prediction.writers import FORMATS, with_answers, writer_to
from allround.tasks.modality import modality_of
from allround.tasks.sources.stream import STDIN, WINDOW, Batch, Window, format_of, in_windows, read_windows

if TYPE_CHECKING:
    from pyarrow import Table


def window_rows(system: Answerer, asking: Asking) -> int:
    """How many rows are read at once: few where they are large."""
    names = system.definitions if asking.tasks is None else asking.tasks
    few = (modality_of(system.definitions[name]).rows for name in names if name in system.definitions)
    return min([WINDOW, *few])


def line_name(system: Answerer, asking: Asking) -> str:
    """What the input of tasks that have one input is called: `text`, where they call it by several names."""
    names = system.definitions if asking.tasks is None else asking.tasks
    inputs = {system.definition(name).inputs for name in names}
    return next(iter(inputs))[0] if len(inputs) == 1 else "text"


def with_columns(
    system: Answerer, windows: Iterable[Window], asking: Asking, source: str, *, nested: bool, counts: Counts,
    check: bool = True,
) -> Iterator[tuple[Answered, AnswerColumns]]:  # fmt: skip
    """Windows with their answers, and the columns that these add. check: no column of the rows may be called as one of
    an answer, since both are given."""
    columns = None
    for made in answer_windows(system, windows, asking, source, counts):
        if columns is None:
            alone = stands_alone(asking, system.definitions)
            columns = AnswerColumns(made.tasks, asking, alone=alone, nested=nested, found=made.found is not None)
            if check:
                columns.check(made.window.names, source)
        yield made, columns


def predict_rows(system: Answerer, rows: Iterable[Mapping[str, object]], asking: Asking) -> Iterator[dict[str, Any]]:
    """Each row as a dictionary with the answers to it."""
    windows = in_windows(rows, window_rows(system, asking))
    for made, columns in with_columns(system, windows, asking, "the rows", nested=True, counts=Counts()):
        values = columns.values(made)
        for place, row in enumerate(made.window.objects()):
            yield {**row, **{name: column[place] for name, column in values.items()}}


def predict_table(system: Answerer, table: Any, asking: Asking) -> Any:
    """A data frame of pandas, or an Arrow table, with the columns of answers."""
    import pyarrow as pa

    if isinstance(table, (pa.Table, pa.RecordBatch)):
        whole = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
        return _with_answers(system, whole, asking)
    if not hasattr(table, "iloc") or not hasattr(table, "columns"):
        raise AllroundError(
            "answer the rows of a table",
            f"it is of type {type(table).__name__}",
            "give a DataFrame of pandas or a Table of pyarrow; for dictionaries call predict_rows",
        )
    return _frame_with_answers(system, table, asking)


def _with_answers(system: Answerer, table: Table, asking: Asking) -> Table:
    import pyarrow as pa

    def windows() -> Iterator[Window]:
        first = 0
        for batch in table.to_batches(max_chunksize=window_rows(system, asking)):
            if batch.num_rows:
                yield Batch(first, batch)
                first += batch.num_rows

    parts = [
        with_answers(made, columns)
        for made, columns in with_columns(system, windows(), asking, "the table", nested=False, counts=Counts())
    ]
    if not parts:
        raise AllroundError("answer the rows of a table", "it has no rows", "give at least one row")
    return pa.concat_tables(parts).replace_schema_metadata(table.schema.metadata)


def _frame_with_answers(system: Answerer, frame: Any, asking: Asking) -> Any:
    import pandas as pd
    import pyarrow as pa

    odd = [name for name in frame.columns if not isinstance(name, str)]
    if odd:
        raise AllroundError(
            "answer the rows of a data frame", f"it has a column named {odd[0]!r}, which is not a text",
            "name the columns by texts",
        )  # fmt: skip
    size = window_rows(system, asking)
    records = (dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False, name=None))
    found: dict[str, list[object]] = {}
    types: dict[str, Any] = {}
    for made, columns in with_columns(
        system, in_windows(records, size), asking, "the data frame", nested=False, counts=Counts()
    ):
        types = columns.types()
        for name, column in columns.values(made).items():
            found.setdefault(name, []).extend(column)
    if not found:
        raise AllroundError("answer the rows of a data frame", "it has no rows", "give at least one row")
    added = {
        name: pd.Series(found[name], index=frame.index, dtype="float64" if types[name] == pa.float64() else "object")
        for name in types
    }
    return pd.concat([frame, pd.DataFrame(added, index=frame.index)], axis=1)


def predict_file(
    system: Answerer,
    file: Path | str,
    output: Path | str,
    asking: Asking,
    *,
    format: str | None = None,
    force: bool = False,
) -> Counts:
    """Answer the rows of a file into another; see `System.predict_file`."""
    check_out_file(output, "predict", force=force, inputs=[file])
    read = format_of(str(file), format, f"read '{file}'")
    windows = read_windows(file, format, rows=window_rows(system, asking), line=line_name(system, asking))
    source = "standard input" if str(file) == STDIN else str(file)
    return write_answers(system, windows, output, asking, source=source, read=read, force=force)


def write_answers(
    system: Answerer,
    windows: Iterable[Window],
    output: Path | str,
    asking: Asking,
    *,
    source: str,
    read: str,
    force: bool = False,
) -> Counts:
    """Write windows of rows with their answers into a file. read: the format that the rows were read in."""
    written = output_format(output, read)
    counts = Counts()
    with output_file(output, "predict", force=force) as new:
        found = with_columns(system, windows, asking, source, nested=written == "jsonl", counts=counts)
        first, columns = next(found)
        with writer_to(new, written, columns) as writer:
            writer.write(first)
            for made, _ in found:
                writer.write(made)
    return counts


def output_format(output: Path | str, read: str) -> str:
    """How answers are written: as the ending of the output says, or without one as the rows were read.

    >>> output_format("out.tsv", "csv"), output_format("out", "csv"), output_format("out", "txt")
    ('tsv', 'csv', 'jsonl')
    """
    ending = Path(output).suffix.lower()
    if ending and ending not in FORMATS:
        raise AllroundError(
            f"write {output}", f"files ending in '{ending}' are not known", f"use one of: {', '.join(sorted(FORMATS))}"
        )
    return FORMATS.get(ending, "jsonl" if read == "txt" else read)
