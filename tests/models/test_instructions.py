"""Instructions: put before queries, left out of vectors where asked for, and the same in sentence-transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.models.encoders.text import Text
from allround.models.indexed import search_in
from allround.models.prediction.answers import Answered
from allround.models.running import features_of
from allround.models.system import load
from allround.models.systems.ensemble import Ensemble
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.serving.questions import Question, answer_questions
from allround.serving.served import asking_of
from allround.tasks.contrast import Contrast
from allround.tasks.definition import Definition
from allround.tasks.passages import Passages

QUERIES = ["a good film", "the river was bad and good and bad", "b"]
PASSAGES = ["good", "the bad river is a river"]
FIND = Definition("find", "retrieval", ("query", "passages"), "text", "ndcg", instruction="the film about")
ASK = Definition("ask", "retrieval", ("query", "passages"), "text", "ndcg")
TOLD = Definition("told", "retrieval", ("query", "passages"), "text", "ndcg", instruction="the film",
                  contrast=Contrast(passage_instruction="the river is"))  # fmt: skip
MOOD = Definition("mood", "classification", ("x",), "text", "accuracy", ("a", "b"), instruction="good or bad")
ALIKE = Definition("alike", "similarity", ("x", "y"), "text", "spearman", instruction="same film")
SAME: dict[str, Any] = {"atol": 1e-6, "rtol": 0}


def model_of(folder: Path, **settings: Any) -> MultiTaskModel:
    encoder = load_encoder(folder, **settings)
    return MultiTaskModel(encoder, {one.name: one for one in (FIND, ASK, TOLD, MOOD, ALIKE)})


def vectors(model: MultiTaskModel, definition: Definition, rows: list[Any]) -> np.ndarray:
    made = features_of(model.encoder, model.prepare(definition.name, rows), definition, batch_size=2)
    return np.asarray(made.values) / model.encoder.dim**0.5


@pytest.mark.parametrize("way", ["pooled", "masked"])
def test_sentence_transformers_gives_the_same_vectors(way: str, bert_folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = model_of(bert_folder, instructions=way)
    model.save(tmp_path / "model")
    theirs = SentenceTransformer(str(tmp_path / "model" / "encoder"), device="cpu", local_files_only=True)
    assert theirs.default_prompt_name is None
    passages = Passages.of(PASSAGES)
    for made in (model, load(tmp_path / "model")):
        assert isinstance(made, MultiTaskModel)
        found = vectors(made, FIND, [(query, passages) for query in QUERIES])
        np.testing.assert_allclose(found, theirs.encode(QUERIES, prompt_name="find"), **SAME)
        found = vectors(made, MOOD, [(query,) for query in QUERIES])
        np.testing.assert_allclose(found, theirs.encode(QUERIES, prompt_name="mood"), **SAME)
        found = vectors(made, ASK, [(query, passages) for query in QUERIES])
        np.testing.assert_allclose(found, theirs.encode(QUERIES), **SAME)
        pairs = vectors(made, ALIKE, [(query, PASSAGES[1]) for query in QUERIES]) * made.encoder.dim**0.5
        dim = made.encoder.dim
        np.testing.assert_allclose(pairs[:, :dim] / dim**0.5, theirs.encode(QUERIES, prompt_name="alike"), **SAME)
        np.testing.assert_allclose(pairs[:, dim : 2 * dim] / dim**0.5, theirs.encode([PASSAGES[1]] * 3), **SAME)
        ready = made.encoder.prepare_passages(PASSAGES, FIND)
        own = np.asarray(features_of(made.encoder, ready, FIND).values) / dim**0.5
        np.testing.assert_allclose(own, theirs.encode(PASSAGES), **SAME)
        found = vectors(made, TOLD, [(query, passages) for query in QUERIES])
        np.testing.assert_allclose(found, theirs.encode(QUERIES, prompt_name="told"), **SAME)
        own = np.asarray(features_of(made.encoder, made.encoder.prepare_passages(PASSAGES, TOLD), TOLD).values)
        np.testing.assert_allclose(own / dim**0.5, theirs.encode(PASSAGES, prompt_name="told_passages"), **SAME)
        assert np.abs(own / dim**0.5 - theirs.encode(PASSAGES)).max() > 1e-2


@pytest.mark.parametrize("task", ["find", "told"])
@pytest.mark.parametrize("way", ["pooled", "masked"])
def test_training_reads_queries_and_passages_as_answers_do(way: str, task: str, bert_folder: Path) -> None:
    model = model_of(bert_folder, instructions=way).eval()
    definition = model.definition(task)
    passages = Passages.of({"p": PASSAGES[0], "q": PASSAGES[1]})
    rows = [(QUERIES[0], passages), (QUERIES[1], passages)]
    targets = [{"p": 1.0}, {"q": 1.0, "p": 0.0}]
    batch = model.collate(model.prepare(task, rows, targets), {task: (0, 1)}, {task: targets})
    with torch.inference_mode():
        found = model.features(batch)
    assert found.lengths == (2, 3)
    made = np.asarray(found.values) / model.encoder.dim**0.5
    np.testing.assert_allclose(made[[0, 2]], vectors(model, definition, rows), **SAME)
    ready = model.encoder.prepare_passages(PASSAGES, definition)
    own = np.asarray(features_of(model.encoder, ready, definition).values) / model.encoder.dim**0.5
    np.testing.assert_allclose(made[[1, 3, 4]], own[[0, 1, 0]], **SAME)


def test_masked_vectors_are_means_over_the_other_tokens(bert_folder: Path) -> None:
    model = model_of(bert_folder, instructions="masked")
    assert isinstance(model.encoder, Text)
    (ready,) = model.prepare("mood", [(QUERIES[0],)])
    network, count = model.encoder.pipeline[0].model.eval(), ready["instructed"]
    (ids,) = ready["ids"]
    with torch.inference_mode():
        tokens = network(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).last_hidden_state[0]
    assert 3 < count < len(ids)  # the first token, and those of the instruction
    np.testing.assert_allclose(vectors(model, MOOD, [(QUERIES[0],)])[0], tokens[count:].mean(0), atol=1e-5)
    pooled = vectors(model_of(bert_folder), MOOD, [(QUERIES[0],)])[0]
    np.testing.assert_allclose(pooled, tokens.mean(0), atol=1e-5)
    assert np.abs(pooled - np.asarray(tokens[count:].mean(0))).max() > 1e-2


@pytest.mark.parametrize("way", ["pooled", "masked"])
def test_a_user_may_give_another_instruction(way: str, bert_folder: Path, tmp_path: Path) -> None:
    """Answers are those of a model whose task has it, with the same weights; the model itself stays as it is."""
    passages = Passages.of({"p": PASSAGES[0], "q": PASSAGES[1]})
    rows: list[Any] = [(query, passages) for query in QUERIES]
    model = model_of(bert_folder, instructions=way).eval()
    before = vectors(model, FIND, rows)
    other = replace(FIND, instruction="bad river")
    asked = model.instructed("find", "bad river")
    assert isinstance(asked, MultiTaskModel) and asked.definition("find") == other and model.definition("find") == FIND
    made = MultiTaskModel(model.encoder, {"find": other})
    np.testing.assert_array_equal(vectors(asked, other, rows), vectors(made, other, rows))
    np.testing.assert_array_equal(vectors(model, FIND, rows), before)
    assert np.abs(vectors(asked, other, rows) - before).max() > 1e-2
    assert asked.predict("find", rows) == made.predict("find", rows)
    none = model.instructed("find", "")
    np.testing.assert_allclose(vectors(none, none.definition("find"), rows), vectors(model, ASK, rows), **SAME)
    asked.save(tmp_path / "asked")
    assert load(tmp_path / "asked").definition("find") == other


def test_instructions_of_trained_heads_and_of_several_systems_stay(bert_folder: Path) -> None:
    model = model_of(bert_folder)
    with pytest.raises(AllroundError, match="its head was trained with the words that it has"):
        model.instructed("mood", "good or bad or so")
    with pytest.raises(AllroundError, match="a system of the sort 'ensemble' does not take one"):
        Ensemble([model]).instructed("find", "bad river")


def test_the_command_and_a_request_take_an_instruction(bert_folder: Path, tmp_path: Path) -> None:
    """Both answer what the model so told answers; requests with different ones do not disturb each other."""
    model = MultiTaskModel(load_encoder(bert_folder), {"find": FIND, "mood": MOOD})
    model.save(tmp_path / "model")
    corpus = {f"p{n}": text for n, text in enumerate(["good", "the bad river", "a film", "good bad good", "b is b"])}
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in corpus.items()))

    def told(instruction: str) -> list[Any]:
        return model.instructed("find", instruction).predict("find", [(QUERIES[1], Passages.of(corpus))])[0]

    own = FIND.instruction or ""
    words = next(one for one in ("bad river", "b b b", "film film", "is is is is") if told(one) != told(own))
    asked = ["predict", str(tmp_path / "model"), "--passages", str(tmp_path / "pages.jsonl"), QUERIES[1], "--json"]
    ran = CliRunner().invoke(app, [*asked, "--task", "find", "--instruction", words])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["prediction"] == told(words)
    ran = CliRunner().invoke(app, [*asked, "--task", "mood", "--instruction", words])
    assert "no task that is asked ranks passages" in str(ran.exception)

    search_in(model, Passages.of(corpus))
    given: list[str | None] = [None, words, "", words]
    questions = [Question.make([QUERIES[1]], asking_of(["find"], scores=False, instruction=one)) for one in given]
    found = answer_questions(model, questions)
    expected = [told(own if one is None else one) for one in given]
    assert [one.tasks["find"].predictions for one in found if isinstance(one, Answered)] == [[one] for one in expected]


def test_a_way_that_does_not_exist_is_refused(bert_folder: Path) -> None:
    with pytest.raises(AllroundError, match="there is no such way: 'half'"):
        load_encoder(bert_folder, instructions="half")
    with pytest.raises(AllroundError, match="write the encoder 'text' as a graph"):
        model_of(bert_folder, instructions="masked").encoder.write_rows(bert_folder)


def test_chunks_leave_instructions_out_too(bert_folder: Path) -> None:
    passages = Passages.of({"p": PASSAGES[0], "q": PASSAGES[1]})
    rows, targets = [(query, passages) for query in QUERIES], [{"p": 1.0}, {"q": 1.0, "p": 0.0}, {"q": 1.0}]
    model = model_of(bert_folder, instructions="masked").eval()
    batch = model.collate(model.prepare("find", rows, targets), {"find": (0, 1, 2)}, {"find": targets})
    whole = model.features(batch)
    model.chunk(2)
    in_parts = model.features(batch)
    assert in_parts.lengths == whole.lengths
    np.testing.assert_allclose(in_parts.values.detach(), whole.values.detach(), atol=1e-5)
