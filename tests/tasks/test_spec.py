"""The suite file: what is read, and the words of every refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from allround.core.errors import AllroundError
from allround.tasks import spec as spec_module
from allround.tasks.spec import SuiteSpec, parse_suite, read_suite

TASK = {"source": "mood.csv", "kind": "classification", "inputs": "text", "target": "label"}
FULL = """
name: support
description: two tasks
base: all-MiniLM-L6-v2
limit: 1000
tasks:
  trec:
    source: {hub: CogComp/trec, revision: main, columns: {coarse_label: label}}
    local: trec
    kind: classification
    inputs: text
    target: label
    modality: text
    metric: accuracy
    labels: {0: no, 1: yes}
    instruction: say what is asked for
    limit: {test: 500}
  pair:
    source: {train: a.jsonl, test: b.csv}
    kind: multilabel
    inputs: [one, two]
    target: [x, y]
"""


def refuse(text: str, *words: str) -> AllroundError:
    with pytest.raises(AllroundError) as caught:
        parse_suite(text, name="s")
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return caught.value


def with_task(**changes: object) -> str:
    return yaml.safe_dump({"tasks": {"trec": {**TASK, **changes}}})


def test_everything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "s.yml"
    path.write_text(FULL)
    spec = read_suite(path)
    assert (spec.name, spec.base, spec.limit) == ("support", "all-MiniLM-L6-v2", {"train": 1000})
    trec, pair = spec.tasks["trec"], spec.tasks["pair"]
    assert trec.source.hub == "CogComp/trec" and trec.source.columns == {"coarse_label": "label"}
    assert trec.local is not None and trec.local.name == "trec"
    assert trec.labels == {0: "no", 1: "yes"}  # not truth values
    assert trec.limit == {"test": 500} and trec.inputs == ("text",)
    assert pair.source.files == {"train": "a.jsonl", "test": "b.csv"}
    assert pair.inputs == ("one", "two") and pair.target == ("x", "y")


def test_the_name_is_the_file_stem_by_default(tmp_path: Path) -> None:
    path = tmp_path / "moods.yml"
    path.write_text(with_task())
    assert read_suite(path).name == "moods"


@pytest.mark.parametrize(("file", "better"), [("my.suite.yml", "my_suite"), ("a b.yml", "a_b"), ("...yml", "suite")])
def test_a_file_whose_name_is_none_for_a_suite(tmp_path: Path, file: str, better: str) -> None:
    path = tmp_path / file
    path.write_text(with_task())
    with pytest.raises(AllroundError) as caught:
        read_suite(path)
    assert f"read the suite file '{path}'" in caught.value.asked and "it has no `name`" in caught.value.found
    assert caught.value.do == f"write `name: {better}` in the file, or rename it"
    path.write_text(f"name: {better}\n" + with_task())
    assert read_suite(path).name == better


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (with_task(metrc="accuracy"), ["tasks.trec.metrc: there is no such key", "did you mean 'metric'?"]),
        ("nam: x\n" + with_task(), ["nam: there is no such key", "did you mean 'name'?"]),
        (with_task(source={"hb": "x/y"}), ["tasks.trec.source.hb", "did you mean 'hub'?"]),
        (with_task(limit={"tran": 5}), ["tasks.trec.limit.tran: there is no such key", "did you mean 'train'?"]),
        (
            "tasks: {trec: {source: a, kind: regression, inputs: x}}",
            ["tasks.trec.target: it is missing", "add `target`"],
        ),
        ("name: x", ["tasks: it is missing"]),
        ("tasks: {}", ["tasks: it is empty"]),
        (with_task(instruction=3), ["tasks.trec.instruction: 3", "put the value in quotes"]),
        (with_task(instruction=[]), ["tasks.trec.instruction: the list is empty", "give one text, or a list such as"]),
        (with_task(instruction=["a", 3]), ["tasks.trec.instruction: 3 in the list is not a text", "put it in quotes"]),
        (with_task(instruction=["a", "a"]), ["tasks.trec.instruction: the instruction 'a' stands twice", "once"]),
        (with_task(instruction=["a", ""]), ["tasks.trec.instruction: an instruction in the list is blank", "take it"]),
        (with_task(inputs=[]), ["tasks.trec.inputs: it is empty"]),
        (with_task(inputs=[1]), ["tasks.trec.inputs.0: 1", "quotes"]),
        (with_task(target={"a": 1}), ["tasks.trec.target"]),
        (with_task(limit=0), ["tasks.trec.limit", "greater than or equal to 1"]),
        (with_task(limit="many"), ["tasks.trec.limit: 'many'"]),
        (with_task(modality="audio"), ["tasks.trec.modality: there is no modality of that name", "image, table, text"]),
        (with_task(labels={0: 1}), ["tasks.trec.labels.0", "quotes"]),
        (
            with_task(source={"hub": "a", "path": "b"}),
            ["tasks.trec.source", "path and hub together", "one of path, hub"],
        ),
        (with_task(source={}), ["tasks.trec.source", "no place"]),
        (with_task(source={"path": "a", "config": "b"}), ["config, revision and splits belong to a Hub id"]),
        (with_task(kind="clasification"), ["tasks.trec.kind", "did you mean 'classification'?"]),
        (with_task(kind="pair_classification"), ["use kind: classification with two input columns"]),
        (with_task(kind="text_pair_classification"), ["use kind: classification with two input columns"]),
        (with_task(kind="pair_regression"), ["use kind: regression with two input columns"]),
        (with_task(metric="acuracy"), ["tasks.trec.metric", "did you mean 'accuracy'?"]),
        (with_task(metric="pearson"), ["tasks.trec.metric", "'pearson' is for regression", "accuracy"]),
        (yaml.safe_dump({"tasks": {"../x": TASK}}), ["'../x'", "not safe"]),
        (yaml.safe_dump({"name": "a/b", "tasks": {"x": TASK}}), ["'a/b'", "not safe"]),
        (yaml.safe_dump({"tasks": {3: TASK}}), ["tasks.3: this key should be text", "quotes"]),
        ("tasks:\n  a: {kind: x}\n  a: {kind: y}\n", ["line 3", "the key 'a' stands twice"]),
        ("tasks:\n  a: [1,\n", ["line 3", "correct the YAML"]),
        ("- a\n- b\n", ["it holds ['a', 'b']", "mapping with the key `tasks`"]),
        ("", ["it holds None"]),
        ("tasks: 3", ["tasks: 3", "mapping"]),
        ("\x00", ["YAML"]),
        ("tasks: !!python/object/apply:os.system [ls]", ["could not determine a constructor"]),
        ("a: &a [*a]\ntasks: *a", ["line 1", "an alias that holds itself"]),
        ("tasks: {}\n---\ntasks: {}", ["it holds 2 documents", "'---'"]),
        ("[" * 3000, ["exceeded maximum nesting depth"]),
        ("? [a]\n: b\n", ["line 1"]),
        ("tasks: 2024-13-45", ["YAML"]),
    ],
)
def test_refusals(text: str, words: list[str]) -> None:
    refuse(text, *words)


def test_all_problems_are_said() -> None:
    found = refuse(
        with_task(metrc="a", knd="b"), "2 problems\n1. tasks.trec.knd: there is no such key", "did you mean 'kind'?",
        "2. tasks.trec.metrc: there is no such key",
    )  # fmt: skip
    assert "it is missing" not in found.found
    refuse(with_task(metric="acuracy", kind="regression", modality="txt"), "2 problems", "1. tasks.trec.metric: ",
           "2. tasks.trec.modality: ")  # fmt: skip


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    refuse("\n".join([*lines, "tasks: *a11"]), "line 6", "more than 200,000 values")
    task = "tasks: {t: {source: *a11, kind: regression, inputs: *a11, target: *a11}}"
    refuse("\n".join([*lines, task]), "line 6", "more than 200,000 values")
    refuse("\n".join([*lines[:4], "tasks: *a3"]), "a0", "there is no such key")


def test_anchors_may_be_used() -> None:
    spec = parse_suite(
        "tasks:\n  a: &a {source: x.csv, kind: regression, inputs: x, target: y}\n  b: {<<: *a, target: z}\n",
        name="s",
    )
    assert (spec.tasks["a"].target, spec.tasks["b"].target) == ("y", "z")


def test_files_that_cannot_be_suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AllroundError, match="the file is not there"):
        read_suite(tmp_path / "no.yml")
    with pytest.raises(AllroundError, match="it is a folder, not a file"):
        read_suite(tmp_path)
    binary = tmp_path / "b.yml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AllroundError, match="not UTF-8"):
        read_suite(binary)
    monkeypatch.setattr(spec_module, "MAX_BYTES", 100)
    big = tmp_path / "big.yml"
    big.write_text("#" * 101)
    with pytest.raises(AllroundError, match="it has 101 bytes; a suite file has at most 100"):
        read_suite(big)


def checked(text: str) -> None:
    try:
        assert isinstance(parse_suite(text, name="s"), SuiteSpec)
    except AllroundError as error:
        assert error.asked and error.found and error.do
        assert len(str(error)) < 5000


fuzz = settings(max_examples=50, deadline=None, derandomize=True)
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
nested = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain, inner, max_size=3), max_leaves=8
)


@fuzz
@given(st.text(alphabet="ab:{}[]&*!?|>-#'\"%@ \n\t,0~<\x00\ud800", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    checked(text)


@fuzz
@given(st.sampled_from(["name", "limit", "base", "tasks", "x"]), nested)
def test_any_value_of_a_suite_is_read_or_refused(key: str, value: object) -> None:
    checked(yaml.safe_dump({"tasks": {"t": TASK}, key: value}))


@fuzz
@given(st.sampled_from([*spec_module.TaskSpec.model_fields, "x"]), nested)
def test_any_value_of_a_task_is_read_or_refused(key: str, value: object) -> None:
    checked(yaml.safe_dump({"tasks": {"t": {**TASK, key: value}}}))


def test_a_key_that_is_not_text_of_unicode() -> None:
    with pytest.raises(AllroundError) as caught:
        parse_suite('{"lim\\ud800t": 1, tasks: {}}', name="s", asked="read it")
    assert "Unicode" in caught.value.found and caught.value.do == "correct the YAML there"
