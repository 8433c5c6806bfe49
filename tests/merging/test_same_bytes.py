"""The same bytes come out whatever the number of threads and the process, for methods of every kind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from allround.core import registry
from allround.merging import blocks
from allround.merging.layout import make_plan
from allround.merging.recipe import Model, Recipe
from allround.merging.save import merge_models

#: Element by element; with a threshold of a tensor, or of the model; with numbers drawn at random; of whole matrices.
KINDS: dict[str, dict[str, Any]] = {
    "average": {},
    "ties": {},
    "ties-model": {"scope": "model"},
    "lwptv": {},
    "dare": {"values": {"seed": 3}},
    "della": {"values": {"seed": 3}},
    "iso_c": {},
}
KINDS = {name: more for name, more in KINDS.items() if name.split("-")[0] in registry.names("merge")}


def recipe(name: str, folders: list[Path]) -> Recipe:
    base, *tuned = [Model(str(folder)) for folder in folders]
    return Recipe(name.split("-")[0], tuple(tuned), base, **KINDS[name])


def everything(folders: list[Path], out: Path, workers: int) -> dict[str, bytes]:
    """What each kind gives: the weights, merge.json, the model card, and the list of these files."""
    for name in KINDS:
        merge_models(make_plan(recipe(name, folders)), out / name, workers=workers)
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and three models; one tensor is so large that it is merged in blocks."""
    folder = tmp_path_factory.mktemp("models")
    draw = torch.Generator().manual_seed(0)
    shapes = {"large.weight": (300_001, 1), "mid.weight": (60, 50), "bias": (77,), "last": (), "conv": (4, 3, 5, 5)}
    base = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    found = []
    for number in range(4):
        (folder / f"m{number}").mkdir()
        tuned = {n: t + 0.1 * number * torch.randn(t.shape, generator=draw) for n, t in base.items()}
        save_file(tuned, folder / f"m{number}" / "model.safetensors", {"format": "pt"})
        found.append(folder / f"m{number}")
    return found


@pytest.fixture(scope="module")
def alone(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """By one thread."""
    found = everything(folders, tmp_path_factory.mktemp("alone"), 1)
    assert {name.split("/")[0] for name in found} == set(KINDS)
    return found


@pytest.mark.parametrize("workers", [2, 5])
def test_any_number_of_threads(folders: list[Path], alone: dict[str, bytes], tmp_path: Path, workers: int) -> None:
    found = everything(folders, tmp_path, workers)
    assert [name for name, data in alone.items() if found[name] != data] == []


def test_whether_blocks_are_kept_between_passes_or_read_again(
    folders: list[Path], alone: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "_KEPT", 0)
    found = everything(folders, tmp_path, 1)
    assert [name for name, data in alone.items() if found[name] != data] == []


@pytest.mark.slow
def test_another_process(folders: list[Path], alone: dict[str, bytes], tmp_path: Path) -> None:
    """Its hashes of text begin otherwise, and its libraries have seen nothing yet."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from test_same_bytes import everything\n"
        "everything([Path(p) for p in sys.argv[3:]], Path(sys.argv[2]), 2)\n"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path), *map(str, folders)]
    subprocess.run(command, check=True, timeout=300)
    found = {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}
    assert found.keys() == alone.keys()
    assert [name for name, data in alone.items() if found[name] != data] == []


def test_a_tensor_that_two_threads_read_at_once_has_one_hash(tmp_path: Path) -> None:
    """The models are tied: their embedding goes into the base's embedding and into its output layer."""
    draw = torch.Generator().manual_seed(0)
    rows = {n: torch.randn(1_500_000, 1, generator=draw) for n in ("embed_tokens.weight", "lm_head.weight")}
    for name in ("base", "tied"):
        (tmp_path / name).mkdir()
        tensors = rows if name == "base" else {"embed_tokens.weight": rows["embed_tokens.weight"] + 1}
        save_file(tensors, tmp_path / name / "model.safetensors")
    (tmp_path / "tied" / "config.json").write_text('{"tie_word_embeddings": true}')
    plan = make_plan(Recipe("average", (Model(str(tmp_path / "tied")),), Model(str(tmp_path / "base"))))
    found = {merge_models(plan, tmp_path / "out", workers=n)["inputs"]["models"][0]["content"] for n in [1, *[2] * 10]}
    assert len(found) == 1
