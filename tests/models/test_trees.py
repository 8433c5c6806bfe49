"""Boosted trees: the answers of scikit-learn's own models, columns of all sorts, and folders that are damaged."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from allround.core.errors import AllroundError
from allround.core.files import hash_file
from allround.models import boosting
from allround.models.boosting import TaskTrees, fit_trees
from allround.models.forest import Forest
from allround.models.system import load
from allround.models.systems.trees import FILE, Trees
from allround.models.table_columns import CATEGORIES, Column, column_of, order_of, table_of
from allround.tasks.column_types import ColumnType
from allround.tasks.kind import kind
from allround.tasks.make import make_task
from allround.tasks.metric import better, metric
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.tasks.values import Row

INPUTS = ("a", "shop", "day", "b")
SHOPS = ("north", "east", "south", "west")


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boosting, "ROUNDS", 12)


def rows_of(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows with two numbers, a category and a date, some of them missing, and targets of all kinds."""
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        a, b, shop, day = draw.uniform(-1, 1), draw.gauss(0, 3), draw.choice(SHOPS), draw.randrange(1, 29)
        rows.append(
            {
                "a": None if draw.random() < 0.1 else a,
                "b": float("nan") if draw.random() < 0.1 else b,
                "shop": draw.choice([None, ""]) if draw.random() < 0.1 else shop,
                "day": None if draw.random() < 0.1 else f"2024-02-{day:02d}",
                "two": "yes" if (a > 0) != (shop in ("north", "south")) else "no",
                "three": "low" if b < -1 else "high" if b > 1 and day > 9 else "mid",
                "number": 5 * a + (day > 14) * 7 - (shop == "west") * 4,
                "many": [name for name, on in (("p", a > 0.2), ("q", shop == "east"), ("r", day < 5)) if on],
            }
        )
    return rows


def splits(train: int = 160, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    return {"train": rows_of(train, seed), "validation": rows_of(50, seed + 1), "test": rows_of(40, seed + 2)}


KINDS = {"two": "classification", "three": "classification", "number": "regression", "many": "multilabel"}


def task_of(target: str, data: Mapping[str, Any] | None = None, **more: Any) -> Task:
    inputs = more.pop("inputs", INPUTS)
    made = more.pop("kind", None) or KINDS[target]
    return make_task(target, kind=made, inputs=inputs, target=target, data=data or splits(), modality="table", **more)


# What scikit-learn says.


def encoded(rows: list[Row], train: list[Row]) -> np.ndarray:
    """Rows as numbers, found otherwise than in the package: the shop first, then a, the day, and b."""
    shops = sorted({str(row[1]) for row in train if row[1]})
    found = []
    for a, shop, day, b in rows:
        date = [np.nan] * 6
        if day:
            moment = pd.Timestamp(str(day))
            days = float((np.datetime64(str(day)) - np.datetime64("1970-01-01")).astype(int))
            date = [days, moment.year, moment.month, moment.day, moment.dayofweek, 0.0]
        number = float(shops.index(str(shop))) if shop in shops else np.nan
        found.append([number, np.nan if a is None else a, *date, np.nan if b is None else b])
    return np.array(found, dtype=float)


SKLEARN = [("large", 31, 20), ("small", 8, 5)]


def chosen(task: Task, y: np.ndarray, sort: Any, read: Callable[[Any, np.ndarray], Any]) -> Any:
    """The answers of scikit-learn to the test rows, with the settings and rounds that are best on validation.

    read: predictions of a model that was fitted with fewer rounds.
    """
    train, validation, test = (encoded(list(task.splits[s].inputs), list(task.splits["train"].inputs))
                               for s in ("train", "validation", "test"))  # fmt: skip
    sign = 1 if better(task.definition.metric) == "higher" else -1
    best: Any = None
    for _, leaves, least in SKLEARN:
        of_setting: Any = None
        for rounds in range(1, boosting.ROUNDS + 1):
            model = sort(max_iter=rounds, categorical_features=[0], early_stopping=False, random_state=0,
                         max_leaf_nodes=leaves, min_samples_leaf=least).fit(train, y)  # fmt: skip
            predictions, loss = read(model, validation)
            score = sign * metric(task.definition.metric).score(
                task.splits["validation"].targets, predictions, task.definition
            )
            if of_setting is None or (round(score, 12), -loss) > of_setting[0]:
                of_setting = (round(score, 12), -loss), model
        if best is None or of_setting[0][0] > best[0][0]:
            best = of_setting
    return best[1], test


@pytest.mark.parametrize("target", ["two", "three"])
def test_labels_are_as_scikit_learn_gives_them(target: str) -> None:
    task = task_of(target)
    y = np.asarray(task.splits["train"].targets)
    wanted = np.asarray(task.splits["validation"].targets)

    def read(model: Any, x: np.ndarray) -> tuple[np.ndarray, float]:
        shares = model.predict_proba(x)
        return shares.argmax(1), float(-np.log(shares[np.arange(len(x)), wanted]).mean())

    model, test = chosen(task, y, HistGradientBoostingClassifier, read)
    trees, tried = fit_trees(task)
    found = trees.answer(task.splits["test"].inputs)
    assert len(tried) == 2
    expected = model.predict_proba(test)
    np.testing.assert_allclose(np.asarray(found.scores), expected, rtol=1e-9, atol=1e-12)
    assert list(found.predictions) == list(model.predict(test))
    assert found.confidence == pytest.approx(expected.max(1).tolist())
    assert len({tuple(row) for row in expected}) > 5, "there is something to compare"


def test_numbers_are_as_scikit_learn_gives_them() -> None:
    task = task_of("number")
    wanted = np.asarray(task.splits["validation"].targets)

    def read(model: Any, x: np.ndarray) -> tuple[np.ndarray, float]:
        said = model.predict(x)
        return said, float(np.mean((said - wanted) ** 2))

    model, test = chosen(task, np.asarray(task.splits["train"].targets), HistGradientBoostingRegressor, read)
    trees, _ = fit_trees(task)
    found = trees.answer(task.splits["test"].inputs)
    np.testing.assert_allclose(found.predictions, model.predict(test), rtol=1e-9, atol=1e-12)
    assert found.scores is None and found.confidence is None
    definition = task.definition
    readable = Trees({"number": trees}).predict("number", list(task.splits["test"].inputs))
    assert readable == pytest.approx((model.predict(test) * definition.scale + definition.center).tolist())


def test_each_label_of_several_has_trees_of_its_own() -> None:
    task = task_of("many")
    trees, _ = fit_trees(task)
    assert len(trees.forests) == 3 and len({len(f.roots) for f in trees.forests if f is not None}) == 1
    x = encoded(list(task.splits["train"].inputs), list(task.splits["train"].inputs))
    test = encoded(list(task.splits["test"].inputs), list(task.splits["train"].inputs))
    found = np.asarray(trees.answer(task.splits["test"].inputs).scores)
    for label in range(3):
        forest = trees.forests[label]
        assert forest is not None
        matching = []
        for _, leaves, least in SKLEARN:
            model = HistGradientBoostingClassifier(
                max_iter=len(forest.roots), categorical_features=[0], early_stopping=False, random_state=0,
                max_leaf_nodes=leaves, min_samples_leaf=least,
            ).fit(x, np.asarray(task.splits["train"].targets)[:, label])  # fmt: skip
            matching.append(np.allclose(model.predict_proba(test)[:, 1], found[:, label], rtol=1e-9, atol=1e-12))
        assert any(matching), "one of the settings"
    answers = trees.answer(task.splits["test"].inputs)
    assert np.array_equal(answers.predictions, (found > 0.5).astype(np.int8))
    assert answers.confidence == pytest.approx(np.maximum(found, 1 - found).prod(1).tolist())


def walk(forest: Forest, row: np.ndarray) -> list[float]:
    """The sums for one row, node by node."""
    sums = [float(number) for number in forest.base]
    for number, root in enumerate(forest.roots):
        node = int(root)
        while forest.left[node] != node:
            value, group = row[forest.feature[node]], int(forest.group[node])
            if np.isnan(value):
                left = bool(forest.missing[node])
            elif group >= 0:
                left = bool(forest.sets[group][int(value)])
            else:
                left = bool(value <= forest.threshold[node])
            node = int(forest.left[node] if left else forest.right[node])
        sums[number % len(sums)] += float(forest.value[node])
    return sums


@pytest.mark.parametrize("target", ["two", "three", "number"])
def test_sums_are_those_of_a_walk_down_each_tree(target: str) -> None:
    trees, _ = fit_trees(task_of(target))
    (forest,) = trees.forests
    assert forest is not None
    x = trees.table(list(task_of(target).splits["test"].inputs))
    assert np.isnan(x).any() and (forest.group >= 0).any()
    np.testing.assert_allclose(forest.outputs(x), [walk(forest, row) for row in x], rtol=1e-12)
    after = forest.rounds(x)
    for number in range(1, len(after)):
        np.testing.assert_array_equal(forest.first(number).outputs(x), after[number])


def test_many_rows_pass_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that memory does not grow with trees times rows."""
    trees, _ = fit_trees(task_of("three"))
    (found,) = trees.forests
    assert found is not None
    x = trees.table(list(task_of("three").splits["test"].inputs))
    whole = found.trees(x)
    seen: list[int] = []
    inner = Forest._trees

    def few(self: Forest, x: np.ndarray) -> np.ndarray:
        seen.append(len(x))
        return inner(self, x)

    monkeypatch.setattr(Forest, "_trees", few)
    monkeypatch.setattr("allround.models.forest.BLOCK", 7 * len(found.roots))
    assert np.array_equal(found.trees(x), whole) and seen == [7] * 5 + [5]
    assert found.trees(x[:0]).shape == (len(found.roots), 0)


# Columns.


def test_columns_are_read_as_what_they_hold() -> None:
    assert column_of([1, 2.5, None, float("nan")]) == Column("number")
    assert column_of(["b", "a", "", None, "b"]) == Column("category", ("a", "b"))
    assert column_of(["2024-01-01", "", None]) == Column("moment")
    assert column_of(["2024-01-01"], ColumnType("category")).categories == ("2024-01-01",)
    assert column_of(["2024-01-01", None], ColumnType("date")) == Column("moment")
    assert column_of(["2024-01-01", "soon"]).sort == "category"
    assert column_of([True, False]).categories == ("False", "True")
    assert column_of([None, "", float("nan")]) == Column("number"), "always missing"


def test_what_stands_for_a_value() -> None:
    number, date, shop = Column("number"), Column("moment"), Column("category", ("a", "b"))
    old = Column("date")  # of earlier versions
    assert old.number("1970-01-01T06:00:00") == 0.25 and old.width == 1
    assert table_of([(2.5, "1970-01-11T06:00")], [number, date], order_of([number, date])).tolist() == [
        [2.5, 10.25, 1970, 1, 11, 6, 6]
    ]
    assert number.number(3) == 3.0 and number.number("2.5") == 2.5 and number.number(True) == 1.0
    assert date.number("1970-01-11") == 10.0 and shop.number("b") == 1.0
    missing: list[tuple[Column, Any]] = [
        (number, "x"),
        (number, 10**400),
        (date, "soon"),
        (date, 3.0),
        (shop, "c"),
        (shop, 7.0),
    ]
    missing += [(column, value) for column in (number, date, shop) for value in (None, "", float("nan"))]
    for column, value in missing:
        assert np.isnan(column.number(value)), (column.sort, value)
        table = table_of([(value,)], [column], (0,) * column.width)
        assert np.isnan(table).all(), "and as much in a table"


def test_a_missing_value_is_missing_however_it_is_written() -> None:
    trees, _ = fit_trees(task_of("two"))
    system = Trees({"two": trees})
    rows: list[Row] = [(0.5, "north", "2024-02-03", 1.0), (-0.5, "west", "2024-02-20", -2.0)]
    for place in range(4):
        scores = []
        for value in (None, float("nan"), ""):
            changed = [(*row[:place], value, *row[place + 1 :]) for row in rows]
            scores.append(np.asarray(system.answers("two", changed, scores=True).scores))
        assert np.array_equal(scores[0], scores[1]) and np.array_equal(scores[0], scores[2])


def test_a_category_that_training_did_not_see_counts_as_missing() -> None:
    trees, _ = fit_trees(task_of("two"))
    unseen, missing, seen = trees.answer(
        [(0.5, "moon", "2024-02-03", 1.0), (0.5, None, "2024-02-03", 1.0), (0.5, "north", "2024-02-03", 1.0)]
    ).scores  # type: ignore[misc]
    assert np.array_equal(unseen, missing) and not np.array_equal(seen, missing)


def test_of_very_many_categories_the_commonest_are_kept() -> None:
    draw = random.Random(0)
    names = [f"c{n:03d}" for n in range(300)]
    rows = []
    for number, name in enumerate(names):
        rows += [{"shop": name, "n": draw.random(), "two": "yes" if number % 2 else "no"}] * (1 if number < 60 else 2)
    data = {"train": rows, "validation": rows[200:260], "test": rows[-60:]}
    task = task_of("two", data, inputs=["n", "shop"])
    trees, _ = fit_trees(task)
    kept = trees.columns[1].categories
    assert len(kept) == CATEGORIES and set(names[60:]) <= set(kept), "240 of two rows, and 14 of the rest by name"
    assert set(kept) - set(names[60:]) == set(names[:14])
    (forest,) = trees.forests
    assert forest is not None
    scores = np.asarray(trees.answer([(0.5, name) for name in (names[-1], names[59], None)]).scores)
    assert np.array_equal(scores[1], scores[2]), "a rare one counts as missing"
    x = trees.table([(0.5, name) for name in kept])
    assert x[:, 0].tolist() == list(range(CATEGORIES))
    np.testing.assert_allclose(forest.outputs(x), [walk(forest, row) for row in x], rtol=1e-12)


def test_a_column_that_is_always_missing_changes_nothing() -> None:
    data = splits()
    with_empty = {s: [{**row, "none": None} for row in rows] for s, rows in data.items()}
    plain, _ = fit_trees(task_of("two", data))
    more, _ = fit_trees(task_of("two", with_empty, inputs=[*INPUTS, "none"]))
    rows = list(task_of("two", data).splits["test"].inputs)
    expected = np.asarray(plain.answer(rows).scores)
    for value in (None, 3.0, "text"):
        found = more.answer([(*row, value) for row in rows])
        assert np.array_equal(np.asarray(found.scores), expected)


# Targets.


def test_a_constant_target_needs_no_trees(tmp_path: Path) -> None:
    task = task_of("number")
    train, test = task.splits["train"], list(task.splits["test"].inputs)
    same = dataclasses.replace(train, targets=np.full(len(train), 1.5))
    trees, _ = fit_trees(dataclasses.replace(task, splits={**task.splits, "train": same}))
    assert trees.forests == (None,) and trees.constant == (1.5,)
    system = Trees({"number": trees})
    expected = [1.5 * task.definition.scale + task.definition.center] * len(test)
    assert system.predict("number", test) == expected
    assert system.cost().parameters_stored == 1
    system.save(tmp_path / "one")
    assert load(tmp_path / "one").predict("number", test) == expected


def test_a_class_that_is_missing_from_the_training_rows_is_never_answered() -> None:
    task = task_of("three")
    train = task.splits["train"]
    places = [place for place, target in enumerate(train.targets) if target != 1]
    fewer = dataclasses.replace(task, splits={**task.splits, "train": train.take(places)})
    trees, _ = fit_trees(fewer)
    assert trees.classes == (0, 2)
    found = np.asarray(trees.answer(task.splits["test"].inputs).scores)
    assert found.shape == (40, 3) and (found[:, 1] == 0).all() and np.allclose(found.sum(1), 1)
    only = dataclasses.replace(task, splits={**task.splits, "train": train.take(list(places)[:1])})
    alone, _ = fit_trees(only)
    (one,) = alone.classes
    assert alone.forests == (None,)
    assert (alone.answer(task.splits["test"].inputs).predictions == one).all()


def test_a_label_that_no_training_row_has_is_never_answered() -> None:
    task = task_of("many")
    train = task.splits["train"]
    places = [place for place, target in enumerate(np.asarray(train.targets)) if not target[1]]
    fewer = dataclasses.replace(task, splits={**task.splits, "train": train.take(places)})
    trees, _ = fit_trees(fewer)
    assert [forest is None for forest in trees.forests] == [False, True, False]
    found = trees.answer(task.splits["test"].inputs)
    assert (np.asarray(found.scores)[:, 1] == 0).all() and not found.predictions[:, 1].any()


# What choices rest on.


def test_settings_and_rounds_are_chosen_on_validation_rows_alone() -> None:
    task = task_of("number")
    trees, tried = fit_trees(task)
    other_test = dataclasses.replace(task, splits={**task.splits, "test": task.splits["test"].take([0, 1])})
    again, also = fit_trees(other_test)
    assert tried == also and same_trees(trees, again)
    validation = task.splits["validation"]
    turned = dataclasses.replace(validation, targets=-np.asarray(validation.targets))
    against, worse = fit_trees(dataclasses.replace(task, splits={**task.splits, "validation": turned}))
    assert worse != tried and against.forests[0] is not None and trees.forests[0] is not None
    assert len(against.forests[0].roots) < len(trees.forests[0].roots)
    scorer = metric(task.definition.metric)
    score = scorer.score(validation.targets, trees.answer(validation.inputs).predictions, task.definition)
    assert score == pytest.approx(max(tried.values()))


def same_trees(one: TaskTrees, other: TaskTrees) -> bool:
    parts = [field.name for field in dataclasses.fields(Forest)]
    for first, second in zip(one.forests, other.forests, strict=True):
        if not all(np.array_equal(getattr(first, part), getattr(second, part)) for part in parts):
            return False
    return dataclasses.replace(one, forests=()) == dataclasses.replace(other, forests=())


@pytest.mark.parametrize("modality", ["digits_suite", "text_suite"])
def test_a_task_that_is_not_on_a_table_is_refused(modality: str, request: pytest.FixtureRequest) -> None:
    suite: Suite = request.getfixturevalue(modality)
    for name, task in suite.tasks.items():
        assert not boosting.can_boost(task.definition)
        with pytest.raises(AllroundError, match="and trees read tables") as caught:
            fit_trees(task)
        assert f"fit boosted trees for task '{name}'" in str(caught.value) and caught.value.do


# Systems of trees.


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    return {name: task_of(name) for name in KINDS}


@pytest.fixture(scope="module")
def system(tasks: dict[str, Task]) -> Trees:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boosting, "ROUNDS", 5)
        made = Trees({name: fit_trees(task)[0] for name, task in tasks.items()})
    made.facts = {"made_by": {"system": "trees"}}
    return made


def test_a_row_is_answered_alike_alone_and_among_others(system: Trees, tasks: dict[str, Task]) -> None:
    for name, task in tasks.items():
        rows = list(task.splits["test"].inputs)
        together = system.answers(name, rows, scores=True)
        for number, row in enumerate(rows):
            alone = system.answers(name, [row], scores=True)
            assert np.array_equal(alone.predictions[0], together.predictions[number])
            if together.scores is not None and together.confidence is not None:
                assert np.array_equal(alone.scores[0], together.scores[number])  # type: ignore[index]
                assert alone.confidence == [together.confidence[number]]
        many = system.answers(name, rows * 60)
        assert len(many) == 2400, "more than one window"
        assert np.array_equal(np.asarray(many.predictions)[-40:], np.asarray(together.predictions))


def test_a_saved_system_answers_alike_and_saves_as_the_same_bytes(
    system: Trees, tasks: dict[str, Task], tmp_path: Path
) -> None:
    system.save(tmp_path / "one")
    loaded = load(tmp_path / "one")
    assert isinstance(loaded, Trees) and loaded.definitions == system.definitions and loaded.facts == system.facts
    for name, task in tasks.items():
        one, other = (s.answers(name, task.splits["test"].inputs, scores=True) for s in (system, loaded))
        assert np.array_equal(one.predictions, other.predictions) and one.confidence == other.confidence
        assert one.scores is None or np.array_equal(np.asarray(one.scores), np.asarray(other.scores))
        assert same_trees(system.tasks[name], loaded.tasks[name])
    assert loaded.cost() == system.cost() and loaded.cost(["two"]) == system.cost(["two"])
    loaded.save(tmp_path / "two")
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {"allround.json", FILE} <= names
    for name in ("allround.json", FILE):
        assert hash_file(tmp_path / "one" / name) == hash_file(tmp_path / "two" / name)


def test_the_cost_counts_splits_and_leaves(system: Trees) -> None:
    sizes = {}
    for name, one in system.tasks.items():
        sizes[name] = 0
        for forest in one.forests:
            assert forest is not None
            leaves = sum(int(left) == place for place, left in enumerate(forest.left))
            sizes[name] += 3 * (len(forest.left) - leaves) + leaves + len(forest.base)
    assert system.cost().parameters_stored == system.parameters_stored == sum(sizes.values())
    assert system.cost().parameters_used == max(sizes.values())
    assert system.cost(["two"]).parameters_stored == system.cost(["two"]).parameters_used == sizes["two"]


def test_wrong_rows_are_refused(system: Trees) -> None:
    with pytest.raises(AllroundError, match="has 1 parts"):
        system.predict("two", [(1.0,)])
    with pytest.raises(AllroundError, match="'shop' of input 0 is of type list"):
        system.predict("two", [(1.0, ["a"], None, 2.0)])
    with pytest.raises(AllroundError, match="the system of trees has no head for it"):
        system.predict("four", [(1.0, "north", None, 2.0)])
    with pytest.raises(AllroundError, match="cannot tell which one is meant"):
        list(system.answer(None, [(1.0, "north", None, 2.0)]))
    only = Trees({"two": system.tasks["two"]})
    rows: list[Row] = [(1.0, "north", None, 2.0)]
    (made,) = only.answer(None, rows)
    assert made.scores is None and kind("classification").decode(made.predictions, only.definitions["two"])


# Folders that are damaged, or made to do harm.


def inner(tensors: dict[str, np.ndarray], task: str = "two") -> int:
    """A node that is split."""
    left = tensors[f"{task}.0.left"]
    return int(np.flatnonzero(left != np.arange(len(left)))[0])


def leaf(tensors: dict[str, np.ndarray], task: str = "two") -> int:
    left = tensors[f"{task}.0.left"]
    return int(np.flatnonzero(left == np.arange(len(left)))[-1])


def put(part: str, where: Callable[[dict[str, np.ndarray]], int], value: Any) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors[f"two.0.{part}"][where(tensors)] = value

    return change


def whole(part: str, change: Callable[[np.ndarray], np.ndarray | None]) -> Callable[[dict[str, Any]], None]:
    def made(tensors: dict[str, np.ndarray]) -> None:
        found = change(tensors.pop(f"two.0.{part}"))
        if found is not None:
            tensors[f"two.0.{part}"] = np.ascontiguousarray(found)

    return made


HARM: dict[str, Callable[[dict[str, Any]], None]] = {
    "a child is its own grandparent": put("right", inner, 0),
    "a child comes before its parent": put("left", lambda t: inner(t) + 2, 1),
    "a leaf goes on to the root": put("right", leaf, 0),
    "a child is past the end": put("left", inner, 10**6),
    "a child is below zero": put("right", inner, -1),
    "a column is past the end": put("feature", inner, 9),
    "a leaf reads a column past the end": put("feature", leaf, 99),
    "a column is below zero": put("feature", inner, -1),
    "categories are past the end": put("group", inner, 10**6),
    "categories are below -1": put("group", inner, -2),
    "a tree begins past the end": put("roots", lambda t: -1, 10**9),
    "a tree begins below zero": put("roots", lambda t: -1, -5),
    "a leaf is NaN": put("value", leaf, np.nan),
    "a leaf is infinite": put("value", leaf, np.inf),
    "a threshold is NaN": put("threshold", inner, np.nan),
    "the base is NaN": put("base", lambda t: 0, np.nan),
    "values of another type": whole("value", lambda a: a.astype(np.float32)),
    "children of another type": whole("left", lambda a: a.astype(np.float64)),
    "flags of another type": whole("missing", lambda a: a.astype(bool)),
    "sets of another type": whole("sets", lambda a: a.astype(np.int64)),
    "no thresholds": whole("threshold", lambda a: None),
    "no roots": whole("roots", lambda a: None),
    "no base": whole("base", lambda a: a[:0]),
    "fewer nodes": whole("value", lambda a: a[:-1]),
    "one value for all": whole("threshold", lambda a: a[:1]),
    "values in two dimensions": whole("value", lambda a: a[:, None]),
    "all in two dimensions": lambda t: t.update({n: a[:, None] for n, a in t.items() if n[:5] == "two.0"}),
    "roots in two dimensions": whole("roots", lambda a: a[None]),
    "a base in two dimensions": whole("base", lambda a: a[None]),
    "a base without an output": lambda t: t.update({"two.0.base": np.array(0.0)}),
    "sets of fewer categories": whole("sets", lambda a: a[:, :100]),
    "sets in one dimension": whole("sets", lambda a: a.reshape(-1)),
    "more outputs than classes": lambda t: t.update({"two.0.base": np.zeros(5)}),
}


@pytest.fixture(scope="module")
def saved(system: Trees, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "trees"
    system.save(folder)
    return folder


def copied(saved: Path, to: Path) -> Path:
    to.mkdir()
    for path in saved.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


@pytest.mark.parametrize("harm", HARM)
def test_trees_that_are_damaged_are_refused(harm: str, saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path / "bad")
    tensors = {name: array.copy() for name, array in load_file(folder / FILE).items()}
    HARM[harm](tensors)
    save_file(tensors, folder / FILE)
    with pytest.raises(AllroundError, match="load the trees in") as caught:
        load(folder)
    assert "they are damaged" in caught.value.found and caught.value.do == "copy the folder again, whole"


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_file_that_was_cut_off_is_refused(size: int, saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path / "bad")
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:size])
    with pytest.raises(AllroundError):
        load(folder)
    (folder / FILE).unlink()
    with pytest.raises(AllroundError, match="there is no such file"):
        load(folder)


def set_in(*keys: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(about: dict[str, Any]) -> None:
        found: Any = about
        for key in keys[:-1]:
            found = found[key]
        found[keys[-1]] = to

    return change


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no trees": lambda m: m.pop("trees"),
    "trees in a list": set_in("trees", to=["two"]),
    "trees as a text": set_in("trees", to="two"),
    "a task less": lambda m: m["trees"].pop("two"),
    "a task more": lambda m: m["trees"].update({"five": m["trees"]["two"]}),
    "a column less": lambda m: m["trees"]["two"]["columns"].pop(),
    "a column more": lambda m: m["trees"]["two"]["columns"].append({"sort": "number", "categories": []}),
    "a column of no sort": set_in("trees", "two", "columns", 0, "sort", to="picture"),
    "a column of another sort": set_in("trees", "two", "columns", 0, "sort", to="category"),
    "a column with more to it": set_in("trees", "two", "columns", 0, "unit", to="m"),
    "categories that are numbers": set_in("trees", "two", "columns", 1, "categories", to=[1, 2]),
    "an order that repeats": set_in("trees", "two", "order", to=[1, 1, 2, 3]),
    "an order of its own": set_in("trees", "two", "order", to=[0, 1, 2, 3]),
    "an order that is too short": set_in("trees", "two", "order", to=[1, 0, 2]),
    "an order of texts": set_in("trees", "two", "order", to="1023"),
    "a class that is not there": set_in("trees", "two", "classes", to=[0, 2]),
    "a class below zero": set_in("trees", "two", "classes", to=[-1, 0]),
    "a class twice": set_in("trees", "two", "classes", to=[1, 1]),
    "classes the other way round": set_in("trees", "two", "classes", to=[1, 0]),
    "a class less": set_in("trees", "three", "classes", to=[0, 1]),
    "no classes": set_in("trees", "two", "classes", to=[]),
    "classes of a number": set_in("trees", "number", "classes", to=[0]),
    "constants of other labels": set_in("trees", "two", "constant", to=[0.0, 1.0]),
    "no constant": set_in("trees", "two", "constant", to=[]),
    "a constant that is a text": set_in("trees", "number", "constant", to=["0"]),
    "a constant that is none": set_in("trees", "many", "constant", to=[0.0, None, 1.0]),
    "a probability of seven": set_in("trees", "many", "constant", to=[0.0, 7.0, 1.0]),
    "a constant without end": set_in("trees", "number", "constant", to=[float("inf")]),
    "no forest": set_in("trees", "two", "forests", to=[]),
    "a forest that is not there": set_in("trees", "two", "forests", to=[True, True]),
    "forests that are numbers": set_in("trees", "two", "forests", to=[1]),
    "a forest that is left out": set_in("trees", "two", "forests", to=[False]),
    "a label less": lambda m: [t["labels"].pop() for t in m["tasks"] if t["name"] == "many"],
    "more labels for a number of trees": lambda m: [
        t["labels"].append("new") for t in m["tasks"] if t["name"] == "many"
    ],
    "a task on texts": lambda m: [t.update(modality="text") for t in m["tasks"] if t["name"] == "two"],
    "a task of another kind": lambda m: [t.update(kind="regression") for t in m["tasks"] if t["name"] == "two"],
    "a task per word": lambda m: [t.update(kind="token_classification") for t in m["tasks"] if t["name"] == "many"],
    "an input less": lambda m: [t["inputs"].pop() for t in m["tasks"] if t["name"] == "two"],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_is_refused(lie: str, saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path / "bad")
    manifest = json.loads((folder / "allround.json").read_text())
    before = json.dumps(manifest)
    LIES[lie](manifest)
    assert json.dumps(manifest) != before
    (folder / "allround.json").write_text(json.dumps(manifest))
    with pytest.raises(AllroundError) as caught:
        load(folder)
    assert caught.value.do
