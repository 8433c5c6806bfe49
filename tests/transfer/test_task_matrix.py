"""Matrices of transfer: what they refuse, what they say, and files that give them back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allround.core.errors import AllroundError
from allround.transfer.files import COLUMNS, read_matrices, to_table, write_matrices
from allround.transfer.matrix import TaskMatrix, same_tasks

NAN = float("nan")
GAINS = TaskMatrix("gain", ("a", "b", "c"), ("a", "t"), [[NAN, 3.0], [2.0, NAN], [-1.0, 3.0]],
                   [[NAN, 0.1], [0.2, NAN], [0.3, 0.4]], kind="measured", seconds=1.5, seeds=(0, 7))  # fmt: skip
LOSSES = TaskMatrix("loss, by \"pairs\"", ("a", "b"), ("a", "b"), [[1.0, 2.0], [2.0, 1.0]], higher_is_better=False,
                    symmetric=True)  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"sources": ("a", "a", "c")}, "sources names 'a' twice"),
        ({"values": [[1.0, 2.0]]}, r"values have the shape \(1, 2\), with 3 sources and 2 targets"),
        ({"errors": np.zeros(6)}, r"errors have the shape \(6,\)"),
        ({"values": np.full((3, 2), np.inf)}, "values hold a number that is infinite"),
        ({"errors": np.full((3, 2), -1.0)}, "errors hold a number that is below zero"),
        ({"kind": "mesured"}, "its kind is 'mesured'"),
        ({"symmetric": True}, "differs between the two directions"),
    ],
)
def test_what_is_no_matrix_is_refused(wrong: dict[str, Any], found: str) -> None:
    given = {name: getattr(GAINS, name) for name in ("name", "sources", "targets", "values", "errors", "kind")}
    with pytest.raises(AllroundError, match=found):
        TaskMatrix(**{**given, **wrong})


def test_an_asymmetric_matrix_is_not_symmetric() -> None:
    with pytest.raises(AllroundError, match="differs"):
        TaskMatrix("x", ("a", "b"), ("a", "b"), [[1.0, 2.0], [2.5, 1.0]], symmetric=True)


def test_it_says_values_and_the_best_sources() -> None:
    assert GAINS.value("b", "a") == 2.0
    assert GAINS.best("t") == ["a", "c"], "equal ones in the matrix's order, unknown ones not at all"
    assert GAINS.best("a", 1) == ["b"]
    assert LOSSES.best("a") == ["a", "b"], "lower is better"
    assert LOSSES.gains.tolist() == [[-1.0, -2.0], [-2.0, -1.0]]
    with pytest.raises(AllroundError, match=r"did you mean 'a'|use one of: a, t"):
        GAINS.best("z")


def test_values_cannot_be_changed_from_outside() -> None:
    given = np.zeros((1, 1))
    made = TaskMatrix("x", ("a",), ("b",), given)
    given[0, 0] = 5
    assert made.values[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        made.values[0, 0] = 1


def test_some_of_it_can_be_taken() -> None:
    some = GAINS.take(["c", "b"], ["t"])
    assert some.values.tolist()[0] == [3.0] and np.isnan(some.values[1, 0])
    assert some.errors is not None and some.errors[0, 0] == 0.4
    assert GAINS.without("a").targets == ("t",) and GAINS.without("a").sources == GAINS.sources
    assert not LOSSES.take(["b", "a"]).symmetric and LOSSES.take(["b"], ["b"]).symmetric
    with pytest.raises(AllroundError, match=r"'loss.*has other sources or targets than 'gain'"):
        same_tasks([GAINS, LOSSES], "compare")


def test_it_is_a_table_of_pandas() -> None:
    frame = GAINS.to_frame()
    assert frame.loc["b", "a"] == 2.0 and frame.index.name == "source" and frame.columns.name == "target"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_files_give_back_what_was_written(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"related.{ending}"
    write_matrices(path, [GAINS, LOSSES])
    found = read_matrices(path)
    assert list(found) == [GAINS.name, LOSSES.name]
    for one, other in zip(found.values(), (GAINS, LOSSES), strict=True):
        assert to_table([one]).equals(to_table([other]))
        assert (one.errors is None) == (other.errors is None) and one.seeds == other.seeds
        assert np.array_equal(one.values, other.values, equal_nan=True)


def test_names_that_look_like_numbers_stay_names(tmp_path: Path) -> None:
    write_matrices(tmp_path / "m.csv", [TaskMatrix("1", ("007", "NA"), ("null",), [[1.0], [NAN]])])
    found = read_matrices(tmp_path / "m.csv")["1"]
    assert found.sources == ("007", "NA") and found.targets == ("null",)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match=r"its name ends in '\.txt'"):
        write_matrices(tmp_path / "a.txt", [GAINS])
    with pytest.raises(AllroundError, match="two matrices are called 'gain'"):
        write_matrices(tmp_path / "a.csv", [GAINS, GAINS])
    (tmp_path / "a.csv").write_text("source,target\na,b\n")
    with pytest.raises(AllroundError, match="its columns are source, target"):
        read_matrices(tmp_path / "a.csv")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(AllroundError):
        read_matrices(tmp_path / "a.parquet")
    write_matrices(tmp_path / "b.csv", [GAINS])
    lines = (tmp_path / "b.csv").read_text().splitlines()
    for damaged in ([*lines[:-1]], [*lines, lines[-1]], [line.replace("measured", "odd") for line in lines]):
        (tmp_path / "b.csv").write_text("\n".join(damaged) + "\n")
        with pytest.raises(AllroundError):
            read_matrices(tmp_path / "b.csv")
    assert COLUMNS[6:8] == ("source", "target")
