"""Every command and every function that writes for the user: only its own output is replaced, unless it is forced."""

from __future__ import annotations

import ast
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from safetensors.torch import load_file, save_file
from tests.models.language import save_model
from typer.testing import CliRunner

import allround
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.core.files import MANIFEST, read_json, write_json
from allround.core.locks import LOCK, locked_folder
from allround.evaluation.predictions import Predictions
from allround.evaluation.report import write_report
from allround.evaluation.scoreboard import Scoreboard
from allround.models.encoders.small_table import SmallTable
from allround.models.table_inputs import column_for
from allround.tasks.suite import Suite

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def cli(*words: Any) -> str:
    """Run a command in this process; an AllroundError comes through."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path) -> dict[str, Path]:
    """A suite of two tasks on a table, a base, a model of each task, and a store of both; and a suite of a search, with
    a base of texts as what finds passages, and a language model that
    speaks."""
    folder = tmp_path_factory.mktemp("made")
    kinds = [i % 3 for i in range(45)]
    lines = [f"{4 + k + i % 7 / 10:.1f},{3 - k / 2 + i % 5 / 10:.1f},s{k},b{i % 2}" for i, k in enumerate(kinds)]
    (folder / "data.csv").write_text("\n".join(["length,width,species,batch", *lines]) + "\n")
    task = "{source: data.csv, inputs: [length, width], target: NAME, kind: classification}"
    (folder / "suite.yml").write_text(
        "tasks:\n" + "".join(f"  {n}: {task.replace('NAME', n)}\n" for n in ("species", "batch"))
    )
    rows = Suite.load(folder / "suite.yml").tasks["species"].splits["train"].inputs
    found = {"suite": folder / "suite.yml", "data": folder / "data.csv", "base": folder / "base"}
    found["base"].mkdir()
    SmallTable(
        columns=[column_for(n, [row[i] for row in rows]) for i, n in enumerate(("length", "width"))], width=8
    ).save(found["base"])
    for name in ("species", "batch"):
        found[name] = folder / f"model-{name}"
        cli("tune", found["suite"], name, "--base", found["base"], "--epochs", 1, "--out", found[name])
    found["tuned"] = folder / "tuned"
    shutil.copytree(found["base"], found["tuned"])
    tensors = load_file(found["base"] / "model.safetensors")
    save_file({n: t + 0.01 * (n.endswith("weight")) for n, t in tensors.items()}, found["tuned"] / "model.safetensors")
    found["store"] = folder / "store"
    cli("compress", found["base"], found["species"], found["batch"], "--codec", "low_rank", "-o", found["store"])
    queries = [f'{{"query": "{word} soup", "relevant": ["{word}"]}}\n' for word in ("fine", "warm", "cold")]
    (folder / "queries.jsonl").write_text("".join(queries))
    (folder / "passages.jsonl").write_text(
        "".join(f'{{"_id": "{word}", "text": "the soup is {word}"}}\n' for word in ("fine", "warm", "cold"))
    )
    splits = ", ".join(f"{split}: queries.jsonl" for split in ("train", "validation", "test"))
    (folder / "search.yml").write_text(
        f"tasks:\n  find: {{source: {{{splits}}}, kind: retrieval, inputs: query, target: relevant, "
        "passages: passages.jsonl}\n"
    )
    found["passages"] = folder / "passages.jsonl"
    found["search"], found["words"] = folder / "search.yml", bert_folder
    found["pairs"] = folder / "pairs.jsonl"
    found["pairs"].write_text("".join(f'{{"one": "soup {n}", "other": "a warm soup {n % 5}"}}\n' for n in range(14)))
    found["speaker"] = save_model(folder / "speaker", "llama")
    found["find"] = folder / "model-find"
    cli("evaluate", bert_folder, found["search"], "--fit-heads", "--save", found["find"])
    found["table"] = folder / "scores.csv"
    found["table"].write_text("model,x,y\na,0.1,0.2\nb,0.3,0.3\nc,0.5,0.7\n")
    found["scores"] = folder / "scores"
    cli("evaluate", found["species"], found["suite"], "--only", "species", "--out", found["scores"])
    return found


#: Command -> its words but for the output, in the names of `made` (models with an @); of those that write a file, its
#: name.
FOLDERS: dict[str, str] = {
    "build": "suite --base base --methods none --balance none --no-joint --epochs 1 --workers 1",
    "train": "suite --base base --epochs 1",
    "tune": "suite species --base base --epochs 1",
    "rerank": "search --retriever @find --base words --candidates 2 --epochs 1",
    "generative": "search --base speaker --embedder words --beams 2 --epochs 1",
    "queries": "search --base speaker --examples 1 --per-passage 2",
    "trans-encoder": "pairs --base words --cycles 1 --bi-epochs 1 --cross-epochs 1 --workers 1",
    "compare-training": "suite --base base --methods equal --seeds 1 --trials 1 --sweep 0 --epochs 1 --workers 1",
    "relate": "suite --base base --estimators sizes,logme --workers 1",
    "stream": "suite --base base --strategies none --epochs 1 --workers 1",
    "add-task": "@species suite --only batch --epochs 1 --workers 1",
    "loop": "atm suite --base base --rounds 1 --epochs 1 --workers 1",
    "merge": "base @species @batch --method average",
    "align": "@species @batch --by weights",
    "zip": "@species @batch --suite suite --rows 8",
    "extract-lora": "tuned base --rank 2",
    "compress": "base @species @batch --codec low_rank",
    "materialise": "store species",
    "diff": "base tuned --workers 1 --no-spectrum",
    "evaluate": "@species suite --only species",
    "compare": "@species @species suite --only species",
    "reduce": "table --keep 1",
    "shrink": "@species suite --only species --to 60% --epochs 1 --workers 1",
    "export": "@species --tasks species",
    "index": "@find passages --task find",
    "push": "@species someone/model --license mit --dry-run",
}
FILES: dict[str, tuple[str, str]] = {
    "stats": ("@species suite --kind gram --rows 8", "gram.safetensors"),
    "predict": ("@species --input data", "answers.jsonl"),
    "report": ("scores --table csv", "table.csv"),
    "sources": ("@batch --for suite --task species", "estimates.csv"),
}
#: What goes on in its own folder, beside whatever else is there.
WORKING = ("build", "compare-training", "relate", "stream", "add-task", "shrink")
#: What writes files into a folder, beside whatever else is there; and one of them.
INTO = {"diff": "diff.json", "evaluate": "scoreboard.json", "compare": "compare.json", "reduce": "reduce.json"}


def run(command: str, made: Mapping[str, Path], out: Path, *more: str) -> str:
    words = (FOLDERS.get(command) or FILES[command][0]).split()
    places = {("@" if (path / "heads.safetensors").is_file() else "") + name: path for name, path in made.items()}
    places["store"] = made["store"]
    option = "--output" if command == "predict" else "--out"
    return cli(command, *[places.get(word, word) for word in words], option, out, *more)


def content(path: Path) -> dict[str, bytes]:
    """The files at a path, but for the logs, the locks and the lists of allround's own."""
    own = ("log.txt", LOCK, MANIFEST)
    return {str(p): p.read_bytes() for p in [path, *path.rglob("*")] if p.is_file() and p.name not in own}


def test_every_command_that_writes_is_here() -> None:
    writing = {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in COMMANDS.items()
        if any({"--out", "--output"} & set(parameter.opts) for parameter in command.params)
    }
    assert writing.keys() == {*FOLDERS, *FILES}
    assert [name for name, options in writing.items() if "--force" not in options] == []


@pytest.mark.parametrize("command", [*FOLDERS, *FILES])
def test_an_output_of_a_command(command: str, made: dict[str, Path], tmp_path: Path) -> None:
    """One after the other: the user's folder or file, forced; its own again; with a note; of another command."""
    into, file = INTO.get(command), FILES[command][1] if command in FILES else None
    place = tmp_path / (file or "out")  # what is given as --out
    target = place / into if into else place  # what is written, and must be guarded
    inputs = {name: content(path) for name, path in made.items()}

    def refused(*found: str) -> None:
        before = content(place)
        with pytest.raises(AllroundError) as caught:
            run(command, made, place)
        assert any(text in caught.value.found for text in found), caught.value
        assert "give --force" in caught.value.do
        assert content(place) == before

    # The user's own.
    if file or into:
        target.parent.mkdir(exist_ok=True)
        target.write_text("the user's")
        refused("there is a file of that name, which allround did not write")
    else:
        place.mkdir()
        (place / "notes.txt").write_text("the user's")
        refused("there is a folder with other things in it, which allround did not write")
    run(command, made, place, "--force")
    assert target.exists() and (not target.is_file() or target.read_bytes() != b"the user's")
    if command in WORKING:
        assert (place / "notes.txt").read_text() == "the user's", "it works beside what is there"
    elif not (file or into):
        assert (tmp_path / "out.1" / "notes.txt").read_text() == "the user's", "it is moved, and not removed"
        shutil.rmtree(tmp_path / "out.1")

    # Its own, again: that of the same command, and unchanged.
    run(command, made, place)

    # With something of the user's in it, or changed by the user.
    if file or into:
        target.write_text("the user's words")
        refused("the file there was changed since it was written")
    elif command in WORKING:
        page = (
            place
            / {
                "build": "report.html",
                "compare-training": "comparison.md",
                "relate": "relations.md",
                "stream": "stream.md",
                "add-task": "add-task.md",
                "shrink": "shrink.md",
            }[command]
        )
        whole = page.read_text()
        page.write_text("the user's words")
        refused("the file there was changed since it was written")
        page.write_text(whole)
    else:
        (place / "notes.txt").write_text("the user's")
        refused("there is something in it that was not written with it: notes.txt")
        (place / "notes.txt").unlink()

    # Of another command.
    if command in WORKING:
        (place / LOCK).write_text("other")
    else:
        root = place.parent if file else place
        listed = read_json(root / MANIFEST)
        for entry in listed["files"].values():
            entry["command"] = "other"
        write_json(root / MANIFEST, listed)
        if file or into:
            target.write_text("of other")
    refused("'other' wrote", "the working folder of 'other'")

    # Nothing is left beside it, and what was read is as it was.
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([place.name, *([MANIFEST] if file else [])])
    assert {name: content(path) for name, path in made.items()} == inputs


@pytest.mark.parametrize("command", ["train", "tune", "loop"])
def test_unfinished_work_that_is_not_its_own(command: str, made: dict[str, Path], tmp_path: Path) -> None:
    """`OUT.unfinished` of the user's is not taken; and what the user puts into it later stays."""
    out, work = tmp_path / "out", tmp_path / "out.unfinished"
    work.mkdir()
    (work / "thesis.txt").write_text("the user's")
    with pytest.raises(AllroundError, match="which allround did not write"):
        run(command, made, out)
    assert content(tmp_path).keys() == {str(work / "thesis.txt")} and not out.exists()
    if command == "train":
        run(command, made, out, "--force")
        assert content(work) == {str(work / "thesis.txt"): b"the user's"} and (out / "heads.safetensors").is_file()


@pytest.mark.parametrize("command", sorted({*FOLDERS} - {*INTO}))
def test_two_at_once(command: str, made: dict[str, Path], tmp_path: Path) -> None:
    """The second is refused before it does any work, and leaves what the first is writing alone."""
    out, work = tmp_path / "out", tmp_path / "out.unfinished"
    works = ("train", "tune", "rerank", "index", "generative", "queries", "trans-encoder", "loop")
    first = dict.fromkeys(works, work) | dict.fromkeys(WORKING, out)
    with locked_folder(first.get(command, tmp_path / ".out.partial"), out, command):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(AllroundError, match="another process is writing it at this moment"):
            run(command, made, out)
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize(
    ("command", "target"),
    [
        ("extract-lora", "tuned"), ("extract-lora", "base"), ("merge", "species"), ("align", "batch"),
        ("zip", "species"), ("compress", "batch"), ("materialise", "store"), ("train", "base"), ("tune", "base"),
        ("loop", "base"), ("predict", "data"), ("train", "data"), ("build", "suite"), ("stats", "data"),
    ],
)  # fmt: skip
def test_what_a_command_reads_is_never_its_output(
    command: str, target: str, force: list[str], made: dict[str, Path]
) -> None:
    before = content(made["suite"].parent)
    with pytest.raises(AllroundError):
        run(command, made, made[target], *force)
    assert content(made["suite"].parent) == before


def test_a_folder_that_holds_the_data_is_never_an_output(made: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    for name in ("suite", "data"):
        (tmp_path / "project" / made[name].name).write_bytes(made[name].read_bytes())
    before = content(tmp_path)
    with pytest.raises(AllroundError, match="is read for it"):
        run("train", {**made, "suite": tmp_path / "project" / "suite.yml"}, tmp_path / "project", "--force")
    assert content(tmp_path) == before


def test_predictions_of_an_earlier_suite_do_not_stay(made: dict[str, Path], tmp_path: Path) -> None:
    """What an earlier build wrote and this one did not is removed; what the user put there is not."""
    out = tmp_path / "run"
    run("build", made, out)
    there = out / "predictions"
    assert {p.name for p in there.rglob("*.parquet")} == {"species.parquet", "batch.parquet"}
    (there / "specialists" / "notes.txt").write_text("the user's")
    (there / "mine").mkdir()
    (there / "mine" / "batch.parquet").write_text("the user's")
    with pytest.raises(AllroundError, match="which allround did not write"):
        run("build", made, out, "--only", "species")
    (there / "mine" / "batch.parquet").rename(there / "mine" / "batch.bak")
    run("build", made, out, "--only", "species")
    assert {p.name for p in there.rglob("*") if p.is_file()} == {"species.parquet", "notes.txt", "batch.bak"}
    assert {Path(name).name for name in read_json(out / MANIFEST)["files"] if "predictions" in name} == {
        "species.parquet"
    }


def test_a_killed_compress_leaves_nothing_after_the_next(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process leaves that is killed while it merges, and while it writes: the folders, their locks free."""
    for left in (".out.scratch.partial", ".out.partial"):
        (tmp_path / left / "new" / "out").mkdir(parents=True)
        (tmp_path / left / LOCK).touch()
        (tmp_path / left / "new" / "out" / "model.safetensors").write_bytes(b"half")
    run("compress", made, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_current_folder_that_was_removed_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path.cwd()
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    try:
        (tmp_path / "gone").rmdir()
        monkeypatch.setattr(sys, "argv", ["allround", "merge", "a", "b", "-o", "c"])
        with pytest.raises(AllroundError) as caught:
            cli("merge", "a", "b", "-o", "c")
    finally:
        os.chdir(here)
    assert caught.value.asked == "run allround merge a b -o c"
    assert "the current folder is not there any more" in caught.value.found


# -- functions ---------------------------------------------------------------------------------------------------------


def _predictions(made: Mapping[str, Path]) -> Predictions:
    task = Suite.load(made["suite"]).tasks["species"]
    return Predictions(task.definition, "test", np.array([0, 1]), np.array([0, 0]), None, 0.0)


#: A writer, and what it writes to: a folder of its own, or files.
WRITERS: dict[str, tuple[Callable[[Mapping[str, Path]], Callable[..., Any]], str | None]] = {
    "MultiTaskModel.save": (lambda made: allround.load(made["species"]).save, None),
    "Task.save": (lambda made: Suite.load(made["suite"]).tasks["species"].save, None),
    "Predictions.save": (lambda made: _predictions(made).save, "p.parquet"),
    "Scoreboard.save": (
        lambda made: lambda path, **more: Scoreboard.load(made["scores"]).save(path.parent, **more),
        "scoreboard.md",
    ),
    "write_report": (
        lambda made: lambda path, **more: write_report(Scoreboard.load(made["scores"]), path, **more),
        "report.html",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def scored(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scores")
    run("evaluate", made, folder)
    return {**made, "scores": folder}


@pytest.mark.parametrize("name", WRITERS)
def test_an_output_of_a_function(name: str, scored: dict[str, Path], tmp_path: Path) -> None:
    find, file = WRITERS[name]
    write, place = find(scored), tmp_path / (file or "out")
    notes = place if file else place / "notes.txt"
    notes.parent.mkdir(exist_ok=True)
    notes.write_text("the user's")
    with pytest.raises(AllroundError, match="which allround did not write"):
        write(place)
    assert notes.read_text() == "the user's"
    write(place, force=True)
    write(place)
    notes.write_text("the user's words")
    with pytest.raises(AllroundError, match=r"changed since|not written with it: notes\.txt"):
        write(place)
    assert notes.read_text() == "the user's words"
    if not file:
        notes.unlink()
    listed = read_json(notes.parent / MANIFEST)
    assert {entry["command"] for entry in listed["files"].values()} == {name}


def test_every_save_can_be_forced_and_nothing_goes_around_the_guard() -> None:
    """Outputs are written by `core.outputs`; parts of them by functions that are given a folder of allround's own."""
    source = Path(allround.__file__).parent
    around, unforced = [], []
    for path in sorted(source.rglob("*.py")):
        place, text = path.relative_to(source).as_posix(), path.read_text()
        around += [place] if "piece_folder(" in text else []
        if "def save(" not in text or "encoders/" in place:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name == "save":
                given = {argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]}
                unforced += [place] if "force" not in given else []
    assert around == ["core/outputs.py", "core/pieces.py", "models/language/gguf.py"], "the last into a cache"
    assert unforced == ["models/encoder.py"], "an encoder's into a folder of allround's own"
