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


class _Groups:
    """Groups of features and how alike they are, with the most alike of each, so that joining two costs a few rows."""

    def __init__(self, similarity: Tensor, alpha: float) -> None:
        # Row i is a group; one that went into another is forbidden.
        self.alike, self.alpha = similarity.clone(), alpha
        self.alike.fill_diagonal_(-torch.inf)
        self.best, self.at = self.alike.max(1)

    def join(self, pair: tuple[int, int] | None = None) -> tuple[int, int] | None:
        """Let the second of a pair go into the first: of the most alike, where none is given. None: none is allowed."""
        if pair is None:
            row = int(self.best.argmax())
            if self.best[row] == -torch.inf:
                return None
            other = int(self.at[row])
            pair = (min(row, other), max(row, other))
        kept, gone = pair
        least = torch.minimum(self.alike[kept], self.alike[gone])
        least = least * self.alpha if self.alpha else torch.full_like(least, -torch.inf)
        self.alike[kept], self.alike[:, kept] = least, least
        self.alike[gone], self.alike[:, gone] = -torch.inf, -torch.inf
        # Entries before the present best are smaller than it, so that the first of several is `kept` where it is less.
        better = (least > self.best) | ((least == self.best) & (self.at > kept))
        stale = ~better & ((self.at == kept) | (self.at == gone))
        stale[kept] = stale[gone] = True
        self.best, self.at = torch.where(better, least, self.best), self.at.masked_fill(better, kept)
        self._look(stale.nonzero().flatten())
        return pair

    def forbid(self, rows: Tensor) -> None:
        """Let no two of these groups join."""
        self.alike[rows[:, None], rows] = -torch.inf
        self._look(rows)

    def _look(self, rows: Tensor) -> None:
        self.best[rows], self.at[rows] = self.alike[rows].max(1)


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
    rows = torch.arange(total, device=similarity.device)
    budget = [int((total - n) // models * beta + 1e-4)] * models
    pairs: list[tuple[int, int]] = []
    groups = _Groups(similarity, alpha)
    for own in rows.split(n) if beta == 0 else ():
        groups.forbid(own)
    while len(pairs) < total - n and (pair := groups.join()):
        pairs.append(pair)
        if (model := pair[0] // n) == pair[1] // n:
            budget[model] -= 1
            if budget[model] <= 0:
                groups.forbid(rows[model * n : (model + 1) * n])
    if len(pairs) < total - n:  # the rest by similarity alone, without what alpha and beta forbid
        groups = _Groups(similarity, 1.0)
        for pair in pairs:
            groups.join(pair)
        while len(pairs) < total - n and (pair := groups.join()):
            pairs.append(pair)
    group = rows.clone()
    for kept, gone in pairs:
        group[group == gone] = kept
    columns = torch.unique(group, return_inverse=True)[1]
    return torch.nn.functional.one_hot(columns, n).to(similarity.dtype)
