"""The weights of modules in a search: a few sets for all queries, since passages are encoded with each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from allround.composition.router import read_state, taken_state


@dataclass(frozen=True)
class SearchWeights:
    """The weights of a query whose largest weight is that of each module: (modules, modules).

    A router may give each query weights of its own, and the passages would have to be encoded with all of them. Here
    they are encoded at most once for each module.
    """

    #: In the folder of a routed system.
    file: ClassVar[str] = "search_weights.safetensors"

    tensor: Tensor

    @classmethod
    def fit(cls, weights: Tensor) -> SearchWeights:
        """From the weights of training queries, (n, modules): the mean of those whose largest is the module's. A module
        that is largest for none has all of the weight. Where all queries have the same weights, they keep them.

        >>> SearchWeights.fit(torch.tensor([[0.9, 0.1], [0.7, 0.3]])).tensor
        tensor([[0.8000, 0.2000],
                [0.0000, 1.0000]])
        """
        best, found = first_largest(weights), torch.eye(weights.shape[1])
        for module in best.unique().tolist():
            found[module] = weights[best == module].mean(0)
        return cls(found)

    def of(self, weights: Tensor) -> Tensor:
        """The weights that queries have in place of those that a router gives them: (n, modules)."""
        return self.tensor[first_largest(weights)]

    def write(self, folder: Path) -> None:
        from safetensors.torch import save_file

        save_file({"weights": self.tensor.contiguous()}, folder / self.file, {"format": "pt"})

    @classmethod
    def read(cls, folder: Path, modules: int) -> SearchWeights | None:
        """What was written into a folder; None where nothing was. Errors: ValueError for other tensors."""
        found = read_state(folder / cls.file)
        return cls(taken_state(found, weights=(modules, modules))[0]) if found else None


def first_largest(weights: Tensor) -> Tensor:
    """The number of the largest weight of each row, (n,); of equal ones the first.

    >>> first_largest(torch.tensor([[0.5, 0.5], [0.1, 0.9]])).tolist()
    [0, 1]
    """
    return torch.from_numpy(weights.numpy().argmax(1))
