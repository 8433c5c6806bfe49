"""Systems under construction: where their parts lie, what they cost, how they are compared on validation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allround.building.options import Constraints
from allround.core.pieces import Piece, Pieces
from allround.evaluation.intervals import retention
from allround.evaluation.scoreboard import Cost
from allround.models.model import read_heads
from allround.tasks.metric import better
from allround.tasks.task import Task


@dataclass
class Parts:
    """A system, by the folders that hold its parts and by what it took to make.

    encoders, heads: for each task, the folder of the model whose encoder and whose head answer it. keys: for each
    task, what these parts were made from. choices: settings compared on validation, in `search_seconds`. merge_rows:
    rows that a merge looked at, in `merge_seconds`.
    """

    name: str
    role: str
    title: str
    encoders: dict[str, Path]
    heads: dict[str, Path]
    keys: dict[str, Any]
    seconds: float = 0.0
    examples: int = 0
    settings: dict[str, Any] | None = None
    choices: int = 0
    search_seconds: float = 0.0
    merge_seconds: float = 0.0
    merge_rows: int = 0

    @classmethod
    def of_one(cls, name: str, role: str, title: str, piece: Piece, tasks: Iterable[str], **cost: Any) -> Parts:
        """A system whose encoder and heads all lie in one piece."""
        folders, keys = dict.fromkeys(tasks, piece.folder), dict.fromkeys(tasks, piece.key)
        return cls(name, role, title, folders, dict(folders), keys, **cost)

    @property
    def single(self) -> bool:
        """Whether all tasks share one encoder."""
        return len(set(self.encoders.values())) == 1

    def predictions(self, pieces: Pieces, tasks: Mapping[str, Task], split: str) -> dict[str, Piece]:
        """For each task, the piece that holds (or will hold) the predictions of a split."""
        return {
            name: pieces.piece(f"{split}-{self.name}-{name}", system=self.keys[name], task=task.content, split=split)
            for name, task in tasks.items()
        }

    def groups(self) -> dict[Path, list[str]]:
        """The tasks that each encoder answers."""
        found: dict[Path, list[str]] = {}
        for name, folder in self.encoders.items():
            found.setdefault(folder, []).append(name)
        return found

    def read_heads(self) -> dict[str, dict[str, Any]]:
        """The weights of every head."""
        return {n: read_heads(folder / "heads.safetensors")[n] for n, folder in self.heads.items()}

    def cost(self, encoder_parameters: int, examples_per_second: float | None = None) -> Cost:
        heads = [sum(t.numel() for t in head.values()) for head in self.read_heads().values()]
        return Cost(
            training_seconds=self.seconds,
            training_examples=self.examples,
            parameters_stored=encoder_parameters * len(self.groups()) + sum(heads),
            parameters_used=encoder_parameters + max(heads),
            examples_per_second=examples_per_second,
            search_choices=self.choices,
            search_seconds=self.search_seconds,
            merge_seconds=self.merge_seconds,
            merge_rows=self.merge_rows,
        )


@dataclass(frozen=True)
class PredictionGroup:
    """The prediction pieces that one job makes, with the face of a piece: of systems that share an encoder."""

    systems: Sequence[str]
    split: str
    pieces: Sequence[Mapping[str, Piece]]
    names: Sequence[str]

    @property
    def key(self) -> str:
        whole = len(self.names) == len(self.pieces[0]) > 1
        listed = f"all {len(self.names)} tasks" if whole else ", ".join(self.names)
        return f"{self.split} predictions of {' and '.join(self.systems)} ({listed})"

    @property
    def done(self) -> bool:
        return all(piece.done for piece in self._listed)

    @property
    def damage(self) -> str | None:
        return next((f"{one.key}: {found}" for one in self._listed if (found := one.damage)), None)

    @property
    def facts(self) -> dict[str, Any]:
        return {"seconds": sum(self.pieces[0][n].facts["seconds"] for n in self.names)}

    @property
    def _listed(self) -> list[Piece]:
        return [pieces[n] for pieces in self.pieces for n in self.names]


@dataclass(frozen=True)
class Judge:
    """Compares systems by their validation scores, with the specialists' as the reference."""

    metrics: Mapping[str, str]
    reference: Mapping[str, float]

    def retentions(self, scores: Mapping[str, float]) -> dict[str, float | None]:
        return {n: retention(scores[n], self.reference[n], better(m)) for n, m in self.metrics.items()}

    def mean(self, scores: Mapping[str, float]) -> float:
        """Mean retention over the tasks where it is defined.

        >>> Judge({"a": "accuracy", "b": "accuracy"}, {"a": 0.5, "b": 1.0}).mean({"a": 0.5, "b": 0.5})
        0.75
        """
        known = [r for r in self.retentions(scores).values() if r is not None]
        return sum(known) / len(known) if known else 0.0

    def choose(
        self,
        scores: Mapping[str, Mapping[str, float]],
        parameters: Mapping[str, int],
        constraints: Constraints,
        tried: int,
    ) -> tuple[str, str]:
        """The best of the candidates under the constraints, and the choice in words.

        scores: candidate -> task -> validation score. parameters: candidate -> numbers stored. tried: merge settings
        compared on the way, for the words. Of equals, the first named is taken.
        """
        ranked = sorted(scores, key=lambda name: -self.mean(scores[name]))
        broken = {n: constraints.broken(self.retentions(scores[n]), parameters[n]) for n in ranked}
        allowed = [n for n in ranked if not broken[n]]
        best = (allowed or ranked)[0]
        words = (
            f"Chosen on validation: {best}, mean retention {100 * self.mean(scores[best]):.1f}%, out of {len(ranked)} "
            f"single models ({tried} merge settings tried)."
        )
        if constraints.words():
            words += f" Asked for: {constraints.words()}."
            if not allowed:
                words += f" No single model satisfies that on validation; {best} {'; '.join(broken[best])}."
            elif best != ranked[0]:
                words += f" {ranked[0]} is better but {'; '.join(broken[ranked[0]])}."
        return best, words
