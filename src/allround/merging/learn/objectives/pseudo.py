"""Pseudo: the specialist's answers as labels, where merged and specialist agree or the specialist is surer."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from allround.core.registry import method
from allround.merging.learn.objective import Response, log_probabilities, logits_of
from allround.tasks.definition import Definition
from allround.tasks.kind import kind


@method(source="Model Tinting (SyMerge), arXiv:2412.19098", needs=("specialist",))
def pseudo(
    merged: Response,
    specialist: Response,
    targets: Tensor,
    definition: Definition,
    *,
    filtered: bool = True,
    threshold: float = 0.0,
) -> Tensor:
    """Cross-entropy with the specialist's most probable answers.

    Shapes: logits (n, outputs) -> ()
    Formula: mean of -log p(y) over the rows with max q > threshold, and argmax p = y or max p <= max q, where
    y = argmax q; p of the merged model, q of the specialist. Without `filtered` whatever p is. Zero where no row is
    left. A number is learned by half the squared difference from the specialist's; there is no telling who is surer.

    >>> import torch
    >>> task = Definition("t", "classification", ("x",), "text", "accuracy", ("a", "b"))
    >>> merged = Response(torch.zeros(2, 1), torch.tensor([[0.0, 0.0], [4.0, 0.0]]))
    >>> specialist = Response(torch.zeros(2, 1), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> round(pseudo(merged, specialist, torch.empty(0), task).item(), 4)
    0.6931
    """
    if kind(definition.kind).numeric:
        return 0.5 * (logits_of(merged, definition) - logits_of(specialist, definition)).square().mean()
    own = log_probabilities(merged, definition).flatten(0, 1)
    surest, answer = log_probabilities(specialist, definition).flatten(0, 1).max(-1)
    losses = F.nll_loss(own, answer, reduction="none")
    taken = surest.exp() > threshold
    if filtered:
        sure, mine = own.detach().max(-1)
        taken &= (mine == answer) | (sure <= surest)
    return (losses * taken).sum() / taken.sum().clamp_min(1)
