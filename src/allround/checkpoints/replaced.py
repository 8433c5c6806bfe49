"""A base in which some tensors are others, those of a file: a tuned model without what it shares with its base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from allround.checkpoints.source import Source
from allround.checkpoints.tied import Untied, twins_of
from allround.checkpoints.weights import Weights
from allround.core.errors import AllroundError

if TYPE_CHECKING:
    from torch import Tensor

#: The file of the tensors, in a folder of its own.
REPLACED = "replaced.safetensors"


class Replaced(Source):
    """A base with the tensors of a file in the place of its own.

    An output layer that the base ties to its embedding may be among them; it is then a tensor of this source.
    Errors: tensors that the base lacks, or that have another shape there.
    """

    def __init__(self, base: Source, file: Path) -> None:
        self.weights = Weights(file)
        asked = f"put the tensors of {file} into {base.path}"
        missing = [name for name in self.weights if name not in base]
        twins = twins_of(base, asked) if missing else {}
        odd = [name for name in missing if name not in twins]
        self.inner = Untied(base, {name: twins[name] for name in missing}) if missing and not odd else base
        differ = [n for n in self.weights if n not in odd and self.weights.shape(n) != self.inner.shape(n)]
        if odd or differ:
            name = (odd or differ)[0]
            shapes = "" if odd else f": {self.weights.shape(name)}, and {self.inner.shape(name)} there"
            found = f"'{name}' {'is not in the base' if odd else 'has another shape than in the base'}{shapes}"
            raise AllroundError(asked, found, "give the base that the model was tuned from")
        self.path = base.path

    def __iter__(self) -> Iterator[str]:
        return iter(self.inner)

    def __contains__(self, name: object) -> bool:
        return name in self.inner

    def _holder(self, name: str) -> Source:
        return self.weights if name in self.weights else self.inner

    def shape(self, name: str) -> tuple[int, ...]:
        return self.inner.shape(name)

    def dtype(self, name: str) -> str:
        return self._holder(name).dtype(name)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        values = self._holder(name).read(name, start, stop)
        if self.watch is not None:
            self.watch(name, start, values)
        return values

    def announce(self, name: str) -> None:
        self._holder(name).announce(name)

    @property
    def files(self) -> list[Path]:
        return [*self.inner.files, *self.weights.files]


def differing(base: Source, tuned: Source, names: Sequence[tuple[str, str]], step: int = 1 << 22) -> list[str]:
    """The tensors of a base that have other values in a tuned model. names: of each, what the two call it."""
    import torch

    found = []
    for name, there in names:
        size = base.numel(name)
        for start in range(0, size, step):
            stop = min(start + step, size)
            one, two = base.read(name, start, stop), tuned.read(there, start, stop)
            wide = torch.promote_types(one.dtype, two.dtype)
            if not torch.equal(one.to(wide), two.to(wide)):
                found.append(name)
                break
    return found


def write_tensors(path: Path, tuned: Source, names: Mapping[str, str], asked: str) -> None:
    """Write tensors of a model as they are. names: what they are called in the file -> in the model.

    Errors: numbers that are not finite.
    """
    from allround.checkpoints.finite import count_odd, odd_words
    from allround.checkpoints.write import write_weights

    def read(there: str) -> Tensor:
        values = tuned.get(there)
        if count_odd(values):
            raise AllroundError(asked, f"'{there}' in it holds {odd_words(values)}", "tune it again, or leave it out")
        return values

    plan = {name: (tuned.dtype(there), tuned.shape(there)) for name, there in names.items()}
    write_weights(path, plan, ((name, read(there)) for name, there in names.items()), {"format": "pt"})
