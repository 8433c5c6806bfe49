"""All checks of a task, and all facts of it that people look at before they build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from allround.tasks.checks.columns import check_columns
from allround.tasks.checks.finding import Finding, has_labels, targets_of
from allround.tasks.checks.labels import check_labels, label_counts
from allround.tasks.checks.rows import check_repeats, check_size, check_texts
from allround.tasks.column_types import columns_in_words
from allround.tasks.kind import kind
from allround.tasks.suite import Suite
from allround.tasks.task import SPLITS, Task


def check_task(task: Task) -> list[Finding]:
    """What a user should know about the data of a task before anything is trained, beside its notes.

    >>> from allround.tasks.make import make_task
    >>> rows = [{"x": i, "y": "ab"[i % 2], "z": 1} for i in range(60)] + [{"x": 60, "y": "A ", "z": 1}] * 2
    >>> task = make_task("t", kind="classification", inputs=["x", "z"], target="y", data={"train": rows})
    >>> [finding.code for finding in check_task(task)]
    ['few_test_rows', 'rare_labels', 'labels_not_tested', 'labels_alike', 'repeated_rows', 'constant']
    """
    targets = targets_of(task)
    found = check_size(task)
    if has_labels(task.definition):
        rows = 0 if kind(task.definition.kind).per_token else len(task.splits["train"])
        found += check_labels(label_counts(targets), rows)
    found += check_repeats(task, targets)
    found += check_texts(task, targets)
    return [*found, *check_columns(task)]


def task_facts(task: Task) -> dict[str, Any]:
    """A task as plain data: what it asks, its rows and labels, its columns as they were understood, what was found."""
    d = task.definition
    return {
        "kind": d.kind,
        "metric": d.metric,
        "modality": d.modality,
        "inputs": list(d.inputs),
        "rows": {split: len(task.splits[split]) for split in SPLITS},
        "labels": {split: dict(found) for split, found in _counts(task).items()},
        "columns": dict(columns_in_words(d.inputs, d.columns)) if d.columns else {},
        "notes": list(task.notes),
        "findings": [asdict(finding) for finding in check_task(task)],
    }


def _counts(task: Task) -> Mapping[str, Mapping[str, int]]:
    return label_counts(targets_of(task)) if has_labels(task.definition) else {}


def suite_facts(suite: Suite) -> dict[str, dict[str, Any]]:
    """The facts of each task of a suite."""
    return {name: task_facts(task) for name, task in suite.tasks.items()}
