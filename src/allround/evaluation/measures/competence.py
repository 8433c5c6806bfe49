"""competence: the share of tasks that a system can be relied on for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.evaluation.intervals import Bootstrap
from allround.evaluation.measuring import Measured, MeasureView
from allround.tasks.metric import better


@method(source="C@K and the least score over paraphrases: Weller et al., EMNLP 2020, arXiv:2011.08115")
def competence(view: MeasureView, *, at: float = 0.75) -> Sequence[Measured]:
    """Count the tasks whose score is at least `at`; a task with several prompts has the least of their scores.

    Formula: C@K = the share of tasks with a score of K or more, on all rows and on each resample of them
    Differs: the paper's score is a mean of F1 over answers; here each task has its own metric. Errors: no task whose
    metric is better when it is higher.
    """
    made = {name: view.prompts.get(name, [one]) for name, one in view.predictions.items()
            if better(one.definition.metric) == "higher"}  # fmt: skip
    if not made:
        raise AllroundError("count the tasks with a good score", "no task has a metric of which higher is better",
                            "give tasks with such a metric")  # fmt: skip
    points, rows = [], []
    for name, several in made.items():
        same = {(str(n), name): replace(one, definition=several[0].definition) for n, one in enumerate(several)}
        drawn = Bootstrap.make(same)
        points.append(min(drawn.points[key] for key in same))
        rows.append(np.min([drawn.resampled[key] for key in same], axis=0))
    value, resampled = float(np.mean(np.array(points) >= at)), (np.stack(rows) >= at).mean(0)
    return [Measured(f"tasks with a score of {100 * at:g} or more, of {len(made)}", value, resampled)]
