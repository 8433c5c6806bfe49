"""Transfer as it really is: short trainings, and what each task gains by them over being trained alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from allround.building.jobs.transfer import measure_run, measured_answers
from allround.building.joint import specialist_settings
from allround.building.stages.heads import Start
from allround.building.stages.tuning import specialist_piece
from allround.building.workshop import Workshop
from allround.core.errors import AllroundError, suggestion
from allround.core.jobs import Job, call
from allround.core.pieces import Piece
from allround.core.seeds import seed_of
from allround.evaluation.intervals import Bootstrap
from allround.training.settings import Settings
from allround.transfer.matrix import TaskMatrix
from allround.transfer.spend import expected_improvement


@dataclass(frozen=True)
class Run:
    """A training that is measured: the tasks that it trains on together, and the task whose specialist it starts from.

    start: None for the base.
    """

    tasks: tuple[str, ...]
    start: str | None = None

    @property
    def name(self) -> str:
        """What its piece is called."""
        return "run-" + "+".join(self.tasks) + ("" if self.start is None else f"-after-{self.start}")


@dataclass(frozen=True)
class Gain:
    """What a task gains: its score in one run less that in another, both on the same validation rows.

    run, beside: the two. task: whose score. source: what the gain is put down to.
    """

    source: str
    task: str
    run: Run
    beside: Run


def pair_gains(tasks: Sequence[str]) -> list[Gain]:
    """Of tuning on one task before another: for each ordered pair."""
    return [Gain(s, t, Run((t,), s), Run((t,))) for t in tasks for s in tasks if s != t]


def joint_gains(tasks: Sequence[str]) -> list[Gain]:
    """Of training two tasks together: for each ordered pair, from one run a pair."""
    return [Gain(s, t, Run(pair), Run((t,))) for pair in combinations(tasks, 2) for s, t in (pair, (pair[1], pair[0]))]


def left_out_gains(tasks: Sequence[str]) -> list[Gain]:
    """Of a task being there when all train together: for each ordered pair, from one run a task and one of all."""
    whole = tuple(tasks)
    rest = {s: tuple(t for t in tasks if t != s) for s in tasks}
    return [Gain(s, t, Run(whole), Run(rest[s])) for s in tasks for t in rest[s]]


#: What can be measured, by the name that a user gives.
MEASURES: dict[str, Callable[[Sequence[str]], list[Gain]]] = {
    "pairs": pair_gains,
    "joint": joint_gains,
    "leave-one-out": left_out_gains,
}


def gains_of(measure: str, tasks: Sequence[str]) -> list[Gain]:
    """All gains of a measure. Errors: no measure of that name; too few tasks."""
    if measure not in MEASURES:
        raise AllroundError(f"measure '{measure}'", "there is no such measure", suggestion(measure, MEASURES))
    least = 3 if measure == "leave-one-out" else 2
    if len(tasks) < least:
        raise AllroundError(f"measure {measure}", f"there are {len(tasks)} tasks, and it takes {least}",
                            f"give {least} tasks or more")  # fmt: skip
    return MEASURES[measure](tasks)


@dataclass(frozen=True)
class Runs:
    """The runs of a suite from one start, all with the same settings."""

    shop: Workshop
    start: Start
    settings: Settings

    def specialist(self, task: str) -> tuple[Piece, Job]:
        """The specialist that runs start from."""
        settings = specialist_settings(self.settings, self.start.data.tasks[task])
        return specialist_piece(self.shop, self.start, task, settings, self.shop.seed)

    def work(self, run: Run) -> tuple[Piece, Job]:
        """The piece of a run, and the job that makes it."""
        tasks = {name: self.start.data.tasks[name] for name in run.tasks}
        one = len(run.tasks) == 1
        settings = specialist_settings(self.settings, tasks[run.tasks[0]]) if one else self.settings
        before = None if run.start is None else self.specialist(run.start)[0]
        piece = self.shop.pieces.piece(
            run.name,
            base=self.start.base.piece.key,
            before=None if before is None else before.key,
            tasks={name: task.content for name, task in tasks.items()},
            settings=settings.to_json(),
            seed=self.shop.seed,
        )
        # Heads are fitted in the run, also on the base, so that a task trained alone and one trained after another
        # differ by what they start from alone.
        job = call(
            measure_run,
            piece=piece,
            encoder=self.start.base.encoder if before is None else str(before.folder / "encoder"),
            tasks=[self.start.data.folders[name] for name in run.tasks],
            settings=settings.to_json(),
            seed=seed_of(self.shop.seed, "run", *run.tasks),
        )
        return piece, job

    def done(self, run: Run) -> bool:
        """Whether a run was made already."""
        return self.work(run)[0].done

    def make(self, runs: Iterable[Run], title: str) -> None:
        """Make runs, and the specialists that they start from, where they are not there yet."""
        wanted = list(dict.fromkeys(runs))
        self.make_specialists(run.start for run in wanted if run.start is not None and not self.done(run))
        self.shop.do(title, [self.work(run) for run in wanted])

    def make_specialists(self, tasks: Iterable[str]) -> None:
        """Make the specialists of some tasks, where they are not there yet."""
        if wanted := dict.fromkeys(tasks):
            self.shop.do("specialists", [self.specialist(task) for task in wanted])

    def seconds(self, run: Run) -> float:
        """What a run took."""
        return float(self.work(run)[0].facts["seconds"])

    def compare(self, gains: Sequence[Gain], *, resamples: int = 1000) -> Bootstrap:
        """The scores of all runs of some gains, paired by rows. Systems are called as the runs are."""
        wanted = {(run, gain.task) for gain in gains for run in (gain.run, gain.beside)}
        found = {(run.name, task): measured_answers(self.work(run)[0], task) for run, task in sorted(wanted, key=str)}
        return Bootstrap.make(found, seed=self.shop.seed, resamples=resamples)

    def matrix(self, measure: str, gains: Sequence[Gain]) -> TaskMatrix:
        """What tasks gain, for those gains whose runs are made; NaN for the others. Higher is better, whatever the
        metric of a task; standard errors are those of a bootstrap over validation rows, paired."""
        tasks = list(self.start.data.tasks)
        values, errors = (np.full((len(tasks), len(tasks)), np.nan) for _ in range(2))
        known = [gain for gain in gains if self.done(gain.run) and self.done(gain.beside)]
        scores = self.compare(known)
        for gain in known:
            place = tasks.index(gain.source), tasks.index(gain.task)
            values[place] = scores.task_difference(gain.run.name, gain.beside.name, gain.task).value
            apart = scores.resampled[gain.run.name, gain.task] - scores.resampled[gain.beside.name, gain.task]
            errors[place] = float(np.nanstd(apart, ddof=1))
        taken = {run for gain in known for run in (gain.run, gain.beside)}
        return TaskMatrix(
            measure, tuple(tasks), tuple(tasks), values, errors, kind="measured",
            seconds=sum(map(self.seconds, taken)), seeds=(self.shop.seed,),
        )  # fmt: skip


def measure_transfer(
    runs: Runs, measure: str, *, estimates: TaskMatrix | None = None, minutes: float | None = None
) -> TaskMatrix:
    """What each task gains by each other one, by short trainings.

    measure: one of `MEASURES`. minutes: stop when this time is over, and spend it where it may still change which
    source is best for a target; None: measure all. estimates: of the same tasks, which say where to begin; what is
    measured already corrects them. Runs that an earlier call made are taken as they are.
    """
    tasks = list(runs.start.data.tasks)
    gains = gains_of(measure, tasks)
    if minutes is None:
        runs.make([run for gain in gains for run in (gain.beside, gain.run)], f"measuring {measure}")
        return runs.matrix(measure, gains)
    end = time.perf_counter() + 60 * minutes
    runs.make([gain.beside for gain in gains], f"measuring {measure}")
    expected = np.zeros((len(tasks), len(tasks))) if estimates is None else estimates.take(tasks, tasks).gains
    while time.perf_counter() < end:
        found = runs.matrix(measure, gains)
        worth = expected_improvement(expected, found.values)
        left = sorted((gain for gain in gains if not runs.done(gain.run)),
                      key=lambda gain: -worth[tasks.index(gain.source), tasks.index(gain.task)])  # fmt: skip
        if not left:
            break
        runs.make([gain.run for gain in left[: runs.shop.at_once]], f"measuring {measure}")
    return runs.matrix(measure, gains)
