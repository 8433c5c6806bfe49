"""Disk space given back: the pieces of a finished run, which its model, scoreboard and report do without."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from allround.building.runs.folder import piece_folders, places_of_pieces, read_run
from allround.core.errors import AllroundError
from allround.core.growing import remove_empty
from allround.core.outputs import sweep, work_folder
from allround.core.pieces import Piece

#: Commands whose results stand beside their pieces.
CLEANED = ("build", "compare-training")


@dataclass(frozen=True)
class Cleaned:
    """What was removed from a run folder, or would be.

    pieces: their names. freed: bytes of their files. changed: pieces that stay because something in them is not as it
    was written. kept: pieces that were asked to stay, and the base of models that are stored as changes of it.
    """

    folder: Path
    pieces: list[str]
    freed: int
    changed: list[str]
    kept: list[str]


def clean(folder: Path | str, *, keep: Sequence[str] = (), dry_run: bool = False, force: bool = False) -> Cleaned:
    """Remove the pieces of a finished run. Its best model, scoreboard, predictions and report stay.

    The same build then computes everything anew. keep: patterns of the names of pieces that stay, such as
    "specialist-*". dry_run: remove nothing, and say what would go. force: also clean an unfinished run, whose finished
    work is then lost. Only files that allround wrote and nobody changed are removed.
    Errors: a folder that is no run of a build or comparison, a process at work in it, an unfinished run.
    """
    folder = Path(folder)
    run = read_run(folder)
    asked = f"clean the run {folder}"
    if run.command not in CLEANED:
        raise AllroundError(
            asked, f"'{run.command}' wrote it, which keeps no pieces", f"give a run of {' or '.join(CLEANED)}"
        )
    if run.state == "running":
        raise AllroundError(asked, "a process is at work in it at this moment", "wait for it, or stop it first")
    if run.state == "unfinished" and not (force or dry_run):
        raise AllroundError(
            asked,
            "the run is not finished, and what it has finished would be lost",
            "run the same command again to finish it, or give --force (force=True in Python)",
        )
    if dry_run:
        return _clean(folder, keep, remove=lambda piece: None)
    with work_folder(folder, run.command):
        found = _clean(folder, keep, remove=Piece.remove)
        for place in places_of_pieces(folder):
            sweep(place)
            remove_empty(place)
    return found


def _clean(folder: Path, keep: Sequence[str], remove: Callable[[Piece], None]) -> Cleaned:
    from allround.models.adapted import base_of

    found = Cleaned(folder, [], 0, [], [])
    size = 0
    places = list(piece_folders(folder))
    asked = {place.name for place in places if any(fnmatchcase(place.name, pattern) for pattern in keep)}
    needed = {base.resolve().parent.name for place in places if place.name in asked
              for base in (base_of(place / "encoder"),) if base is not None}  # fmt: skip
    for place in places:
        piece = Piece(place, {})
        if piece.key in asked | needed:
            found.kept.append(piece.key)
        elif piece.damage is not None:
            found.changed.append(piece.key)
        else:
            size += sum(os.lstat(path).st_size for path in piece.own_files())
            remove(piece)
            found.pieces.append(piece.key)
    return Cleaned(folder, found.pieces, size, found.changed, found.kept)
