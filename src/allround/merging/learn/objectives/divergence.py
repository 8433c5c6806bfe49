"""Divergence: how far the merged model's predictions are from the specialist's."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from allround.core.errors import AllroundError, suggestion
from allround.core.registry import method
from allround.merging.learn.objective import Response, log_probabilities, logits_of
from allround.tasks.definition import Definition
from allround.tasks.kind import kind


@method(source="DivMerge, arXiv:2509.02108; Kullback-Leibler as in distillation", needs=("specialist",))
def divergence(
    merged: Response,
    specialist: Response,
    targets: Tensor,
    definition: Definition,
    *,
    measure: str = "js",
    temperature: float = 1.0,
) -> Tensor:
    """Divergence between p of the merged model and q of the specialist, in nats; of a multilabel task, of its labels.

    Shapes: logits (n, outputs) -> ()
    Formula: "js" is (KL(p | m) + KL(q | m)) / 2 with m = (p + q) / 2; "kl" is KL(q | p). Logits are divided by the
    temperature, and the result multiplied by its square. Numbers count as normal distributions with the deviation of
    the training targets: half the squared difference, for both.

    >>> task = Definition("t", "classification", ("x",), "text", "accuracy", ("a", "b"))
    >>> both = [Response(torch.zeros(1, 1), torch.tensor([x])) for x in ([0.0, 0.0], [0.0, 99.0])]
    >>> round(divergence(both[0], both[1], torch.empty(0), task).item(), 4)
    0.2158
    """
    if measure not in ("js", "kl"):
        raise AllroundError(f"measure by '{measure}'", "there is no such divergence", suggestion(measure, ("js", "kl")))
    if kind(definition.kind).numeric:
        return 0.5 * (logits_of(merged, definition) - logits_of(specialist, definition)).square().mean()
    if temperature != 1:
        merged, specialist = (
            Response(a.features, logits_of(a, definition) / temperature) for a in (merged, specialist)
        )
    p, q = log_probabilities(merged, definition), log_probabilities(specialist, definition)
    if measure == "kl":
        found = (q.exp() * (q - p)).sum(-1)
    else:
        middle = torch.logaddexp(p, q) - math.log(2)
        found = 0.5 * (p.exp() * (p - middle) + q.exp() * (q - middle)).sum(-1)
    return found.mean() * temperature**2
