"""Indexes of passages: what they find, that their own libraries read them, and what they refuse."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import allround
from allround.building.index import IndexResult, index, recalls
from allround.cli.app import app
from allround.core import registry
from allround.core.errors import AllroundError
from allround.models import indexed, searching
from allround.models.base import load_encoder
from allround.models.encoders.text import Text
from allround.models.indexed import ABOUT, IndexedPassages, named_index, open_index, search_in
from allround.models.prediction.answers import Answered
from allround.models.system import System, load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.systems.reranked import Reranked
from allround.serving.app import make_app
from allround.serving.engine import Engine
from allround.serving.metrics import Metrics
from allround.serving.questions import Question, answer_questions
from allround.serving.reload import Reloader
from allround.serving.serve import serve
from allround.serving.served import Models, Served, asking_of, open_served
from allround.serving.service import Service
from allround.tasks.definition import Definition
from allround.tasks.passages import Passages
from allround.tasks.sources.passages import read_passages

indexing = sys.modules["allround.building.index"]  # where the package has the function
#: The packages that indexes need; hnswlib has no wheels, so it may be missing.
PACKAGES = {"faiss": "faiss", "hnswlib": "hnswlib"}
WORDS = ("good", "bad", "river", "film", "the", "a", "was", "is")
TEXTS = {f"p{i}": f"{one} {other}" for i, (one, other) in enumerate((a, b) for a in WORDS for b in WORDS if a < b)}
QUERIES = ["film river", "bad the", "is good"]


@pytest.fixture(params=registry.names("index"))
def method(request: pytest.FixtureRequest) -> str:
    if request.param in PACKAGES:
        pytest.importorskip(PACKAGES[request.param])
    return str(request.param)


def definition(name: str = "find", **more: Any) -> Definition:
    return Definition(name, "retrieval", ("query", "passages"), "text", "ndcg", **more)


@pytest.fixture(scope="module")
def folder(hf_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of two searches and a task of labels, and a file of passages beside it."""
    place = tmp_path_factory.mktemp("index")
    labels = Definition("mood", "classification", ("text",), "text", "accuracy", ("bad", "good"))
    found = {d.name: d for d in (definition(), definition("law"), labels)}
    MultiTaskModel(load_encoder(hf_folder), found).save(place / "model")
    (place / "pages.jsonl").write_text("".join(json.dumps({"_id": k, "text": v}) + "\n" for k, v in TEXTS.items()))
    return place


@pytest.fixture(scope="module")
def made(folder: Path) -> IndexResult:
    return index(folder / "model", folder / "pages.jsonl", folder / "exact", task="find")


@pytest.fixture
def copy(made: IndexResult, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.folder, tmp_path / "copy"))


# -- what is found -----------------------------------------------------------------------------------------------------


def built(method: str, vectors: np.ndarray, folder: Path, **settings: Any) -> Any:
    np.save(folder / "made.npy", vectors)
    one = named_index(method, settings)
    one.build(folder / "made.npy", folder)
    again = named_index(method, settings)
    again.open(folder, *vectors.shape)
    return again


def products(rows: int, seed: int = 0) -> tuple[np.ndarray, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(torch.randn(rows, 8, generator=generator), dim=-1)
    return vectors.numpy(), torch.nn.functional.normalize(torch.randn(12, 8, generator=generator), dim=-1)


def test_few_vectors_are_found_as_by_comparing_all(method: str, tmp_path: Path) -> None:
    vectors, queries = products(300)
    scores, places = built(method, vectors, tmp_path).search(queries, 20)
    expected = np.argsort(-(queries.numpy() @ vectors.T), axis=1, kind="stable")[:, :20]
    assert np.mean([len(set(a) & set(b)) for a, b in zip(places.tolist(), expected.tolist(), strict=True)]) >= 19.5
    np.testing.assert_allclose(scores, np.take_along_axis(queries.numpy() @ vectors.T, places.numpy(), 1), atol=1e-5)
    assert (scores[:, :-1] >= scores[:, 1:]).all()


def test_what_is_found_for_a_query_depends_on_it_alone(method: str, tmp_path: Path) -> None:
    vectors, queries = products(300)
    one = built(method, vectors, tmp_path)
    whole = one.search(queries, 30)[1].tolist()
    assert [one.search(query[None], 30)[1][0].tolist() for query in queries] == whole
    assert built(method, vectors, tmp_path).search(queries, 30)[1].tolist() == whole, "the same each time"


def test_equal_vectors_come_in_order_and_no_more_than_there_are(method: str, tmp_path: Path) -> None:
    vectors, queries = products(3)
    scores, places = built(method, np.repeat(vectors, 2, 0), tmp_path).search(queries, 100)
    assert places.shape[1] <= 6 and (places < 6).all()
    for row, own in zip(places.tolist(), scores.tolist(), strict=True):
        found = [place for place in row if place >= 0]
        assert len(set(found)) == len(found) and row[: len(found)] == found
        assert all(a < b for a, b, s, t in zip(found, found[1:], own, own[1:], strict=False) if s == t)


def test_another_size_than_the_folder_says_is_refused(method: str, tmp_path: Path) -> None:
    vectors, _ = products(20)
    built(method, vectors, tmp_path)
    for count, width in ((21, 8), (20, 9)):
        with pytest.raises(ValueError, match=r"20|dim|size|not"):
            named_index(method, {}).open(tmp_path, count, width)


def test_numpy_reads_an_exact_index(made: IndexResult) -> None:
    vectors = np.load(made.folder / "vectors.npy", mmap_mode="r")
    assert vectors.shape == (28, made.about.width)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("factory", ["HNSW16", "Flat", "IVF4,Flat"])
def test_faiss_alone_reads_its_index_and_finds_the_same(factory: str, tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    vectors, queries = products(400)
    search = "nprobe=3" if factory.startswith("IVF") else None
    one = built("faiss", vectors, tmp_path, factory=factory, search=search)
    scores, places = one.search(queries, 10)
    plain = faiss.read_index(str(tmp_path / "index.faiss"))
    for row, query in enumerate(queries.numpy()):
        alone, found = plain.search(query[None], 10)
        assert found[0].tolist() == places[row].tolist() and alone[0].tolist() == scores[row].tolist()
    if factory.startswith("HNSW"):
        assert faiss.downcast_index(plain).hnsw.efSearch == 200
    if factory.startswith("IVF"):
        assert faiss.downcast_index(plain).nprobe == 3


def test_hnswlib_alone_reads_its_index_and_finds_the_same(tmp_path: Path) -> None:
    hnswlib = pytest.importorskip("hnswlib")
    vectors, queries = products(400)
    scores, places = built("hnswlib", vectors, tmp_path).search(queries, 10)
    plain = hnswlib.Index(space="ip", dim=8)
    plain.load_index(str(tmp_path / "index.hnswlib"))
    plain.set_ef(200)
    labels, distances = plain.knn_query(queries.numpy(), k=10)
    assert labels.tolist() == places.tolist()
    np.testing.assert_allclose(1 - distances, scores, atol=1e-6)


def test_settings_that_faiss_does_not_know_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    vectors, _ = products(40)
    with pytest.raises(AllroundError, match=r"factory=Nonsense(.|\n)*index factory"):
        built("faiss", vectors, tmp_path, factory="Nonsense")


@pytest.mark.parametrize("name", ["faiss", "hnswlib"])
def test_a_missing_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(module: str) -> Any:
        raise ImportError(module)

    monkeypatch.setattr("allround.models.vector_index.import_module", gone)
    with pytest.raises(AllroundError) as caught:
        named_index(name, {})
    extra = {"faiss": "index", "hnswlib": "hnswlib"}[name]
    assert caught.value.do == f"pip install 'allround[{extra}]'"


# -- models ------------------------------------------------------------------------------------------------------------


def test_an_index_answers_as_its_passages_do_and_encodes_none(
    method: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = index(folder / "model", folder / "pages.jsonl", tmp_path / "out", task="find", method=method)
    model, passages = load(folder / "model"), open_index(tmp_path / "out")
    plain = read_passages(folder / "pages.jsonl")
    expected = model.predict("find", [(query, plain) for query in QUERIES])
    assert passages.ids == plain.ids and list(passages.texts()) == list(plain.texts()) and passages["p3"] == plain["p3"]
    monkeypatch.setattr(Text, "prepare_passages", lambda *_: pytest.fail("a passage was encoded"))
    answers = model.predict("find", [(query, passages) for query in QUERIES])
    assert [set(one) for one in answers] == [set(one) for one in expected], "28 passages: all are ranked"
    if method == "exact":
        assert answers == expected and found.recall is None
    else:
        assert found.recall is not None and found.recall.value == 1.0
        assert any("1.000 (1.000 to 1.000) of the first 10" in line for line in found.lines())


def test_rows_with_an_index_and_with_passages_of_their_own_stand_side_by_side(folder: Path, made: IndexResult) -> None:
    model, passages = load(folder / "model"), open_index(made.folder)
    plain, own = read_passages(folder / "pages.jsonl"), Passages.of({"x": "good film", "y": "bad river"})
    rows: list[Any] = [("film", passages), ("film", own), ("film", plain)]
    assert model.predict("find", rows) == [model.predict("find", [row])[0] for row in rows]
    assert passages != plain and len({passages, plain}) == 2


def test_a_query_alone_searches_what_the_system_was_given(folder: Path, made: IndexResult) -> None:
    model, plain = load(folder / "model"), read_passages(folder / "pages.jsonl")
    expected = model.predict("find", [(query, plain) for query in QUERIES])
    search_in(model, open_index(made.folder))
    assert model.predict("find", QUERIES) == expected
    rows = [{"query": query} for query in QUERIES]
    assert [row["prediction"] for row in model.predict_rows(rows, "find")] == expected
    own = ("film", Passages.of({"x": "good film"}))
    assert model.predict("find", [own]) == [["x"]], "a row's own passages go first"
    with pytest.raises(AllroundError, match="input 0 has 1 parts"):
        model.predict("law", QUERIES)
    search_in(model, plain)
    assert model.predict("law", QUERIES) == expected


def test_two_stages_search_an_index_of_the_first(
    folder: Path, hf_folder: Path, made: IndexResult, tmp_path: Path
) -> None:
    judge = Definition("find", "classification", ("query", "passage"), "text", "auroc", ("no", "yes"))
    retriever = load(folder / "model")
    two = Reranked(retriever, MultiTaskModel(load_encoder(hf_folder), {"find": judge}), 3)
    plain = read_passages(folder / "pages.jsonl")
    passages = open_index(made.folder)
    assert two.predict("find", [(q, passages) for q in QUERIES]) == two.predict("find", [(q, plain) for q in QUERIES])
    two.save(tmp_path / "two")
    again = index(tmp_path / "two", plain, tmp_path / "out", task="find")
    assert again.about.model == made.about.model and again.about.files == made.about.files


def test_instructions_that_vectors_leave_out_are_left_out_of_queries_too(hf_folder: Path) -> None:
    encoder = Text(load_encoder(hf_folder).pipeline, instructions="masked")
    asked = definition(instruction="good film river")
    model = MultiTaskModel(encoder, {"find": asked}).eval()
    passages = Passages.of({f"p{i}": text for i, text in enumerate(["bad", "film good", "river", "the film"])})
    ready = model.prepare("find", [("bad river", passages)])
    with torch.inference_mode():
        features = encoder(encoder.batch(ready, asked))
    head = model.head("find")
    found = searching.VectorReader(encoder, head, 8).queries(ready)
    torch.testing.assert_close(found, head.vectors(features))


# -- the command and serving -------------------------------------------------------------------------------------------


def cli(*words: Any) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_the_commands(folder: Path, tmp_path: Path) -> None:
    said = cli("index", folder / "model", folder / "pages.jsonl", "--task", "find", "-o", tmp_path / "out")
    assert "passages  28, vectors of 32 numbers" in said and "method    exact" in said
    asked = ["predict", folder / "model", "--task", "find", QUERIES[0]]
    plain = cli(*asked, "--passages", folder / "pages.jsonl")
    assert cli(*asked, "--passages", tmp_path / "out") == plain and plain.count(" p") == 27
    assert not (tmp_path / "out.unfinished").exists()
    said = cli("predict", folder / "model", QUERIES[0], "--passages", tmp_path / "out", "--json")
    row = json.loads(said.splitlines()[-1])
    assert (
        " ".join(row["find_prediction"]) == plain.strip() and "mood_prediction" in row and "law_prediction" not in row
    )


def test_questions_are_answered_from_an_index(folder: Path, made: IndexResult) -> None:
    plain = read_passages(folder / "pages.jsonl")
    system = open_served(folder / "model", [made.folder])
    expected = system.predict("find", [(query, plain) for query in QUERIES])
    asked = [Question.make([query], asking_of(["find"], scores=False)) for query in QUERIES[:2]]
    asked += [Question.make([{"query": QUERIES[2]}], asking_of(None, scores=False))]
    found = answer_questions(system, asked)
    assert all(isinstance(one, Answered) for one in found), found
    assert [one.tasks["find"].predictions[0] for one in found if isinstance(one, Answered)] == expected
    last = found[2]
    assert isinstance(last, Answered) and list(last.tasks) == ["find"]


def test_a_server_searches_its_index_and_opens_it_again_with_a_new_version(folder: Path, tmp_path: Path) -> None:
    from fastapi.testclient import TestClient

    place, pages = tmp_path / "model", tmp_path / "pages"
    shutil.copytree(folder / "model", place)
    index(place, folder / "pages.jsonl", pages, task="find")
    served = Served("help", Engine(open_served(place, [pages])), place, indexes=[pages])
    models = Models([served])
    client = TestClient(make_app(Service(models)))
    about = {one["name"]: one["inputs"] for one in client.get("/v1/tasks").json()["tasks"]}
    assert about["find"] == ["query"] and about["law"] == ["query", "passages"]
    body = {"inputs": [QUERIES[0]], "tasks": ["find"]}
    first = client.post("/v1/predict", json=body).json()["answers"][0]["find"]["answer"]
    plain = read_passages(folder / "pages.jsonl")
    assert first == load(place).predict("find", [(QUERIES[0], plain)])[0]
    reloader = Reloader(models, Metrics())
    tuned(folder).save(tmp_path / "new")
    with pytest.raises(AllroundError, match="made with another model"):
        reloader.reload(served, tmp_path / "new")
    assert served.folder == place and client.post("/v1/predict", json=body).status_code == 200
    index(tmp_path / "new", Passages.of({"one": "the film"}), pages, task="find")
    reloader.reload(served, tmp_path / "new")
    assert client.post("/v1/predict", json=body).json()["answers"][0]["find"]["answer"] == ["one"]
    models.stop()


def test_a_shadow_has_no_index_of_its_own(folder: Path, made: IndexResult) -> None:
    with pytest.raises(AllroundError, match="serve a shadow beside a model that searches an index"):
        serve({"help": folder / "model"}, shadow=folder / "model", indexes={"help": [made.folder]})


# -- what is refused ---------------------------------------------------------------------------------------------------


def tuned(folder: Path) -> System:
    model = load(folder / "model")
    assert isinstance(model, MultiTaskModel)
    with torch.no_grad():
        next(p for n, p in model.encoder.named_parameters() if n.endswith("LayerNorm.weight"))[0] += 1e-3
    return model


def test_an_index_of_other_weights_is_refused(folder: Path, made: IndexResult) -> None:
    passages = open_index(made.folder)
    load(folder / "model").predict("find", [("film", passages)])
    with pytest.raises(AllroundError) as caught:
        tuned(folder).predict("find", [("film", passages)])
    assert caught.value.found == "it was made with another model, or with other weights"
    assert "allround index" in caught.value.do


def test_an_index_of_another_task_is_refused(folder: Path, made: IndexResult) -> None:
    with pytest.raises(AllroundError, match="it was made for task 'find'"):
        load(folder / "model").predict("law", [("film", open_index(made.folder))])


@pytest.mark.parametrize(
    ("task", "found"),
    [(None, "2 of its tasks rank passages"), ("mood", "task 'mood', of the kind classification, ranks no passages"),
     ("fnd", "has no head for it")],
)  # fmt: skip
def test_tasks_that_rank_no_passages_are_refused(folder: Path, tmp_path: Path, task: str | None, found: str) -> None:
    with pytest.raises(AllroundError) as caught:
        index(folder / "model", folder / "pages.jsonl", tmp_path / "out", task=task)
    assert found in caught.value.found and not (tmp_path / "out").exists()


def test_passages_for_a_model_that_ranks_none_are_refused(hf_folder: Path, made: IndexResult) -> None:
    labels = Definition("mood", "classification", ("text",), "text", "accuracy", ("bad", "good"))
    model = MultiTaskModel(load_encoder(hf_folder), {"mood": labels})
    for passages in (open_index(made.folder), Passages.of(["a text"])):
        with pytest.raises(AllroundError, match="no task that ranks passages"):
            search_in(model, passages)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-64])


def turned(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-70] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("file", ["vectors.npy", "passages.arrow"])
@pytest.mark.parametrize("damage", [cut, turned, Path.unlink])
def test_a_damaged_file_is_found(copy: Path, file: str, damage: Callable[[Path], None]) -> None:
    damage(copy / file)
    with pytest.raises(AllroundError) as caught:
        open_index(copy)
    assert caught.value.found in (f"{file} is not as it was written", f"{file} is missing")
    assert "allround index" in caught.value.do


@pytest.mark.parametrize(
    "change",
    [{"count": 29}, {"count": "many"}, {"task": 3}, {"files": {}}, {"files": {"../x": "y"}}, {"settings": []},
     {"format": 9}, {"method": "nothing"}, {"width": 31}, {"more": 1}, {"settings": {"links": 1}}],
)  # fmt: skip
def test_a_damaged_manifest_is_found(copy: Path, change: dict[str, Any]) -> None:
    about = json.loads((copy / ABOUT).read_text())
    (copy / ABOUT).write_text(json.dumps({**about, **change}))
    with pytest.raises(AllroundError):
        open_index(copy)


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    for place, found in ((tmp_path, f"the folder has no {ABOUT}"), (tmp_path / "x", "there is no such folder")):
        with pytest.raises(AllroundError) as caught:
            open_index(place)
        assert caught.value.found == found


# -- making it ---------------------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_where_it_was(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "PASSAGES", 10)
    encoded: list[int] = []
    before = Text.prepare_passages

    def prepare(self: Text, texts: Any, definition: Definition) -> Any:
        if len(encoded) == 2:
            encoded.append(0)
            raise KeyboardInterrupt
        encoded.append(len(texts))
        return before(self, texts, definition)

    monkeypatch.setattr(Text, "prepare_passages", prepare)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        index(folder / "model", folder / "pages.jsonl", out, task="find")
    assert not out.exists() and (tmp_path / "out.unfinished" / "done.json").is_file()
    made = index(folder / "model", folder / "pages.jsonl", out, task="find")
    assert encoded == [10, 10, 0, 8] and not (tmp_path / "out.unfinished").exists()
    whole = index(folder / "model", folder / "pages.jsonl", tmp_path / "whole", task="find")
    assert made.about.files == whole.about.files


def test_unfinished_work_for_other_passages_is_not_taken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "out.unfinished"
    model = load(folder / "model")
    assert isinstance(model, MultiTaskModel)
    reader = searching.VectorReader(model.encoder, model.head("find"), 8)  # type: ignore[arg-type]
    scratch.mkdir()
    indexing.write_vectors(reader, Passages.of(["other", "texts"]), scratch, "x")
    with pytest.raises(AllroundError, match="other things in it"):
        index(folder / "model", folder / "pages.jsonl", tmp_path / "out", task="find")
    (scratch / ".allround.lock").write_text("index")
    made = index(folder / "model", folder / "pages.jsonl", tmp_path / "out", task="find")
    assert made.about.count == 28 == len(np.load(made.folder / "vectors.npy"))


def test_recall_counts_what_was_missed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    exact = torch.tensor([[0.9, 0.8, 0.8, 0.1], [0.5, 0.4, 0.3, 0.2]])
    monkeypatch.setattr(indexing, "FIRST", 2)
    assert recalls(exact, exact) == [1.0, 1.0]
    assert recalls(exact, torch.tensor([[0.8, 0.8], [0.3, 0.2]])) == [1.0, 0.0], "of equal ones any is right"
    monkeypatch.setattr(indexing, "FIRST", 10)
    found = index(folder / "model", folder / "pages.jsonl", tmp_path / "out", task="find", method="faiss",
                  settings={"factory": "IVF7,Flat", "search": "nprobe=1"})  # fmt: skip
    assert found.recall is not None and found.recall.value < 0.9
    assert json.loads((found.folder / ABOUT).read_text())["measured"]["recall"][0] == found.recall.value


def test_many_passages_are_said_to_take_time(made: IndexResult, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("--method faiss" in line for line in made.lines())
    monkeypatch.setattr(indexing, "MOST_KEPT", 27)
    assert any("compared with 28 vectors; --method faiss" in line for line in made.lines())


def test_everything_is_public() -> None:
    assert allround.index is index and isinstance(indexed.FORMAT, int) and issubclass(IndexedPassages, Passages)


def test_an_export_ranks_as_its_model_and_has_indexes_of_its_own(
    hf_folder: Path, folder: Path, made: IndexResult, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from allround.models.exporting import export_onnx

    asked = {"find": definition(), "law": definition("law", instruction="good film")}
    labels = Definition("mood", "classification", ("text",), "text", "accuracy", ("bad", "good"))
    model = MultiTaskModel(load_encoder(hf_folder), {**asked, "mood": labels}).eval()
    found = export_onnx(model, tmp_path / "onnx")
    assert {name for some in found.graphs.values() for name in some} == {"find", "law", "mood"}
    exported, passages = load(tmp_path / "onnx"), read_passages(folder / "pages.jsonl")
    for task in asked:
        rows = [(query, passages) for query in QUERIES]
        assert exported.predict(task, rows) == model.predict(task, rows), task
    assert exported.predict("mood", QUERIES) == model.predict("mood", QUERIES)
    with pytest.raises(AllroundError, match="made with another model"):
        exported.predict("find", [("film", open_index(made.folder))])
    index(tmp_path / "onnx", passages, tmp_path / "out", task="law")
    again = load(tmp_path / "onnx")
    search_in(again, open_index(tmp_path / "out"))
    assert again.predict("law", QUERIES) == model.predict("law", [(query, passages) for query in QUERIES])
