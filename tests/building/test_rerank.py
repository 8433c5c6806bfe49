"""Two stages: what the judge is trained on, the order that it gives, the command, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from allround.building.rerank import judging_task
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.models.batch import Answers
from allround.models.cost import Cost
from allround.models.system import System, load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.systems.reranked import Reranked
from allround.tasks.definition import Definition
from allround.tasks.make import make_task
from allround.tasks.task import Task
from allround.tasks.values import Row

PASSAGES = {"soup": "the soup is fine", "bread": "the bread is warm", "owl": "the owl saw the market", "cat": "a cat"}
ROWS = [{"query": text, "relevant": [one]} for one, text in PASSAGES.items()]
PAIR = Definition("find", "similarity", ("query", "passage"), "text", "spearman", center=0.0, scale=1.0)


def find() -> Task:
    return make_task("find", kind="retrieval", data=dict.fromkeys(("train", "validation", "test"), ROWS),
                     inputs="query", target="relevant", passages=PASSAGES)  # fmt: skip


class Told(System):
    """Answers each row as a function says."""

    sort = "told"

    def __init__(self, definition: Definition, answer: Callable[[Row], object]) -> None:
        self.definitions, self.facts, self.one = {definition.name: definition}, {}, answer
        self.asked: list[Row] = []

    def answer(
        self, task: str | None, rows: Iterable[Row], *, batch_size: int = 64, scores: bool = False
    ) -> Iterator[Answers]:
        some = list(rows)
        self.asked += some
        found = [self.one(row) for row in some]
        yield Answers(found if isinstance(found[0], tuple) else np.array(found, dtype=np.float64))

    def cost(self, tasks: Iterable[str] | None = None) -> Cost:
        return Cost(parameters_stored=3, parameters_used=2)

    def write(self, folder: Path) -> None: ...

    @classmethod
    def read(cls, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> Told:
        raise NotImplementedError


ORDER = ("cat", "owl", "bread", "soup")


def test_only_candidates_change_their_order() -> None:
    """The judge prefers longer passages; of equal ones the retriever's order stays; the fourth is no candidate."""
    task = find()
    judge = Told(PAIR, lambda row: float(len(str(row[1]).split())))
    system = Reranked(Told(task.definition, lambda row: ORDER), judge, candidates=3)
    rows = task.splits["test"].inputs
    found = system.answers("find", rows)
    assert found.predictions == [("owl", "bread", "cat", "soup")] * len(rows)
    assert len(judge.asked) == 3 * len(rows) and judge.asked[0] == ("the soup is fine", "a cat")
    level = Reranked(Told(task.definition, lambda row: ORDER), Told(PAIR, lambda row: 0.0), candidates=4)
    assert level.answers("find", rows).predictions == [ORDER] * len(rows)
    assert system.cost().parameters_stored == 6 and system.cost().parameters_used == 4
    one = Reranked(Told(task.definition, lambda row: ORDER), judge, candidates=1)
    assert one.answers("find", rows).predictions == [ORDER] * len(rows)


def test_the_judge_learns_from_the_retrievers_own_candidates() -> None:
    task = find()
    made = judging_task(task, Told(task.definition, lambda row: ORDER), candidates=2, negatives=5)
    assert made.definition.labels == ("no", "yes") and made.definition.inputs == ("query", "passage")
    split = made.splits["train"]
    by_query = {str(query): [] for query, _ in split.inputs}  # type: ignore[var-annotated]
    for (query, passage), target in zip(split.inputs, split.targets, strict=True):
        by_query[str(query)].append((passage, int(target)))
    # Of the two candidates cat and owl, those that are not relevant; never bread or soup.
    assert by_query["the soup is fine"][0] == ("the soup is fine", 1)
    assert sorted(by_query["the soup is fine"][1:]) == [("a cat", 0), ("the owl saw the market", 0)]
    assert by_query["a cat"] == [("a cat", 1), ("the owl saw the market", 0)]
    fewer = judging_task(task, Told(task.definition, lambda row: ORDER), candidates=3, negatives=1)
    counts = np.bincount(np.asarray(fewer.splits["train"].targets))
    assert counts.tolist() == [4, 4]


def test_what_is_known_not_to_be_relevant_comes_first() -> None:
    """Also where the retriever does not find it; all else is drawn from the candidates."""
    rows = [{**row, "not": ["bread", "soup"] if row["relevant"] == ["cat"] else None} for row in ROWS]
    task = make_task("find", kind="retrieval", data=dict.fromkeys(("train", "validation", "test"), rows),
                     inputs="query", target="relevant", passages=PASSAGES, negatives="not")  # fmt: skip

    def negatives(most: int) -> list[str]:
        made = judging_task(task, Told(task.definition, lambda row: ORDER), candidates=2, negatives=most)
        split = made.splits["train"]
        asked = zip(split.inputs, np.asarray(split.targets).tolist(), strict=True)
        return [str(passage) for (query, passage), target in asked if query == "a cat" and not target]

    assert negatives(1) == ["the bread is warm"]
    assert negatives(2) == ["the bread is warm", "the soup is fine"]
    assert negatives(4) == ["the bread is warm", "the soup is fine", "the owl saw the market"]


def test_the_judge_reads_the_instruction_with_the_query(bert_folder: Path) -> None:
    """It is trained with the task's, and asked with the one that a user gives; the system itself stays as it is."""
    task = find()
    task = replace(task, definition=replace(task.definition, instruction="a cat saw", rewordings=("a cat had",)))
    retriever = MultiTaskModel(load_encoder(bert_folder), {"find": task.definition})
    definition = judging_task(task, retriever, candidates=2).definition
    assert (definition.instruction, *definition.rewordings) == ("a cat saw", "a cat had")
    judge = MultiTaskModel(load_encoder(bert_folder, pairs="joint"), {"find": definition})
    (read,) = judge.prepare("find", [("the soup", "is fine")])
    plain = replace(definition, instruction=None)
    assert read == judge.encoder.prepare([("a cat saw the soup", "is fine")], plain)[0]
    system = Reranked(retriever, judge, candidates=3)
    told = system.instructed("find", "the owl")
    assert isinstance(told, Reranked)
    assert [one.definition("find").instruction for one in (told, told.retriever, told.judge)] == ["the owl"] * 3
    assert [one.definition("find").instruction for one in (system, retriever, judge)] == ["a cat saw"] * 3
    deaf = Reranked(retriever, Told(PAIR, lambda row: 0.0), 3).instructed("find", "the owl")
    assert isinstance(deaf, Reranked) and deaf.judge.definition("find") == PAIR, "it was trained without one"


def test_what_cannot_rerank_is_refused() -> None:
    task = find()
    retriever = Told(task.definition, lambda row: ORDER)
    with pytest.raises(AllroundError, match="has none of these tasks"):
        Reranked(retriever, Told(replace(PAIR, name="other"), lambda row: 0.0))
    with pytest.raises(AllroundError, match="reads a query and a passage"):
        Reranked(retriever, Told(replace(PAIR, inputs=("query",)), lambda row: 0.0))
    for count in (0, 101):
        with pytest.raises(AllroundError, match="1 to 100"):
            Reranked(retriever, Told(PAIR, lambda row: 0.0), count)


def test_the_command(bert_folder: Path, tmp_path: Path) -> None:
    MultiTaskModel(load_encoder(bert_folder), {"find": find().definition}).save(tmp_path / "find")
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "passages.jsonl").write_text(
        "".join(json.dumps({"_id": one, "text": text}) + "\n" for one, text in PASSAGES.items()))  # fmt: skip
    source = "{" + ", ".join(f"{split}: {split}.jsonl" for split in ("train", "validation", "test")) + "}"
    (tmp_path / "search.yml").write_text(
        f"tasks:\n  find:\n    source: {source}\n    kind: retrieval\n    inputs: query\n    target: relevant\n"
        "    passages: passages.jsonl\n")  # fmt: skip
    ran = CliRunner().invoke(app, ["rerank", str(tmp_path / "search.yml"), "--retriever", str(tmp_path / "find"),
                                   "--base", str(bert_folder), "--candidates", "3", "--epochs", "1", "--out",
                                   str(tmp_path / "two")])  # fmt: skip
    assert ran.exit_code == 0, ran.output
    system = load(tmp_path / "two")
    assert isinstance(system, Reranked) and system.candidates == 3
    assert system.judge.definition("find").metric == "auroc"
    assert set(system.predict("find", [("a cat", PASSAGES)])[0]) == set(PASSAGES)
