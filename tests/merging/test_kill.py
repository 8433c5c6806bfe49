"""Whatever ends a merge, the same command again gives what one that nothing ended gives, and does no shard twice."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from allround.checkpoints.write import WeightsFile
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.core.jobs import Inline, Job
from allround.core.locks import LOCK

SHARDS = 6


def model(folder: Path, seed: int, size: int, tensors: int) -> Path:
    """A checkpoint in six files with an index, and other files beside them."""
    folder.mkdir(parents=True)
    draw = torch.Generator().manual_seed(seed)
    listed = {}
    for number in range(1, SHARDS + 1):
        file = f"model-{number:05d}-of-{SHARDS:05d}.safetensors"
        made = {f"layer.{number}.{n}.weight": torch.randn(size, size, generator=draw) for n in range(tensors)}
        save_file(made, folder / file, {"format": "pt"})
        listed |= dict.fromkeys(made, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    (folder / "config.json").write_text('{"model_type": "none"}')
    (folder / "tokenizer.json").write_text(json.dumps({"words": list(range(1000))}))
    return folder


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two tuned models, of 4 MB a file; a method with singular values takes a while for each."""
    folder = tmp_path_factory.mktemp("slow")
    return [model(folder / name, seed, 512, 4) for seed, name in enumerate(("base", "one", "two"))]


@pytest.fixture
def small(tmp_path: Path) -> list[Path]:
    return [model(tmp_path / name, seed, 16, 2) for seed, name in enumerate(("base", "one", "two"))]


def command(models: Sequence[Path], out: Path, method: str = "iso_c", *more: str) -> list[str]:
    return ["merge", *map(str, models), "--method", method, "--workers", "2", *more, "-o", str(out)]


def start(words: Sequence[str]) -> subprocess.Popen[str]:
    every = [sys.executable, "-m", "allround", *words]
    return subprocess.Popen(every, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def cli(words: Sequence[str], code: int = 0) -> str:
    """Run a command in this process; an AllroundError comes through."""
    result = CliRunner().invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def partial(out: Path) -> Path:
    """What a merge that is at work, or was killed, has beside its output."""
    return out.parent / f".{out.name}.partial"


def grown(out: Path) -> Path:
    """The folder that is to be the output."""
    return partial(out) / "new" / out.name


def finished(out: Path) -> dict[str, tuple[int, int]]:
    """The shards that an unfinished run has finished and noted, as the system knows them."""
    found = {}
    for note in sorted((grown(out) / ".done").glob("model*.json")):
        about = (grown(out) / note.stem).stat()
        found[note.stem] = (about.st_ino, about.st_mtime_ns)
    return found


def began(out: Path) -> int | None:
    """When something was last put into the unfinished folder, or taken from it."""
    try:
        return grown(out).stat().st_mtime_ns
    except FileNotFoundError:
        return None


def wait_for(done: Any, process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Until something is so, or the process has ended."""
    end = time.monotonic() + seconds
    while not done() and process.poll() is None:
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.005)


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_killed_at_five_moments(slow: list[Path], tmp_path: Path) -> None:
    """Until it is whole there is nothing at OUT, and a shard that was finished stays the file that it is."""
    words, out = command(slow, tmp_path / "killed" / "out"), tmp_path / "killed" / "out"
    cli(command(slow, tmp_path / "whole" / "out"))
    whole = files(tmp_path / "whole" / "out")
    assert sum(name.endswith(".safetensors") for name in whole) == SHARDS
    draw = random.Random(0)
    kept: dict[str, tuple[int, int]] = {}
    kills = 0
    while kills < 5:
        before = began(out)
        process = start(words)
        with ended(process):
            if kills == 0:
                time.sleep(draw.uniform(0, 1))  # before it has begun
            else:
                wait_for(lambda before=before: began(out) not in (None, before), process)
                time.sleep(draw.uniform(0, 0.6))
        kills += 1
        if out.exists():  # it was done before; the next begins anew
            assert files(out) == whole
            out.rename(tmp_path / f"done{kills}")
            kept = {}
            continue
        assert process.returncode == -signal.SIGKILL
        now = finished(out)
        assert {name: now.get(name) for name in kept} == kept, "a finished shard was made again"
        kept = now
    process = start(words)
    with ended(process):
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert files(out) == whole
    about = {name: (out / name).stat() for name in kept}
    assert {name: (at.st_ino, at.st_mtime_ns) for name, at in about.items()} == kept
    assert not partial(out).exists() and sorted(p.name for p in out.parent.iterdir()) == ["out"]


#: Ends the process as SIGKILL does, half-way through what a run does at one point.
_DIES = {
    "while a shard is written": """
write, seen = os.pwrite, []
def pwrite(handle, data, offset):
    seen.append(0)
    if len(seen) > 10:
        write(handle, bytes(data)[: len(data) // 2], offset)
        os.kill(os.getpid(), signal.SIGKILL)
    return write(handle, data, offset)
os.pwrite = pwrite
""",
    "while a file is copied": """
def copyfile(source, target):
    open(target, "wb").write(open(source, "rb").read()[:10])
    os.kill(os.getpid(), signal.SIGKILL)
shutil.copyfile = copyfile
""",
    **{
        f"before {name} takes its place": f"""
replace = os.replace
def killed(old, new):
    if os.path.basename(new).startswith("{name}"):
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(old, new)
os.replace = killed
"""
        for name in ("model-00003-of-00006.safetensors", "model.safetensors.index.json", "merge.json")
    },
    "when all lies ready": """
shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("patch", _DIES.values(), ids=_DIES)
def test_killed_in_the_middle_of_one_step(patch: str, small: list[Path], tmp_path: Path) -> None:
    """Nothing half-written is taken for whole, and nothing of it lies in the end beside what is."""
    out = tmp_path / "killed" / "out"
    words = command(small, out, "average")
    code = f"import os, shutil, signal, sys\n{patch}\nfrom allround.cli import main\nmain()\n"
    found = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=300)
    assert found.returncode == -signal.SIGKILL, found.stderr
    assert not out.exists() and partial(out).is_dir()
    kept = finished(out)
    cli(words)
    cli(command(small, tmp_path / "whole" / "out", "average"))
    assert files(out) == files(tmp_path / "whole" / "out")
    about = {name: (out / name).stat() for name in kept}
    assert {name: (at.st_ino, at.st_mtime_ns) for name, at in about.items()} == kept
    assert sorted(p.name for p in out.parent.iterdir()) == ["out"]


#: Waits when the second file is finished, so that a signal surely finds the merge unfinished.
WAITING = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
from allround.cli import main
from allround.core.jobs import Inline

whole = Inline.run

def run(self, jobs):
    for number, made in enumerate(whole(self, jobs)):
        yield made
        if number == 1:
            time.sleep(300)

Inline.run = run
main()
"""


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_says_so(small: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-c", WAITING, *command(small, out, "average")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with ended(process):
        wait_for(lambda: len(finished(out)) == 2, process)
        kept = finished(out)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said == "stopped: what is finished is kept; run the same command again to go on from there\n"
    assert kept and kept.items() <= finished(out).items() and not out.exists()
    left = [p for p in grown(out).glob(".*") if p.name != ".done"]
    assert left == [], "the file that was being written is gone"


class Counted:
    """Which shards were made, in place of the runner that makes them; and an end before one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, last: int = SHARDS) -> None:
        self.last = last
        self.made: list[int] = []

        def run(runner: Inline, jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
            for index, job in enumerate(jobs):
                if len(self.made) == self.last:
                    raise KeyboardInterrupt
                self.made.append(job.arguments["number"])
                yield index, job()

        monkeypatch.setattr(Inline, "run", run)

    def again(self, last: int = SHARDS) -> None:
        self.last, self.made = last, []


def test_the_same_command_goes_on_where_it_was(
    small: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, words = Counted(monkeypatch, 4), command(small, tmp_path / "out", "average")
    cli(words, 130)
    assert counted.made == [0, 1, 2, 3] and not (tmp_path / "out").exists()
    assert len(finished(tmp_path / "out")) == 4
    counted.again()
    cli(words)
    assert counted.made == [4, 5]


def test_what_was_made_from_something_else_is_made_again(
    small: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another method, another value, another file: each makes all shards anew."""
    counted, out = Counted(monkeypatch, 4), tmp_path / "out"
    cli(command(small, out, "average"), 130)
    counted.again(4)
    cli(command(small, out, "task_arithmetic"), 130)
    assert counted.made == [0, 1, 2, 3]
    counted.again(4)
    cli(command(small, out, "task_arithmetic", "--scale", "0.25"), 130)
    assert counted.made == [0, 1, 2, 3]
    shard = small[1] / "model-00002-of-00006.safetensors"
    changed = {name: tensor + 1 for name, tensor in load_file(shard).items()}
    save_file(changed, shard, {"format": "pt"})
    counted.again()
    cli(command(small, out, "task_arithmetic", "--scale", "0.25"))
    assert counted.made == list(range(SHARDS))
    name = next(iter(changed))
    base, other = (load_file(small[n] / shard.name)[name] for n in (0, 2))
    expected = base + 0.25 * (changed[name] - base + other - base)
    assert torch.allclose(load_file(out / shard.name)[name], expected, atol=1e-6)


@pytest.mark.parametrize("change", ["tokenizer", "weights"])
def test_other_files_of_an_input_are_what_it_was_made_from_too(
    small: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """A tokenizer, which rows of an embedding may follow; weights in a file of the same size and time."""
    counted, out = Counted(monkeypatch, 4), tmp_path / "out"
    cli(command(small, out, "average"), 130)
    path = small[2] / ("tokenizer.json" if change == "tokenizer" else "model-00002-of-00006.safetensors")
    before = path.stat()
    data = path.read_bytes()
    path.write_bytes(data[:-8] + bytes(8) if change == "weights" else data.replace(b"7", b"8"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    counted.again()
    cli(command(small, out, "average"))
    assert counted.made == list(range(SHARDS))


def test_two_at_once(small: list[Path], tmp_path: Path) -> None:
    import fcntl

    out = tmp_path / "out"
    partial(out).mkdir()
    with open(partial(out) / LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(AllroundError) as caught:
            cli(command(small, out, "average"))
    assert caught.value.asked == f"write {out}"
    assert caught.value.found == "another process is writing it at this moment"
    assert partial(out).is_dir() and not out.exists(), "the first goes on unharmed"
    cli(command(small, out, "average"))
    assert not partial(out).exists()


@pytest.mark.parametrize("workers", ["1", "3"])
def test_a_failure_at_the_end_leaves_nothing(small: list[Path], tmp_path: Path, workers: str) -> None:
    shard = small[2] / f"model-00006-of-{SHARDS:05d}.safetensors"
    tensors = load_file(shard)
    last = sorted(tensors)[-1]
    tensors[last][-1, -1] = float("nan")
    save_file(tensors, shard, {"format": "pt"})
    with pytest.raises(AllroundError, match="holds NaN or infinity in"):
        cli([*command(small, tmp_path / "new" / "out", "average"), "--workers", workers])
    assert list((tmp_path / "new").iterdir()) == []


def test_an_earlier_model_stays_until_the_new_one_is_whole(
    small: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    cli(command(small, out, "average"))
    before = files(out)
    counted = Counted(monkeypatch, 3)
    cli([*command(small, out, "task_arithmetic"), "--force"], 130)
    assert files(out) == before
    counted.again()
    monkeypatch.setattr(WeightsFile, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli([*command(small, out, "task_arithmetic"), "--force"])
    assert files(out) == before and not partial(out).exists()
    monkeypatch.undo()
    cli([*command(small, out, "task_arithmetic"), "--force"])
    assert files(out).keys() == before.keys() and files(out) != before
