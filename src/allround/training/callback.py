"""What a training tells others while it runs: the losses of its steps, its evaluations, its end."""

from __future__ import annotations

from collections.abc import Mapping

from allround.training.course import Course, Evaluation


class Callback:
    """Does nothing; a callback overrides what it wants to know. It must change nothing of the training.

    `training` is the name of a training: "joint", or "specialist-" and a task. In `train` and `tune` each call comes
    at once. A build and a comparison train in processes of their own: they tell of every training as it is done, also
    of those that were done before, and `stepped` is never called.
    """

    def began(self, training: str, batches: int, done: int) -> None:
        """A training of so many batches begins, or goes on where `done` of them are done."""

    def stepped(self, training: str, step: int, batches: int, losses: Mapping[str, float]) -> None:
        """A step over so many batches was taken. losses: of its rows, by task."""

    def evaluated(self, training: str, evaluation: Evaluation) -> None:
        """The tasks were scored on the validation rows."""

    def ended(self, training: str, course: Course) -> None:
        """A training came to its end."""

    def scored(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Finished systems were scored on the test rows: system -> task -> score."""
