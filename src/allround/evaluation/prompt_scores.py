"""Scores of a task that is put in several ways: each prompt's, their mean, and the worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from allround.core.schema import STRICT
from allround.core.words import plural, shown, span_text
from allround.evaluation.intervals import Bootstrap, interval
from allround.evaluation.predictions import Predictions
from allround.tasks.metric import better


@dataclass(frozen=True)
class PromptScore:
    """A score with its 95% interval; None: undefined. template: the number of its prompt, from 0; None for a mean."""

    __pydantic_config__ = STRICT

    score: float
    low: float | None
    high: float | None
    template: int | None = None


@dataclass(frozen=True)
class PromptScores:
    """How a system scores on a task with each of its prompts.

    mean: over the prompts. worst: the prompt with the least score; in each resample the worst prompt is another, so
    that its interval leans to the worse side.
    """

    __pydantic_config__ = STRICT

    system: str
    task: str
    metric: str
    scores: tuple[PromptScore, ...]
    mean: PromptScore
    worst: PromptScore

    @property
    def words(self) -> str:
        """The mean and the worst, in words.

        >>> one, two = PromptScore(0.9, 0.8, 1.0, 0), PromptScore(0.7, 0.6, 0.8, 1)
        >>> PromptScores("joint", "topic", "accuracy", (one, two), PromptScore(0.8, 0.7, 0.9), two).words
        'joint on topic with 2 prompts: mean 80.0 [70.0, 90.0], worst 70.0 [60.0, 80.0] (prompt 2)'
        """
        side = better(self.metric)
        mean, worst = (f"{shown(one.score, side)}{span_text(one.low, one.high, better=side)}"
                       for one in (self.mean, self.worst))  # fmt: skip
        prompts = plural(len(self.scores), "prompt")
        return (f"{self.system} on {self.task} with {prompts}: mean {mean}, worst {worst} "
                f"(prompt {(self.worst.template or 0) + 1})")  # fmt: skip


def prompt_scores(system: str, made: Sequence[Predictions], *, seed: int = 0, resamples: int = 1000) -> PromptScores:
    """Score a system on the same rows with each prompt of a task. made: its predictions, in the order of the prompts.

    Means and worst are taken within each resample of the rows, which is the same for all prompts.
    """
    definition = made[0].definition
    same: Mapping[tuple[str, str], Predictions] = {
        (str(place), definition.name): replace(one, definition=definition) for place, one in enumerate(made)
    }
    found = Bootstrap.make(same, seed=seed, resamples=resamples)
    points = [found.points[key] for key in same]
    rows = np.stack([found.resampled[key] for key in same])
    least, side = (min, np.min) if better(definition.metric) == "higher" else (max, np.max)
    worst = points.index(least(points))
    return PromptScores(
        system,
        definition.name,
        definition.metric,
        tuple(PromptScore(*found.score(*key), place) for place, key in enumerate(same)),
        PromptScore(*interval(float(np.mean(points)), rows.mean(0))),
        PromptScore(*interval(points[worst], side(rows, axis=0)), worst),
    )
