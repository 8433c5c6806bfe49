"""Adapters of PEFT as changes of weights, computed stretch by stretch: no model with the adapter in it is ever written.

Exact for LoRA and rsLoRA on linear, embedding and (ungrouped) convolution layers, with ranks and alphas per layer, DoRA
on all of these, biases, `lora_bias`, `modules_to_save`, and one parameter per module of `target_parameters`. Every
other kind is refused by name. The reference is `merge_and_unload()` of PEFT in float32.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from allround.checkpoints.adapter import Adapter
from allround.checkpoints.edits import Edit, Edits
from allround.checkpoints.header import FLOATS, torch_dtype
from allround.checkpoints.low_rank import product
from allround.checkpoints.source import Source

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Adapted(Source):
    """A base with adapters on it, as if PEFT had merged one after the other into it in float32.

    Tensors that no adapter changes are the base's. Where one is changed, `read` gives float32 (float64 on a float64
    base), and `dtype` says so. Whole tensors that an adapter brings along (`modules_to_save`) and the base lacks are
    tensors of this source beside the base's.

    Where an adapter changes the embedding or the output layer of a base that ties the two, they part, as in the model
    that PEFT trained: each is a tensor of this source, and the one that no adapter changes keeps the base's values.
    Differs: `merge_and_unload()` adds a LoRA of either to both, so its model is not the trained one; it warns of that.

    same_base: `change` will only be asked from this very base, so that nothing is added and subtracted again, and
    nothing of the base is read where no DoRA needs it. Otherwise the two bases are compared as well.
    Errors: layers that the base lacks, shapes that do not fit, layers whose orientation cannot be told.
    """

    def __init__(self, base: Source, adapters: Adapter | Sequence[Adapter], *, same_base: bool = False) -> None:
        self.adapters = [adapters] if isinstance(adapters, Adapter) else list(adapters)
        self.edits = Edits(base, self.adapters)
        self.base_source = base = self.edits.base
        self.same_base = same_base
        self.path = self.adapters[0].path if same_base else base.path
        # A copy has no watch: rows that are read for a norm alone must not count as read.
        self._base = copy.copy(base)
        self._norms: dict[tuple[str, int], Tensor] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_norms": {}, "watch": None}

    @property
    def inner(self) -> Source:
        """The source whose files and layout it has."""
        return self.base_source

    @property
    def files(self) -> list[Path]:
        return [*self.base_source.files, *(file for adapter in self.adapters for file in adapter.files)]

    @property
    def metadata(self) -> dict[str, str]:
        return dict(getattr(self.base_source, "metadata", None) or {})

    def __iter__(self) -> Iterator[str]:
        yield from self.base_source
        yield from self.edits.extra

    def __len__(self) -> int:
        return len(self.base_source) + len(self.edits.extra)

    def __contains__(self, name: object) -> bool:
        return name in self.edits or name in self.base_source

    def shape(self, name: str) -> tuple[int, ...]:
        return self.edits.shape(name)

    def dtype(self, name: str) -> str:
        if name not in self.edits:
            return self.base_source.dtype(name)
        kinds = [e.adapter.weights.dtype(e.full) for e in self.edits[name] if e.full is not None]
        if kinds and kinds[-1] not in FLOATS:
            return kinds[-1]
        kinds += [] if name in self.edits.extra else [self.base_source.dtype(name)]
        return "F64" if "F64" in kinds else "F32"

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        stop = self.numel(name) if stop is None else stop
        if name not in self.edits:
            return self._read_base(name, start, stop)
        dtype = torch_dtype(self.dtype(name))
        origin, delta = self._stretch(name, start, stop, dtype)
        values = self._read_base(name, start, stop).to(dtype) if origin is None else origin
        return values if delta is None else values.add(delta)

    def change(self, name: str, start: int, stop: int, base: Tensor, out: Tensor) -> None:
        """Put into `out` how far the elements from `start` to `stop` are from `base`: of a LoRA its own product.

        Shapes: base, out (stop - start,), in the dtype that is computed in.
        """
        origin, delta = self._stretch(name, start, stop, out.dtype)
        if origin is None and self.same_base:
            out.zero_()
        else:
            origin = self._read_base(name, start, stop) if origin is None else origin
            out.copy_(origin).sub_(base)
        if delta is not None:
            out.add_(delta)

    def announce(self, name: str) -> None:
        edits = self.edits[name]
        for edit in edits:
            for key in edit.keys:
                edit.adapter.weights.announce(key)
        reads = any(edit.factors is not None and edit.factors.magnitude for edit in edits)
        if (reads or not self.same_base) and name in self.base_source:
            self._base.announce(name)

    def _read_base(self, name: str, start: int, stop: int) -> Tensor:
        values = self._base.read(name, start, stop)
        if self.watch is not None and not self.same_base:
            self.watch(name, start, values)
        return values

    def _stretch(self, name: str, start: int, stop: int, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        """What takes the place of the base's elements (None: nothing does), and what is added to it."""
        edits = self.edits[name]
        if start == 0 and self.watch is not None:
            self._show(edits)
        while any(e.full is not None and e.scale is None for e in edits[1:]):
            edits = edits[1:]  # what came before is replaced
        if not any(edit.factors for edit in edits):
            return self._flat(edits, start, stop, dtype)
        width = self._width(name, edits)
        first, last = start // width, -(-stop // width)
        origin, delta = self._rows(name, edits, first, last, dtype)
        place = slice(start - first * width, stop - first * width)
        return (None if origin is None else origin[place], None if delta is None else delta[place])

    def _show(self, edits: Sequence[Edit]) -> None:
        """Let the watch see the adapters' tensors, whole."""
        assert self.watch is not None
        for edit in edits:
            weights = edit.adapter.weights
            for key in edit.keys:
                size = weights.numel(key)
                for start in range(0, size, 1 << 22):
                    values = weights.read(key, start, min(start + (1 << 22), size))
                    self.watch(f"adapter {edit.number}: {key}", start, values)

    def _flat(
        self, edits: Sequence[Edit], start: int, stop: int, dtype: torch.dtype
    ) -> tuple[Tensor | None, Tensor | None]:
        origin = delta = None
        for edit in edits:
            assert edit.full is not None
            values = edit.adapter.weights.read(edit.full, start, stop).to(dtype)
            if edit.scale is None:
                origin, delta = values, None
            else:
                values = values.mul_(edit.scale)
                delta = values if delta is None else delta.add_(values)
        return origin, delta

    def _width(self, name: str, edits: Sequence[Edit]) -> int:
        """Elements of a row; the rows of all experts count as one after the other."""
        shape = self.shape(name)
        return shape[-1] if any(e.factors and e.factors.parameter for e in edits) else math.prod(shape[1:])

    def _rows(
        self, name: str, edits: Sequence[Edit], first: int, last: int, dtype: torch.dtype
    ) -> tuple[Tensor | None, Tensor | None]:
        """The same for whole rows, laid out in a row."""
        width = self._width(name, edits)
        origin = delta = None
        for number, edit in enumerate(edits):
            if edit.factors is None:
                origin, delta = self._flat([edit], first * width, last * width, dtype)
                continue
            product = _product(edit, self.shape(name), first, last, dtype)
            if edit.factors.magnitude is None:
                delta = product.view(-1) if delta is None else delta.add_(product.view(-1))
                continue
            before = origin
            if before is None:
                before = self._base.read(name, first * width, last * width).to(dtype)
            if delta is not None:
                product.add_(delta.view_as(product))
            whole = product.add(before.view_as(product))  # DoRA replaces the norms of this
            magnitude = edit.adapter.weights.read(edit.factors.magnitude).to(dtype)
            if edit.factors.flipped:
                factor = magnitude / self._column_norms(name, edits, number).to(dtype)
            else:
                factor = (magnitude[first:last] / whole.norm(dim=1)).unsqueeze(1)
            # factor * whole - before, without taking the base away from what is nearly the base
            delta = whole.mul_(factor - 1).add_(product).view(-1)
        return origin, delta

    def _column_norms(self, name: str, edits: Sequence[Edit], number: int) -> Tensor:
        """The norm of every column of the adapted weight before DoRA scales it. One pass over the base, kept: small."""
        import torch

        key = name, len(self.edits[name]) - len(edits) + number
        if key not in self._norms:
            rows, *rest = self.shape(name)
            width = math.prod(rest)
            step = max(1, (1 << 20) // width)
            total = torch.zeros(width, dtype=torch.float64)
            for first in range(0, rows, step):
                last = min(first + step, rows)
                origin, delta = self._rows(name, edits[:number], first, last, torch.float32)
                values = self._base.read(name, first * width, last * width) if origin is None else origin
                whole = _product(edits[number], (rows, width), first, last, torch.float32)
                whole.add_(values.view_as(whole))
                if delta is not None:
                    whole.add_(delta.view_as(whole))
                total += whole.double().square_().sum(0)
            self._norms[key] = total.sqrt_()
        return self._norms[key]


def _product(edit: Edit, shape: tuple[int, ...], first: int, last: int, dtype: torch.dtype) -> Tensor:
    assert edit.factors is not None
    return product(edit.factors, edit.adapter.weights, shape, first, last, dtype)
