"""How alike modules are: cosines between what they change, from their factors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from allround.composition.modules.changes import Change, Changes, LowRankChange


def inner_product(one: Change, other: Change, weight: Tensor | None = None) -> float:
    """sum(one * other) over the entries of a tensor's changes. weight: of the base, where one is of DoRA.

    >>> first = LowRankChange(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [0.0]]))
    >>> inner_product(first, first)  # of [[1, 2], [0, 0]]
    5.0
    """
    plain = all(isinstance(c, LowRankChange) and c.factor is None for c in (one, other))
    if plain:
        assert isinstance(one, LowRankChange) and isinstance(other, LowRankChange)
        return float(((one.up.T @ other.up) * (one.down @ other.down.T)).sum())
    like = weight if weight is not None else torch.zeros(0)
    return float((one.whole(like) * other.whole(like)).sum())


def cosines(modules: Sequence[Changes]) -> Tensor:
    """The cosine between the changes of each two modules, over all tensors: (modules, modules)."""
    found = torch.zeros(len(modules), len(modules), dtype=torch.float64)
    for name in dict.fromkeys(name for module in modules for name in module):
        changes = [module.get(name) for module in modules]
        dora = any(isinstance(c, LowRankChange) and c.factor is not None for c in changes)
        weight = modules[0].base.get(name).float() if dora else None
        for row, one in enumerate(changes):
            for column in range(row, len(changes)):
                other = changes[column]
                if one is not None and other is not None:
                    found[row, column] += inner_product(one, other, weight)
    found = found + found.triu(1).T
    norms = found.diagonal().clamp_min(1e-30).sqrt()
    return found / norms / norms[:, None]
