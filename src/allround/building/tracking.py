"""Experiment trackers: TensorBoard, MLflow and Weights & Biases, which accelerate speaks to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from allround.core.errors import AllroundError, suggestion
from allround.training.callback import Callback
from allround.training.course import Evaluation
from allround.training.processes import Processes

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

#: Trackers by name, with the module that each needs.
TRACKERS = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}
#: The folder of trackers in a run folder.
TRACKED = "track"
#: Steps between two of which the losses are written.
EVERY = 10


def check_trackers(names: Sequence[str]) -> None:
    """An error for a tracker that there is not, or that is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise AllroundError(f"track by '{name}'", "there is no such tracker", suggestion(name, TRACKERS))
        if find_spec(TRACKERS[name]) is None:
            package = {"mlflow": "mlflow-skinny"}.get(name, name)
            raise AllroundError(
                f"track by '{name}'",
                f"{TRACKERS[name]} is not installed",
                f"pip install {package} (or allround[track])",
            )


class Tracking(Callback):
    """Writes losses and scores to trackers: `TRAINING/validation/TASK`, `TRAINING/loss/TASK` and `test/SYSTEM/TASK`."""

    def __init__(self, trackers: Sequence[GeneralTracker]) -> None:
        self.trackers = list(trackers)
        self._steps: set[str] = set()

    def stepped(self, training: str, step: int, batches: int, losses: Mapping[str, float]) -> None:
        """The losses of every tenth step."""
        if step % EVERY == 0:
            self._log(training, {f"loss/{task}": loss for task, loss in losses.items()}, step)

    def evaluated(self, training: str, evaluation: Evaluation) -> None:
        """Scores and losses on validation rows, and mean losses in training since the evaluation before."""
        found = {f"validation/{task}": score for task, score in evaluation["scores"].items()}
        found |= {f"validation_loss/{task}": loss for task, loss in evaluation["losses"].items()}
        means = evaluation.get("training_losses", {})
        found |= {f"training_loss/{task}": loss for task, loss in means.items()}
        self._log(training, found, evaluation["step"])

    def scored(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        """The test scores of all systems."""
        self._log("test", {f"{system}/{task}": score for system, of in scores.items() for task, score in of.items()}, 0)

    def _log(self, training: str, values: Mapping[str, float], step: int) -> None:
        plain = {f"{training}/{name}".replace("+", "_"): float(value) for name, value in values.items()}
        for tracker in self.trackers:
            if tracker.name == "wandb":
                self._log_wandb(tracker, training.replace("+", "_"), plain, step)
            else:
                tracker.log(plain, step=step)

    def _log_wandb(self, tracker: GeneralTracker, training: str, values: Mapping[str, float], step: int) -> None:
        """With the step as one more value. A run of Weights & Biases has one count of steps, and drops what is logged
        below the highest; here each training counts from 0."""
        key = f"{training}/step"
        if key not in self._steps:
            self._steps.add(key)
            tracker.tracker.define_metric(f"{training}/*", step_metric=key)
        tracker.log({**values, key: step})


@contextlib.contextmanager
def tracking(names: Sequence[str], folder: Path, run: str, config: Mapping[str, object]) -> Iterator[list[Callback]]:
    """Callbacks that write to these trackers while the context lasts; none without names.

    folder: for what TensorBoard writes, and MLflow where MLFLOW_TRACKING_URI does not name another place. run: its
    name there. config: what was asked for, in plain values.
    """
    check_trackers(names)
    if not names:
        yield []
        return
    folder.mkdir(parents=True, exist_ok=True)
    Processes(cpu=True)  # trackers ask accelerate for its state, where no training has made it yet
    with contextlib.ExitStack() as stack:
        trackers = [_open(name, folder.resolve(), run) for name in names]
        for tracker in trackers:
            # One process speaks for all; accelerate need not find out which.
            tracker.main_process_only = False
            tracker.start()
            stack.callback(tracker.finish)
            if tracker.name != "tensorboard":
                tracker.store_init_configuration({name: str(value)[:250] for name, value in config.items()})
        yield [Tracking(trackers)]


def _open(name: str, folder: Path, run: str) -> GeneralTracker:
    from accelerate import tracking

    if name == "tensorboard":
        return tracking.TensorBoardTracker(run, folder / name)
    if name == "wandb":
        return tracking.WandBTracker("allround", name=run, dir=str(folder))
    import mlflow

    if "MLFLOW_TRACKING_URI" not in os.environ:
        # Newer versions ask whether a store of plain files is meant, which needs no database.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        mlflow.set_tracking_uri((folder / name).as_uri())
    return tracking.MLflowTracker("allround", run_name=run)
