"""Guards that change where a step goes: pinned by hand, and seen to keep what they promise."""

from __future__ import annotations

import copy

import pytest
import torch

from allround.continual.features import row_features
from allround.continual.stream import renamed
from allround.core.errors import AllroundError
from allround.models.encoders.small_image import SmallImage
from allround.models.fitting import fit_head
from allround.models.model import Model
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.term import Term, followed, make_terms, padded
from allround.training.terms.agem import Agem
from allround.training.terms.ogd import Ogd, gradients_of_answers
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


def outputs_move(model: MultiTaskModel, task: Task, guard: Ogd | None, ink: Task) -> tuple[float, list[float]]:
    """Trained on a task, then on another one: how far outputs of the first one's labels moved, and the inner products
    of each step with the kept gradients, as shares of the norms."""
    made, terms = copy.deepcopy(model), [] if guard is None else [guard]
    train(made, [task], QUICK, terms=terms)
    before = made.outputs(task.name, task.splits["train"].inputs).logits
    kept = copy.deepcopy(guard.state["directions"]) if guard is not None else {}
    seen: list[float] = []

    class Watch(Term):
        def edit(self, model: Model) -> None:
            self.old = {name: p.detach().clone() for name, p in model.named_parameters()}

        def stepped(self, model: Model) -> None:
            step = {name: p.detach().double() - self.old[name].double() for name, p in model.shared().items()}
            length = sum(float(one.square().sum()) for one in step.values()) ** 0.5
            for row in range(len(next(iter(kept.values()), ()))):
                one = {name: kept[name][row].double() for name in step}
                norm = sum(float(part.square().sum()) for part in one.values()) ** 0.5
                seen.append(abs(inner(step, one)) / (length * norm))

    train(made, [ink], QUICK, terms=[*terms, Watch()])
    moved = made.outputs(task.name, task.splits["train"].inputs).logits - before
    return float(moved.gather(1, torch.as_tensor(task.splits["train"].targets)[:, None]).square().mean()), seen


@pytest.mark.parametrize(("optimiser", "rate"), [("adamw", 1e-3), ("sgd", 0.1)])
def test_steps_are_orthogonal_to_kept_gradients(
    model: MultiTaskModel, tasks: dict[str, Task], optimiser: str, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """<step, gradient> is almost nothing beside the norms, whatever the optimiser, and old answers move less. Weights
    of 32 bits are rounded after a step, which leaves some 3e-6; the test below has 64."""
    digit = tasks["digit"].limit({"train": 24})
    monkeypatch.setitem(globals(), "QUICK", QUICK.with_(optimiser=optimiser, warmup=0.0, learning_rate=rate))
    free, _ = outputs_move(model, digit, None, tasks["ink"])
    held, seen = outputs_move(model, digit, Ogd(directions=24), tasks["ink"])
    assert seen and max(seen) < 1e-5 and held < 0.5 * free, (max(seen), held, free)
    if optimiser == "adamw":  # a planted fault: the gradient is projected, and the step is left to the optimiser
        monkeypatch.setattr(Ogd, "edit", projected_gradient)
        monkeypatch.setattr(Ogd, "stepped", Term.stepped)
        assert max(outputs_move(model, digit, Ogd(directions=24), tasks["ink"])[1]) > 1e-3


def test_steps_are_orthogonal_to_1e_6(model: MultiTaskModel, tasks: dict[str, Task]) -> None:
    made, term, task = copy.deepcopy(model).double(), Ogd(), tasks["digit"]
    draw = torch.Generator().manual_seed(0)
    shapes = {name: p.shape for name, p in followed(made, [task]).items()}
    kept = {name: torch.randn(30, *shape, generator=draw) for name, shape in shapes.items()}
    term.state = {"directions": kept}
    term.before(made, [task])
    optimiser = torch.optim.AdamW(followed(made, [task]).values(), lr=1e-3, weight_decay=0.1)
    for _ in range(3):
        before = {name: p.detach().clone() for name, p in followed(made, [task]).items()}
        for p in followed(made, [task]).values():
            p.grad = torch.randn(p.shape, generator=draw).double()
        term.edit(made)
        optimiser.step()
        term.stepped(made)
        step = {name: p.detach() - before[name] for name, p in followed(made, [task]).items()}
        for row in range(30):
            one = {name: kept[name][row] for name in step}
            assert abs(inner(step, one)) < 1e-6 * (inner(step, step) * inner(one, one)) ** 0.5 and inner(step, step) > 0


def projected_gradient(self: Ogd, model: Model) -> None:
    if self._basis is not None:
        parameters = followed(model, self._tasks).values()
        flat = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])
        left = (flat - self._basis @ (self._basis.T @ flat)).split([p.numel() for p in parameters])
        for p, value in zip(parameters, left, strict=True):
            p.grad = value.view_as(p)


def test_what_ogd_keeps(model: MultiTaskModel, tasks: dict[str, Task]) -> None:
    """The gradient of a linear head's output c by its own weights is f in row c and 0 elsewhere (by hand); that by the
    encoder is the slope of the output, by differences."""
    task, made = tasks["digit"].limit({"train": 6}), copy.deepcopy(model)
    found = gradients_of_answers(made, task, followed(made, [task]), 6)
    split = task.splits["train"]
    features = torch.from_numpy(row_features(made, "digit", split.inputs)).float()
    wanted = torch.zeros(6, 10, features.shape[1])
    wanted[torch.arange(6), torch.as_tensor(split.targets)] = features
    assert torch.allclose(found["heads.digit.weight"], wanted, atol=1e-5)
    name, h = "encoder.layers.3.weight", 1e-4
    there = []
    for side in (h, -h):
        moved = copy.deepcopy(made)
        with torch.no_grad():
            dict(moved.named_parameters())[name][5] += side
        there.append(moved.outputs("digit", split.inputs).logits.gather(1, torch.as_tensor(split.targets)[:, None]))
    slope = (there[0] - there[1]).flatten() / (2 * h)
    assert torch.allclose(found[name][:, 5].flatten(1).sum(1), slope, rtol=1e-2, atol=4)


def test_principal_directions_hold_the_largest_changes(model: MultiTaskModel, tasks: dict[str, Task]) -> None:
    """Beside the singular vectors of the matrix of gradients; centred ones leave the mean gradient free."""
    made, task = copy.deepcopy(model), tasks["digit"]
    parameters = followed(made, [task])
    whole = {n: v.flatten(1) for n, v in gradients_of_answers(made, task, parameters, 20).items()}
    matrix = torch.cat(list(whole.values()), 1).double()
    covered = []
    for centred in (False, True):
        kept = Ogd(directions=3, sample=20, centred=centred).of_task(made, task, parameters)
        rows = torch.cat([kept[name].flatten(1) for name in whole], 1).double()
        right = torch.linalg.svd(matrix - matrix.mean(0) if centred else matrix, full_matrices=False).Vh[:3]
        assert torch.allclose((rows / rows.norm(dim=1, keepdim=True) * right).sum(1).abs(), torch.ones(3).double())
        covered.append(float((right @ matrix.mean(0)).norm() / matrix.mean(0).norm()))
    assert covered[1] < 0.9 * covered[0], covered


def test_kept_gradients_of_several_trainings_stand_side_by_side(model: MultiTaskModel, tasks: dict[str, Task]) -> None:
    """Gradients are padded with zeros for heads that are new or have grown."""
    made, term = copy.deepcopy(model), Ogd(directions=2)
    for names in (["digit"], ["ink"], ["digit", "again"]):
        some = [tasks[name] for name in names]
        term.before(made, some)
        term.after(made)
    kept = term.state["directions"]
    assert {len(value) for value in kept.values()} == {8}
    filled = {name: [bool(row.any()) for row in kept[f"heads.{name}.bias"]] for name in tasks}
    assert filled == {"digit": [True] * 2 + [False] * 2 + [True] * 2 + [False] * 2, "ink": [False] * 2 + [True] * 2
                      + [False] * 4, "again": [False] * 6 + [True] * 2}  # fmt: skip
    assert padded(torch.ones(2, 1), (2, 3)).tolist() == [[1, 0, 0]] * 2


def test_guards_that_hold_weights_refuse_lora(model: MultiTaskModel, tasks: dict[str, Task]) -> None:
    lora = Settings(tune="lora", epochs=1, device="cpu", precision="fp32")
    with pytest.raises(AllroundError, match="holds weights from one training to the next"):
        train(copy.deepcopy(model), [tasks["digit"]], lora, terms=make_terms({"si": {}}))
