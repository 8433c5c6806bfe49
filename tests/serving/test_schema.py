"""The OpenAPI schema is true: requests made from it, right and wrong, are answered as it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from tests.models.language import save_model
from tests.serving.tiny import make_model

from allround.models.base import load_encoder
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.serving.app import make_app
from allround.serving.engine import Engine
from allround.serving.keys import Keys
from allround.serving.served import Models, Served
from allround.serving.service import Service
from allround.tasks.definition import Definition
from allround.tasks.suite import Suite

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
KEY = "the-key-of-the-tests-of-schemas"


#: What a request as the schema says may meet: what it asks may be too much for the model, or there is no such thing.
STATUSES = ["2xx", "404", "422"]


@pytest.fixture(scope="module")
def operations(
    bert_folder: Path, text_suite: Suite, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """The operations of a server that asks for a key, of an encoder; those of chats of a language model."""
    folder = save_model(tmp_path_factory.mktemp("llama") / "base", "llama", chat=True)
    late = Definition("late", "classification", ("text",), "text", "accuracy", ("yes", "no"))
    models = {
        "writer": MultiTaskModel(load_encoder(folder), {"late": late}),
        "tiny": make_model(bert_folder, text_suite),
    }
    config = schemathesis.Config.from_dict({"checks": {"positive_data_acceptance": {"expected-statuses": STATUSES}}})
    found: dict[str, Any] = {}
    services = [Service(Models([Served(name, Engine(model.eval()))]), Keys([KEY])) for name, model in models.items()]
    for service in services:
        schema = schemathesis.openapi.from_asgi("/openapi.json", make_app(service), config=config)
        for one in schema.get_all_operations():
            if one.ok().label not in found or not one.ok().label.endswith("completions"):
                found[one.ok().label] = one.ok()
    yield found
    for service in services:
        service.models.stop()


LABELS = {"GET /healthz", "GET /readyz", "GET /metrics", "GET /v1/tasks", "GET /v1/models", "POST /v1/predict",
          "POST /v1/embeddings", "POST /v1/chat/completions"}  # fmt: skip


def test_every_operation_is_tried(operations: dict[str, Any]) -> None:
    assert set(operations) == LABELS


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("label", sorted(LABELS))
def test_what_the_schema_says_is_what_happens(operations: dict[str, Any], label: str, mode: Any) -> None:
    if mode is schemathesis.GenerationMode.NEGATIVE and label.startswith("GET") and label != "GET /v1/tasks":
        pytest.skip("nothing of it can be wrong")
    seen: set[int] = set()

    @settings(max_examples=10, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(case=operations[label].as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        if mode is schemathesis.GenerationMode.POSITIVE and isinstance(case.body, dict):
            case.body.pop("model", None)  # a name made at random is that of no model
        seen.add(case.call_and_validate(headers={"Authorization": f"Bearer {KEY}"}).status_code)

    check()
    assert mode is schemathesis.GenerationMode.NEGATIVE or 200 in seen, seen
