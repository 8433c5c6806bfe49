"""Walks of users from the files that they have to what they wanted, on the command line alone."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from allround.cli.app import app
from allround.core.errors import AllroundError

QUICK = ["--methods", "average", "--trials", 1, "--balance", "none", "--workers", 1, "--epochs", 1]


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allround.core.jobs.available_cores", lambda: 1)


def cli(*words: Any) -> str:
    """What a command says, to the screen and of errors."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def write_csv(path: Path, rows: list[dict[str, Any]], **how: Any) -> None:
    encoding = how.pop("encoding", "utf-8")
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]), **how)
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.slow
def test_messages_with_two_targets(bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing labels, a rare class, repeats, emojis and German: checked, built, and answered from file to file."""
    monkeypatch.chdir(tmp_path)
    draw, rows = random.Random(0), []
    for number in range(110):
        topic = draw.choice(("animal", "food"))
        noun = draw.choice(("cat", "dog", "owl") if topic == "animal" else ("soup", "bread", "plum"))
        mood = draw.choice(("fine", "dull"))
        text = f"the {noun} is {mood} {number}" + (" \U0001f600" if number % 9 == 0 else "")
        rows.append({"id": f"m{number:03}", "message": text, "topic": topic, "mood": mood if number % 10 else "",
                     "language": "de" if number % 8 == 0 else "en"})  # fmt: skip
        if number % 8 == 0:
            rows[-1]["message"] = f"der {noun} ist {mood}, schön {number}"
    rows[20]["topic"] = rows[21]["topic"] = rows[22]["topic"] = "rare"
    rows[31]["message"] = rows[30]["message"]
    write_csv(tmp_path / "messages.csv", rows)
    task = "{source: messages.csv, kind: classification, inputs: message, missing: drop, slices: [language], target: "
    (tmp_path / "suite.yml").write_text(f"tasks:\n  topic: {task}topic}}\n  mood: {task}mood}}\n")

    said = cli("tasks", "check", "suite.yml")
    for part in ("2 tasks can be used", "'rare'", "only 11 test rows", "rows have no target and are left out"):
        assert part in said, part
    said = cli("build", "suite.yml", "--base", bert_folder, "--out", "run", *QUICK)
    assert "Would a simple way do as well" in said and "TF-IDF" in said
    worst = list(csv.DictReader((tmp_path / "run" / "slices.csv").open(encoding="utf-8")))
    assert {"de", "en"} <= {row.get("value") for row in worst}

    asked = [dict(row) for row in rows[:12]]
    asked[3]["message"] = ""
    write_csv(tmp_path / "new.csv", [{"id": row["id"], "message": row["message"]} for row in asked])
    said = cli("predict", "run/best", "--input", "new.csv", "--output", "answers.csv")
    answers = list(csv.DictReader((tmp_path / "answers.csv").open(encoding="utf-8")))
    assert [row["id"] for row in answers] == [row["id"] for row in asked], "other columns, in the order of the input"
    assert [number for number, row in enumerate(answers) if not row["topic_prediction"]] == [3], "an empty cell"
    assert all(row["mood_prediction"] in ("fine", "dull") for row in answers if row["note"] == "")
    assert all(0 <= float(row["topic_confidence"]) <= 1 for row in answers if row["topic_prediction"])


@pytest.mark.slow
def test_a_table_as_a_spreadsheet_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Semicolons, cp1252, decimal commas, dates, missing cells and a stray word; then an answer with probabilities."""
    monkeypatch.chdir(tmp_path)
    draw, rows = random.Random(1), []
    for number in range(120):
        size, day = draw.uniform(1, 9), f"{1 + number % 28:02}.{1 + number % 12:02}.2024"
        row = {"Größe": f"{size:.1f}".replace(".", ","), "bestellt": day, "plz": f"{10000 + number % 7:05}"}
        rows.append({**row, "klasse": "groß" if size > 5 else "klein"})
    rows[5]["Größe"] = ""
    rows[7]["Größe"] = "unbekannt"
    write_csv(tmp_path / "cells.csv", rows, delimiter=";", encoding="cp1252")
    keys = "kind: classification, inputs: [Größe, bestellt, plz], target: klasse, modality: table"
    keys += ", types: {plz: category}"
    suite = tmp_path / "suite.yml"
    suite.write_text(f"tasks:\n  klasse: {{source: cells.csv, {keys}}}\n", encoding="utf-8")
    with pytest.raises(AllroundError, match=r"'unbekannt' \(row 7\)") as caught:
        cli("tasks", "check", "suite.yml")
    assert "`stray: missing`" in caught.value.do, "the way out"
    suite.write_text(f"tasks:\n  klasse: {{source: cells.csv, {keys}, stray: missing}}\n", encoding="utf-8")
    said = cli("tasks", "check", "suite.yml")
    assert "date" in said and "1 task can be used" in said
    cli("build", "suite.yml", "--base", "small_table", "--out", "run", "--epochs", 2, "--workers", 1, "--any-system")
    said = cli("predict", "run/best", "8,5", "03.04.2024", "10001", "--scores", "--json")
    assert max(json.loads(said)["scores"], key=json.loads(said)["scores"].get) == "groß"


@pytest.mark.slow
def test_three_seeds_to_latex(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--limit", "train=60", "--limit", "validation=40", "--limit", "test=40", "--only", "digit,ink"]
    said = cli("build", "digits", "--seeds", 3, "--out", "run", *few, *QUICK, "--no-baselines")
    assert "seeds" in said
    cli("report", "run", "--table", "latex", "--out", "table.tex")
    table = (tmp_path / "table.tex").read_text(encoding="utf-8")
    assert r"\toprule" in table and r"\bottomrule" in table and "specialists" in table
    assert table.count("{") == table.count("}")
    assert sorted(path.name for path in (tmp_path / "run" / "seeds").iterdir()) == ["0", "1", "2"]
