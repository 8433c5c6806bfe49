"""Terms: what each hook may do, the terms that come with the package, and state that belongs to tasks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from allround.core import registry
from allround.core.errors import AllroundError
from allround.models.batch import Batch, Features
from allround.models.encoders.small_table import SmallTable
from allround.models.fitting import fit_head
from allround.models.model import Model
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training import trainer, unfinished
from allround.training.balancing import Balancer, Outline, make_balancer
from allround.training.settings import Settings
from allround.training.term import Term, make_terms
from allround.training.terms.l2_sp import L2Sp
from allround.training.trainer import train

SETTINGS = Settings(epochs=2, batch_size=16, learning_rate=3e-3, mix="all", keep="last", precision="fp32", device="cpu")


@pytest.fixture
def model(small_table: SmallTable, table_suite: Suite) -> MultiTaskModel:
    made = MultiTaskModel(copy.deepcopy(small_table), {})
    for task in table_suite.tasks.values():
        made.add_task(task.definition, fit_head(made.encoder, task).state)
    return made


def weights(model: Model) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return float(sum((one[n] - other[n]).square().sum() for n in one))


class Recorder(Term):
    """Writes down what is called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []
        self.seen: set[str] = set()

    def before(self, model: Model, tasks: Sequence[Task]) -> None:
        self.called.append("before")
        self.state["steps"] = {"": torch.zeros(())}

    def task_loss(self, model: Model, task: str, batch: Batch, features: Features | None) -> Tensor | None:
        assert task in batch.targets and batch.rows[task] == batch.targets[task].rows
        self.seen.add(task)
        return None

    def penalty(self, model: Model) -> Tensor | None:
        self.called.append("penalty")
        return None

    def edit(self, model: Model) -> None:
        self.called.append("edit")

    def stepped(self, model: Model) -> None:
        self.called.append("stepped")
        self.state["steps"][""] += 1

    def after(self, model: Model) -> None:
        self.called.append("after")


def test_hooks_are_called_in_their_order_and_change_nothing_by_themselves(
    model: MultiTaskModel, table_suite: Suite
) -> None:
    plain, tasks, term = copy.deepcopy(model), list(table_suite.tasks.values()), Recorder()
    train(plain, tasks, SETTINGS)
    course = train(model, tasks, SETTINGS, terms=[term])
    assert term.called == ["before", *(["penalty", "edit", "stepped"] * course.steps), "after"]
    assert term.seen == set(table_suite.tasks) and float(term.state["steps"][""]) == course.steps
    for name, value in weights(plain).items():
        assert torch.equal(value, weights(model)[name]), name


class Push(Term):
    """Adds what the user says to one task's loss."""

    def __init__(self, task: str, size: float) -> None:
        super().__init__()
        self.task, self.size = task, size

    def task_loss(self, model: Model, task: str, batch: Batch, features: Features | None) -> Tensor | None:
        return self.size * next(iter(model.shared().values())).sum() if task == self.task else None


class AsPenalty(Push):
    def task_loss(self, model: Model, task: str, batch: Batch, features: Features | None) -> Tensor | None:
        return None

    def penalty(self, model: Model) -> Tensor | None:
        return self.size * next(iter(model.shared().values())).sum()


class AsEdit(AsPenalty):
    def penalty(self, model: Model) -> Tensor | None:
        return None

    def edit(self, model: Model) -> None:
        grad = next(iter(model.shared().values())).grad
        assert grad is not None
        grad.add_(self.size)


@pytest.mark.parametrize("balance", ["equal", "cagrad"])
def test_a_loss_that_is_added_to_a_task_is_balanced_with_it(
    model: MultiTaskModel, table_suite: Suite, balance: str
) -> None:
    """With equal weights of k tasks, what is added to one task's loss counts 1 / k of what is added to the step's."""
    tasks = list(table_suite.tasks.values())
    settings = SETTINGS.with_(epochs=1, optimiser="sgd", learning_rate=1e-2, clip=1e9, balance=balance)
    made = {}
    for name, term in {
        "none": Term(),
        "task": Push(tasks[0].name, 3.0),
        "step": AsPenalty("", 3.0 / len(tasks)),
        "edit": AsEdit("", 3.0 / len(tasks)),
    }.items():
        one = copy.deepcopy(model)
        train(one, tasks, settings, terms=[term])
        made[name] = weights(one)
    assert distance(made["none"], made["task"]) > 1e-5
    assert distance(made["step"], made["edit"]) < 1e-9
    if balance == "equal":
        assert distance(made["task"], made["step"]) < 1e-9
    else:
        assert distance(made["task"], made["step"]) > 1e-6, "a balancer looks at the loss with what is added to it"


def test_l2_sp_is_the_papers_penalty(model: MultiTaskModel, table_suite: Suite) -> None:
    """alpha / 2 * |w - w0|^2 by hand: a shift of every shared weight by 0.5."""
    term = L2Sp(weight=0.4)
    term.before(model, [])
    before = term.penalty(model)
    assert before is not None and before.item() == 0.0
    with torch.no_grad():
        for p in model.shared().values():
            p.add_(0.5)
        for p in model.own(next(iter(table_suite.tasks))).values():
            p.add_(7.0)
    count = sum(p.numel() for p in model.shared().values())
    after = term.penalty(model)
    assert after is not None and after.item() == pytest.approx(0.4 / 2 * 0.25 * count, rel=1e-5)


def test_l2_sp_keeps_weights_near_their_start_and_does_not_end_below_it(
    model: MultiTaskModel, table_suite: Suite
) -> None:
    """On real rows at the default schedule of the encoder."""
    tasks, start = list(table_suite.tasks.values()), weights(model)
    far = {}
    for weight in (0.0, 0.01, 1.0):
        one = copy.deepcopy(model)
        settings = Settings(mix="all", keep="last", device="cpu", terms={"l2_sp": {"weight": weight}})
        course = train(one, tasks, settings)
        far[weight] = distance(start, weights(one))
        first, last = course.evaluations[0]["losses"], course.evaluations[-1]["losses"]
        assert sum(last.values()) < sum(first.values()), "training with the pull still learns"
    assert far[1.0] < 0.7 * far[0.0] and far[0.01] <= far[0.0] * 1.05


@pytest.mark.parametrize("name", registry.names("term"))
def test_terms_of_the_package_are_made_by_name_and_do_no_harm(
    name: str, model: MultiTaskModel, table_suite: Suite, tmp_path: Path
) -> None:
    if name == "candidate_scores":
        pytest.skip("for tasks that rank passages: tests/training/test_candidate_scores.py")
    tasks = list(table_suite.tasks.values())
    given: dict[str, Any] = {}
    model.save(tmp_path / "old")
    if name == "muscle":  # it needs an old version
        given = {"old": str(tmp_path / "old")}
    if name == "distillation":  # it needs a teacher
        given = {"teacher": str(tmp_path / "old"), "answers": 0.5}
    heads = "tuned" if name == "matryoshka" else "frozen"  # its heads are to read smaller vectors too
    course = train(model, tasks, Settings(mix="all", keep="last", device="cpu", heads=heads, terms={name: given}))
    assert course.skipped == 0
    first, last = course.evaluations[0]["losses"], course.evaluations[-1]["losses"]
    assert sum(last.values()) <= sum(first.values())


def test_a_term_goes_on_after_a_kill(
    model: MultiTaskModel, table_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = list(table_suite.tasks.values())
    settings = SETTINGS.with_(terms={"l2_sp": {"weight": 0.5}})
    whole, cut = copy.deepcopy(model), copy.deepcopy(model)
    train(whole, tasks, settings, scratch=tmp_path / "a")
    monkeypatch.setattr(unfinished, "SAVE_EVERY", 0.0)
    steps, before = [0], trainer.TrainingRun.one_step

    def dying(self: Any) -> None:
        steps[0] += 1
        if steps[0] == 5:
            raise KeyboardInterrupt
        before(self)

    monkeypatch.setattr(trainer.TrainingRun, "one_step", dying)
    (tmp_path / "b").mkdir()
    with pytest.raises(KeyboardInterrupt):
        train(cut, tasks, settings, scratch=tmp_path / "b")
    train(cut := copy.deepcopy(model), tasks, settings, scratch=tmp_path / "b")
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(cut)[name]), name
    steps[0] = 0
    with pytest.raises(KeyboardInterrupt):
        train(copy.deepcopy(model), tasks, settings, scratch=tmp_path / "b")
    with pytest.raises(AllroundError, match="go on with the training"):
        train(copy.deepcopy(model), tasks, settings.with_(terms={"l2_sp": {"weight": 0.1}}), scratch=tmp_path / "b")


def test_terms_are_named_and_checked_like_other_methods() -> None:
    assert [type(term) for term in make_terms({"l2_sp": {}})] == [L2Sp]
    with pytest.raises(AllroundError, match="l2_sp"):
        Settings(terms={"l2_ps": {}})
    with pytest.raises(AllroundError, match="weigth"):
        Settings(terms={"l2_sp": {"weigth": 1.0}})
    assert "terms" not in Settings().to_json() and Settings(terms={"l2_sp": {}}).to_json()["terms"] == {"l2_sp": {}}


class Remembers(Balancer):
    axes: ClassVar = {"pairs": (0, 1), "history": (1,), "worst": ()}


def outline(*names: str) -> Outline:
    return Outline(names, (2,) * len(names), (10,) * len(names))


def test_what_a_balancer_remembers_belongs_to_tasks() -> None:
    made = Remembers(outline("a", "b"))
    made.state = {
        "weights": torch.tensor([1.0, 2.0]),
        "pairs": torch.tensor([[1.0, 0.5], [0.25, 1.0]]),
        "history": torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
        "worst": torch.tensor([9.0, 8.0]),
    }
    kept = made.by_task()
    assert set(kept) == {"", "a", "b"} and float(kept["b"]["weights"]) == 2.0
    assert float(kept["b"]["pairs:a"]) == 0.25 and kept["a"]["history"].tolist() == [1.0, 3.0, 5.0]
    turned = Remembers(outline("b", "a"))
    turned.state = {"weights": torch.zeros(2), "pairs": torch.zeros(2, 2), "history": torch.zeros(0, 2)}
    turned.take(kept)
    assert turned.state["weights"].tolist() == [2.0, 1.0]
    assert turned.state["pairs"].tolist() == [[1.0, 0.25], [0.5, 1.0]]
    assert turned.state["history"].tolist() == [[2.0, 1.0], [4.0, 3.0], [6.0, 5.0]]
    assert turned.state["worst"].tolist() == [9.0, 8.0]


def test_tasks_arrive_and_leave() -> None:
    made = make_balancer("uw", {}, outline("a", "b"))
    made.state["log_variance"] = torch.tensor([0.5, -0.5], dtype=torch.float64)
    after = make_balancer("uw", {}, outline("b", "c"))
    after.take(made.by_task())
    assert after.state["log_variance"].tolist() == [-0.5, 0.0]


def test_what_a_new_task_cannot_begin_alone_begins_anew() -> None:
    made = Remembers(outline("a", "b"))
    made.state = {"moment": torch.tensor([1.0, 2.0]), "history": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
    after = Remembers(outline("b", "c"))
    after.state = {"history": torch.zeros(0, 2)}
    after.take(made.by_task())
    assert after.state["moment"].tolist() == [2.0, 0.0], "remembered only after some steps: zero for a new task"
    assert after.state["history"].shape == (0, 2), "a history that one task lacks begins anew for all"


@pytest.mark.parametrize("name", registry.names("balance"))
def test_every_balancers_state_goes_by_the_names_of_tasks(
    name: str, model: MultiTaskModel, table_suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some real steps: what is kept by name comes back as it was, and in another order of the tasks too."""
    made: list[Balancer] = []
    monkeypatch.setattr(trainer, "make_balancer", lambda *given: made.append(make_balancer(*given)) or made[-1])
    tasks = list(table_suite.tasks.values())
    train(model, tasks, SETTINGS.with_(balance=name, epochs=1))
    names = [task.name for task in tasks]
    for balancer in made:
        again = make_balancer(name, {}, outline(*names))
        again.take(balancer.by_task())
        assert balancer.state.keys() <= again.state.keys()
        for key, value in balancer.state.items():
            assert torch.allclose(again.state[key].to(value), value, rtol=0, atol=0, equal_nan=True), key
        turned = make_balancer(name, {}, outline(*names[::-1]))
        turned.take(balancer.by_task())
        back = make_balancer(name, {}, outline(*names))
        back.take(turned.by_task())
        for key, value in balancer.state.items():
            assert torch.allclose(back.state[key].to(value), value, rtol=0, atol=0, equal_nan=True), key
