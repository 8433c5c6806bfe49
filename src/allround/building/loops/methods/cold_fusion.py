"""ColD Fusion: contributors tune the shared encoder on their own tasks, and their average is shared again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from allround.building.loops.loop import Branch, Loop, at_least, known
from allround.core.registry import method


@method(
    source="Don-Yehiya et al., ACL 2023 Findings, arXiv:2212.01378, section 3",
    paper="ColD Fusion: Collaborative Descent for Distributed Multitask Finetuning",
)
def cold_fusion(
    tasks: Sequence[str],
    values: Mapping[str, object],
    *,
    rounds: int = 5,
    contributors: int = 0,
    unseen: str = "",
    method: str = "average",
) -> Loop:
    """Rounds of contributors, a task each, of which only the encoder is averaged.

    Formula: encoder <- mean over the round's contributors of the encoder that each tuned with a head of its own.
    A head is fitted on the shared, frozen encoder when a contributor takes it up, and does not leave the contributor;
    whether it is tuned along is a setting of training (`heads`).
    contributors: how many are drawn for each round, 0: all. unseen: tasks (with commas between) that nobody
    contributes; every round scores them with a head fitted on the shared encoder, as it does the contributed ones.
    Differs: the paper's contributors begin with a random head, and its models are also judged by tuning them further.

    >>> loop = cold_fusion(["trec", "sst2", "subj"], {}, unseen="subj")
    >>> [branch.name for branch in loop.branches], loop.unseen
    (['trec', 'sst2'], ('subj',))
    """
    left_out = known([name.strip() for name in unseen.split(",") if name.strip()], tasks, "an unseen task")
    seen = tuple(task for task in tasks if task not in left_out)
    at_least(2, seen, "fuse what several contribute", "contribute at least two tasks")
    return Loop(
        rounds,
        tuple(Branch(task, {task: 1.0}) for task in seen),
        seen,
        method,
        values,
        take=contributors or None,
        refit=True,
        unseen=left_out,
    )
