"""All checks of a task, and all facts of it that people look at before they build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from allround.tasks.checks.answers import check_answers
from allround.tasks.checks.columns import check_columns
from allround.tasks.checks.finding import Finding, has_labels, targets_of
from allround.tasks.checks.labels import NOT_TESTED, check_labels, label_counts
from allround.tasks.checks.rows import check_repeats, check_size, check_texts
from allround.tasks.column_types import columns_in_words
from allround.tasks.kind import kind
from allround.tasks.task import SPLITS, Task


def check_task(task: Task, *, folds: bool = False) -> list[Finding]:
    """What a user should know about the data of a task before anything is trained, beside its notes. folds: every row
    is tested, in folds.

    >>> from allround.tasks.make import make_task
    >>> rows = [{"x": i, "y": "ab"[i % 2], "z": 1} for i in range(60)] + [{"x": 60, "y": "A ", "z": 1}] * 2
    >>> task = make_task("t", kind="classification", inputs=["x", "z"], target="y", data={"train": rows})
    >>> [finding.code for finding in check_task(task)]
    ['few_test_rows', 'rare_labels', 'labels_not_tested', 'labels_alike', 'repeated_rows', 'constant']
    """
    if task.definition.harness:
        return []  # its data are those of a benchmark, as they are
    targets = targets_of(task)
    found = check_size(task, folds=folds)
    if has_labels(task.definition):
        rules = kind(task.definition.kind)
        rows = 0 if rules.lists else len(task.splits["train"])
        labels = check_labels(label_counts(targets), rows, rare=rules.fixed_labels)
        found += [finding for finding in labels if not folds or finding.code != NOT_TESTED]
    found += check_repeats(task, targets)
    found += check_texts(task, targets)
    found += check_answers(task, targets)
    return [*found, *check_columns(task)]


def task_facts(task: Task, findings: Sequence[Finding]) -> dict[str, Any]:
    """A task as plain data: its definition, its rows, how often each label occurs in each split, how its columns were
    understood, its notes, and what was found."""
    d = task.definition
    counts = label_counts(targets_of(task)) if has_labels(d) else {}
    return {
        **d.to_json(),
        "rows": {split: len(task.splits[split]) for split in SPLITS},
        "counts": {split: dict(found) for split, found in counts.items()},
        "understood": dict(columns_in_words(d.inputs, d.columns)) if d.columns else {},
        "notes": list(task.notes),
        "findings": [asdict(finding) for finding in findings],
    }
