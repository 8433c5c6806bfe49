"""Searches by n-grams: what is written occurs in a row's own passages, and these are ranked by it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models.language import save_model
from typer.testing import CliRunner

from allround.building.generative import generative, ngram_task
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.core.files import read_json, write_json
from allround.models import ngrams as index_module
from allround.models.base import load_encoder
from allround.models.encoders.language_model import LanguageModel
from allround.models.language.asking import AskedBatch
from allround.models.language.ngram_search import write_ngrams
from allround.models.language.rows import TokenRow, make_tree
from allround.models.manifest import MANIFEST
from allround.models.ngrams import NgramIndex
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.systems.ngram_retrieval import NgramRetrieval
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training.settings import Settings

PAGES = {
    "late": "the parcel came too late again",
    "lost": "nobody has seen it where is my question",
    "sum": "what is 12 and 7 it is 19",
    "word": "late lost or something else",
    "reply": "answer yes or no",
}
WORDS = ("late parcel", "lost parcel", "nobody has seen it", "too late", "again", "something else", "the question",
         "yes", "no", "What is 12", "It is 19", "answer")  # fmt: skip
LINES = {
    "l0": "the parcel came",
    "l1": "too late",
    "l2": "nobody has seen it",
    "l3": "where is my question",
    "l4": "what is 12",
    "l5": "it is 19",
}


def find(name: str = "find", pages: dict[str, str] = PAGES, instruction: str | None = None) -> Task:
    rows = [{"query": f"Where is {text.split()[0]} {text.split()[-1]}?", "relevant": [one]}
            for one, text in pages.items()]  # fmt: skip
    return make_task(name, kind="retrieval", data=dict.fromkeys(("train", "validation", "test"), rows),
                     inputs="query", target="relevant", passages=pages, instruction=instruction)  # fmt: skip


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def system(llama: Path) -> NgramRetrieval:
    model, task = load_encoder(llama), find()
    assert isinstance(model, LanguageModel)
    return NgramRetrieval({"find": task.definition}, MultiTaskModel(model, {"find": ngram_task(task).definition}), 3, 4)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_nothing_is_written_that_does_not_occur(family: str, tmp_path: Path) -> None:
    """N-grams and probabilities are those of a search that reads each of them alone, with nothing in common."""
    model = load_encoder(save_model(tmp_path / "model", family))
    assert isinstance(model, LanguageModel)
    generator = np.random.default_rng(0)
    texts = [[tuple(generator.integers(5, 12, 9).tolist()) for _ in range(3)], [(20, 21), (22,)]]
    indexes = [NgramIndex(some, 3) for some in texts]
    prompts = [(30, 31, 32), (33, 34)]
    written = write_ngrams(model.net.eval(), prompts, indexes, beams=4)
    for prompt, some, one in zip(prompts, texts, written, strict=True):
        for length in (1, 2, 3):
            there = {text[at : at + length] for text in some for at in range(len(text) - length + 1)}
            found = {ngram for ngram in one.ngrams if len(ngram) == length}
            kept = {ngram for ngram in one.ngrams if len(ngram) == length - 1} or {()}
            from_kept = {ngram: _alone(model, prompt, ngram) for ngram in sorted(there) if ngram[:-1] in kept}
            best = sorted(from_kept, key=lambda ngram: -from_kept[ngram])[:4]
            assert found == set(best)
            for ngram in best:
                assert one.ngrams[ngram] == pytest.approx(from_kept[ngram], abs=1e-4)
            if length == 1:
                assert one.tokens == pytest.approx({token: said for (token,), said in from_kept.items()}, abs=1e-4)


def _alone(model: LanguageModel, prompt: tuple[int, ...], ngram: tuple[int, ...]) -> float:
    asked = AskedBatch((TokenRow(prompt, make_tree([ngram])),), (len(ngram),))
    with torch.inference_mode():
        return float(model.net.log_probabilities(model.net.collate(asked)).double().sum())


def test_the_task_of_writing(system: NgramRetrieval) -> None:
    task = find(instruction="Find {it}:")
    task.splits["train"].targets[0]["word"] = 1.0
    made = ngram_task(task, length=3, samples=2)
    rows = list(zip(made.splits["train"].inputs, made.splits["train"].targets, strict=True))
    assert len(rows) == 2 * 6 + 2 * 5, "two for each query and relevant passage, two for each passage"
    for (query,), (said,) in rows[:2]:
        assert query == "Where is the again?" and said in PAGES["late"] and len(said.split()) == 3
    assert {said for _, (said,) in rows[2:4]} <= {"late lost or", "lost or something", "or something else"}
    for number, (((part,), (said,)), page) in enumerate(
        zip(rows[12:], [page for page in PAGES.values() for _ in range(2)], strict=True)
    ):
        assert part in page and said in page and len(part.split()) == len(said.split()) == 3, number
    accepted = made.splits["validation"].targets[4]
    assert sorted(accepted) == ["answer yes or", "yes or no"]
    (row,) = system.speaker.encoder.prepare([("x",)], made.definition)
    assert row.texts == ("Find {it}: x\nPassage:",)
    assert ngram_task(task, length=3, samples=2).splits["train"].targets == made.splits["train"].targets
    assert ngram_task(task, length=3, samples=2, seed=1).splits["train"].targets != made.splits["train"].targets


def test_it_learns_twelve_passages_by_heart(llama: Path, tmp_path: Path) -> None:
    settings = Settings(epochs=30, learning_rate=1e-2, batch_size=12, device="cpu", precision="fp32")
    pages = {f"p{number}": text for number, text in enumerate(WORDS)}
    rows = [{"query": f"Where is {text}?", "relevant": [one]} for one, text in pages.items()]
    task = make_task("find", kind="retrieval", data=dict.fromkeys(("train", "validation", "test"), rows),
                     inputs="query", target="relevant", passages=pages)  # fmt: skip
    board = generative(Suite("s", [task]), base=llama, identifiers="ngrams", length=8, samples=2, settings=settings,
                       out=tmp_path / "out", beams=4)  # fmt: skip
    assert board.scores()["generative"]["find"] > 0.8
    system = load(tmp_path / "out")
    assert isinstance(system, NgramRetrieval) and (system.beams, system.length) == (4, 8)
    assert isinstance(made_by := system.facts["made_by"], dict)
    assert (made_by["identifiers"], made_by["samples"], "levels" in made_by) == ("ngrams", 2, False)
    query = f"Where is {WORDS[3]}?"
    assert system.predict("find", [(query, pages)])[0][0] == "p3"
    found = system.predict("find", [(query, {"old": "lost parcel", "new": "it came too late", "none": "zzz"})])[0]
    assert found[0] == "new", "a passage that was not there in training"


def test_each_search_has_its_own_passages(llama: Path) -> None:
    """One model answers a search for texts and one for their lines, each with the n-grams of its own passages."""
    model, tasks = load_encoder(llama), [find(), find("lines", LINES, instruction="Find a line:")]
    assert isinstance(model, LanguageModel)
    speaker = MultiTaskModel(model, {task.name: ngram_task(task).definition for task in tasks})
    system = NgramRetrieval({task.name: task.definition for task in tasks}, speaker, 5, 3)
    query = "Where is nobody it?"
    for name, pages in (("find", PAGES), ("lines", LINES)):
        alone = system.predict(name, [(query, pages)])
        assert sorted(alone[0]) == sorted(pages)
        few = dict(list(pages.items())[:2])
        mixed = system.predict(name, [(query, few), (query, pages), (query, few)])
        assert mixed[1] == alone[0] and sorted(mixed[0]) == sorted(few) and mixed[0] == mixed[2]


def test_passages_that_cannot_be_searched(system: NgramRetrieval, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AllroundError, match=r"(?s)the texts have 0 tokens.*give passages with words"):
        system.predict("find", [("x", {"a": " ", "b": ""})])
    assert system.predict("find", [("x", {"a": " ", "b": "parcel parcel"})])[0] == ["b"]
    monkeypatch.setattr(index_module, "MOST_TOKENS", 5)
    with pytest.raises(AllroundError, match=r"(?s)by their n-grams.*search so many with vectors"):
        system.predict("find", [("x", PAGES)])


def test_what_it_refuses(system: NgramRetrieval, llama: Path, tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match="1 to 100 passages"):
        NgramRetrieval(system.definitions, system.speaker, 101)
    with pytest.raises(AllroundError, match="up to 0 tokens"):
        NgramRetrieval(system.definitions, system.speaker, 3, 0)
    suite = Suite("s", [find()])
    for asked, said in (
        ({"identifiers": "ngram"}, "did you mean 'ngrams'"),
        ({"identifiers": "semantic"}, "no embedder is given"),
        ({"identifiers": "ngrams", "embedder": llama}, "leave the embedder out"),
        ({"identifiers": "ngrams", "length": 0}, "3 n-grams of 0 words"),
        ({"identifiers": "ngrams", "samples": 0}, "0 n-grams of 10 words"),
    ):
        with pytest.raises(AllroundError, match=said):
            generative(suite, base=llama, out=tmp_path / "out", **asked)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", [{"beams": None}, {"length": "4"}, {"beams": True}, {"length": 0}])
def test_a_damaged_folder_says_so(damage: dict[str, object], system: NgramRetrieval, tmp_path: Path) -> None:
    system.save(tmp_path / "model")
    path = tmp_path / "model" / MANIFEST
    known = read_json(path)
    assert (known["beams"], known["length"]) == (3, 4)
    write_json(path, known | damage)
    with pytest.raises(AllroundError):
        load(tmp_path / "model")


def test_the_command(llama: Path, tmp_path: Path) -> None:
    rows = [json.dumps({"query": f"Where is {text}?", "relevant": [one]}) for one, text in PAGES.items()]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "pages.jsonl").write_text(
        "\n".join(json.dumps({"_id": one, "text": text}) for one, text in PAGES.items()))  # fmt: skip
    (tmp_path / "search.yml").write_text(
        "tasks:\n  find:\n    source: {train: rows.jsonl, validation: rows.jsonl, test: rows.jsonl}\n"
        "    kind: retrieval\n    passages: pages.jsonl\n")  # fmt: skip
    words = ["generative", str(tmp_path / "search.yml"), "--base", str(llama), "--identifiers", "ngrams", "--length",
             "3", "--samples", "1", "--epochs", "1", "--beams", "2", "--tune", "lora", "--out",
             str(tmp_path / "out")]  # fmt: skip
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 0, ran.output
    system = load(tmp_path / "out")
    assert isinstance(system, NgramRetrieval) and (system.beams, system.length) == (2, 3)
