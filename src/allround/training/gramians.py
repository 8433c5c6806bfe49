"""What balancers make of the inner products of the tasks' gradients before they solve for weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from allround.core.errors import AllroundError

#: A squared norm below this share of the mean one is taken for zero: gradients have about seven digits.
NOTHING = 1e-14


#: Columns of the gradients that are taken at once.
COLUMNS = 1 << 20
#: Columns whose products `gramian_of` adds up in the precision of the gradients.
BLOCK = 1 << 14


def gramian_of(gradients: Tensor) -> Tensor:
    """The inner products of gradients (k, p): blocks of columns in the gradients' own precision, added up in float64:
    (k, k). In float32 alone, sums over millions of weights are off by up to a hundredth, dependent gradients no longer
    look so, and solvers fail; in float64 alone it takes nine times as long.

    >>> gramian_of(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    tensor([[5., 3.],
            [3., 9.]], dtype=torch.float64)
    """
    total = torch.zeros(len(gradients), len(gradients), dtype=torch.float64, device=gradients.device)
    for start in range(0, gradients.shape[1], COLUMNS):
        piece = gradients[:, start : start + COLUMNS]
        whole = piece.shape[1] // BLOCK * BLOCK
        blocks = piece[:, :whole].unflatten(1, (-1, BLOCK)).transpose(0, 1)
        rest = piece[:, whole:]
        total += torch.bmm(blocks, blocks.mT).sum(0, dtype=torch.float64) + (rest @ rest.T).double()
    return total


def over_mean(gramian: Tensor) -> tuple[Tensor, float]:
    """The Gramian divided by the mean of the squared norms, and that mean: thresholds of solvers then mean the same
    for huge and tiny gradients.

    >>> over_mean(torch.tensor([[4.0, 1.0], [1.0, 2.0]]))
    (tensor([[1.3333, 0.3333],
            [0.3333, 0.6667]]), 3.0)
    """
    size = float(gramian.diagonal().mean())
    return (gramian / size, size) if size > 0 else (torch.zeros_like(gramian), 0.0)


def solve(weighting: Callable[[Tensor], Tensor], gramian: Tensor) -> Tensor:
    """The weights that a rule for Gramians gives, where it does not matter that all gradients grow alike; ones where
    all gradients are zero, as every weight is then as good as another."""
    scaled, size = over_mean(gramian)
    return weighting(_sound(scaled)) if size else torch.ones(len(gramian), dtype=torch.float64)


def solve_nonzero(weighting: Callable[[Tensor, Tensor], Tensor], gramian: Tensor, nothing: float = NOTHING) -> Tensor:
    """The same for a rule that cannot take a gradient of zero: such a task is left out, and weighs as much as the
    others on the average, which leaves their weights in the step as they are. The rule also gets the places that are
    left. nothing: the share of the mean squared norm below which a squared norm is zero."""
    scaled, size = over_mean(gramian)
    weights = torch.ones(len(gramian), dtype=torch.float64)
    there = (scaled.diagonal() > nothing).nonzero().flatten()
    if size:
        found = weighting(_sound(scaled[there][:, there]), there)
        weights *= found.abs().mean()
        weights[there] = found
    return weights


def _sound(gramian: Tensor) -> Tensor:
    """The nearest matrix that can be one of inner products, where rounding has made it none."""
    values, vectors = torch.linalg.eigh(gramian)
    return gramian if values[0] >= 0 else (vectors * values.clamp_min(0)) @ vectors.T


def divisors(kind: str, gramian: Tensor, losses: Tensor) -> Tensor:
    """What MGDA divides each gradient by before it looks for the shortest combination: (k,), all above 0.

    >>> gramian = torch.tensor([[4.0, 0.0], [0.0, 9.0]])
    >>> divisors("loss_plus", gramian, torch.tensor([1.0, 2.0]))
    tensor([2., 6.])
    """
    norms = gramian.diagonal().clamp_min(0).sqrt()
    losses = losses.to(norms).abs()
    made = {"none": torch.ones_like(norms), "l2": norms, "loss": losses, "loss_plus": losses * norms}[kind]
    most = float(made.max())
    return made.clamp_min(1e-12 * most) if most > 0 else torch.ones_like(made)


#: What `divisors` knows.
DIVISORS = ("none", "l2", "loss", "loss_plus")


def check_choice(balancer: str, name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a parameter that is none of some words.

    >>> check_choice("mgda", "normalise", "l1", DIVISORS)
    Traceback (most recent call last):
        ...
    allround.core.errors.AllroundError: asked: balance by 'mgda' with normalise='l1'
    found: that is none of its values
    do:    use one of: none, l2, loss, loss_plus
    """
    if value not in choices:
        raise AllroundError(
            f"balance by '{balancer}' with {name}='{value}'",
            "that is none of its values",
            f"use one of: {', '.join(choices)}",
        )
