"""weakest_link: whether a task that needs two abilities goes as well as the weaker of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.evaluation.intervals import Bootstrap
from allround.evaluation.measuring import Measured, MeasureView, names_in
from allround.tasks.metric import better


@method(
    source="Zhong et al., 2024, arXiv:2409.19951",
    paper="Law of the Weakest Link: Cross Capabilities of Large Language Models",
)
def weakest_link(view: MeasureView, *, whole: str, parts: str) -> Sequence[Measured]:
    """Compare the score of a task with those of the abilities that it takes: `whole=story;parts=read+add`.

    Formula: above the weaker = s_whole - min s_part, in each resample the part that is then the weakest; and how often,
    over resamples, s_whole lies below the middle of the weakest and the strongest part: nearer to the weaker one, or
    below it, as the law has it.
    Differs: the paper has judges give points on one scale; here scores of the tasks' own metrics are compared, which
    should be the same metric. Its prompts are the same size for all; here the intervals say what rows allow.
    Errors: metrics of which lower is better, or which differ.
    """
    asked = f"compare '{whole}' with its parts {parts}"
    names = names_in(parts, asked)
    made = {name: view.of(name, asked) for name in (whole, *names)}
    metrics = {one.definition.metric for one in made.values()}
    if len(metrics) > 1 or better(next(iter(metrics))) != "higher":
        raise AllroundError(asked, f"their metrics are {', '.join(sorted(metrics))}",
                            "give tasks with one metric of which higher is better")  # fmt: skip
    drawn = Bootstrap.make({("", name): one for name, one in made.items()})
    points = np.array([drawn.points["", name] for name in names])[:, None]
    rows = np.stack([drawn.resampled["", name] for name in names])
    whole_point, whole_rows = np.array([drawn.points["", whole]]), drawn.resampled["", whole]
    gaps = [score - found.min(0) for score, found in ((whole_point, points), (whole_rows, rows))]
    near = [score < (found.min(0) + found.max(0)) / 2 for score, found in ((whole_point, points), (whole_rows, rows))]
    weaker = names[int(points.argmin())]
    return [
        Measured(f"{whole} above the weaker part, {weaker}", float(gaps[0][0]), gaps[1]),
        Measured(f"{whole} nearer to the weaker part ({', '.join(names)}), share of resamples", float(near[1].mean()),
                 np.full(len(near[1]), np.nan)),
    ]  # fmt: skip
