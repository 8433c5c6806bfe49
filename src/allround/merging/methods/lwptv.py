"""LwPTV: of each task's change only the layers that matter to it, then their sum."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from allround.core.registry import Search, method
from allround.merging.parts import Each, combine, counts, each
from allround.merging.whole import WHOLE, Whole


@method(
    source="Zhang et al., 2025, arXiv:2506.09093",
    paper="Merging Smarter, Generalizing Better: Enhancing Model Merging on OOD Data",
    block="element",
    scope="model",
)
def lwptv(
    base: Tensor,
    deltas: Tensor,
    *,
    keep: Annotated[Each, Search(0.5, 0.7, 0.9)] = 0.7,
    scale: Annotated[float, Search(0.2, 0.3, 0.5, 0.7, 1.0)] = 0.3,
    weights: Each = 1.0,
    normalize: bool = False,
    elect: bool = False,
    whole: Whole = WHOLE,
) -> Tensor:
    """Merge k changes of one weight, each of which counts in this weight or not at all.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + scale * sum_i w_i m_i d_i; m_i = 1 if the saliency of this tensor for task i is among the largest
    of all tensors of the model (the share `keep` of them), else 0; saliency = root of the mean of d_i^2 in the tensor
    Differs: the saliency is ours: we did not find the paper's own formula. From the paper are a score for each task
    and layer, and that the base's weights stay in the layers of a low score. A layer is here a tensor.
    `elect` takes only the changes with the sign of their sum, as TIES does;
    `normalize` divides by the weights of the changes that count. A tensor by itself (`scope="tensor"`) is always among
    the largest.

    >>> lwptv(torch.zeros(2), torch.tensor([[1.0, 0.0], [3.0, 1.0]]), scale=0.5)
    tensor([2.0000, 0.5000])
    """
    flat = deltas.reshape(len(deltas), -1)
    squares = torch.linalg.vector_norm(flat, dim=1).double().square()
    own, every = whole.tensors(torch.cat([squares, squares.new_tensor([flat.shape[1]])]))
    score, scores = own[:-1] / own[-1], every[:, :-1] / every[:, -1:]  # (k,), (tensors, k): squares of saliencies
    kept = torch.tensor(counts(keep, len(scores), len(deltas)), device=deltas.device)
    mask = (scores > score).sum(0) < kept
    factors = each(weights, flat).flatten() * mask
    return base + scale * combine(deltas, factors.tolist(), elect=elect, normalize=normalize)
