"""The engine: what is answered together, in which order, what is dropped, and that nothing ends it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from allround.serving.engine import Batch, Busy, Engine, Limits, Stopped, Work
from allround.serving.served import Models, Served
from allround.serving.service import Service


@dataclass(frozen=True)
class Counted(Work):
    """Work whose answer is its number. The first batch waits until it may go on."""

    number: int
    rows: int = 1
    tokens: int = 1
    batches: ClassVar[list[list[int]]] = []
    go: ClassVar[threading.Event] = threading.Event()
    begun: ClassVar[threading.Event] = threading.Event()

    @classmethod
    def answer(cls, system: Any, works: Sequence[Any], together: int) -> list[object]:
        cls.batches.append([one.number for one in works])
        cls.begun.set()
        assert cls.go.wait(10)
        if any(one.number < 0 for one in works):
            raise ValueError("broken")
        return [one.number for one in works]


class Other(Counted):
    """Another sort of work."""


@pytest.fixture
def make() -> Iterator[Any]:
    Counted.batches.clear()
    Counted.go.clear()
    Counted.begun.clear()
    engines: list[Engine] = []

    def made(**limits: int) -> Engine:
        seen: list[Batch] = []
        engine = Engine(SimpleNamespace(), Limits(**limits), watch=seen.append)  # type: ignore[arg-type]
        engine.seen = seen  # type: ignore[attr-defined]
        engines.append(engine)
        return engine

    yield made
    Counted.go.set()
    for engine in engines:
        engine.stop()


def blocked(engine: Engine) -> Any:
    """The future of a first piece of work, which is under way."""
    future = engine.submit(Counted(0))
    assert Counted.begun.wait(10)
    return future


def test_what_queued_while_a_batch_ran_is_the_next_batch(make: Any) -> None:
    engine = make(rows=8)
    futures = [blocked(engine), *(engine.submit(Counted(n)) for n in range(1, 6))]
    assert engine.waiting == 5 and Counted.batches == [[0]], "the first one did not wait for others"
    Counted.go.set()
    assert [future.result(10) for future in futures] == list(range(6))
    assert Counted.batches == [[0], [1, 2, 3, 4, 5]]
    engine.stop()
    assert [(one.rows, one.works, one.failed) for one in engine.seen] == [(1, 1, 0), (5, 5, 0)]


def test_batches_are_bounded_by_rows_and_by_tokens_and_keep_the_order(make: Any) -> None:
    engine = make(rows=4, tokens=10)
    futures = [blocked(engine)]
    sizes = [(2, 1), (2, 1), (1, 1), (1, 9), (1, 1), (1, 99), (1, 1)]
    futures += [engine.submit(Counted(n, *size)) for n, size in enumerate(sizes, 1)]
    futures += [engine.submit(Other(8)), engine.submit(Counted(9))]
    Counted.go.set()
    assert [future.result(10) for future in futures] == list(range(10))
    assert Counted.batches == [[0], [1, 2], [3, 4], [5], [6], [7], [8], [9]], "6 is larger than a batch, and goes alone"


def test_work_that_is_late_or_cancelled_is_never_run(make: Any) -> None:
    engine = make()
    first = blocked(engine)
    late, gone, last = engine.submit(Counted(1), seconds=0.01), engine.submit(Counted(2)), engine.submit(Counted(3))
    assert gone.cancel()
    time.sleep(0.03)
    Counted.go.set()
    assert (first.result(10), last.result(10)) == (0, 3)
    with pytest.raises(TimeoutError):
        late.result(10)
    assert Counted.batches == [[0], [3]]


def test_a_full_queue_and_an_engine_that_stops_refuse(make: Any) -> None:
    engine = make(queue=2)
    futures = [blocked(engine), engine.submit(Counted(1)), engine.submit(Counted(2))]
    with pytest.raises(Busy) as busy:
        engine.submit(Counted(3))
    assert busy.value.after == 0, "nothing was measured yet"
    engine.stop(wait=False)
    with pytest.raises(Stopped):
        engine.submit(Counted(4))
    Counted.go.set()
    assert [future.result(10) for future in futures] == [0, 1, 2], "what was taken is answered"


def test_what_would_come_too_late_is_refused_at_once(make: Any) -> None:
    engine = make()
    first = engine.submit(Counted(0, rows=1))
    assert Counted.begun.wait(10)
    time.sleep(0.1)
    Counted.go.set()
    first.result(10)
    while not engine.seen:
        time.sleep(0.001)
    Counted.go.clear()
    Counted.begun.clear()
    running = engine.submit(Counted(1))
    assert Counted.begun.wait(10)
    waits = engine.submit(Counted(2, rows=8), seconds=0.5)
    with pytest.raises(Busy) as busy:
        engine.submit(Counted(3), seconds=0.5)
    assert busy.value.after >= 0.8, "eight rows, of which each took a tenth of a second"
    Counted.go.set()
    assert (running.result(10), waits.result(10)) == (1, 2)


def test_clients_that_ask_again_at_once_are_answered_together(make: Any) -> None:
    engine = make()
    service = Service(Models([Served("tiny", engine)]))
    Counted.go.set()

    async def client(number: int) -> None:
        for _ in range(6):
            assert await service.ask(service.models.find(None), Counted(number)) == number

    async def clients() -> None:
        await asyncio.gather(*(client(number) for number in range(8)))

    asyncio.run(clients())
    assert sum(map(len, Counted.batches)) == 48
    assert max(map(len, Counted.batches[3:])) == 8, "not one, and then the seven others"


def test_an_error_is_the_answer_and_not_the_end(make: Any) -> None:
    engine = make()
    first = blocked(engine)
    broken = engine.submit(Counted(-1))
    Counted.go.set()
    assert first.result(10) == 0
    with pytest.raises(ValueError, match="broken"):
        broken.result(10)
    assert engine.submit(Counted(5)).result(10) == 5
