"""Answers as clients get them."""

from __future__ import annotations

from typing import Any

from allround.models.prediction.answers import Answered, TaskAnswers
from allround.serving.metrics import Metrics


def answers_json(model: str, answered: Answered, abstain: float | None, metrics: Metrics) -> dict[str, Any]:
    """The body of a response, which is counted too. abstain: no answer whose confidence is below this is given."""
    rows: list[dict[str, Any]] = [{} for _ in answered.notes]
    for name, made in answered.tasks.items():
        given = unsure = 0
        for place, row in enumerate(rows):
            if answered.found is not None and not _is_found(answered, place, name):
                continue
            row[name] = one = _one(made, place)
            given += one["answer"] is not None
            if abstain is not None and one.get("confidence") is not None and one["confidence"] < abstain:
                unsure += 1
                one.update(answer=None, abstained=True)
        metrics.answers.labels(model, name).inc(given)
        metrics.unanswered.labels(model, name).inc(sum(name in row for row in rows) - given)
        if unsure:
            metrics.abstained.labels(model, name).inc(unsure)
    found: dict[str, Any] = {"model": model, "answers": rows, "notes": answered.notes}
    if answered.found is not None:
        found["found"] = [None if one is None else {"task": one.task, "confidence": one.confidence}
                          for one in answered.found]  # fmt: skip
    return found


def _is_found(answered: Answered, place: int, task: str) -> bool:
    one = None if answered.found is None else answered.found[place]
    return one is not None and one.task == task


def _one(made: TaskAnswers, place: int) -> dict[str, Any]:
    found: dict[str, Any] = {"answer": made.predictions[place], "confidence": made.confidence[place]}
    if made.scores is not None:
        found["scores"] = made.scores[place]
    return found
