"""Statistics of a network's data: what layers see, gradients, and what is kept of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.core import registry
from allround.core.errors import AllroundError
from allround.merging.statistics.layers import Watch, form_of
from allround.merging.statistics.measure import Examples, Measured, measure
from allround.models.base import load_encoder
from allround.models.batch import Batch
from allround.models.encoder import Encoder
from allround.models.encoders.module import Module
from allround.models.encoders.small_image import SmallImage
from allround.models.head import make_head
from allround.models.heads.linear import Linear
from allround.models.likelihood import fisher_terms
from allround.tasks.definition import Definition
from allround.tasks.make import make_task
from allround.tasks.suite import Suite

KINDS = {"gram", "fisher", "kfac", "activations"}


class Turned(nn.Module):
    """A layer that stores its weight as (in, out), as GPT-2's do."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(width, out)), nn.Parameter(torch.randn(out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def network(*layers: nn.Module, dim: int) -> Encoder:
    return Module(nn.Sequential(*layers), dim=dim, to_tensor=lambda row: torch.tensor(row)).eval()


def definition(kind: str, outputs: int = 0, name: str = "t") -> Definition:
    return Definition(name, kind, ("x",), "table", "accuracy", tuple(map(str, range(outputs))))


def examples(rows: Tensor, kind: str = "classification", targets: Any = None, outputs: int = 3) -> list[Examples]:
    return [Examples(definition(kind, outputs), list(rows), targets)]


def head(outputs: int, features: int) -> Linear:
    """A head with the weights that a layer of torch begins with."""
    last = nn.Linear(features, outputs)
    made = Linear(
        definition("classification" if outputs > 1 else "regression", outputs if outputs > 1 else 0), features
    )
    made.load_state_dict(last.state_dict())
    return made


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_every_kind_is_found_and_says_what_it_sees() -> None:
    found = {entry.name: entry for entry in registry.entries("statistic")}
    assert set(found) >= KINDS
    for entry in found.values():
        assert entry.summary and entry.source and ">>>" in str(entry.load().__doc__)
        assert set(entry.facts["sees"]) <= {"inputs", "outputs", "gradients", "parameters"}


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_a_gram_is_that_of_the_rows_whatever_the_batches(batch_size: int) -> None:
    rows = torch.randn(7, 4)
    first, second = nn.Linear(4, 5), nn.Linear(5, 2)
    found = measure(network(first, nn.ReLU(), second, dim=2), examples(rows), "gram", batch_size=batch_size).tensors
    hidden = first(rows).relu().detach()
    assert torch.allclose(found["network.0.weight"][0], rows.T @ rows / 7, atol=1e-6)
    assert torch.allclose(found["network.2.weight"][0], hidden.T @ hidden / 7, atol=1e-6)


def test_padding_counts_nowhere(bert_folder: Path, text_suite: Suite) -> None:
    """One row at a time there is no padding: rows of any length in one batch give the same."""
    encoder = load_encoder(bert_folder)
    tasks = [text_suite.tasks[name] for name in ("mood", "alike", "names")]
    for task in tasks:
        inputs = task.splits["train"].inputs[:6]
        given = [Examples(task.definition, encoder.prepare(inputs, task.definition))]
        alone, together = (measure(encoder, given, "gram", batch_size=size).tensors for size in (1, 6))
        assert set(alone) == set(together) and len(alone) >= 14
        for name, (gram,) in alone.items():
            if "position_embeddings" not in name and "pooler" not in name:
                assert torch.allclose(gram, together[name][0], atol=1e-4), name


def test_a_convolution_is_a_matrix_of_patches(small_image: SmallImage, digits_suite: Suite) -> None:
    """w G w^T is the mean square of its output without the bias, for each channel."""
    encoder, task = copy.deepcopy(small_image), digits_suite.tasks["digit"]
    prepared = encoder.prepare(task.splits["train"].inputs[:5], task.definition)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.bias)
    found = measure(encoder, [Examples(task.definition, prepared)], "gram").tensors
    first = encoder.layers[0]
    assert isinstance(first, nn.Conv2d)
    images = encoder.collate(prepared, task.definition).tensors["images"]
    squares = first(images).square().mean((0, 2, 3))
    weight, gram = first.weight.flatten(1), found["layers.0.weight"][0]
    assert torch.allclose(((weight @ gram) * weight).sum(1), squares, rtol=1e-4)
    assert gram.shape == (9, 9) and found["layers.3.weight"][0].shape == (288, 288)


def test_strides_and_dilation_of_a_convolution() -> None:
    layer = nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), bias=False)
    rows = torch.randn(4, 2, 7, 8)
    encoder = network(layer, dim=3)
    gram = measure(encoder, examples(rows), "gram").tensors["network.0.weight"][0]
    weight = layer.weight.flatten(1)
    assert torch.allclose(((weight @ gram) * weight).sum(1), layer(rows).square().mean((0, 2, 3)), rtol=1e-4)


def test_other_convolutions_are_left_out() -> None:
    for layer in (nn.Conv2d(2, 2, 3, groups=2), nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
                  nn.Conv2d(2, 2, 3, padding="same")):  # fmt: skip
        assert not measure(network(layer, dim=2), examples(torch.randn(2, 2, 5, 5)), "gram").tensors


def test_a_weight_stored_the_other_way_is_seen_as_such() -> None:
    rows = torch.randn(9, 4)
    for layer, transposed in ((Turned(4, 4), {"network.0.weight"}), (nn.Linear(4, 4), set())):
        found = measure(network(layer, dim=4), examples(rows), "gram")
        assert found.transposed == transposed
        assert torch.allclose(found.tensors["network.0.weight"][0], rows.T @ rows / 9, atol=1e-6)


def test_forms_are_found_by_computing() -> None:
    rows = torch.randn(2, 3, 4)
    scaled = nn.Linear(4, 4)
    assert form_of(scaled, rows, scaled(rows)) == "matrix"
    assert form_of(scaled, rows, 2 * scaled(rows)) is None
    assert form_of(Turned(4, 4), rows, rows) is None
    lookup = nn.Embedding(5, 4)
    assert form_of(lookup, torch.tensor([[1, 2]]), lookup(torch.tensor([[1, 2]]))) == "lookup"
    for dtype in (torch.bfloat16, torch.float64):
        layer = nn.Linear(64, 64).to(dtype)
        given = torch.randn(5, 64, dtype=dtype)
        assert form_of(layer, given, layer(given)) == "matrix"


def test_an_embedding_has_counts() -> None:
    rows = torch.tensor([[0, 2], [2, 2], [4, 0]])
    encoder = network(nn.Embedding(5, 3), dim=6)
    found = measure(encoder, examples(rows), "gram").tensors["network.0.weight"][0]
    assert torch.allclose(found, torch.tensor([2, 0, 3, 0, 1]) / 6)


def test_layers_of_a_shared_weight_count_together() -> None:
    layer = nn.Linear(4, 4)
    rows = torch.randn(3, 4)
    found = measure(network(layer, layer, dim=4), examples(rows), "gram").tensors
    after = layer(rows).detach()
    assert list(found) == ["network.0.weight"]
    assert torch.allclose(found["network.0.weight"][0], (rows.T @ rows + after.T @ after) / 6, atol=1e-6)


def test_several_tasks_count_by_rows() -> None:
    encoder, rows = network(nn.Linear(4, 2), dim=2), torch.randn(10, 4)
    two = [Examples(definition("regression", name=n), list(part)) for n, part in zip("ab", rows.split(3), strict=False)]
    found = measure(encoder, two, "gram").tensors["network.0.weight"][0]
    assert torch.allclose(found, rows[:6].T @ rows[:6] / 6, atol=1e-6)


def fisher_of(encoder: Encoder, heads: Linear, given: list[Examples], **values: Any) -> Measured:
    return measure(encoder, given, "fisher", heads={"t": heads}, **values)


def test_the_fisher_of_given_labels_by_hand() -> None:
    """Of softmax regression: the gradient for row x of class y is V^T (e_y - p) x^T."""
    layer, last, rows, targets = nn.Linear(4, 2), head(3, 2), torch.randn(6, 4), np.array([0, 1, 2, 1, 0, 2])
    found = fisher_of(network(layer, dim=2), last, examples(rows, targets=targets)).tensors
    shares = last(layer(rows)).softmax(-1)
    slopes = (F.one_hot(torch.tensor(targets), 3) - shares) @ last.weight
    expected = torch.einsum("no,ni->noi", slopes, rows).square().mean(0)
    assert torch.allclose(found["network.0.weight"][0], expected, atol=1e-6)
    assert torch.allclose(found["network.0.bias"][0], slopes.square().mean(0), atol=1e-6)


def test_the_fisher_of_a_search_is_that_of_its_loss(bert_folder: Path) -> None:
    """Against the squared gradients of each query's loss beside the passages of the batch."""
    encoder = load_encoder(bert_folder).eval()
    passages = {"a": "fine warm", "b": "dull cold", "c": "kind"}
    rows = [{"query": text.split()[0], "relevant": [one]} for one, text in passages.items()]
    task = make_task("find", kind="retrieval", data=dict.fromkeys(("train", "validation", "test"), rows),
                     inputs="query", target="relevant", passages=passages)  # fmt: skip
    split, last = task.splits["train"], make_head("ranking", task.definition, encoder.features(task.definition))
    given = [Examples(task.definition, encoder.prepare(split.inputs, task.definition, split.targets), split.targets)]
    found = measure(encoder, given, "fisher", heads={"find": last}).tensors
    order = sorted(range(3), key=lambda row: -encoder.length(given[0].prepared[row]))
    batch = encoder.batch([given[0].prepared[row] for row in order], task.definition)
    losses = last.each(encoder(batch), [split.targets[row] for row in order])
    assert len(losses) == 3 and losses.min() > 0
    for name, parameter in encoder.named_parameters():
        if name.endswith("query.weight"):
            slopes = [torch.autograd.grad(one, parameter, retain_graph=True)[0] for one in losses]
            assert torch.allclose(found[name][0], torch.stack(slopes).square().mean(0), rtol=1e-3, atol=1e-9), name
    grams = measure(encoder, given, "gram").tensors
    assert set(grams) >= set(measure(encoder, given, "kfac", heads={"find": last}).tensors)
    with pytest.raises(AllroundError, match="take the labels 'own' of task 'find'"):
        measure(encoder, given, "fisher", heads={"find": last}, labels="own")


def test_the_fisher_of_own_labels_is_the_expectation() -> None:
    layer, last, rows = nn.Linear(4, 2), head(3, 2), torch.randn(6, 4)
    given = examples(rows, targets=np.zeros(6, dtype=np.int64))
    found = fisher_of(network(layer, dim=2), last, given, labels="own").tensors["network.0.weight"][0]
    shares = last(layer(rows)).softmax(-1)
    expected = torch.zeros(2, 4)
    for y in range(3):
        slopes = (F.one_hot(torch.tensor(y), 3) - shares) @ last.weight
        expected += (shares[:, y, None, None] * torch.einsum("no,ni->noi", slopes, rows).square()).mean(0)
    assert torch.allclose(found, expected, atol=1e-6)


def test_the_fisher_of_a_regression_is_gaussian() -> None:
    layer, last, rows = nn.Linear(4, 2), head(1, 2), torch.randn(5, 4)
    targets = np.array([1.0, -2.0, 0.5, 0.0, 3.0])
    slopes = last.weight.expand(5, 2)
    for labels, apart in (("own", torch.ones(5)), ("given", torch.tensor(targets) - last(layer(rows)).squeeze(-1))):
        given = examples(rows, "regression", targets, outputs=0)
        found = fisher_of(network(layer, dim=2), last, given, labels=labels).tensors["network.0.weight"][0]
        expected = torch.einsum("no,ni->noi", slopes * apart.float()[:, None], rows).square().mean(0)
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("kind", "outputs"), [("multilabel", 3), ("token_classification", 3), ("classification", 20)])
def test_drawn_answers_have_the_expected_square(kind: str, outputs: int) -> None:
    """Over many draws the mean squared slope at the logits is that of the expectation, p (1 - p)."""
    logits = torch.randn(1, outputs).repeat(40_000, 1).requires_grad_()
    generator = torch.Generator().manual_seed(0)
    targets = torch.zeros(40_000, outputs) if kind == "multilabel" else torch.zeros(40_000, dtype=torch.long)
    found = fisher_terms(logits, targets, definition(kind, outputs), "own", generator)
    (slope,) = torch.autograd.grad(sum(found, torch.zeros(())), logits)
    shares = logits[0].sigmoid() if kind == "multilabel" else logits[0].softmax(-1)
    assert len(found) == 1
    assert torch.allclose(slope.square().mean(0), shares * (1 - shares), atol=1e-2)


def test_likelihoods_that_are_none_are_refused() -> None:
    logits, generator = torch.zeros(1, 2), torch.Generator()
    with pytest.raises(AllroundError, match="no likelihood for tasks of the kind 'sorting'"):
        fisher_terms(logits, torch.zeros(1), definition("sorting"), "given", generator)
    with pytest.raises(AllroundError, match="take the labels 'mine'"):
        fisher_terms(logits, torch.zeros(1), definition("regression"), "mine", generator)


@pytest.mark.parametrize("labels", ["given", "own"])
def test_the_kronecker_product_of_one_row_is_its_fisher(labels: str) -> None:
    """With one answer and one row nothing is approximated; with several answers the diagonal is exact as well."""
    layer, last, rows = nn.Linear(4, 2), head(3, 2), torch.randn(1, 4)
    encoder, given = network(layer, dim=2), examples(rows, targets=np.array([1]))
    found = measure(encoder, given, "kfac", heads={"t": last}, labels=labels)
    inputs, outputs = found.tensors["network.0.weight"]
    expected = fisher_of(encoder, last, given, labels=labels).tensors["network.0.weight"][0]
    assert found.parts == ("input", "output")
    assert torch.allclose(torch.outer(outputs.diagonal(), inputs.diagonal()), expected, atol=1e-6)


def test_the_factors_do_not_depend_on_the_batches(bert_folder: Path, text_suite: Suite) -> None:
    encoder, task = load_encoder(bert_folder), text_suite.tasks["mood"]
    inputs = encoder.prepare(task.splits["train"].inputs[:6], task.definition)
    given = [Examples(task.definition, inputs, task.splits["train"].targets[:6])]
    heads = {"mood": head(2, 32)}
    alone, together = (measure(encoder, given, "kfac", heads=heads, batch_size=size).tensors for size in (1, 6))
    for name, parts in alone.items():
        assert "embeddings" not in name
        for part, other in zip(parts, together[name], strict=True):
            assert torch.allclose(part, other, rtol=1e-3, atol=1e-3 * float(part.abs().max())), name


def test_what_comes_after_may_change_its_input_in_place() -> None:
    rows, last = torch.randn(4, 3), head(2, 5)
    layer, targets = nn.Linear(3, 5), np.array([0, 1, 1, 0])
    plain, inplace = (network(copy.deepcopy(layer), nn.ReLU(inplace=flag), dim=5) for flag in (False, True))
    for kind in ("kfac", "activations", "fisher"):
        one, other = (measure(e, examples(rows, targets=targets, outputs=2), kind, heads={"t": last}).tensors
                      for e in (plain, inplace))  # fmt: skip
        for name, parts in one.items():
            assert all(torch.equal(a, b) for a, b in zip(parts, other[name], strict=True))


def test_activations_are_of_the_same_places_in_two_models() -> None:
    rows = torch.randn(50, 4)
    one, other = nn.Linear(4, 3), nn.Linear(4, 3)
    first, second = (measure(network(layer, dim=3), examples(rows), "activations", positions=16).tensors
                     ["network.0.weight"][0] for layer in (one, other))  # fmt: skip
    assert first.shape == (16, 3)
    places = [int((one(rows) - row).norm(dim=1).argmin()) for row in first]
    assert len(set(places)) == 16
    assert torch.allclose(other(rows)[places], second, atol=1e-6) and torch.allclose(one(rows)[places], first)
    again = measure(network(one, dim=3), examples(rows), "activations", positions=16, seed=1).tensors
    assert not torch.equal(again["network.0.weight"][0], first)


def test_hooks_are_gone_and_results_are_untouched() -> None:
    encoder, rows = network(nn.Linear(4, 2), dim=2), torch.randn(3, 4)
    before = encoder(Batch({"x": rows}, 3)).values
    with pytest.raises(ValueError, match="stop"), Watch(encoder).on():
        raise ValueError("stop")
    assert not any(module._forward_hooks for module in encoder.modules())
    measure(encoder, examples(rows), "gram")
    assert torch.equal(encoder(Batch({"x": rows}, 3)).values, before)
    assert all(p.grad is None for p in encoder.parameters())


def test_an_unknown_kind_suggests_one() -> None:
    with pytest.raises(AllroundError, match="did you mean 'gram'"):
        measure(network(nn.Linear(2, 2), dim=2), examples(torch.zeros(1, 2)), "gramm")


def test_packed_rows_of_a_language_model_count_as_they_do_alone(tmp_path: Path) -> None:
    """Rows share a sequence that is padded; neither padding nor another row is in the sums."""
    from tests.models.language import save_model

    encoder = load_encoder(save_model(tmp_path / "llama", "llama"))
    task = Definition("t", "classification", ("m",), "text", "accuracy", ("late", "lost"))
    rows = [("It came too late, again. " * n,) for n in (20, 1, 4)]
    prepared = encoder.prepare(rows, task)
    assert not encoder.collate(prepared, task).tensors["attention_mask"].all(), "a slot is padded"
    together = measure(encoder, [Examples(task, prepared)], "gram").tensors
    alone = [measure(encoder, [Examples(task, [row])], "gram").tensors for row in prepared]
    sizes = [row.length for row in prepared]
    name = "net.network.model.layers.0.mlp.up_proj.weight"
    wanted = sum(size * one[name][0] for size, one in zip(sizes, alone, strict=True)) / sum(sizes)
    assert torch.allclose(together[name][0], wanted, rtol=1e-4, atol=1e-5)
