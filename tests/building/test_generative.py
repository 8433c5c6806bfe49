"""Generative retrieval: it learns a small search by heart, and never answers with what is no passage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.models.language import save_model
from typer.testing import CliRunner

import allround
from allround.building.generative import generative, identifiers_of, writing_task
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.core.files import read_json, write_json
from allround.models.base import load_encoder
from allround.models.encoders.language_model import LanguageModel
from allround.models.system import load
from allround.models.systems.generative_retrieval import GenerativeRetrieval, spoken
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training.settings import Settings

WORDS = ("late parcel", "lost parcel", "nobody has seen it", "too late", "again", "something else", "the question",
         "yes", "no", "What is 12", "It is 19", "answer")  # fmt: skip
PAGES = {f"p{number}": text for number, text in enumerate(WORDS)}


def find(name: str = "find", pages: dict[str, str] = PAGES, instruction: str | None = None) -> Task:
    rows = [{"query": f"Where is {text}?", "relevant": [one]} for one, text in pages.items()]
    return make_task(name, kind="retrieval", data=dict.fromkeys(("train", "validation", "test"), rows),
                     inputs="query", target="relevant", passages=pages, instruction=instruction)  # fmt: skip


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def model(llama: Path) -> LanguageModel:
    found = load_encoder(llama)
    assert isinstance(found, LanguageModel)
    return found


def test_the_task_of_writing(model: LanguageModel) -> None:
    """Each query with each relevant passage, and each passage with itself, behind the task's own words."""
    task = find(instruction="Find {it}:")
    train = task.splits["train"]
    train.targets[0]["p1"], train.targets[0]["p2"] = 2.0, 0.0
    identifiers = identifiers_of([task], None)
    made = writing_task(task, identifiers)
    inputs, targets = made.splits["train"].inputs, made.splits["train"].targets
    said = [made.definition.labels[target] for target in targets]
    assert len(inputs) == 12 + 1 + 12
    assert list(zip(inputs, said, strict=True))[:2] == [
        (("Where is late parcel?",), "late parcel"), (("Where is late parcel?",), "lost parcel")]  # fmt: skip
    assert (inputs[-1], said[-1]) == (("answer",), "answer")
    assert len(made.splits["test"]) == 12
    (row,) = model.prepare([inputs[0]], made.definition)
    taught = model.asker.taught(made.definition, "choices", row, targets[0])
    assert taught is not None
    assert [taught.tree.tokens] == spoken(model, made.definition, ["late parcel"]), (
        "what is searched is what was taught"
    )
    assert row.texts[0] == "Find {it}: Where is late parcel?\nIdentifier:"


def test_passages_of_all_tasks_share_identifiers(bert_folder: Path) -> None:
    tasks = [find(), find("other", {"x": "late parcel", "y": "a new one"})]
    for embedder in (None, bert_folder):
        found = identifiers_of(tasks, embedder)
        assert list(found) == [*WORDS, "a new one"] and len(set(found.values())) == 13
        assert identifiers_of(tasks, embedder) == found


@pytest.mark.parametrize("by", ["words", "vectors"])
def test_it_learns_twelve_passages_by_heart(by: str, llama: Path, bert_folder: Path, tmp_path: Path) -> None:
    settings = Settings(epochs=30, learning_rate=1e-2, batch_size=12, device="cpu", precision="fp32")
    board = generative(Suite("s", [find()]), base=llama, embedder=None if by == "words" else bert_folder,
                       settings=settings, out=tmp_path / "out", beams=4)  # fmt: skip
    assert board.scores()["generative"]["find"] > 0.9
    system = load(tmp_path / "out")
    assert isinstance(system, GenerativeRetrieval)
    found = system.predict("find", [(f"Where is {WORDS[3]}?", PAGES)])[0]
    assert found[0] == "p3" and len(found) == 4 and set(found) <= set(PAGES)
    few = {"a": WORDS[0], "b": WORDS[5]}
    assert sorted(system.predict("find", [(f"Where is {WORDS[3]}?", few)])[0]) == ["a", "b"]


def untrained(model: LanguageModel, identifiers: dict[str, str], task: Task) -> GenerativeRetrieval:
    written = writing_task(task, identifiers).definition
    return GenerativeRetrieval(
        {task.name: task.definition}, MultiTaskModel(model, {task.name: written}), identifiers, 3
    )


def test_what_it_refuses(model: LanguageModel, bert_folder: Path, tmp_path: Path) -> None:
    task, identifiers = find(), identifiers_of([find()], None)
    system = untrained(model, identifiers, task)
    with pytest.raises(AllroundError, match="1 of 2 have no identifier, first 'b'"):
        system.predict("find", [("yes?", {"a": "yes", "b": "never seen"})])
    with pytest.raises(AllroundError, match="two passages have the same identifier"):
        untrained(model, dict.fromkeys(identifiers, "same"), task)
    with pytest.raises(AllroundError, match="1 to 100 passages"):
        GenerativeRetrieval(system.definitions, system.speaker, identifiers, 0)
    with pytest.raises(AllroundError, match="'other' is not a task of the kind retrieval"):
        GenerativeRetrieval({"other": task.definition}, system.speaker, identifiers)
    with pytest.raises(AllroundError, match="is not a language model"):
        generative(Suite("s", [task]), base=bert_folder, out=tmp_path / "out")
    with pytest.raises(AllroundError, match="0 levels"):
        generative(Suite("s", [task]), base=bert_folder, out=tmp_path / "out", levels=0)
    assert not (tmp_path / "out").exists()


def test_passages_with_the_same_text_stand_side_by_side(model: LanguageModel) -> None:
    task = find()
    system = untrained(model, identifiers_of([task], None), task)
    found = system.predict("find", [("yes?", {"a": "yes", "b": "no", "c": "yes"})])[0]
    assert sorted(found) == ["a", "b", "c"] and abs(found.index("a") - found.index("c")) == 1


@pytest.mark.parametrize("damage", [[], {"yes": 1}, {"yes": "a", "no": "a"}])
def test_a_damaged_folder_says_so(damage: object, model: LanguageModel, tmp_path: Path) -> None:
    untrained(model, identifiers_of([find()], None), find()).save(tmp_path / "model")
    assert read_json(tmp_path / "model/identifiers.json")["yes"] == "yes"
    write_json(tmp_path / "model/identifiers.json", damage)
    with pytest.raises(AllroundError):
        load(tmp_path / "model")


def test_the_command(llama: Path, bert_folder: Path, tmp_path: Path) -> None:
    rows = [json.dumps({"query": f"Where is {text}?", "relevant": [one]}) for one, text in PAGES.items()]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "pages.jsonl").write_text(
        "\n".join(json.dumps({"_id": one, "text": text}) for one, text in PAGES.items()))  # fmt: skip
    (tmp_path / "search.yml").write_text(
        "tasks:\n  find:\n    source: {train: rows.jsonl, validation: rows.jsonl, test: rows.jsonl}\n"
        "    kind: retrieval\n    passages: pages.jsonl\n")  # fmt: skip
    ran = CliRunner().invoke(app, ["generative", str(tmp_path / "search.yml"), "--base", str(llama), "--embedder",
                                   str(bert_folder), "--epochs", "1", "--beams", "3", "--tune", "lora", "--levels", "1",
                                   "--size", "3", "--out", str(tmp_path / "ids")])  # fmt: skip
    assert ran.exit_code == 0, ran.output
    system = load(tmp_path / "ids")
    assert isinstance(system, GenerativeRetrieval) and system.beams == 3
    assert {one.count("-") for one in system.identifiers.values()} == {1}
    assert allround.evaluate(system, tmp_path / "search.yml").scores()
    assert replace(system.definition("find"), name="find") == find().definition
