"""What the merge engine reads: named tensors, any stretch of any of them, whatever lies behind."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    #: Told the name of a tensor, the first element of a stretch that is read, and its values.
    Watch = Callable[[str, int, Tensor], None]


class Source(ABC):
    """Named tensors that are read in stretches: a checkpoint, or a base with an adapter on it.

    Nothing is kept between calls, every method may be called from several threads, and a source can be pickled.
    """

    path: Path
    #: Called with the name, the first element and the values of every stretch that is read, where it is set.
    watch: Watch | None = None

    @abstractmethod
    def __iter__(self) -> Iterator[str]: ...

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]: ...

    @abstractmethod
    def dtype(self, name: str) -> str:
        """The dtype as safetensors writes it: F32, BF16, I64, ..."""

    @abstractmethod
    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """The elements from `start` to `stop` of a tensor laid out in a row: shape (stop - start,)."""

    @property
    @abstractmethod
    def files(self) -> list[Path]:
        """The files that its weights come from."""

    def change(self, name: str, start: int, stop: int, base: Tensor, out: Tensor) -> None:
        """Put into `out` how far the elements from `start` to `stop` are from `base`, those of another model.

        Shapes: base, out (stop - start,), in the dtype that is computed in.
        """
        out.copy_(self.read(name, start, stop)).sub_(base)

    def announce(self, name: str) -> None:  # noqa: B027 (most have nothing to do)
        """Say that a tensor will be read soon, so that it comes from the disk in the meantime."""

    def get(self, name: str) -> Tensor:
        """A whole tensor in its shape. Each call reads it anew."""
        return self.read(name).reshape(self.shape(name))

    def numel(self, name: str) -> int:
        return math.prod(self.shape(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return any(name == known for known in self)
