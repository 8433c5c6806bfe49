"""One model that is made smaller: its options, the ways that are tried for each size, and what is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from allround.building.jobs import shrink as jobs
from allround.building.jobs.adding import MODEL, answer_tasks
from allround.building.jobs.predict import loaded_predictions
from allround.building.jobs.rows import stored_task
from allround.building.stages.base import decide_precision
from allround.building.stages.data import Data, DataCheck, announce, keep_rows
from allround.building.stages.predicting import PredictionGroup
from allround.building.unlabelled import Source, new_rows, read_unlabelled, with_answered
from allround.building.words import plain_name
from allround.building.workshop import Workshop
from allround.core import registry
from allround.core.errors import AllroundError, suggestion
from allround.core.files import hash_folder, hash_json
from allround.core.jobs import call
from allround.core.outputs import output_folder
from allround.core.pieces import Piece
from allround.core.plugins import in_use
from allround.core.registry import spelled
from allround.core.seeds import seed_of
from allround.core.version import __version__
from allround.core.words import duration, listed, percent, plural, share_text
from allround.evaluation.calibration import fit
from allround.evaluation.intervals import Bootstrap
from allround.evaluation.predictions import Predictions
from allround.evaluation.smaller.result import Shrunk, Size, Smaller, TaskKept, Tried, choose
from allround.evaluation.timing import RowTime
from allround.models.calibration import KEY
from allround.models.device import pick_device
from allround.models.systems.multi_task_model import MultiTaskModel, open_model
from allround.tasks.suite import Suite
from allround.tasks.task import row_key
from allround.training.settings import Settings
from allround.training.teaching import check_teacher

#: The folder of the model that is written.
BEST = "best"
COMMAND = "shrink"
#: What the original and a specialist are called in a bootstrap.
ORIGINAL, SPECIALIST = "original", "specialist"
#: Settings of the term `distillation` that differ from its own.
TAUGHT: Mapping[str, object] = {"by": "probabilities", "features": 1.0, "others": 1.0}


@dataclass(frozen=True)
class ShrinkOptions:
    """What may be chosen in shrinking a model.

    to: shares of the original's work for a row (multiply-adds of the encoder), each of which gives a model. latency:
    instead, the milliseconds that a row may take, asked alone, on this machine. ways: methods of the family `shrink`,
    with settings such as `layers:which=greedy`; by default those that fit the network. keep: of several sizes the
    smallest is written that keeps this share of the original's validation scores, the mean over tasks; where none does,
    the one that keeps most. specialists: folders of models, each of which teaches the tasks that it knows. distil:
    settings of the term `distillation`, whose defaults here are those of `TAUGHT`. distilled: False trains on labels
    alone. unlabelled: further training rows, by task or for all tasks: a file, a folder of images, or rows as
    dictionaries. The teacher's answers are their targets; rows that a split of the task has already are left out.
    """

    to: Sequence[float] = (0.5,)
    latency: float | None = None
    ways: Sequence[str] = ()
    keep: float = 0.97
    specialists: Sequence[str | Path] = ()
    distil: Mapping[str, object] | None = None
    distilled: bool = True
    unlabelled: Source | Mapping[str, Source] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        asked = "shrink a model"
        for value in self.to:
            if not 0 < value < 1:
                raise AllroundError(asked, f"a share of {value:g} is asked for", "give shares between 0 and 1, or such "
                                    "as 50%")  # fmt: skip
        if not self.to:
            raise AllroundError(asked, "no size is asked for", "give one, such as 50%")
        if self.latency is not None and not self.latency > 0:
            raise AllroundError(asked, f"a row may take {self.latency:g} ms", "give milliseconds above 0")
        if not 0 <= self.keep <= 1:
            raise AllroundError(asked, f"--keep is {self.keep:g}", "give a share from 0 to 1, or such as 97%")
        for text in self.ways:
            spelled("shrink", text)
        registry.find("term", "distillation").resolve({"teacher": "", **(self.distil or {})})
        if self.unlabelled is not None and not self.distilled:
            raise AllroundError("shrink with unlabelled rows", "nothing teaches them: training is by labels alone",
                                "leave --unlabelled out, or --distil none")  # fmt: skip


@dataclass(frozen=True)
class _Made:
    """A smaller model that was made in one way for one size."""

    text: str
    piece: Piece
    kept: float | None

    @property
    def folder(self) -> str:
        return str(self.piece.folder / MODEL)


class Shrinking:
    """One model that is made smaller: the pieces, and what is known so far."""

    def __init__(
        self,
        shop: Workshop,
        model: Path,
        known: MultiTaskModel,
        suite: Suite,
        options: ShrinkOptions,
        settings: Settings,
    ) -> None:
        self.shop, self.model, self.known, self.suite, self.options = shop, model, known, suite, options
        announce(shop, suite, f"shrinking {plain_name(str(model))}")
        DataCheck().tasks(shop.progress, suite.tasks)
        self.data = keep_rows(shop, suite.tasks)
        self.content = hash_folder(model)
        self.settings = decide_precision(shop, settings).settings
        self.ways = list(dict.fromkeys(options.ways or default_ways(known)))
        self.given = {str(one): (hash_folder(Path(one)), open_model(one).definitions) for one in options.specialists}
        self.trained = self._with_unlabelled()

    def run(self) -> Shrunk:
        """Try all ways for each size, choose among them on validation rows, test the best of each size, write one."""
        study, taught = self._study(), self._taught()
        sizes: list[tuple[str, list[_Made]]] = []
        if self.options.latency is not None:
            asked = f"{self.options.latency:g} ms"
            sizes.append((asked, self._make({way: self._share(way, study) for way in self.ways}, study, taught)))
        else:
            for share in sorted(set(self.options.to), reverse=True):
                sizes.append((share_text(share), self._make(dict.fromkeys(self.ways, share), study, taught)))
        best = [(asked, max(made, key=lambda one: one.kept or 0.0), made) for asked, made in sizes]
        times = self._times({one.piece.key: one.folder for _, one, _ in best})
        smaller = [self._smaller(asked, one, made, times) for asked, one, made in best]
        chosen = choose([(one.size.share, one.validation) for one in smaller], self.options.keep)
        numbers = self.known.cost().parameters_stored
        original = Size(1.0, numbers, jobs.weight_bytes(self.model), times[ORIGINAL])
        found = Shrunk(
            str(self.model), original, smaller, chosen, self.options.keep,
            [name for name in self.known.definitions if name not in self.data.tasks], self._threads,
            self.shop.elapsed, {"suite": self.suite.name, "rows": self._rows()}, self._provenance(),
        )  # fmt: skip
        self._write(best[chosen][1], found)
        return found

    # -- pieces --------------------------------------------------------------------------------------------------------

    def _with_unlabelled(self) -> Data:
        """The tasks with their unlabelled rows, which a teacher has answered."""
        given, tasks, folders = self._unlabelled(), dict(self.data.tasks), dict(self.data.folders)
        for name, source in given.items():
            task = tasks[name]
            read = read_unlabelled(task.definition, source)
            rows = new_rows(task, read)
            known = f" ({len(read) - len(rows)} more are there already)" if len(rows) < len(read) else ""
            self.shop.say(f"{plural(len(rows), 'unlabelled row')} for {name}{known}")
            if not rows:
                continue
            known_by = [folder for folder, (_, definitions) in self.given.items() if name in definitions]
            teacher = known_by[0] if known_by else str(self.model)
            content = self.given[teacher][0] if known_by else self.content
            piece = self.shop.pieces.piece(f"unlabelled-{name}", task=task.content, teacher=content,
                                           rows=hash_json([repr(row_key(row)) for row in rows]))  # fmt: skip
            if not self.shop.have(piece):
                with piece.make() as (folder, _):
                    answering = open_model(teacher, device=str(pick_device(self.settings.device)))
                    check_teacher(answering, task.definition, teacher)
                    with_answered(task, rows, answering, "given without labels").write(folder)
            tasks[name], folders[name] = stored_task(str(piece.folder)), str(piece.folder)
        return Data(tasks, folders)

    def _unlabelled(self) -> Mapping[str, Source]:
        """Where the unlabelled rows of each task are."""
        given, tasks = self.options.unlabelled, self.data.tasks
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            return dict.fromkeys(tasks, given)
        for name in given:
            if name not in tasks:
                raise AllroundError(f"add unlabelled rows to the task '{name}'", "no task that is shrunk is called so",
                                    suggestion(name, tasks))  # fmt: skip
        return given

    def _study(self) -> Piece:
        piece = self.shop.pieces.piece("study", model=self.content, tasks=self.data.content, rows=jobs.SCORED)
        job = call(jobs.study_model, piece=piece, model=str(self.model), tasks=list(self.data.folders.values()),
                   device=self.settings.device)  # fmt: skip
        self.shop.say("parts of the network scored by every task", self.shop.do("study", [(piece, job)]))
        return piece

    def _taught(self) -> Piece | None:
        """What the teachers give for all training rows, computed once."""
        if not self.options.distilled:
            return None
        piece = self.shop.pieces.piece("taught", model=self.content, tasks=self.trained.content,
                                       specialists=[content for content, _ in self.given.values()])  # fmt: skip
        job = call(jobs.teach_rows, piece=piece, model=str(self.model), specialists=list(self.given),
                   tasks=list(self.trained.folders.values()), device=self.settings.device)  # fmt: skip
        self.shop.say("answers of the teacher to all training rows", self.shop.do("teacher", [(piece, job)]))
        return piece

    def _share(self, text: str, study: Piece) -> float:
        """The share of the work with which a row takes as long as it may."""
        way, values = spelled("shrink", text)
        latency = self.options.latency
        assert latency is not None
        piece = self.shop.pieces.piece(f"share-{way}", study=study.key, values=values, milliseconds=latency)
        job = call(jobs.find_share, piece=piece, model=str(self.model), tasks=list(self.data.folders.values()),
                   scores=str(study.folder), way=way, values=values, milliseconds=latency)  # fmt: skip
        self.shop.do("timing", [(piece, job)])
        share, whole = float(piece.facts["share"]), float(piece.facts["whole"])
        asked = f"shrink {self.model} to {latency:g} ms a row"
        if whole <= latency:
            raise AllroundError(
                asked, f"a row takes {whole:.2f} ms as it is", "ask for less, or use the model as it is"
            )
        if not share:
            raise AllroundError(asked, f"the smallest model by {text} takes {piece.facts['least']:.2f} ms",
                                "allow more, or try other --ways")  # fmt: skip
        self.shop.say(
            f"{text}: {share_text(share)} of the work takes at most {latency:g} ms (all of it {whole:.2f} ms)"
        )
        return share

    def _make(self, shares: Mapping[str, float], study: Piece, taught: Piece | None) -> list[_Made]:
        """A smaller model by each way, and what it keeps of the original's validation scores."""
        made = []
        for text, share in shares.items():
            way, values = spelled("shrink", text)
            distil = {**TAUGHT, **(self.options.distil or {})} if taught is not None else None
            piece = self.shop.pieces.piece(
                f"small-{way}", study=study.key, taught=None if taught is None else taught.key, values=values,
                share=share, settings=self.settings.to_json(), distil=distil, seed=self.options.seed,
            )  # fmt: skip
            job = call(jobs.shrink_by, piece=piece, model=str(self.model), tasks=list(self.trained.folders.values()),
                       scores=str(study.folder), way=way, values=values, share=share,
                       settings=self.settings.to_json(), distillation=distil,
                       taught="" if taught is None else str(taught.folder),
                       seed=seed_of(self.options.seed, "shrink"))  # fmt: skip
            self.shop.do(text, [(piece, job)])
            if piece.facts.get("refused"):
                self.shop.say(f"{text} cannot come down to {share_text(share)} of the work", style="yellow")
            else:
                made.append((text, piece))
        if not made:
            raise AllroundError(f"shrink {self.model} to {share_text(min(shares.values()))} of its work",
                                f"what has to stay has more, by {listed(list(shares))}",
                                "ask for a larger share, or try other --ways")  # fmt: skip
        before, found = self._answers(None, "validation"), []
        for text, piece in made:
            after = self._answers(piece, "validation")
            kept = _drawn({ORIGINAL: before, text: after}, self.options.seed).mean_retention(text)
            one = _Made(text, piece, None if kept is None else kept.value)
            said = "" if one.kept is None else f"{percent(one.kept)}% of the original's validation scores, "
            self.shop.say(f"{share_text(piece.facts['share'])} of the work by {text}: {said}"
                          f"trained in {duration(piece.facts['seconds'])}")  # fmt: skip
            found.append(one)
        return found

    def _answers(
        self, piece: Piece | None, split: str, folder: str | None = None, content: str = ""
    ) -> dict[str, Predictions]:
        """The answers of a model to a split of the tasks. piece: that holds it; None for the original, or for `folder`
        with its content."""
        key = content or (self.content if piece is None else piece.key)
        place = folder or (str(self.model) if piece is None else str(piece.folder / MODEL))
        wanted = {n: t for n, t in self.data.tasks.items() if len(t.splits[split])}
        if folder is not None:
            wanted = {n: t for n, t in wanted.items() if n in self.given[folder][1]}
        made = {n: self.shop.pieces.piece(f"answers-{n}-{split}", model=key, task=t.content) for n, t in wanted.items()}
        job = call(answer_tasks, pieces=made, model=place, tasks={n: self.data.folders[n] for n in made}, split=split,
                   device=self.settings.device)  # fmt: skip
        self.shop.do("answers", [(PredictionGroup([key], split, [made], list(made)), job)])
        return {name: loaded_predictions(one) for name, one in made.items()}

    def _times(self, models: Mapping[str, str]) -> dict[str, RowTime]:
        folders = {ORIGINAL: str(self.model), **models}
        piece = self.shop.pieces.piece("times", original=self.content, models=list(models), tasks=self.data.content)
        job = call(jobs.measure_times, piece=piece, models=folders, tasks=list(self.data.folders.values()))
        self.shop.do("timing", [(piece, job)])
        self._threads = int(piece.facts["threads"])
        return {name: RowTime(*time) for name, time in piece.facts["times"].items()}

    # -- results -------------------------------------------------------------------------------------------------------

    def _smaller(self, asked: str, best: _Made, made: Sequence[_Made], times: Mapping[str, RowTime]) -> Smaller:
        """The best model of a size, scored on test rows."""
        facts = best.piece.facts
        answers = {ORIGINAL: self._answers(None, "test"), best.text: self._answers(best.piece, "test")}
        beside: dict[str, Predictions] = {}
        for folder, (content, _) in reversed(self.given.items()):
            beside |= self._answers(None, "test", folder, content)
        drawn = _drawn(answers, self.options.seed)
        apart = None
        if beside:
            taught = {system: {n: one for n, one in some.items() if n in beside} for system, some in answers.items()}
            apart = _drawn({SPECIALIST: beside, best.text: taught[best.text]}, self.options.seed, SPECIALIST)
        tasks = [
            TaskKept(
                name, one.definition.metric, len(one), drawn.points[ORIGINAL, name], drawn.score(best.text, name),
                drawn.retention(best.text, name), drawn.task_difference(best.text, ORIGINAL, name),
                apart.retention(best.text, name) if apart is not None and name in beside else None,
            )
            for name, one in answers[ORIGINAL].items()
        ]  # fmt: skip
        return Smaller(
            asked, best.text, Size(facts["share"], facts["parameters"], facts["bytes"], times[best.piece.key]),
            facts["kept"], facts["groups"], best.kept,
            [Tried(one.text, one.piece.facts["share"], one.kept, one.piece.facts["seconds"]) for one in made],
            tasks, drawn.mean_retention(best.text), None if apart is None else apart.mean_retention(best.text),
        )  # fmt: skip

    def _rows(self) -> str:
        more = self.trained.rows("train") - self.data.rows("train")
        parts = [f"{self.data.rows(split):,} {split}" for split in ("train", "validation", "test")]
        return ", ".join([*parts[:1], *([f"{more:,} unlabelled"] if more else []), *parts[1:]])

    def _provenance(self) -> dict[str, object]:
        distil = dict(self.options.distil or {}) if self.options.distilled else None
        used = in_use()
        return {"allround": __version__, "suite": self.suite.name, "tasks": self.data.content, "seed": self.shop.seed,
                "settings": self.settings.to_json(), "distillation": distil, "workers": self.shop.workers,
                **({"plugins": used} if used else {})}  # fmt: skip

    def _write(self, best: _Made, found: Shrunk) -> None:
        """Write the chosen model, with what corrects its scores."""
        model, one = open_model(best.folder), found.written
        fitted = {
            task: fit(answers, "temperature") for task, answers in self._answers(best.piece, "validation").items()
        }
        calibrations = {task: one.to_json() for task, one in fitted.items() if one is not None}
        model.facts = {
            "made_by": {"system": COMMAND, "from": str(self.model), "way": best.text, "share": one.size.share},
            "provenance": dict(found.provenance),
            **({KEY: calibrations} if calibrations else {}),
        }
        with output_folder(self.shop.out / BEST, COMMAND, force=self.shop.force) as folder:
            model.write(folder)


def default_ways(model: MultiTaskModel) -> list[str]:
    """The ways that are tried where none are named: those whose parts the network has."""
    anatomy = model.encoder.anatomy(1.0)
    has = {"layers": anatomy.layers is not None, "units": bool(anatomy.units())}
    entries = [one for one in registry.entries("shrink") if one.facts["tried"]]
    return [one.name for one in entries if all(has[need] for need in one.needs)]


def _drawn(answers: Mapping[str, Mapping[str, Predictions]], seed: int, reference: str = ORIGINAL) -> Bootstrap:
    made = {(system, task): one for system, some in answers.items() for task, one in some.items()}
    if reference == SPECIALIST:
        shared = set.intersection(*(set(some) for some in answers.values()))
        made = {key: one for key, one in made.items() if key[1] in shared}
    return Bootstrap.make(made, reference=reference, seed=seed)
