"""Token classification: one tag for each word of each example."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, Kind

if TYPE_CHECKING:
    from torch import Tensor


@method(source="softmax regression on each word's first piece; the floor is the majority tag of the training words")
class TokenClassification(Kind):
    """A tag a word; cross-entropy averaged over the words of a batch; encoded as a list of int64 (words,).

    Words that the encoder cut off count in the score: they are predicted as the first tag in `labels`, and
    "O" is always first.

    >>> TokenClassification().facts([["O", "B-X"], ["I-X"]])
    {'labels': ('O', 'B-X', 'I-X')}
    """

    metric = "span_f1"
    per_token = True
    lists = True

    def facts(self, values: Sequence[Any]) -> dict[str, Any]:
        tags = {str(tag) for row in values for tag in row}
        return {"labels": tuple(sorted(tags, key=lambda tag: (tag != "O", tag)))}

    def encode(self, values: Sequence[Any], definition: Definition) -> Encoded:
        index = {label: i for i, label in enumerate(definition.labels)}
        return [np.array([index[str(tag)] for tag in row], dtype=np.int64) for row in values]

    def decode(self, encoded: Encoded, definition: Definition) -> list[Any]:
        return [[definition.labels[int(i)] for i in row] for row in encoded]

    def outputs(self, definition: Definition) -> int:
        return len(definition.labels)

    def tensor(self, encoded: Encoded) -> Tensor:
        import torch

        return torch.as_tensor(list(chain.from_iterable(encoded)), dtype=torch.long)

    def loss(self, logits: Tensor, targets: Tensor, definition: Definition) -> Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits.float(), targets)

    def predict(self, logits: Tensor, lengths: Sequence[int]) -> Encoded:
        flat = logits.argmax(-1).cpu().numpy().astype(np.int64)
        return np.split(flat, np.cumsum(lengths)[:-1])

    def confidence(self, logits: Tensor, lengths: Sequence[int]) -> list[float] | None:
        # The mean probability of the words' tags.
        flat = logits.float().softmax(-1).amax(-1).cpu().numpy()
        return [float(part.mean()) if len(part) else 1.0 for part in np.split(flat, np.cumsum(lengths)[:-1])]

    def floor(self, train: Encoded, count: int, lengths: Sequence[int]) -> Encoded:
        majority = np.bincount(np.concatenate(train)).argmax()
        return [np.full(length, majority, dtype=np.int64) for length in lengths]
