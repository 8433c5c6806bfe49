"""What every modality must hold, whichever modalities there are."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from allround.core import registry
from allround.core.errors import AllroundError
from allround.tasks.definition import Definition
from allround.tasks.make import make_task
from allround.tasks.modality import Modality, modality, modality_of
from allround.tasks.values import Row

PICTURE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)

#: Two values of a column as data hold them. A new modality adds its own here.
SAMPLES: dict[str, list[Any]] = {
    "text": ["one “é”", ["two", "words"]],
    "image": [PICTURE, PICTURE + 1],
    "table": [1, 2.5],
    "fields": [[1, 2.5], ["a", 3]],
}


@pytest.fixture(params=registry.names("modality"))
def name(request: pytest.FixtureRequest) -> str:
    assert request.param in SAMPLES, f"add sample values of '{request.param}' to SAMPLES"
    return str(request.param)


def columns_of(rules: Modality) -> list[int]:
    return [1, 2] if rules.most_columns is None or rules.most_columns >= 2 else [1]


def refused(found: str, do: str) -> AllroundError:
    return AllroundError("read a column", found, do)


def test_each_value_is_recognised_by_one_modality_alone(name: str) -> None:
    for value in SAMPLES[name]:
        assert [other for other in registry.names("modality") if modality(other).recognises(value)] == [name]


def test_what_is_read_can_be_given_to_a_model(name: str) -> None:
    rules = modality(name)
    found = rules.read("x", {"train": SAMPLES[name], "test": SAMPLES[name][:1]}, refused)
    assert [len(found[split]) for split in ("train", "test")] == [2, 1]
    assert all(rules.fits(value) for values in found.values() for value in values)


def test_what_is_read_is_kept_on_disk(name: str) -> None:
    import pyarrow as pa

    rules = modality(name)
    values = rules.read("x", {"train": SAMPLES[name]}, refused)["train"]
    kept = rules.from_arrow(pa.chunked_array([rules.to_arrow(values)]))
    assert [np.asarray(value).tolist() for value in kept] == [np.asarray(value).tolist() for value in values]


def test_a_wrong_value_is_refused_with_the_column_and_the_split(name: str) -> None:
    rules = modality(name)
    assert not rules.fits(object())
    with pytest.raises(AllroundError, match="input 'x' of test"):
        rules.read("x", {"train": SAMPLES[name], "test": [object()]}, refused)


def test_its_example_is_a_row_of_it_on_every_way(name: str) -> None:
    import shlex

    rules = modality(name)
    for columns in columns_of(rules):
        example = rules.example(columns)
        assert len(example.row) == len(shlex.split(example.words)) == columns
        assert all(rules.fits(value) for value in example.row)
        if not example.imports:  # the others open a file that is not there
            (row,) = eval(example.python)
            row = row if isinstance(row, tuple) else (row,)
            words = tuple(rules.parse(word, 0) for word in shlex.split(example.words))
            assert row == words and all(rules.fits(value) for value in row)


def test_numbers_of_a_row() -> None:
    image = modality("image").numbers((modality("image").read("x", {"train": [PICTURE]}, refused)["train"][0],))
    assert image is not None and image.dtype == np.float32 and image.shape == (3, 2, 4)
    assert np.allclose(image, PICTURE.transpose(2, 0, 1) / 255)
    row: Row = (1.0, 2.5)
    table = modality("table").numbers(row)
    assert table is not None and table.dtype == np.float32 and table.tolist() == [1.0, 2.5]
    assert modality("text").numbers(("one",)) is None


def test_a_pair_is_two_columns_of_a_modality_that_pairs() -> None:
    pairs = {
        (name, columns): Definition("t", "classification", tuple("abc"[:columns]), name, "accuracy").pair
        for name in registry.names("modality")
        for columns in (1, 2, 3)
    }
    assert [key for key, is_pair in pairs.items() if is_pair] == [("text", 2)]


def test_tasks_that_ask_about_each_word_take_lists_of_words() -> None:
    rules = modality_of(Definition("t", "token_classification", ("x",), "text", "span_f1"))
    assert rules.parse("so good", 0) == ["so", "good"] and rules.fits(["so"]) and not rules.fits("so")
    assert rules.example(1).python == '[["Some", "text"]]'
    with pytest.raises(AllroundError, match="its modality image has no words"):
        modality_of(Definition("t", "token_classification", ("x",), "image", "span_f1"))
    with pytest.raises(AllroundError, match="takes one column of words"):
        make_task("t", kind="token_classification", inputs="x", target="y", modality="table", data={"train": []})


def test_modalities_are_found_without_their_libraries() -> None:
    code = (
        "import sys; from allround.core import registry; from allround.tasks.modality import modality; "
        "[modality(name) for name in registry.names('modality')]; "
        "print([m for m in ('torch', 'PIL', 'pyarrow', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_wrong_with_each_split_of_a_column_is_said_at_once() -> None:
    data = {"train": {"x": ["a", None], "y": ["u", "v"]}, "test": {"x": ["a", 3.5], "y": ["u", "v"]}}
    with pytest.raises(AllroundError) as error:
        make_task("t", kind="classification", inputs="x", target="y", data=data)
    assert error.value.found.startswith("2 problems")
    assert "input 'x' of train is missing in 1 of 2 rows" in error.value.found
    assert "input 'x' of test is not text in 1 of 2 rows" in error.value.found
