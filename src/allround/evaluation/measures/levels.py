"""levels: how far up a ladder of prompts a system has to go until it answers a row rightly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allround.core.registry import method
from allround.evaluation.flips import right_rows
from allround.evaluation.measuring import Measured, MeasureView, mean_of


@method(
    source="Budagam et al., 2024, arXiv:2406.12644, the HP-score; devichand579/HPT",
    paper="Hierarchical Prompting Taxonomy: A Universal Evaluation Framework for Large Language Models",
)
def levels(view: MeasureView, *, penalty: float = 1.0) -> Sequence[Measured]:
    """For each task with several prompts, which stand in the order of what they do for the model: the mean level at
    which a row is answered rightly for the first time; 1 is the first prompt, and lower is better.

    Formula: mean_i of the first level l with a right answer, L + penalty where there is none; and the share of rows
    that no level solves.
    Differs: a level is a prompt of the suite file; the paper has five of fixed kinds, from a role to generated
    knowledge, and penalties that people set for each data set (1.7 to 2.5). Its code forces levels and overwrites the
    count, so it was not followed.
    """
    found = []
    for task, made in view.several("measure the level of prompts").items():
        right = np.stack([right_rows(one) for one in made])
        solved = np.asarray(right.any(0), dtype=bool)
        level = np.where(solved, right.argmax(0) + 1.0, len(made) + penalty)
        found.append(mean_of(f"level of {task}, of {len(made)}", task, level, share=False))
        found.append(mean_of(f"{task} solved at no level", task, ~solved))
    return found
