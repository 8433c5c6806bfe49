"""Plain baselines beside the networks: linear models and, where all tasks are on tables, boosted trees."""

from __future__ import annotations

from allround.building.candidates import PerTaskCandidate
from allround.building.jobs import systems as jobs
from allround.building.stages.data import Data
from allround.building.workshop import Work, Workshop, seconds
from allround.core.jobs import call
from allround.core.pieces import Piece
from allround.core.seeds import seed_of
from allround.core.words import duration, listed, plural
from allround.models.boosting import ROUNDS, TRIED, can_boost
from allround.models.plain.fit import STEPS, TOLERANCE, can_fit
from allround.models.plain.linear import reader_of

#: What the linear models together are called, and what the boosted trees.
LINEAR, TREES = "linear", "trees"


def baseline_candidates(shop: Workshop, data: Data, *, trees: bool) -> list[PerTaskCandidate]:
    """What answers every task without a network; none of a sort that cannot answer all of them."""
    found: list[PerTaskCandidate] = []
    work: list[Work] = []
    if all(can_fit(definition) for definition in data.definitions.values()):
        pieces, made = _linear_work(shop, data)
        found.append(PerTaskCandidate(LINEAR, "baseline", linear_title(data), pieces))
        work += made
    else:
        names = [name for name, definition in data.definitions.items() if not can_fit(definition)]
        shop.say(f"no linear baseline: {listed(names)} cannot be read as plain numbers")
    if trees and all(can_boost(definition) for definition in data.definitions.values()):
        pieces, made = _trees_work(shop, data)
        found.append(PerTaskCandidate(TREES, "trees", "boosted trees for each task", pieces))
        work += made
    tally = shop.do("baselines", work)
    if found:
        nouns = {LINEAR: "linear models", TREES: "boosted trees"}
        took = [f"{nouns[one.name]} ({duration(seconds(one.pieces))})" for one in found]
        shop.say(f"baselines fitted for {plural(len(data.tasks), 'task')}: {listed(took)}", tally)
    return found


def linear_title(data: Data) -> str:
    """What the linear models are, in words."""
    readers = {reader.words for one in data.definitions.values() if (reader := reader_of(one)) is not None}
    return f"a linear model for each task, on {listed(sorted(readers))}"


def _linear_work(shop: Workshop, data: Data) -> tuple[dict[str, Piece], list[Work]]:
    pieces: dict[str, Piece] = {}
    work: list[Work] = []
    for name, task in data.tasks.items():
        reader = reader_of(task.definition)
        assert reader is not None
        tried = {which: list(values) for which, values in reader.strengths.items()}
        piece = shop.pieces.piece(f"{LINEAR}-{name}", task=task.content, tried=tried, solver=[STEPS, TOLERANCE])
        pieces[name] = piece
        work.append((piece, call(jobs.make_linear, piece=piece, task=data.folders[name])))
    return pieces, work


def _trees_work(shop: Workshop, data: Data) -> tuple[dict[str, Piece], list[Work]]:
    pieces: dict[str, Piece] = {}
    work: list[Work] = []
    for name, task in data.tasks.items():
        seed = seed_of(shop.seed, "trees", name) % 2**31
        settings = [ROUNDS, *(dict(one) for one in TRIED)]
        piece = shop.pieces.piece(f"{TREES}-{name}", task=task.content, seed=seed, tried=settings)
        pieces[name] = piece
        work.append((piece, call(jobs.make_trees, piece=piece, task=data.folders[name], seed=seed)))
    return pieces, work
