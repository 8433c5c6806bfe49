"""On a Ray cluster the same bytes come out, and errors arrive in words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from allround.core.errors import AllroundError
from allround.core.jobs import Ray
from allround.merging.layout import make_plan
from allround.merging.recipe import Model, Recipe
from allround.merging.run import run_plan
from allround.merging.save import merge_models

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'allround[ray]'")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def model(folder: Path, seed: int, **changed: torch.Tensor) -> Path:
    """Three files and their index."""
    folder.mkdir()
    draw = torch.Generator().manual_seed(seed)
    listed = {}
    for number in range(1, 4):
        file = f"model-{number:05d}-of-00003.safetensors"
        names = (f"layer.{number}.weight", f"layer.{number}.bias")
        tensors = {name: torch.randn(64, 32, generator=draw) for name in names}
        tensors |= {name: tensor for name, tensor in changed.items() if name in names}
        save_file(tensors, folder / file, {"format": "pt"})
        listed |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Ray]:
    """A cluster of this machine alone, for all tests here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = Ray("local")
        yield made
        made.close()


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_the_same_bytes_as_here(cluster: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: str) -> None:
    """Also where this process stands in another folder than those of the cluster, and names the models from there."""
    for seed, name in enumerate(("base", "one", "two")):
        model(tmp_path / name, seed)
    monkeypatch.chdir(tmp_path)
    recipe = Recipe("ties", (Model("one"), Model("two")), Model("base"), scope=scope)
    for name, runner in (("here", None), ("there", cluster)):
        (tmp_path / name).mkdir()
        run_plan(make_plan(recipe), tmp_path / name, workers=2, runner=runner)
    here, there = files(tmp_path / "here"), files(tmp_path / "there")
    assert len(here) == 5 and here == there


def test_an_error_over_there_arrives_with_its_parts_and_leaves_nothing(cluster: Ray, tmp_path: Path) -> None:
    broken = torch.full((64, 32), float("nan"))
    folders = [model(tmp_path / "base", 0), model(tmp_path / "one", 1, **{"layer.2.bias": broken})]
    recipe = Recipe("average", (Model(str(folders[1])),), Model(str(folders[0])))
    with pytest.raises(AllroundError) as caught:
        merge_models(make_plan(recipe), tmp_path / "out", workers=1, runner=cluster)
    assert caught.value.asked == "merge the tensor 'layer.2.bias'"
    assert caught.value.found == f"{folders[1]} holds NaN or infinity in 2,048 of 2,048 places"
    assert "leave that specialist out" in caught.value.do
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "one"]


def test_a_cluster_that_was_there_is_left_running(cluster: Ray) -> None:
    import ray

    Ray("auto").close()
    assert ray.is_initialized()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "[::1]:1", "no address"])
def test_a_cluster_that_cannot_be_reached(address: str, tmp_path: Path) -> None:
    """In a process of its own, where Ray has not been started."""
    code = (
        "import sys\n"
        "from allround.core.errors import AllroundError\n"
        "from allround.core.jobs import Ray\n"
        "try:\n    Ray(sys.argv[1])\n"
        "except AllroundError as error:\n    print(error)\n"
    )
    environment = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", code, address]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30, cwd=tmp_path)
    lines = found.stdout.splitlines()
    assert lines[0] == f"asked: work on the Ray cluster '{address}'", found.stderr
    assert "there is none to be reached" in lines[1] and "ray start --head" in lines[2]
