"""A small net for rows of numbers, dates and categories, pretrained on the spot without labels."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.core.files import write_json
from allround.core.registry import method
from allround.models.batch import Batch, Features
from allround.models.encoder import CONFIG, Encoder, load_tensors, save_tensors
from allround.models.shrinking.anatomy import Anatomy, Group, Kept, cut, kept_of
from allround.models.table_inputs import STRETCHES, columns_for, read_rows, size_of
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.values import Row

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
    frequent values and at quantiles of the others: each stretch says which part of it lies below the number, from -0.5
    to 0.5. A date is read as the numbers of `date_numbers`. A missing value becomes the mean (numbers) or no category,
    and is flagged by an input of its own. Encoders of earlier versions, whose columns have no `edges`, read numbers
    without stretches.
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
        self,
        *,
        columns: Sequence[Mapping[str, Any]],
        width: int = 128,
        dropout: float = 0.0,
        depth: int = 2,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.columns = [dict(c) for c in columns]
        self.width, self.dropout, self.depth = width, dropout, depth
        self.hidden_units = width if hidden is None or depth == 1 else hidden
        self.inputs = sum(map(size_of, self.columns))
        sizes = [self.hidden_units] * (depth - 1) + [width]
        first = [nn.Linear(self.inputs, sizes[0]), nn.LayerNorm(sizes[0]), nn.ReLU()]
        rest = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.layers = nn.Sequential(*first, *rest)

    def features(self, definition: Definition) -> int:
        return self.width + self.inputs

    @property
    def preparation(self) -> object:
        return [self.name, self.columns]

    def prepare(self, inputs: Sequence[Row], definition: Definition, targets: Encoded | None = None) -> list[Tensor]:
        self.check(definition)
        return list(read_rows(self.columns, inputs, definition))

    def collate(self, prepared: Sequence[Tensor], definition: Definition, targets: Encoded | None = None) -> Batch:
        return Batch({"rows": torch.stack(list(prepared))}, len(prepared))

    def forward(self, batch: Batch) -> Features:
        rows = batch.tensors["rows"]
        return Features(torch.cat([self.hidden(rows), rows], -1))

    def stages(self) -> list[nn.Module]:
        """Each hidden layer with its activation, and dropout where it has one."""
        starts = [place for place, layer in enumerate(self.layers) if isinstance(layer, nn.Linear)]
        dropout = [nn.Dropout(self.dropout)] if self.dropout else []
        layers = list(self.layers)
        return [nn.Sequential(*layers[a:b], *dropout) for a, b in pairwise([*starts, len(layers)])]

    def entering(self, batch: Batch) -> Tensor:
        return batch.tensors["rows"]

    def leaving(self, batch: Batch, values: Tensor) -> Features:
        return Features(torch.cat([values, batch.tensors["rows"]], -1))

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

    def anatomy(self, length: float) -> Anatomy:
        """The units of all hidden layers but the last. Those of the first are normalised together, so the others change
        a little when some are removed."""
        places = [place for place, layer in enumerate(self.layers) if isinstance(layer, nn.Linear)]
        if len(places) == 1:
            return super().anatomy(length)
        made = []
        for number, (here, after) in enumerate(pairwise(places)):
            writes = (f"layers.{here}", *(["layers.1"] if here == 0 else []))
            made.append(Group(f"hidden.{number}", self.hidden_units, (f"layers.{after}",), writes, None, "hidden"))

        def work(kept: Kept) -> float:
            sizes = [self.inputs, *(len(kept_of(group, kept)) for group in made), self.width]
            return float(sum(one * other for one, other in pairwise(sizes)))

        return Anatomy(tuple(made), work)

    def smaller(self, kept: Kept) -> SmallTable:
        anatomy, own = self.anatomy(1.0), copy.deepcopy(self)
        anatomy.check(kept)
        for group in anatomy.groups:
            cut(own, group, kept_of(group, kept))
        made = SmallTable(columns=self.columns, width=self.width, dropout=self.dropout, depth=self.depth,
                          hidden=len(kept_of(anatomy.groups[0], kept)))  # fmt: skip
        made.load_state_dict(own.state_dict())
        return made.to(next(self.parameters()).device).eval()

    def write_rows(self, folder: Path) -> tuple[str, dict[str, object]]:
        return self.name, {"columns": self.columns, "width": self.width}

    @classmethod
    def rows_from(cls, folder: Path, settings: Mapping[str, Any]) -> SmallTable:
        return cls(**settings)

    def save(self, folder: Path) -> None:
        save_tensors(self, folder / "model.safetensors")
        settings: dict[str, Any] = {"columns": self.columns, "width": self.width}
        if self.dropout:
            settings["dropout"] = self.dropout
        if self.depth != 2:
            settings["depth"] = self.depth
        if self.hidden_units != self.width:
            settings["hidden"] = self.hidden_units
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
        columns = columns_for(inputs, definition, stretches)
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        encoder = cls(columns=columns, width=width, dropout=dropout, depth=depth)
        rows = read_rows(columns, inputs, definition)
        sizes = torch.tensor([size_of(column) for column in columns])
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
