"""Files that are broken, or made to break: a header is read as what it says, or refused in words."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from allround.checkpoints.header import SIZES, read_header
from allround.checkpoints.weights import Weights
from allround.core.errors import AllroundError

#: The same examples each time, and no clock: the machine may be busy.
FUZZ = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=400,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
VALID = save(
    {
        "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "b": torch.tensor(2.5, dtype=torch.float64),
        "c": torch.tensor([1, -2], dtype=torch.int64),
        "d": torch.ones(3, dtype=torch.bfloat16),
        "none": torch.empty(0, 4),
        "é": torch.tensor([True]),
    },
    {"format": "pt"},
)


def check(path: Path, data: bytes) -> bool:
    """Whether it was read; then every place lies in the file, and safetensors, where it reads it too, says the same."""
    path.write_bytes(data)
    try:
        places, metadata = read_header(path)
    except AllroundError as error:
        assert str(path) in error.asked and error.found and error.do
        return False
    assert all(isinstance(text, str) for pair in metadata.items() for text in pair)
    first = 8 + int.from_bytes(data[:8], "little")
    for name, place in places.items():
        name.encode()
        assert place.bytes == SIZES[place.dtype] * place.numel
        assert first <= place.offset and place.offset + place.bytes <= len(data)
    try:
        opened = safe_open(path, "pt")
    except SafetensorError:
        return True
    with opened as file:
        assert set(file.keys()) == set(places)
        assert (file.metadata() or {}) == metadata
        weights = Weights(path)
        for name, place in places.items():
            found = file.get_slice(name)
            assert (found.get_dtype(), tuple(found.get_shape())) == (place.dtype, place.shape)
            theirs, ours = file.get_tensor(name), weights.get(name)
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
            data_of = [t.reshape(-1).view(torch.uint8) if t.numel() else torch.empty(0) for t in (ours, theirs)]
            assert torch.equal(*data_of), name
    return True


def with_header(text: str | bytes, data: bytes) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    return len(raw).to_bytes(8, "little") + raw + data


def shaped(numbers: str) -> str:
    return '{"a":{"dtype":"U8","shape":[' + numbers + '],"data_offsets":[0,1]}}'


def test_the_whole_file_is_read(tmp_path: Path) -> None:
    """Else all that follows would hold for a reader that refuses everything."""
    assert check(tmp_path / "a.safetensors", VALID)


@FUZZ
@given(data=st.binary(max_size=200))
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    check(tmp_path / "a.safetensors", data)
    check(tmp_path / "a.safetensors", with_header(data[:100], data[100:]))


@FUZZ
@given(
    flips=st.lists(st.integers(0, 8 * len(VALID) - 1), max_size=4),
    cut=st.none() | st.integers(0, len(VALID)),
    put=st.none() | st.tuples(st.integers(0, len(VALID)), st.binary(max_size=16)),
    sound=st.booleans(),
)
def test_mutations_of_a_whole_file(
    tmp_path: Path, flips: list[int], cut: int | None, put: tuple[int, bytes] | None, sound: bool
) -> None:
    """sound: the length of the header is made to fit again, so that the mutation reaches what is behind it."""
    data = bytearray(VALID)
    for flip in flips:
        data[flip // 8] ^= 1 << flip % 8
    if put is not None:
        data[put[0] : put[0]] = put[1]
    if cut is not None:
        del data[cut:]
    if sound and (end := data.rfind(b"}")) > 8:
        data[:8] = (end + 1 - 8).to_bytes(8, "little")
    check(tmp_path / "a.safetensors", bytes(data))


@FUZZ
@given(
    old=st.sampled_from(sorted({VALID[n : n + 1] for n in range(8, 300) if VALID[n : n + 1].isalnum()})), data=st.data()
)
def test_single_letters_and_digits_of_the_header(tmp_path: Path, old: bytes, data: st.DataObject) -> None:
    places = [n for n in range(8, VALID.rfind(b"}")) if VALID[n : n + 1] == old]
    place = data.draw(st.sampled_from(places))
    new = data.draw(st.sampled_from([b"0", b"9", b"-", b".", b"e", b"_", b'"', b"\\", b"\xff", b"[", b" "]))
    check(tmp_path / "a.safetensors", VALID[:place] + new + VALID[place + 1 :])


HUGE = [2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**40]
numbers = st.one_of(
    st.integers(-2, 40),
    st.sampled_from(HUGE),
    st.sampled_from([-1, -(2**63), 1.0, 4.5, 1e300, float("nan"), float("inf"), True, None, "8", [], {}, [[4]]]),
)
dtypes = st.sampled_from(
    [*SIZES, "F4", "F8_E8M0", "C64", "f32", "F128", "", "\ud800", 3, None, True, [], {}, ["F32"], float("nan")]
)
values: st.SearchStrategy[Any] = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "dtype": dtypes,
            "shape": st.one_of(numbers, st.lists(numbers, max_size=5)),
            "data_offsets": st.one_of(numbers, st.lists(numbers, max_size=3)),
            "more": numbers,
        },
    ),
    numbers,
)
names = st.one_of(st.text(max_size=6), st.sampled_from(["__metadata__", "", "\x00", "../a", "\ud800", "a" * 5000]))


@FUZZ
@given(header=st.dictionaries(names, values, max_size=4), size=st.integers(0, 80))
@example(header={"a": {"dtype": [], "shape": [1], "data_offsets": [0, 1]}}, size=1)
@example(header={"\ud800": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, size=1)
@example(header={"a": {"dtype": "U8", "shape": [1] * 100, "data_offsets": [0, 1]}}, size=1)
@example(header={"a": {"dtype": "U8", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}, size=0)
@example(header={"__metadata__": {"\ud800": "a"}}, size=0)
@example(header={"__metadata__": {"a": 3}}, size=0)
def test_hostile_values(tmp_path: Path, header: dict[str, Any], size: int) -> None:
    check(tmp_path / "a.safetensors", with_header(json.dumps(header), bytes(size)))


@st.composite
def _laid_out(draw: st.DrawFn) -> tuple[str, int]:
    """Headers that are nearly right: tensors one after the other, and sometimes one number that is off."""
    parts, at = [], 0
    for number in range(draw(st.integers(0, 4))):
        dtype = draw(st.sampled_from(list(SIZES)))
        shape = draw(st.lists(st.integers(0, 3), max_size=4))
        length = SIZES[dtype]
        for n in shape:
            length *= n
        start = at + draw(st.sampled_from([0, 0, 0, 0, 0, 0, 0, 1, -1]))
        name = draw(st.sampled_from([f"t{number}", f"t{number}", f"t{number}", "t0"]))
        place = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + length]}
        parts.append(f"{json.dumps(name)}:{json.dumps(place)}")
        at += length
    order = draw(st.permutations(parts))
    return "{" + ",".join(order) + "}" + " " * draw(st.sampled_from([0, 0, 3])), at


@FUZZ
@given(made=_laid_out(), more=st.sampled_from([0, 0, 0, 1]))
def test_headers_that_are_nearly_right(tmp_path: Path, made: tuple[str, int], more: int) -> None:
    header, size = made
    check(tmp_path / "a.safetensors", with_header(header, bytes(n % 2 for n in range(size + more))))


@pytest.mark.parametrize(
    "header",
    [
        shaped("9" * 5000),
        shaped(",".join(["9" * 4000] * 300)),
        shaped(",".join([str(2**62)] * 50_000)),
        '{"a":' * 50_000,
        "[" * 100_000,
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
    ],
    ids=["a long number", "long numbers", "many numbers", "depth", "depth of lists", "a name twice"],
)
def test_headers_made_to_take_long(tmp_path: Path, header: str) -> None:
    """The sizes they speak of are never computed, let alone taken."""
    tracemalloc.start()
    try:
        assert not check(tmp_path / "a.safetensors", with_header(header, bytes(1)))
        assert tracemalloc.get_traced_memory()[1] < 20_000_000 + 40 * len(header)
    finally:
        tracemalloc.stop()


def test_a_length_that_is_no_length_takes_no_memory(tmp_path: Path) -> None:
    """Of a sparse file of 8 GB, too, no more is read than a header can be long."""
    path = tmp_path / "a.safetensors"
    for length, size in ((2**63, 8), (2**64 - 1, 100), (10**9, 8 * 10**9), (7 * 10**9, 8 * 10**9)):
        with open(path, "wb") as file:
            file.write(length.to_bytes(8, "little"))
            file.truncate(size)
        tracemalloc.start()
        try:
            with pytest.raises(AllroundError, match="its header would be"):
                read_header(path)
            assert tracemalloc.get_traced_memory()[1] < 10**6
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("dtype", ["F4", "F8_E8M0", "C64"])
def test_a_dtype_that_is_not_read_is_no_broken_file(tmp_path: Path, dtype: str) -> None:
    header = json.dumps({"a": {"dtype": dtype, "shape": [2], "data_offsets": [0, 16]}})
    path = tmp_path / "a.safetensors"
    path.write_bytes(with_header(header, bytes(16)))
    with pytest.raises(AllroundError) as caught:
        read_header(path)
    assert caught.value.found == f"'a' in it is stored as {dtype}, which allround does not read"
    assert "bfloat16" in caught.value.do
