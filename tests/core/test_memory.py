"""The peak of memory is that since the object was made."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from allround.core.memory import PeakMemory

SIZE = 200 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not forget an earlier peak")
def test_an_earlier_peak_is_forgotten_and_a_later_one_seen() -> None:
    before = PeakMemory()
    if not before.known:
        pytest.skip("this system does not let a process forget its peak")
    held = np.ones(SIZE, dtype=np.uint8)
    high = before.read()
    del held
    after = PeakMemory()
    low = after.read()
    assert high is not None and low is not None
    assert high - low > 0.9 * SIZE
    held = np.ones(SIZE, dtype=np.uint8)
    again = after.read()
    assert again is not None and again - low > 0.9 * SIZE and held[0] == 1


def test_what_cannot_be_measured_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    assert PeakMemory().read() is None
