"""Writing weights anew in another order of their features, or with features merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from allround.merging.align.axes import Atom, Axis
from allround.merging.align.spaces import Order, Space, blocks_of


@dataclass(frozen=True)
class Fold:
    """How the features of some models become those of one.

    Shapes: merge (k, ..., n, n), merged features from each model's; unmerge (k, ..., n, n), each model's from the
    merged; in between one for each block, where features are merged within blocks.
    """

    merge: Tensor
    unmerge: Tensor


#: A space, the number of its inner features (None: the space has none), and what is done to them.
Orders = Mapping[Space, Order]
Folds = Mapping[tuple[Space, int | None], Fold]


def reorder(tensor: Tensor, axes: Sequence[Axis], orders: Orders) -> Tensor:
    """A weight, or any tensor with these axes, with its features in other orders.

    Shapes: tensor (*s) -> (*s)
    """
    outer = {space.atom: order.outer for space, order in orders.items()}
    inner = {
        atom: (space.atom, order.inner[i]) for space, order in orders.items() for i, atom in enumerate(space.inner)
    }
    made = tensor.clone()
    for block in blocks_of(axes):
        if not any(atom in outer or atom in inner for atom in block.atoms):
            continue
        part = block.of(tensor).reshape(block.shape)
        for dim, atom in enumerate(block.atoms):
            if atom in outer:
                part = part.index_select(dim, outer[atom].to(part.device))
        for dim, atom in enumerate(block.atoms):
            if atom in inner:
                around, index = inner[atom]
                shape = [1] * part.dim()
                at = block.atoms.index(around)
                shape[at], shape[dim] = around.size, atom.size
                index = index if at < dim else index.T
                part = part.take_along_dim(index.to(part.device).reshape(shape), dim)
        block.of(made).copy_(part.reshape(block.lengths))
    return made


def fold(tensor: Tensor, axes: Sequence[Axis], folds: Folds, model: int, reads: Sequence[bool]) -> Tensor:
    """One model's weight in terms of merged features. The mean of those of all models is the merged weight.

    Shapes: tensor (*s) -> (*s), at least in float32
    Formula: k M_i W_i U_i, where W_i writes features that M_i merges, and reads features that U_i brings back
    reads: for each dimension, whether the weight reads features by it.
    """
    found: dict[Atom, tuple[Atom | None, Fold]] = {}
    for (space, number), one in folds.items():
        found[space.atom if number is None else space.inner[number]] = (None if number is None else space.atom, one)
    made = tensor.to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
    for block in blocks_of(axes):
        if not any(atom in found for atom in block.atoms):
            continue
        part = block.of(made).reshape(block.shape)
        for dim, atom in enumerate(block.atoms):
            if atom not in found:
                continue
            around, one = found[atom]
            matrix = one.unmerge[model].mT if reads[block.dims[dim]] else one.merge[model] * len(one.merge)
            matrix = matrix.to(part)
            if around is None:
                part = torch.tensordot(part, matrix, ([dim], [1])).movedim(-1, dim)
                continue
            at = block.atoms.index(around)
            front = part.movedim((at, dim), (0, -1))
            shape = front.shape
            front = torch.bmm(front.reshape(shape[0], -1, shape[-1]), matrix.mT).reshape(shape)
            part = front.movedim((0, -1), (at, dim))
        block.of(made).copy_(part.reshape(block.lengths))
    return made
