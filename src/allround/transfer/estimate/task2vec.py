"""task2vec: whether two tasks depend on the same features of the base."""

from __future__ import annotations

from allround.core.registry import method
from allround.transfer.estimating import cosine
from allround.transfer.matrix import Values
from allround.transfer.view import TransferView


@method(
    source="Task2Vec: Achille et al., ICCV 2019, arXiv:1902.03545; awslabs/aws-cv-task2vec",
    needs=("features", "labels"),
    symmetric=True,
    self_best=True,
    better="lower",
    cheap=True,
)
def task2vec(view: TransferView) -> Values:
    """Compare tasks by the Fisher information of the base's features, under a linear head fitted on each task.

    Formula: value(s, t) = 1 - cos(h_s / (h_s + h_t), h_t / (h_s + h_t)); h_j = mean over rows x of
    E_{y ~ p(y | x)} (d log p(y | x) / d f_j)^2
    Differs: the information is that of the features, not of the filters before them; the expectation over labels is
    exact, where the paper draws them. The authors' code squares the mean gradient of a batch, so that its embedding
    depends on the size of batches; here each row's gradient is squared.

    >>> import numpy as np
    >>> round(distance(np.array([1.0, 3.0]), np.array([1.0, 1.0])), 4)
    0.1318
    """
    return view.between(distance, view.fisher)


def distance(one: Values, other: Values) -> float:
    """The distance of two embeddings (d,). Only features that one of the tasks depends on count; NaN without any."""
    both = one + other
    used = both > 0
    return 1 - cosine(one[used] / both[used], other[used] / both[used]) if used.any() else float("nan")
