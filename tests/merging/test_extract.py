"""A tuned checkpoint as an adapter: what PEFT and allround read back is the tuned model, or its best low rank."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from allround.checkpoints.adapted import Adapted
from allround.checkpoints.adapter import Adapter
from allround.checkpoints.weights import Weights
from allround.core.errors import AllroundError
from allround.core.files import MANIFEST, read_json
from allround.merging.extract import _decompose, extract_lora
from allround.merging.run import merge_folders

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def make(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "bert":
        return transformers.BertModel(transformers.BertConfig(**SIZES, vocab_size=40, max_position_embeddings=16))
    if kind == "gpt2":
        config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=40, n_positions=16)
        return transformers.GPT2Model(config)
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=1, vocab_size=40, tie_word_embeddings=False)
    return getattr(transformers, kind)(config)


def pair(folder: Path, kind: str, *, only: str = "") -> tuple[Path, Path, Any]:
    """A base, and a model of which everything (or what has `only` in its name) was tuned."""
    model = make(kind)
    model.save_pretrained(folder / "base")
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if only in name:
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.05
    model.save_pretrained(folder / "tuned")
    return folder / "base", folder / "tuned", model


def loaded(kind: type[Any], base: Path, adapter: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        return peft.PeftModel.from_pretrained(kind.from_pretrained(base), adapter).eval()


def answer(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(12).reshape(2, 6))[0]


@pytest.mark.parametrize("kind", ["bert", "gpt2", "LlamaForCausalLM", "LlamaModel"])
def test_at_full_rank_it_is_the_tuned_model(tmp_path: Path, kind: str) -> None:
    base, tuned, model = pair(tmp_path, kind)
    found = extract_lora(tuned, base, tmp_path / "out", 64, embeddings=True)
    assert not found.left_out and found.share > 1 - 1e-6 and min(found.kept.values()) > 1 - 1e-6
    wanted = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    source = Adapted(Weights(base), Adapter(tmp_path / "out"))
    for name in source:
        torch.testing.assert_close(source.get(name), wanted[name], atol=1e-6, rtol=0)
    adapted = loaded(type(model), base, tmp_path / "out")
    torch.testing.assert_close(answer(adapted), answer(model), atol=2e-5, rtol=0)
    merged = adapted.merge_and_unload().state_dict()
    assert set(merged) == set(wanted)
    for name in merged:
        torch.testing.assert_close(merged[name], wanted[name], atol=1e-6, rtol=0)


def llama(*, tied: bool) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=1, vocab_size=40, tie_word_embeddings=tied)
    return transformers.LlamaForCausalLM(config)


@pytest.mark.parametrize("tied", [False, True], ids=["parted", "tied"])
@pytest.mark.parametrize("embeddings", [False, True])
def test_an_output_layer_that_the_base_has_as_its_embedding(tmp_path: Path, tied: bool, embeddings: bool) -> None:
    """Nothing of the tuned model's output layer is lost, whether it is tied as well or has become its own."""
    base = llama(tied=True)
    base.save_pretrained(tmp_path / "base")
    model = llama(tied=tied)
    model.load_state_dict(base.state_dict())
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if embeddings or "embed" not in name:
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.05
    model.save_pretrained(tmp_path / "tuned")
    found = extract_lora(tmp_path / "tuned", tmp_path / "base", tmp_path / "out", 64, embeddings=embeddings)
    assert not found.left_out and not found.extra and found.share > 1 - 1e-6
    assert ("lm_head.weight" in found.kept) is not tied
    adapted = loaded(type(base), tmp_path / "base", tmp_path / "out")
    torch.testing.assert_close(answer(adapted), answer(model), atol=2e-5, rtol=0)
    (tmp_path / "merged").mkdir()
    merge_folders(tmp_path / "base", [tmp_path / "out"], tmp_path / "merged", method="average")
    again = type(model).from_pretrained(tmp_path / "merged")
    assert again.config.tie_word_embeddings is tied
    torch.testing.assert_close(answer(again), answer(model), atol=2e-5, rtol=0)


def test_the_error_is_the_tail_of_the_spectrum(tmp_path: Path) -> None:
    base, tuned, _ = pair(tmp_path, "LlamaForCausalLM", only="proj")
    found = extract_lora(tuned, base, tmp_path / "out", 5)
    source, before, after = Adapted(Weights(base), Adapter(tmp_path / "out")), Weights(base), Weights(tuned)
    lost = whole = 0.0
    assert set(found.ranks) == set(found.kept) == {n for n in before if "proj" in n} and not found.whole
    for name in before:
        change = after.get(name) - before.get(name)
        error = float((after.get(name) - source.get(name)).square().sum())
        lost, whole = lost + error, whole + float(change.square().sum())
        if "proj" not in name:
            assert error == 0
            continue
        squares = torch.linalg.svdvals(change).square()
        assert error == pytest.approx(float(squares[5:].sum()), rel=1e-3)
        assert found.kept[name] == pytest.approx(float(squares[:5].sum() / squares.sum()), rel=1e-4)
        assert found.ranks[name] == 5
    assert found.share == pytest.approx(1 - lost / whole, rel=1e-4)
    config = read_json(tmp_path / "out" / "adapter_config.json")
    assert (config["r"], config["lora_alpha"], config["rank_pattern"], config["bias"]) == (5, 5, {}, "none")
    factors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    a, b = (factors[f"base_model.model.model.layers.0.mlp.up_proj.lora_{x}.weight"] for x in "AB")
    torch.testing.assert_close(a.norm(dim=1), b.norm(dim=0), msg="both factors have half of each singular value")


def test_least_rank_that_keeps_an_energy(tmp_path: Path) -> None:
    base, tuned, _ = pair(tmp_path, "LlamaForCausalLM", only="proj")
    found = extract_lora(tuned, base, tmp_path / "out", 12, energy=0.5)
    for name, rank in found.ranks.items():
        squares = torch.linalg.svdvals(Weights(tuned).get(name) - Weights(base).get(name)).square().cumsum(0)
        assert rank == min(12, int((squares < squares[-1] / 2).sum()) + 1)
    assert len(set(found.ranks.values())) > 1
    adapted = loaded(transformers.LlamaForCausalLM, base, tmp_path / "out")
    source = Adapted(Weights(base), Adapter(tmp_path / "out"))
    for name, tensor in adapted.merge_and_unload().state_dict().items():
        torch.testing.assert_close(source.get(name), tensor, atol=1e-6, rtol=0)


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    base, tuned, model = pair(tmp_path, "LlamaForCausalLM")
    found = extract_lora(tuned, base, tmp_path / "out", 64)
    assert set(found.left_out) == {"model.embed_tokens.weight"}
    assert found.share == pytest.approx(1 - sum(found.left_out.values()), abs=1e-6)
    assert set(found.whole) == {n for n in Weights(base) if "norm" in n}
    source = Adapted(Weights(base), Adapter(tmp_path / "out"))
    for name, tensor in model.state_dict().items():
        same = torch.allclose(source.get(name), tensor, atol=1e-6)
        assert same == (name not in found.left_out)


def test_a_head_of_its_own_is_left_out(tmp_path: Path) -> None:
    base, tuned, _ = pair(tmp_path, "bert", only="query")
    tensors = load_file(tuned / "model.safetensors")
    save_file(tensors | {"classifier.weight": torch.ones(2, 32)}, tuned / "model.safetensors")
    found = extract_lora(tuned, base, tmp_path / "out", 4)
    assert found.extra == ("classifier.weight",) and set(found.ranks) == {n for n in tensors if "query.weight" in n}


def test_layers_that_end_alike(tmp_path: Path) -> None:
    """PEFT takes targets by the end of their names: `norm` and `fc` are also those of every layer."""

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.ModuleDict({"fc": torch.nn.Linear(4, 6), "my_norm": torch.nn.LayerNorm(4)})
            self.fc, self.norm = torch.nn.Linear(4, 4), torch.nn.LayerNorm(4)

    torch.manual_seed(0)
    model = Small()
    for name in ("base", "tuned"):
        (tmp_path / name).mkdir()
        save_file(model.state_dict(), tmp_path / name / "model.safetensors")
        for part in (model.fc.weight, model.norm.weight, model.norm.bias, model.fc.bias):
            part.data += torch.randn(part.shape)
    fresh = Small()
    fresh.load_state_dict(load_file(tmp_path / "base" / "model.safetensors"))
    found = extract_lora(tmp_path / "tuned", tmp_path / "base", tmp_path / "out", 4)
    assert set(found.ranks) == {"fc.weight"} and set(found.whole) == {"norm.weight", "norm.bias", "fc.bias"}
    merged = peft.PeftModel.from_pretrained(fresh, tmp_path / "out").merge_and_unload().state_dict()
    for name, tensor in load_file(tmp_path / "tuned" / "model.safetensors").items():
        torch.testing.assert_close(merged[name], tensor, atol=1e-6, rtol=0)


def test_large_matrices_by_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The randomised decomposition keeps what the exact one does, and is the same in every run."""
    from allround.merging import extract

    torch.manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(n, 200)).Q for n in (300, 200))
    matrix = u * torch.arange(1, 201).float().pow(-0.5) @ v.T
    exact = _decompose(matrix, 8)
    monkeypatch.setattr(extract, "_EXACT", 64)
    drawn, again = _decompose(matrix, 8), _decompose(matrix, 8)
    assert all(torch.equal(x, y) for x, y in zip(drawn, again, strict=True))
    assert float(drawn[1].square().sum()) == pytest.approx(float(exact[1].square().sum()), rel=1e-3)
    kept = (drawn[0] * drawn[1]) @ drawn[2]
    error = float((matrix - kept).square().sum())
    assert error == pytest.approx(float(matrix.square().sum() - drawn[1].square().sum()), rel=1e-4)


def test_errors(tmp_path: Path) -> None:
    base, tuned, _ = pair(tmp_path, "LlamaForCausalLM", only="norm")
    other, _, _ = pair(tmp_path / "other", "bert")

    def refused(*words: str, **wanted: Any) -> None:
        with pytest.raises(AllroundError) as caught:
            extract_lora(**{"tuned": tuned, "base": base, "out": tmp_path / "out", "rank": 4, **wanted})
        assert all(word in str(caught.value) for word in words), str(caught.value)
        assert not (tmp_path / "out").exists()

    refused("above 0", rank=0)
    refused("above 0", rank=2.5)
    refused("not 1.5", energy=1.5)
    refused("not 0", energy=0)
    refused("same weights", tuned=base)
    refused("no linear layer changed", "norm")
    refused("are missing", tuned=other)
    tensors = load_file(tuned / "model.safetensors")
    save_file(tensors | {"lm_head.weight": torch.zeros(41, 32)}, tuned / "model.safetensors")
    refused("1 tensor differs in shape, ", "(41, 32), in the base (40, 32)")
    save_file(tensors | {"lm_head.weight": torch.full((40, 32), torch.nan)}, tuned / "model.safetensors")
    refused("NaN")


def test_whole_rank_is_written_once(tmp_path: Path) -> None:
    """The same checkpoints give the same bytes."""
    base, tuned, _ = pair(tmp_path, "bert")
    found = [extract_lora(tuned, base, tmp_path / name, 6) for name in ("one", "two")]
    one, two = (sorted((f.name, f.read_bytes()) for f in report.path.iterdir()) for report in found)
    assert one == two and [name for name, _ in one] == [MANIFEST, "adapter_config.json", "adapter_model.safetensors"]
