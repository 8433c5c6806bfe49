"""Reading weights: lazily, one tensor at a time, and nothing but safetensors."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import save_file

from allround.checkpoints.weights import Weights
from allround.core.errors import AllroundError

TENSORS = {
    "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.tensor(2.5, dtype=torch.float64),
    "c": torch.tensor([1, -2], dtype=torch.int64),
    "d": torch.ones(3, dtype=torch.bfloat16),
}


def raw(path: Path, header: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def refused(path: Path, *words: str) -> AllroundError:
    with pytest.raises(AllroundError) as caught:
        weights = Weights(path)
        for name in weights:
            weights.get(name)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return caught.value


def test_names_shapes_and_dtypes_without_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        weights = Weights(path)
        monkeypatch.setattr(Weights, "get", None)
        assert sorted(weights) == ["a.weight", "b", "c", "d"] and len(weights) == 4
        assert "b" in weights and "e" not in weights
        assert {n: weights.shape(n) for n in weights} == {"a.weight": (2, 3), "b": (), "c": (2,), "d": (3,)}
        assert {n: weights.dtype(n) for n in weights} == {"a.weight": "F32", "b": "F64", "c": "I64", "d": "BF16"}
        monkeypatch.undo()
        for name, tensor in TENSORS.items():
            assert torch.equal(weights.get(name), tensor) and weights.get(name).dtype == tensor.dtype
        assert weights.get("b") is not weights.get("b"), "nothing is kept"
        assert weights.file_of("b") == (tmp_path / "model.safetensors", "b")


def test_only_the_header_is_read(tmp_path: Path) -> None:
    """The data of a sparse file of 2 GB is never touched, so this takes no time and no memory."""
    size = 2 * 10**9
    path = raw(tmp_path / "big.safetensors", {"x": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}})
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size + size)
    process = psutil.Process()
    before = process.memory_info().rss
    weights = Weights(path)
    assert (weights.shape("x"), weights.dtype("x")) == ((size // 4,), "F32")
    assert process.memory_info().rss - before < 10**8


def test_subfolders_are_prefixes(tmp_path: Path) -> None:
    (tmp_path / "2_Dense").mkdir()
    save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors")
    save_file({"w": torch.ones(2)}, tmp_path / "2_Dense" / "model.safetensors")
    weights = Weights(tmp_path)
    assert sorted(weights) == ["2_Dense/w", "w"]
    assert torch.equal(weights.get("2_Dense/w"), torch.ones(2))
    assert weights.file_of("2_Dense/w") == (tmp_path / "2_Dense" / "model.safetensors", "w")


def sharded(folder: Path) -> None:
    save_file({"a": torch.zeros(2)}, folder / "model-00001-of-00002.safetensors")
    save_file({"b": torch.ones(2)}, folder / "model-00002-of-00002.safetensors")
    index = {
        "metadata": {},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_are_one(tmp_path: Path) -> None:
    sharded(tmp_path)
    assert sorted(Weights(tmp_path)) == ["a", "b"]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    refused(tmp_path, "model.safetensors.index.json lists files that are not there: model-00002-of-00002.safetensors")


@pytest.mark.parametrize(
    "text", ["{", "[]", "3", '{"weight_map": []}', '{"weight_map": {"a": 3}}', '{"weight_map": null}']
)
def test_a_broken_index_is_said_in_words(tmp_path: Path, text: str) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(text)
    refused(tmp_path, "model.safetensors.index.json")


@pytest.mark.parametrize("name", ["a" * 300, "\0", "a/" * 3000 + "b"])
def test_an_index_that_names_what_no_file_can_be_called(tmp_path: Path, name: str) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    refused(tmp_path, "model.safetensors.index.json")


@pytest.mark.parametrize("outside", ["../model.safetensors", "/model.safetensors", "sub/../../model.safetensors"])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_an_index_that_leads_out_of_its_folder(tmp_path: Path, outside: str, kind: str) -> None:
    """Even where the file is there, and holds the tensor."""
    folder = tmp_path / "model"
    folder.mkdir()
    outside = outside.replace("safetensors", kind)
    for place in (tmp_path, folder):
        if kind == "bin":
            torch.save({"a": torch.zeros(2)}, place / "model.bin")
        else:
            save_file({"a": torch.zeros(2)}, place / "model.safetensors")
    path = str(tmp_path / outside[1:]) if outside.startswith("/") else outside
    (folder / f"model.{kind}.index.json").write_text(json.dumps({"weight_map": {"a": path}}))
    with pytest.raises(AllroundError, match="which is not in its folder"):
        Weights(folder, pickles=True)


def test_an_index_of_pickles_that_names_the_wrong_file(tmp_path: Path) -> None:
    for name in "ab":
        torch.save({name: torch.zeros(2)}, tmp_path / f"{name}.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "a.bin", "b": "b.bin"}}))
    assert sorted(Weights(tmp_path, pickles=True)) == ["a", "b"]
    index.write_text(json.dumps({"weight_map": {"a": "a.bin", "b": "a.bin"}}))
    with pytest.raises(AllroundError, match=r"says that a\.bin holds 'b', and it does not"):
        Weights(tmp_path, pickles=True)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.zeros(2, device="meta"), "has a shape and no values"),
        (torch.zeros(1).expand(10**13), "holds only a part of it, to be repeated"),
    ],
    ids=["meta", "repeated"],
)
def test_a_pickled_tensor_without_its_values(tmp_path: Path, tensor: torch.Tensor, words: str) -> None:
    torch.save({"a": torch.zeros(2), "b": tensor}, tmp_path / "pytorch_model.bin")
    with pytest.raises(AllroundError, match=f"'b' in it .*{words}"):
        Weights(tmp_path, pickles=True)


def test_the_same_tensor_twice(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "one.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "two.safetensors")
    refused(tmp_path, "'a' is in two files: one.safetensors and two.safetensors")


def test_content_follows_the_bytes(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    first = Weights(tmp_path).content
    assert Weights(tmp_path).content == first
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    assert Weights(tmp_path).content != first


def test_truncated_files(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    save_file(TENSORS, whole)
    data = whole.read_bytes()
    cut = tmp_path / "cut"
    cut.mkdir()
    for length in (0, 1, 7, 8, 9, 60, len(data) // 2, len(data) - 1):
        (cut / "model.safetensors").write_bytes(data[:length])
        error = refused(cut, "broken or cut short", f"{length} bytes", "model.safetensors")
        assert "copy or download it again" in error.do


def test_a_header_longer_than_the_file(tmp_path: Path) -> None:
    for length in (10**4, 10**12, 2**63, 2**64 - 1):
        refused(raw(tmp_path / "a.safetensors", b"{}", length=length), "broken or cut short")


def test_random_bytes(tmp_path: Path) -> None:
    draw = random.Random(0)
    for size in (1, 8, 100, 5000):
        (tmp_path / "a.safetensors").write_bytes(draw.randbytes(size))
        refused(tmp_path / "a.safetensors", "broken or cut short")


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (b"not json", 8),
        (b"[]", 8),
        (b"\xff\xff", 8),
        ({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, 12),
        ({"a": F32, "b": F32}, 8),
        ({"a": F32, "b": {**F32, "data_offsets": [12, 20]}}, 20),
        ({"a": {**F32, "data_offsets": [8, 0]}}, 8),
        ({"a": {**F32, "data_offsets": [-8, 0]}}, 8),
        ({"a": {**F32, "shape": [3]}}, 8),
        ({"a": {**F32, "shape": [2**62, 2**62]}}, 8),
        ({"a": {**F32, "shape": [-2]}}, 8),
        ({"a": {**F32, "dtype": "F128"}}, 8),
        ({"a": {"dtype": "F32"}}, 8),
        ({"a": F32}, 9),
    ],
    ids=lambda value: None if isinstance(value, int) else str(value)[:40],
)
def test_hostile_headers(tmp_path: Path, header: Any, size: int) -> None:
    refused(raw(tmp_path / "a.safetensors", header, bytes(size)), "broken or cut short")


def test_the_same_name_twice_in_one_header(tmp_path: Path) -> None:
    """Either it is refused, or one of the two is read; never something else."""
    one = '"a":{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}'
    path = raw(tmp_path / "a.safetensors", f"{{{one % (0, 4)},{one % (4, 8)}}}".encode(), bytes(8))
    refused(path, "broken or cut short")


class Trap:
    """Unpickling this fails the test."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("a pickle was opened",)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl", "model.pickle"]
)
@pytest.mark.parametrize("where", ["file", "folder", "subfolder"])
def test_pickles_are_refused_in_words_and_unopened(tmp_path: Path, name: str, where: str) -> None:
    file = tmp_path / ("sub" if where == "subfolder" else "") / name
    file.parent.mkdir(exist_ok=True)
    torch.save(Trap(), file)
    error = refused(file if where == "file" else tmp_path, name, "a pickled checkpoint can run code")
    assert "safetensors" in error.do


def test_a_pickle_named_safetensors(tmp_path: Path) -> None:
    torch.save(Trap(), tmp_path / "model.safetensors")
    refused(tmp_path, "broken or cut short")


def test_no_weights_at_all(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "there is no such file or folder")
    refused(tmp_path, "holds no .safetensors file")
    (tmp_path / "model.safetensors").mkdir()
    refused(tmp_path)
