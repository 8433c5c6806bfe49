"""Only regular files are opened, nothing waits, and a document is refused before it takes memory."""

from __future__ import annotations

import ast
import importlib.util
import os
import socket
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import allround
from allround.core import documents, registry
from allround.core.documents import parse_documents
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


SOURCE = Path(allround.__file__).parent
#: Calls that open a file -> where they stand, and why that is safe.
ALLOWED = {
    ("core/reading.py", "os.open"): "the one place",
    ("core/plugins.py", ".read_bytes"): "the code of an installed package, which is run anyway",
    ("tasks/harness/finding.py", "open"): "files of an installed package",
    ("core/files.py", "open"): "a file that was just written, to have the disk keep it",
    ("core/memory.py", ".read_text"): "a file of the system's",
    ("models/device.py", ".read_text"): "a file of the system's",
    ("tasks/sources/archive.py", "ZipFile"): "of an open file",
    ("tasks/sources/parquet.py", "from_parquet"): "after check_parquet",
    ("tasks/sources/parquet.py", "Image.open"): "of bytes",
    ("tasks/sources/hub.py", "load_dataset"): "of the Hub alone",
    ("tasks/task.py", "OSFile"): "after check_file",
    ("tasks/task.py", "memory_map"): "after check_file",
    ("models/indexed.py", "memory_map"): "after check_files",
    ("models/indexed.py", "OSFile"): "to write",
    ("models/index/exact.py", "np.load"): "after check_files",
    ("models/index/faiss.py", "np.load"): "what was just written",
    ("models/index/hnswlib.py", "np.load"): "what was just written",
    ("building/index.py", "np.load"): "of a folder of its own, after read_settings",
    ("core/reading.py", "ParquetFile"): "of an open file",
    ("tasks/sources/stream.py", "ParquetFile"): "of an open file",
    ("evaluation/predictions.py", "read_table"): "of an open file",
    ("transfer/files.py", "read_table"): "of an open file",
    ("transfer/files.py", "read_csv"): "of an open file",
    ("checkpoints/weights.py", "torch.load"): "after check_file",
    ("training/unfinished.py", "torch.load"): "after check_file",
    ("models/encoders/image.py", "from_pretrained"): "load_encoder has called check_folder",
    ("models/pretrained.py", "from_pretrained"): "load_encoder has called check_folder",
    ("models/language/loading.py", "from_pretrained"): "load_encoder has called check_folder",
    ("models/language/gguf.py", "from_pretrained"): "of a file that open_file has opened",
    ("models/encoders/text.py", "SentenceTransformer"): "load_encoder has called check_folder",
    ("models/encoders/text.py", "from_pretrained"): "load_encoder has called check_folder",
    ("merging/tokenizers.py", "from_pretrained"): "after check_folder",
    ("tasks/modalities/image.py", "Image.open"): "of an open file or of bytes",
}
OPENERS = {"ZipFile", "ParquetFile", "from_parquet", "load_dataset", "OSFile", "read_table", "SentenceTransformer"}
OPENERS |= {"from_pretrained", "safe_open", "load_file", "read_csv", "from_csv", "from_file", "memory_map"}


def opened(call: ast.Call) -> str | None:
    """How a call opens a file for reading; None where it does not, or writes."""
    name = ast.unparse(call.func).removeprefix("PIL.")
    last = name.rpartition(".")[2]
    modes = [a.value for a in (*call.args[1:2], *(k.value for k in call.keywords if k.arg == "mode"))
             if isinstance(a, ast.Constant) and isinstance(a.value, str)]  # fmt: skip
    if name == "open":
        return None if modes and not set(modes[0]) & {"r", "+"} else "open"
    if last in ("read_text", "read_bytes") and "." in name:
        return f".{last}"
    if name in ("os.open", "torch.load", "Image.open", "np.load", "json.load", "yaml.load", "yaml.safe_load"):
        return None if name == "os.open" and "O_WRONLY" in ast.unparse(call) else name
    return last if last in OPENERS else None


def test_every_file_is_opened_by_this_module() -> None:
    """Files are opened by `core/reading.py`, or by a library that was given what it had opened or checked."""
    found = {
        (path.relative_to(SOURCE).as_posix(), how)
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and (how := opened(node)) is not None
    }
    assert found == set(ALLOWED)


def test_yaml_without_libyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    """libyaml reads where there is one (a megabyte takes 0.01 to 1 s, and up to 9 s without); without, PyYAML's own
    parser reads the same."""
    assert issubclass(documents._Loader, yaml.cyaml.CParser)
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    name = "allround.core.documents_in_python"
    spec = importlib.util.spec_from_file_location(name, SOURCE / "core" / "documents.py")
    assert spec and spec.loader
    slow = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(slow)
    text = "a: [1, 2e-3, no, &x {b: 'c'}, *x]\n---\nd: |\n  two\n  lines\n"
    assert slow.parse_documents(text) == parse_documents(text)
    for broken in ("a: b: c", "[" * 65, "{a: 1, a: 2}", "a: *b", "9" * 400):
        with pytest.raises(AllroundError):
            slow.parse_documents(broken)
        with pytest.raises(AllroundError):
            parse_documents(broken)


def test_wide_and_deep_yaml_is_refused_at_once() -> None:
    tracemalloc.start()
    try:
        for text, found in (
            ("- 1\n" * 1_500_000, "it has more than 100,000 lines and commas"),
            ("[" + "1," * 1_500_000 + "1]", "it has more than 100,000 lines and commas"),
            ("[" * 200_000, "exceeded maximum nesting depth"),  # libyaml's own bound, 1,000
            ("[" * 900, "nested more than 64 levels deep"),
            ("- " * 200_000, "nested more than 64 levels deep"),
        ):
            with pytest.raises(AllroundError, match=found):
                parse_documents(text)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()
    assert parse_documents("[" * 64 + "]" * 64)
    with pytest.raises(AllroundError, match="more than 1,000 values"):
        parse_documents("- - - - - - - - - a\n" * 900, max_values=1000)
    with pytest.raises(AllroundError, match="not of the form key=value"):
        registry.spelled("merge", "ties:keep=" + "[" * 5000)


def test_words_that_begin_like_a_truth_value_are_words() -> None:
    text = "[true128.jsonl, falsehood, 'true', true, False, no]"
    assert parse_documents(text, plain_words=True) == [["true128.jsonl", "falsehood", "true", True, False, "no"]]
