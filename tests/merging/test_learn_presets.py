"""Learned merges of papers: each runs, begins where it says, and does what its paper's code does, number for number.

The references are loops of plain torch over a network of two layers, written after the code that each names; all three
tasks are in a step, with all their rows, so that no draw of rows stands between the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.seeds import seed_of
from allround.merging.learn.learning import preset
from allround.merging.learn.material import Specialist
from allround.merging.learn.run import LearnedMerge, learn
from allround.models.encoders.module import Module
from allround.tasks.make import make_task

if TYPE_CHECKING:
    from conftest import Tuned  # type: ignore[attr-defined]

PRESETS = registry.names("learn")
#: Those that take no steps: the merge follows from the rows.
CLOSED = [e.name for e in registry.entries("learn") if e.facts.get("closed")]
STEPS = 3


def run(tuned: Tuned, name: str, tasks: Sequence[str] = (), seed: int = 0, **values: Any) -> LearnedMerge:
    """Without a guard, which the papers do not have."""
    learning = preset(name, {"rows": 24, "batch": 24, "steps": STEPS, **values}).with_(guard=False)
    return learn(
        tuned.base,
        tuned.specialists(*tasks),
        tuned.suite.tasks,
        learning,
        split="train",
        seed=seed,
        device="cpu",
        precision="fp32",
    )


def weights(made: LearnedMerge) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in made.encoder.named_parameters()}


def test_regmean_pp_is_what_the_function_gives(bert_specialists: Tuned) -> None:
    from allround.merging.statistics.sequential import regmean_pp
    from allround.models.base import load_encoder

    tuned, tasks = bert_specialists, ("mood", "alike")
    made = run(tuned, "regmean_pp", tasks, shrink=0.5)
    encoders = {t: load_encoder(tuned.folders[t] / "encoder") for t in tasks}
    batches = {}
    for task, encoder in encoders.items():
        definition, rows = tuned.suite.tasks[task].definition, tuned.suite.tasks[task].splits["train"]
        batches[task] = [encoder.batch(encoder.prepare(rows.inputs, definition), definition)]
    expected = regmean_pp(load_encoder(tuned.base), encoders, batches, shrink=0.5)
    assert all(torch.allclose(w, expected[n], atol=1e-5) for n, w in weights(made).items())
    assert made.found == {} and made.record["learning"]["form"] == "regmean_pp"


# Every preset there is


@pytest.mark.parametrize("name", PRESETS)
def test_it_runs_on_real_encoders_and_finds_something(name: str, bert_specialists: Tuned) -> None:
    made = run(bert_specialists, name, ("mood", "alike"), steps=2, rows=8, batch=4)
    merged, base = weights(made), bert_specialists.weights()
    assert list(merged) == list(base) and all(bool(torch.isfinite(w).all()) for w in merged.values())
    assert any(not torch.equal(merged[n], base[n]) for n in base)
    assert set(made.heads) == {"mood", "alike"}
    own = {s.tasks[0]: s.heads[s.tasks[0]] for s in bert_specialists.specialists("mood", "alike")}
    learned = preset(name).heads != "kept"
    for task, head in made.heads.items():
        assert all(torch.equal(head[k], own[task][k]) != learned for k in head), "heads are learned where it says so"
    steps = 0 if name in CLOSED else 2
    assert made.record["steps"] == len(made.record["losses"]) == steps and made.record["skipped"] == 0
    assert made.record["rows"] == {"mood": 8, "alike": 8} and made.record["rows_seen"] == 16


ZERO = [(name, {}) for name in PRESETS if name not in CLOSED] + [
    ("adamerging", {"plus": True}),
    ("concrete", {"coefficients": "block"}),
]


@pytest.mark.parametrize(("name", "values"), ZERO, ids=str)
def test_no_steps_are_the_start(name: str, values: dict[str, Any], bert_specialists: Tuned) -> None:
    """The scaled sum of the changes, as the fixed methods have it; with `plus` as TIES has it, over all weights."""
    tasks = ("mood", "alike")
    learning = preset(name, {"steps": 0, "rows": 2, **values})
    made = learn(
        bert_specialists.base,
        bert_specialists.specialists(*tasks),
        bert_specialists.suite.tasks,
        learning,
        split="train",
    )
    base, deltas, merged = bert_specialists.weights(), bert_specialists.deltas(*tasks), weights(made)
    flat = torch.cat([w.flatten() for w in base.values()])
    changes = torch.cat([d.flatten(1) for d in deltas.values()], 1)
    if values.get("plus"):
        expected = registry.load("merge", "ties")(flat, changes, keep=0.2, normalize=False, scale=0.3)
    else:
        expected = registry.load("merge", "task_arithmetic")(flat, changes, scale=learning.scale)
    found = torch.cat([w.flatten() for w in merged.values()])
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)
    assert made.record["losses"] == []


@pytest.mark.parametrize("name", PRESETS)
def test_the_seed_decides_and_the_order_of_models_does_not(name: str, point_specialists: Tuned) -> None:
    values = {"batch": 8}
    made, again = (run(point_specialists, name, **values) for _ in range(2))
    turned = run(point_specialists, name, tuple(reversed(list(point_specialists.folders))), **values)
    other = run(point_specialists, name, seed=1, **values)
    mine = weights(made)
    assert all(torch.equal(mine[n], w) for n, w in weights(again).items())
    assert all(torch.equal(made.heads[t][k], again.heads[t][k]) for t in made.heads for k in made.heads[t])
    assert all(torch.allclose(mine[n], w, rtol=0, atol=1e-5) for n, w in weights(turned).items())
    assert any(not torch.equal(mine[n], w) for n, w in weights(other).items())


# Against the authors' code

Losses = Callable[[str, Tensor, Tensor], Tensor]


class Reference:
    """The same material, read from the files, and the network by its formula."""

    def __init__(self, tuned: Tuned) -> None:
        self.tasks = list(tuned.folders)
        self.base = list(tuned.weights().values())
        self.names = list(tuned.weights())
        found = [list(tuned.weights(task).values()) for task in self.tasks]
        self.vectors = [[w - b for w, b in zip(one, self.base, strict=True)] for one in found]
        self.heads = {s.tasks[0]: {k: v.clone() for k, v in s.heads[s.tasks[0]].items()} for s in tuned.specialists()}
        self.x = {t: torch.tensor(list(tuned.suite.tasks[t].splits["train"].inputs)) for t in self.tasks}
        self.y = {t: torch.as_tensor(tuned.suite.tasks[t].splits["train"].targets) for t in self.tasks}
        self.taught = {
            t: self.logits(t, [b + d for b, d in zip(self.base, v, strict=True)])
            for t, v in zip(self.tasks, self.vectors, strict=True)
        }

    def logits(self, task: str, parameters: Sequence[Tensor]) -> Tensor:
        w1, b1, w2, b2 = parameters
        features = ((self.x[task] @ w1.T + b1).tanh() @ w2.T + b2).tanh()
        return features @ self.heads[task]["weight"].T + self.heads[task]["bias"]

    def entropy(self, task: str, parameters: Sequence[Tensor]) -> Tensor:
        out = self.logits(task, parameters)
        return -(out.softmax(1) * out.log_softmax(1)).sum(1).mean(0)

    def fit(
        self,
        merge: Callable[[], Sequence[Tensor]],
        loss: Callable[[str, Sequence[Tensor]], Tensor],
        optimiser: torch.optim.Optimizer,
        decay: bool = False,
    ) -> None:
        """All tasks' losses added up, as the authors do, one step for all."""
        rates = [group["lr"] for group in optimiser.param_groups]
        for step in range(STEPS):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * (0.5 * (1 + math.cos(math.pi * step / STEPS)) if decay else 1)
            parameters = merge()
            losses = torch.stack([loss(task, parameters) for task in self.tasks]).sum()
            optimiser.zero_grad()
            losses.backward()
            optimiser.step()


def agree(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert torch.allclose(found, expected.detach(), rtol=0, atol=1e-5), (found - expected).abs().max()


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("level", ["task", "block"])
def test_adamerging(level: str, plus: bool, point_specialists: Tuned) -> None:
    """EnnengYang/AdaMerging, src/main_task_wise_adamerging.py and src/main_layer_wise_adamerging.py: 0.3 to begin with,
    clamp(0, 1), the entropies of all tasks added up, Adam. ++: the changes of main_layer_wise_adamergingpp.py are those
    of TIES, trimmed to the 20% largest of a model and to the elected sign."""
    reference = Reference(point_specialists)
    vectors = reference.vectors
    if plus:
        flat = torch.stack([torch.cat([d.flatten() for d in v]) for v in vectors])
        count = int(0.2 * flat.shape[1])
        least = flat.abs().topk(count, 1).values[:, -1:]
        flat = flat * (flat.abs() >= least)
        flat = torch.where(flat.sum(0) > 0, flat.clamp_min(0), flat.clamp_max(0))
        sizes = [b.numel() for b in reference.base]
        vectors = [[p.view_as(b) for p, b in zip(f.split(sizes), reference.base, strict=True)] for f in flat]
    rows = len(reference.base) if level == "block" else 1
    raw = torch.full((rows, 3), 0.3, requires_grad=True)

    def merge() -> list[Tensor]:
        c = raw.clamp(0, 1)
        return [b + sum(c[min(j, rows - 1), t] * vectors[t][j] for t in range(3)) for j, b in enumerate(reference.base)]

    rate = preset("adamerging").rate
    reference.fit(merge, reference.entropy, torch.optim.Adam([raw], lr=rate))
    made = run(point_specialists, "adamerging", level=level, plus=plus)
    assert (raw - 0.3).abs().max() > rate, "it went somewhere"
    agree(made.found["raw"], raw)
    for found, expected in zip(weights(made).values(), merge(), strict=True):
        agree(found, expected)


def test_adamerging_stops_at_the_ends_of_its_range(point_specialists: Tuned) -> None:
    made = run(point_specialists, "adamerging", rate=0.4, level="task")
    listed = made.record["coefficients"]["all"]
    assert all(0 <= c <= 1 for c in listed) and {0.0, 1.0} & set(listed), "a coefficient that ran out is cut"


@pytest.mark.parametrize("objective", ["label", "pseudo"])
def test_atlas(objective: str, point_specialists: Tuned) -> None:
    """fredzzhang/atlas, src/composition.py (WeightedImageEncoder, blockwise) and src/learn_task_addition.py: zeros to
    begin with, one for each model and parameter, the sum of the tasks' cross-entropies, AdamW. Gradients are small
    enough here that its clipping to a norm of 1 does nothing. The rate that falls to zero is ours. Without labels as
    ssl_loss_trusted in src/learn_ufm.py: where the most probable answer is more probable than a threshold it is the
    label."""
    reference = Reference(point_specialists)
    coef = torch.zeros(3, len(reference.base), requires_grad=True)

    def merge() -> list[Tensor]:
        return [b + sum(reference.vectors[t][j] * coef[t, j] for t in range(3)) for j, b in enumerate(reference.base)]

    def label(task: str, parameters: Sequence[Tensor]) -> Tensor:
        return F.cross_entropy(reference.logits(task, parameters), reference.y[task])

    def confident(task: str, parameters: Sequence[Tensor]) -> Tensor:
        sure, answer = reference.taught[task].softmax(1).max(1)
        chosen = (sure > threshold).float()
        losses = F.cross_entropy(reference.logits(task, parameters), answer, reduction="none")
        return (losses * chosen).sum() / chosen.sum().clamp_min(1)

    threshold = float(torch.stack([t.softmax(1).max(1).values for t in reference.taught.values()]).median())
    learning = preset("atlas")
    optimiser = torch.optim.AdamW([coef], lr=learning.rate, weight_decay=0.1)
    reference.fit(merge, label if objective == "label" else confident, optimiser, decay=True)
    made = run(point_specialists, "atlas", objective=objective, threshold=threshold)
    assert coef.abs().max() > learning.rate
    agree(made.found["raw"], coef.T)


@pytest.mark.parametrize("filtered", [True, False])
def test_tint(filtered: bool, point_specialists: Tuned) -> None:
    """AIM-SKKU/SyMerge, src/main_symerge.py, losstype crosspseudoconf with classifier_train: coefficients from 0.3,
    clamp(0, 1), and the classifiers, by one Adam; here all tasks in a step. Unfiltered: losstype crosspseudo."""
    reference = Reference(point_specialists)
    raw = torch.full((len(reference.base), 3), 0.3, requires_grad=True)
    free = [v.requires_grad_() for head in reference.heads.values() for v in head.values()]

    def merge() -> list[Tensor]:
        c = raw.clamp(0, 1)
        return [b + sum(c[j, t] * reference.vectors[t][j] for t in range(3)) for j, b in enumerate(reference.base)]

    def loss(task: str, parameters: Sequence[Tensor]) -> Tensor:
        outputs, finetuned = reference.logits(task, parameters), reference.taught[task]
        ind_value, ind = finetuned.softmax(-1).max(1)
        out_value, out = outputs.softmax(-1).max(1)
        chosen = (ind == out) | (ind_value >= out_value) if filtered else torch.ones_like(ind).bool()
        return F.cross_entropy(outputs[chosen], ind[chosen])

    reference.fit(merge, loss, torch.optim.Adam([raw, *free], lr=preset("tint").rate))
    made = run(point_specialists, "tint", filtered=filtered, head_rate=preset("tint").rate)
    agree(made.found["raw"], raw)
    for task, head in reference.heads.items():
        agree(made.heads[task]["weight"], head["weight"])
        agree(made.heads[task]["bias"], head["bias"])


def test_concrete(point_specialists: Tuned) -> None:
    """tanganke/subspace_fusion, scripts/clip_concrete_task_arithmetic.py and src/concrete_mask.py: logits from zero,
    one relaxed Bernoulli sample of temperature 0.5 a step, each change times mask / mean, coefficients of 0.3."""
    reference = Reference(point_specialists)
    logits = [torch.zeros_like(b, requires_grad=True) for b in reference.base]

    def merge() -> list[Tensor]:
        found = []
        for j, b in enumerate(reference.base):
            mask = torch.distributions.RelaxedBernoulli(0.5, logits=logits[j]).rsample()
            found.append(b + sum(0.3 * (v[j] * mask / mask.mean()) for v in reference.vectors))
        return found

    learning = preset("concrete")
    made = run(point_specialists, "concrete")
    torch.manual_seed(seed_of(0, "learn"))
    rate = learning.rate * learning.settings["speed"]
    reference.fit(merge, reference.entropy, torch.optim.Adam(logits, lr=rate))
    for number, logit in enumerate(logits):
        assert logit.abs().max() > rate
        agree(made.found[f"logits.{number}"], logit)


def test_concrete_adamerging_learns_the_mask_and_then_the_coefficients(point_specialists: Tuned) -> None:
    """tanganke/subspace_fusion, scripts/clip_layer_wise_concrete_adamerging.py: then the mask stands still, and Adam
    begins anew with coefficients of 0.3, one for each model and weight, cut to [0, 1]. There it is one draw of the
    mask, here the mask without noise, as it is in the result."""
    reference = Reference(point_specialists)
    first = run(point_specialists, "concrete", steps=STEPS)
    masks = [first.found[f"logits.{n}"].sigmoid() for n in range(len(reference.base))]
    weight = torch.full((3, len(reference.base)), 0.3, requires_grad=True)

    def merge() -> list[Tensor]:
        return [
            b + sum(c * v[j] * m / m.mean() for c, v in zip(weight.clamp(0, 1)[:, j], reference.vectors, strict=True))
            for j, (b, m) in enumerate(zip(reference.base, masks, strict=True))
        ]

    reference.fit(merge, reference.entropy, torch.optim.Adam([weight], lr=preset("concrete").rate))
    made = run(point_specialists, "concrete", coefficients="block", steps=2 * STEPS)
    for number in range(len(masks)):
        assert torch.equal(made.found[f"logits.{number}"], first.found[f"logits.{number}"]), "the mask after its phase"
    agree(made.found["raw"], weight.T)
    for found, expected in zip(weights(made).values(), merge(), strict=True):
        agree(found, expected)


CART = {"origin": "mean", "scale": 1.3, "rank": 0.32}


@pytest.mark.parametrize("values", [{}, CART], ids=["TA", "CART"])
def test_adarank(values: dict[str, Any], point_specialists: Tuned) -> None:
    """david3684/AdaRank, vision/src/models/merge_vit/adaptive.py and vision/runner.py with configs/*/adarank_TA.yaml
    and adarank_CART.yaml: coefficients of 0.3 or more, not clamped; mask logits of 0.1, temperature 10, straight
    through; entropies of all tasks, one Adam. CART: the origin is the mean of the models, changes are from there, and
    the logits of all but the first components, a share of them, are -0.1."""
    reference = Reference(point_specialists)
    if values:
        middle = [torch.stack(one).mean(0) for one in zip(*reference.vectors, strict=True)]
        reference.base = [b + m for b, m in zip(reference.base, middle, strict=True)]
        reference.vectors = [[d - m for d, m in zip(v, middle, strict=True)] for v in reference.vectors]
    scale = values.get("scale", 0.3)
    weight = torch.full((3, len(reference.base)), scale, requires_grad=True)
    factors = [
        [torch.linalg.svd(d, full_matrices=False) if d.ndim == 2 else None for d in vector]
        for vector in reference.vectors
    ]
    ranks = [min(b.shape) if b.ndim == 2 else 1 for b in reference.base]
    masks = [torch.full((3, rank), 0.1) for rank in ranks]
    for mask, rank in zip(masks, ranks, strict=True):
        mask[:, int(values.get("rank", 1.0) * rank) :] = -0.1
        mask.requires_grad_()

    def merge() -> list[Tensor]:
        found = []
        for j, b in enumerate(reference.base):
            for t in range(3):
                change, factor = reference.vectors[t][j], factors[t][j]
                if factor is not None:
                    u, s, v = factor
                    soft = (masks[j][t] / 10).sigmoid()
                    change = (u * (soft * s + (((soft > 0.5).float() - soft) * s).detach())) @ v
                b = b + weight[t, j] * change
            found.append(b)
        return found

    rate = 0.06  # three steps of it take some masks across their edge
    start = [weight.detach() for weight in merge()]
    begun = run(point_specialists, "adarank", steps=0, **values)
    for found, expected in zip(weights(begun).values(), start, strict=True):
        agree(found, expected)
    reference.fit(merge, reference.entropy, torch.optim.Adam([weight, *masks], lr=rate))
    made = run(point_specialists, "adarank", rate=rate, **values)
    agree(made.found["raw"], weight.T)
    agree(made.found["logits.0"], masks[0])
    agree(made.found["logits.1"], masks[2])
    assert (masks[0] < 0).any() and (masks[0] > 0).any(), "some components went"
    for found, expected in zip(weights(made).values(), merge(), strict=True):
        agree(found, expected)


def test_changes_from_the_mean_take_no_other_start(point_specialists: Tuned) -> None:
    learning = preset("adarank", {"steps": 0, "rows": 8, **CART})
    with pytest.raises(AllroundError, match="begin there"):
        learn(
            point_specialists.base,
            point_specialists.specialists(),
            point_specialists.suite.tasks,
            learning,
            start=point_specialists.base,
        )


# The guard


def js(p: Tensor, q: Tensor) -> Tensor:
    middle = (p + q) / 2
    return ((p * (p / middle).log()).sum(1) + (q * (q / middle).log()).sum(1)).mean() / 2


@pytest.mark.parametrize("rate", [0.01, 0.4])
def test_the_guard_keeps_the_state_nearest_to_the_specialists(rate: float, point_specialists: Tuned) -> None:
    """By the Jensen-Shannon divergence of the answers, summed over the tasks; looked at after each quarter."""
    reference = Reference(point_specialists)
    learning = preset("adamerging", {"rows": 24, "batch": 24, "steps": 8, "rate": rate})
    assert learning.guard and learning.needs == ("specialist",)
    made = learn(
        point_specialists.base,
        point_specialists.specialists(),
        point_specialists.suite.tasks,
        learning,
        split="train",
        precision="fp32",
        device="cpu",
    )
    distances = made.record["distances"]
    assert list(distances) == ["0", "2", "4", "6", "8"] and made.record["steps"] == 8
    assert distances[str(made.record["kept_step"])] == min(distances.values())
    kept = run(point_specialists, "adamerging", steps=made.record["kept_step"], rate=rate)
    parameters = list(weights(made).values())
    for found, expected in zip(parameters, weights(kept).values(), strict=True):
        agree(found, expected)
    agree(made.found["raw"], kept.found["raw"])
    pairs = [(reference.logits(t, parameters).softmax(1), reference.taught[t].softmax(1)) for t in reference.tasks]
    assert min(distances.values()) == pytest.approx(float(sum(js(p, q) for p, q in pairs)), abs=1e-5)


# By hand: no code of the authors' is public


class Two(nn.Module):
    """Two numbers, each a layer: (x, y) -> (a x, b y)."""

    def __init__(self) -> None:
        super().__init__()
        self.h = nn.ParameterList([nn.Parameter(torch.ones(1)), nn.Parameter(torch.full((1,), 0.5))])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1] * self.h[0], x[:, 1:] * self.h[1]], 1)


X = {"left": [(0.5, 1.0), (-1.0, 0.25), (2.0, -0.5), (1.0, 1.5)], "right": [(1.5, -1.0), (-0.5, -2.0), (0.25, 0.75)]}
Y = {"left": [0, 1, 0, 1], "right": [0, 1, 0]}
BASE = (1.0, 0.5)
CHANGE = {"left": (0.5, -0.25), "right": (-1.0, 0.75)}
HEAD = {"left": ((1.0, -0.5), 0.25), "right": ((-0.75, 1.0), 0.0)}  # logit of class one; class zero has 0


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LearnedMerge]:
    folder = tmp_path_factory.mktemp("two")
    tasks = {}
    for name in X:
        rows = [{"x": x, "y": y, "label": "ab"[label]} for (x, y), label in zip(X[name], Y[name], strict=True)]
        tasks[name] = make_task(
            name, kind="classification", inputs=["x", "y"], target="label",
            data={"train": rows, "validation": rows[:2], "test": rows[:2]},
        )  # fmt: skip
    network = Two()
    specialists = []
    for name in ("base", *X):
        change = CHANGE.get(name, (0.0, 0.0))
        with torch.no_grad():
            for p, b, d in zip(network.h, BASE, change, strict=True):
                p.fill_(b + d)
        (folder / name).mkdir()
        Module(network, dim=2).save(folder / name)
        if name in X:
            direction, bias = HEAD[name]
            head = {"weight": torch.tensor([(0.0, 0.0), direction]), "bias": torch.tensor([0.0, bias])}
            specialists.append(Specialist(folder / name, (name,), {name: head}))

    def fit(name: str, **values: Any) -> LearnedMerge:
        learning = preset(name, {"steps": STEPS, "batch": 8, **values}).with_(guard=False)
        return learn(folder / "base", specialists, tasks, learning, split="train", device="cpu", precision="fp32")

    return fit


Numbers = list[float]


def gradient(loss: Callable[[Numbers], float], at: Numbers) -> Numbers:
    """By differences."""
    found = []
    for n in range(len(at)):
        step = [1e-5 * (n == m) for m in range(len(at))]
        up, down = ([a + sign * s for a, s in zip(at, step, strict=True)] for sign in (1, -1))
        found.append((loss(up) - loss(down)) / 2e-5)
    return found


def adam(loss: Callable[[Numbers], float], at: Numbers, rate: float) -> Numbers:
    """Kingma and Ba, algorithm 1, with a rate that falls by half a cosine."""
    first, second = [0.0] * len(at), [0.0] * len(at)
    for step in range(STEPS):
        g = gradient(loss, at)
        first = [0.9 * m + 0.1 * x for m, x in zip(first, g, strict=True)]
        second = [0.999 * v + 0.001 * x * x for v, x in zip(second, g, strict=True)]
        now = rate * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        at = [
            a - now * (m / (1 - 0.9 ** (step + 1))) / (math.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
            for a, m, v in zip(at, first, second, strict=True)
        ]
    return at


def chance(task: str, x: tuple[float, float], a: float, b: float) -> float:
    """The probability of class one."""
    (u, v), bias = HEAD[task]
    return 1 / (1 + math.exp(-(u * a * x[0] + v * b * x[1] + bias)))


def test_supermerge(by_hand: Callable[..., LearnedMerge]) -> None:
    """base + tanh(w) d for each layer, w from atanh(0.3), the tasks' own losses, Adam."""

    def loss(w: Numbers) -> float:  # of layer 0: left, right; of layer 1: left, right
        a, b = (
            BASE[n] + math.tanh(w[2 * n]) * CHANGE["left"][n] + math.tanh(w[2 * n + 1]) * CHANGE["right"][n]
            for n in (0, 1)
        )
        total = 0.0
        for task in X:
            shares = [chance(task, x, a, b) for x in X[task]]
            total -= sum(math.log(p if y else 1 - p) for p, y in zip(shares, Y[task], strict=True)) / len(shares)
        return total

    made = by_hand("supermerge")
    expected = adam(loss, [math.atanh(0.3)] * 4, preset("supermerge").rate)
    assert made.found["raw"].flatten().tolist() == pytest.approx(expected, abs=1e-5)
    listed = made.record["coefficients"]
    assert listed["network.h.1"] == pytest.approx([math.tanh(w) for w in expected[2:]], abs=1e-5)
    assert made.record["losses"][0] == pytest.approx(loss([math.atanh(0.3)] * 4) / 2, abs=1e-5)


@pytest.mark.parametrize("measure", ["js", "kl"])
@pytest.mark.parametrize("level", ["task", "layer"])
def test_divmerge(level: str, measure: str, by_hand: Callable[..., LearnedMerge]) -> None:
    """base + c d, c from 0.3, the sum over tasks of the divergence of predictions from the specialist's, Adam."""

    def kl(p: float, q: float) -> float:
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    def loss(c: Numbers) -> float:
        c = c * 2 if level == "task" else c
        a, b = (BASE[n] + c[2 * n] * CHANGE["left"][n] + c[2 * n + 1] * CHANGE["right"][n] for n in (0, 1))
        total = 0.0
        for task in X:
            for x in X[task]:
                p = chance(task, x, a, b)
                q = chance(task, x, BASE[0] + CHANGE[task][0], BASE[1] + CHANGE[task][1])
                m = (p + q) / 2
                total += (kl(q, p) if measure == "kl" else (kl(p, m) + kl(q, m)) / 2) / len(X[task])
        return total

    made = by_hand("divmerge", level=level, measure=measure)
    expected = adam(loss, [0.3] * (2 if level == "task" else 4), preset("divmerge").rate)
    assert made.found["raw"].flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_self_positioning(by_hand: Callable[..., LearnedMerge]) -> None:
    """base + s (a_1 d_1 + a_2 d_2), a = softmax, s from 2 * 0.3, the contrastive loss of features, plain SGD."""

    def loss(v: Numbers) -> float:
        one, two, size = v
        share = 1 / (1 + math.exp(two - one))
        a, b = (BASE[n] + size * (share * CHANGE["left"][n] + (1 - share) * CHANGE["right"][n]) for n in (0, 1))
        total = 0.0
        for task in X:
            points = [(a * x, b * y) for x, y in X[task]]
            unit = [(x / math.hypot(x, y), y / math.hypot(x, y)) for x, y in points]
            rows = []
            for i, (x, y) in enumerate(unit):
                close = {j: math.exp((x * p + y * q) / 0.5) for j, (p, q) in enumerate(unit) if j != i}
                alike = [j for j in close if Y[task][j] == Y[task][i]]
                if alike:
                    rows.append(-sum(math.log(close[j] / sum(close.values())) for j in alike) / len(alike))
            total += sum(rows) / len(rows)
        return total

    made = by_hand("self_positioning", temperature=0.5)
    expected = [0.0, 0.0, 0.6]
    for _ in range(STEPS):
        expected = [
            v - preset("self_positioning").rate * g for v, g in zip(expected, gradient(loss, expected), strict=True)
        ]
    assert made.found["raw"].flatten().tolist() == pytest.approx(expected[:2], abs=1e-5)
    assert made.found["size"].item() == pytest.approx(expected[2], abs=1e-5)
    assert abs(expected[0]) > 1e-3
