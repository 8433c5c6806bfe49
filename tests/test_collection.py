"""What `make test` runs is all there is: every file with tests, and every module with examples."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: Notes every file that pytest would look for tests in, and looks into none: importing them all takes a while.
RECORDER = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_make_collect_report(collector):
    if isinstance(collector, pytest.File) and not isinstance(collector, pytest.Package):
        print("FOUND", type(collector).__name__, collector.path)
        return pytest.CollectReport(collector.nodeid, "passed", None, [])
"""


def collected(folder: Path) -> set[tuple[str, Path]]:
    """The (type of collector, file) pairs that the Makefile's test command finds."""
    line = re.search(r"-m pytest (.*)", (ROOT / "Makefile").read_text())
    assert line is not None, "the Makefile has no test command"
    (folder / "recorder.py").write_text(RECORDER)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *shlex.split(line[1]), "--collect-only", "-s", "-n0", "-p", "recorder"],
        cwd=ROOT,
        env={"PYTHONPATH": f"{folder}:{ROOT / 'src'}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    found = re.findall(r"^FOUND (\w+) (.*)$", run.stdout, re.MULTILINE)
    assert found, run.stdout + run.stderr
    return {(kind, Path(path)) for kind, path in found}


def test_every_file_with_tests_or_examples_is_collected(tmp_path: Path) -> None:
    found = collected(tmp_path)
    tests = {path for path in (ROOT / "tests").rglob("*.py") if re.search(r"^\s*def test_", path.read_text(), re.M)}
    modules = {path for path in (ROOT / "src").rglob("*.py") if ">>>" in path.read_text()}
    assert {path.parent.name for path in tests} >= {"building", "core", "merging", "training"}
    assert tests - {path for kind, path in found if kind == "Module"} == set(), "tests that never run"
    assert modules - {path for kind, path in found if kind == "DoctestModule"} == set(), "examples that never run"
