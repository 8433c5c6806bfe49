"""Adding a task to a finished model: the answer, the gate, what is remembered, and what cannot be added."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from allround.building.add_task import add_task
from allround.building.adding import AddOptions
from allround.continual.addition import Addition, TriedWay, choose
from allround.continual.addition_report import answer, plain, sentences
from allround.continual.kept_rows import ABOUT, KeptRows
from allround.continual.learning import Learner
from allround.continual.stream import renamed
from allround.core.errors import AllroundError
from allround.core.progress import Progress
from allround.evaluation.calibration import fit
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import Predictions
from allround.models.calibration import KEY
from allround.models.encoders.small_image import SmallImage
from allround.models.fitting import fit_head
from allround.models.systems.multi_task_model import MultiTaskModel, open_model
from allround.tasks.definition import Definition
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training.settings import Settings

QUICK = Settings(epochs=1, batch_size=16, learning_rate=1e-3, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    """Digits with enough rows that a task which did not change can be told from one that did."""
    names = ["digit", "ink", "segments", "parity"]
    return dict(Suite.load("digits", only=names, limit={"train": 60, "validation": 60, "test": 60}).tasks)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, small_image: SmallImage, tasks: dict[str, Task]) -> Path:
    """A model of two tasks."""
    made = MultiTaskModel(copy.deepcopy(small_image), {})
    for name in ("digit", "ink"):
        made.add_task(tasks[name].definition, fit_head(made.encoder, tasks[name]).state)
    folder = tmp_path_factory.mktemp("given") / "model"
    fitted = fit(predict_split(made, tasks["digit"], "validation"), "temperature")
    assert fitted is not None
    made.facts = {KEY: {"digit": fitted.to_json()}}
    made.save(folder)
    return folder


def suite(tasks: dict[str, Task], *names: str) -> Suite:
    return Suite("mine", [tasks[name] for name in names])


def added(model: Path, new: Suite, out: Path, old: Suite | None = None, **more: Any) -> Addition:
    memory = more.pop("memory", None)
    options = AddOptions(**{"memory_bytes": 20_000, **more})
    return add_task(model, new, out=out, old=old, options=options, memory=memory, settings=QUICK, workers=1,
                    progress=Progress(quiet=True))  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model: Path, tasks: dict[str, Task]) -> tuple[Path, Addition]:
    """Every way tried, with the old data."""
    out = tmp_path_factory.mktemp("added") / "out"
    return out, added(model, suite(tasks, "segments"), out, suite(tasks, "digit", "ink"), try_all=True)


def test_every_way_is_tried_and_one_chosen(whole: tuple[Path, Addition], model: Path, tasks: dict[str, Task]) -> None:
    out, found = whole
    assert [one.name for one in found.tried] == [
        "head_only",
        "residual",
        "merge",
        "er",
        "lwf",
        "joint",
    ] and not found.left_out
    assert found.chosen is not None and found.written is not None and found.written.passed and found.tested is not None
    assert [one.task for one in found.tested.old] == ["digit", "ink"] and found.tested.rows == 60
    for one in found.tried:
        assert [each.task for each in one.gates] == ([] if one.exact else ["digit", "ink"])
    made = open_model(out / "best")
    assert list(made.definitions) == ["digit", "ink", "segments"]
    about = json.loads((out / "add-task.json").read_text())
    assert about["answer"] == answer(found) and about["passed"] and about["chosen"] == found.chosen
    assert answer(found) in (out / "add-task.md").read_text()
    assert "segments added to 2 tasks" in (out / "add-task.html").read_text()


def test_head_only_leaves_old_answers_to_the_bit(tmp_path: Path, model: Path, tasks: dict[str, Task]) -> None:
    """And stops there: the specialist of one short epoch is no better."""
    found = added(model, suite(tasks, "segments"), tmp_path / "out", reach=0.0)
    assert found.chosen == "head_only" and "rows" in found.old_rows
    assert found.left_out["merge"] == "head_only is good enough"
    before, after = open_model(model), open_model(tmp_path / "out" / "best")
    rows = tasks["digit"].splits["test"].inputs
    one, other = (made.answers("digit", rows, scores=True) for made in (before, after))
    assert one.scores is not None and other.scores is not None
    assert np.array_equal(np.asarray(one.scores), np.asarray(other.scores))
    assert "The answers of the 2 old tasks stay as they were, to the bit" in answer(found)
    assert after.calibration("digit") == before.calibration("digit") and after.calibration("segments") is not None


def test_modules_of_one_task_after_another(tmp_path: Path, model: Path, tasks: dict[str, Task]) -> None:
    """Two tasks with a LoRA each: whatever came before answers as it did, to the bit, alone and in mixed batches."""
    names, given = ["digit", "ink"], model
    for name in ("segments", "parity"):
        out = tmp_path / name
        found = added(given, suite(tasks, name), out, ways=["residual"])
        assert found.chosen == "residual" and found.tried[0].stored > 1000
        before, given = open_model(given), out / "best"
        after = open_model(given)
        rows = tasks["digit"].splits["test"].inputs
        for old in names:
            one, other = before.answers(old, rows), after.answers(old, rows)
            assert np.array_equal(np.asarray(one.predictions), np.asarray(other.predictions))
            assert np.array_equal(np.asarray(one.confidence), np.asarray(other.confidence))
        names.append(name)
        mixed = [names[row % len(names)] for row in range(8)]
        together = after.answer_mixed(mixed, rows[:8])
        for row, task in enumerate(mixed):
            alone = after.answers(task, rows[row : row + 1])
            assert np.allclose(np.asarray(together[row].predictions), np.asarray(alone.predictions), atol=1e-5)
    head = added(
        given, Suite("mine", [renamed(tasks["digit"], "again")]), tmp_path / "head", ways=["head_only"], memory_bytes=0
    )
    assert head.tried[0].stored < 2000, "it reads the encoder as it is, and has no modules of its own"


def test_without_old_rows_only_exact_ways_are_tried(tmp_path: Path, model: Path, tasks: dict[str, Task]) -> None:
    found = added(model, suite(tasks, "segments"), tmp_path / "out", try_all=True)
    assert [one.name for one in found.tried] == ["head_only", "residual"]
    assert found.left_out["er"] == (
        "old answers might change, and no rows of digit and ink are at hand to judge that by"
    )
    part = added(model, suite(tasks, "segments"), tmp_path / "part", suite(tasks, "digit"), try_all=True)
    assert "no rows of ink are at hand" in part.left_out["lwf"]


def test_a_way_that_does_harm_is_not_written(
    tmp_path: Path, model: Path, tasks: dict[str, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted fault: tuning that also ruins the encoder."""
    learn = Learner.learn

    def ruining(self: Learner, *args: Any, **more: Any) -> None:
        learn(self, *args, **more)
        with torch.no_grad():
            for value in self.model.encoder.parameters():
                value.normal_(0, 0.05)

    monkeypatch.setattr(Learner, "learn", ruining)
    given = suite(tasks, "segments"), tmp_path / "out", suite(tasks, "digit", "ink")
    found = added(model, *given, ways=["lwf", "er"])
    assert not found.passed and found.chosen is None and not (tmp_path / "out" / "best").exists()
    assert answer(found).startswith("segments was not added: none of lwf and er passes the gate")
    assert any("lwf does not pass: digit keeps" in line for line in sentences(found))
    forced = added(model, *given, ways=["lwf", "er"], write_anyway=True)
    assert forced.forced in ("lwf", "er") and not forced.passed and (tmp_path / "out" / "best").is_dir()
    with pytest.raises(AllroundError, match="it changed answers that it promised to leave"):
        added(model, suite(tasks, "segments"), tmp_path / "other", ways=["head_only"])


def test_the_sixth_task_goes_on_from_what_is_remembered(
    tmp_path: Path, whole: tuple[Path, Addition], tasks: dict[str, Task]
) -> None:
    out, _ = whole
    kept = KeptRows.load(out / "memory")
    assert set(kept.tasks) == {"digit", "ink", "segments"} and set(kept.tested) == set(kept.tasks)
    assert all(not len(task.splits["test"]) for task in kept.tasks.values())
    ways = {"ways": ["lwf", "er:bytes=5000", "joint"], "try_all": True, "write_anyway": True}
    first = added(out / "best", suite(tasks, "parity"), tmp_path / "one", **ways)
    assert (
        first.left_out["joint"].startswith("starting anew takes all rows")
        and "remembered from earlier" in first.old_rows
    )
    assert set(KeptRows.load(tmp_path / "one/memory").tasks) == {"digit", "ink", "segments", "parity"}
    shutil.copytree(out / "best", tmp_path / "moved")
    again = added(tmp_path / "moved", suite(tasks, "parity"), tmp_path / "two", memory=out / "memory", **ways)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one/best").rglob("*.safetensors"))
    assert files and all((tmp_path / "one" / p).read_bytes() == (tmp_path / "two" / p).read_bytes() for p in files)
    assert first.written is not None and again.written is not None and first.written.name == again.written.name


def test_a_killed_addition_goes_on(
    tmp_path: Path, whole: tuple[Path, Addition], model: Path, tasks: dict[str, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before every way once, by an error where a signal would end it."""
    learn, seen = Learner.learn, set[str]()

    def dying(self: Learner, arrival: Any, plan: Any, *args: Any, **more: Any) -> None:
        if str(plan) not in seen:
            seen.add(str(plan))
            raise KeyboardInterrupt
        learn(self, arrival, plan, *args, **more)

    monkeypatch.setattr(Learner, "learn", dying)
    for _ in range(10):
        try:
            found = added(model, suite(tasks, "segments"), tmp_path / "out", suite(tasks, "digit", "ink"), try_all=True)
            break
        except KeyboardInterrupt:
            assert not (tmp_path / "out" / "best").exists()
    assert len(seen) == 5, "of residual another class learns"
    out, before = whole
    assert found.chosen == before.chosen and [one.score for one in found.tried] == [one.score for one in before.tried]
    for path in (out / "best").rglob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "out" / path.relative_to(out)).read_bytes()


def test_the_budget_leaves_out_what_takes_too_long(tmp_path: Path, model: Path, tasks: dict[str, Task]) -> None:
    given = suite(tasks, "segments"), tmp_path / "out", suite(tasks, "digit", "ink")
    found = added(model, *given, budget=0.001, try_all=True)
    assert [one.name for one in found.tried] == [] or [one.name for one in found.tried] == ["head_only"]
    assert "of the budget is left" in found.left_out["joint"]
    again = added(model, *given, budget=0.001, try_all=True)
    assert again.left_out == found.left_out, "what was decided by the time is kept"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("name", "the model has a task 'digit' already"),
        ("labels", "the model has a task 'digit' already, with other labels"),
        ("rows", "that it would learn from are test rows of the old task 'digit', the first one: image"),
        ("several", "the suite has 2 tasks: segments and parity"),
        ("unknown", "the model knows none of its tasks: parity"),
    ],
)
def test_what_cannot_be_added_is_said_first(
    change: str, words: str, tmp_path: Path, model: Path, tasks: dict[str, Task]
) -> None:
    new, old = suite(tasks, "segments"), suite(tasks, "digit", "ink")
    if change == "name":
        new = suite(tasks, "digit")
    elif change == "labels":
        new = Suite("mine", [replace(tasks["parity"], definition=replace(tasks["parity"].definition, name="digit"))])
    elif change == "rows":
        parts = tasks["segments"].splits
        both = replace(parts["train"], inputs=[*tasks["digit"].splits["test"].inputs[:2], *parts["train"].inputs[2:]])
        new = Suite("mine", [replace(tasks["segments"], splits={**parts, "train": both})])
    elif change == "several":
        new = suite(tasks, "segments", "parity")
    else:
        old = suite(tasks, "parity")
    with pytest.raises(AllroundError, match=words):
        added(model, new, tmp_path / "out", old)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["missing", "changed", "listed", "gone"])
def test_a_damaged_memory_is_noticed(damage: str, tmp_path: Path, whole: tuple[Path, Addition]) -> None:
    shutil.copytree(whole[0] / "memory", tmp_path / "memory")
    rows = tmp_path / "memory" / "digit" / "train.arrow"
    if damage == "missing":
        rows.unlink()
    elif damage == "changed":
        rows.write_bytes(rows.read_bytes()[:-1] + b"!")
    elif damage == "listed":
        about = json.loads((tmp_path / "memory" / ABOUT).read_text())
        about["files"]["../x"] = about["files"].pop("digit/train.arrow")
        (tmp_path / "memory" / ABOUT).write_text(json.dumps(about))
    else:
        shutil.rmtree(tmp_path / "memory")
    with pytest.raises(AllroundError, match="read the remembered rows in"):
        KeptRows.load(tmp_path / "memory")


def test_kept_rows_stay_within_their_bytes(model: Path, tasks: dict[str, Task]) -> None:
    from allround.continual.rows import row_bytes

    kept = KeptRows().with_tasks([tasks["digit"], tasks["ink"]], open_model(model), 6_000, seed=0)
    size = sum(int(row_bytes(one.definition, one.splits[split]).sum())
               for one in kept.tasks.values() for split in ("train", "validation"))  # fmt: skip
    assert 3_000 < size <= 6_000 and len(set(map(int, kept.tasks["digit"].splits["train"].targets))) == 10
    assert kept.tested_by(tasks["digit"].splits["test"].inputs[:1])["digit"] == [0]


LABELS = Definition("mood", "classification", ("x",), "text", "accuracy", ("good", "bad"))


def way(name: str, right: int, *, passed: bool = True, retention: float = 1.0) -> TriedWay:
    """A way that answers so many of 100 rows rightly, the first ones."""
    said = np.array([0] * right + [1] * (100 - right))
    made = Predictions(LABELS, "validation", np.zeros(100, dtype=np.int64), said)
    return TriedWay(name, name, passed, right / 100, retention, [], () if passed else ("old",), 1.0, 0, made)


@pytest.mark.parametrize(
    ("tried", "wanted"),
    [
        ([way("a", 80), way("b", 81)], "a"),  # no difference found: the cheaper one
        ([way("a", 60), way("b", 95)], "b"),
        ([way("a", 80), way("b", 95, passed=False)], "a"),
        ([way("a", 80, retention=0.9), way("b", 81)], "b"),  # one reaches the specialist, the other does not
        ([way("a", 80, passed=False)], None),
        ([], None),
    ],
)
def test_the_cheapest_of_the_best_is_chosen(tried: Sequence[TriedWay], wanted: str | None) -> None:
    assert choose(tried, 0.98) == wanted


def test_an_addition_is_plain_data(whole: tuple[Path, Addition]) -> None:
    assert json.loads(json.dumps(plain(whole[1])))["test"]["old"][0]["task"] == "digit"
    with pytest.raises(AllroundError, match="--keep is 2"):
        AddOptions(keep=2)
