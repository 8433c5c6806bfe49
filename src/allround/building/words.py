"""What a report says of tasks, bases and the use of the saved model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from allround.evaluation.facts import TaskFacts
from allround.tasks.checks.finding import Finding
from allround.tasks.modality import modality_of
from allround.tasks.task import Task


def commands(out: Path, tasks: Mapping[str, Task]) -> str:
    """Command lines that use the saved model."""
    first = next(iter(tasks.values())).definition
    example = modality_of(first).example(len(first.inputs))
    lines = [
        f"allround predict {out}/best --task {first.name} {example.words}",
        f"allround predict {out}/best --task {first.name} --input rows.jsonl --output answers.jsonl",
    ]
    return "\n".join(lines)


def python_lines(out: Path, tasks: Mapping[str, Task]) -> str:
    """Python lines that use the saved model."""
    first = next(iter(tasks.values())).definition
    example = modality_of(first).example(len(first.inputs))
    lines = [
        "import allround",
        *example.imports,
        "",
        f'model = allround.load("{out}/best")',
        f'model.predict("{first.name}", {example.python})',
    ]
    return "\n".join(lines)


def plain_name(base: object) -> str:
    """A base as a report names it: the last part of a path, or the name as it is."""
    label = getattr(base, "label", None)
    return label if isinstance(label, str) else Path(str(base)).name if os.sep in str(base) else str(base)


def task_facts(task: Task, findings: Sequence[Finding] | None = None) -> TaskFacts:
    """What the report says of a task's data. findings: of the data check; None: it was not made."""
    d = task.definition
    facts: TaskFacts = {
        "name": d.name,
        "kind": d.kind,
        "metric": d.metric,
        "inputs": list(d.inputs),
        "labels": len(d.labels),
        "train": len(task.splits["train"]),
        "validation": len(task.splits["validation"]),
        "test": len(task.splits["test"]),
        "notes": list(task.notes),
    }
    if findings is not None:
        facts["findings"] = [{"code": one.code, "words": one.words, "do": one.do} for one in findings]
    return facts
