"""Jobs give the same result wherever they run, and no worker outlives its run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import work_to_do

from allround.core import jobs
from allround.core.errors import AllroundError
from allround.core.jobs import Inline, Job, Processes, Runner, call, runner


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    """Two workers for all tests here, for starting them takes long."""
    made = Processes(2, 1)
    yield made
    made.close()


@pytest.fixture(params=["inline", "processes"])
def any_runner(request: pytest.FixtureRequest) -> Runner:
    return Inline() if request.param == "inline" else request.getfixturevalue("processes")


def test_a_call_becomes_a_job_and_back() -> None:
    job = call(work_to_do.square, number=3)
    assert job == Job("work_to_do:square", {"number": 3})
    assert job()[0] == 9


def test_results_come_with_their_index(any_runner: Runner) -> None:
    found = dict(any_runner.run([call(work_to_do.square, number=n) for n in range(5)]))
    assert {i: square for i, (square, _) in found.items()} == {0: 0, 1: 1, 2: 4, 3: 9, 4: 16}
    here = {pid == os.getpid() for _, pid in found.values()}
    assert here == {isinstance(any_runner, Inline)}


def test_no_jobs_no_results(any_runner: Runner) -> None:
    assert list(any_runner.run([])) == []


def test_an_error_arrives_with_its_parts(any_runner: Runner) -> None:
    with pytest.raises(AllroundError) as caught:
        list(any_runner.run([call(work_to_do.refuse, asked="cross the road")]))
    assert (caught.value.asked, caught.value.found, caught.value.do) == (
        "cross the road",
        "it is in the way",
        "walk around it",
    )
    assert dict(any_runner.run([call(work_to_do.square, number=2)]))[0][0] == 4, "the runner goes on"


def test_other_errors_arrive_as_they_are(any_runner: Runner) -> None:
    with pytest.raises(ValueError, match="an ordinary failure"):
        list(any_runner.run([call(work_to_do.fail)]))


def test_workers_use_the_threads_they_are_given(processes: Processes) -> None:
    assert dict(processes.run([call(work_to_do.threads)]))[0] == (1, "1")


def test_a_job_that_is_alone_uses_the_threads_of_all_workers(processes: Processes) -> None:
    many = (processes.workers, str(processes.workers))
    assert dict(processes.run([call(work_to_do.threads)], alone=True))[0] == many
    assert dict(processes.run([call(work_to_do.threads)]))[0] == (1, "1"), "the next has its own number again"


def test_ctrl_c_does_not_reach_a_worker_while_it_starts(processes: Processes) -> None:
    (blocked,) = dict(processes.run([call(work_to_do.blocked_signals)])).values()
    assert signal.SIGINT in blocked, "inherited from the moment that it was started in"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set()), "here it is let through again"


def test_leaving_early_cancels_the_rest(processes: Processes, tmp_path: Path) -> None:
    todo = [call(work_to_do.square, number=1)]
    todo += [call(work_to_do.note_and_wait, folder=str(tmp_path), seconds=0.5) for _ in range(20)]
    results = processes.run(todo)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert dict(processes.run([call(work_to_do.square, number=3)]))[0][0] == 9
    assert len(list(tmp_path.iterdir())) < 20


@pytest.mark.slow
def test_a_killed_worker_is_an_error_in_words_and_the_runner_recovers() -> None:
    made = Processes(1, 1)
    try:
        with pytest.raises(AllroundError) as caught:
            list(made.run([call(work_to_do.end_itself)]))
        assert "ended before its work was done" in caught.value.found
        assert "finished work is kept" in caught.value.do
        (_, pid) = dict(made.run([call(work_to_do.square, number=3)]))[0]
        # Killed between two runs, while it had nothing to do.
        os.kill(pid, signal.SIGKILL)
        _wait(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
        time.sleep(0.5)
        try:
            found = dict(made.run([call(work_to_do.square, number=3)]))
        except AllroundError as error:
            assert "ended before its work was done" in error.found
            found = dict(made.run([call(work_to_do.square, number=3)]))
        assert found[0][0] == 9
    finally:
        made.close()


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import work_to_do\n"
        "from allround.core.jobs import Processes, call\n"
        "if __name__ == '__main__':\n"
        "    todo = [call(work_to_do.note_and_wait, folder=sys.argv[2]) for _ in range(2)]\n"
        "    list(Processes(2, 1).run(todo))\n"
    )
    script = tmp_path / "main.py"
    script.write_text(code)
    notes = tmp_path / "notes"
    notes.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(Path(__file__).parent), str(notes)])
    family: list[psutil.Process] = []
    try:
        _wait(lambda: len(list(notes.iterdir())) == 2)
        family = psutil.Process(parent.pid).children(recursive=True)
        workers = {int(p.name) for p in notes.iterdir()}
        assert workers <= {p.pid for p in family}
        parent.kill()
        parent.wait(10)
        _, alive = psutil.wait_procs(family, timeout=15)
        assert not alive, "workers outlived their parent"
    finally:
        parent.kill()
        parent.wait(10)
        for process in family:
            if process.is_running():
                process.kill()


#: A command that waits for two workers, each of which has noted that it began.
COMMAND = """
import sys
sys.path.insert(0, sys.argv[1])
import typer
import work_to_do
from allround.cli.stopping import Commands, heed_interruptions
from allround.core.jobs import Processes, call

app = typer.Typer(cls=Commands)

@app.command()
def build():
    with Processes(2, 1) as made:
        list(made.run([call(work_to_do.note_and_wait, folder=sys.argv[2]) for _ in range(2)]))

@app.command()
def other(): ...

if __name__ == "__main__":
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs the tests in the background
    heed_interruptions()
    app(["build"])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "to_all"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_an_interruption_ends_workers_at_once(tmp_path: Path, number: int, to_all: bool) -> None:
    script = tmp_path / "main.py"
    script.write_text(COMMAND)
    notes = tmp_path / "notes"
    notes.mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(script), str(Path(__file__).parent), str(notes)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    family: list[psutil.Process] = []
    try:
        _wait(lambda: len(list(notes.iterdir())) == 2)
        family = psutil.Process(parent.pid).children(recursive=True)
        os.killpg(parent.pid, number) if to_all else os.kill(parent.pid, number)
        _, said = parent.communicate(timeout=30)  # a worker would wait for 60 seconds
        assert said == "stopped: what is finished is kept; run the same command again to go on from there\n"
        assert parent.returncode == 128 + number
        _, alive = psutil.wait_procs(family, timeout=15)
        assert not alive, "workers outlived the command"
    finally:
        for process in [*family, psutil.Process(parent.pid)] if parent.poll() is None else family:
            if process.is_running():
                process.kill()
        parent.wait(10)


#: A command that is interrupted in a destructor, where Python drops what is raised, and would then run for a minute.
DROPPED = """
import os, signal, sys, time
import typer
from allround.cli.stopping import Commands, heed_interruptions

class Gone:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(0.01)

app = typer.Typer(cls=Commands)

@app.command()
def build():
    Gone()
    time.sleep(60)

@app.command()
def other(): ...

signal.signal(signal.SIGINT, signal.default_int_handler)
heed_interruptions()
app(["build"])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_that_python_drops_is_not_lost(number: int) -> None:
    done = subprocess.run([sys.executable, "-c", DROPPED, str(int(number))], capture_output=True, text=True, timeout=30)
    assert done.stderr == "stopped: what is finished is kept; run the same command again to go on from there\n"
    assert done.returncode == 128 + number


def test_an_error_waits_for_work_that_has_begun_and_an_interruption_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    monkeypatch.setattr(Inline, "close", lambda self, *, at_once=False: closed.append(at_once))
    for error in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error), Inline():
            raise error
    with Inline():
        pass
    assert closed == [False, True, True, False]


def _wait(done: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def test_one_worker_is_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(jobs, "available_cores", lambda: 4)
    monkeypatch.setattr(jobs, "THREADS", 0)
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    try:
        assert isinstance(runner(1, 1), Inline)
    finally:
        torch.set_num_threads(before)
    made = runner()
    assert isinstance(made, Processes) and (made.workers, made.threads) == (4, 1)
    made = runner(2)
    assert isinstance(made, Processes) and (made.workers, made.threads) == (2, 2)
    made = runner(16)
    assert isinstance(made, Processes) and (made.workers, made.threads) == (16, 1)
    monkeypatch.setattr(jobs, "available_cores", lambda: 64)
    made = runner()
    assert isinstance(made, Processes) and (made.workers, made.threads) == (8, 8)
    monkeypatch.setattr(jobs, "THREADS", 1)  # the user's OMP_NUM_THREADS: other work may be on the machine
    made = runner(2)
    assert isinstance(made, Processes) and (made.workers, made.threads) == (2, 1)
