"""Callbacks and trackers: what a training tells while it runs, read back from where TensorBoard and MLflow keep it."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from allround.building import train
from allround.building.tracking import check_trackers, tracking
from allround.core.errors import AllroundError
from allround.core.progress import Progress
from allround.evaluation.scoreboard import Scoreboard
from allround.models.encoders.small_table import SmallTable
from allround.tasks.suite import Suite
from allround.training.callback import Callback
from allround.training.course import Course, Evaluation
from allround.training.settings import Settings


class Recorder(Callback):
    """Keeps all that it is told."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int, int]] = []
        self.steps: list[tuple[int, dict[str, float]]] = []
        self.evaluations: list[Evaluation] = []
        self.course: Course | None = None
        self.scores: dict[str, dict[str, float]] = {}

    def began(self, training: str, batches: int, done: int) -> None:
        self.begun.append((training, batches, done))

    def stepped(self, training: str, step: int, batches: int, losses: Mapping[str, float]) -> None:
        assert batches == 2, "a batch of each task"
        self.steps.append((step, dict(losses)))

    def evaluated(self, training: str, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)

    def ended(self, training: str, course: Course) -> None:
        self.course = course

    def scored(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        self.scores = {system: dict(of) for system, of in scores.items()}


@pytest.fixture(scope="module")
def trained(
    table_suite: Suite, small_table: SmallTable, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Recorder, Scoreboard]:
    folder = tmp_path_factory.mktemp("tracked")
    (folder / "base").mkdir()
    small_table.save(folder / "base")
    recorder = Recorder()
    settings = Settings(epochs=2, batch_size=8, mix="all", precision="fp32")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        board = train(table_suite, out=folder / "joint", base=folder / "base", settings=settings, seed=4,
                      progress=Progress(quiet=True), callbacks=[recorder], track=["tensorboard", "mlflow"])  # fmt: skip
    return folder, recorder, board


def test_a_callback_is_told_of_everything(trained: tuple[Path, Recorder, Scoreboard]) -> None:
    _, told, board = trained
    assert told.begun == [("joint", 2 * 2 * 10, 0)], "two tasks, two epochs, ten batches of eight rows"
    assert [step for step, _ in told.steps] == list(range(20))
    assert told.course is not None and told.course.evaluations == told.evaluations
    assert [one["step"] for one in told.evaluations] == [0, 10, 20]
    for task in ("species", "petal"):
        first = [losses[task] for _, losses in told.steps[:10]]
        assert told.evaluations[1]["training_losses"][task] == pytest.approx(sum(first) / 10)
        assert told.scores["tuned"][task] == board.cells["tuned"][task].score


def test_tensorboard_has_what_the_callback_was_told(trained: tuple[Path, Recorder, Scoreboard]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, told, _ = trained
    events = EventAccumulator(str(folder / "joint.track" / "tensorboard" / "joint"))
    events.Reload()
    found = [(e.step, e.value) for e in events.Scalars("joint/validation/species")]
    assert found == [(one["step"], pytest.approx(one["scores"]["species"])) for one in told.evaluations]
    losses = [(e.step, e.value) for e in events.Scalars("joint/loss/petal")]
    assert losses == [(step, pytest.approx(told.steps[step][1]["petal"])) for step in (0, 10)]
    (test,) = events.Scalars("test/tuned/petal")
    assert test.value == pytest.approx(told.scores["tuned"]["petal"])


def test_mlflow_has_it_too_with_the_settings(trained: tuple[Path, Recorder, Scoreboard]) -> None:
    from mlflow.tracking import MlflowClient

    folder, told, _ = trained
    client = MlflowClient((folder / "joint.track" / "mlflow").as_uri())
    (experiment,) = [one for one in client.search_experiments() if one.name == "allround"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "joint"
    assert (run.data.params["seed"], run.data.params["mix"]) == ("4", "all")
    history = client.get_metric_history(run.info.run_id, "joint/validation_loss/petal")
    assert [(m.step, m.value) for m in history] == [
        (one["step"], pytest.approx(one["losses"]["petal"])) for one in told.evaluations
    ]
    assert run.data.metrics["test/floor/species"] == told.scores["floor"]["species"]


def wandb_records(file: Path) -> list[Any]:
    """What Weights & Biases keeps for later: a head of 7 bytes, and records, here shorter than a block of 32 kB."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, found = file.read_bytes(), 7, []
    assert content[:4] == b":W&B" and len(content) < 1 << 15
    while place < len(content):
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        assert kind == 1, "a whole record"
        found.append(Record.FromString(content[place + 7 : place + 7 + length]))
        place += 7 + length
    return found


LOGGED = [
    {"joint/loss/a": 0.5, "joint/step": 0},
    {"joint/loss/a": 0.25, "joint/step": 10},
    {"alone_heads/loss/a": 0.75, "alone_heads/step": 0},
    {"alone_heads/loss/a": 0.375, "alone_heads/step": 10},
    {"test/joint/a": 0.875, "test/step": 0},
]


def test_wandb_keeps_every_value_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of a training that begins at step 0 again, and test scores, are not dropped."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if cores is not None:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    # On a busy machine its service at times loses what it is sent, whoever sends it; it is asked again then.
    for attempt in range(5):
        place = tmp_path / str(attempt)
        with tracking(["wandb"], place, "run", {"seed": 4}) as made:
            for training, loss in (("joint", 0.5), ("alone+heads", 0.75)):
                made[0].stepped(training, 0, 20, {"a": loss})
                made[0].stepped(training, 10, 20, {"a": loss / 2})
            made[0].scored({"joint": {"a": 0.875}})
        (file,) = (place / "wandb").glob("offline-run-*/run-*.wandb")
        records = wandb_records(file)
        found = [
            {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in one.history.item}
            for one in records if one.WhichOneof("record_type") == "history"
        ]  # fmt: skip
        logged = [{name: value for name, value in one.items() if not name.startswith("_")} for one in found]
        if logged == LOGGED:
            break
    if cores is not None:
        os.sched_setaffinity(0, cores)
    assert logged == LOGGED
    (run,) = [one.run for one in records if one.WhichOneof("record_type") == "run"]
    assert (run.project, run.display_name) == ("allround", "run")
    changed = [*run.config.update, *(item for one in records for item in one.config.update)]
    assert '"4"' in [item.value_json for item in changed if (item.key or item.nested_key[0]) == "seed"]


def test_trackers_start_before_any_training(tmp_path: Path) -> None:
    """As in a build, whose trainings are in other processes."""
    from accelerate import PartialState

    PartialState._reset_state()
    with tracking(["tensorboard"], tmp_path / "track", "run", {}) as made:
        made[0].scored({"joint": {"a": 0.5}})
    assert list((tmp_path / "track" / "tensorboard" / "run").glob("events*"))


def test_a_tracker_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AllroundError, match="did you mean 'mlflow'"):
        check_trackers(["mlfow"])
    monkeypatch.setattr("allround.building.tracking.find_spec", lambda name: None)
    with pytest.raises(AllroundError, match="pip install mlflow-skinny"):
        check_trackers(["mlflow"])
