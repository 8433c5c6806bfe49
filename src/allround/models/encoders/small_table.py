"""A small net for rows of numbers, dates and categories, pretrained on the spot without labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.core.files import write_json
from allround.core.registry import method
from allround.models.batch import Batch, Features
from allround.models.encoder import CONFIG, Encoder, load_tensors, save_tensors
from allround.models.table_columns import column_of, moments
from allround.tasks.cells import codes_of, columns_of, counts_of, numbers_in
from allround.tasks.column_types import ColumnType
from allround.tasks.dates import PARTS
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.values import Row, is_missing

#: Stretches into which the training values of a column of numbers are cut, with as many values in each.
STRETCHES = 16
#: Most categories of a column; rarer ones share the all-zero code with missing values.
CATEGORIES = 100
#: Standardised numbers lie between -FAR and FAR.
FAR = 10.0
#: Share of hidden numbers that training leaves out at random.
DROPOUT = 0.2
#: What may be set, as type and lowest value.
_LOWEST: dict[str, tuple[type, float]] = {"width": (int, 1), "depth": (int, 1), "dropout": (float, 0),
                                          "stretches": (int, 0)}  # fmt: skip
#: Steps of pretraining, rows of each, and the share of columns that are blanked.
STEPS, ROWS, BLANK = 400, 128, 0.3


@method(
    source="pretraining as Vincent et al., ICML 2008 (denoising autoencoder): restore columns that were blanked; "
    "piecewise linear numbers as Gorishniy et al., NeurIPS 2022, arXiv:2203.05556",
    builtin=True,
)
class SmallTable(Encoder):
    """Numbers in pieces and one-hot categories, then hidden layers: two, if nothing else is asked for.

    Shapes: rows of the columns it was made for -> features (n, width + inputs): the last hidden layer beside the
    inputs, so that linear heads start no worse than a linear model. A number is standardised, and beside that cut at
    quantiles of its training values: each stretch says which part of it lies below the number, from -0.5 to 0.5. A date
    is read as the numbers of `date_numbers`. A missing value becomes the mean (numbers) or no category, and is flagged
    by an input of its own. Encoders of earlier versions, whose columns have no `edges`, read numbers without stretches.
    """

    name = "small_table"
    modalities = ("table",)
    learning_rate = 2e-3
    epochs = 10
    sizes: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "128x2": {},
        "256x2, dropout 0.4": {"width": 256, "dropout": 0.4},
        "64x1, numbers whole": {"width": 64, "depth": 1, "stretches": 0},
    }

    def __init__(
        self, *, columns: Sequence[Mapping[str, Any]], width: int = 128, dropout: float = 0.0, depth: int = 2
    ) -> None:
        super().__init__()
        self.columns = [dict(c) for c in columns]
        self.width, self.dropout, self.depth = width, dropout, depth
        self.inputs = sum(map(_size, self.columns))
        first = [nn.Linear(self.inputs, width), nn.LayerNorm(width), nn.ReLU()]
        rest = [layer for _ in range(depth - 1) for layer in (nn.Linear(width, width), nn.ReLU())]
        self.layers = nn.Sequential(*first, *rest)

    def features(self, definition: Definition) -> int:
        return self.width + self.inputs

    @property
    def preparation(self) -> object:
        return [self.name, self.columns]

    def prepare(self, inputs: Sequence[Row], definition: Definition, targets: Encoded | None = None) -> list[Tensor]:
        self.check(definition)
        names = {c["name"]: i for i, c in enumerate(self.columns)}
        missing = [c for c in names if c not in definition.inputs]
        if missing or len(definition.inputs) != len(names):
            extra = [c for c in definition.inputs if c not in names]
            raise AllroundError(
                f"read the columns of task '{definition.name}'",
                f"the encoder was made for {len(names)} columns; lacking {missing[:5]}, unknown {extra[:5]}",
                "give every task of a table suite the same input columns",
            )
        return list(self._read(inputs, definition))

    def _read(self, inputs: Sequence[Row], definition: Definition) -> Tensor:
        """Rows as inputs: (n, inputs)."""
        found = np.zeros((len(inputs), self.inputs), np.float32)
        cells, start = columns_of(inputs, len(definition.inputs)), 0
        for column in self.columns:
            read = _read(column, cells[definition.inputs.index(column["name"])])
            found[:, start : start + read.shape[1]] = read
            start += read.shape[1]
        return torch.from_numpy(found)

    def collate(self, prepared: Sequence[Tensor], definition: Definition, targets: Encoded | None = None) -> Batch:
        return Batch({"rows": torch.stack(list(prepared))}, len(prepared))

    def forward(self, batch: Batch) -> Features:
        rows = batch.tensors["rows"]
        return Features(torch.cat([self.hidden(rows), rows], -1))

    def hidden(self, rows: Tensor) -> Tensor:
        """The last hidden layer of rows: (n, inputs) -> (n, width)."""
        if not self.dropout or not self.training:
            found: Tensor = self.layers(rows)
            return found
        for layer in self.layers:
            rows = layer(rows)
            if isinstance(layer, nn.ReLU):
                rows = nn.functional.dropout(rows, self.dropout)
        return rows

    def save(self, folder: Path) -> None:
        save_tensors(self, folder / "model.safetensors")
        settings: dict[str, Any] = {"columns": self.columns, "width": self.width}
        if self.dropout:
            settings["dropout"] = self.dropout
        if self.depth != 2:
            settings["depth"] = self.depth
        write_json(folder / CONFIG, {"encoder": self.name, "settings": settings})

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> SmallTable:
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
        width: int = 128,
        depth: int = 2,
        dropout: float = DROPOUT,
        stretches: int = STRETCHES,
    ) -> SmallTable:
        """A net that learned to restore blanked columns of these rows.

        width, depth: of the hidden layers. dropout: share of hidden numbers that training leaves out. stretches: most
        pieces of a number; with 0 it is standardised and no more.
        """
        _check(width=width, depth=depth, dropout=dropout, stretches=stretches)
        types = definition.columns or (None,) * len(definition.inputs)
        columns = [
            _column(name, cells, type_, stretches)
            for name, cells, type_ in zip(
                definition.inputs, columns_of(inputs, len(definition.inputs)), types, strict=True
            )
        ]
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        encoder = cls(columns=columns, width=width, dropout=dropout, depth=depth)
        rows = encoder._read(inputs, definition)
        sizes = torch.tensor([_size(column) for column in columns])
        restore = nn.Linear(encoder.width, encoder.inputs)
        optimiser = torch.optim.AdamW([*encoder.parameters(), *restore.parameters()], lr=2e-3)
        for _ in range(STEPS):
            batch = rows[torch.randint(len(rows), (min(ROWS, len(rows)),), generator=generator)]
            hidden = torch.rand((len(batch), len(columns)), generator=generator) < BLANK
            blank = hidden.repeat_interleave(sizes, 1)
            if not blank.any():
                continue
            loss = (restore(encoder.layers(batch.masked_fill(blank, 0))) - batch)[blank].square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return encoder.eval()


def _check(**settings: float) -> None:
    """An error for a size that no net can have."""
    for name, value in settings.items():
        kind, low = _LOWEST[name]
        wrong = not isinstance(value, int | kind) or isinstance(value, bool) or not low <= value < math.inf
        if wrong or (name == "dropout" and value >= 1):
            most = " and below 1" if name == "dropout" else ""
            raise AllroundError(
                f"make a small_table with {name}={value!r}",
                f"{name} must be {'a whole number' if kind is int else 'a share'} of at least {low}{most}",
                f"leave {name} out, or give another",
            )


def _size(column: Mapping[str, Any]) -> int:
    """How many inputs a column has."""
    if "categories" in column:
        return len(column["categories"])
    if "parts" in column:
        return sum(_size(part) - 1 for part in column["parts"]) + 1
    return 2 + max(0, len(column.get("edges", ())) - 1)


def _read(column: Mapping[str, Any], values: Sequence[Any]) -> np.ndarray:
    """A column as inputs: (n, size), float32."""
    if "categories" in column:
        places = {category: place for place, category in enumerate(column["categories"])}
        found = np.zeros((len(values), len(places)), np.float32)
        codes = codes_of(values, places)
        there = np.flatnonzero(codes >= 0)
        found[there, codes[there]] = 1.0
        return found
    if "parts" in column:
        numbers = moments(values)
        parts = [_pieces(part, numbers[:, place]) for place, part in enumerate(column["parts"])]
        return np.concatenate([*(part[:, :-1] for part in parts), parts[0][:, -1:]], 1)
    numbers = numbers_in(values)
    if numbers is None:
        numbers = np.array([math.nan if is_missing(v) else _number(v, column) for v in values], np.float64)
    return _pieces(column, numbers)


def _pieces(column: Mapping[str, Any], values: np.ndarray) -> np.ndarray:
    """Numbers standardised, then the part of each stretch that lies below them, then whether they are missing."""
    gone = np.isnan(values)
    filled = np.where(gone, column["mean"], values)
    if "edges" in column:
        filled = filled.clip(column["mean"] - FAR * column["scale"], column["mean"] + FAR * column["scale"])
    standard = (filled - column["mean"]) / column["scale"]
    edges = np.asarray(column.get("edges", ()), np.float64)
    parts = np.zeros((len(values), 0))
    if len(edges) > 1:
        near = filled.clip(edges[0], edges[-1])
        parts = ((near[:, None] - edges[:-1]) / np.diff(edges)).clip(0, 1) - 0.5
        parts[gone] = 0.0
    with np.errstate(over="ignore"):  # columns of earlier versions know no farthest number; answers to them are refused
        return np.concatenate([standard[:, None], parts, gone[:, None]], 1).astype(np.float32)


def _number(value: Any, column: Mapping[str, Any]) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise AllroundError(
            f"read the column '{column['name']}'",
            f"{value!r} is not a number, and the column holds numbers",
            "give a number, or nothing where it is missing",
        ) from None


def _column(
    name: str, values: Sequence[Any], type: ColumnType | None = None, stretches: int = STRETCHES
) -> dict[str, Any]:
    """How a column is read, as plain data. type: as the definition of the task has it."""
    column = column_of(values, type)
    if column.sort == "category":
        counts = counts_of(values)
        return {"name": name, "categories": sorted(sorted(counts, key=lambda c: (-counts[c], c))[:CATEGORIES])}
    if column.sort == "moment":
        numbers = moments(values)
        return {"name": name, "parts": [_stretches(numbers[:, place], stretches) for place in range(len(PARTS))]}
    numbers = column.numbers(values)
    return {"name": name, **_stretches(numbers, stretches)}


def _stretches(values: np.ndarray, count: int) -> dict[str, Any]:
    """The mean and scale of numbers, and the edges of stretches with as many of them in each; of few different numbers,
    the numbers themselves."""
    there = values[np.isfinite(values)]
    if not len(there):
        return {"mean": 0.0, "scale": 1.0, "edges": []}
    edges = np.unique(there) if count else there[:0]
    if len(edges) > count + 1:
        edges = np.unique(np.quantile(there, np.linspace(0, 1, count + 1)))
    return {"mean": float(there.mean()), "scale": float(there.std()) or 1.0, "edges": edges.tolist()}
