"""Task arithmetic: add the changes of all specialists, scaled."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from allround.core.registry import Search, method


@method(
    source="Ilharco et al., ICLR 2023, arXiv:2212.04089, section 2",
    paper="Editing Models with Task Arithmetic",
)
def task_arithmetic(
    base: Tensor,
    deltas: Tensor,
    *,
    scale: Annotated[float, Search(0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)] = 0.3,
) -> Tensor:
    """Merge k changes of one weight into their scaled sum.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + scale * sum_i d_i

    >>> import torch
    >>> task_arithmetic(torch.zeros(2), torch.tensor([[1.0, 0.0], [3.0, 1.0]]), scale=0.5)
    tensor([2.0000, 0.5000])
    """
    return base + scale * deltas.sum(0)
