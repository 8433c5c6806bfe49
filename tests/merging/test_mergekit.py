"""mergekit's recipes: every value as mergekit 0.1.5 resolves it, and nothing passed over in silence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from allround.core.errors import AllroundError
from allround.merging.mergekit.methods import METHODS
from allround.merging.mergekit.read import is_mergekit
from allround.merging.mergekit.values import evaluate
from allround.merging.plan import Plan
from allround.merging.recipe import Model, Token, Tokenizer
from allround.merging.recipe_file import read_recipe
from allround.merging.run import run_plan
from allround.merging.stage import Stage

HIDDEN, VOCAB = 8, 16


def llama(layers: int, seed: int, base: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Weights with a Llama's names."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for n in range(layers):
        shapes |= {
            f"model.layers.{n}.input_layernorm.weight": (HIDDEN,),
            f"model.layers.{n}.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            f"model.layers.{n}.mlp.down_proj.weight": (HIDDEN, 2 * HIDDEN),
        }
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    if base is None:
        return drawn
    return {name: base[name] + 0.1 * change for name, change in drawn.items() if name in base}


def save(path: Path, tensors: Mapping[str, Tensor], **config: Any) -> None:
    path.mkdir()
    save_file(dict(tensors), path / "model.safetensors")
    layers = 1 + max((int(n.split(".")[2]) for n in tensors if ".layers." in n), default=0)
    settings = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": layers, "vocab_size": VOCAB, **config}
    (path / "config.json").write_text(json.dumps(settings))


BASE = llama(2, 0)
A, B, C = (llama(2, seed, BASE) for seed in (1, 2, 3))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name, tensors in {"base": BASE, "a": A, "b": B, "c": C}.items():
        save(tmp_path / name, tensors)
    return tmp_path


def read(folder: Path, document: Any, **options: Any) -> list[Stage]:
    path = folder / "recipe.yml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return read_recipe(path, **options)


def only(folder: Path, document: Any, **options: Any) -> Stage:
    (stage,) = read(folder, document, **options)
    return stage


def merge(folder: Path, document: Any, compat: str | None = "mergekit") -> dict[str, Tensor]:
    plan = only(folder, document, compat=compat).plan()
    return carry_out(plan, folder / "out")


def carry_out(plan: Plan, out: Path) -> dict[str, Tensor]:
    out.mkdir()
    run_plan(plan, out, workers=1)
    for step in plan.finish:
        step(out)
    return {name: tensor for file in out.glob("*.safetensors") for name, tensor in load_file(file).items()}


def refused(folder: Path, document: Any, *words: str) -> None:
    with pytest.raises(AllroundError) as caught:
        only(folder, document).plan()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def close(merged: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert merged.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(merged[name], wanted[name], rtol=1e-5, atol=1e-6)


def values_of(plan: Plan) -> dict[str, Mapping[str, Any]]:
    return {item.name: item.values for item in plan.items}


# --- Settings

NUMBER = float


@pytest.mark.parametrize(
    ("setting", "name", "t", "wanted"),
    [
        (0.5, "x", 0.3, 0.5),
        (["1e-1", 0.3], "x", 0.5, 0.2),
        ([0, 1], "x", 0.25, 0.25),
        ([0, 0.5, 2], "x", 0.75, 1.25),
        ([0, 0.5, 2], "x", 1.0, 2.0),
        ([7], "x", 0.4, 7.0),
        ([], "x", 0.4, None),
        ({"value": 3}, "x", 0.0, 3.0),
        ({"filter": "mlp", "value": 3}, "layers.mlp.w", 0.0, 3.0),
        ({"filter": "mlp", "value": 3}, "layers.attn.w", 0.0, None),
        ([{"filter": "mlp", "value": 1}, {"filter": "*", "value": 2}, {"value": 3}], "attn", 0.0, 2.0),
        ([{"filter": "l", "value": [0, 1]}, {"filter": "mlp", "value": 2}], "mlp", 0.5, 0.5),
    ],
)
def test_a_setting_for_a_tensor(setting: Any, name: str, t: float, wanted: float | None) -> None:
    assert evaluate(setting, name, t, NUMBER) == pytest.approx(wanted)


def test_truth_values_step() -> None:
    assert [evaluate([True, False, True], "x", t, bool) for t in (0, 0.49, 0.5, 0.99, 1)] == [
        *(True, True, False, False, True)
    ]


def test_what_is_mergekits() -> None:
    assert is_mergekit({"merge_method": "x"})
    assert not any(map(is_mergekit, ({"method": "x"}, None, [], "merge_method")))


# --- Every method by its name

NEEDED = {"weight": 0.5, "t": 0.3}
#: mergekit's name -> ours, and the values by default, for a base, and two models where it takes two.
DEFAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("average", {"weights": 0.5, "normalize": True}),
    "slerp": ("slerp", {"t": 0.3}),
    "nuslerp": ("nuslerp", {"weights": 0.5, "row_wise": False, "flatten": True}),
    "multislerp": ("multislerp", {"weights": 0.5, "normalize": True, "eps": 1e-8}),
    "karcher": ("karcher", {"steps": 10, "tolerance": 1e-5}),
    "passthrough": ("passthrough", {"scale": 1.0}),
    "model_stock": ("model_stock", {"filter_wise": False}),
    "arcee_fusion": ("arcee_fusion", {}),
    "nearswap": ("nearswap", {"t": 0.3}),
    "sce": ("sce", {"keep": 1.0}),
    "ram": ("ram", {"epsilon": 1e-5}),
    "ramplus_tl": ("ram", {"epsilon": 1e-5, "boost": 0.1, "limit": 0.2}),
    "task_arithmetic": ("task_arithmetic", {"weights": 0.5, "scale": 1.0, "normalize": False}),
    "ties": ("ties", {"weights": 0.5, "scale": 1.0, "normalize": True, "keep": 1.0}),
}
for _name, _ours, _more in (
    ("dare_ties", "dare", {"elect": True, "rescale": "l1"}),
    ("dare_linear", "dare", {"elect": False, "rescale": "l1"}),
    ("breadcrumbs", "breadcrumbs", {"elect": False, "rescale": "none", "outliers": 0.01}),
    ("breadcrumbs_ties", "breadcrumbs", {"elect": True, "rescale": "none", "outliers": 0.01}),
    ("della", "della", {"elect": True, "rescale": "l1", "spread": 0.15, "normalize": True}),
    ("della_linear", "della", {"elect": False, "rescale": "l1", "spread": 0.15}),
):
    DEFAULTS[_name] = _ours, {"weights": 0.5, "scale": 1.0, "normalize": False, "keep": 0.5, **_more}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_with_its_defaults(models: Path, name: str) -> None:
    ours, wanted = DEFAULTS[name]
    about = METHODS[name]
    single = about.most in (1, 2)
    document: dict[str, Any] = {
        "merge_method": name,
        "models": [{"model": m} for m in (["a"] if single else ["a", "b"])],
    }
    if name != "passthrough":
        document["base_model"] = "base"
    parameters = {key: value for key, value in NEEDED.items() if key in about.parameters}
    if "density" in about.parameters and wanted.get("keep") != 1.0 and "keep" in wanted:
        parameters["density"] = 0.5
    stage = only(models, {**document, "parameters": parameters})
    assert stage.recipe.method == ours
    plan = stage.plan()
    for item in plan.items:
        assert {key: item.values[key] for key in wanted} == wanted
    assert plan.recipe.values == wanted
    if about.base == "ignored" and name != "passthrough":
        assert [m.path.rsplit("/", 1)[-1] for m in stage.recipe.models] == ["base", "a", "b"]
        assert stage.recipe.base is None


def test_all_methods_are_here() -> None:
    assert set(DEFAULTS) == set(METHODS)


# --- Which value wins


def test_gradients_and_filters_by_hand(models: Path) -> None:
    document = {
        "merge_method": "slerp",
        "base_model": "a",
        "models": [{"model": "a"}, {"model": "b"}],
        "parameters": {"t": [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"filter": "mlp", "value": [1, 0.8]},
                             {"filter": "layers", "value": [0.25, 0.75]}, {"value": [0.1, 0.9]}]},
    }  # fmt: skip
    values = {name: v["t"] for name, v in values_of(only(models, document).plan()).items()}
    assert values == {
        "model.embed_tokens.weight": 0.1,
        "model.layers.0.input_layernorm.weight": 0.25,
        "model.layers.0.self_attn.q_proj.weight": 0.0,
        "model.layers.0.mlp.down_proj.weight": 1.0,
        "model.layers.1.input_layernorm.weight": 0.75,
        "model.layers.1.self_attn.q_proj.weight": 1.0,
        "model.layers.1.mlp.down_proj.weight": 0.8,
        "model.norm.weight": 0.1,
        "lm_head.weight": 0.1,
    }


def test_models_win_over_slices_over_modules_over_all(models: Path) -> None:
    parts = [
        {"model": "a", "layer_range": [0, 2], "parameters": {"weight": [{"filter": "mlp", "value": 1}]}},
        {"model": "b", "layer_range": [0, 2]},
    ]
    document = {
        "merge_method": "linear",
        "modules": {
            "default": {
                "slices": [{"sources": parts, "parameters": {"weight": {"filter": "self_attn", "value": 2}}}],
                "parameters": {"weight": [{"filter": "layers.0", "value": 3}]},
            }
        },
        "parameters": {"weight": 4},
    }
    values = {name: v["weights"] for name, v in values_of(only(models, document).plan()).items()}
    assert values == {
        "model.embed_tokens.weight": 4,
        "model.layers.0.input_layernorm.weight": 3,
        "model.layers.0.self_attn.q_proj.weight": 2,
        "model.layers.0.mlp.down_proj.weight": [1, 3],
        "model.layers.1.input_layernorm.weight": 4,
        "model.layers.1.self_attn.q_proj.weight": 2,
        "model.layers.1.mlp.down_proj.weight": [1, 4],
        "model.norm.weight": 4,
        "lm_head.weight": 4,
    }


def test_filters_of_sources_see_their_own_layers(models: Path) -> None:
    sources = [{"model": "a", "layer_range": [0, 1]}, {"model": "b", "layer_range": [1, 2]}]
    document = {
        "merge_method": "linear",
        "slices": [{"sources": sources}],
        "parameters": {"weight": [{"filter": "layers.1.", "value": 3}, {"value": 1}]},
    }
    values = {name: v["weights"] for name, v in values_of(only(models, document).plan()).items()}
    assert values["model.layers.0.mlp.down_proj.weight"] == [1, 3]
    assert values["model.norm.weight"] == 1


def test_layers_are_counted_in_each_stack(tmp_path: Path) -> None:
    names = [f"encoder.block.{n}.w" for n in range(3)] + [f"decoder.block.{n}.w" for n in range(2)] + ["mlp.7.w"]
    for model in "ab":
        save(tmp_path / model, {name: torch.ones(1) for name in names}, num_layers=3, num_decoder_layers=2)
    document = {"merge_method": "slerp", "base_model": "a", "models": [{"model": "b"}], "parameters": {"t": [0, 1]}}
    values = {name: v["t"] for name, v in values_of(only(tmp_path, document).plan()).items()}
    assert values == dict(zip(names, [0, 0.5, 1, 0, 1, 0], strict=True))


def test_a_single_layer_is_the_last(tmp_path: Path) -> None:
    for model in "ab":
        save(tmp_path / model, {"h.layers.0.w": torch.ones(1), "w": torch.ones(1)})
    document = {"merge_method": "slerp", "base_model": "a", "models": [{"model": "b"}], "parameters": {"t": [0, 1]}}
    values = {name: v["t"] for name, v in values_of(only(tmp_path, document).plan()).items()}
    assert values == {"h.layers.0.w": 1, "w": 0}


# --- Densities at their ends


def family(method: str, densities: Sequence[float], **parameters: Any) -> dict[str, Any]:
    listed = [
        {"model": model, "parameters": {"density": density, "weight": weight}}
        for model, density, weight in zip("abc", densities, (0.5, 0.3, 0.2), strict=False)
    ]
    return {"merge_method": method, "base_model": "base", "models": listed, "parameters": parameters}


def test_a_density_above_one_keeps_all(models: Path) -> None:
    merged = merge(models, family("ties", [1.5], normalize=False))
    close(merged, {n: BASE[n] + 0.5 * (A[n] - BASE[n]) for n in BASE})


def test_a_density_of_zero_drops_all(models: Path) -> None:
    merged = merge(models, family("ties", [0, 1, -1]))
    close(merged, {n: BASE[n] + (B[n] - BASE[n]) for n in BASE})


def test_when_everything_is_dropped_the_base_stays(models: Path) -> None:
    merged = merge(models, family("ties", [0, 0]))
    assert all(torch.equal(merged[n], BASE[n]) for n in BASE)


def test_what_is_dropped_counts_in_the_sum_of_weights(models: Path) -> None:
    merged = merge(models, family("dare_linear", [0, 1], normalize=True))
    close(merged, {n: BASE[n] + 0.3 * (B[n] - BASE[n]) / 0.8 for n in BASE})


def test_a_density_per_model_and_a_gradient(models: Path) -> None:
    document = family("ties", [0.2, 0.5])
    document["models"][1]["parameters"]["density"] = [1, 0.4]
    values = values_of(only(models, document).plan())
    assert values["model.embed_tokens.weight"]["keep"] == [0.2, 1.0]
    assert values["model.layers.1.mlp.down_proj.weight"]["keep"] == [0.2, 0.4]


def test_ties_can_rescale(models: Path) -> None:
    stage = only(models, family("ties", [0.3, 0.5], rescale=True))
    assert stage.recipe.method == "breadcrumbs"
    values = values_of(stage.plan())["lm_head.weight"]
    assert (values["elect"], values["rescale"], values["outliers"], values["keep"]) == (True, "l1", 0.0, [0.3, 0.5])


def test_della_refuses_what_it_cannot_draw(models: Path) -> None:
    refused(models, family("della", [0.9, 0.5]), "density 0.9 and epsilon 0.15")
    values = values_of(only(models, family("della", [1, 0.5])).plan())["lm_head.weight"]
    assert (values["keep"], values["spread"]) == ([1.0, 0.5], [0.0, 0.15])


def test_sce_of_nothing_is_the_base(models: Path) -> None:
    document = {"merge_method": "sce", "base_model": "base", "models": [{"model": "a"}, {"model": "b"}]}
    merged = merge(models, {**document, "parameters": {"select_topk": 0}})
    assert all(torch.equal(merged[n], BASE[n]) for n in BASE)


# --- Whole merges


def test_linear_takes_the_base_as_a_model(models: Path) -> None:
    document = {
        "merge_method": "linear",
        "base_model": "base",
        "models": [{"model": "a", "parameters": {"weight": 2}}, {"model": "b"}],
        "parameters": {"weight": 1},
    }
    close(merge(models, document), {n: (BASE[n] + 2 * A[n] + B[n]) / 4 for n in BASE})


def test_the_base_among_the_models_adds_nothing(models: Path) -> None:
    document = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "a"}, {"model": "base", "parameters": {"weight": 9}}, {"model": "b"}],
        "parameters": {"weight": 0.5, "lambda": 0.8},
    }
    close(merge(models, document), {n: BASE[n] + 0.4 * (A[n] - BASE[n]) + 0.4 * (B[n] - BASE[n]) for n in BASE})


def test_the_base_alone_is_taken_as_it_is(models: Path) -> None:
    document = {"merge_method": "ties", "base_model": "base", "models": [{"model": "base"}]}
    merged = merge(models, {**document, "parameters": {"weight": 1}})
    assert all(torch.equal(merged[n], BASE[n]) for n in BASE)


def test_layers_are_stacked(models: Path) -> None:
    (models / "a" / "config.json").write_text(
        json.dumps({"num_hidden_layers": 2, "n_layers": 2, "num_attention_heads": 2, "layer_types": ["full", "slide"]})
    )
    (models / "b" / "config.json").write_text(json.dumps({"num_hidden_layers": 2, "layer_types": ["x", "y"]}))
    document = """
    merge_method: passthrough
    dtype: float16
    slices:
      - sources: [{model: a, layer_range: [0, 2]}]
      - sources: [{model: b, layer_range: [1, 2], parameters: {scale: [{filter: mlp, value: 0.5}]}}]
    """
    merged = merge(models, document)
    wanted = {n: t for n, t in A.items() if n not in ("model.norm.weight", "lm_head.weight")}
    wanted |= {n.replace("layers.1.", "layers.2."): t for n, t in B.items() if "layers.1." in n}
    wanted |= {n: B[n] for n in ("model.norm.weight", "lm_head.weight")}
    wanted["model.layers.2.mlp.down_proj.weight"] = 0.5 * wanted["model.layers.2.mlp.down_proj.weight"]
    assert merged.keys() == wanted.keys()
    assert all(torch.equal(merged[n], wanted[n].half()) for n in wanted)
    config = json.loads((models / "out" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["n_layers"], config["num_attention_heads"]) == (3, 3, 2)
    assert config["layer_types"] == ["full", "slide", "y"]
    assert config["torch_dtype"] == "float16"


def test_slices_are_merged_each_by_itself(models: Path) -> None:
    document = """
    merge_method: slerp
    base_model: a
    slices:
      - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]
      - sources: [{model: c, layer_range: [0, 2]}, {model: a, layer_range: [0, 2]}]
        parameters: {t: [0, 1]}
    parameters: {t: [1, 0]}
    """
    plan = only(models, document).plan()
    t = {name: v["t"] for name, v in values_of(plan).items()}
    assert [t[f"model.layers.{n}.mlp.down_proj.weight"] for n in range(4)] == [1, 0, 0, 1]
    assert (t["model.embed_tokens.weight"], t["model.norm.weight"]) == (1, 0)
    merged = carry_out(plan, models / "out")
    wanted = [B["model.layers.0.mlp.down_proj.weight"], A["model.layers.1.mlp.down_proj.weight"]]
    wanted += [A["model.layers.0.mlp.down_proj.weight"], C["model.layers.1.mlp.down_proj.weight"]]
    for n, tensor in enumerate(wanted):
        torch.testing.assert_close(merged[f"model.layers.{n}.mlp.down_proj.weight"], tensor, rtol=1e-5, atol=1e-6)


def test_rounding_is_mergekits_unless_it_is_declined(tmp_path: Path) -> None:
    for name, value in {"base": 1.0, "a": 1.0078125 + 2**-12}.items():
        save(tmp_path / name, {"w": torch.tensor([value])})
    document = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "a"}],
        "dtype": "bfloat16",
        "out_dtype": "float32",
        "parameters": {"weight": 1},
    }
    assert only(tmp_path, document, compat="none").plan().recipe.round_to is None
    plan = only(tmp_path, document).plan()
    assert plan.recipe.round_to == "BF16"
    assert carry_out(plan, tmp_path / "out")["w"].tolist() == [1.0078125]


def test_dtypes_that_differ_go_into_the_wider(tmp_path: Path) -> None:
    save(tmp_path / "base", {"w": torch.ones(2).bfloat16()})
    save(tmp_path / "a", {"w": torch.ones(2)})
    document = {"merge_method": "task_arithmetic", "base_model": "base", "models": [{"model": "a"}]}
    document["parameters"] = {"weight": 1}
    assert merge(tmp_path, document)["w"].dtype == torch.float32
    plan = only(tmp_path, {**document, "out_dtype": "float16"}).plan()
    assert [item.dtype for item in plan.items] == ["F16"]


def adapter(path: Path, rank: int, seed: int, name: str) -> Tensor:
    """Write an adapter on one weight, and return what it adds."""
    generator = torch.Generator().manual_seed(seed)
    down, up = (torch.randn(shape, generator=generator) for shape in ((rank, HIDDEN), (HIDDEN, rank)))
    path.mkdir()
    start = f"base_model.model.{name.removesuffix('.weight')}"
    save_file({f"{start}.lora_A.weight": down, f"{start}.lora_B.weight": up}, path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": ["q_proj"]}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return 2 * up @ down


def test_models_with_adapters(models: Path) -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    one, two = adapter(models / "l1", 1, 1, name), adapter(models / "l2", 3, 2, name)
    save(models / "half", {n: t.bfloat16() for n, t in BASE.items()})
    document: dict[str, Any] = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "base+l1"}, {"model": {"model": "base", "lora": "l2"}}],
        "parameters": {"weight": [0.5, 1]},
    }
    close(merge(models, document), {**BASE, name: BASE[name] + one + two})
    linear = {"merge_method": "linear", "models": [{"model": "half+l1"}], "parameters": {"weight": 1}}
    plan = only(models, linear).plan()
    assert {item.dtype for item in plan.items} == {"BF16"}


# --- References


def test_references_to_models(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "odd+name@x").mkdir()
    document = """
    merge_method: linear
    models:
      - {model: org/m@main+org/lora@v1}
      - {model: {model: {path: org/n, revision: abc}, lora: org/l2}}
      - {model: {model: a+b, override_architecture: X}}
      - {model: odd+name@x}
    parameters: {weight: 1}
    """
    assert only(tmp_path, document).recipe.models == (
        Model("org/m@main", ("org/lora@v1",)),
        Model("org/n@abc", ("org/l2",)),
        Model("a+b"),
        Model(str(tmp_path / "odd+name@x")),
    )


def test_an_architecture_that_is_to_be_written(models: Path) -> None:
    document = {"merge_method": "linear", "models": [{"model": {"model": "a", "override_architecture": "Other"}}]}
    merge(models, {**document, "parameters": {"weight": 1}})
    assert json.loads((models / "out" / "config.json").read_text())["architectures"] == ["Other"]


def test_tokenizer_and_template(models: Path) -> None:
    document = """
    merge_method: linear
    base_model: base
    models: [{model: a}]
    parameters: {weight: 1}
    chat_template: auto
    tokenizer:
      source: a
      pad_to_multiple_of: 4
      tokens: {x: {source: {kind: model_token, model: base, token_id: 3}, force: true}, y: {source: a}}
    """
    recipe = only(models, document).recipe
    a, base = Model(str(models / "a")), Model(str(models / "base"))
    assert recipe.tokenizer == Tokenizer(a, {"x": Token(base, 3, force=True), "y": Token(a)}, 4, prefer=base)
    assert recipe.chat_template == "auto"


def test_notes_say_where_mergekit_departs(models: Path) -> None:
    def notes(document: dict[str, Any]) -> str:
        return "\n".join(only(models, document).notes)

    assert "signs are elected" in notes(family("ties", [0.5, 0.5]))
    assert "L1" in notes(family("dare_ties", [0.5, 0.5]))
    assert "int8_mask: it has no effect" in notes(family("ties", [0.5], int8_mask=True))
    assert "density: it has no effect" in notes(family("task_arithmetic", [0.5]))
    assert "gamma: it has no effect on the numbers of 'ties' in mergekit, too" in notes(family("ties", [1], gamma=1))
    linear = {"merge_method": "linear", "models": [{"model": "b"}, {"model": "a"}], "parameters": {"weight": 1}}
    assert "those of " + str(models / "b") in notes(linear)


# --- What is refused

TIES: dict[str, Any] = {
    "merge_method": "ties",
    "base_model": "base",
    "models": [{"model": "a"}, {"model": "b"}],
    "parameters": {"weight": 1},
}
PASS = {"merge_method": "passthrough", "slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}]}]}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (TIES | {"merge_method": "teis"}, ("merge_method", "did you mean 'ties'?")),
        (TIES | {"bas_model": "x"}, ("bas_model", "no such key", "did you mean 'base_model'?")),
        (TIES | {"base_model": None}, ("base_model", "missing")),
        (TIES | {"models": None}, ("no inputs", "exactly one")),
        (TIES | {"slices": PASS["slices"]}, ("models and slices together",)),
        (TIES | {"models": [{"modle": "a"}]}, ("models[0].modle", "did you mean 'model'?")),
        (TIES | {"models": [{"model": "a"}, {"model": "a"}]}, ("is in it twice",)),
        (TIES | {"models": [{"model": "a", "parameters": {"wieght": 1}}]}, ("parameters.wieght", "'weight'")),
        (TIES | {"parameters": {}}, ("parameters.weight", "needs it", "for ")),
        (TIES | {"parameters": {"weight": {"filter": "nothing", "value": 1}}}, ("no filter fits",)),
        (TIES | {"parameters": {"weight": "heavy"}}, ("parameters.weight", "a number")),
        (TIES | {"parameters": {"weight": [1, [2]]}}, ("parameters.weight[1]", "should be a value")),
        (TIES | {"parameters": {"weight": [{"filtr": "x", "value": 1}]}}, ("weight[0].filtr", "'filter'")),
        (TIES | {"parameters": {"weight": [{"filter": "x"}]}}, ("weight[0].value", "no value")),
        (TIES | {"parameters": {"weight": 1, "normalize": 3}}, ("normalize", "true or false")),
        (TIES | {"parameters": {"weight": None}}, ("parameters.weight", "None")),
        (TIES | {"parameters": {"weight": float("nan")}}, ("not a finite number",)),
        (TIES | {"dtype": "bfloat17"}, ("dtype", "did you mean 'bfloat16'?")),
        (TIES | {"out_dtype": "int64"}, ("out_dtype", "floating-point")),
        (TIES | {"base_model": "base@v1"}, ("base_model", "revision 'v1'", "local folder 'base'")),
        (TIES | {"base_model": {"model": {"path": "base", "revision": "v1"}}}, ("revision 'v1'",)),
        (TIES | {"base_model": "./none@v1"}, ("revision 'v1'",)),
        (TIES | {"base_model": "x@1@2"}, ("more than one '@'",)),
        (TIES | {"base_model": "x+l+m"}, ("more than one '+'",)),
        (TIES | {"base_model": {"mdl": "x"}}, ("base_model.mdl", "'model'")),
        (TIES | {"tokenizer_source": "union", "tokenizer": {"source": "base"}}, ("keep one",)),
        (TIES | {"chat_template": "lama3"}, ("chat_template", "did you mean 'llama3'?")),
        (TIES | {"modules": {}, "models": None}, ("no inputs",)),
        ({**TIES, "models": None, "modules": {"x": {"models": TIES["models"]}, "y": {}}}, ("2 of them",)),
        (PASS | {"merge_method": "slerp", "base_model": "a", "parameters": {"t": 1}}, ("1 models", "takes 2")),
        (PASS | {"slices": [{"sources": [{"model": "a", "layer_range": [2, 2]}]}]}, ("holds no layer",)),
        (PASS | {"slices": [{"sources": [{"model": "a", "layer_range": [0, 3]}]}]}, ("which has 2",)),
        (PASS | {"slices": [{"sources": [{"model": "a", "layer_range": [0]}]}]}, ("two numbers",)),
        (PASS | {"slices": [{"sources": [{"model": "a"}]}]}, ("layer_range", "list")),
        (PASS | {"slices": [{"source": []}]}, ("slices[0].source", "'sources'")),
    ],
)
def test_what_is_refused(models: Path, document: dict[str, Any], words: tuple[str, ...]) -> None:
    refused(models, document, *words)


def test_slices_of_different_lengths_and_bases(models: Path) -> None:
    def sources(*ranges: list[int]) -> list[dict[str, Any]]:
        return [{"model": m, "layer_range": r} for m, r in zip("ab", ranges, strict=False)]

    slerp = {"merge_method": "slerp", "parameters": {"t": 0.5}}
    refused(models, {**slerp, "base_model": "a", "slices": [{"sources": sources([0, 1], [0, 2])}]}, "numbers of layers")
    refused(models, {**slerp, "base_model": "c", "slices": [{"sources": sources([0, 1], [0, 1])}]}, "not among")
    both = [{"sources": sources([0, 1], [0, 1]), "base_model": m} for m in "ab"]
    refused(models, {**slerp, "slices": both}, "different base models")


# --- Several documents

SEVERAL = """
merge_method: linear
models: [{model: ab}, {model: c}]
parameters: {weight: 1}
---
name: ab
merge_method: linear
models: [{model: a}, {model: b}]
parameters: {weight: 1}
"""


def test_documents_are_stages(models: Path) -> None:
    stages = read(models, SEVERAL)
    assert [(stage.name, stage.earlier) for stage in stages] == [("ab", ()), ("recipe", ("ab",))]
    carry_out(stages[0].plan(), models / "ab_out")
    merged = carry_out(stages[1].plan({"ab": models / "ab_out"}), models / "out")
    close(merged, {n: (A[n] / 2 + B[n] / 2 + C[n]) / 2 for n in A})


def test_documents_that_do_not_go_together(models: Path) -> None:
    refused(models, SEVERAL + "---\nmerge_method: linear\nmodels: [{model: a}]\n", "two of the merges")
    refused(models, SEVERAL.replace("name: ab", "name: a/b"), "file names")
    refused(models, SEVERAL.replace("model: ab", "model: ab@x"), "revision 'x'")
    refused(models, SEVERAL + "---\nmodels: []\n", "document 3", "no `merge_method`")
