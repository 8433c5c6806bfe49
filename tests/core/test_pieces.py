"""Finished pieces: named by what they were made from, whole or not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from allround.core import pieces as module
from allround.core.pieces import Piece, Pieces


def test_the_key_follows_what_a_piece_is_made_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Pieces(tmp_path)
    first = made.piece("tune", seed=0, settings={"a": 1, "b": 2})
    assert first.key.startswith("tune-")
    assert made.piece("tune", settings={"b": 2, "a": 1}, seed=0).key == first.key, "order does not matter"
    others = [
        made.piece("tune", seed=1, settings={"a": 1, "b": 2}),
        made.piece("tune", seed=0, settings={"a": 1, "b": 3}),
        made.piece("tune", seed=0, settings={"a": 1}),
        made.piece("tune", seed="0", settings={"a": 1, "b": 2}),
        made.piece("merge", seed=0, settings={"a": 1, "b": 2}),
    ]
    monkeypatch.setattr(module, "__version__", "9.9.9")
    others.append(made.piece("tune", seed=0, settings={"a": 1, "b": 2}))
    assert len({p.key for p in (first, *others)}) == 7


def test_a_piece_is_done_when_it_is_whole(tmp_path: Path) -> None:
    piece = Pieces(tmp_path).piece("tune", seed=0)
    assert not piece.done
    with piece.make() as (folder, facts):
        (folder / "weights").write_text("x")
        facts["score"] = 0.5
        facts["rows"] = [1, 2]
        assert not piece.done and not piece.folder.exists()
    assert piece.done
    assert piece.facts == {"score": 0.5, "rows": [1, 2]}
    assert (piece.folder / "weights").read_text() == "x"
    again = Pieces(tmp_path).piece("tune", seed=0)
    assert again.done and again.facts == piece.facts
    assert not Pieces(tmp_path).piece("tune", seed=1).done


def test_damage_of_equal_size_is_noticed(tmp_path: Path) -> None:
    """In any file, and in what the piece says of itself; but a piece that is not there is not damaged."""
    piece = Pieces(tmp_path).piece("tune", seed=0)
    assert piece.damage is None
    for name in ("encoder/weights", "heads", "piece.json"):
        with piece.make() as (folder, facts):
            (folder / "encoder").mkdir()
            (folder / "encoder" / "weights").write_bytes(bytes(range(256)) * 9000)
            (folder / "heads").write_bytes(b"12")
            facts["score"] = {3: 0.5, 10: 0.75}
        assert piece.done and piece.damage is None
        path = piece.folder / name
        data = bytearray(path.read_bytes())
        place = data.index(b"0.75") if name == "piece.json" else len(data) - 1
        data[place] ^= 1
        path.write_bytes(data)
        assert not piece.done and piece.damage == f"{name} is not as it was written"
        assert not Pieces(tmp_path).piece("tune", seed=0).done
    (piece.folder / "heads").unlink()
    with piece.make() as (folder, _):
        (folder / "heads").touch()
    assert piece.done
    (piece.folder / "heads").unlink()
    assert piece.damage == "heads cannot be read: No such file or directory"


@pytest.mark.parametrize(
    "text", ["", "[]", "7", "{", '{"files": 3, "check": ""}', "[" * 100_000, '{"files": {}}', "\ud800"]
)
def test_a_piece_that_says_nothing_of_itself_is_not_done(tmp_path: Path, text: str) -> None:
    piece = Pieces(tmp_path).piece("tune", seed=0)
    piece.folder.mkdir()
    (piece.folder / "piece.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert not piece.done and piece.damage == "piece.json is not as it was written"


def test_a_file_is_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    class Counted:
        def update(self, block: bytes) -> None:
            read.append(len(block))

        def hexdigest(self) -> str:
            return str(sum(read))

    monkeypatch.setattr(module.xxhash, "xxh3_128", Counted)
    piece = Pieces(tmp_path).piece("tune", seed=0)
    with piece.make() as (folder, _):
        (folder / "weights").write_bytes(bytes(2_500_000))
    assert piece.done and piece.done and sum(read) == 2_500_000


def test_a_failure_leaves_nothing_and_a_second_try_works(tmp_path: Path) -> None:
    piece = Pieces(tmp_path).piece("tune", seed=0)
    with pytest.raises(RuntimeError), piece.make() as (folder, _):
        (folder / "weights").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="JSON"), piece.make() as (_, facts):
        facts["score"] = float("nan")
    assert not piece.done and list(tmp_path.iterdir()) == []
    with piece.make():
        pass
    assert piece.done and piece.facts == {}


def test_making_again_replaces(tmp_path: Path) -> None:
    piece = Pieces(tmp_path).piece("tune", seed=0)
    for name in ("one", "two"):
        with piece.make() as (folder, facts):
            (folder / name).touch()
            facts["name"] = name
    assert piece.facts == {"name": "two"}
    assert sorted(p.name for p in piece.folder.iterdir()) == ["piece.json", "two"]


def test_what_the_user_puts_into_a_piece_stays(tmp_path: Path) -> None:
    """Also when the piece is made again, when it was damaged, and when it is removed."""
    piece = Pieces(tmp_path).piece("tune", seed=0)
    for name in ("one", "two", "three"):
        with piece.make() as (folder, _):
            (folder / name).touch()
        (piece.folder / "notes").mkdir(exist_ok=True)
        (piece.folder / "notes" / f"{name}.txt").write_text("the user's")
        (piece.folder / name).write_text("damaged")
    notes = [f"{name}.txt" for name in ("one", "three", "two")]
    assert sorted(p.name for p in piece.folder.rglob("*")) == ["notes", *notes[:1], "piece.json", "three", *notes[1:]]
    piece.remove()
    assert sorted(p.name for p in piece.folder.rglob("*")) == ["notes", *notes]
    Pieces(tmp_path).remove()
    assert piece.folder.is_dir()


def test_scratch_is_beside_the_pieces(tmp_path: Path) -> None:
    piece = Piece(tmp_path / "tune-1", {})
    assert piece.scratch == tmp_path / "unfinished" / "tune-1"


def test_a_kill_in_the_middle_leaves_nothing_that_is_done(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from allround.core.pieces import Pieces\n"
        "pieces = Pieces(sys.argv[1])\n"
        "with pieces.piece('first').make() as (folder, facts):\n"
        "    facts['x'] = 1\n"
        "with pieces.piece('second').make() as (folder, facts):\n"
        "    (folder / 'weights').write_text('half')\n"
        "    (folder / 'piece.json').write_text('{}')\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
    pieces = Pieces(tmp_path)
    assert pieces.piece("first").done and pieces.piece("first").facts == {"x": 1}
    second = pieces.piece("second")
    assert not second.done and not second.folder.exists()
    started = time.monotonic()
    with second.make() as (_, facts):
        facts["y"] = 2
    assert second.done and second.facts == {"y": 2}
    assert time.monotonic() - started < 45, "the lock of a process that was killed is not waited for"
