"""What specialists changed of the base that they were tuned from, some entries at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

#: Entries of a tensor that are compared at once.
_STRETCH = 1 << 22


def alike(base: nn.Module, models: Mapping[str, nn.Module]) -> list[str]:
    """The models whose parameters have the names and shapes of the base's."""
    shapes = {name: tuple(p.shape) for name, p in base.named_parameters()}
    return [name for name, model in models.items()
            if {key: tuple(p.shape) for key, p in model.named_parameters()} == shapes]  # fmt: skip


@torch.no_grad()
def deltas(base: nn.Module, models: Mapping[str, nn.Module]) -> Iterator[Tensor]:
    """For each stretch of each tensor what each model changed: (models, entries), float64 on the CPU."""
    own = {name: dict(model.named_parameters()) for name, model in models.items()}
    for name, parameter in base.named_parameters():
        flat = parameter.detach().reshape(-1)
        for start in range(0, len(flat), _STRETCH):
            part = slice(start, start + _STRETCH)
            rows = [other[name].detach().reshape(-1)[part].cpu().double() for other in own.values()]
            yield torch.stack(rows) - flat[part].cpu().double()
