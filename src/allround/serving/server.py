"""The server: a socket, the application behind it, and an end in which every request that came is answered."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from allround.core.errors import AllroundError

#: Seconds after the signal to stop in which requests that were sent before it are still taken.
GRACE = 0.5
#: Most open connections; further ones get status 503.
CONNECTIONS = 2048
#: Connections that the system holds until they are accepted.
BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """A socket that holds an address and does not listen yet. port: 0 for any that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only where the protocol is named does asyncio send the end of a response before its beginning was confirmed.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except (OSError, OverflowError) as error:
        made.close()
        raise AllroundError(f"serve at {host}, port {port}", f"the system refuses it: {error}",
                            "choose another --port, or stop what uses it") from error  # fmt: skip
    return made


class Server(uvicorn.Server):
    """Stops at SIGTERM and Ctrl-C once what was sent is answered; at SIGHUP it calls `reload`.

    stopping: is called when the end begins.
    """

    def __init__(
        self, app: ASGIApp, *, seconds: float, stopping: Callable[[], object], reload: Callable[[], object]
    ) -> None:
        """seconds: the longest that an answer takes."""
        super().__init__(uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", server_header=False, ws="none",
            limit_concurrency=CONNECTIONS, backlog=BACKLOG, timeout_graceful_shutdown=int(seconds) + 5,
        ))  # fmt: skip
        self._stopping, self._reload = stopping, reload

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGINT: self._stop, signal.SIGTERM: self._stop, signal.SIGHUP: self._reload}
        before = {number: signal.getsignal(number) for number in handlers}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number, old in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, old)

    def _stop(self) -> None:
        if self.should_exit:
            self.force_exit = True  # asked a second time
            return
        self._stopping()
        asyncio.get_running_loop().call_later(GRACE, setattr, self, "should_exit", True)

    def run_on(self, listener: socket.socket) -> None:
        """Serve until told to stop."""
        asyncio.run(self.serve(sockets=[listener]))
