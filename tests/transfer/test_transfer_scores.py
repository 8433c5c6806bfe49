"""Scores of estimates: by hand, and on the transfer that TaskWeb measured."""

from __future__ import annotations

import csv
import os
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from allround.core.errors import AllroundError
from allround.transfer.blending import blend
from allround.transfer.matrix import TaskMatrix
from allround.transfer.score import compare, leave_one_out, popularity, random_order, score, score_all

DATA = Path(os.environ.get("ALLROUND_DATA") or "/nowhere") / "transfer"
TRUTH = TaskMatrix("gain", ("a", "b", "c", "d"), ("t", "u"), [[0.3, 0.0], [0.1, 0.2], [0.2, 0.4], [0.0, np.nan]],
                   kind="measured")  # fmt: skip


def of(values: list[float], name: str = "guess") -> TaskMatrix:
    return TaskMatrix(name, TRUTH.sources, ("t",), [[v] for v in values])


def test_by_hand() -> None:
    """Order b, a, c, d of gains 2^rank - 1 = 3, 15, 7, 1; the best order gives 15, 7, 3, 1."""
    found = score(of([3.0, 4.0, 2.0, 1.0]), TRUTH, ks=(1, 2))
    d = 1 / np.log2([2, 3, 4, 5])
    assert found.ndcg[0] == pytest.approx(
        (3 * d[0] + 15 * d[1] + 7 * d[2] + d[3]) / (15 * d[0] + 7 * d[1] + 3 * d[2] + d[3])
    )
    assert found.regret[1][0] == pytest.approx(0.3 - 0.1)
    assert found.regret[2][0] == pytest.approx((0.3 + 0.2) / 2 - (0.1 + 0.3) / 2)
    assert found.spearman[0] == pytest.approx(1 - 6 * (1 + 4 + 1 + 0) / (4 * 15))
    assert found.gap[0] == pytest.approx(0.2)
    relative = score(of([3.0, 4.0, 2.0, 1.0]), TRUTH, ks=(1,), regret="gain")
    assert relative.regret[1][0] == pytest.approx(0.2 / 1.3)
    assert score(of([3.0, 4.0, 2.0, 1.0]), TRUTH, ks=(1,), regret="score").regret[1][0] == pytest.approx(0.2 / 0.3)


def test_the_truth_is_perfect_and_its_opposite_is_worst() -> None:
    best, worst = score(TRUTH, TRUTH), score(TRUTH.mapped(np.negative), TRUTH)
    assert best.ndcg.tolist() == [1.0, 1.0] and best.spearman.tolist() == [1.0, 1.0] and best.mean("regret@1") == 0
    assert worst.spearman == pytest.approx([-1.0, -1.0]) and worst.mean("gap") == pytest.approx((0.3 + 0.4) / 2)


def test_lower_is_better_where_the_matrix_says_so() -> None:
    turned = TaskMatrix("loss", TRUTH.sources, TRUTH.targets, -TRUTH.values, higher_is_better=False)
    assert score(turned, TRUTH).mean("ndcg") == 1.0
    assert score(TRUTH, turned, ks=(1,)).mean("regret@1") == 0


def test_equal_sources_score_as_the_mean_of_their_orders() -> None:
    """So a score cannot depend on the order in which the file lists tasks."""
    tied = score(of([2.0, 1.0, 2.0, 1.0]), TRUTH, ks=(1, 3))
    each = [
        score(of([4.0 - order.index(name) for name in range(4)]), TRUTH, ks=(1, 3))
        for first in permutations((0, 2)) for second in permutations((1, 3)) for order in [(*first, *second)]
    ]  # fmt: skip
    for metric in ("ndcg", "regret@1", "regret@3"):
        assert tied.mean(metric) == pytest.approx(np.mean([one.mean(metric) for one in each])), metric
    every = [score(of(list(map(float, order))), TRUTH).mean("ndcg") for order in permutations(range(4))]
    assert score(random_order(TRUTH).take(targets=["t"]), TRUTH).mean("ndcg") == pytest.approx(np.mean(every))


def test_spearman_is_taken_within_a_target_and_never_pooled() -> None:
    """An estimate that only knows which targets gain much says nothing of sources."""
    truth = TaskMatrix("gain", ("a", "b"), ("t", "u"), [[10.0, 0.1], [11.0, 0.0]], kind="measured")
    levels = TaskMatrix("levels", ("a", "b"), ("t", "u"), [[10.5, 0.0], [10.4, 0.1]])
    assert score(levels, truth).mean("spearman") == -1.0


def test_popularity_and_random_are_always_there() -> None:
    names = [one.name for one in score_all([of([1.0, 2.0, 3.0, 4.0])], TRUTH)]
    assert names == ["random", "popularity", "guess"]


def test_popularity_and_left_out_targets_see_nothing_of_the_target() -> None:
    changed = TRUTH.mapped(lambda v: np.where([[True, False]], 99.0 - v, v))
    assert np.array_equal(popularity(TRUTH).values[:, 0], popularity(changed).values[:, 0], equal_nan=True)
    seen = []

    def predict(left: TaskMatrix, target: str) -> TaskMatrix:
        seen.append(target in left.targets)
        return TaskMatrix("mean", left.sources, (target,), np.zeros((len(left.sources), 1)))

    leave_one_out(predict, TRUTH, "zero")
    assert seen == [False, False]


def test_intervals_are_paired_over_targets() -> None:
    names = tuple(f"t{n}" for n in range(30))
    rng = np.random.default_rng(0)
    truth = TaskMatrix("gain", tuple("abcdef"), names, rng.normal(size=(6, 30)), kind="measured")
    near = truth.mapped(lambda v: v + 0.3 * rng.normal(size=v.shape), "near")
    far = truth.mapped(lambda v: v + 5 * rng.normal(size=v.shape), "far")
    gap = compare(score(near, truth), score(far, truth), "ndcg")
    assert gap.found and gap.low < gap.mean < gap.high
    same = compare(score(near, truth), score(near, truth), "ndcg")
    assert not same.found and (same.low, same.high) == (0.0, 0.0)


def test_what_cannot_be_scored_is_refused() -> None:
    other = TaskMatrix("other", ("x",), ("y",), [[1.0]])
    with pytest.raises(AllroundError, match="no target or no source in common"):
        score(other, TRUTH)
    with pytest.raises(AllroundError, match="asked for 0 sources"):
        score(TRUTH, TRUTH, ks=(0,))
    with pytest.raises(AllroundError, match="there is none"):
        score(TRUTH, TRUTH).mean("regret@9")
    assert np.isnan(score(TaskMatrix("one", ("a",), ("t",), [[1.0]]), TRUTH).mean("ndcg")), "one source has no order"


# -- TaskWeb -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taskweb() -> tuple[TaskMatrix, TaskMatrix]:
    """What TaskWeb ranks by, and the relative change of the score. In the file the two columns of tasks are exchanged:
    squad_v2, which is never a target, stands in the column `target`."""
    if not (DATA / "taskweb.csv").is_file():
        pytest.skip("needs taskweb.csv")
    with open(DATA / "taskweb.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    change = {(r["target"], r["source"]): float(r["change_t5_large"]) for r in rows}
    wins = {(r["target"], r["source"]): float(r["wins_t5_large"]) for r in rows}
    both = {pair: 0.5 * change[pair] + 0.5 * (0.2 * wins[pair] - 0.1) for pair in change}
    return TaskMatrix.of_pairs("taskweb", both, kind="measured"), TaskMatrix.of_pairs("change", change, kind="measured")


@pytest.mark.data
def test_the_numbers_of_taskweb(taskweb: tuple[TaskMatrix, TaskMatrix]) -> None:
    """NDCG as recomputed from TaskWeb's own results and code: popularity 56.1, a random order within 44.6 +- 2.9."""
    truth, change = taskweb
    asked = truth.take(
        targets=[name for name in truth.targets if name != "piqa"]
    )  # TaskWeb's own evaluation leaves it out
    assert (len(asked.sources), len(asked.targets)) == (22, 20)
    popular = score(popularity(truth), asked, regret="gain", counted=change)
    assert popular.mean("ndcg") == pytest.approx(0.561, abs=5e-4)
    assert popular.mean("regret@5") == pytest.approx(0.0237, abs=1e-4)
    anyhow = score(random_order(truth), asked, regret="gain", counted=change)
    assert anyhow.mean("ndcg") == pytest.approx(0.4494, abs=1e-4)


@pytest.mark.data
def test_neighbours_beat_popularity_on_taskweb(taskweb: tuple[TaskMatrix, TaskMatrix]) -> None:
    truth, change = taskweb
    made = blend("neighbours", [], truth, {"temperature": 0.3})
    found = score(made, truth, regret="gain", counted=change)
    popular = score(popularity(truth), truth, regret="gain", counted=change)
    assert found.mean("regret@5") < 0.7 * popular.mean("regret@5")
