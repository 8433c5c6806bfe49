"""Rankings that a teacher's scores of candidates teach, and scores by the likelihood of a language model's answer."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models.language import save_model

from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.models.batch import Batch
from allround.models.contrasting import ContrastiveLoss
from allround.models.language.candidates import score_candidates
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.make import make_task
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.terms.candidate_scores import CandidateScores, read_scores
from allround.training.trainer import train

SETTINGS = Settings(epochs=8, batch_size=4, learning_rate=5e-3, device="cpu", precision="fp32", keep="last")
WORDS = ("good", "bad", "river", "film", "the", "was")
CORPUS = {f"p{i}": f"{one} {other}" for i, (one, other) in enumerate((a, b) for a in WORDS for b in WORDS if a < b)}
NAMES = list(CORPUS)


def search(**more: object) -> Task:
    """Queries with one relevant passage and two that are not."""
    rows = [
        {"query": f"{text} is", "relevant": [one], "wrong": [NAMES[i - 1], NAMES[i - 2]]}
        for i, (one, text) in enumerate(CORPUS.items())
    ]
    return make_task("find", kind="retrieval", inputs="query", target="relevant", negatives="wrong", passages=CORPUS,
                     data=dict.fromkeys(("train", "validation", "test"), rows), **more)  # type: ignore[arg-type]  # fmt: skip


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def model(bert_folder: Path) -> MultiTaskModel:
    return MultiTaskModel(load_encoder(bert_folder), {"find": search().definition})


def batch_of(model: MultiTaskModel, task: Task, numbers: list[int]) -> Batch:
    """A batch of training rows as training makes it."""
    split = task.splits["train"].take(numbers)
    rows = model.prepare("find", split.inputs, split.targets)
    made = model.collate(rows, {"find": range(len(numbers))}, {"find": split.targets})
    return replace(made, numbers={"find": tuple(numbers)})


def test_the_loss_sees_each_score_at_its_passage(model: MultiTaskModel, tmp_path: Path) -> None:
    """The relevant passage of row 4 is a negative of row 5 too, and counts once."""
    task = search()
    queries = [str(row[0]) for row in task.splits["train"].inputs]
    rows: list[dict[str, object]] = [
        {"query": queries[5], "scores": {"p5": -0.5, "p4": -0.1, "p3": -2.0}},
        {"query": queries[4], "scores": {"p3": 1.0, "p9": 7.0}},
    ]
    term = CandidateScores(file=write(tmp_path / "scores.jsonl", rows))
    term.before(model, [task])
    batch = batch_of(model, task, [5, 4, 0])
    features = model.features(batch)
    vectors = torch.nn.functional.normalize(features.values, dim=-1)
    starts = [0, 4, 8]
    passages = [place for place in range(12) if place not in starts]
    scores = vectors[starts] @ vectors[passages].T
    nan = math.nan
    targets = task.splits["train"].targets
    columns = [one for n in (5, 4, 0) for one in targets[n]]
    assert columns[0] == "p5" and set(columns[1:3]) == {"p4", "p3"} and columns[3] == "p4"
    known = [{"p5": -0.5, "p4": -0.1, "p3": -2.0}, {"p3": 1.0}, {}]
    teacher = torch.tensor([[own.get(one, nan) for one in columns] for own in known])
    grades = torch.tensor([[float(targets[n].get(one, 0.0) > 0) for one in columns] for n in (5, 4, 0)])
    for place, one in enumerate(columns):
        if one in columns[:place]:
            grades[:, place] = -1.0
    wanted = ContrastiveLoss.named("llm_embedder")(scores, grades, teacher)
    found = term.task_loss(model, "find", batch, features)
    assert found is not None and found.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert term.own_loss("find") == 0.0 and term.own_loss("other") == 1.0


def test_rankings_come_to_be_the_teachers(model: MultiTaskModel, tmp_path: Path) -> None:
    """The teacher puts the passages that are not relevant first."""
    task = search()
    rows: list[dict[str, object]] = [
        {"task": "find", "query": str(row[0]), "scores": {one: 3.0 * place for place, one in enumerate(target)}}
        for row, target in zip(task.splits["train"].inputs, task.splits["train"].targets, strict=True)
    ]
    terms = {
        "candidate_scores": {
            "file": write(tmp_path / "scores.jsonl", rows),
            "loss": "llm_embedder:contrast=0;temperature=0.1",
        }
    }

    def order() -> float:
        """How often the passage with the highest score stands before the one that is relevant."""
        made = model.answers("find", task.splits["train"].inputs).predictions
        ends = [(next(reversed(target)), next(iter(target))) for target in task.splits["train"].targets]
        return float(np.mean([said.index(a) < said.index(b) for said, (a, b) in zip(made, ends, strict=True)]))

    before = order()
    train(model, [task], SETTINGS.with_(terms=terms), seed=0)
    assert before < 0.5 and order() > before + 0.2


def test_what_cannot_teach_is_refused(model: MultiTaskModel, tmp_path: Path) -> None:
    task = search()
    for lines, words in (
        ("{", "line 1"),
        ('{"query": "a"}', "no `query` and `scores`"),
        ('{"query": "a", "scores": {"p1": "b"}}', "a score is 'b'"),
        ('{"query": "a", "scores": {"p1": NaN}}', "line 1"),
        ('{"query": "a", "scores": {}}\n{"query": "a", "scores": {}}', "stands there twice"),
    ):
        (tmp_path / "odd.jsonl").write_text(lines, encoding="utf-8")
        with pytest.raises(AllroundError, match=words):
            read_scores(tmp_path / "odd.jsonl")
    file = write(tmp_path / "others.jsonl", [{"query": "another", "scores": {"p1": 1}}])
    with pytest.raises(AllroundError, match="no training row of a task"):
        CandidateScores(file=file).before(model, [task])
    with pytest.raises(AllroundError, match="it follows no teacher"):
        CandidateScores(file=file, loss="infonce")


def test_a_score_is_the_mean_log_likelihood_of_the_answers_tokens(tmp_path: Path) -> None:
    """By transformers, with the whole text as one sequence."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = save_model(tmp_path / "llama", "llama")
    task = search(contrast={"negatives": 1})
    queries = [str(row[0]) for row in task.splits["train"].inputs]
    answers = {queries[0]: "lost, again", queries[3]: "19"}
    found = score_candidates(task, answers, load_encoder(folder), prompt="{passage}\n{query}\nIt is")
    assert [one["query"] for one in found] == [queries[0], queries[3]] and found[0]["task"] == "find"
    network = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for one, number in zip(found, (0, 3), strict=True):
        assert list(one["scores"]) == list(task.splits["train"].targets[number])[:2]  # type: ignore[call-overload]
        for name, score in one["scores"].items():  # type: ignore[attr-defined]
            context = f"{CORPUS[name]}\n{one['query']}\nIt is"
            before = len(tokenizer(context)["input_ids"])
            ids = torch.tensor([tokenizer(f"{context} {answers[str(one['query'])]}")["input_ids"]])
            with torch.inference_mode():
                logs = network(ids).logits[0, :-1].double().log_softmax(-1)
            wanted = logs.gather(1, ids[0, 1:, None])[before - 1 :].mean()
            assert score == pytest.approx(float(wanted), abs=1e-4)
    for more, words in (
        ({"prompt": "{query}"}, "the prompt has the places query"),
        ({"answers": {}}, "no training row has a query"),
    ):
        with pytest.raises(AllroundError, match=words):
            score_candidates(task, more.pop("answers", answers), load_encoder(folder), **more)  # type: ignore[arg-type]


def test_only_a_language_model_scores(bert_folder: Path) -> None:
    with pytest.raises(AllroundError, match="'text' is no language model"):
        score_candidates(search(), {"a": "b"}, load_encoder(bert_folder))
