"""Experts in place of a feed-forward part: copies of it that learn apart, each with a weight of its own.

The sum of weighted experts is one wide feed-forward part whose hidden numbers come in blocks: the first layers give the
blocks of all experts side by side, whatever the network does with each number goes on as before, and the last layer
takes each block times its weight. So no network needs code of its own.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.core.errors import AllroundError
from allround.models.share.insert import Replaced, Route
from allround.models.share.inside import Inside
from allround.models.share.mixture import SHARED


class Seen:
    """What the first layers of a feed-forward part read last, which its gates read."""

    def __init__(self) -> None:
        self.values: Tensor | None = None


class First(Replaced):
    """A first layer of a feed-forward part, for all experts: (*, width) -> (*, experts * hidden)."""

    def __init__(self, layer: nn.Module, changes: Inside, seen: Seen) -> None:
        super().__init__(layer)
        self._apart = (changes, seen)

    def forward(self, values: Tensor) -> Tensor:
        changes, seen = self._apart
        seen.values = values
        found = self.base(values).unsqueeze(-2) + changes.bank(SHARED)(values.unsqueeze(-2))
        return cast(Tensor, found.flatten(-2))


class Last(Replaced):
    """The last layer of a feed-forward part, for all experts: (*, experts * hidden) -> (*, outputs)."""

    def __init__(self, layer: nn.Module, changes: Inside, seen: Seen, route: Route) -> None:
        super().__init__(layer)
        self._apart = (changes, seen, route)

    def forward(self, values: Tensor) -> Tensor:
        changes, seen, route = self._apart
        bank = changes.bank(SHARED)
        blocks = values.unflatten(-1, (bank.count, changes.width))
        read, seen.values = seen.values, None
        assert read is not None
        weights = self._weights(read, route, changes, bank.count)
        weight, bias = self.base.weight, self.base.bias
        found = F.linear((blocks * weights.unsqueeze(-1)).sum(-2), cast(Tensor, weight))
        if bias is not None:
            found = found + weights.sum(-1, keepdim=True) * cast(Tensor, bias)
        made: Tensor = found + (bank(blocks) * weights.unsqueeze(-1)).sum(-2)
        return made

    def _weights(self, read: Tensor, route: Route, changes: Inside, count: int) -> Tensor:
        """The weight of each expert for each vector, as the task of its row says."""
        if len(route.tasks) == 1:
            return changes.weights(read, route.tasks[0]).expand(*read.shape[:-1], count)
        weights = read.new_zeros(*read.shape[:-1], count)
        for task, places in route.groups(len(read)):
            rows = torch.tensor(places, device=read.device)
            some = changes.weights(read[rows], task).expand(len(rows), *read.shape[1:-1], count)
            weights = weights.index_copy(0, rows, some.to(weights.dtype))
        return weights


def check_parts(firsts: list[nn.Module], last: nn.Module, name: str) -> None:
    """An error where a block's feed-forward part is not some layers side by side and one behind them."""
    hidden = last.in_features if isinstance(last, nn.Linear) else 0
    if not firsts or any(not isinstance(first, nn.Linear) or first.out_features != hidden for first in firsts):
        raise AllroundError(
            f"put experts in place of the feed-forward part of '{name or 'the network'}'",
            "it is not made of linear layers, with one behind the others",
            "use a transformer as the --base, or a preset that adds a network behind the encoder, such as mmoe",
        )
