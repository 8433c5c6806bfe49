"""Trees: gradient-boosted decision trees, some for each task on a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from allround.checkpoints.weights import Weights
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.core.schema import STRICT, fitted
from allround.models.boosting import TaskTrees
from allround.models.forest import Forest
from allround.models.per_task import PerTask
from allround.models.table_columns import Column
from allround.tasks.definition import Definition

#: The file of the trees.
FILE = "trees.safetensors"


@method(source="Friedman, Annals of Statistics 29, 2001; histograms as in LightGBM: Ke et al., NeurIPS 2017")
class Trees(PerTask[TaskTrees]):
    """Boosted trees for each task on its own; tasks share nothing.

    Numbers, categories (texts), dates and missing values are read as they come; a category that training did not see
    counts as missing. Made by `allround.models.boosting.fit_trees`.
    """

    sort = "trees"

    @property
    def noun(self) -> str:
        return "system of trees"

    def write(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        tensors: dict[str, np.ndarray] = {}
        about: dict[str, Any] = {}
        for name, one in self.tasks.items():
            about[name] = {
                "columns": [asdict(column) for column in one.columns],
                "order": list(one.order),
                "constant": list(one.constant),
                "classes": list(one.classes),
                "forests": [forest is not None for forest in one.forests],
            }
            for number, forest in enumerate(one.forests):
                if forest is not None:
                    for part in fields(forest):
                        tensors[f"{name}.{number}.{part.name}"] = np.ascontiguousarray(getattr(forest, part.name))
        save_file(tensors, folder / FILE)
        self.write_manifest(folder, trees=about)

    @classmethod
    def read(cls, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> Trees:
        found: dict[str, TaskTrees] = {}
        weights = Weights(folder / FILE)
        try:
            about = fitted(dict[str, dict[str, Any]], facts["trees"])
            if set(about) != set(definitions):
                raise ValueError("it does not list the trees of all tasks")
            for name, definition in definitions.items():
                one = fitted(_About, about[name])
                forests = []
                for number, there in enumerate(one.forests):
                    forests.append(_forest(weights, f"{name}.{number}.", len(one.order)) if there else None)
                columns = tuple(Column(column.sort, tuple(column.categories)) for column in one.columns)
                found[name] = TaskTrees(
                    definition, columns, tuple(one.order), tuple(forests), tuple(one.constant), tuple(one.classes)
                )
                try:
                    found[name].check()
                except ValueError as error:
                    raise ValueError(f"of '{name}', {error}") from None
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise AllroundError(
                f"load the trees in {folder}", f"they are damaged: {error}", "copy the folder again, whole"
            ) from error
        made = cls(found)
        made.facts = {name: value for name, value in facts.items() if name != "trees"}
        return made


@dataclass(frozen=True)
class _About:
    """What the manifest says of the trees of a task."""

    __pydantic_config__ = STRICT

    columns: list[Column]
    order: list[int]
    constant: list[float]
    classes: list[int]
    forests: list[bool]


def _forest(weights: Weights, prefix: str, columns: int) -> Forest:
    arrays = {part.name: weights.get(prefix + part.name).numpy() for part in fields(Forest)}
    wanted = {"value": "f8", "threshold": "f8", "base": "f8", "missing": "u1", "sets": "u1"}
    for name, array in arrays.items():
        if array.dtype != np.dtype(wanted.get(name, "i8")):
            raise ValueError(f"'{prefix}{name}' is of type {array.dtype}")
    made = Forest(**arrays)
    made.check(columns)
    return made
