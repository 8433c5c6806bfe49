"""What a run says: every line in the log, lines and a bar on a terminal, nothing when quiet."""

from __future__ import annotations

import io
import os
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

import allround
from allround.core.progress import Progress, drop_useless_width, make_console


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, highlight=False, width=100)


def shown(made: Console) -> str:
    assert isinstance(made.file, io.StringIO)
    return made.file.getvalue()


def test_lines_go_to_the_log_and_the_screen(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "log.txt"
    screen = console(False)
    progress = Progress(log, console=screen)
    progress.say("first [bold]line[/bold] with ümlaut")
    progress.say("second", style="red")
    lines = log.read_text(encoding="utf-8").splitlines()
    assert [re.sub(r"^ *\d+\.\d s  ", "", line) for line in lines] == ["first [bold]line[/bold] with ümlaut", "second"]
    assert "first [bold]line[/bold] with ümlaut" in shown(screen)
    assert len(shown(screen).splitlines()) == 2
    Progress(log, quiet=True).say("third")
    assert len(log.read_text(encoding="utf-8").splitlines()) == 3, "a log goes on"


@pytest.mark.parametrize(("columns", "width"), [("0", 80), ("1", 80), ("19", 80), ("20", 20), ("120", 120)])
def test_a_width_in_which_nothing_can_be_read_is_not_taken(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert make_console().width == make_console(stderr=True).width == width
    Progress().say("what happens")
    assert "what" in capsys.readouterr().err
    drop_useless_width()
    assert os.environ.get("COLUMNS") == (None if width == 80 else columns)


def test_consoles_are_made_in_one_place() -> None:
    source = Path(allround.__file__).parent
    made = {p.relative_to(source).as_posix() for p in source.rglob("*.py") if re.search(r"\bConsole\(", p.read_text())}
    assert made == {"core/progress.py"}


def test_quiet_is_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    screen = console(True)
    progress = Progress(tmp_path / "log.txt", quiet=True, console=screen)
    with progress.stage("work", 2) as stage:
        progress.say("a line")
        stage.advance()
    assert shown(screen) == ""
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal_and_none_in_a_pipe() -> None:
    for terminal in (True, False):
        screen = console(terminal)
        progress = Progress(console=screen)
        with progress.stage("tuning", 3) as stage:
            for _ in range(3):
                stage.advance()
            progress.say("news")
        assert ("tuning" in shown(screen)) == terminal
        assert "news" in shown(screen)


def test_the_bar_shows_the_time_that_is_left_and_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("allround.core.progress.time.monotonic", lambda: now)
    screen = console(True)
    progress = Progress(console=screen)
    progress.compare("ties", 0.973)
    progress.compare("average", 0.9)
    with progress.stage("tuning", 4) as stage:
        assert stage.words() == "tuning: 0 of 4 done"
        now = 160.0
        stage.advance()
        assert stage.words() == "tuning: 1 of 4 done, about 3 min 0 s left"
        assert stage.bar is not None
        stage.bar.refresh()
        progress.say("a line that comes between")
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(screen))
        assert re.search(r" s  a line that comes between *\n", plain), "in one piece, above the bar"
        assert "1/4" in shown(screen) and "about 3 min 0 s left  best so far: ties 97.3%" in shown(screen)


def test_a_pipe_is_never_silent_for_long() -> None:
    screen = console(False)
    progress = Progress(console=screen, pulse=0.05)
    with progress.watch(), progress.watch(), progress.stage("tuning", 2) as stage:
        progress.compare("joint", 1.0)
        stage.advance()
        end = time.monotonic() + 5
        while "left" not in shown(screen) and time.monotonic() < end:
            time.sleep(0.01)
    assert re.search(r"tuning: 1 of 2 done, about 0.\d s left; best so far: joint 100.0%\n", shown(screen))
    lines = len(shown(screen).splitlines())
    time.sleep(0.15)
    assert len(shown(screen).splitlines()) == lines, "after the work there are no more"
    quiet = Progress(console=screen, pulse=0.01, quiet=True)
    with quiet.watch():
        time.sleep(0.05)
    assert len(shown(screen).splitlines()) == lines


def test_stages_inside_stages_and_errors_leave_no_bar() -> None:
    progress = Progress(console=console(True))
    with progress.stage("outer", 2) as outer:
        with progress.stage("inner", 5) as inner:
            inner.advance()
        outer.advance()
        assert progress._bar is not None
    assert progress._bar is None
    with pytest.raises(RuntimeError), progress.stage("again", 1):
        raise RuntimeError
    assert progress._bar is None
    with progress.stage("nothing to do", 0) as none:
        none.advance()


def test_by_default_news_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Progress().say("news")
    out, err = capsys.readouterr()
    assert out == "" and "news" in err
