"""Pinned numbers of the merge methods that work on whole matrices, or with statistics."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from allround.core import registry
from allround.core.errors import AllroundError
from allround.merging.matrices import directions, polar, solve
from allround.merging.methods.average import average
from allround.merging.methods.fisher import fisher
from allround.merging.methods.iso_c import iso_c
from allround.merging.methods.iso_cts import iso_cts
from allround.merging.methods.mats import mats
from allround.merging.methods.regmean import regmean
from allround.merging.methods.task_arithmetic import task_arithmetic
from allround.merging.methods.task_singular_vectors import task_singular_vectors
from allround.merging.methods.wudi import wudi
from allround.merging.report import Kept
from allround.merging.whole import Blocks, over_blocks


def waves(*shape: int, start: int = 0) -> Tensor:
    """Numbers from -1 to 1 without a pattern: the inputs that the authors' code was run on."""
    places = torch.arange(start, start + math.prod(shape), dtype=torch.float64)
    return torch.sin(1.7 * places**1.5).reshape(shape).float()


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(found: Tensor, expected: list | Tensor, within: float = 2e-5) -> bool:
    return torch.allclose(found, torch.as_tensor(expected, dtype=found.dtype), rtol=0, atol=within)


# What iso_c and iso_cts of src/utils/iso.py in github.com/danielm1405/iso-merging (d34010a) and
# compute_and_sum_svd_mem_reduction of src/utils/TSVM_utils.py in github.com/AntoAndGar/task_singular_vectors (a6c9718)
# make of two changes waves(2, *shape); iso_cts with a common fraction of 0.5.
AUTHORS: dict[str, dict[tuple[int, int], list]] = {
    "iso_c": {
        (4, 5): [
            [1.00233, 0.19313, -1.46194, -0.29038, 0.16514],
            [-0.38871, -0.3754, -0.33233, 0.90117, 1.44093],
            [-0.24631, -1.65586, -0.28692, -0.61057, -0.18215],
            [-1.43599, 0.54191, -0.84254, -0.4463, -0.16139],
        ],
        (5, 4): [
            [0.63212, 0.86962, -1.40682, 0.46706],
            [-0.47166, -0.93636, -1.21541, -0.91646],
            [0.47962, 1.04821, 0.19897, -1.27358],
            [0.59336, -0.33399, 0.24203, -0.8965],
            [1.53392, -0.84484, 0.05018, 0.27074],
        ],
    },
    "iso_cts": {
        (4, 5): [
            [0.54083, 0.55748, -1.67167, 0.80924, -1.17092],
            [-0.63835, -0.64221, -0.68065, 1.48141, 1.39495],
            [-0.68816, -1.91127, -0.1361, -0.1299, -1.12328],
            [-1.47195, 0.50259, -1.14823, -1.25559, 0.33093],
        ],
        (5, 4): [
            [0.76804, 1.10688, -1.43617, 0.53105],
            [-0.17887, -0.58123, -1.58863, 0.14747],
            [0.80047, 1.39716, 0.29936, -1.19918],
            [-0.06703, -0.76356, -0.69811, -1.85499],
            [1.9919, -1.06615, 0.26731, 0.22796],
        ],
    },
    "task_singular_vectors": {
        (4, 5): [
            [0.48848, 1.19465, -1.47729, 0.37424, -0.82396],
            [-0.7798, -0.19884, -0.41766, 1.62409, 1.16143],
            [-0.63548, -1.22317, -0.24086, 0.01101, -1.18092],
            [-1.37476, 0.45805, -0.62985, -1.01525, 0.39646],
        ],
        (5, 4): [
            [0.49756, 1.50352, -0.40918, 1.08795],
            [0.37013, -0.92241, -1.48768, 0.86178],
            [1.14761, 0.89961, -0.02208, -0.48105],
            [0.15903, -0.08982, -0.65539, -1.72542],
            [1.27188, -0.70897, 0.6131, -0.00933],
        ],
    },
}
SPECTRAL: dict[str, Callable[..., Tensor]] = {
    "iso_c": iso_c,
    "iso_cts": lambda base, deltas, **values: iso_cts(base, deltas, **{"common": 0.5, **values}),
    "task_singular_vectors": task_singular_vectors,
}


@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.parametrize("shape", [(4, 5), (5, 4)])
def test_spectral_methods_equal_the_authors_code(name: str, shape: tuple[int, int]) -> None:
    deltas, expected = waves(2, *shape), AUTHORS[name][shape]
    for dtype in (torch.float32, torch.float64):
        assert close(SPECTRAL[name](torch.zeros(shape, dtype=dtype), deltas.to(dtype)), expected)
    base = waves(*shape, start=300)
    assert close(SPECTRAL[name](base, deltas, scale=0.5), base + 0.5 * torch.tensor(expected))


@pytest.mark.parametrize("name", [*SPECTRAL, "wudi"])
def test_matrix_methods_average_what_is_no_matrix(name: str) -> None:
    method = SPECTRAL.get(name, wudi)
    for shape in ((), (7,), (2, 3, 4), (2, 3, 2, 2)):
        base, deltas = noise(*shape), noise(3, *shape, seed=1)
        assert close(method(base, deltas), average(base, deltas), 1e-12)
        assert close(method(base, deltas, scale=0.5), base + 0.5 * deltas.mean(0), 1e-12)


@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.parametrize("factor", [1e-30, 1e15])
def test_spectral_methods_do_not_care_for_the_unit(name: str, factor: float) -> None:
    deltas, base = waves(2, 4, 5), torch.zeros(4, 5)
    assert close(SPECTRAL[name](base, deltas * factor) / factor, SPECTRAL[name](base, deltas))


@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.parametrize("shape", [(30, 50), (50, 30)])
def test_spectral_methods_are_the_same_in_double(name: str, shape: tuple[int, int]) -> None:
    """float32 goes through Gram matrices, float64 through an SVD."""
    deltas = 1e-3 * noise(3, *shape)
    expected = SPECTRAL[name](torch.zeros(shape, dtype=torch.float64), deltas)
    found = SPECTRAL[name](torch.zeros(shape), deltas.float())
    assert (found - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("name", SPECTRAL)
def test_spectral_methods_leave_what_nobody_changed(name: str) -> None:
    """Rows and columns without a change stay as they are, exactly; an SVD alone fills them."""
    for shape in ((8, 12), (12, 8)):
        deltas = torch.zeros(2, *shape)
        deltas[:, :4, 2:7] = waves(2, 4, 5)
        merged = SPECTRAL[name](torch.ones(shape), deltas)
        changed = merged != 1
        assert not changed[4:].any() and not changed[:, :2].any() and not changed[:, 7:].any()
        assert changed[:4, 2:7].any()


def iso_reference(deltas: Tensor) -> Tensor:
    """iso_c of src/utils/iso.py in github.com/danielm1405/iso-merging (d34010a), for one matrix; written again from
    what it does."""
    u, s, v = torch.linalg.svd(deltas.sum(0), full_matrices=False)
    return s.mean() * u @ v


def tsv_reference(deltas: Tensor) -> Tensor:
    """compute_and_sum_svd_mem_reduction of src/utils/TSVM_utils.py in github.com/AntoAndGar/task_singular_vectors
    (a6c9718), for one matrix; written again from what it does."""
    count = int(min(deltas.shape[1:]) / len(deltas))
    parts = [torch.linalg.svd(change, full_matrices=False) for change in deltas]
    p, _, q = torch.linalg.svd(torch.cat([u[:, :count] for u, _, _ in parts], 1), full_matrices=False)
    x, _, y = torch.linalg.svd(torch.cat([v[:count] for _, _, v in parts]), full_matrices=False)
    return (p @ q) @ torch.diag(torch.cat([s[:count] for _, s, _ in parts])) @ (x @ y)


def low_rank(tasks: int, rank: int, rows: int, columns: int, *, stored: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Changes of low rank as adapters make them, float32 (tasks, rows, columns), and bases of all their left and right
    directions (rows, tasks * rank), (columns, tasks * rank). stored: they are the differences of float32 weights of
    this size, with the rounding of these."""
    deltas = noise(tasks, rows, rank) @ noise(tasks, rank, columns, seed=1) / (rows * columns) ** 0.5
    left = torch.linalg.svd(torch.cat(list(deltas), 1), full_matrices=False)[0][:, : tasks * rank]
    right = torch.linalg.svd(torch.cat(list(deltas)), full_matrices=False)[2][: tasks * rank].T
    base = stored * noise(rows, columns, seed=2)
    return (base + deltas).float() - base.float(), left, right


LOW = {"exact": 0.0, "from stored weights": 1.0}


@pytest.mark.parametrize("stored", LOW.values(), ids=LOW)
@pytest.mark.parametrize("shape", [(48, 64), (64, 48)], ids=str)
def test_spectral_methods_of_low_rank_are_the_authors_code_on_the_directions_there_are(
    shape: tuple[int, int], stored: float
) -> None:
    """Seen in the 12 directions that three changes of rank 4 have, they are changes of full rank: there the methods
    equal the authors' code, whether or not the weights were stored in between; and beyond they do nothing."""
    deltas, left, right = low_rank(3, 4, *shape, stored=stored)
    seen = torch.stack([left.T @ d.double() @ right for d in deltas])
    expected = {
        "iso_c": iso_reference(seen),
        "iso_cts": iso_reference(seen),  # all 12 lie within the common share of 48
        "task_singular_vectors": tsv_reference(seen),
    }
    base = stored * noise(*shape, seed=2).float()
    for name, value in expected.items():
        found = registry.load("merge", name)(base, deltas) - base
        assert close(found.double(), left @ value @ right.T, 2e-5 * float(value.norm())), name


def test_iso_c_of_low_rank_has_the_authors_sum_of_singular_values_and_no_other_directions() -> None:
    """The authors' code spreads it over all 48 directions, 36 of them the decomposition's own: what it does in the 12
    directions of the changes is a quarter of it."""
    deltas, left, right = low_rank(3, 4, 48, 64)
    found, theirs = iso_c(torch.zeros(48, 64), deltas).double(), iso_reference(deltas.double())
    assert torch.linalg.svdvals(found).sum().item() == pytest.approx(
        torch.linalg.svdvals(theirs).sum().item(), rel=1e-5
    )
    assert int((torch.linalg.svdvals(found) > 1e-5).sum()) == 12
    assert close(left.T @ theirs @ right, left.T @ found @ right * 12 / 48, 1e-5)


def test_iso_c_has_a_flat_spectrum() -> None:
    deltas = noise(3, 6, 9)
    spectrum = torch.linalg.svdvals(iso_c(torch.zeros(6, 9, dtype=torch.float64), deltas))
    assert torch.allclose(spectrum, torch.linalg.svdvals(deltas.sum(0)).mean().expand(6))


def test_iso_cts_has_a_flat_spectrum_and_is_iso_c_where_all_is_common() -> None:
    base = torch.zeros(10, 14, dtype=torch.float64)
    deltas = noise(2, 10, 14)
    spectrum = torch.linalg.svdvals(iso_cts(base, deltas))
    assert float(spectrum.max() - spectrum.min()) < 1e-9
    assert close(iso_cts(base, deltas, common=1.0), iso_c(base, deltas), 1e-9)
    assert not close(iso_cts(base, deltas), iso_c(base, deltas), 1e-2)


def test_iso_cts_of_tiny_matrices_with_many_models() -> None:
    """More models than directions: none is left for them, so that all are common."""
    for shape in ((1, 1), (1, 6), (3, 2)):
        base, deltas = torch.zeros(shape, dtype=torch.float64), noise(5, *shape)
        for common in (0.0, 0.8):
            assert close(iso_cts(base, deltas, common=common), iso_c(base, deltas), 1e-9)


def test_iso_cts_refuses_a_share_that_is_none() -> None:
    with pytest.raises(AllroundError, match="not between 0 and 1"):
        iso_cts(torch.zeros(2, 2), torch.zeros(1, 2, 2), common=1.5)


def test_task_singular_vectors_keep_tasks_that_are_orthogonal() -> None:
    """Two changes of rank 2 in different directions: the sum of both."""
    left, right = torch.linalg.qr(noise(8, 4)).Q, torch.linalg.qr(noise(11, 4, seed=1)).Q
    first = left[:, :2] @ torch.diag(torch.tensor([3.0, 2.0]).double()) @ right[:, :2].T
    second = left[:, 2:] @ torch.diag(torch.tensor([5.0, 1.0]).double()) @ right[:, 2:].T
    merged = task_singular_vectors(torch.zeros(8, 11, dtype=torch.float64), torch.stack([first, second]))
    assert close(merged, first + second, 1e-9)


def test_task_singular_vectors_of_one_is_that_one() -> None:
    delta = noise(1, 5, 7)
    assert close(task_singular_vectors(torch.zeros(5, 7, dtype=torch.float64), delta), delta[0], 1e-9)


def test_task_singular_vectors_of_twins_is_their_first_half() -> None:
    """What two specialists share is not added up twice."""
    delta = noise(6, 8)
    u, s, v = torch.linalg.svd(delta, full_matrices=False)
    merged = task_singular_vectors(torch.zeros(6, 8, dtype=torch.float64), torch.stack([delta, delta]))
    assert close(merged, (u[:, :3] * s[:3]) @ v[:3], 1e-9)


def test_task_singular_vectors_average_matrices_with_a_side_shorter_than_the_number_of_models() -> None:
    base, deltas = torch.zeros(2, 5), waves(3, 2, 5)
    assert close(task_singular_vectors(base, deltas), average(base, deltas))


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (1, 1), (1, 9), (9, 1)])
def test_directions_are_those_of_the_svd(shape: tuple[int, int]) -> None:
    matrix = noise(*shape)
    expected = torch.linalg.svdvals(matrix)
    for dtype, within in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        u, s, v = directions(matrix.to(dtype))
        assert close(s, expected, within * 10)
        assert close((u * s) @ v, matrix, within * 10)
        assert close(u.T @ u, torch.eye(len(s)), within * 10)
        u, s, v = directions(matrix.to(dtype), 1)
        assert (u.shape, s.shape, v.shape) == ((shape[0], 1), (1,), (1, shape[1]))


def test_directions_of_a_steep_spectrum_are_exact() -> None:
    """Singular values down to 1e-5 of the first, which a Gram matrix in float32 would lose."""
    left, right = torch.linalg.qr(noise(40, 40)).Q, torch.linalg.qr(noise(90, 40, seed=1)).Q
    values = torch.logspace(0, -5, 40, dtype=torch.float64)
    matrix = (left * values @ right.T).float()
    exact = torch.linalg.svd(matrix.double(), full_matrices=False)
    assert torch.allclose(directions(matrix)[1].double(), exact.S, rtol=1e-4)
    assert close(polar(matrix), exact.U @ exact.Vh, 1e-4)


def test_directions_of_nothing_are_nothing() -> None:
    for part in directions(torch.zeros(3, 4)):
        assert not part.any()


# What get_redundant_task_vector of vit/wudi_main.py in github.com/nathanielyvo/WUDI-Merging (dc3cd12) makes of k
# changes 0.001 * waves(k, *shape), times 1000.
WUDI = {
    (2, 3, 4): [
        [1.20799, 0.71225, 0.45185, -0.28929],
        [0.91275, -0.1559, -0.68642, 0.31562],
        [0.97664, 0.5878, -0.50695, -0.8307],
    ],
    (3, 4, 3): [
        [0.39753, -0.40411, -0.59958],
        [-0.14383, 1.19024, 0.0382],
        [-0.62498, -0.28958, 0.38841],
        [0.86579, -0.24098, -0.63056],
    ],
}


@pytest.mark.parametrize("shape", [(2, 90, 7), (2, 70, 300)])
def test_wudi_takes_its_steps_for_some_rows_at_a_time(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    deltas = 1e-3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    base = torch.zeros(shape[1:])
    whole = wudi(base, deltas, steps=20)
    monkeypatch.setattr(sys.modules[wudi.__module__], "_STRETCH", 1)  # 64 rows
    assert torch.allclose(wudi(base, deltas, steps=20), whole, atol=1e-7)


@pytest.mark.parametrize("shape", WUDI)
def test_wudi_equals_the_authors_code(shape: tuple[int, int, int]) -> None:
    deltas = 1e-3 * waves(*shape)
    assert close(1e3 * wudi(torch.zeros(shape[1:]), deltas), WUDI[shape], 1e-4)
    base = waves(*shape[1:], start=300)
    assert close(wudi(base, deltas, scale=0.5) - base, 0.5e-3 * torch.tensor(WUDI[shape]), 2e-7)


def test_wudi_equals_adam_of_torch() -> None:
    """With few rows, where the products are taken in another order, and with many."""
    for shape in ((3, 2, 40), (3, 10, 12)):
        deltas = 1e-3 * noise(*shape)
        merged = torch.nn.Parameter(deltas.sum(0))
        adam = torch.optim.Adam([merged], lr=2e-5)
        for _ in range(25):
            adam.zero_grad()
            distances = (merged - deltas) @ deltas.mT
            (distances.square().sum((1, 2)) / deltas.square().sum((1, 2))).sum().backward()
            adam.step()
        found = wudi(torch.zeros_like(deltas[0]), deltas, steps=25, learning_rate=2e-5)
        assert close(found, merged.detach(), 1e-12)


@pytest.mark.parametrize("shape", [(2, 7, 5), (2, 2, 40), (3, 8, 12)])
def test_wudi_exact_is_the_minimum(shape: tuple[int, int, int]) -> None:
    deltas = noise(*shape)
    found = wudi(torch.zeros_like(deltas[0]), deltas, exact=True).requires_grad_()
    distances = (found - deltas) @ deltas.mT
    (distances.square().sum((1, 2)) / deltas.square().sum((1, 2))).sum().backward()
    assert found.grad is not None and float(found.grad.abs().max()) < 1e-9
    grams = deltas.mT @ deltas / deltas.square().sum((1, 2))[:, None, None]
    if shape[1] * shape[0] > 2 * shape[2]:
        same = regmean(torch.zeros_like(deltas[0]), deltas, gram=grams, shrink=1.0)
        assert close(found.detach(), same, 1e-8)


def test_wudi_of_one_and_without_steps() -> None:
    base, deltas = waves(3, 4), 1e-3 * waves(2, 3, 4, start=50)
    for exact in (False, True):
        assert close(wudi(base, deltas[:1], exact=exact), base + deltas[0], 1e-7)
    assert close(wudi(base, deltas, steps=0), base + deltas.sum(0), 1e-7)
    with pytest.raises(AllroundError, match="less than none"):
        wudi(base, deltas, steps=-1)


def test_wudi_exact_leaves_orthogonal_tasks_as_they_are() -> None:
    deltas = torch.zeros(2, 3, 4, dtype=torch.float64)
    deltas[0, :, :2], deltas[1, :, 2:] = noise(3, 2), noise(3, 2, seed=1)
    assert close(wudi(torch.zeros_like(deltas[0]), deltas, exact=True), deltas.sum(0), 1e-9)


def test_wudi_passes_over_a_model_without_a_change() -> None:
    base, deltas = torch.zeros(3, 4), 1e-3 * waves(2, 3, 4)
    more = torch.cat([deltas, torch.zeros(1, 3, 4)])
    for exact in (False, True):
        assert close(wudi(base, more, exact=exact), wudi(base, deltas, exact=exact), 1e-8)


# Two models waves(2, 2, 3) with Fishers waves(2, 2, 3, start=50)^2, the first entry of one and an entry of both zero;
# merged by _merge_with_coeffs of model_merging/merging.py in github.com/mmatena/model_merging (46802f9), which favours
# no model, with numpy in the place of tensorflow: (weights, normalize) -> merged.
MODELS = waves(2, 2, 3)
FISHERS = waves(2, 2, 3, start=50).square()
FISHERS[0, 0, 0] = 0
FISHERS[:, 1, 1] = 0
FISHER = [
    ((1.0, 1.0), True, [[-0.14741, 0.35476, -0.88511], [0.76335, 0.26563, -0.15143]]),
    ((0.3, 0.7), True, [[-0.14741, 0.21758, -0.75865], [0.83729, 0.02363, -0.33365]]),
    ((1.0, 1.0), False, [[-0.14741, 0.34935, -0.88224], [0.76596, 0.25736, -0.15697]]),
]


@pytest.mark.parametrize(("weights", "normalize", "expected"), FISHER)
def test_fisher_equals_the_authors_code(weights: tuple[float, float], normalize: bool, expected: list) -> None:
    values = {"fisher": FISHERS, "weights": weights, "normalize": normalize}
    assert close(fisher(torch.zeros(2, 3), MODELS, **values), expected)
    base = waves(2, 3, start=300)
    assert close(fisher(base, MODELS - base, **values), expected)


def test_fisher_with_equal_fishers_is_the_average() -> None:
    base, deltas = noise(4, 6), noise(3, 4, 6, seed=1)
    same = noise(4, 6, seed=2).square().expand(3, 4, 6)
    assert close(fisher(base, deltas, fisher=same), average(base, deltas), 1e-12)
    assert close(fisher(base, deltas, fisher=torch.zeros(3, 4, 6).double()), average(base, deltas), 1e-12)
    weights = [1.0, 2.0, 5.0]
    assert close(fisher(base, deltas, fisher=same, weights=weights), average(base, deltas, weights=weights), 1e-12)


def test_fisher_without_a_fisher_is_the_average() -> None:
    base, deltas = noise(4, 6), noise(3, 4, 6, seed=1)
    weights = [1.0, 2.0, 5.0]
    found = fisher(base, deltas, fisher=torch.zeros(3, 0, dtype=torch.float64), weights=weights)
    assert close(found, average(base, deltas, weights=weights), 1e-12)


def test_fisher_takes_the_norm_over_all_blocks() -> None:
    base, deltas, fishers = noise(23), noise(3, 23, seed=1), noise(3, 23, seed=2).square()
    whole = Blocks(23)

    def one(start: int) -> Tensor:
        whole.at(0, start)
        part = slice(start, start + 5)
        return fisher(base[part], deltas[:, part], fisher=fishers[:, part], whole=whole)

    assert not list(over_blocks(whole, range(0, 23, 5), one))
    whole.finish()
    merged = torch.cat([part for _, part in over_blocks(whole, range(0, 23, 5), one)])
    assert close(merged, fisher(base, deltas, fisher=fishers), 1e-12)


def test_fisher_needs_a_floor() -> None:
    with pytest.raises(AllroundError, match="not above zero"):
        fisher(torch.zeros(2), torch.zeros(1, 2), fisher=torch.ones(1, 2), floor=0.0)


# Three models waves(3, 2, 3) with inputs waves(3, 5, 3, start=200), merged by regmean_mean_params of
# src/model_merge/avg_merger.py in github.com/bloomberg/dataless-model-merging (92247ae): (shrink, weights) -> merged.
WEIGHTS = waves(3, 2, 3)
INPUTS = waves(3, 5, 3, start=200)
GRAMS = INPUTS.mT @ INPUTS
REGMEAN = [
    (0.9, 1.0, [[0.62883, -0.46586, 0.48239], [-0.3351, 0.79357, -0.20356]]),
    (1.0, 1.0, [[0.88053, -0.77807, 0.71653], [-0.45474, 0.92343, -0.2906]]),
    (0.1, [0.5, 0.3, 0.2], [[0.25695, 0.45101, -0.16632], [0.15908, 0.58847, -0.11984]]),
]


@pytest.mark.parametrize(("shrink", "weights", "expected"), REGMEAN)
def test_regmean_equals_the_authors_code(shrink: float, weights: float | list[float], expected: list) -> None:
    values = {"gram": GRAMS, "shrink": shrink, "weights": weights}
    assert close(regmean(torch.zeros(2, 3), WEIGHTS, **values), expected)
    base = waves(2, 3, start=400)
    assert close(regmean(base, WEIGHTS - base, **values), expected)


@pytest.mark.parametrize("method", [regmean, mats])
def test_gram_methods_with_equal_grams_are_the_average(method: Callable[..., Tensor]) -> None:
    base, deltas, rows = noise(4, 6), noise(3, 4, 6, seed=1), noise(20, 6, seed=2)
    for gram in (rows.T @ rows, torch.eye(6, dtype=torch.float64)):
        merged = method(base, deltas, gram=gram.expand(3, 6, 6))
        assert close(merged, average(base, deltas), 1e-4 if method is mats else 1e-10)


@pytest.mark.parametrize("method", [regmean, mats])
def test_gram_methods_average_what_has_no_gram(method: Callable[..., Tensor]) -> None:
    weights = [1.0, 2.0, 5.0]
    for shape in ((), (5,), (2, 3, 4), (4, 6)):
        base, deltas = noise(*shape), noise(3, *shape, seed=1)
        for gram in (torch.zeros(3, 0), torch.ones(3, 1, 1)):
            if len(shape) < 2 or not gram.numel():
                assert close(method(base, deltas, gram=gram, weights=weights), average(base, deltas, weights=weights))
    with pytest.raises(AllroundError, match="Gram matrices are"):
        method(noise(4, 6), noise(3, 4, 6), gram=noise(3, 4, 4))
    with pytest.raises(AllroundError, match="from 0 to 1"):
        method(noise(4, 6), noise(3, 4, 6), gram=noise(3, 6, 6), shrink=2.0)


def test_regmean_averages_what_no_input_reaches() -> None:
    """An input that is always zero, and fewer rows than inputs: no inverse, and yet a minimum."""
    for dtype, within in ((torch.float64, 1e-6), (torch.float32, 2e-3)):
        base, deltas = noise(4, 9, dtype=dtype), noise(2, 4, 9, seed=1, dtype=dtype)
        rows = noise(2, 3, 9, seed=2, dtype=dtype)
        rows[:, :, 4] = 0
        merged = regmean(base, deltas, gram=rows.mT @ rows, shrink=1.0)
        for model in (0, 1):  # six rows, nine inputs: both can be met
            tuned = base + deltas[model]
            assert close(merged @ rows[model].T, tuned @ rows[model].T, within)
        assert close(merged[:, 4], base[:, 4] + deltas[:, :, 4].mean(0), 1e-6)


def test_solve_refuses_what_is_no_gram_matrix() -> None:
    with pytest.raises(AllroundError, match="negative eigenvalues"):
        solve(torch.tensor([[1.0, 9.0], [9.0, 1.0]]).double(), torch.ones(1, 2).double(), 1e-7)


# cg_forward of src/merging/conjugateGradient_fisherMerging.py in github.com/r-three/mats (cb52c38) on the same models
# and Gram matrices, from 0.3 times the sum of the weights: after so many steps.
MATS = {
    1: [[0.29299, -0.08844, 0.20409], [-0.11176, 0.52896, 0.05666]],
    2: [[0.71023, -0.77619, 0.61284], [-0.43226, 0.82012, -0.2697]],
    3: [[0.88053, -0.77807, 0.71653], [-0.45474, 0.92343, -0.2906]],
    100: [[0.88053, -0.77807, 0.71653], [-0.45474, 0.92343, -0.2906]],
}


@pytest.mark.parametrize("steps", MATS)
def test_mats_equals_the_authors_code(steps: int) -> None:
    assert close(mats(torch.zeros(2, 3), WEIGHTS, gram=GRAMS, steps=steps), MATS[steps])


# cg_forwardBackward of the same file with the output Grams GRADIENTS^T GRADIENTS, from the zero that it takes without
# an initial model: after so many steps.
GRADIENTS = waves(3, 4, 2, start=500)
OUTPUTS = GRADIENTS.mT @ GRADIENTS
MATS_KFAC: dict[int, list] = {
    1: [[0.55114, 0.01829, 0.16906], [0.40215, 0.59975, -0.04035]],
    2: [[0.80057, -0.39067, 0.2906], [0.44821, 0.82649, -0.51367]],
    3: [[1.25109, -0.77686, 0.69761], [-0.26402, 1.29298, -0.7479]],
    100: [[0.92853, -0.24552, 0.31885], [-0.91063, 2.30793, -1.55873]],
}


@pytest.mark.parametrize("steps", MATS_KFAC)
def test_mats_by_kronecker_factors_equals_the_authors_code(steps: int) -> None:
    values = {"subspace": "kfac", "kfac": (GRAMS, OUTPUTS), "steps": steps, "normalize": False}
    assert close(mats(torch.zeros(2, 3), WEIGHTS, start_scale=0.0, **values), MATS_KFAC[steps], 1e-4)


def test_mats_solves_the_kronecker_system() -> None:
    """The minimum by the whole matrix sum_i w_i G_i (x) A_i."""
    base, deltas, weights = noise(4, 5), noise(3, 4, 5, seed=1), [1.0, 2.0, 0.5]
    inputs, slopes = noise(3, 9, 5, seed=2), noise(3, 7, 4, seed=3)
    factors = (inputs.mT @ inputs, slopes.mT @ slopes)
    whole = [w * torch.kron(g, a) for w, a, g in zip(weights, *factors, strict=True)]
    side = sum(matrix @ delta.flatten() for matrix, delta in zip(whole, deltas, strict=True))
    expected = base + torch.linalg.solve(sum(whole), side).reshape(4, 5)
    values = {"subspace": "kfac", "kfac": factors, "tolerance": 1e-12, "steps": 500}
    assert close(mats(base, deltas, weights=weights, normalize=False, **values), expected, 1e-6)
    norms = [w * w / float(m.norm()) for w, m in zip(weights, whole, strict=True)]
    same = mats(base, deltas, weights=norms, normalize=False, **values)
    assert close(mats(base, deltas, weights=weights, **values), same, 1e-6), "divided by the norm of the whole matrix"


def test_mats_in_other_subspaces_is_the_methods_that_have_a_formula() -> None:
    base, deltas, weights = noise(5, 4), noise(3, 5, 4, seed=1), [1.0, 2.0, 0.5]
    fishers = noise(3, 5, 4, seed=2).square() + 0.1
    same = {"weights": weights, "tolerance": 1e-12}
    assert close(mats(base, deltas, subspace="identity", **same), average(base, deltas, weights=weights), 1e-5)
    fishers[0] *= 1e-6  # below the floor
    for normalize in (False, True):
        expected = fisher(base, deltas, fisher=fishers, weights=weights, normalize=normalize)
        found = mats(base, deltas, subspace="fisher", fisher=fishers, normalize=normalize, steps=1, **same)
        assert close(found, expected, 1e-12), "the first step arrives"
    rows = noise(3, 9, 4, seed=3)
    gram = rows.mT @ rows
    expected = regmean(base, deltas, gram=gram, shrink=0.5, weights=weights)
    assert close(mats(base, deltas, subspace="gram", gram=gram, shrink=0.5, **same), expected, 1e-5)
    ones = torch.eye(5).expand(3, 5, 5).double()
    found = mats(base, deltas, subspace="kfac", kfac=(gram, ones), shrink=0.5, normalize=False, **same)
    assert close(found, expected, 1e-5), "gradients of the same size everywhere leave the Gram matrix"


def test_mats_by_fisher_takes_weights_of_any_shape() -> None:
    for shape in ((), (7,), (2, 3, 4)):
        base, deltas, fishers = noise(*shape), noise(3, *shape, seed=1), noise(3, *shape, seed=2).square() + 0.1
        found = mats(base, deltas, subspace="fisher", fisher=fishers, tolerance=1e-12)
        assert close(found, fisher(base, deltas, fisher=fishers), 1e-5)
    nothing = torch.zeros(3, 0)
    for subspace in ("fisher", "gram"):
        assert close(mats(base, deltas, subspace=subspace, **{subspace: nothing}), average(base, deltas))
    assert close(mats(base, deltas, subspace="kfac", kfac=(nothing, nothing)), average(base, deltas))
    with pytest.raises(AllroundError, match="not above zero"):
        mats(base, deltas, subspace="fisher", fisher=fishers, floor=0.0)
    with pytest.raises(AllroundError, match="did you mean 'kfac'"):
        mats(base, deltas, subspace="kfca")


@pytest.mark.parametrize("subspace", ["gram", "kfac"])
def test_a_convolution_is_the_matrix_of_its_patches(subspace: str) -> None:
    base, deltas = noise(5, 2, 3, 2), noise(3, 5, 2, 3, 2, seed=1)
    rows, slopes = noise(3, 20, 12, seed=2), noise(3, 20, 5, seed=3)
    gram, kfac = rows.mT @ rows, (rows.mT @ rows, slopes.mT @ slopes)
    given = {"gram": gram} if subspace == "gram" else {"kfac": kfac}
    found = mats(base, deltas, subspace=subspace, **given)
    assert close(found, mats(base.flatten(1), deltas.flatten(2), subspace=subspace, **given).reshape(base.shape), 1e-9)
    assert close(regmean(base, deltas, gram=gram), regmean(base.flatten(1), deltas.flatten(2), gram=gram)
                 .reshape(base.shape), 1e-9)  # fmt: skip


def test_mats_reports_steps_and_residual() -> None:
    deltas, rows = noise(3, 5, 8), noise(3, 20, 8, seed=2)
    gram, kept = rows.mT @ rows, Kept()
    merged = mats(torch.zeros(5, 8).double(), deltas, gram=gram, steps=3, report=kept)
    left = (merged @ gram.sum(0) - (deltas @ gram).sum(0)).norm() / (deltas @ gram).sum(0).norm()
    assert kept.numbers["steps"] == 3
    assert math.isclose(kept.numbers["residual"], float(left), rel_tol=1e-6)
    mats(torch.zeros(5, 8).double(), torch.zeros(3, 5, 8).double(), gram=gram, report=kept)
    assert kept.numbers == {"steps": 0, "residual": 0.0}


def test_mats_goes_to_regmean() -> None:
    base, deltas = noise(5, 8), noise(3, 5, 8, seed=1)
    rows = noise(3, 20, 8, seed=2)
    for shrink in (1.0, 0.5):
        values = {"gram": rows.mT @ rows, "shrink": shrink, "weights": [1.0, 2.0, 0.5]}
        expected = regmean(base, deltas, **values)
        assert close(mats(base, deltas, tolerance=1e-12, **values), expected, 1e-5)
        far = mats(base, deltas, tolerance=1e-12, steps=2, **values)
        assert not close(far, expected, 1e-3)


def test_mats_starts_from_task_arithmetic() -> None:
    base, deltas = noise(5, 8), noise(3, 5, 8, seed=1)
    rows = noise(3, 20, 8, seed=2)
    found = mats(base, deltas, gram=rows.mT @ rows, steps=0, start_scale=0.4)
    assert close(found, task_arithmetic(base, deltas, scale=0.4), 1e-12)
    with pytest.raises(AllroundError, match="less than none"):
        mats(base, deltas, gram=rows.mT @ rows, steps=-1)


def test_mats_takes_the_steps_of_plain_conjugate_gradients() -> None:
    """The textbook's, on the matrix itself."""
    deltas, rows = noise(2, 3, 7), noise(2, 30, 7, seed=1)
    gram = rows.mT @ rows
    total, side = gram.sum(0), (deltas @ gram).sum(0)
    found = 0.3 * deltas.sum(0)
    residual = side - found @ total
    towards = residual.clone()
    for steps in range(1, 5):
        image = towards @ total
        length = residual.square().sum() / (towards * image).sum()
        found, after = found + length * towards, residual - length * image
        towards = after + after.square().sum() / residual.square().sum() * towards
        residual = after
        assert close(mats(torch.zeros(3, 7).double(), deltas, gram=gram, steps=steps), found, 1e-10)
