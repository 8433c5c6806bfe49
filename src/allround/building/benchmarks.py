"""Tasks of the lm-evaluation-harness beside, or in place of, the tasks of a suite; and each of their metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from allround.core.errors import AllroundError
from allround.evaluation.predictions import Predictions
from allround.tasks.definition import Definition
from allround.tasks.harness.making import PREFIX, harness_tasks
from allround.tasks.harness.scoring import metrics_of
from allround.tasks.suite import Suite, as_suite
from allround.tasks.task import Task

#: A task of the harness as `lm-eval:NAME`, `lm-eval:FILE.yaml` or its configuration; or a task that is made already.
Benchmark: TypeAlias = "str | Mapping[str, Any] | Task"


def with_benchmarks(
    suite: Suite | str | Path | None, tasks: Sequence[Benchmark], limit: Mapping[str, int] | None = None
) -> Suite:
    """A suite with benchmark tasks after its own; without a suite, these alone. limit: of the rows of those.

    Errors: neither is given, or a name that does not begin with `lm-eval:`.
    """
    if suite is None and not tasks:
        raise AllroundError("evaluate a model", "neither a suite nor tasks are given",
                            "give a suite file, or --tasks lm-eval:NAME (tasks=['lm-eval:NAME'])")  # fmt: skip
    made: list[Task] = []
    for one in [tasks] if isinstance(tasks, str) else tasks:
        if isinstance(one, Task):
            made.append(one)
            continue
        if isinstance(one, str) and not one.startswith(PREFIX):
            raise AllroundError(f"evaluate on the task '{one}'", f"it does not begin with {PREFIX}",
                                f"write {PREFIX}{one} for a task of the lm-evaluation-harness; tasks of the suite are "
                                "chosen by --only")  # fmt: skip
        made += harness_tasks(one, limit=limit)
    if suite is None:
        return Suite("benchmarks", made)
    suite = as_suite(suite)
    if not made:
        return suite
    return Suite(suite.name, [*suite, *made], description=suite.description, base=suite.base, files=suite.files)


def by_metric(
    definitions: Mapping[str, Definition], predictions: Mapping[tuple[str, str], Predictions]
) -> tuple[dict[str, Definition], dict[tuple[str, str], Predictions]]:
    """Definitions and predictions with an entry of its own for each further metric of a task of the harness."""
    defined, predicted = dict(definitions), dict(predictions)
    for (system, task), made in predictions.items():
        if not definitions[task].harness:
            continue
        for words, metric in metrics_of(made.definition, made.targets, made.predictions):
            if metric != made.definition.metric:
                name = f"{task}:{words}"
                defined[name] = replace(definitions[task], name=name, metric=metric)
                predicted[system, name] = replace(made, definition=defined[name])
    return defined, predicted
