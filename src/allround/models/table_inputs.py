"""How columns of a table become inputs of networks: standardised numbers in pieces, dates, one-hot categories."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.models.table_columns import column_of, moments
from allround.tasks.cells import codes_of, columns_of, counts_of, numbers_in
from allround.tasks.column_types import ColumnType
from allround.tasks.dates import PARTS
from allround.tasks.definition import Definition
from allround.tasks.values import Row, is_missing

#: Stretches into which the training values of a column of numbers are cut, with as many values in each.
STRETCHES = 16
#: Most categories of a column; rarer ones share the all-zero code with missing values.
CATEGORIES = 100
#: Standardised numbers lie between -FAR and FAR.
FAR = 10.0


def columns_for(inputs: Sequence[Row], definition: Definition, stretches: int = STRETCHES) -> list[dict[str, Any]]:
    """How each column of these training rows is read, as plain data."""
    types = definition.columns or (None,) * len(definition.inputs)
    every = columns_of(inputs, len(definition.inputs))
    return [
        column_for(name, cells, type_, stretches)
        for name, cells, type_ in zip(definition.inputs, every, types, strict=True)
    ]


def read_rows(columns: Sequence[Mapping[str, Any]], inputs: Sequence[Row], definition: Definition) -> Tensor:
    """Rows of a task as inputs: (n, sum of sizes). Errors: the task has other columns."""
    names = {c["name"] for c in columns}
    missing = [c["name"] for c in columns if c["name"] not in definition.inputs]
    if missing or len(definition.inputs) != len(names):
        extra = [c for c in definition.inputs if c not in names]
        raise AllroundError(
            f"read the columns of task '{definition.name}'",
            f"the encoder was made for {len(names)} columns; lacking {missing[:5]}, unknown {extra[:5]}",
            "give every task of a table suite the same input columns",
        )
    found = np.zeros((len(inputs), sum(map(size_of, columns))), np.float32)
    cells, start = columns_of(inputs, len(definition.inputs)), 0
    for column in columns:
        read = _read_column(column, cells[definition.inputs.index(column["name"])])
        found[:, start : start + read.shape[1]] = read
        start += read.shape[1]
    return torch.from_numpy(found)


def size_of(column: Mapping[str, Any]) -> int:
    """How many inputs a column has."""
    if "categories" in column:
        return len(column["categories"])
    if "parts" in column:
        return sum(size_of(part) - 1 for part in column["parts"]) + 1
    return 2 + max(0, len(column.get("edges", ())) - 1)


def _read_column(column: Mapping[str, Any], values: Sequence[Any]) -> np.ndarray:
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
    read = numbers_in(values)
    if read is None:
        read = np.array([math.nan if is_missing(v) else _number(v, column) for v in values], np.float64)
    return _pieces(column, read)


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


def column_for(
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
    """The mean and scale of numbers, and the edges of stretches: numbers that are more frequent than a stretch is long,
    and between them quantiles of all others. Of few different numbers, the numbers themselves."""
    there = values[np.isfinite(values)]
    if not len(there):
        return {"mean": 0.0, "scale": 1.0, "edges": []}
    edges, held = np.unique(there, return_counts=True)
    if not count:
        edges = edges[:0]
    elif len(edges) > count + 1:
        often = edges[held * count > len(there)]
        cuts = np.quantile(there[~np.isin(there, often)], np.linspace(0, 1, count - len(often) + 1))
        edges = np.unique([*often, *cuts])
    return {"mean": float(there.mean()), "scale": float(there.std()) or 1.0, "edges": edges.tolist()}
