"""Counting the operations of networks that hold tensors in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_iter

from allround.merging.align.networks import Batches


@torch.no_grad()
def flops_of(networks: Sequence[nn.Module], batches: Batches) -> int:
    """Floating-point operations of one row through all networks, as torch counts them (a multiplication and an addition
    are two); what they do alike with the same tensors counts once."""
    from torch.utils.flop_counter import FlopCounterMode

    batch = batches[0][1]
    with FlopCounterMode(display=False) as counter, OperationCache():
        for network in networks:
            network.eval()(batch)
    return int(counter.get_total_flops()) // int(batch.size)


class OperationCache(TorchDispatchMode):
    """Computes what is asked for twice, the same operation on the very same memory, only once.

    What is changed in place after it was computed is computed anew, and random numbers are drawn anew.
    """

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[Any, Any] = {}
        self._kept: list[Any] = []  # so that nothing else gets the memory of what is known
        self._changed: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves, spec = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if func._schema.is_mutable:
            self._changed.update(_storage(tensor) for tensor in tensors)
        views = any(one.alias_info is not None for one in func._schema.returns)
        if views or func._schema.is_mutable or torch.Tag.nondeterministic_seeded in func.tags:
            return func(*args, **kwargs)
        key = (func, repr(spec), *(_place(leaf) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves))
        known = self._found.get(key)
        if known is not None:
            used = [*tensors, *(one for one in tree_iter(known) if isinstance(one, Tensor))]
            if not any(_storage(tensor) in self._changed for tensor in used):
                return known
        result = self._found[key] = func(*args, **kwargs)
        self._kept.append((tensors, result))
        return result


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Where a tensor lies in memory, and how it is read: the same for the same values."""
    return _storage(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
