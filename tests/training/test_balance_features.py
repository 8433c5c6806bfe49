"""The numbers of balancers that look at features, against formulas written out with whole matrices, or by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from allround.core import registry
from allround.training.balancing import Balancer, Outline, StepView, make_balancer


def outline(tasks: int) -> Outline:
    return Outline(tuple("abcdefgh"[:tasks]), (2,) * tasks, (10,) * tasks)


def make(name: str, tasks: int = 3, **settings: Any) -> Balancer:
    return make_balancer(name, settings, outline(tasks))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def penalty_of(balancer: Balancer, features: list[Tensor], saliencies: list[Tensor]) -> float:
    found = balancer.penalty(features, saliencies)
    assert found is not None
    return float(found.detach())


@pytest.mark.parametrize("name", ["rep_mtl", "covariance"])
def test_weights_are_equal_and_one_task_has_no_penalty(name: str) -> None:
    one = torch.ones(3, dtype=torch.float64)
    assert make(name).weigh(StepView(torch.arange(3), one, one, one)).tolist() == [1.0, 1.0, 1.0]
    assert make(name).penalty([draw(4, 5)], [draw(4, 5)]) is None


def test_only_rep_mtl_asks_for_second_derivatives() -> None:
    asked = {entry.name for entry in registry.entries("balance") if entry.facts.get("second_order")}
    assert asked == {"rep_mtl"}


# Rep-MTL, with the d x d affinities that the paper has.


def regulation(saliencies: Tensor) -> float:
    """Equations 4 to 6 for (tasks, rows, d)."""
    sizes = saliencies.mean(2).abs()
    shares = sizes / sizes.sum(0)
    return float(-(shares * shares.log()).sum(0).mean())


def alignment(saliencies: Tensor, temperature: float) -> float:
    """Equations 7 to 9 for (tasks, rows, d), averaged over tasks."""
    tasks, rows, _ = saliencies.shape
    affinities = saliencies[..., :, None] * saliencies[..., None, :]
    anchors = []
    for b in range(rows):
        stacked = saliencies[:, b].T  # (d, tasks), as A_b
        anchors.append(stacked @ stacked.T)
    z_a = [a / a.norm() for a in anchors]
    total = 0.0
    for b in range(rows):
        negative = sum(math.exp(float((z_a[b] * z_a[k]).sum()) / temperature) for k in range(rows) if k != b)
        for t in range(tasks):
            z_t = affinities[t, b] / affinities[t, b].norm()
            total += -math.log(math.exp(float((z_a[b] * z_t).sum()) / temperature) / negative)
    return total / rows / tasks


def test_rep_mtl_is_the_papers_formula() -> None:
    features, saliencies = draw(4, 5), draw(3, 4, 5, seed=1)
    shown = [features] * 3, list(saliencies)
    assert penalty_of(make("rep_mtl", tsr=1.0, csa=0.0), *shown) == pytest.approx(regulation(saliencies))
    for temperature in (0.5, 0.1):
        found = penalty_of(make("rep_mtl", tsr=0.0, csa=1.0, temperature=temperature), *shown)
        assert found == pytest.approx(alignment(saliencies, temperature))
    both = penalty_of(make("rep_mtl", tsr=0.7, csa=1.3), *shown)
    assert both == pytest.approx(0.7 * regulation(saliencies) + 1.3 * alignment(saliencies, 0.5))


def test_rep_mtl_by_hand() -> None:
    # Rows (3, 1) and (0, 0), (2, 2): mean saliencies 2 and 0; 0 and 2: each row matters to one task alone.
    features = torch.eye(2)
    apart = [torch.tensor([[3.0, 1.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [2.0, 2.0]])]
    assert penalty_of(make("rep_mtl", 2, tsr=1.0, csa=0.0), [features] * 2, apart) == pytest.approx(0.0, abs=1e-6)
    alike = [torch.tensor([[3.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 3.0], [-1.0, -1.0]])]
    assert penalty_of(make("rep_mtl", 2, tsr=1.0, csa=0.0), [features] * 2, alike) == pytest.approx(math.log(2))


def test_rep_mtl_does_not_look_at_the_size_of_saliencies() -> None:
    features, saliencies = draw(4, 5), draw(3, 4, 5, seed=1)
    whole = penalty_of(make("rep_mtl"), [features] * 3, list(saliencies))
    for factor in (1e-8, 1e8):
        found = penalty_of(make("rep_mtl"), [features] * 3, list(saliencies * factor))
        assert found == pytest.approx(whole)


def test_rep_mtl_of_tasks_with_rows_of_their_own() -> None:
    # Means over rows: (2, 0) and (2, 1): shares of the first number 1/2, 1/2; of the second 0, 1.
    saliencies = [torch.tensor([[1.0, 1.0], [3.0, -1.0]]), torch.tensor([[2.0, 1.0]])]
    found = penalty_of(make("rep_mtl", 2, tsr=1.0, csa=5.0), [torch.eye(2), torch.ones(1, 2)], saliencies)
    assert found == pytest.approx(math.log(2) / 2, rel=1e-5)
    # As many rows, but others.
    other = [draw(2, 3), draw(2, 3, seed=1)]
    slopes = [draw(2, 3, seed=2), draw(2, 3, seed=3)]
    means = torch.stack([s.mean(0) for s in slopes])
    shares = means.abs() / means.abs().sum(0)
    wanted = float(-(shares * shares.log()).sum(0).mean())
    assert penalty_of(make("rep_mtl", 2, tsr=1.0, csa=5.0), other, slopes) == pytest.approx(wanted)


def test_rep_mtl_trains_an_encoder_through_second_derivatives() -> None:
    """Steps down the penalty alone lower it, and its gradient is the one that differences give."""
    torch.manual_seed(0)
    encoder, heads = nn.Linear(6, 4).double(), [nn.Linear(4, 1).double() for _ in range(2)]
    rows, targets = draw(8, 6), draw(2, 8, 1, seed=1)
    made = make("rep_mtl", 2, tsr=1.0, csa=1.0)

    def penalty() -> Tensor:
        features = torch.tanh(encoder(rows))
        losses = [((h(features) - t) ** 2).mean() for h, t in zip(heads, targets, strict=True)]
        slopes = [torch.autograd.grad(loss, features, create_graph=True)[0] for loss in losses]
        found = made.penalty([features] * 2, slopes)
        assert found is not None
        return found

    first = penalty()
    (gradient,) = torch.autograd.grad(first, [encoder.weight])
    with torch.no_grad():
        encoder.weight[1, 2] += 1e-6
    assert float((penalty() - first).detach()) / 1e-6 == pytest.approx(float(gradient[1, 2]), rel=1e-3)
    for _ in range(30):
        (gradient,) = torch.autograd.grad(penalty(), [encoder.weight])
        with torch.no_grad():
            encoder.weight -= 0.05 * gradient
    assert float(penalty().detach()) < float(first.detach()) - 0.01


# Covariance alignment.


def score(one: Tensor, other: Tensor, kept: float) -> float:
    """Equation 5 with the eigenvectors of the covariances."""
    roots = []
    for rows in (one, other):
        values, vectors = torch.linalg.eigh(rows.T @ rows)
        values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
        sizes = values.sqrt()
        rank = 1 + int((sizes.cumsum(0) / sizes.sum() < kept - 1e-6).sum())
        roots.append(vectors[:, :rank] * sizes[:rank])
    a, b = roots
    return float((a.T @ b).norm() / (a.norm() * b.norm()))


@pytest.mark.parametrize("kept", [0.99, 0.7, 1.0])
def test_covariance_is_one_minus_the_papers_score(kept: float) -> None:
    features = [draw(6, 4), draw(9, 4, seed=1) * torch.tensor([3.0, 1.0, 0.3, 0.01]), draw(3, 4, seed=2)]
    pairs = [(0, 1), (0, 2), (1, 2)]
    plain = sum(score(features[t], features[u], kept) for t, u in pairs) / 3
    made = make("covariance", strength=2.0, kept=kept, relative=False)
    assert penalty_of(made, features, []) == pytest.approx(2 * (1 - plain))
    own = [score(f, f, kept) for f in features]
    relative = sum(score(features[t], features[u], kept) / (own[t] * own[u]) ** 0.5 for t, u in pairs) / 3
    assert penalty_of(make("covariance", strength=2.0, kept=kept), features, []) == pytest.approx(2 * (1 - relative))


def test_covariance_of_features_that_spread_alike() -> None:
    features = draw(6, 4)
    turned = torch.linalg.qr(draw(6, 6, seed=1))[0] @ features  # other rows, the same covariance
    assert penalty_of(make("covariance", strength=1.0), [features, 5 * turned], []) == pytest.approx(0, abs=1e-6)
    # The plain score is not 1 there: it would be for features on one line only.
    assert penalty_of(make("covariance", strength=1.0, relative=False), [features, turned], []) > 0.2
    line = draw(6, 1) @ draw(1, 4, seed=3)
    assert penalty_of(make("covariance", strength=1.0, relative=False), [line, line], []) == pytest.approx(0, abs=1e-6)
    crossed = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])]
    assert penalty_of(make("covariance", strength=1.0), crossed, []) == pytest.approx(1.0, abs=1e-5)


def test_covariance_trains_an_encoder_to_align() -> None:
    torch.manual_seed(0)
    encoder = nn.Linear(4, 4, bias=False).double()
    one, other = draw(20, 4) * torch.tensor([3.0, 1, 1, 0.1]), draw(20, 4, seed=1) * torch.tensor([0.1, 1, 1, 3])
    made = make("covariance", 2, strength=1.0, kept=1.0)

    def penalty() -> Tensor:
        found = made.penalty([encoder(one), encoder(other)], [])
        assert found is not None
        return found

    first = penalty()
    (gradient,) = torch.autograd.grad(first, [encoder.weight])
    with torch.no_grad():
        encoder.weight[1, 2] += 1e-6
    assert float((penalty() - first).detach()) / 1e-6 == pytest.approx(float(gradient[1, 2]), rel=1e-3)
    for _ in range(50):
        (gradient,) = torch.autograd.grad(penalty(), [encoder.weight])
        with torch.no_grad():
            encoder.weight -= 0.5 * gradient
    assert float(penalty().detach()) < 0.5 * float(first.detach())


def test_features_of_zeros_have_no_covariance() -> None:
    made = make("covariance")
    assert made.penalty([torch.zeros(3, 4), draw(3, 4)], []) is None
    three = made.penalty([torch.zeros(3, 4).double(), draw(3, 4), draw(5, 4, seed=1)], [])
    two = made.penalty([draw(3, 4), draw(5, 4, seed=1)], [])
    assert three is not None and two is not None and float(three) == float(two)
