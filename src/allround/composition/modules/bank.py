"""Several modules on one encoder: which rows use which, for one pass through it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from allround.composition.modules.changes import Change, Changes
from allround.composition.modules.layer import ModularLayer, layer_for
from allround.core.errors import AllroundError
from allround.models.batch import Batch
from allround.models.encoder import Encoder
from allround.models.pretrained import saved_names
from allround.models.share.insert import replace_module

#: Weights of the modules at a layer, for a router that decides there: its name and what it reads -> (n, *, modules).
Gate = Callable[[str, Tensor], Tensor]


class ModuleBank:
    """Puts modules onto an encoder. Outside of `using` it computes as if none were there.

    changes: of each module, in the order that weights speak of them. keep: so many modules are held in memory; those
    that were used longest ago are read again when they are wanted. None: all.
    Errors: modules that change a part of the encoder in which rows of one pass cannot differ.
    """

    def __init__(self, encoder: Encoder, changes: Sequence[Changes], *, keep: int | None = None) -> None:
        self.encoder, self.changes, self.keep = encoder, list(changes), keep
        self._held: OrderedDict[int, dict[str, Change | None]] = OrderedDict()
        self._weighing: Gate | Tensor | None = None
        self.apart = False
        #: Which places of the rows that the encoder computes now are words, and no padding: bool (rows, places). None
        #: where it has not said, as with images.
        self.words: Tensor | None = None
        self._looking: RemovableHandle | None = None
        self.layers: dict[str, ModularLayer] = {}
        stored = saved_names(encoder.backbone)
        self._place = {place: name for name, place in stored.items()}
        self._stored = stored
        by_layer: dict[str, set[int]] = {}
        for number, module in enumerate(self.changes):
            for tensor in module:
                layer, _, _ = self._place.get(tensor, "").rpartition(".")
                by_layer.setdefault(layer if tensor in self._place else "", set()).add(number)
        for layer, modules in by_layer.items():
            found = encoder.backbone.get_submodule(layer) if layer else None
            sort = layer_for(found) if found is not None else None
            if found is None or sort is None:
                kind = "no part of the encoder" if found is None else f"a part of the sort {type(found).__name__}"
                raise AllroundError(
                    f"put {len(self.changes)} modules on an encoder",
                    f"they change '{layer or 'a tensor of its own'}', {kind}, which rows of one pass must share",
                    "make the modules low-rank: allround library add LIB MODEL --rank 16",
                )
            self.layers[layer] = sort(layer, found, sorted(modules), self)
        self.attach()

    def __len__(self) -> int:
        return len(self.changes)

    def read(self, module: int, layer: str, parameter: str) -> Change | None:
        """The change that a module makes to a parameter of a layer; None where it makes none."""
        tensor = self._stored.get(f"{layer}.{parameter}")
        if tensor is None:
            return None
        held = self._held.get(module)
        if held is None:
            held = self._held[module] = {}
            while self.keep is not None and len(self._held) > self.keep:
                self._held.popitem(last=False)
        elif self.keep is not None:
            self._held.move_to_end(module)
        if tensor not in held:
            with torch.inference_mode(False):  # a pass that learns may read them later
                held[tensor] = self.changes[module].get(tensor)
        return held[tensor]

    def weigh(self, layer: str, values: Tensor) -> Tensor | None:
        """The weights of the modules at a layer; None where the base alone is computed."""
        return self._weighing(layer, values) if callable(self._weighing) else self._weighing

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the places of each row of the pass, padding left out where it is known: (n, *, d) -> (n, d)."""
        if values.dim() < 3:
            return values
        if self.words is None or values.dim() != 3 or self.words.shape != values.shape[:2]:
            return values.flatten(1, -2).mean(1)
        words = self.words.to(values.dtype)[..., None]
        return (values * words).sum(1) / words.sum(1).clamp_min(1)

    @contextmanager
    def using(self, weights: Tensor | Gate, *, apart: bool = False) -> Iterator[None]:
        """Let the rows of the next passes use the modules by these weights: (rows, modules), or what a gate gives at
        each layer. Rows of a pass are in the order of the weights. apart: the two factors of low-rank changes are
        averaged each by itself."""
        before = self._weighing, self.apart
        self._weighing, self.apart = weights, apart
        try:
            yield
        finally:
            self._weighing, self.apart = before

    def numbers(self, module: int) -> int:
        """How many numbers a module stores."""
        found = (self.changes[module].get(tensor) for tensor in self.changes[module])
        return sum(change.numbers for change in found if change is not None)

    def attach(self) -> None:
        """Put the modules onto the encoder."""
        for layer, made in self.layers.items():
            replace_module(self.encoder.backbone, layer, made)
        self._looking = self.encoder.register_forward_pre_hook(self._look)

    def remove(self) -> None:
        """Take the modules off the encoder, until they are attached again."""
        for layer, made in self.layers.items():
            replace_module(self.encoder.backbone, layer, made.base)
        if self._looking is not None:
            self._looking.remove()

    def _look(self, encoder: nn.Module, given: tuple[Batch, ...]) -> None:
        mask = given[0].tensors.get("attention_mask")
        self.words = mask.bool() if mask is not None and mask.dim() == 2 else None
