"""Encoders that share their first layers: one trunk, and a tail for each of the models it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_iter

from allround.core.errors import AllroundError
from allround.core.files import write_json
from allround.core.registry import method
from allround.models.encoder import CONFIG, Batch, Encoder
from allround.tasks.definition import Definition


@method(
    source="partial zipping: Stoica et al., ICLR 2024, arXiv:2305.03053, section 4.2",
    paper="ZipIt! Merging Models from Different Tasks without Training",
)
class Zipped(Encoder):
    """Encoders of one kind that hold some weights in common, the trunk; what they share is computed once.

    Shapes: the features of all, side by side -> features (n, sum of the features). The head of a task reads those of
    its own tail, by weights of zero elsewhere. Without gradients the trunk is computed once for all; with gradients
    once for each tail.
    """

    name = "zipped"
    modalities = ("text", "image", "table")

    def __init__(self, tails: Sequence[Encoder]) -> None:
        super().__init__()
        self.tails = nn.ModuleList(tails)
        self.modalities = tails[0].modalities  # type: ignore[misc, assignment]
        self.learning_rate, self.epochs = self.first.learning_rate, self.first.epochs

    @property
    def first(self) -> Encoder:
        first: Encoder = self.tails[0]  # type: ignore[assignment]
        return first

    def features(self, definition: Definition) -> int:
        return len(self.tails) * self.first.features(definition)

    @property
    def preparation(self) -> Any:
        return self.first.preparation

    def prepare(self, inputs: Sequence[tuple[Any, ...]], definition: Definition) -> list[Any]:
        return self.first.prepare(inputs, definition)

    def collate(self, prepared: Sequence[Any], definition: Definition) -> Batch:
        return self.first.collate(prepared, definition)

    def length(self, prepared: Any) -> int:
        return self.first.length(prepared)

    def check(self, definition: Definition) -> None:
        self.first.check(definition)

    def forward(self, batch: Batch) -> Tensor:
        if torch.is_grad_enabled():
            return torch.cat([tail(batch) for tail in self.tails], -1)
        with Once():
            return torch.cat([tail(batch) for tail in self.tails], -1)

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        (folder / "first").mkdir()
        self.first.save(folder / "first")
        shared = _tensors(self.first)
        own = {
            f"{i}.{name}": tensor.detach().cpu().clone()
            for i, tail in enumerate(self.tails)
            for name, tensor in _tensors(tail).items()
            if tensor is not shared[name]
        }
        save_file(own, folder / "model.safetensors", {"format": "pt"})
        write_json(folder / CONFIG, {"encoder": self.name, "settings": {"tails": len(self.tails)}})

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> Zipped:
        from allround.checkpoints.header import FLOATS
        from allround.checkpoints.weights import Weights
        from allround.models.base import load_encoder

        first = load_encoder(folder / "first")
        own = Weights(folder / "model.safetensors")
        states: list[dict[str, Tensor]] = [{} for _ in range(settings["tails"])]
        known = _tensors(first)
        for name in own:
            number, _, tensor = name.partition(".")
            place = known.get(tensor)
            fits = place is not None and own.shape(name) == tuple(place.shape) and own.dtype(name) in FLOATS
            if not fits or number not in map(str, range(1, len(states))):
                raise AllroundError(
                    f"load the encoder in {folder}",
                    f"'{name}' in its model.safetensors does not belong to that module",
                    "copy the folder again, whole",
                )
            states[int(number)][tensor] = own.get(name)
        return cls(copies(first, states))


def copies(first: Encoder, states: Sequence[Mapping[str, Tensor]]) -> list[Encoder]:
    """An encoder and copies of it that hold its very tensors, but for those of their own.

    states: for each, the encoder itself among them, its own tensors by name; the encoder's are there already.
    """
    found = [first]
    for state in states[1:]:
        made = deepcopy(first)
        own = _tensors(made)
        for name, tensor in _tensors(first).items():
            if name in state:
                with torch.no_grad():
                    own[name].copy_(state[name])
            else:
                _put(made, name, tensor)
        found.append(made)
    return found


class Once(TorchDispatchMode):
    """Computes what is asked for twice, the same operation on the very same memory, only once.

    What is changed in place after it was computed is computed anew, and random numbers are drawn anew.
    """

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[Any, Any] = {}
        self._kept: list[Any] = []  # so that nothing else gets the memory of what is known
        self._changed: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves, spec = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if func._schema.is_mutable:
            self._changed.update(_storage(tensor) for tensor in tensors)
        views = any(one.alias_info is not None for one in func._schema.returns)
        if views or func._schema.is_mutable or torch.Tag.nondeterministic_seeded in func.tags:
            return func(*args, **kwargs)
        key = (func, repr(spec), *(_place(leaf) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves))
        known = self._found.get(key)
        if known is not None:
            used = [*tensors, *(one for one in tree_iter(known) if isinstance(one, Tensor))]
            if not any(_storage(tensor) in self._changed for tensor in used):
                return known
        result = self._found[key] = func(*args, **kwargs)
        self._kept.append((tensors, result))
        return result


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Where a tensor lies in memory, and how it is read: the same for the same values."""
    return _storage(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and buffers as they stand in it, by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Make a tensor the parameter or buffer of that name, the very same object."""
    *path, last = name.split(".")
    for part in path:
        module = getattr(module, part)
    (module._parameters if last in module._parameters else module._buffers)[last] = tensor  # type: ignore[assignment]
