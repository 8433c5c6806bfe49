"""Similarity: the cosine of a pair's two vectors, and nothing else of them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from allround.core.registry import method
from allround.models.agreeing import PairLoss
from allround.models.batch import Features, TaskLoss
from allround.models.head import HeadState
from allround.models.heads.linear import Linear
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded


@method(source="cosine of two embeddings: Reimers and Gurevych, EMNLP 2019, arXiv:1908.10084", pairs=True)
class Similarity(Linear):
    """outputs = weight @ cos(u, v) + bias, of features (n, 4 d) that begin with the two texts' vectors u and v; zeros
    before it is trained.

    It learns by the squared error, or by the loss that the definition names under `agree`. A loss that looks at cosines
    alone has no part in weight and bias: they keep to the targets by the squared error where heads are tuned, and stay
    as they were fitted where not, so that answers have the right order, but no longer the targets' unit.

    >>> import torch
    >>> d = Definition("t", "similarity", ("a", "b"), "score", "spearman", center=0.0, scale=1.0)
    >>> head = Similarity(d, 8)
    >>> _ = head.weight.data.fill_(2.0)
    >>> round(head(torch.tensor([[3.0, 4.0, 4.0, 3.0, 0.0, 0.0, 0.0, 0.0]])).item(), 4)  # 2 * (12 + 12) / 25
    1.92
    """

    sort = "similarity"

    def __init__(self, definition: Definition, width: int) -> None:
        super().__init__(definition, 1)
        self.width = width

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(cosines(values))

    def narrowed(self, places: Tensor) -> HeadState:
        return self.stored()

    @property
    def across(self) -> bool:
        return bool(self.definition.agree) and PairLoss.named(self.definition.agree).reads == "cosines"

    def loss(self, features: Features, targets: Tensor) -> TaskLoss:
        if not self.definition.agree:
            return super().loss(features, targets)
        rule, found = PairLoss.named(self.definition.agree), cosines(features.values)
        if rule.reads == "answers":
            return TaskLoss(rule(super().forward(found).squeeze(-1), targets), len(targets))
        line = {}
        if self.weight.requires_grad:
            line = {"line": self.training_loss(super().forward(found.detach()), targets)}
        return TaskLoss(rule(found.squeeze(-1), targets), len(targets), line)

    def fit(self, train: Features, targets: Encoded, score: Callable[[], float]) -> dict[float, float]:
        return super().fit(train._replace(values=cosines(train.values)), targets, score)


def cosines(values: Tensor) -> Tensor:
    """The cosine of the first two quarters of each vector: (n, 4 d) -> (n, 1)."""
    side = values.shape[-1] // 4
    return F.cosine_similarity(values[..., :side], values[..., side : 2 * side], dim=-1).unsqueeze(-1)
