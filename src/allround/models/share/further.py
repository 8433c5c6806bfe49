"""What one further task would store in a model whose encoder stays as it is."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from allround.core.schema import STRICT
from allround.models.encoders.sharing import Sharing
from allround.models.systems.multi_task_model import MultiTaskModel

#: What the further task is called where it is tried; no task of a user has such a name.
NAME = "@further"


@dataclass(frozen=True)
class FurtherTask:
    """Bytes that one further task would store: of modules and gates of its own, and of its head, which is the mean of
    the heads that are there."""

    __pydantic_config__ = STRICT

    modules: int
    head: int

    @property
    def size(self) -> int:
        """Both together."""
        return self.modules + self.head


def further_task(model: MultiTaskModel) -> FurtherTask:
    """What one further task would store in a model; the model stays as it is."""
    heads = [_size(model.head(name)) for name in model.definitions]
    return FurtherTask(_modules(model.encoder), round(sum(heads) / max(1, len(heads))))


def stored_in(folder: Path) -> int:
    """Bytes of the weights in the folder of a model; an adapter beside the whole weights does not count."""
    files = folder.rglob("*.safetensors")
    return sum(file.stat().st_size for file in files if file.parent != folder / "adapter")


def _modules(encoder: nn.Module) -> int:
    if not isinstance(encoder, Sharing):
        return 0
    # The inner encoder, which may be large, is not copied.
    tried = copy.deepcopy(encoder, {id(encoder.inner): encoder.inner})
    with torch.random.fork_rng(devices=[]):
        tried.add_task(NAME)
    return _size(tried) - _size(encoder)


def _size(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())
