"""Each metric against its library, its parts against its score, and its conventions."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from rouge_score import rouge_scorer
from scipy import stats
from sklearn import metrics as sk

from allround.core import registry
from allround.core.errors import AllroundError
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import better, check, metric, needs_scores, row_scores, score_of
from allround.tasks.prompt import Prompt

TAGS = ("O", "B-LOC", "B-PER", "I-LOC", "I-PER")
#: Metrics that must be told something, as the tests spell them.
SPELT = {"f1": "f1:label=b", "top_k_accuracy": "top_k_accuracy:k=2"}
PAIRS = [
    (SPELT.get(entry.name, entry.name), kind)
    for entry in registry.entries("metric")
    for kind in entry.facts["kinds"]
    if kind != "lm_eval"  # test_benchmarks.py compares those with the harness
]
PAIRS += [("average_precision:label=c", "classification"), ("auroc:label=c", "multilabel")]


def define(kind: str, metric: str, labels: int = 4) -> Definition:
    names = (
        TAGS
        if kind == "token_classification"
        else ()
        if kind in ("regression", "similarity", "text", "retrieval")
        else tuple("abcdefgh"[:labels])
    )
    number = {"center": 3.0, "scale": 2.5} if kind in ("regression", "similarity") else {}
    return Definition("t", kind, ("x",), "text", metric, names, **number)


def make(kind: str, seed: int, n: int = 60) -> tuple[Encoded, Encoded]:
    """Targets and predictions that agree in part; regression has ties."""
    rng = np.random.default_rng(seed)
    if kind in ("classification", "ordinal", "multiple_choice"):
        targets = rng.integers(0, 4, n)
        return targets, np.where(rng.random(n) < 0.6, targets, rng.integers(0, 4, n))
    if kind == "multilabel":
        on = (rng.random((n, 4)) < 0.3).astype(np.int8)
        return on, np.where(rng.random((n, 4)) < 0.8, on, 1 - on).astype(np.int8)
    if kind in ("regression", "similarity"):
        values = rng.normal(size=n).round(1)
        return values, (values + rng.normal(size=n)).round(1)
    if kind == "text":
        return texts(rng, n)
    if kind == "retrieval":
        return rankings(rng, n)
    rows = [rng.integers(0, len(TAGS), rng.integers(0, 9)) for _ in range(n)]
    return rows, [np.where(rng.random(len(r)) < 0.8, r, 0) for r in rows]


def rankings(rng: np.random.Generator, n: int) -> tuple[Encoded, Encoded]:
    """Grades from 0 to 3 of some of 40 passages, at least one of them relevant, and rankings of some of all."""
    ids = [f"p{number}" for number in range(40)]
    targets = []
    for _ in range(n):
        own = {str(one): float(rng.integers(0, 4)) for one in rng.choice(ids, rng.integers(1, 15), replace=False)}
        targets.append({**own, str(rng.choice(ids)): 1.0})
    return targets, [tuple(map(str, rng.permutation(ids)[: rng.integers(1, 40)])) for _ in range(n)]


def texts(rng: np.random.Generator, n: int) -> tuple[Encoded, Encoded]:
    """One to three accepted texts a row, of which the answers keep some words."""
    words = np.array(["The cat", "sat", "on", "a", "mat.", "Running", "dogs", "1,000", "slept"])
    targets = [
        tuple(" ".join(rng.choice(words, rng.integers(4, 9))) for _ in range(rng.integers(1, 4))) for _ in range(n)
    ]
    kept = [[word for word in one[0].split() if rng.random() < 0.8] for one in targets]
    return targets, [(" ".join(one) + "!" if rng.random() < 0.7 else row[-1].upper(),)
                     for one, row in zip(kept, targets, strict=True)]  # fmt: skip


def answers(name: str, kind: str, predictions: Encoded, seed: int) -> Encoded:
    """What the metric judges: the predictions, or probabilities (with ties) that mostly agree with them."""
    if not needs_scores(name):
        return predictions
    on = predictions if predictions.ndim == 2 else np.eye(4)[predictions]
    noise = np.random.default_rng(seed).normal(size=(len(on), 4))
    table = 1.5 * on + (noise if name.startswith("top_k") else noise.round(1))  # of ties, scikit-learn takes the last
    likely = 1 / (1 + np.exp(-table)) if kind == "multilabel" else np.exp(table)
    return likely if kind == "multilabel" else likely / likely.sum(1, keepdims=True)


def rest(score: Callable[..., float], targets: Encoded, scores: Encoded) -> float:
    """A score of each label against the rest, averaged over the labels that some examples have, and not all."""
    has = targets.T if targets.ndim == 2 else [targets == place for place in range(scores.shape[1])]
    return float(np.mean([score(h, s) for h, s in zip(has, scores.T, strict=True) if h.any() and not h.all()]))


def library(name: str, kind: str, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
    """The score by the library alone."""
    if kind == "token_classification" and name == "accuracy":
        return float(sk.accuracy_score(np.concatenate(targets), np.concatenate(predictions)))
    if name == "span_f1":
        from seqeval.metrics import f1_score
        from seqeval.scheme import IOB2

        words = [[[TAGS[i] for i in row] for row in rows] for rows in (targets, predictions)]
        return float(f1_score(*words, mode="strict", scheme=IOB2))
    if kind == "text":
        return library_text(name, targets, predictions)
    if kind == "retrieval":
        return library_ranked(name, targets, predictions)
    many = kind == "multilabel"
    return {
        "accuracy": lambda: sk.accuracy_score(targets, predictions),
        "auroc": lambda: rest(sk.roc_auc_score, targets, predictions),
        "auroc:label=c": lambda: sk.roc_auc_score(targets[:, 2], predictions[:, 2]),
        "average_precision": lambda: rest(sk.average_precision_score, targets, predictions),
        "average_precision:label=c": lambda: sk.average_precision_score(targets == 2, predictions[:, 2]),
        "balanced_accuracy": lambda: sk.balanced_accuracy_score(targets, predictions),
        "f1:label=b": lambda: sk.f1_score(targets, predictions, average=None, labels=range(4))[1],
        "kappa": lambda: sk.cohen_kappa_score(targets, predictions),
        "log_loss": lambda: (
            np.mean([sk.log_loss(t, p, labels=[0, 1]) for t, p in zip(targets.T, predictions.T, strict=True)])
            if many
            else sk.log_loss(targets, predictions, labels=range(4))
        ),
        "macro_f1": lambda: sk.f1_score(targets, predictions, average="macro"),
        "mae": lambda: definition.scale * sk.mean_absolute_error(targets, predictions),
        "mcc": lambda: sk.matthews_corrcoef(targets, predictions),
        "pearson": lambda: stats.pearsonr(targets, predictions).statistic,
        "quadratic_kappa": lambda: sk.cohen_kappa_score(targets, predictions, weights="quadratic"),
        "r2": lambda: sk.r2_score(targets, predictions),
        "rmse": lambda: definition.scale * sk.root_mean_squared_error(targets, predictions),
        "spearman": lambda: stats.spearmanr(targets, predictions).statistic,
        "top_k_accuracy:k=2": lambda: sk.top_k_accuracy_score(targets, predictions, k=2, labels=range(4)),
        "weighted_f1": lambda: sk.f1_score(targets, predictions, average="weighted"),
    }[name]()


def library_ranked(name: str, targets: Encoded, predictions: Encoded) -> float:
    """The score of rankings by trec_eval alone, which orders passages by a score."""
    import pytrec_eval

    cut = {"ndcg": 10, "mrr": 10, "recall": 100, "map": 100}[name]
    measure = {"ndcg": "ndcg_cut", "mrr": "recip_rank", "recall": "recall", "map": "map_cut"}[name]
    grades = {str(row): {one: int(grade) for one, grade in own.items()} for row, own in enumerate(targets)}
    most = cut if name == "mrr" else None  # recip_rank has no cut
    run = {str(row): {one: float(len(said) - rank) for rank, one in enumerate(said[:most])}
           for row, said in enumerate(predictions)}  # fmt: skip
    asked = measure if name == "mrr" else f"{measure}.{cut}"
    made = pytrec_eval.RelevanceEvaluator(grades, {asked}).evaluate(run)
    return float(np.mean([next(iter(made[row].values())) for row in grades]))


def library_text(name: str, targets: Encoded, predictions: Encoded) -> float:
    """The score of texts by the library alone, or word by word."""
    said = [one for (one,) in predictions]
    if name == "exact_match":
        plain = [[re.sub(r"[^\w\s]", "", text.lower()) for text in row] for row in targets]
        return float(np.mean([re.sub(r"[^\w\s]", "", s.lower()) in row for s, row in zip(said, plain, strict=True)]))
    if name == "token_f1":
        return float(np.mean([max(f1(text, s) for text in row) for s, row in zip(said, targets, strict=True)]))
    if name == "rouge_l":
        scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
        found = [scorer.score_multi(row, s)["rougeL"].fmeasure for s, row in zip(said, targets, strict=True)]
        return float(np.mean(found))
    streams = list(itertools.zip_longest(*targets))
    return {"bleu": sacrebleu.corpus_bleu, "chrf": sacrebleu.corpus_chrf}[name](said, streams).score / 100


def f1(accepted: str, said: str) -> float:
    """As SQuAD defines it, written out."""
    plain = (re.sub(r"[^\w\s]", "", text.lower()).split() for text in (accepted, said))
    wanted, given = ([word for word in words if word not in ("a", "an", "the")] for words in plain)
    shared = sum(min(wanted.count(word), given.count(word)) for word in set(wanted))
    return 2 * shared / (len(wanted) + len(given)) if shared else 0.0


def draw(rows: Encoded, times: Any) -> Encoded:
    """Each row as often as it was drawn."""
    index = np.repeat(np.arange(len(times)), times)
    return rows[index] if isinstance(rows, np.ndarray) else [rows[i] for i in index]


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_score_and_resampler_equal_the_library_on_all_rows_and_on_resamples(name: str, kind: str) -> None:
    definition = define(kind, name)
    for seed in range(3):
        targets, predictions = make(kind, seed)
        predictions = answers(name, kind, predictions, seed)
        rules = metric(name)
        expected = library(name, kind, targets, predictions, definition)
        assert_allclose(rules.score(targets, predictions, definition), expected, rtol=1e-12)
        times = np.random.default_rng(seed).multinomial(60, [1 / 60] * 60, size=5)
        weights = np.vstack([np.ones((1, 60)), times]).astype(float)
        found = rules.resampler(targets, predictions, definition)(weights)
        drawn = [library(name, kind, draw(targets, t), draw(predictions, t), definition) for t in times]
        assert_allclose(found, [expected, *drawn], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_perfect_answers_have_the_best_score_and_order_of_rows_is_irrelevant(name: str, kind: str) -> None:
    definition, (targets, predictions) = define(kind, name), make(kind, 7)
    predictions, rules = answers(name, kind, predictions, 7), metric(name)
    right = targets if not needs_scores(name) or kind == "multilabel" else np.eye(4)[targets]
    right = [row[-1:] for row in targets] if kind == "text" else right
    if kind == "retrieval":
        right = [tuple(sorted(row, key=lambda one, own=row: -own[one])) for row in targets]
    assert rules.score(targets, right, definition) == pytest.approx(1.0 if better(name) == "higher" else 0.0)
    turned = rules.score(targets[::-1], predictions[::-1], definition)
    assert turned == pytest.approx(rules.score(targets, predictions, definition))


@pytest.mark.parametrize("name", ["pearson", "spearman", "mcc"])
def test_constant_answers_correlate_with_nothing(name: str) -> None:
    kind = "classification" if name == "mcc" else "regression"
    targets, _ = make(kind, 1)
    constant = np.full_like(targets, targets[0])
    for first, second in ((targets, constant), (constant, targets), (constant, constant)):
        assert metric(name).score(first, second, define(kind, name)) == 0.0
        assert metric(name).resampler(first, second, define(kind, name))(np.ones((2, 60))).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_a_resample_of_equal_answers_is_no_correlation(name: str) -> None:
    targets, predictions = np.array([0.1, 0.2, 0.7]), np.array([0.3, 0.3, 0.9])
    weights = np.array([[2.0, 1.0, 0.0], [3.0, 0.0, 0.0]])
    assert metric(name).resampler(targets, predictions, define("regression", name))(weights).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("name", "worst"), [("pearson", 0.0), ("spearman", 0.0), ("rmse", 1e100)])
def test_answers_that_are_not_finite_have_a_finite_score(name: str, worst: float) -> None:
    targets, predictions = np.array([0.0, 1.0, 2.0]), np.array([np.nan, np.inf, -np.inf])
    definition = define("regression", name)
    assert metric(name).score(targets, predictions, definition) == pytest.approx(worst)
    assert_allclose(metric(name).resampler(targets, predictions, definition)(np.ones((1, 3))), [worst])


def test_pinned_by_hand() -> None:
    labels = define("classification", "macro_f1", 3)
    # label a: 1 right, 1 missed: 2/3; label b: 1 right, 1 wrong: 2/3; label c never occurs: left out.
    assert metric("macro_f1").score(np.array([0, 0, 1]), np.array([0, 1, 1]), labels) == pytest.approx(2 / 3)
    # 2 x 2: (3 * 2 - 1 * 1) / sqrt(4 * 4 * 3 * 3) with 3 true positives, 2 true negatives.
    targets, answers = np.array([1, 1, 1, 1, 0, 0, 0]), np.array([1, 1, 1, 0, 1, 0, 0])
    assert metric("mcc").score(targets, answers, define("classification", "mcc", 2)) == pytest.approx(5 / 12)
    # Errors 1 and 2, in units of 2.5: 2.5 * sqrt(5 / 2).
    errors = np.array([0.0, 0.0]), np.array([1.0, -2.0])
    assert metric("rmse").score(*errors, define("regression", "rmse")) == pytest.approx(2.5 * np.sqrt(2.5))
    # An I- that begins nothing is no span: 1 right, 0 wrong, 1 missed.
    spans = [[1, 3, 0, 1]], [[1, 3, 0, 3]]
    assert metric("span_f1").score(*spans, define("token_classification", "span_f1")) == pytest.approx(2 / 3)
    # A set of labels is right as a whole.
    sets = np.array([[1, 0], [1, 1]], dtype=np.int8), np.array([[1, 0], [1, 0]], dtype=np.int8)
    assert metric("accuracy").score(*sets, define("multilabel", "accuracy", 2)) == 0.5


def test_scores_pinned_by_hand() -> None:
    two = define("classification", "auroc", 2)
    scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.2, 0.8]])
    targets = np.array([0, 0, 1, 1])
    # Of four pairs three are in order and one is a tie.
    assert metric("auroc").score(targets, scores, two) == pytest.approx(3.5 / 4)
    # The second label: at 0.8 one of one, at 0.4 two of three; the first one: at 0.9 one of one, at 0.6 two of three.
    assert metric("average_precision").score(targets, scores, two) == pytest.approx((1 + 2 / 3) / 2)
    assert metric("average_precision:label=a").score(targets, scores, two) == pytest.approx((1 + 2 / 3) / 2)
    assert metric("log_loss").score(targets[1:3], scores[1:3], two) == pytest.approx(-np.log(0.6 * 0.4) / 2)
    assert metric("top_k_accuracy:k=1").score(np.array([0, 1]), np.array([[0.5, 0.5]] * 2), two) == 0.5
    # A certain answer that is wrong counts 36, not infinity.
    assert metric("log_loss").score(targets[:1], np.array([[0.0, 1.0]]), two) == pytest.approx(36.0437, abs=1e-4)
    # One of three is off by one step: 1/3. The nine pairs of a target and an answer are off by 1 in the mean square.
    scale = define("ordinal", "quadratic_kappa", 3)
    assert metric("quadratic_kappa").score(np.array([0, 1, 2]), np.array([0, 1, 1]), scale) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("name", "accepted", "said", "score"),
    [
        ("exact_match", ("the U.S.A.",), " The usa", 1.0),
        ("exact_match", ("the U.S.A.",), "usa", 0.0),
        ("exact_match:articles=false", ("the U.S.A.",), "a USA", 1.0),
        ("exact_match", ("+",), "-", 0.0),  # not both empty
        ("exact_match", ("1000",), "1,000.0", 0.0),
        ("exact_match:numbers=true", ("2", "1000"), "$1,000.00", 1.0),
        ("exact_match:numbers=true", ("-.5",), "-50%", 0.0),
        ("exact_match:numbers=true", ("1000",), "1000 apples", 0.0),
        ("exact_match:numbers=true", ("No number.",), "no number", 1.0),
        ("token_f1", ("the red car", "a bus"), "car, red", 1.0),
        ("token_f1:articles=true", ("the red car", "a bus"), "car, red", 0.8),  # 2 of 3 and 2 of 2 words
        ("token_f1", ("?",), "!", 0.0),
        ("rouge_l:stemmer=false", ("the cats sat",), "the cat sat", 2 / 3),
        ("rouge_l", ("the cats sat",), "", 0.0),
        ("bleu", ("four words stand here",), "four words", 0.0),
        ("chrf:word_order=2", ("the cat",), "the cat", 1.0),
    ],
)
def test_texts_pinned_by_hand(name: str, accepted: tuple[str, ...], said: str, score: float) -> None:
    definition = define("text", name)
    check(definition)
    assert metric(name).score([accepted], [(said,)], definition) == pytest.approx(score)
    assert row_scores(definition, [accepted] * 2, [(said,)] * 2) == pytest.approx([score] * 2)


def test_what_is_extracted_is_compared_on_both_sides() -> None:
    definition = replace(define("text", "exact_match:numbers=true"), prompt=Prompt(extract="#### (.*)"))
    targets = [("7 + 5 = 12\n#### 12",), ("#### 3",), ("#### 4",)]
    predictions = [("so 13 - 1\n#### 12.0",), ("3",), ("four, so #### 5",)]
    assert score_of(definition, targets, predictions) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("name", "kind", "targets", "answers", "score"),
    [
        ("auroc", "classification", [1, 1], [[0.5, 0.5]] * 2, 0.5),
        ("auroc", "multilabel", [[0, 0]] * 2, [[0.5, 0.5]] * 2, 0.5),
        ("average_precision", "multilabel", [[0, 0]] * 2, [[0.5, 0.5]] * 2, 0.0),
        ("weighted_f1", "multilabel", [[0, 0]] * 2, [[0, 0]] * 2, 0.0),
        ("f1:label=a", "classification", [1, 1], [1, 1], 0.0),
        ("kappa", "classification", [1, 1], [1, 1], 0.0),
        ("quadratic_kappa", "ordinal", [1, 1], [1, 1], 0.0),
        ("balanced_accuracy", "classification", [1, 1], [0, 1], 0.5),
        ("r2", "regression", [2.0, 2.0], [2.0, 3.0], 0.0),
        ("r2", "regression", [2.0, 2.0], [2.0, 2.0], 1.0),
    ],
)
def test_where_a_formula_is_undefined(name: str, kind: str, targets: Any, answers: Any, score: float) -> None:
    dtype = None if kind == "regression" or needs_scores(name) else np.int64
    given = np.array(targets), np.array(answers, dtype=dtype), define(kind, name, 2)
    assert metric(name).score(*given) == score
    assert_allclose(metric(name).resampler(*given)(np.array([[1.0, 1.0], [1.0, 1.0]])), [score, score], atol=1e-12)


def test_parameters_of_metrics_are_checked_before_anything_is_scored() -> None:
    for name, labels, words in (
        ("f1", 3, "that is the F1 of one label, and the task has 3"),
        ("f1:label=z", 3, "it has no label 'z'"),
        ("auroc:lable=a", 3, "did you mean 'label'"),
        ("top_k_accuracy:k=3", 3, "the task has 3 labels, and 3 of them are looked at"),
    ):
        with pytest.raises(AllroundError, match=words):
            check(define("classification", name, labels))
    with pytest.raises(AllroundError, match="there is no tokenizer 'zz'"):
        check(define("text", "bleu:tokenize=zz"))
    with pytest.raises(AllroundError, match="word_order is from 0 to 4"):
        check(define("text", "chrf:word_order=9"))
    check(define("classification", "f1", 2))
    with pytest.raises(AllroundError, match="it judges the probabilities of the labels, and the system gives none"):
        score_of(define("classification", "auroc", 2), np.array([0, 1]), np.array([0, 1]))
    named = Definition("t", "classification", ("x",), "text", "f1:label=yes", ("1", "yes"))  # as text, not as true
    assert score_of(named, np.array([0, 1]), np.array([0, 1])) == 1.0


def test_nothing_to_find_and_nothing_said() -> None:
    empty = np.zeros((3, 4), dtype=np.int8)
    assert metric("macro_f1").score(empty, empty, define("multilabel", "macro_f1")) == 0.0
    assert metric("macro_f1").resampler(empty, empty, define("multilabel", "macro_f1"))(np.ones((1, 3))) == [0.0]
    outside = [np.zeros(3, dtype=np.int64)]
    spans = define("token_classification", "span_f1")
    assert metric("span_f1").score(outside, outside, spans) == 0.0
    assert metric("span_f1").resampler(outside, outside, spans)(np.ones((1, 1))) == [0.0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.integers(0, 4)), min_size=1, max_size=12))
def test_spearman_of_any_weights_is_that_of_the_repeated_rows(rows: list[tuple[int, int, int]]) -> None:
    x, y, times = (np.array(column) for column in zip(*rows, strict=True))
    if times.sum() == 0:
        return
    x, y, definition = x.astype(float), y.astype(float), define("regression", "spearman")
    found = metric("spearman").resampler(x, y, definition)(times[None].astype(float))[0]
    expected = metric("spearman").score(np.repeat(x, times), np.repeat(y, times), definition)
    assert found == pytest.approx(expected, abs=1e-12)


def test_check_names_metrics_that_fit_and_tags_that_do_not() -> None:
    with pytest.raises(AllroundError, match="use one of: mae, pearson, r2, rmse, spearman"):
        check(define("regression", "accuracy"))
    plain = Definition("pos", "token_classification", ("x",), "text", "span_f1", ("O", "NOUN", "VERB"))
    with pytest.raises(AllroundError, match="not IOB2: 'NOUN', 'VERB'"):
        check(plain)
    with pytest.raises(AllroundError, match="did you mean 'accuracy'"):
        check(define("classification", "acuracy"))
    for name, kind in PAIRS:
        check(define(kind, name))


@pytest.mark.parametrize(
    ("name", "package"), [("rouge_l", "rouge-score"), ("bleu", "sacrebleu"), ("chrf", "sacrebleu")]
)
def test_a_library_that_is_missing_is_named_before_anything_is_scored(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allround.tasks.metrics._texts.find_spec", lambda name: None)
    with pytest.raises(AllroundError, match=f"the package {package} is not installed") as caught:
        check(define("text", name))
    assert caught.value.do == "pip install 'allround[lm]'"
