"""Categorical: one label out of several for each entry."""

from __future__ import annotations

from itertools import chain

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from allround.core.registry import method
from allround.models.likelihood import EXACT, Likelihood
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded


@method(source="softmax regression", kinds=("classification", "token_classification", "multiple_choice"))
class Categorical(Likelihood):
    """p = softmax of the outputs (n, labels); targets are int64 (n,).

    >>> round(Categorical().loss(torch.zeros(1, 2), torch.tensor([1])).item(), 4)
    0.6931
    """

    def outputs(self, definition: Definition) -> int:
        return len(definition.labels)

    def tensor(self, encoded: Encoded) -> Tensor:
        values = list(chain.from_iterable(encoded)) if isinstance(encoded, list) else np.asarray(encoded)
        return torch.as_tensor(values, dtype=torch.long)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs.float(), targets)

    def predict(self, outputs: Tensor) -> Encoded:
        return outputs.argmax(-1).cpu().numpy().astype(np.int64)

    def confidence(self, outputs: Tensor) -> Tensor | None:
        return self.scores(outputs).amax(-1)

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.float().softmax(-1)

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        return outputs.float().unsqueeze(1).log_softmax(-1)

    def draws(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.multinomial(self.scores(outputs.detach()).cpu(), 1, generator=generator).squeeze(-1)
        return drawn.to(outputs.device)

    def expected(self, outputs: Tensor) -> list[Tensor] | None:
        if outputs.shape[-1] > EXACT:
            return None
        logs = outputs.float().log_softmax(-1)
        weighted = logs * logs.detach().exp().sqrt()  # its square is weighted by the probability
        return list(weighted.sum(0))
