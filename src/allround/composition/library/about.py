"""What makes a folder a library: library.json, which is written once, and the base that it names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from allround.core.errors import AllroundError
from allround.core.files import read_settings, write_json
from allround.core.outputs import output_folder
from allround.core.schema import STRICT, fitted
from allround.core.version import __version__

#: The file that makes a folder a library.
LIBRARY = "library.json"
_FORMAT = "allround library 1"


@dataclass(frozen=True)
class About:
    """What library.json says. base: as it was given; a folder's absolute path. path: from the library to that folder,
    so that both can be moved together."""

    __pydantic_config__ = STRICT

    format: str
    allround: str
    base: str
    path: str | None
    fingerprint: str


def create(folder: Path, base: str | Path) -> None:
    """Make a library without modules: see `Library.create`."""
    from allround.checkpoints.adapter_config import is_adapter
    from allround.checkpoints.fingerprint import fingerprint
    from allround.checkpoints.weights import Weights
    from allround.models.base import builtin_encoders, find_folder

    asked = f"create a library in {folder}"
    if (folder / LIBRARY).is_file():
        raise AllroundError(asked, "there is a library already", f"add modules to it: allround library add {folder}")
    if str(base) in builtin_encoders():
        raise AllroundError(
            asked,
            f"the base {base} is pretrained anew in every run",
            "give the folder of a saved model, the one that the modules were tuned from",
        )
    place = find_folder(base)
    if is_adapter(place):
        raise AllroundError(asked, f"the base {base} is an adapter", "give the model that it was tuned from")
    given = Path(base).expanduser()
    local = given.exists()
    about = {
        "format": _FORMAT,
        "allround": __version__,
        "base": str(given.absolute()) if local else str(base),
        "path": _relative(given, folder) if local else None,
        "fingerprint": fingerprint(Weights(place)),
    }
    with output_folder(folder, "library create", inputs=[place] if local else []) as new:
        write_json(new / LIBRARY, about)


def read_about(folder: Path) -> About:
    """What a library says of itself. Errors: a folder that is none, or whose library.json is damaged."""
    asked = f"open the library {folder}"
    file = folder / LIBRARY
    if not file.is_file():
        found = f"the folder holds no {LIBRARY}" if folder.is_dir() else "there is no such folder"
        raise AllroundError(asked, found, f"make one: allround library create {folder} --base BASE")
    value = read_settings(file)
    version = value.get("format") if isinstance(value, Mapping) else None
    if isinstance(version, str) and version != _FORMAT and re.fullmatch(r"allround library \d+", version):
        found = f"it has the format '{version}', and this version reads '{_FORMAT}'"
        raise AllroundError(asked, found, "upgrade: pip install -U allround")
    try:
        about: About = fitted(About, value)
        if about.format != _FORMAT:
            raise ValueError(f"its format is {about.format[:60]!r}")
        return about
    except ValueError as error:
        do = "copy the library again, whole, or create it anew and add its modules"
        raise AllroundError(asked, f"{LIBRARY} is damaged: {error}", do) from None


def find_base(folder: Path, about: About, given: str | Path | None) -> Path:
    """The folder of a library's base. given: where it lies now. Errors: it is not there, or has other weights."""
    from allround.checkpoints.fingerprint import fingerprint
    from allround.checkpoints.weights import Weights
    from allround.models.base import find_folder

    asked = f"open the base of the library {folder}"
    do = "say where it is: --base FOLDER (Library.open(folder, base=...) in Python)"
    if given is None and about.path is not None:
        places = (folder / about.path, Path(about.base))
        given = next((place for place in places if place.exists()), None)
        if given is None:
            raise AllroundError(asked, f"it is not at {about.base}", do)
    place = find_folder(about.base if given is None else given)
    if fingerprint(Weights(place)) != about.fingerprint:
        raise AllroundError(asked, f"{place} has other weights than the base that the library was created for", do)
    return place


def _relative(path: Path, folder: Path) -> str | None:
    """The way from a folder to a path; None where there is none, as between two drives."""
    try:
        return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    except ValueError:
        return None
