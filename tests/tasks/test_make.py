"""From rows to a task: checks, labels, splits, notes, limits, and the folder on disk."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allround.core.errors import AllroundError
from allround.core.files import MANIFEST
from allround.tasks.definition import Definition
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import SPLITS, Split, Task, limit_split

TEXTS = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(20)]


def rows(prefix: str, labels: str, **more: Any) -> list[dict[str, Any]]:
    return [{"text": f"{prefix} {i}", "label": label, **more} for i, label in enumerate(labels)]


THREE = {"train": rows("train", "abab"), "validation": rows("val", "ab"), "test": rows("test", "aab")}


def make(data: Any = None, **changes: Any) -> Task:
    options = {"kind": "classification", "inputs": "text", "target": "label", **changes}
    return make_task("mood", data=THREE if data is None else data, **options)


def refuse(data: Any = None, *words: str, **changes: Any) -> None:
    with pytest.raises(AllroundError) as caught:
        make(data, **changes)
    for word in ("mood", *words):
        assert word in str(caught.value), str(caught.value)


def swap(split: str, row: int, **changes: Any) -> dict[str, Any]:
    data = copy.deepcopy(THREE)
    data[split][row].update(changes)
    return data


def test_a_task_by_hand() -> None:
    task = make(instruction="say how it feels")
    assert task.definition.to_json() == {
        "name": "mood",
        "kind": "classification",
        "inputs": ["text"],
        "modality": "text",
        "metric": "accuracy",
        "labels": ["a", "b"],
        "center": 0.0,
        "scale": 1.0,
        "instruction": "say how it feels",
    }
    assert task.splits["test"].inputs == [("test 0",), ("test 1",), ("test 2",)]
    assert task.splits["test"].targets.tolist() == [0, 0, 1]
    assert task.notes == ()


def test_several_instructions_are_one_and_its_rewordings() -> None:
    definition = make(instruction=["say how it feels", "which mood?"]).definition
    assert definition.instruction == "say how it feels" and definition.rewordings == ("which mood?",)
    assert Definition.from_json(definition.to_json()) == definition
    assert make(instruction=("x",)).content == make(instruction="x").content != make(instruction=["x", "y"]).content
    assert make(instruction="").definition.instruction is None and make().definition.rewordings == ()
    for given, found, do in (
        ([], "`instruction`: the list is empty", "give one text, or a list such as"),
        (["a", None], "`instruction`: None in the list is not a text", "put it in quotes"),
        (["a", "b", "a"], "`instruction`: the instruction 'a' stands twice in the list", "give each once"),
        (["a", " "], "`instruction`: an instruction in the list is blank", "take it out"),
        (3, "`instruction`: 3 is not a text", "give one text, or a list such as"),
    ):
        with pytest.raises(AllroundError) as caught:
            make(instruction=given)
        assert caught.value.found == found and do in caught.value.do
    for others in (["x"], ["y", "y"], [""]):
        with pytest.raises(ValueError, match=r"is blank|stands twice"):
            Definition.from_json({**make(instruction="x").definition.to_json(), "rewordings": others})
    with pytest.raises(ValueError, match="blank"):
        Definition.from_json({**make().definition.to_json(), "rewordings": ["x"]})


def test_rows_of_every_form_make_the_same_task() -> None:
    import datasets
    import pandas as pd

    columns = {s: {c: [r[c] for r in part] for c in ("text", "label")} for s, part in THREE.items()}
    forms = [
        columns,
        {s: pd.DataFrame(part) for s, part in THREE.items()},
        {s: datasets.Dataset.from_list(part) for s, part in THREE.items()},
        {s: tuple(part) for s, part in THREE.items()},
        {s: {"text": np.array(c["text"]), "label": np.array(c["label"])} for s, c in columns.items()},
    ]
    assert {make(form).content for form in forms} == {make().content}


def test_names_of_codes_are_label_names() -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    part = datasets.Dataset.from_dict({"text": ["x", "y", "z"], "label": [1, 0, 1]}, features=features)
    hidden = datasets.Dataset.from_dict({"text": ["p", "q"], "label": [-1, -1]}, features=features)
    task = make({"train": part, "validation": rows("v", ("no", "yes")), "test": rows("t", ("no",))})  # type: ignore[arg-type]
    assert task.definition.labels == ("no", "yes") and task.splits["train"].targets.tolist() == [1, 0, 1]
    renamed = make({"train": part}, labels={0: "bad", "yes": "good"}) if False else None
    assert renamed is None
    task = make({"train": part, "validation": part, "test": part}, labels={0: "bad", "yes": "good"})
    assert task.definition.labels == ("bad", "good") and task.splits["train"].targets.tolist() == [1, 0, 1]
    task = make({"train": datasets.concatenate_datasets([part] * 5), "validation": part, "test": hidden})
    assert task.notes[0] == "test has no targets (every label is -1), so it is left out"
    assert task.splits["test"].inputs == [("x",), ("y",), ("z",)]
    refuse({"train": hidden}, "target 'label' of train is missing in 2 of 2 rows")


def test_tags_are_named_through_lists() -> None:
    import datasets

    features = datasets.Features(
        {
            "text": datasets.Sequence(datasets.Value("string")),
            "label": datasets.Sequence(datasets.ClassLabel(names=["O", "B-X"])),
        }
    )
    part = datasets.Dataset.from_dict({"text": [["x", "y"], ["z"]], "label": [[0, 1], [0]]}, features=features)
    task = make({"train": part, "validation": part, "test": part}, kind="token_classification")
    assert task.definition.labels == ("O", "B-X") and task.splits["train"].inputs == [(["x", "y"],), (["z"],)]
    assert [t.tolist() for t in task.splits["train"].targets] == [[0, 1], [0]]


def test_labels_are_named_by_a_map() -> None:
    data = {s: [{"text": f"{s} {i}", "label": v} for i, v in enumerate([0, 1.0, "1"])] for s in SPLITS}
    assert make(data).definition.labels == ("0", "1")
    task = make(data, labels={0: "bad", "1": "good"})
    assert task.definition.labels == ("bad", "good") and task.splits["test"].targets.tolist() == [0, 1, 1]
    refuse(data, "target 'label' of train has values that `labels` does not name: '1' (2)", "0", labels={0: "bad"})
    refuse(data, "`labels` is set, and this target has no values to name", labels={0: "x"}, kind="regression")


# Refusals.


def test_questions_that_make_no_sense() -> None:
    refuse(None, "no input column", inputs=[])
    refuse(None, "`inputs` names the column 'text' twice", inputs=["text", "text"])
    refuse(None, "the column 'label' is an input and the target", inputs=["text", "label"])
    refuse(None, "`target` is a list of 2 columns", "multilabel", target=["x", "y"])
    refuse(None, "there is no modality 'txt'", "did you mean 'text'?", modality="txt")
    refuse(None, "takes one column of words", kind="token_classification", inputs=["text", "b"])
    with pytest.raises(AllroundError, match="use kind: classification with two input columns"):
        make(kind="pair_classification")
    with pytest.raises(AllroundError, match="did you mean 'classification'"):
        make(kind="classificaton")
    with pytest.raises(AllroundError, match="'pearson' is for regression"):
        make(metric="pearson")
    with pytest.raises(AllroundError, match="not safe"):
        make_task("../x", kind="classification", inputs="text", target="label", data=THREE)
    with pytest.raises(AllroundError, match="limit train to 0 rows"):
        make(limit={"train": 0})
    with pytest.raises(AllroundError, match="did you mean 'train'"):
        make(limit={"tran": 3})


def test_data_of_the_wrong_form() -> None:
    refuse({}, "give a mapping of splits to rows")
    refuse([], "give a mapping of splits to rows")
    refuse({**THREE, "tset": []}, "there is no split 'tset'", "did you mean 'test'?")
    refuse({"test": THREE["test"]}, "there is no train split, only test")
    refuse({"train": 3}, "the rows of train are a int")
    refuse({"train": [3]}, "row 0 of train is 3", "give rows as dictionaries")
    refuse({"train": {"text": "abc", "label": [1]}}, "column 'text' of train is 'abc'", "give a list")
    refuse({"train": {"text": ["a"], "label": [1, 2]}}, "do not have the same length: 'text' has 1, 'label' has 2")


def test_columns_that_are_not_there_or_twice() -> None:
    import pandas as pd

    refuse(None, "train has no column 'txt'", "did you mean 'text'? (known: label, text)", inputs="txt")
    refuse(None, "train has no column 'gold'", "use one of: label, text", target="gold")
    frame = pd.DataFrame([["x", "y", "a"]], columns=["text", "text", "label"])
    refuse({"train": frame}, "train has 2 columns called 'text'", "rename all but one")
    lacking = {**THREE, "test": [{"text": "x"}]}
    refuse(lacking, "test has no column 'label'")


def test_empty_splits() -> None:
    refuse({**THREE, "validation": []}, "validation has no rows", "leave the split out")
    refuse({"train": {"text": [], "label": []}}, "train has no rows")


@pytest.mark.parametrize("nothing", [None, float("nan"), np.nan, "", "pandas"])
def test_missing_targets(nothing: Any) -> None:
    if nothing == "pandas":
        import pandas as pd

        nothing = pd.NA
    refuse(swap("test", 1, label=nothing), "target 'label' of test is missing in 1 of 3 rows, first in row 1")


def test_targets_that_are_no_numbers() -> None:
    number = {s: [{"text": f"{s}{i}", "label": i} for i in range(4)] for s in SPLITS}
    for wrong in ("high", True, [1]):
        data = copy.deepcopy(number)
        data["validation"][2]["label"] = wrong  # type: ignore[assignment]
        refuse(data, "target 'label' of validation is not a number in 1 of 4 rows", repr(wrong), kind="regression")
    number["train"][3]["label"] = float("inf")  # type: ignore[assignment]
    refuse(number, "target 'label' of train is not finite in 1 of 4 rows, such as inf in row 3", kind="regression")
    number["train"] = [{"text": f"{i}", "label": 1.5} for i in range(4)]  # type: ignore[dict-item]
    refuse(number, "target 'label' is 1.5 in all 4 train rows", kind="regression")
    number["train"] = [{"text": f"{i}", "label": i * 1e308} for i in range(2)]  # type: ignore[dict-item]
    with np.errstate(over="ignore"):
        refuse(number, "too large to standardise", kind="regression")


def test_labels_that_training_lacks() -> None:
    data = {**THREE, "test": rows("test", "abccccdefgh")}
    refuse(data, "test has labels that train never has: 'c' (4), 'd' (1), 'e' (1), 'f' (1), 'g' (1) and 1 more")
    refuse({**THREE, "validation": rows("v", "ax")}, "validation has labels that train never has: 'x' (1)")
    refuse({**THREE, "train": rows("t", "aaa")}, "train has only the label 'a' (3)", "rows of every label")


def test_lists_where_one_label_belongs() -> None:
    refuse(swap("train", 0, label=["a"]), "is not a single label in 1 of 4 rows, such as ['a']", "multilabel")


def test_inputs_that_are_missing_or_no_text() -> None:
    refuse(swap("train", 2, text=None), "input 'text' of train is missing in 1 of 4 rows, first in row 2")
    refuse(swap("test", 0, text=float("nan")), "input 'text' of test is missing in 1 of 3 rows")
    refuse(swap("test", 0, text=5), "input 'text' of test is not text in 1 of 3 rows, such as 5")
    refuse(swap("train", 1, text="\ud800"), "input 'text' of train is not valid Unicode")
    refuse(swap("train", 0, text={"a": 1}), "input 'text' of train holds {'a': 1}, a dict")


def test_multilabel_targets() -> None:
    listed = {s: [{"text": f"{s}{i}", "label": v} for i, v in enumerate([["x"], [], ["y", "x"]])] for s in SPLITS}
    task = make(listed, kind="multilabel")
    assert task.definition.labels == ("x", "y") and task.splits["test"].targets.tolist() == [[1, 0], [0, 0], [1, 1]]
    columns = {s: {"text": [f"{s}{i}" for i in range(3)], "y": [0, 1.0, 1], "x": [True, 0, 1]} for s in SPLITS}
    task = make(columns, kind="multilabel", target=["y", "x"])
    assert task.definition.labels == ("y", "x") and task.splits["test"].targets.tolist() == [[0, 1], [1, 0], [1, 1]]
    columns["test"]["x"] = [1, None, 2]
    refuse(
        columns, "target 'x' of test is neither 0 nor 1 in 2 of 3 rows, such as None in row 1",
        kind="multilabel", target=["y", "x"],
    )  # fmt: skip
    listed["train"][0]["label"] = "x"  # type: ignore[assignment]
    refuse(listed, "target 'label' of train is not a list in 1 of 3 rows, such as 'x'", kind="multilabel")
    listed["train"] = [{"text": "t", "label": []}]
    refuse(listed, "train has no label at all", kind="multilabel")


def test_words_and_tags() -> None:
    def data(words: Any, tags: Any) -> dict[str, Any]:
        good = [{"text": ["a", "b"], "label": ["O", "B-X"]}]
        return {"train": [*good, {"text": words, "label": tags}], "validation": good, "test": good}

    kind = "token_classification"
    refuse(data(["a"], ["O", "O"]), "1 of 2 rows of train do not have one tag a word, such as row 1 with 1 words and 2 tags", kind=kind)  # noqa: E501  # fmt: skip
    refuse(data("a", ["O"]), "input 'text' of train is not a list of words in 1 of 2 rows, such as 'a'", kind=kind)
    refuse(
        data(["a"], "O"), "target 'label' of train is not a list in 1 of 2 rows, such as 'O'", "one a word", kind=kind
    )
    refuse(data(["a"], [None]), "1 missing labels", kind=kind)
    task = make(data([], []), kind=kind)
    assert task.notes[0] == "1 of 2 train rows have no words and are left out"
    assert len(task.splits["train"]) == 1 and len(task.splits["train"].targets) == 1


def test_lists_of_words_are_joined_for_other_kinds() -> None:
    data = {s: [{"text": [s, str(i)], "label": "ab"[i]} for i in range(2)] for s in SPLITS}
    task = make(data)
    assert task.definition.modality == "text" and task.splits["train"].inputs == [("train 0",), ("train 1",)]


def test_rows_without_an_input_are_left_out_by_choice() -> None:
    data = copy.deepcopy(THREE)
    data["train"][1]["text"] = None
    data["train"][2] = {"text": " \n", "label": None}
    data["train"] += rows("more", "ab")
    data["test"][0]["text"] = float("nan")
    refuse(
        data, "found: 3 problems",
        "1. target 'label' of train is missing in 1 of 6 rows, first in row 2",
        "2. input 'text' of train is missing in 1 of 6 rows, first in row 1", "`missing: drop`",
    )  # fmt: skip
    task = make(data, missing="drop", table="moods")
    assert task.notes == (
        "2 of 6 train rows have no input and are left out",
        "1 of 3 test rows have no input and are left out",
    )
    assert [text for (text,) in task.splits["train"].inputs] == ["train 0", "train 3", "more 0", "more 1"]
    assert np.asarray(task.splits["train"].rows).tolist() == [0, 3, 4, 5]
    assert np.asarray(task.splits["test"].rows).tolist() == [9, 10]
    numbers = {s: [{"text": f"{s} {i}", "label": i} for i in range(4)] for s in SPLITS}
    numbers["train"][0]["text"] = None  # type: ignore[assignment]
    numbers["train"][3]["label"] = float("inf")  # type: ignore[assignment]
    refuse(numbers, "such as inf in row 3", kind="regression", missing="drop")
    data["test"] = [{"text": "", "label": "a"}]
    refuse(data, "the input of test is missing in all 1 rows", "leave the split out", missing="drop")


# Modalities.


def columns(**values: list[Any]) -> dict[str, Any]:
    return {s: {**values, "label": ["a", "b"]} for s in SPLITS}


def test_the_modality_follows_the_data() -> None:
    picture = np.zeros((2, 3), np.uint8)
    cases: list[tuple[dict[str, list[Any]], str]] = [
        ({"p": ["x", "y"]}, "text"),
        ({"p": ["x", "y"], "q": ["x", "y"]}, "text"),
        ({"p": [1, 2]}, "table"),
        ({"p": [1, 2], "q": ["x", None]}, "table"),
        ({"p": [None, 2]}, "table"),
        ({"p": [picture, picture + 1]}, "image"),
    ]
    for values, modality in cases:
        task = make(columns(**values), inputs=list(values))
        assert task.definition.modality == modality, values
    assert make(columns(p=["x", "y"]), inputs="p", modality="table").definition.modality == "table"
    assert make(columns(p=["x", "y"], q=["x", "y"]), inputs=["p", "q"]).definition.pair
    three = columns(p=["x", "y"], q=["x", "y"], r=["x", "y"])
    refuse(three, "a text task has 3 input columns", "modality: table", inputs=["p", "q", "r"])
    refuse(three, "a text task has 3 input columns", inputs=["p", "q", "r"], modality="text")
    refuse(columns(p=["x", "y"], q=[picture] * 2), "joins an image with other columns", inputs=["p", "q"])
    refuse(columns(p=[1, 2], q=[1, 2]), "an image task has 2 input columns", inputs=["p", "q"], modality="image")


def test_tables() -> None:
    data = columns(n=[1, None], s=["x", 2], b=[True, False])
    task = make(data, inputs=["n", "s", "b"])
    assert task.splits["train"].inputs == [(1.0, "x", 1.0), (None, "2", 0.0)]
    data["test"] = {**data["test"], "n": [1, "many"]}
    refuse(
        data, "input 'n' holds numbers, and something else in 1 of 2 rows of test: 'many' (row 1)", inputs=["n", "s"]
    )
    refuse(columns(n=[1, float("inf")]), "neither a finite number nor text in 1 of 2 rows, such as inf", inputs="n")
    refuse(columns(n=[1, b"x"]), "neither a finite number nor text in 1 of 2 rows, such as b'x'", inputs="n")


def test_images_become_grey_or_colour() -> None:
    from PIL import Image

    grey, colour = np.full((2, 3), 7, np.uint8), np.full((2, 3, 3), 9, np.uint8)
    given = {
        "L": [grey, grey[:, :, None], Image.fromarray(grey), Image.fromarray(grey > 0), Image.new("LA", (3, 2), 7)],
        "RGB": [colour, Image.fromarray(colour), Image.new("RGBA", (3, 2)), Image.new("P", (3, 2))],
    }
    wide = Image.fromarray(np.full((2, 3), 7 * 256, np.uint16))
    given["L"].append(wide)
    for mode, images in given.items():
        for image in images:
            task = make(columns(p=[image, image]), inputs="p")
            (found,) = task.splits["train"].inputs[0]
            assert found.mode == mode and found.size == (3, 2)
    assert found.getpixel((0, 0)) == (0, 0, 0)
    assert make(columns(p=[wide, grey]), inputs="p").splits["train"].inputs[0][0].getpixel((0, 0)) == 7
    refuse(columns(p=[grey, grey.astype(float)]), "input 'p' of train is not an image in row 1: an array of float64 (2, 3)", inputs="p")  # noqa: E501  # fmt: skip
    refuse(columns(p=[grey, None]), "input 'p' of train is missing in 1 of 2 rows", inputs="p")
    refuse(columns(p=[grey, "x.png"]), "it is 'x.png'", "give PIL images", inputs="p")


# Splits.


def test_splits_are_made_and_said() -> None:
    task = make({"train": TEXTS})
    assert task.notes == ("only train was given: a seeded draw of the 20 train rows makes validation (2) and test (2)",)
    assert [len(task.splits[s]) for s in SPLITS] == [16, 2, 2]
    assert sorted(r[0] for s in SPLITS for r in task.splits[s].inputs) == sorted(r["text"] for r in TEXTS)
    assert make({"train": TEXTS}).content == task.content

    task = make({"train": TEXTS, "test": rows("t", "ab")})
    assert task.notes == ("no validation was given: a seeded draw of the 20 train rows makes validation (2)",)
    assert [len(task.splits[s]) for s in SPLITS] == [18, 2, 2]

    task = make({"train": TEXTS, "validation": rows("v", "aab")})
    assert task.notes == (
        "no test was given: validation serves as test, and a seeded draw of the 20 train rows makes validation (2)",
    )
    assert task.splits["test"].inputs[0] == ("v 0",) and [len(task.splits[s]) for s in SPLITS] == [18, 2, 3]


def test_a_draw_leaves_training_a_row_of_each_label() -> None:
    labels = [f"once {i}" for i in range(30)] + ["often"] * 6
    task = make({"train": [{"text": str(i), "label": label} for i, label in enumerate(labels)]})
    assert len(set(task.splits["train"].targets.tolist())) == 31
    assert [len(task.splits[s]) for s in SPLITS] == [31, 4, 1]
    refuse({"train": rows("t", "ab")}, "none of the 2 train rows can be spared", "give more rows")


def test_a_draw_keeps_equal_rows_together() -> None:
    data = {"train": [{"text": str(i // 2), "label": "ab"[i % 4 // 2]} for i in range(100)]}
    task = make(data)
    assert [len(task.splits[s]) for s in SPLITS] == [80, 10, 10] and len(task.notes) == 1
    few = make({"train": [{"text": "xy"[i % 2], "label": "ab"[i % 2]} for i in range(40)]})
    assert [len(few.splits[s]) for s in SPLITS] == [32, 4, 4] and "4 of 4 test rows are also in train" in few.notes


def test_the_draw_is_the_same_for_tasks_on_the_same_rows() -> None:
    other = [{**row, "number": float(i)} for i, row in enumerate(TEXTS)]
    one = make_task("one", kind="classification", inputs="text", target="label", data={"train": other})
    two = make_task("two", kind="regression", inputs="text", target="number", data={"train": other})
    assert one.splits["test"].inputs == two.splits["test"].inputs


def test_repeated_rows_are_noted() -> None:
    data = {
        "train": rows("same", "abab"),
        "validation": rows("other", "ab") + rows("same", "a"),
        "test": rows("same", "abb") + rows("new", "ab"),
    }
    assert make(data).notes == (
        "3 of 5 test rows are also in train",
        "1 of 3 validation rows are also in train",
        "1 of 5 test rows are also in validation",
    )


# Limits.


def test_a_limit_keeps_every_label_and_nests() -> None:
    targets = np.array([0] * 50 + [1] * 50 + [2])
    split = Split([(i,) for i in range(101)], targets)
    strata = targets.tolist()
    small, large = (limit_split(split, n, 3, strata) for n in (10, 30))
    assert len(small) == 10 and set(small.targets.tolist()) == {0, 1, 2}
    assert set(small.inputs) < set(large.inputs) and small.inputs == sorted(small.inputs)
    assert limit_split(split, 10, 4, strata).inputs != small.inputs
    assert len(limit_split(split, 2, 3, strata)) == 2
    assert limit_split(split, 101, 3, strata) is split


def test_limits_of_a_task_do_not_change_its_question() -> None:
    labels = "ab" * 40 + "c"
    data = {"train": rows("train", labels), "validation": rows("v", labels), "test": rows("t", labels)}
    whole = make(data)
    task = make(data, limit={"train": 2, "test": 3})
    assert [len(task.splits[s]) for s in SPLITS] == [2, 81, 3]
    assert task.definition == whole.definition and task.notes == whole.notes
    assert set(task.splits["test"].targets.tolist()) == {0, 1, 2}
    assert make(data, limit=5).splits["train"].inputs == whole.limit({"train": 5}).splits["train"].inputs
    assert whole.limit({"train": 5}, seed=1).content != whole.limit({"train": 5}).content


# The folder on disk.


def tasks_of_every_form() -> dict[str, Task]:
    def make_one(name: str, kind: str, inputs: Any, target: Any, values: dict[str, list[Any]]) -> Task:
        data = {s: {c: v[i::3] for c, v in values.items()} for i, s in enumerate(SPLITS)}
        return make_task(name, kind=kind, inputs=inputs, target=target, data=data, instruction="say é")

    rng = np.random.default_rng(0)
    labels = ["a"] * 3 + ["b"] * 3
    grey = [rng.integers(0, 256, (4, 5), dtype=np.uint8) for _ in range(6)]
    colour = [rng.integers(0, 256, (4, 5, 3), dtype=np.uint8) for _ in range(6)]
    texts = [f"é\n\x00 “{i}”" for i in range(6)]
    made = [
        make_one("text", "classification", "x", "y", {"x": texts, "y": labels}),
        make_one("pair", "regression", ["x", "z"], "y", {"x": texts, "z": texts, "y": [1 / (3 + i) for i in range(6)]}),
        make_one("tags", "token_classification", "x", "y", {"x": [["u", "v w"]] * 6, "y": [["O", "B-x"]] * 6}),
        make_one("grey", "classification", "x", "y", {"x": grey, "y": labels}),
        make_one("colour", "multilabel", "x", "y", {"x": colour, "y": [["p"], [], ["p"], ["q", "p"], [], ["q"]]}),
        make_one(
            "table",
            "regression",
            ["m", "n"],
            "y",
            {"m": [0.1, None, 3, 1e-300, 5, 6], "n": ["s", "t", "u", None, None, "x"], "y": [1, 2, 3, 4, 5, 6]},
        ),
    ]
    return {task.name: task for task in made}


@pytest.mark.parametrize("name", list(tasks_of_every_form()))
def test_saving_and_loading_gives_the_same_task(tmp_path: Path, name: str) -> None:
    task = tasks_of_every_form()[name]
    task.save(tmp_path / "t")
    task.save(tmp_path / "t")  # again, in its place
    found = Task.load(tmp_path / "t")
    assert found.content == task.content
    assert found.definition == task.definition and found.notes == task.notes
    for split in SPLITS:
        assert len(found.splits[split]) == len(task.splits[split])
        for one, other in zip(found.splits[split].targets, task.splits[split].targets, strict=True):
            assert np.array_equal(one, other) and np.asarray(one).dtype == np.asarray(other).dtype
        if task.definition.modality != "image":
            assert found.splits[split].inputs == task.splits[split].inputs
    assert type(found.splits["train"].targets) is type(task.splits["train"].targets)
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == [
        MANIFEST, "definition.json", "test.arrow", "train.arrow", "validation.arrow",
    ]  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_folders_that_are_no_tasks(tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match="the file is not there"):
        Task.load(tmp_path)
    tasks_of_every_form()["text"].save(tmp_path / "t")
    (tmp_path / "t" / "test.arrow").write_bytes(b"ARROW1 but not really")
    with pytest.raises(AllroundError, match="make the task again"):
        Task.load(tmp_path / "t")
    (tmp_path / "t" / "definition.json").write_text(json.dumps({"definition": {"nam": 1}}))
    with pytest.raises(AllroundError, match="not as they were written"):
        Task.load(tmp_path / "t")


def test_loading_needs_neither_datasets_nor_torch(tmp_path: Path) -> None:
    tasks_of_every_form()["tags"].save(tmp_path / "t")
    code = (
        "import sys; from allround.tasks.task import Task; "
        f"t = Task.load({str(tmp_path / 't')!r}); t.content; t.limit({{'train': 1}}); "
        "print([m for m in ('datasets', 'torch', 'pandas', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_room_is_light() -> None:
    code = (
        "import sys, allround.tasks.suite; "
        "print([m for m in ('datasets', 'torch', 'pandas', 'sklearn', 'PIL', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_content_depends_on_every_part() -> None:
    task = make()
    changed = [
        make(swap("test", 2, text="other")),
        make(swap("test", 2, label="a")),
        make(instruction="x"),
        make({**THREE, "train": THREE["train"][::-1]}),
        make(metric="macro_f1"),
    ]
    assert len({t.content for t in [task, *changed]}) == 6
    assert make().content == task.content and len(task.content) == 64


def test_content_is_fast() -> None:
    big = [{"text": f"{i} " + "word " * 20, "label": "ab"[i % 2]} for i in range(10_000)]
    task = make({"train": big, "validation": rows("v", "ab"), "test": rows("t", "ab")})
    started = time.perf_counter()
    first = task.content
    assert time.perf_counter() - started < 0.5  # about 0.03 on a quiet machine
    started = time.perf_counter()
    assert task.content is first
    assert time.perf_counter() - started < 0.01


# Slices.


def test_slices_go_with_the_rows_and_not_into_the_content(tmp_path: Path) -> None:
    languages = ["de", None, "en", "", 7]
    data = {"train": [{**row, "language": languages[i % 5]} for i, row in enumerate(TEXTS)]}
    task, plain = make(data, slices="language"), make({"train": TEXTS})
    assert task.content == plain.content
    known = {row["text"]: languages[i % 5] for i, row in enumerate(data["train"])}
    shown = {"de": "de", None: None, "en": "en", "": None, 7: "7"}
    for split in task.splits.values():
        assert list(split.slices["language"]) == [shown[known[text]] for (text,) in split.inputs]
    task.save(tmp_path / "t")
    again = Task.load(tmp_path / "t")
    assert all(again.splits[s].slices == task.splits[s].slices for s in SPLITS)
    few = again.limit({"train": 3}).splits["train"]
    assert list(few.slices["language"]) == [shown[known[text]] for (text,) in few.inputs]
    refuse(data, "train has no column 'langage'", "did you mean 'language'?", slices=["langage"])
    refuse(data, "`slices` names the column 'a' twice", slices=["a", "a"])


def test_slices_of_a_suite_file_are_as_written(tmp_path: Path) -> None:
    lines = [f"row {i},{'ab'[i % 2]},0{i % 3}" for i in range(20)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label,region", *lines]) + "\n")
    task = {"source": "a.csv", "kind": "classification", "inputs": "text", "target": "label", "slices": "region"}
    (tmp_path / "s.yml").write_text(json.dumps({"tasks": {"mood": task}}))
    found = Suite.load(tmp_path / "s.yml")["mood"].splits["train"]
    assert list(found.slices["region"]) == [f"0{int(text.split()[1]) % 3}" for (text,) in found.inputs]
