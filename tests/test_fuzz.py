"""Damaged files are read or refused in words by every reader, and the fuzzer that says so finds readers that are bad.

The work is done by `benchmarks/fuzz.py`, in a process of its own, since it forks.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"

PLANTED = """
import os, signal, sys, time
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import fuzz
from allround.core.errors import AllroundError

fuzz.SLOW, fuzz.SILENT = 1.0, 4.0

def refuse(data):
    raise AllroundError("read", "it is damaged", "make it again")

def deaf(data):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(100)

def swallow(data):
    try:
        time.sleep(100)
    except BaseException:
        pass

READERS = {
    "good": lambda data: None,
    "refuses": refuse,
    "raises": lambda data: {}[data],
    "exits": lambda data: sys.exit(0),
    "sleeps": lambda data: time.sleep(100),
    "swallows": swallow,
    "grows": lambda data: b"x" * (600 << 20) and None,
    "overgrows": lambda data: bytearray(1 << 40),
    "dies": lambda data: os.kill(os.getpid(), signal.SIGKILL),
    "deaf": deaf,
}

for name, read in READERS.items():
    def make(folder, read=read):
        calls, path = [], folder / "file"
        path.write_bytes(b"valid 1")
        # The first read is that of the valid file.
        return [fuzz.Sample(path, "bytes", lambda: calls.append(1) or (calls[1:] and read(path.read_bytes())))]

    count = 2 if name in ("good", "refuses", "raises", "exits") else 1
    outcome = fuzz.fuzz(fuzz.Reader(name, make), range(100, 100 + count), 0, Path(sys.argv[2]))
    print("OUTCOME", name, outcome.done, outcome.refused, outcome.read, *outcome.findings)
"""

FOUND = {
    "good": "2 0 2",
    "refuses": "2 2 0",
    "raises": r"2 0 0 raised: KeyError at .*",
    "exits": r"2 0 0 raised: SystemExit at .*",
    "sleeps": r"1 0 0 slow: _TooSlow at .*",
    "swallows": r"1 0 0 slow: the end",
    "grows": r"1 0 0 memory",
    "overgrows": r"1 0 0 raised: MemoryError at .*",
    "dies": r"1 0 0 death: exit status -9",
    "deaf": r"1 0 0 silent: .*",
}


@pytest.mark.slow
def test_eight_thousand_damaged_files(tmp_path: Path) -> None:
    line = [sys.executable, str(SCRIPT), "--count", "8000", "--seed", "11", "--findings", str(tmp_path)]
    run = subprocess.run(line, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"^8,000 damaged files, 0 findings$", run.stdout, re.MULTILINE), run.stdout


def test_bad_readers_are_found(tmp_path: Path) -> None:
    line = [sys.executable, "-c", PLANTED, str(SCRIPT.parent), str(tmp_path)]
    run = subprocess.run(line, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    found = dict(re.findall(r"^OUTCOME (\w+) (.*)$", run.stdout, re.MULTILINE))
    assert list(found) == list(FOUND)
    for name, wanted in FOUND.items():
        assert re.fullmatch(wanted, found[name].strip()), (name, found[name])
    kept = {path.name.split("-")[0] for path in tmp_path.iterdir()}
    assert kept == set(FOUND) - {"good", "refuses"}
