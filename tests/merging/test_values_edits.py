"""Pinned numbers of the methods that edit changes: masks, random drops, closed-form coefficients.

"Run" means that the numbers below are the outputs of the named function at the named commit, on DELTAS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.merging import kernels
from allround.merging.methods.breadcrumbs import breadcrumbs
from allround.merging.methods.cclip import cclip
from allround.merging.methods.consensus import consensus
from allround.merging.methods.dare import dare
from allround.merging.methods.della import della
from allround.merging.methods.fedgma import fedgma
from allround.merging.methods.fednova import fednova
from allround.merging.methods.lwptv import lwptv
from allround.merging.methods.median import median
from allround.merging.methods.metagpt import metagpt
from allround.merging.methods.pcb import pcb
from allround.merging.whole import WHOLE, Blocks, over_blocks

BASE = torch.arange(10) / 10
ZERO = torch.zeros(10)
DELTAS = torch.tensor(
    [
        [0.5, -1.2, 0.3, 2.0, -0.7, 0.05, 1.1, -0.4, 0.9, -1.6],
        [0.4, 1.0, -0.6, 1.5, -0.9, 0.02, -0.3, -1.3, 0.7, -0.2],
        [-0.1, -0.8, 0.45, 0.6, -1.4, 0.15, 0.25, -0.35, 1.25, -2.1],
    ]
)


def over_model(method: Callable[..., Tensor], bases: list[Tensor], deltas: list[Tensor], **values: Any) -> list[Tensor]:
    """Merge the tensors of a model with the answers taken over all of them, as the scope "model" does."""
    whole = Blocks(sum(base.numel() for base in bases))

    def one(number: int) -> Tensor:
        whole.at(number, 0, number)
        return method(bases[number], deltas[number], whole=whole, **values)

    while True:
        merged = [tensor for _, tensor in over_blocks(whole, range(len(bases)), one)]
        if whole.part is None:
            return merged
        whole.finish()


# breadcrumbs


@pytest.mark.parametrize(
    ("keep", "outliers", "expected"),
    [
        (0.5, 0.1, [[0, -1.2, 0, 0, -0.7, 0, 1.1, 0, 0.9, -1.6], [0, 1, -0.6, 0, -0.9, 0, 0, -1.3, 0.7, 0],
                    [0, -0.8, 0.45, 0.6, -1.4, 0, 0, 0, 1.25, 0]]),
        (0.3, 0.2, [[0, -1.2, 0, 0, 0, 0, 1.1, 0, 0.9, 0], [0, 1, 0, 0, -0.9, 0, 0, 0, 0.7, 0],
                    [0, -0.8, 0, 0.6, 0, 0, 0, 0, 1.25, 0]]),
        (0.95, 0.2, [[0.5, -1.2, 0.3, 0, -0.7, 0.05, 1.1, -0.4, 0.9, -1.6],
                     [0.4, 1, -0.6, 0, -0.9, 0.02, -0.3, -1.3, 0.7, -0.2],
                     [-0.1, -0.8, 0.45, 0.6, -1.4, 0.15, 0.25, -0.35, 1.25, 0]]),
    ],
)  # fmt: skip
def test_breadcrumbs_keeps_what_mergekit_keeps(keep: float, outliers: float, expected: list[list[float]]) -> None:
    """Run: mergekit 0.1.5, sparsify.magnitude_outliers(density=keep, gamma=outliers), for each row."""
    for row, wanted in zip(DELTAS, expected, strict=True):
        got = breadcrumbs(ZERO, row[None], keep=keep, outliers=outliers, scale=1.0)
        assert torch.allclose(got, torch.tensor(wanted, dtype=torch.float32))


def test_breadcrumbs_merges_as_mergekit() -> None:
    """Run: mergekit 0.1.5, magnitude_outliers(.5, gamma=.1), then the steps of its generalized_task_arithmetic."""
    common: dict[str, Any] = {"keep": 0.5, "outliers": 0.1, "scale": 0.8, "weights": [1.0, 0.5, 2.0]}
    assert breadcrumbs(BASE, DELTAS, **common, normalize=True).tolist() == pytest.approx(
        [0.0, -0.4257143, 0.3371429, 0.5742857, -0.5028571, 0.5, 0.8514286, 0.5514286, 1.6571429, 0.5342857], abs=1e-6
    )
    assert breadcrumbs(BASE, DELTAS, **common, elect=True, rescale="l1").tolist() == pytest.approx(
        [0.0, -3.5463839, 1.392, 1.8893335, -4.7529535, 0.5, 2.0, -0.0996444, 5.6871438, -1.1363639], abs=1e-6
    )


def test_breadcrumbs_keeps_what_the_authors_keep_in_one_row() -> None:
    """Run: rezazzr/breadcrumbs f89fc66, TaskVectorMiddleKeep(top_k_keep=.4, top_k_remove=.1) of one row each."""
    expected = [
        [0, -1.2, 0, 0, 0, 0, 1.1, 0, 0.9, -1.6],
        [0, 1, 0, 0, -0.9, 0, 0, -1.3, 0.7, 0],
        [0, -0.8, 0, 0.6, -1.4, 0, 0, 0, 1.25, 0],
    ]
    for row, wanted in zip(DELTAS, expected, strict=True):
        got = breadcrumbs(ZERO, row[None], keep=0.4, outliers=0.1, scale=1.0)
        assert torch.allclose(got, torch.tensor(wanted))


def test_breadcrumbs_of_each_model_and_of_equals() -> None:
    deltas = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]])
    got = breadcrumbs(torch.zeros(4), deltas, keep=[0.25, 1.0], outliers=[0.25, 0.5], scale=1.0)
    assert got.tolist() == [4.0, 6.0, 2.0, 1.0]
    assert breadcrumbs(torch.zeros(4), torch.ones(1, 4), keep=0.5, outliers=0.25, scale=1.0).tolist() == [1.0] * 4


@pytest.mark.parametrize(
    "values", [{"keep": 0.0}, {"keep": 1.5}, {"outliers": -0.1}, {"outliers": 2.0}, {"rescale": "l3"}]
)
def test_breadcrumbs_refuses_what_is_no_share(values: dict[str, Any]) -> None:
    with pytest.raises(AllroundError):
        breadcrumbs(ZERO, DELTAS, **values)


# pcb


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (0.2, [0, 0, 0, 1.45, 0, 0, 0, 0, 0, -1.4]),
        (0.4, [0, -1.2, 0, 1.45, -1.3531252, 0, 0, -1.3, 1.25, -1.4999995]),
    ],
)
def test_pcb_gives_the_numbers_of_the_released_code(keep: float, expected: list[float]) -> None:
    """Run: duguodong7/pcb-merging 5897888, pcb-merging.py, PCB_merge(DELTAS, keep)[0]."""
    assert pcb(ZERO, DELTAS, keep=keep).tolist() == pytest.approx(expected, abs=1e-5)
    assert pcb(BASE, DELTAS, keep=keep, scale=2.0).tolist() == pytest.approx(
        [b + 2 * e for b, e in zip(BASE.tolist(), expected, strict=True)], abs=1e-5
    )


@pytest.mark.parametrize("size", [1.0, 0.01, 0.001])
@pytest.mark.parametrize("models", [1, 3, 40])
def test_pcb_is_the_same_in_float32_and_float64(size: float, models: int) -> None:
    """In float32 by compiled loops, in which tanh(x) is x where the two cannot be told apart; in float64 by torch."""
    generator = torch.Generator().manual_seed(0)
    deltas = size * torch.randn(models, 4000, generator=generator)
    base = torch.zeros(4000)
    wide = pcb(base.double(), deltas.double(), keep=0.2)
    assert torch.allclose(pcb(base, deltas, keep=0.2).double(), wide, atol=1e-4 * size)


def test_pcb_takes_its_thresholds_over_the_model() -> None:
    parts = [DELTAS[:, :3], DELTAS[:, 3:]]
    merged = over_model(pcb, [ZERO[:3], ZERO[3:]], parts, keep=0.4)
    assert torch.allclose(torch.cat(merged), pcb(ZERO, DELTAS, keep=0.4))


def test_pcb_where_all_scores_are_equal() -> None:
    assert pcb(torch.zeros(3), torch.full((2, 3), 0.5), keep=0.4).tolist() == [0.5, 0.5, 0.5]
    with pytest.raises(AllroundError):
        pcb(ZERO, DELTAS, keep=0.0)


# consensus


@pytest.mark.parametrize(
    ("threshold", "votes", "expected"),
    [
        (0.4, 2, [0.8, -1.0, 0.15, 4.1, -3.0, 0, 0, 0, 2.85, -3.9]),
        (0.8, 2, [0.8, -1.0, 0.15, 0, 0, 0, 0, 0, 0, 0]),
        (0.4, 1, [0.8, -1.0, 0.15, 4.1, -3.0, 0.22, 1.05, -2.05, 2.85, -3.9]),
        (0.4, 3, [0, -1.0, 0.15, 0, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_consensus_keeps_what_the_released_code_keeps(threshold: float, votes: int, expected: list[float]) -> None:
    """Run: nik-dim/tall_masks d10af8b, generate_task_masks at one lambda, summed, >= votes, times the sum."""
    got = consensus(ZERO, DELTAS, threshold=threshold, votes=votes, scale=1.0)
    assert got.tolist() == pytest.approx(expected, abs=1e-6)
    half = consensus(BASE, DELTAS, threshold=[threshold] * 3, votes=votes, scale=0.5)
    assert torch.allclose(half, BASE + 0.5 * torch.tensor(expected))


def test_consensus_of_a_ties_vector() -> None:
    """Run: the same with tv = ties_merging(DELTAS, 40, "dis-sum"), which keeps one entry more than 40 %."""
    got = consensus(ZERO, DELTAS, threshold=0.4, keep=0.5, elect=True, scale=1.0)
    assert got.tolist() == pytest.approx([0, -2.0, 0, 4.1, -2.3, 0, 0, -1.3, 2.85, -3.7], abs=1e-6)


def test_consensus_without_votes_is_the_sum() -> None:
    assert torch.allclose(consensus(BASE, DELTAS, votes=0, scale=0.3), BASE + 0.3 * DELTAS.sum(0))
    with pytest.raises(AllroundError):
        consensus(BASE, DELTAS, votes=-1)


# metagpt


def test_metagpt_by_hand() -> None:
    """Squared norms 4, 9 and 12 over both tensors: shares 4/25, 9/25 and 12/25."""
    first = torch.tensor([[2.0, 0.0], [0.0, 0.0], [2.0, 2.0]])
    second = torch.tensor([[0.0], [3.0], [-2.0]])
    merged = over_model(metagpt, [torch.zeros(2), torch.ones(1)], [first, second])
    assert merged[0].tolist() == pytest.approx([(4 * 2 + 12 * 2) / 25, 12 * 2 / 25])
    assert merged[1].tolist() == pytest.approx([1 + (9 * 3 - 12 * 2) / 25])


# Aggregators of federated learning, as src/ta_algorithms.py in github.com/SilviaTao/one_shot_fl_task_arithmetic has
# them: median_of_tvs, fednova, fedgma, cclip.

SPREAD = torch.tensor([[3.0, -4.0, 0.0, 1.0], [1.0, 2.0, -2.0, 4.0], [-8.0, 6.0, 0.0, 0.0]])


def test_median_by_hand() -> None:
    """Columns (-8, 1, 3), (-4, 2, 6), (-2, 0, 0), (0, 1, 4); of the first two rows (1, 3), (-4, 2), (-2, 0), (1, 4)."""
    assert median(torch.zeros(4), SPREAD).tolist() == [1.0, 2.0, 0.0, 1.0]
    assert median(torch.ones(4), SPREAD, scale=2.0).tolist() == [3.0, 5.0, 1.0, 3.0]
    assert median(torch.zeros(4), SPREAD[:2]).tolist() == [2.0, -1.0, -1.0, 2.5]
    theirs = SPREAD.median(dim=0).values
    assert torch.equal(median(torch.zeros(4), SPREAD), theirs), "torch's own, as the authors take it, for odd numbers"


def test_fednova_by_hand() -> None:
    """Steps 10, 20, 60: their mean 30 over each is 3, 3/2, 1/2, and a third of these is 1, 1/2, 1/6."""
    found = fednova(torch.zeros(4), SPREAD, steps=[10, 20, 60])
    assert found.tolist() == pytest.approx([3 + 0.5 - 8 / 6, -4 + 1 + 1, -1, 1 + 2])
    assert torch.allclose(fednova(torch.ones(4), SPREAD, steps=5.0), torch.ones(4) + SPREAD.mean(0))
    with pytest.raises(AllroundError, match="not all of them are above zero"):
        fednova(torch.zeros(4), SPREAD, steps=[10, 0, 60])


def test_fednova_takes_lengths_for_steps_over_the_model() -> None:
    """Lengths 5 and 10 over both tensors, 7.5 on average: half of 7.5 / 5 and of 7.5 / 10."""
    first, second = torch.tensor([[3.0, 0.0], [6.0, 0.0]]), torch.tensor([[4.0], [8.0]])
    merged = over_model(fednova, [torch.zeros(2), torch.ones(1)], [first, second])
    assert merged[0].tolist() == pytest.approx([0.75 * 3 + 0.375 * 6, 0])
    assert merged[1].tolist() == pytest.approx([1 + 0.75 * 4 + 0.375 * 8])


@pytest.mark.parametrize(("agreement", "mask"), [(0.3, [1, 1, 1, 1]), (0.5, [1 / 3, 1 / 3, 1 / 3, 1])])
def test_fedgma_by_hand(agreement: float, mask: list[float]) -> None:
    """Signs + + -, - + +, 0 - 0, + + 0: they agree to 1/3, 1/3, 1/3, 2/3; the sum is -4, 4, -2, 5."""
    found = fedgma(torch.ones(4), SPREAD, agreement=agreement, scale=0.5)
    total = [-4, 4, -2, 5]
    assert found.tolist() == pytest.approx([1 + 0.5 * m * t for m, t in zip(mask, total, strict=True)])


@pytest.mark.parametrize(("radius", "length"), [(0.0, 5.0), (0.5, 7.5), (1.0, 10.0)])
def test_cclip_by_hand(radius: float, length: float) -> None:
    """Lengths 5 and 10 over both tensors; the third model is the base."""
    first, second = torch.tensor([[3.0, 0.0], [6.0, 0.0], [0.0, 0.0]]), torch.tensor([[4.0], [8.0], [0.0]])
    merged = over_model(cclip, [torch.zeros(2), torch.ones(1)], [first, second], radius=radius, scale=0.5)
    share = length / 10
    assert merged[0].tolist() == pytest.approx([0.5 * (3 + share * 6), 0])
    assert merged[1].tolist() == pytest.approx([1 + 0.5 * (4 + share * 8)])


@pytest.mark.parametrize(("method", "values"), [(fedgma, {"agreement": 1.5}), (cclip, {"radius": -0.1})])
def test_aggregators_refuse_what_is_no_share(method: Callable[..., Tensor], values: dict[str, Any]) -> None:
    with pytest.raises(AllroundError, match="not between 0 and 1"):
        method(torch.zeros(4), SPREAD, **values)


# lwptv


def test_lwptv_by_hand() -> None:
    """Roots of mean squares of three tensors: 1, 2, 3 for the first model and 3, 0, 1 for the second.

    Of three, 0.7 keeps two: the second and third of the first model, the first and third of the second.
    """
    deltas = [
        torch.tensor([[1.0, -1.0], [3.0, 3.0]]),
        torch.tensor([[2.0], [0.0]]),
        torch.tensor([[3.0, -3.0, 3.0], [1.0, 1.0, 1.0]]),
    ]
    bases = [torch.zeros(2), torch.ones(1), torch.zeros(3)]
    merged = over_model(lwptv, bases, deltas, keep=0.7, scale=0.5)
    assert [m.tolist() for m in merged] == [[1.5, 1.5], [2.0], [2.0, -1.0, 2.0]]
    merged = over_model(lwptv, bases, deltas, keep=0.4, scale=1.0)
    assert [m.tolist() for m in merged] == [[3.0, 3.0], [1.0], [3.0, -3.0, 3.0]]
    merged = over_model(lwptv, bases, deltas, keep=[1.0, 0.4], scale=1.0, weights=[1.0, 2.0])
    assert [m.tolist() for m in merged] == [[7.0, 5.0], [3.0], [3.0, -3.0, 3.0]]


# dare


#: What `uniform` draws for the first six places of a weight called by hand, for two models and seed 0.
DRAWN = [[0.0199, 0.3249, 0.9798, 0.1389, 0.3025, 0.9188], [0.9398, 0.0125, 0.6178, 0.1681, 0.4345, 0.8870]]


def test_dare_drops_where_the_number_drawn_is_not_below_keep() -> None:
    deltas = torch.tensor([[1.0, 2, 3, 4, 5, 6], [10, 20, 30, 40, 50, 60]])
    assert torch.allclose(WHOLE.uniform(deltas, 0), torch.tensor(DRAWN), atol=1e-4)
    # below 1/2: places 0, 1, 3, 4 of the first and 1, 3, 4 of the second
    none = dare(torch.zeros(6), deltas, keep=0.5, scale=1.0, rescale="none")
    assert none.tolist() == [1.0, 22.0, 0.0, 44.0, 55.0, 0.0]
    assert torch.equal(dare(torch.zeros(6), deltas, keep=0.5, scale=1.0), 2 * none)
    # magnitudes 12 of 21 and 110 of 210 are left
    first, second = 21 / 12, 210 / 110
    assert dare(torch.zeros(6), deltas, keep=0.5, scale=1.0, rescale="l1").tolist() == pytest.approx(
        [first, 2 * first + 20 * second, 0, 4 * first + 40 * second, 5 * first + 50 * second, 0]
    )
    # a share for each, 0.3 and 0.9, and a sign elected
    got = dare(torch.zeros(6), deltas * torch.tensor([[-1], [1]]), keep=[0.3, 0.9], scale=1.0, elect=True)
    assert got.tolist() == pytest.approx([-1 / 0.3, 20 / 0.9, 30 / 0.9, 40 / 0.9, 50 / 0.9, 60 / 0.9])


@pytest.mark.parametrize("keep", [0.1, 0.3, 0.9])
def test_dare_keeps_the_share_and_the_mean(keep: float) -> None:
    """mergekit's bernoulli at 0.3 keeps 0.2997 of 200,000; standard deviation 0.001."""
    ones = torch.ones(2, 400, 500)
    for seed in (0, 1):
        got = dare(torch.zeros(400, 500), ones[:1], keep=keep, scale=1.0, seed=seed)
        assert float((got != 0).float().mean()) == pytest.approx(keep, abs=0.005)
        assert float(got.mean()) == pytest.approx(1.0, abs=0.03)
    both = dare(torch.zeros(400, 500), ones, keep=keep, scale=1.0, rescale="none")
    assert float((both == 2).float().mean()) == pytest.approx(keep**2, abs=0.005)


def test_dare_at_one_is_the_sum() -> None:
    assert torch.allclose(dare(BASE, DELTAS, keep=1.0, scale=0.5), BASE + 0.5 * DELTAS.sum(0))
    for values in ({"keep": 0.0}, {"keep": 1.1}, {"rescale": "l2"}):
        with pytest.raises(AllroundError):
            dare(BASE, DELTAS, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_numbers_at_the_beginning_of_a_weight_are_drawn_too(seed: int) -> None:
    """Not zero at the first place, for any seed, nor the same for all models."""
    drawn = kernels.uniform(torch.zeros(64, 3), 0, 0, seed)
    assert 0.3 < float(drawn[:, 0].mean()) < 0.7 and len(drawn[:, 0].unique()) == 64


# della


def test_della_by_hand() -> None:
    """A row of four: chances 0.35, 0.45, 0.55, 0.65 from the smallest; drawn .0199, .3249, .9798, .1389, ..."""
    deltas = torch.tensor([[[0.1, -3.0, 0.2, 2.0]], [[0.1, -3.0, 0.2, 2.0]]])
    # the first: .0199 < .35, .3249 < .65, .9798 >= .45, .1389 < .55
    first = della(torch.zeros(1, 4), deltas[:1])
    assert first.flatten().tolist() == pytest.approx([0.1 / 0.35, -3 / 0.65, 0, 2 / 0.55])
    # the second model: .9398 >= .35, .0125 < .65, .6178 >= .45, .1681 < .55
    both = della(torch.zeros(1, 4), deltas, rescale="none", elect=False, normalize=False)
    assert both.flatten().tolist() == pytest.approx([0.1, -6.0, 0, 4.0])
    l1 = della(torch.zeros(1, 4), deltas[:1], rescale="l1")
    assert l1.flatten().tolist() == pytest.approx([0.1 * 5.3 / 5.1, -3 * 5.3 / 5.1, 0, 2 * 5.3 / 5.1])


def test_della_keeps_by_rank_as_mergekit() -> None:
    """Run: mergekit 0.1.5, della_magprune(density=.5, epsilon=.15) keeps 0.499 of all, 0.365 of the smallest tenth of
    each row and 0.640 of the largest."""
    deltas = torch.randn(1, 400, 500, generator=torch.Generator().manual_seed(0))
    base = torch.zeros(400, 500)
    kept = (della(base, deltas, elect=False, rescale="none") != 0).float()
    ranks = deltas[0].abs().argsort(1).argsort(1)
    assert float(kept.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(kept[ranks < 50].mean()) == pytest.approx(0.365, abs=0.015)
    assert float(kept[ranks >= 450].mean()) == pytest.approx(0.635, abs=0.015)
    # what is divided by its chance keeps its mean
    assert float(della(base, deltas.abs()).mean()) == pytest.approx(float(deltas.abs().mean()), rel=0.01)


@pytest.mark.parametrize("length", [2, 50, 1000, 5000])
def test_della_ranks_are_those_of_a_sort_up_to_near_equals(length: int) -> None:
    deltas = torch.randn(2, 3, length, generator=torch.Generator().manual_seed(0))
    factors = kernels.keep_by_rank(deltas, torch.zeros_like(deltas), [0.35, 0.2], [0.65, 0.3], inverse=True)
    ranks = deltas.abs().argsort(2).argsort(2) / (length - 1)
    exact = torch.tensor([0.35, 0.2])[:, None, None] + torch.tensor([0.3, 0.1])[:, None, None] * ranks
    assert float((1 / factors - exact).abs().max()) < 0.01
    assert float((1 / factors - exact).abs().mean()) < 0.001
    assert torch.allclose((1 / factors).mean(2), torch.tensor([[0.5], [0.25]]).expand(2, 3), atol=1e-5)


def test_della_gives_equals_their_mean_chance() -> None:
    deltas = torch.tensor([[[0.0, 0.0, 1.0, -1.0, 1.0]]])
    chance = 1 / kernels.keep_by_rank(deltas, torch.zeros_like(deltas), [0.3], [0.7], inverse=True)
    assert chance.flatten().tolist() == pytest.approx([0.35, 0.35, 0.6, 0.6, 0.6])
    alone = kernels.keep_by_rank(torch.ones(1, 2, 1), torch.zeros(1, 2, 1), [0.3], [0.7], inverse=True)
    assert (1 / alone).flatten().tolist() == pytest.approx([0.5, 0.5])


def test_della_in_blocks_of_rows_is_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    base, deltas = torch.randn(7, 6, generator=generator), torch.randn(3, 7, 6, generator=generator)
    expected = della(base, deltas, rescale="l1")
    whole = Blocks(42)

    def one(start: int) -> Tensor:
        whole.at(0, start * 6)
        return della(base[start : start + 2], deltas[:, start : start + 2], rescale="l1", whole=whole)

    while True:
        merged = [part for _, part in over_blocks(whole, range(0, 7, 2), one)]
        if whole.part is None:
            break
        whole.finish()
    assert torch.allclose(torch.cat(merged), expected)


def test_della_at_one_takes_all() -> None:
    assert torch.allclose(della(BASE, DELTAS[:1], keep=1.0), BASE + DELTAS[0])
    for values in ({"keep": 0.9}, {"keep": 0.1}, {"spread": -0.1}, {"rescale": "l2"}, {"keep": 0.0, "spread": 0.0}):
        with pytest.raises(AllroundError, match=r"keep|rescale"):
            della(BASE, DELTAS, **values)  # type: ignore[arg-type]
