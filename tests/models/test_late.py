"""Late interaction: texts compared by the vectors of their tokens, by hand, in models that answer and that learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from allround.building.index import index
from allround.core.errors import AllroundError
from allround.models import late as late_module
from allround.models import searching
from allround.models.base import load_encoder
from allround.models.batch import Features
from allround.models.contrast.many_to_many import many_to_many
from allround.models.exporting import export_onnx
from allround.models.heads.ranking import Ranking
from allround.models.late import TokenVectors, late
from allround.models.searching import VectorReader
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.contrast import Contrast
from allround.tasks.make import make_task
from allround.tasks.metric import score_of
from allround.tasks.passages import Passages
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.trainer import train

WORDS = ("good", "bad", "river", "film", "the", "a", "was", "is")
CORPUS = {f"p{i}": " ".join(WORDS[: 1 + i % 5][::-1] + WORDS[i % 8 :]) for i in range(16)}


def make(**more: object) -> Task:
    """Queries that say the words of a passage in another order."""
    rows = [
        {"query": " ".join([*reversed(text.split()), WORDS[i]]), "relevant": {one: 1}}
        for i in range(2)
        for one, text in CORPUS.items()
    ]
    contrast = {"compare": "tokens", "loss": "many_to_many", **more}
    return make_task("find", data={"train": rows}, kind="retrieval", inputs="query", target="relevant",
                     passages=CORPUS, contrast=contrast)  # fmt: skip


@pytest.fixture
def model(hf_folder: Path) -> MultiTaskModel:
    return MultiTaskModel(load_encoder(hf_folder), {"find": make().definition}).eval()


def texts(*lengths: int, width: int = 3, seed: int = 0) -> TokenVectors:
    generator = torch.Generator().manual_seed(seed)
    return TokenVectors([torch.randn(n, width, generator=generator, dtype=torch.float64) for n in lengths])


def by_hand(query: Tensor, passage: Tensor, weigh: Callable[[list[float]], list[float]]) -> float:
    """The mean over a query's tokens of the cosines with a passage's, which `weigh` weighs by their products."""
    found = []
    for q in query.tolist():
        products = [sum(a * b for a, b in zip(q, p, strict=True)) for p in passage.tolist()]
        cosines = [
            product / (math.hypot(*q) * math.hypot(*p)) for product, p in zip(products, passage.tolist(), strict=True)
        ]
        found.append(sum(a * c for a, c in zip(weigh(products), cosines, strict=True)))
    return sum(found) / len(found)


def softly(products: list[float], temperature: float = 0.7) -> list[float]:
    shares = [math.exp(one / temperature) for one in products]
    return [share / sum(shares) for share in shares]


def largest(products: list[float]) -> list[float]:
    return [float(one == max(products)) for one in products]


# -- how two texts are compared ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "weigh"), [(0.7, softly), (1e-5, largest)])
def test_scores_are_those_of_a_loop_and_near_zero_maxsim(
    temperature: float, weigh: Callable[[list[float]], list[float]]
) -> None:
    queries, passages = texts(2, 5, 1), texts(3, 1, 4, 3, 7, seed=1)
    expected = [[by_hand(query, passage, weigh) for passage in passages.texts] for query in queries.texts]
    torch.testing.assert_close(late(queries, passages, temperature), torch.tensor(expected, dtype=torch.float64))


def test_two_tokens_with_two_by_hand() -> None:
    """q = (1, 0) and (0, 2); p = (1, 1) and (0, 3): products 1 and 0, 2 and 6; T = 2."""
    query, passage = torch.tensor([[1.0, 0], [0, 2]]), torch.tensor([[1.0, 1], [0, 3]])
    first = math.exp(0.5) / (math.exp(0.5) + 1) / math.sqrt(2)
    second = (math.exp(1) / math.sqrt(2) + math.exp(3)) / (math.exp(1) + math.exp(3))
    found = late(TokenVectors([query]), TokenVectors([passage]), 2.0)
    assert found.item() == pytest.approx((first + second) / 2)


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, passages = texts(2, 5, 1, 9), texts(3, 1, 4, 3, 7, 3, 3, seed=1)
    whole = late(queries, passages, 0.5)
    for rows, products in ((1, 1), (4, 20), (16, 7)):
        monkeypatch.setattr(late_module, "ROWS", rows)
        monkeypatch.setattr(late_module, "PRODUCTS", products)
        torch.testing.assert_close(late(queries, passages, 0.5), whole)
    torch.testing.assert_close(late(queries[[2, 0]], passages[1:4], 0.5), whole[[2, 0], 1:4])


def test_extremes_are_finite_with_their_gradients() -> None:
    tokens = [torch.zeros(2, 3), 1e4 * torch.ones(3, 3), torch.randn(1, 3), torch.empty(0, 3)]
    given = [one.requires_grad_() for one in tokens]
    found = late(TokenVectors(given), TokenVectors(given), 1e-3)
    assert found.isfinite().all() and (found[:, 3] == 0).all() and (found[3] == 0).all() and found.abs().max() <= 1.001
    found.sum().backward()
    assert all(one.grad is None or one.grad.isfinite().all() for one in given)


def test_half_precision_does_not_blur_the_weights() -> None:
    queries, passages = (
        TokenVectors([30 * one.float() for one in found.texts]) for found in (texts(4), texts(9, seed=1))
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = late(queries, passages, 0.1)
    assert found.dtype == torch.float32
    assert torch.equal(found, late(queries, passages, 0.1))


# -- models that answer ------------------------------------------------------------------------------------------------


def scored(model: MultiTaskModel, rows: list[tuple[object, ...]], batch_size: int = 64) -> list[dict[str, float]]:
    reader = VectorReader.of(model.encoder, model.head("find"), batch_size)
    return model.searcher.ranked(reader, model.prepare("find", rows))


def test_scores_are_those_of_sentence_transformers_tokens(model: MultiTaskModel) -> None:
    def tokens(given: list[str]) -> TokenVectors:
        pipeline = model.encoder.pipeline  # type: ignore[attr-defined]
        return TokenVectors([one.double() for one in pipeline.encode(given, output_value="token_embeddings")])

    rows = make().splits["test"].inputs
    expected = late(tokens([str(row[0]) for row in rows]), tokens(list(CORPUS.values())), 0.1)
    for found, scores in zip(scored(model, rows), expected, strict=True):
        values = torch.tensor([found[one] for one in CORPUS], dtype=torch.float64)
        torch.testing.assert_close(values, scores, atol=1e-4, rtol=0)


def test_an_answer_depends_on_its_row_alone(model: MultiTaskModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "BY_TOKEN", 5)
    rows = make().splits["test"].inputs
    own = [(row[0], Passages.of({**CORPUS, f"new {i}": "good film"})) for i, row in enumerate(rows)]
    for given in (rows, [*rows, *own]):
        whole = scored(model, given)
        for other in ([scored(model, [row])[0] for row in given], scored(model, given, 3),
                      scored(model, given[::-1])[::-1]):  # fmt: skip
            for one, again in zip(whole, other, strict=True):
                assert one.keys() == again.keys()
                np.testing.assert_allclose([one[key] for key in one], [again[key] for key in one], atol=1e-5)


@pytest.mark.parametrize("kept", [10, 10_000])
def test_passages_are_encoded_once_where_they_can_be_kept(
    model: MultiTaskModel, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    monkeypatch.setattr(searching, "MOST_KEPT", kept)
    monkeypatch.setattr("allround.models.model.windows", lambda rows: ([row] for row in rows))
    counted: list[int] = []
    before = model.encoder.prepare_passages
    monkeypatch.setattr(model.encoder, "prepare_passages", lambda t, d: counted.append(len(t)) or before(t, d))
    rows = make().splits["test"].inputs
    list(model.answer("find", rows))
    assert sum(counted) == len(CORPUS) * (len(rows) if kept == 10 else 1)


def test_a_smaller_vector_and_masked_instructions_leave_tokens_out(hf_folder: Path) -> None:
    task, encoder = make(passage_instruction="the river is"), load_encoder(hf_folder, instructions="masked")
    read = MultiTaskModel(encoder, {"find": task.definition}).eval()
    plain = MultiTaskModel(load_encoder(hf_folder), {"find": task.definition}).eval()
    counts, instructed = [], 0
    for one in (read, plain):
        ready = one.encoder.prepare_passages(["good film", "bad"], task.definition)
        found = one.encoder(one.encoder.batch(ready, task.definition))
        counts.append(found.tokens)
        instructed = instructed or ready[0]["instructed"]
        assert found.lengths == tuple(map(sum, found.tokens)) and len(found.values) == sum(found.lengths)
    left_out = [whole - own for (whole,), (own,) in zip(counts[1], counts[0], strict=True)]
    assert left_out == [instructed, instructed] and instructed > 3
    small = read.encoder.at_size(3)
    batch = small.batch(small.prepare_passages(["good film"], task.definition), task.definition)
    assert small(batch).values.shape[1] == 3


# -- models that learn -------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_scores_that_answers_have(model: MultiTaskModel) -> None:
    """What a step compares is what a search compares: the same scores for the same texts."""
    task = make(positives=1)
    split = task.splits["train"]
    rows, targets = split.inputs[:4], split.targets[:4]
    batch = model.collate(model.prepare("find", rows, targets), {"find": range(4)}, {"find": targets})
    with torch.inference_mode():
        features = model.features(batch)
        found = model.losses(batch, features)["find"]
    assert features.tokens and found.count == 8
    scores = torch.tensor([[one[key] for key in (next(iter(t)) for t in targets)] for one in scored(model, rows)])
    expected = many_to_many(scores, model.head("find").tensor(targets))
    assert found.mean.item() == pytest.approx(expected.item(), rel=1e-4)
    assert features.take([1, 3], 4).tokens == (features.tokens[1], features.tokens[3])


def test_training_ranks_better_and_a_saved_model_answers_alike(model: MultiTaskModel, tmp_path: Path) -> None:
    task = make(mined=1, token_temperature=0.5)
    model = MultiTaskModel(model.encoder, {"find": task.definition})
    split = task.splits["train"]
    first = score_of(task.definition, split.targets, model.answers("find", split.inputs).predictions)
    train(model, [task], Settings(epochs=3, batch_size=8, learning_rate=1e-2, device="cpu", precision="fp32"), seed=0)
    assert score_of(task.definition, split.targets, model.answers("find", split.inputs).predictions) > first + 0.05
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.definition("find").contrast == task.definition.contrast
    assert again.answers("find", split.inputs).predictions == model.answers("find", split.inputs).predictions


# -- where one vector of a text is needed ------------------------------------------------------------------------------


def test_what_needs_one_vector_of_a_text_is_refused(model: MultiTaskModel, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    with pytest.raises(AllroundError, match="no single one of a text"):
        index(tmp_path / "model", Passages.of(CORPUS), tmp_path / "index")
    with pytest.raises(AllroundError, match="export task 'find' to ONNX"):
        export_onnx(model, tmp_path / "onnx")
    assert not (tmp_path / "index").exists() and not (tmp_path / "onnx").exists()


def test_an_encoder_without_tokens_is_refused() -> None:
    head = Ranking(make().definition, 2)
    for lengths in ((), (2,)):
        with pytest.raises(AllroundError, match="one vector for each text"):
            head.vectors(Features(torch.ones(2, 2), lengths))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_temperatures_that_make_no_sense_are_refused(temperature: float) -> None:
    found = Contrast(token_temperature=temperature).problem()
    assert found is not None and "token_temperature above 0" in found[1]
