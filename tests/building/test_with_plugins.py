"""Methods from outside the package in a build, a merge and a training, by Python and by the command line."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor, randn, tensor

import allround
from allround.building import Build, Options, build
from allround.cli import main
from allround.core.errors import AllroundError
from allround.core.plugins import use_plugin
from allround.core.progress import Progress
from allround.models.encoders.small_image import SmallImage
from allround.tasks.suite import Suite
from allround.training.settings import Settings


def run(suite: Suite, base: Path, out: Path) -> Build:
    """A build with a merge method, a balancer and a sampling method that are plug-ins."""
    options = Options(
        settings=Settings(epochs=1, batch_size=20, sample="cubed", keep="last"),
        workers=1,
        trials=2,
        resamples=100,
        methods=("average", "halved"),
        balance=("tilted:power=1",),
        baselines=False,
    )
    return build(suite, out=out, base=base, options=options, progress=Progress(out / "log.txt", quiet=True))


def made(out: Path) -> list[str]:
    """What the last run in a folder made, without keys."""
    log = (out / "log.txt").read_text().split(" s  suite ")[-1]
    return [re.sub(r"-[0-9a-f]{12}$", "", line) for line in re.findall(r"made  (.+?)(?:  \(|$)", log, re.M)]


@pytest.mark.slow
def test_a_build_with_plugins(
    plugin_files: dict[str, Path], digits_suite: Suite, small_image: SmallImage, tmp_path: Path
) -> None:
    base, out = tmp_path / "base", tmp_path / "run"
    base.mkdir()
    small_image.save(base)
    suite = digits_suite.part(["digit", "ink"])
    with pytest.raises(AllroundError, match="no sampling method of that name"):
        run(suite, base, out)
    for file in plugin_files.values():
        use_plugin(file)
    first = run(suite, base, out)
    board = {system.name: system for system in first.scoreboard.systems}
    assert {"halved", "average", "joint-tilted-power=1"} <= set(board)
    assert set(first.scoreboard.provenance["plugins"]) == {"merge.halved", "balance.tilted", "sample.cubed"}
    assert board["halved"].settings in ({"scale": 0.5}, {"scale": 0.25})
    merged, mean = (load_file(_encoder(out, name)) for name in ("halved", "average"))
    start = load_file(_encoder(out, "base"))
    weight = next(name for name, tensor in start.items() if tensor.ndim == 4)
    scale = board["halved"].settings["scale"]
    assert not mean[weight].equal(start[weight])
    assert merged[weight].allclose(start[weight] + scale * (mean[weight] - start[weight]), atol=1e-6)

    again = run(suite, base, out)
    assert made(out) == [] and again.scoreboard.cells == first.scoreboard.cells

    for name, old, new in (("halved", "deltas.mean(0)", "deltas.sum(0)"), ("tilted", "= power", "= -power")):
        file = plugin_files[name]
        file.write_text(file.read_text().replace(old, new))
        use_plugin(file)
    run(suite, base, out)
    redone = made(out)
    assert {"try-halved", "merge-halved", "balanced"} <= set(redone), "a changed plug-in is not served stale"
    kept = ("base", "head", "specialist", "joint", "try-average", "merge-average")
    assert not [piece for piece in redone if piece.startswith(kept)], "and nothing else is made again"
    assert not load_file(_encoder(out, "halved"))[weight].allclose(merged[weight], atol=1e-6)


def _encoder(out: Path, system: str) -> Path:
    """The newest weights of a system in a run folder."""
    name = system if system == "base" else f"merge-{system}"
    pieces = sorted((out / "pieces").glob(f"{name}-*"), key=lambda folder: folder.stat().st_mtime_ns)
    return next((pieces[-1] / "encoder").rglob("*.safetensors"))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command line in this process as the program does, and give what it says; it must end with this code."""
    monkeypatch.setattr("allround.cli.stopping.heed_interruptions", lambda: None)

    def run(*words: str | Path, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["allround", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        said = "".join(capsys.readouterr())
        assert int(end.value.code or 0) == code, said
        return said

    return run


def test_the_command_line_takes_plugins(
    plugin_files: dict[str, Path], command: Callable[..., str], tmp_path: Path
) -> None:
    listed = [str(word) for file in plugin_files.values() for word in ("--plugin", file)]
    words = command("methods", "list", *listed)
    assert all(f"  {name} " in words for name in plugin_files)
    program = [sys.executable, "-m", "allround", "methods", "show", "cubed", "--json", *listed]
    found = subprocess.run(program, capture_output=True, text=True)
    assert json.loads(found.stdout)["family"] == "sample", found.stderr


def _weights(folder: Path, value: Tensor) -> Path:
    folder.mkdir()
    save_file({"w": value}, folder / "model.safetensors")
    return folder


def test_a_merge_by_a_plugin(plugin_files: dict[str, Path], command: Callable[..., str], tmp_path: Path) -> None:
    base = _weights(tmp_path / "base", tensor([1.0, 2.0]))
    models = [_weights(tmp_path / f"m{i}", tensor([1.0 + i, 4.0])) for i in range(2)]
    file = plugin_files["halved"]
    words = ("merge", base, *models, "--method", "halved", "--scale", "0.25", "-o", tmp_path / "out")
    assert "no merge method of that name" in command(*words, code=2)
    assert "merged 2 models by halved (scale=0.25)" in command(*words, "--plugin", file)
    assert load_file(tmp_path / "out" / "model.safetensors")["w"].tolist() == [1.125, 2.5]
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert record["plugins"] == {"merge.halved": hashlib.sha256(file.read_bytes()).hexdigest()}
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(f"method: halved\nbase: {base}\nmodels: [{models[0]}, {models[1]}]\n")
    command("merge", recipe, "-o", tmp_path / "other", "--plugin", file)
    assert load_file(tmp_path / "other" / "model.safetensors")["w"].tolist() == [1.25, 3.0]


def test_a_merge_in_memory_by_a_plugin(plugin_files: dict[str, Path]) -> None:
    use_plugin(plugin_files["halved"])
    base = {"w": randn(3)}
    merged = allround.merge([{"w": base["w"] + 1}, {"w": base["w"] + 3}], base=base, method="halved")
    assert merged["w"].allclose(base["w"] + 1)  # type: ignore[index, union-attr]


class Stop(BaseException):
    """What stands for a kill."""


def test_an_unfinished_training_is_not_taken_up_by_another_balancer_of_that_name(
    plugin_files: dict[str, Path],
    digits_suite: Suite,
    small_image: SmallImage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from allround.training import unfinished

    def train() -> None:
        base = tmp_path / "base"
        if not base.exists():
            base.mkdir()
            small_image.save(base)
        settings = Settings(epochs=1, batch_size=20, mix="all", balance="tilted")
        allround.train(digits_suite.part(["digit", "ink"]), out=tmp_path / "out", base=base, settings=settings,
                       progress=Progress(quiet=True))  # fmt: skip

    def saved_and_stopped(path: Path, *more: Any, **named: Any) -> Any:
        state = atomic_file(path, *more, **named)
        monkeypatch.setattr(unfinished, "atomic_file", stopped)
        return state

    def stopped(*_: Any, **__: Any) -> Any:
        raise Stop

    file = plugin_files["tilted"]
    atomic_file = unfinished.atomic_file
    use_plugin(file)
    monkeypatch.setattr(unfinished, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(unfinished, "atomic_file", saved_and_stopped)
    with pytest.raises(Stop):
        train()
    monkeypatch.setattr(unfinished, "atomic_file", atomic_file)
    text = file.read_text()
    file.write_text(text.replace("max(loss, 0.0)", "max(loss, 1.0)"))
    use_plugin(file)
    with pytest.raises(AllroundError, match="begun with other settings"):
        train()
    file.write_text(text)
    use_plugin(file)
    train()
