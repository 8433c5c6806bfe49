"""RegMean++: each layer is merged on what the merged layers before it give."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.merging.methods.average import average
from allround.merging.methods.regmean import regmean
from allround.merging.statistics.sequential import _calls, _grouped, regmean_pp
from allround.models.base import load_encoder
from allround.models.batch import Batch
from allround.models.encoder import Encoder
from allround.models.encoders.module import Module
from allround.tasks.suite import Suite


class Turned(nn.Module):
    """A layer that stores its weight as (in, out)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Late(nn.Module):
    """Calls its layers in another order than it lists them."""

    def __init__(self) -> None:
        super().__init__()
        self.b, self.a, self.unused = nn.Linear(4, 3), nn.Linear(4, 4), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


def tuned(base: Encoder, count: int = 2) -> dict[str, Encoder]:
    found = {}
    for number in range(count):
        found[str(number)] = copy.deepcopy(base)
        for parameter in found[str(number)].parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return found


def batches(models: dict[str, Encoder], width: int = 4, rows: int = 12) -> dict[str, list[Batch]]:
    return {name: [Batch({"x": torch.randn(rows, width)}, rows) for _ in range(2)] for name in models}


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("groups", ["block", "layer"])
def test_two_layers_by_hand(groups: str) -> None:
    base = Module(Late(), dim=3)
    models = tuned(base)
    given = batches(models)
    found = regmean_pp(base, models, given, shrink=0.7, groups=groups)
    nets = [model.network for model in models.values()]
    inputs = [torch.cat([b.tensors["x"] for b in listed]) for listed in given.values()]

    def merged(name: str, rows: list[Tensor]) -> Tensor:
        start = base.network.get_submodule(name)
        weight = torch.stack([net.get_submodule(name).weight - start.weight for net in nets])
        return regmean(start.weight, weight, gram=torch.stack([x.T @ x / len(x) for x in rows]), shrink=0.7)

    def mean(name: str) -> Tensor:
        return torch.stack([net.get_parameter(name) for net in nets]).mean(0)

    first = merged("a", inputs)
    hidden = [(x @ first.T + mean("a.bias")).relu() for x in inputs]
    assert torch.allclose(found["network.a.weight"], first, atol=1e-5)
    assert torch.allclose(found["network.a.bias"], mean("a.bias"), atol=1e-6)
    assert torch.allclose(found["network.b.weight"], merged("b", hidden), atol=1e-5)
    assert torch.allclose(found["network.unused.weight"], mean("unused.weight"), atol=1e-6)
    assert set(found) == {name for name, _ in base.named_parameters()}
    plain = merged("b", [net.a(x).relu().detach() for net, x in zip(nets, inputs, strict=True)])
    assert not torch.allclose(found["network.b.weight"], plain, atol=1e-3), "that is what regmean would give"


def test_a_block_is_run_with_the_models_own_layers() -> None:
    """Within a block the second layer sees what the model's own first layer gives, as in the authors' code."""
    base = Module(nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4))), dim=4)
    models = tuned(base)
    given = batches(models)
    found = regmean_pp(base, models, given)
    rows = [m.network[0][0](torch.cat([b.tensors["x"] for b in given[n]])).detach() for n, m in models.items()]
    start = base.network[0][1].weight
    deltas = torch.stack([model.network[0][1].weight - start for model in models.values()])
    expected = regmean(start, deltas, gram=torch.stack([x.T @ x / len(x) for x in rows]))
    assert torch.allclose(found["network.0.1.weight"], expected, atol=1e-5)
    apart = regmean_pp(base, models, given, groups="layer")
    assert torch.allclose(apart["network.0.0.weight"], found["network.0.0.weight"], atol=1e-6)
    assert not torch.allclose(apart["network.0.1.weight"], expected, atol=1e-3)


def test_a_weight_stored_the_other_way() -> None:
    weight = torch.randn(4, 4)
    turned, plain = Module(Turned(weight), dim=4), Module(nn.Linear(4, 4, bias=False), dim=4)
    plain.network.weight.data.copy_(weight.T)
    models = tuned(turned)
    others = {name: copy.deepcopy(plain) for name in models}
    for name, other in others.items():
        other.network.weight.data.copy_(models[name].network.weight.T)
    given = batches(models)
    expected = regmean_pp(plain, others, given)["network.weight"].T
    assert torch.allclose(regmean_pp(turned, models, given)["network.weight"], expected, atol=1e-5)


def test_a_transformer_with_padding_and_nothing_that_is_given_changes(bert_folder: Path, text_suite: Suite) -> None:
    base = load_encoder(bert_folder)
    models = tuned(base, 2)
    task = text_suite.tasks["mood"]
    prepared = base.prepare(task.splits["train"].inputs[:8], task.definition)
    given = {name: [base.batch(prepared, task.definition)] for name in models}
    before = [{k: v.clone() for k, v in e.state_dict().items()} for e in (base, *models.values())]
    found = regmean_pp(base, models, given)
    for encoder, state in zip((base, *models.values()), before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in encoder.state_dict().items())
        assert not any(module._forward_hooks for module in encoder.modules())
    assert all(value.isfinite().all() and value.shape == before[0][name].shape for name, value in found.items())
    same = regmean_pp(base, dict.fromkeys(models, models["0"]), given)
    for name, parameter in models["0"].named_parameters():
        assert torch.allclose(same[name], parameter, atol=1e-4), name
    alone = {name: [base.batch([row], task.definition) for row in prepared] for name in models}
    apart = regmean_pp(base, models, alone)
    assert all(torch.allclose(apart[n], v, atol=2e-2) for n, v in found.items() if "position" not in n)


def test_embeddings_by_counts_or_averaged() -> None:
    base = Module(nn.Sequential(nn.Embedding(6, 3)), dim=6)
    models = tuned(base)
    given = {"0": [Batch({"x": torch.tensor([[0, 1]])}, 1)], "1": [Batch({"x": torch.tensor([[2, 1]])}, 1)]}
    one, two = (model.network[0].weight for model in models.values())
    found = regmean_pp(base, models, given, counts=True)["network.0.weight"]
    assert torch.allclose(found[0], one[0]) and torch.allclose(found[2], two[2])
    assert torch.allclose(found[1], (one[1] + two[1]) / 2, atol=1e-6) and torch.allclose(
        found[3], (one[3] + two[3]) / 2
    )
    averaged = regmean_pp(base, models, given)["network.0.weight"]
    start = base.network[0].weight
    assert torch.allclose(averaged, average(start, torch.stack([one, two]) - start), atol=1e-6)


def test_blocks_are_those_that_tell_layers_apart(bert_folder: Path, text_suite: Suite) -> None:
    encoder, task = load_encoder(bert_folder), text_suite.tasks["mood"]
    batch = encoder.batch(encoder.prepare(task.splits["train"].inputs[:2], task.definition), task.definition)
    called = [name for names in _calls(encoder, batch) for name in names]
    grouped = _grouped(called, dict(encoder.named_parameters()), "block")
    blocks = [group for group in grouped if "encoder.layer" in group[0]]
    assert [len(group) for group in blocks] == [16, 16]
    assert all(len({name.split(".layer.")[1][0] for name in group}) == 1 for group in blocks)
    assert "word_embeddings" in grouped[0][0]


def test_wrong_words() -> None:
    base = Module(nn.Linear(4, 2), dim=2)
    models = tuned(base)
    given = batches(models)
    for arguments, match in (
        (((base, models, given), {"groups": "blok"}), "did you mean 'block'"),
        (((base, models, {"0": given["0"]}), {}), "no rows for '1'"),
        (((base, {}, {}), {}), "no specialist is given"),
        (((base, {"0": Module(nn.Linear(4, 3), dim=3)}, given), {}), "is not as in the base"),
        (((base, models, given), {"shrink": 2.0}), "from 0 to 1"),
    ):
        with pytest.raises(AllroundError, match=match):
            regmean_pp(*arguments[0], **arguments[1])  # type: ignore[arg-type]
