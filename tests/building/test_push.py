"""Pushing a model to the Hub: the card that huggingface_hub reads, the files, and what is said where it fails."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.errors import LocalTokenNotFoundError
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from typer.testing import CliRunner

import allround
from allround.building.licences import licence_of
from allround.building.push import push
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.models.encoders.small_table import SmallTable
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite

SCORE = {"metric": "accuracy", "test": 0.8125, "low": 0.75, "high": 0.875, "rows": 64, "retention": 0.99}


@pytest.fixture(scope="module")
def run(table_suite: Suite, small_table: SmallTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a build leaves, as far as it is pushed."""
    folder = tmp_path_factory.mktemp("pushed") / "run"
    model = MultiTaskModel(small_table, {name: task.definition for name, task in table_suite.tasks.items()})
    model.facts = {
        "made_by": {"system": "ties", "settings": {"keep": 0.2}, "title": "merge by ties"},
        "scores": {"species": SCORE},
        "provenance": {"base": "base", "seed": 3, "tasks": {"species": "hash"}},
    }
    model.save(folder / "best")
    (folder / "pieces" / "specialist-species-0").mkdir(parents=True)
    (folder / "pieces" / "specialist-species-0" / "weights").write_text("large")
    (folder / "config.yml").write_text("base: org/base\n")
    return folder


class FakeHub:
    """Keeps what would be uploaded, as the Hub would see it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.calls, self.files = error, [], {}  # type: ignore[var-annotated]

    def create_repo(self, repo_id: str, *, private: bool | None = None, exist_ok: bool = False) -> str:
        if self.error:
            raise self.error
        self.calls.append((repo_id, private, exist_ok))
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        self.calls.append(repo_id)
        places = [Path(place) / name for place, _, names in os.walk(folder_path) for name in names]
        self.files = {path.relative_to(folder_path).as_posix(): path.read_bytes() for path in places}


def test_the_card_has_what_the_hub_reads(run: Path, tmp_path: Path) -> None:
    hub = FakeHub()
    made = push(run, "mine/flowers", licence="mit", datasets=["org/iris"], private=True, hub=hub)
    assert hub.calls == [("mine/flowers", True, True), "mine/flowers"] and made.where == "https://hub/mine/flowers"
    card = ModelCard(hub.files["README.md"].decode())
    data = card.data.to_dict()
    assert (data["library_name"], data["license"], data["base_model"]) == ("allround", "mit", "org/base")
    assert data["datasets"] == ["org/iris"] and {"tabular-classification", "allround"} <= set(data["tags"])
    (index,) = data["model-index"]
    (result,) = index["results"]
    assert index["name"] == "flowers" and result["task"] == {"type": "tabular-classification", "name": "species"}
    (metric,) = result["metrics"]
    assert (metric["type"], metric["value"]) == ("accuracy", 0.8125)
    assert metric["name"] == "accuracy (95% interval 0.750 to 0.875, 64 test rows)"
    (read,) = card.data.eval_results
    assert read.dataset_split == "test" and read.metric_value == 0.8125
    (tmp_path / "README.md").write_bytes(hub.files["README.md"])
    name, results = model_index_to_eval_results((metadata_load(tmp_path / "README.md") or {})["model-index"])
    assert eval_results_to_model_index(name, results) == [index], "what the Hub reads writes the same card again"
    assert "| species | accuracy | 0.8125 | 0.750 to 0.875 | 64 test | 99.0% |" in card.text
    assert '"keep": 0.2' in card.text and "hash" not in card.text, "how it was made, without hashes of rows"
    assert 'allround.load(snapshot_download("mine/flowers"))' in card.text


def test_the_model_is_uploaded_and_nothing_else(run: Path, tmp_path: Path, table_suite: Suite) -> None:
    hub = FakeHub()
    made = push(run, "mine/flowers", licence="mit", hub=hub)
    assert set(hub.files) == set(made.files)
    assert "allround.json" in hub.files and "heads.safetensors" in hub.files
    assert not [name for name in hub.files if "piece" in name or name.startswith(".")]
    for name, content in hub.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    rows = table_suite.tasks["species"].splits["test"].inputs
    found, wanted = (allround.load(place).predict("species", rows) for place in (tmp_path, run / "best"))
    assert found == wanted
    assert sorted(path.name for path in run.parent.iterdir()) == ["run"], "what was made on the way is gone"


def test_a_dry_run_writes_the_folder_and_shows_the_card(run: Path, tmp_path: Path) -> None:
    words = ["push", str(run), "mine/flowers", "--license", "mit", "--dry-run", "--out", str(tmp_path / "up")]
    shown = CliRunner().invoke(app, words, catch_exceptions=False)
    assert shown.exit_code == 0 and "license: mit" in shown.stdout and "nothing was uploaded" in shown.stdout
    assert ModelCard.load(tmp_path / "up" / "README.md").data.license == "mit"
    assert not any(path.is_symlink() for path in (tmp_path / "up").rglob("*"))
    assert allround.load(tmp_path / "up").definitions


def test_the_licence_is_that_of_the_base_or_asked_for(run: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(run / "best" / "encoder", base)
    with pytest.raises(AllroundError, match=r"no model card names one(.|\n)*--license apache-2.0"):
        licence_of(str(base), "push")
    (base / "README.md").write_text("---\nlicense: bsd-3-clause\ntags:\n- x\n---\n# Base\n")
    assert licence_of(str(base), "push") == "bsd-3-clause"
    for nothing in (None, "small_table"):
        with pytest.raises(AllroundError, match="no base with a licence"):
            licence_of(nothing, "push")


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (LocalTokenNotFoundError("none"), "there is no token(.|\n)*hf auth login"),
        (OSError("no route"), "cannot be reached or refused: no route"),
        (401, "no valid token"),
        (403, "the token may not write there"),
    ],
)
def test_what_the_hub_refuses_is_said(error: Exception | int, found: str, run: Path) -> None:
    if isinstance(error, int):
        status, error = error, OSError("refused")
        error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    with pytest.raises(AllroundError, match=found):
        push(run, "mine/flowers", licence="mit", hub=FakeHub(error))


def test_what_cannot_be_pushed_is_an_error(run: Path, tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match="OWNER/NAME"):
        push(run, "a/b/c", licence="mit")
    with pytest.raises(AllroundError, match=r"no allround.json"):
        push(tmp_path, "mine/x", licence="mit")
