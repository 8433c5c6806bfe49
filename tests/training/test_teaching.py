"""distillation: the distance by hand and as in the code of DSE, students near any teacher, what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from allround.core.errors import AllroundError
from allround.models.encoders.small_table import SmallTable
from allround.models.fitting import fit_head
from allround.models.likelihoods.bernoulli import Bernoulli
from allround.models.likelihoods.categorical import Categorical
from allround.models.likelihoods.gaussian import Gaussian
from allround.models.likelihoods.ordinal import Ordinal
from allround.models.systems.ensemble import Ensemble
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.tasks.task import Split, Task
from allround.training.settings import Settings
from allround.training.teaching import check_teacher, teach
from allround.training.terms.distillation import Distillation
from allround.training.trainer import train

SETTINGS = Settings(epochs=12, batch_size=16, learning_rate=5e-3, keep="last", precision="fp32", device="cpu")


def test_the_distance_is_that_of_dse() -> None:
    """dse_trainer.py: ((y_pred - distillation_logits) ** 2).sum(dim=1).mean(); of two labels y_pred is one logit, and
    dse_configurable_trainer.py makes the teacher's of the difference of its two."""
    generator = torch.Generator().manual_seed(0)
    term = Distillation(teacher="t")
    ours, taught = torch.randn(5, 2, generator=generator), torch.randn(5, 2, generator=generator)
    one, other = ours[:, 1:] - ours[:, :1], taught[:, 1:] - taught[:, :1]
    dse = ((one - other) ** 2).sum(dim=1).mean()
    assert term.distance(ours, taught, Categorical()).item() == pytest.approx(dse.item() / 2, rel=1e-5)
    assert term.distance(one, other, Gaussian()).item() == pytest.approx(dse.item() / 2, rel=1e-5)
    shifted = term.distance(ours + 7, taught, Categorical()).item()
    assert shifted == pytest.approx(dse.item() / 2, rel=1e-4), "a constant on all logits of a row changes no answer"
    assert term.distance(one, other, Bernoulli()).item() == pytest.approx(dse.item(), rel=1e-5), (
        "each label has a logit"
    )


def test_the_distance_by_probabilities() -> None:
    """Of (1/4, 3/4) from (3/4, 1/4): KL = 3/4 log 3 - 1/4 log 3 = .5493; at the temperature 2 of squared odds as much,
    times 4."""
    odds = torch.tensor([[3.0, 1.0]]).log()
    soft = Distillation(teacher="t", by="probabilities", temperature=1.0)
    assert soft.distance(odds, odds.flip(1), Categorical()).item() == pytest.approx(0.5493, abs=1e-4)
    warm = Distillation(teacher="t", by="probabilities", temperature=2.0)
    assert warm.distance(2 * odds, 2 * odds.flip(1), Categorical()).item() == pytest.approx(4 * 0.5493, abs=1e-3)
    # Two labels that are each there or not are as two choices of two, and so are the steps of a scale.
    both = torch.tensor([[3.0, 3.0]]).log()
    for rules, count in ((Bernoulli(), 2), (Ordinal(), 1)):
        found = soft.distance(both, -both, rules)
        logs, wanted = rules.log_probabilities(both), rules.log_probabilities(-both)
        assert logs is not None and wanted is not None
        by_hand = float((wanted.exp() * (wanted - logs)).sum())
        assert found.item() == pytest.approx(by_hand, abs=1e-5)
        assert logs.shape[1] == count


def fitted(encoder: SmallTable, tasks: list[Task]) -> MultiTaskModel:
    model = MultiTaskModel(copy.deepcopy(encoder), {})
    for task in tasks:
        model.add_task(task.definition, fit_head(model.encoder, task).state)
    return model


def without_labels(task: Task) -> Task:
    """The same rows, with targets that say nothing."""
    split = task.splits["train"]
    drawn = np.random.default_rng(0).permutation(np.array(split.targets))
    return replace(task, splits={**task.splits, "train": Split(split.inputs, drawn)}, table=None)


@pytest.mark.parametrize("by", ["outputs", "probabilities"])
def test_a_student_answers_as_its_teacher(by: str, small_table: SmallTable, table_suite: Suite, tmp_path: Path) -> None:
    tasks = [replace(task, table=None) for task in table_suite.tasks.values()]
    teacher = fitted(small_table, tasks)
    train(teacher, tasks, SETTINGS, seed=0)
    teacher.save(tmp_path / "teacher")
    student, plain = fitted(small_table, tasks), fitted(small_table, tasks)
    blind = [without_labels(task) for task in tasks]
    term = Distillation(teacher=str(tmp_path / "teacher"), by=by, temperature=1.0)  # type: ignore[arg-type]
    train(student, blind, SETTINGS.with_(heads="tuned"), seed=1, terms=[term])
    train(plain, blind, SETTINGS.with_(heads="tuned"), seed=1)
    assert not term.state, "nothing is left of the teacher"
    for task in tasks:
        rows = task.splits["test"].inputs
        wanted = teach(teacher, task.definition, rows).values
        near, far = (F.mse_loss(teach(one, task.definition, rows).values, wanted) for one in (student, plain))
        assert near < 0.3 * far, (task.name, near, far)


def test_labels_count_as_much_as_they_are_asked_to(small_table: SmallTable, table_suite: Suite, tmp_path: Path) -> None:
    """With the whole weight on labels the training is the one without a teacher."""
    task = replace(next(iter(table_suite.tasks.values())), table=None)
    fitted(small_table, [task]).save(tmp_path / "teacher")
    term = Distillation(teacher=str(tmp_path / "teacher"), answers=0.0)
    one, other = fitted(small_table, [task]), fitted(small_table, [task])
    few = SETTINGS.with_(epochs=2)
    train(one, [task], few, seed=0, terms=[term])
    train(other, [task], few, seed=0)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_several_teachers_and_systems_of_other_sorts(
    small_table: SmallTable, table_suite: Suite, tmp_path: Path
) -> None:
    """The mean of two teachers is learned; an ensemble teaches by its probabilities."""
    task = next(one for one in table_suite.tasks.values() if one.definition.kind == "classification")
    task = replace(task, table=None)
    models = [fitted(small_table, [task]) for _ in range(2)]
    with torch.no_grad():
        models[1].output_head(task.name).bias.add_(torch.arange(float(models[1].output_head(task.name).outputs)))
    folders = [tmp_path / str(number) for number in range(2)]
    for model, folder in zip(models, folders, strict=True):
        model.save(folder)
    rows = task.splits["train"].inputs
    term, student = Distillation(teacher=f"{folders[0]}, {folders[1]}"), fitted(small_table, [task])
    term.before(student, [task])
    mean = (teach(models[0], task.definition, rows).values + teach(models[1], task.definition, rows).values) / 2
    torch.testing.assert_close(term._rows(student, task.name).outputs.values, mean)
    both = teach(Ensemble(list(models)), task.definition, rows).values
    wanted = torch.stack([teach(one, task.definition, rows).values.softmax(1) for one in models]).mean(0).log()
    torch.testing.assert_close(both, wanted, atol=1e-4, rtol=1e-4)


def test_numbers_are_taught_in_the_units_of_the_student(small_table: SmallTable, table_suite: Suite) -> None:
    task = next(one for one in table_suite.tasks.values() if one.definition.kind == "regression")
    teacher = fitted(small_table, [task])
    own = task.definition
    other = replace(own, center=own.center + 3.0, scale=2 * own.scale)
    rows = task.splits["test"].inputs
    taught = teach(teacher, other, rows).values.squeeze(1).numpy() * other.scale + other.center
    np.testing.assert_allclose(taught, teacher.predict(task.name, list(rows)), rtol=1e-4)


def test_what_cannot_teach_is_refused(small_table: SmallTable, table_suite: Suite, tmp_path: Path) -> None:
    task = next(one for one in table_suite.tasks.values() if one.definition.kind == "classification")
    model = fitted(small_table, [task])
    model.save(tmp_path / "teacher")
    renamed = replace(task, definition=replace(task.definition, name="other"))
    with pytest.raises(AllroundError, match="none of the tasks in training"):
        Distillation(teacher=str(tmp_path / "teacher")).before(fitted(small_table, [renamed]), [renamed])
    for changes, words in (
        ({"labels": tuple(reversed(task.definition.labels))}, "labels there are others"),
        ({"kind": "multilabel"}, "of the kind classification"),
        ({"inputs": ("x",)}, "there it reads"),
    ):
        with pytest.raises(AllroundError, match=words):
            check_teacher(model, replace(task.definition, **changes), "t")  # type: ignore[arg-type]


def test_another_teacher_is_another_training(small_table: SmallTable, table_suite: Suite, tmp_path: Path) -> None:
    task = next(iter(table_suite.tasks.values()))
    model = fitted(small_table, [task])
    model.save(tmp_path / "teacher")
    first = Distillation(teacher=str(tmp_path / "teacher")).content
    assert Distillation(teacher=str(tmp_path / "teacher")).content == first
    with torch.no_grad():
        next(model.encoder.parameters()).add_(1.0)
    model.save(tmp_path / "teacher", force=True)
    assert Distillation(teacher=str(tmp_path / "teacher")).content != first
