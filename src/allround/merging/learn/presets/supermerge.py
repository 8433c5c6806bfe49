"""SuperMerge: one tanh-bounded coefficient for each model and layer, from a few labelled rows."""

from __future__ import annotations

from allround.core.registry import method
from allround.merging.learn.learning import Learning


@method(
    source="Yang et al., 2024, arXiv:2412.10416",
    paper="SUPERMERGE: An Approach For Gradient-Based Model Merging",
)
def supermerge(*, scale: float = 0.3, group: int = 0, steps: int = 60, rate: float = 0.02) -> Learning:
    """base + sum_t tanh(w_t,l) d_t for the weights of layer l, by the tasks' own losses.

    group: the hierarchical variant: merge so many models at a time, then the merged ones, so that only their changes
    are in memory.
    Differs: no code of the authors' is public; the formula is the paper's, start and steps are ours. Checked by hand.

    >>> supermerge(group=2).settings["bound"], supermerge().objective
    ('tanh', 'label')
    """
    return Learning("layer", "label", {"bound": "tanh"}, scale=scale, group=group, steps=steps, rate=rate, decay=True)
