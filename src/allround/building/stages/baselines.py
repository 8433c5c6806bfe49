"""Baselines beside the networks: linear models and, where all tasks are on tables, boosted trees."""

from __future__ import annotations

from dataclasses import asdict

from allround.building.candidates import PerTaskCandidate, PieceCandidate
from allround.building.jobs import systems as jobs
from allround.building.stages.data import Data
from allround.building.workshop import Work, Workshop, seconds
from allround.core.errors import AllroundError
from allround.core.jobs import call
from allround.core.pieces import Piece
from allround.core.seeds import seed_of
from allround.core.words import duration, listed, plural
from allround.models.boosting import ROUNDS, TRIED, can_boost
from allround.models.plain.fit import STEPS, TOLERANCE, can_fit
from allround.models.plain.linear import reader_of
from allround.models.robust_boosting import RobustSettings, can_share
from allround.tasks.suite import Suite

#: What the linear models together are called, the boosted trees, and the robust trees that tasks share.
LINEAR, TREES, ROBUST = "linear", "trees", "rmtgb"


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
    if trees and can_have_trees(data):
        candidate, made = tree_candidate(shop, data)
        found.append(candidate)
        work += made
    tally = shop.do("baselines", work)
    if found:
        nouns = {LINEAR: "linear models", TREES: "boosted trees"}
        took = [f"{nouns[one.name]} ({duration(seconds(one.pieces))})" for one in found]
        shop.say(f"baselines fitted for {plural(len(data.tasks), 'task')}: {listed(took)}", tally)
    return found


def can_have_trees(data: Data) -> bool:
    """Whether boosted trees can answer all tasks."""
    return all(can_boost(definition) for definition in data.definitions.values())


def tree_candidate(shop: Workshop, data: Data) -> tuple[PerTaskCandidate, list[Work]]:
    """Boosted trees for each task, and the work that fits them."""
    pieces, work = _trees_work(shop, data)
    return PerTaskCandidate(TREES, "trees", "boosted trees for each task", pieces), work


def check_robust(suite: Suite) -> None:
    """An error unless robust trees can answer all tasks of a suite."""
    asked = f"fit robust trees that the tasks of '{suite.name}' share"
    apart = [task.name for task in suite if not task.definition.trained]
    if apart:
        raise AllroundError(
            asked, f"nothing may be trained on {listed(apart)}", "leave --rmtgb (rmtgb=True) or these tasks out"
        )
    if not can_share([task.definition for task in suite]):
        raise AllroundError(
            asked,
            "they must be two tasks or more on the same columns of tables, all of numbers or all with two labels",
            "leave --rmtgb (rmtgb=True) out; boosted trees for each task are there without it",
        )


def robust_candidate(shop: Workshop, data: Data) -> PieceCandidate:
    """Robust trees that all tasks share; they are fitted."""
    seed = seed_of(shop.seed, ROBUST) % 2**31
    settings = asdict(RobustSettings())
    piece = shop.pieces.piece(ROBUST, tasks=data.content, seed=seed, settings=settings)
    job = call(jobs.make_robust, piece=piece, tasks=list(data.folders.values()), seed=seed)
    tally = shop.do("robust trees", [(piece, job)])
    outliers = piece.facts["outliers"]
    words = f"outliers: {listed(outliers)}" if outliers else "no task is an outlier"
    took = duration(seconds({ROBUST: piece}))
    shop.say(f"robust trees fitted for {plural(len(data.tasks), 'task')} ({took}); {words}", tally)
    title = f"robust boosted trees that all tasks share ({words})"
    return PieceCandidate(ROBUST, "baseline", title, piece, tuple(data.tasks))


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
