"""MTSL: tasks begin apart, and stages that come to give alike things become one."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Branching, Plan


@method(
    source="Raghavan et al., CoLLAs 2023, arXiv:2305.00441; phases, alignment and grouping as in NeurAI-Lab/MTSL",
    paper="Multi-Task Structural Learning using Local Task Similarity induced Neuron Creation and Removal",
    exempt={"learns": "it needs an encoder that is a sequence of stages, which a transformer is not"},
)
def mtsl(*, threshold: float = 0.8, until: float = 0.15, rows: int = 256, align: float = 0.2, distil: int = 4) -> Plan:
    """Each task has all stages of the encoder for itself. Stage by stage, tasks that share what is before a stage are
    grouped by how alike its copies are on `rows` training inputs. A group goes on with one copy: the mean of the
    weights, trained to give what each member gave through a gate of that member on its channels.

    threshold: the mean similarity (debiased linear CKA) of a group, from 0 to 1. until: the share of the training after
    which the tree stays; of n stages the k-th is grouped at (k / n)^2 of it. align: weight of the loss 1 - CKA between
    copies of the stage that is grouped next. distil: passes over the rows in which a joint copy is trained.

    Differs: a copy is aligned to those of the others as they are, on its own task's rows; the joint copy reads what all
    members share, and in the authors' code the branch of one of them.
    """
    return Plan(tree=Branching("similarity", until, threshold=threshold, rows=rows, align=align, distil=distil))
