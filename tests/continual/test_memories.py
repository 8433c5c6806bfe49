"""Memories: which rows stay, within how many bytes, and that they come back as they were."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from allround.continual.memory import skills as memory_skills
from allround.continual.memory.herding import herded
from allround.continual.rows import ARRIVAL, ArrivedRows, Memory, row_bytes
from allround.continual.stream import split_labels
from allround.core import registry
from allround.core.errors import AllroundError
from allround.models.encoders.small_image import SmallImage
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.tasks.task import Task

WAYS = registry.names("memory")


@pytest.fixture(scope="module")
def parts(digits_suite: Suite) -> list[Task]:
    """Two arrivals, the second with the labels of the first before its own."""
    first, second = (one.tasks[0] for one in split_labels(digits_suite["digit"], 5, "class").arrivals)
    return [first, second.as_defined(digits_suite["digit"].definition)]


@pytest.fixture(scope="module")
def model(small_image: SmallImage, digits_suite: Suite) -> MultiTaskModel:
    return MultiTaskModel(small_image, {"digit": digits_suite["digit"].definition}).eval()


def remembered(parts: list[Task], model: MultiTaskModel, way: str, budget: int | None) -> Memory:
    memory = Memory()
    for number, part in enumerate(parts):
        memory = memory.with_arrival([part], model, way, budget, seed=0, name=str(number))
    return memory


@pytest.mark.parametrize("way", WAYS)
def test_a_memory_keeps_to_its_bytes_and_holds_rows_that_came(
    parts: list[Task], model: MultiTaskModel, way: str, tmp_path: Path
) -> None:
    whole = remembered(parts, model, way, None)
    assert whole.rows == sum(len(part.splits["train"]) for part in parts)
    memory = remembered(parts, model, way, whole.bytes // 3)
    assert 0 < memory.bytes <= whole.bytes // 3
    kept = memory.tasks["digit"].splits["train"]
    assert set(kept.slices[ARRIVAL]) == {"0", "1"}
    known = [(row[0].tobytes(), int(y)) for part in parts  # type: ignore[union-attr]
             for row, y in zip(part.splits["train"].inputs, part.splits["train"].targets, strict=True)]  # fmt: skip
    assert all((row[0].tobytes(), int(y)) in known for row, y in zip(kept.inputs, kept.targets, strict=True))  # type: ignore[union-attr]
    memory.write(tmp_path / "memory")
    back = Memory.load(tmp_path / "memory")
    assert back.bytes == memory.bytes and back.tasks["digit"].content == memory.tasks["digit"].content
    assert back.tasks["digit"].splits["train"].slices == kept.slices
    again = remembered(parts, model, way, whole.bytes // 3)
    assert again.tasks["digit"].content == memory.tasks["digit"].content


@pytest.mark.parametrize("way", ["balanced", "herding"])
def test_labels_share_the_bytes(parts: list[Task], model: MultiTaskModel, way: str) -> None:
    split = parts[0].splits["train"]
    each = int(row_bytes(parts[0].definition, split).max())
    memory = remembered(parts, model, way, 20 * each)
    counts = Counter(memory.tasks["digit"].splits["train"].targets.tolist())
    assert set(counts) == set(range(10)) and max(counts.values()) - min(counts.values()) <= 1


def test_rows_that_are_kept_stay_by_rank(parts: list[Task], model: MultiTaskModel) -> None:
    """What a smaller memory holds is in a larger one, so that shrinking needs no old rows."""
    large, small = (remembered(parts, model, "herding", size).tasks["digit"].splits["train"] for size in (6000, 3000))
    assert {row[0].tobytes() for row in small.inputs} <= {row[0].tobytes() for row in large.inputs}  # type: ignore[union-attr]


def test_skills_put_repeats_behind_all_others(
    parts: list[Task], model: MultiTaskModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: ten rows that stand twice; only what is the same to the bit counts as a repeat here."""
    monkeypatch.setattr(memory_skills, "SAME", 1 - 1e-9)
    first = parts[0]
    split = first.splits["train"]
    double = replace(first, splits={**first.splits, "train": split.take([*range(len(split)), *range(10)])})
    asked = MultiTaskModel(model.encoder, {"digit": first.definition}).eval()
    found = memory_skills.skills(ArrivedRows(double, asked, seed=0))
    assert 1 < len(set(found.groups)) <= memory_skills.GROUPS
    for row in range(10):
        twin, group = len(split) + row, found.groups[row]
        assert group == found.groups[twin], "like gradients, like groups"
        pairs = sum(found.groups[other] == group for other in range(10))
        assert max(found.ranks[row], found.ranks[twin]) >= found.groups.count(group) - pairs


def test_herding_by_hand() -> None:
    """The mean is (1, 0): first the row at it, then those whose running mean stays nearest."""
    rows = np.array([[0.0, 0.0], [1.0, 0.1], [2.0, -0.1], [1.0, 0.0]])
    assert herded(rows)[0] == 3
    order = herded(rows)
    sums = [np.linalg.norm(rows[order[: n + 1]].mean(0) - rows.mean(0)) for n in range(4)]
    best_second = min(np.linalg.norm(rows[[3, other]].mean(0) - rows.mean(0)) for other in (0, 1, 2))
    assert sums[1] == pytest.approx(best_second) and sums[3] == pytest.approx(0)


def test_reservoir_keeps_each_row_alike(parts: list[Task], model: MultiTaskModel) -> None:
    """Over seeds the share of the first arrival among kept rows is its share of all rows."""
    shares = []
    for seed in range(30):
        memory = Memory()
        for number, part in enumerate(parts):
            memory = memory.with_arrival([part], model, "reservoir", 4000, seed=seed, name=str(number))
        came = memory.tasks["digit"].splits["train"].slices[ARRIVAL]
        shares.append(np.mean([one == "0" for one in came]))
    first, second = (len(part.splits["train"]) for part in parts)
    assert np.mean(shares) == pytest.approx(first / (first + second), abs=0.08)


def test_too_few_bytes_are_an_error(parts: list[Task], model: MultiTaskModel) -> None:
    with pytest.raises(AllroundError, match="not one row"):
        remembered(parts, model, "balanced", 10)
