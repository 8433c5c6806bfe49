"""A server in a process of its own: many clients at once, a flood, and an end that leaves no one without answer."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.serving.running import Running, running
from tests.serving.tiny import differences, expected, make_model, requests

from allround.core.errors import AllroundError
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.serving.server import bind
from allround.tasks.suite import Suite


@pytest.fixture(scope="module")
def model(bert_folder: Path, text_suite: Suite) -> MultiTaskModel:
    return make_model(bert_folder, text_suite)


@pytest.fixture(scope="module")
def server(model: MultiTaskModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("served") / "tiny"
    model.save(folder)
    with running(str(folder), "--queue", "40") as made:
        yield made


def test_mixed_requests_from_eight_threads_are_answered_as_by_predict(
    server: Running, model: MultiTaskModel, text_suite: Suite
) -> None:
    bodies = requests(text_suite, 200, seed=1)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda body: server.post("/v1/predict", body), bodies))
    assert {status for status, _ in found} == {200}
    wrong = [body for body, (_, given) in zip(bodies, found, strict=True)
             if differences(given["answers"], expected(model, body))]  # fmt: skip
    assert not wrong


def test_sighup_reads_the_folder_again(server: Running) -> None:
    server.process.send_signal(signal.SIGHUP)
    assert server.process.stdout is not None
    assert server.process.stdout.readline() == "reloaded the model 'tiny'\n"
    assert server.post("/v1/predict", {"inputs": ["x"]})[0] == 200


def test_an_address_is_held_by_one_server_and_sends_at_once() -> None:
    with bind("127.0.0.1", 0) as held:
        assert held.proto == socket.IPPROTO_TCP, "else responses wait 40 ms for the client to confirm their beginning"
        held.listen()
        with pytest.raises(AllroundError, match="choose another --port"):
            bind("127.0.0.1", held.getsockname()[1])
    with pytest.raises(AllroundError, match="port 70000"):
        bind("127.0.0.1", 70_000)


async def _flood(port: int, body: bytes, count: int) -> list[int]:
    """The statuses of so many requests, which are all sent before any response is read."""
    head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    pairs = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(count)))
    for _, writer in pairs:
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
    lines = await asyncio.gather(*(reader.read() for reader, _ in pairs))
    for _, writer in pairs:
        writer.close()
    return [int(line.split(maxsplit=2)[1]) if line else 0 for line in lines]


def test_a_flood_is_answered_or_told_to_come_again(server: Running) -> None:
    body = json.dumps({"inputs": ["a fine dog and a grim cat"] * 8}).encode()
    found = Counter(asyncio.run(_flood(server.port, body, 600)))
    assert set(found) == {200, 429}, found
    assert found[200] >= 40, "what the queue holds is answered"
    assert server.post("/v1/predict", {"inputs": ["still here"]})[0] == 200


def test_what_was_sent_before_sigterm_is_answered(server: Running) -> None:
    body = json.dumps({"inputs": ["a fine dog and a grim cat " * 9] * 32}).encode()

    async def stopped() -> list[int]:
        sent = asyncio.ensure_future(_flood(server.port, body, 30))
        await asyncio.sleep(0.2)  # all are sent, and the first batches run
        server.process.send_signal(signal.SIGTERM)
        return await sent

    assert asyncio.run(stopped()) == [200] * 30
    assert server.process.wait(30) == 0
    assert server.process.stderr is not None and server.process.stderr.read() == ""
