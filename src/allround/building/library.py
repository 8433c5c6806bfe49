"""The modules of a library as a build takes them: some are specialists of its tasks, the others stand beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from allround.building.given import ANEW, SEPARATE, GivenReader, GivenSpecialist, GivenSpecialists
from allround.composition.library.alike import same
from allround.composition.library.card import ADAPTER, Card
from allround.composition.library.known import ModuleTasks, tasks_in
from allround.composition.library.library import Library
from allround.core.errors import AllroundError
from allround.core.words import listed
from allround.models.base import builtin_encoders, find_folder
from allround.tasks.definition import Definition


def base_of_library(library: Library) -> str:
    """The base of a library, as a build is given it."""
    return str(library.base_folder) if library.about.path is not None else library.base


def with_library(
    given: GivenSpecialists,
    library: Library,
    definitions: Mapping[str, Definition],
    base: object,
    encoder: Mapping[str, object],
) -> GivenSpecialists:
    """Specialists that a user gives, and beside them the modules of a library.

    A module whose card names a task of the suite is the specialist of that task, where none is given; of several that
    are the same, the first of the alphabet is taken. All others are further modules. Errors: a library of another base;
    two modules of one task.
    """
    _check_base(library, base)
    cards = library.cards()
    again = {name for group in same(cards) for name in group[1:]}
    cards = {name: card for name, card in cards.items() if name not in again}
    reader = GivenReader(base, encoder)
    tasks = dict(given.tasks)
    used: set[str] = set()
    first = _names(given.encoder.get("first_token") or encoder.get("first_token"))
    for task, definition in definitions.items():
        name = None if task in tasks else _module_of(library, cards, task)
        if name is not None:
            used.add(name)
            known = tasks_in(library.place(name))
            tasks[task] = _specialist(library, name, cards[name], known, reader, definition)
            first |= {task} & _names(_read_so(known, "first_token", ()))
    further = {name: str(library.folder_of(name)) for name in cards if name not in used}
    return GivenSpecialists(tasks, {"first_token": sorted(first)} if first else {}, further)


def _names(value: object) -> set[str]:
    """The tasks whose rows an encoder reads at the first token, as its settings say."""
    return set(map(str, value)) if isinstance(value, (list, tuple)) else set()


def _check_base(library: Library, base: object) -> None:
    """An error unless a build starts from the base of a library."""
    from allround.checkpoints.fingerprint import fingerprint
    from allround.checkpoints.weights import Weights

    asked = f"build with the library {library.folder}"
    do = "leave --base out, to start from the library's base; or give a library of this base"
    if not isinstance(base, (str, Path)) or str(base) in builtin_encoders():
        raise AllroundError(asked, f"the base {base} is made anew by each build, and no module was tuned from it", do)
    if fingerprint(Weights(find_folder(str(base)))) != library.about.fingerprint:
        raise AllroundError(asked, f"it is a library of {library.base}, and {base} has other weights", do)


def _module_of(library: Library, cards: Mapping[str, Card], task: str) -> str | None:
    """The module that was tuned on a task; None where there is none. Errors: several."""
    found = [name for name, card in cards.items() if task in card.tasks]
    if len(found) > 1:
        raise AllroundError(
            f"build with the library {library.folder}",
            f"the modules {listed(found)} were both tuned on the task '{task}'"
            if len(found) == 2 else f"{len(found)} modules were tuned on the task '{task}': {listed(found)}",
            f"keep one of them (allround library drop), or give the specialist: --specialist {task}=FOLDER",
        )  # fmt: skip
    return found[0] if found else None


def _specialist(
    library: Library, name: str, card: Card, known: ModuleTasks, reader: GivenReader, definition: Definition
) -> GivenSpecialist:
    """A module as the specialist of a task, with the head that it brings where that fits."""
    place = library.place(name)
    own = known.definitions.get(definition.name)
    if own is None and card.form == ADAPTER and reader.shapes is not None and not known.definitions:
        found = reader.read(str(library.folder_of(name)), definition)  # it may bring a classifier of transformers
        return replace(found, folder=str(place), words=f"{name}, {found.words}", module=True, modules=False)
    pairs = _read_so(known, "pairs", SEPARATE)
    if own is not None and definition.modality == "text" and definition.pair and pairs != reader.pairs:
        raise AllroundError(
            f"use the module '{name}' of {library.folder} as the specialist of '{definition.name}'",
            f"it reads pairs of texts in another way ({pairs}) than this build ({reader.pairs})",
            f"let the build read them so: --pairs {pairs}",
        )
    fits = own is not None and (own.kind, own.labels) == (definition.kind, definition.labels)
    if own is not None and fits and definition.name in library.heads(name):
        order = tuple(range(len(own.labels)))
        return GivenSpecialist(str(place), True, f"{name}; its head is kept", order, module=True)
    why = "it brings no head for the task" if own is None or fits else "its head is for other labels"
    return GivenSpecialist(str(place), True, f"{name}; {ANEW} ({why})", module=True)


def _read_so(known: ModuleTasks, setting: str, default: object) -> object:
    """A setting of the encoder that a module was tuned with."""
    settings = (known.reading or {}).get("settings")
    return settings.get(setting, default) if isinstance(settings, Mapping) else default
