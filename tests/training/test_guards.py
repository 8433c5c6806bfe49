"""Terms that hold what was learned before: pinned by hand, and tried."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from allround.continual.features import row_features
from allround.models.encoders.small_image import SmallImage
from allround.models.fitting import fit_head
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.training.settings import Settings
from allround.training.terms.ewc import Ewc, fisher_diagonal
from allround.training.terms.lwf import Lwf
from allround.training.terms.si import Si
from allround.training.trainer import train

QUICK = Settings(
    epochs=3, batch_size=16, learning_rate=3e-3, heads="tuned", keep="last", device="cpu", precision="fp32"
)


@pytest.fixture(scope="module")
def model(digits_suite: Suite, small_image: SmallImage) -> MultiTaskModel:
    made = MultiTaskModel(copy.deepcopy(small_image), {})
    for name in ("digit", "ink"):
        task = digits_suite[name]
        made.add_task(task.definition, fit_head(made.encoder, task).state)
    return made.eval()


def test_fisher_of_a_linear_head_is_that_of_softmax_regression(model: MultiTaskModel, digits_suite: Suite) -> None:
    """By hand: the diagonal for weight (c, j) is the mean over rows of p_c (1 - p_c) f_j^2."""
    task = digits_suite["digit"]
    names = ["heads.digit.weight", "heads.digit.bias"]
    found = fisher_diagonal(model, [task], names, rows=1000, labels="exact")
    split = task.splits["train"]
    features = torch.from_numpy(row_features(model, "digit", split.inputs))
    chances = torch.as_tensor(np.asarray(model.answers("digit", split.inputs, scores=True).scores)).double()
    spread = chances * (1 - chances)
    assert torch.allclose(found[names[0]].double(), torch.einsum("nc,nj->cj", spread, features.square()) / len(split),
                          rtol=1e-3, atol=1e-9)  # fmt: skip
    assert torch.allclose(found[names[1]].double(), spread.mean(0), rtol=1e-3, atol=1e-9)
    true = fisher_diagonal(model, [task], names, rows=1000, labels="true")
    assert not torch.allclose(found[names[0]], true[names[0]], rtol=0.1)


def test_sampled_labels_give_the_exact_information_on_average(model: MultiTaskModel, digits_suite: Suite) -> None:
    task, names = digits_suite["digit"], ["heads.digit.bias"]
    exact = fisher_diagonal(model, [task], names, rows=60, labels="exact")[names[0]]
    drawn = [fisher_diagonal(model, [task], names, rows=60, labels="sampled", seed=n)[names[0]] for n in range(12)]
    assert float((torch.stack(drawn).mean(0) - exact).abs().max()) < 0.3 * float(exact.max())


def test_ewc_pulls_to_each_earlier_state_by_its_information(model: MultiTaskModel, digits_suite: Suite) -> None:
    """The gradient of the penalty is weight * sum over trainings of F_a (w - w_a), whatever is kept of them."""
    made, term, task = copy.deepcopy(model), Ewc(weight=3.0, relative=False, labels="true"), digits_suite["digit"]
    head = made.head("digit").weight
    wanted = torch.zeros_like(head)
    states = []
    for seed in range(2):
        term.before(made, [task])
        term.after(made)
        states.append(
            (fisher_diagonal(made, [task], ["heads.digit.weight"], rows=200, labels="true"), head.detach().clone())
        )
        with torch.no_grad():
            head += 0.1 * torch.randn(head.shape, generator=torch.Generator().manual_seed(seed))
    for fisher, before in states:
        wanted += 3.0 * fisher["heads.digit.weight"] * (head.detach() - before)
    penalty = term.penalty(made)
    assert penalty is not None
    (slope,) = torch.autograd.grad(penalty, head)
    assert torch.allclose(slope, wanted, rtol=1e-3, atol=1e-7) and float(slope.abs().max()) > 0
    assert Ewc().penalty(made) is None, "nothing is held before the first training"
    term = Ewc()
    term.before(made, [task])
    term.after(made)
    size = sum(parameter.numel() for parameter in made.parameters())
    assert sum(float(one.sum()) for one in term.state["fisher"].values()) / size == pytest.approx(1, rel=1e-4)


class OneWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, 2.0]))


def test_si_by_hand() -> None:
    """Two steps of SGD with rate 0.1 on gradients (1, 0) and (2, -1), then the penalty half a unit further."""
    net, term = OneWeight(), Si(weight=0.5, damping=0.1)
    term.before(net, [])  # type: ignore[arg-type]
    assert term.penalty(net) is None  # type: ignore[arg-type]
    for slope in ([1.0, 0.0], [2.0, -1.0]):
        net.w.grad = torch.tensor(slope)
        term.penalty(net)  # type: ignore[arg-type]
        with torch.no_grad():
            net.w -= 0.1 * net.w.grad
        term.stepped(net)  # type: ignore[arg-type]
    term.after(net)  # type: ignore[arg-type]
    # path: 0.1 * (1 + 4), 0.1 * 1; moved: 0.3 and 0.1
    importance = torch.tensor([0.5 / (0.09 + 0.1), 0.1 / (0.01 + 0.1)])
    assert torch.allclose(term.state["importance"]["w"], importance)
    with torch.no_grad():
        net.w += 0.5
    penalty = term.penalty(net)  # type: ignore[arg-type]
    assert penalty is not None and penalty.item() == pytest.approx(0.5 * 0.25 * float(importance.sum()))


def test_lwf_is_the_papers_distance() -> None:
    """By hand for one row: T^2 KL(softmax(old / T) || softmax(new / T)) with T = 2."""
    new, old = torch.tensor([[0.0, 2.0]]), torch.tensor([[2.0, 0.0]])
    p = torch.softmax(old / 2, 1)
    q = torch.softmax(new / 2, 1)
    wanted = 4 * float((p * (p / q).log()).sum())
    assert float(Lwf().distance(new, old)) == pytest.approx(wanted)
    assert float(Lwf().distance(old, old)) == pytest.approx(0, abs=1e-7)
    assert float(Lwf().distance(new, old, labels=False)) == 4.0
    grown = torch.tensor([[0.0, 2.0, 1.0]])
    r = torch.softmax(grown / 2, 1)[:, :2]
    assert float(Lwf().distance(grown, old)) == pytest.approx(4 * float((p * (p / r).log()).sum())), "over all labels"


@pytest.mark.parametrize(("term", "strength"), [(Ewc, 1e3), (Si, 1e6), (Lwf, 30.0)])
def test_guards_hold_old_answers(
    model: MultiTaskModel, digits_suite: Suite, term: type[Ewc | Si | Lwf], strength: float
) -> None:
    """Trained on digits, then on ink: old outputs move less with a guard than without."""
    digit, ink = digits_suite["digit"], digits_suite["ink"]
    rows = digit.splits["validation"].inputs
    moved = []
    for weight in (0.0, strength):
        made, guard = copy.deepcopy(model), term(weight=weight)
        train(made, [digit], QUICK, terms=[guard])
        before = made.outputs("digit", rows).logits
        train(made, [ink], QUICK, terms=[guard])
        moved.append(float((made.outputs("digit", rows).logits - before).square().mean()))
    assert moved[1] < 0.7 * moved[0], moved
