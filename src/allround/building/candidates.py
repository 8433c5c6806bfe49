"""The systems that a build compares: what one has to offer, and the one that is an encoder with heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from torch import Tensor

from allround.building.jobs.predict import predict
from allround.building.jobs.systems import Part, predict_parts, write_parts
from allround.core.pieces import Piece
from allround.core.words import listed
from allround.models.base import copy_encoder
from allround.models.cost import Cost
from allround.models.head_files import read_heads, write_heads
from allround.models.manifest import write_manifest
from allround.models.per_task import PerTask
from allround.models.prompts import write_prompts
from allround.models.system import load
from allround.models.systems.ensemble import Ensemble
from allround.tasks.definition import Definition


@dataclass(frozen=True)
class Answerer:
    """How a candidate answers some of its tasks, in plain values that a job takes into another process.

    function: a top-level function `(pieces, source, own, tasks, split, device)` that makes prediction pieces, as
    `jobs.predict.predict` does. source: the folder that it loads. own: for each task, what this candidate has of its
    own beside the source: the folder of a head, say. Candidates whose function, source and tasks are the same are
    answered by one job, which loads the source once.
    """

    function: Callable[..., None]
    source: str
    own: Mapping[str, str]


class Candidate(Protocol):
    """A system that a build compares with the others.

    A candidate is data: it knows the folders of the pieces that it consists of, and loads none of them until it is
    asked for its cost or written.
    """

    @property
    def name(self) -> str:
        """What it is called; no other candidate of the build is called so."""

    @property
    def role(self) -> str:
        """What sort of system it is, in a word for the scoreboard: base, specialists, joint, merge, ..."""

    @property
    def title(self) -> str:
        """What it is, in a few words for people."""

    @property
    def settings(self) -> Mapping[str, object]:
        """The settings that were chosen for it."""

    @property
    def single(self) -> bool:
        """Whether all tasks share one set of weights, so that it may be chosen as the best single model."""

    @property
    def keys(self) -> Mapping[str, object]:
        """For each task, what its answers follow from: keys of pieces, as plain data."""

    def answerers(self) -> list[Answerer]:
        """How it answers its tasks; each task belongs to one of them."""

    def cost(self, examples_per_second: float | None = None) -> Cost:
        """What it costs. examples_per_second: the measured speed of its predictions."""

    def write(self, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> None:
        """Write it into an empty folder, from which `allround.load` reads it. facts: what the folder says of it."""


class Member(Candidate, Protocol):
    """A candidate that can be a member of an ensemble."""

    def part(self, task: str) -> Part:
        """Where a job finds what answers a task."""


@dataclass(frozen=True)
class ModelCandidate:
    """A candidate that is an encoder with a head for each task, or several of them, by the folders of their pieces.

    encoders, heads: for each task, the folder of the model whose encoder and whose head answer it. keys: for each
    task, what these parts were made from. encoder_size: numbers in one encoder. effort: what making it took; `cost`
    adds sizes and speed.
    """

    name: str
    role: str
    title: str
    encoders: Mapping[str, Path]
    heads: Mapping[str, Path]
    keys: Mapping[str, object]
    encoder_size: int
    effort: Cost = field(default_factory=Cost)
    settings: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of_piece(
        cls,
        name: str,
        role: str,
        title: str,
        piece: Piece,
        tasks: Iterable[str],
        encoder_size: int,
        effort: Cost | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> ModelCandidate:
        """A candidate whose encoder and heads all lie in one piece."""
        places, keys = dict.fromkeys(tasks, piece.folder), dict.fromkeys(tasks, piece.key)
        return cls(name, role, title, places, places, keys, encoder_size, effort or Cost(), settings or {})

    @property
    def single(self) -> bool:
        """Whether all tasks share one encoder."""
        return len(set(self.encoders.values())) == 1

    @property
    def encoder(self) -> Path:
        """The folder of the first task's encoder: that of all tasks in a single model."""
        return next(iter(self.encoders.values())) / "encoder"

    def answerers(self) -> list[Answerer]:
        """One for each encoder."""
        found: dict[Path, dict[str, str]] = {}
        for name, folder in self.encoders.items():
            found.setdefault(folder, {})[name] = str(self.heads[name])
        return [Answerer(predict, str(folder / "encoder"), own) for folder, own in found.items()]

    def part(self, task: str) -> Part:
        """The encoder and the head of a task."""
        return {"folder": str(self.encoders[task] / "encoder"), "head": str(self.heads[task])}

    def cost(self, examples_per_second: float | None = None) -> Cost:
        """What it costs, from the effort and the sizes of its parts."""
        heads = [sum(t.numel() for t in head.values()) for head in self._read_heads().values()]
        return replace(
            self.effort,
            parameters_stored=self.encoder_size * len(set(self.encoders.values())) + sum(heads),
            parameters_used=self.encoder_size + max(heads),
            examples_per_second=examples_per_second,
        )

    def write(self, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> None:
        """Write the encoder of a single model, all heads, and what they are for; several models as an ensemble of which
        each answers its own tasks."""
        if not self.single:
            members = [self._only(place) for place in dict.fromkeys(self.encoders.values())]
            write_members(folder, members, definitions, facts)
            return
        copy_encoder(self.encoder, folder / "encoder")
        write_prompts(folder / "encoder", definitions.values())
        write_heads(folder / "heads.safetensors", self._read_heads())
        write_manifest(folder, definitions, facts)

    def _only(self, place: Path) -> ModelCandidate:
        """The part of it that shares one encoder."""
        names = [name for name, folder in self.encoders.items() if folder == place]
        return replace(
            self,
            encoders=dict.fromkeys(names, place),
            heads={name: self.heads[name] for name in names},
            keys={name: self.keys[name] for name in names},
        )

    def _read_heads(self) -> dict[str, dict[str, Tensor]]:
        return {n: read_heads(folder / "heads.safetensors")[n] for n, folder in self.heads.items()}


def write_members(
    folder: Path, members: Sequence[Candidate], definitions: Mapping[str, Definition], facts: Mapping[str, object]
) -> None:
    """Write candidates as an ensemble: each answers the tasks that it has, and several of one task are averaged."""
    for number, member in enumerate(members):
        place = folder / "members" / str(number)
        place.mkdir(parents=True)
        member.write(place, {name: definitions[name] for name in member.keys}, {})
    write_manifest(folder, definitions, {**facts, "members": len(members)}, Ensemble.sort)


@dataclass(frozen=True)
class PerTaskCandidate:
    """A system whose tasks share nothing, by the folders of their pieces: boosted trees, or linear models."""

    name: str
    role: str
    title: str
    pieces: Mapping[str, Piece]
    settings: Mapping[str, object] = field(default_factory=dict)
    single: bool = False

    @property
    def keys(self) -> Mapping[str, object]:
        return {name: piece.key for name, piece in self.pieces.items()}

    def answerers(self) -> list[Answerer]:
        """One: such systems load in no time."""
        return [Answerer(predict_parts, self.name, {name: write_parts([self.part(name)]) for name in self.pieces})]

    def part(self, task: str) -> Part:
        return {"folder": str(self.pieces[task].folder), "head": None}

    def cost(self, examples_per_second: float | None = None) -> Cost:
        facts = [piece.facts for piece in self.pieces.values()]
        return replace(
            self._system().cost(),
            training_seconds=sum(one["seconds"] for one in facts),
            training_examples=sum(one["examples"] for one in facts),
            examples_per_second=examples_per_second,
        )

    def write(self, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> None:
        made = self._system()
        made.facts = dict(facts)
        made.write(folder)

    def _system(self) -> PerTask:
        found = []
        for piece in self.pieces.values():
            one = load(piece.folder)
            assert isinstance(one, PerTask)
            found.append(one)
        return type(found[0]).joined(found)


@dataclass(frozen=True)
class PieceCandidate:
    """A system of several tasks that lies in one piece and is no encoder with heads: trees that tasks share."""

    name: str
    role: str
    title: str
    piece: Piece
    tasks: tuple[str, ...]
    settings: Mapping[str, object] = field(default_factory=dict)
    single: bool = False

    @property
    def keys(self) -> Mapping[str, object]:
        return dict.fromkeys(self.tasks, self.piece.key)

    def answerers(self) -> list[Answerer]:
        return [Answerer(predict_parts, self.name, {name: write_parts([self.part(name)]) for name in self.tasks})]

    def part(self, task: str) -> Part:
        return {"folder": str(self.piece.folder), "head": None}

    def cost(self, examples_per_second: float | None = None) -> Cost:
        facts = self.piece.facts
        return replace(
            load(self.piece.folder).cost(),
            training_seconds=facts["seconds"],
            training_examples=facts["examples"],
            examples_per_second=examples_per_second,
        )

    def write(self, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> None:
        made = load(self.piece.folder)
        made.facts = dict(facts)
        made.write(folder)


@dataclass(frozen=True)
class EnsembleCandidate:
    """The mean of the answers of several candidates."""

    members: Sequence[Member]
    name: str = "ensemble"
    role: str = "ensemble"
    settings: Mapping[str, object] = field(default_factory=dict)
    single: bool = False

    @property
    def title(self) -> str:
        return f"the mean of the answers of {listed([member.name for member in self.members])}"

    @property
    def keys(self) -> Mapping[str, object]:
        return {name: ["ensemble", *(member.keys[name] for member in self.members)] for name in self.members[0].keys}

    def answerers(self) -> list[Answerer]:
        parts = {name: write_parts([member.part(name) for member in self.members]) for name in self.keys}
        return [Answerer(predict_parts, self.name, parts)]

    def cost(self, examples_per_second: float | None = None) -> Cost:
        """The sum of what the members cost."""
        costs = [member.cost() for member in self.members]
        return Cost(
            training_seconds=sum(cost.training_seconds for cost in costs),
            training_examples=sum(cost.training_examples for cost in costs),
            parameters_stored=sum(cost.parameters_stored for cost in costs),
            parameters_used=sum(cost.parameters_used for cost in costs),
            examples_per_second=examples_per_second,
        )

    def write(self, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> None:
        write_members(folder, self.members, definitions, facts)
