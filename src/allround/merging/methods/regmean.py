"""RegMean: the layer that answers most like each specialist's on that specialist's own inputs."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from allround.core.registry import Search, method
from allround.merging.matrices import by_counts, knows, mean, solve, weighted
from allround.merging.parts import Each


@method(
    source="Jin et al., ICLR 2023, arXiv:2212.09849, Algorithm 1",
    base="optional",
    block="tensor",
    needs=("gram",),
)
def regmean(
    base: Tensor,
    deltas: Tensor,
    *,
    gram: Tensor,
    shrink: Annotated[float, Search(0.1, 0.5, 0.9, 1.0)] = 0.9,
    counts: bool = False,
    weights: Each = 1.0,
) -> Tensor:
    """Merge k changes of one weight by least squares on the inputs X_i that its layer had in each model.

    Shapes: base (out, in), deltas (k, out, in), gram (k, in, in) -> merged (out, in), for weights as torch.nn.Linear
    has them; a convolution (out, ...) is the matrix by which it multiplies a patch. gram is X_i^T X_i, divided by the
    number of rows so that no model counts by how much data it had. An embedding (in, n) has the diagonal alone: gram
    (k, in), how often each row was looked up. What is no matrix, or has an empty gram, is averaged by `weights`, and
    without `counts` embeddings too, as in the paper.
    Formula: base + (sum_i d_i G_i) (sum_i G_i)^-1, the minimum of sum_i w_i ||X_i (W - W_i)^T||^2; G_i is w_i gram_i
    with its entries off the diagonal times `shrink`
    Differs: what no input of any model reaches is averaged; there the authors' code cannot invert the sum. Solved by
    Cholesky factors in double, not by an inverse. `shrink` is the paper's alpha; its configurations take 0.1 for T5
    and most others.

    >>> import torch
    >>> gram = torch.stack([torch.diag(torch.tensor([3.0, 1.0])), torch.diag(torch.tensor([1.0, 1.0]))])
    >>> regmean(torch.zeros(1, 2), torch.tensor([[[4.0, 4.0]], [[0.0, 0.0]]]), gram=gram)
    tensor([[3., 2.]])
    """
    center = mean(deltas, weights)
    if gram.ndim == 2 and gram.numel():
        return base + (by_counts(deltas, gram, weights) if counts else center)
    if not knows(gram, base, "regmean"):
        return base + center
    total, side = weighted(deltas.flatten(2), gram, weights, shrink, "regmean", center.flatten(1))
    return base + center + solve(total, side, torch.finfo(gram.dtype).eps).to(base.dtype).reshape(base.shape)
