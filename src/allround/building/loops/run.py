"""Carrying out a loop: pieces of work, the choice on validation, the model that is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allround.building import jobs
from allround.building.loops.jobs import merge_branches
from allround.building.loops.loop import Branch, Loop
from allround.building.options import Options
from allround.building.results import cell_facts, plain_name
from allround.building.run import Run, run_folder
from allround.building.single import board_of
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.jobs import Job, call, quiet_libraries
from allround.core.outputs import check_out, output_folder, remove_work
from allround.core.pieces import Piece
from allround.core.progress import Progress
from allround.core.seeds import seed_of
from allround.evaluation.scoreboard import Scoreboard
from allround.models.device import pick_device
from allround.tasks.metric import better
from allround.tasks.suite import Suite
from allround.training.settings import Settings
from allround.training.trainer import Course, relative_score


@dataclass(frozen=True)
class Looped:
    """What a loop leaves: the model's folder, its test scores, what each round gave, and the round that was kept."""

    folder: Path
    scoreboard: Scoreboard
    rounds: list[dict[str, Any]]
    kept: int


def plan_loop(
    name: str, suite: Suite, parameters: Mapping[str, Any] | None = None, values: Mapping[str, Any] | None = None
) -> Loop:
    """The loop that a preset makes for a suite. values: parameters of its merge method."""
    entry = registry.find("loop", name)
    made: Loop = entry.load()(list(suite.tasks), dict(values or {}), **entry.resolve(parameters or {}))
    return made


def run_loop(
    loop: Loop,
    suite: Suite,
    *,
    out: Path | str,
    base: Any = None,
    settings: Settings | None = None,
    seed: int = 0,
    workers: int | None = None,
    encoder: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> Looped:
    """Tune and merge in rounds, keep the round that is best on validation, save it into `out`, and score it on test.

    settings: `epochs` is the budget of all rounds together, so that a loop takes each row as often as one training
    does; a copy is handed in as it is at the end of its part. facts: more to write into the model's allround.json.
    Unfinished work is kept in `out`.unfinished: the same call after a kill goes on with the next unfinished piece.
    A folder that is there is replaced only where `loop` wrote it and nothing was changed since, or with `force`.
    """
    quiet_libraries()
    base = base if base is not None else suite.base
    if base is None:
        raise AllroundError(f"tune and merge on '{suite.name}'", "no base was given, and the suite names none",
                            "give --base")  # fmt: skip
    out = check_out(out, "loop", force=force, inputs=[base], data=suite.files)
    settings = settings or Settings()
    pick_device(settings.device)
    work = out.parent / f"{out.name}.unfinished"
    with run_folder(work, "loop", force=force):
        options = Options(settings=settings, seed=seed, workers=workers)
        run = _Loop(loop, suite, base, options, work, dict(encoder or {}), progress or Progress(), force=force)
        run.go()
        board = run.save(out, dict(facts or {}))
        run.pieces.remove()
    remove_work(work)
    return Looped(out, board, run.rounds, run.kept)


class _Loop(Run):
    """A run whose work, from the heads on, is that of a loop."""

    def __init__(self, loop: Loop, *given: Any, force: bool = False) -> None:
        super().__init__(*given, force=force)
        self.loop = loop
        self.rounds: list[dict[str, Any]] = []

    def go(self) -> None:
        with self._runner() as self.runner:
            self._begin()
            self._fit_heads()
            heads = {name: str(piece.folder) for name, piece in self.heads.items()}
            start = self._piece("round-0", [self.base_piece, *self.heads.values()])
            self._do("the base", [(start, self._merging(start, self.base_encoder, heads, {}, {}))])
            self.states = [start]
            self._note(start)
            for number in range(1, self.loop.rounds + 1):
                self._round(number)
        means = [self._mean(entry["validation"]) for entry in self.rounds]
        self.kept = means.index(max(means))
        self.progress.say(f"kept round {self.kept}, the best on validation")

    # -- a round -------------------------------------------------------------------------------------------------

    def _round(self, number: int) -> None:
        before = self.states[-1]
        encoder, heads = str(before.folder / "encoder"), dict.fromkeys(self.tasks, str(before.folder))
        branches: dict[str, Piece] = {}
        tuning = []
        for branch in self.loop.drawn(number, self.options.seed):
            settings = self._part(branch, number)
            piece = self._piece(f"round-{number}-{branch.name}", [before], tasks=list(branch.tasks), settings=settings)
            job = call(jobs.tune, piece=piece, base=encoder, heads=heads, tasks=[self.data[n] for n in branch.tasks],
                       settings=settings, seed=seed_of(self.options.seed, "tune", branch.name))  # fmt: skip
            branches[branch.name] = piece
            tuning.append((piece, job))
        trials: list[dict[str, Any]] = []

        def merge(name: str, wanted: Sequence[Mapping[str, Any]], judged: Sequence[str] | None = None) -> list[Piece]:
            """The branches merged with each of these settings; they are tuned first where they still have to be."""
            made_from = {"method": self.loop.method, "refit": self.loop.refit, "judged": judged}
            pieces = [self._piece(name, list(branches.values()), values=values, **made_from) for values in wanted]
            if tuning and not all(piece.done for piece in pieces):
                self._do(f"tuning, round {number}", tuning)
                tuning.clear()
            self._do(
                f"merging, round {number}",
                [
                    (piece, self._merging(piece, encoder, heads, branches, values, judged))
                    for piece, values in zip(pieces, wanted, strict=True)
                ],
            )
            return pieces

        def score(wanted: Sequence[Mapping[str, Any]]) -> list[float]:
            tried = [piece.facts["validation"] for piece in merge(f"try-{number}", wanted, self.loop.judged)]
            trials.extend({"values": v, "validation": found} for v, found in zip(wanted, tried, strict=True))
            return [self._mean(found) for found in tried]

        values = self._searched(len(branches), score)
        (merged,) = merge(f"round-{number}", [values])
        self.states.append(merged)
        self._note(merged, values, trials)
        for piece in branches.values():  # the merged model is all that the next round needs
            piece.remove()

    def _part(self, branch: Branch, number: int) -> dict[str, Any]:
        """The settings of training for a branch's part of the budget; it ends where that ends."""
        rounds = self.loop.rounds
        settings = self.settings.with_(keep="last", start=(number - 1) / rounds, stop=number / rounds)
        weights = list(branch.tasks.values())
        if len(set(weights)) > 1:
            settings = settings.with_(sample="weighted", sample_settings={"weights": weights})
        return settings.to_json()

    def _searched(self, count: int, score: Callable[[Sequence[Mapping[str, Any]]], list[float]]) -> dict[str, Any]:
        """The settings of this round's merge: those given, with those that did best on validation."""
        given = dict(self.loop.values)
        if self.loop.search is None:
            return given
        search = self.loop.search(count)
        wanted = next(search)
        twice = sorted(given.keys() & wanted[0].keys())
        if twice:
            raise AllroundError(f"merge with {twice[0]}={given[twice[0]]}", "that is chosen on validation here",
                                f"leave {twice[0]} out")  # fmt: skip
        while True:
            try:
                wanted = search.send(score([{**given, **values} for values in wanted]))
            except StopIteration as stop:
                return {**given, **stop.value}

    def _piece(self, name: str, before: Sequence[Piece], **made_from: Any) -> Piece:
        content = {task: data.content for task, data in self.tasks.items()}
        common = {"before": [p.key for p in before], "content": content, "settings": self.settings.to_json()}
        return self.pieces.piece(name, **{**common, "seed": self.options.seed, **made_from})

    def _merging(
        self,
        piece: Piece,
        encoder: str,
        heads: Mapping[str, str],
        branches: Mapping[str, Piece],
        values: Mapping[str, Any],
        judged: Sequence[str] | None = None,
    ) -> Job:
        """judged: for a trial, the only tasks that are looked at."""
        names = list(judged or self.tasks)
        fit = [n for n in names if branches and (self.loop.refit or n in self.loop.unseen)]
        return call(merge_branches, piece=piece, encoder=encoder, heads=heads, branches=branches,
                    tasks={n: self.data[n] for n in names}, fit=fit, method=self.loop.method, values=values,
                    settings=self.settings.to_json(), keep=judged is None)  # fmt: skip

    def _mean(self, scores: Mapping[str, float]) -> float:
        """The mean over the judged tasks of the score as a share of the base's."""
        first = self.rounds[0]["validation"] if self.rounds else scores
        found = [relative_score(scores[n], first[n], better(self.tasks[n].definition.metric)) for n in self.loop.judged]
        return sum(found) / len(found)

    def _note(
        self, piece: Piece, values: Mapping[str, Any] | None = None, trials: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        facts = piece.facts
        entry = {"round": len(self.rounds), "method": self.loop.method if facts["branches"] else None,
                 "values": dict(values or {}), **{k: facts[k] for k in ("validation", "branches", "cosines")},
                 "trials": list(trials)}  # fmt: skip
        self.rounds.append(entry)
        listed = ", ".join(f"{name} {score:.3f}" for name, score in entry["validation"].items())
        self.progress.say(f"round {entry['round']}: validation {listed}")

    # -- what is left --------------------------------------------------------------------------------------------

    def save(self, out: Path, facts: Mapping[str, Any]) -> Scoreboard:
        state = self.states[self.kept].folder
        model = jobs.assemble(str(state / "encoder"), dict.fromkeys(self.tasks, str(state)), list(self.tasks.values()))
        model.to(pick_device(self.settings.device))
        tuned = [branch for entry in self.rounds for branch in entry["branches"].values()]
        course = Course(
            examples=Counter(),
            seconds=sum(one["seconds"] for one in [*tuned, *(piece.facts for piece in self.heads.values())]),
        )
        for branch in tuned:
            course.examples.update(branch["examples"])
        with output_folder(out, "loop", force=self.force) as folder:
            board = board_of(model, self.suite, "test", "loop", course)
            model.facts = {
                "made_by": {**facts, "base": plain_name(self.base), "settings": self.settings.to_json(),
                            "seed": self.options.seed, "kept": self.kept, "rounds": self.rounds},
                "scores": {n: cell_facts(d, board.cells["loop"][n], "test") for n, d in board.definitions.items()},
            }  # fmt: skip
            model.write(folder)
        return board
