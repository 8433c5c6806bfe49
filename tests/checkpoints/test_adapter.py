"""Adapters as changes of weights: the reference is PEFT's own merge_and_unload."""

from __future__ import annotations

import copy
import json
import pickle
import re
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from allround.checkpoints.adapted import Adapted
from allround.checkpoints.adapter import Adapter
from allround.checkpoints.adapter_config import is_adapter
from allround.checkpoints.weights import Weights
from allround.core.errors import AllroundError
from allround.core.files import read_json
from allround.merging.recipe import Model, Recipe
from allround.merging.run import make_plan, merge_folders, run_plan

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def bert(cls: str = "BertModel") -> Any:
    config = transformers.BertConfig(**SIZES, vocab_size=40, max_position_embeddings=16, num_labels=3)
    return getattr(transformers, cls)(config)


def llama() -> Any:
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=1, vocab_size=40, tie_word_embeddings=False)
    return transformers.LlamaForCausalLM(config)


def gpt2() -> Any:
    return transformers.GPT2Model(
        transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=40, n_positions=16)
    )


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.two = nn.Conv2d(3, 8, 3)
        self.point = nn.Conv2d(8, 6, 1)
        self.one = nn.Conv1d(6, 5, 3)


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(4, 6, 10))
        self.flat = nn.Linear(10, 7)

    def forward(self, x: Tensor) -> Tensor:
        return x


class Mixture(nn.Module):
    def __init__(self, flipped: bool = False) -> None:
        super().__init__()
        self.experts = Experts()
        self.experts.is_transposed = flipped


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2)


def shake(model: nn.Module, seed: int) -> None:
    """Give all that an adapter holds values of a size that matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and re.search(r"lora_|modules_to_save|bias$", name):
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.data = parameter.data + noise if "magnitude" in name else noise


def tune(
    make: Callable[[], Any], folder: Path, *, seed: int = 0, base: Path | None = None, **settings: Any
) -> tuple[Path, Path, dict[str, Tensor]]:
    """A base folder, an adapter folder, and the tensors that PEFT's merge gives."""
    torch.manual_seed(0)
    model = make()
    base = base or folder / "base"
    if not base.exists():
        if hasattr(model, "config"):
            model.save_pretrained(base)
        else:
            base.mkdir(parents=True)
            save_file({n: t.contiguous() for n, t in model.state_dict().items()}, base / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**{"lora_alpha": 6, **settings}))
        shake(adapted, seed)
        adapter = folder / f"adapter{seed}"
        adapted.save_pretrained(adapter)
        merged = adapted.merge_and_unload()
    return base, adapter, {n: t.detach().clone() for n, t in merged.state_dict().items()}


def check(base: Path, adapter: Path, merged: dict[str, Tensor], *, changed: int, atol: float = 1e-6) -> Adapted:
    """Reading, and changes, in whole and in stretches that cut rows, against what PEFT merges."""
    weights = Weights(base)
    source = Adapted(weights, Adapter(adapter), same_base=True)
    other = Adapted(weights, Adapter(adapter))
    found = [name for name in weights if not torch.equal(source.get(name), weights.get(name))]
    assert len(found) == changed
    for name in weights:
        reference, before = merged[name], weights.get(name)
        assert source.shape(name) == tuple(reference.shape)
        assert source.dtype(name) == "F32"
        torch.testing.assert_close(source.get(name), reference, atol=atol, rtol=1e-5)
        flat, size = before.reshape(-1), weights.numel(name)
        out, again = torch.empty(size), torch.empty(size)
        for start in range(0, size, 37):
            stop = min(start + 37, size)
            source.change(name, start, stop, flat[start:stop], out[start:stop])
            other.change(name, start, stop, flat[start:stop], again[start:stop])
            part = source.read(name, start, stop)
            torch.testing.assert_close(part, reference.reshape(-1)[start:stop], atol=atol, rtol=1e-5)
        torch.testing.assert_close(out, (reference - before).reshape(-1), atol=atol, rtol=0)
        torch.testing.assert_close(again, out, atol=1e-7, rtol=0)
        assert name in found or not out.any()
    return source


LINEAR = ["query", "dense"]
LLAMA = ["q_proj", "k_proj", "down_proj"]

CASES: dict[str, tuple[Callable[[], Any], dict[str, Any], int]] = {
    "lora": (bert, {"r": 4, "target_modules": LINEAR}, 9),
    "rank 8": (llama, {"r": 8, "target_modules": LLAMA}, 6),
    "rslora": (llama, {"r": 4, "use_rslora": True, "target_modules": LLAMA}, 6),
    "dora": (llama, {"r": 4, "use_dora": True, "target_modules": LLAMA}, 6),
    "rank and alpha patterns": (
        llama,
        {
            "r": 4,
            "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 3},
            "alpha_pattern": {r"layers\.\d+\.self_attn\.q_proj": 1, "^model.layers.0.mlp.down_proj": 9},
            "target_modules": LLAMA,
        },
        6,
    ),
    "pattern with rslora": (
        llama, {"r": 4, "rank_pattern": {"k_proj": 1}, "use_rslora": True, "target_modules": LLAMA}, 6
    ),
    "all linear": (bert, {"r": 2, "target_modules": "all-linear"}, 13),
    "embedding": (llama, {"r": 4, "target_modules": ["embed_tokens", "q_proj", "lm_head"]}, 4),
    "embedding and dora": (llama, {"r": 4, "use_dora": True, "target_modules": ["embed_tokens"]}, 1),
    "in, out": (gpt2, {"r": 4, "target_modules": ["c_attn", "c_proj"]}, 6),
    "square in, out": (gpt2, {"r": 4, "target_modules": ["attn.c_proj"]}, 2),
    "in, out and dora": (gpt2, {"r": 4, "use_dora": True, "target_modules": ["c_attn", "attn.c_proj"]}, 4),
    "convolutions": (Convolutions, {"r": 2, "target_modules": ["one", "two", "point"]}, 3),
    "convolutions and dora": (Convolutions, {"r": 2, "use_dora": True, "target_modules": ["one", "two", "point"]}, 3),
    "bias of the layers": (bert, {"r": 4, "bias": "lora_only", "target_modules": LINEAR}, 18),
    "all biases": (bert, {"r": 4, "bias": "all", "target_modules": LINEAR}, 27),
    "lora bias": (bert, {"r": 4, "lora_bias": True, "target_modules": LINEAR}, 18),
    "modules to save": (
        lambda: bert("BertForSequenceClassification"),
        {"r": 4, "target_modules": ["query"], "modules_to_save": ["classifier", "embeddings.LayerNorm"]},
        6,
    ),
    "modules to save and all biases": (
        lambda: bert("BertForSequenceClassification"),
        {"r": 4, "bias": "all", "target_modules": ["query"], "modules_to_save": ["classifier"]},
        22,
    ),
    "parameters of experts": (Mixture, {"r": 2, "target_modules": [], "target_parameters": ["experts.up"]}, 1),
    "flipped experts": (
        lambda: Mixture(True), {"r": 2, "target_modules": [], "target_parameters": ["experts.up"]}, 1
    ),
    "a flat parameter": (Mixture, {"r": 2, "target_modules": [], "target_parameters": ["flat.weight"]}, 1),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_as_peft_merges(tmp_path: Path, case: str) -> None:
    make, settings, changed = CASES[case]
    check(*tune(make, tmp_path, **settings), changed=changed)


def test_scaling_of_rslora(tmp_path: Path) -> None:
    base, adapter, _ = tune(llama, tmp_path, r=4, target_modules=["q_proj"])
    plain = Adapted(Weights(base), Adapter(adapter), same_base=True)
    config = read_json(adapter / "adapter_config.json")
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "use_rslora": True}))
    stable = Adapted(Weights(base), Adapter(adapter), same_base=True)
    name = "model.layers.0.self_attn.q_proj.weight"
    zeros = torch.zeros(stable.numel(name))
    one, two = zeros.clone(), zeros.clone()
    plain.change(name, 0, len(zeros), zeros, one)
    stable.change(name, 0, len(zeros), zeros, two)
    torch.testing.assert_close(two, one * 2)  # alpha / sqrt(4), not alpha / 4


def test_the_change_is_exact_on_a_bfloat16_base(tmp_path: Path) -> None:
    """On weights a thousand times larger nothing of the change is lost, as it would be in base + change - base."""
    base, adapter, _ = tune(llama, tmp_path, r=4, target_modules=["q_proj"])
    weights = load_file(base / "model.safetensors")
    save_file({n: (t * 1000).bfloat16() for n, t in weights.items()}, base / "model.safetensors")
    source = Adapted(Weights(base), Adapter(adapter), same_base=True)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert (source.dtype(name), source.dtype("model.norm.weight")) == ("F32", "BF16")
    factors = load_file(adapter / "adapter_model.safetensors")
    a, b = (factors[f"base_model.model.model.layers.0.self_attn.q_proj.lora_{x}.weight"] for x in "AB")
    out = torch.empty(source.numel(name))
    source.change(name, 0, len(out), Weights(base).get(name).float().reshape(-1), out)
    torch.testing.assert_close(out.view(32, 32), b @ a * 1.5, atol=1e-7, rtol=1e-6)


def test_another_base_counts_as_well(tmp_path: Path) -> None:
    base, adapter, merged = tune(llama, tmp_path, r=4, target_modules=["q_proj"])
    source = Adapted(Weights(base), Adapter(adapter))
    name = "model.layers.0.self_attn.q_proj.weight"
    out, zeros = torch.empty(source.numel(name)), torch.zeros(source.numel(name))
    source.change(name, 0, len(out), zeros, out)
    torch.testing.assert_close(out, merged[name].reshape(-1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
def test_several_adapters_one_after_the_other(tmp_path: Path, dora: bool) -> None:
    targets = ["q_proj", "embed_tokens"]
    base, first, merged = tune(llama, tmp_path, r=4, target_modules=targets, seed=1, use_dora=dora)

    def model() -> Any:
        made = llama()
        made.load_state_dict(merged)
        return made

    _, second, both = tune(model, tmp_path, base=base, r=2, target_modules=targets, seed=2, use_dora=dora)
    # PEFT saves the embedding that an adapter of it was made on: here that of the first merge, which is the same.
    source = Adapted(Weights(base), [Adapter(first), Adapter(second)])
    for name in source:
        torch.testing.assert_close(source.get(name), both[name], atol=1e-5, rtol=1e-5)


def test_a_saved_embedding_takes_the_place_of_the_base(tmp_path: Path) -> None:
    """PEFT stores the whole embedding beside the factors; where it differs from the base's, PEFT loads it."""
    base, adapter, merged = tune(llama, tmp_path, r=4, target_modules=["embed_tokens"])
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    key = "base_model.model.model.embed_tokens.base_layer.weight"
    assert key in tensors
    tensors[key] += 1
    save_file(tensors, file)
    merged["model.embed_tokens.weight"] += 1
    check(base, adapter, merged, changed=1)


@pytest.mark.parametrize("layout", ["longer", "shorter", "sentence-transformers", "old folder", "dense"])
def test_prefixes(tmp_path: Path, layout: str) -> None:
    """The base may hold its tensors under a prefix that the adapter lacks, and the other way round."""
    base, adapter, merged = tune(bert, tmp_path, r=4, target_modules=["query"])
    tensors = load_file(base / "model.safetensors")
    factors = load_file(adapter / "adapter_model.safetensors")
    (base / "model.safetensors").unlink()
    if layout == "longer":
        save_file({f"bert.{n}": t for n, t in tensors.items()}, base / "model.safetensors")
        merged = {f"bert.{n}": t for n, t in merged.items()}
    else:
        save_file(tensors, base / "model.safetensors")
    if layout in ("shorter", "sentence-transformers", "old folder", "dense"):
        prefix = "bert." if layout == "shorter" else "0.auto_model."
        start = "base_model.model."
        factors = {start + prefix + n.removeprefix(start): t for n, t in factors.items()}
    if layout == "old folder":
        (base / "0_Transformer").mkdir()
        (base / "model.safetensors").rename(base / "0_Transformer" / "model.safetensors")
        merged = {f"0_Transformer/{n}": t for n, t in merged.items()}
    if layout == "dense":
        (base / "2_Dense").mkdir()
        save_file({"linear.weight": torch.zeros(5, 32)}, base / "2_Dense" / "model.safetensors")
        a, b = torch.randn(4, 32), torch.randn(5, 4)
        factors |= {f"base_model.model.2.linear.lora_{x}.weight": t for x, t in (("A", a), ("B", b))}
        merged["2_Dense/linear.weight"] = b @ a * 1.5
    save_file(factors, adapter / "adapter_model.safetensors")
    check(base, adapter, merged, changed=3 if layout == "dense" else 2, atol=3e-6)


def test_a_head_that_the_base_lacks(tmp_path: Path) -> None:
    """It is a tensor more, as in a full checkpoint with a head; a merge refuses it, or leaves it out when told so."""
    _, adapter, merged = tune(
        lambda: bert("BertForSequenceClassification"), tmp_path, r=4, target_modules=["query"],
        modules_to_save=["classifier"],
    )  # fmt: skip
    bert().save_pretrained(tmp_path / "plain")
    source = Adapted(Weights(tmp_path / "plain"), Adapter(adapter))
    assert set(source) - set(Weights(tmp_path / "plain")) == {"classifier.weight", "classifier.bias"}
    assert torch.equal(source.get("classifier.weight"), merged["classifier.weight"])
    assert len(source) == len(list(source)) and "classifier.bias" in source and "x" not in source
    models, base = (Model(str(adapter)),), Model(str(tmp_path / "plain"))
    with pytest.raises(AllroundError, match="2 tensors are not in the base"):
        make_plan(Recipe("average", models, base))
    make_plan(Recipe("average", models, base, on_mismatch="keep-base"))

    # Without a base the model is what it and its adapter hold, and the head lies where a library looks for it.
    out = tmp_path / "out"
    out.mkdir()
    run_plan(make_plan(Recipe("average", (Model(str(tmp_path / "plain"), (str(adapter),)),))), out)
    assert [path.name for path in out.glob("*.safetensors")] == ["model.safetensors"]
    found = load_file(out / "model.safetensors")
    assert set(found) == set(source)
    assert all(torch.equal(found[name], source.get(name)) for name in source)


def test_pickled_weights(tmp_path: Path) -> None:
    base, adapter, merged = tune(llama, tmp_path, r=4, target_modules=["q_proj"])
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    check(base, adapter, merged, changed=2)


def test_other_checkpoints_in_the_folder_do_not_count(tmp_path: Path) -> None:
    base, adapter, merged = tune(llama, tmp_path, r=4, target_modules=["q_proj"])
    (adapter / "checkpoint-5").mkdir()
    save_file({"x": torch.zeros(1)}, adapter / "checkpoint-5" / "adapter_model.safetensors")
    check(base, adapter, merged, changed=2)


@pytest.mark.parametrize("case", ["lora", "embedding and dora"])
def test_from_threads_and_after_pickling(tmp_path: Path, case: str) -> None:
    make, settings, _ = CASES[case]
    base, adapter, _ = tune(make, tmp_path, **settings)
    weights = Weights(base)
    first = Adapted(weights, Adapter(adapter), same_base=True)
    again, other = pickle.loads(pickle.dumps((first, weights)))
    assert again.base_source is other
    with ThreadPoolExecutor(4) as pool:
        for name, one, two in zip(first, pool.map(first.get, first), pool.map(again.get, first), strict=True):
            assert torch.equal(one, two), name


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    base, adapter, _ = tune(llama, tmp_path, r=4, target_modules=["q_proj"])
    assert is_adapter(adapter) and not is_adapter(base) and not is_adapter(tmp_path / "nowhere")
    source = Adapted(Weights(base), Adapter(adapter), same_base=True)
    assert source.path == adapter and Adapted(Weights(base), Adapter(adapter)).path == base
    assert {f.name for f in source.files} == {"model.safetensors", "adapter_model.safetensors", "adapter_config.json"}
    seen: dict[str, int] = {}
    source.watch = lambda name, start, values: seen.update({name: seen.get(name, 0) + len(values)})
    name = "model.layers.0.self_attn.q_proj.weight"
    source.announce(name)
    for start in (0, 512):
        source.change(name, start, start + 512, torch.zeros(512), torch.empty(512))
    assert seen == {f"adapter 0: base_model.model.{name.removesuffix('weight')}lora_{x}.weight": 128 for x in "AB"}


# Merging


def three(folder: Path) -> tuple[Path, list[Path], list[dict[str, Tensor]]]:
    """A base and three adapters of it, of different ranks and kinds."""
    kinds: Sequence[dict[str, Any]] = (
        {"r": 4, "use_rslora": True, "target_modules": LLAMA},
        {"r": 2, "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["norm"]},
        {"r": 8, "use_dora": True, "target_modules": "all-linear", "rank_pattern": {"up_proj": 3}},
    )
    made = [tune(llama, folder, base=folder / "base", seed=seed, **kind) for seed, kind in enumerate(kinds, 1)]
    return folder / "base", [adapter for _, adapter, _ in made], [merged for *_, merged in made]


@pytest.mark.parametrize("method", ["average", "ties", "task_arithmetic"])
def test_merging_adapters_is_merging_the_models(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapters, merged = three(tmp_path)
    folders = []
    for number, tensors in enumerate(merged):
        folder = tmp_path / f"model{number}"
        folder.mkdir()
        save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors")
        folders.append(folder)
    for name in ("expected", "out"):
        (tmp_path / name).mkdir()
    merge_folders(base, folders, tmp_path / "expected", method=method)
    written: list[Path] = []
    from allround.core import files

    atomic = files.os.replace
    monkeypatch.setattr(files.os, "replace", lambda a, b: (written.append(Path(b)), atomic(a, b))[1])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    facts = merge_folders(base, adapters, tmp_path / "out", method=method)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert all(path.is_relative_to(tmp_path / "out") for path in {*written, *(after.keys() - before.keys())})
    assert {path: after[path] for path in before} == before
    assert [path.name for path in written if path.suffix == ".safetensors"] == ["model.safetensors"]
    assert len({model["content"] for model in facts["inputs"]["models"]}) == 3
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("expected", "out"))
    assert list(one) == list(two)
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-6, rtol=1e-5)


def test_merging_says_the_same_whatever_the_threads(tmp_path: Path) -> None:
    base, adapters, _ = three(tmp_path)
    found = []
    for workers in (1, 4):
        out = tmp_path / f"out{workers}"
        out.mkdir()
        facts = merge_folders(base, adapters, out, method="ties", workers=workers)
        found.append((facts["inputs"], (out / "model.safetensors").read_bytes()))
    assert found[0] == found[1]


def test_adapters_on_a_model_of_their_own(tmp_path: Path) -> None:
    """A recipe's model may be a checkpoint with adapters on it; without a base as well."""
    base, (first, second, _), (merged, *_) = three(tmp_path)
    save_file(
        {n: t.contiguous() for n, t in merged.items()}, (tmp_path / "own").mkdir() or tmp_path / "own" / "m.safetensors"
    )
    out = tmp_path / "out"
    out.mkdir()
    models = (Model(str(base), (str(first), str(second))), Model(str(tmp_path / "own"), (str(second),)))
    run_plan(make_plan(Recipe("average", models)), out)
    name = "model.layers.0.self_attn.q_proj.weight"
    on_base = Adapted(Weights(base), [Adapter(first), Adapter(second)])
    torch.testing.assert_close(load_file(out / "model.safetensors")[name], on_base.get(name), atol=1e-6, rtol=1e-5)


def test_an_adapter_without_a_base(tmp_path: Path) -> None:
    _, adapter, _ = tune(llama, tmp_path, r=4, target_modules=["q_proj"])
    config = read_json(adapter / "adapter_config.json")
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "some/base"}))
    for recipe in (
        Recipe("average", (Model(str(adapter)),)),
        Recipe("ties", (Model(str(adapter)),), Model(str(adapter))),
    ):
        with pytest.raises(AllroundError, match="it is an adapter") as caught:
            make_plan(recipe)
        assert "'some/base'" in caught.value.do


# Bases whose output layer is their embedding


def tied(kind: str = "Llama") -> Any:
    if kind == "Bert":
        return bert("BertForMaskedLM")
    if kind == "GPT2":
        config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=40, n_positions=16)
        return transformers.GPT2LMHeadModel(config)
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=1, vocab_size=40, tie_word_embeddings=True)
    return transformers.LlamaForCausalLM(config)


def trained(folder: Path, seed: int = 0, *, kind: str = "Llama", **settings: Any) -> tuple[Path, Path, Tensor]:
    """A tied base, an adapter, and the answer of the model that PEFT trains, which is the one that it loads."""
    torch.manual_seed(0)
    model = tied(kind)
    if not (folder / "base").exists():
        model.save_pretrained(folder / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, **settings)).eval()
        generator = torch.Generator().manual_seed(seed)
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        made.save_pretrained(folder / f"adapter{seed}")
    return folder / "base", folder / f"adapter{seed}", logits(made)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(12).reshape(2, 6)).logits


def opened(folder: Path, kind: str = "Llama") -> Any:
    return type(tied(kind)).from_pretrained(folder)


TIED = {
    "embedding saved": ("Llama", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "output saved": ("Llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "both saved": ("Llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
    "embedding by LoRA": ("Llama", {"target_modules": ["q_proj", "embed_tokens"]}),
    "output by LoRA": ("Llama", {"target_modules": ["q_proj", "lm_head"]}),
    "both by LoRA": ("Llama", {"target_modules": ["q_proj", "lm_head", "embed_tokens"]}),
    "embedding by DoRA": ("Llama", {"target_modules": ["embed_tokens"], "use_dora": True}),
    "output by DoRA": ("Llama", {"target_modules": ["lm_head"], "use_dora": True}),
    "one by LoRA, one saved": ("Llama", {"target_modules": ["embed_tokens"], "modules_to_save": ["lm_head"]}),
    "GPT-2": ("GPT2", {"target_modules": ["c_attn"], "modules_to_save": ["wte"]}),
    "masked BERT": ("Bert", {"target_modules": ["query"], "modules_to_save": ["word_embeddings"]}),
}


@pytest.mark.parametrize("case", TIED)
def test_an_adapter_of_a_tied_layer_changes_that_layer_alone(tmp_path: Path, case: str) -> None:
    kind, settings = TIED[case]
    base, adapter, answer = trained(tmp_path, kind=kind, **settings)
    (tmp_path / "out").mkdir()
    facts = merge_folders(base, [adapter], tmp_path / "out", method="average")
    assert any("tie_word_embeddings: false" in note for note in facts["notes"])
    torch.testing.assert_close(logits(opened(tmp_path / "out", kind)), answer, atol=1e-5, rtol=0)
    assert read_json(tmp_path / "out" / "config.json")["tie_word_embeddings"] is False
    assert read_json(base / "config.json")["tie_word_embeddings"] is True


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
    ],
    ids=str,
)
def test_an_adapter_that_keeps_both_layers_tied(tmp_path: Path, settings: dict[str, Any]) -> None:
    base, adapter, answer = trained(tmp_path, **settings, ensure_weight_tying=True)
    (tmp_path / "out").mkdir()
    merge_folders(base, [adapter], tmp_path / "out", method="average")
    torch.testing.assert_close(logits(opened(tmp_path / "out")), answer, atol=1e-5, rtol=0)
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    assert read_json(tmp_path / "out" / "config.json")["tie_word_embeddings"] is True


def test_adapters_that_part_the_layers_and_others(tmp_path: Path) -> None:
    """The mean of three changes: one of the embedding, one of the output layer, one of neither."""
    base, first, _ = trained(tmp_path, 1, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    _, second, _ = trained(tmp_path, 2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    _, third, _ = trained(tmp_path, 3, target_modules=["q_proj"])
    (tmp_path / "out").mkdir()
    merge_folders(base, [third, first, second], tmp_path / "out", method="average")
    made, old = load_file(tmp_path / "out" / "model.safetensors"), load_file(base / "model.safetensors")
    for adapter, key, name in (
        (first, "model.embed_tokens.weight", "model.embed_tokens.weight"),
        (second, "lm_head.weight", "lm_head.weight"),
    ):
        start = old["model.embed_tokens.weight"]
        new = load_file(adapter / "adapter_model.safetensors")[f"base_model.model.{key}"]
        torch.testing.assert_close(made[name], start + (new - start) / 3, atol=1e-6, rtol=0)


def test_a_tied_base_whose_class_is_not_known(tmp_path: Path) -> None:
    base, adapter, _ = trained(tmp_path, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    config = read_json(base / "config.json")
    (base / "config.json").write_text(json.dumps({**config, "architectures": ["ModelOfTomorrow"]}))
    refused(base, adapter, "tie_word_embeddings", "ModelOfTomorrow", "stores its output layer by itself")


# Refusals


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base, adapter, _ = tune(llama, tmp_path_factory.mktemp("tiny"), r=4, target_modules=["q_proj", "up_proj"])
    return base, adapter


def edited(tiny: tuple[Path, Path], folder: Path, **settings: Any) -> Path:
    """A copy of the adapter with other settings; None takes one away."""
    config = {**read_json(tiny[1] / "adapter_config.json"), **settings}
    (folder / "adapter_config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    save_file(load_file(tiny[1] / "adapter_model.safetensors"), folder / "adapter_model.safetensors")
    return folder


def refused(base: Path, adapter: Path, *words: str) -> AllroundError:
    with pytest.raises(AllroundError) as caught:
        Adapted(Weights(base), Adapter(adapter))
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"peft_type": "IA3"}, "kind IA3"),
        ({"peft_type": "ADALORA"}, "kind ADALORA"),
        ({"peft_type": "LOHA"}, "kind LOHA"),
        ({"peft_type": "NEW_THING"}, "kind NEW_THING"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"alora_invocation_tokens": [3]}, "alora_invocation_tokens"),
        ({"use_qalora": True}, "use_qalora"),
        ({"kasa_config": {"beta": 1}}, "kasa_config"),
        ({"setting_of_tomorrow": 3}, "allround does not know this setting"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"target_parameters": ["up_proj"]}, "does not say of which module"),
        ({"target_parameters": ["mlp.up_proj.one", "mlp.up_proj.two"]}, "several parameters"),
    ],
    ids=str,
)
def test_what_is_no_exact_change_is_refused(
    tiny: tuple[Path, Path], tmp_path: Path, settings: dict[str, Any], word: str
) -> None:
    assert "merge_and_unload()" in refused(tiny[0], edited(tiny, tmp_path, **settings), word).do


def test_prompts_change_no_weights(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    refused(tiny[0], edited(tiny, tmp_path, peft_type="PROMPT_TUNING"), "changes no weights")


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"lora_alpha": None}, "lacks 'lora_alpha'"),
        ({"r": None}, "lacks 'r'"),
        ({"peft_type": None}, "lacks 'peft_type'"),
        ({"peft_type": 3}, "'peft_type'"),
        ({"r": "4"}, "'r'"),
        ({"r": True}, "'r'"),
        ({"r": 0}, "'r'"),
        ({"r": -4}, "'r'"),
        ({"r": 10**12}, "says rank 1000000000000"),
        ({"r": 5}, "says rank 5"),
        ({"rank_pattern": {"q_proj": 3}}, "says rank 3"),
        ({"lora_alpha": "16"}, "'lora_alpha'"),
        ({"lora_alpha": float("nan")}, "'lora_alpha'"),
        ({"lora_alpha": float("inf")}, "'lora_alpha'"),
        ({"lora_alpha": 10**400}, "'lora_alpha'"),
        ({"rank_pattern": [1]}, "'rank_pattern'"),
        ({"rank_pattern": {"q_proj": 1.5}}, "'rank_pattern'"),
        ({"alpha_pattern": {"q_proj": "x"}}, "'alpha_pattern'"),
        ({"alpha_pattern": {"(": 3}}, "is not a pattern"),
        ({"alpha_pattern": {"(a+)+": 3}}, "too complex"),
        ({"alpha_pattern": {".*.*.*.*": 3}}, "too complex"),
        ({"alpha_pattern": {"a?" * 30 + "a" * 30: 3}}, "too complex"),
        ({"alpha_pattern": {"(a|a)" * 30: 3}}, "too complex"),
        ({"use_rslora": "yes"}, "'use_rslora'"),
        ({"use_dora": True}, "has no magnitude"),
        ({"bias": "some"}, "'bias'"),
        ({"modules_to_save": "norm"}, "'modules_to_save'"),
        ({"base_model_name_or_path": ["x"]}, "'base_model_name_or_path'"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_hostile_settings(tiny: tuple[Path, Path], tmp_path: Path, settings: dict[str, Any], word: str) -> None:
    refused(tiny[0], edited(tiny, tmp_path, **settings), word)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "\x00", "[" * 10**5, '{"r": ' + "9" * 10**5 + "}"])
def test_broken_configurations(tiny: tuple[Path, Path], tmp_path: Path, text: str) -> None:
    edited(tiny, tmp_path)
    (tmp_path / "adapter_config.json").write_text(text)
    refused(tiny[0], tmp_path, "adapter_config.json")


def test_no_configuration_and_no_weights(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    refused(tiny[0], tmp_path, "holds no adapter_config.json")
    edited(tiny, tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    refused(tiny[0], tmp_path, "no adapter_model.safetensors")
    save_file({}, tmp_path / "adapter_model.safetensors")
    refused(tiny[0], tmp_path, "holds no tensors")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    refused(tiny[0], tmp_path, "broken or cut short")
    with open(tmp_path / "adapter_config.json", "wb") as file:
        file.truncate(17_000_000)
    refused(tiny[0], tmp_path, "17000000 bytes long")


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({Q + "B.weight": None}, ["one of the two factors"]),
        ({Q + "B.weight": (33, 4)}, ["does not fit", "(32, 32)", "(33, 4)"]),
        ({Q + "A.weight": (4, 31)}, ["does not fit", "(4, 31)"]),
        ({Q + "A.weight": (5, 32), Q + "B.weight": (32, 5)}, ["says rank 4"]),
        ({Q + "A.weight": (4,)}, ["says rank 4"]),
        ({Q + "E": (4, 1)}, ["lora_E"]),
        ({Q + "B.bias": (32,)}, ["lora_bias is not set"]),
        ({Q + "magnitude_vector": (32,)}, ["use_dora is not set"]),
        ({"base_model.model.head.weight": (3, 32)}, ["1 of the tensors", "(head.weight)"]),
        (
            {f"base_model.model.x.{n}.lora_{x}.weight": (4, 4) for n in range(4) for x in "AB"},
            ["4 of the tensors", "(x.0.weight, x.1.weight, x.2.weight)", "not in the base"],
        ),
    ],
    ids=str,
)  # fmt: skip
def test_tensors_that_do_not_fit(
    tiny: tuple[Path, Path], tmp_path: Path, change: dict[str, tuple[int, ...] | None], words: list[str]
) -> None:
    edited(tiny, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    for name, shape in change.items():
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = torch.zeros(shape)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    refused(tiny[0], tmp_path, *words)


@pytest.mark.parametrize(
    "rename",
    [
        ("base_model.model.", ""),
        (".lora_", ".base_layer.lora_"),
        ("lora_A.weight", "lora_embedding_A"),
    ],
    ids=str,
)
def test_two_tensors_in_one_place(tiny: tuple[Path, Path], tmp_path: Path, rename: tuple[str, str]) -> None:
    adapter = edited(tiny, tmp_path)
    tensors = load_file(adapter / "adapter_model.safetensors")
    more = {name.replace(*rename): tensor + 1 for name, tensor in tensors.items()}
    save_file(tensors | more, adapter / "adapter_model.safetensors")
    refused(tiny[0], adapter, "are for the same tensor of the model")


@pytest.mark.parametrize("key", ["embed_tokens.modules_to_save.weight", "embed_tokens.base_layer.weight"])
def test_two_saved_tensors_in_one_place(tiny: tuple[Path, Path], tmp_path: Path, key: str) -> None:
    adapter = edited(tiny, tmp_path, modules_to_save=["embed_tokens"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    for number, name in enumerate(("embed_tokens.weight", key)):
        tensors[f"base_model.model.model.{name}"] = torch.full((40, 32), float(number))
    save_file(tensors, adapter / "adapter_model.safetensors")
    refused(tiny[0], adapter, "are for the same tensor of the model", key)


def test_two_layers_on_one_of_the_base(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    edited(tiny, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    start = "base_model.model."
    more = {f"{start}model.{n.removeprefix(start)}": t.clone() for n, t in tensors.items()}
    save_file(tensors | more, tmp_path / "adapter_model.safetensors")
    refused(tiny[0], tmp_path, "would both be the base's")


def test_a_quantised_base(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    weights = load_file(tiny[0] / "model.safetensors")
    save_file({n: t.to(torch.int8) for n, t in weights.items()}, tmp_path / "model.safetensors")
    refused(tmp_path, tiny[1], "is I8")


def test_convolutions_in_groups(tmp_path: Path) -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two = nn.Conv2d(4, 8, 3, groups=2)

    torch.manual_seed(0)
    model = Grouped()
    save_file(dict(model.state_dict()), tmp_path / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["two"]))
        adapted.save_pretrained(tmp_path / "adapter")
    refused(tmp_path / "model.safetensors", tmp_path / "adapter", "convolution in groups")


def test_a_square_layer_of_a_model_that_mixes_layouts(tmp_path: Path) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = transformers.pytorch_utils.Conv1D(6, 4)
            self.square = transformers.pytorch_utils.Conv1D(4, 4)
            self.head = nn.Linear(4, 7)

    base, adapter, _ = tune(Mixed, tmp_path, r=2, target_modules=["wide", "square", "head"])
    refused(base, adapter, "'square' is square")


def test_attention_of_torch(tmp_path: Path) -> None:
    """PEFT adds the change of its output projection twice, when it merges and when it runs."""
    base, adapter, _ = tune(Attention, tmp_path, r=2, target_modules=["attention"])
    refused(base, adapter, "MultiheadAttention")
