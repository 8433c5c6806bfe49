"""Queries for passages: what is dropped and why, the round trip, the files, a kill, and what is refused."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.models.language import save_model
from typer.testing import CliRunner

import allround
from allround.building.queries import MadeQueries, cleaned, examples_of, kept
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.models.batch import Answers
from allround.models.language.query_writing import QueryWriter
from allround.models.system import System
from allround.tasks.make import make_task
from allround.tasks.passages import Passages
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training.settings import Settings

job = importlib.import_module("allround.building.queries")  # the package shows the function of that name
PAGES = {"soup": "the soup is fine", "bread": "the bread is warm", "owl": "the owl saw the market", "cat": "a cat"}
ROWS = [{"query": f"{text}?", "relevant": [one]} for one, text in PAGES.items()]
CORPUS = Passages.of(PAGES)


def find(rows: list[dict[str, Any]] = ROWS) -> Task:
    return make_task("find", kind="retrieval", data={"train": rows, "validation": ROWS, "test": ROWS}, inputs="query",
                     target="relevant", passages=CORPUS)  # fmt: skip


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


def test_what_is_dropped() -> None:
    drawn = {
        "soup": ["Is it fine?", "is it  FINE?", "", "The soup is fine", "good soup"],
        "bread": ["warm bread", "Locked out", "good soup"],
    }
    made = cleaned(drawn, CORPUS, ["LOCKED  out"])
    assert made.relevant == {"Is it fine?": ["soup"], "good soup": ["soup", "bread"], "warm bread": ["bread"]}
    assert made.dropped == [
        ("is it  FINE?", "soup", "written before for this passage"),
        ("", "soup", "empty"),
        ("The soup is fine", "soup", "the passage itself"),
        ("Locked out", "bread", "an example's query"),
    ]
    assert made.rows()[1] == {"query": "good soup", "relevant": ["soup", "bread"]} and len(made) == 3
    assert made.reasons["empty"] == 1


class Ranks(System):
    """Ranks the passages of each query as a table says."""

    def __init__(self, orders: dict[str, tuple[str, ...]]) -> None:
        self.definitions, self.facts, self.orders = {"find": find().definition}, {}, orders

    def answer(self, task: str | None, rows: Any, *, batch_size: int = 64, scores: bool = False) -> Any:
        yield Answers([self.orders[row[0]] for row in rows])

    def cost(self, tasks: Any = None) -> Any: ...

    def write(self, folder: Path) -> None: ...

    @classmethod
    def read(cls, folder: Path, definitions: Any, facts: Any) -> Any: ...


def test_the_round_trip_keeps_what_finds_its_passage() -> None:
    made = MadeQueries({"a": ["soup"], "b": ["bread", "owl"], "c": ["cat"]}, [("", "owl", "empty")])
    judge = Ranks({"a": ("soup", "owl"), "b": ("owl", "bread"), "c": ("soup", "owl", "cat")})
    one, two = kept(made, judge, "find", CORPUS, 1), kept(made, judge, "find", CORPUS, 2)
    assert one.relevant == {"a": ["soup"], "b": ["owl"]}
    assert two.relevant == {"a": ["soup"], "b": ["bread", "owl"]}
    assert one.dropped[0] == ("", "owl", "empty")
    assert one.dropped[1:] == [("b", "bread", job.FAR), ("c", "cat", job.FAR)]


def test_examples_are_of_different_passages() -> None:
    rows = [*ROWS, {"query": "again soup", "relevant": ["soup"]}, {"query": "both", "relevant": {"owl": 0, "cat": 2}}]
    found = examples_of(find(rows), CORPUS, 8, 0)
    assert sorted(one for _, one in found) == sorted(PAGES)
    assert all({"query": query, "relevant": [one]} in rows or query == "both" for query, one in found)
    assert examples_of(find(rows), CORPUS, 2, 0) == found[:2] and examples_of(find(rows), CORPUS, 0, 0) == []
    assert {tuple(examples_of(find(rows), CORPUS, 3, seed)) for seed in range(5)} != {tuple(found[:3])}


def write_suite(folder: Path) -> Path:
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "pages.jsonl").write_text(
        "".join(json.dumps({"_id": one, "text": text}) + "\n" for one, text in PAGES.items()))  # fmt: skip
    (folder / "search.yml").write_text(
        "tasks:\n  find:\n    source: {train: TRAIN, validation: validation.jsonl, test: test.jsonl}\n"
        "    kind: retrieval\n    passages: pages.jsonl\n".replace("TRAIN", "train.jsonl"))  # fmt: skip
    return folder / "search.yml"


def test_the_command(llama: Path, bert_folder: Path, tmp_path: Path) -> None:
    suite = write_suite(tmp_path)
    ran = CliRunner().invoke(app, ["queries", str(suite), "--base", str(llama), "--examples", "2", "--per-passage", "2",
                                   "--retriever", str(bert_folder), "--top", "4", "--words", "Page,Question",
                                   "--out", str(tmp_path / "made")])  # fmt: skip
    assert ran.exit_code == 0, ran.output
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["made"], "no work is left"
    rows = [json.loads(line) for line in (tmp_path / "made/queries.jsonl").read_text().splitlines()]
    dropped = (tmp_path / "made/dropped.jsonl").read_text().splitlines()
    assert sum(len(row["relevant"]) for row in rows) + len(dropped) == 8
    notes = json.loads((tmp_path / "made/notes.json").read_text())
    assert notes["queries"] == len(rows) and notes["drawn"] == 8 and notes["base"] == str(llama)
    assert len(notes["prompt"]["demonstrations"]) == 2 and notes["prompt"]["templates"][0].startswith("Page: ")
    # What it wrote is the source of a task.
    suite.write_text(suite.read_text().replace("train.jsonl", "made/queries.jsonl"))
    train = Suite.load(suite).tasks["find"].splits["train"]
    assert [row[0] for row in train.inputs] == [row["query"] for row in rows]


def test_a_killed_run_goes_on(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, asked = Suite("s", [find()]), {"base": llama, "per_passage": 2, "examples": 1, "seed": 3}
    whole = allround.queries(suite, out=tmp_path / "whole", **asked)
    monkeypatch.setattr(job, "BLOCK", 1)
    write, written = QueryWriter.write, []

    def killed(self: QueryWriter, one: str, text: str, count: int) -> list[str]:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(one)
        return write(self, one, text, count)

    monkeypatch.setattr(QueryWriter, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        allround.queries(suite, out=tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists() and (tmp_path / "out.unfinished").is_dir()
    monkeypatch.setattr(QueryWriter, "write", lambda self, one, *more: written.append(one) or write(self, one, *more))
    again = allround.queries(suite, out=tmp_path / "out", **asked)
    assert written == list(PAGES), "nothing is written twice"
    assert again == whole and not (tmp_path / "out.unfinished").exists()
    assert (tmp_path / "out/queries.jsonl").read_bytes() == (tmp_path / "whole/queries.jsonl").read_bytes()


def test_the_retriever_is_trained_on_all_queries_before_it_filters(
    llama: Path, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, seen = job.trainer.train, []

    def spied(model: Any, tasks: list[Task], *more: Any, **named: Any) -> Any:
        seen.extend(tasks)
        return train(model, tasks, *more, **named)

    monkeypatch.setattr(job.trainer, "train", spied)
    made = allround.queries(Suite("s", [find()]), base=llama, out=tmp_path / "out", per_passage=3, most=3, top=2,
                            retriever=bert_folder, train_retriever=True, settings=Settings(epochs=1))  # fmt: skip
    (task,) = seen
    all_pairs = {(row[0], one) for row, ids in zip(task.splits["train"].inputs, task.splits["train"].targets,
                                                    strict=True) for one in ids}  # fmt: skip
    stayed = {(query, one) for query, ids in made.relevant.items() for one in ids}
    fell = {(query, one) for query, one, why in made.dropped if why == job.FAR}
    assert all_pairs == stayed | fell and not stayed & fell
    assert task.splits["validation"].inputs == find().splits["validation"].inputs
    assert len({one for _, one in all_pairs}) <= 3


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"task": "other"}, "it has 1 task of the kind retrieval: find"),
        ({"examples": -1}, "examples is -1"),
        ({"per_passage": 0}, "per_passage is 0"),
        ({"most": 0}, "most is 0"),
        ({"temperature": 0.0}, "the temperature is 0"),
        ({"top": 101}, "top is 101"),
        ({"train_retriever": True}, "no retriever is given"),
    ],
)
def test_what_is_refused(given: dict[str, Any], found: str, llama: Path, tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match=found):
        allround.queries(Suite("s", [find()]), base=llama, out=tmp_path / "out", **given)
    assert not list(tmp_path.iterdir())


def test_other_models_and_other_tasks_are_refused(llama: Path, bert_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match="is not a language model"):
        allround.queries(Suite("s", [find()]), base=bert_folder, out=tmp_path / "out")
    own = [{"query": "a", "passages": ["a cat", "an owl"], "relevant": ["a cat"]} for _ in range(12)]
    task = make_task("own", kind="retrieval", data={"train": own}, inputs=["query", "passages"], target="relevant")
    with pytest.raises(AllroundError, match="its rows have passages of their own"):
        allround.queries(Suite("s", [task]), base=llama, out=tmp_path / "out")
    with pytest.raises(AllroundError, match="does not name two things"):
        CliRunner().invoke(app, ["queries", str(write_suite(tmp_path)), "--base", str(llama), "--words", "Page",
                                 "--out", str(tmp_path / "out")], catch_exceptions=False)  # fmt: skip
    assert not (tmp_path / "out").exists()
