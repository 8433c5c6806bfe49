"""The HTTP API in this process: answers, errors in three parts, limits, keys, and counters."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.serving.tiny import OF_TEXT, differences, expected, make_model

from allround.core.errors import AllroundError
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.serving.app import make_app
from allround.serving.door import DoorLimits
from allround.serving.engine import Engine, Limits
from allround.serving.keys import Keys
from allround.serving.questions import Question
from allround.serving.serve import check_packages
from allround.serving.served import Models, Served, named_folders
from allround.serving.service import Service
from allround.tasks.suite import Suite

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def model(bert_folder: Path, text_suite: Suite) -> MultiTaskModel:
    return make_model(bert_folder, text_suite)


@pytest.fixture(scope="module")
def service(model: MultiTaskModel) -> Iterator[Service]:
    made = Service(Models([Served("tiny", Engine(model))]), door=DoorLimits(body=20_000))
    yield made
    made.models.stop()


@pytest.fixture(scope="module")
def client(service: Service) -> TestClient:
    return TestClient(make_app(service), raise_server_exceptions=False)


def test_the_answers_are_those_of_predict(client: TestClient, model: MultiTaskModel) -> None:
    body = {"inputs": ["a fine dog", "grim"], "tasks": "all", "scores": True}
    given = client.post("/v1/predict", json=body).json()
    assert given["model"] == "tiny" and given["notes"] == [None, None]
    assert not differences(given["answers"], expected(model, body))
    assert {type(one["answer"]) for one in given["answers"][0].values()} == {str, float, list}


def test_abstaining_and_rows_that_cannot_be_read(client: TestClient) -> None:
    rows = [{"text": "a fine dog"}, {"text": " "}, {"text": 7}, {}]
    given = client.post("/v1/predict", json={"inputs": rows, "tasks": ["mood"], "abstain": 1.0}).json()
    (sure, *others) = [one["mood"] for one in given["answers"]]
    assert sure["answer"] is None and sure["abstained"] and sure["confidence"] < 1
    assert others == [{"answer": None, "confidence": None}] * 3
    assert given["notes"][0] is None and given["notes"][1] == "'text' is empty" == given["notes"][3]
    assert "is not a text" in given["notes"][2]


def test_tasks_say_what_they_take_and_how_good_they_are(client: TestClient) -> None:
    tasks = {one["name"]: one for one in client.get("/v1/tasks").json()["tasks"]}
    assert set(tasks) == {"mood", "alike", "warmth", "topics", "names"}
    assert tasks["mood"]["score"] == {"value": 0.5, "low": 0.25, "high": 0.75, "rows": 10}
    assert tasks["alike"]["inputs"] == ["one", "two"] and tasks["warmth"]["score"] is None
    assert client.get("/v1/tasks?model=other").status_code == 404


HOSTILE: list[tuple[str, bytes | str, int, str]] = [
    ("deep JSON", b'{"inputs":' + b"[" * 9_000, 400, "recursion limit"),
    ("NaN", b'{"inputs":[{"text":NaN}]}', 400, "inputs"),
    ("infinity", b'{"inputs":[{"text":-Infinity}]}', 400, "inputs"),
    ("a huge number", b'{"inputs":[{"text":1' + b"0" * 500 + b"}]}", 400, "inputs"),
    ("a lone surrogate", b'{"inputs":["\\ud800"]}', 400, "Invalid JSON"),
    ("no UTF-8", b'{"inputs":["\xff\xfe"]}', 400, "Invalid JSON"),
    ("nothing", b"", 400, "Invalid JSON"),
    ("a list", b"[]", 400, "object"),
    ("no inputs", b"{}", 400, "inputs"),
    ("no rows", b'{"inputs":[]}', 400, "at least 1 item"),
    ("too many rows", json.dumps({"inputs": ["x"] * 33}), 400, "at most 32 items"),
    ("rows of two sorts", b'{"inputs":["x",{"text":"x"}]}', 400, "inputs"),
    ("a cell that is deep", b'{"inputs":[{"text":{"a":1}}]}', 400, "inputs"),
    ("another type", b'{"inputs":["x"],"scores":"yes"}', 400, "scores"),
    ("an unknown key", b'{"inputs":["x"],"score":true}', 400, "score"),
    ("an odd threshold", b'{"inputs":["x"],"abstain":2}', 400, "abstain"),
    ("an unknown task", b'{"inputs":["x"],"tasks":["mod"]}', 404, "did you mean 'mood'"),
    ("an unknown model", b'{"inputs":["x"],"model":"tin"}', 404, "did you mean 'tiny'"),
    ("a task of pairs for texts", b'{"inputs":["x"],"tasks":["alike"]}', 422, "2 inputs: one and two"),
    ("no column of any task", b'{"inputs":[{"words of mine":"x"}]}', 422, "no task's own"),
    ("a task without its column", b'{"inputs":[{"text":"x"}],"tasks":["alike"]}', 422, "no column 'one'"),
    ("a large body", b'{"inputs":["' + b"x" * 20_000 + b'"]}', 413, "more than 20,000 bytes"),
]


@pytest.mark.parametrize(("body", "status", "said"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_hostile_requests_are_refused_in_three_parts(
    client: TestClient, body: bytes | str, status: int, said: str
) -> None:
    given = client.post("/v1/predict", content=body, headers=JSON)
    assert given.status_code == status, given.text
    error = given.json()["error"]
    assert error["asked"] and error["found"] and error["do"] and said in given.text
    assert client.get("/readyz").json() == {"status": "ready"}


def test_odd_texts_are_answered(client: TestClient) -> None:
    texts = ["\u0000\u202e\U0001f600", "x" * 5_000, "\\u0041", "<script>alert(1)</script>", "\n\n.\n"]
    given = client.post("/v1/predict", json={"inputs": texts, "tasks": list(OF_TEXT)})
    assert given.status_code == 200 and all(row["mood"]["answer"] for row in given.json()["answers"])


def test_other_types_methods_and_paths(client: TestClient) -> None:
    assert client.post("/v1/predict", content=b"inputs=x").status_code == 415
    assert client.post("/v1/predict", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    wrong = client.put("/v1/predict")
    assert wrong.status_code == 405 and wrong.headers["allow"] == "POST" and wrong.json()["error"]["do"]
    assert client.get("/../etc/passwd").status_code == 404
    assert client.get("/docs").status_code == 404, "it would fetch scripts from elsewhere"


class Held(MultiTaskModel):
    """A model that answers when it may."""

    def __init__(self, model: MultiTaskModel) -> None:
        super().__init__(model.encoder, {})
        self.definitions, self.heads = model.definitions, model.heads
        self.go, self.begun, self.seen = threading.Event(), threading.Event(), 0

    def answer_asked(self, asked: Any, rows: Sequence[Any], **options: Any) -> Any:
        self.begun.set()
        assert self.go.wait(10)
        self.seen += len(rows)
        return super().answer_asked(asked, rows, **options)


def test_a_full_queue_is_429_and_a_late_answer_504_and_its_row_is_never_run(model: MultiTaskModel) -> None:
    held, one = Held(model), {"inputs": ["x"], "tasks": ["mood"]}
    service = Service(Models([Served("tiny", Engine(held, Limits(queue=1)))]), deadline=0.3)
    with TestClient(make_app(service)) as client:
        statuses: list[int] = []
        ask = lambda: statuses.append(client.post("/v1/predict", json=one).status_code)  # noqa: E731
        first = threading.Thread(target=ask)
        first.start()
        assert held.begun.wait(10)
        second = threading.Thread(target=ask)
        second.start()
        while not service.models.find(None).engine.waiting:
            pass
        third = client.post("/v1/predict", json=one)
        assert third.status_code == 429 and int(third.headers["retry-after"]) >= 1
        first.join(10)
        second.join(10)
        assert statuses == [504, 504]
        held.go.set()
        service.models.stop()
        assert held.seen == 1, "the second request was dropped before it was run"
        assert client.post("/v1/predict", json=one).status_code == 503
        service.ready = False
        assert client.get("/readyz").status_code == 503 and client.get("/healthz").status_code == 200
        assert 'allround_requests_total{path="/v1/predict",status="504"} 2.0' in client.get("/metrics").text


def test_keys_are_asked_for_where_there_are_some(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the tests\nfirst-key-of-the-tests\n", encoding="utf-8")
    keys = Keys.read(file, {"ALLROUND_API_KEYS": "second-key-of-the-tests, "})
    client = TestClient(make_app(Service(service.models, keys)))
    ask = lambda headers: client.post("/v1/predict", json={"inputs": ["x"]}, headers=headers)  # noqa: E731
    assert ask({}).status_code == 401 and ask({}).headers["www-authenticate"] == "Bearer"
    assert ask({"Authorization": "Bearer first-key-of-the-test"}).status_code == 401
    assert ask({"Authorization": "Basic first-key-of-the-tests"}).status_code == 401
    assert ask({"Authorization": "Bearer first-key-of-the-tests"}).status_code == 200
    assert ask({"X-API-Key": "second-key-of-the-tests"}).status_code == 200
    assert client.get("/v1/tasks").status_code == 401 and client.get("/readyz").status_code == 200
    for text in ("short\n", "# none\n", "ключ-на-другом-языке\n"):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(AllroundError, match="read the API keys"):
            Keys.read(file, {})


def test_counters_know_what_was_asked(client: TestClient) -> None:
    def counted(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return float(next((line.rpartition(" ")[2] for line in lines if line.startswith(name)), 0))

    name = 'allround_answers_total{model="tiny",task="warmth"}'
    before = counted(name)
    client.post("/v1/predict", json={"inputs": ["x", "y", ""], "tasks": ["warmth"]})
    assert counted(name) == before + 2
    client.get("/whatever/this/is")
    assert counted('allround_requests_total{path="other",status="404"}') >= 1, "clients cannot make up new series"


def test_names_of_models_and_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AllroundError, match="serve two models as 'support'"):
        named_folders(["runs/support/best", "support=models/other"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(AllroundError, match=r"pip install 'allround\[serve\]'"):
        check_packages()


def test_the_size_of_a_question_is_about_its_tokens() -> None:
    body = [{"text": "x" * 400, "words": ["one", "two"], "number": 2.5, "nothing": None}]
    from allround.serving.served import asking_of

    assert Question.make(body, asking_of(None, scores=False)).tokens == 101 + 2 + 1 + 1


def called(service: Service, messages: Sequence[dict[str, Any]], length: int) -> list[dict[str, Any]]:
    """What the application sends where a client sends these messages, and then no more."""
    sent: list[dict[str, Any]] = []
    left = list(messages)

    async def receive() -> dict[str, Any]:
        if left:
            return left.pop(0)
        await asyncio.sleep(60)
        raise AssertionError("it waits for ever")

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", str(length).encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/predict", "headers": headers, "query_string": b""}
    asyncio.run(make_app(service)(scope, receive, send))
    return sent


def test_slow_and_lost_clients_and_more_than_memory_may_hold(service: Service) -> None:
    half = {"type": "http.request", "body": b'{"inputs":', "more_body": True}
    limited = Service(service.models, door=DoorLimits(body=1000, held=1500, seconds=0.05))
    sent = called(limited, [half], 100)
    assert sent[0]["status"] == 408 and b"did not come whole" in sent[1]["body"]
    assert called(limited, [half, {"type": "http.disconnect"}], 100) == [], "nobody is there to be answered"
    long = [{"type": "http.request", "body": b" " * 600, "more_body": True}] * 2
    assert called(limited, long, 900)[0]["status"] == 413, "it sends more than it said"
    none = Service(service.models, door=DoorLimits(held=50))
    (start, _) = called(none, [half], 100)
    assert start["status"] == 429 and (b"retry-after", b"1") in start["headers"]
