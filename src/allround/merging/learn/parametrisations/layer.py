"""Layer: one coefficient for each model and layer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from allround.core.registry import method
from allround.merging.learn.parametrisation import Coefficients


@method(source="Yang et al., ICLR 2024, arXiv:2310.02575; a layer as in SuperMerge, arXiv:2412.10416")
class Layer(Coefficients):
    """S + sum_t (c_t,l - scale) e_t, with one c_t,l for the weights of a model that lie in layer l.

    Differs: AdaMerging's code calls each weight tensor a layer; that is `block` here.

    >>> import torch
    >>> weights = {name: torch.zeros(2) for name in ("h.0.a", "h.0.b", "h.1.a")}
    >>> Layer({}, weights, {n: torch.ones(3, 2) for n in weights}).coefficients().shape
    torch.Size([2, 3])
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
        super().__init__(base, start, deltas, level="layer", scale=scale, bound=bound)
