"""Searches over one pool of passages: what it holds, which negatives come from other tasks, and the suite file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from allround.core.errors import AllroundError
from allround.tasks.contrast import Contrast, of_row
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import Task

PAGES = {"1": "how to sign in", "2": "how to pay", "3": "a page of both"}
MESSAGES = {"1": "I cannot sign in", "2": "I cannot pay", "3": "a page of both", "4": "I paid twice"}
TO_PAGES = {"sign in?": ["1"], "pay?": ["2"], "both?": ["3"], "alone?": ["1"]}
TO_MESSAGES = {"sign in?": ["1"], "pay?": ["2", "4"], "both?": ["3", "1"]}


def search(name: str, passages: dict[str, str], relevant: dict[str, list[str]], **more: Any) -> Task:
    rows = [
        {"query": query, "relevant": own, "not": ["2"] if own == ["1"] else None} for query, own in relevant.items()
    ]
    test = [{"query": "pay now?", "relevant": ["2"], "not": None}]
    return make_task(name, kind="retrieval", inputs="query", target="relevant", passages=passages, negatives="not",
                     data={"train": rows, "validation": test, "test": test}, **more)  # fmt: skip


def suite(**more: Any) -> Suite:
    return Suite("help", [search("pages", PAGES, TO_PAGES), search("messages", MESSAGES, TO_MESSAGES, **more)])


def train(task: Task) -> dict[str, dict[str, float]]:
    part = task.splits["train"]
    return {str(row[0]): dict(target) for row, target in zip(part.inputs, part.targets, strict=True)}


def test_all_rows_search_the_union_in_which_a_text_stands_once() -> None:
    made = suite().pooled()
    held = {id(row[1]): row[1] for task in made for split in task.splits.values() for row in split.inputs}
    (pool,) = held.values()
    assert dict(zip(pool.ids, pool.texts(), strict=True)) == {  # type: ignore[union-attr, arg-type]
        "pages/1": "how to sign in", "pages/2": "how to pay", "pages/3": "a page of both",
        "messages/1": "I cannot sign in", "messages/2": "I cannot pay", "messages/4": "I paid twice"}  # fmt: skip
    assert [task.splits["test"].targets for task in made] == [[{"pages/2": 1.0}], [{"messages/2": 1.0}]]
    assert made["pages"].notes[-2:] == (
        "it searches 6 passages, those of pages and messages",
        "3 of 4 training queries have negatives that are relevant to them in other tasks",
    )


def test_what_is_relevant_to_a_query_in_another_task_is_a_negative_first() -> None:
    """A passage that is relevant in both is none; a query that is asked once has none; own negatives come after."""
    made = suite().pooled()
    pages, messages = train(made["pages"]), train(made["messages"])
    assert pages["sign in?"] == {"pages/1": 1.0, "messages/1": 0.0, "pages/2": 0.0}
    assert of_row(pages["sign in?"], Contrast(negatives=1)) == ["pages/1", "messages/1"]
    assert pages["alone?"] == {"pages/1": 1.0, "pages/2": 0.0}
    assert pages["both?"] == {"pages/3": 1.0, "messages/1": 0.0}, "the page of both is relevant in both"
    assert messages["both?"] == {"pages/3": 1.0, "messages/1": 1.0}
    assert sorted(pages["pay?"].values()) == [0.0, 1.0], "one of two is drawn"
    assert sorted(train(suite().pooled(2)["pages"])["pay?"]) == ["messages/2", "messages/4", "pages/2"]
    none = suite().pooled(0)
    assert train(none["pages"])["sign in?"] == {"pages/1": 1.0, "pages/2": 0.0}
    assert [task.content for task in suite().pooled()] == [task.content for task in made]
    assert all(target == {"pages/2": 1.0} for target in made["pages"].splits["validation"].targets)


def test_rows_that_say_the_rest_of_what_is_relevant_to_a_query_are_heeded() -> None:
    """Two rows of one query: what one calls relevant is no negative of the other."""
    rows = [{"query": "pay?", "relevant": ["2"]}, {"query": "pay?", "relevant": ["1"]}]
    one = make_task("one", kind="retrieval", inputs="query", target="relevant", passages=PAGES, data={
        "train": rows, "validation": rows, "test": rows})  # fmt: skip
    other = make_task("other", kind="retrieval", inputs="query", target="relevant", passages={"x": PAGES["1"]}, data={
        split: [{"query": "pay?", "relevant": ["x"]}] for split in ("train", "validation", "test")})  # fmt: skip
    made = Suite("two", [one, other]).pooled()
    assert list(made["one"].splits["train"].targets) == [{"one/2": 1.0}, {"one/1": 1.0}]
    assert train(made["other"])["pay?"] == {"one/1": 1.0, "one/2": 0.0}


def test_held_out_searches_are_pooled_and_say_nothing_to_training() -> None:
    made = suite(role="held_out").pooled()
    assert train(made["pages"]) == train(suite().pooled(0)["pages"])
    assert train(made["messages"])["sign in?"] == {"messages/1": 1.0, "messages/2": 0.0}
    assert len(made["messages"].splits["test"].inputs[0][1]) == 6  # type: ignore[arg-type]


def test_other_tasks_stay_as_they_are() -> None:
    candidates = [{"query": f"q{i}", "texts": ["a", f"b{i}"], "relevant": "a"} for i in range(9)]
    own = make_task("own", kind="retrieval", inputs=["query", "texts"], target="relevant", data={"train": candidates})
    moods = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(9)]
    mood = make_task("mood", kind="classification", inputs="text", target="label", data={"train": moods})
    made = Suite("all", [*suite(), own, mood]).pooled()
    assert made["own"] is own and made["mood"] is mood and list(made.tasks) == ["pages", "messages", "own", "mood"]
    with pytest.raises(AllroundError, match="1 task of the kind retrieval has one collection"):
        Suite("one", [suite()["pages"], own]).pooled()
    with pytest.raises(AllroundError, match="-1 negatives are asked for"):
        suite().pooled(-1)


def written(folder: Path, pool: str) -> Path:
    tasks = ""
    for name, passages, relevant in (("pages", PAGES, TO_PAGES), ("messages", MESSAGES, TO_MESSAGES)):
        files = {f"{name}_passages": [{"_id": one, "text": text} for one, text in passages.items()],
                 f"{name}_train": [{"query": query, "relevant": own} for query, own in relevant.items()],
                 f"{name}_test": [{"query": "pay now?", "relevant": ["2"]}]}  # fmt: skip
        for file, rows in files.items():
            (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = ", ".join(f"{split}: {name}_{file}.jsonl" for split, file in
                           (("train", "train"), ("validation", "test"), ("test", "test")))  # fmt: skip
        tasks += f"  {name}: {{kind: retrieval, source: {{{source}}}, passages: {name}_passages.jsonl}}\n"
    (folder / "suite.yml").write_text(f"pool: {pool}\ntasks:\n{tasks}")
    return folder / "suite.yml"


def test_a_suite_file_says_so(tmp_path: Path) -> None:
    assert train(Suite.load(written(tmp_path, "true"))["pages"])["sign in?"] == {"pages/1": 1.0, "messages/1": 0.0}
    assert train(Suite.load(written(tmp_path, "{negatives: 0}"))["pages"])["sign in?"] == {"pages/1": 1.0}
    assert train(Suite.load(written(tmp_path, "false"))["pages"])["sign in?"] == {"1": 1.0}
    with pytest.raises(AllroundError, match="did you mean 'negatives'"):
        Suite.load(written(tmp_path, "{negative: 1}"))
    with pytest.raises(AllroundError, match="greater than or equal to 0"):
        Suite.load(written(tmp_path, "{negatives: -1}"))


def test_one_task_alone_searches_the_whole_pool(tmp_path: Path) -> None:
    file = written(tmp_path, "true")
    whole, alone = Suite.load(file), Suite.load(file, only=["messages"])
    assert list(alone.tasks) == ["messages"] and alone["messages"].content == whole["messages"].content
