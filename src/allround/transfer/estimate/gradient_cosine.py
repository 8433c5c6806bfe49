"""gradient_cosine: whether two tasks would change the base in the same direction."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from allround.core.registry import method
from allround.transfer.headed_base import norm_of, product_of
from allround.transfer.matrix import Values
from allround.transfer.view import TransferView


@method(
    source="cosine of task gradients: Yu et al., NeurIPS 2020, arXiv:2001.06782",
    needs=("gradients", "labels"),
    symmetric=True,
    self_best=True,
    cheap=True,
)
def gradient_cosine(view: TransferView, *, rows: int = 100) -> Values:
    """Compare tasks by the gradients of their losses at the base, each with a linear head that is fitted already.

    Formula: value(s, t) = cos(g_s, g_t); g is the gradient with respect to all parameters of the base, mean over rows
    rows: of each task, at most, chosen by their content from those of the view; all of these are in the heads.

    >>> import torch
    >>> round(cosine([torch.ones(2), torch.zeros(1)], [torch.ones(2), torch.ones(1)]), 4)
    0.8165
    """
    return view.between(cosine, lambda task: view.gradient(task, rows))


def cosine(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The cosine of two gradients, each one tensor for each parameter; NaN where one is zero."""
    norm = norm_of(one) * norm_of(other)
    return product_of(one, other) / norm if norm > 0 else float("nan")
