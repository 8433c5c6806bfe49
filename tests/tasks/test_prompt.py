"""Prompts: templates, choices, demonstrations, and what is refused."""

from __future__ import annotations

import pytest

from allround.core.errors import AllroundError
from allround.tasks.definition import Definition
from allround.tasks.make import make_task
from allround.tasks.spec import parse_suite

ROWS = [{"message": f"{word} {i}", "topic": topic} for i in range(12) for word, topic in (("gone", 1), ("slow", 0))]


def parcels(**words):
    return make_task("topic", kind="classification", inputs="message", target="topic",
                     labels={0: "late", 1: "lost"}, data={"train": ROWS}, **words)  # fmt: skip


def test_a_prompt_stands_in_the_definition_and_is_read_back():
    task = parcels(
        prompt="Message: {message}\nTopic:", choices={1: "a lost parcel", "late": "a late parcel"}, chat="no"
    )
    prompt = task.definition.prompt
    assert prompt.choices == ("a late parcel", "a lost parcel")  # in the order of the labels
    assert (prompt.templates, prompt.chat) == (("Message: {message}\nTopic:",), "no")
    assert Definition.from_json(task.definition.to_json()) == task.definition


def test_a_task_without_words_is_written_as_before():
    assert not {"prompt", "head"} & parcels().definition.to_json().keys()


def test_shots_are_training_rows_with_the_words_of_their_labels():
    task = parcels(shots=2, choices={"late": "a late parcel"})
    shots = task.definition.prompt.demonstrations
    train = {row[0]: int(target) for row, target in zip(*_of(task), strict=True)}
    assert {shot.answer for shot in shots} == {"a late parcel", "lost"}  # one of each label
    assert all((train[shot.inputs[0]] == 1) == (shot.answer == "lost") for shot in shots)


def _of(task):
    split = task.splits["train"]
    return split.inputs, split.targets


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ({"prompt": "Message: {mesage}"}, "names 'mesage', which is no input"),
        ({"prompt": "{message.__class__}"}, "not the name of a column"),
        ({"prompt": "{message!r:>10}"}, "not the name of a column"),
        ({"prompt": "{message"}, "cannot be read"),
        ({"prompt": "{}"}, "not the name of a column"),
        ({"choices": {"late": " "}}, "a choice is blank"),
        ({"choices": {"late": "lost"}}, "two labels have the same choice, 'lost'"),
        ({"choices": {"gone": "x"}}, "names the label 'gone'"),
        ({"choices": ["late", "lost"]}, "`choices` is ['late', 'lost']"),
        ({"choices": {"late": 1}}, "`choices` is {'late': 1}"),
        ({"choices": "options"}, "`choices` names the column 'options', which is no input"),
        ({"shots": 99}, "`shots` is 99, and there are"),
        ({"stop": ""}, "`stop` holds an empty text"),
        ({"extract": "("}, "`extract` is not a regular expression"),
        ({"head": "lineer"}, "`head` is 'lineer'"),
    ],
)
def test_what_makes_no_prompt_is_refused(words, found):
    with pytest.raises(AllroundError) as error:
        parcels(**words)
    assert found in error.value.found
    assert error.value.do


@pytest.mark.parametrize("choices", [["low", "high"], {"low": "l"}])
def test_numbers_have_no_choices(choices):
    rows = [{"text": f"row {row}", "much": float(row)} for row in range(20)]
    with pytest.raises(AllroundError, match="targets of the kind regression have no labels"):
        make_task("much", kind="regression", inputs="text", target="much", data={"train": rows}, choices=choices)


def test_a_suite_file_says_the_same_words():
    spec = parse_suite(
        """
        tasks:
          topic:
            source: messages.csv
            kind: classification
            inputs: message
            target: topic
            prompts: ["Message: {message}", "About {message}?"]
            choices: {lost: a lost parcel}
            stop: "."
            shots: 3
        """,
        name="support",
    )
    words = spec.tasks["topic"].words
    assert words["prompt"] == ("Message: {message}", "About {message}?")
    assert (words["choices"], words["stop"], words["shots"]) == ({"lost": "a lost parcel"}, (".",), 3)
    with pytest.raises(AllroundError, match="`prompt` and `prompts` together"):
        parse_suite(
            "tasks: {t: {source: a.csv, kind: regression, inputs: x, target: y, prompt: a, prompts: [b]}}", name="s"
        )
