"""Commands that are ended at random moments and run again leave what a run that nobody ended leaves.

The work is done by `benchmarks/random_kills.py`, in a process of its own, since it forks.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "random_kills.py"


@pytest.mark.slow
def test_five_random_kills_change_nothing() -> None:
    # Commands in one process: what becomes of the workers of a command that is killed, tests/cli/test_cli.py asks.
    words = ["--kills", "5", "--seed", "1", "--workers", "1"]
    run = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"^5 kills in .* 0 problems$", run.stdout, re.MULTILINE), run.stdout


def test_what_differs_is_found(tmp_path: Path) -> None:
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        from random_kills import contents, differences
    finally:
        sys.path.remove(str(SCRIPT.parent))
    for name, score in (("whole", 1), ("other", 2)):
        folder = tmp_path / name
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "facts.json").write_text(f'{{"score": {score}, "seconds": {score}}}')
        (folder / "timed.json").write_text(f'{{"score": 1, "seconds": {score}}}')
    (tmp_path / "other" / ".left").mkdir()
    (tmp_path / "whole" / "more.bin").write_bytes(b"1")
    assert differences(contents(tmp_path / "other"), contents(tmp_path / "whole")) == [
        "differs: deep/facts.json",
        "left behind: .left",
        "missing: more.bin",
    ]
