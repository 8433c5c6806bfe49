"""A comparison of trainings as a table of pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allround.evaluation.training.results import SPECIALISTS, Estimate, Training, TrainingCost, TrainingResults

if TYPE_CHECKING:
    from pandas import DataFrame


def to_frame(results: TrainingResults) -> DataFrame:
    """One row for each method and task, the specialists first: `TrainingComparison.to_frame` says more."""
    import pandas

    rows = []
    for task, definition in results.definitions.items():
        about = {"task": task, "metric": definition.metric, "n": results.rows[task]}
        reference = results.reference
        rows.append({
            "method": SPECIALISTS,
            **about,
            **_columns("score", reference.scores[task]),
            **_columns("retention", Estimate(1.0, None, None)),
            **_columns("difference", None),
            "learning_rate": reference.rates[task],
            **_cost(reference.cost),
        })  # fmt: skip
        rows += [
            {
                "method": one.name,
                **about,
                **_columns("score", one.test.scores[task]),
                **_columns("retention", one.test.retention.get(task)),
                **_columns("difference", one.test.equal.tasks[task]),
                "learning_rate": one.learning_rate if isinstance(one, Training) else None,
                **_cost(one.cost),
            }
            for one in results.tested
        ]
    names = [SPECIALISTS, *(one.name for one in results.tested)]
    return pandas.DataFrame(sorted(rows, key=lambda row: names.index(str(row["method"]))))


def _columns(name: str, found: Estimate | None) -> dict[str, float | None]:
    if found is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _cost(cost: TrainingCost) -> dict[str, float | int | None]:
    return {
        "seconds": cost.seconds,
        "steps": cost.steps,
        "backward_passes": cost.backward_passes,
        "peak_memory": cost.peak_memory,
        "choices": cost.choices,
        "further_task": cost.further,
    }
