"""Files appear whole or not at all; hostile names are refused; a full disk is said in words."""

from __future__ import annotations

import builtins
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from allround.core import files
from allround.core.errors import AllroundError
from allround.core.files import (
    atomic_file,
    check_name,
    disk_errors,
    hash_file,
    hash_folder,
    hash_json,
    read_json,
    write_json,
)
from allround.core.outputs import piece_folder


def listing(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


class Stop(Exception):
    """Something that goes wrong in the middle."""


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    for text in ("one", "two"):
        with atomic_file(path) as temporary:
            assert temporary.parent == path.parent and temporary.suffix == ".txt"
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "one"
        assert path.read_text() == text
    assert listing(tmp_path) == ["new", "new/a.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert listing(tmp_path) == ["a.txt"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a"
    for name in ("one", "two"):
        with piece_folder(path) as temporary:
            (temporary / "deep").mkdir()
            (temporary / "deep" / name).write_text(name)
        assert listing(path) == ["deep", f"deep/{name}"]
    assert listing(tmp_path) == ["new", "new/a", "new/a/deep", "new/a/deep/two"]
    assert path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [True, False])
def test_an_exception_leaves_the_old_folder(tmp_path: Path, error: type[BaseException], old: bool) -> None:
    path = tmp_path / "a"
    if old:
        path.mkdir()
        (path / "old").write_text("old")
    with pytest.raises(error), piece_folder(path) as temporary:
        (temporary / "half").write_text("half")
        raise error
    assert listing(tmp_path) == (["a", "a/old"] if old else [])


@pytest.mark.parametrize("call", [1, 2])
def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Two renames replace a folder; whichever fails, the old one is there afterwards."""
    path = tmp_path / "a"
    path.mkdir()
    (path / "old").write_text("old")
    real, calls = os.replace, []

    def replace(source: Any, target: Any) -> None:
        calls.append(source)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(AllroundError, match="the disk is full"), piece_folder(path) as temporary:
        (temporary / "new").write_text("new")
    assert listing(tmp_path) == ["a", "a/old"]


def no_space(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def full_at_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", no_space)


def full_at_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_space)


def full_at_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "open", no_space, raising=False)


def full_at_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_text", no_space)


@pytest.mark.parametrize("fill", [full_at_replace, full_at_sync, full_at_open, full_at_write])
@pytest.mark.parametrize("write", [write_json, lambda path, _: _folder(path)], ids=["file", "folder"])
def test_a_full_disk_is_said_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fill: Callable[..., None], write: Callable[..., None]
) -> None:
    fill(monkeypatch)
    with pytest.raises(AllroundError) as caught:
        write(tmp_path / "a", {})
    assert caught.value.found == "the disk is full"
    assert "finished work is kept" in caught.value.do
    monkeypatch.undo()
    assert listing(tmp_path) == []


def _folder(path: Path) -> None:
    with piece_folder(path) as temporary:
        (temporary / "x").write_text("x")


@pytest.mark.parametrize("words", ["I/O error: No space left on device (os error 28)", "No space left on device"])
def test_a_full_disk_in_the_words_of_a_library(tmp_path: Path, words: str) -> None:
    with pytest.raises(AllroundError, match="the disk is full"), atomic_file(tmp_path / "a"):
        raise RuntimeError(words)


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="odd"), atomic_file(tmp_path / "a"):
        raise RuntimeError("odd")
    error = AllroundError("a", "b", "c")
    with pytest.raises(AllroundError) as caught, piece_folder(tmp_path / "a"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("code", "found", "do"),
    [
        (errno.EACCES, "it cannot be written: Permission denied", "choose a folder that you can write to"),
        (errno.EPERM, "it cannot be written: Operation not permitted", "choose a folder that you can write to"),
        (errno.EROFS, "it cannot be written: the disk is read-only", "choose a folder that you can write to"),
        (errno.ENAMETOOLONG, "it cannot be written: the name is too long", "choose a shorter name"),
        (errno.ENOSPC, "the disk is full", "free some space"),
        (errno.EDQUOT, "your share of the disk (quota) is used up", "free some space"),
        (errno.EFBIG, "the file is larger than that disk", "choose another disk"),
    ],
)
def test_every_hindrance_has_its_own_words(tmp_path: Path, code: int, found: str, do: str) -> None:
    with pytest.raises(AllroundError) as caught, disk_errors(str(tmp_path / "a")):
        raise OSError(code, os.strerror(code))
    assert caught.value.asked == f"write {tmp_path / 'a'}"
    assert caught.value.found.startswith(found) and caught.value.do.startswith(do)


@pytest.mark.parametrize(("code", "do"), [(errno.EROFS, "choose a folder"), (errno.ENOSPC, "free some space")])
def test_a_hindrance_in_the_words_of_a_library(tmp_path: Path, code: int, do: str) -> None:
    """As safetensors says it, in Rust."""
    with pytest.raises(AllroundError) as caught, disk_errors(str(tmp_path / "a")):
        raise RuntimeError(f"I/O error: something (os error {code})")
    assert caught.value.do.startswith(do)


def test_another_file_that_cannot_be_read_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), piece_folder(tmp_path / "out"):
        (tmp_path / "input").read_text()
    with pytest.raises(AllroundError, match="cannot be written"), piece_folder(tmp_path / ".out") as temporary:
        (temporary / "deep" / "file").write_text("x")
    assert listing(tmp_path) == []


@pytest.mark.parametrize("deep", ["file/a.json", "file/deeper/a.json"])
def test_a_file_where_a_folder_should_be_is_said_in_words(tmp_path: Path, deep: str) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(AllroundError, match="cannot be written"):
        write_json(tmp_path / deep, 1)
    with pytest.raises(AllroundError, match="cannot be written"):
        _folder(tmp_path / deep)
    assert listing(tmp_path) == ["file"]


def test_a_folder_where_a_file_should_be_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(AllroundError, match="cannot be written"):
        write_json(tmp_path / "a.json", 1)
    assert listing(tmp_path) == ["a.json"]


@pytest.mark.parametrize("name", ["a", "Z9", "sick_relatedness", "0-1", "a" * 100, "-".join("abc"), "CON"])
def test_plain_names_pass(name: str) -> None:
    assert check_name(name, "task") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "..\\x",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "C:x",
        "a.b",
        ".hidden",
        "-rf",
        "_x",
        " a",
        "a ",
        "a\n",
        "a\x00b",
        "\x00",
        "a" * 101,
        "naïve",
        "task\u202etxt",
        "١٢",
        "a%2e%2e",
        "$HOME",
        "a;b",
        None,
        3,
        b"a",
    ],
)
def test_hostile_names_are_refused(name: Any) -> None:
    with pytest.raises(AllroundError) as caught:
        check_name(name, "task")
    assert caught.value.asked == f"name a task {name!r}"
    assert "letters, digits" in caught.value.do


def test_json_round_trip_and_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 2.5, None], "a": "ü"})
    assert list(read_json(path)) == ["b", "a"]
    assert read_json(path) == {"b": [1, 2.5, None], "a": "ü"}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, float("nan"))
    assert read_json(path)["a"] == "ü"
    with pytest.raises(AllroundError, match="the file is not there"):
        read_json(tmp_path / "b.json")
    for broken in (b"{", b"\xff\xfe\x00", b""):
        path.write_bytes(broken)
        with pytest.raises(AllroundError, match="not readable as JSON"):
            read_json(path)
    with pytest.raises(AllroundError, match="it is a folder, not a file"):
        read_json(tmp_path)


def test_hashes_follow_content_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    first = hash_file(tmp_path / "a")
    import hashlib

    assert first == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    with builtins.open(tmp_path / "a", "rb") as file:
        assert files._hash(file) == first, "the way of older Pythons gives the same"
    folder = hash_folder(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert hash_folder(tmp_path) != folder
    (tmp_path / "b").rename(tmp_path / "a")
    assert hash_folder(tmp_path) == folder
    assert hash_json([1, {"a": 2, "b": 3}]) == hash_json([1, {"b": 3, "a": 2}]) != hash_json([1, {"a": 3, "b": 2}])
