"""Ranking passages: the head's loss, exact search in blocks, and models that answer and learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from allround.core.errors import AllroundError
from allround.evaluation.predict import predict_split
from allround.models import searching
from allround.models.base import load_encoder
from allround.models.batch import Features
from allround.models.contrast.infonce import infonce
from allround.models.encoders.text import Text
from allround.models.fitting import fit_head
from allround.models.heads.ranking import Ranking
from allround.models.running import features_of
from allround.models.searching import top
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.contrast import Contrast
from allround.tasks.definition import Definition
from allround.tasks.make import make_task
from allround.tasks.metric import score_of
from allround.tasks.passages import Passages
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.sharing import plan_of, share
from allround.training.trainer import train

WORDS = ("good", "bad", "river", "film", "the", "a", "was", "is")
CORPUS = {f"p{i}": f"{one} {other}" for i, (one, other) in enumerate((a, b) for a in WORDS for b in WORDS if a < b)}


def make(**more: object) -> Task:
    """Queries that say the words of a passage in another order, and passages that share one of them."""
    rows = [
        {"query": " ".join([*reversed(text.split()), WORDS[i % 8]]), "relevant": {one: 2}}
        for i in range(2)
        for one, text in CORPUS.items()
    ]
    given: dict[str, object] = {"kind": "retrieval", "inputs": "query", "target": "relevant", "passages": CORPUS}
    return make_task("find", data={"train": rows}, **{**given, **more})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def encoder(hf_folder: Path) -> Text:
    found = load_encoder(hf_folder)
    assert isinstance(found, Text)
    return found


@pytest.fixture
def model(encoder: Text, hf_folder: Path) -> MultiTaskModel:
    made = MultiTaskModel(load_encoder(hf_folder), {})
    made.add_task(make().definition)
    return made


def test_what_is_relevant_is_never_a_negative() -> None:
    head = Ranking(Definition("t", "retrieval", ("q", "passages"), "text", "ndcg", contrast=Contrast(positives=1)), 2)
    targets = [{"a": 1.0, "b": 2.0, "x": 0.0}, {"b": 1.0}, {"c": 1.0, "x": 0.0}]
    # Columns: a and x of the first row, b, then c and x once more.
    assert head.tensor(targets).tolist() == [[1, 0, 2, 0, -1], [0, 0, 1, 0, -1], [0, 0, 0, 1, -1]]
    vectors = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
    q, p = vectors[[0, 3, 5]], vectors[[1, 2, 4, 6, 7]]
    cosines = torch.nn.functional.cosine_similarity(q[:, None], p[None], dim=-1)
    loss = head.loss(Features(vectors, (3, 2, 3)), head.tensor(targets))
    assert loss.mean.item() == pytest.approx(infonce(cosines, head.tensor(targets)).item(), rel=1e-5)
    assert loss.count == 8


@pytest.mark.parametrize("blocks", [1, 3, 7, 100])
def test_blocks_give_the_whole_ranking_with_ties_by_position(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "QUERIES", 4)
    rng = np.random.default_rng(0)
    queries = torch.from_numpy(rng.integers(-2, 3, (9, 3)).astype(np.float32))
    passages = torch.from_numpy(rng.integers(-2, 3, (50, 3)).astype(np.float32))  # with many ties
    scores = (queries @ passages.T).numpy()
    for count in (1, 5, 49, 60):
        expected = [np.lexsort((np.arange(50), -row))[:count].tolist() for row in scores]
        values, places = top(queries, iter(passages.split(-(-50 // blocks))), count)
        assert places.tolist() == expected
        assert values.tolist() == np.take_along_axis(scores, np.array(expected), 1).tolist()


def test_an_answer_depends_on_its_row_alone(model: MultiTaskModel) -> None:
    rows = make().splits["test"].inputs
    own = [(row[0], Passages.of({**CORPUS, f"new {i}": "good film"})) for i, row in enumerate(rows)]
    for given in (rows, [*rows, *own]):
        whole = model.answers("find", given).predictions
        assert all(len(set(said)) == len(said) for said in whole)
        assert [model.answers("find", [row]).predictions[0] for row in given] == whole
        assert model.answers("find", given, batch_size=3).predictions == whole
        assert model.answers("find", given[::-1]).predictions == whole[::-1]


def test_the_ranking_is_that_of_cosines_of_sentence_transformers(model: MultiTaskModel) -> None:
    task = make()
    vectors = model.encoder.pipeline.encode(list(CORPUS.values()), normalize_embeddings=True)
    for row in task.splits["test"].inputs:
        query = model.encoder.pipeline.encode([row[0]], normalize_embeddings=True)[0]
        order = np.argsort(-(vectors @ query), kind="stable")
        scores = vectors @ query
        found = [list(CORPUS).index(one) for one in model.answers("find", [row]).predictions[0]]
        np.testing.assert_allclose(scores[found], scores[order], atol=1e-5)


def test_passages_that_rows_share_are_encoded_once(model: MultiTaskModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allround.models.system.WINDOW", 3)
    monkeypatch.setattr("allround.models.model.windows", lambda rows: ([row] for row in rows))
    counted: list[int] = []
    before = model.encoder.prepare_passages
    monkeypatch.setattr(model.encoder, "prepare_passages", lambda t, d: counted.append(len(t)) or before(t, d))
    made = list(model.answer("find", make().splits["test"].inputs))
    assert len(made) > 3 and sum(counted) == len(CORPUS)
    list(model.answer("find", make().splits["test"].inputs[:1]))
    assert sum(counted) == 2 * len(CORPUS)  # nothing is kept from one call to the next: weights may have changed


def test_an_instruction_goes_before_queries_only(hf_folder: Path) -> None:
    encoder = load_encoder(hf_folder)
    task = make(instruction="good")
    asked, plain = (
        encoder.prepare(task.splits["train"].inputs[:2], d, task.splits["train"].targets[:2])
        for d in (task.definition, make().definition)
    )
    for one, other in zip(asked, plain, strict=True):
        assert len(one["ids"]) == 2 and len(one["ids"][0]) > len(other["ids"][0]) and one["ids"][1] == other["ids"][1]


def test_training_ranks_better_and_a_saved_model_answers_alike(model: MultiTaskModel, tmp_path: Path) -> None:
    task = make()
    split = task.splits["validation"]
    first = score_of(task.definition, split.targets, model.answers("find", split.inputs).predictions)
    assert fit_head(model.encoder, task).tried == {0.0: pytest.approx(first)}
    course = train(
        model, [task], Settings(epochs=4, batch_size=8, learning_rate=1e-2, device="cpu", precision="fp32"), seed=0
    )
    scores = [one["scores"]["find"] for one in course.evaluations]
    assert scores[0] == pytest.approx(first) and max(scores) > first + 0.05
    losses = [one["losses"]["find"] for one in course.evaluations]
    assert min(losses) < losses[0]
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    made = predict_split(again, task, "test")
    assert made.predictions == predict_split(model, task, "test").predictions
    assert again.predict("find", [task.splits["test"].inputs[0]])[0] == list(made.predictions[0])
    best = again.predict("find", [("good film", ["bad river", "film good"])])[0]
    assert sorted(best) == ["bad river", "film good"]


@pytest.mark.parametrize("row", [("q",), ("q", "no list"), (["a"], ["b"]), ("q", []), ("q", [1])])
def test_rows_without_passages_are_refused(model: MultiTaskModel, row: tuple[object, ...]) -> None:
    with pytest.raises(AllroundError, match="input 0"):
        model.predict("find", [row])


@pytest.mark.parametrize(("kind", "head"), [("retrieval", "linear"), ("classification", "ranking")])
def test_heads_that_cannot_answer_the_kind_are_refused(encoder: Text, kind: str, head: str) -> None:
    inputs, labels = (("q", "passages"), ()) if kind == "retrieval" else (("q",), ("a", "b"))
    metric = "ndcg" if kind == "retrieval" else "accuracy"
    definition = Definition("t", kind, inputs, "text", metric, labels, head=head)
    with pytest.raises(AllroundError, match=f"with a head of the sort '{head}'"):
        MultiTaskModel(encoder, {"t": definition})


def test_mined_negatives_are_ranked_high_and_not_too_near_to_what_is_relevant(model: MultiTaskModel) -> None:
    task = make(contrast={"mined": 3, "margin": 0.02})
    plain = MultiTaskModel(model.encoder, {"find": task.definition})
    split, found = task.splits["train"], plain.mined(task).splits["train"]
    assert model.mined(unasked := make()) is unasked
    counts = []
    for row, target, mined in zip(split.inputs, split.targets, found.targets, strict=True):
        assert {one: grade for one, grade in mined.items() if grade} == target
        extra = [one for one, grade in mined.items() if not grade]
        vectors = plain.encoder.pipeline.encode([row[0], *CORPUS.values()], normalize_embeddings=True)
        scores = dict(zip(CORPUS, (vectors[1:] @ vectors[0]).tolist(), strict=True))
        most = scores[next(iter(target))] - 0.02
        allowed = sorted((one for one in CORPUS if one not in target and scores[one] <= most + 1e-5),
                         key=lambda one: -scores[one])  # fmt: skip
        np.testing.assert_allclose([scores[one] for one in extra], [scores[one] for one in allowed[:3]], atol=1e-5)
        counts.append(len(extra))
    assert max(counts) == 3


def test_training_mines_its_negatives(model: MultiTaskModel, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make(contrast={"mined": 2, "margin": 0.0, "loss": "infonce:temperature=0.1"})
    plain = MultiTaskModel(model.encoder, {"find": task.definition})
    seen: list[int] = []
    before = type(plain).losses
    monkeypatch.setattr(type(plain), "losses", lambda self, batch, features=None: (
        seen.append(batch.tensors["input_ids"].shape[0]), before(self, batch, features))[1])  # fmt: skip
    train(plain, [task], Settings(epochs=1, batch_size=4, device="cpu"), seed=0)
    assert max(seen) == 4 * (1 + 1 + 2)


def test_a_rows_own_candidates_are_judged() -> None:
    rows = [{"query": f"q {i}", "own": ["red", "blue", "green"], "relevant": "red"} for i in range(20)]
    task = make_task("own", kind="retrieval", inputs=["query", "own"], target="relevant", data={"train": rows})
    assert {tuple(target) for target in task.splits["train"].targets} == {
        ("red", "blue", "green"), ("red", "green", "blue")}  # fmt: skip
    assert task.splits["train"].targets[0]["blue"] == 0.0


def test_models_that_share_rank_passages(model: MultiTaskModel) -> None:
    """Queries and passages of a task go through its modules."""
    definition = make().definition
    both = MultiTaskModel(model.encoder, {name: replace(definition, name=name) for name in ("find", "other")})
    made = share(both, plan_of("adapters", {"units": 4})).eval()
    rows = make().splits["test"].inputs[:4]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.encoder.parts.parameters():  # type: ignore[union-attr]
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    said = {}
    for name in ("find", "other"):
        own = made.definition(name)
        ready = made.encoder.prepare_passages(list(CORPUS.values()), own)
        passages = torch.nn.functional.normalize(features_of(made.encoder, ready, own).values, dim=-1)
        queries = torch.nn.functional.normalize(features_of(made.encoder, made.encoder.prepare(rows, own), own).values)
        said[name] = made.answers(name, rows).predictions
        for one, scores in zip(said[name], queries @ passages.T, strict=True):
            found = scores[[list(CORPUS).index(passage) for passage in one]]
            torch.testing.assert_close(found, scores.sort(descending=True).values, atol=1e-5, rtol=0)
    assert said["find"] != said["other"]
