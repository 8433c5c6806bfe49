"""Parts of learned merges: what is learned and by what, each alone, against hand computations and plain formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from allround.core import registry
from allround.core.errors import AllroundError
from allround.merging.learn.learning import Learning, preset
from allround.merging.learn.material import edit
from allround.merging.learn.objective import Response
from allround.merging.learn.parametrisation import BOUNDS, Parametrisation, groups
from allround.models.likelihood import likelihood
from allround.tasks.definition import Definition

PARAMETRISATIONS = registry.names("parametrisation")
OBJECTIVES = registry.names("objective")
DTYPES = (torch.float32, torch.float64, torch.bfloat16)

#: A model of a few weights of every shape; two layers, so that groups differ.
SHAPES = {
    "net.embed.word_embeddings.weight": (6, 4),
    "net.layers.0.dense.weight": (5, 4),
    "net.layers.0.dense.bias": (5,),
    "net.layers.1.conv.weight": (3, 2, 2, 2),
    "net.layers.1.scale": (),
    "net.norm.weight": (4,),
}
Weights = dict[str, Tensor]


def model(dtype: torch.dtype, models: int = 3, scale: float = 0.3) -> tuple[Weights, Weights, Weights]:
    """base, start and deltas."""
    generator = torch.Generator().manual_seed(0)
    base = {n: torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for n, s in SHAPES.items()}
    deltas = {
        n: (0.1 * torch.randn((models, *s), generator=generator, dtype=torch.float64)).to(dtype)
        for n, s in SHAPES.items()
    }
    return base, {n: (base[n] + scale * d.sum(0)).to(dtype) for n, d in deltas.items()}, deltas


def make(name: str, given: tuple[Weights, Weights, Weights], **settings: Any) -> Parametrisation:
    made: Parametrisation = registry.load("parametrisation", name)(*given, **settings)
    return made


# Parametrisations


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_as_made_it_is_the_start_to_the_last_bit(name: str, bound: str, dtype: torch.dtype) -> None:
    _, start, deltas = given = model(dtype)
    copies = [{n: t.clone() for n, t in part.items()} for part in given]
    for scale in (0.3, 1 / 3):
        made = make(name, given, bound=bound, scale=scale).eval()
        merged = made()
        assert list(merged) == list(deltas)
        for key, weight in merged.items():
            assert weight.dtype == torch.promote_types(dtype, torch.float32), "what is learned is float32 or wider"
            assert torch.equal(weight.to(dtype), start[key]), f"{key} is not the start"
        free = [p for listed in made.parts().values() for p in listed]
        assert free and all(p.requires_grad and p.dtype != torch.bfloat16 for p in free)
        assert {id(p) for p in free} == {id(p) for p in made.parameters() if p.requires_grad}, "a part is not listed"
        sum(w.sum() for w in merged.values()).backward()
        assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in free)
        assert set(made.rates()) <= set(made.parts())
    for part, copy in zip(given, copies, strict=True):
        assert all(torch.equal(part[n], copy[n]) for n in copy), "an input was changed"


@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_a_start_of_another_kind_is_kept_too(name: str) -> None:
    base, _, deltas = model(torch.float32)
    other = {n: torch.full_like(w, 0.123) for n, w in base.items()}
    merged = make(name, (base, other, deltas)).eval()()
    assert all(torch.equal(merged[n], other[n]) for n in other)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("name", ["task", "layer", "block"])
def test_coefficients_are_the_formula(name: str, bound: str) -> None:
    """S + sum_t (c_t - scale) e_t, with c made from the numbers by the bound as the docstring has it."""
    _, start, deltas = given = model(torch.float64)
    made = make(name, given, bound=bound, scale=0.25)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.6 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    raw = made.raw.detach()
    c = {
        "none": lambda: raw,
        "unit": lambda: raw.clamp(0, 1),
        "tanh": lambda: raw.tanh(),
        "simplex": lambda: made.size.detach().clamp(0, 1) * raw.exp() / raw.exp().sum(1, keepdim=True),
    }[bound]()
    title = {n: made.titles.index(t) for n, t in groups(list(deltas), name).items()}
    for n, merged in made().items():
        expected = start[n] + sum((c[title[n], t] - 0.25) * deltas[n][t] for t in range(3))
        assert torch.allclose(merged, expected, rtol=0, atol=1e-14)
    listed = made.describe()["coefficients"]
    assert list(listed) == made.titles and listed[made.titles[-1]] == pytest.approx(c[-1].tolist(), abs=1e-6)


@pytest.mark.parametrize(("scale", "most"), [(0.25, 1.0), (0.5, 1.5)])
@pytest.mark.parametrize("asked", [-1.0, 0.5, 9.0])
def test_a_size_stays_between_the_base_and_the_models(scale: float, most: float, asked: float) -> None:
    """Three models: their coefficients add up to at most 1, or to three times the scale where that is more."""
    made = make("layer", model(torch.float64), bound="simplex", scale=scale)
    with torch.no_grad():
        made.size.fill_(asked)
    expected = torch.full((len(made.titles),), min(max(asked, 0), most)).double()
    assert torch.allclose(made.coefficients().sum(1), expected)


CHECKED = [
    *((name, {"bound": bound}) for name in ("task", "layer", "block") for bound in BOUNDS),
    *(("mask", {"level": level, "bound": "unit"}) for level in ("none", "task", "block")),
]


@pytest.mark.parametrize(("name", "settings"), CHECKED, ids=str)
def test_gradients(name: str, settings: dict[str, Any]) -> None:
    made = make(name, model(torch.float64), **settings).eval()
    generator = torch.Generator().manual_seed(2)
    names = [n for n, p in made.named_parameters() if p.requires_grad]
    values = [0.3 + 0.1 * torch.rand(made.get_parameter(n).shape, generator=generator).double() for n in names]

    def merged(*parameters: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.func.functional_call(made, dict(zip(names, parameters, strict=True)), ()).values())

    assert torch.autograd.gradcheck(merged, [v.requires_grad_() for v in values])


def test_weights_in_another_memory_format() -> None:
    base = {"w": torch.randn(3, 2, 4, 4).contiguous(memory_format=torch.channels_last), "v": torch.randn(4, 3).T}
    deltas = {n: torch.randn(2, *w.shape) for n, w in base.items()}
    for name in PARAMETRISATIONS:
        merged = make(name, (base, base, deltas)).eval()()
        assert all(torch.equal(merged[n], base[n]) for n in base)


def test_gradients_of_changes_in_bfloat16_are_those_of_the_same_numbers_in_float32() -> None:
    given = model(torch.bfloat16)
    wide = tuple({n: t.float() for n, t in part.items()} for part in given)
    grads = []
    for one in (given, wide):
        made = make("block", one)  # type: ignore[arg-type]
        assert made.deltas is one[2], "the changes are held once, as they came"
        with torch.no_grad():
            made.raw.add_(0.1)
        merged = made()
        sum(w.square().sum() for w in merged.values()).backward()
        grads.append((merged, made.raw.grad))
    assert all(torch.allclose(grads[0][0][n], grads[1][0][n], atol=1e-6) for n in SHAPES)
    assert torch.allclose(grads[0][1], grads[1][1], atol=1e-5)


def test_singular_coefficients_are_checked_and_its_masks_go_straight_through() -> None:
    """As david3684/AdaRank, vision/src/models/merge_vit/adaptive.py, straight_through_mask: the components are
    multiplied with m + (1[m > 1/2] - m), of which the second part has no gradient, m = sigmoid(logit / 10)."""
    base, start, deltas = model(torch.float64)
    made = make("singular", (base, start, deltas), scale=0.3)
    assert made.matrices == ["net.layers.0.dense.weight", "net.layers.1.conv.weight"], "matrices, no embeddings"
    assert [tuple(p.shape) for p in made.logits] == [(3, 4), (3, 3)]
    assert all((p == 0.1).all() for p in made.logits)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    merged = made()
    weight = {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in SHAPES.items()}
    sum((merged[n] * weight[n]).sum() for n in SHAPES).backward()

    coefficients = made.raw.detach().clone().requires_grad_()
    logits = [p.detach().clone().requires_grad_() for p in made.logits]
    total = torch.zeros((), dtype=torch.float64)
    for row, (name, change) in enumerate(deltas.items()):
        tuned = base[name].clone()
        for t in range(3):
            part = change[t]
            if name in made.matrices:
                u, s, v = torch.linalg.svd(part.flatten(1), full_matrices=False)
                mask = (logits[made.matrices.index(name)][t] / 10).sigmoid()
                masked = mask * s + (((mask > 0.5).double() - mask) * s).detach()
                part = ((u * masked) @ v).reshape(part.shape)
            tuned = tuned + coefficients[row, t] * part
        assert torch.allclose(merged[name], tuned, atol=1e-12), name
        total = total + (tuned * weight[name]).sum()
    total.backward()
    assert torch.allclose(made.raw.grad, coefficients.grad, atol=1e-12)
    for mine, other in zip(made.logits, logits, strict=True):
        assert torch.allclose(mine.grad, other.grad, atol=1e-12)
    kept = made.describe()["ranks"]
    assert kept["net.layers.0.dense.weight"] == (made.logits[0] > 0).sum(1).tolist()


def test_singular_in_eval_has_smooth_coefficients() -> None:
    made = make("singular", model(torch.float64), embeddings=True)
    assert "net.embed.word_embeddings.weight" in made.matrices
    raw = made.raw.detach().clone().requires_grad_()
    merged = lambda c: tuple(torch.func.functional_call(made, {"raw": c}, ()).values())  # noqa: E731
    assert torch.autograd.gradcheck(merged, [raw])


def test_a_change_of_low_rank_keeps_its_components_finite() -> None:
    change = torch.outer(torch.arange(1.0, 5), torch.arange(1.0, 4))[None].repeat(2, 1, 1)
    made = make("singular", ({}, {"w": torch.zeros(4, 3)}, {"w": change}), scale=0.0)
    with torch.no_grad():
        made.raw.fill_(0.5)
    merged = made()["w"]
    assert torch.allclose(merged, change[0], atol=1e-5)
    merged.sum().backward()
    assert torch.isfinite(made.logits[0].grad).all() and torch.isfinite(made.raw.grad).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_a_mask_is_a_relaxed_bernoulli_sample_divided_by_its_mean(temperature: float) -> None:
    """As tanganke/subspace_fusion, src/concrete_mask.py: RelaxedBernoulli(temperature, logits).rsample() of each
    weight in turn; a change becomes change * mask / mask.mean(), and the merge base + 0.3 * their sum."""
    base, start, deltas = model(torch.float32)
    made = make("mask", (base, start, deltas), temperature=temperature, scale=0.3).train()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in made.logits:
            p.copy_(torch.randn(p.shape, generator=generator))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        merged = made()
        sum(w.square().sum() for w in merged.values()).backward()
        torch.manual_seed(5)
        total = torch.zeros(())
        logits = [p.detach().clone().requires_grad_() for p in made.logits]
        for name, logit in zip(SHAPES, logits, strict=True):
            mask = torch.distributions.RelaxedBernoulli(temperature, logits=logit).rsample()
            expected = base[name] + 0.3 * (deltas[name] * mask / mask.mean()).sum(0)
            assert torch.allclose(merged[name], expected, atol=1e-5), name
            total = total + expected.square().sum()
        total.backward()
    for mine, other in zip(made.logits, logits, strict=True):
        assert torch.allclose(mine.grad, other.grad, atol=1e-4)


def test_a_mask_outside_of_training_is_the_expectation_without_draws() -> None:
    base, start, deltas = model(torch.float32)
    made = make("mask", (base, start, deltas), scale=0.3).eval()
    with torch.no_grad():
        made.logits[1].copy_(torch.linspace(-3, 3, 20).reshape(5, 4))
    state = torch.get_rng_state()
    merged = made()
    assert torch.equal(torch.get_rng_state(), state)
    name = "net.layers.0.dense.weight"
    mask = made.logits[1].detach().sigmoid()
    expected = base[name] + mask / mask.mean() * (start[name] - base[name])
    assert torch.allclose(merged[name], expected, atol=1e-6)
    assert made.describe()["masked"][name] == 0.5


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"bound": "tanh", "scale": 1.0}, "lies between -1 and 1"),
        ({"bound": "unit", "scale": 1.5}, "it is not in there"),
        ({"bound": "untie"}, "did you mean 'unit'"),
    ],
    ids=str,
)
def test_a_start_that_a_bound_cannot_have(settings: dict[str, Any], match: str) -> None:
    for name in PARAMETRISATIONS:
        with pytest.raises(AllroundError, match=match):
            make(name, model(torch.float32), **settings)
    with pytest.raises(AllroundError, match="did you mean 'block'"):
        make("mask", model(torch.float32), level="blok")


# Layers of real models, by their parameters' names

BERT = {
    "embeddings.word_embeddings.weight": "embeddings",
    "embeddings.LayerNorm.bias": "embeddings",
    "encoder.layer.0.attention.self.query.weight": "encoder.layer.0",
    "encoder.layer.0.output.dense.bias": "encoder.layer.0",
    "encoder.layer.11.output.dense.bias": "encoder.layer.11",
    "pooler.dense.weight": "pooler",
}
RESNET = {
    "conv1.weight": "conv1",
    "bn1.weight": "bn1",
    "layer1.0.conv1.weight": "layer1.0",
    "layer1.0.downsample.0.weight": "layer1.0",
    "layer1.0.downsample.1.weight": "layer1.0",
    "layer1.1.conv2.weight": "layer1.1",
    "layer2.0.bn1.bias": "layer2.0",
    "layer2.1.bn1.bias": "layer2.1",
}
GPT2 = {
    "wte.weight": "wte",
    "wpe.weight": "wpe",
    "h.0.ln_1.weight": "h.0",
    "h.0.attn.c_attn.weight": "h.0",
    "h.10.mlp.c_proj.bias": "h.10",
    "ln_f.weight": "ln_f",
}
SMALL_IMAGE = {"layers.0.weight": "layers.0", "layers.0.bias": "layers.0", "layers.10.weight": "layers.10"}


@pytest.mark.parametrize("names", [BERT, RESNET, GPT2, SMALL_IMAGE], ids=["bert", "resnet", "gpt2", "small_image"])
@pytest.mark.parametrize("prefix", ["", "pipeline.0.model."])
def test_layers_of_real_models(names: Mapping[str, str], prefix: str) -> None:
    given = {prefix + name: prefix + title for name, title in names.items()}
    assert groups(list(given), "layer") == given
    assert groups(list(given), "block") == {n: n for n in given}
    assert set(groups(list(given), "task").values()) == {"all"}


def test_layers_of_the_small_encoders(bert_folder: Any, small_image: Any) -> None:
    from allround.models.base import load_encoder

    found = groups([n for n, _ in load_encoder(bert_folder).named_parameters()], "layer")
    assert list(dict.fromkeys(found.values())) == [
        "pipeline.0.model.embeddings",
        "pipeline.0.model.encoder.layer.0",
        "pipeline.0.model.encoder.layer.1",
        "pipeline.0.model.pooler",
    ]
    found = groups([n for n, _ in small_image.named_parameters()], "layer")
    assert list(dict.fromkeys(found.values())) == [f"layers.{n}" for n in (0, 1, 3, 4, 7, 8)]
    assert groups(["weight"], "layer") == {"weight": "weight"}, "a network of one weight"


# The edit of changes


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_edit_is_the_one_of_ties_over_the_whole_model(dtype: torch.dtype) -> None:
    from allround.core.registry import load

    _, _, deltas = model(torch.float64)
    deltas = {n: d.to(dtype) for n, d in deltas.items()}
    edited = {n: d.clone() for n, d in deltas.items()}
    edit(edited, 0.25, True)
    flat = torch.cat([d.reshape(3, -1) for d in deltas.values()], 1)
    expected = load("merge", "ties")(torch.zeros(flat.shape[1], dtype=dtype), flat, keep=0.25, normalize=False)
    found = torch.cat([d.sum(0).flatten() for d in edited.values()])
    assert torch.allclose(found, expected, atol=0 if dtype == torch.float64 else 1e-2)
    count = int(0.25 * flat.shape[1])
    edit(trimmed := {n: d.clone() for n, d in deltas.items()}, 0.25, False)
    left = (torch.cat([d.reshape(3, -1) for d in trimmed.values()], 1) != 0).sum(1)
    assert (left >= count).all() and (left <= count + 4).all(), "the largest, and those as large as the last of them"


# Objectives

CLASSES = Definition("c", "classification", ("x",), "text", "accuracy", ("a", "b", "c"))
WORDS = Definition("w", "token_classification", ("x",), "text", "span_f1", ("O", "B-X", "I-X"))
LABELS = Definition("m", "multilabel", ("x",), "text", "macro_f1", ("a", "b"))
NUMBER = Definition("r", "regression", ("x",), "text", "pearson")
STEPS = Definition("o", "ordinal", ("x",), "text", "quadratic_kappa", ("1", "2", "3"))
KINDS = {
    "classification": CLASSES,
    "token_classification": WORDS,
    "multilabel": LABELS,
    "regression": NUMBER,
    "ordinal": STEPS,
}
NONE = torch.empty(0)


def compute(
    name: str, merged: Tensor, other: Tensor, definition: Definition, targets: Tensor = NONE, **s: Any
) -> float:
    features = torch.zeros(len(merged), 1)
    found: Tensor = registry.load("objective", name)(
        Response(features, merged), Response(features, other), targets, definition, **s
    )
    assert found.shape == () and found.dtype == torch.float32
    return float(found)


def logits(*rows: tuple[float, ...]) -> Tensor:
    """Log-probabilities of given probabilities."""
    return torch.tensor(rows).log()


P, Q = logits((0.5, 0.25, 0.25), (0.8, 0.1, 0.1)), logits((0.25, 0.5, 0.25), (0.6, 0.2, 0.2))
#: One label is on with 0.75 and 0.2 by the merged model, with 0.5 by the specialist.
ON, EVEN = torch.tensor([[math.log(3), math.log(0.25)]]), torch.zeros(1, 2)


def h(*p: float) -> float:
    return -sum(x * math.log(x) for x in p)


def kl(q: tuple[float, ...], p: tuple[float, ...]) -> float:
    return sum(x * math.log(x / y) for x, y in zip(q, p, strict=True))


def js(p: tuple[float, ...], q: tuple[float, ...]) -> float:
    middle = tuple((x + y) / 2 for x, y in zip(p, q, strict=True))
    return (kl(p, middle) + kl(q, middle)) / 2


PS, QS = ((0.5, 0.25, 0.25), (0.8, 0.1, 0.1)), ((0.25, 0.5, 0.25), (0.6, 0.2, 0.2))


@pytest.mark.parametrize("definition", [CLASSES, WORDS], ids=lambda d: d.kind)
def test_numbers_of_one_label(definition: Definition) -> None:
    assert compute("entropy", P, Q, definition) == pytest.approx((h(*PS[0]) + h(*PS[1])) / 2, abs=1e-6)
    assert compute("entropy", P, Q, definition) == pytest.approx((1.5 * math.log(2) + 0.6390319) / 2, abs=1e-6)
    found = compute("divergence", P, Q, definition, measure="kl")
    assert found == pytest.approx((kl(QS[0], PS[0]) + kl(QS[1], PS[1])) / 2, abs=1e-6)
    assert found == pytest.approx((0.25 * math.log(2) + 0.1046496) / 2, abs=1e-6)
    found = compute("divergence", P, Q, definition)
    assert found == pytest.approx((js(PS[0], QS[0]) + js(PS[1], QS[1])) / 2, abs=1e-6)
    targets = torch.tensor([1, 0])
    assert compute("label", P, Q, definition, targets) == pytest.approx(-(math.log(0.25) + math.log(0.8)) / 2)
    # Row one: they disagree, and both are equally sure, so it counts. Row two: they agree.
    assert compute("pseudo", P, Q, definition) == pytest.approx(-(math.log(0.25) + math.log(0.8)) / 2)


def test_numbers_of_several_labels() -> None:
    assert compute("entropy", ON, EVEN, LABELS) == pytest.approx((h(0.75, 0.25) + h(0.2, 0.8)) / 2, abs=1e-6)
    expected = (kl((0.5, 0.5), (0.75, 0.25)) + kl((0.5, 0.5), (0.2, 0.8))) / 2
    assert compute("divergence", ON, EVEN, LABELS, measure="kl") == pytest.approx(expected, abs=1e-6)
    expected = (js((0.5, 0.5), (0.75, 0.25)) + js((0.5, 0.5), (0.2, 0.8))) / 2
    assert compute("divergence", ON, EVEN, LABELS) == pytest.approx(expected, abs=1e-6)
    targets = torch.tensor([[1.0, 1.0]])
    assert compute("label", ON, EVEN, LABELS, targets) == pytest.approx(-(math.log(0.75) + math.log(0.2)) / 2)
    specialist = torch.tensor([[2.0, 2.0]])  # both on, with 0.88
    assert compute("pseudo", ON, specialist, LABELS) == pytest.approx(-(math.log(0.75) + math.log(0.2)) / 2)


def test_numbers_of_a_number() -> None:
    mine, other = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])
    for settings in ({}, {"measure": "kl"}, {"temperature": 3.0}):
        assert compute("divergence", mine, other, NUMBER, **settings) == 0.5 * (1 + 4) / 2
    assert compute("label", mine, other, NUMBER, torch.tensor([0.0, 3.0])) == 0.25


def test_a_temperature_divides_logits_and_multiplies_by_its_square() -> None:
    for measure in ("js", "kl"):
        cold = compute("divergence", P / 2, Q / 2, CLASSES, measure=measure)
        assert compute("divergence", P, Q, CLASSES, measure=measure, temperature=2.0) == pytest.approx(4 * cold)


def test_numbers_of_features() -> None:
    mine, other = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    function = registry.load("objective", "features")
    for distance, expected in {"l1": 7 / 4, "l2": 21 / 4, "cosine": (0.4 + 1) / 2}.items():
        for definition in KINDS.values():
            found = function(Response(mine), Response(other), NONE, definition, distance=distance)
            assert float(found) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(AllroundError, match="did you mean 'cosine'"):
        function(Response(mine), Response(other), NONE, CLASSES, distance="cosin")


REFUSED = {("entropy", "regression"), *(("contrastive", kind) for kind in ("regression", "multilabel", "ordinal"))}


def answers(definition: Definition, seed: int, rows: int = 6) -> tuple[Response, Tensor]:
    """Random answers and targets of a task."""
    generator = torch.Generator().manual_seed(seed)
    width = likelihood(definition).outputs(definition)
    made = Response(torch.randn(rows, 5, generator=generator), torch.randn(rows, width, generator=generator))
    targets = {
        "multilabel": torch.rand(rows, width, generator=generator).round(),
        "regression": torch.randn(rows, generator=generator),
    }.get(definition.kind, torch.randint(width, (rows,), generator=generator))
    return made, targets


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_takes_a_kind_or_says_why_not(name: str, kind: str) -> None:
    function, definition = registry.load("objective", name), KINDS[kind]
    merged, targets = answers(definition, 0)
    specialist, _ = answers(definition, 1)
    if (name, kind) in REFUSED:
        with pytest.raises(AllroundError, match=f"(?s)it is of the kind {definition.kind}.*use one of: .*divergence"):
            preset("layer", {"objective": name}).check([KINDS["classification"], definition])
        return
    preset("layer", {"objective": name}).check([definition])
    assert merged.logits is not None
    merged = Response(merged.features.requires_grad_(), merged.logits.requires_grad_())
    loss = function(merged, specialist, targets, definition)
    assert loss.shape == () and torch.isfinite(loss) and float(loss.detach()) >= 0
    loss.backward()
    grads = [t.grad for t in (merged.features, merged.logits) if t.grad is not None]
    assert grads and all(bool(torch.isfinite(g).all()) for g in grads) and any(bool(g.any()) for g in grads)
    assert "labels" in registry.find("objective", name).needs or torch.equal(
        loss, function(merged, specialist, NONE, definition)
    ), "it says that it needs no labels"
    half = Response(merged.features.detach().bfloat16(), merged.logits.detach().bfloat16())
    assert function(half, specialist, targets, definition).dtype == torch.float32


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n not in ("features", "contrastive")])
def test_without_heads_the_error_says_what_to_use(name: str) -> None:
    for definition in KINDS.values():
        with pytest.raises(AllroundError, match="--objective features"):
            registry.load("objective", name)(Response(torch.ones(1, 2)), Response(torch.ones(1, 2)), NONE, definition)


@pytest.mark.parametrize("kind", KINDS)
def test_no_distance_where_merged_is_the_specialist(kind: str) -> None:
    for size in (1, 30):
        same, _ = answers(KINDS[kind], 0)
        same = Response(size * same.features, size * same.logits)  # type: ignore[operator]
        for name, settings in (
            *(("divergence", {"measure": m, "temperature": t}) for m in ("js", "kl") for t in (1.0, 2.0)),
            *(("features", {"distance": d}) for d in ("l1", "l2", "cosine")),
        ):
            mine = Response(same.features.clone().requires_grad_(), same.logits.clone().requires_grad_())  # type: ignore[union-attr]
            loss = registry.load("objective", name)(mine, same, NONE, KINDS[kind], **settings)
            assert abs(float(loss.detach())) < 1e-6, (name, settings)
            loss.backward()
            assert all(
                t.grad is None or bool((t.grad.abs() < 1e-5).all())
                for t in (mine.features, mine.logits)
                if t is not None
            )


@pytest.mark.parametrize("kind", ["classification", "token_classification", "multilabel"])
def test_js_is_symmetric_and_at_most_ln_2(kind: str) -> None:
    for seed in range(5):
        one, other = (answers(KINDS[kind], s)[0].logits for s in (seed, seed + 10))
        assert one is not None and other is not None
        for size in (1, 50, 1e4):
            there, back = (
                compute("divergence", size * a, size * b, KINDS[kind]) for a, b in ((one, other), (other, one))
            )
            assert there == pytest.approx(back, abs=1e-6) and -1e-6 <= there <= math.log(2) + 1e-6
    far = torch.tensor([[1e4, 0.0, 0.0]]), torch.tensor([[0.0, 1e4, 0.0]])
    assert compute("divergence", *far, CLASSES) == pytest.approx(math.log(2), abs=1e-6)
    with pytest.raises(AllroundError, match="did you mean 'js'"):
        compute("divergence", *far, CLASSES, measure="jsd")


def crosspseudoconf(outputs: Tensor, finetuned: Tensor) -> Tensor:
    """The loss that AIM-SKKU/SyMerge, src/main_symerge.py, has under that name, row by row: cross-entropy with the
    specialist's class over the rows where the classes are one, or where they differ and it is at least as sure."""
    losses = []
    for out, ind in zip(outputs.softmax(-1), finetuned.softmax(-1), strict=True):
        if out.argmax() == ind.argmax() or ind.max() >= out.max():
            losses.append(-out[ind.argmax()].log())
    return torch.stack(losses).mean() if losses else outputs.sum() * 0


def test_pseudo_labels_are_filtered_as_the_authors_do() -> None:
    taken = set()
    for seed in range(20):
        merged, specialist = 3 * answers(CLASSES, seed)[0].logits, 3 * answers(CLASSES, seed + 50)[0].logits  # type: ignore[operator]
        mine, other = merged.clone().requires_grad_(), merged.clone().requires_grad_()
        none = Response(NONE)
        found = registry.load("objective", "pseudo")(
            Response(none.features, mine), Response(none.features, specialist), NONE, CLASSES
        )
        expected = crosspseudoconf(other, specialist)
        assert torch.allclose(found, expected, atol=1e-6)
        found.backward()
        expected.backward()
        assert torch.allclose(mine.grad, other.grad, atol=1e-6)  # type: ignore[arg-type]
        taken.add(int((mine.grad.abs().sum(1) > 0).sum()))  # type: ignore[union-attr]
        everything = F.cross_entropy(merged, specialist.argmax(-1))
        assert compute("pseudo", merged, specialist, CLASSES, filtered=False) == pytest.approx(
            float(everything), abs=1e-5
        )
    assert len(taken) > 2, "the filter never did anything"


def test_pseudo_labels_with_no_row_left_are_nothing_to_learn() -> None:
    """The authors' code has NaN here, and its gradient scaler leaves the step out."""
    merged = torch.tensor([[9.0, 0.0, 0.0]], requires_grad=True)
    specialist = torch.tensor([[0.0, 1.0, 0.0]])
    loss = registry.load("objective", "pseudo")(Response(NONE, merged), Response(NONE, specialist), NONE, CLASSES)
    loss.backward()
    assert float(loss.detach()) == 0 and merged.grad is not None and not merged.grad.any()


def contrast(features: Tensor, labels: list[int], temperature: float) -> float:
    """Equation 2 of Khosla et al., 2020 (L_out): for each row with others of its label, their mean."""
    unit = [(row / row.norm()).tolist() for row in features]
    close = lambda i, j: sum(a * b for a, b in zip(unit[i], unit[j], strict=True)) / temperature  # noqa: E731
    losses = []
    for i in range(len(unit)):
        alike = [j for j in range(len(unit)) if j != i and labels[j] == labels[i]]
        if not alike:
            continue
        whole = sum(math.exp(close(i, a)) for a in range(len(unit)) if a != i)
        losses.append(sum(-math.log(math.exp(close(i, j)) / whole) for j in alike) / len(alike))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 0], [0, 1, 2, 0, 3, 4], [0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5]])
def test_contrastive_against_a_plain_double_loop(labels: list[int]) -> None:
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    for temperature in (0.05, 0.5):
        mine = features.clone().requires_grad_()
        loss = registry.load("objective", "contrastive")(
            Response(mine), Response(features), torch.tensor(labels), CLASSES, temperature=temperature
        )
        assert float(loss.detach()) == pytest.approx(contrast(features, labels, temperature), rel=1e-5, abs=1e-6)
        loss.backward()
        assert mine.grad is not None and bool(torch.isfinite(mine.grad).all())


def test_contrastive_of_one_row_is_nothing_to_learn() -> None:
    mine = torch.ones(1, 3, requires_grad=True)
    loss = registry.load("objective", "contrastive")(Response(mine), Response(mine), torch.tensor([0]), CLASSES)
    loss.backward()
    assert float(loss.detach()) == 0 and mine.grad is not None and bool(torch.isfinite(mine.grad).all())


# A learning, before anything is read

WRONG: list[tuple[Callable[[], Learning], str]] = [
    (lambda: preset("adamergin"), "did you mean 'adamerging'"),
    (lambda: preset("layers"), "did you mean 'layer'"),
    (lambda: preset("adamerging", {"level": "blok"}), "did you mean 'block'"),
    (lambda: preset("divmerge", {"level": "taks"}), "did you mean 'task'"),
    (lambda: preset("divmerge", {"measure": 1}), "the parameter is a str"),
    (lambda: preset("concrete", {"coefficients": "fixd"}), "did you mean 'fixed'"),
    (lambda: preset("layer", {"objective": "divergense"}), "did you mean 'divergence'"),
    (lambda: preset("atlas", {"stpes": 3}), "did you mean 'steps'"),
    (lambda: preset("tint", {"rows": 0}), "give at least 1"),
    (lambda: preset("tint", {"batch": 0}), "give at least 1"),
    (lambda: preset("tint", {"steps": -1}), "give at least 0"),
    (lambda: preset("tint", {"rate": 0.0}), "no positive number"),
    (lambda: preset("tint", {"rate": math.nan}), "not a finite number|no positive number"),
    (lambda: preset("supermerge", {"group": 1}), "group of one is no merge"),
    (lambda: preset("layer", {"keep": 0.0}), "not between 0 and 1"),
    (lambda: preset("concrete", {"temperature": 0.0}), "temperature=0.0"),
    (lambda: preset("concrete", {"speed": -1.0}), "speed=-1.0"),
    (lambda: preset("self_positioning", {"temperature": -0.1}), "temperature=-0.1"),
    (lambda: preset("atlas", {"weight_decay": -0.1}), "weight_decay=-0.1"),
    (lambda: preset("layer", {"heads": "keept"}), "did you mean 'kept'"),
    (lambda: Learning("layer", "label", optimiser="adan"), "did you mean 'adam'"),
    (lambda: Learning("layer", "label", {"bond": "unit"}), "did you mean 'bound'"),
    (lambda: Learning("layer", "label", {}, {"measure": "js"}), "has no parameter 'measure'"),
]


@pytest.mark.parametrize(("make_it", "match"), WRONG, ids=[match for _, match in WRONG])
def test_a_learning_that_cannot_be(make_it: Callable[[], Learning], match: str) -> None:
    with pytest.raises(AllroundError, match=match):
        make_it()


@pytest.mark.parametrize("name", registry.names("learn"))
def test_a_preset_as_json_has_every_setting(name: str) -> None:
    import json

    made = preset(name, {"rows": 7, "batch": 3})
    found = json.loads(json.dumps(made.to_json()))
    assert (found["rows"], found["batch"]) == (7, 3)
    if "form" in found:  # it has nothing but its own parameters
        assert set(found) == {"form", "rows", "batch", *(p.name for p in registry.find("learn", name).parameters)}
        return
    assert found["parametrisation"] == made.parametrisation
    known = {p.name for p in registry.find("parametrisation", made.parametrisation).parameters}
    assert set(found["settings"]) == known
    assert set(found["objective_settings"]) == {p.name for p in registry.find("objective", made.objective).parameters}


def test_answers_that_rank_passages_are_learned_by_features_alone() -> None:
    definition = Definition("find", "retrieval", ("query", "passages"), "text", "ndcg")
    with pytest.raises(AllroundError, match="its answers rank passages") as told:
        preset("divmerge").check([definition])
    assert "--objective features" in told.value.do
    preset("custom", {"objective": "features"}).check([definition])
    preset("regmean_pp").check([definition])
