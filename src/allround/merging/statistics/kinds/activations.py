"""Outputs of each layer for some rows, as methods need them that match the units of two models."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method


@method(
    source="features for matching by correlation: Li et al., 2015, arXiv:1511.07543; Stoica et al., arXiv:2305.03053",
    sees=("outputs",),
)
def activations(outputs: Tensor, places: Tensor) -> Tensor:
    """The outputs of a layer at some places, one row for each.

    Shapes: outputs (n, out), places (r,) -> (r, out), in float32. The places are drawn by a seed and not by the model:
    two models with as many positions for the same rows give the same places, in the same order.
    Formula: Y[places]

    >>> import torch
    >>> activations(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 2]))
    tensor([[1.],
            [3.]])
    """
    return outputs[places].float()
