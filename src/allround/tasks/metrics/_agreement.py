"""What metrics of agreement are made of: right answers, and how often each label is a target and an answer."""

from __future__ import annotations

import numpy as np

from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Parts, one_hot


def agreement_parts(targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
    """For each example: whether the answer is right, its target and its answer one-hot: (n, 1 + 2 labels)."""
    from scipy.sparse import csr_array, hstack

    k = len(definition.labels)
    correct = csr_array((np.asarray(targets) == np.asarray(predictions)).astype(np.float64)[:, None])
    return hstack([correct, one_hot(targets, k), one_hot(predictions, k)], format="csr")


def agreement_sums(sums: Array) -> tuple[Array, Array, Array]:
    """Weighted sums of `agreement_parts`: right answers (b,), targets and answers of each label (b, labels)."""
    true, said = np.split(sums[:, 1:], 2, axis=1)
    return sums[:, 0], true, said
