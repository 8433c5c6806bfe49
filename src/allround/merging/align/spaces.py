"""Spaces: the sets of features of a network that can be reordered or merged, each on its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from allround.merging.align.axes import Atom, Axis, factors, length, products, resolve
from allround.merging.align.trace import Trace


@dataclass(frozen=True)
class Space:
    """Features that may be reordered.

    name: the first layer that writes them. atom: the features, or blocks of them that move as a whole. inner: the
    features within each block (a head's, a group's), which may be reordered in each block by itself. frozen: the blocks
    stay in place. first, last: when they are written, in operations of the network.
    """

    name: str
    atom: Atom
    inner: tuple[Atom, ...]
    frozen: bool
    first: int
    last: int

    @property
    def mergeable(self) -> tuple[bool, ...]:
        """Whether the features (without `inner`), or those within blocks, may be averaged and not only reordered."""
        return tuple(not atom.paired for atom in (self.inner or (self.atom,)))

    def __str__(self) -> str:
        inside = " and ".join(f"{self.atom.size} x {atom.size}" for atom in self.inner)
        return inside or str(self.atom.size)


@dataclass(frozen=True)
class Order:
    """A new order of a space: place p takes block `outer[p]`, and within it place q takes `inner[...][p, q]`."""

    outer: Tensor
    inner: tuple[Tensor, ...] = ()

    def then(self, other: Order) -> Order:
        """This order, and what comes of it in another order.

        >>> Order(torch.tensor([2, 0, 1])).then(Order(torch.tensor([1, 0, 2]))).outer
        tensor([0, 2, 1])
        """
        inner = tuple(mine[other.outer].gather(1, more) for mine, more in zip(self.inner, other.inner, strict=True))
        return Order(self.outer[other.outer], inner)

    @property
    def moved(self) -> int:
        """How many features are elsewhere than before, those of moved blocks among them."""
        places = torch.arange(len(self.outer), device=self.outer.device)
        if not self.inner:
            return int((self.outer != places).sum())
        return sum(
            int(((self.outer != places)[:, None] | (one != torch.arange(one.shape[1], device=one.device))).sum())
            for one in self.inner
        )


def same_order(space: Space) -> Order:
    """The order that changes nothing."""
    inner = tuple(torch.arange(atom.size).repeat(space.atom.size, 1) for atom in space.inner)
    return Order(torch.arange(space.atom.size), inner)


def spaces_of(trace: Trace) -> list[Space]:
    """The spaces of a network, in the order in which it completes them."""
    used = {name: axes for name, axes in trace.weights.items() if name in trace.uses}
    atoms = list(dict.fromkeys(f.atom for axes in used.values() for f in factors(axes)))
    nested = _nested(trace, atoms)
    found: list[Space] = []
    for atom in atoms:
        inner = tuple(a for a, outer in nested.items() if outer is atom)
        if atom in nested or (atom.fixed and not inner):
            continue
        writers = _writers(trace, used, {atom, *inner}, contracted=False)
        steps = [step for name, _ in writers for step in trace.uses[name]]
        if steps:
            layers = [name for name, axes in writers if len(axes) > 1] or [name for name, _ in writers]
            first = min(layers, key=lambda name: trace.uses[name][0])
            name = first.rsplit(".", 1)[0] if "." in first else first
            found.append(Space(name, atom, inner, bool(atom.fixed), min(steps), max(steps)))
    return sorted(found, key=lambda space: (space.last, space.first))


def _writers(
    trace: Trace, used: Mapping[str, list[Axis]], atoms: set[Atom], *, contracted: bool
) -> list[tuple[str, list[Axis]]]:
    """The weights that have one of the atoms in a dimension that is not (or is) read by."""
    return [
        (name, axes)
        for name, axes in used.items()
        if any(
            ((name, dim) in trace.contracted) == contracted and any(f.atom in atoms for f in factors([one]))
            for dim, one in enumerate(axes)
        )
    ]


def _nested(trace: Trace, atoms: Sequence[Atom]) -> dict[Atom, Atom]:
    """Features that have an order of their own in each block, and the blocks.

    That is so where every tensor with the features has the blocks too: nothing is ever computed across blocks.
    """
    together: dict[Atom, set[Atom]] = {}
    for listed in (atoms for axes in trace.seen for atoms in products(axes)):
        once = {atom for atom in listed if listed.count(atom) == 1}
        for atom in set(listed):
            together[atom] = (together[atom] & once if atom in together else once) - {atom}
    place = {atom: i for i, atom in enumerate(atoms)}
    nested: dict[Atom, Atom] = {}
    for atom in atoms:
        if atom.fixed or atom in nested.values():
            continue
        outer = [
            other
            for other in together.get(atom, ())
            if other in place and other not in nested and not (atom in together[other] and place[other] > place[atom])
        ]
        if outer:
            nested[atom] = min(outer, key=lambda other: place[other])
    return nested


@dataclass(frozen=True)
class Block:
    """A part of a tensor that is a product of atoms in every dimension: where it lies, and its factors in order."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    atoms: tuple[Atom, ...]
    dims: tuple[int, ...]  # the dimension of the tensor that each factor is of

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(atom.size for atom in self.atoms)

    def of(self, tensor: Tensor) -> Tensor:
        """The part of a tensor, a view of it."""
        for dim, (start, size) in enumerate(zip(self.starts, self.lengths, strict=True)):
            tensor = tensor.narrow(dim, start, size)
        return tensor


def blocks_of(axes: Sequence[Axis]) -> Iterator[Block]:
    """The blocks of a tensor: one, unless a dimension has several segments side by side."""
    choices = []
    for one in axes:
        starts = itertools.accumulate((length(segment) for segment in resolve(one)), initial=0)
        choices.append(list(zip(starts, resolve(one), strict=False)))
    for chosen in itertools.product(*choices):
        yield Block(
            tuple(start for start, _ in chosen),
            tuple(length(segment) for _, segment in chosen),
            tuple(f.atom for _, segment in chosen for f in segment),
            tuple(dim for dim, (_, segment) in enumerate(chosen) for _ in segment),
        )


def rows_of(values: Tensor, axes: Sequence[Axis], atoms: Sequence[Atom]) -> Iterator[Tensor]:
    """The entries of a tensor by feature: (features, everything else), for each place where the atoms stand.

    Several atoms (blocks and what is in them) are counted together, the last one fastest.
    """
    for block in blocks_of(axes):
        places = [[i for i, one in enumerate(block.atoms) if one is atom] for atom in atoms]
        for chosen in itertools.product(*places):
            part = block.of(values).reshape(block.shape).movedim(chosen, tuple(range(len(chosen))))
            yield part.flatten(0, len(chosen) - 1).flatten(1) if part.dim() > len(chosen) else part.reshape(-1, 1)
