"""Task arithmetic: add the changes of all specialists, scaled."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from allround.core.registry import Search, method
from allround.merging.parts import Each, combine


@method(
    source="Ilharco et al., ICLR 2023, arXiv:2212.04089, section 2",
    paper="Editing Models with Task Arithmetic",
    block="element",
    build=True,
)
def task_arithmetic(
    base: Tensor,
    deltas: Tensor,
    *,
    scale: Annotated[float, Search(0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)] = 0.3,
    weights: Each = 1.0,
    normalize: bool = False,
) -> Tensor:
    """Merge k changes of one weight into their scaled sum.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + scale * sum_i w_i d_i. A negative weight takes a task away (negation); weights 1, 1, -1 of tasks
    c, b, a give "c as b is to a" (analogy).
    Differs: `normalize` divides by the sum of the weights, as mergekit can.

    >>> import torch
    >>> task_arithmetic(torch.zeros(2), torch.tensor([[1.0, 0.0], [3.0, 1.0]]), scale=0.5)
    tensor([2.0000, 0.5000])
    """
    return base + scale * combine(deltas, weights, elect=False, normalize=normalize)
