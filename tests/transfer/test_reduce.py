"""Fewer tasks for a whole benchmark: hand computations, planted tasks, the model that is left out, and the command."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from allround.cli.app import app
from allround.core import checking, registry
from allround.core.errors import AllroundError
from allround.evaluation.model_scores import ModelScores
from allround.evaluation.scoreboard import Scoreboard
from allround.transfer import reducing
from allround.transfer.completing import complete, completion_errors, fill
from allround.transfer.files import write_matrices
from allround.transfer.matrix import TaskMatrix
from allround.transfer.reducing import KnownTasks, choose, random_rows_error, reduce_tasks
from allround.transfer.reduction import FILES, Reduction

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))

from boards import board

#: Model, task, how many rows, and those that are answered rightly.
ANSWERS = (("a", "x", 2, [0]), ("a", "y", 4, [3]), ("b", "x", 2, [0, 1]), ("b", "y", 4, [1, 2]))


def planted(models: int = 5, seed: int = 0) -> ModelScores:
    """Six tasks of which t0, t1, t2 have one score and t3, t4, t5 another one, in every model."""
    rng = np.random.default_rng(seed)
    halves = rng.uniform(0.2, 0.9, (models, 2))
    values = np.repeat(halves, 3, axis=1)
    return ModelScores(
        tuple(f"m{i}" for i in range(models)), tuple(f"t{i}" for i in range(6)), values, (200,) * 6, True
    )


@pytest.mark.parametrize("family", ["reduce", "complete"])
def test_they_are_documented(family: str) -> None:
    for entry in registry.entries(family):
        checking.documented(entry, parameters=True, names={"KnownTasks": KnownTasks, "np": np})


@pytest.mark.parametrize("way", registry.names("reduce"))
def test_one_task_of_each_planted_half_is_chosen(way: str) -> None:
    table = planted()
    transfer = np.kron(np.eye(2), np.ones((3, 3)))
    found = choose(way, KnownTasks(table.values, transfer), 2)
    assert sorted(task // 3 for task in found) == [0, 1]
    with pytest.raises(AllroundError, match="give 1 to 6"):
        choose(way, KnownTasks(table.values, transfer), 7)


def test_bento_by_hand() -> None:
    """Rows of transfer less column means: a (0, .1, 0), b (-.1, -.1, .3), c (.1, 0, -.3). Distances: ab .374, ac .332,
    bc .640. Similarities are 1.5 * .640 - d, and their sums a 2.176, b 1.867, c 1.909: a comes first, then b, which
    adds .374, before c, which adds .332."""
    transfer = np.array([[0.5, 0.4, 0.4], [0.4, 0.2, 0.7], [0.6, 0.3, 0.1]])
    known = KnownTasks(np.zeros((0, 3)), transfer)
    assert choose("transferability", known, 2) == [0, 1] and choose("transferability", known, 3) == [0, 1, 2]
    similar = reducing.similarity(transfer - transfer.mean(0))
    assert similar.sum(1) == pytest.approx([2.176, 1.867, 1.909], abs=2e-3)
    with pytest.raises(AllroundError, match="needs transfer between all tasks"):
        choose("transferability", KnownTasks(transfer), 2)


def test_completions_by_hand() -> None:
    others, given = np.array([[0.2, 0.2, 0.4], [0.4, 0.6, 0.8]]), np.array([0.3, 0.8, np.nan])
    assert complete("mean", others, given).tolist() == [0.3, 0.8, pytest.approx(0.55)]
    assert complete("additive", others, given)[2] == pytest.approx(0.6 + (0.0 + 0.4) / 2)
    # The others differ by (.1, .2, .2) from their mean (.3, .4, .6) and leave nothing: (0, .4) is 1.6 of (.1, .2).
    assert complete("low_rank", others, given)[2] == pytest.approx(0.6 + 1.6 * 0.2)
    # Z = +-(.1, .2, .2): with the penalty .1 * .05 the weights are w (-1, 1), w = .08 / (2 * .05 + .005).
    assert complete("ridge", others, given)[2] == pytest.approx(0.6 + 2 * 0.2 * 0.08 / (2 * 0.05 + 0.005))
    with pytest.raises(AllroundError, match="no score of the model is known"):
        complete("mean", others, np.full(3, np.nan))


def test_errors_are_those_of_models_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    table, seen = planted(), []
    honest = reducing.choose

    def watched(way: str, known: KnownTasks, count: int, *rest: object) -> list[int]:
        seen.append(known.scores)
        return honest(way, known, count)

    monkeypatch.setattr(reducing, "choose", watched)
    (found,) = reduce_tasks(table, counts=[2], ways=["score_similarity"], completions=["mean"])
    assert [len(scores) for scores in seen] == [4, 4, 4, 4, 4, 5]
    assert all(not (scores == table.values[m]).all(1).any() for m, scores in enumerate(seen[:5]))
    assert found.error == pytest.approx(0, abs=1e-12) and found.random_tasks > 0.03 and not found.loses
    assert found.rows == 400
    assert found.random_rows == pytest.approx(
        np.sqrt(np.mean([random_rows_error(row, [200] * 6, 400) ** 2 for row in table.values]))
    )


def test_random_rows_are_as_far_off_as_draws_show() -> None:
    rng = np.random.default_rng(0)
    right = [rng.random(n) < p for n, p in ((40, 0.3), (400, 0.6), (100, 0.9))]
    told = random_rows_error(np.array([one.mean() for one in right]), [40, 400, 100], 150)
    drawn = [40, 55, 55]  # as many of each task, and no more than there are
    gaps = [np.mean([rng.permutation(one)[:n].mean() - one.mean() for one, n in zip(right, drawn, strict=True)])
            for _ in range(3000)]  # fmt: skip
    assert told == pytest.approx(np.std(gaps), rel=0.05)


def test_it_warns_where_chance_is_better() -> None:
    rng = np.random.default_rng(1)
    noise = ModelScores.of({f"m{i}": {f"t{j}": rng.uniform() for j in range(8)} for i in range(5)},
                           {f"t{j}": 2000 for j in range(8)})  # fmt: skip
    lost = Reduction(8, 5, reduce_tasks(noise, counts=[2]))
    assert lost.warnings[0].startswith("Do not choose 2 tasks: 4,000 rows drawn at random from all tasks are nearer")
    assert Reduction(6, 5, reduce_tasks(planted(), counts=[2])).warnings == []
    bare = ModelScores(noise.models, noise.tasks, noise.values)
    assert "is not known" in Reduction(8, 5, reduce_tasks(bare, counts=[2])).warnings[-1]


def test_gaps_are_filled_and_hidden_scores_predicted() -> None:
    rng = np.random.default_rng(0)
    level, slope = rng.uniform(0.3, 0.5, (1, 9)), rng.uniform(0, 0.5, (1, 9))
    true = level + rng.uniform(-1, 1, (8, 1)) * slope
    table = ModelScores.of({f"m{i}": {f"t{j}": float(true[i, j]) for j in range(9)} for i in range(8)})
    errors = {one.completion: one for one in completion_errors(table)}
    assert errors["low_rank"].error < 0.002 < errors["additive"].error < errors["mean"].error
    assert errors["low_rank"].explained > 0.99 and errors["low_rank"].hidden == 72
    values = true.copy()
    values[0, :4], values[3, 5:] = np.nan, np.nan
    holed = ModelScores(table.models, table.tasks, values)
    assert np.abs(fill(holed).values - true).max() < 0.01
    with pytest.raises(AllroundError, match="8 scores are not known"):
        reduce_tasks(holed)


def test_tables_in_three_forms_are_read_alike(tmp_path: Path) -> None:
    forms = {
        "long.csv": "model,task,score,rows\na,x,0.5,2\na,y,0.25,4\nb,x,1.0,2\nb,y,0.5,4\n",
        "rows.jsonl": "".join(
            json.dumps({"model": m, "task": t, "row": i, "right": int(i in right)}) + "\n"
            for m, t, count, right in ANSWERS
            for i in range(count)
        ),
        "wide.csv": "model,x,y\na,0.5,0.25\nb,1.0,0.5\n",
    }  # fmt: skip
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        found = ModelScores.read(tmp_path / name)
        assert (found.models, found.tasks) == (("a", "b"), ("x", "y")) and found.values.tolist() == [
            [0.5, 0.25],
            [1, 0.5],
        ]
        assert found.rows == (None if name == "wide.csv" else (2, 4)) and found.counted == (name != "wide.csv")
    assert ModelScores.read(tmp_path / "wide.csv", rows=7).rows == (7, 7)
    odd = {
        "no.csv": ("a,b\n1,2\n", "name the model in a column 'model'"),
        "twice.csv": ("model,task,score\na,x,1\na,x,0\n", "two scores"),
        "text.csv": ("model,x\na,good\n", "is no number"),
        "right.csv": ("model,task,row,right\na,x,0,2\n", "right as 1 or 0"),
        "other.csv": ("model,task,row,right\na,x,0,1\nb,x,1,1\n", "to the same rows"),
        "endless.jsonl": ('{"model": "a", "task": "x", "score": 1, "rows": 1e300}\n', "is no number"),
        "some.csv": ("model,task,score,rows\na,x,1,5\na,y,1,\n", "the rows of 'y' are not said"),
        "bare.csv": ("model,task,score\na,x,\n", "there is no score in it"),
        "a.txt": ("", "its name ends in"),
    }
    for name, (text, said) in odd.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(AllroundError, match=said):
            ModelScores.read(tmp_path / name)


def test_a_run_gives_the_scores_of_its_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = board()
    whole.save(tmp_path / "mixed")
    with pytest.raises(AllroundError, match="lower is better on 'error'"):
        ModelScores.read(tmp_path / "mixed")
    names = [name for name in whole.definitions if name != "error"]
    part = replace(whole, definitions={name: whole.definitions[name] for name in names})
    monkeypatch.setattr(Scoreboard, "load", lambda folder: part)
    found = ModelScores.read(tmp_path / "mixed")
    assert found.tasks == ("one", "two") and "floor" not in found.models and found.rows == (400, 400)
    assert found.values[0].tolist() == [whole.cells["specialists"][name].score for name in names]


def test_the_command(tmp_path: Path) -> None:
    table = planted()
    lines = [f"{m},{','.join(map(str, row))}" for m, row in zip(table.models, table.values.tolist(), strict=True)]
    (tmp_path / "scores.csv").write_text("\n".join([f"model,{','.join(table.tasks)}", *lines]) + "\n")
    transfer = TaskMatrix("shown", table.tasks, table.tasks, np.kron(np.eye(2), np.ones((3, 3))))
    write_matrices(tmp_path / "transfer.csv", [transfer])
    words = ["reduce", tmp_path / "scores.csv", "--transfer", tmp_path / "transfer.csv", "--keep", "2", "--rows", "200",
             "-o", tmp_path / "out"]  # fmt: skip
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    assert "2 tasks by " in result.output and "transferability" in result.output
    found = json.loads((tmp_path / "out" / FILES[0]).read_text())
    ways = {(one["way"], one["completion"]) for one in found["choices"]}
    assert ways == {(w, c) for w in registry.names("reduce") for c in ("mean", "low_rank")} and not found["warnings"]
    with pytest.raises(AllroundError, match="there are scores of 2 models"):
        reduce_tasks(ModelScores(("a", "b"), table.tasks, table.values[:2]))
