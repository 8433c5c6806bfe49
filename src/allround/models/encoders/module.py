"""Any nn.Module as an encoder, given from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.core.files import hash_json, write_json
from allround.core.registry import method, names
from allround.models.batch import Batch, Features
from allround.models.encoder import CONFIG, Encoder, load_tensors, save_tensors
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.modality import modality_of
from allround.tasks.values import Row

ToTensor = Callable[[Row], Tensor]

#: Networks that this process was given, by label, form and reader, as their saved folders name them; the newest last.
_given: dict[tuple[str, str, str], tuple[nn.Module, ToTensor | None]] = {}


@method(source="the user's own network")
class Module(Encoder):
    """A network that maps a stacked batch to features (n, d).

    `to_tensor` turns one row (the tuple of its inputs) into a tensor; left out, images become (channels, height,
    width) in [0, 1] and tables a vector of numbers. A saved model holds weights only, no code: to load it in
    another process, give the network again (`allround.load(folder, module=Net())`). The network keeps the precision
    that it is given in: it gets numbers in that, and its features become float32.
    """

    name = "module"
    modalities = tuple(names("modality"))

    def __init__(self, network: nn.Module, *, dim: int, to_tensor: ToTensor | None = None) -> None:
        super().__init__()
        self.network = network
        self.dim = dim
        self.to_tensor = to_tensor
        self.label, self.form, self.reader = _keep(network, to_tensor)

    @property
    def backbone(self) -> torch.nn.Module:
        network: torch.nn.Module = self.network
        return network

    def features(self, definition: Definition) -> int:
        return self.dim

    @property
    def preparation(self) -> object:
        return [self.label, self.reader]

    def prepare(self, inputs: Sequence[Row], definition: Definition, targets: Encoded | None = None) -> list[Tensor]:
        if self.to_tensor is not None:
            return [self.to_tensor(row) for row in inputs]
        rules = modality_of(definition)
        arrays = [rules.numbers(row) for row in inputs]
        plain = [array for array in arrays if array is not None]
        if len(plain) < len(arrays):
            raise AllroundError(
                f"read the {definition.modality} inputs of task '{definition.name}' with a network of your own",
                f"it was given without a way to turn {rules.noun} into numbers",
                "give to_tensor=, a function from a row to a tensor",
            )
        return [torch.from_numpy(array) for array in plain]

    def collate(self, prepared: Sequence[Tensor], definition: Definition, targets: Encoded | None = None) -> Batch:
        return Batch({"x": torch.stack(list(prepared))}, len(prepared))

    def forward(self, batch: Batch) -> Features:
        x = batch.tensors["x"]
        own = next((p.dtype for p in self.network.parameters() if p.is_floating_point()), x.dtype)
        found: Tensor = self.network(x.to(own) if x.is_floating_point() else x).flatten(1)
        return Features(found.float())

    def save(self, folder: Path) -> None:
        save_tensors(self.network, folder / "model.safetensors")
        settings = {"dim": self.dim, "label": self.label, "form": self.form, "reader": self.reader}
        write_json(folder / CONFIG, {"encoder": self.name, "settings": settings})

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> Module:
        key = (settings["label"], settings.get("form", ""), settings.get("reader", ""))
        network, to_tensor = _find(key, folder)
        network = deepcopy(network)
        load_tensors(network, folder / "model.safetensors")
        encoder = cls.__new__(cls)
        nn.Module.__init__(encoder)
        encoder.network, encoder.to_tensor, encoder.dim = network, to_tensor, settings["dim"]
        encoder.label, encoder.form, encoder.reader = key[0], form_of(network), _reader(to_tensor)
        return encoder


def _find(key: tuple[str, str, str], folder: Path) -> tuple[nn.Module, ToTensor | None]:
    """The given network that a folder was saved from: of its class, with its tensors, and if there are several, of its
    form, with its reader, the newest."""
    from allround.checkpoints.weights import Weights

    label, form, reader = key
    known = [other for other in _given if other[0] == label]
    if not known:
        raise AllroundError(
            f"load the model in {folder}",
            f"its encoder is the network '{label}', and a saved model holds no code",
            "load it from Python and give the network: allround.load(folder, module=Net())",
        )
    weights = Weights(folder / "model.safetensors")
    shapes = {name: weights.shape(name) for name in weights}
    fitting = [other for other in known if _shapes(_given[other][0]) == shapes] or known
    best = max(fitting, key=lambda other: (other[1] == form, other[2] == reader, known.index(other)))
    return _given[best]


def give(network: nn.Module, to_tensor: ToTensor | None = None) -> None:
    """Make a network known to this process, so that saved models of its class and form load.

    Without `to_tensor`, one that was given for this class before stays.
    """
    label, form = _label(network), form_of(network)
    if to_tensor is None:
        before = [(key[1] == form, n, key) for n, key in enumerate(_given) if key[0] == label and _given[key][1]]
        to_tensor = _given[max(before)[2]][1] if before else None
    _keep(network, to_tensor)


def _keep(network: nn.Module, to_tensor: ToTensor | None) -> tuple[str, str, str]:
    key = _label(network), form_of(network), _reader(to_tensor)
    _given.pop(key, None)  # so that it is the newest
    _given[key] = (network, to_tensor)
    return key


def _label(network: nn.Module) -> str:
    return f"{type(network).__module__}.{type(network).__qualname__}"


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def form_of(network: nn.Module) -> str:
    """What tells networks of one class apart: their layers with their settings, and their tensors' shapes.

    >>> form_of(nn.Linear(2, 3)) == form_of(nn.Linear(2, 3)), form_of(nn.Linear(2, 3)) == form_of(nn.Linear(3, 2))
    (True, False)
    """
    return hash_json([repr(network), _shapes(network)])[:16]


def _reader(to_tensor: ToTensor | None) -> str:
    """What tells functions apart that read rows: name and place, and plain values that they were made with."""
    if to_tensor is None:
        return ""
    name = getattr(to_tensor, "__qualname__", type(to_tensor).__qualname__)
    line = getattr(getattr(to_tensor, "__code__", None), "co_firstlineno", 0)
    held = [cell.cell_contents for cell in getattr(to_tensor, "__closure__", None) or ()]
    plain = [value for value in held if isinstance(value, (bool, int, float, str))]
    return f"{to_tensor.__module__}.{name}:{line}" + (f" {plain}" if plain else "")
