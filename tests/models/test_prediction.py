"""Answers to rows with columns: of which tasks, under which names, which rows have none, and how few are held."""

from __future__ import annotations

import copy
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.models.batch import Answers
from allround.models.cost import Cost
from allround.models.encoders.small_image import SmallImage
from allround.models.system import System
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.column_types import ColumnType
from allround.tasks.definition import Definition
from allround.tasks.sources import stream
from allround.tasks.suite import Suite
from allround.tasks.values import Row

TABLE = ("length", "zip")
TYPES = (ColumnType("number", low=0, high=2), ColumnType("category", categories=("10001", "1e3", "a"), count=3))
LABELS = ("low", "high", "top")


class Rules(System):
    """Answers that a reader of the test can compute: `sum` is twice the length (0 where it is missing), `size` is the
    label of the whole length with probability 0.5, `mood` the label `good` for texts with "fine" in them."""

    sort = "rules"

    def __init__(self) -> None:
        self.definitions = {
            "sum": Definition("sum", "regression", TABLE, "table", "rmse", center=0.0, scale=2.0, columns=TYPES),
            "size": Definition("size", "classification", TABLE, "table", "accuracy", LABELS, columns=TYPES),
            "mood": Definition("mood", "multilabel", ("text",), "text", "macro_f1", ("bad", "good")),
        }
        self.facts: dict[str, object] = {}
        self.seen: list[Row] = []

    def answer(
        self, task: str | None, rows: Iterable[Row], *, batch_size: int = 64, scores: bool = False
    ) -> Iterator[Answers]:
        rows = list(rows)
        self.seen += rows
        lengths = [row[0] or 0.0 for row in rows]
        if task == "sum":
            yield Answers(np.array(lengths))
        elif task == "size":
            places = np.array([int(length) for length in lengths])  # type: ignore[arg-type]
            table = np.full((len(rows), 3), 0.25)
            table[range(len(rows)), places] = 0.5
            yield Answers(places, [0.5] * len(rows), table if scores else None)
        else:
            good = np.array([["fine" not in row[0], "fine" in row[0]] for row in rows], dtype=np.int8)  # type: ignore[operator]
            yield Answers(good, [0.9] * len(rows), 0.1 + 0.8 * good if scores else None)

    def cost(self, tasks: Iterable[str] | None = None) -> Cost:
        raise NotImplementedError

    def write(self, folder: Path) -> None:
        raise NotImplementedError

    @classmethod
    def read(cls, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> System:
        raise NotImplementedError


ROWS = [
    {"id": "007", "length": "1.5", "zip": "10001", "text": "all is fine"},
    {"id": "008", "length": "NA", "zip": "", "text": "  "},
    {"id": "009", "length": "abc", "zip": "1e3", "text": "grim"},
]


def test_all_tasks_of_rows_in_one_pass() -> None:
    system = Rules()
    found = list(system.predict_rows(ROWS))
    assert [(row["sum_prediction"], row["size_prediction"], row["mood_prediction"]) for row in found] == [
        (3.0, "high", ["good"]), (0.0, "low", None), (None, None, ["bad"]),
    ]  # fmt: skip
    assert [row["note"] for row in found] == [
        None, "mood: 'text' is empty", "sum, size: 'length' holds 'abc', which is not a number",
    ]  # fmt: skip
    assert [row["id"] for row in found] == ["007", "008", "009"] and found[0]["size_confidence"] == 0.5
    assert system.seen[:2] == [(1.5, "10001"), (None, None)], "a category that looks like a number stays text"


def test_what_training_rows_hold_nothing_like_is_noted() -> None:
    system = Rules()
    rows = [{"length": "true", "zip": "b"}, {"length": -1, "zip": "a"}, {"length": -5, "zip": None}]
    found = list(system.predict_rows(rows, "sum"))
    assert [(row["prediction"], row["note"]) for row in found] == [
        (2.0, "zip: 'b' was not seen in training"), (-2.0, None), (-10.0, "length: -5.0 is far outside 0 to 2"),
    ]  # fmt: skip


def test_names_of_one_task_and_its_scores() -> None:
    (row, *_) = Rules().predict_rows(ROWS, "size", top=2, prefix="our_")
    assert list(row) == ["id", "length", "zip", "text", "our_prediction", "our_confidence", "our_scores", "our_note"]
    assert row["our_scores"] == {"high": 0.5, "low": 0.25}
    with pytest.raises(AllroundError, match="it has a column 'prediction' already"):
        list(Rules().predict_rows([{**ROWS[0], "prediction": 1}], "size"))
    with pytest.raises(AllroundError, match="top must be at least 1"):
        Rules().predict_rows(ROWS, "size", top=0)
    with pytest.raises(AllroundError, match="'text' is empty, in row 1"):
        list(Rules().predict_rows(ROWS, "mood", strict=True))
    with pytest.raises(AllroundError, match="did you mean 'mood'"):
        list(Rules().predict_rows(ROWS, "moods"))


def test_sets_of_answers() -> None:
    system = Rules()
    with pytest.raises(AllroundError, match="the model was saved without them"):
        list(system.predict_rows(ROWS, sets=True))
    sets = {"size": {"coverage": 0.9, "limit": 0.3}, "sum": {"coverage": 0.9, "limit": 0.5}}
    system.facts["calibration"] = {task: {"sets": one} for task, one in sets.items()}
    first, _, broken = system.predict_rows(ROWS, sets=True)
    assert (first["size_set"], first["sum_low"], first["sum_high"]) == (["high"], 2.0, 4.0)
    assert broken["size_set"] is None and broken["sum_low"] is None and "mood_set" not in first
    table = system.predict_table(pa.Table.from_pylist(ROWS), "size", sets=True)
    assert table["set"].to_pylist() == [["high"], ["low"], None]


def test_tasks_are_those_whose_columns_are_there() -> None:
    assert [list(row) for row in Rules().predict_rows([{"text": "fine"}])] == [
        ["text", "mood_prediction", "mood_confidence", "note"]
    ]
    with pytest.raises(AllroundError, match="no task's own: 'sum' needs length, zip"):
        list(Rules().predict_rows([{"words": "fine"}]))
    with pytest.raises(AllroundError, match="it has no column 'zip'; it has: length"):
        list(Rules().predict_rows([{"length": 1}], ["size"]))


def test_rows_are_answered_as_they_come() -> None:
    taken = 0

    def rows() -> Iterator[dict[str, object]]:
        nonlocal taken
        for number in range(5000):
            taken += 1
            yield {"length": number % 3, "zip": "a"}

    answers = Rules().predict_rows(rows(), "size")
    assert next(answers)["prediction"] == "low" and taken == stream.WINDOW
    assert sum(row["prediction"] == "top" for row in answers) == 1666 and taken == 5000


def test_data_frames_and_arrow_tables() -> None:
    frame = pd.DataFrame(ROWS, index=[5, 3, 9]).assign(day=pd.Timestamp("2024-02-29"))
    found = Rules().predict_table(frame, scores=True)
    assert list(found.index) == [5, 3, 9] and found[frame.columns].equals(frame)
    assert found["sum_prediction"].tolist()[:2] == [3.0, 0.0] and np.isnan(found["sum_prediction"].iloc[2])
    assert found.loc[5, ["size_score_low", "size_score_high", "size_score_top"]].tolist() == [0.25, 0.5, 0.25]
    table = pa.Table.from_pandas(frame)
    arrow = Rules().predict_table(table, "mood")
    assert arrow.select(table.column_names).equals(table) and arrow["prediction"].to_pylist() == [
        ["good"], None, ["bad"],
    ]  # fmt: skip
    assert list(arrow.to_pandas().index) == [5, 3, 9], "the index of pandas comes back"
    with pytest.raises(AllroundError, match="call predict_rows"):
        Rules().predict_table(ROWS)


def write(folder: Path) -> dict[str, Path]:
    """The rows as a file of each format."""
    found = {name: folder / f"rows.{name}" for name in ("csv", "tsv", "jsonl", "parquet")}
    for name, separator in (("csv", ","), ("tsv", "\t")):
        with open(found[name], "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(ROWS[0]), delimiter=separator)
            writer.writeheader()
            writer.writerows(ROWS)
    found["jsonl"].write_text("".join(json.dumps({**row, "n": 1e300}) + "\n" for row in ROWS), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist([{**row, "n": [number]} for number, row in enumerate(ROWS)]), found["parquet"])
    return found


def test_a_file_gives_a_file_of_its_own_format(tmp_path: Path) -> None:
    for name, file in write(tmp_path).items():
        counts = Rules().predict_file(file, tmp_path / f"out.{name}", top=1)
        assert (counts.rows, counts.empty, counts.broken) == (3, 1, 1)
        assert counts.words() == [
            "without an answer: 2 of 3 rows (1 empty, 1 broken), first row 1 (counted from 0): mood: 'text' is empty"
        ]
    flat = ["sum_prediction", "size_prediction", "size_confidence", "size_label_1", "size_score_1"]
    flat += ["mood_prediction", "mood_confidence", "mood_label_1", "mood_score_1", "note"]
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as file:
        header, *cells = csv.reader(file)
    assert header == ["id", "length", "zip", "text", *flat]
    assert cells[0] == ["007", "1.5", "10001", "all is fine", "3.0", "high", "0.5", "high", "0.5", '["good"]', "0.9",
                        "good", "0.9", ""]  # fmt: skip
    assert (tmp_path / "out.tsv").read_text(encoding="utf-8").splitlines()[0] == "\t".join(header)
    objects = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert objects[0]["size_scores"] == {"high": 0.5} and objects[0]["n"] == 1e300 and objects[1]["note"]
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.select(["id", "length", "zip", "text", "n"]).equals(pq.read_table(tmp_path / "rows.parquet"))
    assert table["mood_prediction"].to_pylist() == [["good"], None, ["bad"]] and table.column_names[5:] == flat


def test_a_file_of_another_format_and_many_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allround.models.prediction.tables.WINDOW", 2)
    files = write(tmp_path)
    Rules().predict_file(files["csv"], tmp_path / "out.jsonl", "size")
    objects = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["length"] for row in objects] == [1.5, None, "abc"], "numbers where the system reads numbers"
    assert [row["zip"] for row in objects] == ["10001", "", "1e3"]
    for name in ("jsonl", "csv", "tsv"):
        Rules().predict_file(files[name], tmp_path / f"{name}.parquet", "size")
        found = pq.read_table(tmp_path / f"{name}.parquet")
        assert found["prediction"].to_pylist() == ["high", "low", None] and found["id"].to_pylist()[2] == "009"
    files["jsonl"].write_text('{"text": "fine"}\n' * 2 + '{"text": "fine", "more": 1}\n', encoding="utf-8")
    with pytest.raises(AllroundError, match="the rows from 2 on have a column 'more'"):
        Rules().predict_file(files["jsonl"], tmp_path / "out.csv", "mood")
    assert not (tmp_path / "out.csv").exists(), "no half a file"
    with pytest.raises(AllroundError, match=r"files ending in '\.xlsx' are not known"):
        Rules().predict_file(files["jsonl"], tmp_path / "out.xlsx", "mood")
    with pytest.raises(AllroundError, match="there is a file of that name"):
        Rules().predict_file(files["jsonl"], files["csv"], "mood")


def test_standard_input_is_answered_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    read, written = os.pipe()
    with os.fdopen(read, "rb") as file, os.fdopen(written, "wb", buffering=0) as other:
        monkeypatch.setattr(stream.sys, "stdin", SimpleNamespace(buffer=file))
        other.write("\ufefftext\nfine, très".encode()[:-1])
        other.write("\ufefftext\nfine, très".encode()[-1:] + b"\nnext\n")
        windows = stream.read_windows("-")
        assert list(next(windows).column("text")) == ["text", "fine, très", "next"]
        other.write(b"more")
        other.close()
        last = next(windows)
        assert (last.first, list(last.column("text"))) == (3, ["more"]) and list(windows) == []
    for format, given in (
        ("csv", b'id,text\r\n1,"a\r\nb"\r\n2\r\n'),
        ("jsonl", b'{"id": "1", "text": "a\\r\\nb"}\n{"id": "2"}\n'),
    ):
        monkeypatch.setattr(stream.sys, "stdin", SimpleNamespace(buffer=io.BytesIO(given)))
        (window,) = stream.read_windows("-", format)
        assert window.column("id") == ["1", "2"] and window.column("text")[0] == "a\r\nb"
    for given, found in ((b"", "it has no rows"), (b"\xff", "it is not UTF-8 text"), (b"a\0", "NUL")):
        monkeypatch.setattr(stream.sys, "stdin", SimpleNamespace(buffer=io.BytesIO(given)))
        with pytest.raises(AllroundError, match=found):
            list(stream.read_windows("-"))
    with pytest.raises(AllroundError, match="Parquet cannot be read from standard input"):
        list(stream.read_windows("-", "parquet"))


def test_tasks_that_read_alike_share_the_encoder(digits_suite: Suite, small_image: SmallImage) -> None:
    model = MultiTaskModel(copy.deepcopy(small_image), {n: t.definition for n, t in digits_suite.tasks.items()}).eval()
    rows = list(digits_suite.tasks["digit"].splits["test"].inputs)
    wanted = {task: model.answers(task, rows, batch_size=8, scores=True) for task in model.definitions}
    read = 0

    def count(module: object, given: object, features: Any) -> None:
        nonlocal read
        read += len(features.values)

    model.encoder.register_forward_hook(count)
    found = model.answer_tasks(list(model.definitions), rows, batch_size=8, scores=True)
    assert read == len(rows) == 30
    for task, made in found.items():
        assert np.array_equal(made.predictions, wanted[task].predictions) and made.confidence == wanted[task].confidence


def test_images_that_cannot_be_read(digits_suite: Suite, small_image: SmallImage, tmp_path: Path) -> None:
    model = MultiTaskModel(small_image, {"digit": digits_suite.tasks["digit"].definition})
    (image,) = digits_suite.tasks["digit"].splits["test"].inputs[0]
    image.save(tmp_path / "a.png")  # type: ignore[union-attr]
    (tmp_path / "b.png").write_bytes(b"no image")
    rows = [{"image": str(tmp_path / name)} for name in ("a.png", "b.png", "c.png")]
    found = list(model.predict_rows([*rows, {"image": None}, {"image": image}]))
    assert [row["prediction"] is None for row in found] == [False, True, True, True, False]
    assert found[0]["prediction"] == found[4]["prediction"] == model.predict("digit", [image])[0]
    assert "cannot identify image file" in found[1]["note"]
    assert (
        found[2]["note"] == "'image' cannot be read: the file is not there" and found[3]["note"] == "'image' is empty"
    )


def test_the_instruction_of_a_task_is_read_with_each_text(bert_folder: Path) -> None:
    """As in training, where the same `prepare` reads the rows."""
    told = Definition("told", "classification", ("text",), "text", "accuracy", LABELS, instruction="is the cat very")
    plain = Definition("plain", "classification", ("text",), "text", "accuracy", LABELS)
    pair = Definition("pair", "classification", ("text", "other"), "text", "accuracy", LABELS, instruction="not the")
    bare = Definition("bare", "classification", ("text", "other"), "text", "accuracy", LABELS)
    model = MultiTaskModel(load_encoder(bert_folder), {d.name: d for d in (told, plain, pair, bare)}).eval()
    weights = torch.randn(3, model.width("pair"), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name in model.definitions:
            model.head(name).weight.copy_(weights[:, : model.width(name)])  # type: ignore[operator]
    rows = [{"text": "dog is fine", "other": "owl"}]
    (found,) = model.predict_rows(rows, ["told", "plain", "pair"], scores=True)
    (by_hand,) = model.predict_rows([{"text": "is the cat very dog is fine"}], "plain", scores=True)
    assert found["told_scores"] == by_hand["scores"] != found["plain_scores"]
    (by_hand,) = model.predict_rows([{"text": "not the dog is fine", "other": "owl"}], "bare", scores=True)
    assert found["pair_scores"] == by_hand["scores"]
