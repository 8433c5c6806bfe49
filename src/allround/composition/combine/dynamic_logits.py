"""dynamic_logits: the modules' changes of the outputs are added, each as far as it has moved its base."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from allround.composition.fusing import Fusion, averaged
from allround.core.errors import AllroundError
from allround.core.registry import method

#: Steps of the search for a factor; Newton's, kept between two bounds.
STEPS = 24


@method(
    source="Fan et al., NeurIPS 2024, arXiv:2406.15480",
    paper="On Giant's Shoulders: Effortless Weak to Strong by Dynamic Logits Fusion",
)
class DynamicLogits(Fusion):
    """Adds sum_e a_e (logits_e - logits of the base) to what the base, or a larger model, gives. The factors are solved
    anew for each row, and for each token of an answer that is written.

    Formula: a_e = s c_e t_e. t_e: alone, module e moves the outputs as far, by KL(moved || unmoved), as it moves
    those of its base. c_e: its weight by the router, the largest being 1. s: all together move them as far as the
    sum of c_e times what each moves alone. Factors t and s are from 0 to `most`; where none is far enough, `most`.
    Numbers without probabilities, such as those of regression and the scores of passages, are averaged as by `logits`.
    Differs: the paper's abstract asks for the KL to match and says neither how several factors share it nor their
    bounds; here each has its own part of it, and one common factor makes up for where they overlap.
    """

    name = "dynamic_logits"
    needs_base = True

    def __init__(self, *, most: float = 2.0, larger: str | None = None) -> None:
        super().__init__(larger)
        if not most > 0:
            raise AllroundError(f"fuse logits with factors up to {most}", "it must be above 0", "give such a number")
        self.most = most

    def fused(self, anchor: Tensor, base: Tensor, experts: Sequence[Tensor], shares: Tensor, sort: str) -> Tensor:
        if sort == "numbers":
            return averaged(anchor, base, experts, shares)
        if sort == "sigmoid":  # each label is a question by itself
            labels = anchor.shape[-1]
            stacked = [torch.stack([t, torch.zeros_like(t)], -1).flatten(0, 1) for t in (anchor, base, *experts)]
            made = self.fused(stacked[0], stacked[1], stacked[2:], shares.repeat_interleave(labels, 0), "softmax")
            return (made[:, 0] - made[:, 1]).view(-1, labels)
        counted = shares / shares.amax(-1, keepdim=True).clamp_min(1e-12)
        total, direction = torch.zeros_like(anchor[:, 0]), torch.zeros_like(anchor)
        for count, one in zip(counted.T, experts, strict=True):
            change = one - base
            moved = divergence(base, change, torch.ones_like(total))
            total = total + count * moved
            direction = direction + (count * factor(anchor, change, moved, self.most))[:, None] * change
        return anchor + factor(anchor, direction, total, self.most)[:, None] * direction


def divergence(logits: Tensor, change: Tensor, by: Tensor) -> Tensor:
    """KL(softmax(logits + by * change) || softmax(logits)) of each row. Shapes: (n, c), (n, c), (n,) -> (n,)."""
    return _moments(logits, change, by)[0]


def factor(logits: Tensor, change: Tensor, wanted: Tensor, most: float) -> Tensor:
    """The factor from 0 to `most` by which a change moves logits so far, in KL(moved || unmoved); (n,).

    The divergence grows with the factor, so that there is one at most; where it is never so large, `most`.

    >>> factor(torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]), torch.tensor([0.1109441]), 2.0)
    tensor([0.5000])
    """
    low, high = torch.zeros_like(wanted), torch.full_like(wanted, most)
    by = torch.full_like(wanted, min(1.0, most))
    for _ in range(STEPS):
        found, slope = _moments(logits, change, by)
        low, high = torch.where(found < wanted, by, low), torch.where(found > wanted, by, high)
        newton = by - (found - wanted) / slope.clamp_min(1e-12)
        inside = (newton >= low) & (newton <= high)
        by = torch.where(found == wanted, by, torch.where(inside, newton, (low + high) / 2))
    return by


def _moments(logits: Tensor, change: Tensor, by: Tensor) -> tuple[Tensor, Tensor]:
    """The divergence at a factor, and its slope: the factor times the variance of the change."""
    before, after = logits.log_softmax(-1), (logits + by[:, None] * change).log_softmax(-1)
    likely = after.exp()
    mean = (likely * change).sum(-1)
    variance = (likely * (change - mean[:, None]) ** 2).sum(-1)
    return (likely * (after - before)).sum(-1), by * variance
