"""Finding out from a network itself which features its weights share, by watching it compute.

The network runs on an example batch, and every tensor operation is seen below all modules, so that what a network is
made of does not matter. Each kind of operation says which entries of its inputs and outputs belong together. What an
unknown operation touches stays as it is: then less is aligned, but nothing wrongly.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_iter

from allround.core.errors import AllroundError
from allround.merging.align.axes import (
    Axis,
    Factor,
    Origin,
    axis,
    cut,
    factors,
    fix,
    plain,
    products,
    reshape,
    size_of,
    tie,
)

Arguments = Mapping[str, Any]
Rule = Callable[["Recorder", str, Arguments, list[Tensor]], None]

#: Tensors whose entries are all alike, so that any order is the same.
_UNIFORM = {
    "zeros", "ones", "full", "empty", "scalar_tensor", "zeros_like", "ones_like", "full_like", "empty_like",
    "new_zeros", "new_ones", "new_full", "new_empty", "empty_strided", "new_empty_strided",
}  # fmt: skip
#: Operations entry by entry that torch does not mark as such.
_ENTRYWISE = {"_to_copy", "detach", "detach_", "alias", "lift_fresh", "lift", "copy_", "fill_", "zero_", "masked_fill",
              "dropout", "contiguous"}  # fmt: skip
_SAME_ORDER = {"view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze", "flatten", "unflatten"}
_REDUCTIONS = {"sum", "mean", "amax", "amin", "max", "min", "var", "std", "norm", "linalg_vector_norm", "logsumexp",
               "prod", "any", "all", "var_mean"}  # fmt: skip
_SOFTMAX = {"_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax"}
#: What is multiplied by what.
_FACTORS = {"mm": ("self", "mat2"), "addmm": ("mat1", "mat2"), "bmm": ("self", "mat2"), "baddbmm": ("batch1", "batch2"),
            "mv": ("self", "vec"), "addmv": ("mat", "vec"), "dot": ("self", "tensor")}  # fmt: skip
#: Over positions of images: channels stay apart.
_SPATIAL = {"max_pool1d", "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d",
            "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d", "adaptive_max_pool2d",
            "adaptive_max_pool3d", "upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d",
            "upsample_bicubic2d", "reflection_pad2d", "replication_pad2d"}  # fmt: skip


@dataclass(frozen=True)
class Reading:
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


@torch.no_grad()
def watch(trace: Trace, network: nn.Module, batch: Any, kind: str, *, free_output: bool) -> list[Reading]:
    """Run a network on a batch, add what is seen to the trace, and return what was read.

    kind: batches of one kind give the same features. free_output: whatever reads the output can be adapted, so its
    last dimension may be reordered too.
    """
    training = network.training
    network.eval()
    recorder = Recorder(trace, network)
    try:
        with _plain_attention(), recorder:
            output = network(batch)
    finally:
        network.train(training)
    if not isinstance(output, Tensor):
        raise AllroundError(
            "find out which features of a network belong together",
            f"it returns a {type(output).__name__}",
            "wrap it in a module that takes one batch and returns one tensor",
        )
    axes = recorder.axes(output)
    for name, steps in recorder.uses.items():
        trace.uses.setdefault(name, steps)
    fix(axes if not free_output else axes[:-1], "an output of the network")
    if free_output:
        recorder.read(output, axes[-1:])
        tie(trace.outputs.setdefault(kind, plain(axes[-1])), axes[-1])
    trace.forget()
    return recorder.readings


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention as products and a softmax, not as one operation that hides them."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class Recorder(TorchDispatchMode):
    """Sees every operation, and keeps the axes of every tensor while it lives."""

    def __init__(self, trace: Trace, network: nn.Module) -> None:
        super().__init__()
        self.trace = trace
        self.readings: list[Reading] = []
        self.step = 0
        self.uses: dict[str, list[int]] = {}
        self._known: dict[int, list[Axis]] = {}
        self._weights: dict[int, frozenset[str]] = {}  # tensors made of weights alone, and of which
        self._kept: list[Tensor] = []  # so that no other tensor gets the id of a known one
        for name, tensor in tensors_of(network).items():
            self._know(tensor, trace.weights[name])
            self._weights[id(tensor)] = frozenset((name,))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            self._save(t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor))
        result = func(*args, **kwargs)
        outputs = [t for t in tree_iter(result) if isinstance(t, Tensor)]
        if not outputs:
            return result
        name = func._schema.name.removeprefix("aten::")
        names = [argument.name for argument in func._schema.arguments]
        given = {argument.name: argument.default_value for argument in func._schema.arguments
                 if argument.has_default_value()}  # fmt: skip
        given |= {**dict(zip(names, args, strict=False)), **kwargs}
        inputs = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        self._use(inputs, outputs)
        rule = _RULES.get(name) or (_entrywise if torch.Tag.pointwise in func.tags else _unknown)
        rule(self, name, given, outputs)
        return result

    def _use(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        self.step += 1
        made_of = [self._weights.get(id(tensor)) for tensor in inputs]
        if inputs and all(names is not None for names in made_of):
            for output in outputs:
                self._weights[id(output)] = frozenset().union(*(names or () for names in made_of))
            return
        for name in frozenset().union(*(names or () for names in made_of)):
            self.uses.setdefault(name, []).append(self.step)

    def _save(self, changed: Iterable[Tensor]) -> None:
        """Copy what was read and may be changed in place now."""
        stores = {tensor.untyped_storage()._cdata for tensor in changed}
        for i, one in enumerate(self.readings):
            if one.values.untyped_storage()._cdata in stores:
                self.readings[i] = replace(one, values=one.values.clone())

    def is_weight(self, tensor: Tensor) -> bool:
        return id(tensor) in self._weights

    def axes(self, tensor: Tensor) -> list[Axis]:
        """The axes of a tensor; those of one that comes from outside stay as they are."""
        if id(tensor) not in self._known:
            self._know(tensor, [axis(size, "an input of the network") for size in tensor.shape])
        return self._known[id(tensor)]

    def _know(self, tensor: Tensor, axes: list[Axis]) -> None:
        self._known[id(tensor)] = axes
        self._kept.append(tensor)
        self.note(axes)

    def note(self, axes: Sequence[Axis]) -> None:
        """Remember that these axes are together in one tensor."""
        self.trace.seen.add(tuple(plain(one) for one in axes if size_of(one) != 1))

    def give(self, tensor: Tensor, axes: Sequence[Axis]) -> None:
        """Say what the axes of a new tensor are; those it has already are tied to them."""
        known = self._known.get(id(tensor))
        if known is not None:
            for one, other in zip(known, axes, strict=True):
                tie(one, other)
        else:
            self._know(tensor, list(axes) if self.is_weight(tensor) else [plain(one) for one in axes])

    def read(self, values: Tensor, over: Sequence[Axis]) -> None:
        self.readings.append(Reading(values, tuple(self.axes(values)), tuple(over)))

    def contract(self, a: Tensor, over_a: Sequence[Axis], b: Tensor, over_b: Sequence[Axis]) -> None:
        """The product of two tensors is summed over these axes, one of each at a time."""
        for one, other in zip(over_a, over_b, strict=True):
            for weight, axes in ((a, one), (b, other)):
                if self.is_weight(weight):
                    self.trace.contracted.update(f.origin for f in factors([axes]) if f.origin is not None)
            tie(one, other)
        if not self.is_weight(a) and not self.is_weight(b):
            for factor in factors(over_a):
                factor.atom.pair()
        for values, over in ((a, over_a), (b, over_b)):
            if not self.is_weight(values):
                self.read(values, over)


def _entrywise(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    """Entries at the same place belong together; a dimension of size 1 goes with every entry."""
    inputs = [value for value in given.values() if isinstance(value, Tensor)]
    for output in outputs:
        axes: list[Axis] = [((),)] * output.dim()
        for tensor in inputs:
            for back, one in enumerate(reversed(recorder.axes(tensor)), 1):
                if back > output.dim() or size_of(one) != output.shape[-back]:
                    continue
                if axes[-back] == ((),):
                    axes[-back] = one
                else:
                    tie(axes[-back], one)
        recorder.give(output, axes)


def _unknown(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    why = f"the operation '{name}' is not known here"
    for tensor in tree_iter(dict(given)):
        if isinstance(tensor, Tensor):
            fix(recorder.axes(tensor), why)
    for output in outputs:
        recorder.give(output, [axis(size, why) for size in output.shape])


def _uniform(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    for output in outputs:
        recorder.give(output, [axis(size) for size in output.shape])


def _same_order(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    recorder.give(outputs[0], reshape(recorder.axes(given["self"]), outputs[0].shape))


def _expand(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    old, shape = recorder.axes(given["self"]), outputs[0].shape
    old = [((),)] * (len(shape) - len(old)) + old
    recorder.give(outputs[0], [one if size_of(one) == n else axis(n) for one, n in zip(old, shape, strict=True)])


def _permute(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    old = recorder.axes(given["self"])
    order = list(range(len(old)))
    if name == "permute":
        order = [dim % len(old) for dim in given["dims"]]
    elif name == "transpose":
        a, b = given["dim0"] % len(old), given["dim1"] % len(old)
        order[a], order[b] = order[b], order[a]
    else:
        order.reverse()
    recorder.give(outputs[0], [old[i] for i in order])


def _select(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    """One entry of a dimension, or each of them (unbind)."""
    old = recorder.axes(given["self"])
    dim = given["dim"] % len(old)
    fix(old[dim : dim + 1], "its entries are taken one by one")
    for output in outputs:
        recorder.give(output, old[:dim] + old[dim + 1 :])


def _pieces(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    """A part of a dimension (slice), or parts side by side (split)."""
    old = list(recorder.axes(given["self"]))
    dim, at = given["dim"] % len(old), 0
    whole = size_of(old[dim])
    if name == "slice":
        if given["step"] != 1:
            return _unknown(recorder, name, given, outputs)
        if recorder.is_weight(given["self"]) and outputs[0].shape != given["self"].shape:
            fix(old[dim : dim + 1], "a part of it is taken")  # other examples may take another part
        at = min(max((given["start"] or 0) + (whole if (given["start"] or 0) < 0 else 0), 0), whole)
    for output in outputs:
        size = output.shape[dim]
        recorder.give(output, [*old[:dim], cut(old[dim], at, at + size), *old[dim + 1 :]])
        at += size
    return None


def _cat(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    tensors = [tensor for tensor in given["tensors"] if tensor.dim() == outputs[0].dim()]
    axes = [recorder.axes(tensor) for tensor in tensors]
    dim = given["dim"] % outputs[0].dim()
    found = list(axes[0])
    for other in axes[1:]:
        for i, one in enumerate(other):
            if i != dim:
                tie(found[i], one)
    found[dim] = tuple(segment for one in axes for segment in one[dim])
    recorder.give(outputs[0], found)


def _product(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    """Matrix products: mm, addmm, bmm, mv and their like."""
    a, b = (given[x] for x in _FACTORS[name])
    left, right = recorder.axes(a), recorder.axes(b)
    inner = -2 if b.dim() > 1 else -1
    recorder.contract(a, left[-1:], b, [right[inner]])
    found = left[:-1] + (right[-1:] if b.dim() > 1 else [])
    if b.dim() == 3:
        tie(left[0], right[0])
        if not recorder.is_weight(a) and not recorder.is_weight(b):
            for factor in factors(left[:1]):
                factor.atom.pair()
    recorder.give(outputs[0], found)
    if given["self"] is not a:  # what the product is added to
        _entrywise(recorder, name, {"product": outputs[0], "added": given["self"]}, outputs)


def _linear(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    inputs, weight, bias = given["input"], given["weight"], given["bias"]
    axes, matrix = recorder.axes(inputs), recorder.axes(weight)
    recorder.contract(inputs, axes[-1:], weight, matrix[-1:])
    recorder.give(outputs[0], axes[:-1] + matrix[:-1])
    if bias is not None:
        tie(matrix[0], recorder.axes(bias)[0])


def _convolution(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    inputs, weight, bias = given["input"], given["weight"], given["bias"]
    groups = given.get("groups", 1)
    axes, kernel = list(recorder.axes(inputs)), list(recorder.axes(weight))
    fix([*axes[2:], *kernel[2:]], "a position")
    reads, writes = (0, 1) if given.get("transposed") else (1, 0)
    if groups == 1:
        recorder.contract(inputs, [axes[1]], weight, [kernel[reads]])
        out = kernel[writes]
    else:
        # Each group of channels reads a group of its own, all by weights of the same place.
        group, own = reshape([axes[1]], (groups, inputs.shape[1] // groups))
        block, first = reshape([kernel[0]], (groups, weight.shape[0] // groups))
        tie(group, block)
        recorder.contract(inputs, [own], weight, [first if reads == 0 else kernel[1]])
        outer = kernel[1] if reads == 0 else first
        out = reshape([group, outer], (outputs[0].shape[1],))[0]
    recorder.give(outputs[0], [axes[0], out, *(axis(n, "a position") for n in outputs[0].shape[2:])])
    if bias is not None:
        tie(out, recorder.axes(bias)[0])


def _batch_norm(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    axes = recorder.axes(given["input"])
    for tensor in given.values():
        if isinstance(tensor, Tensor) and tensor is not given["input"]:
            tie(axes[1], recorder.axes(tensor)[0])
    recorder.give(outputs[0], axes)
    for output in outputs[1:]:
        recorder.give(output, [axis(n, "a statistic") for n in output.shape])


def _layer_norm(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    axes = recorder.axes(given["input"])
    last = len(given["normalized_shape"])
    for tensor in (given["weight"], given.get("bias")):
        if tensor is not None:
            for one, other in zip(axes[-last:], recorder.axes(tensor), strict=True):
                tie(one, other)
    recorder.note(axes[:-last])
    recorder.give(outputs[0], axes)
    for output in outputs[1:]:
        recorder.give(output, [*axes[:-last], *[((),)] * last])


def _group_norm(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    """Channels stay in their groups: those of a group are averaged together."""
    axes = recorder.axes(given["input"])
    groups = given["group"]
    parts = reshape([axes[1]], (groups, given["input"].shape[1] // groups))
    for tensor in (given["weight"], given["bias"]):
        if tensor is not None:
            tie(axes[1], recorder.axes(tensor)[0])
    recorder.give(outputs[0], axes)
    for output in outputs[1:]:
        recorder.give(output, [axes[0], parts[0]])


def _reduce(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    old = recorder.axes(given["self"])
    dims = given.get("dim")
    if dims is None or dims == []:
        dims = range(len(old))
    gone = {dim % len(old) for dim in ([dims] if isinstance(dims, int) else dims)} if old else set()
    left = [one for i, one in enumerate(old) if i not in gone]
    kept: list[Axis] = [((),) if i in gone else one for i, one in enumerate(old)]
    if name in ("max", "min") and len(outputs) > 1:  # where it lies tells the order
        fix([old[i] for i in gone], "the place of its largest entry is asked for")
    for output in outputs:
        recorder.give(output, kept if output.dim() == len(old) else left)


def _softmax(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    axes = recorder.axes(given["self"])
    dim = given["dim"] % len(axes)
    recorder.note(axes[:dim] + axes[dim + 1 :])
    recorder.give(outputs[0], axes)


def _spatial(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    axes = recorder.axes(given["self"] if "self" in given else given["input"])
    first = len(axes) - int(re.findall(r"(\d)d", name)[0])
    fix(axes[first:], "a position")
    for output in outputs:
        recorder.give(output, [*axes[:first], *(axis(n, "a position") for n in output.shape[first:])])


def _glu(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    """One half of the features times the other half, through a gate."""
    axes = list(recorder.axes(given["self"]))
    dim = given["dim"] % len(axes)
    half = size_of(axes[dim]) // 2
    tie(cut(axes[dim], 0, half), cut(axes[dim], half, 2 * half))
    recorder.give(outputs[0], [*axes[:dim], cut(axes[dim], 0, half), *axes[dim + 1 :]])


def _embedding(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    table = recorder.axes(given["weight"])
    fix(table[:1], "its rows are chosen by number")
    recorder.trace.written.update(f.origin for f in factors(table[1:]) if f.origin is not None)
    recorder.give(outputs[0], recorder.axes(given["indices"]) + table[1:])


def _index_select(recorder: Recorder, name: str, given: Arguments, outputs: list[Tensor]) -> None:
    axes = list(recorder.axes(given["self"]))
    dim = given["dim"] % len(axes)
    fix(axes[dim : dim + 1], "its entries are chosen by number")
    recorder.give(outputs[0], [*axes[:dim], axis(outputs[0].shape[dim], "chosen by number"), *axes[dim + 1 :]])


_RULES: dict[str, Rule] = {
    **dict.fromkeys(_UNIFORM, _uniform),
    **dict.fromkeys(_ENTRYWISE, _entrywise),
    **dict.fromkeys(_SAME_ORDER, _same_order),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(_SOFTMAX, _softmax),
    **dict.fromkeys(_SPATIAL, _spatial),
    **dict.fromkeys(("permute", "transpose", "t", "numpy_T"), _permute),
    **dict.fromkeys(("select", "unbind"), _select),
    **dict.fromkeys(("slice", "split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk"), _pieces),
    **dict.fromkeys(_FACTORS, _product),
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
                     "miopen_batch_norm"), _batch_norm),
    "expand": _expand,
    "cat": _cat,
    "linear": _linear,
    "convolution": _convolution,
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "glu": _glu,
    "embedding": _embedding,
    "index_select": _index_select,
}  # fmt: skip
