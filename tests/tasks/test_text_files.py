"""Types of columns: one over the whole file and over all splits, labels as they are written, and no file too wide."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from allround.core.errors import AllroundError
from allround.tasks.sources import text_files as columns_module
from allround.tasks.sources.sniff import TextForm
from allround.tasks.sources.text_files import Columns, read_columns
from allround.tasks.spec import parse_suite
from allround.tasks.suite import Suite

#: More rows than the readers of `datasets` take at once.
MANY = 10_500


def table(path: Path, name: str, values: list[str], separator: str = ",") -> Path:
    path.write_text(f"x{separator}{name}\n" + "".join(f"{i}{separator}{v}\n" for i, v in enumerate(values)))
    return path


def lines(path: Path, values: list[str], name: str = "y") -> Path:
    """values: as JSON."""
    path.write_text("".join(f'{{"x": "row {i}", "{name}": {v}}}\n' for i, v in enumerate(values)))
    return path


def read(path: Path, *as_written: str) -> Columns:
    format = {".csv": "csv", ".tsv": "tsv"}.get(path.suffix, "json")
    return read_columns({"train": (path, format)}, as_written)["train"]


def refused(path: Path, *words: str) -> None:
    with pytest.raises(AllroundError) as caught:
        read(path)
    for word in (str(path), *words):
        assert word in str(caught.value), str(caught.value)


def loaded(folder: Path, files: dict[str, Path], kind: str = "classification", **more: Any) -> Any:
    """The task of a suite that reads these files."""
    about = {"kind": kind, "inputs": "x", "target": "y", "modality": "text" if kind != "regression" else None}
    source = {split: path.name for split, path in files.items()}
    text = json.dumps({"tasks": {"t": {**about, "source": source, **more}}})
    (folder / "s.yml").write_text(text.replace('"modality": null, ', ""))
    return Suite.load(folder / "s.yml").tasks["t"]


@contextmanager
def memory(most: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
@pytest.mark.parametrize(
    "labels",
    [("01", "word"), ("01234", "1234"), ("1e5", "100000"), ("9007199254740993", "9007199254740992"), ("0", "1")],
    ids=" ".join,
)
def test_labels_are_text_as_it_is_written(tmp_path: Path, name: str, labels: tuple[str, str]) -> None:
    values = [labels[0]] * (MANY if labels == ("01", "word") else 10) + [labels[1], *labels] * 5
    if name == "a.csv":
        path = tmp_path / name
        path.write_text("x,y\n" + "".join(f"row {i},{value}\n" for i, value in enumerate(values)))
    else:
        path = lines(tmp_path / name, [v if (v[0] != "0" and v != "word") or v == "0" else f'"{v}"' for v in values])
    task = loaded(tmp_path, {"train": path})
    assert task.definition.labels == tuple(sorted(labels))


def test_labels_in_lists_and_numbers_in_json_keep_their_spelling(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", ["[1, 1.0]", "[1e2, 100]", "[12345678901234567890123]"])
    assert read(path, "y")["y"] == [["1", "1.0"], ["1e2", "100"], ["12345678901234567890123"]]
    task = loaded(tmp_path, dict.fromkeys(("train", "validation", "test"), path), "multilabel")
    assert task.definition.labels == ("1", "1.0", "100", "12345678901234567890123", "1e2")
    path.write_text('[{"x": "a", "y": 1.50}, {"x": "b", "y": null}]')
    assert read(path, "y")["y"] == ["1.50", None] and read(path)["y"] == [1.5, None]


def test_a_renamed_column_of_labels_is_as_written(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", "code", ["01", "1"] * 10)
    text = {"path": path.name, "columns": {"code": "y"}}
    task = {"source": text, "kind": "classification", "inputs": "x", "target": "y"}
    (tmp_path / "s.yml").write_text(json.dumps({"tasks": {"t": task}}))
    assert Suite.load(tmp_path / "s.yml").tasks["t"].definition.labels == ("01", "1")


def test_tasks_of_one_table_read_their_labels_as_written_and_their_numbers_as_numbers(tmp_path: Path) -> None:
    rows = [(f"row {i}", f"{i % 3:03}", str(i / 2) if i % 7 else "NA") for i in range(60)]
    (tmp_path / "a.csv").write_text("x,code,size\n" + "".join(",".join(row) + "\n" for row in rows))
    common = {"source": "a.csv", "inputs": "x", "table": "t", "missing": "drop"}
    tasks = {
        "size": {**common, "kind": "regression", "target": "size"},
        "code": {**common, "kind": "classification", "target": "code"},
    }
    (tmp_path / "s.yml").write_text(json.dumps({"tasks": tasks}))
    suite = Suite.load(tmp_path / "s.yml")
    assert suite.tasks["code"].definition.labels == ("000", "001", "002")
    assert sum(map(len, suite.tasks["size"].splits.values())) == 51


@pytest.mark.parametrize(
    ("names", "cells"),
    [
        ("{0: no, 1: yes}", ["0", "1", "0.0", "1.0"]),
        ("{false: no, true: yes}", ["False", "true", "FALSE", "True"]),
        ("{'01': no, 1: yes}", ["01", "1"]),
    ],
)
def test_labels_named_by_value_are_found_as_files_spell_them(tmp_path: Path, names: str, cells: list[str]) -> None:
    path = table(tmp_path / "a.csv", "y", cells * 10)
    (tmp_path / "s.yml").write_text(
        f"tasks: {{t: {{source: {path.name}, kind: classification, inputs: x, target: y, labels: {names}}}}}"
    )
    task = Suite.load(tmp_path / "s.yml").tasks["t"]
    assert task.definition.labels == ("no", "yes")
    assert sum(split.targets.sum() for split in task.splits.values()) == len(cells) * 5


@pytest.mark.parametrize(
    ("late", "first", "last"),
    [
        ("2.5", 1.0, 2.5),
        ("word", "1", "word"),
        ("NA", 1, None),
        ("", 1, None),
        ("12345678901234567890123", 1.0, 12345678901234567890123.0),
        ("1_000", "1", "1_000"),
        ("٣", "1", "٣"),
        (" 3", 1, 3),
        ("true", "1", "true"),
    ],
)
def test_the_whole_file_decides_the_type_of_a_column(tmp_path: Path, late: str, first: Any, last: Any) -> None:
    values = read(table(tmp_path / "a.csv", "y", ["1"] * MANY + [late]))["y"]
    assert (values[0], values[-1]) == (first, last)
    assert (type(values[0]), type(values[-1])) == (type(first), type(last)) and len(set(values)) == 2


def test_types_of_cells(tmp_path: Path) -> None:
    kinds = {
        "whole": (["-1", "+2", "007"], [-1, 2, 7]),
        "decimal": (["1", ".5", "1e-3"], [1.0, 0.5, 0.001]),
        "endless": (["1", "-inf", "Infinity"], [1.0, float("-inf"), float("inf")]),
        "truth": (["true", "FALSE", "True"], [True, False, True]),
        "words": (["NA", "DE", "null"], ["NA", "DE", "null"]),
        "missing": (["NA", "", "n/a"], ["NA", None, "n/a"]),
        "empty": (["", "", ""], [None, None, None]),
        "gaps": (["NA", "2", ""], [None, 2, None]),
    }
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([list(kinds), *zip(*(cells for cells, _ in kinds.values()), strict=True)])
    found = read(tmp_path / "a.csv")
    assert dict(found) == {name: values for name, (_, values) in kinds.items()}
    assert read(tmp_path / "a.csv", "gaps", "truth", "endless")["gaps"] == [None, "2", None]
    assert read(tmp_path / "a.csv", "truth")["truth"] == ["true", "FALSE", "True"]


def test_all_splits_have_one_type(tmp_path: Path) -> None:
    first = table(tmp_path / "train.csv", "y", ["1", "2"])
    second = table(tmp_path / "test.tsv", "y", ["2.5", "NA"], "\t")
    found = read_columns({"train": (first, "csv"), "test": (second, "tsv")})
    assert (found["train"]["y"], found["test"]["y"]) == ([1.0, 2.0], [2.5, None])
    table(second, "y", ["01", "word"], "\t")
    found = read_columns({"train": (first, "csv"), "test": (second, "tsv")})
    assert (found["train"]["y"], found["test"]["y"]) == (["1", "2"], ["01", "word"])
    one, other = lines(tmp_path / "a.jsonl", ["1.50", "2"]), lines(tmp_path / "b.jsonl", ['"02"', "true"])
    found = read_columns({"train": (one, "json"), "test": (other, "json")})
    assert (found["train"]["y"], found["test"]["y"]) == (["1.50", "2"], ["02", "True"])


@pytest.mark.parametrize("late", ["2.5", "null", '"word"'])
def test_late_values_of_json(tmp_path: Path, late: str) -> None:
    path = lines(tmp_path / "a.jsonl", ["1"] * MANY + [late])
    values = read(path)["y"]
    assert values[-1] == json.loads(late) and values[0] == ("1" if late == '"word"' else 1)


def test_json_rows_with_other_keys_and_types(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"a": 1}\n\n{"b": ["x"], "c": {"d": 1}}\r\n{"a": "2020-01-01 00:00:00", "b": "word"}')
    found = read(path)
    assert found.count == 3
    assert dict(found) == {
        "a": ["1", None, "2020-01-01 00:00:00"],
        "b": [None, ["x"], "word"],
        "c": [None, {"d": 1}, None],
    }


def test_quotes_lines_and_encodings_of_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeffa,b\r\n\r\n"é, ""x""\r\ny",2\r\n  \r\nz"q"\r\n'.encode())
    assert dict(read(path)) == {"a": ['é, "x"\r\ny', 'z"q"'], "b": [2, None]}
    path.write_bytes(b"a,b\r1,x\r2,y\r")
    assert dict(read(path)) == {"a": [1, 2], "b": ["x", "y"]}
    path.write_bytes(b",a\n0,x\n")
    assert dict(read(path)) == {"Unnamed: 0": [0], "a": ["x"]}
    path.write_text('a\n""\nx\n')
    assert dict(read(path)) == {"a": [None, "x"]}
    long = "word " * 50_000
    path.write_text(f"a,b\n{long},1\n")
    limit = csv.field_size_limit()
    assert read(path)["a"] == [long]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'a,b\n1,2\n"3,4\n5,6\n', ("not readable as csv", "a quotation mark before it is never closed")),
        (b"a,b\n1,2\n1,2,3\n", ("line 3 has 3 cells, and the first line names 2 columns",)),
        (b"a,b\n1,2,\n3,4,\n", ("line 2 has 3 cells",)),
        (b"a,b\n1,\x00\n", ("line 2 holds a NUL",)),
        (b"a,b\n\n", ("the file has no rows",)),
    ],
)
def test_broken_csv(tmp_path: Path, data: bytes, words: tuple[str, ...]) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    refused(tmp_path / "a.csv", *words)
    assert csv.field_size_limit() < columns_module.MAX_LINE


NAMES = "Größe;Name;Preis\n1,5;Müller, Jörg;„viel“\n2;Ørsted;wenig\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_encoding_and_delimiter_are_found_out(tmp_path: Path, encoding: str, delimiter: str) -> None:
    text = NAMES.replace("Müller, Jörg", '"Müller, Jörg"').replace("1,5", "1.5").replace(";", delimiter)
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    found = read(tmp_path / "a.csv")
    assert dict(found) == {"Größe": [1.5, 2.0], "Name": ["Müller, Jörg", "Ørsted"], "Preis": ["„viel“", "wenig"]}
    said = [f"as {encoding}"] if "utf-8" not in encoding else []
    said += [f"with {'a tab' if delimiter == chr(9) else repr(delimiter)} between cells"] if delimiter != "," else []
    assert found.notes == ((f"a.csv is read {' '.join(said)}",) if said else ())


def test_decimal_commas_and_what_is_said_of_the_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(NAMES.encode("latin-1", "replace"))
    assert dict(read(path))["Größe"] == ["1,5", "2"] and read(path).notes == (
        "a.csv is read as cp1252 with ';' between cells",
    )
    path.write_bytes(b"a,b\n\x81,2\n")
    assert read(path).notes == ("a.csv is read as latin-1",)
    path.write_text("sep=;\na;b\n1;2\n")
    assert dict(read(path)) == {"a": [1], "b": [2]}
    path.write_text("text\nso, so\n")
    refused(path, "line 2 has 2 cells, and the first line names 1 columns", "set `delimiter`", "',' parts the cells")
    assert read_columns({"train": (path, "csv")}, form=TextForm(delimiter="~"))["train"]["text"] == ["so, so"]
    path.write_bytes("a\né\n".encode())
    refused_ascii = TextForm(encoding="ascii")
    with pytest.raises(AllroundError, match="not ASCII text"):
        read_columns({"train": (path, "csv")}, form=refused_ascii)


def test_a_source_says_its_delimiter_and_encoding(tmp_path: Path) -> None:
    rows = "".join(f"Stück {i}~{'ab'[i % 2]}\n" for i in range(20))
    (tmp_path / "a.csv").write_bytes(f"x~y\n{rows}".encode("cp850"))
    source: dict[str, Any] = {"path": "a.csv", "delimiter": "~", "encoding": "cp850"}
    task = {"source": source, "kind": "classification", "inputs": "x", "target": "y"}
    (tmp_path / "s.yml").write_text(json.dumps({"tasks": {"t": task}}))
    found = Suite.load(tmp_path / "s.yml").tasks["t"]
    assert found.splits["train"].inputs[0][0].startswith("Stück") and len(found.notes) == 1
    source["encoding"] = "cp1252"
    (tmp_path / "b.csv").write_bytes(f"x;y\n{rows}".replace("~", ";").encode("cp1252"))
    task["source"] = "b.csv"
    (tmp_path / "s.yml").write_text(json.dumps({"tasks": {"t": task}}))
    assert Suite.load(tmp_path / "s.yml").tasks["t"].notes[0] == "b.csv is read as cp1252 with ';' between cells"
    for wrong, words in {
        ("delimiter", "::"): "a delimiter is one character",
        ("encoding", "utf8x"): "no encoding 'utf8x'",
        ("hub", "a/b"): "belong to files",
    }.items():
        place = {} if wrong[0] == "hub" else {"path": "a.csv"}
        text = json.dumps({"tasks": {"t": {**task, "source": {"delimiter": ";", **place, wrong[0]: wrong[1]}}}})
        with pytest.raises(AllroundError, match=words):
            parse_suite(text, name="s")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1}\n{"a": 1, "a": 2}\n', ("line 2", "the key 'a' occurs twice in an object")),
        ('{"a": 1} {"a": 2}\n', ("line 1 is not readable as JSON",)),
        ('[{"a": 1}, 2]', ("an array with values that are not objects",)),
        ('[{"a": 1},\n', ("not readable as JSON",)),
        ("[]", ("the file has no rows",)),
        ('{"a": ' + "[" * 200_000 + "]" * 200_000 + "}", ("line 1", "nested more than 64 levels")),
        ('{"a": ' * 200_000, ("line 1", "nested more than 64 levels")),
        ('[{"a": ' + "[" * 200_000 + "]" * 200_000 + "}]", ("nested more than 64 levels",)),
    ],
    ids=["key twice", "two on a line", "array of numbers", "open array", "no rows", "deep", "deep and open", "array"],
)
def test_broken_json(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    refused(tmp_path / "a.jsonl", *words)


def wide_csv(path: Path) -> None:
    path.write_text(",".join(f"c{i}" for i in range(100_000)) + "\n" + "1," * 99_999 + "1\n")


def wide_json(path: Path) -> None:
    path.write_text("{" + ", ".join(f'"c{i}": 1' for i in range(100_000)) + "}\n")


def sparse_csv(path: Path) -> None:
    path.write_text(",".join(f"c{i}" for i in range(2_000)) + "\n" + "1\n" * 10_000)


def sparse_json(path: Path) -> None:
    path.write_text("".join(f'{{"c{i % 9000}": 1}}\n' for i in range(100_000)))


def one_line(path: Path) -> None:
    path.write_text("a" * (columns_module.MAX_LINE + 5))


def one_cell(path: Path) -> None:
    path.write_text('a,b\n"' + ("a" * 10_000_000 + "\n") * 2)


@pytest.mark.parametrize(
    ("name", "write", "word"),
    [
        ("a.csv", wide_csv, "more than 10,000 columns"),
        ("a.jsonl", wide_json, "more than 10,000 columns"),
        ("a.csv", sparse_csv, "almost all cells are missing"),
        ("a.jsonl", sparse_json, "almost all cells are missing"),
        ("a.csv", one_line, "more than 16,777,216 characters"),
        ("a.jsonl", one_line, "more than 16,777,216 characters"),
        ("a.csv", one_cell, "field larger than field limit"),
    ],
)
def test_files_made_to_take_all_memory(tmp_path: Path, name: str, write: Callable[[Path], None], word: str) -> None:
    write(tmp_path / name)
    with memory(300_000_000):
        refused(tmp_path / name, word)


def test_a_wide_array_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns_module, "MAX_ARRAY", 10_000)
    (tmp_path / "a.json").write_text("[\n" + '{"a": 1},\n' * 2000 + '{"a": 1}]')
    refused(tmp_path / "a.json", "an array of more than 10,000 characters", "write one JSON object a line")
    (tmp_path / "a.json").write_text('[{"a": [' + "[]," * 2000 + "[]]}]")
    monkeypatch.setattr(columns_module, "MAX_ARRAY_VALUES", 1000)
    refused(tmp_path / "a.json", "more than 1,000 values")
