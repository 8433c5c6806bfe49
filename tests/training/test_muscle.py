"""muscle: the masked distance by hand, rows of an old version that are held, and what it refuses."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models.language import save_model
from torch.nn import functional as F
from typer.testing import CliRunner

from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.evaluation.flips import flips_of
from allround.evaluation.predict import predict_split
from allround.models.base import load_encoder
from allround.models.encoders.small_table import SmallTable
from allround.models.fitting import fit_head
from allround.models.head import HeadState
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import SPLITS, Split, Task
from allround.training.settings import Settings
from allround.training.terms.muscle import Muscle
from allround.training.trainer import train

SETTINGS = Settings(epochs=12, batch_size=16, learning_rate=5e-3, keep="last", precision="fp32", device="cpu")


def test_the_masked_distance_by_hand() -> None:
    """Of three rows the model answers the second wrongly; the old version answers the first and second rightly. KL of
    (1/4, 3/4) from the model's (3/4, 1/4): 3/4 log 3 - 1/4 log 3 = .5493."""
    quarter = torch.tensor([3.0, 1.0]).log()
    logits = torch.stack([quarter, quarter, quarter.flip(0)])
    targets, old = torch.tensor([0, 1, 1]), torch.stack([quarter, quarter.flip(0), quarter])
    wrong, kept = Muscle(old="m"), Muscle(old="m", mask="kept")
    assert wrong.distance(logits, [old], targets).item() == pytest.approx(0.5493 / 3, abs=1e-4)
    assert kept.distance(logits, [old], targets).item() == pytest.approx(0.5493 / 3, abs=1e-4)
    # A new teacher has the rows outside the mask: the first and third, of which it differs in the third.
    new = torch.stack([quarter, quarter, quarter])
    assert wrong.distance(logits, [old, new], targets).item() == pytest.approx(2 * 0.5493 / 3, abs=1e-4)
    far = torch.tensor([[0.0, 4.0]])
    assert kept.distance(far, [far], torch.tensor([0])).item() == 0, "the old version is wrong there"
    pulled = logits.clone().requires_grad_()
    wrong.distance(pulled, [old], targets).backward()
    expected = (F.softmax(logits, 1) - F.softmax(old, 1)) / 3
    assert pulled.grad is not None and torch.allclose(pulled.grad[1], expected[1]) and not pulled.grad[[0, 2]].any()


def noisy(task: Task, share: float) -> Task:
    """A task with some of its training labels changed: a new version that unlearns something."""
    split = task.splits["train"]
    targets = np.array(split.targets)
    changed = np.random.default_rng(0).random(len(targets)) < share
    targets[changed] = (targets[changed] + 1) % len(task.definition.labels)
    return replace(task, splits={**task.splits, "train": Split(split.inputs, targets)}, table=None)


def test_fewer_rows_turn_from_right_to_wrong(small_table: SmallTable, table_suite: Suite, tmp_path: Path) -> None:
    task = next(one for one in table_suite.tasks.values() if one.definition.kind == "classification")
    model = MultiTaskModel(copy.deepcopy(small_table), {})
    model.add_task(task.definition, fit_head(model.encoder, task).state)
    train(model, [task], SETTINGS, seed=0)
    model.save(tmp_path / "old")
    before = predict_split(model, task, "train")
    lost = {}
    for name, terms in (("plain", []), ("held", [Muscle(old=str(tmp_path / "old"), weight=10.0, mask="kept")])):
        new = MultiTaskModel(copy.deepcopy(small_table), {})
        new.add_task(task.definition, fit_head(new.encoder, task).state)
        train(new, [noisy(task, 0.4)], SETTINGS, seed=1, terms=terms)
        found = flips_of(before, predict_split(new, task, "train"))
        assert found is not None
        lost[name] = found.lost
    assert lost["held"] < lost["plain"]


def test_what_cannot_teach_is_refused(small_table: SmallTable, table_suite: Suite, tmp_path: Path) -> None:
    task = next(one for one in table_suite.tasks.values() if one.definition.kind == "classification")
    model = MultiTaskModel(small_table, {task.name: task.definition})
    turned = replace(task.definition, labels=tuple(reversed(task.definition.labels)))
    MultiTaskModel(small_table, {task.name: turned}).save(tmp_path / "turned")
    with pytest.raises(AllroundError, match="its labels of"):
        Muscle(old=str(tmp_path / "turned")).before(model, [task])
    other = SmallTable(columns=small_table.columns[:1], width=4)
    MultiTaskModel(other, {task.name: task.definition}).save(tmp_path / "other")
    with pytest.raises(AllroundError, match="reads rows in another way"):
        Muscle(old=str(tmp_path / "other")).before(model, [task])


@pytest.mark.parametrize("loss", ["answer", "choices"])
def test_a_language_model_is_held_where_all_choices_are_trained(loss: str, tmp_path: Path) -> None:
    base = load_encoder(save_model(tmp_path / "base", "llama"))
    rows = [{"text": f"parcel {number}", "label": ("late", "lost")[number % 2]} for number in range(24)]
    task = make_task("mood", kind="classification", inputs="text", target="label", data=dict.fromkeys(SPLITS, rows),
                     prompt="{text}", loss=loss)  # fmt: skip
    model = MultiTaskModel(base, {})
    model.add_task(task.definition, HeadState({}, base.head(task.definition)))
    model.save(tmp_path / "old")
    held = Muscle(old=str(tmp_path / "old"), weight=100.0, mask="kept")
    if loss == "answer":
        with pytest.raises(AllroundError, match="loss: choices"):
            train(model, [noisy(task, 1.0)], SETTINGS, seed=0, terms=[held])
        return
    before = predict_split(model, task, "train")
    moved = {}
    for name, terms in (("plain", []), ("held", [held])):
        new = copy.deepcopy(model)
        train(new, [noisy(task, 1.0)], SETTINGS, seed=0, terms=terms)
        right = np.asarray(before.predictions) == task.splits["train"].targets
        after = predict_split(new, task, "train")
        assert before.scores is not None and after.scores is not None
        moved[name] = float(np.abs(np.asarray(after.scores) - np.asarray(before.scores))[right].mean())
    assert moved["held"] < 0.8 * moved["plain"]


def test_the_option_mitigate(tmp_path: Path) -> None:
    few = ["--limit", "train=40", "--limit", "validation=20", "--limit", "test=20", "--epochs", "1"]
    for name, more in (("old", []), ("new", ["--mitigate", str(tmp_path / "old")])):
        ran = CliRunner().invoke(app, ["tune", "digits", "parity", *few, *more, "--out", str(tmp_path / name)])
        assert ran.exit_code == 0, ran.output
    assert f"mitigate: {tmp_path / 'old'}" in (tmp_path / "new" / "config.yml").read_text()
