"""Losses of pairs of texts that have a score: what they read, and the loss that a text names.

A loss reads the cosines (n,) of pairs, and their targets (n,); a higher target says that the texts are more alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from allround.core import registry
from allround.models.contrasting import wide


@dataclass(frozen=True)
class PairLoss:
    """A loss of pairs with its parameters.

    reads: what it compares with the targets: the cosines, or the answers that a head makes of them.
    """

    name: str
    function: Callable[..., Tensor]
    settings: Mapping[str, Any]
    reads: str

    @classmethod
    def named(cls, text: str) -> PairLoss:
        """The loss that a text names: `NAME` or `NAME:key=value;key=value`.

        >>> PairLoss.named("mse")(torch.tensor([1.0]), torch.tensor([0.5])).item()
        0.25
        """
        name, values = registry.spelled("agree", text)
        entry = registry.find("agree", name)
        return cls(name, entry.load(), entry.resolve(values), str(entry.facts["reads"]))

    def __call__(self, cosines: Tensor, targets: Tensor) -> Tensor:
        """The loss, ()."""
        return self.function(cosines, targets, **self.settings)


def distance(cosines: Tensor, targets: Tensor) -> Tensor:
    """1 - Pearson's correlation; 0 where all cosines or all targets are the same.

    >>> distance(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 3.0])).abs() < 1e-6
    tensor(True)
    """
    x, y = wide(cosines), wide(targets)
    if len(x) < 2:
        return x.sum() * 0
    x, y = x - x.mean(), y - y.mean()
    spread = x.square().sum() * y.square().sum()
    tiny = torch.finfo(x.dtype).tiny
    found = 1 - (x * y).sum() / spread.clamp_min(tiny).sqrt()
    return found if float(spread.detach()) > tiny else x.sum() * 0


def gap_ranking(cosines: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Each pair beside those of a lower target, a softmax of cosines weighed by the gap of their targets.

    The formula is that of the loss `gaps`.

    >>> gap_ranking(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]), 1.0)  # log(1 + 1 / e)
    tensor(0.3133)
    """
    s, t = wide(cosines) / temperature, wide(targets)
    gaps = t.unsqueeze(1) - t.unsqueeze(0)
    lower = gaps > 0
    gaps = gaps / gaps.max().clamp_min(torch.finfo(t.dtype).tiny) if len(t) else gaps
    ranked = lower.any(1)
    if not bool(ranked.any()):
        return s.sum() * 0
    lowest = torch.finfo(s.dtype).min / 2
    own = gaps.masked_fill(~lower, 0).amax(1) * s
    others = (gaps * s).masked_fill(~lower, lowest)
    losses = torch.cat([own.unsqueeze(1), others], 1).logsumexp(1) - own
    return losses.masked_fill(~ranked, 0).sum() / ranked.sum()


def rank_divergence(cosines: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """KL(softmax of the targets' ranks || softmax of cosines) over the pairs of a batch, divided by their number.

    Formula: sum_i p_i log(p_i / q_i) / n, p = softmax((n - 1 - r) / (n - 1) / T), q = softmax(s / T); r counts from 0
    for the highest target, and equal targets share their mean rank.

    >>> rank_divergence(torch.tensor([1.0, 0.0]), torch.tensor([5.0, 2.0]), 1.0).abs() < 1e-6
    tensor(True)
    """
    s, t = wide(cosines), wide(targets)
    if len(s) < 2:
        return s.sum() * 0
    higher = (t.unsqueeze(0) > t.unsqueeze(1)).sum(1)
    equal = (t.unsqueeze(0) == t.unsqueeze(1)).sum(1)
    ranks = higher + (equal - 1) / 2
    aimed = ((len(s) - 1 - ranks) / (len(s) - 1)).to(s) / temperature
    found: Tensor = kl_div((s / temperature).log_softmax(0), aimed.log_softmax(0), reduction="sum", log_target=True)
    return found / len(s)
