"""`build`: specialists, joint model, merges; one scoreboard; the best single model; a report."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allround.building import jobs
from allround.building.budget import Plan, joint_time, learning_time, make_plan, scaled, with_extras
from allround.building.joint import Joint, joint_settings
from allround.building.options import Options
from allround.building.results import (
    about_machine,
    commands,
    peak_memory,
    plain_name,
    precision_words,
    python_lines,
    save_model,
    task_facts,
)
from allround.building.search import Trial, most_trials, run_searches
from allround.building.single import floor
from allround.building.systems import Judge, Parts, PredictionGroup
from allround.core import registry
from allround.core.entry import Entry
from allround.core.errors import AllroundError
from allround.core.files import hash_folder, hash_json
from allround.core.jobs import Inline, Job, Runner, available_cores, call, quiet_libraries, runner
from allround.core.outputs import (
    check_out,
    check_out_file,
    check_texts,
    output_file,
    remove_stale,
    sweep,
    work_folder,
    write_texts,
)
from allround.core.pieces import Piece, Pieces
from allround.core.progress import Progress
from allround.core.seeds import seed_of
from allround.evaluation.predictions import Predictions
from allround.evaluation.report import html
from allround.evaluation.scoreboard import FILES, Cost, Scoreboard, System
from allround.merging.learn.learning import preset
from allround.models.base import builtin_encoders, check_is_model, find_folder
from allround.models.device import pick_device
from allround.models.head import PENALTIES
from allround.tasks.task import SPLITS, Task
from allround.training.trainer import check_settings

if TYPE_CHECKING:
    from torch import nn

    from allround.tasks.suite import Suite
    from allround.training.settings import Settings


#: The page that a build writes, and the folder of its predictions.
REPORT, PREDICTIONS = "report.html", "predictions"
#: What the report calls fitting heads anew on merged encoders.
REFITTED = "heads fitted anew"
#: Training rows of each task that statistics are computed from.
STATISTIC_ROWS = 256
#: Rows of each task that tell how a network of the user's own reads rows.
FIRST_ROWS = 8


@dataclass(frozen=True)
class Build:
    """What a build leaves: where the best model and the report are, and the scoreboard."""

    folder: Path
    best: Path
    report: Path
    scoreboard: Scoreboard


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
    force: bool = False,
) -> Build:
    """Build the best single model for a suite, and prove per task how good it is.

    suite: a `Suite`, the path of a suite file, or the name of a built-in suite. base: a folder, an installed or Hub
    name, a built-in encoder, or an `allround.models.encoders.module.Module`; left out, the suite's own. encoder:
    settings of the encoder, such as `{"max_length": 64}`. out: the run folder; run again with the same arguments
    after a kill, it takes up what is finished. What earlier builds wrote there is replaced, and what others put there
    is not, unless `force` says so.

    Hyperparameters, checkpoints, coefficients and the winner are chosen on validation; test is scored once for each
    finished system. Same inputs, seed and machine give the same scoreboard, timings apart; with a budget, the cut
    follows from measured speed and is kept in the run folder.
    """
    from allround.tasks.suite import as_suite

    quiet_libraries()
    out = Path(out)
    options = options or Options()
    suite = as_suite(suite, data_dir=data_dir, only=only, limit=limit)
    base = base if base is not None else suite.base
    if base is None:
        raise AllroundError(
            f"build the suite '{suite.name}'",
            "no base was given, and the suite names none",
            "give --base: a model folder, a Hub id, all-MiniLM-L6-v2, small_image or small_table",
        )
    options.constraints.check(suite.tasks)
    for name in options.chosen("learn"):
        preset(name).check(task.definition for task in suite.tasks.values())
    pick_device(options.settings.device)
    for name, folder in options.specialists.items():
        if not Path(folder).exists():
            raise AllroundError(
                f"use {folder} as the specialist of '{name}'", "there is no such folder", "check the path"
            )
        if name not in suite.tasks:
            raise AllroundError(f"use a given specialist for '{name}'", "the suite has no such task",
                                f"use one of: {', '.join(suite.tasks)}")  # fmt: skip
        find_folder(folder, "specialist")
    with run_folder(out, "build", force=force):
        read = [base, *options.specialists.values()]
        check_out(out / "best", "build", force=force, inputs=read, data=suite.files)
        check_texts(out, [*FILES, REPORT], "build", force=force)
        for path in (out / PREDICTIONS).rglob("*.parquet"):
            check_out_file(path, "build", force=force, root=out)
        progress = progress or Progress(out / "log.txt")
        return Run(suite, base, options, out, dict(encoder or {}), progress, force=force).run()


class Run:
    """The pieces of work of a build in its folder, one stage after the other; a loop has stages of its own."""

    def __init__(
        self,
        suite: Suite,
        base: Any,
        options: Options,
        out: Path,
        encoder: dict[str, Any],
        progress: Progress,
        *,
        force: bool = False,
    ) -> None:
        self.suite, self.base, self.options, self.out = suite, base, options, out
        self.encoder, self.progress, self.force = encoder, progress, force
        self.pieces = Pieces(out / "pieces")
        self.tasks: dict[str, Task] = dict(suite.tasks)
        self.settings = options.settings
        self.trials = options.trials
        self.methods = {family: options.chosen(family) for family in ("merge", "learn")}
        self.further = options.joints() if len(self.tasks) > 1 else []
        self.refit = True
        self.workers = options.workers or min(available_cores(), 8)
        self.started = time.perf_counter()
        self.systems: list[Parts] = []
        self.found: list[Trial] = []

    def run(self) -> Build:
        self._announce(f"seed {self.options.seed}")
        with self._runner() as self.runner:
            self._begin()
            plan = self._plan()
            self._fit_heads()
            self._tune()
            self._merge()
            board = self._score(plan)
        return self._finish(board, plan)

    def _announce(self, words: str) -> None:
        """Say what is worked on, and what is to be known of the data."""
        say = self.progress.say
        say(f"suite {self.suite.name}: {len(self.tasks)} tasks, {self._count('train')} training rows; {words}, "
            f"{self.workers} workers")  # fmt: skip
        for name, notes in self.suite.notes.items():
            for note in notes:
                say(f"data of {name}: {note}", style="yellow")

    # -- pieces of work ------------------------------------------------------------------------------------------

    def _runner(self) -> Runner:
        from allround.models.encoders.module import Module

        if isinstance(self.base, Module):
            return Inline()
        return runner(self.workers)

    def _do(self, title: str, work: Sequence[tuple[Piece | PredictionGroup, Job]]) -> None:
        """Run the jobs whose pieces are not there yet, and say what was made and what was found."""
        open_work = []
        for piece, job in work:
            if self._have(piece):
                self.progress.say(f"have  {piece.key}{_result(piece)}", style="dim")
            else:
                open_work.append((piece, job))
        with self.progress.stage(title, len(open_work)) as stage:
            for index, _ in self.runner.run([job for _, job in open_work]):
                piece = open_work[index][0]
                stage.advance()
                self.progress.say(f"made  {piece.key}{_result(piece)}")

    def _begin(self) -> None:
        """What every run starts from: the rows, the base, and the precision that all its work computes in."""
        self._save_data()
        self._make_base()
        self._decide_precision()

    def _decide_precision(self) -> None:
        """Measure once what "auto" means here, and keep to it in all that follows, also after a kill."""
        if self.settings.precision == "auto":
            device = self.settings.device
            piece = self.pieces.piece("precision", device=pick_device(device).type)
            self._do("precision", [(piece, call(jobs.decide_precision, piece=piece, device=device))])
            self.settings = self.settings.with_(precision=piece.facts["precision"])
            self.precision = precision_words(piece.facts["precision"], piece.facts["layer"])
            self.progress.say(f"matrix products in {self.precision}")
        else:
            self.precision = precision_words(self.settings.precision)

    def _have(self, piece: Piece | PredictionGroup) -> bool:
        """Whether a piece need not be made; says so where it was damaged and is made again."""
        if piece.damage is not None:
            self.progress.say(f"note  {piece.key} is made again: {piece.damage}", style="yellow")
        return piece.done

    def _save_data(self) -> None:
        """Keep the rows in the run folder, where every process finds them."""
        self.data: dict[str, str] = {}
        for name, task in self.tasks.items():
            piece = self.pieces.piece(f"data-{name}", content=task.content)
            if not self._have(piece):
                with piece.make() as (folder, facts):
                    task.write(folder)
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
            folder = find_folder(self.base)
            check_is_model(folder)
            made_from = {"content": hash_folder(folder), "encoder": self.encoder}
        self.base_piece = self.pieces.piece("base", base=plain_name(self.base), **made_from)
        job = call(jobs.make_base, piece=self.base_piece, base=str(self.base), tasks=list(self.data.values()),
                   seed=seed, encoder=self.encoder)  # fmt: skip
        self._do("base", [(self.base_piece, job)])
        for note in self.base_piece.facts.get("notes", ()):
            self.progress.say(f"base: {note}", style="yellow")

    def _keep_module(self, base: Any) -> Piece:
        from allround.models.encoder import hash_tensors
        from allround.models.model import parameters_of

        read = [base.prepare(t.splits["train"].inputs[:FIRST_ROWS], t.definition) for t in self.tasks.values()]
        about = [base.label, base.form, base.dim, hash_json([[row.tolist() for row in rows] for rows in read])]
        piece = self.pieces.piece("base", base=about, content=hash_tensors(base.network))
        if not self._have(piece):
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
            methods=self.methods,
            joints=[joint.name for joint in self.further],
        )
        if not self._have(decided):
            # A first fit of the heads on all rows is the work that follows anyway.
            self._fit_heads()
            heads = {n: str(p.folder) for n, p in self.heads.items()}
            job = call(jobs.probe, base=self.base_encoder, heads=heads, tasks=self.data,
                       settings=self.settings.to_json())  # fmt: skip
            ((_, speed),) = self.runner.run([job])
            workers = self.workers if not isinstance(self.runner, Inline) else 1
            minutes = self.options.budget
            epochs = self.settings.epochs or self.base_piece.facts["epochs"]
            plan = make_plan(
                self.tasks,
                speed,
                minutes=minutes,
                spent=time.perf_counter() - self.started,
                trials=self.trials,
                methods=len(self.methods["merge"]),
                epochs=epochs,
                joint=self.options.joint,
                workers=workers,
            )
            more = joint_time(self.tasks, speed, epochs=epochs, workers=workers)
            costs = {_joint_name(joint): more for joint in self.further}
            for name in self.methods["learn"]:
                trials = most_trials(registry.find("learn", name), self.trials)
                costs[name] = learning_time(self.tasks, speed, preset(name), trials=trials, workers=workers)
            if self.methods["merge"] or self.methods["learn"]:
                once = sum(p.facts["seconds"] for p in self.heads.values()) / workers
                costs[REFITTED] = once * sum(bool(names) for names in self.methods.values())
            plan = with_extras(plan, costs, minutes)
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
        self.methods["learn"] = [name for name in self.methods["learn"] if name not in plan.left_out]
        self.further = [joint for joint in self.further if _joint_name(joint) not in plan.left_out]
        self.refit = REFITTED not in plan.left_out
        self.settings = self.settings.with_(epochs=plan.epochs)
        return plan

    def _head_pieces(self, encoder: str, key: Any, name_of: str = "head") -> list[tuple[Piece, Job]]:
        """A head for each task on an encoder as it is, by what that was made from."""
        made = []
        for name, task in self.tasks.items():
            piece = self.pieces.piece(f"{name_of}-{name}", base=key, task=task.content, penalties=PENALTIES)
            job = call(jobs.make_head, piece=piece, task=self.data[name], encoder=encoder, device=self.settings.device)
            made.append((piece, job))
        return made

    def _fit_heads(self) -> None:
        work = self._head_pieces(self.base_encoder, self.base_piece.key)
        self.heads = {name: piece for name, (piece, _) in zip(self.tasks, work, strict=True)}
        self._do("heads on the frozen base", work)
        self.systems = [
            Parts(
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

    def joint_piece(self, settings: Settings, seed: int, name: str = "joint") -> tuple[Piece, Job]:
        """A model tuned on all tasks with these settings, from the base and its heads."""
        piece = self.pieces.piece(
            name,
            base=self.base_piece.key,
            heads={n: p.key for n, p in self.heads.items()},
            tasks={n: t.content for n, t in self.tasks.items()},
            settings=settings.to_json(),
            seed=seed,
        )
        job = call(jobs.tune, piece=piece, base=self.base_encoder, heads={n: str(p.folder) for n, p in
                   self.heads.items()}, tasks=list(self.data.values()), settings=settings.to_json(),
                   seed=seed_of(seed, "joint"))  # fmt: skip
        return piece, job

    def specialist_piece(self, task: str, settings: Settings, seed: int, name: str = "specialist") -> tuple[Piece, Job]:
        """A model tuned on one task with these settings, from the base and the task's head."""
        piece = self.pieces.piece(
            f"{name}-{task}",
            base=self.base_piece.key,
            task=self.tasks[task].content,
            head=self.heads[task].key,
            settings=settings.to_json(),
            seed=seed,
        )
        job = call(jobs.tune, piece=piece, base=self.base_encoder, heads={task: str(self.heads[task].folder)},
                   tasks=[self.data[task]], settings=settings.to_json(), seed=seed_of(seed, "tune", task))  # fmt: skip
        return piece, job

    def _tune(self) -> None:
        seed = self.options.seed
        work: list[tuple[Piece, Job]] = []
        joint, job = self.joint_piece(self.settings, seed)
        if self.options.joint:
            # The longest piece first, so that the others fill the time beside it.
            work.append((joint, job))
        balanced = {}
        for one in self.further:
            settings = joint_settings(one, self.settings.with_(mix="all"))
            check_settings(settings, list(self.tasks.values()))
            balanced[one.name], job = self.joint_piece(settings, seed, "balanced")
            work.append((balanced[one.name], job))
        self.specialists: dict[str, Piece] = {}
        for name, task in self.tasks.items():
            if name in self.options.specialists:
                given = self.options.specialists[name]
                piece = self.pieces.piece(f"specialist-{name}", given=hash_folder(given),
                                          base=self.base_piece.key, task=task.content)  # fmt: skip
                job = call(jobs.take_specialist, piece=piece, given=str(given), base=self.base_encoder,
                           task=self.data[name])  # fmt: skip
            else:
                piece, job = self.specialist_piece(name, self.settings, seed)
            self.specialists[name] = piece
            work.append((piece, job))
        self._do("tuning", work)
        folders = {n: p.folder for n, p in self.specialists.items()}
        self.systems.append(
            Parts(
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
        joints = [("joint", "one model trained on all tasks", joint)] if self.options.joint else []
        joints += [
            (
                _joint_name(one),
                f"one model trained on all tasks in every step, balanced by {one.name}",
                balanced[one.name],
            )
            for one in self.further
        ]
        for name, title, piece in joints:
            seconds = piece.facts["seconds"] + sum(p.facts["seconds"] for p in self.heads.values())
            examples = sum(piece.facts["examples"].values())
            self.systems.append(
                Parts.of_one(name, "joint", title, piece, self.tasks, seconds=seconds, examples=examples)
            )

    def _merge(self) -> None:
        """Search each method's settings on validation, and make the chosen merge: fixed ones, then learned ones."""
        self._predict("validation")
        if len(self.tasks) < 2:
            return
        self.made_from = {"base": self.base_piece.key, "specialists": {n: p.key for n, p in self.specialists.items()}}
        self.parts = {
            "base": self.base_encoder,
            "specialists": {n: str(p.folder) for n, p in self.specialists.items()},
            "tasks": self.data,
        }
        for family, make in (("merge", self._merge_fixed), ("learn", self._merge_learned)):
            names = self.methods[family]
            if names:
                make([registry.find(family, name) for name in names])
        self._predict("validation")
        if self.refit:
            for names in self.methods.values():
                self._refit([system for system in self.systems if system.name in names])
            self._predict("validation")

    def _refit(self, merges: list[Parts]) -> None:
        """The best of some merges on validation once more, with heads fitted anew on its encoder."""
        if not merges:
            return
        best = max(merges, key=lambda system: self.judge.mean(self._validation(system)))
        folder = str(next(iter(best.groups())) / "encoder")
        key = next(iter(best.keys.values()))
        heads = self._head_pieces(folder, key, "refit")
        self._do(f"heads on the encoder of {best.name}", heads)
        pieces = {name: piece for name, (piece, _) in zip(self.tasks, heads, strict=True)}
        self.systems.append(
            replace(
                best,
                name=f"{best.name}+heads",
                title=f"{best.title}, {REFITTED}",
                heads={n: p.folder for n, p in pieces.items()},
                keys={n: [key, p.key] for n, p in pieces.items()},
                merge_seconds=best.merge_seconds + sum(p.facts["seconds"] for p in pieces.values()),
                merge_rows=best.merge_rows + sum(len(t.splits["train"]) for t in self.tasks.values()),
            )
        )

    def _merge_fixed(self, entries: list[Entry]) -> None:
        needed = {entry.name: entry.needed(entry.defaults) for entry in entries}
        statistics = self._statistics({need for needs in needed.values() for need in needs})
        parts = {**self.parts, "settings": self.settings.to_json()}
        pieces: dict[str, Piece] = {}

        def arguments(method: str) -> dict[str, Any]:
            found = {n: [str(p.folder) for p in statistics[n]] for n in needed[method]}
            return {"method": method, "statistics": found}

        def keys(method: str) -> dict[str, Any]:
            found = {n: [p.key for p in statistics[n]] for n in needed[method]}
            return {"method": method, **({"statistics": found} if found else {}), **self.made_from}

        def work(pairs: list[tuple[str, dict[str, Any]]]) -> list[Piece]:
            made = [
                self.pieces.piece(f"try-{m}", parameters=p, precision=self.settings.precision, **keys(m))
                for m, p in pairs
            ]
            listed = [
                (piece, call(jobs.try_merge, piece=piece, parameters=p, **arguments(m), **parts))
                for piece, (m, p) in zip(made, pairs, strict=True)
            ]
            self._do("settings of merges, on validation", listed)
            return made

        chosen = run_searches(entries, self.trials, lambda pairs: self._trials(pairs, work(pairs)))
        for method, (best, _) in chosen.items():
            pieces[method] = self.pieces.piece(f"merge-{method}", parameters=best, **keys(method))
        self._do(
            "merging",
            [
                (piece, call(jobs.merge, piece=piece, parameters=chosen[m][0], **arguments(m), **self.parts))
                for m, piece in pieces.items()
            ],
        )
        for method, piece in pieces.items():
            stored = [p for need in needed[method] for p in statistics[need]]
            self._add_merge(
                f"merge by {method}",
                piece,
                method,
                *chosen[method],
                merge_seconds=piece.facts["seconds"] + sum(p.facts["seconds"] for p in stored),
                merge_rows=sum(p.facts["rows"] for p in stored),
            )

    def _statistics(self, needs: set[str]) -> dict[str, list[Piece]]:
        """What methods need of every specialist on its own training rows."""
        found: dict[str, list[Piece]] = {}
        work: list[tuple[Piece, Job]] = []
        for need in sorted(needs):
            for name, specialist in self.specialists.items():
                made_from = {"specialist": specialist.key, "task": self.tasks[name].content, "rows": STATISTIC_ROWS}
                piece = self.pieces.piece(f"{need}-{name}", kind=need, seed=self.options.seed, **made_from)
                found.setdefault(need, []).append(piece)
                job = call(jobs.make_statistic, piece=piece, kind=need, specialist=str(specialist.folder),
                           task=self.data[name], rows=STATISTIC_ROWS, seed=self.options.seed,
                           device=self.settings.device)  # fmt: skip
                work.append((piece, job))
        self._do("statistics of the specialists", work)
        return found

    def _merge_learned(self, entries: list[Entry]) -> None:
        content = {n: t.content for n, t in self.tasks.items()}
        seed = seed_of(self.options.seed, "learn")

        def work(pairs: list[tuple[str, dict[str, Any]]]) -> list[Piece]:
            pieces = [
                self.pieces.piece(
                    f"learn-{name}",
                    learning=preset(name, values).to_json(),
                    precision=self.settings.precision,
                    tasks=content,
                    seed=seed,
                    **self.made_from,
                )
                for name, values in pairs
            ]
            listed = [
                (
                    piece,
                    call(
                        jobs.learn_merge,
                        piece=piece,
                        preset=name,
                        values=values,
                        seed=seed,
                        settings=self.settings.to_json(),
                        **self.parts,
                    ),
                )
                for piece, (name, values) in zip(pieces, pairs, strict=True)
            ]
            self._do("learning merges", listed)
            made.update({(name, repr(values)): piece for piece, (name, values) in zip(pieces, pairs, strict=True)})
            return pieces

        made: dict[tuple[str, str], Piece] = {}
        chosen = run_searches(entries, self.trials, lambda pairs: self._trials(pairs, work(pairs)))
        for name, (best, trials) in chosen.items():
            piece = made[name, repr(best)]
            rows, seconds = piece.facts["rows"], piece.facts["learning_seconds"]
            self._add_merge(f"learned by {name}", piece, name, best, trials, merge_seconds=seconds, merge_rows=rows)

    def _trials(self, pairs: Sequence[tuple[str, dict[str, Any]]], pieces: Sequence[Piece]) -> list[Trial]:
        """What validation says of merges that were made with these settings."""
        judge = self.judge
        return [
            Trial(name, values, judge.mean(p.facts["validation"]), p.facts["validation"], p.facts["seconds"])
            for (name, values), p in zip(pairs, pieces, strict=True)
        ]

    def _add_merge(
        self, title: str, piece: Piece, name: str, settings: dict[str, Any], trials: list[Trial], **cost: Any
    ) -> None:
        specialists = next(s for s in self.systems if s.name == "specialists")
        self.found += trials
        self.systems.append(
            Parts.of_one(
                name,
                "merge",
                title,
                piece,
                self.tasks,
                seconds=specialists.seconds,
                examples=specialists.examples,
                settings=settings,
                choices=len(trials),
                search_seconds=sum(t.seconds for t in trials),
                **cost,
            )
        )

    # -- scoring -------------------------------------------------------------------------------------------------

    def _predict(self, split: str) -> None:
        """Predict a split with every system that has not done so yet; those that share an encoder do so together."""
        sharing: dict[tuple[Path, tuple[str, ...]], list[Parts]] = {}
        for system in self.systems:
            for folder, names in system.groups().items():
                sharing.setdefault((folder, tuple(names)), []).append(system)
        work: list[tuple[Piece | PredictionGroup, Job]] = []
        for (folder, answered), systems in sharing.items():
            pieces = {s.name: s.predictions(self.pieces, self.tasks, split) for s in systems}
            done = [s for s in systems if all(pieces[s.name][n].done for n in answered)]
            for members in [*([s] for s in done), [s for s in systems if s not in done]]:
                if members:
                    job = call(
                        jobs.predict,
                        pieces=[{n: pieces[s.name][n] for n in answered} for s in members],
                        encoder=str(folder / "encoder"),
                        heads=[{n: str(s.heads[n]) for n in answered} for s in members],
                        tasks={n: self.data[n] for n in answered},
                        split=split,
                        device=self.settings.device,
                    )
                    group = PredictionGroup(
                        tuple(s.name for s in members), split, tuple(pieces[s.name] for s in members), answered
                    )
                    work.append((group, job))
        self._do(f"predicting the {split} rows", work)

    def _validation(self, system: Parts) -> dict[str, float]:
        pieces = system.predictions(self.pieces, self.tasks, "validation")
        return {n: p.facts["score"] for n, p in pieces.items()}

    @property
    def judge(self) -> Judge:
        metrics = {n: t.definition.metric for n, t in self.tasks.items()}
        return Judge(metrics, self._validation(next(s for s in self.systems if s.name == "specialists")))

    def _score(self, plan: Plan | None) -> Scoreboard:
        validation = {s.name: self._validation(s) for s in self.systems}
        parameters = self.base_piece.facts["parameters"]
        # With one task the specialist is a single model for all of it.
        candidates = [s for s in self.systems if s.single and (s.name != "specialists" or len(self.tasks) == 1)]
        best, words = self.judge.choose(
            {s.name: validation[s.name] for s in candidates},
            {s.name: s.cost(parameters).parameters_stored for s in candidates},
            self.options.constraints,
            len(self.found),
        )
        self.progress.say(words)
        self._predict("test")
        definitions = {n: t.definition for n, t in self.tasks.items()}
        predictions: dict[tuple[str, str], Predictions] = {}
        systems = [System("floor", "floor", "majority class, or mean", cost=Cost())]
        for name, task in self.tasks.items():
            predictions["floor", name] = floor(task)
        for system in self.systems:
            seconds, rows = 0.0, 0
            for name, piece in system.predictions(self.pieces, self.tasks, "test").items():
                predictions[system.name, name] = jobs.loaded_predictions(piece)
                seconds, rows = seconds + piece.facts["seconds"], rows + piece.facts["rows"]
            systems.append(
                System(
                    system.name,
                    system.role,
                    system.title,
                    system.settings or {},
                    system.single,
                    system.cost(parameters, rows / seconds if seconds else None),
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
            path = self.out / PREDICTIONS / system_name / f"{task_name}.parquet"
            with output_file(path, "build", force=self.force, root=self.out) as new:
                found.write(new)
        kept = [f"{PREDICTIONS}/{system_name}/{task_name}.parquet" for system_name, task_name in predictions]
        remove_stale(self.out, "build", PREDICTIONS, kept)
        return board

    def _provenance(self) -> dict[str, Any]:
        import allround

        return {
            "allround": allround.__version__,
            "suite": self.suite.name,
            "base": plain_name(self.base),
            "base_piece": self.base_piece.key,
            "tasks": {n: t.content for n, t in self.tasks.items()},
            "settings": self.settings.to_json(),
            "seed": self.options.seed,
            "workers": self.workers,
        }

    # -- what is left behind -------------------------------------------------------------------------------------

    def _finish(self, board: Scoreboard, plan: Plan | None) -> Build:
        assert board.best
        best = next(s for s in self.systems if s.name == board.best)
        save_model(self.out / "best", best, board, force=self.force)
        extra = {
            "title": f"{self.suite.name} on {plain_name(self.base)}",
            "commands": commands(self.out, self.tasks),
            "python": python_lines(self.out, self.tasks),
            "choices": [
                {"method": t.method, "settings": t.settings, "validation": t.validation, "chosen": t.chosen}
                for t in self.found
            ],
            "tasks": [task_facts(t) for t in self.tasks.values()],
            "budget": plan.words if plan else None,
            "precision": self.precision,
            **about_machine(),
            "seconds_total": time.perf_counter() - self.started,
            "peak_memory": peak_memory(),
        }
        texts = {**board.files(), REPORT: html(board, extra=extra)}
        write_texts(self.out, texts, "build", force=self.force)
        return Build(self.out, self.out / "best", self.out / REPORT, board)

    def _count(self, split: str) -> int:
        return sum(len(t.splits[split]) for t in self.tasks.values())


def _joint_name(joint: Joint) -> str:
    """What a further joint model is called, also as the name of a folder."""
    return "joint-" + re.sub(r"[^A-Za-z0-9._=-]+", "-", joint.name).strip("-")


def _result(piece: Piece | PredictionGroup) -> str:
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


@contextlib.contextmanager
def run_folder(out: Path, command: str, *, force: bool) -> Iterator[None]:
    """One run of a command at a time in its folder; what a killed one left half-made is swept."""
    with work_folder(out, command, force=force):
        sweep(out / "pieces")
        yield
