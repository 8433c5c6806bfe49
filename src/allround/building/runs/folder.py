"""What a run folder holds: whose it is, whether the run is finished, what was best, and how large its pieces are."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from allround.building.stages.report import BEST, REPORT
from allround.core.errors import AllroundError
from allround.core.files import MANIFEST
from allround.core.locks import LOCK, owner_of
from allround.core.outputs import read_listing
from allround.core.progress import FINISHED
from allround.core.reading import open_file
from allround.evaluation.scoreboard import Scoreboard

#: The folder of pieces in a run folder, and where the runs lie that are pooled in it.
PIECES, REPEATED = "pieces", ("seeds", "folds")
#: What each command leaves in the end, in the folder where it works.
_LAST = {"build": REPORT, "compare-training": "comparison.html", "add-task": "add-task.html"}
#: Bytes at the end of a log in which its last line is looked for.
_TAIL = 4096


@dataclass(frozen=True)
class Run:
    """A folder that a command of allround wrote or works in.

    command: which one. state: running, finished or unfinished. changed: when something in it was written last, in
    seconds since 1970. size: bytes of all files in it; pieces: those of its pieces. suite, base, best, retention: from
    its scoreboard, where it has one; retention is the mean of the best system.
    """

    folder: Path
    command: str
    state: str
    changed: float
    size: int
    pieces: int
    suite: str | None = None
    base: str | None = None
    best: str | None = None
    retention: float | None = None


@dataclass(frozen=True)
class PieceSort:
    """The pieces of one sort in a run folder: how many, and their bytes."""

    name: str
    count: int
    size: int


def find_runs(root: Path) -> list[Run]:
    """The runs at and below a folder, the one that changed last first. What lies within a run is part of it."""
    if not root.is_dir():
        raise AllroundError(f"list the runs in {root}", "there is no such folder", "give a folder that exists")
    return sorted((read_run(folder) for folder in _run_folders(root)), key=lambda run: -run.changed)


def _run_folders(root: Path) -> Iterator[Path]:
    for place, folders, _ in os.walk(root):
        if command_of(Path(place)) is not None:
            folders.clear()
            yield Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def command_of(folder: Path) -> str | None:
    """The command that wrote a folder or works in it; None where that is not allround's."""
    owner = owner_of(folder) if (folder / LOCK).is_file() else None
    if owner is not None:
        return owner
    if not (folder / MANIFEST).is_file():
        return None
    commands = {str(entry.get("command")) for entry in read_listing(folder).values()}
    return commands.pop() if len(commands) == 1 else None


def read_run(folder: Path) -> Run:
    """What a run folder holds. Errors: a folder that no command of allround wrote or works in."""
    command = command_of(folder)
    if command is None:
        found = "no command of allround works there" if folder.is_dir() else "there is no such folder"
        raise AllroundError(f"read the run {folder}", found, "give a run folder: `allround runs list` names them")
    sizes = _sizes(folder)
    about = _scores(folder)
    return Run(
        folder,
        command,
        _state(folder, command),
        max((changed for _, _, changed in sizes), default=folder.stat().st_mtime),
        sum(size for _, size, _ in sizes),
        sum(size for path, size, _ in sizes if PIECES in path.relative_to(folder).parts[:-1]),
        *about,
    )


def piece_sorts(folder: Path) -> list[PieceSort]:
    """The pieces in a run folder by their sort, the largest sort first. A sort is the first word of a piece's name."""
    found: dict[str, list[int]] = {}
    for piece in piece_folders(folder):
        size = sum(size for _, size, _ in _sizes(piece))
        found.setdefault(piece.name.split("-")[0], []).append(size)
    return sorted((PieceSort(name, len(s), sum(s)) for name, s in found.items()), key=lambda one: (-one.size, one.name))


def piece_folders(folder: Path) -> list[Path]:
    """The folders of all pieces in a run folder, those of its single seeds or folds too."""
    return [path.parent for place in places_of_pieces(folder) for path in sorted(place.glob("*/piece.json"))]


def places_of_pieces(folder: Path) -> list[Path]:
    """The folders in a run folder that hold pieces."""
    return [folder / PIECES, *(path for name in REPEATED for path in sorted(folder.glob(f"{name}/*/{PIECES}")))]


def is_running(folder: Path) -> bool:
    """Whether a process is at work in a folder at this moment."""
    if not (folder / LOCK).is_file():
        return False
    with open_file(folder / LOCK) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a disk without locks
            return False
    return False


def _state(folder: Path, command: str) -> str:
    if is_running(folder):
        return "running"
    if not (folder / LOCK).is_file():
        return "finished"
    last, log = folder / _LAST.get(command, BEST), folder / "log.txt"
    if not last.exists():
        return "unfinished"
    if not log.is_file() or _last_line(log).endswith(FINISHED):
        return "finished"
    return "finished" if last.stat().st_mtime >= log.stat().st_mtime else "unfinished"


def _last_line(log: Path) -> str:
    with open_file(log) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        lines = file.read().decode("utf-8", errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "")


def _scores(folder: Path) -> tuple[str | None, str | None, str | None, float | None]:
    if not (folder / "scoreboard.json").is_file():
        return None, None, None, None
    try:
        board = Scoreboard.load(folder)
    except AllroundError:
        return None, None, "unreadable", None
    suite, base = (str(board.provenance[name]) if name in board.provenance else None for name in ("suite", "base"))
    mean = board.mean.get(board.best or "")
    return suite, base, board.best, mean.value if mean else None


def _sizes(folder: Path) -> list[tuple[Path, int, float]]:
    """The files under a folder with their bytes and times; links count as what they are."""
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            about = os.lstat(path := Path(place) / name)
            found.append((path, about.st_size, about.st_mtime))
    return found
