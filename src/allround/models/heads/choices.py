"""Choices: a language model answers with the most probable of several texts; the head has no weights of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from allround.core.registry import method
from allround.models.batch import Features, TaskLoss
from allround.models.head import OutputHead
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind


@method(source="ranking answers by their likelihood: Brown et al., NeurIPS 2020, arXiv:2005.14165", reads="scores")
class Choices(OutputHead):
    """The scores of the choices are the outputs: the labels' logits, or for numbers their mean over listed values.

    Features are scores of the choices, (n, choices), as the encoder computes them; in training they are
    log-probabilities of the right answer's tokens, whose mean is the loss, unless the prompt says `loss: choices`.

    >>> d = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes"))
    >>> Choices(d, 2).answer(Features(torch.tensor([[-4.0, -1.0]]))).predictions.tolist()
    [1]
    """

    sort = "choices"

    def __init__(self, definition: Definition, width: int) -> None:
        super().__init__(definition, width)
        self.numeric = kind(definition.kind).numeric
        listed = definition.prompt.choices if definition.prompt is not None else ()
        self.values = torch.tensor([float(value) for value in listed] if self.numeric else [], dtype=torch.float32)

    def reset(self) -> None:
        return None

    def forward(self, values: Tensor) -> Tensor:
        if not self.numeric:
            return values
        numbers = (self.values.to(values.device) - self.definition.center) / self.definition.scale
        return values.float().softmax(-1) @ numbers.unsqueeze(-1)

    def loss(self, features: Features, targets: Tensor) -> TaskLoss:
        if features.lengths:  # of the tokens of right answers
            return TaskLoss(-features.values.mean(), len(features.values))
        return super().loss(features, targets)

    def fit(self, train: Features, targets: Encoded, score: Callable[[], float]) -> dict[float, float]:
        return {0.0: score()}

    @classmethod
    def of_size(cls, definition: Definition, width: int, state: Mapping[str, Tensor]) -> Choices:
        return cls(definition, width)
