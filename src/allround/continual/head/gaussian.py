"""gaussian: a Gaussian for each label, all with one covariance, from sums over all rows that ever came."""

from __future__ import annotations

import numpy as np
import torch

from allround.continual.features import row_features
from allround.continual.heads import HeadPolicy, columns_of, grown, labels_of
from allround.continual.rows import Memory
from allround.core.registry import method
from allround.models.head import HeadState
from allround.models.model import Model
from allround.tasks.task import Task


@method(source="linear discriminant analysis from sums, as in Hayes and Kanan, CVPR workshops 2020, arXiv:1909.01520")
class Gaussian(HeadPolicy):
    """Linear discriminant analysis of the features of the encoder as it is.

    Formula: w_c = S^-1 m_c, b_c = log(n_c / n) - m_c^T S^-1 m_c / 2, m_c being the mean of label c, and S the
    covariance within labels plus `ridge` times its mean variance
    Differs: the covariance is that of all rows so far, not a running estimate.

    ridge: share of the mean variance.
    """

    def __init__(self, *, ridge: float = 0.01) -> None:
        super().__init__()
        self.ridge = ridge

    def make(self, model: Model, task: Task, memory: Memory) -> HeadState:
        labels_of(task)
        x, y = row_features(model, task.name, task.splits["train"].inputs), columns_of(task)
        kept = self.state.setdefault(task.name, {})
        kept["squares"] = grown(kept.get("squares"), (x.shape[1], x.shape[1])) + torch.from_numpy(x.T @ x)
        kept["sums"] = grown(kept.get("sums"), (y.shape[1], x.shape[1])) + torch.from_numpy(y.T @ x)
        kept["counts"] = grown(kept.get("counts"), (y.shape[1],)) + torch.from_numpy(y.sum(0))
        counts, sums = kept["counts"].numpy(), kept["sums"].numpy()
        means = sums / np.maximum(counts, 1)[:, None]
        within = (kept["squares"].numpy() - means.T @ sums) / counts.sum()
        within += self.ridge * max(float(within.trace()) / len(within), 1e-12) * np.eye(len(within))
        weight = np.linalg.solve(within, means.T).T
        bias = np.log(np.maximum(counts, 1e-12) / counts.sum()) - (weight * means).sum(1) / 2
        return HeadState({"weight": torch.from_numpy(weight).float(), "bias": torch.from_numpy(bias).float()})
