"""Multi-label classification: any number of labels for each example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, Kind

if TYPE_CHECKING:
    from torch import Tensor


@method(source="independent logistic regressions; the floor gives each label its majority of the training rows")
class Multilabel(Kind):
    """A list of labels an example; binary cross-entropy averaged over labels; encoded as int8 (n, k).

    >>> from allround.tasks.definition import Definition
    >>> kind = Multilabel()
    >>> d = Definition("t", "multilabel", ("x",), "text", "macro_f1", **kind.facts([["a"], ["b", "a"], []]))
    >>> kind.encode([["b"], []], d).tolist(), kind.decode([[1, 1]], d)
    ([[0, 1], [0, 0]], [['a', 'b']])
    """

    metric = "macro_f1"
    lists = True
    indicators = True
    least_labels = 1

    def facts(self, values: Sequence[Any]) -> dict[str, Any]:
        return {"labels": tuple(sorted({str(label) for row in values for label in row}))}

    def encode(self, values: Sequence[Any], definition: Definition) -> Encoded:
        index = {label: i for i, label in enumerate(definition.labels)}
        encoded = np.zeros((len(values), len(index)), dtype=np.int8)
        for row, labels in enumerate(values):
            for label in labels:
                encoded[row, index[str(label)]] = 1
        return encoded

    def decode(self, encoded: Encoded, definition: Definition) -> list[Any]:
        return [[label for label, on in zip(definition.labels, row, strict=True) if on] for row in encoded]

    def outputs(self, definition: Definition) -> int:
        return len(definition.labels)

    def tensor(self, encoded: Encoded) -> Tensor:
        import torch

        return torch.as_tensor(np.asarray(encoded), dtype=torch.float32)

    def loss(self, logits: Tensor, targets: Tensor, definition: Definition) -> Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(logits.float(), targets)

    def predict(self, logits: Tensor, lengths: Sequence[int]) -> Encoded:
        return (logits > 0).cpu().numpy().astype(np.int8)

    def confidence(self, logits: Tensor, lengths: Sequence[int]) -> list[float] | None:
        # The probability of the whole set of labels, taking them as independent.
        found: list[float] = logits.double().abs().sigmoid().prod(-1).cpu().tolist()
        return found

    def floor(self, train: Encoded, count: int, lengths: Sequence[int]) -> Encoded:
        return np.tile((np.asarray(train).mean(0) > 0.5).astype(np.int8), (count, 1))
