"""Self Positioning: where to be between the models' changes, by a contrastive loss on a small probe set."""

from __future__ import annotations

from allround.core.registry import method
from allround.merging.learn.learning import Learning


@method(
    source="Li et al., 2024, arXiv:2410.15035",
    paper="Improving General Text Embedding Model: Tackling Task Conflict and Data Imbalance through Model Merging",
)
def self_positioning(
    *,
    temperature: float = 0.05,
    scale: float = 0.3,
    steps: int = 60,
    rate: float = 0.05,
    guard: bool = True,
) -> Learning:
    """base + s * sum_t a_t d_t, a = softmax over the models, s a size of at most 1 (or as it begins, if that is more);
    both by stochastic gradient descent.

    The probe set are equally many rows of every task, in batches of 32. Needs labels and no heads.
    guard: keep the best of the start and the states on the way by agreement with the specialists: heads that are kept
    may fit worse to features that are better apart.
    Differs: the paper's probe set are pairs of texts with their contrastive loss, for models that were tuned by it;
    here rows of one label are near to each other. It has no guard. No code of the authors' is public. Checked by hand.

    >>> self_positioning().settings["bound"], self_positioning().optimiser
    ('simplex', 'sgd')
    """
    return Learning(
        "task",
        "contrastive",
        {"bound": "simplex"},
        {"temperature": temperature},
        scale=scale,
        steps=steps,
        rate=rate,
        optimiser="sgd",
        batch=32,
        guard=guard,
    )
