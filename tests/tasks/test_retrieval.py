"""Tasks that rank passages: what is read, from Python, files and folders of BEIR; what is refused; what is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from allround.core.errors import AllroundError
from allround.tasks.contrast import Contrast
from allround.tasks.definition import Definition
from allround.tasks.make import make_task
from allround.tasks.passages import Passages
from allround.tasks.suite import Suite
from allround.tasks.task import Task

CORPUS = {"cat": "The cat is an animal.", "dog": "The dog barks.", "hen": "A hen lays eggs.", "emu": "It runs."}
ROWS = [{"query": f"{word} {i}?", "relevant": [word], "not": ["emu"]} for i in range(10) for word in ("cat", "dog")]


def make(rows: Any = ROWS, **more: Any) -> Task:
    given = {"kind": "retrieval", "inputs": "query", "target": "relevant", "passages": CORPUS, **more}
    return make_task("find", data={"train": rows}, **given)


def lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def beir(folder: Path) -> Path:
    (folder / "qrels").mkdir(parents=True)
    lines(folder / "corpus.jsonl", [{"_id": name, "title": name.title(), "text": CORPUS[name]} for name in CORPUS])
    lines(folder / "queries.jsonl", [{"_id": f"q{i}", "text": f"query {i}"} for i in range(6)])
    for split, queries in (("train", (0, 1)), ("dev", (2, 3)), ("test", (4, 5))):
        table = "".join(f"q{i}\tcat\t2\nq{i}\tdog\t1\nq{i}\temu\t0\n" for i in queries)
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + table)
    return folder


def test_rows_share_their_passages_and_targets_are_grades() -> None:
    task = make(negatives="not")
    inputs = [row for split in task.splits.values() for row in split.inputs]
    assert task.definition.inputs == ("query", "passages") and not task.definition.pair
    assert len({id(passages) for _, passages in inputs}) == 1
    assert {json.dumps(target) for split in task.splits.values() for target in split.targets} == {
        '{"cat": 1.0, "emu": 0.0}', '{"dog": 1.0, "emu": 0.0}'}  # fmt: skip


def test_own_candidates_are_ids_of_their_own() -> None:
    rows = [{"query": f"q {i}", "own": ["red", "blue"], "relevant": "red"} for i in range(20)]
    task = make(rows, inputs=["query", "own"], passages=None)
    assert task.splits["test"].inputs[0][1] == Passages.of(["red", "blue"])
    assert task.splits["test"].targets[0] == {"red": 1.0, "blue": 0.0}


def test_a_saved_task_is_the_same_and_its_rows_share_passages_again(tmp_path: Path) -> None:
    own = [{"query": f"q {i}", "own": [f"a {i}", "b"], "relevant": ["b"]} for i in range(20)]
    for number, task in enumerate((make(negatives="not", contrast={"loss": "infonce:temperature=0.02", "positives": 1}),
                                   make(own, inputs=["query", "own"], passages=None))):  # fmt: skip
        task.save(tmp_path / str(number))
        found = Task.load(tmp_path / str(number))
        assert found.content == task.content and found.definition == task.definition
        for split in task.splits:
            assert found.splits[split].inputs == task.splits[split].inputs
            assert found.splits[split].targets == task.splits[split].targets
    shared = Task.load(tmp_path / "0").splits["train"].inputs
    assert shared[0][1] is shared[1][1]


def test_content_is_that_of_every_passage() -> None:
    assert make().content != make(passages={**CORPUS, "emu": "It walks."}).content
    assert make().content != make(passages=dict(reversed(CORPUS.items()))).content


def test_a_folder_of_beir_is_a_task(tmp_path: Path) -> None:
    beir(tmp_path / "set")
    (tmp_path / "suite.yml").write_text("tasks:\n  find: {kind: retrieval, source: {path: set}}\n")
    task = Suite.load(tmp_path / "suite.yml")["find"]
    assert [len(task.splits[split]) for split in ("train", "validation", "test")] == [2, 2, 2]
    query, passages = task.splits["validation"].inputs[0]
    assert query == "query 2" and passages["cat"] == "Cat The cat is an animal."  # type: ignore[index,call-overload]
    assert task.splits["test"].targets[0] == {"cat": 2.0, "dog": 1.0, "emu": 0.0}


def test_a_suite_names_a_file_of_passages(tmp_path: Path) -> None:
    lines(tmp_path / "corpus.jsonl", [{"_id": name, "text": text} for name, text in CORPUS.items()])
    lines(tmp_path / "rows.jsonl", ROWS)
    about = "{kind: retrieval, source: rows.jsonl, passages: corpus.jsonl, negatives: not, contrast: infonce}"
    (tmp_path / "suite.yml").write_text(f"tasks:\n  find: {about}\n")
    suite = Suite.load(tmp_path / "suite.yml")
    assert suite["find"].content == make(negatives="not").content
    assert tmp_path / "corpus.jsonl" in suite.files  # no output may replace it


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({"passages": None}, "nothing says which passages"),
        ({"inputs": ["query", "not"]}, "all rows have the same passages"),
        ({"passages": {}}, "`passages` cannot be read: there is none"),
        ({"passages": ["a", "a"]}, "the id 'a' stands there twice"),
        ({"passages": {"cat": 1}}, "a passage is not a text"),
        ({"passages": {"cat": "x"}}, "names 'dog' in row 1"),
        ({"negatives": "none"}, "train has no column 'none'"),
        ({"negatives": "relevant"}, "is relevant and in 'relevant'"),
        ({"modality": "image"}, "the modality is image"),
        ({"contrast": {"positives": 0}}, "0 positives"),
        ({"contrast": {"mined": -1}}, "looks for -1 negatives"),
        ({"contrast": "kl"}, "needs a teacher"),
        ({"contrast": "infonce:heat=1"}, "heat"),
        ({"contrast": {"heat": 1}}, "`contrast` has no 'heat'"),
        ({"contrast": "nothing"}, "is 'nothing', and there is no"),
        ({"metric": "ndcg:k=101"}, "an answer has at most 100"),
        ({"metric": "accuracy"}, "'accuracy' is for"),
        ({"target": "query", "inputs": "relevant"}, "passages"),
    ],
)
def test_what_makes_no_sense_is_refused(more: dict[str, Any], found: str) -> None:
    with pytest.raises(AllroundError, match=found) as error:
        make(**more)
    assert error.value.do


@pytest.mark.parametrize(
    ("value", "found"),
    [([], "no passage is relevant"), ({"cat": 0}, "no passage is relevant"), ({"cat": -1}, "a grade is -1"),
     ({"cat": "high"}, "a grade is 'high'"), ([None], "names no passages"), ("cow", "names 'cow'"),
     ({"cat": True}, "a grade is True")],
)  # fmt: skip
def test_a_target_that_is_none_is_named_with_its_row(value: object, found: str) -> None:
    with pytest.raises(AllroundError, match=found) as error:
        make([*ROWS[:5], {**ROWS[5], "relevant": value}, *ROWS[6:]])
    assert "row 5" in str(error.value)


def test_rows_without_a_relevant_passage_can_be_left_out() -> None:
    task = make([*ROWS, {"query": "none?", "relevant": None}, {"query": "no?", "relevant": []}], missing="drop")
    assert sum(map(len, task.splits.values())) == len(ROWS)
    assert any("have no target and are left out" in note for note in task.notes)


def test_an_id_stands_for_one_text() -> None:
    rows = [{"query": f"q {i}", "own": [{"id": "a", "text": f"text {i}"}], "relevant": "a"} for i in range(20)]
    with pytest.raises(AllroundError, match="the passage 'a' has one text in some rows and another in others"):
        make(rows, inputs=["query", "own"], passages=None)


@pytest.mark.parametrize(
    ("corpus", "found"),
    [('{"_id": "a"}\n', "it has the columns _id"), ('{"text": "a"}\n', "it has the columns text"),
     ('{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}\n', "'a' stands there twice"),
     ('{"_id": "a", "text": "x"}\n{"_id": "b", "te', "line 2"), ('{"_id": "", "text": "x"}\n', "_id is empty"),
     ("", "the file is empty"), ('{"_id": "a", "text": "\\ud800"}\n', "Unicode")],
)  # fmt: skip
def test_a_broken_file_of_passages_is_an_error(corpus: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(corpus)
    with pytest.raises(AllroundError, match=found):
        make(passages=tmp_path / "corpus.jsonl")
    with pytest.raises(AllroundError):
        make(passages=tmp_path / "nothing.jsonl")


@pytest.mark.parametrize(
    ("table", "found"),
    [("query-id\tscore\nq0\t1\n", "no column 'corpus-id'"),
     ("query-id\tcorpus-id\tscore\nq9\tcat\t1\n", "the query 'q9' is not in queries.jsonl"),
     ("query-id\tcorpus-id\tscore\nq0\tcow\t1\n", "names 'cow'"),
     ("query-id\tcorpus-id\tscore\nq0\tcat\t1\nq0\tcat\t2\n", "two grades")],
)  # fmt: skip
def test_a_broken_folder_of_beir_is_an_error(table: str, found: str, tmp_path: Path) -> None:
    folder = beir(tmp_path / "set")
    (folder / "qrels" / "train.tsv").write_text(table)
    (tmp_path / "suite.yml").write_text("tasks:\n  find: {kind: retrieval, source: {path: set}}\n")
    with pytest.raises(AllroundError, match=found):
        Suite.load(tmp_path / "suite.yml")


def test_definitions_keep_how_they_learn() -> None:
    made = make(contrast={"loss": "infonce:temperature=0.1", "compare": "dot"}).definition
    assert made.contrast == Contrast("infonce:temperature=0.1", "dot")
    assert Definition.from_json(json.loads(json.dumps(made.to_json()))) == made
    assert "contrast" not in make().definition.to_json()
