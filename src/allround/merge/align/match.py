"""Which features go together: assignment, and greedy zipping. Pure maths on matrices of similarities."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from allround.core.errors import AllroundError


def correlation(covariance: Tensor, eps: float = 1e-7) -> Tensor:
    """Correlations from covariances; a feature that never changes correlates with nothing.

    Shapes: covariance (n, n) -> (n, n)

    >>> correlation(torch.tensor([[4.0, 2.0], [2.0, 4.0]]))
    tensor([[1.0000, 0.5000],
            [0.5000, 1.0000]])
    """
    std = covariance.diagonal().clamp_min(0).sqrt()
    return covariance / torch.outer(std, std).clamp_min(eps)


def assign(similarity: Tensor) -> Tensor:
    """The one-to-one assignment with the largest sum: row i goes with column `result[i]`.

    Source: the linear assignment problem of Ainsworth et al., ICLR 2023, arXiv:2209.04836, section 3.
    Shapes: similarity (n, n) -> (n,)

    >>> assign(torch.tensor([[0.1, 0.9], [0.8, 0.7]]))
    tensor([1, 0])
    """
    _, columns = linear_sum_assignment(similarity.double().cpu().numpy(), maximize=True)
    return torch.as_tensor(columns, dtype=torch.long, device=similarity.device)


def assign_blocks(similarities: list[Tensor], blocks: int, alone: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
    """Assign blocks one to one, and within each pair of blocks the features.

    Where heads or groups move as a whole and have an inside that may be reordered too: a pair of blocks is worth what
    the best assignment within it is worth. alone: (blocks, blocks), what pairs of blocks are worth beside that.
    Shapes: each similarity (blocks * m, blocks * m), of its own m -> (blocks,), and for each (blocks, m)

    >>> order, inner = assign_blocks([torch.tensor([[0., 0., 1., 0.], [0., 0., 0., 1.],
    ...                                             [0., 1., 0., 0.], [1., 0., 0., 0.]])], 2)
    >>> order.tolist(), inner[0].tolist()
    ([1, 0], [[0, 1], [1, 0]])
    """
    worth = torch.zeros(blocks, blocks, dtype=torch.float64) if alone is None else alone.double().clone()
    inside: list[dict[tuple[int, int], Tensor]] = []
    for similarity in similarities:
        m = len(similarity) // blocks
        cells = similarity.reshape(blocks, m, blocks, m).transpose(1, 2)
        found = {(g, h): assign(cells[g, h]) for g in range(blocks) for h in range(blocks)}
        for (g, h), columns in found.items():
            worth[g, h] += float(cells[g, h].gather(1, columns[:, None]).sum())
        inside.append(found)
    order = assign(worth)
    return order, [torch.stack([found[g, int(h)] for g, h in enumerate(order)]) for found in inside]


def zip_features(similarity: Tensor, models: int, *, alpha: float = 0.3, beta: float = 0.125) -> Tensor:
    """Merge the features of several models, the most alike first, until there are as many as one model has.

    Source: Stoica et al., ICLR 2024, arXiv:2305.03053, Algorithm 1 with the two parameters of section 4.3.
    Shapes: similarity (k * n, k * n), the models one after the other -> (k * n, n), 1 where a feature went into a
        merged one. Its transpose with rows that sum to one merges; it itself undoes that before the next layer.
    alpha: what the similarities of a merged feature are multiplied by at each merge, so that few grow large; 0: what
        is merged is merged no more. beta: the share of the merges within one and the same model that is allowed;
        0: none, 1: as many as come up.
    Differs: `alpha` 0 forbids a second merge of a feature until no other pair is left, and `beta` 0 forbids merges
        within a model; the paper's code does neither quite. Rows are divided by their count, not by count + 1e-5.

    >>> alike = torch.tensor([[1.0, 0.1, 0.2, 0.9], [0.1, 1.0, 0.8, 0.3], [0.2, 0.8, 1.0, 0.1], [0.9, 0.3, 0.1, 1.0]])
    >>> zip_features(alike, 2)
    tensor([[1., 0.],
            [0., 1.],
            [0., 1.],
            [1., 0.]])
    """
    total = len(similarity)
    n = total // models
    if total != n * models or not 0 <= alpha <= 1 or not 0 <= beta <= 1:
        raise AllroundError(
            f"zip {total} features of {models} models with alpha {alpha} and beta {beta}",
            "alpha and beta go from 0 to 1, and every model has as many features",
            "give such as alpha 0.3, beta 0.125",
        )
    # Row i of `alike` is a group of features; a group that went into another is forbidden.
    never = -torch.inf
    alike = similarity.clone()
    alike.fill_diagonal_(never)
    linked = alike.clone()  # the same without what alpha and beta forbid
    origin = torch.arange(models, device=alike.device).repeat_interleave(n)
    group = torch.arange(total, device=alike.device)
    budget = [int((total - n) // models * beta + 1e-4)] * models
    if beta == 0:
        alike[origin[:, None] == origin[None, :]] = never
    for _ in range(total - n):
        best = int(alike.argmax())
        if alike.flatten()[best] == never:
            best = int(linked.argmax())
        kept, gone = sorted((best // total, best % total))
        group[group == gone] = kept
        for matrix, factor in ((alike, alpha), (linked, 1.0)):
            row = torch.minimum(matrix[kept], matrix[gone]) * factor if factor else torch.full_like(matrix[kept], never)
            matrix[kept], matrix[:, kept] = row, row
            matrix[gone], matrix[:, gone] = never, never
        if origin[kept] == origin[gone]:
            model = int(origin[kept])
            budget[model] -= 1
            if budget[model] <= 0:
                same = (origin == model).nonzero().flatten()
                alike[same[:, None], same[None, :]] = never
    columns = torch.unique(group, return_inverse=True)[1]
    return torch.nn.functional.one_hot(columns, n).to(similarity.dtype)
