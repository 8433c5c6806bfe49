"""Aligning networks of one kind: how alike their features are, and the orders that bring like features together."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.merging.align.apply import Orders, reorder
from allround.merging.align.axes import factors, fix
from allround.merging.align.match import assign, assign_blocks, correlation
from allround.merging.align.spaces import Order, Space, rows_of, same_order, spaces_of
from allround.merging.align.trace import ContractedInput, Trace, new_trace, tensors_of
from allround.merging.align.watch import watch

#: Batches that a network is called with, and of what kind each is: those of one kind give the same features.
Batches = Sequence[tuple[str, Any]]
#: How alike features are, by what of a space it is about: its blocks or features (None), or what is in its blocks.
Similarities = dict[int | None, Tensor]


@dataclass(frozen=True)
class SpaceMatch:
    """What became of one space. before, after: the mean similarity of features that are brought together."""

    space: Space
    order: Order
    before: float
    after: float


@dataclass(frozen=True)
class UnalignedWeight:
    """A weight whose features stay where they are, and why."""

    name: str
    why: str


def learn(
    networks: Sequence[nn.Module], batches: Batches, *, free_output: bool = False, leave: Sequence[str] = ()
) -> Trace:
    """Find out which features of some networks of one kind belong together.

    free_output: whatever reads the output can be adapted (heads), so the features that it holds may be reordered too.
    leave: patterns of weights' names whose features shall stay in place.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> [str(space) for space in spaces_of(learn([net], [("", torch.zeros(1, 3))]))]
    ['4']
    """
    trace = new_trace(networks[0])
    for network in networks[1:]:
        check_alike(networks[0], network)
    for pattern in leave:
        names = fnmatch.filter(trace.weights, pattern)
        if not names:
            raise AllroundError(
                f"leave the features of '{pattern}' in place",
                "the network has no weight of that name",
                f"give a pattern of names such as {next(iter(trace.weights))}",
            )
        fix([one for name in names for one in trace.weights[name]], "it was asked for")
    for kind, batch in dict(reversed(batches)).items():
        for network in networks:
            watch(trace, network, batch, kind, free_output=free_output)
    return trace


def check_alike(first: nn.Module, other: nn.Module) -> None:
    """An error where two networks do not have the same weights by name and shape."""
    one, two = tensors_of(first), tensors_of(other)
    odd = sorted(set(one) ^ set(two)) or [name for name in one if one[name].shape != two[name].shape]
    if odd:
        raise AllroundError(
            "align the features of two networks",
            f"they are not built alike: {', '.join(odd[:5])} differ",
            "give networks of the same architecture and sizes",
        )


def left_of(trace: Trace, spaces: Sequence[Space]) -> list[UnalignedWeight]:
    """The layers that were not aligned, and why."""
    free = {atom for space in spaces for atom in (space.atom, *space.inner)}
    found = []
    for name, axes in trace.weights.items():
        written = [one for dim, one in enumerate(axes) if (name, dim) not in trace.contracted]
        atoms = [f.atom for f in factors(written)]
        if name not in trace.learned or len(axes) < 2 or any(atom in free for atom in atoms):
            continue
        reasons = [atom.fixed for atom in atoms if atom.fixed and atom.fixed != "a position"]
        used = name in trace.uses
        found.append(
            UnalignedWeight(name, (reasons or ["nothing reads it"])[0] if used else "the examples did not use it")
        )
    return found


def permute(trace: Trace, network: nn.Module, orders: Orders) -> dict[str, Tensor]:
    """The weights of a network with its features in other orders. It computes what it did before.

    >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> trace = learn([net], [("", torch.zeros(1, 1))])
    >>> orders = {space: Order(torch.tensor([1, 0])) for space in spaces_of(trace)}
    >>> bool((permute(trace, net, orders)["0.bias"] == net[0].bias.flip(0)).all())
    True
    """
    with torch.no_grad():
        return {name: reorder(tensor, trace.weights[name], orders) for name, tensor in tensors_of(network).items()}


class _Moments:
    """Sums from which the correlations between the features of some networks follow."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor = torch.zeros(())
        self.squares: Tensor = torch.zeros(())
        self.products: Tensor = torch.zeros(())

    def add(self, rows: Sequence[Tensor], full: bool) -> None:
        features = torch.cat([one.double() for one in rows])
        self.count += features.shape[1]
        self.total = self.total + features.sum(1)
        self.squares = self.squares + features.square().sum(1)
        left = features if full else features[: len(rows[0])]
        right = features if full else features[len(rows[0]) :]
        self.products = self.products + left @ right.T

    def correlation(self, full: bool) -> Tensor:
        mean = self.total / self.count
        if full:
            return correlation(self.products / self.count - torch.outer(mean, mean))
        std = (self.squares / self.count - mean.square()).clamp_min(0).sqrt()
        n = len(self.products)
        cross = self.products / self.count - torch.outer(mean[:n], mean[n:])
        return cross / torch.outer(std[:n], std[n:]).clamp_min(1e-7)


def measure(
    trace: Trace, networks: Sequence[nn.Module], batches: Batches, *, full: bool
) -> tuple[list[Space], dict[Space, Similarities]]:
    """How alike the features of some networks are on the same rows, in each space.

    Where features are read in several places, the mean of their correlations. full: within each network as well, as
    one matrix (k n, k n); else those of the first network with the second, (n, n).
    """
    free = bool(trace.outputs)
    while True:
        spaces = spaces_of(trace)
        moments: dict[tuple[Space, int | None, int], _Moments] = {}
        for kind, batch in batches:
            read = [watch(trace, network, batch, kind, free_output=free) for network in networks]
            if spaces_of(trace) != spaces:
                break
            _add(moments, spaces, read, kind, full)
        else:
            break
    found: dict[Space, Similarities] = {}
    grouped: dict[tuple[Space, int | None], list[Tensor]] = {}
    for (space, part, _), one in moments.items():
        grouped.setdefault((space, part), []).append(one.correlation(full).cpu())
    for (space, part), listed in grouped.items():
        found.setdefault(space, {})[part] = torch.stack(listed).mean(0)
    return spaces, found


def _add(
    moments: dict[tuple[Space, int | None, int], _Moments],
    spaces: Sequence[Space],
    read: Sequence[Sequence[ContractedInput]],
    kind: str,
    full: bool,
) -> None:
    owner: dict[Any, tuple[Space, int | None]] = {space.atom: (space, None) for space in spaces}
    owner |= {atom: (space, i) for space in spaces for i, atom in enumerate(space.inner)}
    seen: set[Any] = set()
    number: dict[tuple[Space, int | None], int] = {}
    for readings in zip(*read, strict=True):
        first = readings[0]
        over = list(dict.fromkeys(f.atom for f in factors(first.over)))
        there = {f.atom for f in factors(first.axes)}
        for atom in over:
            if atom not in owner:
                continue
            space, part = owner[atom]
            if part is None and any(one in there for one in space.inner):
                continue  # the features in the blocks say more
            values = first.values
            key = (atom, values.data_ptr(), values.numel())
            if key in seen:
                continue
            seen.add(key)
            atoms = [atom] if part is None else [space.atom, atom]
            for rows in zip(*(rows_of(one.values, one.axes, atoms) for one in readings), strict=True):
                count = number[space, part] = number.get((space, part), -1) + 1
                moments.setdefault((space, part, count), _Moments()).add(rows, full)


def solve(space: Space, similar: Similarities) -> Order:
    """The best order of the second network's features."""
    if not space.inner:
        return Order(assign(similar[None]))
    blocks = space.atom.size
    parts = [i for i in range(len(space.inner)) if i in similar]
    if space.frozen:
        cells = [similar[i].reshape(blocks, space.inner[i].size, blocks, -1) for i in parts]
        order = torch.arange(blocks)
        inner = [torch.stack([assign(one[g, :, g]) for g in range(blocks)]) for one in cells]
    else:
        order, inner = assign_blocks([similar[i] for i in parts], blocks, similar.get(None))
    full = list(same_order(space).inner)
    for i, one in zip(parts, inner, strict=True):
        full[i] = one
    return Order(order, tuple(full))


def worth(space: Space, similar: Similarities, order: Order) -> float:
    """The mean similarity of the features that an order brings together."""
    found = []
    for part, matrix in similar.items():
        index = order.outer
        if part is not None:
            index = (order.outer[:, None] * space.inner[part].size + order.inner[part]).flatten()
        found.append(matrix.gather(1, index[:, None]).mean())
    return float(torch.stack(found).mean())


def reset_statistics(network: nn.Module, batches: Batches) -> int:
    """Measure the means and variances of BatchNorm anew, as merged weights make them; returns how many layers.

    Source: Jordan et al., ICLR 2023, arXiv:2211.08403 (REPAIR), for networks with BatchNorm.
    """
    norms = [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    norms = [one for one in norms if one.track_running_stats]
    if not norms:
        return 0
    old = [(one.momentum, one.training) for one in norms]
    network.eval()
    try:
        for one in norms:
            one.reset_running_stats()
            one.momentum = None  # the plain mean over all batches
            one.train()
        with torch.no_grad():
            for _, batch in batches:
                network(batch)
    finally:
        for one, (momentum, training) in zip(norms, old, strict=True):
            one.momentum = momentum
            one.train(training)
    return len(norms)


def match_activations(trace: Trace, first: nn.Module, other: nn.Module, batches: Batches) -> list[SpaceMatch]:
    """The orders of the second network's features that correlate best with the first's on the same rows.

    Source: activation matching, Ainsworth et al., ICLR 2023, arXiv:2209.04836, section 3.1.
    Differs: features are compared by correlation, as Li et al., arXiv:1511.07543, do; that paper takes the product.
    """
    spaces, similar = measure(trace, [first, other], batches, full=False)
    found = []
    for space in spaces:
        if space in similar:
            order = solve(space, similar[space])
            before, after = (worth(space, similar[space], one) for one in (same_order(space), order))
            found.append(SpaceMatch(space, order, before, after))
    return found


@torch.no_grad()
def match_weights(trace: Trace, first: nn.Module, other: nn.Module, *, sweeps: int = 100) -> list[SpaceMatch]:
    """The orders of the second network's features that bring its weights nearest to the first's.

    Source: weight matching, Ainsworth et al., ICLR 2023, arXiv:2209.04836, Algorithm 1.
    Differs: spaces are taken in the order of the network and not at random; in the first sweep only weights count
        whose other features have their order already. So the result is the same every time, and a network whose
        features were shuffled is found again.
    """
    spaces = spaces_of(trace)
    orders = {space: same_order(space) for space in spaces}
    mine: dict[str, Tensor] = dict(first.named_parameters())
    theirs: dict[str, Tensor] = dict(other.named_parameters())
    current = dict(theirs)
    settled: set[Space] = set()
    for sweep in range(sweeps):
        changed = False
        for space in spaces:
            similar = _weight_similarities(trace, spaces, space, mine, current, settled if sweep == 0 else set(spaces))
            settled.add(space)
            if not similar:
                continue
            step = solve(space, similar)
            gain = worth(space, similar, step) - worth(space, similar, same_order(space))
            if step.moved and gain > 1e-9 * max(float(one.abs().max()) for one in similar.values()):
                orders[space], changed = orders[space].then(step), True
                current = {
                    name: reorder(tensor, trace.weights[name], {space: step}) for name, tensor in current.items()
                }
        if sweep and not changed:
            break
    found = []
    for space in spaces:
        before = _weight_similarities(trace, spaces, space, mine, theirs, set(spaces), cosine=True)
        after = _weight_similarities(trace, spaces, space, mine, current, set(spaces), cosine=True)
        if after:
            same = same_order(space)
            found.append(SpaceMatch(space, orders[space], worth(space, before, same), worth(space, after, same)))
    return found


def _weight_similarities(
    trace: Trace,
    spaces: Sequence[Space],
    space: Space,
    mine: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    settled: set[Space],
    cosine: bool = False,
) -> Similarities:
    """Sums of products of the weights that belong to features of a space; with `cosine`, of such of length one."""
    others = {a for one in spaces if one not in settled for a in (one.atom, *one.inner)} - {space.atom, *space.inner}
    found: dict[int | None, Tensor] = {}
    lengths: dict[int | None, list[Tensor]] = {}
    for name, axes in trace.weights.items():
        if name not in mine or name not in trace.uses:
            continue
        there = [f.atom for f in factors(axes)]
        unsettled = space not in settled and there.count(space.atom) > 1
        if unsettled or any(atom in others for atom in there):
            continue
        parts: list[int | None] = [i for i, atom in enumerate(space.inner) if atom in there]
        for part in parts or [None]:
            atoms = [space.atom] if part is None else [space.atom, space.inner[part]]
            pairs = zip(*(rows_of(w[name], axes, atoms) for w in (mine, theirs)), strict=True)
            for a, b in ((one.double(), two.double()) for one, two in pairs):
                found[part] = found.get(part, 0) + (a @ b.T).cpu()
                if cosine:
                    old = lengths.get(part, [torch.zeros(()), torch.zeros(())])
                    lengths[part] = [sum_ + one.square().sum(1).cpu() for sum_, one in zip(old, (a, b), strict=True)]
    if cosine:
        return {
            part: matrix / torch.outer(*(one.sqrt() for one in lengths[part])).clamp_min(1e-30)
            for part, matrix in found.items()
        }
    return found
