"""Codecs: their numbers, how far off they are, how many bytes they take, and what they refuse to read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from allround.composition.residuals.codec import Codec, DamagedResidual, Parts, pack, part, unpack
from allround.composition.residuals.codec_checks import CHECKS, checks_of
from allround.composition.residuals.residual import make_codec
from allround.core import registry
from allround.core.errors import AllroundError

CODECS = registry.names("codec")
LOSSLESS: dict[str, dict[str, Any]] = {
    "low_rank": {"share": 1.0, "values": "own"},
    "sparse": {"keep": 1.0, "values": "own"},
}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def there_and_back(name: str, residual: Tensor, vector: Tensor | None = None, **values: Any) -> Tensor:
    codec = make_codec(name, values)
    return codec.decode(codec.encode(residual, vector), tuple(residual.shape), vector)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 64, 1001])
def test_bits_are_packed_as_numpy_packs_them(size: int) -> None:
    bits = drawn(size) > 0
    packed = pack(bits)
    assert packed.tolist() == np.packbits(bits.numpy()).tolist()
    assert unpack({"bits": packed}, "bits", size).equal(bits)


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [  # nik-dim/tall_masks, src/utils/tallmask_utils.py, generate_task_masks, on the numbers below; no ties in them
        (0.2, [[1, 1, 1, 0, 1, 1, 1, 0, 1], [1, 1, 1, 1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 0, 1, 1, 0, 0]]),
        (0.6, [[1, 0, 1, 0, 1, 0, 1, 0, 1], [0, 1, 1, 1, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 1, 0, 0]]),
        (1.1, [[0, 0, 0, 0, 1, 0, 0, 0, 1], [0, 1, 0, 1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 1, 1, 0, 0]]),
    ],
)
def test_masks_are_those_of_the_released_code(threshold: float, expected: list[list[int]]) -> None:
    changes = torch.tensor(
        [
            [0.5, -1.0, 0.25, 0.01, 2.0, -0.5, 1.0, 0.125, -0.75],
            [0.25, 1.5, -0.5, 1.0, -0.5, -0.25, 0.5, 4.0, -0.25],
            [-1.0, 0.5, 0.25, 0.5, 0.25, -1.0, -2.0, 0.25, 0.125],
        ]
    )
    total = changes.sum(0)
    codec = make_codec("mask", {"threshold": threshold})
    for change, bits in zip(changes, expected, strict=True):
        parts = codec.encode(change, total)
        assert unpack(parts, "bits", 9).int().tolist() == bits
        assert codec.decode(parts, (9,), total).equal(total * torch.tensor(bits))


def test_a_mask_holds_where_both_sides_are_equal() -> None:
    vector = torch.tensor([2.0, -2.0])  # |1| >= 1 * |2 - 1|: the paper's rule; the released code asks for more
    assert there_and_back("mask", torch.tensor([1.0, -1.0]), vector, threshold=1.0).equal(vector)


def test_one_task_alone_is_its_own_mask() -> None:
    residual = drawn(5, 6)
    assert there_and_back("mask", residual, residual).equal(residual)


def test_a_low_rank_is_the_nearest() -> None:
    # LZY-the-boys/Twin-Merging, discriminative/sparsify.py, svd, density 0.5, on this matrix
    residual = torch.tensor([[2.0, 1, 0, -1], [0, 3, 1, 2], [1, 0, -2, 0.5], [4, -1, 0, 1]])
    expected = torch.tensor(
        [
            [1.6906, 0.1889, -0.0596, 0.4606],
            [0.0583, 3.0816, 1.1343, 1.7700],
            [1.2316, -0.3869, -0.2372, 0.0363],
            [4.0577, -0.5458, -0.5122, 0.5355],
        ]
    )
    for values in ({"share": 0.5}, {"rank": 2}):
        # factors of so small a matrix would not save anything: beside many zero columns they do
        wide = torch.cat([residual, torch.zeros(4, 12)], 1)
        found = there_and_back("low_rank", wide, **values, values="own")
        torch.testing.assert_close(found[:, :4], expected, atol=2e-4, rtol=0)
    factors = make_codec("low_rank", {"rank": 3}).encode(drawn(40, 30))
    assert {n: tuple(p.shape) for n, p in factors.items()} == {"left": (40, 3), "right": (3, 30)}


def test_the_error_of_a_low_rank_is_what_the_dropped_directions_hold() -> None:
    residual = drawn(24, 40)
    singular = torch.linalg.svdvals(residual)
    error = (there_and_back("low_rank", residual, rank=5, values="own") - residual).norm()
    assert float(error) == pytest.approx(float(singular[5:].norm()), rel=1e-4)


def test_a_share_of_ranks_is_rounded_down_and_at_least_one() -> None:
    for share, rank in ((0.01, 1), (0.19, 3), (0.25, 5)):
        assert make_codec("low_rank", {"share": share}).encode(drawn(20, 90))["left"].shape == (20, rank)


def test_a_convolution_is_cut_as_one_matrix() -> None:
    residual = torch.einsum("a,bcd->abcd", drawn(16), drawn(8, 3, 3, seed=1))
    torch.testing.assert_close(there_and_back("low_rank", residual, rank=1, values="own"), residual)


def test_vectors_are_whole_or_dropped() -> None:
    bias = drawn(9)
    assert there_and_back("low_rank", bias, values="own").equal(bias)
    assert make_codec("low_rank", {"vectors": False}).encode(bias) == {}
    for name in ("sparse", "sign"):
        assert there_and_back(name, bias, values="own").equal(bias)
        assert not there_and_back(name, bias, values="own", vectors=False).equal(bias)


def test_sparse_keeps_the_largest() -> None:
    # as LZY-the-boys/Twin-Merging, discriminative/sparsify.py, magnitude, density 0.3: floor(0.3 * 12) = 3 entries
    residual = torch.tensor([[0.1, -5.0, 0.3, 2.0], [0.0, 0.4, -0.2, 1.0], [0.5, -0.6, 7.0, 0.7]])
    expected = torch.tensor([[0.0, -5.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 7.0, 0.0]])
    assert there_and_back("sparse", residual, keep=0.3).equal(expected)


@pytest.mark.parametrize("places", [[0], [254], [255], [256], [509, 510, 511], [0, 255, 765, 1999], [1999]])
def test_far_places_come_back(places: list[int]) -> None:
    residual = torch.zeros(20, 100)
    residual.view(-1)[places] = 1.0
    parts = make_codec("sparse", {"keep": 0.5}).encode(residual)
    assert "steps" in parts and len(parts["values"]) == len(places), "zeros are not stored"
    assert there_and_back("sparse", residual, keep=0.5).equal(residual)


def test_places_take_the_smaller_form() -> None:
    residual = drawn(50, 80)
    few, many = (make_codec("sparse", {"keep": keep}).encode(residual) for keep in (0.02, 0.4))
    assert few["steps"].numel() < 500 and many["bits"].numel() == 500


@pytest.mark.parametrize("per", ["row", "tensor"])
def test_no_other_scale_of_the_signs_is_nearer(per: str) -> None:
    residual = drawn(6, 50) * torch.arange(1, 7)[:, None]
    found = there_and_back("sign", residual, per=per)
    best = float((found - residual).square().sum())
    assert best == pytest.approx(float(_sign_error(residual, per)), rel=1e-5)
    for factor in (0.97, 1.03):
        assert float((factor * found - residual).square().sum()) > best


def _sign_error(residual: Tensor, per: str) -> Tensor:
    """sum t^2 - n * mean(|t|)^2 for each row or tensor, which is what is left of the squares."""
    rows = residual if per == "row" else residual.reshape(1, -1)
    return (rows.square().sum(1) - rows.shape[1] * rows.abs().mean(1).square()).sum()


@pytest.mark.parametrize("name", ["mask", "sign"])
def test_one_bit_a_weight(name: str) -> None:
    residual = drawn(33, 65)
    bits = make_codec(name, {}).encode(residual, drawn(33, 65, seed=1))["bits"]
    assert bits.dtype == torch.uint8 and bits.numel() == math.ceil(33 * 65 / 8)


@pytest.mark.parametrize("name", sorted(LOSSLESS))
@pytest.mark.parametrize("shape", [(7,), (12, 9), (6, 4, 3, 3), ()])
def test_all_of_it_comes_back(name: str, shape: tuple[int, ...]) -> None:
    residual = drawn(*shape)
    torch.testing.assert_close(there_and_back(name, residual, **LOSSLESS[name]), residual, atol=2e-6, rtol=2e-6)


ALL = [
    pytest.param(check, id=f"{entry.name}-{name}")
    for entry in registry.entries("codec")
    for name, check in checks_of(entry)
]


@pytest.mark.parametrize("check", ALL)
def test_codec(check: Callable[[], None]) -> None:
    check()


# Codecs that are wrong in one way each, and the check that must find it.


class Whole(Codec):
    """Stores the residual as it is, which is too large."""

    def encode(self, residual: Tensor, vector: Tensor | None = None) -> Parts:
        return {"whole": residual.clone()}

    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], vector: Tensor | None = None) -> Tensor:
        return part(parts, "whole", shape)


class Halved(Whole):
    """Stores half of the rows, which holds every property."""

    def encode(self, residual: Tensor, vector: Tensor | None = None) -> Parts:
        return {"whole": residual[: len(residual) // 2].clone()}

    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], vector: Tensor | None = None) -> Tensor:
        return torch.cat([part(parts, "whole", (shape[0] // 2, *shape[1:])), torch.zeros(shape)[shape[0] // 2 :]])


class Flat(Halved):
    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], vector: Tensor | None = None) -> Tensor:
        return super().decode(parts, shape, vector).flatten()


class Nothing(Halved):
    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], vector: Tensor | None = None) -> Tensor:
        return 0 * super().decode(parts, shape, vector)


class Changes(Halved):
    def encode(self, residual: Tensor, vector: Tensor | None = None) -> Parts:
        parts = super().encode(residual, vector)
        residual *= 2
        return parts


class Drawn(Halved):
    def encode(self, residual: Tensor, vector: Tensor | None = None) -> Parts:
        parts = super().encode(residual, vector)
        return {"whole": parts["whole"] * (1 + 0.01 * torch.rand(()))}


class Trusting(Halved):
    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], vector: Tensor | None = None) -> Tensor:
        found = torch.zeros(shape).flatten()
        given = parts["whole"].flatten()[: len(found)].float() if "whole" in parts else torch.zeros(0)
        found[: len(given)] = given
        return found.view(shape)


@pytest.mark.parametrize(
    ("codec", "check"),
    [
        (Whole, "smaller"),
        (Flat, "improves"),
        (Nothing, "improves"),
        (Changes, "inputs_untouched"),
        (Drawn, "deterministic"),
        (Trusting, "refuses_damage"),
    ],
)
def test_a_codec_that_is_wrong_is_caught(codec: type[Codec], check: str) -> None:
    with pytest.raises(AssertionError):
        CHECKS[check](codec)
    for one in CHECKS.values():
        one(Halved)


@pytest.mark.parametrize("steps", [[0, 1], [1, 0], [255, 255, 255], [200], [1] * 500])
def test_steps_that_lead_nowhere(steps: list[int]) -> None:
    parts = {"steps": torch.tensor(steps, dtype=torch.uint8), "values": torch.ones(sum(s < 255 for s in steps))}
    if steps == [255, 255, 255]:
        parts["values"] = torch.ones(1)
    with pytest.raises(DamagedResidual):
        make_codec("sparse", {}).decode(parts, (10, 10))


def test_numbers_too_large_for_the_dtype() -> None:
    large = torch.full((8,), 1e6)
    with pytest.raises(AllroundError, match="values own"):
        make_codec("sparse", {}).encode(large)
    assert there_and_back("sparse", large, values="own").equal(large)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("mask", {"threshold": -1.0}),
        ("low_rank", {"rank": 0}),
        ("low_rank", {"share": 1.5}),
        ("sparse", {"keep": 0.0}),
        ("sign", {"per": "column"}),
        ("sign", {"values": "float17"}),
        ("sign", {"rank": 3}),
    ],
)
def test_settings_that_mean_nothing(name: str, values: dict[str, Any]) -> None:
    with pytest.raises(AllroundError):
        make_codec(name, values)
