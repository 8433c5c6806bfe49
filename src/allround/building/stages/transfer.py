"""Transfer as it really is: short trainings, and what each task gains by them over being trained alone."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from allround.building.jobs.transfer import measure_run, measured_answers
from allround.building.joint import specialist_settings
from allround.building.stages.heads import Start
from allround.building.stages.tuning import specialist_piece
from allround.building.workshop import Workshop
from allround.core.jobs import Job, call
from allround.core.pieces import Piece
from allround.core.seeds import seed_of
from allround.evaluation.intervals import Bootstrap
from allround.training.settings import Settings
from allround.transfer.matrix import TaskMatrix
from allround.transfer.measures import MEASURES, Run, find_measure, spread
from allround.transfer.spend import expected_improvement


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

    def matrix(self, measure: str, made: Sequence[Run], *, resamples: int = 1000) -> TaskMatrix:
        """What tasks gain, as far as runs that were made say it; NaN for other pairs. Higher is better, whatever the
        metric of a task. Standard errors are those of a bootstrap over validation rows, paired; where a line was fitted
        to the scores of runs, how far they scatter around it counts too."""
        tasks = list(self.start.data.tasks)
        values, errors = (np.full((len(tasks), len(tasks)), np.nan) for _ in range(2))
        gains = MEASURES[measure].gains(tasks, made)
        wanted = {(run, gain.task) for gain in gains for run in gain.factors}
        found = {(run.name, task): measured_answers(self.work(run)[0], task) for run, task in sorted(wanted, key=str)}
        scores = Bootstrap.make(found, seed=self.shop.seed, resamples=resamples)
        for gain in gains:
            place = tasks.index(gain.source), tasks.index(gain.task)
            keys, factors = [(run.name, gain.task) for run in gain.factors], np.array([*gain.factors.values()])
            points = np.array([scores.points[key] for key in keys])
            values[place] = (1 if scores.better[gain.task] == "higher" else -1) * factors @ points
            rows = float(np.nanstd(factors @ np.stack([scores.resampled[key] for key in keys]), ddof=1))
            trainings = 0.0 if gain.left is None else spread(gain.left, points) * float(np.linalg.norm(factors))
            errors[place] = np.hypot(rows, trainings)
        return TaskMatrix(
            measure, tuple(tasks), tuple(tasks), values, errors, kind="measured",
            seconds=sum(self.seconds(run) for run in {run for run, _ in wanted}), seeds=(self.shop.seed,),
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
    found, title = find_measure(measure, tasks), f"measuring {measure}"
    first, further = found.first(tasks), found.further(tasks, runs.shop.seed)
    if minutes is None:
        runs.make([*first, *further], title)
        return runs.matrix(measure, [*first, *further])
    end = time.perf_counter() + 60 * minutes
    runs.make(first, title)
    expected = np.zeros((len(tasks), len(tasks))) if estimates is None else estimates.take(tasks, tasks).gains
    while True:
        made = [*first, *filter(runs.done, further)]
        matrix = runs.matrix(measure, made)
        left = [run for run in further if run not in made]
        if not left or time.perf_counter() >= end:
            return matrix
        worth = expected_improvement(expected, matrix.values)
        places = {run: {(tasks.index(gain.source), tasks.index(gain.task))
                        for gain in found.gains(tasks, [*made, run])} for run in left}  # fmt: skip
        left.sort(key=lambda run: -sum(worth[place] for place in places[run]))
        runs.make(left[: runs.shop.at_once], title)
