"""Processes that train together, each with its share of every batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Processes:
    """The processes of this training; most often one alone.

    `torchrun` and `accelerate launch` start several. All of them hold the same model, draw the same batches, compute
    their rows of each, and add up: a training gives the same with any number of them, up to rounding.
    """

    def __init__(self, *, cpu: bool) -> None:
        from accelerate import PartialState

        state = PartialState(cpu=cpu)
        self.count: int = state.num_processes
        self.number: int = state.process_index

    def share(self, rows: Sequence[int]) -> list[int]:
        """The rows of this process."""
        return list(rows[self.number :: self.count])

    def add(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.count > 1:
            on_device = tensor if torch.distributed.get_backend() != "nccl" else tensor.cuda()
            torch.distributed.all_reduce(on_device)
            if on_device is not tensor:
                tensor.copy_(on_device)
        return tensor

    def add_each(self, gradient: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """The sum of each part of a gradient over all processes; where none has a part there is none."""
        if self.count == 1 or not gradient:
            return list(gradient)
        there = self.add(torch.tensor([float(g is not None) for g in gradient], device=parameters[0].device)) > 0
        if not there.any():
            return [None] * len(gradient)
        full = [torch.zeros_like(p) if g is None else g for g, p in zip(gradient, parameters, strict=True)]
        flat = self.add(torch.cat([g.reshape(-1) for g, t in zip(full, there, strict=True) if t]))
        made: list[Tensor | None] = []
        start = 0
        for g, t in zip(full, there.tolist(), strict=True):
            made.append(flat[start : start + g.numel()].view_as(g) if t else None)
            start += g.numel() if t else 0
        return made


def leave_group() -> bool:
    """Take leave of the other processes when all work is done; whether this one is the first, which speaks for all."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return True
    first = torch.distributed.get_rank() == 0
    torch.distributed.destroy_process_group()
    return first
