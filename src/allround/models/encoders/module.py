"""Any nn.Module as an encoder, given from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.core.files import write_json
from allround.core.registry import method
from allround.models.encoder import CONFIG, Batch, Encoder, load_tensors, save_tensors
from allround.tasks.definition import Definition

#: Networks that this process was given, by the label in their saved folder.
_given: dict[str, tuple[nn.Module, Callable[[tuple[Any, ...]], Tensor] | None]] = {}


@method(source="the user's own network")
class Module(Encoder):
    """A network that maps a stacked batch to features (n, d).

    `to_tensor` turns one row (the tuple of its inputs) into a tensor; left out, images become (channels, height,
    width) in [0, 1] and tables a vector of numbers. A saved model holds weights only, no code: to load it in
    another process, give the network again (`allround.load(folder, module=Net())`).
    """

    name = "module"
    modalities = ("text", "image", "table")

    def __init__(
        self, network: nn.Module, *, dim: int, to_tensor: Callable[[tuple[Any, ...]], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.dim = dim
        self.to_tensor = to_tensor
        self.label = f"{type(network).__module__}.{type(network).__qualname__}"
        _given[self.label] = (network, to_tensor)

    @property
    def backbone(self) -> torch.nn.Module:
        network: torch.nn.Module = self.network
        return network

    def features(self, definition: Definition) -> int:
        return self.dim

    def prepare(self, inputs: Sequence[tuple[Any, ...]], definition: Definition) -> list[Tensor]:
        if self.to_tensor is not None:
            return [self.to_tensor(row) for row in inputs]
        if definition.modality == "text":
            raise AllroundError(
                f"read the texts of task '{definition.name}' with a network of your own",
                "it was given without a way to turn text into numbers",
                "give to_tensor=, a function from a row to a tensor",
            )
        return [_plain(row, definition.modality) for row in inputs]

    def collate(self, prepared: Sequence[Tensor], definition: Definition) -> Batch:
        return Batch({"x": torch.stack(list(prepared))}, len(prepared))

    def forward(self, batch: Batch) -> Tensor:
        found: Tensor = self.network(batch.tensors["x"]).flatten(1)
        return found

    def save(self, folder: Path) -> None:
        save_tensors(self.network, folder / "model.safetensors")
        write_json(folder / CONFIG, {"encoder": self.name, "settings": {"dim": self.dim, "label": self.label}})

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> Module:
        if settings["label"] not in _given:
            raise AllroundError(
                f"load the model in {folder}",
                f"its encoder is the network '{settings['label']}', and a saved model holds no code",
                "load it from Python and give the network: allround.load(folder, module=Net())",
            )
        network, to_tensor = _given[settings["label"]]
        network = deepcopy(network)
        load_tensors(network, folder / "model.safetensors")
        encoder = cls.__new__(cls)
        nn.Module.__init__(encoder)
        encoder.network, encoder.to_tensor = network, to_tensor
        encoder.dim, encoder.label = settings["dim"], settings["label"]
        return encoder


def give(network: nn.Module, to_tensor: Callable[[tuple[Any, ...]], Tensor] | None = None) -> None:
    """Make a network known to this process, so that saved models of its class load.

    Without `to_tensor`, one that was given for this class before stays.
    """
    label = f"{type(network).__module__}.{type(network).__qualname__}"
    _given[label] = (network, to_tensor or _given.get(label, (None, None))[1])


def _plain(row: tuple[Any, ...], modality: str) -> Tensor:
    if modality == "image":
        array = np.asarray(row[0], dtype=np.float32) / 255
        return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())
    return torch.tensor([float(value) for value in row])
