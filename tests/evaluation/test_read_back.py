"""Files that are read back: whatever is changed in one, it is read as something whole or refused in words."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from boards import board
from comparisons import comparison
from safetensors.torch import load_file, save_file

from allround.checkpoints.weights import Weights
from allround.composition.residuals.store import Store
from allround.composition.residuals.write import open_specialist, write_store
from allround.core.errors import AllroundError
from allround.core.schema import fitted
from allround.evaluation.predictions import Predictions, score
from allround.evaluation.scoreboard import Scoreboard
from allround.evaluation.training import TrainingComparison
from allround.merging.diff import Diff, diff
from allround.merging.statistics.file import check_made_for, transposed_in, write_statistic
from allround.models.base import load_encoder
from allround.models.encoders.small_image import SmallImage
from allround.models.head import make_head
from allround.models.head_files import read_heads
from allround.models.manifest import read_manifest
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.suite import Suite

ODD: list[Any] = [None, True, 0, -1, 7, 2**40, 2**70, 0.5, -1e308, float("nan"), float("inf"), "", "x", "\ud800", "1",
                  [], [1], [[]], {}, {"a": 1}, ["a", "a"], "../x", "-" * 300]  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in plain data: what holds it, and its key or number there."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


def changed(value: Any, draw: random.Random) -> Any:
    """A copy of plain data with one to three changes: another value, nothing there, twice there, two exchanged."""
    made = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 2, 3))):
        known = list(places(made))
        if not known:
            break
        holder, key = draw.choice(known)
        other, there = draw.choice(known)
        how = draw.randrange(5)
        if how == 0:
            del holder[key]
        elif how == 1 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif how == 1:
            holder[draw.choice(("x", f"{key}x", ""))] = copy.deepcopy(holder[key])
        elif how == 2:
            holder[key] = copy.deepcopy(other[there])
        else:
            holder[key] = copy.deepcopy(draw.choice(ODD))
    return draw.choice(ODD) if draw.random() < 0.01 else made


def survives(read: Callable[[Any], object], value: Any, seed: int, times: int) -> None:
    """The data are read; of changed ones most are refused in words, and none ends otherwise."""
    read(copy.deepcopy(value))
    draw, refused = random.Random(seed), 0
    for number in range(times):
        made = changed(value, draw)
        try:
            read(made)
        except AllroundError as error:
            assert error.asked and error.found and error.do
            str(error).encode("utf-8", "surrogatepass")
            refused += 1
        except Exception as error:
            raise AssertionError(f"change {number}: {json.dumps(made)[:2000]}") from error
    assert refused > times // 4


def test_a_scoreboard() -> None:
    def read(value: Any) -> None:
        made = Scoreboard.from_json(value)
        made.markdown()
        assert Scoreboard.from_json(made.to_json()) == made

    survives(
        read, json.loads(json.dumps(board(notes={"tasks": {"one": ["few rows"]}, "choice": "x"}).to_json())), 0, 500
    )


def test_a_comparison_of_trainings() -> None:
    value = json.loads(json.dumps(comparison().to_json()))
    survives(lambda made: TrainingComparison.from_json(made).markdown(), value, 1, 100)


def test_a_diff(tmp_path: Path) -> None:
    for number, name in enumerate(("base", "one", "two")):
        (tmp_path / name).mkdir()
        tensors = {"layer.0.weight": torch.eye(4) + number, "layer.1.weight": torch.ones(4, 4)}
        save_file(tensors | ({"extra": torch.ones(2)} if number == 1 else {}), tmp_path / name / "model.safetensors")
    found = diff(str(tmp_path / "base"), [str(tmp_path / "one"), str(tmp_path / "two")])
    survives(lambda value: Diff.from_json(value).verdict(), json.loads(json.dumps(found.to_json())), 2, 150)
    value = json.loads(json.dumps(found.to_json()))
    value["groups"][0]["norm"][0] = 1e308
    with pytest.raises(AllroundError, match="too large for a norm"):
        Diff.from_json(value)


def test_a_definition(text_suite: Suite) -> None:
    def read(value: Any) -> None:
        try:
            Definition.from_json(value)
        except ValueError as error:
            raise AllroundError("read a definition", str(error) or "nothing is said", "x") from error

    survives(read, text_suite.tasks["topics"].definition.to_json(), 3, 500)


@pytest.fixture(scope="module")
def store(small_image: SmallImage, digits_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    (folder / "base").mkdir()
    small_image.save(folder / "base")
    for name in ("digit", "ink"):
        MultiTaskModel(load_encoder(folder / "base"), {name: digits_suite.tasks[name].definition}).save(folder / name)
    specialists = [open_specialist(folder / name) for name in ("digit", "ink")]
    write_store(folder / "store", folder / "base", specialists, codec="sparse")
    return folder / "store"


def test_what_a_model_and_a_store_say_of_themselves(store: Path) -> None:
    path = store / "allround.json"
    value = json.loads(path.read_text())

    def read(made: Any) -> None:
        path.write_text(json.dumps(made))
        read_manifest(store)
        opened = Store.open(store)
        assert opened.sizes.share > 0 and opened.made["chosen"] is not None

    try:
        survives(read, value, 4, 300)
    finally:
        path.write_text(json.dumps(value))
    assert load(store).definitions.keys() == {"digit", "ink"}


@pytest.mark.parametrize("kind", ["classification", "regression", "token_classification"])
def test_predictions(kind: str, text_suite: Suite, tmp_path: Path) -> None:
    """What the file says of itself, its columns, and its bytes."""
    name = {"classification": "mood", "regression": "warmth", "token_classification": "names"}[kind]
    task = text_suite.tasks[name]
    targets = task.splits["test"].targets
    scores = np.eye(len(task.definition.labels))[targets] if kind == "classification" else None
    made = Predictions(task.definition, "test", targets, targets, [0.5] * len(targets), 1.0, scores)
    path = tmp_path / "p.parquet"
    made.save(path)
    data, table = path.read_bytes(), pq.read_table(path)
    about = json.loads(table.schema.metadata[b"allround"])

    def read(value: Any) -> None:
        pq.write_table(table.replace_schema_metadata({"allround": json.dumps(value)}), path)
        found = Predictions.load(path)
        assert np.isfinite(score(found))

    survives(read, about, 5, 150)
    columns = {name: table[name].to_pylist() for name in table.column_names}
    draw = random.Random(6)
    for number in range(150):
        try:
            if number % 2:
                odd = changed(columns, draw)
                pq.write_table(pa.table(odd).replace_schema_metadata(table.schema.metadata), path)
            else:
                bytes_ = bytearray(data)
                for _ in range(draw.choice((1, 3, 9))):
                    bytes_[draw.randrange(len(bytes_))] = draw.randrange(256)
                path.write_bytes(bytes_[: draw.choice((len(bytes_), draw.randrange(len(bytes_))))])
        except (pa.ArrowException, TypeError, ValueError, AttributeError, OverflowError):
            continue  # no such file can be written
        try:
            score(Predictions.load(path))
        except AllroundError as error:
            assert str(path) in error.asked or name in error.asked


def test_statistics(tmp_path: Path) -> None:
    """Their metadata, and tensors of other shapes, dtypes and names."""
    model = {"a.weight": torch.ones(3, 4), "a.bias": torch.ones(3)}
    save_file(model, tmp_path / "model.safetensors", {"format": "pt"})
    path = tmp_path / "gram.safetensors"
    write_statistic(path, {"a.weight": (torch.eye(4),)}, (), {"statistic": "gram", "transposed": [], "rows": 3})
    metadata, weights = Weights(path).metadata, Weights(tmp_path / "model.safetensors")

    def read(value: Any) -> None:
        fields = {str(k): v for k, v in value["metadata"].items()}
        tensors = {
            str(k): torch.ones(*shape).to(torch.int64 if t else None) for k, (shape, t) in value["tensors"].items()
        }
        try:
            save_file(tensors, path, fields)
        except (TypeError, ValueError, RuntimeError, UnicodeEncodeError):
            raise AllroundError("write it", "no such file can be written", "-") from None
        file = Weights(path)
        check_made_for("gram", [file], [weights], "merge")
        transposed_in(file)
        assert "a.weight" not in file or file.shape("a.weight") in ((4, 4), (3,), (3, 3))

    def tried(value: Any) -> None:
        try:
            read(value)
        except (AttributeError, TypeError, ValueError, KeyError, RuntimeError) as error:
            frame = error.__traceback__
            while frame and frame.tb_next:
                frame = frame.tb_next
            assert frame is not None and "test_read_back" in frame.tb_frame.f_code.co_filename, error
            raise AllroundError("write it", "no such file can be written", "-") from None

    survives(tried, {"metadata": metadata, "tensors": {"a.weight": [[4, 4], False]}}, 7, 300)
    for text in ("[1]", "{", "7", '"a"', "[" * 5000, "[NaN]", '["\\ud800"]'):
        save_file({"a.weight": torch.eye(4)}, path, {"transposed": text})
        with pytest.raises(AllroundError, match="stored as"):
            transposed_in(Weights(path))


@pytest.mark.parametrize("name", ["weight", ".weight", "digit", "digit.weight.", "digit.bias"])
def test_heads(name: str, tmp_path: Path) -> None:
    dtype = torch.int64 if name == "digit.bias" else torch.float32
    save_file({"ink.weight": torch.ones(1, 2), name: torch.ones(2, dtype=dtype)}, tmp_path / "heads.safetensors")
    with pytest.raises(AllroundError, match=f"'{name}'.*is not a tensor of a task's head"):
        read_heads(tmp_path / "heads.safetensors")
    assert load_file(tmp_path / "heads.safetensors")


def test_a_tensor_that_heads_of_that_sort_do_not_have(tmp_path: Path) -> None:
    tensors = {"digit.weight": torch.ones(2, 3), "digit.bias": torch.ones(2), "digit.scale": torch.ones(2)}
    save_file(tensors, tmp_path / "heads.safetensors")
    state = read_heads(tmp_path / "heads.safetensors")["digit"]
    digit = Definition("digit", "classification", ("x",), "text", "accuracy", ("a", "b"))
    with pytest.raises(AllroundError, match="it holds 'scale'"):
        make_head(state.sort, digit, 3, state)


@pytest.mark.parametrize("value", [2**63, float("nan"), "\ud800", {1: 2, "b": object()}, {"a": True}, [1], "1"])
def test_what_is_not_of_the_type_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        fitted(int, value)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="not plain data"):
        fitted(list[Any], deep)
