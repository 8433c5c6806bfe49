"""The models that a server has, each with its engine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from allround.core.errors import AllroundError, suggestion
from allround.models.indexed import open_index, search_in
from allround.models.prediction.answerer import Asking, own_inputs
from allround.models.system import System, load
from allround.serving.engine import Engine
from allround.serving.refused import Refused
from allround.serving.shadow import Shadow
from allround.tasks.kind import kind
from allround.tasks.modality import modality_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Served:
    """One model under a name. folder: where it was loaded from, for those that came from a folder. shadow: a new
    version that answers beside it. indexes: folders of what its queries search."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        folder: Path | None = None,
        shadow: Shadow | None = None,
        indexes: Sequence[Path] = (),
    ) -> None:
        self.name, self.engine, self.folder, self.shadow, self.indexes = name, engine, folder, shadow, indexes

    @property
    def system(self) -> System:
        return self.engine.system

    def about(self) -> list[dict[str, Any]]:
        """What a client should know of its tasks."""
        scores = self.system.facts.get("scores")
        known = scores if isinstance(scores, Mapping) else {}
        return [
            {"name": d.name, "model": self.name, "kind": d.kind, "inputs": list(own_inputs(self.system, d.name)),
             "modality": d.modality, "labels": list(d.labels), "metric": d.metric, "score": _score(known.get(d.name)),
             "files": modality_of(d).files}
            for d in self.system.definitions.values()
        ]  # fmt: skip

    def check_tasks(self, names: Iterable[str]) -> None:
        """An error for a task that it does not know."""
        for name in names:
            if name not in self.system.definitions:
                raise Refused(404, f"answer task '{name[:100]}'", f"the model '{self.name}' has no such task",
                              suggestion(name[:100], self.system.definitions))  # fmt: skip


def _score(known: object) -> dict[str, Any] | None:
    """The score of a task on the test rows of its build, where the folder tells it."""
    if not isinstance(known, Mapping) or not isinstance(known.get("test"), (int, float)):
        return None
    return {"value": known["test"], **{name: known.get(name) for name in ("low", "high", "rows")}}


class Models:
    """Served models by name; the first answers where none is named."""

    def __init__(self, served: Iterable[Served]) -> None:
        self.by_name = {one.name: one for one in served}

    def __iter__(self) -> Iterator[Served]:
        return iter(self.by_name.values())

    def find(self, name: str | None) -> Served:
        """The model of a name, or the first. Errors: `Refused` with status 404."""
        if name is None:
            return next(iter(self.by_name.values()))
        if name not in self.by_name:
            raise Refused(404, f"ask the model '{name[:100]}'", "there is no such model",
                          suggestion(name[:100], self.by_name))  # fmt: skip
        return self.by_name[name]

    def stop(self) -> None:
        """Answer what is queued, and take no more."""
        for one in self:
            one.engine.stop()
            if one.shadow is not None:
                one.shadow.stop()


def named_folders(words: Iterable[str]) -> dict[str, Path]:
    """Folders by the names that models are served under: of `NAME=FOLDER`, or of the folder itself; `best` of a run
    folder has the name of the run.

    >>> named_folders(["runs/support/best", "old=runs/old/best"])
    {'support': PosixPath('runs/support/best'), 'old': PosixPath('runs/old/best')}
    """
    found: dict[str, Path] = {}
    for word in words:
        before, separator, after = word.partition("=")
        given = bool(separator) and _NAME.fullmatch(before) is not None
        folder = Path(after if given else word)
        parts = folder.resolve().parts
        name = before if given else parts[-2] if parts[-1] == "best" and len(parts) > 2 else folder.resolve().name
        if name in found:
            raise AllroundError(f"serve two models as '{name}'", f"both {found[name]} and {folder} have this name",
                                f"name one of them: other={folder}")  # fmt: skip
        found[name] = folder
    return found


def named_indexes(words: Iterable[str], models: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Folders of indexes by the names of the models that search them: of `NAME=FOLDER`, or the first model.

    >>> named_indexes(["pages", "old=old-pages"], {"new": Path("a"), "old": Path("b")})
    {'new': [PosixPath('pages')], 'old': [PosixPath('old-pages')]}
    """
    found: dict[str, list[Path]] = {}
    for word in words:
        before, separator, after = word.partition("=")
        given = bool(separator) and before in models
        found.setdefault(before if given else next(iter(models)), []).append(Path(after if given else word))
    return found


def open_served(folder: Path | str, indexes: Iterable[Path] = (), device: str = "cpu") -> System:
    """Load a model with the indexes that its queries search, and try all of it out."""
    system = load(folder, device=device)
    for one in indexes:
        search_in(system, open_index(one))
    warm_up(system)
    return system


def warm_up(system: System) -> None:
    """Answer a made-up row of each task, so that the first request finds everything loaded, and what cannot work is
    found before anyone asks."""
    for definition in system.definitions.values():
        rules = kind(definition.kind)
        if not (rules.written or rules.own_choices or definition.harness):  # that would take long, or need a real row
            query = modality_of(definition).example(len(definition.inputs)).row
            if definition.name in system.passages:
                query = (query[0], system.passages[definition.name])
            system.answers(definition.name, [query])


def asking_of(tasks: list[str] | str | None, *, scores: bool, instruction: str | None = None) -> Asking:
    """What a request asks. tasks: names, "all", or None for those that the model finds."""
    names = tuple(dict.fromkeys(tasks)) if isinstance(tasks, list) else None
    return Asking(names, scores, find=tasks is None, instruction=instruction)
