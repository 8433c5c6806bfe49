"""Gaussians of features: fitting them, their densities, and how far one is from another."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """A Gaussian of d numbers. mean: (d,). root: (d, d), the upper triangular R with R^T R the inverse covariance."""

    mean: Tensor
    root: Tensor

    def log_density(self, x: Tensor) -> Tensor:
        """(n, d) -> (n,), without the constant d log(2 pi) / 2, in double precision.

        >>> found = Gaussian(torch.zeros(1), 2 * torch.eye(1)).log_density(torch.tensor([[0.0], [1.0]]))
        >>> found.tolist()  # log 2, and log 2 - 2
        [0.6931471805599453, -1.3068528194400546]
        """
        root = self.root.double()
        gaps = (x.double() - self.mean.double()) @ root.T
        return root.diagonal().log().sum() - gaps.square().sum(1) / 2


def fit(x: Tensor, ridge: float) -> Gaussian:
    """The Gaussian of rows (n, d). ridge: share of the mean variance that is added to each variance."""
    x = x.double()
    mean = x.mean(0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    covariance += ridge * covariance.diagonal().mean().clamp_min(1e-12) * torch.eye(len(covariance)).double()
    return Gaussian(mean, torch.linalg.cholesky(torch.linalg.inv(covariance)).T.contiguous())


def divergence(one: Gaussian, other: Gaussian) -> float:
    """The Kullback-Leibler divergence of `one` from `other`, in nats.

    >>> a, b = Gaussian(torch.zeros(1), torch.eye(1)), Gaussian(torch.ones(1), torch.eye(1) / 2)
    >>> round(divergence(a, b), 4)  # log 2 + (1 + 1) / 8 - 1 / 2
    0.4431
    """
    mine, root = one.root.double(), other.root.double()
    mixed = torch.linalg.solve_triangular(mine.T, root.T, upper=False)
    gap = root @ (one.mean.double() - other.mean.double())
    logs = mine.diagonal().log().sum() - root.diagonal().log().sum()
    return float(logs + (mixed.square().sum() + gap.square().sum() - len(root)) / 2)
