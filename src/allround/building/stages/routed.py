"""Routed systems: the base, what each specialist changes of it as a module, and a router that picks for each row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from allround.building.candidates import Answerer, Candidate, ModelCandidate
from allround.building.given import GivenSpecialists
from allround.building.jobs import routed as jobs
from allround.building.jobs.rows import stored_task
from allround.building.options import RouterChoice
from allround.building.stages.base import Base
from allround.building.stages.choice import ROUTED
from allround.building.stages.data import Data
from allround.building.stages.heads import Start
from allround.building.stages.merges import MergeResult
from allround.building.stages.predicting import prediction_pieces
from allround.building.workshop import Work, Workshop
from allround.composition.library.card import WEIGHTS
from allround.composition.router import make_router
from allround.core.errors import AllroundError
from allround.core.files import hash_folder
from allround.core.jobs import call
from allround.core.pieces import Piece
from allround.core.seeds import seed_of
from allround.core.words import duration, listed, percent, plural, size_text
from allround.evaluation.routing import RoutingFacts
from allround.models.base import load_encoder
from allround.models.cost import Cost
from allround.tasks.definition import Definition
from allround.tasks.task import Task

#: Rank of the modules that are cut from specialists whose weights were tuned as a whole.
RANK = 16


@dataclass(frozen=True)
class Module:
    """A module of a routed system: its piece, and the tasks that it was tuned on. A module of a library may be of no
    task of the build."""

    piece: Piece
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class RoutedCandidate:
    """A routed system, by the folders of its pieces. modules: by name. heads: of each task."""

    name: str
    title: str
    base: Piece
    modules: Mapping[str, Module]
    router: Piece
    choice: RouterChoice
    heads: Mapping[str, Path]
    folders: Mapping[str, str]
    effort: Cost = field(default_factory=Cost)
    role: str = ROUTED
    single: bool = True

    @property
    def settings(self) -> Mapping[str, object]:
        return {**self.choice.settings, "combine": self.choice.combine}

    @property
    def keys(self) -> Mapping[str, object]:
        made = [self.base.key, *_keys(self.modules), self.router.key, self.choice.combine]
        return {name: [*made, str(folder.name)] for name, folder in self.heads.items()}

    @property
    def parts(self) -> jobs.Parts:
        return {
            "base": str(self.base.folder / "encoder"),
            "modules": _places(self.modules),
            "router": str(self.router.folder),
            "name": self.choice.router,
            "settings": dict(self.choice.settings),
            "combine": self.choice.combine,
            "combine_settings": dict(self.choice.combine_settings),
        }

    def answerers(self) -> list[Answerer]:
        return [Answerer(jobs.predict_routed, json.dumps(self.parts), {n: str(f) for n, f in self.heads.items()})]

    def cost(self, examples_per_second: float | None = None) -> Cost:
        facts = self.router.facts
        return replace(self.effort, parameters_stored=facts["stored"], parameters_used=facts["used"],
                       examples_per_second=examples_per_second)  # fmt: skip

    def write(self, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> None:
        heads = {name: str(self.heads[name]) for name in definitions}
        made = jobs.open_routed(self.parts, heads, [stored_task(self.folders[name]) for name in definitions])
        made.facts = dict(facts)
        made.write(folder)


def _keys(modules: Mapping[str, Module]) -> list[object]:
    return [[name, one.piece.key, list(one.tasks)] for name, one in modules.items()]


def _places(modules: Mapping[str, Module]) -> dict[str, tuple[str, Sequence[str]]]:
    return {name: (str(one.piece.folder / jobs.MODULE), one.tasks) for name, one in modules.items()}


@dataclass(frozen=True)
class _Base:
    """What the modules of routed systems change: a piece with an encoder, and the modules on it."""

    piece: Piece
    modules: Mapping[str, Module]

    @property
    def own(self) -> list[Piece]:
        """The pieces of the modules of the build's tasks."""
        return [one.piece for one in self.modules.values() if one.tasks]


def check_routers(base: Base, choices: Sequence[RouterChoice], tasks: Sequence[Task]) -> None:
    """An error for a router that finds nothing in the base that it could decide by, or cannot route rows of a task."""
    routers = [make_router(choice.router, choice.settings) for choice in choices]
    for router in routers:
        for task in tasks:
            router.check_task(task.definition)
    if any(router.level == "place" for router in routers):
        encoder = load_encoder(base.encoder)
        for router in routers:
            router.check(encoder)


def routed_candidates(
    shop: Workshop,
    start: Start,
    specialists: ModelCandidate,
    merges: Sequence[MergeResult],
    choices: Sequence[RouterChoice],
    places: Mapping[str, str],
    device: str,
    given: GivenSpecialists,
) -> tuple[list[RoutedCandidate], list[str]]:
    """Make a module of each specialist, fit each router on training rows, and say what they take. Also which routers
    cannot route between these modules, in words.

    places: the folders of all tasks. given: modules of a library are taken as they are, those of no task too, beside
    the others of this base.
    """
    if not choices:
        return [], []
    bases = _bases(shop, start, specialists, merges, [choice.merge for choice in choices], given)
    heads = {name: str(folder) for name, folder in specialists.heads.items()}
    routers: dict[str, tuple[RouterChoice, Piece]] = {}
    work: list[Work] = []
    for choice in choices:
        base = bases[choice.merge]
        piece = shop.pieces.piece(f"router-{choice.system}", base=base.piece.key, modules=_keys(base.modules),
                                  heads=dict(specialists.keys), tasks=start.data.content, router=choice.router,
                                  settings=dict(choice.settings), combine=choice.combine,
                                  combine_settings=dict(choice.combine_settings), seed=shop.seed)  # fmt: skip
        job = call(jobs.fit_router, piece=piece, base=str(base.piece.folder / "encoder"),
                   modules=_places(base.modules), heads=heads, tasks=dict(start.data.folders), name=choice.router,
                   settings=dict(choice.settings), combine=choice.combine,
                   combine_settings=dict(choice.combine_settings), seed=seed_of(shop.seed, "route"),
                   device=device)  # fmt: skip
        routers[choice.system] = choice, piece
        work.append((piece, job))
    tally = shop.do("fitting routers", work)
    took = ", ".join(f"{name} ({duration(piece.facts['seconds'])})" for name, (_, piece) in routers.items())
    shop.say(f"{plural(len(routers), 'router')} fitted: {took}", tally)
    taken = {one.method: one.seconds for one in merges}
    found, left_out = [], []
    for name, (choice, piece) in routers.items():
        if "refused" in piece.facts:
            left_out.append(f"{name} is left out: {piece.facts['refused']}")
            shop.say(left_out[-1], style="yellow")
            continue
        base = bases[choice.merge]
        of = "the base" if choice.merge is None else f"the merge by {choice.merge}"
        effort = Cost(
            training_seconds=specialists.effort.training_seconds
            + sum(float(one.piece.facts["seconds"]) for one in base.modules.values())
            + piece.facts["seconds"],
            training_examples=specialists.effort.training_examples + piece.facts["examples"],
            merge_seconds=taken.get(choice.merge or "", 0.0),
        )
        title = f"{of} with a module for each task, routed by {choice.words}"
        found.append(
            RoutedCandidate(name, title, base.piece, base.modules, piece, choice, specialists.heads, places, effort)
        )
    return found, left_out


def _bases(
    shop: Workshop,
    start: Start,
    specialists: ModelCandidate,
    merges: Sequence[MergeResult],
    wanted: Sequence[str | None],
    given: GivenSpecialists,
) -> dict[str | None, _Base]:
    """What routed systems begin from, each with a module for every task, and the base with those of no task too."""
    merged = {one.method: one.piece for one in merges}
    places = {task: given.tasks[task].folder for task in start.data.tasks if task in given.modules}
    found: dict[str | None, _Base] = {}
    work: list[Work] = []
    for merge in dict.fromkeys(wanted):
        piece, own = start.base.piece if merge is None else merged[merge], merge is None
        modules: dict[str, Module] = {}
        together: dict[str, list[str]] = {}  # a module of a library may be that of several tasks
        for task in start.data.tasks:
            together.setdefault(places.get(task, task), []).append(task)
        for task, *others in together.values():
            tuned = str(
                Path(places[task]) / WEIGHTS if own and task in places else specialists.encoders[task] / "encoder"
            )
            modules[task] = Module(
                _module(shop, work, task, piece, tuned, specialists.keys[task], own), (task, *others)
            )
        for name, folder in given.further.items() if own else ():
            name = name if name not in modules else f"library-{name}"
            modules[name] = Module(_module(shop, work, name, piece, folder, hash_folder(folder), own), ())
        found[merge] = _Base(piece, modules)
    tally = shop.do("modules of the specialists", work)
    for merge, base in found.items():
        unchanged = [name for name, one in base.modules.items() if not one.piece.facts["bytes"]]
        if unchanged:
            shop.say(f"no module for {listed(unchanged)}: tuning has left the base as it was", style="yellow")
        base = found[merge] = _Base(base.piece, {n: one for n, one in base.modules.items() if n not in unchanged})
        if not base.own:
            raise AllroundError(
                "route between modules of the specialists",
                "none of the specialists differs from what they start from",
                "train longer, or leave --routers out",
            )
        stored = sum(one.facts["bytes"] for one in base.own) // len(base.own)
        held = min(one.facts["held"] for one in base.own)
        lossy = f"; they hold at least {percent(held)}% of the squared change to each specialist" if held < 1 else ""
        of = "" if merge is None else f", from the merge by {merge} on"
        beside = len(base.modules) - len(base.own)
        more = f", and {beside} of the library beside them" if beside else ""
        shop.say(f"{plural(len(base.own), 'module')} of {size_text(stored)} a task{of}{lossy}{more}", tally)
    return found


def _module(shop: Workshop, work: list[Work], name: str, base: Piece, tuned: str, content: object, own: bool) -> Piece:
    """The piece of a module; the job that makes it is put to the work. tuned: the folder of what it makes of the base.
    content: what that was made from. own: it was tuned from this base."""
    piece = shop.pieces.piece(f"module-{name}", base=base.key, specialist=content, rank=RANK)
    encoder = str(base.folder / "encoder")
    work.append((piece, call(jobs.make_module, piece=piece, base=encoder, tuned=tuned, rank=RANK, own=own)))
    return piece


def routing_facts(shop: Workshop, data: Data, candidates: Sequence[Candidate]) -> list[RoutingFacts]:
    """How routed systems sent the test rows, from what their predictions say."""
    found = []
    for one in candidates:
        if not isinstance(one, RoutedCandidate):
            continue
        pieces = prediction_pieces(shop.pieces, one, data, "test")
        facts = {name: piece.facts for name, piece in pieces.items() if piece.facts.get("routed") is not None}
        if not facts:
            continue
        found.append(
            RoutingFacts(
                one.name,
                one.choice.words,
                sum(module.piece.facts["bytes"] for module in one.modules.values()) // len(one.modules),
                folder_size(one.base.folder / "encoder"),
                {name: float(each["routed"]) for name, each in facts.items()},
                {name: float(each["alone"]) for name, each in facts.items() if each.get("alone") is not None},
                [name for name, module in one.modules.items() if not module.tasks],
            )
        )
    return found


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
