"""Layers: whole layers are removed."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.shrinking.anatomy import Kept
from allround.models.shrinking.choosing import Which, choose
from allround.models.shrinking.importance import Over
from allround.models.shrinking.study import Study, Weights


@method(
    source="Sajjad et al., Computer Speech and Language 77, 2023, arXiv:2004.03844; every second layer: DistilBERT, "
    "Sanh et al., arXiv:1910.01108",
    needs=("layers",),
    tried=True,
)
def layers(study: Study, share: float, *, which: Which = "even", over: Over = "max", weights: Weights = None) -> Kept:
    """As many layers as the share allows.

    which: `even` keeps every so manieth, the first among them; `first` drops the last; `taylor` keeps those without
    which losses change most, to first order; `greedy` drops, one by one, the layer without which the worst task's loss
    grows least. over: how the tasks' scores become one, for `taylor`. weights: as of `units`, for `taylor`; for
    `greedy` the tasks that it names count, all alike.
    """
    return choose(study, share, power=1.0, which=which, over=over, weights=weights)
