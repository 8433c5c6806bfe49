"""distillation: its loss by hand, what teachers give, and that a smaller model learns answers and features."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from allround.core.errors import AllroundError
from allround.evaluation.predict import predict_split
from allround.models.batch import Batch, Features, Targets
from allround.models.encoders.small_image import SmallImage
from allround.models.fitting import fit_head
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.tasks.task import Split, Task
from allround.training.settings import Settings
from allround.training.teacher_rows import ask_teachers, read_teacher_rows, write_teacher_rows
from allround.training.teaching import Taught
from allround.training.terms.distillation import Distillation
from allround.training.trainer import train

SETTINGS = Settings(epochs=3, batch_size=16, learning_rate=1e-3, keep="last", precision="fp32", device="cpu",
                    heads="tuned")  # fmt: skip
#: As `shrink` has it.
SHRUNK = partial(Distillation, by="probabilities", features=1.0, others=1.0)


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    names = ["digit", "parity", "ink"]
    return list(Suite.load("digits", only=names, limit={"train": 90, "validation": 40, "test": 60}).tasks.values())


@pytest.fixture(scope="module")
def teacher(small_image: SmallImage, tasks: list[Task]) -> MultiTaskModel:
    made = MultiTaskModel(copy.deepcopy(small_image), {})
    for task in tasks:
        made.add_task(task.definition, fit_head(made.encoder, task).state)
    return made.eval()


@pytest.fixture(scope="module")
def folder(teacher: MultiTaskModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("teacher") / "model"
    teacher.save(place)
    return place


def copied(model: MultiTaskModel) -> MultiTaskModel:
    return copy.deepcopy(model)


def test_the_loss_by_hand(teacher: MultiTaskModel, tasks: list[Task], folder: Path) -> None:
    """Student and teacher have the same heads. (1 - w) loss + w D + features * mean square / mean square of f' + others
    * mean of the other heads' D, each computed here from the tensors."""
    student, digit = copied(teacher), tasks[0]
    term = SHRUNK(teacher=str(folder), answers=0.75, temperature=3.0, features=2.0, others=0.5)
    term.before(student, tasks)
    rows, split = [4, 1, 7], digit.splits["train"]
    targets = torch.tensor(np.asarray(split.targets)[rows])
    old = teacher.features(teacher.collate(
        teacher.prepare("digit", [split.inputs[n] for n in rows]), {"digit": range(3)})).values.detach()  # fmt: skip
    new = old + torch.linspace(-0.3, 0.4, old.numel()).reshape(old.shape)
    batch = Batch({}, 3, rows={"digit": (0, 1, 2)}, targets={"digit": Targets((0, 1, 2), targets)},
                  numbers={"digit": tuple(rows)})  # fmt: skip
    found = term.task_loss(student, "digit", batch, Features(new))
    every = ask_teachers(teacher, {}, [digit])["digit"].features.values  # type: ignore[union-attr]
    heads = {name: teacher.output_head(name) for name in ("digit", "parity", "ink")}
    logits = {name: (head(new), head(old)) for name, head in heads.items()}

    def divergence(name: str) -> torch.Tensor:
        one, other = logits[name]
        p, q = (torch.softmax(z / 3.0, 1) for z in (other, one))
        return 9.0 * (p * (p.log() - q.log())).sum(1).mean()

    ink = (logits["ink"][0] - logits["ink"][1]).square().mean() / 2
    expected = 0.75 * divergence("digit") + 2.0 * (new - old).square().mean() / every.square().mean()
    expected = expected + 0.5 * (divergence("parity") + ink) / 2
    assert found is not None and float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert term.own_loss("digit") == 0.25
    # Annealed: at the end the labels alone count.
    late = Distillation(teacher=str(folder), by="probabilities", anneal=True)
    late.before(student, tasks)
    shares = {}
    for progress in (0.0, 0.25, 1.0):
        late.progressed(progress)
        made = late.task_loss(student, "digit", batch, Features(new))
        assert made is not None and late.own_loss("digit") == pytest.approx(progress)
        shares[progress] = float(made.detach())
    assert shares[1.0] == pytest.approx(0.0, abs=1e-6) and shares[0.25] == pytest.approx(0.75 * shares[0.0], rel=1e-5)


def test_what_teachers_give_is_kept_and_read(teacher: MultiTaskModel, tasks: list[Task], tmp_path: Path) -> None:
    specialist = copied(teacher)
    with torch.no_grad():
        specialist.output_head("parity").weight.mul_(2.0)  # type: ignore[operator, union-attr]
    only = MultiTaskModel(specialist.encoder, {})
    only.add_task(tasks[1].definition, specialist.head("parity").stored())
    found = ask_teachers(teacher, {"one": only}, tasks)
    for task, model in zip(tasks, (teacher, only, teacher), strict=True):
        expected = model.outputs(task.name, task.splits["train"].inputs).logits
        assert torch.allclose(found[task.name].outputs.values, expected, atol=1e-4)
    write_teacher_rows(found, tmp_path)
    again = read_teacher_rows(tmp_path, tasks)
    for name, rows in found.items():
        assert torch.equal(again[name].outputs.values, rows.outputs.values) and not again[name].outputs.lengths
        assert torch.equal(again[name].features.values, rows.features.values)  # type: ignore[union-attr]
    few = replace(tasks[0], splits={**tasks[0].splits, "train": tasks[0].splits["train"].take(range(5))})
    with pytest.raises(AllroundError, match="answers to other rows"):
        read_teacher_rows(tmp_path, [few])
    other = MultiTaskModel(specialist.encoder, {})
    other.add_task(replace(tasks[1].definition, labels=("odd", "even", "none")))
    with pytest.raises(AllroundError, match="labels there are others"):
        ask_teachers(teacher, {"other": other}, tasks)


def test_features_of_words_are_found_by_their_row() -> None:
    rows = Taught(torch.arange(6.0)[:, None], (2, 0, 3, 1))
    assert rows.take([2, 0]).flatten().tolist() == [2.0, 3.0, 4.0, 0.0, 1.0] and rows.size == 4
    assert rows.take([3]).tolist() == [[5.0]] and rows.take([1]).tolist() == []


def test_what_is_read_trains_as_what_is_asked(
    teacher: MultiTaskModel, tasks: list[Task], folder: Path, tmp_path: Path
) -> None:
    """And batches know their rows: the same student comes of both."""
    write_teacher_rows(ask_teachers(teacher, {}, tasks), tmp_path)
    one, other = (MultiTaskModel(teacher.encoder.smaller({"channels.1": (0, 2, 4)}), {}) for _ in range(2))
    for student, taught in ((one, ""), (other, str(tmp_path))):
        for task in tasks:
            student.add_task(task.definition, teacher.head(task.name).stored())
        train(student, tasks, SETTINGS.with_(epochs=1), terms=[SHRUNK(teacher=str(folder), taught=taught)])
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def wrong_labels(task: Task) -> Task:
    """A task whose training labels say nothing."""
    split = task.splits["train"]
    drawn = np.random.default_rng(0).permutation(np.array(split.targets))
    return replace(task, splits={**task.splits, "train": Split(split.inputs, drawn)}, table=None)


def test_a_smaller_model_learns_without_labels(teacher: MultiTaskModel, tasks: list[Task], folder: Path) -> None:
    """With labels that say nothing it learns from the teacher's answers, and without the teacher nothing."""
    data, accuracy = [wrong_labels(task) for task in tasks[:2]], {}
    for name, terms in (("taught", [SHRUNK(teacher=str(folder))]), ("alone", [])):
        student = MultiTaskModel(teacher.encoder.smaller({"channels.1": (0, 2, 4, 6)}), {})
        for task in tasks:
            student.add_task(task.definition, teacher.head(task.name).stored())
        train(student, data, SETTINGS.with_(epochs=8), terms=terms)
        made = predict_split(student, tasks[0], "test")
        accuracy[name] = float(np.mean(np.asarray(made.predictions) == np.asarray(made.targets)))
    assert accuracy["taught"] > 0.65
    assert accuracy["alone"] < 0.5
