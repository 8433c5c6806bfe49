"""The tutorial "Ship it" runs from top to bottom with a real server and curl; the container runs its commands."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCRIPT = r"""
set -eu
stop() { if [ -n "${server:-}" ]; then kill -TERM "$server"; wait "$server"; fi; server=; }
start() {
  stop
  "$PYTHON" -m allround "$@" &
  server=$!
  for _ in $(seq 600); do curl -sf "localhost:$PORT/readyz" > ready && return; sleep 0.1; done
  exit 9
}
trap '[ -z "${server:-}" ] || kill -KILL "$server"' EXIT
"""


def blocks(language: str, until: str = "") -> list[str]:
    """The blocks of the page, up to a heading."""
    text = PAGE.partition(f"\n## {until}")[0] if until else PAGE
    return [code for name, code in FENCE.findall(text) if name == language]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_page_runs_from_top_to_bottom(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    code = "\n".join(blocks("bash", until="Several models")).replace("\\\n", " ").replace("8000", port)
    lines = [line for line in code.splitlines() if line and not line.startswith("pip ")]
    # What is made first is made in one process, since each command would load torch.
    made = [shlex.split(line)[1:] for line in lines if re.match("allround (?!serve)", line)]
    calls = [f"app({words!r}, standalone_mode=False)" for words in made]
    python = "\n".join([*blocks("python", until="Several models"), "from allround.cli.app import app", *calls])
    body = "\n".join("    " + line for line in python.splitlines())
    (tmp_path / "make.py").write_text(f"if __name__ == '__main__':\n{body}\n", encoding="utf-8")
    environment = {**os.environ, "PYTHON": sys.executable, "PORT": port, "OMP_NUM_THREADS": "1"}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    ran = run(sys.executable, "make.py")
    assert ran.returncode == 0, ran.stderr
    others = [line for line in lines if not re.match("allround (?!serve)", line)]
    served = [re.sub("^allround serve", "start serve", line) for line in others]
    (tmp_path / "page.sh").write_text(SCRIPT + "\n".join(served) + "\nstop\necho stopped\n", encoding="utf-8")
    ran = run("bash", "page.sh")
    assert ran.returncode == 0 and ran.stdout.endswith("stopped\n"), ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr and "Warning" not in ran.stderr

    answer = json.loads(re.findall(r'\{"model".*?"notes":\[null\]\}', ran.stdout)[0])
    example = json.loads(blocks("json")[0])
    assert shape(answer) == shape(example), "the example on the page is such an answer"
    assert answer["answers"][0]["species"]["answer"] == example["answers"][0]["species"]["answer"]
    (compared,) = re.findall(r'\{"model":"flowers","folder":"models/new".*\}', ran.stdout)
    assert [one["task"] for one in json.loads(compared)["compared"]] == ["species", "petal"]
    assert 'allround_answers_total{model="flowers",task="petal"} 1.0' in ran.stdout
    assert (tmp_path / "shadow.jsonl").is_file()


def shape(value: object) -> object:
    """The keys of an answer, and the types of what they hold."""
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items()}
    return [shape(one) for one in value] if isinstance(value, list) else type(value).__name__


def test_the_container_runs_the_commands_of_the_page() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    (start,) = [json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD ")]
    (install,) = [line.removeprefix("RUN ") for line in lines if line.startswith("RUN ")]
    commands = [line for code in blocks("bash") for line in code.splitlines()]
    assert shlex.join(start) in commands and install in commands
    build = next(line.removeprefix("#   ") for line in lines if line.startswith("#   docker build"))
    assert build in commands
    for line in lines:
        if line.startswith("COPY "):
            assert all((ROOT / name).exists() for name in line.split()[1:-1])
