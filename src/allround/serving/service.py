"""What the routes share: the models behind them, how work is asked, and the form of responses."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any

from fastapi import Request, Response
from pydantic_core import to_json

from allround.serving.bodies import ErrorAnswer
from allround.serving.door import DoorLimits
from allround.serving.engine import Busy, Stopped, Work
from allround.serving.keys import Keys
from allround.serving.metrics import Metrics
from allround.serving.refused import Refused
from allround.serving.reload import Reloader
from allround.serving.served import Models, Served

#: How often a loop goes round from an answer to the request that follows on it: write, read, parse, queue.
TURNS = 10


@dataclass
class Service:
    """All that the routes need. admin: keys of those who may reload. deadline: seconds until a request is given up."""

    models: Models
    keys: Keys = field(default_factory=lambda: Keys([]))
    admin: Keys = field(default_factory=lambda: Keys([]))
    metrics: Metrics = field(default_factory=Metrics)
    door: DoorLimits = field(default_factory=DoorLimits)
    deadline: float = 30.0
    ready: bool = True
    reloader: Reloader | None = None

    async def ask(self, served: Served, work: Work) -> Any:
        """What the engine of a model makes of work. Errors: `Refused` where it cannot be done, or not in time."""
        asked = f"answer a request to the model '{served.name}'"
        if served.engine.between is None:
            served.engine.between = partial(_take_turns, asyncio.get_running_loop())
        try:
            future: Future[Any] = served.engine.submit(work, seconds=self.deadline)
        except Busy as busy:
            raise Refused(429, asked, f"{served.engine.waiting} requests wait already", "ask again later",
                          {"Retry-After": str(max(1, ceil(busy.after)))}) from None  # fmt: skip
        except Stopped:
            raise Refused(503, asked, "the server is stopping", "ask again in a moment", {"Retry-After": "1"}) from None
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.deadline)
        except (asyncio.TimeoutError, LateError):
            raise Refused(504, asked, f"there was no answer in {self.deadline:g} seconds",
                          "ask again later, or with fewer rows") from None  # fmt: skip


def _take_turns(loop: asyncio.AbstractEventLoop, enough: Callable[[], bool], seconds: float) -> None:
    """Wait until a loop has sent the answers that it has, and queued the requests that came meanwhile: it then has gone
    round `TURNS` times. Clients that ask again at once are so answered together, and not by turns one and all others.
    """
    done = threading.Event()

    def turn(left: int) -> None:
        if not left or enough():
            done.set()
        else:
            loop.call_soon(turn, left - 1)

    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(turn, TURNS)
        done.wait(seconds)


def answer(body: Any) -> Response:
    """A response in JSON."""
    return Response(to_json(body, inf_nan_mode="null"), media_type="application/json")


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Errors of a route, for the schema. Each route may be refused for want of a key, or be too long on its way."""
    said = {400: "The body is not as the schema says.", 401: "No valid key.", 403: "The server has no key for this.",
            404: "No such task or model.", 408: "The request came too slowly.", 409: "The new version does not pass.",
            413: "The request is too large.", 415: "The body is not JSON.", 422: "The model cannot do this.",
            429: "The server is busy.", 500: "An error inside the server.", 503: "The server is stopping.",
            504: "No answer in time."}  # fmt: skip
    return {status: {"model": ErrorAnswer, "description": said[status]} for status in statuses}


#: The errors that routes with a body have.
REFUSALS = errors(400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)


async def json_of(request: Request) -> bytes:
    """The body of a request in JSON. Errors: `Refused` for another type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, f"read a request to {request.url.path}", f"its content is of type '{kind[:50]}'",
                      "send JSON with the header: Content-Type: application/json")  # fmt: skip
    return await request.body()
