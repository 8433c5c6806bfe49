"""A workshop makes what is not there yet, and tells people in a line and the log in all of them."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console

from allround.building import Options, build
from allround.building.workshop import Tally, Workshop
from allround.core.jobs import Inline, Processes, call
from allround.core.pieces import Piece
from allround.core.progress import Progress
from allround.models.encoders.small_image import SmallImage
from allround.tasks.suite import Suite
from allround.training.settings import Settings


def make(piece: Piece, text: str) -> None:
    with piece.make() as (folder, facts):
        (folder / "text").write_text(text)
        facts.update({"validation": {"a": 0.5, "b": 1.0}, "seconds": 0.25})


def test_only_what_is_missing_or_damaged_is_made(tmp_path: Path) -> None:
    screen = Console(file=io.StringIO(), width=100)
    with Workshop(tmp_path, Progress(tmp_path / "log.txt", console=screen), workers=1) as shop:
        pieces = [shop.pieces.piece("one", number=number) for number in range(3)]
        work = [(piece, call(make, piece=piece, text="abc")) for piece in pieces]
        assert shop.do("first", work[:2]) == Tally(made=2)
        (pieces[1].folder / "text").write_text("abd")
        tally = shop.do("again", work)
        assert tally == Tally(made=2, found=1)
        shop.say("three pieces", tally)
    log = re.sub(r"^ *[0-9.]+ s  ", "", (tmp_path / "log.txt").read_text(), flags=re.M).splitlines()
    result = "  (validation 0.750, 0.2 s)"
    assert log == [
        f"made  {pieces[0].key}{result}",
        f"made  {pieces[1].key}{result}",
        f"have  {pieces[0].key}{result}",
        f"note  {pieces[1].key} is made again: text is not as it was written",
        f"made  {pieces[1].key}{result}",
        f"made  {pieces[2].key}{result}",
        "three pieces (1 of 3 were there already)",
    ]
    assert isinstance(screen.file, io.StringIO)
    shown = screen.file.getvalue()
    assert "made  " not in shown and "have  " not in shown
    assert "is made again" in shown and "three pieces (1 of 3 were there already)" in shown


def test_what_cannot_be_sent_to_another_process_is_done_here(tmp_path: Path) -> None:
    for here, sort in ((True, Inline), (False, Processes)):
        with Workshop(tmp_path, Progress(quiet=True), workers=2, in_process=here) as shop:
            assert type(shop.runner) is sort
            assert shop.at_once == (1 if here else 2)


def test_a_build_shows_a_line_for_each_stage(digits_suite: Suite, small_image: SmallImage, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    small_image.save(tmp_path / "base")
    options = Options(
        settings=Settings(epochs=1, batch_size=30, precision="fp32"), workers=1, trials=2, resamples=100,
        methods=("average", "ties", "divmerge"), reference="specialists",
    )  # fmt: skip
    shown = []
    for _ in range(2):
        screen = Console(file=io.StringIO(), width=100)
        progress = Progress(tmp_path / "run" / "log.txt", console=screen)
        build(digits_suite, out=tmp_path / "run", base=tmp_path / "base", options=options, progress=progress)
        assert isinstance(screen.file, io.StringIO)
        shown.append(screen.file.getvalue())
    first, second = ([re.sub(r"^ *[0-9.]+ s  ", "", line) for line in text.splitlines()] for text in shown)
    first, second = ([line for line in lines if not line.startswith("data of ")] for lines in (first, second))
    wanted = [
        r"suite digits: 3 tasks, 180 training rows; seed 0, 1 worker",
        r"base base: [\d,.]+ k? ?parameters",
        r"heads fitted for 3 tasks on the frozen base",
        r"3 specialists and 1 joint model tuned",
        r"baselines fitted for 3 tasks: linear models \([\d.]+ s\)",
        r"mean retention on validation: base [\d.]+%, joint [\d.]+%, linear [\d.]+%",
        r"2 merges by the best of 3 settings on validation: average [\d.]+%, ties [\d.]+%",
        r"1 merge learned: divmerge [\d.]+%",
        r"heads fitted anew on the encoders of (average|ties) and divmerge",
        r"Chosen on validation: \S+, mean retention [\d.]+%, out of 7 single models \(4 merge settings tried\)\."
        r"( The system 'linear' retains [\d.]+% there, and is not a single model \(see --any-system\)\.)?",
        r"9 systems scored on 90 test rows",
    ]
    for lines, there in ((first, ""), (second, r" \((all were|was) there already\)")):
        assert len(lines) == len(wanted)
        for line, pattern in zip(lines, wanted, strict=True):
            stage = there and not pattern.startswith(("suite", "mean", "Chosen"))
            assert re.fullmatch(pattern + (there if stage else ""), line), line
