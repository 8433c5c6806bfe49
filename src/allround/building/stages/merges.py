"""Merges of the specialists by fixed rules, with settings chosen on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from allround.building.candidates import ModelCandidate
from allround.building.jobs import merge as jobs
from allround.building.judge import Judge
from allround.building.search import Setting, Trial, run_searches
from allround.building.stages.heads import Start
from allround.building.stages.plan import Scope
from allround.building.workshop import Tally, Work, Workshop, folders, keys
from allround.core import registry
from allround.core.jobs import call
from allround.core.pieces import Piece
from allround.core.words import percent, plural
from allround.models.cost import Cost

#: Training rows of each task that statistics are computed from.
STATISTIC_ROWS = 256


@dataclass(frozen=True)
class MergeInputs:
    """What merges are made of: where training started, and the specialists that came of it."""

    start: Start
    specialists: Mapping[str, Piece]

    @property
    def made_from(self) -> dict[str, object]:
        """The keys of these inputs."""
        return {"base": self.start.base.piece.key, "specialists": keys(self.specialists)}

    @property
    def places(self) -> dict[str, object]:
        """The folders of these inputs, as jobs take them."""
        return {
            "base": self.start.base.encoder,
            "specialists": folders(self.specialists),
            "tasks": dict(self.start.data.folders),
        }


@dataclass(frozen=True)
class MergeResult:
    """A merge: its method, its piece, the setting that was chosen, and the settings that were tried.

    seconds, rows: what the merge itself took, beyond the specialists.
    """

    method: str
    title: str
    piece: Piece
    settings: Setting
    trials: tuple[Trial, ...]
    seconds: float
    rows: int


def merge_fixed(shop: Workshop, inputs: MergeInputs, scope: Scope, judge: Judge) -> list[MergeResult]:
    """Search the settings of each merge method on validation, and make the merges that were chosen."""
    entries = [registry.find("merge", name) for name in scope.merges]
    if not entries:
        return []
    needed = {entry.name: entry.needed(entry.defaults) for entry in entries}
    statistics = _statistics(shop, inputs, {need for needs in needed.values() for need in needs}, scope)
    tally = Tally()

    def arguments(method: str) -> dict[str, object]:
        found = {n: [str(p.folder) for p in statistics[n]] for n in needed[method]}
        return {"method": method, "statistics": found, **inputs.places}

    def made_from(method: str) -> dict[str, object]:
        found = {n: [p.key for p in statistics[n]] for n in needed[method]}
        return {"method": method, **({"statistics": found} if found else {}), **inputs.made_from}

    def score(pairs: list[tuple[str, Setting]]) -> list[Trial]:
        nonlocal tally
        settings, work, pieces = scope.settings, [], []
        for method, values in pairs:
            piece = shop.pieces.piece(
                f"try-{method}", parameters=values, precision=settings.precision, **made_from(method)
            )
            job = call(jobs.try_merge, piece=piece, parameters=values, settings=settings.to_json(), **arguments(method))
            pieces.append(piece)
            work.append((piece, job))
        tally += shop.do("settings of merges, on validation", work)
        return trials_of(shop, pairs, pieces, judge)

    chosen = run_searches(entries, scope.trials, score)
    work: list[Work] = []
    pieces: dict[str, Piece] = {}
    for method, (best, _) in chosen.items():
        pieces[method] = shop.pieces.piece(f"merge-{method}", parameters=best, **made_from(method))
        job = call(jobs.merge, piece=pieces[method], parameters=best, **arguments(method))
        work.append((pieces[method], job))
    tally += shop.do("merging", work)
    found = []
    for method, piece in pieces.items():
        stored = [p for need in needed[method] for p in statistics[need]]
        best, trials = chosen[method]
        taken = piece.facts["seconds"] + sum(p.facts["seconds"] for p in stored)
        rows = sum(p.facts["rows"] for p in stored)
        found.append(MergeResult(method, f"merge by {method}", piece, best, tuple(trials), taken, rows))
    shop.say(f"{plural(len(found), 'merge')} by the best of {plural(count_trials(found), 'setting')} on validation: "
             f"{retention_words(found)}", tally)  # fmt: skip
    return found


def _statistics(shop: Workshop, inputs: MergeInputs, needs: set[str], scope: Scope) -> dict[str, list[Piece]]:
    """What methods need of every specialist on its own training rows."""
    data = inputs.start.data
    found: dict[str, list[Piece]] = {}
    work: list[Work] = []
    for need in sorted(needs):
        for name, specialist in inputs.specialists.items():
            piece = shop.pieces.piece(
                f"{need}-{name}",
                kind=need,
                seed=shop.seed,
                specialist=specialist.key,
                task=data.tasks[name].content,
                rows=STATISTIC_ROWS,
            )
            job = call(jobs.make_statistic, piece=piece, kind=need, specialist=str(specialist.folder),
                       task=data.folders[name], rows=STATISTIC_ROWS, seed=shop.seed,
                       device=scope.settings.device)  # fmt: skip
            found.setdefault(need, []).append(piece)
            work.append((piece, job))
    shop.do("statistics of the specialists", work)
    return found


def trials_of(
    shop: Workshop, pairs: Sequence[tuple[str, Setting]], pieces: Sequence[Piece], judge: Judge
) -> list[Trial]:
    """What validation says of merges that were made with these settings."""
    found = []
    for (name, values), piece in zip(pairs, pieces, strict=True):
        facts = piece.facts
        scores = facts["validation"]
        found.append(Trial(name, values, judge.mean(scores), scores, facts["seconds"]))
        shop.progress.compare(name, found[-1].validation)
    return found


def count_trials(merges: Sequence[MergeResult]) -> int:
    """The settings that were tried for all of these merges."""
    return sum(len(one.trials) for one in merges)


def retention_words(merges: Sequence[MergeResult]) -> str:
    """Each merge with the mean retention that its setting was chosen by."""
    best = {one.method: next(t.validation for t in one.trials if t.chosen) for one in merges}
    return ", ".join(f"{name} {percent(mean)}%" for name, mean in best.items())


def merge_candidates(start: Start, specialists: ModelCandidate, merges: Sequence[MergeResult]) -> list[ModelCandidate]:
    """Each merge as a system, which rests on the training of the specialists."""
    return [
        ModelCandidate.of_piece(
            one.method,
            "merge",
            one.title,
            one.piece,
            start.data.tasks,
            start.base.size,
            Cost(
                training_seconds=specialists.effort.training_seconds,
                training_examples=specialists.effort.training_examples,
                search_choices=len(one.trials),
                search_seconds=sum(t.seconds for t in one.trials),
                merge_seconds=one.seconds,
                merge_rows=one.rows,
            ),
            one.settings,
        )
        for one in merges
    ]
