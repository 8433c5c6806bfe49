"""OpenAI's routes with a tiny language model: its own client, replies whole and piece by piece, and embeddings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from tests.models.language import save_model
from tests.serving.tiny import make_model

from allround.models.base import load_encoder
from allround.models.encoders.language_model import LanguageModel
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.serving.app import make_app
from allround.serving.engine import Engine
from allround.serving.served import Models, Served
from allround.serving.service import Service
from allround.tasks.definition import Definition
from allround.tasks.suite import Suite

MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Where is my parcel?"}]


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> MultiTaskModel:
    folder = save_model(tmp_path_factory.mktemp("llama") / "base", "llama", chat=True)
    late = Definition("late", "classification", ("text",), "text", "accuracy", ("yes", "no"))
    return MultiTaskModel(load_encoder(folder), {"late": late}).eval()


@pytest.fixture(scope="module")
def client(writer: MultiTaskModel, bert_folder: Path, text_suite: Suite) -> Iterator[TestClient]:
    """Two models behind one server: one that writes, and one that embeds."""
    encoder = make_model(bert_folder, text_suite)
    service = Service(Models([Served("writer", Engine(writer)), Served("tiny", Engine(encoder))]))
    yield TestClient(make_app(service), raise_server_exceptions=False)
    service.models.stop()


def ask(client: TestClient, **body: Any) -> Any:
    return client.post("/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 12, **body})


def by_hand(model: MultiTaskModel, most: int) -> str:
    """The most probable tokens one after the other, from the network's own logits."""
    encoder = model.encoder
    assert isinstance(encoder, LanguageModel)
    text = "<|system|>Be kind.<|end|><|user|>Where is my parcel?<|end|><|assistant|>"
    ids: list[int] = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    before = len(ids)
    while len(ids) < before + most:
        with torch.inference_mode():
            logits = encoder.net.network(input_ids=torch.tensor([ids])).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == encoder.tokenizer.eos_token_id:
            break
    return str(encoder.tokenizer.decode(ids[before:], skip_special_tokens=True))


def test_a_reply_is_what_the_network_finds_most_probable(client: TestClient, writer: MultiTaskModel) -> None:
    given = ask(client).json()
    assert given["choices"][0]["message"] == {"role": "assistant", "content": by_hand(writer, 12)}
    assert given["object"] == "chat.completion" and given["model"] == "writer"
    assert given["choices"][0]["finish_reason"] == "length" and given["usage"]["completion_tokens"] == 12
    assert ask(client, temperature=0.0, seed=3).json()["choices"] == given["choices"]


def test_a_reply_that_comes_in_pieces_is_the_same(client: TestClient, writer: MultiTaskModel) -> None:
    given = ask(client, stream=True)
    assert given.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in given.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line)["choices"][0] for line in lines[:-1]]
    assert chunks[0]["delta"]["role"] == "assistant" and chunks[-1]["finish_reason"] == "length"
    pieces = [chunk["delta"].get("content", "") for chunk in chunks]
    assert "".join(pieces) == by_hand(writer, 12) and len([piece for piece in pieces if piece]) > 2


def test_texts_that_end_a_reply_are_left_out_whole_or_in_pieces(client: TestClient, writer: MultiTaskModel) -> None:
    whole = by_hand(writer, 12)
    stop = whole[4:7]
    cut = whole[: whole.index(stop)]
    reply = ask(client, stop=stop).json()["choices"][0]
    assert reply["message"]["content"] == cut and reply["finish_reason"] == "stop"
    lines = ask(client, stop=[stop], stream=True).text.splitlines()
    chunks = [json.loads(line[6:])["choices"][0] for line in lines if line.startswith("data: {")]
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == cut
    assert chunks[-1]["finish_reason"] == "stop"


def test_drawn_replies_depend_on_the_seed_alone(client: TestClient) -> None:
    drawn = [ask(client, temperature=1.5, seed=seed).json()["choices"][0]["message"]["content"] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_cannot_be_replied_to_is_refused(client: TestClient) -> None:
    assert "reads 256" in ask(client, max_tokens=250).json()["error"]["found"]
    assert "no language model" in ask(client, model="tiny").json()["error"]["found"]
    assert ask(client, model="other").status_code == 404
    assert ask(client, max_tokens=250, stream=True).status_code == 422, "before the first piece"
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]
    assert ask(client, messages=image).status_code == 400
    assert ask(client, n=2).status_code == 400 and ask(client, temperature=-1).status_code == 400


def test_embeddings_are_the_encoders_of_length_one(client: TestClient, bert_folder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["a fine dog", "grim"]
    wanted = SentenceTransformer(str(bert_folder), device="cpu").encode(texts, normalize_embeddings=True)
    given = client.post("/v1/embeddings", json={"model": "tiny", "input": texts}).json()
    found = np.array([one["embedding"] for one in given["data"]])
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert given["usage"]["prompt_tokens"] > 4 and math.isclose(float(np.linalg.norm(found[0])), 1, abs_tol=1e-5)


def test_the_client_of_openai_is_answered(client: TestClient, writer: MultiTaskModel) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed")
    import httpx

    def passed_on(request: httpx.Request) -> httpx.Response:
        given = client.request(request.method, request.url.path, content=request.content, headers=dict(request.headers))
        return httpx.Response(given.status_code, headers=dict(given.headers), content=given.content)

    http = httpx.Client(transport=httpx.MockTransport(passed_on))
    made = openai.OpenAI(base_url="http://server/v1", api_key="none", http_client=http, max_retries=0)
    reply = made.chat.completions.create(model="writer", messages=MESSAGES, max_tokens=12)
    assert reply.choices[0].message.content == by_hand(writer, 12)
    pieces = made.chat.completions.create(model="writer", messages=MESSAGES, max_completion_tokens=12, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == by_hand(writer, 12)
    vectors = made.embeddings.create(model="tiny", input="grim").data[0].embedding
    assert len(vectors) == 32
    assert [one.id for one in made.models.list()] == ["writer", "tiny"]
    with pytest.raises(openai.NotFoundError, match="did you mean 'writer'"):
        made.chat.completions.create(model="write", messages=MESSAGES)
