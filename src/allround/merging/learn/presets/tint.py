"""Model Tinting: coefficients and each task's own last layer, learned from the specialists' surer answers."""

from __future__ import annotations

from allround.core.registry import method
from allround.merging.learn.learning import Learning


@method(
    source="Model Tinting (now SyMerge), arXiv:2412.19098",
    paper="Tint Your Models Task-wise for Improved Multi-task Model Merging",
)
def tint(
    *, scale: float = 0.3, steps: int = 60, rate: float = 0.01, head_rate: float = 0.001, filtered: bool = True
) -> Learning:
    """base + sum_t c_t,w d_t for each weight tensor w, c in [0, 1], and every task's head, both by pseudo-labels.

    The labels are the specialist's answers, on rows where the merged model agrees or is less sure.
    Differs: the authors take 500 rounds, in each one step a task; here a step takes all tasks. Their task-specific
    layer is the head too, learned at the rate of the coefficients; here ten times more slowly, since few rows spoil a
    head of many classes. Checked against their code: start, bounds, filter, optimiser and rate.

    >>> tint().heads, tint().objective
    ('learned', 'pseudo')
    """
    return Learning(
        "block",
        "pseudo",
        {"bound": "unit"},
        {"filtered": filtered},
        scale=scale,
        heads="learned",
        steps=steps,
        rate=rate,
        head_rate=head_rate,
    )
