"""One task that is being added to a finished model: its options, the ways that are tried, and what they leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from allround.building.jobs import adding as jobs
from allround.building.jobs.predict import loaded_predictions
from allround.building.stages.base import Base, base_work, decide_precision, say_base
from allround.building.stages.data import DataCheck, announce, keep_rows
from allround.building.stages.predicting import PredictionGroup
from allround.building.stages.report import provenance
from allround.building.words import plain_name
from allround.building.workshop import Workshop
from allround.continual.addition import Addition, Tested, TriedWay, choose, relative
from allround.continual.kept_rows import KeptRows
from allround.continual.learner import learner_of
from allround.continual.strategy import Strategy
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import hash_folder
from allround.core.jobs import call
from allround.core.outputs import output_folder
from allround.core.pieces import Piece
from allround.core.seeds import seed_of
from allround.core.words import duration, listed, percent, plural, shown, size_text
from allround.evaluation.calibration import fit
from allround.evaluation.gate import gate
from allround.evaluation.intervals import Bootstrap
from allround.evaluation.predictions import Predictions, score
from allround.models.calibration import KEY
from allround.models.systems.multi_task_model import MultiTaskModel, open_model
from allround.tasks.metric import better
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training.settings import Settings

#: Ways that are tried where none are named, the cheapest first.
WAYS = ("head_only", "residual", "merge", "er", "lwf", "joint")
#: The folder of the model that is written, and that of the rows that are remembered.
MODEL, MEMORY = "best", "memory"
COMMAND = "add-task"


@dataclass(frozen=True)
class AddOptions:
    """What may be chosen in adding a task.

    ways: strategies, with settings such as `er:bytes=20000`, the cheapest first. try_all: try all of them, though an
    earlier one is good enough. keep: the share of its score that each old task must keep. max_flips: the share of its
    rows that may turn from right to wrong. reach: the share of the specialist's score from which the new task is good
    enough. budget: minutes, after which no further way is begun. flip_floor: measure how many answers two seeds of the
    recipe with all rows answer differently, and allow as many. memory_bytes: of rows that are kept for the next task.
    write_anyway: write the best way where none passes.
    """

    ways: Sequence[str] = WAYS
    try_all: bool = False
    keep: float = 0.98
    max_flips: float = 0.02
    reach: float = 0.98
    budget: float | None = None
    flip_floor: bool = False
    memory_bytes: int = 1_000_000
    write_anyway: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        asked = "add a task"
        for name, value in (("keep", self.keep), ("max-flips", self.max_flips), ("reach", self.reach)):
            if not 0 <= value <= 1:
                raise AllroundError(asked, f"--{name} is {value:g}", "give a share from 0 to 1, or such as 98%")
        if self.budget is not None and self.budget <= 0:
            raise AllroundError(asked, f"--budget is {self.budget:g}", "give minutes above 0, or leave it out")
        if self.memory_bytes < 0:
            raise AllroundError(asked, f"--memory-bytes is {self.memory_bytes}", "give 0 or more")
        if not self.ways:
            raise AllroundError(asked, "no way to do it is named", f"leave --ways out, or name some of {listed(WAYS)}")


@dataclass(frozen=True)
class OldTasks:
    """What is at hand of the tasks that the model knows.

    kept: rows remembered from earlier. given: whether all rows were given. words: where the rows come from.
    """

    tasks: Mapping[str, Task]
    kept: KeptRows
    given: bool
    words: str


class Adding:
    """One task that is being added: the pieces, and what is known so far."""

    def __init__(
        self,
        shop: Workshop,
        model: Path,
        known: MultiTaskModel,
        task: Task,
        old: OldTasks,
        plans: Mapping[str, tuple[str, Mapping[str, object], Strategy]],
        options: AddOptions,
        settings: Settings,
        base: str | Path | None,
        encoder: Mapping[str, object],
    ) -> None:
        self.shop, self.model, self.known, self.task, self.old = shop, model, known, task, old
        self.plans, self.options = plans, options
        self.suite = Suite(task.name, [task])
        announce(shop, self.suite, f"added to {plural(len(known.definitions), 'task')} of {model}")
        DataCheck().tasks(shop.progress, {task.name: task})
        shop.say(f"old tasks: {old.words}")
        self.new = keep_rows(shop, {task.name: task})
        self.data = keep_rows(shop, old.tasks)
        self.content = hash_folder(model)
        self.base = self._base(base, encoder)
        self.settings = decide_precision(shop, settings).settings
        self.tried: list[TriedWay] = []
        self.left_out: dict[str, str] = {}
        self.floor: float | None = None

    def _base(self, given: str | Path | None, encoder: Mapping[str, object]) -> Base:
        """What the specialist begins from: the base that was given, or the model's own encoder."""
        start = self.model / "encoder" if given is None else given
        piece, job = base_work(self.shop, str(start), self.new, encoder, self.options.seed)
        made = Base(plain_name(str(given)) if given is not None else "the model's own encoder", piece)
        say_base(self.shop, made, self.shop.do("base", [(piece, job)]))
        return made

    def run(self) -> Addition:
        """Try ways until one is good enough, choose one, test it, and write it."""
        specialist = self._specialist()
        judged = self._answers(specialist, {self.task.name: self.task}, "validation")[self.task.name]
        self.reference = score(judged)
        sense = better(judged.definition.metric)
        self.shop.say(f"specialist tuned on {self.task.name} alone: validation {shown(self.reference, sense)} in "
                      f"{duration(specialist.facts['seconds'])}")  # fmt: skip
        if self.options.flip_floor:
            self._measure_floor(specialist)
        for text in self.plans:
            self._try(text, specialist)
        chosen = choose(self.tried, self.options.reach, seed=self.options.seed)
        forced = None
        if chosen is None and self.options.write_anyway and self.tried:
            forced = choose([replace(one, exact=True) for one in self.tried], self.options.reach, seed=self.shop.seed)
        tested = None
        if (name := chosen or forced) is not None:
            tested = self._test(name, specialist)
        found = Addition(
            self.task.name, self.task.definition.metric, str(self.model), list(self.known.definitions),
            self.options.keep, self._max_flips, self.options.reach, self.reference, specialist.facts["seconds"],
            self.tried, self.left_out, chosen, forced, self.old.words, self.floor, tested, self.shop.elapsed,
            {"base": self.base.name, "rows": _rows_words(self.task)},
            provenance(self.shop, self.suite, self.base, self.new, self.settings),
        )  # fmt: skip
        if name is not None:
            self._write(name, found)
        return found

    # -- ways ----------------------------------------------------------------------------------------------------------

    def _specialist(self) -> Piece:
        piece = self.shop.pieces.piece(f"specialist-{self.task.name}", base=self.base.piece.key, task=self.task.content,
                                       settings=self.settings.to_json(), seed=self.options.seed)  # fmt: skip
        job = call(jobs.tune_specialist, piece=piece, base=self.base.encoder, task=self.new.folders[self.task.name],
                   settings=self.settings.to_json(), seed=seed_of(self.options.seed, "specialist"))  # fmt: skip
        self.shop.do("specialist", [(piece, job)])
        return piece

    def _try(self, text: str, specialist: Piece) -> None:
        """Try one way, unless there is a reason not to."""
        name, _, plan = self.plans[text]
        reason = self._reason_against(text, plan, specialist)
        if reason is not None:
            self.left_out[text] = reason
            self.shop.say(f"{text} is not tried, as {reason}", style="yellow")
            return
        piece = self._made(text, specialist, self.options.seed)
        tasks = {self.task.name: self.task} if plan.exact else {self.task.name: self.task, **self.old.tasks}
        answers = self._answers(piece, tasks, "validation")
        new = answers.pop(self.task.name)
        gates = []
        if answers:
            held = self._before("validation")
            gates = gate(held, answers, keep=self.options.keep, max_flips=self._max_flips, seed=self.options.seed)
        facts = piece.facts
        unjudged = [] if plan.exact else [one for one in self.known.definitions if one not in self.old.tasks]
        value = score(new)
        way = TriedWay(text, _title(name), plan.exact, value, relative(value, self.reference, new.definition.metric),
                       gates, unjudged, facts["seconds"], facts["stored"], new)  # fmt: skip
        self.tried.append(way)
        self.shop.say(f"{text}: {_tried_words(way)}", style=None if way.passed else "yellow")

    def _made(self, text: str, specialist: Piece, seed: int) -> Piece:
        """The piece of a way, made where it is not there yet."""
        name, values, plan = self.plans[text]
        old = self.data.content if plan.memory != "none" or plan.guards else {}
        piece = self.shop.pieces.piece(
            f"way-{name}", model=self.content, task=self.task.content, old=old, strategy=name, values=dict(values),
            base=self.base.piece.key if plan.from_base else "", specialist=specialist.key if plan.merge else "",
            settings=self.settings.to_json(), seed=seed,
        )  # fmt: skip
        job = call(jobs.add_by, piece=piece, model=str(self.model), task=self.new.folders[self.task.name],
                   old=[self.data.folders[one] for one in old], strategy=name, values=dict(values),
                   settings=self.settings.to_json(), base=self.base.encoder, alone=str(specialist.folder),
                   seed=seed_of(seed, "add"))  # fmt: skip
        self.shop.do(text, [(piece, job)])
        return piece

    def _reason_against(self, text: str, plan: Strategy, specialist: Piece) -> str | None:
        """Why a way is not tried; what the time decides is decided once, also for when the run goes on after a kill."""
        if not self.options.try_all:
            enough = next((one for one in self.tried if one.passed and one.reaches(self.options.reach)), None)
            if enough is not None:
                return f"{enough.name} is good enough"
        refused = learner_of(plan).refusal(self.known, plan)
        if refused is not None:
            return refused
        if not plan.exact:
            lacking = [name for name in self.known.definitions if name not in self.old.tasks]
            if lacking:
                return f"old answers might change, and no rows of {listed(lacking)} are at hand to judge that by"
        if plan.anew and not self.old.given:
            return "starting anew takes all rows of the old tasks, and only some are remembered at most"
        if self.options.budget is None:
            return None
        piece = self.shop.pieces.piece(f"time-{text.partition(':')[0]}", way=text, budget=self.options.budget,
                                       specialist=specialist.key)  # fmt: skip
        if not self.shop.have(piece):
            with piece.make() as (_, facts):
                facts["needed"], facts["left"] = self._estimate(plan, specialist), self._left
        needed, left = piece.facts["needed"], piece.facts["left"]
        if needed <= left:
            return None
        return f"about {duration(needed)} would be needed, and {duration(max(0.0, left))} of the budget is left"

    @property
    def _left(self) -> float:
        return 60 * (self.options.budget or 0.0) - self.shop.elapsed

    def _estimate(self, plan: Strategy, specialist: Piece) -> float:
        """Seconds that a way takes, from those that the specialist took for a row: a step holds a batch of each task
        that is trained on."""
        if plan.changes == "heads" or plan.merge is not None:
            return 0.0
        per_row = specialist.facts["seconds"] / max(1, specialist.facts["examples"])
        passes = specialist.facts["examples"] / max(1, len(self.task.splits["train"]))
        sizes = [len(self.task.splits["train"])]
        if plan.memory != "none":
            most = plan.bytes
            sizes += [sizes[0] if most is not None else len(one.splits["train"]) for one in self.old.tasks.values()]
        return float(per_row * passes * sum(sizes))

    def _measure_floor(self, specialist: Piece) -> None:
        """How many answers two seeds of the recipe with all rows give differently."""
        text = next((one for one, (_, _, plan) in self.plans.items() if plan.anew), None)
        if text is None or not self.old.given:
            self.shop.say("how much two seeds differ is not measured: that takes a way that starts anew, such as "
                          "joint, and the old data", style="yellow")  # fmt: skip
            return
        made = [self._made(text, specialist, seed) for seed in (self.options.seed, self.options.seed + 1)]
        one, other = (self._answers(piece, self.old.tasks, "validation") for piece in made)
        shares = [found.flips.lost_share for found in gate(one, other) if found.flips is not None]
        if shares:
            self.floor = max(shares)
            self.shop.say(f"two seeds of {text} turn up to {percent(self.floor)}% of the rows of a task from right to "
                          "wrong")  # fmt: skip

    @property
    def _max_flips(self) -> float:
        return max(self.options.max_flips, self.floor or 0.0)

    # -- answers -------------------------------------------------------------------------------------------------------

    def _answers(self, piece: Piece | None, tasks: Mapping[str, Task], split: str) -> dict[str, Predictions]:
        """The answers of a model to a split of tasks. piece: that holds the model; None for the one that was given."""
        folder, key = (str(self.model), self.content) if piece is None else (str(piece.folder / jobs.MODEL), piece.key)
        folders = {**self.new.folders, **self.data.folders}
        content = {**self.new.content, **self.data.content}
        wanted = {name: task for name, task in tasks.items() if len(task.splits[split])}
        made = {
            name: self.shop.pieces.piece(f"answers-{name}-{split}", model=key, task=content[name]) for name in wanted
        }
        if made:
            job = call(jobs.answer_tasks, pieces=made, model=folder, tasks={name: folders[name] for name in made},
                       split=split, device=self.settings.device)  # fmt: skip
            self.shop.do("answers", [(PredictionGroup([key], split, [made], list(made)), job)])
        return {name: loaded_predictions(one) for name, one in made.items()}

    def _before(self, split: str) -> dict[str, Predictions]:
        return self._answers(None, self.old.tasks, split)

    def _test(self, name: str, specialist: Piece) -> Tested:
        """Test rows are answered once, by the model that is written."""
        text, (_, _, plan) = name, self.plans[name]
        piece, new = self._made(text, specialist, self.options.seed), {self.task.name: self.task}
        made = {
            ("model", self.task.name): self._answers(piece, new, "test")[self.task.name],
            ("specialist", self.task.name): self._answers(specialist, new, "test")[self.task.name],
        }
        drawn = Bootstrap.make(made, reference="specialist", seed=self.options.seed)
        before = self._before("test")
        after = before if plan.exact else self._answers(piece, self.old.tasks, "test")
        old = gate(before, after, keep=self.options.keep, max_flips=self._max_flips, seed=self.options.seed)
        of = self.task.name
        return Tested(drawn.score("model", of), drawn.score("specialist", of),
                      drawn.task_difference("model", "specialist", of), drawn.retention("model", of),
                      len(made["model", of]), old)  # fmt: skip

    def _calibrations(self, model: MultiTaskModel, name: str, piece: Piece) -> dict[str, object]:
        """How scores are corrected: of old tasks as before, where their answers are; else fitted on validation rows."""
        kept = model.facts.get(KEY, {})
        assert isinstance(kept, dict)
        exact = self.plans[name][2].exact
        tasks = {self.task.name: self.task, **({} if exact else self.old.tasks)}
        made = self._answers(piece, tasks, "validation")
        fitted = {task: fit(one, "temperature") for task, one in made.items()}
        return {**kept, **{task: one.to_json() for task, one in fitted.items() if one is not None}}

    def _write(self, name: str, found: Addition) -> None:
        """Write the model, and the rows that are remembered."""
        out, force = self.shop.out, self.shop.force
        piece = self._made(name, self._specialist(), self.options.seed)
        model = open_model(piece.folder / jobs.MODEL)
        model.facts = {
            **{key: value for key, value in self.known.facts.items() if key not in ("made_by", "scores", KEY)},
            "made_by": {"system": name, "added": self.task.name, "to": str(self.model),
                        "settings": dict(self.plans[name][1])},
            "provenance": dict(found.provenance),
            **({KEY: fitted} if (fitted := self._calibrations(model, name, piece)) else {}),
        }  # fmt: skip
        with output_folder(out / MODEL, COMMAND, force=force) as folder:
            model.write(folder)
        if not self.options.memory_bytes:
            return
        tasks = [one.as_defined(model.definition(one.name)) for one in (*self.old.tasks.values(), self.task)]
        rows = KeptRows({}, self.old.kept.tested).with_tasks(tasks, model, self.options.memory_bytes,
                                                             seed=self.options.seed)  # fmt: skip
        with output_folder(out / MEMORY, COMMAND, force=force) as folder:
            rows.write(folder)
        size = sum(path.stat().st_size for path in (out / MEMORY).rglob("*") if path.is_file())
        self.shop.say(f"{plural(rows.rows, 'row')} of {plural(len(rows.tasks), 'task')} are remembered for the next "
                      f"time ({size_text(size)})")  # fmt: skip


def _title(name: str) -> str:
    return registry.find("strategy", name).summary.partition(": ")[2].rstrip(".")


def _rows_words(task: Task) -> str:
    return ", ".join(f"{len(split)} {name}" for name, split in task.splits.items())


def _tried_words(way: TriedWay) -> str:
    sense = better(way.predictions.definition.metric)
    kept = "" if way.retention is None else f" ({percent(way.retention)}% of the specialist)"
    said = f"validation {shown(way.score, sense)}{kept} in {duration(way.seconds)}"
    if way.exact:
        return f"{said}; old answers stay as they are, to the bit"
    failed = [one.task for one in way.gates if not one.passed]
    return f"{said}; " + (f"does not pass the gate: {listed(failed)}" if failed else "passes the gate")
