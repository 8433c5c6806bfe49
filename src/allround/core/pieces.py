"""Finished pieces of work, named by the content hash of what they were made from.

A run folder holds `pieces/<name>-<key>/`. A piece appears only when it is finished, so a killed run leaves
either the whole piece or nothing that looks like one, and the next run takes up whatever is there. What was damaged
since is not taken up: each piece holds the hashes of its files.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from allround.core.errors import AllroundError
from allround.core.files import hash_json, read_settings, write_json
from allround.core.growing import remove_empty
from allround.core.outputs import piece_folder
from allround.core.plugins import contents
from allround.core.reading import open_file
from allround.core.version import __version__

#: The hashes of files that this process has read, by what the system knows of them.
_known: dict[tuple[int, int, int, int], str] = {}


def _content(path: Path) -> str:
    """The xxh3 hash of a file. It is against damage and not against forgery, and has to be as fast as memory."""
    about = path.stat()
    key = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
    if key not in _known:
        digest = xxhash.xxh3_128()
        with open_file(path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
        _known[key] = digest.hexdigest()
    return _known[key]


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
        """Whether the piece is there and whole."""
        return self.folder.is_dir() and self.damage is None

    @property
    def damage(self) -> str | None:
        """What is not as it was when the piece was finished; None for a piece that is whole, or not there at all.

        All content is compared. A file that was compared once is so again only when its size or time is another.
        """
        if not self.folder.is_dir():
            return None
        try:
            written = read_settings(self.folder / "piece.json")
            files = written.pop("files")
            if written.pop("check") != hash_json([written, files]):
                return "piece.json is not as it was written"
        except (AllroundError, KeyError, TypeError, AttributeError):
            return "piece.json is not as it was written"
        for name, content in files.items():
            try:
                if _content(self.folder / name) != content:
                    return f"{name} is not as it was written"
            except OSError as error:
                return f"{name} cannot be read: {error.strerror}"
        return None

    @property
    def scratch(self) -> Path:
        """Where unfinished work may keep what it needs to go on after a kill."""
        return self.folder.parent / "unfinished" / self.folder.name

    @property
    def facts(self) -> dict[str, Any]:
        """What the work wrote down about itself when it finished."""
        facts: dict[str, Any] = read_settings(self.folder / "piece.json")["facts"]
        return facts

    @contextlib.contextmanager
    def make(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield a folder and a dictionary of facts to fill; both appear together at the end."""
        facts: dict[str, Any] = {}
        with piece_folder(self.folder) as folder:
            yield folder, facts
            found = sorted(p for p in folder.rglob("*") if p.is_file())
            files = {p.relative_to(folder).as_posix(): _content(p) for p in found}
            about = json.loads(json.dumps({"made_from": dict(self.made_from), "facts": facts}))
            write_json(folder / "piece.json", {**about, "files": files, "check": hash_json([about, files])})
            self._carry_over(folder)

    def _carry_over(self, folder: Path) -> None:
        """Bring what somebody else put into the piece into the new one that takes its place."""
        for path, name, own in self._files():
            if not own and not os.path.lexists(folder / name):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, folder / name, follow_symlinks=False)

    def _files(self) -> list[tuple[Path, str, bool]]:
        """All files in the piece's folder, their paths in it, and whether they are the piece's own."""
        known = {"piece.json"}
        with contextlib.suppress(AllroundError, KeyError, TypeError):
            known |= set(read_settings(self.folder / "piece.json")["files"])
        found = [(p, p.relative_to(self.folder).as_posix()) for p in self.folder.rglob("*") if not p.is_dir()]
        return [(path, name, name in known) for path, name in found]

    def own_files(self) -> list[Path]:
        """The files that the piece was finished with, as far as they are there."""
        return [path for path, _, own in self._files() if own]

    def remove(self) -> None:
        """Remove the files that the piece was finished with; what else lies in its folder stays."""
        for path in self.own_files():
            path.unlink()
        remove_empty(self.folder)


class Pieces:
    """The pieces of one run folder."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def remove(self) -> None:
        """Remove all pieces; what somebody else put there stays."""
        for path in list(self.folder.iterdir()) if self.folder.is_dir() else ():
            Piece(path, {}).remove()
        remove_empty(self.folder)

    def piece(self, name: str, **made_from: Any) -> Piece:
        """The piece called `name`, made from `made_from` (plain data) by this version of allround and the plug-ins that
        `made_from` names."""
        used = contents([name, made_from])
        made_from = {"allround": __version__, **({"plugins": used} if used else {}), **made_from}
        return Piece(self.folder / f"{name}-{hash_json(made_from)[:12]}", made_from)
