"""ForkMerge: tune with and without auxiliary tasks, and take as much of each as helps the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from allround.building.loops.convex import convex_search
from allround.building.loops.loop import Branch, Loop, at_least, known
from allround.core.errors import AllroundError, suggestion
from allround.core.registry import method


@method(
    source="Jiang et al., NeurIPS 2023, arXiv:2301.12618, algorithm 1, and their code",
    paper="ForkMerge: Mitigating Negative Transfer in Auxiliary-Task Learning",
)
def fork_merge(
    tasks: Sequence[str],
    values: Mapping[str, object],
    *,
    target: str,
    rounds: int = 5,
    branches: str = "each",
    weight: float = 1.0,
    grid: int = 5,
) -> Loop:
    """Rounds of a branch on the target alone and branches on the target with auxiliary tasks, convexly combined.

    Formula: theta <- sum_b c_b theta_b, c_b >= 0, sum_b c_b = 1, with the c that does best on the target's validation
    rows among those that `convex_search` tries, each branch alone among them. branches: "each": the target with each
    auxiliary task; "all": with all of them. weight: how often auxiliary rows are drawn, against 1 for the target's.
    grid: in how many steps a branch's share is tried.
    Differs: the paper's code ranks auxiliary tasks first and takes the best ones together, keeps the branches'
    optimisers over the rounds, and gives every branch as many steps; here a branch takes as many as its rows do.

    >>> [branch.name for branch in fork_merge(["trec", "sst2", "subj"], {}, target="trec").branches]
    ['trec', 'trec-sst2', 'trec-subj']
    """
    known([target], tasks, "the target")
    at_least(2, tasks, "tune with auxiliary tasks", "take at least one task beside the target")
    others = [task for task in tasks if task != target]
    if branches not in ("each", "all"):
        raise AllroundError(f"fork into branches '{branches}'", "branches must be 'each' or 'all'",
                            suggestion(branches, ("each", "all")))  # fmt: skip
    for name, number in {"weight": weight, "grid": grid}.items():
        if not number > 0:
            raise AllroundError(
                f"fork with {name}={number}", f"{name} must be positive", f"give more, or leave {name} out"
            )
    groups = {other: [other] for other in others} if branches == "each" else {"all": others}
    forks = [Branch(f"{target}-{n}", {target: 1.0, **dict.fromkeys(group, weight)}) for n, group in groups.items()]
    return Loop(
        rounds,
        (Branch(target, {target: 1.0}), *forks),
        (target,),
        values=values,
        search=lambda count: convex_search(count, grid),
    )
