"""Estimates of transfer between the tasks of a run, kept as a piece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from allround.building.jobs.estimate import estimate_transfer, estimated
from allround.building.stages.base import Base
from allround.building.stages.data import Data
from allround.building.workshop import Workshop, folders, keys
from allround.core import registry
from allround.core.jobs import call
from allround.core.pieces import Piece
from allround.core.words import duration, plural
from allround.transfer.matrix import TaskMatrix


@dataclass(frozen=True)
class Estimated:
    """What estimators expect of each pair of tasks; which were left out, and why; and the seconds that it took."""

    matrices: list[TaskMatrix]
    left_out: Mapping[str, str]
    seconds: float


def estimate(
    shop: Workshop,
    data: Data,
    base: Base,
    specialists: Mapping[str, Piece],
    names: Sequence[str] | None = None,
    rows: int | None = 300,
) -> Estimated:
    """Ask estimators what they expect, from training rows alone.

    specialists: a piece for each task; where there are some, only those estimators are asked that look at models.
    names: of estimators; all where it is None. rows: training rows of each task that they look at.
    """
    wanted = list(names) if names is not None else registry.names("estimate")
    piece = shop.pieces.piece("estimates", base=base.piece.key, tasks=data.content, specialists=keys(specialists),
                              estimators=wanted, rows=rows, seed=shop.seed)  # fmt: skip
    job = call(estimate_transfer, piece=piece, encoder=base.encoder, tasks=list(data.folders.values()),
               specialists=folders(specialists), names=wanted, limit=rows, seed=shop.seed)  # fmt: skip
    by = " by specialists" if specialists else ""
    tally = shop.do(f"estimates of transfer{by}", [(piece, job)])
    found, left_out = estimated(piece)
    taken = float(piece.facts["seconds"])
    shop.say(f"{plural(len(found), 'estimate')} of transfer{by} made ({duration(taken)})", tally)
    return Estimated(found, left_out, taken)
