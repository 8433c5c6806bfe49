"""`allround.merge`: models in memory and in folders, into a state dict or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import allround as ar
from allround.core.errors import AllroundError
from allround.models.base import load_encoder

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def three() -> list[Weights]:
    """A base and two models; one tensor is so large that it is merged in blocks."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"large.weight": (300_001, 2), "small.weight": (6, 5), "bias": (7,), "last": ()}
    base = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()} | {"steps": torch.tensor(3)}
    tuned = [
        {n: t + 0.1 * torch.randn(t.shape, generator=draw) if t.is_floating_point() else t for n, t in base.items()}
        for _ in range(2)
    ]
    return [base, *tuned]


@pytest.fixture(scope="module")
def folders(three: list[Weights], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    found = []
    for number, weights in enumerate(three):
        folder = tmp_path_factory.mktemp(f"m{number}")
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        found.append(folder)
    return found


@pytest.mark.parametrize(
    ("method", "values"),
    [("average", {}), ("ties", {"keep": 0.3}), ("ties", {"scope": "model"}), ("lwptv", {}), ("iso_c", {})],
)
def test_memory_and_files_give_the_same_numbers(
    three: list[Weights], folders: list[Path], tmp_path: Path, method: str, values: dict[str, Any]
) -> None:
    before = [{name: t.clone() for name, t in weights.items()} for weights in three]
    merged = ar.merge(three[1:], base=three[0], method=method, **values)
    assert all(torch.equal(t, old[n]) for now, old in zip(three, before, strict=True) for n, t in now.items())
    out = ar.merge(folders[1:], base=folders[0], method=method, out=tmp_path / "out", **values)
    written = load_file(out / "model.safetensors")
    assert merged.keys() == written.keys() == three[0].keys()
    assert all(torch.equal(merged[name], tensor) for name, tensor in written.items())
    mixed = ar.merge([folders[1], three[2]], base=folders[0], method=method, workers=1, **values)
    assert all(torch.equal(merged[name], tensor) for name, tensor in mixed.items())


def test_networks_give_weights_that_load() -> None:
    torch.manual_seed(0)
    base, one, two = (nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)) for _ in range(3))
    merged = ar.merge([one, two], base=base, method="average", dtype="float64")
    assert {tensor.dtype for tensor in merged.values()} == {torch.float64}
    base.load_state_dict(merged)
    halves = ((one[0].weight + two[0].weight) / 2).detach()
    assert torch.allclose(base[0].weight, halves)
    alone = ar.merge([one, two])  # no base: the weights themselves are averaged
    assert torch.allclose(alone["0.weight"], halves)


def test_what_cannot_be_merged_is_said(three: list[Weights], folders: list[Path], tmp_path: Path) -> None:
    wrong: list[tuple[str, Any, dict[str, Any]]] = [
        ("a single model is given, and no list", folders[0], {}),
        ("no specialist was given", [], {"base": three[0]}),
        ("is in memory, without configuration", three[1:], {"base": three[0], "out": tmp_path / "out"}),
        ("'a' is a int, and weights are tensors by name", [{"a": 1}], {"base": three[0]}),
        ("there is no such dtype", three[1:], {"base": three[0], "dtype": "int8"}),
        ("has no parameter 'kep'", three[1:], {"base": three[0], "kep": 0.1}),
        ("workers must be at least 1", three[1:], {"base": three[0], "workers": 0}),
        ("there is no such device", three[1:], {"base": three[0], "device": "gpu"}),
    ]
    for found, models, more in wrong:
        with pytest.raises(AllroundError) as caught:
            ar.merge(models, **more)
        assert found in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_models_with_heads_give_a_model_with_the_heads_of_all(point_specialists: Any, tmp_path: Path) -> None:
    one, two, *_ = point_specialists.folders
    models = [ar.load(point_specialists.folders[name]) for name in (one, two)]
    start = point_specialists.base
    merged = ar.merge(models, base=start, method="task_arithmetic", scale=0.5)
    assert isinstance(merged, ar.MultiTaskModel) and list(merged.definitions) == [one, two]
    weights = ar.merge(
        [model.encoder for model in models], base=load_encoder(start), method="task_arithmetic", scale=0.5
    )
    assert all(torch.equal(merged.encoder.state_dict()[name], tensor) for name, tensor in weights.items())
    for name, model in zip((one, two), models, strict=True):
        own = model.heads[name].state_dict()
        assert all(torch.equal(merged.heads[name].state_dict()[key], value) for key, value in own.items())
    out = ar.merge(models, base=start, method="task_arithmetic", scale=0.5, out=tmp_path / "out")
    rows = point_specialists.suite[one].splits["test"].inputs[:5]
    assert ar.load(out).predict(one, rows) == merged.predict(one, rows)
    with pytest.raises(AllroundError, match=f"the task '{one}' is in two of them"):
        ar.merge([models[0], models[0]], base=start)
