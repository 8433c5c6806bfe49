"""Only regular files are opened, nothing waits, and a document is refused before it takes memory."""

from __future__ import annotations

import os
import socket
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from allround.core.errors import AllroundError
from allround.core.files import hash_file, read_json
from allround.core.reading import (
    MAX_DEPTH,
    check_file,
    check_folder,
    is_deep,
    open_file,
    parse_json,
    read_bytes,
    read_text,
)

READERS: list[Callable[[Path], Any]] = [open_file, check_file, read_bytes, read_text, read_json, hash_file]


@pytest.fixture
def special(tmp_path: Path) -> dict[Path, str]:
    """Paths that are no regular files -> what they are called."""
    pipe, place = tmp_path / "pipe", tmp_path / "socket"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(place))
    (tmp_path / "link").symlink_to(pipe)
    return {
        pipe: "a pipe",
        tmp_path / "link": "a pipe",
        place: "a socket",
        tmp_path: "a folder",
        Path("/dev/zero"): "a device",
        Path("/dev/null"): "a device",
    }


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_nothing_waits_for_what_is_no_file(read: Callable[[Path], Any], special: dict[Path, str]) -> None:
    for path, name in special.items():
        with pytest.raises(AllroundError) as caught:
            read(path)
        assert caught.value.found == f"it is {name}, not a file"


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_paths_without_a_file(read: Callable[[Path], Any], tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for path, found in (
        (tmp_path / "no", "not there"),
        (tmp_path / ("n" * 300), "cannot be read"),
        (tmp_path / "a\0b", "cannot be read"),
        (tmp_path / "round", "cannot be read"),
    ):
        with pytest.raises(AllroundError, match=found):
            read(path)


def test_a_folder_with_a_pipe_in_it(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.json").write_text("{}")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    check_folder(tmp_path)
    os.mkfifo(tmp_path / "inner" / "config.json")
    with pytest.raises(AllroundError, match=r"'config.json' in it is a pipe, not a file"):
        check_folder(tmp_path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(10**12)
    for read in (read_bytes, read_text, read_json):
        with pytest.raises(AllroundError, match="it has 1,000,000,000,000 bytes"):
            read(path)
    assert read_bytes(Path("/proc/self/status"), max_bytes=1 << 20)  # its size is said to be 0
    with pytest.raises(AllroundError, match="it has 11 bytes; a file has at most 10"):
        read_bytes(Path("/proc/self/status"), max_bytes=10)


def test_text_is_read_as_python_reads_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("é\r\nb\rc\n".encode())
    assert read_text(tmp_path / "a") == (tmp_path / "a").read_text(encoding="utf-8") == "é\nb\nc\n"
    (tmp_path / "b").write_bytes(b"\xff")
    with pytest.raises(AllroundError, match="it is not UTF-8 text"):
        read_text(tmp_path / "b")


def test_depth_of_json() -> None:
    def nested(levels: int) -> str:
        return "[" * levels + "]" * levels

    assert not is_deep(parse_json(nested(MAX_DEPTH)))
    for text in (nested(MAX_DEPTH + 1), nested(200_000), "[" * 200_000, '{"a":' * 100 + "1" + "}" * 100):
        with pytest.raises(ValueError, match="more than 64 levels"):
            parse_json(text)
    assert parse_json('["' + "[" * 200 + '"]') == ["[" * 200]


def test_wide_json_takes_no_memory() -> None:
    text = "[" + "[]," * 6_000_000 + "[]]"
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more than 5,000,000 values"):
            parse_json(text)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()
