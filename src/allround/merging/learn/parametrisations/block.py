"""Block: one coefficient for each model and weight tensor."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from allround.core.registry import method
from allround.merging.learn.parametrisation import Coefficients


@method(source="Zhang et al., NeurIPS 2024, arXiv:2407.02880 (aTLAS); layer-wise AdaMerging as its code has it")
class Block(Coefficients):
    """S + sum_t (c_t,w - scale) e_t, with one c_t,w for each weight tensor w of a model.

    >>> import torch
    >>> weights = {name: torch.zeros(2) for name in ("h.0.a", "h.0.b", "h.1.a")}
    >>> Block({}, weights, {n: torch.ones(3, 2) for n in weights}).coefficients().shape
    torch.Size([3, 3])
    """

    def __init__(
        self,
        base: Mapping[str, Tensor],
        start: Mapping[str, Tensor],
        deltas: Mapping[str, Tensor],
        *,
        scale: float = 0.3,
        bound: str = "none",
    ) -> None:
        super().__init__(base, start, deltas, level="block", scale=scale, bound=bound)
