"""A training in this process as the screen follows it: the bar with the time left, a line for each evaluation, and what
a user should know in the end."""

from __future__ import annotations

from collections.abc import Mapping

from allround.core.progress import Progress, Stage
from allround.training.callback import Callback
from allround.training.course import Course, Evaluation
from allround.training.settings import Settings


class Following(Callback):
    """Says how far a training is. A context is not needed: `close` ends the bar where the training did not end."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.stage: Stage | None = None

    def began(self, training: str, batches: int, done: int) -> None:
        """Show the bar."""
        self.stage = self.progress.stage("training", batches, done=done)
        self.stage.__enter__()

    def stepped(self, training: str, step: int, batches: int, losses: Mapping[str, float]) -> None:
        """Move the bar."""
        if self.stage is not None:
            self.stage.advance(batches)

    def evaluated(self, training: str, evaluation: Evaluation) -> None:
        """Say the scores on validation."""
        listed = ", ".join(f"{name} {score:.3f}" for name, score in evaluation["scores"].items())
        self.progress.say(f"step {evaluation['step']}: validation {listed}")

    def ended(self, training: str, course: Course) -> None:
        """Say which state was kept."""
        self.close()
        self.progress.say(f"kept the state of step {course.best_step}")

    def close(self) -> None:
        """End the bar."""
        if self.stage is not None:
            self.stage.__exit__(None, None, None)
            self.stage = None


def what_happened(course: Course, settings: Settings) -> list[str]:
    """What a user should know of a training beside its scores."""
    weights = course.evaluations[-1].get("weights", {})
    said = []
    if settings.balance != "equal" and len(weights) > 1:
        listed = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
        said.append(f"weights by {settings.balance} since the evaluation before: {listed}")
    left_out = {name: count for name, count in course.skipped_of.items() if count}
    if left_out:
        listed = ", ".join(f"{name} {count} times" for name, count in left_out.items())
        said.append(f"left out of a step because its loss or gradient was not finite: {listed}")
    if course.restored:
        said.append(f"best head given back: {', '.join(course.restored)}")
    return said
