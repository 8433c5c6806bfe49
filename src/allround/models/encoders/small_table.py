"""A small net for rows of numbers and categories, pretrained on the spot without labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.core.files import write_json
from allround.core.registry import method
from allround.models.batch import Batch, Features
from allround.models.encoder import CONFIG, Encoder, load_tensors, save_tensors
from allround.tasks.definition import Definition
from allround.tasks.values import Row


@method(
    source="pretraining as Vincent et al., ICML 2008 (denoising autoencoder): restore columns that were blanked",
    builtin=True,
)
class SmallTable(Encoder):
    """Standardised numbers and one-hot categories, then two hidden layers.

    Shapes: rows of the columns it was made for -> features (n, width + inputs): the last hidden layer beside the
    standardised inputs, so that linear heads start no worse than a linear model. A missing value becomes the
    mean (numbers) or no category, and is flagged by an input of its own.
    """

    name = "small_table"
    modalities = ("table",)
    learning_rate = 2e-3
    epochs = 10

    def __init__(self, *, columns: Sequence[Mapping[str, Any]], width: int = 128) -> None:
        super().__init__()
        self.columns = [dict(c) for c in columns]
        self.width = width
        self.inputs = sum(2 if "mean" in c else len(c["categories"]) for c in self.columns)
        self.layers = nn.Sequential(
            nn.Linear(self.inputs, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )

    def features(self, definition: Definition) -> int:
        return self.width + self.inputs

    @property
    def preparation(self) -> object:
        return [self.name, self.columns]

    def prepare(self, inputs: Sequence[Row], definition: Definition) -> list[Tensor]:
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
        order = [definition.inputs.index(c["name"]) for c in self.columns]
        return [torch.tensor(self._row([row[i] for i in order])) for row in inputs]

    def _row(self, values: Sequence[Any]) -> list[float]:
        numbers: list[float] = []
        for column, value in zip(self.columns, values, strict=True):
            absent = value is None or (isinstance(value, float) and math.isnan(value))
            if "mean" in column:
                numbers += [0.0, 1.0] if absent else [(_number(value, column) - column["mean"]) / column["scale"], 0.0]
            else:
                numbers += [float(str(value) == category and not absent) for category in column["categories"]]
        return numbers

    def collate(self, prepared: Sequence[Tensor], definition: Definition) -> Batch:
        return Batch({"rows": torch.stack(list(prepared))}, len(prepared))

    def forward(self, batch: Batch) -> Features:
        rows = batch.tensors["rows"]
        return Features(torch.cat([self.layers(rows), rows], -1))

    def save(self, folder: Path) -> None:
        save_tensors(self, folder / "model.safetensors")
        settings = {"columns": self.columns, "width": self.width}
        write_json(folder / CONFIG, {"encoder": self.name, "settings": settings})

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> SmallTable:
        encoder = cls(**settings)
        load_tensors(encoder, folder / "model.safetensors")
        return encoder

    @classmethod
    def create(cls, inputs: Sequence[Row], definition: Definition, seed: int) -> SmallTable:
        """A net that learned to restore blanked columns of these rows (400 steps of 128 rows)."""
        columns = [_column(n, [row[i] for row in inputs]) for i, n in enumerate(definition.inputs)]
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        encoder = cls(columns=columns)
        rows = torch.stack(encoder.prepare(inputs, definition))
        restore = nn.Linear(encoder.width, encoder.inputs)
        optimiser = torch.optim.AdamW([*encoder.parameters(), *restore.parameters()], lr=2e-3)
        for _ in range(400):
            batch = rows[torch.randint(len(rows), (min(128, len(rows)),), generator=generator)]
            blank = torch.rand(batch.shape, generator=generator) < 0.3
            loss = (restore(encoder.layers(batch.masked_fill(blank, 0))) - batch)[blank].square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return encoder.eval()


def _number(value: Any, column: Mapping[str, Any]) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise AllroundError(
            f"read the column '{column['name']}'",
            f"{value!r} is not a number, and the column holds numbers",
            "give a number, or nothing where it is missing",
        ) from None


def _column(name: str, values: Sequence[Any]) -> dict[str, Any]:
    there = [v for v in values if v is not None and not (isinstance(v, float) and math.isnan(v))]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in there):
        numbers = torch.tensor([float(v) for v in there] or [0.0], dtype=torch.float64)
        return {"name": name, "mean": float(numbers.mean()), "scale": float(numbers.std(correction=0)) or 1.0}
    counts: dict[str, int] = {}
    for value in there:
        counts[str(value)] = counts.get(str(value), 0) + 1
    # The most frequent hundred; rarer ones share the all-zero code with missing values.
    return {"name": name, "categories": sorted(sorted(counts, key=lambda c: (-counts[c], c))[:100])}
