"""Pinned numbers of the methods that practice made: most are those of mergekit 0.1.5 for the same weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.merging.angles import gram
from allround.merging.methods.arcee_fusion import arcee_fusion
from allround.merging.methods.karcher import karcher
from allround.merging.methods.model_stock import model_stock
from allround.merging.methods.multislerp import multislerp
from allround.merging.methods.nearswap import nearswap
from allround.merging.methods.nuslerp import nuslerp
from allround.merging.methods.passthrough import passthrough
from allround.merging.methods.ram import ram
from allround.merging.methods.sce import sce
from allround.merging.methods.slerp import slerp
from allround.merging.whole import WHOLE

BASE = torch.tensor([[0.5, -1.0, 0.25, 2.0], [-0.75, 1.5, 0.0, -0.5], [1.25, -0.25, 0.75, -1.5]])
DELTAS = torch.tensor(
    [
        [[1.50, -0.25, 0.75, -2.00], [0.10, 0.05, 3.00, -0.60], [0.00, 0.40, -0.80, 0.30]],
        [[-1.00, 0.50, 2.25, -1.75], [0.20, -0.90, 0.30, 1.25], [0.15, -0.35, 0.60, -0.45]],
        [[0.80, -1.10, -2.50, 0.45], [1.60, 0.70, -0.05, 0.65], [2.00, 0.55, 0.35, 0.90]],
    ]
)

# What mergekit 0.1.5 gives, in float32: `mergekit.merge_methods.api.merge_tensors` of the first so many of BASE +
# DELTAS (with BASE as the base where it says so), with its own names for the same parameters. The rows of `ram` with a
# boost are its `ramplus_tl`.
THEIRS: list[tuple[Callable[..., Tensor], int, bool, dict[str, Any], list[float]]] = [
    (
        slerp,
        1,
        True,
        {"t": 0.3},
        [
            1.086222,
            -1.20557,
            0.543111,
            1.532164,
            -0.803095,
            1.694088,
            1.054771,
            -0.76979,
            1.397091,
            -0.138782,
            0.556982,
            -1.571032,
        ],
    ),
    (
        slerp,
        1,
        True,
        {},
        [
            1.425704,
            -1.283134,
            0.712852,
            1.140563,
            -0.798394,
            1.739359,
            1.710845,
            -0.912451,
            1.425704,
            -0.057028,
            0.399197,
            -1.539761,
        ],
    ),
    (
        nuslerp,
        2,
        True,
        {"weights": [0.3, 0.7]},
        [
            0.276161,
            -0.684245,
            2.435281,
            -0.277198,
            -0.542164,
            0.768572,
            1.473618,
            0.299579,
            1.375302,
            -0.379302,
            0.92507,
            -1.753604,
        ],
    ),
    (
        nuslerp,
        2,
        False,
        {"weights": [0.3, 0.7]},
        [
            0.350427,
            -0.86377,
            2.357455,
            0.198386,
            -0.679288,
            1.055204,
            1.35886,
            0.184198,
            1.577958,
            -0.420086,
            1.052602,
            -1.995727,
        ],
    ),
    (
        nuslerp,
        2,
        True,
        {"weights": [0.3, 0.7], "flatten": False},
        [
            0.264662,
            -0.69979,
            2.285477,
            -0.100349,
            -0.528687,
            0.727704,
            1.606564,
            0.335355,
            1.697095,
            -0.318037,
            0.58801,
            -2.109897,
        ],
    ),
    (
        nuslerp,
        2,
        True,
        {"weights": [0.3, 0.7], "flatten": False, "row_wise": True},
        [
            1.225919,
            -0.567468,
            2.380784,
            -0.028593,
            0.120927,
            0.412759,
            1.421147,
            0.243122,
            1.712674,
            -0.379137,
            0.926126,
            -1.738295,
        ],
    ),
    (
        multislerp,
        3,
        True,
        {"weights": [1.0, 2.0, 0.5]},
        [
            0.321787,
            -0.849601,
            2.206289,
            -0.414519,
            -0.185485,
            0.799686,
            1.514654,
            0.589513,
            1.807938,
            -0.308049,
            1.069808,
            -1.623063,
        ],
    ),
    (
        multislerp,
        3,
        False,
        {"weights": [1.0, 2.0, 0.5]},
        [
            0.462464,
            -1.135443,
            2.08592,
            0.546267,
            -0.558307,
            1.3353,
            1.277608,
            0.256095,
            2.034564,
            -0.399055,
            1.244397,
            -2.100115,
        ],
    ),
    (
        multislerp,
        3,
        True,
        {"weights": [0.3, 0.2, 0.3], "normalize": False},
        [
            1.358617,
            -1.543361,
            0.245066,
            0.36169,
            0.29807,
            1.529506,
            1.79226,
            0.077017,
            2.445905,
            0.132714,
            0.760167,
            -1.019606,
        ],
    ),
    (
        karcher,
        3,
        False,
        {},
        [
            1.134389,
            -1.661278,
            1.005567,
            1.081063,
            -0.282297,
            1.893691,
            1.526426,
            -0.024101,
            2.610158,
            -0.154491,
            1.16057,
            -1.880642,
        ],
    ),
    (
        karcher,
        3,
        False,
        {"steps": 1},
        [
            1.136713,
            -1.66116,
            1.006224,
            1.079219,
            -0.283267,
            1.893831,
            1.530311,
            -0.026372,
            2.608484,
            -0.153955,
            1.158581,
            -1.88017,
        ],
    ),
    (
        model_stock,
        3,
        True,
        {},
        [
            0.273572,
            -0.851951,
            0.162912,
            2.574779,
            -1.080933,
            1.526126,
            -0.56607,
            -0.726428,
            0.875523,
            -0.354505,
            0.723874,
            -1.630631,
        ],
    ),
    (
        model_stock,
        2,
        True,
        {},
        [
            0.583223,
            -0.958389,
            0.749336,
            1.37583,
            -0.700066,
            1.358521,
            0.54927,
            -0.391811,
            1.274967,
            -0.241678,
            0.716711,
            -1.524967,
        ],
    ),
    (
        model_stock,
        3,
        True,
        {"filter_wise": True},
        [
            0.05673,
            -0.710169,
            0.079511,
            3.125225,
            -0.673873,
            1.49399,
            0.130218,
            -0.447913,
            -0.360855,
            -0.699541,
            0.637615,
            -2.061926,
        ],
    ),
    (
        sce,
        3,
        True,
        {},
        [
            1.651281,
            -1.673444,
            1.635125,
            0.105854,
            -0.077041,
            0.6,
            1.856775,
            0.405123,
            2.463371,
            0.224725,
            1.206301,
            -0.901098,
        ],
    ),
    (
        sce,
        3,
        True,
        {"keep": 0.4},
        [1.783193, -1.0, 1.552292, 0.092049, -0.75, 1.5, 2.005873, -0.5, 1.25, -0.25, 0.75, -1.5],
    ),
    (nearswap, 1, True, {"t": 0.5}, [1.0, -1.25, 0.75, 1.5, -0.65, 1.55, 0.5, -1.0, 1.25, 0.15, 0.25, -1.2]),
    (
        nearswap,
        1,
        True,
        {},
        [0.5001, -1.0001, 0.2501, 1.9999, -0.7499, 1.5001, 0.0001, -0.5001, 1.25, -0.2499, 0.7499, -1.4999],
    ),
    (
        ram,
        3,
        True,
        {},
        [0.933333, -1.283333, 0.416667, 0.9, -0.116667, 1.45, 1.083333, -0.066667, 2.325, -0.05, 0.8, -1.25],
    ),
    (
        ram,
        3,
        True,
        {"epsilon": 0.5},
        [0.933333, -2.1, 0.416667, 0.125, 0.85, 1.4, 3.0, -0.066667, 3.25, 0.3, 0.65, -0.6],
    ),
    (
        ram,
        3,
        True,
        {"epsilon": 0.5, "boost": 0.1},
        [0.933333, -2.122, 0.416667, 0.125, 0.882, 1.4, 3.06, -0.066667, 3.29, 0.311, 0.65, -0.582],
    ),
    (
        ram,
        3,
        True,
        {"epsilon": 0.12, "boost": 0.3, "limit": 0.5},
        [0.933333, -1.283333, 0.416667, 0.9, 0.15, 1.4, 1.65, -0.066667, 2.325, -0.05, 0.8, -1.25],
    ),
    (arcee_fusion, 1, True, {}, [2.0, -1.0, 0.25, 0.0, -0.75, 1.5, 3.0, -0.5, 1.25, -0.25, 0.75, -1.5]),
    (
        passthrough,
        1,
        False,
        {"scale": 0.5},
        [1.0, -0.625, 0.5, 0.0, -0.325, 0.775, 1.5, -0.55, 0.625, 0.075, -0.025, -0.6],
    ),
]


@pytest.mark.parametrize(("method", "count", "with_base", "values", "merged"), THEIRS)
def test_equals_mergekit(
    method: Callable[..., Tensor], count: int, with_base: bool, values: dict[str, Any], merged: list[float]
) -> None:
    base, deltas = (BASE, DELTAS[:count]) if with_base else (torch.zeros_like(BASE), BASE + DELTAS[:count])
    assert method(base, deltas, **values).flatten().tolist() == pytest.approx(merged, abs=2e-6)


def test_gram_adds_up_exactly_in_long_weights_and_in_those_that_are_no_multiple() -> None:
    for size in (5, 2048, 9999):
        vectors = torch.randn((3, size), generator=torch.Generator().manual_seed(0))
        expected = vectors.double() @ vectors.double().T
        found = gram(vectors, WHOLE)
        assert found.dtype == torch.float64 and torch.allclose(found, expected, rtol=1e-6, atol=1e-4)


def test_slerp_by_hand() -> None:
    """From (1, 0) to (0, 1) a third of the way: 30 degrees. The lengths are those of the ends."""
    merged = slerp(torch.tensor([1.0, 0.0]), torch.tensor([[-1.0, 1.0]]), t=1 / 3)
    assert merged.tolist() == pytest.approx([math.cos(math.pi / 6), math.sin(math.pi / 6)], abs=1e-6)


def test_slerp_takes_the_line_where_the_angle_is_small() -> None:
    merged = slerp(BASE, 0.02 * DELTAS[:1], t=0.3)
    assert torch.equal(merged, BASE + 0.3 * (0.02 * DELTAS[0]))
    theirs = [0.509, -1.0015, 0.2545, 1.988, -0.7494, 1.5003, 0.018, -0.5036, 1.25, -0.2476, 0.7452, -1.4982]
    assert merged.flatten().tolist() == pytest.approx(theirs, abs=1e-6)  # mergekit's


def test_nuslerp_takes_a_vector_as_one_row() -> None:
    """mergekit's numbers for the first rows as weights of one dimension."""
    merged = nuslerp(BASE[0], DELTAS[:2, 0], flatten=False)
    assert merged.tolist() == pytest.approx([0.794245, -0.852877, 2.015473, -0.206841], abs=1e-6)


def test_nuslerp_of_opposite_changes_takes_the_line() -> None:
    merged = nuslerp(BASE, torch.stack([DELTAS[0], -DELTAS[0]]), weights=[1.0, 3.0])
    theirs = [-0.25, -0.875, -0.125, 3.0, -0.8, 1.475, -1.5, -0.2, 1.25, -0.45, 1.15, -1.65]
    assert merged.flatten().tolist() == pytest.approx(theirs, abs=1e-6)


def test_nuslerp_with_weights_that_cancel_goes_half_way() -> None:
    assert torch.equal(nuslerp(BASE, DELTAS[:2], weights=[1.0, -1.0]), nuslerp(BASE, DELTAS[:2]))


def test_multislerp_keeps_one_change_as_it_is() -> None:
    """As mergekit, whatever its weight."""
    assert torch.equal(multislerp(BASE, DELTAS[:1], weights=0.5), BASE + DELTAS[0])


def test_multislerp_of_changes_that_cancel_takes_their_mean() -> None:
    """Three at 120 degrees of lengths 1, 1 and 4: mergekit fails here; for two it takes the mean as well."""
    turns = torch.tensor([[1.0, 0.0], [-0.5, 3**0.5 / 2], [-2.0, -(3**0.5) * 2]], dtype=torch.float64)
    assert torch.allclose(multislerp(torch.zeros(2).double(), turns), turns.mean(0), atol=1e-12)
    two = torch.tensor([[1.0, 2.0], [-2.0, -4.0]], dtype=torch.float64)
    assert torch.allclose(multislerp(torch.zeros(2).double(), two), two.mean(0), atol=1e-12)


def test_karcher_of_two_is_half_way_on_the_arc() -> None:
    """By hand: of directions at 0 and 90 degrees the mean is at 45; the length is the mean of 3 and 1."""
    merged = karcher(torch.ones(2), torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    assert merged.tolist() == pytest.approx([1 + 2 / 2**0.5, 1 + 2 / 2**0.5], abs=1e-6)


def test_karcher_with_a_base_is_that_of_the_changes() -> None:
    """mergekit's numbers, with DELTAS as its inputs; a change that is zero has no direction, but counts as length."""
    theirs = [0.683197, -0.535281, 0.429585, -2.228131, 1.337973, -0.173956, 1.984659, 1.064842, 1.520697]
    theirs += [0.354267, 0.232669, 0.463237]
    change = karcher(BASE, DELTAS) - BASE
    assert change.flatten().tolist() == pytest.approx(theirs, abs=2e-6)
    more = karcher(BASE, torch.cat([DELTAS, torch.zeros(1, 3, 4)])) - BASE
    assert torch.allclose(more, 0.75 * change, atol=1e-6)


def test_karcher_among_the_weights_is_mergekits_with_a_base_model() -> None:
    theirs = [0.969007, -1.517144, 0.795583, 1.510726, -0.493661, 1.872666, 1.048327, -0.218354, 2.254597]
    theirs += [-0.204209, 1.078237, -1.869854]
    merged = karcher(torch.zeros_like(BASE), torch.cat([BASE[None], BASE + DELTAS]))
    assert merged.flatten().tolist() == pytest.approx(theirs, abs=2e-6)


def test_karcher_of_opposite_changes_begins_with_the_first() -> None:
    """By hand: the mean of the directions is zero; from the first, the other one pulls to no side."""
    two = torch.tensor([[1.0, 0.0], [-3.0, 0.0]])
    assert karcher(torch.zeros(2), two, steps=0).tolist() == [2.0, 0.0]


def test_model_stock_by_hand() -> None:
    """45 degrees between: r = 2 c / (1 + c) with c = 1 / sqrt 2."""
    merged = model_stock(torch.zeros(2), torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    ratio = math.sqrt(2) / (1 + math.sqrt(0.5))
    assert merged.tolist() == pytest.approx([ratio, ratio / 2], abs=1e-6)


def test_model_stock_stays_at_the_base_where_changes_are_opposite_or_at_right_angles() -> None:
    assert torch.equal(model_stock(BASE, torch.stack([DELTAS[0], -DELTAS[0]])), BASE)
    assert torch.equal(model_stock(torch.ones(2), torch.eye(2)), torch.ones(2))


def test_model_stock_of_a_vector_is_filter_wise_one_filter() -> None:
    """mergekit's numbers for the first rows as weights of one dimension."""
    merged = model_stock(BASE[0], DELTAS[:2, 0], filter_wise=True)
    assert merged.tolist() == pytest.approx([0.653678, -0.923161, 1.17207, 0.847413], abs=1e-6)


def test_sce_by_hand() -> None:
    """Mean squares 1, 5 and 4: weights 0.1, 0.5, 0.4. Sums 4 and 2: all agree in the first, two in the second."""
    deltas = torch.tensor([[1.0, -1.0], [1.0, 3.0], [2.0, 2.0]])
    expected = [0.1 + 0.5 + 0.8, (1.5 + 0.8) / 0.9]
    assert sce(torch.zeros(2), deltas).tolist() == pytest.approx(expected, abs=1e-6)


def test_sce_weighs_small_changes_alike_unless_told() -> None:
    """As mergekit, whose numbers these are; without a floor the weights do not depend on the scale of the changes."""
    theirs = [0.500115, -1.000067, 0.25015, 1.999812, -0.749937, 1.49991, 0.000165, -0.499905, 1.250108]
    theirs += [-0.249952, 0.750048, -1.49994]
    assert sce(BASE, 1e-4 * DELTAS).flatten().tolist() == pytest.approx(theirs, abs=1e-6)
    zero = torch.zeros_like(BASE)
    assert torch.allclose(1e4 * sce(zero, 1e-4 * DELTAS, floor=0), sce(zero, DELTAS), atol=1e-5)


def test_sce_counts_only_entries_that_vary() -> None:
    """Two of four do: of these half is one, the one that varies most. The others stay, though all models moved them."""
    deltas = torch.tensor([[5.0, 5.0, 1.0, 0.5], [5.0, 5.0, 3.0, 1.0]])
    assert sce(torch.zeros(4), deltas, keep=0.5).tolist() == pytest.approx([0.0, 0.0, 2.8, 0.0])  # weights 0.1, 0.9
    assert sce(torch.ones(4), deltas, keep=0.4).tolist() == [1.0] * 4
    assert sce(torch.ones(4), deltas, keep=0).tolist() == [1.0] * 4


def test_nearswap_with_a_tiny_t_takes_tiny_changes_in_part() -> None:
    """mergekit's weight is t / max(|d|, 1e-6): 0.25 for the first."""
    changes = torch.tensor([[4e-7, -2e-6, 1.0]], dtype=torch.float64)
    merged = nearswap(torch.zeros(3, dtype=torch.float64), changes, t=2.5e-7)
    assert merged.tolist() == pytest.approx([1e-7, -2.5e-7, 2.5e-7], rel=1e-6)


def test_ram_by_hand() -> None:
    """Model 1 changed one entry with another and two alone, model 2 one and one: shared / alone is 1/2 and 1."""
    deltas = torch.tensor([[1.0, 2.0, 4.0, 0.0], [3.0, 0.0, 0.0, -1.0]])
    assert ram(torch.zeros(4), deltas).tolist() == [2.0, 2.0, 4.0, -1.0]
    assert ram(torch.zeros(4), deltas, boost=1.0, limit=9.0).tolist() == [2.0, 3.0, 6.0, -2.0]
    assert ram(torch.zeros(4), deltas, boost=1.0, limit=0.75).tolist() == [2.0, 3.0, 6.0, -1.75]


def test_ram_takes_an_entry_at_epsilon_for_no_change() -> None:
    assert ram(torch.zeros(3), torch.tensor([[0.5, -0.5, 0.75]]), epsilon=0.5).tolist() == [0.0, 0.0, 0.75]


def test_arcee_fusion_of_a_vector() -> None:
    """mergekit's choice for all as a weight of one dimension. |d| in order: 0 .05 .1 .25 .3 .4 .6 .75 .8 1.5 2 3; at
    places 2, 5 and 8: .1, .4, .8; from .4 + 1.5 * .7 = 1.45 on they are taken."""
    merged = arcee_fusion(BASE.flatten(), DELTAS[:1].reshape(1, 12))
    assert merged.tolist() == [2.0, -1.0, 0.25, 0.0, -0.75, 1.5, 3.0, -0.5, 1.25, -0.25, 0.75, -1.5]


def test_arcee_fusion_weighs_rows_by_how_far_the_softmax_moved() -> None:
    """The second row changes as much as the first, but nearly all by one: its softmax hardly moves, and it stays."""
    first, little = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([0.01, -0.01, 0.01, -0.01])
    merged = arcee_fusion(torch.zeros(4, 4), torch.stack([first, 1 + little, little, little])[None])
    assert torch.equal(merged, torch.stack([first, *torch.zeros(3, 4)]))


def test_arcee_fusion_chooses_the_same_in_float32_for_small_changes() -> None:
    """Where the divergence is of the size of rounding: p - q is taken, so what is lost is second order."""
    generator = torch.Generator().manual_seed(0)
    base = 0.02 * torch.randn((64, 256), generator=generator)
    deltas = 2e-4 * torch.randn((1, 64, 256), generator=generator)
    taken = arcee_fusion(base, deltas) != base
    exact = arcee_fusion(base.double(), deltas.double()) != base.double()
    assert 0.001 < float(exact.double().mean()) < 0.3
    assert float((taken != exact).double().mean()) < 1e-3


def test_passthrough() -> None:
    assert torch.equal(passthrough(torch.zeros_like(BASE), BASE[None]), BASE)
    assert passthrough(torch.zeros(2), torch.tensor([[1.0, -2.0]]), scale=-0.5).tolist() == [-0.5, 1.0]


@pytest.mark.parametrize(
    ("method", "values"),
    [
        (multislerp, {"eps": 0.0}),
        (karcher, {"steps": -1}),
        (karcher, {"tolerance": 0.0}),
        (sce, {"keep": 1.5}),
        (nearswap, {"t": -1.0}),
        (ram, {"epsilon": -1e-5}),
        (ram, {"boost": -0.1}),
        (ram, {"limit": -0.1}),
    ],
)
def test_values_that_make_no_sense_are_refused(method: Callable[..., Tensor], values: dict[str, float]) -> None:
    with pytest.raises(AllroundError):
        method(BASE, DELTAS, **values)
