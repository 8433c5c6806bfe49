"""A training in this process as the screen follows it: the bar with the time left, and a line for each evaluation."""

from __future__ import annotations

from collections.abc import Mapping

from allround.core.progress import Progress, Stage
from allround.training.callback import Callback
from allround.training.course import Course, Evaluation


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
