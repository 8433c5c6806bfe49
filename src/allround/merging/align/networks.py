"""Aligning and zipping networks of one kind: what is found out of them, and their weights written anew."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError, suggestion
from allround.merging.align.apply import Fold, Folds, Orders, fold, reorder
from allround.merging.align.axes import Axis, axis, factors, fix, resolve
from allround.merging.align.match import assign, assign_blocks, correlation, zip_features
from allround.merging.align.spaces import Order, Space, rows_of, same_order, spaces_of
from allround.merging.align.trace import Reading, Trace, new_trace, tensors_of, watch

#: Batches that a network is called with, and of what kind each is: those of one kind give the same features.
Batches = Sequence[tuple[str, Any]]
#: How alike features are, by what of a space it is about: its blocks or features (None), or what is in its blocks.
Similarities = dict[int | None, Tensor]


@dataclass(frozen=True)
class Matched:
    """What became of one space. before, after: the mean similarity of features that are brought together."""

    space: Space
    order: Order
    before: float
    after: float


@dataclass(frozen=True)
class Left:
    """A weight whose features stay where they are, and why."""

    name: str
    why: str


@dataclass
class Zipped:
    """Networks zipped up to a point.

    states: the weights of each network; those named in `shared` are the same for all. folds, orders: what was done to
    the features. depth: the share of the layers that is shared.
    """

    states: list[dict[str, Tensor]]
    shared: set[str]
    matched: list[Matched]
    folds: Folds
    orders: list[dict[Space, Order]]
    depth: float
    cut: str


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


def left_of(trace: Trace, spaces: Sequence[Space]) -> list[Left]:
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
        found.append(Left(name, (reasons or ["nothing reads it"])[0] if used else "the examples did not use it"))
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
    read: Sequence[Sequence[Reading]],
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


def _solve(space: Space, similar: Similarities) -> Order:
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


def _worth(space: Space, similar: Similarities, order: Order) -> float:
    """The mean similarity of the features that an order brings together."""
    found = []
    for part, matrix in similar.items():
        index = order.outer
        if part is not None:
            index = (order.outer[:, None] * space.inner[part].size + order.inner[part]).flatten()
        found.append(matrix.gather(1, index[:, None]).mean())
    return float(torch.stack(found).mean())


def mixed(one: Fold) -> int:
    """How many merged features come from more than one model; the others are merged within one, or are its own."""
    return int(((one.unmerge.sum(-2) > 0).sum(0) > 1).sum())


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


def _cross(matrix: Tensor, models: int, model: int) -> Tensor:
    n = len(matrix) // models
    return matrix[:n, model * n : (model + 1) * n]


def match_activations(trace: Trace, first: nn.Module, other: nn.Module, batches: Batches) -> list[Matched]:
    """The orders of the second network's features that correlate best with the first's on the same rows.

    Source: activation matching, Ainsworth et al., ICLR 2023, arXiv:2209.04836, section 3.1.
    Differs: features are compared by correlation, as Li et al., arXiv:1511.07543, do; that paper takes the product.
    """
    spaces, similar = measure(trace, [first, other], batches, full=False)
    found = []
    for space in spaces:
        if space in similar:
            order = _solve(space, similar[space])
            before, after = (_worth(space, similar[space], one) for one in (same_order(space), order))
            found.append(Matched(space, order, before, after))
    return found


@torch.no_grad()
def match_weights(trace: Trace, first: nn.Module, other: nn.Module, *, sweeps: int = 100) -> list[Matched]:
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
            step = _solve(space, similar)
            gain = _worth(space, similar, step) - _worth(space, similar, same_order(space))
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
            found.append(Matched(space, orders[space], _worth(space, before, same), _worth(space, after, same)))
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
) -> Zipped:
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
            order = _solve(space, cross)
            before, after = (_worth(space, cross, one) for one in (same_order(space), order))
            matched.append(Matched(space, order, before, after))
            orders[model][space] = order
        if by == "zip":
            folds |= _zip(space, similar[space], orders, k, alpha, beta)
    states, shared = _write(trace, networks, orders, folds, step)
    return Zipped(states, shared, matched, folds, orders, share, cut)


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
