"""A build and a comparison on a Ray cluster of two machines end with the numbers of one, also when a machine dies."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from typer.testing import CliRunner

from allround.building import Options, build
from allround.building.compare import compare_training
from allround.cli.app import app
from allround.core import jobs
from allround.core.errors import AllroundError
from allround.core.jobs import Ray, available_cores, call
from allround.core.plugins import use_plugin
from allround.core.progress import Progress
from allround.evaluation.training.comparison import TrainingComparison
from allround.models.encoders.module import Module
from allround.models.encoders.small_image import SmallImage
from allround.tasks.suite import Suite
from allround.training.settings import Settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'allround[ray]'")
    from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

#: A merge method that says where it runs. On the machine that is to die it does not come to an end; on others it waits
#: until it has begun there.
WAITS = '''"""Waits: the mean of the changes, after a while."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from torch import Tensor

from allround.core.registry import Search, method

SIGNS = Path({folder!r})


@method(family="merge", source="an example of the tests")
def waits(base: Tensor, deltas: Tensor, *, scale: Annotated[float, Search(0.5, 0.25)] = 0.5) -> Tensor:
    """Merge."""
    if (SIGNS / "doomed").exists():
        import ray

        doomed = ray.get_runtime_context().get_node_id() == (SIGNS / "doomed").read_text()
        if doomed:
            (SIGNS / "begun").touch()
        while doomed or not (SIGNS / "begun").exists():
            time.sleep(0.05)
    return base + scale * deltas.mean(0)
'''


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two machines with one processor each, on this one."""
    machine = {"num_cpus": 1, "object_store_memory": 80 << 20}
    made = Cluster(initialize_head=True, head_node_args={**machine, "include_dashboard": False})
    try:
        made.doomed = made.add_node(**machine)
        made.wait_for_nodes(timeout=60)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def suite(digits_suite: Suite) -> Suite:
    return digits_suite.part(["digit", "ink"])


@pytest.fixture
def base(small_image: SmallImage, tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    small_image.save(folder)
    return folder


QUICK = Settings(epochs=1, batch_size=20, keep="last", precision="fp32", mix="all")


def test_a_build_goes_on_without_a_machine_that_dies(
    cluster: Any,
    plugin_files: dict[str, Path],
    suite: Suite,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signs = tmp_path / "signs"
    signs.mkdir()
    file = tmp_path / "waits.py"
    file.write_text(WAITS.format(folder=str(signs)))
    use_plugin(file)
    options: dict[str, Any] = {"settings": QUICK, "trials": 2, "resamples": 100, "methods": ("waits",), "joint": False}
    options["baselines"] = False
    monkeypatch.chdir(tmp_path)
    here = build(suite, out="here", base=base, progress=Progress(quiet=True),
                 options=Options(workers=available_cores(), **options))  # fmt: skip

    (signs / "doomed").write_text(cluster.doomed.node_id)

    def kill() -> None:
        while not (signs / "begun").exists():
            time.sleep(0.05)
        cluster.remove_node(cluster.doomed, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    there = build(suite, out="there", base="base", progress=Progress(quiet=True),
                  options=Options(ray=cluster.address, **options))  # fmt: skip
    killer.join(timeout=60)
    assert not killer.is_alive(), "the machine died while it merged"
    assert there.scoreboard.cells == here.scoreboard.cells
    assert there.scoreboard.best == here.scoreboard.best
    assert [s.settings for s in there.scoreboard.systems] == [s.settings for s in here.scoreboard.systems]
    pieces = [{folder.name for folder in (tmp_path / out / "pieces").glob("*-*")} for out in ("here", "there")]
    assert pieces[0] == pieces[1], "what is made on a cluster is found by this machine alone"


def test_a_comparison_has_the_numbers_of_one_machine(cluster: Any, suite: Suite, base: Path, tmp_path: Path) -> None:
    def compared(out: str, **where: Any) -> TrainingComparison:
        return compare_training(suite, out=tmp_path / out, methods=["uw"], seeds=1, trials=1, sweep=0, base=base,
                                settings=QUICK, progress=Progress(quiet=True), **where)  # fmt: skip

    here, there = compared("here", workers=available_cores()), compared("there", ray=cluster.address)
    # How many workers there were is of the machines, and whether they shared one, of the times.
    alone, spread = (replace(one, provenance={}, notes=[]) for one in (here, there))
    assert spread.fingerprint() == alone.fingerprint()


def test_what_cannot_be_done_on_a_cluster(suite: Suite, tmp_path: Path) -> None:
    def options(address: str) -> Options:
        return Options(settings=QUICK, ray=address, methods=())

    network = Module(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), dim=4)
    with pytest.raises(AllroundError, match="cannot be sent to other machines"):
        build(suite, out=tmp_path / "a", base=network, options=options("auto"), progress=Progress(quiet=True))
    with pytest.raises(AllroundError, match="there is none to be reached"):
        build(suite, out=tmp_path / "b", base="small_image", options=options("127.0.0.1:1"),
              progress=Progress(quiet=True))  # fmt: skip


@pytest.mark.parametrize("command", ["build", "compare-training"])
def test_the_commands_take_the_address_of_a_cluster(command: str, tmp_path: Path) -> None:
    words = [command, "digits", "--limit", "train=20", "--ray", "127.0.0.1:1", "-o", str(tmp_path / "out")]
    found = CliRunner().invoke(app, words)
    assert isinstance(found.exception, AllroundError)
    assert found.exception.asked == "work on the Ray cluster '127.0.0.1:1'"


def test_jobs_are_done_so_many_at_a_time_and_one_whose_process_dies_is_an_error(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ray(cluster.address, workers=1) as runner:
        assert runner.workers == 1
        found = list(runner.run([call(pow, base=2, exp=number) for number in range(3)]))
        assert found == [(0, 1), (1, 2), (2, 4)], "one after the other, so in their order"
        assert list(runner.run([])) == []
        monkeypatch.setattr(jobs, "RETRIES", 0)
        with pytest.raises(AllroundError, match="its process ended in 1 attempt before") as caught:
            list(runner.run([call(os._exit, status=3)]))
        assert "finished work is kept" in caught.value.do
