"""ridge: random features and ridge regression, from sums over all rows that ever came."""

from __future__ import annotations

import math

import numpy as np
import torch

from allround.continual.features import row_features
from allround.continual.heads import HeadPolicy, columns_of, grown
from allround.continual.rows import Memory
from allround.core.registry import method
from allround.core.seeds import seed_of
from allround.models.head import HeadState
from allround.models.model import Model
from allround.tasks.task import Task

#: Penalties that are tried, as shares of the mean square of a random feature.
PENALTIES = tuple(10.0**power for power in range(-8, 3))


@method(
    source="RanPAC: McDonnell et al., NeurIPS 2023, arXiv:2307.02251; models/ranpac.py of LAMDA-PILOT; the penalty by "
    "generalised cross-validation: Golub, Heath and Wahba, Technometrics 1979"
)
class Ridge(HeadPolicy):
    """Answers with W h, h = (relu(R f), 1), f being the features of the encoder as it is, and R drawn once.

    Formula: W = (G + penalty I)^-1 Q, with G = sum over rows of h h^T and Q = sum of h y^T, y being `columns_of`
    Differs: the authors choose the penalty on a fifth of the rows of the last arrival; here it is the one of the least
    n * RSS / (n - df)^2, which follows from the sums alone, so that the head does not depend on the order of arrivals.

    units: rows of R. What is remembered takes 8 * (units + 1)^2 bytes a task.
    """

    def __init__(self, *, units: int = 1000) -> None:
        super().__init__()
        self.units = units

    def make(self, model: Model, task: Task, memory: Memory) -> HeadState:
        features, y = row_features(model, task.name, task.splits["train"].inputs), columns_of(task)
        generator = np.random.default_rng(seed_of(0, "ridge", self.units, features.shape[1]))
        drawn = generator.normal(size=(self.units, features.shape[1])) / math.sqrt(features.shape[1])
        drawn = drawn.astype(np.float32).astype(np.float64)  # as the head will have it
        h = np.concatenate([np.maximum(features @ drawn.T, 0), np.ones((len(features), 1))], 1)
        size = h.shape[1]
        kept = self.state.setdefault(task.name, {})
        kept["gram"] = grown(kept.get("gram"), (size, size)) + torch.from_numpy(h.T @ h)
        kept["cross"] = grown(kept.get("cross"), (size, y.shape[1])) + torch.from_numpy(h.T @ y)
        kept["squares"] = grown(kept.get("squares"), ()) + float((y**2).sum())
        kept["rows"] = grown(kept.get("rows"), ()) + len(y)
        weights = solve(kept["gram"].numpy(), kept["cross"].numpy(), float(kept["squares"]), float(kept["rows"]))
        return HeadState(
            {
                "hidden_weight": torch.from_numpy(drawn).float(),
                "hidden_bias": torch.zeros(self.units),
                "weight": torch.from_numpy(weights[:-1].T.copy()).float(),
                "bias": torch.from_numpy(weights[-1].copy()).float(),
            },
            "mlp_relu",
        )


def solve(gram: np.ndarray, cross: np.ndarray, squares: float, rows: float) -> np.ndarray:
    """The weights with the penalty of the least generalised cross-validation error. Shapes: (d, d), (d, k) -> (d, k).

    squares: the sum of squared targets, over all columns.

    >>> x, y = np.array([[1.0], [2.0], [3.0]]), np.array([[2.0], [4.0], [6.0]])
    >>> float(solve(x.T @ x, x.T @ y, float((y**2).sum()), 3).round(4)[0, 0])
    2.0
    """
    values, vectors = np.linalg.eigh(gram)
    values, turned = np.maximum(values, 0), vectors.T @ cross
    mean = max(values.mean(), 1e-12)
    best, found = np.inf, turned
    for penalty in PENALTIES:
        shrunk = turned / (values + penalty * mean)[:, None]
        rest = max(squares - 2 * float((shrunk * turned).sum()) + float((values[:, None] * shrunk**2).sum()), 0.0)
        free = rows - float((values / (values + penalty * mean)).sum())
        error = rows * rest / free**2 if free > 0.01 * rows else np.inf
        if error < best:
            best, found = error, shrunk
    if best == np.inf:
        found = turned / (values + PENALTIES[-1] * mean)[:, None]
    weights: np.ndarray = vectors @ found
    return weights
