"""ATM: tune a copy for each task for a while, merge them into the base, and begin again from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from allround.building.loops.loop import Branch, Loop, at_least
from allround.building.search import coordinate_search
from allround.core import registry
from allround.core.registry import method


@method(
    source="Zhou et al., 2024, arXiv:2411.03055, section 4",
    paper="ATM: Improving Model Merging by Alternating Tuning and Merging",
)
def atm(
    tasks: Sequence[str], values: Mapping[str, object], *, rounds: int = 3, method: str = "average", trials: int = 0
) -> Loop:
    """Rounds of a copy for each task, all merged by one method.

    Formula: base <- base + scale * mean_t (tuned_t - base), with `method` average (scale 1), or task_arithmetic with
    `normalize`; any other merge method takes its place. One step of plain gradient descent on all rows of each task is
    one such step on the mean of the tasks' losses.
    Differs: the rate goes on over the rounds as in one training; the best round on validation is kept, which may be
    the base. `trials` settings of the merge method are tried on validation in each round; 0: none but those given.

    >>> [branch.tasks for branch in atm(["trec", "sst2"], {}, rounds=2).branches]
    [{'trec': 1.0}, {'sst2': 1.0}]
    """
    at_least(2, tasks, "tune and merge in turns", "take at least two tasks")
    entry = registry.find("merge", method)
    return Loop(
        rounds,
        tuple(Branch(task, {task: 1.0}) for task in tasks),
        tuple(tasks),
        method,
        values,
        (lambda _: coordinate_search(entry, trials)) if trials > 0 else None,
    )
