"""Ends commands at random moments, runs them again, and compares with a run that nobody ended.

    python benchmarks/random_kills.py --kills 100 --seed 0

Commands: build, train, tune, merge, compress, loop, compare-training, stats, zip, stream, add-task and shrink, each on
two small tasks of digits with tiny models. For each, one run is left alone. Then the same command is started anew and
ended at a random moment (SIGKILL mostly, SIGINT and SIGTERM sometimes), once to three times in one folder, and run to
its end. Asked of the result: every file holds what it holds in the run that was left alone (timings apart), no other
file or folder is there, hidden ones included, and a user's file beside it is as it was. Runs are forks of one process
that has imported everything, so that few of the moments fall into imports. Exits with 1 where anything differed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

DIGITS = ["digits", "--only", "digit,ink"]
ROWS = [part for limit in ("train=60", "validation=30", "test=30") for part in ("--limit", limit)]
QUICK = ["--epochs", "2", "--batch-size", "20"]
#: What the commands import as they run; the first optimizer, torch._dynamo.
IMPORTED = ("torch._dynamo", "transformers", "scipy.stats", "sklearn.datasets", "allround.building.compare",
            "allround.building.loops", "allround.cli.app", "allround.composition", "allround.evaluation.report",
            "allround.merging")  # fmt: skip
#: What is left to chance or to the clock, by key or by text.
TIMED = re.compile(r"second|time|date|speed|per_s|memory|took|host|measured", re.IGNORECASE)
#: Files whose text tells times; only that they are there is compared.
SPOKEN = {"log.txt", "report.html", "comparison.html", "comparison.svg", "README.md", "scoreboard.md", "comparison.md",
          "stream.md", "add-task.md", "shrink.md"}  # fmt: skip


def commands(inputs: Path, out: Path, workers: int) -> dict[str, list[str]]:
    """The command lines, by name; all write `out` alone."""
    base, models = str(inputs / "base"), [str(inputs / name) for name in ("digit", "ink")]
    made = ["--base", base, *ROWS, *QUICK]
    several = ["--workers", str(workers)]
    return {
        "build": ["build", *DIGITS, *made, *several, "--trials", "3", "-o", str(out)],
        "train": ["train", *DIGITS, *made, "-o", str(out)],
        "tune": ["tune", "digits", "ink", *made, "-o", str(out)],
        "merge": ["merge", base, *models, "--method", "ties", "-o", str(out)],
        "compress": ["compress", base, *models, "--codec", "sign", "-o", str(out)],
        "loop": ["loop", "atm", *DIGITS, *made, *several, "--rounds", "2", "-o", str(out)],
        "compare-training": ["compare-training", *DIGITS, *made, *several, "--methods", "uw", "--seeds", "1",
                             "--trials", "1", "--sweep", "0", "-o", str(out)],
        "stats": ["stats", models[0], "digits", "--only", "digit", *ROWS, "--kind", "gram", "-o", f"{out}.safetensors"],
        "zip": ["zip", *models, "--suite", "digits", "--rows", "60", "-o", str(out)],
        "stream": ["stream", "digits", "--task", "digit", "--labels", "5", "--base", base, *ROWS, *QUICK, *several,
                   "--strategies", "er:bytes=5000", "-o", str(out)],
        "add-task": ["add-task", models[0], "digits", "--only", "ink", "--old", "digits", "--try-all",
                     "--ways", "head_only,residual", *ROWS, *QUICK, *several, "-o", str(out)],
        "shrink": ["shrink", models[0], "digits", "--only", "digit", "--to", "70%,50%", *ROWS, *QUICK, *several,
                   "-o", str(out)],
    }  # fmt: skip


def make_inputs(folder: Path) -> None:
    """A base of random weights and a specialist of each task."""
    import torch

    from allround.models.encoders.small_image import SmallImage

    torch.manual_seed(0)
    (folder / "base").mkdir(parents=True)
    SmallImage(channels=1, size=8).eval().save(folder / "base")
    for task in ("digit", "ink"):
        words = ["tune", "digits", task, "--base", str(folder / "base"), *ROWS, *QUICK]
        run = start([*words, "-o", str(folder / task)], folder / "log.txt")
        if run.wait() != 0:
            sys.exit(f"{' '.join(words)} failed:\n{(folder / 'log.txt').read_text()}")


@dataclass
class Run:
    """A command that runs in a fork of this process, the first of a session of its own."""

    process: int
    code: int | None = None

    def wait(self) -> int:
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        return self.code

    def ended(self) -> bool:
        if self.code is None:
            done, status = os.waitpid(self.process, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if done else None
        return self.code is not None

    def end(self, number: int) -> None:
        """Send a signal as a terminal or a system would, and wait until the command and its workers are gone."""
        if number == signal.SIGINT:
            os.killpg(self.process, number)
        else:
            os.kill(self.process, number)
        self.wait()
        limit = time.monotonic() + 30
        while _alive(self.process):
            if time.monotonic() > limit:
                raise TimeoutError(f"processes outlived the command by 30 s after signal {number}")
            time.sleep(0.05)


def _alive(session: int) -> bool:
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return any(
        int(fields[2]) == session and fields[0] != "Z"
        for stat in Path("/proc").glob("[0-9]*/stat")
        if (fields := _fields(stat))
    )


def _fields(stat: Path) -> list[str]:
    try:
        return stat.read_text().rpartition(")")[2].split()
    except OSError:
        return []


def start(words: list[str], log: Path) -> Run:
    sys.stdout.flush()
    process = os.fork()
    if process:
        return Run(process)
    code = 70
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.argv = ["allround", *words]
        from allround.cli import main

        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


# -- what a folder holds ----------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, str]:
    """Every file and folder under a folder, and a hash of what it says beside times."""
    return {
        path.relative_to(folder).as_posix(): "folder" if path.is_dir() else said(path)
        for path in sorted(folder.rglob("*"))
    }


def said(path: Path) -> str:
    """A hash of a file without what is left to the clock."""
    if path.name in SPOKEN or path.suffix in (".svg", ".html"):
        return "text"
    if path.suffix in (".json", ".jsonl"):
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        return _hash([untimed(json.loads(line)) for line in lines])
    if path.suffix == ".safetensors":
        return _hash(weights(path))
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return _hash(pq.read_table(path).to_pydict())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        told = {k: untimed(_read(v)) for k, v in (file.metadata() or {}).items() if not TIMED.search(k)}
        tensors = {}
        for name in file.keys():  # noqa: SIM118 (it is no dictionary)
            tensor = file.get_tensor(name).contiguous()
            held = hashlib.sha256(tensor.flatten().view(__import__("torch").uint8).numpy().tobytes()).hexdigest()
            tensors[name] = [str(tensor.dtype), list(tensor.shape), held]
    return {"told": told, "tensors": tensors}


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def untimed(value: Any) -> Any:
    """Plain data without what is named like a time, sentences that tell times, and hashes of what holds times."""
    if isinstance(value, Mapping):
        return {
            k: untimed(v)
            for k, v in value.items()
            if not TIMED.search(str(k)) and k not in ("files", "sha256", "check", "answer")
        }
    if isinstance(value, list):
        return [untimed(one) for one in value]
    return value


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    said = [f"missing: {name}" for name in wanted.keys() - found.keys()]
    said += [f"left behind: {name}" for name in found.keys() - wanted.keys()]
    said += [f"differs: {name}" for name in found.keys() & wanted.keys() if found[name] != wanted[name]]
    return sorted(said)


# -- trials -----------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    kills: Counter[str] = field(default_factory=Counter)
    signals: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def trial(
    name: str,
    words: list[str],
    place: Path,
    wanted: Mapping[str, str],
    seconds: float,
    kills: int,
    draw: random.Random,
    report: Report,
) -> None:
    """Start a command and end it `kills` times, run it to its end, and compare."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place / "notes.txt").write_text("mine")
    log = place.parent / "log.txt"
    log.unlink(missing_ok=True)
    moments = []
    for _ in range(kills):
        number = draw.choice([signal.SIGKILL] * 4 + [signal.SIGINT, signal.SIGTERM])
        moment = draw.uniform(0, 1.05 * seconds)
        run = start(words, log)
        limit = time.monotonic() + moment
        while time.monotonic() < limit and not run.ended():
            time.sleep(0.01)
        if run.ended():
            break  # it was faster than the run that was left alone
        run.end(number)
        moments.append(f"{signal.Signals(number).name} at {moment:.2f} s")
        report.kills[name] += 1
        report.signals[signal.Signals(number).name] += 1
    code = start(words, log).wait()
    told = f"{name} ({'; '.join(moments)})"
    if code != 0:
        report.problems.append(f"{told}: the last run ended with {code}:\n{log.read_text()[-2000:]}")
        return
    report.problems += [f"{told}: {line}" for line in differences(contents(place), wanted)]
    if "Traceback" in log.read_text():
        report.problems.append(f"{told}: a traceback:\n{log.read_text()[-2000:]}")


def go(kills: int, seed: int, only: list[str], workers: int, say: Callable[[str], None]) -> Report:
    for name in IMPORTED:
        importlib.import_module(name)
    draw = random.Random(seed)
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_inputs(root / "inputs")
        before = contents(root / "inputs")
        place = root / "place"
        wanted: dict[str, dict[str, str]] = {}
        seconds: dict[str, float] = {}
        lines = commands(root / "inputs", place / "out", workers)
        lines = {name: words for name, words in lines.items() if not only or name in only}
        while sum(report.kills.values()) < kills:
            name = draw.choice(list(lines))
            if name not in wanted:
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                (place / "notes.txt").write_text("mine")
                begun = time.monotonic()
                log = root / "whole.txt"
                if start(lines[name], log).wait() != 0:
                    sys.exit(f"{name} fails when it is left alone:\n{log.read_text()[-3000:]}")
                seconds[name], wanted[name] = time.monotonic() - begun, contents(place)
                say(f"{name}: {seconds[name]:.1f} s left alone, {len(wanted[name])} files and folders")
            left = kills - sum(report.kills.values())
            known = len(report.problems)
            trial(name, lines[name], place, wanted[name], seconds[name], min(left, draw.randint(1, 3)), draw, report)
            say(f"{sum(report.kills.values())} of {kills} kills: {name} "
                f"{'as if nothing had happened' if len(report.problems) == known else 'DIFFERS'}")  # fmt: skip
            for problem in report.problems[known:]:
                say(f"  {problem}")
        for line in differences(contents(root / "inputs"), before):
            report.problems.append(f"the inputs: {line}")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="worker processes of the commands that have them")
    parser.add_argument("--only", default="", help="commands with commas between")
    given = parser.parse_args()
    begun = time.monotonic()
    only = [n for n in given.only.split(",") if n]
    report = go(given.kills, given.seed, only, given.workers, lambda text: print(text, flush=True))
    print(f"\n{sum(report.kills.values())} kills in {time.monotonic() - begun:.0f} s: {dict(report.kills)}, "
          f"{dict(report.signals)}; {len(report.problems)} problems")  # fmt: skip
    sys.exit(bool(report.problems))


if __name__ == "__main__":
    main()
