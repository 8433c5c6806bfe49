"""Reuse from row to row: with threshold 0 the model's answers; else counts, errors and drift as worked out by hand."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.models import reusing
from allround.models.encoder import Encoder
from allround.models.encoders.module import Module
from allround.models.encoders.small_image import SmallImage
from allround.models.encoders.small_table import SmallTable
from allround.models.encoders.text import Text
from allround.models.reusing import Reused, Reusing, ReusingTasks
from allround.models.systems.ensemble import Ensemble
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.suite import Suite
from allround.tasks.values import Row

NUMBERS = Definition("number", "regression", ("a", "b", "c"), "table", "spearman")


def headed(encoder: Encoder, definitions: Sequence[Definition]) -> MultiTaskModel:
    """A model with random heads, so that answers differ from row to row."""
    model = MultiTaskModel(encoder, {d.name: d for d in definitions})
    generator = torch.Generator().manual_seed(0)
    for parameter in model.heads.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return model.eval()


def streamed(suite: Suite, names: Sequence[str]) -> list[Row]:
    """Shuffled rows of which some come twice."""
    rows = list(suite.tasks[names[0]].splits["test"].inputs[:12])
    random.Random(1).shuffle(rows)
    return [row for number, row in enumerate(rows) for _ in range(1 + number % 2)]


@pytest.fixture
def cases(
    digits_suite: Suite, small_image: SmallImage, table_suite: Suite, small_table: SmallTable, text_suite: Suite,
    bert_folder: Path,
) -> dict[str, tuple[Suite, list[str], Encoder]]:  # fmt: skip
    text = Text.load(bert_folder, {})
    return {
        "image": (digits_suite, ["digit", "ink", "segments"], small_image),
        "table": (table_suite, ["species", "petal"], small_table),
        "text": (text_suite, ["mood", "warmth"], text),
        "words": (text_suite, ["names"], text),
        "pair": (text_suite, ["alike"], text),
    }


@pytest.mark.parametrize("case", ["image", "table", "text", "words", "pair"])
def test_threshold_0_answers_as_the_model(case: str, cases: dict[str, tuple[Suite, list[str], Encoder]]) -> None:
    suite, names, encoder = cases[case]
    model = headed(encoder, [suite.tasks[name].definition for name in names])
    rows = streamed(suite, names)
    wanted = model.answer_tasks(names, rows, scores=True)
    stream = Reusing(model, 0)
    found = stream.answer_tasks(names, rows, scores=True)
    for name in names:
        close(found[name].predictions, wanted[name].predictions)
        close(found[name].scores, wanted[name].scores)
        again = model.answers(name, rows)  # the model itself reads each row alone, as before
        close(again.predictions, wanted[name].predictions)
    counts = stream.counts
    assert counts.rows == len(rows) and counts.same >= len(rows) // 3 and 0 < counts.computed < counts.needed
    if case in ("image", "table"):
        assert counts.whole == 1
    else:
        assert 1 < counts.whole < len(rows)  # texts of other lengths


def close(found: Any, wanted: Any) -> None:
    if wanted is None:
        assert found is None
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-5)
    else:
        np.testing.assert_allclose(found, wanted, atol=2e-5, rtol=1e-5)


def two_layers() -> Module:
    """Two linear layers with a bias and no activation between them."""
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]))
        network[0].bias.copy_(torch.tensor([1.0, 0.0]))
        network[1].weight.copy_(torch.tensor([[1.0, 10.0]]))
        network[1].bias.copy_(torch.tensor([100.0]))
    return Module(network, dim=1)


def summed(encoder: Encoder) -> MultiTaskModel:
    """A model whose answer is the encoder's one feature."""
    model = MultiTaskModel(encoder, {"number": NUMBERS})
    head = model.head("number")
    assert isinstance(head.weight, nn.Parameter) and isinstance(head.bias, nn.Parameter)
    head.weight.data.fill_(1.0)
    head.bias.data.zero_()
    return model.eval()


def given(stream: Reusing, row: Row) -> float:
    return float(np.asarray(stream.answers("number", [row]).predictions)[0])


def test_by_hand() -> None:
    stream = Reusing(summed(two_layers()), 0.5)
    # 1 + 1 + 2 + 3 = 7 and 1, then 7 + 10 + 100: 6 and 2 multiply-adds.
    assert given(stream, (1.0, 1.0, 1.0)) == 117
    assert stream.counts == Reused(rows=1, whole=1, same=0, needed=8, computed=8)
    # Only the third entry has changed by more than 0.5 (by 0.5 is not more): 3 * 1 more. In the second layer the first
    # entry, 10 in place of 7, and the other not at all: 120. One entry of three, and one of two: 2 and 1.
    assert given(stream, (1.5, 1.0, 2.0)) == 120
    assert stream.counts == Reused(rows=2, whole=1, same=0, needed=16, computed=11)
    # 1.5 is held against the 1 of the first row, not taken as read; so 1.25 is not far from it, and 1.75 is.
    assert given(stream, (1.25, 1.0, 2.0)) == 120
    assert stream.counts == Reused(rows=3, whole=1, same=1, needed=24, computed=11)
    assert given(stream, (1.75, 1.0, 2.0)) == pytest.approx(120.75)
    assert stream.counts.computed == 14
    # 3 * 1 more and 1 * 3 less: two entries of the first layer, of which nothing reaches the second.
    assert given(stream, (4.75, 1.0, 1.0)) == pytest.approx(120.75)
    assert stream.counts == Reused(rows=5, whole=1, same=1, needed=40, computed=18)


def test_convolutions_count_by_the_share_of_their_entries() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten())
    task = Definition("number", "regression", ("image",), "image", "spearman")
    model = headed(Module(network, dim=32, to_tensor=lambda row: row[0]), [task])
    stream = Reusing(model, 0.1)
    one = torch.zeros(1, 4, 4)
    two = one.clone()
    two[0, 1, 1], two[0, 2, 3] = 1.0, 0.1
    found = [stream.answers("number", [(image,)]).predictions[0] for image in (one, two)]
    two[0, 2, 3] = 0
    np.testing.assert_allclose(found, [model.answers("number", [(x,)]).predictions[0] for x in (one, two)], atol=1e-6)
    whole = 4 * 4 * 2 * 9
    assert stream.counts == Reused(rows=2, whole=1, same=0, needed=2 * whole, computed=whole + whole // 16)


def test_the_error_does_not_grow(small_table: SmallTable) -> None:
    """Fifty steps of less than the threshold each: what was left out comes in when it is more than the threshold."""
    model = summed(two_layers())
    stream = Reusing(model, 0.1)
    for step in range(50):
        row = (0.03 * step, 1.0 - 0.04 * step, 0.02 * step)
        right = float(np.asarray(model.answers("number", [row]).predictions)[0])
        # Inputs of both layers are at most 0.1 off: (1 + 2 + 3) * 0.1 + 10 * 0.1, and (1 + 10) * 0.1.
        assert abs(given(stream, row) - right) <= 0.1 * (6 + 10 + 11) + 1e-4
    assert stream.counts.same > 5 and stream.counts.whole == 1


def test_an_answer_depends_on_the_rows_before_it() -> None:
    stream = Reusing(summed(two_layers()), 0.5)
    low, high = (1.0, 1.0, 1.0), (1.4, 1.4, 1.4)
    assert given(stream, low) == given(stream, high) == 117
    stream.forget()
    assert given(stream, high) == pytest.approx(117 + 6 * 0.4 + 10 * 0.4) == given(stream, low)


def test_rows_of_other_tasks_have_a_stream_of_their_own(table_suite: Suite, small_table: SmallTable) -> None:
    model = headed(small_table, [task.definition for task in table_suite.tasks.values()])
    one, two = table_suite.tasks["species"].splits["test"].inputs[:2]
    stream = Reusing(model, 0)
    for task, row in (("species", one), ("petal", two), ("species", one), ("petal", two)):
        close(stream.answers(task, [row]).predictions, model.answers(task, [row]).predictions)
    assert stream.counts.whole == stream.counts.same == 2


def test_a_row_is_computed_whole_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reusing, "RENEWED", 3)
    stream = Reusing(summed(two_layers()), 0.5)
    for _ in range(7):
        given(stream, (1.0, 1.0, 1.0))
    assert (stream.counts.whole, stream.counts.same) == (3, 4)


def test_numbers_that_are_not_finite_do_not_stay() -> None:
    model = summed(two_layers())
    stream = Reusing(model, 0.5)
    given(stream, (1.0, 1.0, 1.0))
    stream._model.prepare = lambda task, inputs, targets=None: [torch.full((3,), float("nan"))]  # type: ignore[method-assign]
    with pytest.raises(AllroundError, match="NaN or infinity"):
        given(stream, (1.0, 1.0, 1.0))
    del stream._model.prepare
    assert given(stream, (1.0, 1.0, 1.0)) == 117 and stream.counts.whole == 2


def test_layers_that_write_into_what_they_read() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 1, bias=False), nn.ReLU(inplace=True))
    model = summed(Module(network, dim=1))
    stream, draw = Reusing(model, 0), random.Random(0)
    for _ in range(5):
        row = (draw.random(), 1.0, draw.random())
        assert given(stream, row) == pytest.approx(float(np.asarray(model.answers("number", [row]).predictions)[0]))


def test_what_cannot_work_is_refused(table_suite: Suite, small_table: SmallTable) -> None:
    model = summed(two_layers())
    for threshold in (-0.1, float("nan"), float("inf")):
        with pytest.raises(AllroundError, match="the threshold is"):
            Reusing(model, threshold)
    with pytest.raises(AllroundError, match="a system of the sort 'ensemble' has no single encoder"):
        Reusing(Ensemble([model]), 0.1)
    with pytest.raises(AllroundError, match="no linear layers or convolutions in float32 or float64"):
        Reusing(summed(Module(nn.Linear(3, 1).bfloat16(), dim=1)), 0.1)
    written = summed(two_layers())
    written.encoder.gives = ("vectors", "texts")  # type: ignore[misc]
    with pytest.raises(AllroundError, match="is a language model"):
        Reusing(written, 0.1)


def test_tasks_that_rank_passages_are_refused(bert_folder: Path) -> None:
    ranked = Definition("search", "retrieval", ("query", "passages"), "text", "ndcg")
    stream = Reusing(MultiTaskModel(Text.load(bert_folder, {}), {"search": ranked}), 0.1)
    with pytest.raises(AllroundError, match="it compares a query with many passages"):
        stream.answers("search", [("where", {"1": "here"})])
    with pytest.raises(AllroundError, match="from task to task for task 'search'"):
        ReusingTasks({"search": MultiTaskModel(Text.load(bert_folder, {}), {"search": ranked})})


def test_predict_says_what_was_computed(table_suite: Suite, small_table: SmallTable, tmp_path: Path) -> None:
    definition = table_suite.tasks["species"].definition
    model = headed(small_table, [definition])
    model.save(tmp_path / "model")
    row = dict(zip(definition.inputs, table_suite.tasks["species"].splits["test"].inputs[0], strict=True))
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for _ in range(4)))
    asked = ["predict", str(tmp_path / "model"), "--input", str(tmp_path / "rows.jsonl")]
    shown = CliRunner().invoke(app, [*asked, "--reuse", "0.05"])
    assert shown.exit_code == 0, shown.output
    assert "25.0% of the multiply-adds were computed; of 4 rows 1 was computed whole, and 3 were as" in shown.stderr
    plain = CliRunner().invoke(app, asked)
    assert "multiply-adds" not in plain.stderr
    found, wanted = ([json.loads(line) for line in one.stdout.splitlines()] for one in (shown, plain))
    assert [row["confidence"] for row in found] == pytest.approx([row["confidence"] for row in wanted])
    out = ["--output", str(tmp_path / "out.jsonl"), "--json"]
    written = json.loads(CliRunner().invoke(app, [*asked, "--reuse", "0.05", *out]).stdout)
    assert written["reused"]["same"] == 3 and (tmp_path / "out.jsonl").read_text() == shown.stdout


def test_between_tasks_by_hand() -> None:
    first, second = summed(two_layers()), summed(two_layers())
    with torch.no_grad():
        second.encoder.backbone[0].weight[0, 0] += 1.0  # one of six weights; none of the two of the second layer
    shared = ReusingTasks({"number": first, "again": renamed(second, "again")}, 0.5)
    made = shared.answers([(1.0, 1.0, 1.0)])
    # The second layer's inputs are 7 and 1 for the first task, 8 and 1 for the other; one of two has changed.
    assert [float(made[task].predictions[0]) for task in ("number", "again")] == [117, 118]
    assert shared.counts["number"] == Reused(rows=1, whole=1, needed=8, computed=8)
    assert shared.counts["again"] == Reused(rows=1, whole=0, needed=8, computed=1 + 1)
    shared.threshold = 1.0  # 8 is not far from 7
    assert float(shared.answers([(1.0, 1.0, 1.0)])["again"].predictions[0]) == 117
    assert shared.counts["again"].computed == 3


def renamed(model: MultiTaskModel, task: str) -> MultiTaskModel:
    made = MultiTaskModel(model.encoder, {})
    made.add_task(replace(NUMBERS, name=task), model.head("number").stored())
    return made.eval()


def test_between_tasks_threshold_0_answers_as_the_specialists(
    cases: dict[str, tuple[Suite, list[str], Encoder]],
) -> None:
    for case in ("image", "text"):
        suite, names, encoder = cases[case]
        draw = torch.Generator().manual_seed(0)
        specialists = {}
        for name in names:
            own = headed(copy.deepcopy(encoder), [suite.tasks[name].definition])
            for parameter in own.encoder.parameters():
                parameter.data += 0.02 * torch.randn(parameter.shape, generator=draw)
            specialists[name] = own
        rows = streamed(suite, names)
        shared = ReusingTasks(specialists, 0)
        found = shared.answers(rows)
        again = ReusingTasks(specialists, 0.3).answers(rows)
        backwards = ReusingTasks(specialists, 0.3).answers(rows[::-1])
        for name, model in specialists.items():
            close(found[name].predictions, model.answers(name, rows).predictions)
            close(again[name].predictions, backwards[name].predictions[::-1])  # each depends on its row alone
        assert shared.counts[names[0]].share == 1


def test_between_tasks_refuses_other_networks(small_table: SmallTable) -> None:
    species = Definition("species", "classification", ("a",), "table", "accuracy", ("x", "y"))
    with pytest.raises(AllroundError, match="the network of 'species' has other layers than that of 'number'"):
        ReusingTasks({"number": summed(two_layers()), "species": headed(small_table, [species])})
    with pytest.raises(AllroundError, match="no specialist is given"):
        ReusingTasks({})
    with pytest.raises(AllroundError, match=r"reuse computation from task to task(.|\n)*the threshold is -1"):
        ReusingTasks({"number": summed(two_layers())}, -1)
