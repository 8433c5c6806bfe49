"""Specialists that the user gives: what lies in their folders, whether it fits, and where their heads come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from allround.checkpoints.adapter_config import is_adapter
from allround.checkpoints.source import Source
from allround.core.errors import AllroundError, suggestion
from allround.core.files import read_settings
from allround.core.words import listed, plural
from allround.merging.layout import check_alike
from allround.models.adapted import open_weights
from allround.models.base import builtin_encoders, check_is_model, find_folder
from allround.models.classifier import Classifier, read_config
from allround.models.encoder import CONFIG
from allround.models.manifest import MANIFEST, read_manifest
from allround.models.network import (
    classifier_in,
    modules_of,
    network_problems,
    network_shapes,
    open_network,
    other_preparation,
)
from allround.tasks.definition import Definition

#: A pickle that SetFit keeps its head in.
_PICKLED_HEAD = "model_head.pkl"
#: What is said where a head is not kept.
ANEW = "a head is fitted anew on its frozen encoder"
#: How an encoder reads pairs where nothing is said.
SEPARATE = "separate"


@dataclass(frozen=True)
class GivenSpecialist:
    """A specialist that the user gives.

    folder: what was given, on this machine. ours: whether allround saved it. order: the numbers of its head's outputs
    in the order of the task's labels, where that head is kept; None: a head is fitted anew on its frozen encoder.
    classifier: of transformers, whose head that is. modules: whether the layers after its network are its own.
    module: whether it is a module of a library; `folder` is that of the module. words: what a user should know of it.
    """

    folder: str
    ours: bool
    words: str
    order: tuple[int, ...] | None = None
    modules: bool = False
    classifier: Classifier | None = None
    module: bool = False

    def to_json(self) -> dict[str, object]:
        """As plain values, which a job takes into another process."""
        return {name: value for name, value in asdict(self).items() if name != "words"}


@dataclass(frozen=True)
class GivenSpecialists:
    """Those of a build by task. encoder: settings of the build's encoder that they need. further: modules of a library
    that are of no task of the build, by their names: the folders of their weights."""

    tasks: Mapping[str, GivenSpecialist] = field(default_factory=dict)
    encoder: Mapping[str, object] = field(default_factory=dict)
    further: Mapping[str, str] = field(default_factory=dict)

    @property
    def folders(self) -> list[str]:
        """Where they lie."""
        return [*(one.folder for one in self.tasks.values()), *self.further.values()]

    @property
    def modules(self) -> list[str]:
        """The tasks whose specialist is a module of a library."""
        return [task for task, one in self.tasks.items() if one.module]

    @property
    def notes(self) -> dict[str, str]:
        """What a user should know of each."""
        return {
            task: f"the specialist is a module of the library: {one.words}"
            if one.module else f"the specialist was given ({Path(one.folder).name}): {one.words}"
            for task, one in self.tasks.items()
        }  # fmt: skip


def read_given(
    given: Mapping[str, str],
    definitions: Mapping[str, Definition],
    base: object,
    encoder: Mapping[str, object],
) -> GivenSpecialists:
    """Look at all specialists that are given, from headers and configurations alone.

    given: a folder or a Hub id by task. base: what the build starts from. encoder: settings of the encoder.
    Errors: one that lists all that does not fit.
    """
    if not given:
        return GivenSpecialists()
    reader = GivenReader(base, encoder)
    found: dict[str, GivenSpecialist] = {}
    wrong: list[tuple[str, str, str]] = []
    for task, name in given.items():
        try:
            if task not in definitions:
                raise AllroundError(f"use {name}", "the suite has no such task", suggestion(task, definitions))
            found[task] = reader.read(name, definitions[task])
        except AllroundError as error:
            wrong.append((task, error.found, error.do))
    if len(wrong) == 1:
        ((task, what, do),) = wrong
        raise AllroundError(f"use {given[task]} as the specialist of '{task}'", what, do)
    if wrong:
        raise AllroundError(
            f"use {plural(len(given), 'given specialist')}",
            "; ".join(f"{task} ({given[task]}): {what}" for task, what, _ in wrong),
            "; ".join(dict.fromkeys(do for _, _, do in wrong)),
        )
    return GivenSpecialists(found, _needed(found, definitions, encoder))


def _base_folder(base: object) -> Path | None:
    """The folder of the base; None where it is a network in memory, or pretrained by the build."""
    if not isinstance(base, (str, Path)) or str(base) in builtin_encoders():
        return None
    return find_folder(str(base))


def _encoder_file(folder: Path) -> Mapping[str, object]:
    """What allround's own file says of an encoder; empty where there is none."""
    value = read_settings(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    return value if isinstance(value, Mapping) else {}


def _is_transformers(folder: Path) -> bool:
    return _encoder_file(folder).get("encoder", "text") in ("text", "image")


def _root(name: str) -> Path:
    """The folder of a specialist, whole: where allround saved it, with heads and manifest."""
    path = Path(name).expanduser()
    return path if (path / MANIFEST).is_file() or is_adapter(path) else find_folder(name, "specialist")


class GivenReader:
    """Looks at folders of specialists, beside one base."""

    def __init__(self, base: object, encoder: Mapping[str, object]) -> None:
        self.base = base
        self.home = home = _base_folder(base)
        self.shapes = network_shapes(home) if home is not None and _is_transformers(home) else None
        self.pairs = encoder.get("pairs") or (home and _settings(home).get("pairs")) or SEPARATE

    def read(self, name: str, definition: Definition) -> GivenSpecialist:
        root = _root(name)
        place = root / "encoder" if (root / MANIFEST).is_file() else root
        if (place / CONFIG).is_file():
            return self._ours(root, place, definition)
        adapter = is_adapter(root)
        if not adapter:
            check_is_model(root)
        if self.home is None or self.shapes is None:
            raise AllroundError(
                f"use {name}",
                f"it is a model of transformers, and the base '{self.base}' is not, so it was not tuned from it",
                "give the base that it was tuned from: --base FOLDER",
            )
        source = open_network(root, self.home)
        self._check(root, source)
        classifier = classifier_in(root, self.home)
        what = "a PEFT adapter" if adapter else classifier.name if classifier else _noun(root)
        if classifier is None:
            modules = modules_of(root) == modules_of(self.home)
            why = ["its head is a pickle, which allround does not read"] if (root / _PICKLED_HEAD).exists() else []
            if (root / "modules.json").is_file() and not modules:
                why.append(f"read as the base reads texts, {_listed(modules_of(self.home))}, and not by its own "
                           f"{_listed(modules_of(root))}")  # fmt: skip
            return GivenSpecialist(str(root), False, f"{what}; {ANEW}{_because(why)}", None, modules)
        match = classifier.match(definition, source)
        if match.order is not None and definition.pair and self.pairs == SEPARATE:
            why = ["it reads a pair as one text, and this build reads the two apart; --pairs joint keeps its head"]
            return GivenSpecialist(str(root), False, f"{what}; {ANEW}{_because(why)}")
        if match.order is not None and (odd := other_preparation(self.home, root)):
            why = [f"it prepares images in another way than the base ({_listed(odd)})"]
            return GivenSpecialist(str(root), False, f"{what}; {ANEW}{_because(why)}")
        if match.order is not None:
            words = f"{what}; its head is kept: {match.words}"
            return GivenSpecialist(str(root), False, words, match.order, classifier=classifier)
        return GivenSpecialist(str(root), False, f"{what}; {ANEW}{_because([match.words])}")

    def _check(self, folder: Path, source: Source) -> None:
        assert self.home is not None and self.shapes is not None
        if problems := network_problems(self.home, self.shapes, folder, source):
            raise AllroundError(
                f"use {folder}",
                "; ".join(problems),
                "give the base that it was tuned from (--base), or another specialist",
            )

    def _ours(self, root: Path, place: Path, definition: Definition) -> GivenSpecialist:
        """What allround saved: a model with heads, or an encoder."""
        if self.shapes is not None and _is_transformers(place):
            self._check(place, open_network(place, place))
        elif self.home is not None and (self.home / CONFIG).is_file():
            check_alike(open_weights(self.home), [open_weights(place)])
        pairs = _settings(place).get("pairs", SEPARATE)
        if definition.modality == "text" and definition.pair and pairs != self.pairs:
            raise AllroundError(
                f"use {root}",
                f"it reads pairs of texts in another way ({pairs}) than this build ({self.pairs})",
                f"let the build read them so: --pairs {pairs}",
            )
        definitions = read_manifest(root)[1] if (root / MANIFEST).is_file() else {}
        own = definitions.get(definition.name)
        if own is not None and own.labels == definition.labels:
            words = "saved by allround; its head is kept"
            return GivenSpecialist(str(root), True, words, tuple(range(len(own.labels))))
        why = "it has no head for the task"
        if own is not None:
            why = f"its labels are not those of the task ({_listed(sorted(set(own.labels) ^ set(definition.labels)))})"
        return GivenSpecialist(str(root), True, f"saved by allround; {ANEW}{_because([why])}")


def _needed(
    found: Mapping[str, GivenSpecialist], definitions: Mapping[str, Definition], encoder: Mapping[str, object]
) -> dict[str, object]:
    """Settings of the encoder by which heads that are kept read rows as they did: at the first token."""
    names = [
        task
        for task, one in found.items()
        if (one.classifier is not None and one.classifier.first_token)
        or (one.ours and task in _first_tokens(Path(one.folder)))
    ]
    asked = encoder.get("first_token")
    names += [name for name in asked if name not in names] if isinstance(asked, (list, tuple)) else []
    return {"first_token": sorted(names)} if names else {}


def _first_tokens(folder: Path) -> list[str]:
    settings = _settings(folder / "encoder" if (folder / MANIFEST).is_file() else folder)
    names = settings.get("first_token")
    return [str(name) for name in names] if isinstance(names, list) else []


def _settings(folder: Path) -> Mapping[str, object]:
    settings = _encoder_file(folder).get("settings")
    return settings if isinstance(settings, Mapping) else {}


def _noun(root: Path) -> str:
    if (root / _PICKLED_HEAD).exists():
        return "a SetFit model"
    if (root / "modules.json").is_file():
        return "a sentence-transformers model"
    named = read_config(root).get("architectures")
    return str(named[0]) if isinstance(named, list) and named and named[0] else "a transformers model"


def _because(why: list[str]) -> str:
    return f" ({'; '.join(why)})" if why else ""


def _listed(names: list[str]) -> str:
    return listed(names[:6]) if names else "nothing"
