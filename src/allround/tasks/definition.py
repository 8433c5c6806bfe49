"""What is asked of a model in one task, without the data: enough to encode, predict and score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import NoneType
from typing import Any

from allround.core import registry

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
        """The inverse of `to_json`; a ValueError in words for what cannot be one."""
        for name, known in (("kind", registry.names("kind")), ("modality", MODALITIES)):
            if value[name] not in known:
                raise ValueError(f"{name} {value[name]!r} is none of {', '.join(known)}")
        for name, least in (("inputs", 1), ("labels", 0)):
            texts = value[name]
            if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts) or len(texts) < least:
                raise ValueError(f"{name} is no list of names")
            if len(set(texts)) < len(texts):
                raise ValueError(f"{name} names something twice")
        if not all(isinstance(value[n], int | float) and math.isfinite(value[n]) for n in ("center", "scale")):
            raise ValueError("center and scale are no numbers")
        if not isinstance(value["instruction"], str | NoneType):
            raise ValueError("instruction is no text")
        return cls(**{**value, "inputs": tuple(value["inputs"]), "labels": tuple(value["labels"])})
