"""Copies of a part of some blocks for each task, on tasks that rank passages."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from allround.evaluation.predict import predict_split
from allround.models.base import load_encoder
from allround.models.encoders.sharing import Sharing
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.make import make_task
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.sharing import plan_of, share
from allround.training.trainer import train

SETTINGS = Settings(epochs=2, batch_size=4, learning_rate=5e-3, device="cpu", precision="fp32", keep="last")
CORPUS = {
    f"p{i}{j}": f"the {one} {other}"
    for i, one in enumerate(("film", "soup", "owl"))
    for j, other in enumerate(("was fine", "was dull", "is cold"))
}


def task(name: str, passage: str) -> Task:
    """Queries that find passages with the same word, at a place that is the task's own."""
    rows = [
        {"query": f"{text} today", "relevant": [other for other, t in CORPUS.items() if other[int(passage)] == one[1]]}
        for one, text in CORPUS.items()
    ]
    return make_task(name, kind="retrieval", inputs="query", target="relevant", passages=CORPUS,
                     data=dict.fromkeys(("train", "validation", "test"), rows))  # fmt: skip


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return [task("things", "1"), task("moods", "2")]


@pytest.fixture
def plain(bert_folder: Path, tasks: list[Task]) -> MultiTaskModel:
    return MultiTaskModel(load_encoder(bert_folder), {one.name: one.definition for one in tasks})


def of_task(shared: MultiTaskModel, plain: MultiTaskModel, name: str) -> MultiTaskModel:
    """The plain model whose layers are the copies of a task."""
    made, encoder = copy.deepcopy(plain), shared.encoder
    assert isinstance(encoder, Sharing)
    for part, layer in encoder.sites:
        bank = encoder._mixture(part).bank(name)
        with torch.no_grad():
            made.encoder.backbone.get_submodule(layer).weight += bank.weight[0]
            made.encoder.backbone.get_submodule(layer).bias += bank.bias[0]
    return made.eval()


@pytest.mark.parametrize("part", ["feed_forward", "attention", "both"])
def test_queries_and_passages_go_through_the_copies_of_their_task(
    part: str, plain: MultiTaskModel, tasks: list[Task]
) -> None:
    made = share(copy.deepcopy(plain), plan_of("scimult", {"part": part})).eval()
    encoder = made.encoder
    assert isinstance(encoder, Sharing)
    layers = [layer for _, layer in encoder.sites]
    assert all(".1." in f".{layer}." for layer in layers), "the second of two blocks"
    assert len(layers) == {"feed_forward": 2, "attention": 4, "both": 6}[part]
    before = {one.name: made.answers(one.name, one.splits["test"].inputs).predictions for one in tasks}
    for one in tasks:
        assert before[one.name] == plain.answers(one.name, one.splits["test"].inputs).predictions, "begins as the base"
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.parts.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    vectors = {}
    for one in tasks:
        alone, definition = of_task(made, plain, one.name), one.definition
        rows = made.encoder.prepare(one.splits["train"].inputs[:4], definition, one.splits["train"].targets[:4])
        assert {len(row["ids"]) for row in rows} == {4}, "each query with three passages"
        with torch.inference_mode():
            found, wanted = (m.encoder(m.encoder.batch(rows, definition)).values for m in (made, alone))
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        vectors[one.name] = found
        rows = one.splits["test"].inputs
        assert made.answers(one.name, rows).predictions == alone.answers(one.name, rows).predictions
    assert (vectors["things"][0] - vectors["moods"][0]).abs().max() > 0.1


def test_copies_learn_apart_and_what_they_are_copies_of_stays(
    plain: MultiTaskModel, tasks: list[Task], tmp_path: Path
) -> None:
    made = share(copy.deepcopy(plain), plan_of("scimult"))
    encoder = made.encoder
    assert isinstance(encoder, Sharing)
    train(made, tasks, SETTINGS, seed=0)
    fixed = {layer for _, layer in encoder.sites}
    with encoder.plain() as inner:
        for name, module in inner.backbone.named_modules():
            if isinstance(module, torch.nn.Linear) and "pooler" not in name:
                same = torch.equal(module.weight, plain.encoder.backbone.get_submodule(name).weight)
                assert same == (name in fixed), name
    for part, _ in encoder.sites:
        one, other = (encoder._mixture(part).bank(each.name).weight for each in tasks)
        assert one.abs().max() > 1e-4 and (one - other).abs().max() > 1e-4
    made.save(tmp_path / "made")
    again = load(tmp_path / "made")
    for each in tasks:
        assert predict_split(again, each, "test").predictions == predict_split(made, each, "test").predictions
        rows = each.splits["test"].inputs
        assert again.answers(each.name, rows).predictions == again.answers(each.name, rows, batch_size=2).predictions
