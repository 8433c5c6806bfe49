"""Writing weights: byte for byte what safetensors reads, whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from allround.checkpoints.weights import Weights
from allround.checkpoints.write import SIZES, write_weights
from allround.core.errors import AllroundError

GENERATOR = torch.Generator().manual_seed(0)
TENSORS: dict[str, tuple[str, Tensor]] = {
    "f32": ("F32", torch.randn(2, 3, generator=GENERATOR)),
    "f64": ("F64", torch.randn(4, generator=GENERATOR, dtype=torch.float64)),
    "f16": ("F16", torch.randn(3, 1, 2, generator=GENERATOR).half()),
    "bf16": ("BF16", torch.randn(5, generator=GENERATOR).bfloat16()),
    "i64": ("I64", torch.tensor([[-(2**62), 2**62]])),
    "i32": ("I32", torch.tensor([-1], dtype=torch.int32)),
    "u8": ("U8", torch.tensor([0, 255], dtype=torch.uint8)),
    "i8": ("I8", torch.tensor([-128, 127], dtype=torch.int8)),
    "bool": ("BOOL", torch.tensor([True, False, True])),
    "f8": ("F8_E4M3", torch.tensor([1.0, -2.0]).to(torch.float8_e4m3fn)),
    "scalar": ("F32", torch.tensor(-0.0)),
    "scalar_i64": ("I64", torch.tensor(7)),
    "empty": ("F32", torch.empty(0)),
    "empty_2d": ("BF16", torch.empty(3, 0, 2, dtype=torch.bfloat16)),
    "odd": ("F32", torch.tensor([float("nan"), float("inf"), -float("inf"), 1e-45])),
    "ünïcödé.名": ("F32", torch.ones(1)),
    "strided": ("F32", torch.arange(6.0).reshape(2, 3).T),
}


def plan_of(tensors: dict[str, tuple[str, Tensor]]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {n: (dtype, tuple(t.shape)) for n, (dtype, t) in tensors.items()}


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def test_round_trip_is_what_safetensors_reads(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model.safetensors"
    write_weights(path, plan_of(TENSORS), ((n, t) for n, (_, t) in TENSORS.items()))
    read = load_file(path)
    assert set(read) == set(TENSORS)
    weights = Weights(path)
    for name, (dtype, tensor) in TENSORS.items():
        assert read[name].dtype == tensor.dtype and read[name].shape == tensor.shape, name
        assert bits(read[name]) == bits(tensor), name
        assert bits(weights.get(name)) == bits(tensor) and weights.dtype(name) == dtype, name
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}, "transformers asks for it"
    start = int.from_bytes(path.read_bytes()[:8], "little")
    assert start % 8 == 0, "the data are aligned"


@pytest.mark.parametrize("name", list(TENSORS))
def test_each_alone(tmp_path: Path, name: str) -> None:
    dtype, tensor = TENSORS[name]
    write_weights(tmp_path / "a.safetensors", plan_of({name: (dtype, tensor)}), [(name, tensor)], {"by": "test"})
    assert bits(load_file(tmp_path / "a.safetensors")[name]) == bits(tensor)


def test_nothing_to_write(tmp_path: Path) -> None:
    write_weights(tmp_path / "a.safetensors", {}, [])
    assert load_file(tmp_path / "a.safetensors") == {}


def test_a_gradient_or_a_view_is_no_hindrance(tmp_path: Path) -> None:
    tensor = torch.nn.Parameter(torch.arange(10.0))[::2]
    write_weights(tmp_path / "a.safetensors", {"x": ("F32", (5,))}, [("x", tensor)])
    assert load_file(tmp_path / "a.safetensors")["x"].tolist() == [0, 2, 4, 6, 8]


def test_every_dtype_has_the_size_that_torch_has() -> None:
    sizes = {str(t.dtype): (SIZES[d], t.element_size()) for d, t in TENSORS.values()}
    assert all(ours == torchs for ours, torchs in sizes.values())


A, B = torch.zeros(2, 3), torch.zeros(3)
PLAN: dict[str, tuple[str, tuple[int, ...]]] = {"a": ("F32", (2, 3)), "b": ("F32", (3,))}


@pytest.mark.parametrize(
    "tensors",
    [
        [("b", B), ("a", A)],
        [("a", A)],
        [],
        [("a", A), ("b", B), ("c", B)],
        [("a", A.reshape(3, 2)), ("b", B)],
        [("a", A.reshape(6)), ("b", B)],
        [("a", A.double()), ("b", B)],
        [("a", A.half()), ("b", B)],
        [("a", A.int()), ("b", B)],
        [("a", A), ("a", A)],
    ],
    ids=["order", "one less", "none", "one more", "shape", "flat", "F64", "F16", "I32 of equal size", "twice"],
)
def test_a_departure_from_the_plan_is_an_error_and_leaves_no_file(tmp_path: Path, tensors: Any) -> None:
    with pytest.raises(AllroundError) as caught:
        write_weights(tmp_path / "a.safetensors", PLAN, tensors)
    assert str(tmp_path / "a.safetensors") in caught.value.asked
    assert list(tmp_path.iterdir()) == []


def test_half_floats_are_not_taken_for_each_other(tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match="bfloat16"):
        write_weights(tmp_path / "a.safetensors", {"a": ("F16", (2,))}, [("a", torch.ones(2).bfloat16())])
    assert list(tmp_path.iterdir()) == []


def test_a_dtype_that_is_not_known_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match="F4"):
        write_weights(tmp_path / "a.safetensors", {"a": ("F4", (2,))}, [("a", torch.ones(2))])
    assert list(tmp_path.iterdir()) == []


def test_the_old_file_stays_until_the_new_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_weights(path, {"x": ("F32", (1,))}, [("x", torch.ones(1))])

    def broken() -> Iterator[tuple[str, Tensor]]:
        yield "x", torch.zeros(1)
        assert load_file(path)["x"].item() == 1
        raise RuntimeError("odd")

    with pytest.raises(RuntimeError, match="odd"):
        write_weights(path, {"x": ("F32", (1,)), "y": ("F32", (1,))}, broken())
    assert load_file(path)["x"].item() == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def no_space(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def tensors() -> Iterator[tuple[str, Tensor]]:
        if call == "write":
            no_space()
        yield "x", torch.ones(1)

    if call != "write":
        monkeypatch.setattr(os, call, no_space)
    with pytest.raises(AllroundError, match="the disk is full"):
        write_weights(tmp_path / "a.safetensors", {"x": ("F32", (1,))}, tensors())
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_truly_full_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, *rest, **options: real(
        "/dev/full" if flags == os.O_WRONLY else path, flags, *rest, **options))  # fmt: skip
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: None)
    monkeypatch.setattr(os, "pwrite", lambda handle, data, _: os.write(handle, data))
    with pytest.raises(AllroundError, match="the disk is full"):
        write_weights(tmp_path / "a.safetensors", {"x": ("F32", (10**6,))}, [("x", torch.ones(10**6))])
    assert list(tmp_path.iterdir()) == []
