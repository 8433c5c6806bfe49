"""An encoder around another one, which reads rows as that one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from allround.models.batch import Batch, Features
from allround.models.encoder import Encoder
from allround.models.text_rows import paired
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.values import Row


class Wrapping(Encoder):
    """Has all that the inner encoder has, and gives each task features of its own."""

    by_task = True
    inner: Encoder

    @property
    def modalities(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.inner.modalities

    @property
    def gives(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.inner.gives

    @property
    def epochs(self) -> int:  # type: ignore[override]
        return self.inner.epochs

    @property
    def least_steps(self) -> int:  # type: ignore[override]
        return self.inner.least_steps

    @property
    def lora_rate(self) -> float | None:  # type: ignore[override]
        return self.inner.lora_rate

    @property
    def notes(self) -> Sequence[str]:  # type: ignore[override]
        return self.inner.notes

    @property
    def backbone(self) -> nn.Module:
        return self.inner.backbone

    @property
    def preparation(self) -> object:
        return self.inner.preparation

    def write_rows(self, folder: Path) -> tuple[str, dict[str, object]]:
        return self.inner.write_rows(folder)

    def prepare(self, inputs: Sequence[Row], definition: Definition, targets: Encoded | None = None) -> list[Any]:
        return self.inner.prepare(inputs, definition, targets)

    def prepare_passages(self, texts: Sequence[str], definition: Definition) -> list[Any]:
        return self.inner.prepare_passages(texts, definition)

    def collate(self, prepared: Sequence[Any], definition: Definition, targets: Encoded | None = None) -> Batch:
        made = self.inner.collate(prepared, definition, targets)
        return replace(made, rows={definition.name: tuple(range(len(prepared)))})

    def length(self, prepared: Any) -> int:
        return self.inner.length(prepared)

    def entries(self, prepared: Sequence[Any], definition: Definition, targets: Encoded) -> list[int]:
        return self.inner.entries(prepared, definition, targets)

    def cut(self, inputs: Sequence[Row], definition: Definition) -> int:
        return self.inner.cut(inputs, definition)

    def reads_apart(self, definition: Definition) -> bool:
        return self.inner.reads_apart(definition)

    def default_head(self, definition: Definition) -> str:
        return self.inner.default_head(definition)

    def adapted_layers(self) -> list[str]:
        return self.inner.adapted_layers()

    def check(self, definition: Definition) -> None:
        self.inner.check(definition)

    def features(self, definition: Definition) -> int:
        return self.inner.features(definition)

    @contextmanager
    def plain(self) -> Iterator[Encoder]:
        """The inner encoder as it is without what is around it."""
        yield self.inner


def side_by_side(found: Sequence[Features], tasks: tuple[str, ...]) -> Features:
    """Features of the same rows for several tasks as one."""
    if len(found) == 1:
        return found[0]
    return found[0]._replace(values=torch.cat([one.values for one in found], -1), tasks=tasks)


def read_apart(read: Callable[[Tensor], Tensor], values: Tensor, width: int) -> Tensor:
    """Features of vectors (n, width) by layers that read them; of pairs, whose vectors are those of `paired`, by what
    the layers make of each text."""
    if values.shape[-1] != 4 * width:
        return read(values)
    return paired(read(values[..., :width]), read(values[..., width : 2 * width]))


def first_places(width: int, vector: int, size: int) -> Tensor:
    """The places of features (width,) that are among the first `size` numbers of a vector, which features hold one or
    more of.

    >>> first_places(6, 3, 2).tolist()
    [0, 1, 3, 4]
    """
    places = torch.arange(width)
    return places[places % vector < size]


def width_of(encoder: Encoder, definition: Definition) -> int:
    """The length of an encoder's vector of a row of a task; of each text where rows are pairs that it reads apart."""
    return encoder.features(definition) // (4 if encoder.reads_apart(definition) else 1)
