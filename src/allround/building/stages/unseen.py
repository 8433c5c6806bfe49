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
from allround.core.pieces import Piece
from allround.core.words import listed
from allround.models.base import load_encoder
from allround.models.head_files import HEADS, write_heads
from allround.models.untrained import untrained_head
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


def answer_unseen(shop: Workshop, data: Data, base: Base, sort: str | None) -> Unseen:
    """The tasks of a run that nothing is trained on, with their heads. Errors: those of `untrained_head`."""
    made: dict[str, Piece] = {}
    encoder = load_encoder(base.encoder) if data.tasks else None
    for name, definition in data.definitions.items():
        assert encoder is not None
        head = untrained_head(encoder, definition, sort)
        made[name] = shop.pieces.piece(f"head-{name}", base=base.piece.key, task=data.tasks[name].content,
                                       **of_sort(sort))  # fmt: skip
        if not shop.have(made[name]):
            with made[name].make() as (folder, facts):
                write_heads(folder / HEADS, {name: head})
                facts["seconds"] = 0.0
    words = {HELD_OUT: "held out", GUARD: "as a guard"}
    for role, told in words.items():
        if names := [name for name, one in data.definitions.items() if one.role == role]:
            shop.say(f"{told}, so that nothing is trained on it: {listed(names)}")
    return Unseen(data, base, made)
