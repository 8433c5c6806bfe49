"""What a training run records of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict, cast

from typing_extensions import NotRequired


class Evaluation(TypedDict):
    """One evaluation on validation rows: the step, and by task the score, the mean loss, and the mean weight and the
    mean training loss in the steps since the evaluation before (where there was one)."""

    step: int
    scores: dict[str, float]
    losses: dict[str, float]
    weights: NotRequired[dict[str, float]]
    training_losses: NotRequired[dict[str, float]]


@dataclass
class Course:
    """What happened in a training run: validation at each evaluation, and what it took.

    evaluations: `step`, and by task `scores`, mean `losses`, and `weights` in the steps since the evaluation before.
    examples: rows of each task that were trained on. skipped: how often a task was left out of a step because its loss
    or gradient was not finite, in all and for each task.
    """

    evaluations: list[Evaluation] = field(default_factory=list)
    best_step: int = 0
    steps: int = 0
    examples: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: int = 0
    skipped_of: dict[str, int] = field(default_factory=dict)
    backward_passes: int = 0
    restored: list[str] = field(default_factory=list)

    def state(self) -> CourseState:
        """All of it, as plain values."""
        return cast("CourseState", dict(vars(self)))

    def resume(self, state: CourseState) -> None:
        """Go on from what another object of the same training recorded."""
        vars(self).update(state)


class CourseState(TypedDict):
    """The attributes of a `Course`."""

    evaluations: list[Evaluation]
    best_step: int
    steps: int
    examples: dict[str, int]
    seconds: float
    skipped: int
    skipped_of: dict[str, int]
    backward_passes: int
    restored: list[str]
