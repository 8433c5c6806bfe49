"""A transformer over the columns of a table, with a token for each task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.core.files import write_json
from allround.core.registry import method
from allround.models.batch import Batch, Features
from allround.models.encoder import CONFIG, Encoder, load_tensors, save_tensors
from allround.models.table_inputs import STRETCHES, columns_for, read_rows, size_of
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.values import Row

#: Deviation of what tokens begin at.
START = 0.1


@method(
    source="the layout of Armanfard-Lab/MultiTab, read for facts: a token for each column and task, masked attention",
    paper="MultiTab: A Scalable Foundation for Multitask Learning on Tabular Data",
    builtin=True,
)
class Multitab(Encoder):
    """A token for each column and one for each task; a task reads columns, and nothing reads a task but itself.

    Shapes: rows of the columns it was made for -> features (n, width) of each task: its token behind the last block.
    Differs: numbers enter in pieces, as in `small_table`; rows do not attend to each other, so that an answer does not
    depend on its batch; the last block computes tasks' tokens alone, since nothing reads the columns behind it. It
    begins at random, as it is made for labels. A task that it was not made for begins at the token of all tasks.
    """

    name = "multitab"
    modalities = ("table",)
    learning_rate = 1e-3
    epochs = 10
    by_task = True
    sizes: ClassVar[Mapping[str, Mapping[str, object]]] = {"32x2": {}, "16x1": {"width": 16, "depth": 1}}

    def __init__(
        self,
        *,
        columns: Sequence[Mapping[str, Any]],
        tasks: Sequence[str] = (),
        width: int = 32,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.columns = [dict(c) for c in columns]
        self.width, self.depth, self.heads, self.dropout = width, depth, heads, dropout
        self.sizes_of_columns = list(map(size_of, self.columns))
        self.values = nn.Parameter(torch.randn(sum(self.sizes_of_columns), width) * START)
        self.places = nn.Parameter(torch.randn(len(self.columns), width) * START)
        #: Of a task that comes, and of one that there is no room for.
        self.register_buffer("start", torch.randn(width) * START)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.last = nn.LayerNorm(width)
        self.tokens = nn.ParameterList()
        self.tasks: list[str] = []
        for task in tasks:
            self.add_task(task)

    def features(self, definition: Definition) -> int:
        return self.width

    @property
    def preparation(self) -> object:
        return [self.name, self.columns]

    def prepare(self, inputs: Sequence[Row], definition: Definition, targets: Encoded | None = None) -> list[Tensor]:
        self.check(definition)
        return list(read_rows(self.columns, inputs, definition))

    def collate(self, prepared: Sequence[Tensor], definition: Definition, targets: Encoded | None = None) -> Batch:
        rows = {definition.name: tuple(range(len(prepared)))}
        return Batch({"rows": torch.stack(list(prepared))}, len(prepared), rows=rows)

    def forward(self, batch: Batch) -> Features:
        """Features of a batch: those of the tasks that it asks, side by side."""
        asked = tuple(batch.rows)
        columns = self.tokens_of(batch.tensors["rows"])
        found = [self.token(task).expand(columns.shape[0], 1, self.width) for task in asked]
        for number, block in enumerate(self.blocks):
            # The columns do not see tasks, and a task sees itself alone beside them: so they are apart.
            found = [block(one, columns) for one in found]
            if number < self.depth - 1:
                columns = block(columns, None)
        values = torch.cat([self.last(one.squeeze(1)) for one in found], -1)
        return Features(values, tasks=asked if len(asked) > 1 else ())

    def tokens_of(self, rows: Tensor) -> Tensor:
        """The tokens of columns: (n, inputs) -> (n, columns, width)."""
        parts = zip(rows.split(self.sizes_of_columns, 1), self.values.split(self.sizes_of_columns), strict=True)
        return torch.stack([inputs @ values for inputs, values in parts], 1) + self.places

    def token(self, task: str) -> Tensor:
        """Where a task begins: (width,)."""
        if task in self.tasks:
            found: Tensor = self.tokens[self.tasks.index(task)]
            return found
        return self.get_buffer("start")

    def add_task(self, task: str) -> None:
        if task not in self.tasks:
            self.tasks.append(task)
            self.tokens.append(nn.Parameter(self.get_buffer("start").clone()))

    def own(self, task: str) -> dict[str, nn.Parameter]:
        return {f"tokens.{self.tasks.index(task)}": self.tokens[self.tasks.index(task)]} if task in self.tasks else {}

    def write_rows(self, folder: Path) -> tuple[str, dict[str, object]]:
        return self.name, {"columns": self.columns, "width": self.width, "heads": self.heads}

    @classmethod
    def rows_from(cls, folder: Path, settings: Mapping[str, Any]) -> Multitab:
        return cls(**settings)

    def save(self, folder: Path) -> None:
        save_tensors(self, folder / "model.safetensors")
        settings = {"columns": self.columns, "tasks": self.tasks, "width": self.width, "depth": self.depth,
                    "heads": self.heads, "dropout": self.dropout}  # fmt: skip
        write_json(folder / CONFIG, {"encoder": self.name, "settings": settings})

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> Multitab:
        encoder = cls(**settings)
        load_tensors(encoder, folder / "model.safetensors")
        return encoder

    @classmethod
    def create(
        cls,
        inputs: Sequence[Row],
        definition: Definition,
        seed: int,
        *,
        width: int = 32,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        stretches: int = STRETCHES,
    ) -> Multitab:
        """A transformer for the columns of these rows, at random.

        width: of tokens; `heads` divides it. depth: blocks. dropout: share of numbers that training leaves out behind
        attention and in blocks. stretches: most pieces of a number; with 0 it is standardised and no more.
        """
        whole = {"width": (width, 1), "depth": (depth, 1), "heads": (heads, 1), "stretches": (stretches, 0)}
        for name, (value, low) in whole.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise _wrong(name, value, f"it must be a whole number of at least {low}")
        if not isinstance(dropout, int | float) or isinstance(dropout, bool) or not 0 <= dropout < 1:
            raise _wrong("dropout", dropout, "it must be a share of at least 0 and below 1")
        if width % heads:
            raise _wrong("heads", heads, f"it must divide the width, {width}")
        columns = columns_for(inputs, definition, stretches)
        torch.manual_seed(seed)
        return cls(columns=columns, width=width, depth=depth, heads=heads, dropout=dropout).eval()


class Block(nn.Module):
    """Attention and a perceptron, each behind a normalisation and added to what came.

    Tokens read each other; given columns too, each token reads these and itself alone.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.read = nn.Linear(width, 3 * width)
        self.write = nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor, columns: Tensor | None) -> Tensor:
        """(n, k, width), columns (n, c, width) -> (n, k, width). With columns, k is 1."""
        query, *own = self._parts(tokens)
        read = own if columns is None else [
            torch.cat([one, more], 2) for one, more in zip(own, self._parts(columns)[1:], strict=True)
        ]  # fmt: skip
        key, value = read
        weights = (query @ key.transpose(-1, -2) / math.sqrt(key.shape[-1])).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        tokens = tokens + self._dropped(self.write(mixed))
        hidden = self._dropped(torch.nn.functional.gelu(self.wide(self.between(tokens))))
        found: Tensor = tokens + self._dropped(self.narrow(hidden))
        return found

    def _parts(self, tokens: Tensor) -> list[Tensor]:
        """Queries, keys and values of each head: 3 x (n, heads, k, width / heads)."""
        made = self.read(self.before(tokens)).unflatten(-1, (3, self.heads, -1))
        return [part.transpose(1, 2) for part in made.unbind(-3)]

    def _dropped(self, values: Tensor) -> Tensor:
        return torch.nn.functional.dropout(values, self.dropout, self.training) if self.dropout else values


def _wrong(name: str, value: object, found: str) -> AllroundError:
    return AllroundError(f"make a multitab with {name}={value!r}", found, f"leave {name} out, or give another")
