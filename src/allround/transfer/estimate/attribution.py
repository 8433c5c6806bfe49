"""attribution: whether two tasks' models look at the same features of the target's rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from allround.core.registry import method
from allround.models.head import OutputHead
from allround.transfer.estimating import cosine
from allround.transfer.matrix import Values
from allround.transfer.view import TransferView


@method(
    source="comparing activations of single-task models: Pugantsov and McCreadie, ECIR 2022, arXiv:2202.01096; "
    "gradient times input: Shrikumar et al., 2016, arXiv:1605.01713",
    needs=("heads",),
    self_best=True,
    cheap=True,
)
def attribution(view: TransferView) -> Values:
    """Ask the source's model and the target's own which features their answers to the target's rows rest on. A model is
    the specialist, or else a head on the base; both must have as many features.

    Formula: value(s, t) = Spearman's correlation over features j of a_s and a_t; a_j = mean over rows x of t of
    |(f_j(x) - mean f_j) d log p(y | x) / d f_j|, y being the model's most probable answer (for numbers, the
    derivative is that of the answer)

    >>> correlation(np.array([1.0, 2.0, 9.0]), np.array([1.0, 3.0, 2.0]))
    0.5
    """

    def looked_at(source: str, target: str) -> Values | None:
        found = view.head(source, target)
        return None if found is None else attributed(*found)

    own = {target: looked_at(target, target) for target in view.targets}
    return view.table(correlation, lambda source, target: (looked_at(source, target), own[target]))


def attributed(head: OutputHead, features: Tensor) -> Values:
    """How much of the answers rests on each feature. Shapes: features (n, d) -> (d,)."""
    features = features.requires_grad_(True)
    outputs = head(features)
    logs = head.likelihood.log_probabilities(outputs)
    answers = outputs if logs is None else logs.amax(-1)
    slopes = torch.autograd.grad(answers.sum(), features)[0]
    return np.asarray((slopes * (features - features.mean(0))).abs().double().mean(0).detach())


def correlation(one: Values, other: Values) -> float:
    """Spearman's correlation. NaN where widths differ, or one of them is the same everywhere."""
    from scipy.stats import rankdata  # takes a second to import

    if one.shape != other.shape or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    first, second = rankdata(one), rankdata(other)
    return round(cosine(first - first.mean(), second - second.mean()), 12)
