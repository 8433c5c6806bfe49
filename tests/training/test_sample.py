"""How often each feed is drawn, and which feeds share a step."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from allround.core import registry
from allround.core.errors import AllroundError
from allround.training.mix import parse_mix
from allround.training.sample import smart
from allround.training.sample.capped import capped
from allround.training.sample.proportional import proportional
from allround.training.sample.smart import budgets, facility_location, graph_cut
from allround.training.sample.sqrt import sqrt
from allround.training.sample.temperature import temperature
from allround.training.sample.uniform import uniform
from allround.training.sample.weighted import weighted
from allround.training.sampling import (
    Mixture,
    Policy,
    arrange,
    by_size,
    counts_of,
    make_policy,
    next_stretch,
)

SIZES = st.lists(st.integers(1, 10**6), min_size=1, max_size=12)
#: What follows the sizes alone.
STATIC = [name for name in registry.names("sample") if not registry.find("sample", name).attribute[0].isupper()]


def mixture(*sizes: int) -> Mixture:
    return Mixture(tuple("abcdefghijkl"[: len(sizes)]), sizes, ("classification",) * len(sizes))


def policy(name: str, sizes: tuple[int, ...], **values: object) -> Policy:
    return make_policy(name, values, mixture(*sizes))


def drawn(shares: list[float], batches: int, seed: int) -> list[int]:
    """One feed in a step, as tasks are drawn without a mix."""
    steps = arrange(counts_of(shares, batches), [list(range(len(shares)))], 1, seed)
    assert all(len(step) == 1 for step in steps)
    return [step[0] for step in steps]


# Shares that follow the sizes.


def test_by_hand() -> None:
    assert proportional([300, 100]) == [0.75, 0.25]
    assert uniform([300, 100]) == [0.5, 0.5]
    assert temperature([900, 100]) == pytest.approx([0.75, 0.25])
    assert temperature([8, 1], temperature=3.0) == pytest.approx([2 / 3, 1 / 3])
    assert sqrt([900, 100]) == [0.75, 0.25]
    assert capped([4000, 100, 300], limit=300) == pytest.approx([3 / 7, 1 / 7, 3 / 7])
    assert weighted([300, 100], weights=[1.0, 3.0]) == [0.5, 0.5]


def test_temperature_lies_between_the_others() -> None:
    sizes = [1000, 100, 10]
    assert temperature(sizes, temperature=1.0) == pytest.approx(proportional(sizes))
    assert temperature(sizes, temperature=2.0) == pytest.approx(sqrt(sizes))
    assert temperature(sizes, temperature=1e9) == pytest.approx(uniform(sizes))
    assert temperature(sizes, temperature=0.5) == pytest.approx([s**2 / 1010100 for s in sizes])
    assert capped(sizes, limit=10**6) == pytest.approx(proportional(sizes))
    assert capped(sizes, limit=10) == pytest.approx(uniform(sizes))


def test_powers_are_the_named_samplers() -> None:
    sizes = [1000, 100, 10]
    for power, shares in {0.0: uniform(sizes), 0.5: sqrt(sizes), 1.0: proportional(sizes)}.items():
        assert by_size(sizes, power) == pytest.approx(shares)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(AllroundError, match="above 0"):
        temperature([2, 1], temperature=value)


def test_a_very_low_temperature_draws_the_largest() -> None:
    assert temperature([1000, 999, 10], temperature=1e-5) == pytest.approx([1, math.exp(-100), 0], abs=1e-4)


@pytest.mark.parametrize("name", STATIC)
@given(sizes=SIZES)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_shares_are_shares(name: str, sizes: list[int]) -> None:
    shares = registry.load("sample", name)(sizes)
    assert len(shares) == len(sizes)
    assert sum(shares) == pytest.approx(1, abs=1e-9)
    assert all(0 < share <= 1 for share in shares)
    for a, b in pairwise(range(len(sizes))):
        if sizes[a] > sizes[b]:
            assert shares[a] >= shares[b], "more rows are never drawn less"
    turned = registry.load("sample", name)(sizes[::-1])
    assert turned == pytest.approx(shares[::-1]), "the order of tasks does not matter"


def test_a_function_is_a_policy_with_its_parameters() -> None:
    made = policy("temperature", (900, 100), temperature=1.0)
    assert made.shares(0.0) == made.shares(0.7) == pytest.approx([0.9, 0.1])
    assert made.changes == () and made.state == {}
    with pytest.raises(AllroundError, match="no parameter 'warmth'"):
        policy("temperature", (900, 100), warmth=1.0)
    with pytest.raises(AllroundError, match="did you mean 'uniform'"):
        policy("uniforn", (1,))


@pytest.mark.parametrize(
    ("name", "values", "match"),
    [
        ("capped", {"limit": 0}, "at least 1"),
        ("two_stage", {"first": 1.0}, "between 0 and 1"),
        ("two_stage", {"high": ["z"]}, "nothing of that name"),
        ("two_stage", {"high": "a"}, "in a list"),
        ("two_stage", {"high": ["a", "a"]}, "each name once"),
        ("two_stage", {"power": -1.0}, "0 or more"),
        ("stop_and_go", {"gap": 0}, "gap"),
        ("stop_and_go", {"better": -0.1}, "threshold"),
        ("stop_and_go", {"resets": [0.3, 1.0]}, "not a list of shares"),
        ("stop_and_go", {"resets": 0.3}, "not a list of shares"),
        ("curriculum", {"mode": "mixde"}, "did you mean 'mixed'"),
        ("curriculum", {"order": ["b"]}, "leaves out a"),
        ("curriculum", {"order": ["b", "a", "c"]}, "nothing of that name"),
        ("bandit", {"rate": 0.0}, "above 0"),
        ("bandit", {"explore": 0.0}, "explore"),
        ("bandit", {"forget": 1.0}, "forget"),
        ("smart", {"budget": 0.0}, "budget"),
        ("smart", {"tasks": -1}, "tasks"),
        ("weighted", {"weights": [1.0]}, "one positive number"),
    ],
)
def test_bad_values_are_refused(name: str, values: dict[str, object], match: str) -> None:
    with pytest.raises(AllroundError, match=match):
        policy(name, (300, 100), **values).shares(0.0)


# Shares that change.


def test_two_stages_by_hand() -> None:
    made = policy("two_stage", (400, 200, 199), first=0.3)
    assert made.changes == (0.3,)
    assert made.shares(0.29) == pytest.approx([2 / 3, 1 / 3, 0]), "half of the largest is high-resource"
    assert made.shares(0.3) == made.shares(0.9) == pytest.approx(proportional([400, 200, 199]))
    named = policy("two_stage", (400, 200, 199), high=["c"], power=0.0)
    assert named.shares(0.0) == [0, 0, 1] and named.shares(0.5) == pytest.approx([1 / 3] * 3)
    assert policy("two_stage", (400, 300)).changes == (), "one stage where all are high-resource"
    assert registry.find("sample", "two_stage").facts["restarts"] is True


def test_a_curriculum_by_hand() -> None:
    order = ["c", "a", "b"]
    mixed, alone = (policy("curriculum", (1, 1, 1), order=order, mode=mode) for mode in ("mixed", "sequential"))
    assert mixed.changes == alone.changes == (1 / 3, 2 / 3)
    starts = (0.0, *mixed.changes)
    assert [mixed.shares(p) for p in starts] == [[0, 0, 1], [0.5, 0, 0.5], pytest.approx([1 / 3] * 3)]
    assert [alone.shares(p) for p in (*starts, 1.0)] == [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 1, 0]]
    sized = policy("curriculum", (300, 1, 100), order=order, power=1.0)
    assert sized.shares(1 / 3) == pytest.approx([0.75, 0, 0.25])


def test_a_named_curriculum_does_not_depend_on_the_order_of_the_feeds() -> None:
    order = ["c", "a", "b"]
    one = make_policy("curriculum", {"order": order}, Mixture(("a", "b", "c"), (5, 6, 7), ("regression",) * 3))
    two = make_policy("curriculum", {"order": order}, Mixture(("c", "b", "a"), (7, 6, 5), ("regression",) * 3))
    for progress in (0.0, 1 / 3, 2 / 3):
        assert one.shares(progress) == two.shares(progress)[::-1]


# Shares that follow validation.


class Plateau:
    """When the code of 12-in-1 stops a task (`MultiTaskStopOnPlateau`), rewritten for one task, higher is better."""

    def __init__(self, threshold: float = 0.001, again: float = 0.005) -> None:
        self.threshold, self.again = threshold, again
        self.best, self.bad, self.cooldown, self.stopped = -math.inf, 0, 0, False

    def step(self, score: float) -> bool:
        if score > self.best * (1 + self.threshold):
            self.best, self.bad = score, 0
        else:
            self.bad += 1
        if self.cooldown > 0:
            self.cooldown -= 1
            self.bad = 0
        if self.bad > 1:
            self.stopped, self.cooldown, self.bad = True, 1, 0
        elif score < self.best * (1 - self.again) and self.stopped:
            self.stopped, self.cooldown, self.bad = False, 1, 0
        return self.stopped


#: The scores of the authors' own test case, and more from a seed.
SCORES = [
    [10, 20, 30, 40, 50, 50, 50, 50, 49, 48, 50, 51, 52, 52, 52, 52, 52],
    *(random.Random(seed).choices((1.0, 1.0005, 1.002, 0.996, 0.99), k=40) for seed in range(20)),
]


@pytest.mark.parametrize("scores", SCORES, ids=range(len(SCORES)))
def test_stop_and_go_stops_when_the_authors_code_does(scores: list[float]) -> None:
    made, reference = policy("stop_and_go", (10, 10)), Plateau()
    stops = []
    for step, score in enumerate(scores):
        made.evaluated([score, 10.0 ** (step + 1)], step / 100)
        stops.append(reference.step(score))
        assert made.shares(0.0) == pytest.approx([0.2, 0.8] if stops[-1] else [0.5, 0.5])
    assert any(stops)


def test_a_stopped_task_goes_again_when_it_gets_worse() -> None:
    made = policy("stop_and_go", (10, 10), worse=0.1)
    found = []
    for step, score in enumerate([1.0, 1.0, 1.0, 0.95, 0.89, 0.89]):
        made.evaluated([score, 1.0 + step], step / 10)
        found.append(round(made.shares(0.0)[0], 9))
    assert found == [0.5, 0.5, 0.2, 0.2, 0.5, 0.5]


def test_stop_and_go_begins_anew_where_it_is_told_to() -> None:
    made = policy("stop_and_go", (10, 10), resets=[0.3])
    found = []
    for step in range(8):
        made.evaluated([1.0, 1.0 + step], step / 10)
        found.append(round(made.shares(0.0)[0], 9))
    # Stops at 0.2; goes again at 0.3, with no best score, and stops two evaluations after the next one.
    assert found == [0.5, 0.5, 0.2, 0.5, 0.5, 0.5, 0.2, 0.2]
    assert float(made.state["best"][0]) == 1.0


def test_stop_and_go_with_scores_below_zero_and_without_number() -> None:
    made = policy("stop_and_go", (10, 10))
    for step in range(3):
        made.evaluated([-1.0 + 0.1 * step, math.nan], step / 10)
    assert made.shares(0.0) == pytest.approx([0.8, 0.2])
    for step in range(3):
        made.evaluated([-0.8, 1.0 + step], 0.5)
    assert made.shares(0.0)[0] == pytest.approx(0.5), "both have stopped: one stays stopped while it gets better"


def exp3s(scores: list[list[float]], rate: float, explore: float, forget: float) -> list[float]:
    """Exp3.S on gains per share as in Graves et al., with plain lists: no shift before the exponential."""
    size = len(scores[0])
    weights, before, seen = [0.0] * size, [1.0] * size, []
    shares = [1 / size] * size
    for now in scores:
        gains = [(a - b) / share for a, b, share in zip(now, before, shares, strict=True)]
        seen = sorted(seen + gains)

        def quantile(q: float, seen: list[float] = seen) -> float:
            place = q * (len(seen) - 1)
            low = int(place)
            return seen[low] + (place - low) * (seen[min(low + 1, len(seen) - 1)] - seen[low])

        low, high = quantile(0.2), quantile(0.8)
        scaled = [max(-1.0, min(1.0, 2 * (g - low) / (high - low) - 1)) for g in gains]
        grown = [math.exp(w + rate * r) for w, r in zip(weights, scaled, strict=True)]
        weights = [
            math.log((1 - forget) * grown[i] + forget / (size - 1) * sum(g for j, g in enumerate(grown) if j != i))
            for i in range(size)
        ]
        total = sum(map(math.exp, weights))
        shares = [(1 - explore) * math.exp(w) / total + explore / size for w in weights]
        before = now
    return shares


def test_the_bandit_by_hand() -> None:
    made = policy("bandit", (10, 10))
    made.evaluated([1.2, 1.0], 0.1)  # gains 0.4 and 0 become 1 and -1
    one, two = 0.9 * math.exp(0.5) + 0.1 * math.exp(-0.5), 0.9 * math.exp(-0.5) + 0.1 * math.exp(0.5)
    assert made.shares(0.1) == pytest.approx([0.8 * one / (one + two) + 0.1, 0.8 * two / (one + two) + 0.1])


def test_the_bandit_is_exp3s() -> None:
    draw = random.Random(0)
    for rate, explore, forget in ((0.5, 0.2, 0.1), (0.1, 0.05, 0.0)):
        scores = [[1 + draw.random() for _ in range(4)] for _ in range(12)]
        made = policy("bandit", (10, 10, 10, 10), rate=rate, explore=explore, forget=forget)
        for step, now in enumerate(scores):
            made.evaluated(now, (step + 1) / 12)
            assert made.shares(0.0) == pytest.approx(exp3s(scores[: step + 1], rate, explore, forget), rel=1e-9)


def test_the_bandit_begins_with_the_scores_before_training() -> None:
    given, assumed = policy("bandit", (10, 10)), policy("bandit", (10, 10))
    given.evaluated([0.5, 1.0], 0.0)
    assert given.shares(0.0) == [0.5, 0.5], "what was there before is no gain"
    given.evaluated([0.7, 1.0], 0.1)
    assumed.evaluated([1.2, 1.0], 0.1)
    assert given.shares(0.1) == pytest.approx(assumed.shares(0.1))


def test_the_bandit_stays_finite() -> None:
    made = policy("bandit", (1, 10**6, 10), power=1.0, rate=50.0)
    for step in range(1, 60):
        made.evaluated([1.0 + step, 1e9 * step, math.nan if step % 2 else -1e9], step / 60)
        shares = made.shares(0.0)
        assert all(0 < s < 1 for s in shares) and sum(shares) == pytest.approx(1)


# SMART.


def cut(similar: Tensor, chosen: tuple[int, ...], trade: float) -> float:
    """Graph cut as SMART's library evaluates it: of the whole set at once."""
    return float(similar[:, list(chosen)].sum() - trade * similar[list(chosen)][:, list(chosen)].sum())


def test_graph_cut_gains_are_differences_of_the_function() -> None:
    units = torch.nn.functional.normalize(torch.rand(7, 4, generator=torch.Generator().manual_seed(0)).double(), dim=1)
    similar = units @ units.T
    before: tuple[int, ...] = ()
    for number, gain in graph_cut(similar, 7, 0.4):
        assert gain == pytest.approx(
            cut(similar, (*before, number), 0.4) - (cut(similar, before, 0.4) if before else 0)
        )
        rest = [n for n in range(7) if n not in (*before, number)]
        assert all(cut(similar, (*before, number), 0.4) >= cut(similar, (*before, n), 0.4) - 1e-9 for n in rest)
        before = (*before, number)
    assert sorted(before) == list(range(7))


def authors_budgets(gains: list[float], sizes: list[int], total: int) -> list[int]:
    """SMART's own split: floors, the remainder to the first ones, then what is over a task's size goes round."""
    chances = [1 + g + 0.5 * g * g for g in gains]
    parts = [math.floor(total * (c / sum(chances))) for c in chances]
    for i in range(total - sum(parts)):
        parts[i % len(parts)] += 1
    over = 0
    for i, size in enumerate(sizes):
        if parts[i] > size:
            over += parts[i] - size
            parts[i] = size
    while over > 0:
        for i, size in enumerate(sizes):
            if size > parts[i]:
                parts[i] += 1
                over -= 1
                if over == 0:
                    break
    return parts


@given(
    gains=st.lists(st.floats(-3, 8), min_size=1, max_size=6),
    sizes=st.lists(st.integers(1, 60), min_size=6, max_size=6),
    share=st.floats(0.05, 1),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_budgets_are_those_of_the_authors_code(gains: list[float], sizes: list[int], share: float) -> None:
    sizes = sizes[: len(gains)]
    total = max(len(gains), round(share * sum(sizes)))
    found, expected = budgets(gains, sizes, total), authors_budgets(gains, sizes, total)
    assert sum(found) == total and all(1 <= part <= size for part, size in zip(found, sizes, strict=True))
    chances = [1 + gain + 0.5 * gain**2 for gain in gains]
    if min(chances) * total >= sum(chances):  # else a task gets a row here that it does not get there
        assert found == expected


def covered(units: Tensor, chosen: list[int]) -> float:
    return float((units @ units[chosen].T).clamp(min=0).max(dim=1).values.sum())


def test_facility_location_is_greedy_and_good() -> None:
    units = torch.nn.functional.normalize(torch.randn(10, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    chosen = facility_location(units, 4)
    for k in range(4):
        best = max(covered(units, [*chosen[:k], i]) for i in range(10) if i not in chosen[:k])
        assert covered(units, chosen[: k + 1]) == pytest.approx(best, rel=1e-5)
    best = max(covered(units, list(some)) for some in itertools.combinations(range(10), 4))
    assert covered(units, chosen) >= (1 - 1 / math.e) * best, "the bound that greedy choices keep"
    assert sorted(facility_location(units, 10)) == list(range(10))


def test_smart_chooses_one_row_of_each_cluster() -> None:
    corners = torch.eye(4).repeat_interleave(5, dim=0) + 0.01 * torch.randn(
        20, 4, generator=torch.Generator().manual_seed(2)
    )
    made = policy("smart", (20,), budget=0.2)
    (rows,) = made.select([corners]) or []
    assert sorted(row // 5 for row in rows) == [0, 1, 2, 3]


def test_smart_gives_more_to_tasks_that_stand_for_others() -> None:
    generator = torch.Generator().manual_seed(3)
    twins, alone = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    features = [centre + 0.1 * torch.rand(100, 3, generator=generator) for centre in (twins, twins, alone)]
    made = policy("smart", (100, 100, 100), budget=0.4, trade=0.7)
    chosen = made.select(features)
    assert chosen is not None and sum(map(len, chosen)) == 120
    lengths = sorted(map(len, chosen[:2]))
    assert lengths[1] > len(chosen[2]) >= lengths[0], "one of the twins stands for both, the other adds little"
    assert made.shares(0.0) == pytest.approx([len(rows) / 120 for rows in chosen])


def test_smart_keeps_as_many_tasks_as_asked() -> None:
    generator = torch.Generator().manual_seed(4)
    made = policy("smart", (40, 30, 30), budget=0.3, tasks=1)
    chosen = made.select([torch.rand(n, 5, generator=generator) for n in (40, 30, 30)])
    assert chosen is not None and sorted(map(len, chosen)) == [0, 0, 30]
    assert sorted(made.shares(0.0)) == [0, 0, 1]
    with pytest.raises(AllroundError, match="another budget"):
        policy("smart", (10, 10, 10), budget=0.9, tasks=1).select([torch.rand(10, 5)] * 3)
    with pytest.raises(AllroundError, match="another budget"):
        policy("smart", (10, 10, 10), budget=0.05).select([torch.rand(10, 5)] * 3)
    with pytest.raises(AllroundError, match="no finite numbers"):
        policy("smart", (2,)).select([torch.tensor([[1.0], [math.nan]])])


def test_smart_uses_all_rows_where_the_budget_is_all() -> None:
    made = policy("smart", (4, 6), budget=1.0)
    features = [torch.zeros(4, 2), torch.rand(6, 2, generator=torch.Generator().manual_seed(0))]
    assert made.select(features) == [list(range(4)), list(range(6))]


@pytest.mark.parametrize("budget", [0.3, 0.55, 0.95])
def test_large_feeds_are_chosen_from_in_parts(monkeypatch: pytest.MonkeyPatch, budget: float) -> None:
    monkeypatch.setattr(smart, "PIECE", 4)
    features = torch.rand(11, 3, generator=torch.Generator().manual_seed(5))
    (rows,) = policy("smart", (11,), budget=budget).select([features]) or []
    assert len(rows) == round(11 * budget) and rows == sorted({*rows})
    parts = Counter(row % 3 for row in rows)
    assert max(parts.values()) - min(parts.values()) <= 1


def test_a_few_thousand_rows_are_chosen_soon() -> None:
    features = torch.rand(3000, 16, generator=torch.Generator().manual_seed(6))
    (rows,) = policy("smart", (3000,), budget=0.2).select([features]) or []
    assert len(rows) == 600


# Batches and steps.


@pytest.mark.parametrize(
    ("sizes", "batches", "name", "seed", "expected"),
    [
        ([30, 10], 8, "proportional", 0, "00100001"),
        ([30, 20], 50, "proportional", 0, "11000001101010001101000101000101110100011001100000"),
        ([30, 20], 50, "proportional", 1, "10011000110000000111001110001001100010000101100110"),
        ([900, 100, 1], 20, "temperature", 7, "11000010001000100000"),
        ([5, 5, 5], 16, "uniform", 2**32 - 1, "0001020112210212"),
        ([7], 5, "proportional", 3, "00000"),
        ([1, 2, 3, 4, 5], 30, "proportional", 12345, "043343434423204313443214124122"),
    ],
)
def test_one_task_in_a_step_is_drawn_as_ever(
    sizes: list[int], batches: int, name: str, seed: int, expected: str
) -> None:
    """The order that trainings had before there was a mix: written down then."""
    assert "".join(map(str, drawn(policy(name, tuple(sizes)).shares(0.0), batches, seed))) == expected


@given(sizes=SIZES, batches=st.integers(0, 300), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_draws_follow_the_shares_to_one_batch(sizes: list[int], batches: int, seed: int) -> None:
    shares = by_size(sizes, 0.7)
    found = drawn(shares, batches, seed)
    assert len(found) == batches
    counts = Counter(found)
    assert all(abs(counts[f] - share * batches) < 1 + 1e-6 for f, share in enumerate(shares))
    assert drawn(shares, batches, seed) == found


def test_what_has_no_share_gets_no_batch() -> None:
    for batches in range(50):
        assert counts_of([0.0, 0.7, 0.0, 0.3], batches)[::2] == [0, 0]


def test_the_seed_decides_the_order_alone() -> None:
    one, two = (drawn([0.6, 0.4], 50, seed) for seed in (0, 1))
    assert one != two and Counter(one) == Counter(two) == {0: 30, 1: 20}


def test_draws_are_mixed() -> None:
    found = drawn([0.5, 0.5], 100, 0)
    assert 30 < sum(a != b for a, b in pairwise(found)) < 70


def test_mixes_by_hand() -> None:
    kinds = ["regression", "classification", "regression", "multilabel"]
    assert parse_mix("one", kinds) == ([[0, 1, 2, 3]], 1)
    assert parse_mix("all", kinds) == ([[0, 1, 2, 3]], 4)
    assert parse_mix("kind", kinds) == ([[0, 2], [1], [3]], 2)
    assert parse_mix("1", kinds) == ([[0, 1, 2, 3]], 1)
    assert parse_mix("3", kinds) == ([[0, 1, 2, 3]], 3)
    assert parse_mix("9", kinds) == ([[0, 1, 2, 3]], 4), "no step holds more than there are"


@pytest.mark.parametrize("mix", ["", "0", "-1", "2.5", "every", "One", " 2", "²", "none"])
def test_a_mix_that_is_none_is_refused(mix: str) -> None:
    with pytest.raises(AllroundError, match="how many tasks a step holds"):
        parse_mix(mix, ["regression"])


GROUPED = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 2)), min_size=1, max_size=7)


@given(feeds=GROUPED, most=st.integers(1, 8), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_steps_hold_exactly_what_they_are_to(feeds: list[tuple[int, int]], most: int, seed: int) -> None:
    counts = [count for count, _ in feeds]
    groups = [[f for f, (_, group) in enumerate(feeds) if group == one] for one in range(3)]
    steps = arrange(counts, groups, most, seed)
    assert Counter(itertools.chain(*steps)) == Counter({f: c for f, c in enumerate(counts) if c})
    expected = 0
    for group in groups:
        of_group = [step for step in steps if {*step} & {*group}]
        assert all({*step} <= {*group} for step in of_group), "a step holds feeds of one group"
        own = [counts[f] for f in group]
        number = sum(own) if most == 1 else max(math.ceil(sum(own) / most), *own, 0) if own else 0
        assert len(of_group) == number, "as few steps as can be"
        lengths = {*map(len, of_group)}
        assert not lengths or max(lengths) - min(lengths) <= 1, "steps are filled evenly"
        expected += number
    assert len(steps) == expected
    for step in steps:
        assert 1 <= len(step) <= most and step == sorted({*step})
    assert arrange(counts, groups, most, seed) == steps
    torch.rand(1)
    assert arrange(counts, groups, most, seed) == steps, "nothing depends on the global generator"


def test_steps_by_hand() -> None:
    assert arrange([3, 3], [[0, 1]], 2, 0) == [[0, 1]] * 3
    assert sorted(arrange([3, 1], [[0, 1]], 2, 0)) == [[0], [0], [0, 1]]
    assert sorted(arrange([2, 2, 2], [[0, 2], [1]], 2, 0)) == [[0, 2], [0, 2], [1], [1]]
    assert arrange([0, 0], [[0, 1]], 2, 0) == [] == arrange([0], [[0]], 1, 0)


def test_steps_are_mixed() -> None:
    counts, groups = [60, 60, 60, 20], [[0, 1], [2, 3]]
    steps = arrange(counts, [[0, 1, 2, 3]], 2, 0)
    pairs = Counter(map(tuple, steps))
    assert len(pairs) == 6, "every two feeds meet"
    halves = Counter(itertools.chain(*steps[:50]))
    assert all(0.3 * count < halves[f] < 0.7 * count for f, count in enumerate(counts)), "all are spread over the whole"
    assert arrange(counts, [[0, 1, 2, 3]], 2, 1) != steps
    kinds = [step[0] // 2 for step in arrange(counts, groups, 2, 0)]
    assert 30 < sum(a != b for a, b in pairwise(kinds)) < 90, "the groups take turns at random"


def test_feeds_meet_as_often_as_they_are_drawn() -> None:
    """Two frequent feeds share 20 steps of 60 at least; were all feeds as likely while a step is filled, they would be
    left over together, and share 30."""
    counts = [40, 40, 10, 10, 10, 10]
    shared = [sum({0, 1} <= {*step} for step in arrange(counts, [[*range(6)]], 2, seed)) for seed in range(20)]
    assert 22 < sum(shared) / 20 < 26


@given(batches=st.integers(1, 200), size=st.integers(1, 6), mode=st.sampled_from(["mixed", "sequential"]))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_stretches_make_up_the_training_and_each_change_is_in_force(batches: int, size: int, mode: str) -> None:
    made = policy("curriculum", (1,) * size, mode=mode)
    done, last = 0, [-1.0] * size
    while done < batches:
        end, shares = next_stretch(made, done, batches)
        assert done < end <= batches
        assert shares != last, "a stretch begins where the shares change"
        if end < batches:
            assert next_stretch(made, end - 1, batches) == (end, shares), "until its end they stay"
        done, last = end, shares
    if batches >= 2 * size:
        assert last == made.shares(1.0), "the last block is reached"


def test_a_second_stage_begins_at_the_nearest_batch() -> None:
    made = policy("two_stage", (300, 100))
    assert next_stretch(made, 0, 101) == (50, [1, 0])
    assert next_stretch(made, 50, 101) == (101, [0.75, 0.25]), "50 of 101 is less than half"
