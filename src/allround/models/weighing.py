"""The training loss with weights of labels, and with a focal factor."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.models.likelihood import Likelihood
from allround.tasks.definition import Definition


def training_loss(rules: Likelihood, outputs: Tensor, targets: Tensor, definition: Definition) -> Tensor:
    """The mean loss on entries as a task trains it: the likelihood's own, unless the task weighs labels or is focal.

    Then it is the mean of w_t (1 - p_t)^focal (-log p_t) over all decisions, where p_t is the probability of the target
    and w_t the weight of its label (Lin et al., ICCV 2017, arXiv:1708.02002, equation 5).
    """
    if not definition.weights and not definition.focal:
        return rules.loss(outputs, targets)
    logs = rules.log_probabilities(outputs)
    assert logs is not None, "kinds without labels have no weights"
    places = targets.long().reshape(logs.shape[:2])
    own = logs.gather(-1, places.unsqueeze(-1)).squeeze(-1)
    loss = -own
    if definition.focal:
        # The slope of a power below 1 is infinite at 0, where the target is certain.
        loss = (1 - own.exp()).clamp_min(1e-6) ** definition.focal * loss
    if definition.weights:
        table = torch.tensor(definition.weights, dtype=loss.dtype, device=loss.device)
        loss = table[torch.arange(places.shape[1], device=loss.device), places] * loss
    return loss.mean()
