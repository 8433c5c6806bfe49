"""What every index is: vectors in a file, and the search for those that have high products with a query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from allround.core.errors import AllroundError


class VectorIndex(ABC):
    """Finds vectors by their products with a query. The parameters of a method are those of its constructor.

    What it finds for a query depends on that query alone, and is the same each time.
    """

    #: The name of the file that it writes.
    file: ClassVar[str]

    @abstractmethod
    def build(self, vectors: Path, folder: Path) -> None:
        """Write `file` into a folder. vectors: a .npy file of them, (n, d) float32; it may be moved there."""

    @abstractmethod
    def open(self, folder: Path, count: int, width: int) -> None:
        """Open what `build` wrote. Errors: a ValueError where it is not of `count` vectors of `width` numbers."""

    @abstractmethod
    def search(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The highest products of each query (n, d) and the vectors' positions, (n, k) each, k at most `count`: the
        highest first, of equal ones the first. Where fewer are found, the last positions are -1."""


def library(module: str, package: str, extra: str) -> Any:
    """A package that an index needs. Errors: it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise AllroundError(f"use the index '{module}'", f"the package {package} is not installed",
                            f"pip install 'allround[{extra}]'") from error  # fmt: skip


def check_shape(found: tuple[int, int], count: int, width: int) -> None:
    """Raise a ValueError where an index holds other vectors than its folder says."""
    if found != (count, width):
        raise ValueError(f"it holds {found[0]} vectors of {found[1]} numbers, and not {count} of {width}")


def ordered(scores: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Each row with the highest scores first, of equal ones the first place; places of -1 come last.

    >>> ordered(torch.tensor([[0.5, 0.9, 0.5, 0.0]]), torch.tensor([[7, 1, 3, -1]]))[1]
    tensor([[ 1,  3,  7, -1]])
    """
    places, order = places.sort(1)
    scores = scores.gather(1, order).masked_fill(places < 0, -torch.inf)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return scores, places.gather(1, order)
