"""The rounds of a loop: branches are tuned from the present model, merged, and the merged model goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from allround.building.jobs.tune import tune
from allround.building.loops.jobs import merge_branches
from allround.building.loops.loop import Branch, Loop
from allround.building.search import Setting
from allround.building.stages.heads import Start
from allround.building.workshop import Work, Workshop
from allround.core.errors import AllroundError
from allround.core.jobs import Job, call
from allround.core.pieces import Piece
from allround.core.seeds import seed_of
from allround.tasks.metric import better
from allround.training.settings import Settings
from allround.training.validation import relative_score


@dataclass(frozen=True)
class Rounds:
    """What all rounds of a loop have in common. settings: `epochs` is the budget of all rounds together."""

    shop: Workshop
    start: Start
    loop: Loop
    settings: Settings

    def piece(self, name: str, before: Sequence[Piece], **made_from: object) -> Piece:
        """A piece of a round. before: the pieces that it is made from."""
        common = {"before": [p.key for p in before], "content": self.start.data.content,
                  "settings": self.settings.to_json()}  # fmt: skip
        return self.shop.pieces.piece(name, **{**common, "seed": self.shop.seed, **made_from})

    def merging(
        self,
        piece: Piece,
        encoder: str,
        heads: Mapping[str, str],
        branches: Mapping[str, Piece],
        values: Setting,
        judged: Sequence[str] | None = None,
    ) -> Job:
        """The job that merges branches. judged: for a trial, the only tasks that are looked at."""
        names = list(judged or self.start.data.tasks)
        fit = [n for n in names if branches and (self.loop.refit or n in self.loop.unseen)]
        return call(merge_branches, piece=piece, encoder=encoder, heads=heads, branches=branches,
                    tasks={n: self.start.data.folders[n] for n in names}, fit=fit, method=self.loop.method,
                    values=values, settings=self.settings.to_json(), keep=judged is None)  # fmt: skip

    def part(self, branch: Branch, number: int) -> dict[str, Any]:
        """The settings of training for a branch's part of the budget; it ends where that ends."""
        rounds = self.loop.rounds
        settings = self.settings.with_(keep="last", start=(number - 1) / rounds, stop=number / rounds)
        weights = list(branch.tasks.values())
        if len(set(weights)) > 1:
            settings = settings.with_(sample="weighted", sample_settings={"weights": weights})
        return settings.to_json()

    def mean(self, scores: Mapping[str, float], first: Mapping[str, float]) -> float:
        """The mean over the judged tasks of the score as a share of the base's. first: the scores of the base."""
        metrics = self.start.data.metrics
        found = [relative_score(scores[n], first[n], better(metrics[n])) for n in self.loop.judged]
        return sum(found) / len(found)


class BranchRecord(TypedDict):
    """What a branch did: scores on validation, rows of each task, seconds."""

    validation: dict[str, float]
    examples: dict[str, int]
    seconds: float


class TriedValues(TypedDict):
    """Values of the merge method that were tried, and the scores on validation."""

    values: Setting
    validation: dict[str, float]


class RoundRecord(TypedDict):
    """What a round was. method: None where nothing was merged. cosines: between the changes of its branches."""

    round: int
    method: str | None
    values: Setting
    validation: dict[str, float]
    branches: dict[str, BranchRecord]
    cosines: list[list[float]]
    trials: list[TriedValues]


@dataclass(frozen=True)
class Round:
    """A finished round: its model, its mean on the judged tasks as a share of the base's, and its record."""

    piece: Piece
    mean: float
    record: RoundRecord


def first_round(rounds: Rounds) -> Round:
    """The base with its heads."""
    start = rounds.start
    piece = rounds.piece("round-0", [start.base.piece, *start.heads.values()])
    job = rounds.merging(piece, start.base.encoder, start.head_folders, {}, {})
    rounds.shop.do("the base", [(piece, job)])
    return _finished(rounds, [], piece, {}, [])


def next_round(rounds: Rounds, made: Sequence[Round]) -> Round:
    """Tune the branches of the next round from the model of the last one, and merge them."""
    shop, loop, data = rounds.shop, rounds.loop, rounds.start.data
    number, before = len(made), made[-1].piece
    encoder, heads = str(before.folder / "encoder"), dict.fromkeys(data.tasks, str(before.folder))
    first = made[0].record["validation"]
    branches: dict[str, Piece] = {}
    tuning: list[Work] = []
    for branch in loop.drawn(number, shop.seed):
        settings = rounds.part(branch, number)
        piece = rounds.piece(f"round-{number}-{branch.name}", [before], tasks=list(branch.tasks), settings=settings)
        job = call(tune, piece=piece, base=encoder, heads=heads, tasks=[data.folders[n] for n in branch.tasks],
                   settings=settings, seed=seed_of(shop.seed, "tune", branch.name))  # fmt: skip
        branches[branch.name] = piece
        tuning.append((piece, job))
    trials: list[TriedValues] = []

    def merge(name: str, wanted: Sequence[Setting], judged: Sequence[str] | None = None) -> list[Piece]:
        """The branches merged with each of these settings; they are tuned first where they still have to be."""
        made_from = {"method": loop.method, "refit": loop.refit, "judged": judged}
        pieces = [rounds.piece(name, list(branches.values()), values=values, **made_from) for values in wanted]
        if tuning and not all(piece.done for piece in pieces):
            shop.do(f"tuning, round {number}", tuning)
            tuning.clear()
        shop.do(
            f"merging, round {number}",
            [
                (piece, rounds.merging(piece, encoder, heads, branches, values, judged))
                for piece, values in zip(pieces, wanted, strict=True)
            ],
        )
        return pieces

    def score(wanted: Sequence[Setting]) -> list[float]:
        tried = [piece.facts["validation"] for piece in merge(f"try-{number}", wanted, loop.judged)]
        trials.extend(TriedValues(values=v, validation=s) for v, s in zip(wanted, tried, strict=True))
        return [rounds.mean(found, first) for found in tried]

    values = _searched(loop, len(branches), score)
    (merged,) = merge(f"round-{number}", [values])
    found = _finished(rounds, made, merged, values, trials)
    for piece in branches.values():  # the merged model is all that the next round needs
        piece.remove()
    return found


def _searched(loop: Loop, count: int, score: Callable[[Sequence[Setting]], list[float]]) -> Setting:
    """The settings of this round's merge: those given, with those that did best on validation."""
    given = dict(loop.values)
    if loop.search is None:
        return given
    search = loop.search(count)
    wanted = next(search)
    twice = sorted(given.keys() & wanted[0].keys())
    if twice:
        raise AllroundError(f"merge with {twice[0]}={given[twice[0]]}", f"this loop chooses {twice[0]} on validation",
                            f"leave {twice[0]} out")  # fmt: skip
    while True:
        try:
            wanted = search.send(score([{**given, **values} for values in wanted]))
        except StopIteration as stop:
            return {**given, **stop.value}


def _finished(
    rounds: Rounds, made: Sequence[Round], piece: Piece, values: Setting, trials: Sequence[TriedValues]
) -> Round:
    facts = piece.facts
    record = RoundRecord(
        round=len(made),
        method=rounds.loop.method if facts["branches"] else None,
        values=dict(values),
        validation=facts["validation"],
        branches=facts["branches"],
        cosines=facts["cosines"],
        trials=list(trials),
    )
    listed = ", ".join(f"{name} {score:.3f}" for name, score in facts["validation"].items())
    rounds.shop.say(f"round {len(made)}: validation {listed}")
    first = made[0].record["validation"] if made else facts["validation"]
    return Round(piece, rounds.mean(facts["validation"], first), record)
