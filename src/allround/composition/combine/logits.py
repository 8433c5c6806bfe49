"""logits: each module answers by itself, and the outputs are averaged by the weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from allround.composition.fusing import Fusion, averaged
from allround.core.registry import method


@method(source="product of experts with fixed weights: sum_e w_e logits_e(x); what is left of the weights is the "
        "base's. With a larger model: proxy tuning, Liu et al., COLM 2024, arXiv:2401.08565")  # fmt: skip
class Logits(Fusion):
    """Averages what a task's head gives for each module, by the weights; a pass for each module that a row uses.

    Written answers are averaged token by token. larger: a language model that answers in the base's place, with
    sum_e w_e (logits_e - logits of the base) added.
    """

    name = "logits"

    def __init__(self, *, larger: str | None = None) -> None:
        super().__init__(larger)

    def fused(self, anchor: Tensor, base: Tensor, experts: Sequence[Tensor], shares: Tensor, sort: str) -> Tensor:
        return averaged(anchor, base, experts, shares)
