"""Heads fitted on the frozen base: what every training starts from, and a system of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from allround.building.candidates import ModelCandidate
from allround.building.jobs import start as jobs
from allround.building.stages.base import Base
from allround.building.stages.data import Data
from allround.building.workshop import Work, Workshop, folders, seconds
from allround.core import registry
from allround.core.jobs import call
from allround.core.pieces import Piece
from allround.core.words import plural
from allround.models.cost import Cost
from allround.models.encoder import LINEAR
from allround.models.fitting import PENALTIES
from allround.tasks.kind import kind


@dataclass(frozen=True)
class Start:
    """What every training starts from: the rows, the base, and a head for each task that was fitted on it."""

    data: Data
    base: Base
    heads: Mapping[str, Piece]

    @property
    def head_folders(self) -> dict[str, str]:
        return folders(self.heads)

    @property
    def seconds(self) -> float:
        """What fitting the heads took."""
        return seconds(self.heads)

    def fitted(self, before: Start) -> dict[str, Piece]:
        """The heads that an earlier start had not."""
        return {name: piece for name, piece in self.heads.items() if piece.key != before.heads[name].key}


def head_work(
    shop: Workshop, data: Data, encoder: str, key: object, device: str, name: str = "head", sort: str | None = None
) -> tuple[dict[str, Piece], list[Work]]:
    """A head of a sort for each task on an encoder as it is. key: what the encoder was made from."""
    pieces: dict[str, Piece] = {}
    work: list[Work] = []
    for task_name, task in data.tasks.items():
        piece = shop.pieces.piece(f"{name}-{task_name}", base=key, task=task.content, penalties=PENALTIES,
                                  **of_sort(sort))  # fmt: skip
        job = call(jobs.make_head, piece=piece, task=data.folders[task_name], encoder=encoder, device=device, sort=sort)
        pieces[task_name] = piece
        work.append((piece, job))
    return pieces, work


def own_words(head: Piece) -> bool:
    """Whether the base answers a task by its own words, or ranks by its own vectors: its head has nothing to fit."""
    sort = head.facts.get("sort")  # heads of earlier versions were all fitted, and do not say
    facts = {} if sort is None else registry.find("head", sort).facts
    return bool(facts) and (facts["reads"] != "vectors" or facts["ranks"])


def refit_seconds(heads: Mapping[str, Piece]) -> float:
    """What fitting heads like these anew takes; 0 where none has weights."""
    return 0.0 if all(map(own_words, heads.values())) else seconds(heads)


def of_sort(sort: str | None) -> dict[str, object]:
    """The sort of a head among what a piece is made from, where one was asked for."""
    return {} if sort is None else {"head": sort}


def fit_heads(shop: Workshop, data: Data, base: Base, device: str, sort: str | None = None) -> Start:
    """Fit a head of a sort for each task on the frozen base; heads without weights are scored as they are."""
    pieces, work = head_work(shop, data, base.encoder, base.piece.key, device, sort=sort)
    tally = shop.do("heads on the frozen base", work)
    plain = [name for name, piece in pieces.items() if own_words(piece)]
    if plain:
        shop.say(f"{plural(len(plain), 'task')} asked of the base as it is", tally)
    if len(plain) < len(pieces):
        shop.say(f"heads fitted for {plural(len(pieces) - len(plain), 'task')} on the frozen base", tally)
    return Start(data, base, pieces)


def fit_probes(shop: Workshop, start: Start, device: str) -> Start | None:
    """Linear heads on the hidden states of a language model, for the tasks that have labels or numbers; None for other
    bases, and where no task would be answered in another way.

    A zero-shot answer depends on the words of the prompt, so that it says little of what the base knows.
    """
    data = start.data
    asked = [name for name, piece in start.heads.items() if own_words(piece)]
    probed = [name for name in asked if not kind(data.tasks[name].definition.kind).for_language_models]
    if not start.base.speaks or not probed:
        return None
    some = replace(data, tasks={name: data.tasks[name] for name in probed})
    pieces, work = head_work(shop, some, start.base.encoder, start.base.piece.key, device, "probe", LINEAR)
    tally = shop.do("probes of the base", work)
    shop.say(f"linear heads fitted for {plural(len(pieces), 'task')} on the base's hidden states", tally)
    return replace(start, heads={**start.heads, **pieces})


def probe_candidate(probes: Start) -> ModelCandidate:
    """The base with linear heads on its hidden states."""
    return replace(base_candidate(probes), name="probe", title="linear heads on the base's last hidden state")


def base_candidate(start: Start) -> ModelCandidate:
    """The base with its heads: what there is before any tuning."""
    base = start.base.piece
    spoken = all(own_words(piece) for piece in start.heads.values())
    return ModelCandidate(
        name="base",
        role="base",
        title="the base as it is, zero-shot" if spoken else "heads on the frozen base",
        encoders=dict.fromkeys(start.heads, base.folder),
        heads={n: p.folder for n, p in start.heads.items()},
        keys={n: [base.key, p.key] for n, p in start.heads.items()},
        encoder_size=start.base.size,
        effort=Cost(training_seconds=start.seconds, training_examples=start.data.rows("train")),
    )
