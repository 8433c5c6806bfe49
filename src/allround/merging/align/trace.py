"""What watching a network compute finds out: the axes of its weights, and where each is used."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from allround.merging.align.axes import (
    Axis,
    Factor,
    Origin,
    axis,
    factors,
    products,
)


@dataclass(frozen=True)
class ContractedInput:
    """Activations that are about to be multiplied by a weight: what is compared to match features.

    over: the axes that the product sums over.
    """

    values: Tensor
    axes: tuple[Axis, ...]
    over: tuple[Axis, ...]


@dataclass
class Trace:
    """What was learned of networks of one kind. It grows with every batch that is watched.

    weights: the axes of each weight. learned: those that are parameters and no buffers. contracted: the dimensions by
    which weights read features; all others are features that they write or scale. written: those of tables whose rows
    become features. uses: when a weight was used, in operations. seen: the axes of every tensor, which says what atoms
    occur together. outputs: the features that the network gives, for each kind of batch.
    """

    weights: dict[str, list[Axis]]
    learned: frozenset[str]
    contracted: set[Origin]
    written: set[Origin]
    uses: dict[str, list[int]]
    seen: set[tuple[Axis, ...]]
    outputs: dict[str, Axis]

    def forget(self) -> None:
        """Keep of the tensors that were seen only what they say of weights."""
        for name, dim in self.contracted & self.written:  # a table that is read as a matrix too
            for factor in factors(self.weights[name][dim : dim + 1]):
                factor.atom.pair()
        own = {f.atom for axes in self.weights.values() for f in factors(axes)}
        listed = [atoms for axes in self.seen for atoms in products(axes)]
        self.seen = {tuple(((Factor(atom),),) for atom in atoms if atom in own) for atoms in listed}


def new_trace(network: nn.Module) -> Trace:
    """A trace that knows the shapes of a network's weights and nothing else."""
    weights = {name: [axis(size, "", (name, dim)) for dim, size in enumerate(tensor.shape)]
               for name, tensor in tensors_of(network).items()}  # fmt: skip
    return Trace(weights, frozenset(dict(network.named_parameters())), set(), set(), {}, set(), {})


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a network by name, each once."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}
