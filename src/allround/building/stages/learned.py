"""Merges of the specialists whose numbers are fitted on rows."""

from __future__ import annotations

from allround.building.jobs import merge as jobs
from allround.building.judge import Judge
from allround.building.search import Setting, Trial, run_searches
from allround.building.stages.merges import MergeInputs, MergeResult, count_trials, retention_words, trials_of
from allround.building.stages.plan import Scope
from allround.building.workshop import Tally, Work, Workshop
from allround.core import registry
from allround.core.jobs import call
from allround.core.pieces import Piece
from allround.core.seeds import seed_of
from allround.core.words import plural
from allround.merging.learn.learning import preset


def merge_learned(shop: Workshop, inputs: MergeInputs, scope: Scope, judge: Judge) -> list[MergeResult]:
    """Learn a merge by each preset, with settings chosen on validation."""
    entries = [registry.find("learn", name) for name in scope.learned]
    if not entries:
        return []
    seed = seed_of(shop.seed, "learn")
    made: dict[tuple[str, str], Piece] = {}
    tally = Tally()

    def score(pairs: list[tuple[str, Setting]]) -> list[Trial]:
        nonlocal tally
        work: list[Work] = []
        pieces: list[Piece] = []
        for name, values in pairs:
            piece = shop.pieces.piece(
                f"learn-{name}",
                learning=preset(name, values).to_json(),
                precision=scope.settings.precision,
                tasks=inputs.start.data.content,
                seed=seed,
                **inputs.made_from,
            )
            job = call(jobs.learn_merge, piece=piece, preset=name, values=values, seed=seed,
                       settings=scope.settings.to_json(), **inputs.places)  # fmt: skip
            made[name, repr(values)] = piece
            pieces.append(piece)
            work.append((piece, job))
        tally += shop.do("learning merges", work)
        return trials_of(shop, pairs, pieces, judge)

    found = []
    for name, (best, trials) in run_searches(entries, scope.trials, score).items():
        facts = made[name, repr(best)].facts
        found.append(
            MergeResult(name, f"learned by {name}", made[name, repr(best)], best, tuple(trials),
                   facts["learning_seconds"], facts["rows"])
        )  # fmt: skip
    tried = f" (of {count_trials(found)} settings)" if count_trials(found) > len(found) else ""
    shop.say(f"{plural(len(found), 'merge')} learned{tried}: {retention_words(found)}", tally)
    return found
