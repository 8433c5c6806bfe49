"""Contrastive: rows of one label near to each other, those of others far; for embedding models, needs no heads."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from allround.core.registry import method
from allround.merging.learn.objective import Response
from allround.tasks.definition import Definition


@method(
    source="Khosla et al., NeurIPS 2020, arXiv:2004.11362, equation 2",
    needs=("labels",),
    reads="features",
    kinds=("classification", "token_classification"),
)
def contrastive(
    merged: Response, specialist: Response, targets: Tensor, definition: Definition, *, temperature: float = 0.05
) -> Tensor:
    """Supervised contrastive loss of a batch.

    Shapes: features (n, d), targets (n,) -> ()
    Formula: mean over rows i of the mean over j != i with the label of i of
    -log(exp(f_i f_j / T) / sum_(a != i) exp(f_i f_a / T)), f of length one; rows without such a j are left out.

    >>> task = Definition("t", "classification", ("x",), "text", "accuracy", ("a", "b"))
    >>> answers = Response(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    >>> round(contrastive(answers, answers, torch.tensor([0, 0, 1]), task, temperature=1.0).item(), 4)
    0.3133
    """
    unit = F.normalize(merged.features.float(), dim=-1)
    own = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    closeness = (unit @ unit.T / temperature).masked_fill(own, float("-inf"))
    shares = closeness.log_softmax(1).masked_fill(own, 0.0)
    alike = (targets[:, None] == targets) & ~own
    counts = alike.sum(1)
    losses = -(shares * alike).sum(1) / counts.clamp_min(1)
    return losses.sum() / (counts > 0).sum().clamp_min(1)
