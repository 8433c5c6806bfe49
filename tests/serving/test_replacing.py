"""A shadow records what it answers otherwise; a new version takes over only where it passes the gates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient
from tests.serving.tiny import make_model

from allround.evaluation.versions import Gates
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.serving.app import make_app
from allround.serving.engine import Engine
from allround.serving.keys import Keys
from allround.serving.metrics import Metrics
from allround.serving.reload import Gatekeeper, Reloader
from allround.serving.served import Models, Served
from allround.serving.service import Service
from allround.serving.shadow import Shadow
from allround.tasks.suite import Suite

ADMIN = "the-admin-key-of-the-tests"
HEADERS = {"Authorization": f"Bearer {ADMIN}"}


@pytest.fixture(scope="module")
def model(bert_folder: Path, text_suite: Suite) -> MultiTaskModel:
    return make_model(bert_folder, text_suite)


@pytest.fixture(scope="module")
def turned(bert_folder: Path, text_suite: Suite) -> MultiTaskModel:
    """A model whose answers to `mood` are always the other one."""
    made = make_model(bert_folder, text_suite)
    with torch.no_grad():
        for parameter in made.head("mood").parameters():
            parameter.neg_()
    return made


def test_a_shadow_records_what_it_answers_otherwise(
    model: MultiTaskModel, turned: MultiTaskModel, tmp_path: Path
) -> None:
    metrics, file = Metrics(), tmp_path / "shadow.jsonl"
    shadow = Shadow(turned, file, metrics, name="tiny")
    service = Service(Models([Served("tiny", Engine(model), shadow=shadow)]), metrics=metrics)
    client = TestClient(make_app(service))
    given = client.post("/v1/predict", json={"inputs": ["a fine dog", "grim", " "], "tasks": ["mood", "topics"]}).json()
    assert client.post("/v1/predict", json={"inputs": [{"text": "x"}], "tasks": ["warmth"]}).status_code == 200
    service.models.stop()
    flips = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(one["task"], one["input"]) for one in flips] == [("mood", "a fine dog"), ("mood", "grim")]
    for flip, row in zip(flips, given["answers"], strict=False):
        assert flip["before"] == row["mood"]["answer"] != flip["now"]
        assert flip["confidence_before"] == row["mood"]["confidence"]
    counters = client.get("/metrics").text
    assert 'allround_shadow_flips_total{model="tiny",task="mood"} 2.0' in counters
    assert 'allround_shadow_rows_total{model="tiny",task="topics"} 2.0' in counters
    assert 'allround_shadow_flips_total{model="tiny",task="topics"} 0.0' in counters
    assert 'task="warmth"' not in counters.partition("allround_shadow_rows")[2], "numbers are not compared"


@pytest.fixture
def start(model: MultiTaskModel, text_suite: Suite, tmp_path: Path) -> Any:
    """Starts a server of the model with gates, or without."""
    services: list[Service] = []

    def made(gates: Gates | None) -> tuple[Service, Callable[[dict[str, Any]], Any]]:
        models, metrics = Models([Served("tiny", Engine(model), tmp_path / "old")]), Metrics()
        gate = None if gates is None else Gatekeeper(text_suite, gates)
        service = Service(models, admin=Keys([ADMIN]), metrics=metrics, reloader=Reloader(models, metrics, gate))
        services.append(service)
        client = TestClient(make_app(service))
        return service, lambda body: client.post("/admin/reload", json=body, headers=HEADERS)

    yield made
    for service in services:
        service.models.stop()


def test_a_version_that_does_not_pass_is_refused_and_the_old_one_answers(
    start: Any, model: MultiTaskModel, turned: MultiTaskModel, tmp_path: Path
) -> None:
    model.save(tmp_path / "old")
    turned.save(tmp_path / "turned")
    service, reload = start(Gates(max_flips=0.05))
    (served,) = service.models
    refused = reload({"folder": str(tmp_path / "turned")})
    assert refused.status_code == 409 and "mood: " in refused.text and "turn from right to wrong" in refused.text
    assert served.system is model and served.folder == tmp_path / "old"
    missing = reload({"folder": str(tmp_path / "nothing")})
    assert missing.status_code == 422 and "there is no such folder" in missing.text
    passed = reload({})
    assert passed.status_code == 200, passed.text
    assert {one["task"]: one["lost"] for one in passed.json()["compared"]} == {
        "mood": 0, "alike": 0, "warmth": None, "topics": 0, "names": 0}  # fmt: skip
    assert served.system is not model, "the same folder, read anew"
    fewer = MultiTaskModel(model.encoder, {"mood": model.definitions["mood"]})
    fewer.heads["mood"] = model.heads["mood"]
    fewer.save(tmp_path / "fewer")
    assert "it lacks alike, warmth, topics and names" in reload({"folder": str(tmp_path / "fewer")}).text
    counters = service.metrics.text().decode()
    assert 'allround_reloads_total{model="tiny",outcome="refused"} 3.0' in counters
    assert 'allround_reloads_total{model="tiny",outcome="done"} 1.0' in counters


def test_without_gates_what_can_be_loaded_takes_over(start: Any, turned: MultiTaskModel, tmp_path: Path) -> None:
    service, reload = start(None)
    turned.save(tmp_path / "turned")
    client = TestClient(make_app(service))
    ask = lambda: client.post("/v1/predict", json={"inputs": ["grim"], "tasks": ["mood"]}).json()["answers"][0]  # noqa: E731
    before = ask()
    assert reload({"model": "tiny", "folder": str(tmp_path / "turned")}).json()["compared"] == []
    assert ask()["mood"]["answer"] != before["mood"]["answer"]


def test_only_the_admins_key_reloads(start: Any) -> None:
    service, _ = start(None)
    client = TestClient(make_app(service))
    assert client.post("/admin/reload", json={}).status_code == 401
    service.admin = Keys([])
    assert TestClient(make_app(service)).post("/admin/reload", json={}, headers=HEADERS).status_code == 403
