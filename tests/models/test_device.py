"""In which precision `auto` computes: decided by a measurement, kept for the machine and for the work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from allround.building.jobs import start as jobs
from allround.core.errors import AllroundError
from allround.core.pieces import Pieces
from allround.models import device

Fake = Callable[[float, float], list[str]]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Fake]:
    """Sets what a layer seems to take in float32 and in bfloat16, as for a new process; gives what is timed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def set_to(fp32: float, bf16: float) -> list[str]:
        timed: list[str] = []
        device.layer_seconds.cache_clear()
        monkeypatch.setattr(
            device, "_time_layer", lambda name, _: timed.append(name) or {"fp32": fp32, "bf16": bf16}[name]
        )
        return timed

    yield set_to
    device.layer_seconds.cache_clear()


def test_auto_is_the_faster_of_both(fake: Fake, tmp_path: Path) -> None:
    for fp32, bf16, expected in ((2.0, 4.0, "fp32"), (4.0, 2.0, "bf16"), (1.0, 0.95, "fp32")):
        (tmp_path / "cache" / "allround" / "precision.json").unlink(missing_ok=True)
        fake(fp32, bf16)
        assert device.precision("auto", "cpu") == expected
        assert device.precision("fp32", "cpu") == "fp32" and device.precision("bf16", "cpu") == "bf16"
        with device.products("auto", "cpu"):
            assert torch.is_autocast_enabled("cpu") == (expected == "bf16")


def test_the_best_of_several_times_counts_and_they_take_turns(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(1, 1)
    times = {"fp32": iter([9.0, 3.0, 5.0, 4.0, 8.0]), "bf16": iter([7.0, 6.0, 2.0, 9.0, 9.0])}
    order: list[str] = []
    monkeypatch.setattr(device, "_time_layer", lambda name, _: order.append(name) or next(times[name]))
    assert device.layer_seconds("cpu") == {"fp32": 3.0, "bf16": 2.0}
    assert order == ["fp32", "bf16"] * 5


def test_a_machine_is_measured_once(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(fake(2, 4)) == 0 and device.precision("auto", "cpu") == "fp32"
    timed = fake(4, 2)  # another process, which would decide otherwise
    assert device.precision("auto", "cpu") == "fp32" and timed == []
    for change in (
        lambda: monkeypatch.setattr(device, "processor", lambda: "another one"),
        lambda: monkeypatch.setattr(torch, "__version__", "99"),
        lambda: monkeypatch.setattr(torch, "get_num_threads", lambda: 77),
    ):
        change()
        timed = fake(4, 2)
        assert device.precision("auto", "cpu") == "bf16" and timed


@pytest.mark.parametrize("damage", ["", "[1, 2]", '{"a": 3}', "null"])
def test_a_damaged_cache_is_measured_anew_and_replaced(fake: Fake, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "cache" / "allround" / "precision.json"
    path.parent.mkdir(parents=True)
    path.write_text(damage)
    fake(4, 2)
    assert device.precision("auto", "cpu") == "bf16"
    (times,) = json.loads(path.read_text()).values()
    assert times == {"fp32": 4, "bf16": 2}
    path.write_text(json.dumps({next(iter(json.loads(path.read_text()))): {"fp32": -1, "bf16": "x"}}))
    assert fake(2, 4) == [] and device.precision("auto", "cpu") == "fp32"


def test_without_a_place_for_the_cache_it_is_measured_in_each_process(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    for home in (True, False):
        if not home:
            monkeypatch.delenv("XDG_CACHE_HOME")
            monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
        for fp32, bf16, expected in ((2.0, 4.0, "fp32"), (4.0, 2.0, "bf16")):
            timed = fake(fp32, bf16)
            assert device.precision("auto", "cpu") == expected
            assert device.precision("auto", "cpu") == expected and len(timed) == 10  # once in this process


def test_measuring_is_real_and_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    with torch.inference_mode():
        assert 0 < device._time_layer("fp32", "cpu") < 60 and 0 < device._time_layer("bf16", "cpu") < 60
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_keeps_its_decision(fake: Fake, tmp_path: Path) -> None:
    piece = Pieces(tmp_path / "run").piece("precision", device="cpu")
    fake(4, 2)
    jobs.decide_precision(piece, "cpu")
    assert piece.done and piece.facts == {"precision": "bf16", "layer": {"fp32": 4, "bf16": 2}}


def test_a_precision_that_does_not_exist() -> None:
    with pytest.raises(AllroundError, match="bf16"):
        device.precision("bf61", "cpu")
