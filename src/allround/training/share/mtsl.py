"""MTSL: tasks begin apart, and stages that come to give the same become one."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Branching, Plan


@method(
    source="Raghavan et al., CoLLAs 2023, arXiv:2305.00441; grouping as in NeurAI-Lab/MTSL: debiased linear CKA",
    exempt={"learns": "it needs an encoder that is a sequence of stages, which a transformer is not"},
)
def mtsl(*, threshold: float = 0.8, until: float = 0.6, rows: int = 256) -> Plan:
    """Each task has all stages of the encoder for itself. Stage by stage, tasks that share what is before a stage are
    grouped by how alike its copies are on `rows` training inputs, and a group goes on with the mean of its weights.

    threshold: the mean similarity of a group, from 0 to 1. until: the share of the training after which the tree stays.

    Differs: stages are not aligned by a further loss, and the mean of the weights is not distilled from the members;
    the authors' joint stage reads the branch of one member, and ours what all of them share.
    """
    return Plan(tree=Branching("similarity", until, threshold=threshold, rows=rows))
