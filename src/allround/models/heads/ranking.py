"""Ranking: the passages of a row in the order of how alike their vectors are to the query's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.batch import Answers, Features, TaskLoss
from allround.models.contrasting import ContrastiveLoss
from allround.models.head import Head
from allround.models.late import TokenVectors, Vectors, late, products
from allround.tasks.contrast import TOKENS, Contrast, of_row
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded


@method(source="InfoNCE with in-batch negatives: van den Oord et al., 2018, arXiv:1807.03748; Karpukhin et al., EMNLP "
        "2020, arXiv:2004.04906", ranks=True)  # fmt: skip
class Ranking(Head):
    """Scores are cosines of the query's vector and the passages' (or dot products, or those of `late` between the
    vectors of their tokens); there are no weights.

    In training a row has several texts: the query, and passages that `of_row` chooses. All passages of a step are
    compared with each query: those with a grade above 0 are positives, wherever in the step they stand, so that no
    relevant passage is ever a negative.

    >>> d = Definition("t", "retrieval", ("query", "passages"), "text", "ndcg")
    >>> head = Ranking(d, 2)
    >>> targets = head.tensor([{"a": 1.0}, {"b": 2.0, "a": 0.0}])
    >>> targets.tolist()  # of query 1, and of query 2, which has a negative: a, b, a again (left out)
    [[1.0, 0.0, -1.0], [0.0, 2.0, -1.0]]
    """

    sort = "ranking"

    def __init__(self, definition: Definition, width: int) -> None:
        super().__init__(definition, width)
        self.contrast = definition.contrast or Contrast()
        self.rule = ContrastiveLoss.named(self.contrast.loss)

    @property
    def across(self) -> bool:
        return True

    def reset(self) -> None:
        return None

    def tensor(self, encoded: Encoded) -> Tensor:
        """Grades (rows, passages) of all passages of these rows for each row; what a passage says again is left out."""
        columns = [one for target in encoded for one in of_row(target, self.contrast)]
        first = {one: place for place, one in reversed(list(enumerate(columns)))}
        again = torch.tensor([first[one] != place for place, one in enumerate(columns)])
        grades = torch.tensor([[max(0.0, target.get(one, 0.0)) for one in columns] for target in encoded])
        return grades.reshape(len(encoded), len(columns)).masked_fill(again, -1.0)

    def vectors(self, features: Features) -> Vectors:
        """The vectors of texts as `scores` takes them. Errors: an encoder without vectors of tokens, where they are
        compared."""
        values, compare = features.values, self.contrast.compare
        if compare != TOKENS:
            return F.normalize(values, dim=-1) if compare == "cosine" else values / values.shape[-1] ** 0.5
        if not features.tokens:
            raise AllroundError(
                f"compare the tokens of the texts of task '{self.definition.name}'",
                "the encoder gives one vector for each text",
                "use a text encoder as the --base, such as all-MiniLM-L6-v2, or compare: cosine",
            )
        return TokenVectors(values.split([count for row in features.tokens for count in row]))

    def scores(self, queries: Vectors, passages: Vectors) -> Tensor:
        """How alike each query and each passage are: (n, m)."""
        if isinstance(queries, TokenVectors) and isinstance(passages, TokenVectors):
            return late(queries, passages, self.contrast.token_temperature)
        return products(queries, passages)

    def compared(self, features: Features) -> Tensor:
        """How alike each query of a batch is to each passage of it: (rows, passages), the passages as in `tensor`."""
        made = self.vectors(features)
        texts = [len(row) for row in features.tokens] or features.lengths
        starts = np.cumsum([0, *texts[:-1]]).tolist()
        queries, passages = made[starts], made[sorted({*range(len(made))} - {*starts})]
        return self.scores(queries, passages).float()

    def loss(self, features: Features, targets: Tensor) -> TaskLoss:
        texts = sum(map(len, features.tokens)) or len(features.values)
        return TaskLoss(self.rule(self.compared(features), targets), texts)

    def each(self, features: Features, targets: Encoded) -> Tensor:
        compared = self.compared(features)
        grades = self.tensor(targets).to(compared.device)
        return torch.stack([self.rule(scores[None], own[None]) for scores, own in zip(compared, grades, strict=True)])

    def answer(self, features: Features, *, scores: bool = False) -> Answers:
        raise AllroundError(
            f"answer task '{self.definition.name}' from the vectors of queries alone",
            "the passages of its rows are encoded too, to be ranked",
            "use a model with one encoder, or another system that answers tasks of the kind retrieval",
        )

    def fit(self, train: Features, targets: Encoded, score: Callable[[], float]) -> dict[float, float]:
        return {0.0: score()}
