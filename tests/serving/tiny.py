"""A tiny model of five tasks on texts, pairs and words, and requests to it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from allround.models.base import load_encoder
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite

#: The tasks of the model that read one text.
OF_TEXT = ("mood", "warmth", "topics")


def make_model(encoder: Path, suite: Suite) -> MultiTaskModel:
    """A model with random heads."""
    model = MultiTaskModel(load_encoder(encoder), {name: task.definition for name, task in suite.tasks.items()})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in suite.tasks:
            for parameter in model.head(name).parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    model.facts["scores"] = {"mood": {"metric": "accuracy", "test": 0.5, "low": 0.25, "high": 0.75, "rows": 10}}
    return model.eval()


def requests(suite: Suite, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Bodies of requests of all sorts: texts and objects, one task, some or all, with scores or without."""
    draw, found = random.Random(seed), []
    for number in range(count):
        rows = draw.randint(1, 4)
        task = suite.tasks[draw.choice(list(suite.tasks))]
        inputs: list[Any] = [dict(zip(task.definition.inputs, draw.choice(task.splits["test"].inputs), strict=True))
                             for _ in range(rows)]  # fmt: skip
        tasks: Any = [task.name]
        if task.name in OF_TEXT:
            tasks = draw.choice([[task.name], draw.sample(OF_TEXT, 2), "all", None])
            inputs = [row["text"] for row in inputs] if number % 2 else inputs
        found.append({"inputs": inputs, "tasks": tasks, "scores": draw.random() < 0.5})
    return found


def expected(model: MultiTaskModel, body: dict[str, Any]) -> list[dict[str, Any]]:
    """What `predict` answers to the rows of a request, by task."""
    texts = isinstance(body["inputs"][0], str)
    inputs = {name: d.inputs for name, d in model.definitions.items()}
    names = [name for name, own in inputs.items() if (len(own) == 1 if texts else own[0] in body["inputs"][0])]
    names = body["tasks"] if isinstance(body["tasks"], list) else names
    found: list[dict[str, Any]] = [{} for _ in body["inputs"]]
    for name in names:
        rows = [{inputs[name][0]: row} if texts else row for row in body["inputs"]]
        for place, row in enumerate(model.predict_rows(rows, name, scores=body["scores"])):
            found[place][name] = {"answer": row["prediction"], "confidence": row.get("confidence")}
            if "scores" in row:
                found[place][name]["scores"] = row["scores"]
    return found


def differences(one: Any, other: Any) -> list[str]:
    """Where two answers are not the same: labels to the letter, numbers to 1e-4."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [] if set(one) == set(other) else [f"{sorted(one)} and {sorted(other)}"]
        return keys + [found for key in one if key in other for found in differences(one[key], other[key])]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [found for pair in zip(one, other, strict=True) for found in differences(*pair)]
    if isinstance(one, float) and isinstance(other, float):
        return [] if abs(one - other) <= 1e-4 else [f"{one} and {other}"]
    return [] if one == other else [f"{one!r} and {other!r}"]
