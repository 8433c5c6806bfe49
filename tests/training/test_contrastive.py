"""Losses of pairs in training, batches in chunks, and vectors that serve at several sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from allround.core.errors import AllroundError
from allround.models.agreeing import PairLoss
from allround.models.base import load_encoder
from allround.models.encoders.small_table import SmallTable
from allround.models.encoders.text import Text
from allround.models.fitting import fit_head
from allround.models.heads.similarity import cosines
from allround.models.sizes import at_size, scores_by_size
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.make import make_task
from allround.tasks.metric import score_of
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.terms.matryoshka import Matryoshka
from allround.training.trainer import train

FAST = Settings(epochs=6, batch_size=12, learning_rate=2e-3, precision="fp32", keep="last", device="cpu")


@pytest.fixture(scope="module")
def alike(text_suite: Suite) -> Task:
    """Pairs of texts with a number: how many of their words are the same, of all."""
    rows = {
        split: [
            {"one": a, "other": b, "score": len({*a.split()} & {*b.split()}) / len({*a.split()} | {*b.split()})}
            for a, b in part.inputs
        ]
        for split, part in text_suite["alike"].splits.items()
    }
    return make_task("alike", kind="similarity", inputs=["one", "other"], target="score", data=rows)


def model_for(folder: Path, task: Task) -> MultiTaskModel:
    model = MultiTaskModel(load_encoder(folder), {})
    model.add_task(task.definition, fit_head(model.encoder, task).state)
    return model


def batch_loss(model: MultiTaskModel, task: Task) -> torch.Tensor:
    """The loss on all training rows."""
    rows, split = task.splits["train"], {task.name: range(len(task.splits["train"]))}
    batch = model.collate(model.prepare(task.name, rows.inputs), split, {task.name: rows.targets})
    return model.losses(batch)[task.name].mean


def gradients(model: MultiTaskModel, task: Task, seed: int = 0) -> dict[str, torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(seed)
    batch_loss(model, task).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# -- losses of pairs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mse", "cosent", "pearson", "gaps", "rank_kl", "codiemb"])
def test_each_loss_of_pairs_brings_cosines_and_targets_together(bert_folder: Path, alike: Task, name: str) -> None:
    """What is learned is the loss that was asked for, and the cosines of the training pairs correlate better."""
    task = alike.weighed(agree=name)
    model = model_for(bert_folder, task)
    rows = task.splits["train"]

    def found() -> torch.Tensor:
        model.eval()
        with torch.no_grad():
            batch = model.collate(model.prepare(task.name, rows.inputs), {task.name: range(len(rows))})
            return cosines(model.features(batch).values).squeeze(-1)

    before, start = found(), float(batch_loss(model, task).detach())
    if name != "mse":
        targets = torch.as_tensor(np.asarray(rows.targets)).float()
        assert start == pytest.approx(float(PairLoss.named(name)(before, targets)), rel=1e-4)
    train(model, [task], FAST)
    assert float(batch_loss(model.eval(), task).detach()) < 0.9 * start
    order = [np.corrcoef(one, rows.targets)[0, 1] for one in (before, found())]
    assert order[1] > order[0] + 0.05


def test_squared_errors_are_what_is_learned_by_default(bert_folder: Path, alike: Task) -> None:
    plain, asked = (model_for(bert_folder, task) for task in (alike, alike.weighed(agree="mse")))
    one, other = batch_loss(plain, alike), batch_loss(asked, alike.weighed(agree="mse"))
    assert torch.allclose(2 * one, other)


def test_a_loss_of_cosines_leaves_the_line_to_tuned_heads(bert_folder: Path, alike: Task) -> None:
    """Frozen heads stay; tuned ones follow the cosines, so that answers keep the unit of the targets."""
    task = alike.weighed(agree="cosent")
    errors = {}
    for heads in ("frozen", "tuned"):
        model = model_for(bert_folder, task)
        start = {name: value.clone() for name, value in model.head(task.name).stored().items()}
        train(model, [task], replace(FAST, epochs=12, heads=heads, task_rates={}))
        same = all(torch.equal(value, start[name]) for name, value in model.head(task.name).stored().items())
        assert same == (heads == "frozen")
        answers = model.answers(task.name, task.splits["train"].inputs).predictions
        errors[heads] = float(np.square(answers - task.splits["train"].targets).mean())
    assert errors["tuned"] < errors["frozen"]


def test_what_cannot_be_is_refused(bert_folder: Path, alike: Task, text_suite: Suite) -> None:
    with pytest.raises(AllroundError, match="no task of the kind similarity"):
        text_suite["mood"].weighed(agree="cosent")
    with pytest.raises(AllroundError, match="did you mean 'cosent'"):
        alike.weighed(agree="cosen")
    task = alike.weighed(agree="cosent:temperature=0.1")
    assert Definition.from_json(task.definition.to_json()) == task.definition
    assert "agree" not in alike.definition.to_json()
    with pytest.raises(ValueError, match="agree 'nothing'"):
        Definition.from_json({**task.definition.to_json(), "agree": "nothing"})
    with pytest.raises(AllroundError, match="cosine of two texts"):
        load_encoder(bert_folder, pairs="joint").check(task.definition)
    with pytest.raises(AllroundError, match="no sum over parts"):
        train(model_for(bert_folder, task), [task], replace(FAST, accumulate=2))
    train(model_for(bert_folder, alike), [alike], replace(FAST, accumulate=2, epochs=1))


def test_the_suite_gives_its_tasks_the_loss_that_they_do_not_have(alike: Task, text_suite: Suite) -> None:
    own = replace(alike.weighed(agree="pearson"), definition=replace(alike.definition, name="own", agree="pearson"))
    made = Suite("s", [alike, own, text_suite["mood"]]).weighed(agree="codiemb")
    assert [task.definition.agree for task in made] == ["codiemb", "pearson", ""]


# -- chunks ------------------------------------------------------------------------------------------------------------


def with_dropout(encoder: Text, share: float) -> None:
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = share


@pytest.mark.parametrize("rows", [1, 5, 47])
def test_chunks_have_the_gradient_of_the_whole_batch(bert_folder: Path, alike: Task, rows: int) -> None:
    task = alike.weighed(agree="codiemb")
    model = model_for(bert_folder, task)
    assert isinstance(model.encoder, Text)
    with_dropout(model.encoder, 0.0)
    model.double().train()
    whole = gradients(model, task)
    model.chunk(rows)
    parts = gradients(model, task)
    assert whole.keys() == parts.keys()
    for name, one in whole.items():
        assert torch.allclose(parts[name], one, atol=1e-9), name


def test_chunks_are_computed_again_with_the_same_dropout(
    bert_folder: Path, alike: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the random numbers of the first pass: the gradient is that of chunks whose numbers are all kept."""
    from allround.models.encoders import text

    task = alike.weighed(agree="cosent")
    model = model_for(bert_folder, task)
    with_dropout(model.encoder, 0.3)
    model.train()
    model.chunk(7)
    again = gradients(model, task, seed=3)
    passes = []
    vectors = Text._vectors
    monkeypatch.setattr(Text, "_vectors", lambda self, given: passes.append(1) or vectors(self, given))
    gradients(model, task, seed=3)
    assert len(passes) == 2 * 7, "each of the 7 chunks of 48 texts is computed twice"
    monkeypatch.setattr(text, "checkpoint", lambda compute, part, use_reentrant: compute(part))
    kept = gradients(model, task, seed=3)
    for name, one in kept.items():
        assert torch.allclose(again[name], one, atol=1e-8), name
    other = gradients(model, task, seed=4)
    assert any(not torch.allclose(one, other[name]) for name, one in kept.items()), "dropout does something"


def test_a_training_in_chunks_ends_where_the_whole_one_does(bert_folder: Path, alike: Task) -> None:
    task = alike.weighed(agree="cosent")
    ends = []
    for chunk in (0, 4):
        model = model_for(bert_folder, task)
        with_dropout(model.encoder, 0.0)
        train(model, [task], replace(FAST, epochs=1, chunk=chunk, optimiser="sgd", learning_rate=0.1))
        ends.append({name: p.detach() for name, p in model.named_parameters()})
    assert all(torch.allclose(ends[0][name], ends[1][name], atol=1e-5) for name in ends[0])
    assert Settings(chunk=4).to_json()["chunk"] == 4 and "chunk" not in Settings().to_json()


def test_encoders_that_compute_batches_whole_say_so(small_table: SmallTable, table_suite: Suite) -> None:
    task = replace(next(iter(table_suite)), table=None)
    model = MultiTaskModel(small_table, {task.name: task.definition})
    with pytest.raises(AllroundError, match="computes batches whole"):
        train(model, [task], replace(FAST, heads="tuned", chunk=4))


# -- several sizes -----------------------------------------------------------------------------------------------------


def test_matryoshka_is_the_one_of_sentence_transformers(bert_folder: Path, alike: Task) -> None:
    """The loss and the gradient at three sizes, with CoSENT inside."""
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    from sentence_transformers import SentenceTransformer

    task = alike.weighed(agree="cosent")
    model = model_for(bert_folder, task).eval()
    width = model.encoder.features(task.definition) // 4
    sizes, weights = (width, width // 2, width // 4), (1.0, 0.5, 2.0)
    rows = task.splits["train"]
    batch = model.collate(
        model.prepare(task.name, rows.inputs), {task.name: range(len(rows))}, {task.name: rows.targets}
    )
    features = model.features(batch)
    term = Matryoshka(sizes=sizes[1:], weights=weights[1:])
    added = term.task_loss(model, task.name, batch, features)
    assert added is not None
    ours = model.losses(batch, features)[task.name].mean + added
    ours.backward()

    theirs = SentenceTransformer(str(bert_folder), device="cpu").eval()
    loss = losses.MatryoshkaLoss(theirs, losses.CoSENTLoss(theirs), list(sizes), list(weights))
    sides = [theirs.preprocess([row[side] for row in rows.inputs]) for side in (0, 1)]
    found = loss(sides, torch.as_tensor(np.asarray(rows.targets)).float())
    found.backward()
    assert torch.allclose(ours, found, rtol=1e-5)
    own = dict(model.encoder.pipeline.named_parameters())
    for name, parameter in theirs.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(own[name].grad, parameter.grad, atol=1e-5), name


def test_a_model_at_a_size_answers_as_sentence_transformers(bert_folder: Path, alike: Task, tmp_path: Path) -> None:
    """Saved at a size, it loads there with the same vectors; the whole folder with `truncate_dim` gives them too."""
    from sentence_transformers import SentenceTransformer

    model = model_for(bert_folder, alike)
    train(model, [alike], replace(FAST, epochs=2), terms=[Matryoshka(sizes=(8,))])
    inputs = alike.splits["test"].inputs
    whole, small = model.answers("alike", inputs).predictions, at_size(model, 8)
    model.save(tmp_path / "whole")
    small.save(tmp_path / "small")
    read = load(tmp_path / "small")
    assert np.allclose(read.answers("alike", inputs).predictions, small.answers("alike", inputs).predictions)
    assert np.allclose(load(tmp_path / "whole").answers("alike", inputs).predictions, whole)
    assert not np.allclose(whole, small.answers("alike", inputs).predictions)
    texts = [row[0] for row in inputs]
    one = SentenceTransformer(str(tmp_path / "small" / "encoder"), device="cpu").encode(texts)
    cut = SentenceTransformer(str(tmp_path / "whole" / "encoder"), device="cpu", truncate_dim=8).encode(texts)
    batch = small.collate(small.prepare("alike", inputs), {"alike": range(len(inputs))})
    with torch.no_grad():
        vectors = small.features(batch).values[:, :8].numpy() / (model.encoder.features(alike.definition) / 4) ** 0.5
    assert one.shape == (len(texts), 8) and np.allclose(one, cut, atol=1e-6)
    assert np.allclose(one, vectors, atol=1e-6)


def test_scores_by_size_are_those_of_the_models_at_the_sizes(bert_folder: Path, alike: Task) -> None:
    model = model_for(bert_folder, alike)
    found = scores_by_size(model, [alike], [4, 8], "test")
    width = model.encoder.features(alike.definition) // 4
    assert list(found) == [width, 8, 4]
    rows = alike.splits["test"]
    for size, scores in found.items():
        said = at_size(model, size).answers("alike", rows.inputs).predictions
        assert scores["alike"] == pytest.approx(score_of(alike.definition, rows.targets, said))
    assert len({scores["alike"] for scores in found.values()}) > 1


def test_every_head_reads_zeros_in_place_of_what_is_left_out(bert_folder: Path, text_suite: Suite) -> None:
    for task, sort in ((text_suite["mood"], "linear"), (text_suite["mood"], "mlp"), (text_suite["alike"], "linear")):
        model = MultiTaskModel(load_encoder(bert_folder), {})
        model.add_task(task.definition, fit_head(model.encoder, task, sort).state)
        inputs = task.splits["test"].inputs
        small = at_size(model, 4).outputs(task.name, inputs).logits
        width = model.encoder.features(task.definition) // (4 if task.definition.pair else 1)
        head, full = model.head(task.name), model.encoder
        batch = full.batch(full.prepare(inputs, task.definition), task.definition)
        with torch.no_grad():
            values = full(batch).values
            values[:, torch.arange(values.shape[1]) % width >= 4] = 0
            assert torch.allclose(head(values), small, atol=1e-4), (task.name, sort)


def test_sizes_that_cannot_be_are_refused(bert_folder: Path, alike: Task, text_suite: Suite) -> None:
    model = model_for(bert_folder, alike)
    for odd in (0, 1000):
        with pytest.raises(AllroundError, match="the encoder gives"):
            at_size(model, odd)
    with pytest.raises(AllroundError, match="are trained in any case"):
        train(model, [alike], FAST, terms=[Matryoshka(sizes=(1000,))])
    with pytest.raises(AllroundError, match="reads little from a part"):
        train(model_for(bert_folder, text_suite["mood"]), [text_suite["mood"]], FAST, terms=[Matryoshka()])
    with pytest.raises(AllroundError, match="whole number"):
        Matryoshka(sizes=(0,))
    with pytest.raises(AllroundError, match="as many weights"):
        Matryoshka(sizes=(4, 2), weights=(1.0,))
