"""The door of the server: who may ask, how much a request may hold, and a count of what became of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from allround.serving.keys import ADMIN, Keys
from allround.serving.metrics import Metrics
from allround.serving.refused import Refused, error_json


@dataclass(frozen=True)
class DoorLimits:
    """body: most bytes of a request. held: most bytes of all requests that are not answered yet. seconds: how long a
    client may take to send a request."""

    body: int = 2**20
    held: int = 2**26
    seconds: float = 10.0


class Door:
    """An ASGI application in front of another: it reads each body within limits, and checks keys.

    admin: keys for paths under /admin, which nobody may ask where there are none. open: paths that need no key. paths:
    those that are counted by name; others are counted together.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Keys,
        admin: Keys,
        limits: DoorLimits,
        metrics: Metrics,
        open: Collection[str],
        paths: Collection[str],
    ) -> None:
        self.app, self.keys, self.admin = app, keys, admin
        self.limits, self.metrics = limits, metrics
        self.open, self.paths = frozenset(open), frozenset(paths)
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        held = 0
        try:
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            self._check_key(scope["path"], headers)
            held = self._room(headers)
            self._held += held
            body = await self._body(receive) if held else b""
            if body is not None:
                await self.app(scope, _replay(body, receive), watched)
        except Refused as error:
            await _refuse(error, watched)
        finally:
            self._held -= held
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.requests.labels(path, str(status or "none")).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - begun)

    def _check_key(self, path: str, headers: dict[str, str]) -> None:
        managing = path.startswith("/admin/")
        if managing and not self.admin:
            raise Refused(403, f"ask {path[:100]}", "the server has no key for it",
                          f"start it with the variable {ADMIN}")  # fmt: skip
        if path in self.open or not (managing or self.keys):
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        shown = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key")
        if not (self.admin if managing else self.keys).allow(shown):
            raise Refused(401, f"ask {path[:100]}", "the request shows no valid API key",
                          "send the header: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})  # fmt: skip

    def _room(self, headers: dict[str, str]) -> int:
        """How many bytes a request may take of those that are held; 0 where it has no body."""
        length = headers.get("content-length")
        if length is None and "transfer-encoding" not in headers:
            return 0
        size = int(length) if length is not None and length.isdigit() else self.limits.body
        if size > self.limits.body:
            raise self._too_large()
        if self._held + size > self.limits.held:
            raise Refused(429, "answer a request", "the server holds as many requests as it may",
                          "ask again in a second", {"Retry-After": "1"})  # fmt: skip
        return size

    def _too_large(self) -> Refused:
        return Refused(413, "answer a request", f"it has more than {self.limits.body:,} bytes",
                       "send fewer or shorter rows in a request")  # fmt: skip

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body; None where the client is gone."""
        try:
            return await asyncio.wait_for(self._read(receive), self.limits.seconds)
        except asyncio.TimeoutError:
            raise Refused(408, "read a request", f"it did not come whole in {self.limits.seconds:g} seconds",
                          "send it again", {"Connection": "close"}) from None  # fmt: skip

    async def _read(self, receive: Receive) -> bytes | None:
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.limits.body:
                raise self._too_large()
            more = message.get("more_body", False)
        return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read, and then what comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(error: Refused, send: Send) -> None:
    body = to_json(error_json(error))
    headers: list[Any] = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
