"""Custom: a learned merge put together from parts of your choice."""

from __future__ import annotations

from allround.core.registry import method
from allround.merging.learn.learning import Learning


@method(source="allround; the parts name their own sources")
def custom(
    *,
    parametrisation: str = "layer",
    objective: str = "divergence",
    bound: str = "none",
    scale: float = 0.3,
    keep: float = 1.0,
    elect: bool = False,
    heads: str = "kept",
    steps: int = 100,
    rate: float = 0.01,
    decay: bool = True,
    group: int = 0,
    guard: bool = False,
) -> Learning:
    """Any parametrisation with any objective.

    guard: keep the best of the start and the states on the way by agreement with the specialists. Worth it with
    `entropy` and `contrastive`, which do not ask whether the answers are right.

    >>> custom(parametrisation="task", objective="label").needs
    ('labels',)
    """
    return Learning(
        parametrisation,
        objective,
        {"bound": bound},
        scale=scale,
        keep=keep,
        elect=elect,
        heads=heads,
        steps=steps,
        rate=rate,
        decay=decay,
        group=group,
        guard=guard,
    )
