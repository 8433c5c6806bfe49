"""Tasks of MTEB: what becomes of each sort, the same scores as there, and what is refused.

Without the package mteb, objects of the same form stand in for its tasks; where it is installed, its own tasks are
loaded from folders laid out as its repositories are, and its own functions compute what is compared.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest

import allround
from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.tasks.metric import score_of
from allround.tasks.mteb.finding import METRICS, metric_of
from allround.tasks.mteb.making import mteb_task
from allround.tasks.passages import Passages
from allround.tasks.spec import parse_suite
from allround.tasks.suite import Suite

REAL = importlib.util.find_spec("mteb") is not None
real = pytest.mark.skipif(not REAL, reason="the package mteb is not installed")

WORDS = ("red", "blue", "green", "warm", "cold", "soft")
CORPUS = [{"_id": f"d{i}", "title": word if i % 2 else "", "text": f"a {word} thing {i}"} for i, word in
          enumerate(WORDS * 4)]  # fmt: skip
QUERIES = [{"_id": f"q{i}", "text": f"which is {word}"} for i, word in enumerate(WORDS)]
QRELS = [{"query-id": f"q{i}", "corpus-id": f"d{i + 6 * j}", "score": 2 - j} for i in range(6) for j in (0, 1)]


class About(SimpleNamespace):
    def model_copy(self, update: dict[str, Any]) -> About:
        return About(**{**self.__dict__, **update})


class Fake:
    """A task with the parts of mteb's that are used here."""

    def __init__(self, sort: str, score: str, data: Callable[[list[str]], Any], **more: Any) -> None:
        self.metadata = About(type=sort, main_score=score, modalities=["text"], dataset={"path": "org/x"}, name="X")
        self.hf_subsets, self.eval_splits, self.data, self.data_loaded = ["default"], ["test"], data, False
        self.__dict__.update(more)

    def filter_eval_splits(self, splits: list[str]) -> None:
        self.splits = splits

    def load_data(self) -> None:
        self.dataset = self.data(self.splits)


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fake], None]:
    def give(task: Fake) -> None:
        def get_task(name: str) -> Fake:
            if name != "X":
                raise KeyError(f"'{name}' not found. Did you mean: X")
            return task

        monkeypatch.setitem(sys.modules, "mteb", SimpleNamespace(get_task=get_task))

    return give


def search(own: bool = False, splits: tuple[str, ...] = ("test",)) -> Callable[[list[str]], Any]:
    def load(asked: list[str]) -> Any:
        if lost := [one for one in asked if one not in splits]:
            raise ValueError(f"Split {lost[0]} not found")
        grades: dict[str, dict[str, int]] = {}
        for row in QRELS:
            grades.setdefault(str(row["query-id"]), {})[str(row["corpus-id"])] = int(str(row["score"]))
        named = [{"id": row["_id"], **row} for row in CORPUS]
        part = {
            "corpus": datasets.Dataset.from_list(named).remove_columns("_id"),
            "queries": datasets.Dataset.from_list([{"id": row["_id"], "text": row["text"]} for row in QUERIES]),
            "relevant_docs": grades,
            "top_ranked": {q: [*g, "d23", "d22"] for q, g in grades.items()} if own else None,
        }
        return {"default": dict.fromkeys(asked, part)}

    return load


def table(**splits: list[dict[str, Any]]) -> Callable[[list[str]], Any]:
    return lambda _: datasets.DatasetDict({s: datasets.Dataset.from_list(rows) for s, rows in splits.items()})


PAIRS = [{"sentence1": f"a {one}", "sentence2": f"the {other}", "score": float((i * j) % 6), "labels": int(i == j)}
         for i, one in enumerate(WORDS) for j, other in enumerate(WORDS)]  # fmt: skip


# -- what becomes of a task --------------------------------------------------------------------------------------------


def test_a_search(give: Callable[[Fake], None]) -> None:
    give(Fake("Retrieval", "ndcg_at_10", search()))
    task = mteb_task(None, "X", instruction="Find it:")
    d, test = task.definition, task.splits["test"]
    assert (d.kind, d.metric, d.inputs, d.role, d.instruction) == (
        "retrieval", "ndcg:k=10", ("query", "passages"), "held_out", "Find it:")  # fmt: skip
    assert len(test) == 6 and test.inputs[0][0] == "which is red"
    passages = test.inputs[0][1]
    assert isinstance(passages, Passages)
    assert passages["d0"] == "a red thing 0" and passages["d1"] == "blue a blue thing 1"
    assert test.targets[0] == {"d0": 2.0, "d6": 1.0}
    assert any("made-up ones stand in" in note for note in task.notes)
    for split in ("train", "validation"):
        for (query, own), target in zip(task.splits[split].inputs, task.splits[split].targets, strict=True):
            (one,) = target
            assert own is passages or own == passages
            assert query == passages[one], "nothing of the test's answers is in it"


def test_a_search_that_is_trained_on(give: Callable[[Fake], None]) -> None:
    give(Fake("Retrieval", "recall_at_100", search(splits=("train", "dev", "test"))))
    task = mteb_task("find", "X", role="train", limit={"train": 4})
    assert {split: len(part) for split, part in task.splits.items()} == {"train": 4, "validation": 6, "test": 6}
    assert task.definition.trained and task.definition.metric == "recall:k=100"
    assert not any("made-up" in note for note in task.notes)
    give(Fake("Retrieval", "ndcg_at_10", search()))
    with pytest.raises(AllroundError, match="its role is train, and it has no training rows"):
        mteb_task("find", "X", role="train")


def test_reranking_has_candidates_of_each_row(give: Callable[[Fake], None]) -> None:
    give(Fake("Reranking", "map_at_1000", search(own=True)))
    task = mteb_task("x", "X")
    assert task.definition.metric == "map" and task.definition.inputs == ("query", "candidates")
    assert [list(row[1]) for row in task.splits["test"].inputs][:2] == [["d0", "d6", "d23", "d22"],
                                                                       ["d1", "d7", "d23", "d22"]]  # fmt: skip
    assert dict(task.splits["test"].targets[0]) == {"d0": 2.0, "d6": 1.0, "d23": 0.0, "d22": 0.0}


def test_sts(give: Callable[[Fake], None]) -> None:
    facts = {"column_names": ("sentence1", "sentence2"), "min_score": 0, "max_score": 5}
    give(Fake("STS", "cosine_spearman", table(train=PAIRS, validation=PAIRS, test=PAIRS), **facts))
    task = mteb_task("x", "X")
    assert task.definition.kind == "similarity" and task.definition.metric == "spearman"
    assert [len(task.splits[s]) for s in ("train", "validation", "test")] == [36, 36, 36]
    assert not any("made-up" in note for note in task.notes)
    give(Fake("STS", "cosine_spearman", table(test=PAIRS), **facts))
    made = mteb_task("x", "X").splits["train"]
    for (one, other), score in zip(made.inputs, made.targets, strict=True):
        assert score == pytest.approx(1.0 if one == other else -1.0), "standardised"


def test_labels_of_texts_and_pairs(give: Callable[[Fake], None]) -> None:
    rows = [{"text": f"{word} {i}", "label": i % 3} for i, word in enumerate(WORDS * 3)]
    facts = {"input_column_name": "text", "label_column_name": "label"}
    give(Fake("Classification", "f1", table(train=rows, test=rows), **facts))
    task = mteb_task("x", "X", role="train")
    assert task.definition.labels == ("0", "1", "2") and task.definition.metric == "macro_f1"
    facts = {"input1_column_name": "sentence1", "input2_column_name": "sentence2", "label_column_name": "labels"}
    lists = [{name: [row[name] for row in PAIRS] for name in facts.values()}]
    for given in (PAIRS, lists):
        give(Fake("PairClassification", "max_ap", table(train=given, test=given), **facts))
        task = mteb_task("x", "X")
        assert task.definition.pair and task.definition.metric == "average_precision"
        assert len(task.splits["test"]) == 36 and list(task.splits["test"].targets[:3]) == [1, 0, 0]
    give(Fake("PairClassification", "max_ap", table(test=PAIRS), **facts))
    with pytest.raises(AllroundError, match="no training rows, and a head"):
        mteb_task("x", "X")


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "found", "do"),
    [
        (Fake("Clustering", "v_measure", search()), "the sort Clustering", "score the model with mteb itself"),
        (Fake("BitextMining", "f1", search()), "the sort BitextMining", "Retrieval, Reranking, STS"),
        (Fake("Retrieval", "hit_rate_at_5", search()), "scored by hit_rate_at_5", "mteb itself"),
        (Fake("Retrieval", "ndcg_at_1000", search()), "scored by ndcg_at_1000", "mteb itself"),
        (Fake("STS", "alpha_auc", search()), "scored by alpha_auc", "mteb itself"),
        (Fake("Retrieval", "ndcg_at_10", search(), hf_subsets=["en", "de"]), "2 subsets", "`config`: en, de"),
        (Fake("Retrieval", "ndcg_at_10", search(splits=())), "cannot be loaded: Split test not found", "--data-dir"),
    ],
)
def test_what_has_no_place_here_is_refused(give: Callable[[Fake], None], task: Fake, found: str, do: str) -> None:
    give(task)
    with pytest.raises(AllroundError) as caught:
        mteb_task("x", "X")
    assert found in caught.value.found and do in caught.value.do


def test_a_query_that_is_a_passage_is_refused_where_mteb_leaves_it_out(
    give: Callable[[Fake], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    give(Fake("Retrieval", "ndcg_at_10", search(), ignore_identical_ids=True))
    mteb_task("x", "X")
    monkeypatch.setitem(CORPUS[0], "_id", "q0")
    with pytest.raises(AllroundError, match="the id of the query"):
        mteb_task("x", "X")


def test_names_and_packages_that_are_missing(give: Callable[[Fake], None], monkeypatch: pytest.MonkeyPatch) -> None:
    give(Fake("STS", "cosine_spearman", search()))
    with pytest.raises(AllroundError, match="Did you mean: X"):
        mteb_task("x", "Y")
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(AllroundError) as caught:
        mteb_task("x", "X")
    assert caught.value.do == "pip install 'allround[mteb]'"


@pytest.mark.parametrize("extra", ["metric: map", "kind: retrieval", "target: x"])
def test_a_suite_file_says_no_more_than_it_may(extra: str) -> None:
    with pytest.raises(AllroundError, match="which brings its own"):
        parse_suite(f"tasks: {{x: {{source: {{mteb: X}}, {extra}}}}}", name="s")


def test_suites_name_tasks_of_mteb(give: Callable[[Fake], None], tmp_path: Path) -> None:
    give(Fake("Retrieval", "ndcg_at_10", search()))
    made = Suite.load("mteb:X")
    assert list(made.tasks) == ["X"] and made.tasks["X"].definition.role == "held_out"
    (tmp_path / "s.yml").write_text("tasks:\n  y: {source: {mteb: X}, category: searches, limit: {test: 3}}\n")
    task = Suite.load(tmp_path / "s.yml").tasks["y"]
    assert len(task.splits["test"]) == 3 and task.definition.category == "searches"


# -- scores ------------------------------------------------------------------------------------------------------------


def rankings(task: Any) -> list[tuple[str, ...]]:
    rng = np.random.default_rng(3)
    return [tuple(row[1].ids[place] for place in rng.permutation(len(row[1]))) for row in task.splits["test"].inputs]


#: What mteb 2.26.24 computes for `rankings` of the search.
PINNED = {"ndcg_at_10": 0.2766, "mrr_at_10": 0.288624, "recall_at_10": 0.58333, "map_at_10": 0.16812,
          "map_at_1000": 0.22189}  # fmt: skip


@pytest.mark.parametrize("score", list(PINNED))
def test_scores_of_a_search_are_those_of_mteb(give: Callable[[Fake], None], score: str) -> None:
    sort = "Reranking" if score == "map_at_1000" else "Retrieval"
    give(Fake(sort, score, search()))
    task = mteb_task("x", "X")
    found = score_of(task.definition, task.splits["test"].targets, rankings(task))
    assert found == pytest.approx(PINNED[score], abs=1e-5)


@real
def test_mteb_itself_computes_the_pinned_scores(give: Callable[[Fake], None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores, make_score_dict
    give(Fake("Retrieval", "ndcg_at_10", search()))
    task = mteb_task("x", "X")
    run = {f"q{i}": {one: 1 - n / 1000 for n, one in enumerate(own)} for i, own in enumerate(rankings(task))}
    qrels = search()(["test"])["default"]["test"]["relevant_docs"]
    found = calculate_retrieval_scores(run, qrels, [1, 3, 5, 10, 20, 100, 1000])
    _, ndcg, map_, recall, precision, naucs, mrr, naucs_mrr, hits = found
    scores = make_score_dict(ndcg=ndcg, _map=map_, recall=recall, precision=precision, mrr=mrr, naucs=naucs,
                             naucs_mrr=naucs_mrr, hit_rate=hits, task_scores={})  # fmt: skip
    assert {name: scores[name] for name in PINNED} == pytest.approx(PINNED, abs=1e-5)


@real
def test_other_scores_are_those_of_mteb() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mteb
    from allround.tasks.definition import Definition

    rng = np.random.default_rng(0)
    truth, said = rng.integers(0, 6, 40).astype(float), rng.random(40)
    sts = mteb.get_task("STSBenchmark")
    none = np.zeros(40)
    names = ("cosine_scores", "manhattan_distances", "euclidean_distances")
    there = sts._calculate_scores({**dict.fromkeys(names, said.tolist()), "similarity_scores": None}, truth.tolist())
    for score in ("cosine_spearman", "cosine_pearson"):
        d = Definition("x", "similarity", ("a", "b"), "text", metric_of("STS", score, ""))
        assert score_of(d, truth, said) == pytest.approx(there[score], abs=1e-9)
    labels, guesses = rng.integers(0, 3, 40), rng.integers(0, 3, 40)
    there = mteb.get_task("Banking77Classification")._calculate_scores(labels, guesses)
    for score in ("accuracy", "f1", "f1_weighted"):
        d = Definition("x", "classification", ("a",), "text", metric_of("Classification", score, ""), ("0", "1", "2"))
        assert score_of(d, labels, guesses) == pytest.approx(there[score], abs=1e-9)
    same = (rng.random(40) < 0.3).astype(int)
    pairs = mteb.get_task("SprintDuplicateQuestions")._compute_metrics_values(said, same, high_score_more_similar=True)
    d = Definition("x", "classification", ("a", "b"), "text", "average_precision", ("0", "1"))
    scores = np.stack([1 - said, said], 1)
    assert score_of(d, same, none.astype(int), scores) == pytest.approx(pairs["ap"], abs=1e-9)


def test_an_encoder_is_scored_as_it_is(give: Callable[[Fake], None], bert_folder: Path) -> None:
    facts = {"column_names": ("sentence1", "sentence2"), "min_score": 0, "max_score": 5}
    for task in (Fake("Retrieval", "ndcg_at_10", search()), Fake("Reranking", "map_at_1000", search(own=True)),
                 Fake("STS", "cosine_spearman", table(test=PAIRS), **facts)):  # fmt: skip
        give(task)
        suite = Suite.load("mteb:X")
        board = allround.evaluate(bert_folder, suite, fit_heads=True)
        pipeline = load_encoder(bert_folder).pipeline
        test, d = suite.tasks["X"].splits["test"], suite.tasks["X"].definition
        if d.kind == "similarity":
            sides = [pipeline.encode([row[i] for row in test.inputs], normalize_embeddings=True) for i in (0, 1)]
            answers: Any = (sides[0] * sides[1]).sum(1)
        else:
            answers = []
            for query, own in test.inputs:
                vectors = pipeline.encode([query, *own.texts()], normalize_embeddings=True)
                answers.append(tuple(own.ids[i] for i in np.argsort(-(vectors[1:] @ vectors[0]), kind="stable")))
        assert board.cells["model"]["X"].score == pytest.approx(score_of(d, test.targets, answers), abs=1e-6)


# -- data as mteb lays them out ----------------------------------------------------------------------------------------


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@real
def test_a_repository_of_mteb_as_a_folder(tmp_path: Path) -> None:
    place = tmp_path / "data" / "scifact"
    written(place, "corpus.jsonl", CORPUS)
    written(place, "queries.jsonl", QUERIES)
    written(place / "qrels", "train.jsonl", QRELS[:8])
    written(place / "qrels", "test.jsonl", QRELS[4:])
    (place / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: default\n  data_files:\n  - {split: train, path: qrels/train.jsonl}\n"
        "  - {split: test, path: qrels/test.jsonl}\n"
        "- config_name: corpus\n  data_files:\n  - {split: corpus, path: corpus.jsonl}\n"
        "- config_name: queries\n  data_files:\n  - {split: queries, path: queries.jsonl}\n---\n"
    )
    suite = tmp_path / "s.yml"
    suite.write_text("tasks:\n  fact: {source: {mteb: SciFact}, local: scifact, role: train}\n")
    task = Suite.load(suite, data_dir=tmp_path / "data").tasks["fact"]
    assert task.definition.metric == "ndcg:k=10"
    assert sorted(row[0] for row in task.splits["test"].inputs) == sorted(row["text"] for row in QUERIES[2:])
    train = [*task.splits["train"].inputs, *task.splits["validation"].inputs]
    assert sorted(row[0] for row in train) == sorted(row["text"] for row in QUERIES[:4])
    pairs = tmp_path / "data" / "sts"
    for split in ("train", "validation", "test"):
        written(pairs, f"{split}.jsonl", PAIRS)
    suite.write_text("tasks:\n  sts: {source: {mteb: STSBenchmark}, local: sts}\n")
    assert len(Suite.load(suite, data_dir=tmp_path / "data").tasks["sts"].splits["test"]) == 36


@real
def test_every_sort_of_mteb_is_mapped_or_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mteb

        tasks = mteb.get_tasks(modalities=["text"], exclusive_modality_filter=True)
    mapped = 0
    for task in tasks:
        about = task.metadata
        if about.type in METRICS:
            try:
                mapped += bool(metric_of(about.type, about.main_score, "asked"))
            except AllroundError as error:
                assert about.main_score in error.found
    assert mapped > 900
