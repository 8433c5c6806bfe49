"""Guards that change where a step goes: pinned by hand, and seen to keep what they promise."""

from __future__ import annotations

import copy

import pytest
import torch

from allround.continual.stream import renamed
from allround.core.errors import AllroundError
from allround.models.encoders.small_image import SmallImage
from allround.models.fitting import fit_head
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.term import followed, make_terms
from allround.training.terms.agem import Agem
from allround.training.trainer import train

QUICK = Settings(
    epochs=2, batch_size=16, learning_rate=3e-3, heads="tuned", keep="last", device="cpu", precision="fp32"
)


@pytest.fixture(scope="module")
def tasks(digits_suite: Suite) -> dict[str, Task]:
    """A task, one with the same labels in another order, and one with a head for numbers."""
    return {
        "digit": digits_suite["digit"],
        "ink": digits_suite["ink"],
        "again": renamed(digits_suite["digit"], "again"),
    }


@pytest.fixture(scope="module")
def model(tasks: dict[str, Task], small_image: SmallImage) -> MultiTaskModel:
    made = MultiTaskModel(copy.deepcopy(small_image), {})
    for task in tasks.values():
        made.add_task(task.definition, fit_head(made.encoder, task).state)
    return made.eval()


def with_gradients(model: MultiTaskModel, task: Task, sign: float) -> dict[str, torch.Tensor]:
    """Give a model the gradient of a task's loss on all of its rows, times a sign."""
    split = task.splits["train"]
    batch = model.collate(model.prepare(task.name, split.inputs), {task.name: range(len(split))},
                          {task.name: split.targets})  # fmt: skip
    parameters = followed(model, [task])
    found = torch.autograd.grad(model.losses(batch)[task.name].value, list(parameters.values()))
    for p, g in zip(parameters.values(), found, strict=True):
        p.grad = sign * g
    return {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}


def inner(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return sum(float((one[name].double() * other[name].double()).sum()) for name in one)


def test_agem_takes_out_what_raises_the_loss_on_remembered_rows(model: MultiTaskModel, tasks: dict[str, Task]) -> None:
    """Equation 11: with all remembered rows drawn, g' is orthogonal to their gradient r, and differs from g along r."""
    made, task, term = copy.deepcopy(model), tasks["digit"], Agem(rows=60)
    r = with_gradients(made, task, 1.0)
    g = {
        name: -0.5 * one + 0.01 * torch.randn(one.shape, generator=torch.Generator().manual_seed(0))
        for name, one in r.items()
    }
    for sign in (1.0, -1.0):
        term.remembered = [task]
        term.before(made, [task])
        for name, p in followed(made, [task]).items():
            p.grad = sign * g[name]
        term.edit(made)
        new = {name: p.grad for name, p in followed(made, [task]).items() if p.grad is not None}
        if sign * inner(g, r) > 0:
            assert all(torch.equal(new[name], sign * g[name]) for name in g), "a step that does no harm stays"
        else:
            assert abs(inner(new, r)) < 1e-5 * (inner(new, new) * inner(r, r)) ** 0.5
            along = inner(g, r) / inner(r, r)
            assert all(torch.allclose(new[name], sign * (g[name] - along * r[name]), atol=1e-6) for name in g)
    term.after(made)
    assert term.state == {}, "nothing but the rows is remembered"


def test_agem_without_remembered_rows_leaves_the_step(model: MultiTaskModel, tasks: dict[str, Task]) -> None:
    made, term = copy.deepcopy(model), Agem()
    before = with_gradients(made, tasks["digit"], -1.0)
    term.before(made, [tasks["digit"]])
    term.edit(made)
    assert all(
        torch.equal(p.grad, before[n]) for n, p in followed(made, [tasks["digit"]]).items() if p.grad is not None
    )


def test_guards_that_hold_weights_refuse_lora(model: MultiTaskModel, tasks: dict[str, Task]) -> None:
    lora = Settings(tune="lora", epochs=1, device="cpu", precision="fp32")
    with pytest.raises(AllroundError, match="holds weights from one training to the next"):
        train(copy.deepcopy(model), [tasks["digit"]], lora, terms=make_terms({"si": {}}))
