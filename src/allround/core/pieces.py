"""Finished pieces of work, named by the content hash of what they were made from.

A run folder holds `pieces/<name>-<key>/`. A piece appears only when it is finished, so a killed run leaves
either the whole piece or nothing that looks like one, and the next run takes up whatever is there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allround.core.errors import AllroundError
from allround.core.files import atomic_folder, hash_json, read_json, write_json
from allround.core.version import __version__


@dataclass(frozen=True)
class Piece:
    """A place for one finished piece. `made_from` is everything that its content depends on."""

    folder: Path
    made_from: Mapping[str, Any]

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def done(self) -> bool:
        """Whether the piece is there and whole: every file that it was finished with, in its size."""
        try:
            written = read_json(self.folder / "piece.json")
            files = dict(written["files"])
            dict(written["facts"])
            return all((self.folder / name).stat().st_size == size for name, size in files.items())
        except (AllroundError, OSError, ValueError, KeyError, TypeError):
            return False

    @property
    def scratch(self) -> Path:
        """Where unfinished work may keep what it needs to go on after a kill."""
        return self.folder.parent / "unfinished" / self.folder.name

    @property
    def facts(self) -> dict[str, Any]:
        """What the work wrote down about itself when it finished."""
        facts: dict[str, Any] = read_json(self.folder / "piece.json")["facts"]
        return facts

    @contextlib.contextmanager
    def make(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield a folder and a dictionary of facts to fill; both appear together at the end."""
        facts: dict[str, Any] = {}
        with atomic_folder(self.folder) as folder:
            yield folder, facts
            files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
            about = {"made_from": dict(self.made_from), "facts": facts, "files": files}
            write_json(folder / "piece.json", about)


class Pieces:
    """The pieces of one run folder."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def piece(self, name: str, **made_from: Any) -> Piece:
        """The piece called `name`, made from `made_from` (plain data) by this version of allround."""
        made_from = {"allround": __version__, **made_from}
        return Piece(self.folder / f"{name}-{hash_json(made_from)[:12]}", made_from)
