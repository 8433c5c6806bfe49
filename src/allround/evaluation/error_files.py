"""Errors of tasks as CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from allround.core.outputs import check_out_file, output_file, remove_stale
from allround.evaluation.errors import TaskErrors

#: Folders with a file for each task, and files of all tasks.
FOLDERS, TABLES = ("errors", "confusion"), ("per_class.csv", "slices.csv")


def error_files(found: Mapping[str, TaskErrors]) -> dict[str, str]:
    """The files by their names: errors/TASK.csv, confusion/TASK.csv, per_class.csv and slices.csv."""
    files = {}
    for task, one in found.items():
        mistakes = [[m.row, m.text, m.target, m.answer, m.confidence, m.error, m.length] for m in one.worst]
        head = ["row", "text", "target", "answer", "confidence", "error", "length"]
        if any(m.score is not None for m in one.worst):  # answers are texts
            head.append("score")
            mistakes = [[*cells, m.score] for cells, m in zip(mistakes, one.worst, strict=True)]
        files[f"errors/{task}.csv"] = _csv(head, mistakes)
        if one.confusion:
            rows = [[label, *counts] for label, counts in zip(one.labels, one.confusion, strict=True)]
            files[f"confusion/{task}.csv"] = _csv(["target \\ answer", *one.labels], rows)
    labels = [[t, s.label, s.precision, s.recall, s.f1, s.support] for t, one in found.items() for s in one.per_label]
    files["per_class.csv"] = _csv(["task", "label", "precision", "recall", "f1", "support"], labels)
    slices = [
        [t, one.metric, s.column, s.value, s.rows, s.score, s.low, s.high]
        for t, one in found.items()
        for s in one.slices
    ]
    files["slices.csv"] = _csv(["task", "metric", "column", "value", "rows", "score", "low", "high"], slices)
    return files


def write_error_files(out: Path, found: Mapping[str, TaskErrors], command: str, *, force: bool) -> None:
    """Write the files into a folder, none where one of them must not be replaced; those that the same command wrote
    there earlier for other tasks go."""
    files = error_files(found)
    for name in files:
        check_out_file(out / name, command, force=force, root=out)
    for name, text in files.items():
        with output_file(out / name, command, force=force, root=out) as new:
            new.write_text(text, encoding="utf-8")
    for folder in FOLDERS:
        remove_stale(out, command, folder, files)


def check_error_files(out: Path, command: str, *, force: bool) -> None:
    """An error where `write_error_files` would replace something that it must not."""
    there = [path for folder in FOLDERS for path in (out / folder).glob("*.csv")]
    for path in [*there, *(out / name for name in TABLES)]:
        check_out_file(path, command, force=force, root=out)


def _csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([head, *rows])
    return text.getvalue()
