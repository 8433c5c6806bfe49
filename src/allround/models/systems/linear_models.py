"""Linear models on plain numbers, such as TF-IDF of words or standardised columns: one for each task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from allround.checkpoints.weights import Weights
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.core.schema import STRICT, fitted
from allround.models.per_task import PerTask
from allround.models.plain.linear import TaskLinear, reader_of
from allround.models.plain.reader import check_array
from allround.tasks.definition import Definition

#: The file of the models.
FILE = "linear.safetensors"


@method(source="ridge regression: Hoerl and Kennard, Technometrics 12, 1970; logistic regression: Cox, JRSS B 20, 1958")
class LinearModels(PerTask[TaskLinear]):
    """A linear model for each task on its own; tasks share nothing.

    Texts are read as TF-IDF of words and of short strings of characters, tables as standardised columns, images as
    pixels, and words that are tagged by how they are written and what stands beside them. Made by
    `allround.models.plain.fit.fit_linear`.
    """

    sort = "linear_models"

    @property
    def noun(self) -> str:
        return "system of linear models"

    def write(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        tensors: dict[str, np.ndarray] = {}
        about: dict[str, Any] = {}
        for name, one in self.tasks.items():
            reader, arrays = one.reader.written()
            about[name] = {"reader": reader, "classes": list(one.classes)}
            for part, array in {"weight": one.weight, "bias": one.bias, **_named(arrays)}.items():
                tensors[f"{name}.{part}"] = np.ascontiguousarray(array)
        save_file(tensors, folder / FILE)
        self.write_manifest(folder, linear=about)

    @classmethod
    def read(cls, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> LinearModels:
        weights = Weights(folder / FILE)
        found: dict[str, TaskLinear] = {}
        try:
            about = fitted(dict[str, _About], facts["linear"])
            if set(about) != set(definitions):
                raise ValueError("it does not list the models of all tasks")
            arrays: dict[str, dict[str, np.ndarray]] = {name: {} for name in definitions}
            for name in weights:
                task, _, part = name.rpartition(".")
                if task not in arrays:
                    raise ValueError(f"'{name}' is of no task")
                arrays[task][part] = weights.get(name).numpy()
            for name, definition in definitions.items():
                try:
                    found[name] = _task_linear(definition, about[name], arrays[name])
                except (KeyError, TypeError, ValueError) as error:
                    raise ValueError(f"of '{name}', {error}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise AllroundError(
                f"load the linear models in {folder}", f"they are damaged: {error}", "copy the folder again, whole"
            ) from error
        made = cls(found)
        made.facts = {name: value for name, value in facts.items() if name != "linear"}
        return made


@dataclass(frozen=True)
class _About:
    """What the manifest says of the model of a task."""

    __pydantic_config__ = STRICT

    reader: dict[str, Any]
    classes: tuple[int, ...]


def _named(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"reader_{name}": array for name, array in arrays.items()}


def _task_linear(definition: Definition, about: _About, arrays: Mapping[str, np.ndarray]) -> TaskLinear:
    sort = reader_of(definition)
    if sort is None:
        raise ValueError("a linear model cannot answer such a task")
    own = {name: array for name, array in arrays.items() if name not in ("weight", "bias")}
    strange = [name for name in own if not name.startswith("reader_")]
    if strange:
        raise ValueError(f"it has '{strange[0]}'")
    reader = sort.read(about.reader, {name.removeprefix("reader_"): array for name, array in own.items()}, definition)
    shapes = {name: arrays[name].shape for name in ("weight", "bias")}
    weight, bias = (check_array(arrays, name, shape) for name, shape in shapes.items())
    made = TaskLinear(definition, reader, weight, bias, about.classes)
    made.check()
    return made
