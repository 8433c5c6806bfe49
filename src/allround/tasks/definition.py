"""What is asked of a model in one task, without the data: enough to encode, predict and score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

MODALITIES = ("text", "image", "table")


@dataclass(frozen=True)
class Definition:
    """One task's question.

    `inputs` are column names: two of them make a pair. `labels` are in the order of the model's outputs (token
    classification: tags). `center` and `scale` standardise a regression target. `metric` names the score.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    modality: str
    metric: str
    labels: tuple[str, ...] = ()
    center: float = 0.0
    scale: float = 1.0
    instruction: str | None = None

    @property
    def pair(self) -> bool:
        return self.modality == "text" and len(self.inputs) == 2

    def with_facts(self, facts: Mapping[str, Any]) -> Definition:
        """The same task with what its kind learned from the training targets."""
        return replace(self, **facts)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "inputs": list(self.inputs), "labels": list(self.labels)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Definition:
        return cls(**{**value, "inputs": tuple(value["inputs"]), "labels": tuple(value["labels"])})
