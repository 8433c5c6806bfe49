"""Zipping networks of one kind: features that are alike become one, up to a depth, and weights are written anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError, suggestion
from allround.merging.align.apply import Fold, Folds, Orders, fold, reorder
from allround.merging.align.axes import Axis, axis, resolve
from allround.merging.align.match import zip_features
from allround.merging.align.networks import Batches, Similarities, SpaceMatch, measure, solve, worth
from allround.merging.align.spaces import Order, Space, same_order, spaces_of
from allround.merging.align.trace import Trace, tensors_of


@dataclass
class ZipResult:
    """Networks zipped up to a point.

    states: the weights of each network; those named in `shared` are the same for all. folds, orders: what was done to
    the features. depth: the share of the layers that is shared.
    """

    states: list[dict[str, Tensor]]
    shared: set[str]
    matched: list[SpaceMatch]
    folds: Folds
    orders: list[dict[Space, Order]]
    depth: float
    cut: str


def mixed(one: Fold) -> int:
    """How many merged features come from more than one model; the others are merged within one, or are its own."""
    return int(((one.unmerge.sum(-2) > 0).sum(0) > 1).sum())


def _cross(matrix: Tensor, models: int, model: int) -> Tensor:
    n = len(matrix) // models
    return matrix[:n, model * n : (model + 1) * n]


def cuts_of(trace: Trace, spaces: Sequence[Space]) -> list[tuple[int, str, float]]:
    """Where networks can be cut in two: after which operation and layer, and the share of layers before it.

    A cut must not go through a space: what is added up (a residual stream) is shared wholly or not at all.
    """
    lives = [(space.first, space.last) for space in spaces] + [(min(s), max(s)) for s in trace.uses.values()]
    layers = {
        max(steps): name for name, steps in trace.uses.items() if name in trace.learned and len(trace.weights[name]) > 1
    }
    found = []
    for step in sorted({last for _, last in lives}):
        if all(not first <= step < last for first, last in lives):
            before = [name for at, name in sorted(layers.items()) if at <= step]
            if before:
                found.append((step, before[-1].rsplit(".", 1)[0], len(before) / len(layers)))
    return found


def choose_cut(trace: Trace, spaces: Sequence[Space], depth: float | str) -> tuple[int, str, float]:
    """The last cut with at most a share of the layers before it; or the one after a layer of that name."""
    cuts = cuts_of(trace, spaces)
    listed = ", ".join(f"{name} ({share:.2f})" for _, name, share in cuts)
    if isinstance(depth, str):
        found = [cut for cut in cuts if cut[1] == depth or cut[1].startswith(f"{depth}.")]
        why = "the network cannot be cut after a layer of that name"
    else:
        found = [cut for cut in cuts if cut[2] <= depth + 1e-9]
        why = "the network cannot be cut so early"
    if not found or (not isinstance(depth, str) and not 0 < depth <= 1):
        raise AllroundError(f"zip to the depth {depth}", why, f"give one of: {listed}")
    return found[-1]


@torch.no_grad()
def zip_networks(
    trace: Trace,
    networks: Sequence[nn.Module],
    batches: Batches,
    *,
    depth: float | str = 1.0,
    alpha: float = 0.3,
    beta: float = 0.125,
    by: str = "zip",
) -> ZipResult:
    """Merge networks of one kind up to a depth: features across and within them that are most alike.

    Source: Stoica et al., ICLR 2024, arXiv:2305.03053. depth: the share of the layers that is merged (1: all), or the
    last layer that is. by: `zip`; `permute`: every feature of the first network with one of each other; `average`: the
    features as they stand.
    Differs: attention and groups of GroupNorm go one to one, as blocks that move whole; features over which
        activations are multiplied (queries with keys) are reordered and not averaged.
    """
    if by not in ("zip", "permute", "average"):
        raise AllroundError(
            f"merge networks by '{by}'", "there is no such way", suggestion(by, ("zip", "permute", "average"))
        )
    k = len(networks)
    spaces, similar = ([], {}) if by == "average" else measure(trace, networks, batches, full=True)
    step, cut, share = choose_cut(trace, spaces_of(trace), depth)
    orders: list[dict[Space, Order]] = [{} for _ in networks]
    folds: dict[tuple[Space, int | None], Fold] = {}
    matched = []
    for space in spaces:
        if space.last > step or space not in similar:
            continue
        for model in range(1, k):
            cross = {part: _cross(matrix, k, model) for part, matrix in similar[space].items()}
            order = solve(space, cross)
            before, after = (worth(space, cross, one) for one in (same_order(space), order))
            matched.append(SpaceMatch(space, order, before, after))
            orders[model][space] = order
        if by == "zip":
            folds |= _zip(space, similar[space], orders, k, alpha, beta)
    states, shared = _write(trace, networks, orders, folds, step)
    return ZipResult(states, shared, matched, folds, orders, share, cut)


def _zip(
    space: Space, similar: Similarities, orders: list[dict[Space, Order]], k: int, alpha: float, beta: float
) -> dict[tuple[Space, int | None], Fold]:
    """Zip what may be averaged in a space, and keep only what must be of its orders."""
    found: dict[tuple[Space, int | None], Fold] = {}
    same = same_order(space)
    if not space.inner:
        if space.mergeable[0]:
            found[space, None] = _fold_of(zip_features(similar[None], k, alpha=alpha, beta=beta)[None], k, squeeze=True)
            for one in orders[1:]:
                one[space] = same
        return found
    blocks = space.atom.size
    for part, free in enumerate(space.mergeable):
        if not free or part not in similar:
            continue
        m = space.inner[part].size
        places = [same.outer, *(one[space].outer for one in orders[1:])]
        made = []
        for p in range(blocks):
            index = torch.cat([(i * blocks + int(places[i][p])) * m + torch.arange(m) for i in range(k)])
            made.append(zip_features(similar[part][index[:, None], index[None, :]], k, alpha=alpha, beta=beta))
        found[space, part] = _fold_of(torch.stack(made), k)
        for one in orders[1:]:
            inner = list(one[space].inner)
            inner[part] = same.inner[part]
            one[space] = Order(one[space].outer, tuple(inner))
    return found


def _fold_of(unmerge: Tensor, k: int, squeeze: bool = False) -> Fold:
    """From the groups of features, block by block (blocks, k n, n)."""
    merge = (unmerge / unmerge.sum(1, keepdim=True)).mT
    parts = torch.stack(merge.chunk(k, 2)), torch.stack(unmerge.chunk(k, 1))
    return Fold(*(one[:, 0] if squeeze else one for one in parts))


def _write(
    trace: Trace, networks: Sequence[nn.Module], orders: Sequence[Orders], folds: Folds, step: int
) -> tuple[list[dict[str, Tensor]], set[str]]:
    shared = {name for name in trace.weights if max(trace.uses.get(name, [0])) <= step}
    states: list[dict[str, Tensor]] = [{} for _ in networks]
    for name, axes in trace.weights.items():
        reads = [(name, dim) in trace.contracted for dim in range(len(axes))]
        tensors = [tensors_of(network)[name] for network in networks]
        if not tensors[0].is_floating_point():
            made = tensors
        else:
            made = [
                fold(reorder(tensor, axes, orders[i]), axes, folds, i, reads).to(tensor.dtype)
                for i, tensor in enumerate(tensors)
            ]
        if name in shared:
            mean = (
                torch.stack(made).mean(0, dtype=torch.float32).to(made[0]) if made[0].is_floating_point() else made[0]
            )
            made = [mean] * len(networks)
        for state, tensor in zip(states, made, strict=True):
            state[name] = tensor
    return states, shared


def head_of(trace: Trace, weight: Tensor, kind: str, orders: Sequence[Orders], folds: Folds, model: int) -> Tensor:
    """The weight of a head that reads a network's features, for the features as they are now.

    Shapes: weight (outputs, features) -> (outputs, features)
    """
    axes: list[Axis] = [((),) if len(weight) == 1 else axis(len(weight), "outputs"), resolve(trace.outputs[kind])]
    made = fold(reorder(weight, axes, orders[model]), axes, folds, model, [False, True])
    return made.to(weight.dtype)
