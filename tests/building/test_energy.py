"""The energy of answering in a build's scoreboard, with a meter that reads what the test says."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from allround.building import Options, build
from allround.core.errors import AllroundError
from allround.core.progress import Progress
from allround.evaluation.scoreboard import Scoreboard
from allround.evaluation.scoreboard.tables import systems_table
from allround.models.encoders.small_image import SmallImage
from allround.tasks.suite import Suite
from allround.training.settings import Settings

READ: list[int] = []


@pytest.fixture
def base(small_image: SmallImage, tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    small_image.save(folder)
    return folder


def meter(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """A CodeCarbon whose every reading is of 0.006 kWh and 0.0024 kg."""
    module, data = ModuleType("codecarbon"), ModuleType("codecarbon.input")

    def tracker(**given: object) -> SimpleNamespace:
        READ.append(1)
        read = SimpleNamespace(energy_consumed=0.006, emissions=0.0024)
        return SimpleNamespace(start=lambda: None, stop=lambda: None, final_emissions_data=read,
                               _hardware=[SimpleNamespace(_mode=mode)])  # fmt: skip

    module.OfflineEmissionsTracker = tracker  # type: ignore[attr-defined]
    data.DataSource = lambda: SimpleNamespace(get_global_energy_mix_data=lambda: {"DEU": {}})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "codecarbon", module)
    monkeypatch.setitem(sys.modules, "codecarbon.input", data)
    monkeypatch.setattr("allround.evaluation.power.SECONDS", 0)
    READ.clear()


def board_of(suite: Suite, base: Path, out: Path) -> Scoreboard:
    options = Options(Settings(epochs=1, batch_size=20), workers=1, resamples=100, methods=("average",), trials=1,
                      balance=(), energy="DEU")  # fmt: skip
    return build(suite, base=base, out=out, options=options, progress=Progress(out / "log.txt", quiet=True)).scoreboard


def test_each_system_is_metered_alone(
    digits_suite: Suite, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter(monkeypatch, "intel_rapl")
    board = board_of(digits_suite, base, tmp_path / "run")
    rows = sum(len(task.splits["test"]) for task in digits_suite)
    metered = [system for system in board.systems if system.cost.watt_hours is not None]
    assert {"base", "specialists", "joint", "average"} <= {system.name for system in metered}
    for system in metered:
        assert system.cost.watt_hours == pytest.approx(6 * 1000 / rows), "6 Wh for the test rows of all tasks"
        assert system.cost.carbon == pytest.approx(2.4 * 1000 / rows)
    head, body = systems_table(board)
    assert head[-2:] == ["Wh/1,000", "g CO2e/1,000"] and body[0][-1] == "-", "a floor answers nothing"
    assert "Wh for" in (tmp_path / "run" / "report.html").read_text()
    assert not list((tmp_path / "run" / "pieces").glob("energy-*/system")), "no model stays in the pieces"
    count = len(READ)
    assert Scoreboard.load(tmp_path / "run").systems == board.systems
    board_of(digits_suite, base, tmp_path / "run")
    assert len(READ) == count + 2, "run again, it only asks whether there is a meter"


def test_without_a_meter_nothing_is_measured(
    digits_suite: Suite, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter(monkeypatch, "constant")
    board = board_of(digits_suite, base, tmp_path / "run")
    assert all(system.cost.watt_hours is None for system in board.systems) and len(READ) == 2
    assert "this machine gives no reading of its power" in board.notes["energy"][0]
    assert "gives no reading of its power" in (tmp_path / "run" / "report.html").read_text()
    assert systems_table(board)[0][-1] == "choices"
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(AllroundError, match=r"allround\[energy\]"):
        board_of(digits_suite, base, tmp_path / "other")
    assert not (tmp_path / "other" / "pieces").exists(), "the error comes before the work"
