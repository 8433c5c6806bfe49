"""Networks behind the encoder: each preset against a computation in numpy that follows the paper or its authors'
code."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.models.share.gate.dselect import Dselect, smooth_step
from allround.models.share.mixture import SHARED, Mixture
from allround.models.share.network import Network, orthonormal
from allround.training.sharing import plan_of

TASKS = ("a", "b", "c")
WIDTH, UNITS = 5, 4
Numbers = np.ndarray


def network(name: str, **settings: object) -> Network:
    """The network of a preset, with all of its weights drawn anew."""
    made = Network(plan_of(name, {"units": UNITS, **settings}).levels, [WIDTH])
    made.add_tasks(TASKS)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made.eval()


def rows() -> Tensor:
    return torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(2))


def given(made: Network) -> dict[str, Numbers]:
    """What the network gives, by task."""
    return {task: one.detach().numpy() for task, one in made(rows(), TASKS).items()}


def state(made: Network) -> Callable[[str], Numbers]:
    weights = made.state_dict()
    return lambda name: weights[name].double().numpy()


def expert(of: Callable[[str], Numbers], level: int, owner: str, number: int, values: Numbers) -> Numbers:
    """One layer with ReLU: that expert of that owner."""
    place = f"mixtures.{level}.banks.{owner}"
    return np.maximum(values @ of(f"{place}.weights.0")[number].T + of(f"{place}.biases.0")[number], 0)


def softmax(values: Numbers) -> Numbers:
    powers = np.exp(values - values.max(-1, keepdims=True))
    found: Numbers = powers / powers.sum(-1, keepdims=True)
    return found


def gate(of: Callable[[str], Numbers], level: int, reader: str, values: Numbers) -> Numbers:
    """softmax of a linear map."""
    place = f"mixtures.{level}.gates.{reader}"
    return softmax(values @ of(f"{place}.weight").T + of(f"{place}.bias"))


def weighed(weights: Numbers, experts: list[Numbers]) -> Numbers:
    """Weights of each row, (n, k), times what the experts give."""
    return np.stack([sum(w * e[i] for w, e in zip(row, experts, strict=True)) for i, row in enumerate(weights)])


def agree(found: dict[str, Numbers], expected: dict[str, Numbers]) -> None:
    for task in TASKS:
        np.testing.assert_allclose(found[task], expected[task], rtol=1e-4, atol=1e-5)


def test_mmoe() -> None:
    made = network("mmoe", experts=3)
    of, x = state(made), rows().double().numpy()
    experts = [expert(of, 0, SHARED, n, x) for n in range(3)]
    agree(given(made), {task: weighed(gate(of, 0, task, x), experts) for task in TASKS})


def test_mmoe_of_two_levels_has_a_gate_for_each_expert_of_the_next_and_all_gates_read_the_input() -> None:
    made = network("mmoe", experts=2, levels=2)
    of, x = state(made), rows().double().numpy()
    first = [expert(of, 0, SHARED, n, x) for n in range(2)]
    streams = [weighed(gate(of, 0, f"{SHARED}{n}", x), first) for n in range(2)]
    second = [expert(of, 1, SHARED, n, streams[n]) for n in range(2)]
    agree(given(made), {task: weighed(gate(of, 1, task, x), second) for task in TASKS})
    assert not any(f"mixtures.0.gates.{task}" in name for task in TASKS for name in made.state_dict())


def ple(of: Callable[[str], Numbers], x: Numbers, levels: int) -> dict[str, Numbers]:
    """Class PLE of mtl_lib.py: streams of the tasks and a shared one; the last level has no shared gate."""
    streams = dict.fromkeys((*TASKS, SHARED), x)
    for level in range(levels):
        made = {owner: [expert(of, level, owner, n, streams[owner]) for n in range(2)] for owner in streams}
        order = [SHARED, *TASKS]  # of the columns of our gates; the authors' have the shared experts last
        found = {t: weighed(gate(of, level, t, streams[t]), made[SHARED] + made[t]) for t in TASKS}
        if level < levels - 1:
            every = [one for owner in order for one in made[owner]]
            found[SHARED] = weighed(gate(of, level, f"{SHARED}0", streams[SHARED]), every)
        streams = found
    return streams


@pytest.mark.parametrize(("name", "levels"), [("cgc", 1), ("ple", 1), ("ple", 2), ("ple", 3)])
def test_ple(name: str, levels: int) -> None:
    made = network(name, **({"levels": levels} if name == "ple" else {}))
    agree(given(made), ple(state(made), rows().double().numpy(), levels))
    shared = [f"mixtures.{level}.gates.{SHARED}0.weight" in made.state_dict() for level in range(levels)]
    assert shared == [True] * (levels - 1) + [False]


def test_the_shared_stream_of_ple_matters() -> None:
    """Without a shared gate the shared experts would read each task's own stream, as LibMTL's do."""
    made = network("ple", levels=2)
    before = given(made)
    with torch.no_grad():
        made.get_parameter(f"mixtures.0.gates.{SHARED}0.bias").copy_(torch.arange(8.0))
    assert all(abs(given(made)[task] - before[task]).max() > 1e-3 for task in TASKS)


@pytest.mark.parametrize(
    ("experts", "shared", "form"), [(1, 1, "sp"), (2, 1, "sp"), (1, 1, "general"), (1, 2, "general")]
)
def test_adatt(experts: int, shared: int, form: str) -> None:
    """AdaTTSp and AdaTTWSharedExps of mtl_lib.py: single native experts are added as they are, several by weights."""
    made = network("adatt", experts=experts, shared=shared, form=form)
    of, x = state(made), rows().double().numpy()
    units = dict.fromkeys(TASKS, experts) if form == "sp" else {SHARED: shared, **dict.fromkeys(TASKS, experts)}
    streams = dict.fromkeys(units, x)
    for level in range(2):
        every = {u: [expert(of, level, u, n, streams[u]) for n in range(count)] for u, count in units.items()}
        stack = [one for some in every.values() for one in some]
        following = {}
        for unit in units:
            if unit == SHARED and level == 1:
                continue
            reader = f"{SHARED}0" if unit == SHARED else unit
            own = np.ones(1)
            if any(count > 1 for count in units.values()):
                own = of(f"mixtures.{level}.gates.{reader}.learned")
            residual = sum(w * one for w, one in zip(own, every[unit], strict=True))
            following[unit] = weighed(gate(of, level, reader, streams[unit]), stack) + residual
        streams = following
    agree(given(made), streams)


def test_cross_stitch() -> None:
    made = network("cross_stitch")
    of, x = state(made), rows().double().numpy()
    streams = dict.fromkeys(TASKS, x)
    for level in range(2):
        layers = [expert(of, level, task, 0, streams[task]) for task in TASKS]
        streams = {
            task: sum(w * layer for w, layer in zip(of(f"mixtures.{level}.gates.{task}.numbers"), layers, strict=True))
            for task in TASKS
        }
    agree(given(made), streams)


def test_a_cross_stitch_of_channels_weighs_each_number_apart() -> None:
    made = network("cross_stitch", by="channel", levels=1)
    of, x = state(made), rows().double().numpy()
    layers = [expert(of, 0, task, 0, x) for task in TASKS]
    numbers = {task: of(f"mixtures.0.gates.{task}.numbers") for task in TASKS}
    assert numbers["a"].shape == (3, UNITS)
    agree(given(made), {t: sum(n * layer for n, layer in zip(numbers[t], layers, strict=True)) for t in TASKS})


@pytest.mark.parametrize("by", ["stream", "channel"])
def test_a_cross_stitch_begins_near_the_identity_and_not_with_ones(by: str) -> None:
    """Weights of one, as LibMTL begins with, would multiply what comes by the number of tasks at each level."""
    made = Network(plan_of("cross_stitch", {"by": by, "keep": 0.8}).levels, [WIDTH])
    made.add_tasks(TASKS)
    for level in made.mixtures:
        assert isinstance(level, Mixture)
        table = torch.stack([level.gate(task)(torch.ones(1)).reshape(3, -1)[:, 0] for task in TASKS])
        assert torch.allclose(table, 0.1 + 0.7 * torch.eye(3))


def test_moore() -> None:
    made = network("moore", experts=3, hidden=0)
    of, x = state(made), rows().double().numpy()
    experts = np.stack([expert(of, 0, SHARED, n, x) for n in range(3)], 1)
    basis = np.zeros_like(experts)
    for row in range(len(x)):
        kept: list[Numbers] = []
        for number, vector in enumerate(experts[row]):
            left = vector - sum((vector @ one) * one for one in kept)
            if np.linalg.norm(left) > 1e-6 * np.linalg.norm(vector):
                basis[row, number] = left / np.linalg.norm(left)
            kept.append(basis[row, number])
    expected = {t: np.tanh(np.einsum("k,nkd->nd", of(f"mixtures.0.gates.{t}.numbers"), basis)) for t in TASKS}
    agree(given(made), expected)
    assert np.abs(basis).sum() > 1 and all(np.abs(one).max() < 1 for one in expected.values())


def test_dependent_vectors_become_zero_and_no_gradient_is_lost() -> None:
    """The authors' code divides by the length of what is left, and gives NaN: for zeros, copies, and k above d."""
    vectors = torch.tensor(
        [[[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]], [[3.0, 4.0], [4.0, -3.0], [1.0, 1.0]]], requires_grad=True
    )
    found = orthonormal(vectors)
    expected = [[[0, 0], [1, 0], [0, 0]], [[0.6, 0.8], [0.8, -0.6], [0, 0]]]
    assert torch.allclose(found, torch.tensor(expected), atol=1e-6)
    (found * torch.arange(6.0).reshape(3, 2)).sum().backward()
    assert vectors.grad is not None and vectors.grad.isfinite().all()


# -- DSelect-k ---------------------------------------------------------------------------------------------------------


def step(z: float, gamma: float) -> float:
    if z <= -gamma / 2:
        return 0.0
    return 1.0 if z >= gamma / 2 else -2 * z**3 / gamma**3 + 3 * z / (2 * gamma) + 0.5


@pytest.mark.parametrize("gamma", [1.0, 4.0])
def test_dselect_k(gamma: float) -> None:
    """Five experts need three bits; the first bit is the highest of the number of the expert."""
    torch.manual_seed(0)
    made = Dselect(5, 1, chosen=2, gamma=gamma, entropy=0.5)
    bits = [[0.2, -0.1, 0.45], [-0.3, 0.4, 0.05]]
    with torch.no_grad():
        made.bits.copy_(torch.tensor(bits))
        made.weights.copy_(torch.tensor([0.3, -0.2]))
    selectors = []
    for own in bits:
        s = [step(z, gamma) for z in own]
        codes = [(number >> 2 & 1, number >> 1 & 1, number & 1) for number in range(5)]
        selectors.append([math.prod(p if bit else 1 - p for p, bit in zip(s, code, strict=True)) for code in codes])
    first = 1 / (1 + math.exp(-0.5))
    expected = [first * one + (1 - first) * two for one, two in zip(*selectors, strict=True)]
    assert made(torch.ones(2, 1)).tolist() == pytest.approx(expected, abs=1e-6)

    made.progressed(0.5)
    penalty = made.penalty()
    entropy = -sum(s * math.log(s + 1e-6) for one in selectors for s in one)
    assert penalty is not None
    assert penalty.item() == pytest.approx(0.25 * entropy + sum(1 / sum(one) - 1 for one in selectors), abs=1e-5)


def test_gamma_is_not_ignored() -> None:
    """LibMTL's forward pass always has a gamma of 1."""
    assert smooth_step(torch.tensor(0.4), 1.0).item() == pytest.approx(step(0.4, 1.0))
    assert smooth_step(torch.tensor(0.4), 2.0).item() == pytest.approx(-2 * 0.064 / 8 + 1.2 / 4 + 0.5)
    wide, narrow = (network("dselect_k", gamma=gamma, experts=4) for gamma in (8.0, 0.5))
    assert not np.allclose(given(wide)["a"], given(narrow)["a"])


def test_selectors_of_a_power_of_two_have_no_penalty_for_what_they_do_not_reach() -> None:
    made = Dselect(4, 1, entropy=0.0)
    made(torch.ones(1))
    assert made.penalty() == 0.0


def test_a_choice_for_each_row() -> None:
    torch.manual_seed(0)
    made = Dselect(4, 2, reads="stream")
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    both = made(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    alone = made(torch.tensor([[0.0, 1.0]]))
    assert torch.allclose(both[1:], alone) and not torch.allclose(both[0], both[1])
    assert torch.allclose(both.sum(-1), torch.ones(2))


# -- further presets ---------------------------------------------------------------------------------------------------


def test_deep_safe_stands_between_public_and_private() -> None:
    made = network("deep_safe", hidden=0)
    of, x = state(made), rows().double().numpy()
    public, expected = expert(of, 0, SHARED, 0, x), {}
    for task in TASKS:
        two = of(f"mixtures.0.gates.{task}.numbers")
        g = 1 / (1 + np.exp(two[1] - two[0]))
        expected[task] = g * public + (1 - g) * expert(of, 0, task, 0, x)
    agree(given(made), expected)


def test_taskexpert_updates_a_memory_of_each_task() -> None:
    made = network("taskexpert", experts=2, levels=2)
    of, x = state(made), rows().double().numpy()
    first, second = ([expert(of, level, SHARED, n, x) for n in range(2)] for level in range(2))
    expected = {}
    for task in TASKS:
        memory = weighed(gate(of, 0, task, x), first)
        expected[task] = weighed(gate(of, 1, task, memory), [*second, memory])
    agree(given(made), expected)


def test_apem_attends_to_patterns() -> None:
    made = network("apem", patterns=3)
    of, x = state(made), rows().double().numpy()
    patterns = [expert(of, 0, SHARED, n, x) for n in range(3)]
    scores = {t: np.stack([p @ of(f"mixtures.0.gates.{t}.query") for p in patterns], -1) / 2 for t in TASKS}
    agree(given(made), {task: weighed(softmax(scores[task]), patterns) for task in TASKS})


def test_mtan_masks_the_shared_layers() -> None:
    made = network("mtan")
    of, x = state(made), rows().double().numpy()
    shared, streams = x, dict.fromkeys(TASKS, x)
    for level in range(2):
        shared = expert(of, level, SHARED, 0, shared)
        for task in TASKS:
            place, read = f"mixtures.{level}.gates.{task}", np.concatenate([shared, streams[task]], -1)
            hidden = np.maximum(read @ of(f"{place}.down.weight").T + of(f"{place}.down.bias"), 0)
            streams[task] = shared / (1 + np.exp(-(hidden @ of(f"{place}.up.weight").T + of(f"{place}.up.bias"))))
    agree(given(made), streams)


def test_dtrn_scales_each_number_and_begins_as_the_identity() -> None:
    plan = plan_of("dtrn", {"reduction": 2})
    made = Network(plan.levels, [WIDTH])
    made.add_tasks(TASKS)
    agree(given(made), dict.fromkeys(TASKS, rows().numpy()))
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    of, x, expected = state(made), rows().double().numpy(), {}
    for task in TASKS:
        bank = {n: of(f"mixtures.0.banks.{task}.{n}")[0] for n in ("down", "down_bias", "up", "up_bias")}
        hidden = np.maximum(x @ bank["down"].T + bank["down_bias"], 0)
        expected[task] = 2 * x / (1 + np.exp(-(hidden @ bank["up"].T + bank["up_bias"])))
    agree(given(made), expected)


def test_tasks_of_hmtl_are_at_their_depth_and_train_what_is_below() -> None:
    made = network("hmtl", order="a<b")
    of, x = state(made), rows().double().numpy()
    low = expert(of, 0, SHARED, 0, x)
    high = expert(of, 1, SHARED, 0, np.concatenate([x, low], -1))
    agree(given(made), {"a": low, "b": high, "c": high})

    def trained(task: str) -> list[int]:
        made.zero_grad(set_to_none=True)
        made(rows(), [task])[task].sum().backward()
        return [n for n in range(2) if made.get_parameter(f"mixtures.{n}.banks.{SHARED}.weights.0").grad is not None]

    assert trained("a") == [0] and trained("b") == [0, 1]


@pytest.mark.parametrize("order", ["a<", "a,,b", "a<b,a"])
def test_an_order_that_says_nothing_is_an_error(order: str) -> None:
    with pytest.raises(AllroundError, match="stands twice"):
        plan_of("hmtl", {"order": order})


# -- what only one task uses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["cgc", "ple", "adatt", "cross_stitch", "mmoe", "moore", "deep_safe", "taskexpert", "mtan", "dtrn", "hmtl"]
)
def test_own_parameters_are_those_that_move_no_other_task(name: str) -> None:
    made = Network(plan_of(name).levels, [WIDTH])
    made.add_tasks(TASKS)
    own = made.own("a")
    found = made(rows(), TASKS)
    (found["b"].square().sum() + found["c"].square().sum()).backward(retain_graph=True)
    assert all(p.grad is None or not p.grad.any() for p in own.values())
    names = {n for n, p in made.named_parameters() if p.grad is None}
    found["a"].square().sum().backward()
    alone = {n for n, p in made.named_parameters() if n in names and p.grad is not None}
    assert set(own) == alone
