"""Which tensor of a model's files is which parameter of the loaded network."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError

if TYPE_CHECKING:
    from allround.checkpoints.source import Source


def file_names(module: nn.Module, weights: Source) -> dict[str, str]:
    """Parameter name -> name of its tensor in the files; parameters that the files do not hold are left out.

    A library may load tensors under longer or other names than those in its files. A parameter's tensor has its shape
    and its values; of several, the one whose name has most parts in common with the parameter's, counted from the end.
    Parameters that share their storage are one: the first of their names stands for all.

    Errors: two tensors that fit equally well; files that hold none of the parameters.
    """
    by_shape: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name in weights:
        by_shape[weights.shape(name)].append(name)
    found: dict[str, str] = {}
    owners: dict[str, str] = {}
    for name, parameter in module.named_parameters():
        fitting = _fitting(name, parameter.detach(), by_shape[tuple(parameter.shape)], weights)
        if len(fitting) > 1:
            raise _ambiguous(weights.path, f"'{name}' is equal to {' and to '.join(map(repr, fitting[:2]))}")
        if fitting:
            if fitting[0] in owners:
                both = f"'{owners[fitting[0]]}' and '{name}' are both equal to '{fitting[0]}'"
                raise _ambiguous(weights.path, both)
            owners[fitting[0]] = name
            found[name] = fitting[0]
    if not found:
        raise AllroundError(
            f"match the network's parameters with the tensors in {weights.path}",
            "none of the tensors is equal to any parameter",
            "use the files that the network was loaded from",
        )
    return found


def _fitting(name: str, parameter: Tensor, candidates: list[str], weights: Source) -> list[str]:
    """The tensors equal to a parameter, of those whose names share most with its name."""
    groups: dict[int, list[str]] = defaultdict(list)
    for candidate in candidates:
        groups[common_suffix(name, candidate)].append(candidate)
    for length in sorted(groups, reverse=True):
        equal = [other for other in groups[length] if _equal(parameter, weights, other)]
        if equal:
            return equal
    return []


def _equal(parameter: Tensor, weights: Source, name: str) -> bool:
    size = parameter.numel()
    flat = parameter.reshape(-1)
    for start in range(0, size, 1 << 22):
        stop = min(start + (1 << 22), size)
        stored = weights.read(name, start, stop)
        if not torch.equal(flat[start:stop].cpu(), stored.to(flat.dtype)):
            return False
    return True


def common_suffix(one: str, other: str) -> int:
    """How many parts two dotted names have in common at their ends.

    >>> common_suffix("pipeline.2.linear.weight", "2_Dense/linear.weight")
    2
    """
    first, second = (re.split(r"[./]", name)[::-1] for name in (one, other))
    return next((n for n, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]),
                min(len(first), len(second)))  # fmt: skip


def _ambiguous(path: Path, found: str) -> AllroundError:
    return AllroundError(
        f"match the network's parameters with the tensors in {path}",
        f"{found}, and their names do not say which it is",
        "save the network under the names that it has in memory",
    )
