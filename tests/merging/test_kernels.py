"""The compiled loops: they work where nothing can be written, and where numba's cache is damaged."""

import errno

import numpy as np
import pytest
import torch

pytest.importorskip("numba")
from numba.core import caching, config

from allround.merging import kernels
from allround.merging.diff import counting
from allround.merging.parts import combine


def _twice(values, out):  # type: ignore[no-untyped-def]
    for place in range(len(values)):
        out[place] = 2 * values[place]


def _check(function: object) -> None:
    out = np.zeros(3)
    function(np.array([1.0, 2.0, 3.0]), out)
    assert out.tolist() == [2, 4, 6]


@pytest.fixture
def fresh():
    """Kernels that are compiled anew in the test, and again after it."""
    kernels._compiled.cache_clear()
    counting._compiled.cache_clear()
    yield
    kernels._compiled.cache_clear()
    counting._compiled.cache_clear()


def test_every_kernel_runs_where_no_cache_can_be_written(fresh, monkeypatch):
    def refuse(self: object) -> None:
        raise PermissionError(errno.EACCES, "read-only")

    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", refuse)
    rows = torch.tensor([[1.0, -2.0, 0.0, 4.0], [0.5, 0.5, 1.0, -1.0]])
    histogram = torch.zeros(2, 1 << 15, dtype=torch.int64)
    kernels.count_bits(rows, histogram, None)
    assert histogram.sum(1).tolist() == [4, 4]
    assert histogram[0, 0x3F80] == 1 and histogram[1, 0x3F00] == 2  # 1.0, and twice 0.5
    score, limits = torch.empty(2, 4), torch.tensor([[4.0, 1.0], [0.0, 0.0], [2.0, 2.0], [1.0, 1.0]])
    assert kernels.competition(rows, rows.sum(0), *limits[:2], out=score) == [12.0, 1.0]
    assert score[0, 3] == 12.0 and score[1, 2] == 1.0  # the largest magnitudes: n = 1
    merged = kernels.competed(rows, score, limits)
    assert merged is not None and merged.tolist() == [0.0, 0.0, 0.0, 4.0]
    names = {"upper", "lower", "elected", "competition", "competed", "uniform", "by_rank"}
    assert set(kernels._compiled()) == names
    gram, changed, largest = counting.count_first(rows)
    assert gram.tolist() == [[21.0, -4.5], [-4.5, 2.5]] and changed.tolist() == [4] and largest.tolist() == [1]


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "no space"), EOFError("ran out of input")])
@pytest.mark.parametrize("where", ["save", "load"])
def test_a_kernel_runs_where_its_cache_fails(problem, where, monkeypatch, tmp_path):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))

    def refuse(*_: object) -> None:
        raise problem

    monkeypatch.setattr(caching.IndexDataCacheFile, where, refuse)
    function = kernels.compiled(_twice)
    _check(function)
    _check(function)


def test_a_kernel_is_kept_for_the_next_process_and_compiled_anew_where_that_is_damaged(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    _check(kernels.compiled(_twice))
    (index,) = tmp_path.rglob("*.nbi")
    index.write_bytes(index.read_bytes()[:20])  # cut off: the machine stopped while it was written
    _check(kernels.compiled(_twice))


def test_kernels_are_not_compiled_anew_in_the_next_process(fresh, monkeypatch, tmp_path):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    rows, buckets = torch.tensor([[1.0, 1.5, 2.0, 3.0]]), torch.tensor([[0x3F80]])
    for _ in range(2):
        kernels._compiled.cache_clear()  # as in a new process
        histogram = torch.zeros(1, 1, (1 << 16) + 1, 4, dtype=torch.int64)
        kernels.count_bits(rows, histogram, buckets)
        assert histogram[0, 0, :-1].sum() == 1 and histogram[0, 0, 0].sum() == 1
        assert len(list(tmp_path.rglob("*.nbc"))) == 1


def test_elected_changes_are_added_up_as_torch_does() -> None:
    draw = torch.Generator().manual_seed(0)
    deltas = torch.randn(4, 3001, generator=draw)
    deltas[:, ::7] = 0
    cut = torch.tensor([0.5, 1.0, 0.0, 0.2])
    for weights in (1.0, 2.5, [1.0, -0.5, 2.0, 0.0]):
        for normalize in (False, True):
            given = {"elect": True, "normalize": normalize, "cut": cut}
            found = combine(deltas, weights, **given)
            expected = combine(deltas.double(), weights, **{**given, "cut": cut.double()})  # this one without a kernel
            assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-6)
