"""Balancers that weigh losses: each against torchjd, or against its authors' or LibMTL's formula written anew here."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchjd.aggregation import ExcessMTLWeighting
from torchjd.scalarization import DWA, FAMO, IMTLL, STCH, UW, GeometricMean, Scalarizer

from allround.core import registry
from allround.core.entry import Entry
from allround.core.errors import AllroundError
from allround.training.balancing import Balancer, Outline, StepView, make_balancer, rescaled

OUTLINE = Outline(("a", "b", "c"), (2, 4, 1), (100, 30, 10), steps=40, epoch=10)
#: Each with the settings that the shared checks run it with.
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("autolambda", {}),
    ("coba", {}),
    ("coba", {"rule": "code"}),
    ("coba", {"rule": "selfpaced"}),
    ("dwa", {}),
    ("excess", {}),
    ("famo", {}),
    ("fixed", {"weights": [1.0, 2.0, 0.5]}),
    ("focal", {}),
    ("gls", {}),
    ("gradnorm", {"rate": 0.1}),
    ("imtl_l", {}),
    ("muppet", {}),
    ("normalised", {}),
    ("normalised", {"by": "token"}),
    ("rlw", {}),
    ("stch", {}),
    ("stch", {"scale": "loss", "mu": 0.01}),
    ("uw", {}),
]
KNOWN_BEFORE = {"autolambda", "coba", "dwa", "excess", "fixed", "gradnorm", "imtl_l", "muppet", "rlw", "uw"}
ONE_BY_ONE = {"autolambda", "coba", "dwa", "famo", "fixed", "focal", "gls", "gradnorm", "imtl_l", "muppet",
              "rlw", "uw"}  # fmt: skip


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def shown(losses: Tensor, *, tasks: list[int] | None = None, gradients: Tensor | None = None, progress: float = 0.5,
          norms: Tensor | None = None, validation: Tensor | None = None) -> StepView:  # fmt: skip
    """A step with these losses; what is not given is made up from them."""
    k = len(losses)
    if gradients is None:
        gradients = torch.arange(1, 4 * k + 1, dtype=torch.float32).view(k, 4) / 10
    return StepView(
        torch.tensor(tasks or list(range(k))), losses, numbers(*[8.0] * k), numbers(*[8.0, 80.0, 16.0][:k]),
        norms=gradients.norm(dim=1).double() if norms is None else norms, gradients=gradients,
        validation=numbers(*[0.3, -0.1, 0.2][:k]) if validation is None else validation, progress=progress,
    )  # fmt: skip


def by_torchjd(scalarizer: Scalarizer, losses: Tensor) -> Tensor:
    """The slope of a scalarised loss in each of the losses."""
    losses = losses.clone().requires_grad_()
    (slope,) = torch.autograd.grad(scalarizer(losses), losses)
    return slope


def falling(steps: int, k: int = 3, seed: int = 0) -> list[Tensor]:
    """Losses of some steps, at different speeds and with noise."""
    draw = torch.Generator().manual_seed(seed)
    noise = torch.rand(steps, k, generator=draw, dtype=torch.float64)
    return [numbers(*[(t + 1) * math.exp(-0.1 * (t + 1) * s) for t in range(k)]) * (0.7 + 0.6 * noise[s])
            for s in range(steps)]  # fmt: skip


def close(one: Tensor, other: Tensor, rtol: float = 1e-6) -> None:
    torch.testing.assert_close(one.double(), other.detach().double(), rtol=rtol, atol=1e-12)


# -- pinned numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "scalarizer"), [("uw", UW(3)), ("imtl_l", IMTLL(3))])
def test_learned_scales_as_torchjd_and_adam(name: str, scalarizer: Any) -> None:
    scalarizer = copy.deepcopy(scalarizer).double()
    adam = torch.optim.Adam(scalarizer.parameters(), lr=0.05)
    made = make_balancer(name, {"rate": 0.05}, OUTLINE)
    for losses in falling(12):
        close(made.weigh(shown(losses)), by_torchjd(scalarizer, losses))
        adam.zero_grad()
        scalarizer(losses).backward()
        adam.step()
        made.learn(shown(losses))
    assert made.weigh(shown(losses)).std() > 0.1


def test_dwa_as_torchjd() -> None:
    made, peer = make_balancer("dwa", {"temperature": 0.5}, OUTLINE), DWA(temperature=0.5)
    made.evaluated(torch.ones(3))  # the evaluation before the first step ends no epoch
    for step, losses in enumerate(falling(20)):
        close(made.weigh(shown(losses)), by_torchjd(peer, losses))
        made.learn(shown(losses))
        if step % 4 == 3:
            made.evaluated(torch.ones(3))
            peer.step()
    assert made.weigh(shown(losses)).std() > 0.01


def test_famo_as_torchjd() -> None:
    lower = [0.1, 0.0, 0.2]
    made = make_balancer("famo", {"rate": 0.1, "decay": 0.01, "lower": lower}, OUTLINE)
    peer = FAMO(3, numbers(*lower), lr=0.1, weight_decay=0.01).double()
    for before, after in zip(falling(10), falling(10, seed=1), strict=True):
        before, after = before + 0.3, after + 0.3
        expected = by_torchjd(peer, before)
        close(made.weigh(shown(before)), expected)
        peer.update(after)
        made.stepped(shown(before), after)
    assert made.state["logits"].std() > 0.05


def test_gls_as_torchjd() -> None:
    for losses in falling(3):
        close(make_balancer("gls", {}, OUTLINE).weigh(shown(losses)), by_torchjd(GeometricMean(), losses))


@pytest.mark.parametrize("mu", [0.01, 0.5, 3.0])
def test_stch_of_losses_as_torchjd(mu: float) -> None:
    preference, ideal = numbers(1.0, 2.0, 1.0), numbers(0.1, 0.0, 0.5)
    settings = {"mu": mu, "scale": "loss", "preference": preference.tolist(), "ideal": ideal.tolist()}
    made, plain = (
        make_balancer("stch", settings, OUTLINE),
        make_balancer("stch", {**settings, "preference": []}, OUTLINE),
    )
    for losses in falling(3):
        # torchjd's own sizes fall to 0 where ours stop at 1e-20 of the largest
        close(made.weigh(shown(losses)), by_torchjd(STCH(mu, preference / 4, ideal), losses))
        close(plain.weigh(shown(losses)), by_torchjd(STCH(mu, None, ideal), losses))


def test_stch_of_logarithms_as_the_authors_code() -> None:
    made = make_balancer("stch", {"mu": 0.3, "warmup": 0.5}, OUTLINE)
    steps = falling(8)
    for step, losses in enumerate(steps):
        leaf = losses.clone().requires_grad_()
        if step < 4:
            value = leaf.log().sum()
        else:
            level = torch.stack(steps[:4]).mean(0)
            logs = (leaf / level + 1e-20).log()
            value = 0.3 * ((logs - logs.max().detach()) / 0.3).exp().sum().log()
        (expected,) = torch.autograd.grad(value, leaf)
        close(made.weigh(shown(losses, progress=step / 8)), expected)
        made.learn(shown(losses, progress=step / 8))
    assert made.weigh(shown(losses)).std() > 0.01


def test_excess_as_torchjd() -> None:
    made = make_balancer("excess", {"rate": 0.7, "warmup": 0.3}, OUTLINE)
    peer = ExcessMTLWeighting(robust_step_size=0.7, n_warmup_steps=3)
    draw = torch.Generator().manual_seed(0)
    for step in range(10):
        gradients = torch.randn(3, 50, generator=draw) * torch.tensor([[1.0], [10.0], [0.1]]) * (1 + step % 3)
        expected = 3 * peer(gradients.double())
        made.learn(shown(torch.ones(3).double(), gradients=gradients, progress=step / 10))
        if step >= 3 + 1:
            close(made.weigh(shown(torch.ones(3).double())), expected, 1e-5)
        elif step < 3:
            close(made.everyone(), torch.ones(3))
    assert made.everyone().std() > 0.1


def test_excess_does_not_depend_on_the_length_of_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    from allround.training.balance import excess

    gradients = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    found = []
    for columns in (7, 1000):
        monkeypatch.setattr(excess, "COLUMNS", columns)
        made = make_balancer("excess", {"rate": 1.0, "warmup": 0.0}, OUTLINE)
        for factor in (1.0, 2.0, 0.5):
            made.learn(
                shown(torch.ones(3).double(), gradients=gradients * factor * torch.tensor([[1.0], [3.0], [factor]]))
            )
        found.append(made.everyone())
    close(*found)
    assert found[0].std() > 0.1


def test_gradnorm_as_libmtl() -> None:
    """LibMTL's: T softmax(scale), the first epoch's mean losses, and the gradient of sum |G_i - mean(G) r_i^alpha|."""
    made = make_balancer("gradnorm", {"alpha": 1.5, "rate": 0.05, "warmup": 0.3}, OUTLINE)
    scale = nn.Parameter(torch.zeros(3).double())
    adam = torch.optim.Adam([scale], lr=0.05)
    steps = falling(12)
    first = torch.stack(steps[:4]).mean(0)
    for step, losses in enumerate(steps):
        weights = 3 * scale.softmax(0)
        close(made.everyone(), weights)
        norms = numbers(3.0, 1.0, 0.3) * (1 + 0.3 * math.sin(step))
        if step >= 4:
            lengths = weights * norms
            ratios = losses / first
            aim = (lengths.mean() * (ratios / ratios.mean()) ** 1.5).detach()
            adam.zero_grad()
            (lengths - aim).abs().sum().backward()
            adam.step()
        made.learn(shown(losses, norms=norms, progress=step / 12))
    assert made.everyone().std() > 0.1


def test_autolambda_as_the_slope_of_the_validation_loss_after_a_plain_step() -> None:
    """The derivative by the weights of V(theta - rate * sum w_t g_t) at a small rate, through autograd, and Adam."""
    draw = torch.Generator().manual_seed(0)
    gradients = torch.randn(3, 6, generator=draw, dtype=torch.float64)
    matrix = torch.randn(6, 6, generator=draw, dtype=torch.float64)
    made = make_balancer("autolambda", {"rate": 0.02}, OUTLINE)
    weights = nn.Parameter(torch.ones(3).double())
    adam = torch.optim.Adam([weights], lr=0.02)
    for _ in range(8):
        theta = torch.randn(6, generator=draw, dtype=torch.float64)
        adam.zero_grad()
        ((matrix @ (theta - 1e-6 * weights @ gradients)) ** 2).sum().backward()
        assert weights.grad is not None
        weights.grad *= 1e6
        adam.step()
        aim = 2 * matrix.T @ matrix @ theta
        made.learn(shown(numbers(1, 1, 1), validation=gradients @ aim))
        close(made.everyone(), weights, 1e-4)
    assert made.everyone().std() > 0.01


def coba_by_numpy(rows: np.ndarray, rule: str, window: int, tau: float) -> np.ndarray:
    """Weights (sum 1) after all rows of validation losses: the paper's formulas and the code's, step by step."""
    relative = rows / rows[0]
    count = rows.shape[1]

    def softmax(values: np.ndarray) -> np.ndarray:
        exps = np.exp(values - values.max())
        return exps / exps.sum()

    def slope(values: np.ndarray) -> float:
        return float(np.polyfit(np.arange(len(values)), values, 1)[0])

    upto = [relative[max(0, t + 1 - window) : t + 1] for t in range(1, len(rows))]
    slopes = np.array([[slope(part[:, i]) for i in range(count)] for part in upto])
    worst = np.array([slope(part.max(1)) for part in upto])
    rcs = softmax(count * slopes[-1] / np.abs(slopes[-1]).sum())
    recent = slopes[-window:]
    acs = softmax(-len(recent) * recent[-1] / np.abs(recent).sum(0))
    factor = softmax(-tau * len(worst) * worst / np.abs(worst).sum())[-1] * len(worst)
    if rule == "paper":
        factor = min(factor, 1.0)
        return np.asarray(factor * rcs + (1 - factor) * acs)
    weights = softmax(count * (factor * rcs + (1 - factor) * acs))
    least = 1 / (10 * count)
    return weights * (1 - least * count) + least if (weights < least).any() else weights


@pytest.mark.parametrize("rule", ["paper", "code"])
@pytest.mark.parametrize("rising", [False, True])
def test_coba_as_paper_and_code(rule: str, rising: bool) -> None:
    made = make_balancer("coba", {"rule": rule, "window": 4, "tau": 2.0}, OUTLINE)
    rows = np.array([[2.0, 3.0, 1.0], [1.5, 2.9, 0.9], [1.1, 2.7, 0.7], [0.9, 2.6, 0.5], [0.8, 2.4, 0.45],
                     [0.75, 2.2, 0.44]])  # fmt: skip
    if rising:
        rows[3:, 2] = [1.2, 1.5, 1.9]
    for t in range(len(rows)):
        made.evaluated(torch.from_numpy(rows[t]))
        if t:
            expected = torch.from_numpy(3 * coba_by_numpy(rows[: t + 1], rule, 4, 2.0))
            close(made.everyone(), expected)
    quick, slow, third = made.everyone().tolist()
    if rule == "paper":
        assert third < min(quick, slow) if rising else slow > quick


def test_self_paced_as_the_older_code() -> None:
    made = make_balancer("coba", {"rule": "selfpaced", "window": 3, "sharpness": 4.0}, OUTLINE)
    rows = np.array([[2.0, 3.0, 1.0], [1.5, 2.9, 0.9], [1.1, 2.7, 0.7], [0.9, 2.6, 0.5]])
    for row in rows:
        made.evaluated(torch.from_numpy(row))
    slopes = np.polyfit(np.arange(3), rows[1:], 1)[0]
    normal = torch.from_numpy(3 * slopes / np.abs(slopes).sum())
    close(made.everyone(), 3 * (4.0 * normal.softmax(0) * -normal).softmax(0))


def test_coba_waits_and_ignores_what_is_no_number() -> None:
    made = make_balancer("coba", {"warmup": 3}, OUTLINE)
    for count, row in enumerate([(2.0, 1.0, 1.0), (1.0, math.nan, 0.9), (0.5, 1.0, 0.8)], 1):
        made.evaluated(numbers(*row))
        assert (made.everyone().std() == 0) == (count < 3)
    assert made.state["history"][1, 1] == 1.0
    assert made.everyone().isfinite().all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_the_slope_of_focal_losses(gamma: float) -> None:
    made = make_balancer("focal", {"gamma": gamma}, OUTLINE)
    losses = numbers(0.1, 0.7, 3.0).requires_grad_()
    (expected,) = torch.autograd.grad((((1 - (-losses).exp()) ** gamma) * losses).sum(), losses)
    close(made.weigh(shown(losses.detach())), expected)


def test_known_weights_by_hand() -> None:
    assert make_balancer("fixed", {"weights": {"b": 2, "c": 0.5}}, OUTLINE).everyone().tolist() == [1, 2, 0.5]
    close(make_balancer("muppet", {}, OUTLINE).everyone(), 1 / numbers(2, 4, 2).log())


def test_normalised_is_the_gradient_of_the_mean_over_tasks_rows_or_words() -> None:
    """MFTCoder's modes 3, 2 and 1, for tasks whose rows have equally many words."""
    draw = torch.Generator().manual_seed(0)
    words = [torch.rand(size, generator=draw, dtype=torch.float64) for size in ((4, 1), (2, 9), (3, 5))]
    seen = StepView(torch.arange(3), torch.stack([w.mean() for w in words]), numbers(4, 2, 3), numbers(4, 18, 15))
    means = {
        "task": torch.stack([w.mean() for w in words]).mean(),
        "sample": torch.cat([w.mean(1) for w in words]).mean(),
        "token": torch.cat([w.flatten() for w in words]).mean(),
    }
    for by, expected in means.items():
        weights = rescaled(make_balancer("normalised", {"by": by}, OUTLINE).weigh(seen))
        close((weights * seen.losses).sum() / 3, expected)


def test_random_weights_are_a_softmax_of_normal_numbers_and_one_draw_in_a_step() -> None:
    made = make_balancer("rlw", {}, OUTLINE)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = 3 * torch.randn(3, dtype=torch.float64).softmax(0)
        torch.manual_seed(5)
        close(made.everyone(), expected)
        close(made.weigh(shown(numbers(1, 1, 1))), expected)
        assert [made.early(t, 1.0, 1.0) for t in range(3)] == expected.tolist()
        torch.manual_seed(6)
        assert not torch.equal(made.everyone(), expected)


# -- what holds for all of them ----------------------------------------------------------------------------------------


def live(made: Balancer, entry: Entry, steps: list[Tensor], start: int = 0) -> list[Tensor]:
    """The weights of some steps, as a training would ask for them; the third task is missing from every other one."""
    found = []
    for step, losses in enumerate(steps, start):
        tasks = [0, 1] if step % 2 else [0, 1, 2]
        seen = shown(losses[tasks], tasks=tasks, progress=step / 20)
        torch.manual_seed(step)
        found.append(made.weigh(seen))
        made.learn(seen)
        if "after" in entry.needs:
            made.stepped(seen, losses[tasks] * numbers(0.9, 0.99, 1.01)[: len(tasks)])
        if step % 3 == 2:
            made.evaluated(losses)
    return found


def test_all_files_are_here() -> None:
    mine = {name for name, _ in METHODS}
    assert mine <= set(registry.names("balance"))
    for name in mine:
        assert registry.find("balance", name).facts["by"] == "losses"


@pytest.mark.parametrize(("name", "settings"), METHODS)
def test_goes_on_from_its_state(name: str, settings: Mapping[str, Any]) -> None:
    entry, steps = registry.find("balance", name), falling(20)
    with torch.random.fork_rng():
        whole = live(make_balancer(name, settings, OUTLINE), entry, steps)
        first, second = (make_balancer(name, settings, OUTLINE) for _ in range(2))
        start = live(first, entry, steps[:9])
        second.state = copy.deepcopy(first.state)
        rest = live(second, entry, steps[9:], 9)
    assert all(torch.equal(a, b) for a, b in zip(whole, start + rest, strict=True))
    assert all(w.isfinite().all() and (w > 0).all() for w in whole)


@pytest.mark.parametrize(("name", "settings"), METHODS)
def test_a_missing_task_keeps_its_own_state(name: str, settings: Mapping[str, Any]) -> None:
    made, entry = make_balancer(name, settings, OUTLINE), registry.find("balance", name)
    with torch.random.fork_rng():
        live(made, entry, falling(12))
    before = {k: v.clone() for k, v in made.state.items()}
    seen = shown(numbers(0.5, 0.2), tasks=[0, 1], progress=0.9)
    made.learn(seen)
    if "after" in entry.needs:
        made.stepped(seen, numbers(0.4, 0.3))
    for key, old in before.items():
        if key == "logits" and name in ("excess", "gradnorm"):
            continue  # these are shifted by a common number
        if old.dim() and len(old) == 3:
            assert torch.equal(old[2], made.state[key][2]), key


@pytest.mark.parametrize(("name", "settings"), [m for m in METHODS if m[0] in KNOWN_BEFORE])
def test_weights_known_before_a_step_are_those_of_the_step(name: str, settings: Mapping[str, Any]) -> None:
    made = make_balancer(name, settings, OUTLINE)
    with torch.random.fork_rng():
        live(made, registry.find("balance", name), falling(15))
        everyone = made.everyone()
        assert everyone is not None and everyone.dtype == torch.float64
        for tasks in ([0, 1, 2], [0, 2], [1]):
            weights = made.weigh(shown(numbers(*[1.0] * len(tasks)), tasks=tasks))
            assert torch.equal(weights, everyone[tasks])
        everyone.zero_()
        assert made.everyone().abs().sum() > 0, "the state is not handed out"


@pytest.mark.parametrize("name", sorted({n for n, _ in METHODS} - KNOWN_BEFORE))
def test_others_do_not_know_before(name: str) -> None:
    assert make_balancer(name, {}, OUTLINE).everyone() is None


@pytest.mark.parametrize(("name", "settings"), [m for m in METHODS if m[0] in ONE_BY_ONE])
def test_one_task_at_a_time_is_the_same_up_to_a_factor(name: str, settings: Mapping[str, Any]) -> None:
    made, entry = make_balancer(name, settings, OUTLINE), registry.find("balance", name)
    with torch.random.fork_rng():
        for count in (0, 1, 14):
            live(made, entry, falling(count))
            seen = shown(numbers(0.4, 0.45, 0.38))
            norms = seen.norms.tolist() if seen.norms is not None else []
            early = [made.early(t, float(seen.losses[t]), norms[t]) for t in range(3)]
            close(rescaled(numbers(*early)), rescaled(made.weigh(seen)))


@pytest.mark.parametrize(("name", "settings"), METHODS)
@pytest.mark.parametrize("losses", [(0.0, 0.0, 0.0), (1e-12, 1.0, 1e6), (1e6, 0.0, 1e-12), (1e6, 1e6, 1e6)])
@pytest.mark.parametrize("size", [0.0, 1e-12, 1e6])
def test_extremes_leave_weights_finite(
    name: str, settings: Mapping[str, Any], losses: tuple[float, ...], size: float
) -> None:
    made, entry = make_balancer(name, settings, OUTLINE), registry.find("balance", name)
    seen = shown(numbers(*losses), gradients=size * torch.eye(3), validation=numbers(size, -size, 0.0))
    for step in range(11):
        weights = [made.weigh(seen), numbers(*[made.early(t, losses[t], size) for t in range(3)])
                   if name in ONE_BY_ONE else made.weigh(seen)]  # fmt: skip
        for each in weights:
            assert each.isfinite().all() and (each > 0).all(), each
            assert rescaled(each).sum() == pytest.approx(3)
            # what the trainer multiplies float32 gradients with
            assert each.max() < 1e30 and each.min() > 1e-30
        alone = made.weigh(shown(numbers(losses[0]), tasks=[0], gradients=size * torch.ones(1, 3)))
        assert alone.isfinite().all() and alone > 0
        made.learn(seen)
        if "after" in entry.needs:
            made.stepped(seen, seen.losses.flip(0))
        if step % 5 == 0:
            made.evaluated(seen.losses * (1 + step))
    assert all(v.isfinite().all() for k, v in made.state.items() if k not in ("last", "before"))


BAD: list[tuple[str, dict[str, Any]]] = [
    ("uw", {"rate": -1.0}),
    ("imtl_l", {"rate": -0.1}),
    ("dwa", {"temperature": 0.0}),
    ("dwa", {"temperature": -2.0}),
    ("famo", {"rate": -1.0}),
    ("famo", {"decay": -1.0}),
    ("famo", {"lower": [1.0]}),
    ("stch", {"mu": 0.0}),
    ("stch", {"warmup": 2.0}),
    ("stch", {"scale": "logs"}),
    ("stch", {"preference": [0.0, 0.0, 0.0]}),
    ("stch", {"ideal": {"nobody": 1.0}}),
    ("excess", {"rate": -1.0}),
    ("excess", {"warmup": -0.1}),
    ("gradnorm", {"alpha": -1.0}),
    ("gradnorm", {"rate": -1.0}),
    ("gradnorm", {"warmup": 1.5}),
    ("autolambda", {"rate": -1.0}),
    ("coba", {"window": 1}),
    ("coba", {"warmup": 0}),
    ("coba", {"tau": -1.0}),
    ("coba", {"rule": "papers"}),
    ("normalised", {"by": "rows"}),
    ("focal", {"gamma": -1.0}),
    ("focal", {"gamma": 50.0}),
    ("fixed", {"weights": [1.0, 2.0]}),
    ("fixed", {"weights": [1.0, -2.0, 1.0]}),
    ("fixed", {"weights": [0.0, 0.0, 0.0]}),
    ("fixed", {"weights": {"nobody": 1.0}}),
    ("fixed", {"weights": 3.0}),
]


@pytest.mark.parametrize(("name", "settings"), BAD)
def test_bad_parameters_are_refused(name: str, settings: Mapping[str, Any]) -> None:
    with pytest.raises(AllroundError) as caught:
        make_balancer(name, settings, OUTLINE)
    assert caught.value.asked and caught.value.found and caught.value.do
