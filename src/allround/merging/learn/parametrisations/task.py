"""Task: one coefficient for each model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from allround.core.registry import method
from allround.merging.learn.parametrisation import Coefficients


@method(source="Yang et al., ICLR 2024, arXiv:2310.02575, task-wise AdaMerging")
class Task(Coefficients):
    """S + sum_t (c_t - scale) e_t, with one c_t for all weights of a model.

    >>> import torch
    >>> made = Task({}, {"w": torch.zeros(2)}, {"w": torch.ones(3, 2)}, scale=0.5)
    >>> made.coefficients().shape, made()["w"].tolist()
    (torch.Size([1, 3]), [0.0, 0.0])
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
        super().__init__(base, start, deltas, level="task", scale=scale, bound=bound)
