"""Units: feed-forward units or channels are removed, those that are worth least to the tasks."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.shrinking.anatomy import Kept
from allround.models.shrinking.choosing import choose
from allround.models.shrinking.importance import Over
from allround.models.shrinking.study import Study, Weights


@method(
    source="first-order importance: Michel et al., NeurIPS 2019, arXiv:1905.10650, equation 2; Molchanov et al., ICLR "
    "2017, arXiv:1611.06440, equation 8",
    needs=("units",),
    tried=True,
)
def units(study: Study, share: float, *, over: Over = "max", weights: Weights = None) -> Kept:
    """The same share of the units of each layer, or of the channels of each convolution; all layers stay.

    over: `max`: a part is worth what it is worth to the task that needs it most; `mean`: to the tasks on average.
    weights: by task, how much it counts in the scores; a task without one does not count. So the rows of tasks with
    many can say what is removed for a task with few, or its own alone.
    Differs: the authors rank the parts of all layers together; here each layer keeps as many, since configurations of
    transformers have one number for all.
    """
    return choose(study, share, power=0.0, over=over, weights=weights)
