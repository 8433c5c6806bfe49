"""Tasks that nothing is trained on: how each system answers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from allround.building.candidates import ModelCandidate
from allround.building.stages.base import Base
from allround.building.stages.data import Data
from allround.building.stages.heads import of_sort
from allround.building.stages.tuning import SPECIALISTS
from allround.building.workshop import Workshop
from allround.core.errors import AllroundError
from allround.core.pieces import Piece
from allround.core.words import listed, plural
from allround.models.head import make_head
from allround.models.head_files import HEADS, write_heads
from allround.tasks.definition import Definition
from allround.tasks.roles import GUARD, HELD_OUT


@dataclass(frozen=True)
class Unseen:
    """The tasks that nothing is trained on, and a head for each. base: answers them where a specialist would."""

    data: Data
    base: Base
    heads: Mapping[str, Piece] = field(default_factory=dict)

    def answered(self, candidates: Sequence[ModelCandidate]) -> list[ModelCandidate]:
        """Systems that answer these tasks too: each with its encoder, and the specialists with that of the base, since
        none of these tasks has one."""
        return [self._answered(candidate) for candidate in candidates]

    def _answered(self, candidate: ModelCandidate) -> ModelCandidate:
        if not self.heads:
            return candidate
        of_base = candidate.role == SPECIALISTS
        place = self.base.piece.folder if of_base else next(iter(candidate.encoders.values()))
        key = self.base.piece.key if of_base else next(iter(candidate.keys.values()))
        return replace(
            candidate,
            encoders={**candidate.encoders, **dict.fromkeys(self.heads, place)},
            heads={**candidate.heads, **{name: piece.folder for name, piece in self.heads.items()}},
            keys={**candidate.keys, **{name: [key, piece.key] for name, piece in self.heads.items()}},
        )


def untrained_head(definition: Definition, sort: str) -> Mapping[str, object]:
    """The head of a task that nothing is trained on. Errors: one of this sort must be trained."""
    head = make_head(sort, definition, 1)
    if any(True for _ in head.parameters()):
        role = "held out" if definition.role == HELD_OUT else "a guard"
        raise AllroundError(
            f"answer the task '{definition.name}', which is {role}",
            f"a head of the sort '{sort}' needs training rows, and nothing is trained on a task that is {role}",
            "use a language model, whose heads `choices` and `generate` need none; or give the task `role: train`",
        )
    return head.stored()


def answer_unseen(shop: Workshop, data: Data, base: Base, sort: str) -> Unseen:
    """The tasks of a run that nothing is trained on, with their heads. Errors: those of `untrained_head`."""
    made = {}
    for name, definition in data.definitions.items():
        head = untrained_head(definition, sort)
        made[name] = shop.pieces.piece(f"head-{name}", base=base.piece.key, task=data.tasks[name].content,
                                       **of_sort(sort))  # fmt: skip
        if not shop.have(made[name]):
            with made[name].make() as (folder, facts):
                write_heads(folder / HEADS, {name: head})
                facts["seconds"] = 0.0
    for role, words in ((HELD_OUT, "held out"), (GUARD, "guards")):
        if names := [name for name, one in data.definitions.items() if one.role == role]:
            shop.say(f"{plural(len(names), 'task')} {words}, on which nothing is trained: {listed(names)}")
    return Unseen(data, base, made)
