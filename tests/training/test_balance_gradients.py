"""The numbers of balancers that look at gradients: those of the papers' definitions and of LibMTL's rules written out
again, or worked out by hand; and, where torchjd solves, that nothing was changed on the way to it and back."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, nnls
from torch import Tensor
from torchjd import aggregation as jd
from torchjd.linalg import QuadprogProjector

from allround.core import registry
from allround.core.entry import Entry
from allround.training.balancing import Outline, StepView, make_balancer, rescaled
from allround.training.gramians import gramian_of


def outline(tasks: int) -> Outline:
    return Outline(tuple("abcdefgh"[:tasks]), (2,) * tasks, (10,) * tasks)


def draw(seed: int, rows: int = 4, columns: int = 9) -> Tensor:
    made = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made * torch.linspace(0.5, 2, rows, dtype=torch.float64)[:, None]


def show(gradients: Tensor, losses: Tensor | None = None, tasks: list[int] | None = None) -> StepView:
    k = len(gradients)
    one = torch.ones(k, dtype=torch.float64)
    return StepView(
        torch.tensor(tasks if tasks is not None else range(k)),
        one if losses is None else losses,
        one,
        one,
        norms=gradients.double().norm(dim=1),
        gramian=(gradients @ gradients.T).double(),
        gradients=gradients,
    )


def step_of(name: str, gradients: Tensor, **settings: Any) -> Tensor:
    torch.manual_seed(0)
    return make_balancer(name, settings, outline(len(gradients))).weigh(show(gradients)) @ gradients


def expected(aggregator: jd.Aggregator, gradients: Tensor) -> Tensor:
    torch.manual_seed(0)
    return aggregator(gradients)


PREFERENCE = [0.5, 1.0, 2.0, 1.5]
WANTED = torch.tensor(PREFERENCE, dtype=torch.float64)
PAIRS: list[tuple[str, dict[str, Any], jd.Aggregator, float]] = [
    ("mgda", {}, jd.MGDA(epsilon=1e-5, max_iters=250), 1e-9),
    ("pcgrad", {}, jd.PCGrad(), 1e-9),
    ("gradvac", {}, jd.GradVac(), 1e-6),
    ("gradvac", {"decay": 0.1}, jd.GradVac(beta=0.1), 1e-6),
    ("cagrad", {}, jd.CAGrad(c=0.5), 1e-6),
    ("cagrad", {"c": 1.5}, jd.CAGrad(c=1.5), 1e-6),
    ("imtl_g", {}, jd.IMTLG(), 1e-4),
    ("aligned_mtl", {}, jd.AlignedMTL(), 1e-4),
    ("aligned_mtl", {"strength": "median"}, jd.AlignedMTL(scale_mode="median"), 1e-4),
    ("aligned_mtl", {"strength": "rmse"}, jd.AlignedMTL(scale_mode="rmse"), 1e-4),
    ("aligned_mtl", {"preference": PREFERENCE}, jd.AlignedMTL(WANTED / 4), 1e-4),
    ("upgrad", {"regularise": 1e-4}, jd.UPGrad(), 1e-9),
    ("upgrad", {}, jd.UPGrad(projector=QuadprogProjector(reg_eps=1e-6)), 1e-9),
    ("upgrad", {"preference": PREFERENCE}, jd.UPGrad(WANTED / 4, QuadprogProjector(reg_eps=1e-6)), 1e-9),
    ("dualproj", {"regularise": 1e-4}, jd.DualProj(), 1e-9),
    ("dualproj", {"preference": PREFERENCE}, jd.DualProj(WANTED / 4, QuadprogProjector(reg_eps=1e-6)), 1e-9),
    ("config", {}, jd.ConFIG(), 1e-9),
    ("config", {"preference": PREFERENCE}, jd.ConFIG(WANTED), 1e-9),
    ("fairgrad", {}, jd.FairGrad(alpha=1.0), 1e-4),
    ("fairgrad", {"fairness": 2.0}, jd.FairGrad(alpha=2.0), 1e-4),
    ("fairgrad", {"fairness": 0.0}, jd.FairGrad(alpha=0.0), 1e-9),
    ("nash_mtl", {}, jd.NashMTL(n_tasks=4), 1e-3),
]


@pytest.mark.filterwarnings("ignore::UserWarning:cvxpy", "ignore:You are solving a parameterized problem")
@pytest.mark.parametrize(
    ("name", "settings", "aggregator", "near"), PAIRS, ids=[f"{n}-{list(s.values())}" for n, s, *_ in PAIRS]
)
def test_weights_times_gradients_are_what_torchjd_gives(
    name: str, settings: dict[str, Any], aggregator: jd.Aggregator, near: float
) -> None:
    for seed, columns in ((0, 9), (1, 4), (2, 30)):
        gradients = draw(seed, columns=columns)
        if hasattr(aggregator, "reset"):
            aggregator.reset()
        found, wanted = step_of(name, gradients, **settings), expected(aggregator, gradients)
        assert torch.allclose(found, wanted, rtol=near, atol=near * float(wanted.norm())), (seed, found, wanted)


def test_dependent_gradients_are_as_in_torchjd() -> None:
    base = draw(0, rows=2)
    gradients = torch.stack([base[0], base[1], base[0] + base[1], 2 * base[0]])
    for name, settings, aggregator, near in PAIRS:
        if name in ("mgda", "imtl_g", "aligned_mtl", "config", "upgrad", "dualproj", "pcgrad"):
            found, wanted = step_of(name, gradients, **settings), expected(aggregator, gradients)
            near = max(near, 1e-4)
            assert torch.allclose(found, wanted, rtol=near, atol=near * float(wanted.norm())), name


def test_gradients_of_millions_of_weights_still_look_dependent() -> None:
    gradients = torch.randn(2, 3_000_000, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [0.3]])
    gradients = torch.cat([gradients + 0.5, (gradients + 0.5).sum(0, keepdim=True)])
    exact = gramian_of(gradients)
    wanted = (gradients.double() @ gradients.double().T).float()
    assert torch.allclose(exact.float(), wanted)
    assert float(torch.linalg.eigvalsh(exact)[0] / exact.trace()) < 1e-9
    # Three gradients in a plane, as two numbers each: what every balancer says of them is what it says of the plane.
    plane = torch.linalg.qr(gradients[:2].double().T)[1].T
    small = torch.cat([plane, plane.sum(0, keepdim=True)])
    for name in ("imtl_g", "config", "aligned_mtl", "upgrad", "dualproj", "nash_mtl", "mgda"):
        one = torch.ones(3, dtype=torch.float64)
        seen = StepView(torch.arange(3), one, one, one, gramian=exact)
        found = rescaled(make_balancer(name, {}, outline(3)).weigh(seen))
        near = rescaled(make_balancer(name, {}, outline(3)).weigh(show(small)))
        assert torch.allclose(found, near, atol=1e-2), name


@pytest.mark.parametrize(
    "entry", [e for e in registry.entries("balance") if "gramian" in e.needs], ids=lambda e: e.name
)
def test_a_gramian_that_rounding_has_spoilt_is_mended(entry: Entry) -> None:
    gramian = torch.tensor([[1.0, 1.0001], [1.0001, 1.0]], dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    weights = make_balancer(entry.name, {}, outline(2)).weigh(StepView(torch.arange(2), one, one, one, gramian=gramian))
    assert rescaled(weights).tolist() == pytest.approx([1.0, 1.0], rel=1e-2) or entry.name == "mgda"
    assert torch.isfinite(weights).all()


def test_graddrop_is_torchjds_in_stretches_too() -> None:
    gradients = draw(0).float()
    for leak in (0.0, 0.4):
        made = make_balancer("graddrop", {"leak": leak}, outline(4))
        torch.manual_seed(5)
        found = made.combine(show(gradients))
        torch.manual_seed(5)
        assert torch.equal(found, jd.GradDrop(leak=torch.full((4,), leak))(gradients))


def test_graddrop_keeps_the_sign_with_its_odds() -> None:
    gradients = torch.tensor([[3.0], [-1.0]]).repeat(1, 20_000)
    torch.manual_seed(0)
    found = make_balancer("graddrop", {}, outline(2)).combine(show(gradients))
    assert set(found.tolist()) == {3.0, -1.0}
    assert float((found > 0).float().mean()) == pytest.approx(0.75, abs=0.01)


# Definitions, written out for the gradients themselves: no Gramian, and other solvers.


def projected(vector: Tensor, gradients: Tensor) -> Tensor:
    """The nearest vector that goes against no gradient: what is added (Moreau) is the nearest point to -vector in the
    cone of the gradients, by non-negative least squares."""
    found, _ = nnls(gradients.T.numpy(), -vector.numpy())
    return vector + torch.from_numpy(found) @ gradients


def shortest(gradients: Tensor) -> Tensor:
    """The shortest vector in the hull of the gradients, by non-negative least squares: of all cones' points with
    coefficients about summing to 1, scaled so that they do."""
    rows = np.vstack([gradients.T.numpy(), np.ones(len(gradients))])
    found, _ = nnls(rows, np.append(np.zeros(gradients.shape[1]), 1.0))
    return torch.from_numpy(found / found.sum()) @ gradients


#: Gradients that are independent, that are more than their numbers, and that depend on each other.
SETS = [draw(0), draw(1, columns=3), draw(2, columns=30), draw(3, rows=2, columns=5), draw(4, rows=6, columns=4)]
SETS.append(torch.cat([draw(5, rows=2), -draw(5, rows=2).sum(0, keepdim=True), draw(6, rows=1)]))
CONFLICTS = [g for g in SETS if float((g @ g.T).min()) < 0]


@pytest.mark.parametrize("wanted", [(), PREFERENCE])
def test_upgrad_is_the_mean_of_projections(wanted: list[float]) -> None:
    for gradients in SETS:
        if wanted and len(gradients) != len(wanted):
            continue
        each = torch.stack([projected(g, gradients) for g in gradients])
        weights = torch.tensor(wanted or [1.0] * len(gradients), dtype=torch.float64) / len(gradients)
        assert float((gradients @ each.T).min()) > -1e-9, "the reference goes against no task"
        found = step_of("upgrad", gradients, preference=wanted)
        assert torch.allclose(found, weights @ each, atol=2e-3 * float(gradients.norm()))
    assert len(CONFLICTS) == len(SETS), "the test is about something"


@pytest.mark.parametrize("wanted", [(), PREFERENCE])
def test_dualproj_is_the_projection_of_the_mean(wanted: list[float]) -> None:
    moved = 0
    for gradients in SETS:
        if wanted and len(gradients) != len(wanted):
            continue
        mean = torch.tensor(wanted or [1.0] * len(gradients), dtype=torch.float64) @ gradients / len(gradients)
        expected = projected(mean, gradients)
        found = step_of("dualproj", gradients, preference=wanted)
        assert torch.allclose(found, expected, atol=2e-3 * float(gradients.norm()))
        moved += not torch.allclose(expected, mean)
    assert moved, "the test is about something"


@pytest.mark.parametrize("name", ["mgda", "mgda_ub"])
@pytest.mark.parametrize("normalise", ["none", "l2", "loss", "loss_plus"])
def test_mgda_is_the_shortest_vector_of_the_hull(name: str, normalise: str) -> None:
    for gradients in SETS:
        losses = torch.linspace(0.5, 3, len(gradients), dtype=torch.float64)
        norms = gradients.norm(dim=1)
        by = {"none": torch.ones_like(norms), "l2": norms, "loss": losses, "loss_plus": losses * norms}[normalise]
        expected = shortest(gradients / by[:, None])
        made = make_balancer(name, {"normalise": normalise, "iterations": 500}, outline(len(gradients)))
        found = made.weigh(show(gradients, losses)) @ gradients
        assert torch.allclose(found, expected, atol=0.02 * float((gradients / by[:, None]).norm(dim=1).max()))


def test_cagrad_is_the_dual_of_the_paper() -> None:
    """Algorithm 1: argmin over the simplex by another solver, and the step that belongs to it."""
    for gradients in SETS[:5]:
        count, mean = len(gradients), gradients.mean(0)

        def dual(weights: np.ndarray, gradients: Tensor = gradients, mean: Tensor = mean) -> float:
            combined = torch.from_numpy(weights) @ gradients
            return float(combined @ mean + 0.5 * mean.norm() * combined.norm())

        best = minimize(dual, np.full(count, 1 / count), bounds=[(0, 1)] * count, tol=1e-12,
                        constraints={"type": "eq", "fun": lambda w: w.sum() - 1})  # fmt: skip
        combined = torch.from_numpy(best.x) @ gradients
        expected = mean + 0.5 * mean.norm() / combined.norm() * combined
        assert torch.allclose(step_of("cagrad", gradients), expected, atol=5e-3 * float(gradients.norm()))


def test_cagrad_of_two_with_a_gradient_of_zero_follows_the_mean() -> None:
    """As the authors' code does, whose combined gradient of zero adds nothing to the mean."""
    for tiny in (0.0, 1e-9, 1e-5):
        gradients = draw(0, rows=2) * torch.tensor([[1.0], [tiny]], dtype=torch.float64)
        found = step_of("cagrad", gradients)
        assert torch.nn.functional.cosine_similarity(found, gradients.mean(0), dim=0) > 0.9999
        assert found.norm() >= gradients.mean(0).norm()


def test_config_is_the_papers_operator() -> None:
    """Equation 2, for the matrix of unit gradients: the direction by the pseudo-inverse, then the length."""
    for gradients in SETS[:4]:
        units = gradients / gradients.norm(dim=1, keepdim=True)
        direction = torch.linalg.pinv(units) @ torch.ones(len(units), dtype=torch.float64)
        direction = direction / direction.norm()
        expected = (gradients @ direction).sum() * direction
        assert torch.allclose(step_of("config", gradients), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("strength", ["min", "median", "rmse"])
def test_aligned_mtl_makes_singular_values_equal(strength: str) -> None:
    gradients = draw(3, rows=5)
    left, values, right = torch.linalg.svd(gradients, full_matrices=False)
    size = {"min": values[-1], "median": values[2], "rmse": (values**2).mean().sqrt()}[strength]
    found = step_of("aligned_mtl", gradients, strength=strength)
    assert torch.allclose(found, float(size) * (left @ right).mean(0), atol=1e-4)


def test_imtl_g_has_equal_projections() -> None:
    gradients = draw(3)
    step = step_of("imtl_g", gradients)
    cosines = gradients @ step / gradients.norm(dim=1)
    assert torch.allclose(cosines, cosines[0].expand(4), rtol=1e-3)
    weights = make_balancer("imtl_g", {}, outline(4)).weigh(show(gradients))
    assert float(weights.sum()) == pytest.approx(1.0)


# LibMTL's rules, from gradients, written out again.


def libmtl_pcgrad(gradients: Tensor, orders: list[list[int]]) -> Tensor:
    total = torch.zeros_like(gradients[0])
    for i, order in enumerate(orders):
        own = gradients[i].clone()
        for j in order:
            against = own @ gradients[j]
            if j != i and against < 0:
                own = own - against / gradients[j].norm() ** 2 * gradients[j]
        total += own
    return total


def test_pcgrad_of_two_is_libmtls() -> None:
    # Of two tasks there is only one order.
    for seed in range(4):
        gradients = draw(seed, rows=2, columns=3)
        assert torch.allclose(step_of("pcgrad", gradients), libmtl_pcgrad(gradients, [[1], [0]]))


def test_pcgrad_of_three_is_libmtls_in_one_of_the_orders() -> None:
    gradients = draw(11, rows=3, columns=3)
    ways = [
        libmtl_pcgrad(gradients, list(orders))
        for orders in itertools.product(*([[j for j in p if j != i] for p in ([0, 1, 2], [2, 1, 0])] for i in range(3)))
    ]
    found = set()
    for seed in range(20):
        torch.manual_seed(seed)
        step = make_balancer("pcgrad", {}, outline(3)).weigh(show(gradients)) @ gradients
        found.add(next(i for i, way in enumerate(ways) if torch.allclose(step, way)))
    assert len(found) > 1


def libmtl_gradvac(gradients: Tensor, cosines: Tensor, decay: float) -> Tensor:
    """Two tasks; changes the cosines."""
    total = torch.zeros_like(gradients[0])
    for i, j in ((0, 1), (1, 0)):
        own, other = gradients[i].clone(), gradients[j]
        q, m = float(own @ other / (own.norm() * other.norm())), float(cosines[i, j])
        if q < m:
            up = own.norm() * (m * (1 - q**2) ** 0.5 - q * (1 - m**2) ** 0.5) / (other.norm() * (1 - m**2) ** 0.5)
            own = own + up * other
        cosines[i, j] = (1 - decay) * m + decay * q
        total += own
    return total


def test_gradvac_remembers_the_pair_also_when_others_come_between() -> None:
    cosines = torch.zeros(2, 2, dtype=torch.float64)
    made = make_balancer("gradvac", {"decay": 0.3}, outline(3))
    for seed in range(6):
        gradients = draw(seed, rows=2, columns=3)
        step = made.weigh(show(gradients, tasks=[0, 2])) @ gradients
        assert torch.allclose(step, libmtl_gradvac(gradients, cosines, 0.3), atol=1e-6)
        made.weigh(show(draw(seed + 50, rows=1, columns=3), tasks=[1]))
    assert torch.allclose(made.state["cosines"][[0, 2], [2, 0]], cosines[[0, 1], [1, 0]], atol=1e-6)
    assert not made.state["cosines"][1].any()


@pytest.mark.parametrize("normalise", ["none", "l2", "loss", "loss_plus"])
def test_mgda_of_two_is_libmtls(normalise: str) -> None:
    losses = torch.tensor([0.5, 3.0], dtype=torch.float64)
    for seed in range(6):
        gradients = draw(seed, rows=2, columns=3)
        by = {"none": 1, "l2": gradients.norm(dim=1), "loss": losses, "loss_plus": losses * gradients.norm(dim=1)}
        scaled = gradients / torch.as_tensor(by[normalise]).expand(2)[:, None]
        one, both, two = scaled[0] @ scaled[0], scaled[0] @ scaled[1], scaled[1] @ scaled[1]
        # LibMTL's shortest point between two; it says 0.999 where the shorter end itself is meant.
        share = 1.0 if both >= one else 0.0 if both >= two else float((two - both) / (one + two - 2 * both))
        made = make_balancer("mgda", {"normalise": normalise}, outline(2))
        step = made.weigh(show(gradients, losses)) @ gradients
        assert torch.allclose(step, share * scaled[0] + (1 - share) * scaled[1], atol=1e-6)


def test_cagrad_serves_the_worst_task_best_within_its_ball() -> None:
    """By its definition: no step within the ball has a better worst inner product."""
    gradients = draw(4, rows=3, columns=4)
    mean = gradients.mean(0)
    step = step_of("cagrad", gradients, c=0.5)
    assert float((step - mean).norm()) == pytest.approx(0.5 * float(mean.norm()), rel=1e-4)
    worst = float((gradients @ step).min())
    others = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    within = mean + 0.5 * mean.norm() * others / others.norm(dim=1, keepdim=True)
    best = float((within @ gradients.T).min(1).values.max())
    assert best <= worst + 1e-6 and best == pytest.approx(worst, abs=0.05)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e6])
def test_nash_and_fair_solutions_hold_at_any_scale(scale: float) -> None:
    gradients = draw(2) * scale
    gramian = gradients @ gradients.T
    nash = make_balancer("nash_mtl", {"longest": 0.0}, outline(4)).weigh(show(gradients))
    assert torch.allclose(nash * (gramian @ nash), torch.ones(4, dtype=torch.float64), rtol=1e-4)
    fair = make_balancer("fairgrad", {"fairness": 2.0}, outline(4)).weigh(show(gradients))
    assert torch.allclose(gramian @ fair, fair**-0.5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nash_is_solved_where_torchjds_solver_is_not() -> None:
    gradients = draw(2)
    gradients = gradients / (gradients**2).sum(1).mean().sqrt()
    gramian = gradients @ gradients.T
    theirs = jd.NashMTL(n_tasks=4, max_norm=0.0).weighting(gradients)
    assert theirs.tolist() == [1.0] * 4 and not torch.allclose(theirs * (gramian @ theirs), torch.ones(4).double())
    ours = make_balancer("nash_mtl", {"longest": 0.0}, outline(4)).weigh(show(gradients))
    assert torch.allclose(ours * (gramian @ ours), torch.ones(4, dtype=torch.float64), rtol=1e-4)


def test_nash_keeps_its_weights_between_solutions_and_cuts_its_step() -> None:
    made = make_balancer("nash_mtl", {"every": 2, "longest": 0.5}, outline(4))
    weights = []
    for seed in range(4):
        gradients = draw(seed)
        gradients = gradients / (gradients**2).sum(1).mean().sqrt()
        weights.append(made.weigh(show(gradients)))
        assert float((weights[-1] @ gradients).norm()) == pytest.approx(0.5, rel=1e-6)
    ratios = [w / w.sum() for w in weights]
    assert torch.allclose(ratios[0], ratios[1]) and torch.allclose(ratios[2], ratios[3])
    assert not torch.allclose(ratios[1], ratios[2], rtol=1e-2)


def test_nash_solves_for_the_tasks_present() -> None:
    gradients = draw(2)[:2]
    made = make_balancer("nash_mtl", {"longest": 0.0}, outline(4))
    found = made.weigh(show(gradients, tasks=[1, 3]))
    wanted = make_balancer("nash_mtl", {"longest": 0.0}, outline(2)).weigh(show(gradients))
    assert torch.allclose(found, wanted)
    assert made.state["weights"][[0, 2]].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", ["gradvac", "fairgrad", "nash_mtl", "cagrad", "config"])
def test_a_gradient_of_zero_is_left_out(name: str) -> None:
    gradients = draw(1, rows=3)
    with_zero = torch.cat([torch.zeros_like(gradients[:1]), gradients])
    torch.manual_seed(0)
    settings = {"longest": 0.0} if name == "nash_mtl" else {}
    found = make_balancer(name, settings, outline(4)).weigh(show(with_zero))
    torch.manual_seed(0)
    made = make_balancer(name, settings, outline(3))
    wanted = made.weigh(show(gradients))
    if name == "fairgrad":
        # Scaled by another mean, and back.
        assert torch.allclose(found[1:], wanted, rtol=1e-3)
    else:
        ratio = found[1:] / wanted
        assert torch.allclose(ratio, ratio[0].expand(3), rtol=1e-2)
    assert float(found[0]) == pytest.approx(float(found[1:].abs().mean()))


# MT-AdamW by hand.


def test_mt_adamw_counts_how_often_a_task_comes() -> None:
    made = make_balancer("mt_adamw", {"weights": {"a": 3.0}}, outline(2))
    found = []
    for task, norm in ((0, 2.0), (1, 4.0), (0, 2.0), (0, 0.5)):
        gradients = torch.tensor([[norm, 0.0]])
        seen = show(gradients, tasks=[task])
        found.append(float(made.weigh(seen)))
        made.learn(seen)
    # weight / share / norm: shares 1/1, 1/2, 2/3, 3/4.
    assert found == pytest.approx([3 / 2, 2 / 4, 3 * 1.5 / 2, 3 * (4 / 3) / 0.5])


def test_mt_adamw_with_shares_and_a_running_norm() -> None:
    made = make_balancer("mt_adamw", {"shares": [0.5, 0.25], "decay": 0.75}, outline(2))
    found = []
    for norm in (2.0, 4.0, 4.0):
        seen = show(torch.tensor([[norm, 0.0]]), tasks=[1])
        found.append(float(made.weigh(seen)))
        made.learn(seen)
    # Norms 2; 0.75 * 2 + 0.25 * 4 = 2.5; 0.75 * 2.5 + 0.25 * 4 = 2.875; over the share 1/4.
    assert found == pytest.approx([4 / 2, 4 / 2.5, 4 / 2.875])
    assert made.early(0, 1.0, 0.0) == 2.0


def test_mt_adamw_makes_all_gradients_alike_in_expectation() -> None:
    """Tasks drawn at different rates with gradients of different sizes: their weighted lengths sum to the same."""
    made = make_balancer("mt_adamw", {}, outline(3))
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(3, dtype=torch.float64)
    for task in torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), 6000, True, generator=generator).tolist():
        norm = (0.1, 1.0, 30.0)[task]
        seen = show(torch.tensor([[norm, 0.0]]), tasks=[task])
        if made.state["steps"] >= 1000:
            total[task] += float(made.weigh(seen)) * norm
        made.learn(seen)
    assert torch.allclose(total / 5000, torch.ones(3, dtype=torch.float64), atol=0.1)
