"""delta_overlap: how many of the largest changes of two specialists are the same."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.transfer.matrix import Values
from allround.transfer.view import TransferView


@method(
    source="trimmed changes and their signs: Yadav et al., NeurIPS 2023, arXiv:2306.01708",
    needs=("features", "models"),
    symmetric=True,
    self_best=True,
    cheap=True,
)
def delta_overlap(view: TransferView, *, keep: float = 0.2) -> Values:
    """Compare specialists by the entries of the base that they changed most; heads are left out.

    Formula: value(s, t) = |entries that are among the largest of both, with the same sign| / sqrt(k_s k_t), k being
    how many there are of each
    keep: the share of each tensor's entries that count as its largest changes (of a large tensor, of each four million
    entries); entries that were not changed never do. Errors: a share that is not above 0 and at most 1.

    >>> signs(torch.tensor([[3.0, -1.0, 0.5, 0.0]]), 0.5).tolist()
    [[1.0, -1.0, 0.0, 0.0]]
    """
    if not 0 < keep <= 1:
        raise AllroundError(f"compare the largest {keep:g} of all changes", "the share must be above 0 and at most 1",
                            "give such a share, such as 0.2")  # fmt: skip
    names, changes = view.deltas()
    shared, counts = np.zeros((len(names), len(names))), np.zeros(len(names))
    for part in changes:
        found = signs(part, keep)
        up, down = (found > 0).double(), (found < 0).double()
        shared += (up @ up.T + down @ down.T).numpy()
        counts += found.abs().sum(1).numpy()
    scale = np.sqrt(np.outer(counts, counts))
    return view.of_models(names, np.divide(shared, scale, out=np.full(shared.shape, np.nan), where=scale > 0))


def signs(changes: Tensor, keep: float) -> Tensor:
    """The sign of the largest entries of each of k changes, and 0 elsewhere. Shapes: (k, n) -> (k, n)."""
    sizes = changes.abs()
    count = max(round(keep * changes.shape[1]), 1)
    least = sizes.kthvalue(changes.shape[1] - count + 1, dim=1, keepdim=True).values
    return torch.where(sizes >= least, changes.sign(), 0.0)
