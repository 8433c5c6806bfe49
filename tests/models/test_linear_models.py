"""Linear baselines: the answers of scikit-learn's own models, what rows are read as, and folders that are damaged."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from allround.core.errors import AllroundError
from allround.models.plain.columns import Columns
from allround.models.plain.fit import fit_linear
from allround.models.plain.pixels import Pixels
from allround.models.plain.texts import Texts, character_terms, word_terms
from allround.models.plain.vocabulary import Tfidf, Vocabulary
from allround.models.plain.words import Words, terms_of
from allround.models.system import load
from allround.models.systems.linear_models import FILE, LinearModels
from allround.tasks.definition import Definition
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import Task


def table_rows(count: int, seed: int) -> list[dict[str, Any]]:
    draw, rows = random.Random(seed), []
    for _ in range(count):
        a, shop, day = draw.gauss(3, 2), draw.choice(("north", "south")), draw.randrange(1, 29)
        rows.append(
            {
                "a": None if draw.random() < 0.2 else a,
                "shop": shop,
                "day": f"2024-02-{day:02d}",
                "two": "yes" if a + 2 * (shop == "north") + draw.gauss(0, 1) > 4 else "no",
                "number": 2 * a - (shop == "south") + day / 5,
                "many": [name for name, on in (("p", a > 3), ("q", shop == "north")) if on],
            }
        )
    return rows


DATA = {"train": table_rows(120, 0), "validation": table_rows(40, 1), "test": table_rows(30, 2)}
KINDS = {"two": "classification", "number": "regression", "many": "multilabel"}


def task_of(target: str, **more: Any) -> Task:
    data = more.pop("data", DATA)
    return make_task(target, kind=KINDS[target], inputs=["a", "shop", "day"], target=target, data=data, **more)


@pytest.fixture(scope="module")
def tables() -> LinearModels:
    return LinearModels({name: fit_linear(task_of(name))[0] for name in KINDS})


# What scikit-learn says.


def by_hand(split: str) -> np.ndarray:
    """The columns: a standardised, whether it is missing, the two shops; of the day in February 2024, which began on a
    Thursday, the days, year, month, day, weekday and hour, standardised, and whether it is missing."""

    def day(row: dict[str, Any]) -> float:
        return float(row["day"][-2:])

    def weekday(row: dict[str, Any]) -> float:
        return float((int(row["day"][-2:]) + 2) % 7)

    train = DATA["train"]
    known = np.array([row["a"] for row in train if row["a"] is not None])
    days, weekdays = (np.array([part(row) for row in train]) for part in (day, weekday))
    return np.array(
        [
            [
                0.0 if row["a"] is None else (row["a"] - known.mean()) / known.std(),
                float(row["a"] is None),
                float(row["shop"] == "north"),
                float(row["shop"] == "south"),
                (day(row) - days.mean()) / days.std(),
                0.0,
                0.0,
                (day(row) - days.mean()) / days.std(),
                (weekday(row) - weekdays.mean()) / weekdays.std(),
                0.0,
                0.0,
            ]
            for row in DATA[split]
        ]
    )


def test_columns_are_standardised_and_marked() -> None:
    task = task_of("two")
    reader = Columns.of(task.splits["train"].inputs, task.definition)
    np.testing.assert_allclose(reader.numbers(task.splits["test"].inputs), by_hand("test"), atol=1e-3)
    far = reader.numbers([(1e300, "moon", "soon"), ("", None, None)])
    assert far.tolist() == [[20, 0, 0, 0, *[0] * 6, 1], [0, 1, 0, 0, *[0] * 6, 1]]


def test_labels_and_numbers_are_as_scikit_learn_gives_them(tables: LinearModels) -> None:
    for name, make in (("two", lambda c: LogisticRegression(C=c, tol=1e-6)), ("number", lambda c: Ridge(alpha=1 / c))):
        task = task_of(name)
        made, tried = fit_linear(task)
        best = float(max(tried, key=tried.__getitem__))
        model = make(best).fit(by_hand("train"), task.splits["train"].targets)
        answers = tables.answers(name, task.splits["test"].inputs, scores=True)
        if name == "two":
            np.testing.assert_allclose(answers.scores, model.predict_proba(by_hand("test")), atol=5e-3)
        else:
            np.testing.assert_allclose(answers.predictions, model.predict(by_hand("test")), atol=1e-3)
        assert made.weight.shape == (1, 11) and len(set(tried.values())) > 1


def test_each_label_of_several_has_a_model_of_its_own(tables: LinearModels) -> None:
    task = task_of("many")
    scores = np.asarray(tables.answers("many", task.splits["test"].inputs, scores=True).scores)
    targets = np.asarray(task.splits["train"].targets)
    found = [
        LogisticRegression(C=c, tol=1e-6).fit(by_hand("train"), targets[:, 0]).predict_proba(by_hand("test"))[:, 1]
        for c in (0.01, 0.1, 1.0, 10.0)
    ]
    assert min(np.abs(one - scores[:, 0]).max() for one in found) < 2e-2
    # A label that every training row has, and one that none has.
    always = np.stack([np.ones(120), np.zeros(120)], 1).astype(np.int8)
    fixed = Task(task.definition, {**task.splits, "train": type(task.splits["train"])(
        task.splits["train"].inputs, always)})  # fmt: skip
    made, _ = fit_linear(fixed)
    assert np.asarray(made.answer(task.splits["test"].inputs).predictions).tolist() == [[1, 0]] * 30


def test_a_label_that_all_training_rows_have_is_answered_for_sure() -> None:
    task = task_of("two")
    train = task.splits["train"]
    same = Task(task.definition, {**task.splits, "train": type(train)(train.inputs, np.ones(len(train), np.int64))})
    made, _ = fit_linear(same)
    assert made.weight.shape == (0, 11) and made.classes == (1,)
    found = made.answer(task.splits["test"].inputs)
    assert set(found.predictions) == {1} and set(found.confidence or []) == {1.0}


# Texts.


def test_terms_weigh_as_scikit_learn_has_it() -> None:
    texts = ["A cat, a dog.", "a cat sat", "the dog sat", "the cat"]
    made = Tfidf.of([word_terms(text) for text in texts])
    sklearn = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit(texts)
    assert list(made.vocabulary.terms) == sorted(sklearn.vocabulary_)
    new = ["the cat sat on the cat", "nothing known"]
    expected = sklearn.transform(new).toarray()
    found = made.numbers([word_terms(text) for text in new]).toarray()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[1].tolist() == [0.0] * len(made.idf)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), min_df=2, sublinear_tf=True).fit(texts)
    mine = Tfidf.of([character_terms(text) for text in texts])
    assert list(mine.vocabulary.terms) == sorted(characters.vocabulary_)
    np.testing.assert_allclose(
        mine.numbers([character_terms(text) for text in texts]).toarray(), characters.transform(texts).toarray(),
        rtol=1e-5, atol=1e-7,
    )  # fmt: skip


def test_a_pair_is_read_as_both_texts_and_what_they_share() -> None:
    definition = Definition("t", "regression", ("one", "two"), "text", "pearson")
    rows: list[Any] = [("a cat", "a dog"), ("a cat", "a cat"), ("dogs", "cats run"), ("a dog", "the dog")]
    reader = Texts.of(rows, definition)
    found = reader.numbers(rows).toarray()
    words, characters = len(reader.words_of.idf), len(reader.characters.idf)
    assert found.shape == (4, reader.width) and reader.width == 4 * words + 2 * characters + 6
    one, two = found[:, :words], found[:, words : 2 * words]
    start = 2 * words + 2 * characters
    np.testing.assert_allclose(found[:, start : start + words], abs(one - two), atol=1e-7)
    np.testing.assert_allclose(found[:, start + words : start + 2 * words], one * two, atol=1e-7)
    shared = found[:, -6:] * reader.scale + reader.centre
    # Of "a cat" and "a dog": three terms each, of which "a" is shared.
    np.testing.assert_allclose(shared[0, :4], [1 / 5, 1 / 3, 1 / 3, 0], atol=1e-6)
    np.testing.assert_allclose(shared[1], [1, 1, 1, 0, 1, 1], atol=1e-6)
    np.testing.assert_allclose(found[:, -6:].mean(0), 0, atol=1e-6)


def test_a_pair_of_which_only_the_likeness_counts_is_told_apart() -> None:
    draw = random.Random(0)

    def rows(count: int) -> list[dict[str, str]]:
        made = []
        for _ in range(count):
            one, other = draw.sample(["stone", "brook", "field", "hill", "lake", "wood", "moor"], 2)
            same = draw.random() < 0.5
            made.append({"a": f"the {one}", "b": f"the {one if same else other}", "y": "same" if same else "other"})
        return made

    data = {"train": rows(80), "validation": rows(30), "test": rows(30)}
    task = make_task("pair", kind="classification", inputs=["a", "b"], target="y", data=data)
    made, tried = fit_linear(task)
    assert max(tried.values()) == 1.0
    assert np.array_equal(made.answer(task.splits["test"].inputs).predictions, task.splits["test"].targets)


def test_words_are_read_with_what_stands_beside_them() -> None:
    assert set(terms_of(["Dr.", "Ada", "B2"])[1]) == {
        "0=ada", "-1=dr.", "1=b2", "-2=", "2=", "shape=Xx", "^a", "a$", "^ad", "da$", "^ada", "ada$"
    }  # fmt: skip
    reader = Words.of([(["so", "so"],), (["so", "it"],)], Definition("t", "token_classification", ("w",), "text", "f1"))
    found = reader.numbers([(["so"],), ([],), (["it", "so"],)])
    assert found.shape == (3, reader.width), "a row for each word"


def test_texts_without_any_word_are_read() -> None:
    reader = Texts.of([("",), ("  ",)], Definition("t", "regression", ("x",), "text", "rmse"))
    assert reader.numbers([("cat",), ("",)]).toarray().tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert Vocabulary.of([]).terms == ("",)


def test_images_are_read_as_pixels(digits_suite: Suite) -> None:
    import PIL.Image

    task = digits_suite.tasks["digit"]
    rows = task.splits["train"].inputs
    reader = Pixels.of(rows, task.definition)
    assert (reader.size, reader.grey, reader.width) == (8, True, 64)
    arrays = np.stack([np.asarray(image, np.float32).ravel() / 255 for (image,) in rows])
    expected = (arrays - arrays.mean(0)) / arrays.std()
    np.testing.assert_allclose(reader.numbers(rows), expected, atol=1e-5)
    large = Pixels.of([(PIL.Image.new("RGB", (100, 40), (255, 0, 0)),)], task.definition)
    assert (large.size, large.grey, large.width) == (32, False, 3 * 32 * 32)


# Saved folders.


@pytest.fixture(scope="module")
def saved(
    tables: LinearModels, text_suite: Suite, digits_suite: Suite, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    tasks = {n: text_suite.tasks[n] for n in ("mood", "alike", "names")} | {"digit": digits_suite.tasks["digit"]}
    made = LinearModels({name: fit_linear(task)[0] for name, task in tasks.items()})
    folder = tmp_path_factory.mktemp("saved") / "linear"
    LinearModels.joined([tables, made]).save(folder)
    return folder


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda tensors: tensors.update({name: change(tensors[name])})


def terms(*words: object) -> Callable[[np.ndarray], np.ndarray]:
    return lambda _: np.frombuffer(json.dumps(words).encode(), np.uint8)


HARM: dict[str, Callable[[dict[str, np.ndarray]], object]] = {
    "a weight is NaN": changed("two.weight", lambda a: a * np.nan),
    "weights of another type": changed("two.weight", lambda a: a.astype(np.float64)),
    "a column less": changed("two.weight", lambda a: a[:, :-1]),
    "an output more": changed("two.weight", lambda a: np.concatenate([a, a])),
    "a bias less": changed("number.bias", lambda a: a[:0]),
    "no bias": lambda t: t.pop("number.bias"),
    "no scale": lambda t: t.pop("two.reader_scale"),
    "a scale of 0": changed("two.reader_scale", lambda a: 0 * a),
    "a centre in two dimensions": changed("two.reader_centre", lambda a: a[None]),
    "a tensor more": lambda t: t.update({"two.more": t["two.bias"]}),
    "a tensor of the reader more": lambda t: t.update({"two.reader_more": t["two.bias"]}),
    "a tensor of no task": lambda t: t.update({"five.weight": t["two.weight"]}),
    "terms that are not JSON": changed("mood.reader_words", lambda a: a[:-1]),
    "terms that are not UTF-8": changed("mood.reader_words", lambda a: a | 128),
    "terms that are numbers": changed("mood.reader_words", terms(1, 2)),
    "a term twice": changed("mood.reader_words", terms("a", "a")),
    "terms of another type": changed("mood.reader_words", lambda a: a.astype(np.int64)),
    "a weight of a term less": changed("mood.reader_word_idf", lambda a: a[:-1]),
    "pixels of another size": changed("digit.reader_centre", lambda a: a[:-1]),
}

LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no models": lambda m: m.pop("linear"),
    "a list": lambda m: m.update(linear=["two"]),
    "a task less": lambda m: m["linear"].pop("two"),
    "a class twice": lambda m: m["linear"]["two"].update(classes=[1, 1]),
    "a class that is not there": lambda m: m["linear"]["two"].update(classes=[0, 2]),
    "no classes": lambda m: m["linear"]["two"].update(classes=[]),
    "classes of a number": lambda m: m["linear"]["number"].update(classes=[0]),
    "a column less": lambda m: m["linear"]["two"]["reader"]["columns"].pop(),
    "a column of no sort": lambda m: m["linear"]["two"]["reader"]["columns"][0].update(sort="picture"),
    "no columns": lambda m: m["linear"]["two"].update(reader={}),
    "more of the reader": lambda m: m["linear"]["two"]["reader"].update(more=1),
    "more of texts": lambda m: m["linear"]["mood"]["reader"].update(more=1),
    "pixels without end": lambda m: m["linear"]["digit"]["reader"].update(size=10**9),
    "a size that is a text": lambda m: m["linear"]["digit"]["reader"].update(size="8"),
    "a task on sounds": lambda m: [t.update(modality="sound") for t in m["tasks"] if t["name"] == "two"],
    "a task of another kind": lambda m: [t.update(kind="regression") for t in m["tasks"] if t["name"] == "two"],
}


@pytest.mark.parametrize("harm", [*HARM, *LIES])
def test_what_is_damaged_is_refused(harm: str, saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    for path in saved.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    load(folder)
    if harm in HARM:
        tensors = {name: array.copy() for name, array in load_file(folder / FILE).items()}
        HARM[harm](tensors)
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, folder / FILE)
    else:
        manifest = json.loads((folder / "allround.json").read_text())
        LIES[harm](manifest)
        (folder / "allround.json").write_text(json.dumps(manifest))
    with pytest.raises(AllroundError) as caught:
        load(folder)
    assert caught.value.do
    if harm in HARM:
        assert "they are damaged" in caught.value.found


def test_a_task_that_cannot_be_read_is_refused() -> None:
    task = task_of("two")
    odd = Task(Definition("two", "classification", task.definition.inputs, "sound", "accuracy", ("no", "yes")),
               task.splits)  # fmt: skip
    with pytest.raises(AllroundError, match="fit a linear model for task 'two'"):
        fit_linear(odd)
