"""The methods of a system that answer tables: rows, data frames and files, all tasks in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from allround.models.prediction.answerer import Answerer, Asking
    from allround.models.prediction.answers import Counts


class Predicts:
    """Answers to rows that have columns, for systems.

    All of them take the same words. tasks: a name or several; by default all whose input columns are there. scores:
    the probability of each label too. top: only of so many labels, the most probable ones. strict: a row that cannot
    be answered is an error. prefix: what the names of new columns begin with. batch_size: rows in a batch. sets: also
    `set`, the labels that hold the right one as often as the build was asked for, or `low` and `high` of a number.

    The new columns are `prediction` and `confidence` of one task that is asked for, or of a system's only one, and
    `TASK_prediction`, `TASK_confidence` of several; then `note`. Where no task is named, a routed system says which
    one a row is of, in `task` and `task_confidence`, and answers that one alone. A row with an empty cell that a task
    needs, or with a cell that it cannot read, has empty answers, and its note says why.
    """

    def predict_rows(
        self: Answerer,
        rows: Iterable[Mapping[str, object]],
        tasks: str | Sequence[str] | None = None,
        *,
        scores: bool = False,
        top: int | None = None,
        strict: bool = False,
        prefix: str = "",
        batch_size: int = 64,
        sets: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Each row as a new dictionary with the answers to it, as the rows come: they may be more than memory holds.

        With `scores` or `top` the key `scores` (or `TASK_scores`) holds the probabilities by label, the most probable
        first.
        """
        from allround.models.prediction.tables import predict_rows

        asking = _asking(tasks, scores=scores, top=top, strict=strict, prefix=prefix, batch_size=batch_size, sets=sets)
        return predict_rows(self, rows, asking)

    def predict_table(
        self: Answerer,
        table: Any,
        tasks: str | Sequence[str] | None = None,
        *,
        scores: bool = False,
        top: int | None = None,
        strict: bool = False,
        prefix: str = "",
        batch_size: int = 64,
        sets: bool = False,
    ) -> Any:
        """A data frame of pandas, or an Arrow table, with the columns of answers added; the index stays.

        With `scores` each label has a column `score_LABEL`; with `top` the labels stand in `label_1`, `score_1` and so
        on.
        """
        from allround.models.prediction.tables import predict_table

        asking = _asking(tasks, scores=scores, top=top, strict=strict, prefix=prefix, batch_size=batch_size, sets=sets)
        return predict_table(self, table, asking)

    def predict_file(
        self: Answerer,
        file: Path | str,
        output: Path | str,
        tasks: str | Sequence[str] | None = None,
        *,
        scores: bool = False,
        top: int | None = None,
        strict: bool = False,
        prefix: str = "",
        batch_size: int = 64,
        sets: bool = False,
        format: str | None = None,
        force: bool = False,
    ) -> Counts:
        """Answer the rows of a CSV, TSV, JSONL or Parquet file into another, which appears when it is whole.

        The file may be larger than memory. The ending of `output` says how it is written; without one it is written
        as `file` is. format: of `file`, where its ending does not say it. What comes back counts the rows, and those
        without an answer.
        """
        from allround.models.prediction.tables import predict_file

        asking = _asking(tasks, scores=scores, top=top, strict=strict, prefix=prefix, batch_size=batch_size, sets=sets)
        return predict_file(self, file, output, asking, format=format, force=force)


def _asking(
    tasks: str | Sequence[str] | None,
    *,
    scores: bool,
    top: int | None,
    strict: bool,
    prefix: str,
    batch_size: int,
    sets: bool,
) -> Asking:
    from allround.models.prediction.answerer import Asking

    names = (tasks,) if isinstance(tasks, str) else None if tasks is None else tuple(tasks)
    return Asking(names, scores, top, strict, prefix, batch_size, sets, find=names is None)
