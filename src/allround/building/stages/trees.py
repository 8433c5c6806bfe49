"""Boosted trees beside the networks, where all tasks are on tables."""

from __future__ import annotations

from allround.building.candidates import TreesCandidate
from allround.building.jobs import systems as jobs
from allround.building.stages.data import Data
from allround.building.workshop import Work, Workshop
from allround.core.jobs import call
from allround.core.pieces import Piece
from allround.core.seeds import seed_of
from allround.core.words import plural
from allround.models.boosting import ROUNDS, TRIED, can_boost


def trees_candidates(shop: Workshop, data: Data) -> list[TreesCandidate]:
    """Trees for each task, as one system; none where they cannot answer every task."""
    if not all(can_boost(definition) for definition in data.definitions.values()):
        return []
    pieces: dict[str, Piece] = {}
    work: list[Work] = []
    for name, task in data.tasks.items():
        seed = seed_of(shop.seed, "trees", name) % 2**31
        settings = [ROUNDS, *(dict(one) for one in TRIED)]
        piece = shop.pieces.piece(f"trees-{name}", task=task.content, seed=seed, tried=settings)
        pieces[name] = piece
        work.append((piece, call(jobs.make_trees, piece=piece, task=data.folders[name], seed=seed)))
    tally = shop.do("boosted trees", work)
    shop.say(f"boosted trees fitted for {plural(len(pieces), 'task')}", tally)
    return [TreesCandidate(pieces)]
