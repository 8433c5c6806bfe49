"""What is known of the changes between checkpoints: plain data of every tensor, of groups of them, and of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from allround.core.schema import STRICT
from allround.core.words import plural

#: A change of an entry is noticeable where it is larger than this part of the root mean square of the model's change
#: in the tensor.
NOTICEABLE = 0.1
#: Cosines from here on, and from the second on, are called partly aligned and aligned; below their negatives opposed.
NEAR, ALIGNED = 0.1, 0.5
#: The share of the squared norm that the singular values which are counted hold.
HELD = 0.9

KINDS = ("missing", "extra", "shape", "dtype", "values", "setting", "tokenizer")
TITLES = {
    "missing": "Tensors of the base that are missing",
    "extra": "Tensors that are not in the base",
    "shape": "Tensors of another shape",
    "dtype": "Weights of another dtype",
    "values": "Tensors that are not floating point, with other values or dtype (a merge keeps the base's)",
    "setting": "Settings",
    "tokenizer": "Tokenizer",
}


@dataclass(frozen=True)
class Part:
    """What is known of one tensor, of a group of them (embeddings, layer 3, head and other), or of all.

    Lists have one value per model; None where a model lacks the tensor, or where there is nothing to say.

    norm, relative: of the change, and divided by the norm of the same tensors of the base. changed: share of entries
    that are not the base's. largest: the largest change of an entry. cosine: mean over the pairs of models. conflict:
    share of the entries that two or more models change noticeably (`NOTICEABLE`) in which they do not all have the
    same sign; chance: the share that random signs would give. shared: share of the entries that some model changes
    noticeably which two or more do. cancelled: 1 - |sum of the changes| / sum of their magnitudes, over all entries:
    what adding them loses (an election of signs drops half of that). rank: effective rank of the change, the
    exponential of the entropy of s^2 / sum s^2, with s its singular values (Roy and Vetterli take s instead of s^2).
    held_by: how many singular values hold 90% of the squared norm. side: the shorter side. Of a group these are
    medians over its matrices, and `most` is the largest `held_by`.
    """

    __pydantic_config__ = STRICT

    name: str
    tensors: int
    entries: int
    base_norm: float
    norm: list[float | None]
    relative: list[float | None]
    changed: list[float | None]
    largest: list[float | None]
    cosine: float | None = None
    conflict: float | None = None
    chance: float | None = None
    shared: float | None = None
    cancelled: float | None = None
    rank: list[float | None] = field(default_factory=list)
    held_by: list[float | None] = field(default_factory=list)
    most: list[float | None] = field(default_factory=list)
    side: list[float | None] = field(default_factory=list)
    group: str | None = None
    shape: list[int] | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Mismatch:
    """What differs besides weights, by the short names of models; None: absent.

    what: one of missing, extra, shape, dtype, values, setting, tokenizer.
    """

    __pydantic_config__ = STRICT

    what: str
    name: str
    base: str | None
    models: dict[str, str | None]


@dataclass
class Changes:
    """How checkpoints differ from their base, as plain data; the k models are in the order they were given in.

    base, models: short names. paths: the base's and the models'. cosines: between the changes, (k, k), over all
    weights that both models have. conflicts: (k, k), of the entries that both models of a pair change noticeably the
    share that they change in opposite directions; None on the diagonal, and where there is no such entry. kept: what of
    each change is left along its own direction when all are averaged. likeness: cosine between the weights of the base
    and of each model. differences: what differs besides weights, as `Mismatch`.
    """

    __pydantic_config__ = STRICT

    base: str
    models: list[str]
    paths: list[str]
    total: Part
    groups: list[Part]
    tensors: list[Part]
    cosines: list[list[float | None]]
    conflicts: list[list[float | None]]
    kept: list[float | None]
    likeness: list[float | None]
    differences: list[Mismatch]
    notes: list[str]
    spectrum: bool = True

    @property
    def title(self) -> str:
        """What was compared: `2 models beside base`."""
        what = self.models[0] if len(self.models) == 1 else plural(len(self.models), "model")
        return f"What {what} changed of {self.base}"


def at(values: Sequence[float | None], i: int) -> float | None:
    """The value of model i; None where there is none."""
    return values[i] if i < len(values) else None
