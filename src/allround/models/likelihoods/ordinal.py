"""Ordinal: one step of a scale, reached step by step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from allround.core.registry import method
from allround.models.likelihood import EXACT, Likelihood
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind


@method(
    source="continuation ratios: Shi, Cao and Raschka 2021, arXiv:2111.08851 (CORN), equations 5 to 7; the loss is the "
    "mean over examples, where the paper's is over all binary decisions",
    kinds=("ordinal",),
)
class Ordinal(Likelihood):
    """Each output (n, steps - 1) is the logit of going one step further, given that the target came so far:
    p(target > k | target >= k) = sigmoid(outputs_k). So p(target > k), their product, falls with k. Targets are places
    of the scale, int64 (n,).

    >>> [round(p, 3) for p in Ordinal().scores(torch.zeros(1, 2))[0].tolist()]
    [0.5, 0.25, 0.25]
    """

    def outputs(self, definition: Definition) -> int:
        return len(definition.labels) - 1

    def tensor(self, encoded: Encoded) -> Tensor:
        return torch.as_tensor(np.asarray(encoded), dtype=torch.long)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return -_logs(outputs).gather(1, targets[:, None]).mean()

    def predict(self, outputs: Tensor) -> Encoded:
        return kind("ordinal").decide(self.scores(outputs).cpu().numpy())[0]

    def confidence(self, outputs: Tensor) -> Tensor | None:
        found = self.scores(outputs)
        return found.gather(1, torch.as_tensor(self.predict(outputs), device=found.device)[:, None]).squeeze(1)

    def scores(self, outputs: Tensor) -> Tensor:
        return _logs(outputs).exp()

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        return _logs(outputs).unsqueeze(1)

    def draws(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.multinomial(self.scores(outputs.detach()).cpu(), 1, generator=generator).squeeze(-1)
        return drawn.to(outputs.device)

    def expected(self, outputs: Tensor) -> list[Tensor] | None:
        if outputs.shape[-1] >= EXACT:
            return None
        logs = _logs(outputs)
        weighted = logs * logs.detach().exp().sqrt()  # its square is weighted by the probability
        return list(weighted.sum(0))


def _logs(outputs: Tensor) -> Tensor:
    """Log-probabilities of the steps: (n, steps)."""
    further, stop = logsigmoid(outputs.float()), logsigmoid(-outputs.float())
    nothing = torch.zeros_like(outputs[:, :1], dtype=torch.float32)
    return torch.cat([nothing, further.cumsum(1)], 1) + torch.cat([stop, nothing], 1)
