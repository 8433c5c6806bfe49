"""One table, several targets: what is left out, what is drawn alike, what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from allround.core.errors import AllroundError
from allround.tasks.make import make_task
from allround.tasks.spec import parse_suite
from allround.tasks.suite import Suite
from allround.tasks.task import SPLITS, Split, Task, limit_split

Rows = list[dict[str, Any]]
DOCS = Path(__file__).resolve().parents[2] / "docs"


def adverts(count: int, start: int = 0, seed: int = 0) -> Rows:
    """Rows with a click each, and a conversion where there was a click."""
    rng = np.random.default_rng([seed, start])
    found = []
    for i in range(start, start + count):
        click = int(rng.random() < 0.6)
        bought = int(rng.random() < 0.4) if click else None
        found.append({"age": float(i), "price": rng.random(), "click": click, "conversion": bought})
    return found


def make(target: str | list[str], data: Any, name: str | None = None, **changes: Any) -> Task:
    options = {"kind": "classification", "inputs": ["age", "price"], "missing": "drop", "table": "ads", **changes}
    return make_task(name or str(target), target=target, data=data, **options)


def refuse(target: str | list[str], data: Any, *words: str, **changes: Any) -> None:
    with pytest.raises(AllroundError) as caught:
        make(target, data, **changes)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def numbers(task: Task, split: str) -> list[int]:
    rows = task.splits[split].rows
    assert rows is not None and rows.dtype == np.int64
    return rows.tolist()


def places(task: Task) -> dict[int, str]:
    """Row of the table -> split."""
    return {n: split for split in SPLITS for n in numbers(task, split)}


# What is left out.


def test_rows_without_a_target_are_left_out_and_counted() -> None:
    data = {
        "train": [{"x": f"t{i}", "y": y} for i, y in enumerate(["a", None, "b", "", "a"])],
        "validation": [{"x": f"v{i}", "y": y} for i, y in enumerate(["a", "b"])],
        "test": [{"x": f"e{i}", "y": y} for i, y in enumerate([float("nan"), "b"])],
    }
    options: dict[str, Any] = {"kind": "classification", "inputs": "x", "target": "y", "data": data}
    task = make_task("mood", missing="drop", **options)
    assert task.notes == (
        "2 of 5 train rows have no target and are left out",
        "1 of 2 test rows have no target and are left out",
    )
    assert task.splits["train"].inputs == [("t0",), ("t2",), ("t4",)]
    assert task.splits["train"].targets.tolist() == [0, 1, 0] and task.splits["test"].inputs == [("e1",)]
    assert task.table is None and task.splits["train"].rows is None
    # Numbers go on through the splits, and tell what was left out.
    of_table = make_task("mood", missing="drop", table="moods", **options)
    assert [numbers(of_table, split) for split in SPLITS] == [[0, 2, 4], [5, 6], [8]]
    assert of_table.notes == task.notes and of_table.splits["train"].inputs == task.splits["train"].inputs
    with pytest.raises(AllroundError, match="target 'y' of train is missing in 2 of 5 rows, first in row 1"):
        make_task("mood", **options)
    with pytest.raises(AllroundError, match="target 'y' of train is missing in 2 of 5 rows, first in row 1"):
        make_task("mood", table="moods", **options)


def test_dropping_where_nothing_is_missing_changes_nothing() -> None:
    data = {"train": adverts(40)}
    plain = make("click", data, missing="error", table=None)
    assert make("click", data, table=None).content == plain.content


def test_a_coded_label_of_minus_one_is_missing() -> None:
    import datasets

    features = datasets.Features(x=datasets.Value("string"), y=datasets.ClassLabel(names=["no", "yes"]))
    part = datasets.Dataset.from_dict({"x": list("pqrs"), "y": [1, -1, 0, 1]}, features=features)
    task = make("y", dict.fromkeys(SPLITS, part), inputs="x")
    assert task.definition.labels == ("no", "yes") and numbers(task, "train") == [0, 2, 3]
    assert task.splits["train"].targets.tolist() == [1, 0, 1]


def test_many_columns_miss_a_row_as_a_whole() -> None:
    data = {s: {"x": ["p", "q", "r", "s"], "a": [1, None, 0, 1], "b": [0.0, 1, float("nan"), 1]} for s in SPLITS}
    task = make(["a", "b"], data, name="tags", kind="multilabel", inputs="x")
    assert task.definition.labels == ("a", "b") and task.splits["train"].targets.tolist() == [[1, 0], [1, 1]]
    assert [numbers(task, split) for split in SPLITS] == [[0, 3], [4, 7], [8, 11]]
    data["test"]["b"][3] = 2
    refuse(
        ["a", "b"], data, "target 'b' of test is neither 0 nor 1 in 1 of 2 rows, such as 2 in row 3",
        name="tags", kind="multilabel", inputs="x",
    )  # fmt: skip


def test_an_empty_list_is_a_target_and_a_list_with_a_hole_is_none() -> None:
    lists = [["a"], [], None, ["a", None], ["b", "a"], ["b", ""]]
    data = {s: [{"x": f"{s}{i}", "y": y} for i, y in enumerate(lists)] for s in SPLITS}
    task = make("y", data, kind="multilabel", inputs="x")
    assert task.splits["train"].targets.tolist() == [[1, 0], [0, 0], [1, 1]] and numbers(task, "train") == [0, 1, 4]


def test_words_without_tags_are_left_out() -> None:
    rows = [(["u", "v"], ["O", "B-X"]), (["w"], None), (["w"], ["O"]), ([], []), (["w", "z"], ["O", None])]
    data = {s: [{"x": words, "y": tags} for words, tags in rows] for s in SPLITS}
    for table in (None, "words"):
        task = make("y", data, kind="token_classification", inputs="x", table=table)
        assert task.splits["train"].inputs == [(["u", "v"],), (["w"],)]
        assert [t.tolist() for t in task.splits["train"].targets] == [[0, 1], [0]]
        notes = [note for note in task.notes if "train rows have" in note]
        assert notes[0] == "1 of 5 train rows have no words and are left out"
        assert notes[1].startswith("2 of ") and len(notes) == 2


def test_infinite_numbers_are_no_missing_ones_and_keep_their_row() -> None:
    data = {s: {"x": [0.0, 1, 2, 3], "y": [None, 1.0, 2.0, float("nan")]} for s in SPLITS}
    assert make("y", data, kind="regression", inputs="x").splits["test"].targets.shape == (2,)
    data["train"]["y"][2] = float("inf")
    refuse("y", data, "not finite in 1 of 2 rows, such as inf in row 2", kind="regression", inputs="x")
    data["train"]["y"][2] = 1.0
    refuse("y", data, "target 'y' is 1.0 in all 2 train rows", kind="regression", inputs="x")


# Splits and limits.


def test_splits_are_drawn_alike_whatever_is_missing() -> None:
    data = {"train": adverts(300)}
    click, bought = make("click", data), make("conversion", data)
    assert [len(click.splits[s]) for s in SPLITS] == [240, 30, 30]
    where = places(click)
    assert sorted(where) == list(range(300))
    assert places(bought) == {n: where[n] for n, row in enumerate(data["train"]) if row["conversion"] is not None}
    for task in (click, bought):
        for split in SPLITS:
            assert [row[0] for row in task.splits[split].inputs] == numbers(task, split)
            found = [data["train"][n][task.name] for n in numbers(task, split)]
            assert task.splits[split].targets.tolist() == found
    assert bought.notes[0].endswith("a seeded draw of the 300 train rows makes validation (30) and test (30)")
    gone = sum(data["train"][n]["conversion"] is None for n in numbers(click, "test"))
    assert f"{gone} of 30 test rows have no target and are left out" in bought.notes
    # A task outside the table tests on the same rows too.
    assert make("click", data, table=None, kind="regression").splits["test"].inputs == click.splits["test"].inputs


def test_rare_labels_do_not_change_the_draw() -> None:
    rows: Rows = [{"x": float(i), "rare": "once" if i % 4 == 0 else "often", "y": "ab"[i % 2]} for i in range(40)]
    for i, row in enumerate(rows):
        row["single"] = f"only {i}" if i % 2 else "often"
    one = make("y", {"train": rows}, inputs="x")
    two = make("single", {"train": rows}, inputs="x")
    where = places(one)
    assert all(where[n] == split for n, split in places(two).items())
    lost = [n for n in where if n % 2 and where[n] != "train"]
    assert lost and not set(lost) & set(places(two))
    count = sum(where[n] == "test" for n in lost)
    assert f"{count} of 4 test rows have labels that no train row has after the draw, and are left out" in two.notes
    assert [n for n in where if not n % 2 or where[n] == "train"] == list(places(two))


def test_given_splits_are_checked_as_before() -> None:
    data = {"train": adverts(30), "validation": adverts(10, 30), "test": adverts(10, 40)}
    data["test"][0]["conversion"] = "x"
    refuse("conversion", data, "test has labels that train never has: 'x' (1)")


def test_tags_and_labels_of_the_same_texts_share_a_table() -> None:
    rng = np.random.default_rng(0)
    rows: Rows = []
    for i in range(60):
        words = rows[-1]["x"] if i % 2 else [f"w{i}"] * int(rng.integers(0, 4))
        if i % 4 == 1 and words:
            words = [" ".join(words)]  # the same text in other words
        rows.append({"x": words, "intent": "ab"[i % 2], "slots": [("O", "B-X")[k % 2] for k in range(len(words))]})
    for row in rows[::7]:
        row["slots"] = None
    assert sum(not row["x"] for row in rows) > 3
    intent = make("intent", {"train": rows}, inputs="x")
    slots = make("slots", {"train": rows}, inputs="x", kind="token_classification")
    where = places(intent)
    assert len(where) == 60
    assert places(slots) == {n: where[n] for n, row in enumerate(rows) if row["x"] and row["slots"] is not None}
    assert list(Suite("talk", [intent, slots]).tasks) == ["intent", "slots"]


def test_a_limit_keeps_the_same_rows_as_far_as_they_are_there() -> None:
    data = {"train": adverts(400)}
    click, bought = make("click", data), make("conversion", data)
    few = {"train": 50, "validation": 8, "test": 6}
    one, two = click.limit(few), bought.limit(few)
    assert [len(one.splits[s]) for s in SPLITS] == [len(two.splits[s]) for s in SPLITS] == [50, 8, 6]
    for split in SPLITS:
        shared = set(numbers(one, split)) & set(numbers(bought, split))
        missed = shared - set(numbers(two, split))
        # A row of each label is kept: it may take the place of at most one other.
        assert len(missed) <= 1 and len(shared) > 1, split
        assert set(numbers(one.limit({split: 5}), split)) <= set(numbers(one, split)) <= set(numbers(click, split))
    assert make("click", data, limit=few).content == one.content
    assert numbers(click.limit(few, seed=1), "train") != numbers(one, "train")
    other = make("click", data, table="other").limit(few)
    assert numbers(other, "train") != numbers(one, "train")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sets(st.integers(0, 200), min_size=1), st.data(), st.integers(1, 60), st.integers(0, 5))
def test_a_draw_by_number_is_a_rule_of_each_row(every: set[int], data: Any, most: int, seed: int) -> None:
    some = data.draw(st.sets(st.sampled_from(sorted(every)), min_size=1))

    def drawn(rows: set[int], count: int) -> set[int]:
        order = np.array(sorted(rows), dtype=np.int64)
        found = limit_split(Split([(n,) for n in sorted(rows)], order * 2, order), count, seed)
        assert found.rows is not None and len(found) == min(count, len(rows))
        assert [row[0] for row in found.inputs] == found.rows.tolist() == (found.targets // 2).tolist()
        assert found.rows.tolist() == sorted(found.rows.tolist())
        return set(found.rows.tolist())

    whole = drawn(every, most)
    assert whole & some <= drawn(some, most)
    assert whole <= drawn(every, most + 3)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(40, 80), st.integers(0, 1000), st.floats(0.2, 1.0), st.booleans(), st.integers(1, 40))
def test_no_row_is_in_the_test_of_one_task_and_the_training_of_another(
    count: int, seed: int, share: float, test_given: bool, most: int
) -> None:
    rng = np.random.default_rng(seed)

    def table(rows: int) -> Rows:
        found: Rows = []
        for i in range(rows):
            row: dict[str, Any] = {"x": float(rng.integers(rows)), "one": i % 2, "two": float(i), "three": "ab"[i % 2]}
            for name in ("two", "three"):
                if rng.random() > share:
                    row[name] = None
            found.append(row)
        return found

    data = {"train": table(count), **({"test": table(12)} if test_given else {})}
    tasks = []
    for name, kind in (("one", "classification"), ("two", "regression"), ("three", "classification")):
        try:
            tasks.append(make(name, data, kind=kind, inputs="x"))
        except AllroundError as error:  # a draw may leave a split without a target; that is said
            assert name != "one" and ("none of the" in str(error) or "has only" in str(error)), str(error)
    every = [row for split in data for row in data[split]]
    where = places(tasks[0])
    assert len(where) == len(every)
    for task in tasks:
        limited = task.limit({"train": most, "test": most})
        for part in (task, limited):
            assert places(part).items() <= where.items()
        for split in SPLITS:
            assert all(every[n][task.name] is not None for n in numbers(task, split))
            assert [(every[n]["x"],) for n in numbers(task, split)] == task.splits[split].inputs
    Suite("all", tasks)


# Keeping and telling apart.


def test_saving_keeps_the_table_and_the_rows(tmp_path: Path) -> None:
    task = make("conversion", {"train": adverts(60)})
    task.save(tmp_path / "t")
    found = Task.load(tmp_path / "t")
    assert found.table == "ads" and found.content == task.content
    assert [numbers(found, s) for s in SPLITS] == [numbers(task, s) for s in SPLITS]
    assert found.limit({"train": 7}).content == task.limit({"train": 7}).content

    make("click", {"train": adverts(60)}, table=None).save(tmp_path / "plain")
    import pyarrow as pa

    with pa.OSFile(str(tmp_path / "plain" / "train.arrow"), "rb") as file:
        assert pa.ipc.open_file(file).read_all().column_names == ["input_0", "input_1", "target"]
    assert set(json.loads((tmp_path / "plain" / "definition.json").read_text())) == {"format", "definition", "notes"}
    about = json.loads((tmp_path / "t" / "definition.json").read_text())
    assert about["table"] == "ads"
    (tmp_path / "plain" / "definition.json").write_text(json.dumps(about))
    with pytest.raises(AllroundError, match="its rows have no numbers in it"):
        Task.load(tmp_path / "plain")


def test_content_depends_on_table_and_rows() -> None:
    data = {"train": adverts(60)}
    task = make("click", data)
    plain = make("click", data, table=None)
    named = make("click", data, table="others")
    moved = Task(
        task.definition,
        {s: Split(p.inputs, p.targets, np.asarray(p.rows) + 1) for s, p in task.splits.items()},
        table="ads",
    )
    assert len({t.content for t in (task, plain, named, moved)}) == 4
    assert make("click", data).content == task.content


def test_the_content_of_other_tasks_is_what_it_was() -> None:
    # As computed before tasks had tables.
    rows = [{"text": f"{word} {i}", "label": word} for i in range(10) for word in ("good", "bad")]
    task = make_task("mood", kind="classification", inputs="text", target="label", data={"train": rows})
    assert task.content == "14f4a4551d838da2cdc62ae0cc203a77947de3134a51bc7a49b086d51c251642"


def test_rows_go_with_the_task() -> None:
    task = make("click", {"train": adverts(60)})
    assert numbers(task.as_defined(task.definition.with_facts({"labels": ("1", "0")})), "test") == numbers(task, "test")
    taken = task.splits["train"].take([3, 1])
    assert taken.rows is not None and taken.rows.tolist() == [numbers(task, "train")[i] for i in (3, 1)]
    none = task.splits["train"].take([])
    assert none.rows is not None and none.rows.tolist() == []
    with pytest.raises(AllroundError, match="its rows have no numbers in it"):
        Task(task.definition, {s: Split(p.inputs, p.targets) for s, p in task.splits.items()}, table="ads")


# Suite files.


def write_ads(folder: Path, rows: Rows, **keys: Any) -> Path:
    names = list(rows[0])
    lines = [",".join(names), *(",".join("" if row[n] is None else str(row[n]) for n in names) for row in rows)]
    (folder / "ads.csv").write_text("\n".join(lines) + "\n")
    about = {"source": "ads.csv", "table": "ads", "kind": "classification", "inputs": ["age", "price"], **keys}
    tasks = {
        "click": {**about, "target": "click"},
        "conversion": {**about, "target": "conversion", "missing": "drop"},
    }
    (folder / "ads.yml").write_text(yaml.safe_dump({"tasks": tasks}))
    return folder / "ads.yml"


def test_a_suite_file_with_empty_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from allround.tasks import suite as suite_module

    read: list[Any] = []
    before = suite_module.load_raw
    monkeypatch.setattr(suite_module, "load_raw", lambda *a, **k: read.append(a) or before(*a, **k))
    rows = adverts(200)
    suite = Suite.load(write_ads(tmp_path, rows))
    assert len(read) == 1
    click, bought = suite.tasks.values()
    assert (click.table, bought.table) == ("ads", "ads")
    assert click.definition.labels == bought.definition.labels == ("0", "1")
    where = places(click)
    assert len(where) == 200
    assert places(bought) == {n: where[n] for n, row in enumerate(rows) if row["conversion"] is not None}
    for split in SPLITS:
        assert bought.splits[split].targets.tolist() == [rows[n]["conversion"] for n in numbers(bought, split)]
    assert "train rows have no target and are left out" in suite.notes["conversion"][1]
    limited = Suite.load(tmp_path / "ads.yml", limit={"train": 30}).tasks
    assert limited["click"].content == click.limit({"train": 30}).content
    alone = Suite.load(tmp_path / "ads.yml", only=["conversion"]).tasks["conversion"]
    assert alone.content == bought.content


def test_the_example_of_the_documentation_works(tmp_path: Path) -> None:
    page = (DOCS / "suite-file.md").read_text(encoding="utf-8").partition("## One table, several targets")[2]
    table, suite = (re.findall(rf"^```{what}\n(.*?)^```$", page, re.M | re.S)[0] for what in ("csv", "yaml"))
    more = [f"{i},{i % 24},{i / 10},{i % 3 % 2},{i % 2 if i % 3 % 2 else ''}\n" for i in range(90)]
    (tmp_path / "ads.csv").write_text(table + "".join(more))
    (tmp_path / "ads.yml").write_text(suite)
    click, bought = Suite.load(tmp_path / "ads.yml").tasks.values()
    assert sum(len(click.splits[s]) for s in SPLITS) == 93 and sum(len(bought.splits[s]) for s in SPLITS) == 32
    assert places(bought).items() <= places(click).items()


# Refusals.


def test_values_that_make_no_sense() -> None:
    data = {"train": adverts(30)}
    refuse("click", data, "make the task 'click'", "`missing` is 'drp'", "did you mean 'drop'?", missing="drp")
    refuse("click", data, "name a table '../x'", "not safe", table="../x")
    refuse("click", data, "name a table ''", table="")
    refuse("conversion", data, "target 'conversion' of train is missing in", "fill in the target", missing="error")


def test_splits_that_are_left_without_a_target() -> None:
    data = {"train": adverts(40), "test": [{**row, "conversion": None} for row in adverts(5, 40)]}
    refuse("conversion", data, "target 'conversion' of test is missing in all 5 rows", "leave the split out")
    empty = {"train": [{**row, "conversion": None} for row in data["train"]]}
    refuse("conversion", empty, "target 'conversion' of train is missing in all 40 rows", "do:    fill in the target")
    nothing = [{"x": f"e{i}", "a": None, "b": 1} for i in range(3)]
    good = [{"x": f"t{i}", "a": i % 2, "b": 1} for i in range(3)]
    refuse(["a", "b"], {"train": good, "test": nothing}, "the target of test is missing in all 3 rows",
           name="tags", kind="multilabel", inputs="x")  # fmt: skip
    where = places(make("click", {"train": adverts(40)}))
    lacking = [{**row, "conversion": i % 2 if where[i] != "test" else None} for i, row in enumerate(adverts(40))]
    refuse(
        "conversion", {"train": lacking}, "none of the 4 rows drawn for test has a target",
        "give test as a separate split, with rows that have one",
    )  # fmt: skip
    only = [{**row, "conversion": "a" if where[i] != "test" else "b"} for i, row in enumerate(adverts(40))]
    refuse("conversion", {"train": only}, "none of the 4 rows drawn for test has a label that train has")
    one = [
        {**row, "conversion": "b" if i == numbers_of(where, "test")[0] else "a"} for i, row in enumerate(adverts(40))
    ]
    refuse("conversion", {"train": one}, "train has only the label 'a' (32)")


def numbers_of(where: dict[int, str], split: str) -> list[int]:
    return [n for n, place in where.items() if place == split]


TASK = {"source": "a.csv", "kind": "classification", "inputs": ["x"], "target": "y", "table": "t"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"missing": "drp"}, ["tasks.two.missing: it must be 'error' or 'drop', not 'drp'"]),
        ({"missing": True}, ["tasks.two.missing"]),
        ({"table": 3}, ["tasks.two.table: 3", "put the value in quotes"]),
        ({"table": "a/b"}, ["tasks.two.table", "'a/b'", "not safe"]),
        ({"tabel": "t"}, ["tasks.two.tabel: there is no such key", "did you mean 'table'?"]),
        (
            {"source": "b.csv"},
            ["tasks.two.source: it is not that of 'one', and both are tasks of the table 't'", "the same `source`"],
        ),
        ({"local": "b"}, ["tasks.two.local: it is not that of 'one'"]),
        ({"inputs": ["x", "z"]}, ["tasks.two.inputs: it is not that of 'one'", "give 'one' and 'two' the same"]),
    ],
)
def test_suite_files_that_are_refused(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(AllroundError) as caught:
        parse_suite(yaml.safe_dump({"tasks": {"one": TASK, "two": {**TASK, **changes}}}, sort_keys=False), name="s")
    assert caught.value.asked and caught.value.found and caught.value.do
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_modality_may_be_left_out_by_one() -> None:
    two = {"one": {**TASK, "modality": "table"}, "two": TASK}
    assert parse_suite(yaml.safe_dump({"tasks": two}), name="s").tasks["two"].missing == "error"
    two["two"] = {**TASK, "modality": "text"}
    with pytest.raises(AllroundError, match=r"tasks.two.modality: it is not that of 'one'"):
        parse_suite(yaml.safe_dump({"tasks": two}), name="s")
    two["two"] = {**TASK, "modality": "text", "table": "u", "source": "b.csv"}
    assert len(parse_suite(yaml.safe_dump({"tasks": two}), name="s").tasks) == 2


def test_tasks_that_are_not_of_one_table() -> None:
    data = {"train": adverts(60)}
    click = make("click", data)

    def refuse_suite(other: Task, *words: str) -> None:
        with pytest.raises(AllroundError) as caught:
            Suite("s", [click, other])
        for word in ("make the suite 's'", "'click'", "table 'ads'", *words):
            assert word in str(caught.value), str(caught.value)

    refuse_suite(make("conversion", data, inputs="age"), "'conversion'", "input columns", "age, price; age")
    words = [{**row, "age": str(row["age"]), "price": str(row["price"])} for row in data["train"]]
    refuse_suite(make("conversion", {"train": words}, modality="text"), "different modalities: table; text")
    # Another number of rows, another split, another value.
    refuse_suite(make("conversion", {"train": adverts(60) + adverts(1, 60)}), "is in ", "of 'click' and in ")
    refuse_suite(make("conversion", {**data, "test": adverts(20, 60)}), "the same splits given")
    refuse_suite(make("conversion", {"train": adverts(60, seed=1)}), "has one input in 'click' and another in 'conv")
    assert len(Suite("s", [click, make("conversion", data)]).tasks) == 2
    assert len(Suite("s", [click, make("conversion", {"train": adverts(50)}, table="other")]).tasks) == 2


def test_a_test_split_that_is_published_for_one_target_only() -> None:
    import datasets

    codes = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features(x=datasets.Value("string"), one=codes, two=codes)

    def part(prefix: str, two: list[int]) -> Any:
        rows = {"x": [f"{prefix}{i}" for i in range(40)], "one": [0, 1] * 20, "two": two}
        return datasets.Dataset.from_dict(rows, features=features)

    data = {"train": part("t", [0, 1] * 20), "test": part("e", [-1] * 40)}
    one, two = make("one", data, inputs="x"), make("two", data, inputs="x")
    assert two.notes[0] == "test has no targets (every label is -1), so it is left out"
    with pytest.raises(AllroundError, match=r"row \d+ of the table 'ads' is in train of 'one' and in test of 'two'"):
        Suite("s", [one, two])
