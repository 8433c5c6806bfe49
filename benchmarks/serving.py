"""What serving costs: all tasks beside one, HTTP beside the engine alone, many clients beside one, and a flood.

The server is a process of its own, the client this one. Ratios are of one run; each round measures everything once, the
first is dropped, and medians are shown. CPU times are of the server's process, from /proc, so that a busy machine
hardly changes them; of HTTP it is that of the thread that does nothing else.

    taskset -c 1 env OMP_NUM_THREADS=1 python benchmarks/serving.py runs/text8/best
    python benchmarks/serving.py MODEL --server-core 1 --client-core 0 --rounds 6 --requests 300
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from allround.models.manifest import read_manifest

TICK = os.sysconf("SC_CLK_TCK")
WORDS = """what who where when is the a of in to was did how many name first largest city river president film good bad
    dull bright story acting plot actor music never always card account money transfer refund lost stolen late paper
    method result shows model data we propose"""


def cpu_seconds(pid: int, thread: int | None = None) -> float:
    """CPU time of a process, or of one of its threads."""
    path = Path(f"/proc/{pid}/stat" if thread is None else f"/proc/{pid}/task/{thread}/stat")
    parts = path.read_text().rpartition(")")[2].split()
    return (int(parts[11]) + int(parts[12])) / TICK


def resident(pid: int) -> float:
    """MiB of memory that a process has now."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


class Server:
    """`allround serve` of a folder, in a process of its own."""

    def __init__(self, folder: Path, core: int | None) -> None:
        command = [sys.executable, "-m", "allround", "serve", f"served={folder}", "--port", "0"]
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        pinned = None if core is None else lambda: os.sched_setaffinity(0, {core})
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=pinned)
        assert self.process.stdout is not None
        found = re.search(r":(\d+)\s*$", self.process.stdout.readline())
        assert found, "the server did not start"
        self.pid, self.port = self.process.pid, int(found[1])


def wire(body: dict[str, Any]) -> bytes:
    """A request as it goes over the wire."""
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    """Send a request on a connection that stays open, and read the whole response; its status."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    await reader.readexactly(int(length[1]) if length else 0)
    return int(head.split(maxsplit=2)[1])


async def closed_loop(port: int, requests: Sequence[bytes], clients: int) -> Counter[int]:
    """Clients that each send the next request when they have their answer; the statuses."""
    left, statuses = iter(requests), Counter[int]()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in left:
            statuses[await ask(reader, writer, request)] += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return statuses


async def flood(port: int, request: bytes, count: int) -> Counter[int]:
    """Requests that are all sent before any response is read; the statuses."""
    pairs = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(count)))
    found = await asyncio.gather(*(ask(reader, writer, request) for reader, writer in pairs))
    for _, writer in pairs:
        writer.close()
    return Counter(found)


class Load:
    """What a load took: CPU milliseconds a request of the process, and of its first thread; requests a second."""

    def __init__(self, server: Server, requests: Sequence[bytes], clients: int = 1) -> None:
        before, http, begun = cpu_seconds(server.pid), cpu_seconds(server.pid, server.pid), time.perf_counter()
        statuses = asyncio.run(closed_loop(server.port, requests, clients))
        assert set(statuses) == {200}, statuses
        self.rate = len(requests) / (time.perf_counter() - begun)
        self.cpu = 1000 * (cpu_seconds(server.pid) - before) / len(requests)
        self.http = 1000 * (cpu_seconds(server.pid, server.pid) - http) / len(requests)


def engine_alone(folder: Path, texts: Sequence[str], tasks: list[str]) -> float:
    """CPU milliseconds a request where the engine is called without HTTP; in a process of its own."""
    script = (
        "import json, sys, time\n"
        "from allround.models.system import load\n"
        "from allround.serving.engine import Engine\n"
        "from allround.serving.questions import Question\n"
        "from allround.serving.served import asking_of, warm_up\n"
        "folder, texts, tasks = json.load(sys.stdin)\n"
        "system = load(folder); warm_up(system)\n"
        "engine, asking = Engine(system), asking_of(tasks, scores=False)\n"
        "ask = lambda text: engine.submit(Question.make([text], asking)).result()\n"
        "[ask(text) for text in texts[:20]]\n"
        "begun = time.process_time()\n"
        "[ask(text) for text in texts]\n"
        "print(1000 * (time.process_time() - begun) / len(texts))\n"
    )
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    given = json.dumps([str(folder), list(texts), tasks])
    ran = subprocess.run([sys.executable, "-c", script], input=given, capture_output=True, text=True, env=environment,
                         check=True)  # fmt: skip
    return float(ran.stdout.split()[-1])


def texts_of(count: int, seed: int) -> list[str]:
    """Made-up texts of five to twenty words."""
    draw, words = random.Random(seed), WORDS.split()
    return [" ".join(draw.choices(words, k=draw.randint(5, 20))) for _ in range(count)]


@contextlib.contextmanager
def serving(folder: Path, core: int | None) -> Iterator[Server]:
    server = Server(folder, core)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a folder that allround saved, with tasks that read one text")
    parser.add_argument("--requests", type=int, default=200, help="of each load in a round")
    parser.add_argument("--rounds", type=int, default=4, help="the first is dropped")
    parser.add_argument("--server-core", type=int)
    parser.add_argument("--client-core", type=int)
    given = parser.parse_args()
    if given.client_core is not None:
        os.sched_setaffinity(0, {given.client_core})
    _, definitions, _ = read_manifest(given.model)
    tasks = [d.name for d in definitions.values() if len(d.inputs) == 1 and d.modality == "text"
             and d.kind != "token_classification"]  # fmt: skip
    found: dict[str, list[float]] = {}

    def note(**measured: float) -> None:
        for name, value in measured.items():
            found.setdefault(name, []).append(value)

    with serving(given.model, given.server_core) as server:
        for number in range(given.rounds):
            texts = texts_of(given.requests, number)
            one = [wire({"inputs": [text], "tasks": tasks[:1]}) for text in texts]
            every = [wire({"inputs": [text], "tasks": tasks}) for text in texts]
            alone, together = Load(server, one), Load(server, every)
            eight = Load(server, every, clients=8)
            direct = engine_alone(given.model, texts, tasks)
            note(one=alone.cpu, every=together.cpu, tasks=together.cpu / alone.cpu, http=together.http, direct=direct,
                 over=together.cpu - direct, eight=eight.cpu, rate_one=together.rate, rate_eight=eight.rate,
                 throughput=eight.rate / together.rate, per_cpu=together.cpu / eight.cpu)  # fmt: skip
            print(f"round {number}: " + "  ".join(f"{name} {values[-1]:.3g}" for name, values in found.items()))
        request = wire({"inputs": texts_of(1, 0), "tasks": tasks})
        before, statuses = resident(server.pid), asyncio.run(flood(server.port, request, 600))
        first = resident(server.pid)
        for _ in range(3):
            statuses += asyncio.run(flood(server.port, request, 600))
        last = resident(server.pid)
    m = {name: statistics.median(values[1:] or values) for name, values in found.items()}
    print(f"\n{len(tasks)} tasks, {given.requests} requests a load, median of {max(1, given.rounds - 1)} rounds")
    print(f"all tasks / one task, CPU          {m['tasks']:.2f}   ({m['every']:.2f} / {m['one']:.2f} ms)")
    print(f"HTTP's thread, CPU a request       {m['http']:.2f} ms")
    print(f"served - engine alone, CPU         {m['over']:.2f} ms   ({m['every']:.2f} - {m['direct']:.2f} ms)")
    print(f"8 clients / 1, requests a second   {m['throughput']:.2f}   ({m['rate_eight']:.1f} / {m['rate_one']:.1f})")
    print(f"8 clients / 1, requests a CPU s    {m['per_cpu']:.2f}   ({m['every']:.2f} / {m['eight']:.2f} ms)")
    print(f"four floods of 600                 {dict(statuses)}")
    print(f"memory before, after one, four     {before:.0f}, {first:.0f}, {last:.0f} MiB")


if __name__ == "__main__":
    main()
