"""few_shot: what a model makes of a few labelled rows of each task, and how much depends on which rows these are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.core.seeds import seed_of
from allround.evaluation.intervals import Bootstrap
from allround.evaluation.measuring import RESAMPLES, Measured, MeasureView
from allround.tasks.few import few_rows

#: The score of RAFT.
METRIC = "macro_f1"


@method(
    source="Alex et al., NeurIPS Datasets and Benchmarks 2021, arXiv:2109.14076: 50 labelled rows a task, macro F1, "
    "the mean over tasks",
    paper="RAFT: A Real-World Few-Shot Text Classification Benchmark",
)
def few_shot(view: MeasureView, *, rows: int = 50, draws: int = 5, seed: int = 0) -> Sequence[Measured]:
    """Fit a new head on `rows` training rows of each classification task, several times on other rows, and score it.

    Labels have their shares among the rows that are drawn, a fifth of which choose the penalty of the head.
    Formula: the mean over draws of macro F1 on the split that is
    scored; its standard deviation over draws; and the mean over tasks of the first.
    Differs: RAFT gives one set of 50 rows, and hides the labels of its test rows; with several draws from a task's own
    training rows the number says how far such a set can be trusted. The encoder is not tuned.
    Errors: no classification task; a model without an encoder whose features a head can read; answers from files.
    """
    asked = f"score heads fitted on {rows} rows"
    tasks = {name: task for name, task in view.tasks.items() if task.definition.kind == "classification"}
    if rows < 5 or draws < 2 or not tasks:
        raise AllroundError(asked, "there is no classification task, or fewer than five rows or two draws",
                            "give a classification task, and few_shot:rows=50;draws=5")  # fmt: skip
    fit, found, scored = view.fitting(asked), list[Measured](), list[Measured]()
    for name, task in tasks.items():
        definition, train = replace(task.definition, metric=METRIC), task.splits["train"]
        made = {}
        for number in range(draws):
            few = few_rows(train, rows, seed_of(seed, "few", name, str(number)), np.asarray(train.targets).tolist())
            held = np.random.default_rng(number).permutation(len(few)) < len(few) // 5
            parts = {"train": few.take(np.flatnonzero(~held).tolist()),
                     "validation": few.take(np.flatnonzero(held).tolist())}  # fmt: skip
            given = replace(task, splits={**task.splits, **parts}, table=None)
            made[str(number), name] = replace(fit(given), definition=definition)
        drawn = Bootstrap.make(made, resamples=RESAMPLES)
        points = np.array([drawn.points[key] for key in made])
        mean = np.mean([drawn.resampled[key] for key in made], axis=0)
        scored.append(
            Measured(f"macro F1 of {name} from {rows} rows, mean of {draws} draws", float(points.mean()), mean)
        )
        spread = float(points.std(ddof=1))
        found += [
            scored[-1],
            Measured(f"standard deviation of {name} over draws", spread, np.full(RESAMPLES, math.nan)),
        ]
    every = Measured(f"macro F1 from {rows} rows, mean over tasks", float(np.mean([one.value for one in scored])),
                     np.mean([one.resampled for one in scored], axis=0))  # fmt: skip
    return [*found, every] if len(scored) > 1 else found
