"""Following the axes of every tensor through the operations of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_iter

from allround.merging.align.axes import (
    Axis,
    axis,
    factors,
    plain,
    size_of,
    tie,
)
from allround.merging.align.trace import ContractedInput, Trace, tensors_of

Arguments = Mapping[str, Any]
#: What an operation does to axes: it gets the operation's name, its arguments by name, and its outputs.
Rule = Callable[["Recorder", str, Arguments, list[Tensor]], None]


class Recorder(TorchDispatchMode):
    """Sees every operation, and keeps the axes of every tensor while it lives."""

    def __init__(self, trace: Trace, network: nn.Module, rule_of: Callable[[Any, str], Rule]) -> None:
        super().__init__()
        self.trace, self.rule_of = trace, rule_of
        self.readings: list[ContractedInput] = []
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
        self.rule_of(func, name)(self, name, given, outputs)
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
        self.readings.append(ContractedInput(values, tuple(self.axes(values)), tuple(over)))

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
