"""`allround serve` in a process of its own."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any


class Running:
    """A server that runs. port: where."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        """The status and the body of a response, on a connection of its own."""
        with contextlib.closing(HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())


@contextlib.contextmanager
def running(*words: str) -> Iterator[Running]:
    """A server with these arguments, from the line that says where it is until it ends."""
    command = [sys.executable, "-m", "allround", "serve", *words, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            line = process.stdout.readline()
            found = re.search(r"http://\S+:(\d+)", line)
            assert found, line + process.stderr.read()
            yield Running(process, int(found[1]))
        finally:
            process.kill()
