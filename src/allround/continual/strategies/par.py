"""PAR without its search: near tasks are learned by one model, which is held, and far ones by models of their own."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(source="Wang et al., CVPR 2023, arXiv:2304.05288, without its search for architectures")
def par(*, threshold: float = 0.25, weight: float = 1.0) -> Strategy:
    """No row is remembered, but the mean of each label in the features of the base. Tasks are known by name.

    threshold: see the way to grow `allocate`; 0 gives each task a model of its own, a large number one model for all.
    weight: of the answers of old heads, as for `lwf`.
    """
    return Strategy(grow="allocate", grow_settings={"threshold": threshold, "weight": weight}, scenarios=("task",))
