"""Learning to branch: each task and each copy of a stage chooses the copy before it, and the best tree stays."""

from __future__ import annotations

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.share.plan import Branching, Plan


@method(
    source="Guo et al., ICML 2020, arXiv:2006.01895; the stages of the training as in architecture/LTB.py of LibMTL",
    paper="Learning to Branch for Multi-Task Learning",
    exempt={"learns": "it needs an encoder that is a sequence of stages, which a transformer is not"},
)
def learning_to_branch(
    *,
    copies: int = 0,
    shared: float = 0.02,
    prior: float = 2.0,
    until: float = 0.12,
    hot: float = 2.0,
    cold: float = 0.5,
    rate: float = 2e-2,
) -> Plan:
    """Copies of each stage of the encoder; the choices between them are drawn by a Gumbel softmax.

    copies: of each stage; 0 for as many as tasks, at most 6. shared: the share of the training in which all tasks share
    one copy, which the others then begin as. prior: the logit of that copy as choices begin, where those of the others
    are 0. until: the share after which the most probable choices stay, and their tree is tuned. hot, cold: the
    temperature at the first and the last draw. rate: the learning rate of the choices.

    Differs from LibMTL: choices begin with a prior for sharing; weights of the copies are drawn in place of one copy,
    so that all copies learn in each step; nothing is drawn in evaluation, and copies that no task goes through are
    dropped. While all copies would be the same, only one is computed in place of the mean of all.
    """
    if not 0 <= shared < until <= 1:
        raise AllroundError(
            f"find a tree with shared={shared} and until={until}",
            "no part of the training is left to choose in",
            "give shares with 0 <= shared < until <= 1",
        )
    return Plan(tree=Branching("choice", until, copies, shared, prior, hot, cold), rate=rate)
