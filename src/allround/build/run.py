"""`build`: specialists, joint model, merges; one scoreboard; the best single model; a report."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allround.build import jobs
from allround.build.budget import Plan, make_plan, scaled
from allround.build.card import about_machine, commands, peak_memory, python_lines, write_card
from allround.build.options import Options
from allround.build.search import Trial, run_searches
from allround.build.single import floor
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import atomic_folder, disk_errors, hash_folder
from allround.core.jobs import Inline, Job, Runner, available_cores, call, quiet_libraries, runner
from allround.core.pieces import Piece, Pieces
from allround.core.progress import Progress
from allround.core.seeds import seed_of
from allround.evaluate.intervals import retention
from allround.evaluate.predictions import Predictions
from allround.evaluate.report import write_report
from allround.evaluate.scoreboard import Cost, Scoreboard, System
from allround.models.base import builtin_encoders, find_folder
from allround.models.model import read_heads, write_definitions, write_heads
from allround.tasks.definition import Definition
from allround.tasks.metric import better
from allround.tasks.task import SPLITS, Task
from allround.train.head import PENALTIES

if TYPE_CHECKING:
    from torch import nn

    from allround.tasks.suite import Suite


@dataclass(frozen=True)
class Build:
    """What a build leaves: where the best model and the report are, and the scoreboard."""

    folder: Path
    best: Path
    report: Path
    scoreboard: Scoreboard


@dataclass
class _System:
    """A system under construction: where its parts lie and what it took."""

    name: str
    role: str
    title: str
    #: task -> folder of encoder; task -> folder of the head
    encoders: dict[str, Path]
    heads: dict[str, Path]
    keys: dict[str, Any]
    seconds: float = 0.0
    examples: int = 0
    settings: dict[str, Any] | None = None
    choices: int = 0
    search_seconds: float = 0.0

    @property
    def single(self) -> bool:
        return len(set(self.encoders.values())) == 1


def build(
    suite: Suite | str | Path,
    *,
    out: Path | str,
    base: str | Path | nn.Module | None = None,
    options: Options | None = None,
    data_dir: Path | str | None = None,
    only: Sequence[str] | None = None,
    limit: Mapping[str, int] | None = None,
    encoder: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Build:
    """Build the best single model for a suite, and prove per task how good it is.

    suite: a `Suite`, the path of a suite file, or the name of a built-in suite. base: a folder, an installed or Hub
    name, a built-in encoder, or an `allround.models.encoders.module.Module`; left out, the suite's own. encoder:
    settings of the encoder, such as `{"max_length": 64}`. out: the run folder; run again with the same arguments
    after a kill, it takes up what is finished.

    Hyperparameters, checkpoints, coefficients and the winner are chosen on validation; test is scored once for each
    finished system. Same inputs, seed and machine give the same scoreboard, timings apart; with a budget, the cut
    follows from measured speed and is kept in the run folder.
    """
    from allround.tasks.suite import Suite

    quiet_libraries()
    out = Path(out)
    options = options or Options()
    if not isinstance(suite, Suite):
        suite = Suite.load(suite, data_dir=Path(data_dir) if data_dir else None, only=only, limit=limit)
    base = base if base is not None else suite.base
    if base is None:
        raise AllroundError(
            f"build the suite '{suite.name}'",
            "no base was given, and the suite names none",
            "give --base: a model folder, a Hub id, all-MiniLM-L6-v2, small_image or small_table",
        )
    options.constraints.check(suite.tasks)
    for name, folder in options.specialists.items():
        if not Path(folder).exists():
            raise AllroundError(
                f"use {folder} as the specialist of '{name}'", "there is no such folder", "check the path"
            )
        if name not in suite.tasks:
            raise AllroundError(f"use a given specialist for '{name}'", "the suite has no such task",
                                f"use one of: {', '.join(suite.tasks)}")  # fmt: skip
    with _locked(out):
        progress = progress or Progress(out / "log.txt")
        return _Run(suite, base, options, out, dict(encoder or {}), progress).run()


class _Run:
    def __init__(
        self, suite: Suite, base: Any, options: Options, out: Path, encoder: dict[str, Any], progress: Progress
    ) -> None:
        self.suite, self.base, self.options, self.out = suite, base, options, out
        self.encoder, self.progress = encoder, progress
        self.pieces = Pieces(out / "pieces")
        self.tasks: dict[str, Task] = dict(suite.tasks)
        self.settings = options.settings
        self.trials = options.trials
        self.workers = options.workers or min(available_cores(), 8)
        self.started = time.perf_counter()
        self.systems: list[_System] = []
        self.found: list[Trial] = []

    def run(self) -> Build:
        say = self.progress.say
        say(f"suite {self.suite.name}: {len(self.tasks)} tasks, {self._count('train')} training rows; "
            f"seed {self.options.seed}, {self.workers} workers")  # fmt: skip
        for name, notes in self.suite.notes.items():
            for note in notes:
                say(f"data of {name}: {note}", style="yellow")
        self.runner = self._runner()
        try:
            self._save_data()
            self._make_base()
            plan = self._plan()
            self._fit_heads()
            self._tune()
            self._merge()
            board, choice = self._score(plan)
        finally:
            self.runner.close()
        return self._finish(board, choice, plan)

    # -- pieces of work ------------------------------------------------------------------------------------------

    def _runner(self) -> Runner:
        from allround.models.encoders.module import Module

        if isinstance(self.base, Module):
            return Inline()
        return runner(self.workers)

    def _do(self, title: str, work: Sequence[tuple[Piece, Job]]) -> None:
        """Run the jobs whose pieces are not there yet, and say what was made and what was found."""
        open_work = []
        for piece, job in work:
            if piece.done:
                self.progress.say(f"have  {piece.key}{_result(piece)}", style="dim")
            else:
                open_work.append((piece, job))
        with self.progress.stage(title, len(open_work)) as stage:
            for index, _ in self.runner.run([job for _, job in open_work]):
                piece = open_work[index][0]
                stage.advance()
                self.progress.say(f"made  {piece.key}{_result(piece)}")

    def _save_data(self) -> None:
        """Keep the rows in the run folder, where every process finds them."""
        self.data: dict[str, str] = {}
        for name, task in self.tasks.items():
            piece = self.pieces.piece(f"data-{name}", content=task.content)
            if not piece.done:
                with piece.make() as (folder, facts):
                    task.save(folder)
                    facts["rows"] = {s: len(task.splits[s]) for s in SPLITS}
            self.data[name] = str(piece.folder)

    def _make_base(self) -> None:
        from allround.models.encoders.module import Module

        seed = seed_of(self.options.seed, "base")
        if isinstance(self.base, Module):
            self.base_piece = self._keep_module(self.base)
            return
        if str(self.base) in builtin_encoders():
            made_from: dict[str, Any] = {"tasks": [t.content for t in self.tasks.values()], "seed": seed}
        else:
            made_from = {"content": hash_folder(find_folder(self.base)), "encoder": self.encoder}
        self.base_piece = self.pieces.piece("base", base=_plain_name(self.base), **made_from)
        job = call(jobs.make_base, piece=self.base_piece, base=str(self.base), tasks=list(self.data.values()),
                   seed=seed, encoder=self.encoder)  # fmt: skip
        self._do("base", [(self.base_piece, job)])

    def _keep_module(self, base: Any) -> Piece:
        from allround.models.encoder import hash_tensors
        from allround.models.model import parameters_of

        content = hash_tensors(base.network)
        piece = self.pieces.piece("base", base=base.label, content=content)
        if not piece.done:
            with piece.make() as (folder, facts):
                (folder / "encoder").mkdir()
                base.save(folder / "encoder")
                facts.update({"parameters": parameters_of(base), "encoder": base.name, "epochs": base.epochs,
                              "learning_rate": base.learning_rate, "seconds": 0.0})  # fmt: skip
        return piece

    @property
    def base_encoder(self) -> str:
        return str(self.base_piece.folder / "encoder")

    def _plan(self) -> Plan | None:
        """With a budget: measure the speed once, cut the work, keep the decision."""
        if self.options.budget is None:
            return None
        decided = self.pieces.piece(
            "plan",
            base=self.base_piece.key,
            tasks={n: t.content for n, t in self.tasks.items()},
            budget=self.options.budget,
            settings=self.settings.to_json(),
            trials=self.trials,
            methods=self.options.chosen_methods,
        )
        if not decided.done:
            # A first fit of the heads on all rows is the work that follows anyway.
            self._fit_heads()
            heads = {n: str(p.folder) for n, p in self.heads.items()}
            job = call(jobs.probe, base=self.base_encoder, heads=heads, tasks=self.data,
                       settings=self.settings.to_json())  # fmt: skip
            ((_, speed),) = self.runner.run([job])
            plan = make_plan(
                self.tasks,
                speed,
                minutes=self.options.budget,
                spent=time.perf_counter() - self.started,
                trials=self.trials,
                methods=len(self.options.chosen_methods),
                epochs=self.settings.epochs or self.base_piece.facts["epochs"],
                joint=self.options.joint,
                workers=self.workers if not isinstance(self.runner, Inline) else 1,
            )
            with decided.make() as (_, facts):
                facts.update(plan.to_json())
        plan = Plan(**decided.facts)
        self.progress.say(plan.words)
        if plan.share < 1:
            self.tasks = {
                n: t.limit({s: scaled(t, s, plan.share) for s in SPLITS}, seed_of(self.options.seed, "budget"))
                for n, t in self.tasks.items()
            }
            self._save_data()
        self.trials = plan.trials
        self.settings = self.settings.with_(epochs=plan.epochs)
        return plan

    def _fit_heads(self) -> None:
        self.heads = {
            name: self.pieces.piece(f"head-{name}", base=self.base_piece.key, task=t.content, penalties=PENALTIES)
            for name, t in self.tasks.items()
        }
        self._do(
            "heads on the frozen base",
            [
                (piece, call(jobs.make_head, piece=piece, encoder=self.base_encoder, task=self.data[name]))
                for name, piece in self.heads.items()
            ],
        )
        self.systems = [
            _System(
                "base",
                "base",
                "heads on the frozen base",
                dict.fromkeys(self.tasks, self.base_piece.folder),
                {n: p.folder for n, p in self.heads.items()},
                {n: [self.base_piece.key, p.key] for n, p in self.heads.items()},
                seconds=sum(p.facts["seconds"] for p in self.heads.values()),
                examples=sum(len(t.splits["train"]) for t in self.tasks.values()),
            )
        ]

    def _tune(self) -> None:
        settings, seed = self.settings.to_json(), self.options.seed
        heads = {n: str(p.folder) for n, p in self.heads.items()}
        work: list[tuple[Piece, Job]] = []
        content = {n: t.content for n, t in self.tasks.items()}
        head_keys = {n: p.key for n, p in self.heads.items()}
        joint = self.pieces.piece(
            "joint", base=self.base_piece.key, heads=head_keys, tasks=content, settings=settings, seed=seed
        )
        if self.options.joint:
            # The longest piece first, so that the others fill the time beside it.
            work.append((joint, call(jobs.tune, piece=joint, base=self.base_encoder, heads=heads,
                                     tasks=list(self.data.values()), settings=settings,
                                     seed=seed_of(seed, "joint"))))  # fmt: skip
        self.specialists: dict[str, Piece] = {}
        for name in self.tasks:
            made_from: dict[str, Any] = {"base": self.base_piece.key, "task": content[name]}
            if name in self.options.specialists:
                given = self.options.specialists[name]
                piece = self.pieces.piece(f"specialist-{name}", given=hash_folder(find_folder(given)), **made_from)
                job = call(jobs.take_specialist, piece=piece, given=str(given), base=self.base_encoder,
                           task=self.data[name])  # fmt: skip
            else:
                made_from.update(head=head_keys[name], settings=settings, seed=seed)
                piece = self.pieces.piece(f"specialist-{name}", **made_from)
                job = call(jobs.tune, piece=piece, base=self.base_encoder, heads=heads, tasks=[self.data[name]],
                           settings=settings, seed=seed_of(seed, "tune", name))  # fmt: skip
            self.specialists[name] = piece
            work.append((piece, job))
        self._do("tuning", work)
        folders = {n: p.folder for n, p in self.specialists.items()}
        self.systems.append(
            _System(
                "specialists",
                "specialists",
                "a model tuned for each task",
                folders,
                folders,
                {n: p.key for n, p in self.specialists.items()},
                seconds=sum(p.facts["seconds"] for p in [*self.specialists.values(), *self.heads.values()]),
                examples=sum(sum(p.facts["examples"].values()) for p in self.specialists.values()),
            )
        )
        if self.options.joint:
            self.systems.append(
                self._one_model(
                    "joint",
                    "joint",
                    "one model trained on all tasks",
                    joint,
                    seconds=joint.facts["seconds"] + sum(p.facts["seconds"] for p in self.heads.values()),
                    examples=sum(joint.facts["examples"].values()),
                )
            )

    def _one_model(self, name: str, role: str, title: str, piece: Piece, **cost: Any) -> _System:
        """A system whose encoder and heads lie in one piece."""
        folders, keys = dict.fromkeys(self.tasks, piece.folder), dict.fromkeys(self.tasks, piece.key)
        return _System(name, role, title, folders, folders, keys, **cost)

    def _merge(self) -> None:
        """Search each method's settings on validation, then make the chosen merge."""
        self._predict("validation")
        if len(self.tasks) < 2 or not self.options.chosen_methods:
            return
        entries = [registry.find("merge", m) for m in self.options.chosen_methods]
        parts = {
            "base": self.base_encoder,
            "specialists": {n: str(p.folder) for n, p in self.specialists.items()},
            "tasks": self.data,
        }
        made_from = {"base": self.base_piece.key, "specialists": {n: p.key for n, p in self.specialists.items()}}

        def score(pairs: list[tuple[str, dict[str, Any]]]) -> list[Trial]:
            pieces = [self.pieces.piece(f"try-{m}", method=m, parameters=p, **made_from) for m, p in pairs]
            self._do(
                "settings of merges, on validation",
                [
                    (piece, call(jobs.try_merge, piece=piece, method=m, parameters=p, **parts))
                    for piece, (m, p) in zip(pieces, pairs, strict=True)
                ],
            )
            made = [(piece.facts["validation"], piece.facts["seconds"]) for piece in pieces]
            return [
                Trial(m, p, self._mean_retention(scores), scores, seconds)
                for (m, p), (scores, seconds) in zip(pairs, made, strict=True)
            ]

        chosen = run_searches(entries, self.trials, score)
        pieces = {}
        for method, (settings, trials) in chosen.items():
            self.found += trials
            pieces[method] = self.pieces.piece(f"merge-{method}", method=method, parameters=settings, **made_from)
        self._do(
            "merging",
            [
                (piece, call(jobs.merge, piece=piece, method=m, parameters=chosen[m][0], **parts))
                for m, piece in pieces.items()
            ],
        )
        specialists = next(s for s in self.systems if s.name == "specialists")
        for method, piece in pieces.items():
            settings, trials = chosen[method]
            self.systems.append(
                self._one_model(
                    method,
                    "merge",
                    f"merge by {method}",
                    piece,
                    seconds=specialists.seconds,
                    examples=specialists.examples,
                    settings=settings,
                    choices=len(trials),
                    search_seconds=sum(t.seconds for t in trials),
                )
            )
        self._predict("validation")

    # -- scoring -------------------------------------------------------------------------------------------------

    def _prediction_pieces(self, system: _System, split: str) -> dict[str, Piece]:
        return {
            name: self.pieces.piece(
                f"{split}-{system.name}-{name}", system=system.keys[name], task=task.content, split=split
            )
            for name, task in self.tasks.items()
        }

    def _predict(self, split: str) -> None:
        """Predict a split with every system that has not done so yet."""
        work: list[tuple[Piece, Job]] = []
        for system in self.systems:
            pieces = self._prediction_pieces(system, split)
            groups: dict[Path, list[str]] = {}
            for name in self.tasks:
                groups.setdefault(system.encoders[name], []).append(name)
            for folder, names in groups.items():
                unfinished = [n for n in names if not pieces[n].done]
                if unfinished:
                    job = call(
                        jobs.predict,
                        pieces={n: pieces[n] for n in names},
                        encoder=str(folder / "encoder"),
                        heads={n: str(system.heads[n]) for n in names},
                        tasks={n: self.data[n] for n in names},
                        split=split,
                        base=self.base_encoder,
                    )
                    work.append((_Group(system.name, split, pieces, names), job))  # type: ignore[arg-type]
                else:
                    self.progress.say(f"have  {_predictions_of(split, system.name, names, pieces)}", style="dim")
        self._do(f"predicting the {split} rows", work)

    def _validation(self, system: _System) -> dict[str, float]:
        return {n: p.facts["score"] for n, p in self._prediction_pieces(system, "validation").items()}

    def _retentions(self, scores: Mapping[str, float]) -> dict[str, float | None]:
        reference = self._validation(next(s for s in self.systems if s.name == "specialists"))
        return {n: retention(scores[n], reference[n], better(t.definition.metric)) for n, t in self.tasks.items()}

    def _mean_retention(self, scores: Mapping[str, float]) -> float:
        known = [r for r in self._retentions(scores).values() if r is not None]
        return sum(known) / len(known) if known else 0.0

    def _score(self, plan: Plan | None) -> tuple[Scoreboard, str]:
        validation = {s.name: self._validation(s) for s in self.systems}
        best, words = self._choose(validation)
        self.progress.say(words)
        self._predict("test")
        definitions = {n: t.definition for n, t in self.tasks.items()}
        predictions: dict[tuple[str, str], Predictions] = {}
        systems = [System("floor", "floor", "majority class, or mean", cost=Cost())]
        for name, task in self.tasks.items():
            predictions["floor", name] = floor(task)
        for system in self.systems:
            seconds, rows = 0.0, 0
            for name, piece in self._prediction_pieces(system, "test").items():
                predictions[system.name, name] = jobs.loaded_predictions(piece)
                seconds, rows = seconds + piece.facts["seconds"], rows + piece.facts["rows"]
            systems.append(
                System(
                    system.name,
                    system.role,
                    system.title,
                    system.settings or {},
                    system.single,
                    self._cost(system, rows / seconds if seconds else None),
                )
            )
        notes = {
            "tasks": {n: list(t.notes) for n, t in self.tasks.items() if t.notes},
            "budget": plan.words if plan else None,
            "choice": words,
        }
        board = Scoreboard.make(
            definitions,
            systems,
            predictions,
            validation={(s, t): v for s, scores in validation.items() for t, v in scores.items()},
            best=best,
            seed=self.options.seed,
            resamples=self.options.resamples,
            notes={k: v for k, v in notes.items() if v},
            provenance=self._provenance(),
        )
        for (system_name, task_name), found in predictions.items():
            found.save(self.out / "predictions" / system_name / f"{task_name}.parquet")
        return board, words

    def _choose(self, validation: Mapping[str, Mapping[str, float]]) -> tuple[str, str]:
        """The best single model under the constraints, by validation alone; and the choice in words."""
        candidates = [s for s in self.systems if s.single and s.name != "specialists"]
        if len(self.tasks) == 1:
            candidates = list(self.systems)
        ranked = sorted(candidates, key=lambda s: -self._mean_retention(validation[s.name]))
        rules = self.options.constraints
        broken = {
            s.name: rules.broken(self._retentions(validation[s.name]), self._cost(s, None).parameters_stored)
            for s in ranked
        }
        allowed = [s for s in ranked if not broken[s.name]]
        best = (allowed or ranked)[0]
        mean = self._mean_retention(validation[best.name])
        words = (
            f"Chosen on validation: {best.name}, mean retention {100 * mean:.1f}%, out of {len(ranked)} single models"
            f" ({len(self.found)} merge settings tried)."
        )
        if rules.words():
            words += f" Asked for: {rules.words()}."
            if not allowed:
                words += f" No single model satisfies that on validation; {best.name} {'; '.join(broken[best.name])}."
            elif best is not ranked[0]:
                words += f" {ranked[0].name} is better but {'; '.join(broken[ranked[0].name])}."
        return best.name, words

    def _cost(self, system: _System, speed: float | None) -> Cost:
        encoder = self.base_piece.facts["parameters"]
        heads = {
            n: sum(t.numel() for t in read_heads(system.heads[n] / "heads.safetensors")[n].values()) for n in self.tasks
        }
        return Cost(
            training_seconds=system.seconds,
            training_examples=system.examples,
            parameters_stored=encoder * len(set(system.encoders.values())) + sum(heads.values()),
            parameters_used=encoder + max(heads.values()),
            examples_per_second=speed,
            search_choices=system.choices,
            search_seconds=system.search_seconds,
        )

    def _provenance(self) -> dict[str, Any]:
        import allround

        return {
            "allround": allround.__version__,
            "suite": self.suite.name,
            "base": _plain_name(self.base),
            "base_piece": self.base_piece.key,
            "tasks": {n: t.content for n, t in self.tasks.items()},
            "settings": self.settings.to_json(),
            "seed": self.options.seed,
            "workers": self.workers,
        }

    # -- what is left behind -------------------------------------------------------------------------------------

    def _finish(self, board: Scoreboard, choice: str, plan: Plan | None) -> Build:
        assert board.best
        best = next(s for s in self.systems if s.name == board.best)
        self._save_model(best, board)
        board.save(self.out)
        extra = {
            "title": f"{self.suite.name} on {_plain_name(self.base)}",
            "commands": commands(self.out, self.tasks),
            "python": python_lines(self.out, self.tasks),
            "choices": [
                {"method": t.method, "settings": t.settings, "validation": t.validation, "chosen": t.chosen}
                for t in self.found
            ],
            "tasks": [_task_facts(t) for t in self.tasks.values()],
            "budget": plan.words if plan else None,
            "choice": choice,
            **about_machine(),
            "seconds_total": time.perf_counter() - self.started,
            "peak_memory": peak_memory(),
        }
        write_report(board, self.out / "report.html", extra=extra)
        return Build(self.out, self.out / "best", self.out / "report.html", board)

    def _save_model(self, system: _System, board: Scoreboard) -> None:
        """The chosen model, with its scores and where it comes from."""
        definitions: dict[str, Definition] = dict(board.definitions)
        cells = board.cells[system.name]
        facts = {
            "made_by": {"system": system.name, "settings": system.settings or {}, "title": system.title},
            "scores": {n: {"metric": d.metric, "test": cells[n].score, "low": cells[n].low, "high": cells[n].high,
                           "rows": cells[n].n, "retention": cells[n].retention}
                       for n, d in definitions.items()},
            "provenance": board.provenance,
        }  # fmt: skip
        with atomic_folder(self.out / "best") as folder:
            encoder = next(iter(system.encoders.values())) / "encoder"
            shutil.copytree(encoder, folder / "encoder")
            heads = {n: read_heads(system.heads[n] / "heads.safetensors")[n] for n in self.tasks}
            write_heads(folder / "heads.safetensors", heads)
            write_definitions(folder, definitions, facts)
            write_card(folder, system.title, board)

    def _count(self, split: str) -> int:
        return sum(len(t.splits[split]) for t in self.tasks.values())


@dataclass(frozen=True)
class _Group:
    """The prediction pieces that one job makes."""

    system: str
    split: str
    pieces: Mapping[str, Piece]
    names: Sequence[str]

    @property
    def key(self) -> str:
        return _predictions_of(self.split, self.system, self.names, self.pieces)

    @property
    def done(self) -> bool:
        return all(self.pieces[n].done for n in self.names)

    @property
    def facts(self) -> dict[str, Any]:
        return {"seconds": sum(self.pieces[n].facts["seconds"] for n in self.names)}


def _predictions_of(split: str, system: str, names: Sequence[str], pieces: Mapping[str, Piece]) -> str:
    listed = f"all {len(names)} tasks" if len(names) == len(pieces) > 1 else ", ".join(names)
    return f"{split} predictions of {system} ({listed})"


def _result(piece: Any) -> str:
    facts = piece.facts
    parts = []
    scores = facts.get("validation")
    if isinstance(scores, Mapping):
        scores = sum(scores.values()) / len(scores)
    if scores is not None:
        parts.append(f"validation {scores:.3f}")
    if "seconds" in facts:
        parts.append(f"{facts['seconds']:.1f} s")
    return f"  ({', '.join(parts)})" if parts else ""


def _plain_name(base: Any) -> str:
    label = getattr(base, "label", None)
    return label if isinstance(label, str) else Path(str(base)).name if os.sep in str(base) else str(base)


def _task_facts(task: Task) -> dict[str, Any]:
    d = task.definition
    return {
        "name": d.name,
        "kind": d.kind,
        "metric": d.metric,
        "inputs": list(d.inputs),
        "labels": len(d.labels),
        **{s: len(task.splits[s]) for s in SPLITS},
        "notes": list(task.notes),
    }


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """One build at a time in a run folder; what a killed one left half-made is swept."""
    import fcntl

    with disk_errors(str(out)):
        out.mkdir(parents=True, exist_ok=True)
        handle = open(out / ".lock", "w")  # noqa: SIM115 (held until the end)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AllroundError(
                f"build into {out}", "another build is at work in this folder", "wait for it, or choose another --out"
            ) from error
        for left in (out / "pieces").glob(".*") if (out / "pieces").is_dir() else []:
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        handle.close()
