"""The base of a build, a language model, with demonstrations that are chosen for each row."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from allround.building.candidates import Answerer, ModelCandidate
from allround.building.jobs import demonstrated as jobs
from allround.building.stages.heads import Start
from allround.building.workshop import Work, Workshop
from allround.composition.demonstrating import make_demonstrations
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import hash_folder
from allround.core.jobs import call
from allround.core.pieces import Piece
from allround.core.seeds import seed_of
from allround.core.words import duration, listed, plural
from allround.models.base import find_folder
from allround.models.cost import Cost
from allround.tasks.definition import Definition

#: What is asked for, as an error says it.
_ASKED = "build a system that is shown demonstrations"


@dataclass(frozen=True)
class DemonstratedCandidate:
    """The base with demonstrations. base: with the heads of all tasks. piece: holds the examples. way: how they are
    chosen, as it was asked for. tasks: the folders of all tasks."""

    base: ModelCandidate
    piece: Piece
    way: str
    tasks: Mapping[str, str]
    role: str = "demonstrated"
    single: bool = True

    @property
    def name(self) -> str:
        """It is also the name of a folder."""
        return "demonstrated-" + re.sub(r"[^A-Za-z0-9._=-]+", "-", self.way).strip("-")

    @property
    def title(self) -> str:
        return f"the base as it is, shown training rows that are chosen by {self.way}"

    @property
    def settings(self) -> Mapping[str, object]:
        return {"demonstrations": self.way}

    @property
    def keys(self) -> Mapping[str, object]:
        return {name: [key, self.piece.key] for name, key in self.base.keys.items()}

    @property
    def parts(self) -> jobs.Parts:
        return {
            "encoder": str(self.base.encoder),
            "heads": {name: str(folder) for name, folder in self.base.heads.items()},
            "tasks": dict(self.tasks),
            "way": self.way,
            "examples": str(self.piece.folder),
        }

    def answerers(self) -> list[Answerer]:
        return [Answerer(jobs.predict_demonstrated, json.dumps(self.parts), dict.fromkeys(self.base.heads, ""))]

    def cost(self, examples_per_second: float | None = None) -> Cost:
        found, facts = self.base.cost(examples_per_second), self.piece.facts
        return replace(
            found,
            parameters_stored=found.parameters_stored + facts["more"],
            parameters_used=found.parameters_used + facts["more"],
            training_seconds=found.training_seconds + facts["seconds"],
        )

    def write(self, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> None:
        made = jobs.open_demonstrated(self.parts)
        made.facts = dict(facts)
        made.write(folder)


def demonstrated_candidates(
    shop: Workshop, start: Start, base: ModelCandidate, ways: Sequence[str], places: Mapping[str, str], device: str
) -> list[DemonstratedCandidate]:
    """Choose and keep the examples of each way, from rows of the trained tasks. places: the folders of all tasks.
    Errors: a base that is no language model."""
    if not ways:
        return []
    if not start.base.speaks:
        raise AllroundError(
            _ASKED, f"the base {start.base.name} is no language model", "use one, such as --base smollm2-135m"
        )
    made: list[DemonstratedCandidate] = []
    work: list[Work] = []
    for way in ways:
        encoder = make_demonstrations(*registry.spelled("demonstrations", way)).encoder
        piece = shop.pieces.piece("demonstrations", base=start.base.piece.key, tasks=start.data.content, way=way,
                                  encoder=hash_folder(find_folder(encoder)) if encoder else "",
                                  heads=[piece.key for piece in start.heads.values()], seed=shop.seed)  # fmt: skip
        job = call(jobs.make_examples, piece=piece, encoder=str(base.encoder), heads=start.head_folders,
                   tasks=dict(start.data.folders), way=way, seed=seed_of(shop.seed, "demonstrations"),
                   device=device)  # fmt: skip
        work.append((piece, job))
        made.append(DemonstratedCandidate(base, piece, way, places))
    tally = shop.do("demonstrations", work)
    took = listed([f"{one.way} ({duration(one.piece.facts['seconds'])})" for one in made])
    shop.say(f"{plural(len(made), 'way')} to choose demonstrations: {took}", tally)
    return made
