"""What is said of a task's data before anything is trained; real files as people write them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from allround.cli.app import app
from allround.models.base import load_encoder
from allround.models.long_texts import check_lengths
from allround.tasks.checks.run import check_task
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import SPLITS, Task

PHRASES = ["Lieferung kam zu spät 😡", "Rechnung doppelt bezahlt", "The app crashes", "Danke, alles super 👍"]
TOPICS = ["delivery", "billing", "bug", "praise"]


def codes(task: Task) -> list[str]:
    return [finding.code for finding in check_task(task)]


def words(task: Task, code: str) -> list[str]:
    return [str(finding) for finding in check_task(task) if finding.code == code]


def make(columns: dict[str, list[Any]], inputs: list[str], **changes: Any) -> Task:
    options: dict[str, Any] = {"kind": "classification", "target": "y", "modality": "table", **changes}
    return make_task("t", inputs=inputs, data={"train": columns}, **options)


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two targets, missing ones, a rare label, one in other letters, repeats, emojis and German."""
    folder = tmp_path_factory.mktemp("messages")
    rows = [
        (f"{PHRASES[i % 4]} {i}", TOPICS[i % 4], ["1", "2", ""][i % 3], "de" if i % 2 else "en") for i in range(120)
    ]
    rows += [("Das Fax ist kaputt", "fax", "2", "de"), ("Fax broken", "fax", "1", "en"), ("Fax!", "fax", "2", "de")]
    rows += [("The app crashes 2", "Bug ", "1", "en"), ("  ", "praise", "1", "en"), *[("Twice", "bug", "1", "en")] * 3]
    with open(folder / "messages.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("message", "topic", "urgency", "language"), *rows])
    (folder / "suite.yml").write_text(
        "tasks:\n"
        "  topic: {source: messages.csv, kind: classification, inputs: message, target: topic, slices: [language]}\n"
        "  urgency: {source: messages.csv, kind: regression, inputs: message, target: urgency, missing: drop}\n",
        encoding="utf-8",
    )
    return folder


def test_messages(messages: Path) -> None:
    topic, urgency = Suite.load(messages / "suite.yml")
    found = {finding.code: str(finding) for finding in check_task(topic)}
    assert set(found) == {"few_test_rows", "rare_labels", "labels_not_tested", "labels_alike", "imbalance",
                          "repeated_rows", "torn_targets", "blank_texts"}  # fmt: skip
    assert "only 13 test rows: a score of 80% has an interval of about 22 points either way" in found["few_test_rows"]
    assert "2 labels have fewer than 10 rows: 'Bug ' (train 1, validation 0, test 0), 'fax' (" in found["rare_labels"]
    assert "labels differ by case or spaces alone: 'Bug ' (1), 'bug' (33)" in found["labels_alike"]
    assert (
        "1 input has different targets in different rows, such as 'The app crashes 2' with 'Bug ', 'bug'"
        in found["torn_targets"]
    )
    assert "3 of 102 train rows repeat the input of another" in found["repeated_rows"]
    assert "1 of 128 rows has a blank text" in found["blank_texts"]
    assert sum(len(split) for split in urgency.splits.values()) == 87
    assert "1 of 128 train rows have no input and are left out" in urgency.notes
    assert set(topic.splits["test"].slices["language"]) == {"de", "en"}


def test_labels_that_stand_in_the_texts() -> None:
    rows = {"x": [f"[{'spam' if i % 2 else 'news'}] text {i}" for i in range(60)], "y": ["news", "spam"] * 30}
    task = make_task("t", kind="classification", inputs="x", target="y", data={"train": rows})
    assert words(task, "given_away")[0].startswith("100% of the train texts hold the name of their label; take it out")


def test_columns_of_a_table() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400).tolist()
    columns = {
        "noise": rng.random(400).tolist(),
        "hint": [value + rng.normal() for value in y],
        "leak": [0.0 if rng.random() < 0.01 else value * 3.0 + 1 for value in y],
        "name": ["yes" if value else "no" for value in y],
        "empty": [None] * 400,
        "same": [7] * 400,
        "rare": [1.0 if i < 100 else None for i in range(400)],
        "id": [f"k{i}" for i in range(400)],
        "digits": [str(i % 7) for i in range(400)],
        "y": y,
    }
    task = make(columns, [name for name in columns if name != "y"])
    found = {}
    for finding in check_task(task):
        found.setdefault(finding.code, []).append(finding.words)
    assert found["constant"] == [
        "column 'empty' is missing in all 320 train rows",
        "column 'same' is 7.0 in all train rows",
    ]
    assert [text.split("'")[1] for text in found["mostly_missing"]] == ["rare"]
    assert found["numbers_as_categories"] == [
        "column 'digits' was read as categories, and 100% of its values are numbers"
    ]
    assert found["many_categories"] == ["column 'id' is a category with 320 values in 320 train rows"]
    assert [text.split("'")[1] for text in found["given_away"]] == ["leak", "name"]
    size = {"size": rng.random(400).tolist(), "other": rng.random(400).tolist()}
    size["y"] = [2.5 * value - 1 for value in size["size"]]
    assert len(words(make(size, ["size", "other"], kind="regression"), "given_away")) == 1


def test_nothing_is_said_of_good_data() -> None:
    rows = {"x": [i / 7 for i in range(1000)], "y": ["ab"[i * 7919 % 2 ^ (i // 3 % 2)] for i in range(1000)]}
    assert codes(make(rows, ["x"])) == []


def test_one_label_all_but_everywhere() -> None:
    rows = {"x": list(range(1000)), "y": ["spam" if i % 20 == 0 else "ham" for i in range(1000)]}
    assert words(make(rows, ["x"]), "imbalance")[0].startswith(
        "95% of the train rows are 'ham', and the rarest label has 4"
    )


def test_texts_that_are_longer_than_the_base_reads(bert_folder: Path, text_suite: Suite) -> None:
    encoder = load_encoder(bert_folder, max_length=6)
    (found,) = check_lengths(encoder, text_suite["mood"])
    lengths = [len(encoder.tokenizer(text)["input_ids"]) for (text,) in text_suite["mood"].splits["train"].inputs]
    share = 100 * sum(length > 6 for length in lengths) / len(lengths)
    assert found.words == f"{share:.2g}% of the train texts are longer than the base reads of 6 tokens"
    assert check_lengths(load_encoder(bert_folder), text_suite["mood"]) == []


def test_the_command_says_all_and_writes_a_page(messages: Path, tmp_path: Path) -> None:
    def run(*given: str) -> Any:
        return CliRunner().invoke(app, ["tasks", "check", *given])

    suite = str(messages / "suite.yml")
    found = run(suite, "--html", str(tmp_path / "data.html"))
    assert found.exit_code == 0 and "2 tasks can be used; 10 warnings" in found.output
    page = (tmp_path / "data.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 4 and "labels differ by case" in page.lower() and "delivery: 2" in page
    facts = json.loads(run(suite, "--json").stdout)
    assert facts["topic"]["counts"]["train"]["delivery"] + facts["topic"]["counts"]["test"]["delivery"] <= 30
    assert [one["code"] for one in facts["urgency"]["findings"]] == ["few_test_rows", "repeated_rows"]


def test_good_tasks_are_checked_beside_broken_ones(messages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (messages / "suite.yml").read_text(encoding="utf-8")
    (messages / "broken.yml").write_text(
        text + "  gone: {source: {path: x.csv}, kind: regression, inputs: message, target: urgency}\n"
        "  holes: {source: messages.csv, kind: regression, inputs: message, target: urgency}\n", encoding="utf-8",
    )  # fmt: skip
    found = CliRunner().invoke(app, ["tasks", "check", str(messages / "broken.yml"), "--json"])
    assert set(json.loads(found.stdout)) == {"topic", "urgency"}
    error = str(found.exception)
    assert "1. load the task 'gone'" in error and "2. make the task 'holes': target 'urgency' of train" in error


def test_a_table_as_a_spreadsheet_writes_it(tmp_path: Path) -> None:
    rows = [f"{20 + i % 50};Köln;{i},5;{1 + i % 28}.{1 + i % 12}.2020;{'ja' if i % 3 else 'nein'}" for i in range(200)]
    rows[17] = rows[17].replace("37;", "k.A.;", 1)
    rows[3] = ";;;;ja"
    (tmp_path / "kunden.csv").write_bytes("\r\n".join(["Alter;Ort;Umsatz;seit;Kündigung", *rows]).encode("cp1252"))
    (tmp_path / "s.yml").write_text(
        "tasks: {churn: {source: kunden.csv, kind: classification, inputs: [Alter, Ort, Umsatz, seit], "
        "target: Kündigung, stray: missing}}", encoding="utf-8",
    )  # fmt: skip
    found = CliRunner().invoke(app, ["tasks", "check", str(tmp_path / "s.yml")])
    for words in (
        "column Alter: number, 20 to 69",
        "column Ort: category, 1 value such as 'Köln'",
        "column Umsatz: number, 0.5 to 199.5, written as 1,5",
        "column seit: date, 2020-01-01 to 2020-12-",
        "note: kunden.csv is read as cp1252 with ';' between cells",
        "note: 1 of 200 train cells of 'Alter' are not numbers and count as missing: 'k.A.' (row 17)",
    ):
        assert words in found.output, found.output
    assert all(len(Suite.load(tmp_path / "s.yml")["churn"].splits[split]) > 10 for split in SPLITS)
