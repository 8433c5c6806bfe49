"""Only what allround wrote itself is ever replaced; killed processes leave nothing behind; two at once are refused."""

from __future__ import annotations

import contextlib
import fcntl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from allround.core import outputs
from allround.core.errors import AllroundError
from allround.core.files import MANIFEST
from allround.core.growing import remove_work
from allround.core.locks import LOCK
from allround.core.outputs import (
    check_out,
    output_file,
    output_folder,
    piece_folder,
    read_listing,
    remove_output,
    remove_stale,
    scratch_folder,
    sweep,
    work_folder,
    write_texts,
)


def listing(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def folder(path: Path, command: str = "train", text: str = "weights", **more: Any) -> None:
    with output_folder(path, command, **more) as new:
        (new / "deep").mkdir()
        (new / "deep" / "weights").write_text(text)


def file(path: Path, command: str = "train", text: str = "weights", **more: Any) -> None:
    with output_file(path, command, **more) as new:
        new.write_text(text)


def a_file(path: Path) -> str:
    path.write_text("the user's")
    return "there is a file of that name"


def a_folder(path: Path) -> str:
    path.mkdir()
    (path / "notes.txt").write_text("the user's")
    return "a folder"


def a_model_of_another_tool(path: Path) -> str:
    """With files that are called as allround's are, and no list of them."""
    path.mkdir()
    for name in ("allround.json", "merge.json"):
        (path / name).write_text("{}")
    return "a folder"


def of_another_command(write: Callable[..., None]) -> Callable[[Path], str]:
    def make(path: Path) -> str:
        write(path, "merge")
        return "'merge' wrote"

    return make


def with_a_note(path: Path) -> str:
    folder(path)
    (path / "deep" / "notes.txt").write_text("the user's")
    return "was not written with it: deep/notes.txt"


def with_a_link(path: Path) -> str:
    folder(path)
    (path / "link").symlink_to(path.parent, target_is_directory=True)
    return "was not written with it: link"


def edited(path: Path) -> str:
    """In as many bytes as before."""
    folder(path)
    (path / "deep" / "weights").write_text("WEIGHTS")
    return "was changed since: deep/weights"


def edited_file(path: Path) -> str:
    file(path)
    path.write_text("WEIGHTS")
    return "was changed since"


def without_its_list(path: Path) -> str:
    folder(path)
    (path / MANIFEST).write_text("{")
    return "which allround did not write"


CASES = [
    *((folder, made) for made in (a_file, a_folder, a_model_of_another_tool, of_another_command(folder), with_a_note,
                                  with_a_link, edited, without_its_list)),
    *((file, made) for made in (a_file, a_folder, of_another_command(file), edited_file)),
]  # fmt: skip


@pytest.mark.parametrize(("write", "made"), CASES, ids=lambda f: f.__name__)
def test_what_is_not_its_own_is_not_replaced(
    tmp_path: Path, write: Callable[..., None], made: Callable[[Path], str]
) -> None:
    path = tmp_path / "out"
    words = made(path)
    before = content(tmp_path)
    with pytest.raises(AllroundError) as caught:
        write(path, text="new")
    assert caught.value.asked == f"write {path}" and words in caught.value.found
    assert content(tmp_path) == before
    if path.is_dir() and write is file:
        assert "--force" not in caught.value.do
        return
    assert "--force" in caught.value.do and "force=True in Python" in caught.value.do
    write(path, text="new", force=True)
    assert (path if write is file else path / "deep" / "weights").read_text() == "new"
    if write is folder:  # what is not allround's is spared; an unchanged output of another command is not
        moved = {name.replace("out.1", "out", 1): data for name, data in content(tmp_path).items() if "out.1" in name}
        assert moved == ({} if "'merge' wrote" in words else before)
    write(path, text="newer")  # what was forced is its own now


@pytest.mark.parametrize("write", [folder, file])
def test_its_own_is_replaced_by_the_same_command(tmp_path: Path, write: Callable[..., None]) -> None:
    path = tmp_path / "new" / "out"
    for text in ("one", "two"):
        write(path, text=text)
        assert (path if write is file else path / "deep" / "weights").read_text() == text
    if write is folder:
        (path / "deep" / "weights").unlink()  # nothing of it is lost by replacing it
        write(path, text="three")
    expected = ["out", "out/deep", "out/deep/weights", f"out/{MANIFEST}"] if write is folder else ["out", MANIFEST]
    assert listing(path.parent) == sorted(expected)


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    folder(tmp_path / "out")
    assert read_listing(tmp_path / "out").keys() == {"deep/weights"}


def test_a_large_file_is_known_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading gigabytes to see whether they may be replaced would take longer than making them."""
    monkeypatch.setattr(outputs, "_HASHED", 3)
    folder(tmp_path / "out")
    assert read_listing(tmp_path / "out")["deep/weights"] == {"command": "train", "bytes": 7}
    (tmp_path / "out" / "deep" / "weights").write_text("longer than before")
    with pytest.raises(AllroundError, match="was changed since"):
        folder(tmp_path / "out")


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for text in ("one", "two"):
        folder(tmp_path / "link", text=text)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "deep" / "weights").read_text() == "two"
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(AllroundError):
        folder(tmp_path / "circle")


@pytest.mark.parametrize("force", [False, True])
def test_what_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool) -> None:
    """The current folder, the home folder, the root, one that holds any of them, a repository; also with force."""
    home, here = tmp_path / "homes" / "me", tmp_path / "work" / "here"
    (tmp_path / "project" / "deep" / ".git").mkdir(parents=True)
    (tmp_path / "project" / "deep" / ".git" / "HEAD").write_text("ref: refs/heads/main")
    for path in (home, here):
        path.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    for path in (home, home.parent, here, here.parent, Path(), Path("/"), tmp_path / "project"):
        with pytest.raises(AllroundError) as caught:
            folder(path, force=force)
        assert caught.value.asked == f"write {path}"
    assert home.is_dir() and here.is_dir() and (tmp_path / "project" / "deep" / ".git").is_dir()


@pytest.mark.parametrize("force", [False, True])
def test_an_input_is_never_replaced(tmp_path: Path, force: bool) -> None:
    """Nor what holds one; and nothing is written into a model that is read. Data may have outputs beside them."""
    model, data = tmp_path / "models" / "one", tmp_path / "data"
    folder(model)
    data.mkdir()
    (data / "rows.csv").write_text("x\n1\n")
    before = content(tmp_path)
    (tmp_path / "link").symlink_to(model)
    for path in (model, model.parent, tmp_path / "link", model / "out"):
        with pytest.raises(AllroundError, match="one must not lie within the other"):
            check_out(path, "train", force=force, inputs=["all-MiniLM-L6-v2", str(model)])
    for path in (data, tmp_path):
        with pytest.raises(AllroundError, match="one must not lie within the other"):
            check_out(path, "train", force=force, data=[data / "rows.csv", data])
    with pytest.raises(AllroundError, match="one must not lie within the other"):
        outputs.check_out_file(data / "rows.csv", "predict", force=force, inputs=[data / "rows.csv"])
    assert check_out(data / "out", "train", force=force, data=[data]) == data / "out"
    assert content(tmp_path) == before


@pytest.mark.parametrize("write", [folder, file])
def test_what_came_in_the_meantime_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., None]
) -> None:
    """The place is looked at again when all is made; what was made is not lost."""
    path, work = tmp_path / "out", {folder: output_folder, file: output_file}[write]
    made: Callable[..., AbstractContextManager[Path]] = work
    (tmp_path / "out.1").write_text("taken")
    with pytest.raises(AllroundError) as caught, made(path, "train") as new:
        (new / "weights" if write is folder else new).write_text("weights")
        path.write_text("the user's")
    assert path.read_text() == "the user's" and (tmp_path / "out.1").read_text() == "taken"
    beside = tmp_path / "out.2"
    assert str(beside) in caught.value.found
    assert (beside / "weights" if write is folder else beside).read_text() == "weights"
    assert not (tmp_path / ".out.partial").exists()


def test_texts_are_written_all_or_none(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("the user's")
    with pytest.raises(AllroundError, match="there is a file of that name"):
        write_texts(tmp_path, {"a.md": "a", "b.md": "b"}, "evaluate")
    assert listing(tmp_path) == ["b.md"]
    write_texts(tmp_path, {"a.md": "a", "b.md": "b"}, "evaluate", force=True)
    write_texts(tmp_path, {"a.md": "A", "b.md": "B"}, "evaluate")
    assert {name: entry["command"] for name, entry in read_listing(tmp_path).items()} == dict.fromkeys(
        ("a.md", "b.md"), "evaluate"
    )


def test_outputs_of_several_commands_in_one_folder(tmp_path: Path) -> None:
    """A file that another command put into a model's folder keeps the folder from being replaced."""
    folder(tmp_path / "out")
    file(tmp_path / "out" / "scores.json", "evaluate")
    with pytest.raises(AllroundError, match="which 'evaluate' wrote"):
        folder(tmp_path / "out")
    file(tmp_path / "out" / "scores.json", "evaluate", text="again")


def test_a_list_that_leads_out_of_its_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    (tmp_path / "run").mkdir()
    entry = {"command": "build", "bytes": 1}
    outputs._write_listing(tmp_path / "run", {"../mine": entry, str(tmp_path / "mine"): entry, "p/../../mine": entry})
    assert read_listing(tmp_path / "run") == {}
    remove_stale(tmp_path / "run", "build", "..", [])
    remove_output(tmp_path / "run")
    assert (tmp_path / "mine").exists()


# -- killed, and two at once -------------------------------------------------------------------------------------------

_KILLED = """
import os, signal, sys
from pathlib import Path
from allround.core import outputs

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

where, path = sys.argv[1], Path(sys.argv[2])
if where == "replacing":
    replace = os.replace
    def killed(old, new):
        if Path(new) == path:
            die()
        replace(old, new)
    os.replace = killed
with outputs.output_folder(path, "train") as new:
    (new / "weights").write_text("new")
    if where == "writing":
        die()
"""


@pytest.mark.parametrize("where", ["writing", "replacing"])
@pytest.mark.parametrize("again", ["folder", "sweep"])
def test_what_a_killed_process_left_is_swept(tmp_path: Path, where: str, again: str) -> None:
    """Also between the two steps of replacing: then the old one comes back."""
    path = tmp_path / "out"
    folder(path, text="old")
    found = subprocess.run([sys.executable, "-c", _KILLED, where, str(path)], capture_output=True, text=True)
    assert found.returncode == -9, found.stderr
    assert (tmp_path / ".out.partial").is_dir()
    if again == "sweep":
        sweep(tmp_path)
    else:
        with pytest.raises(ZeroDivisionError), output_folder(path, "train"):
            raise ZeroDivisionError
    assert (path / "deep" / "weights").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_folders_of_others_are_not_swept(tmp_path: Path) -> None:
    """Neither what allround did not make, nor what a living process is at work in."""
    (tmp_path / ".notes.partial").mkdir()
    (tmp_path / ".notes.partial" / "notes.txt").write_text("the user's")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".file.partial").write_text("the user's")
    with piece_folder(tmp_path / "living") as new:
        (new / "half").write_text("half")
        sweep(tmp_path)
        assert (new / "half").read_text() == "half"
    assert {".notes.partial/notes.txt", ".hidden", ".file.partial", "living/half"} <= set(listing(tmp_path))
    with pytest.raises(AllroundError, match="holds other things"):
        folder(tmp_path / "notes")
    with pytest.raises(AllroundError, match="cannot be written"):
        folder(tmp_path / "file")


@contextlib.contextmanager
def held(lock: Path) -> Iterator[None]:
    """As another process holds it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("write", [folder, file, lambda path: _work(path), lambda path: _scratch(path)])
def test_two_at_once(tmp_path: Path, write: Callable[..., None]) -> None:
    place = {"_work": "out", "_scratch": ".out.scratch.partial"}.get(
        write.__code__.co_names[0] if write.__name__ == "<lambda>" else "", ".out.partial"
    )
    with held(tmp_path / place / LOCK):
        with pytest.raises(AllroundError) as caught:
            write(tmp_path / "out")
        assert caught.value.found == "another process is writing it at this moment"
        assert (tmp_path / place / LOCK).exists()


def _work(path: Path) -> None:
    with work_folder(path, "train", force=True):
        pass


def _scratch(path: Path) -> None:
    with scratch_folder(path):
        pass


def test_a_lock_that_was_removed_meanwhile_is_taken_anew(tmp_path: Path) -> None:
    """The process before may remove its folder between our opening of the lock and our holding it."""
    holder = tmp_path / ".out.partial"

    def leave() -> None:
        time.sleep(0.05)
        (holder / LOCK).unlink()
        holder.rmdir()

    with held(holder / LOCK):
        other = threading.Thread(target=leave)
        other.start()
        with piece_folder(tmp_path / "out") as new:
            assert (holder / LOCK).exists()
            (new / "x").touch()
    other.join()
    assert listing(tmp_path) == ["out", "out/x"]


def test_a_disk_without_locks_is_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    folder(tmp_path / "out")
    file(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "weights"


# -- folders of work ---------------------------------------------------------------------------------------------------


def test_a_folder_of_work_goes_on_and_is_removed(tmp_path: Path) -> None:
    """Of what is in it, only what is named is removed."""
    for state in ("one", "two"):
        with work_folder(tmp_path / "out.unfinished", "train") as work:
            (work / "state").write_text(state)
    (tmp_path / "out.unfinished" / "notes.txt").write_text("the user's")
    remove_work(tmp_path / "out.unfinished", ["state"])
    assert listing(tmp_path) == ["out.unfinished", "out.unfinished/notes.txt"]
    with (
        pytest.raises(AllroundError, match="which allround did not write"),
        work_folder(tmp_path / "out.unfinished", "train"),
    ):
        pass
    with work_folder(tmp_path / "out.unfinished", "train", force=True):
        pass
    with (
        pytest.raises(AllroundError, match="it is the working folder of 'train'"),
        work_folder(tmp_path / "out.unfinished", "tune"),
    ):
        pass
    assert (tmp_path / "out.unfinished" / "notes.txt").read_text() == "the user's"


def test_a_folder_of_work_is_neither_replaced_nor_written_into(tmp_path: Path) -> None:
    with work_folder(tmp_path / "run", "build") as run:
        (run / "pieces").mkdir()
        (run / "pieces" / "x").touch()
    for write, path in ((folder, tmp_path / "run"), (file, tmp_path / "run" / "scoreboard.json")):
        with pytest.raises(AllroundError, match="the working folder of 'build'"):
            write(path, "evaluate")
    file(tmp_path / "run" / "scoreboard.json", "build")


def test_what_earlier_runs_wrote_is_removed(tmp_path: Path) -> None:
    for name in ("old/a", "old/changed", "new/a"):
        file(tmp_path / "run" / "predictions" / name, "build", root=tmp_path / "run")
    file(tmp_path / "run" / "predictions" / "old" / "other", "evaluate", root=tmp_path / "run")
    file(tmp_path / "run" / "report", "build")
    (tmp_path / "run" / "predictions" / "old" / "changed").write_text("the user's")
    (tmp_path / "run" / "predictions" / "notes").write_text("the user's")
    remove_stale(tmp_path / "run", "build", "predictions", ["predictions/new/a"])
    assert content(tmp_path / "run").keys() == {
        MANIFEST, "report", "predictions/new/a", "predictions/notes", "predictions/old/changed",
        "predictions/old/other",
    }  # fmt: skip
    assert read_listing(tmp_path / "run").keys() == {"report", "predictions/new/a", "predictions/old/other"}


def test_scratch_is_gone_in_the_end_and_after_a_kill(tmp_path: Path) -> None:
    left = tmp_path / ".out.scratch.partial"
    (left / "new").mkdir(parents=True)
    (left / LOCK).touch()
    (left / "new" / "half").touch()
    with scratch_folder(tmp_path / "out") as place:
        assert list(place.iterdir()) == []
        (place / "merged").touch()
    with pytest.raises(ZeroDivisionError), scratch_folder(tmp_path / "out") as place:
        (place / "merged").touch()
        raise ZeroDivisionError
    assert listing(tmp_path) == []


def test_an_output_is_removed_but_not_what_is_beside_it(tmp_path: Path) -> None:
    folder(tmp_path / "out")
    (tmp_path / "out" / "deep" / "notes").write_text("the user's")
    remove_output(tmp_path / "out")
    assert content(tmp_path) == {"out/deep/notes": b"the user's"}
    remove_output(tmp_path / "none")


def test_the_lists_of_two_writers_at_once_are_joined(tmp_path: Path) -> None:
    """Each changes the folder's list while it holds its lock."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: file(tmp_path / f"{n}.json", "stats"), range(24)))
    assert read_listing(tmp_path).keys() == {f"{n}.json" for n in range(24)}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([MANIFEST, *(f"{n}.json" for n in range(24))])
