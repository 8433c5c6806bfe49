"""aTLAS: one coefficient for each model and weight tensor, from zero; labelled or not."""

from __future__ import annotations

from allround.core.registry import method
from allround.merging.learn.learning import Learning


@method(
    source="Zhang et al., NeurIPS 2024, arXiv:2407.02880",
    paper="Knowledge Composition using Task Vectors with Learned Anisotropic Scaling",
)
def atlas(
    *,
    objective: str = "label",
    threshold: float = 0.99,
    scale: float = 0.0,
    steps: int = 60,
    rate: float = 0.02,
    weight_decay: float = 0.1,
) -> Learning:
    """base + sum_t c_t,w d_t for each weight tensor w, c from zero, by AdamW.

    objective: "label" is the paper's for adding tasks. "pseudo" is near to its one for adapting without labels: the
    most probable answers are labels where they are more probable than `threshold`.
    Differs: fewer and longer steps; the rate falls to zero. Without labels the answers are those of each task's
    specialist; the authors have none for the task, and take those of the model itself to other views of the image, as
    probabilities. Checked against the authors' code: start at zero, one coefficient for each parameter tensor, AdamW
    with this decay, gradients clipped to the norm 1, the sum of the tasks' cross-entropies, the threshold.

    >>> atlas().scale, atlas(objective="pseudo").needs
    (0.0, ('specialist',))
    """
    return Learning(
        "block",
        objective,
        {},
        {"filtered": False, "threshold": threshold} if objective == "pseudo" else {},
        scale=scale,
        steps=steps,
        rate=rate,
        optimiser="adamw",
        weight_decay=weight_decay,
        clip=1.0,
        decay=True,
    )
