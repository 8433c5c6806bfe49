"""Tasks of collections, read from small files written here: what they become, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError

from allround.core.errors import AllroundError
from allround.core.registry import load
from allround.tasks.collection import ImportedTask, found_files, import_tasks
from allround.tasks.collections._jinja import render, rendered
from allround.tasks.suite import Suite

NATURAL: dict[str, Any] = {
    "Definition": ["Say whether the number is {prime}."],
    "Categories": ["Mathematics"],
    "Positive Examples": [{"input": "7", "output": "Yes", "explanation": "it is"}, {"input": "8", "output": "No"}],
    "Instances": [
        {"id": str(i), "input": f"number {i}", "output": ["Yes", "yes"] if i % 2 else ["No"]} for i in range(12)
    ],
}

TEMPLATES = """
dataset: toy
subset: small
templates:
  1a: !Template
    answer_choices: bad ||| good
    id: 1a
    jinja: 'Is "{{text}}" bad or good? ||| {{ answer_choices[label] }}'
    metadata: !TemplateMetadata
      choices_in_prompt: true
      metrics: [Accuracy]
      original_task: true
    name: bad or good
    reference: ''
  1b: !Template
    answer_choices: bad ||| good
    jinja: '{{text}} Was it {{ answer_choices | join(", ") }}? ||| {{ answer_choices[label] }}'
    name: was it
  1c: !Template
    answer_choices: '{{words | join("|||")}}'
    jinja: '{{text}} Which word is there? ||| {{ words[label] }}'
    name: which word
  1d: !Template
    answer_choices: null
    jinja: '{% if label == 1 %}Repeat: {{text}} ||| {{text}}{% endif %}'
    metadata: !TemplateMetadata
      metrics: [ROUGE]
    name: repeat
"""


def natural(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "task1_prime.json"
    path.write_text(json.dumps({**NATURAL, **changes}))
    return path


def toy(tmp_path: Path, templates: str = TEMPLATES) -> tuple[list[Path], dict[str, Any]]:
    rows = [{"text": f"a ||| film {i}", "label": i % 2, "words": ["film", f"x{i}"]} for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "templates.yaml").write_text(templates)
    return [tmp_path / "templates.yaml"], {"data": str(tmp_path / "rows.jsonl")}


def read(collection: str, paths: list[Path], **parameters: Any) -> list[ImportedTask]:
    made: list[ImportedTask] = load("collection", collection)(paths, **parameters)
    return made


def test_a_file_of_the_first_edition_is_put_as_its_authors_put_it(tmp_path: Path) -> None:
    """The lines of `encodeinstruction` of its authors, for definition, prompt, emphasis and positive examples."""
    path = tmp_path / "subtask002_quoref.json"
    positive = [{"input": "Who {is} it?", "output": "Oliver.", "reason": "He is named.", "suggestion": "-"},
                {"input": "And then?", "output": "Fagin.", "reason": "-", "suggestion": "-"}]  # fmt: skip
    path.write_text(json.dumps({
        "Title": "Answers", "Definition": "Write answers. ", "Prompt": "Answer it.", "Things to Avoid": "-",
        "Emphasis & Caution": "Be brief.", "Examples": {"Positive Examples": positive, "Negative Examples": ["-"]},
        "Instances": [{"input": f"Question {n}?", "output": ["one", "two"]} for n in range(3)]}))  # fmt: skip
    (task,) = read("natural_instructions", [path], shots=2)
    wanted = ("Definition: Write answers.\nPrompt: Answer it.\nEmphasis & Caution: Be brief.\n"
              "Positive Example1- \ninput: Who {{is}} it?\noutput: Oliver.\nreason: He is named.\n"
              "Positive Example2- \ninput: And then?\noutput: Fagin.\ninput: {input}\noutput:")  # fmt: skip
    assert task.about["prompt"] == wanted and task.about["metric"] == "rouge_l"
    assert task.rows["train"][0] == {"input": "Question 0?", "output": ["one", "two"]}
    with pytest.raises(AllroundError, match="it has 2 positive examples, and 3 were asked for"):
        read("natural_instructions", [path], shots=3)


def test_a_file_of_natural_instructions_becomes_a_task(tmp_path: Path) -> None:
    path = natural(tmp_path)
    import_tasks("natural_instructions", found_files([str(tmp_path / "task*.json")]), tmp_path / "out",
                 parameters={"shots": 1})  # fmt: skip
    task = Suite.load(tmp_path / "out" / "suite.yml")["task1_prime"]
    assert task.definition.kind == "text" and task.definition.metric == "rouge_l"
    assert task.definition.category == "Mathematics"
    assert task.definition.prompt is not None
    assert task.definition.prompt.templates == (
        "Definition: Say whether the number is {{prime}}.\n\nPositive Example 1 -\nInput: 7\nOutput: Yes\n\n"
        "Now complete the following example -\nInput: {input}\nOutput:",
    )
    every = {
        row[0]: answers for part in task.splits.values() for row, answers in zip(part.inputs, part.targets, strict=True)
    }
    assert every["number 3"] == ("Yes", "yes") and every["number 4"] == ("No",) and len(every) == 12
    with pytest.raises(AllroundError, match="2 positive examples, and 3 were asked for"):
        read("natural_instructions", [path], shots=3)


def test_instances_without_an_answer_and_equal_ones_are_left_out_with_a_note(tmp_path: Path) -> None:
    more = [
        {"id": "x", "input": "?", "output": ["", " "]},
        {"id": "y", "input": " ", "output": ["No"]},
        NATURAL["Instances"][0],
    ]
    (task,) = read("natural_instructions", [natural(tmp_path, Instances=[*NATURAL["Instances"], *more])])
    assert len(task.rows["train"]) == 12
    assert task.notes == (
        "2 instances without an input or an answer left out",
        "1 instance with the id of an equal one left out",
    )


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"Definition": [""]}, "its Definition is empty"),
        ({"Definition": None}, "Definition is neither a text nor a list of texts"),
        ({"Instances": {}}, "its Instances are not a list"),
        ({"Instances": [{"input": 3, "output": ["x"]}]}, "instance 0 has no text as its input"),
        ({"Instances": [{"input": "a", "output": [1]}]}, "the output of instance 0 is neither"),
        ({"Instances": [{"input": "a", "output": [""]}]}, "no instance has an input and an answer"),
        (
            {"Instances": [{"id": "1", "input": t, "output": ["x"]} for t in "ab"]},
            "two different instances have the id '1'",
        ),
    ],
)
def test_files_that_are_no_natural_instructions_are_refused(tmp_path: Path, changes: Any, found: str) -> None:
    with pytest.raises(AllroundError) as error:
        read("natural_instructions", [natural(tmp_path, **changes)])
    assert found in error.value.found and "task1_prime.json" in error.value.asked


def test_templates_become_tasks_of_the_kind_that_their_choices_ask_for(tmp_path: Path) -> None:
    paths, parameters = toy(tmp_path)
    first, second, third, fourth = read("promptsource", paths, **parameters)
    assert first.name == "toy_small_bad_or_good" and first.about["kind"] == "classification"
    assert first.rows["train"][1] == {"prompt": 'Is "a ||| film 1" bad or good?', "answer": "good"}
    assert first.about["choices"] == {"bad": "bad", "good": "good"}
    assert second.rows["train"][0] == {"prompt": "a ||| film 0 Was it bad, good?", "answer": "bad"}
    assert third.about["kind"] == "multiple_choice" and third.about["choices"] == "options"
    assert third.rows["train"][3] == {
        "prompt": "a ||| film 3 Which word is there?",
        "answer": 1,
        "options": ["film", "x3"],
    }
    assert fourth.about == {"kind": "text", "inputs": ["prompt"], "target": "answer", "prompt": "{prompt}",
                            "metric": "rouge_l"}  # fmt: skip
    # Values that hold the bars do not part the text; rows that the template is silent on are left out.
    assert fourth.rows["train"][0] == {"prompt": "Repeat: a ||| film 1", "answer": "a ||| film 1"}
    assert fourth.notes == ("6 rows without a prompt or an answer left out",)


def test_several_templates_become_prompts_of_one_task(tmp_path: Path) -> None:
    paths, parameters = toy(tmp_path)
    parameters |= {"together": True, "templates": ("bad or good", "was it")}
    import_tasks("promptsource", paths, tmp_path / "out", parameters=parameters)
    task = Suite.load(tmp_path / "out" / "suite.yml")["toy_small"]
    assert task.definition.prompt is not None and task.definition.prompt.templates == ("{prompt_1}", "{prompt_2}")
    assert task.definition.labels == ("bad", "good")
    parameters["templates"] = ("bad or good", "repeat")
    with pytest.raises(AllroundError, match="'bad or good' and 'repeat' give other answers"):
        read("promptsource", paths, **parameters)
    parameters |= {"together": False, "templates": ("which word",)}
    import_tasks("promptsource", paths, tmp_path / "own", parameters=parameters)
    own = Suite.load(tmp_path / "own" / "suite.yml")["toy_small_which_word"]
    assert own.definition.kind == "multiple_choice"
    answers = {
        row: target for part in own.splits.values() for (row, _), target in zip(part.inputs, part.targets, strict=True)
    }
    assert answers["a ||| film 3 Which word is there?"] == 1 and answers["a ||| film 4 Which word is there?"] == 0


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{{ ''.__class__.__mro__ }} ||| x", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ text|attr('__class__') }} ||| x", "unsafe"),
        ("{{ text.format.__globals__ }} ||| x", "unsafe"),
        ("{{ words.append('x') }} ||| x", "unsafe"),
        ("{{ 'a' * 10**9 }} ||| x", "a product of more than"),
        ("{{ 10**9999 }} ||| x", "a power that is too large"),
        ("{{ '%1000000000d' % 1 }} ||| x", "not formatted with %"),
        ("{{ cycler }} ||| x", "'cycler' is undefined"),
        ("{{ title }} ||| x", "'title' is undefined"),
        ("{% include '/etc/passwd' %} ||| x", "no loader"),
        ("{% for i in range(99999) %}{{ text }}, {% endfor %} ||| x", "more than 200,000 letters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }} ||| x", "calls itself"),
        ("{{ text", "unexpected end"),
    ],
)
def test_hostile_templates_are_refused(template: str, found: str) -> None:
    with pytest.raises((TemplateError, TypeError, ValueError, RecursionError)) as error:
        list(rendered(template, None, [{"text": "x", "words": ["a"]}]))
    said = "calls itself" if isinstance(error.value, RecursionError) else str(error.value)
    assert found in said


def test_a_template_is_rendered_within_limits_of_time_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert render("{{x}} ||| {{answer_choices[0]}}", ["b|c"], [{"x": 1}], "try")[0] == {
        "parts": ["1", "b|c"],
        "choices": ["b|c"],
    }
    with pytest.raises(AllroundError, match="row 0 takes too much memory") as error:
        render("{{ 'a'.ljust(4000000000) }} ||| x", None, [{}], "render the template 't'")
    assert error.value.asked == "render the template 't'"
    monkeypatch.setattr("allround.tasks.collections._jinja.SECONDS", 1)
    loop = "{% for x in range(9999) %}"
    loops = f"{3 * loop}{3 * '{% endfor %}'}"
    with pytest.raises(AllroundError, match="it took more than 1 seconds"):
        render(loops, None, [{}], "try")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (("answer_choices[label] }}'", "answer_choices[label] }} ||| z'"), "row 0 has 2 bars"),
        (
            ("||| {{ answer_choices[label] }}'", "||| ugly'"),
            "the answer of row 0 is 'ugly', which is none of its choices",
        ),
        (("name: was it", "name: bad or good"), "two templates are called 'bad or good'"),
        (("dataset: toy", "dataset: !!python/object/apply:os.system [ls]"), "could not determine a constructor"),
        (("!TemplateMetadata", "!Evil"), "could not determine a constructor for the tag '!Evil'"),
        (("templates:", "other:"), "it has no `templates`"),
    ],
)
def test_template_files_with_mistakes_are_refused(tmp_path: Path, change: tuple[str, str], found: str) -> None:
    paths, parameters = toy(tmp_path, TEMPLATES.replace(*change))
    with pytest.raises(AllroundError) as error:
        read("promptsource", paths, **parameters, templates=("bad or good",))
    assert found in error.value.found


ANNOTATIONS = """
pairs: {type: Classification, dataset_name: data, splits: [one.jsonl, null, two.jsonl], sentence1: a.text,
        sentence2: [b, c], labels: y, label_values: {0: same, 1: other}, question: Is it the same?}
pick: {type: MultipleChoice, dataset_name: data/one.jsonl, inputs: b, choices: [b, c], labels: {constant: 0}}
listed: {type: MultipleChoice, dataset_name: data/one.jsonl, inputs: b, choices_list: a.list, labels: y}
tags: {type: TokenClassification, dataset_name: data/one.jsonl, tokens: w, labels: t}
much: {dataset_name: data/one.jsonl, sentence1: b, labels: z}
"""


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    rows = [{"a": {"text": f"t{i}", "list": [f"p{i}", f"q{i}"]}, "b": f"b{i}", "c": f"c{i}", "y": i % 2, "z": i / 2,
             "w": ["so", f"w{i}"], "t": ["O", "B-x"]} for i in range(8)]  # fmt: skip
    (tmp_path / "data").mkdir()
    for name, part in (("one", rows), ("two", rows[:4])):
        (tmp_path / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    path = tmp_path / "annotations.yml"
    path.write_text(ANNOTATIONS)
    return path


def test_annotations_name_columns_and_become_tasks(annotations: Path) -> None:
    pairs, pick, listed, tags, much = read("tasksource", [annotations])
    assert {split: len(rows) for split, rows in pairs.rows.items()} == {"train": 8, "test": 4}
    assert pairs.rows["train"][3] == {"sentence1": "t3", "sentence2": "b3 c3", "labels": "1"}
    assert pairs.about["labels"] == {"0": "same", "1": "other"} and pairs.about["instruction"] == "Is it the same?"
    assert pick.rows["train"][2] == {"inputs": "b2", "options": ["b2", "c2"], "labels": 0}
    assert listed.rows["train"][1] == {"inputs": "b1", "options": ["p1", "q1"], "labels": 1}
    assert tags.rows["train"][0] == {"tokens": ["so", "w0"], "labels": ["O", "B-x"]}
    assert [task.about["kind"] for task in (pairs, pick, tags, much)] == [
        "classification", "multiple_choice", "token_classification", "regression"]  # fmt: skip


def test_an_imported_annotation_is_a_task_of_a_suite(annotations: Path, tmp_path: Path) -> None:
    import_tasks("tasksource", [annotations], tmp_path / "out", hold_out=["listed", "elsewhere"])
    suite = Suite.load(tmp_path / "out" / "suite.yml")
    assert suite["pairs"].definition.labels == ("other", "same") and len(suite["pairs"].splits["test"]) == 4
    assert [task.name for task in suite if not task.definition.trained] == ["listed"]
    listed = suite["listed"].splits["train"]
    row = listed.inputs.index(("b3", ["p3", "q3"]))
    assert listed.targets[row] == 1 and suite["listed"].definition.labels == ("A", "B")
    assert suite["tags"].definition.labels == ("O", "B-x") and suite["much"].definition.kind == "regression"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x: {type: Regression}", "its type is 'Regression'"),
        ("x: {labels: y}", "it names no data set"),
        ("x: {dataset_name: data/one.jsonl, sentence: b}", "there is no key 'sentence'"),
        ("x: {dataset_name: data/one.jsonl, sentence1: 'lambda x: x', labels: y}", "there is no column 'lambda x: x'"),
        ("x: {dataset_name: data/one.jsonl, sentence1: b, labels: {call: os}}", "labels is {'call': 'os'}"),
        ("x: {type: MultipleChoice, dataset_name: data/one.jsonl, inputs: b}", "`choices` or `choices_list`"),
        ("x: {dataset_name: data/one.jsonl, splits: [train]}", "splits is ['train']"),
        ("x: !!python/name:os.system", "could not determine a constructor"),
        ("[a]", "they are not a mapping"),
    ],
)
def test_annotations_with_mistakes_are_refused(annotations: Path, text: str, found: str) -> None:
    annotations.write_text(text)
    with pytest.raises(AllroundError) as error:
        read("tasksource", [annotations])
    assert found in error.value.found


def test_two_tasks_of_one_name_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = natural(tmp_path)
    (tmp_path / "b").mkdir()
    other = natural(tmp_path / "b")
    with pytest.raises(AllroundError, match="two tasks are called 'task1_prime'"):
        import_tasks("natural_instructions", [path, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(AllroundError, match="there is no such file"):
        found_files([str(tmp_path / "none*.json")])
