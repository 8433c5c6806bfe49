"""What each operation of torch does to axes: which entries of its inputs and outputs belong together.

What an unknown operation touches stays as it is: then less is aligned, but nothing wrongly.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter

from allround.merging.align.axes import (
    Axis,
    axis,
    cut,
    factors,
    fix,
    reshape,
    size_of,
    tie,
)
from allround.merging.align.recorder import Arguments, Recorder, Rule

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


def rule_of(operation: Any, name: str) -> Rule:
    """The rule of one of torch's operations, such as "mm"."""
    return _RULES.get(name) or (_entrywise if torch.Tag.pointwise in operation.tags else _unknown)
