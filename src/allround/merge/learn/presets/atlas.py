"""aTLAS: one coefficient for each model and weight tensor, from zero; labelled or not."""

from __future__ import annotations

from allround.core.registry import method
from allround.merge.learn.learning import Learning


@method(
    source="Zhang et al., NeurIPS 2024, arXiv:2407.02880",
    paper="Knowledge Composition using Task Vectors with Learned Anisotropic Scaling",
)
def atlas(
    *,
    objective: str = "label",
    scale: float = 0.0,
    steps: int = 60,
    rate: float = 0.02,
    weight_decay: float = 0.1,
) -> Learning:
    """base + sum_t c_t,w d_t for each weight tensor w, c from zero, by AdamW.

    objective: "label" is the paper's for adding tasks; "entropy" its one for adapting without labels.
    Differs: fewer and longer steps; the rate falls to zero. Checked against the authors' code: start at zero, one
    coefficient for each parameter tensor, AdamW with this decay, gradients clipped to the norm 1, the sum of the tasks'
    cross-entropies.

    >>> atlas().scale, atlas(objective="entropy").needs
    (0.0, ())
    """
    return Learning(
        "block",
        objective,
        scale=scale,
        steps=steps,
        rate=rate,
        optimiser="adamw",
        weight_decay=weight_decay,
        clip=1.0,
        decay=True,
    )
