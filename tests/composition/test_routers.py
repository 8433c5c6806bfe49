"""What routers and combinations compute, beside other libraries and computations by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.composition.library import Library, make_library
from torch import Tensor, nn

from allround.composition.combining import make_combine
from allround.composition.modules.bank import Gate, ModuleBank
from allround.composition.modules.layer import LinearLayer
from allround.composition.route.regressed_loss import PENALTIES, ridge
from allround.composition.router import Router, RouteRows, Seen, base_vectors, make_router
from allround.composition.systems.routed import Routed
from allround.core.errors import AllroundError
from allround.models.running import batches
from allround.tasks.suite import Suite

QUERY = "encoder.layer.0.attention.self.query"


@pytest.fixture(scope="module")
def library(bert_folder: Path, text_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Library:
    tasks = [text_suite.tasks[name] for name in ("mood", "warmth", "topics", "alike")]
    return make_library(bert_folder, tmp_path_factory.mktemp("library"), tasks)


@pytest.fixture(scope="module")
def system(library: Library) -> Routed:
    return library.routed("uniform")


def rows_of(system: Routed, library: Library) -> dict[str, RouteRows]:
    return {
        name: RouteRows(system.model, name, system.module_of.get(name), *_train(library, name))
        for name in library.tasks
    }


def _train(library: Library, name: str) -> tuple[list[object], object]:
    split = library.tasks[name].splits["train"]
    return split.inputs, split.targets  # type: ignore[return-value]


def factors(system: Routed, layer: str = QUERY) -> list[tuple[Tensor, Tensor]]:
    """A (rank, in) and B (out, rank) of each module at a layer."""
    found = [system.bank.read(module, layer, "weight") for module in range(len(system.bank))]
    return [(one.down, one.up) for one in found]  # type: ignore[union-attr]


def read_by(bank: ModuleBank, rows: RouteRows, module: int, layer: str) -> list[Tensor]:
    """What a layer reads of each row by itself, through one module: (words, width)."""
    found: list[Tensor] = []
    one = torch.zeros(1, len(bank))
    one[0, module] = 1
    handle = bank.layers[layer].register_forward_pre_hook(lambda _, given: found.append(given[0][0]))
    try:
        with torch.inference_mode(), bank.using(one):
            for row in rows.prepared:
                bank.encoder(bank.encoder.batch([row], rows.definition))
    finally:
        handle.remove()
    return found


def test_arrow_is_that_of_peft(library: Library, system: Routed) -> None:
    from peft.tuners.lora.arrow import ArrowLoraLinearLayer

    bank = system.bank
    pairs = [(a, b * torch.linspace(2.0, 0.1, b.shape[1])) for a, b in factors(system)]  # one direction is the largest
    held = {module: dict(parts) for module, parts in bank._held.items()}
    names = [f"task_{number}" for number in range(len(pairs))]
    layer = bank.layers[QUERY]
    stored = bank._stored[f"{QUERY}.weight"]
    try:
        for module, (a, b) in enumerate(pairs):
            bank._held[module][stored] = type(bank.read(module, QUERY, "weight"))(a, b)  # type: ignore[arg-type, misc]
        router = make_router("arrow", {"top": 2, "temperature": 0.7})
        router.fit(bank, {}, 0)
        values = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode(), bank.using(router.gate):
            found = layer(values) - layer.base(values)
    finally:
        bank._held.update(held)
    settings = SimpleNamespace(top_k=2, router_temperature=0.7, rng_seed=0, task_adapter_names=names,
                               gks_adapter_names=[], use_gks=False)  # fmt: skip
    peft = ArrowLoraLinearLayer(32, settings)
    lora_a = {name: SimpleNamespace(weight=a) for name, (a, _) in zip(names, pairs, strict=True)}
    lora_b = {name: SimpleNamespace(weight=b) for name, (_, b) in zip(names, pairs, strict=True)}
    # PEFT stacks factors, so that all ranks are the same there: smaller ones are filled up.
    most = max(len(a) for a, _ in pairs)
    for name, (a, b) in zip(names, pairs, strict=True):
        lora_a[name].weight = nn.functional.pad(a, (0, 0, 0, most - len(a)))
        lora_b[name].weight = nn.functional.pad(b, (0, most - len(a)))
    peft.build_prototypes(lora_a, lora_b)
    wanted = peft(values, lora_a, lora_b, nn.Identity(), dict.fromkeys(names, 1.0))
    assert torch.allclose(found, wanted, atol=1e-3 * float(wanted.abs().max()))
    for number, (a, b) in enumerate(pairs):
        first = np.linalg.svd((b @ a).numpy())[2][0]
        assert abs(float(first @ router.state()[f"layer.{QUERY}"][number].numpy())) == pytest.approx(1, abs=1e-5)


def test_average_activation_is_the_mean_of_what_a_layer_reads(library: Library, system: Routed) -> None:
    rows = rows_of(system, library)
    router = make_router("average_activation", {"temperature": 0.5})
    router.fit(system.bank, rows, 0)
    layer = "encoder.layer.1.output.dense"
    means = torch.stack(
        [
            torch.stack([one.mean(0) for one in read_by(system.bank, rows[name], module, layer)]).mean(0)
            for name, module in system.module_of.items()
        ]
    )
    values = torch.randn(2, 3, means.shape[1], generator=torch.Generator().manual_seed(1))
    wanted = (values @ (means / means.norm(dim=1, keepdim=True)).T / 0.5).softmax(-1)
    assert torch.allclose(router.gate(layer, values), wanted, atol=1e-4)
    plain = make_router("average_activation", {})
    plain.restore(system.bank, router.state())
    again = (values @ (means / means.norm(dim=1, keepdim=True)).T / means.shape[1] ** 0.5).softmax(-1)
    assert torch.allclose(plain.gate(layer, values), again, atol=1e-4), "the square root of the width"


def test_phatgoose_compares_what_is_normalised(library: Library, system: Routed) -> None:
    router = make_router("phatgoose", {"top": 2})
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    router.restore(system.bank, {"known": torch.ones(3), f"layer.{QUERY}": vectors})
    x = torch.randn(1, 2, 32, generator=torch.Generator().manual_seed(3))

    def normal(one: np.ndarray) -> np.ndarray:
        return (one - one.mean(-1, keepdims=True)) / np.sqrt(one.var(-1, keepdims=True) + 1e-5)

    logits = normal(x.numpy()) @ normal(vectors.numpy()).T / np.sqrt(32)
    kept = np.where(logits >= np.sort(logits)[..., -2:-1], np.exp(logits), 0)
    assert torch.allclose(
        router.gate(QUERY, x), torch.from_numpy(kept / kept.sum(-1, keepdims=True)).float(), atol=1e-5
    )


def test_phatgoose_learns_each_gate_on_its_own_rows(library: Library, system: Routed) -> None:
    # The first step of Adam moves each number by the rate, against the sign of the gradient at sigmoid(0) = 1/2.
    rows = rows_of(system, library)
    router = make_router("phatgoose", {"steps": 1, "batch": 24, "rate": 0.01})
    router.fit(system.bank, {"mood": rows["mood"]}, 0)
    found = router.state()[f"layer.{QUERY}"]
    assert not found[1:].any() and router.state()["known"].tolist() == [1, 0, 0]
    model, bank = system.model, system.bank
    vector = torch.zeros(32, requires_grad=True)

    def gate(layer: str, values: Tensor) -> Tensor:
        share = torch.sigmoid(values @ vector) if layer == QUERY else 0.5 * torch.ones(values.shape[:-1])
        if not isinstance(bank.layers[layer], LinearLayer):
            share = torch.ones(len(values))
        return torch.stack([share, 0 * share, 0 * share], -1)

    with bank.using(gate):
        rows["mood"].losses(range(24)).mean.backward()
    model.zero_grad()
    assert vector.grad is not None
    assert torch.allclose(found[0], -0.01 * vector.grad.sign(), atol=1e-4)


def test_embedding_retrieval_takes_the_nearest_row() -> None:
    router = make_router("embedding_retrieval")
    router.restore(
        [None] * 3,  # type: ignore[arg-type]
        {"vectors": torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), "owners": torch.tensor([2.0, 0.0, 1.0])},
    )
    found = router.weights(Seen(torch.tensor([[5.0, 1.0], [0.1, 0.9], [3.0, 3.5]])))
    assert found.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]


def test_embedding_retrieval_may_choose_once_for_a_task(library: Library, system: Routed) -> None:
    rows = rows_of(system, library)
    router = make_router("embedding_retrieval", {"rows": 6, "votes": 10})
    router.fit(system.bank, rows, 0)
    assert router.told
    module = int(router.weights(Seen(torch.zeros(1, 32), "warmth")).argmax())
    assert module == 1, "its words are like no other's"
    assert router.weights(Seen(torch.zeros(2, 32), "alike")).sum(1).tolist() == [1, 1], "a task without a module"
    with pytest.raises(AllroundError, match="all of them are kept"):
        make_router("embedding_retrieval", {"votes": 1}).fit(system.bank, rows, 0)


def test_the_ridge_regression_is_that_of_scikit_learn() -> None:
    from sklearn.linear_model import RidgeCV

    generator = torch.Generator().manual_seed(4)
    vectors = torch.randn(30, 40, generator=generator).double()
    targets = vectors[:, :2] @ torch.tensor([[1.0, -2.0], [0.5, 0.0]]).double()
    targets = targets + torch.randn(30, 2, generator=generator).double()
    weight, bias = ridge(vectors, targets)
    other = RidgeCV(alphas=PENALTIES).fit(vectors.numpy(), targets.numpy())
    assert np.allclose(weight.numpy(), other.coef_, atol=1e-6)
    assert np.allclose(bias.numpy(), other.intercept_, atol=1e-6)


def test_losses_of_rows_apart_have_the_mean_of_the_batch(library: Library, system: Routed) -> None:
    for name in ("mood", "warmth", "topics"):
        rows = rows_of(system, library)[name]
        with torch.no_grad():
            whole, apart = rows.losses(range(5)).mean, rows.apart(range(5))
        assert apart.mean().item() == pytest.approx(whole.item(), rel=1e-4), name


def test_size_moves_the_choice_to_small_modules() -> None:
    state = {"weight": torch.zeros(2, 3), "bias": torch.tensor([0.2, 0.5]), "sizes": torch.tensor([1.0, 0.25])}
    for size, module in ((0.0, 0), (0.39, 0), (0.41, 1)):
        router = make_router("regressed_loss", {"size": size})
        router.restore([None] * 2, state)  # type: ignore[arg-type]
        assert router.weights(Seen(torch.ones(1, 3))).argmax().item() == module


def test_the_entropy_gate_reads_the_mean_over_words(library: Library, system: Routed) -> None:
    bank = copy.copy(system.bank)
    router = make_router("entropy_gate", {"scale": 0.4})
    first, second = "encoder.layer.0.intermediate.dense", "encoder.layer.0.output.dense"
    fitted = make_router("entropy_gate", {"steps": 1, "rate": 1e-9, "scale": 0.4})
    fitted.fit(system.bank, rows_of(system, library), 0)
    router.restore(bank, fitted.state())
    own = {k.removeprefix(f"{first}."): v for k, v in router.state().items() if k.startswith(f"{first}.")}
    values = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(6))
    bank.words = torch.tensor([[True, True, False, False], [True] * 4])
    read = torch.stack([values[0, :2].mean(0), values[1].mean(0)])
    wanted = torch.relu(read @ own["hidden"].T + own["hidden_bias"]) @ own["weight"].T + own["bias"]
    assert torch.allclose(router.gate(first, values), wanted, atol=1e-6)
    assert torch.equal(router.gate(second, torch.randn(2, 4, 64)), router.gate(first, values)), "one part, one gate"
    assert torch.allclose(wanted, torch.full((2, 3), 0.4), atol=0.02), "near the scale before it is fitted"
    assert router.gate(QUERY, values).tolist() == [[pytest.approx(0.4)] * 3] * 2
    shared = make_router("entropy_gate", {"shared": True, "steps": 1})
    shared.fit(system.bank, rows_of(system, library), 0)
    assert {name.partition(".")[0] for name in shared.state()} == {"all"}


def entropy_of(system: Routed, router: Router, rows: RouteRows) -> float:
    total = []
    with torch.inference_mode(), system.bank.using(router.gate):
        for _, batch in batches(system.bank.encoder, rows.prepared, rows.definition, 64):
            logits = system.model.output_head(rows.task)(system.bank.encoder(batch).values)
            total.append(-(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1))
    return float(torch.cat(total).mean())


def test_the_entropy_gate_lowers_the_entropy(library: Library, system: Routed) -> None:
    rows = {"mood": rows_of(system, library)["mood"]}
    begun, fitted = (make_router("entropy_gate", {"steps": n, "rate": 0.01}) for n in (1, 6))
    for router in (begun, fitted):
        router.fit(system.bank, rows, 0)
    assert entropy_of(system, fitted, rows["mood"]) < 0.5 * entropy_of(system, begun, rows["mood"])


def test_the_entropy_gate_does_not_give_one_answer_to_all(library: Library, system: Routed) -> None:
    system = copy.deepcopy(system)
    rows = rows_of(system, library)["mood"]
    even = torch.full((1, 3), 0.3)
    head, before = system.model.output_head("mood"), mean_answer(system, even, rows).log()
    with torch.no_grad():
        head.bias.copy_(head.bias - before)  # so that answers are undecided on the whole
    shares = {}
    for hold in (0.0, 3.0):
        router = make_router("entropy_gate", {"steps": 30, "rate": 0.01, "hold": hold})
        router.fit(system.bank, {"mood": rows}, 0)
        shares[hold] = mean_answer(system, router.gate, rows)
    start = mean_answer(system, even, rows)
    assert start.min() > 0.1
    assert shares[0.0].min() < 1e-3, "the authors' loss has its least where all rows have one answer"
    assert (shares[3.0] - start).abs().max() < 0.05


def mean_answer(system: Routed, weighing: Tensor | Gate, rows: RouteRows) -> Tensor:
    with torch.inference_mode(), system.bank.using(weighing):
        features = system.bank.encoder(rows.batch(range(len(rows)))).values
        return system.model.output_head(rows.task)(features).softmax(-1).mean(0)


@pytest.mark.parametrize("per", ["row", "layer"])
def test_learned_gates_lower_the_loss(per: str, library: Library, system: Routed) -> None:
    rows = {name: one for name, one in rows_of(system, library).items() if name in ("mood", "warmth")}
    losses = []
    for steps, rate in ((1, 1e-9), (6, 0.05)):
        router = make_router("learned_gate", {"per": per, "steps": steps, "rate": rate})
        router.fit(system.bank, rows, 0)
        total = 0.0
        for one in rows.values():
            row = router.weights(Seen(base_vectors(system.bank, one))) if per == "row" else None
            with torch.inference_mode(), system.bank.using(router.gate if row is None else row):
                total += float(one.losses(range(len(one))).mean)
        losses.append(total)
    assert losses[1] < losses[0] - 0.02


# -- combinations --------------------------------------------------------------------------------------------------


def test_factors_averaged_apart_have_cross_terms(system: Routed) -> None:
    layer = system.bank.layers[QUERY]
    weights = torch.tensor([[0.5, 0.3, 0.2]])
    values = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(7))
    pairs = factors(system)
    shares = weights[0].tolist()
    own = sum(w * values @ a.T @ b.T for w, (a, b) in zip(shares, pairs, strict=True))
    with torch.inference_mode(), system.bank.using(weights):
        assert torch.allclose(layer(values) - layer.base(values), own, atol=1e-4)
    apart: Tensor | float = 0.0
    for w, (_, b) in zip(shares, pairs, strict=True):  # w_i w_j B_i A_j for all i and j, i = j among them
        for v, (a, _) in zip(shares, pairs, strict=True):
            rank = min(len(a), b.shape[1])
            apart = apart + w * v * values @ a[:rank].T @ b[:, :rank].T
    with torch.inference_mode(), system.bank.using(weights, apart=True):
        assert torch.allclose(layer(values) - layer.base(values), apart, atol=1e-4)
    assert not torch.allclose(own, apart, atol=0.1), "which is another thing"


def test_logits_are_averaged_by_the_weights(library: Library, system: Routed) -> None:
    model, task = system.model, "mood"
    rows = library.tasks[task].splits["train"].inputs[:3]
    batch = model.collate(model.prepare(task, rows), {task: range(3)})
    weights = torch.tensor([[0.5, 0.25, 0.0], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5]])
    with torch.inference_mode():
        found = make_combine("logits").answer(model, system.bank, task, batch, weights, scores=True).scores
        total = (1 - weights.sum(1, keepdim=True)) * model.head(task)(model.features(batch).values)
        for module in range(3):
            with system.bank.using(torch.eye(3)[module : module + 1]):
                total = total + weights[:, module : module + 1] * model.head(task)(model.features(batch).values)
    assert np.allclose(found, total.softmax(-1).numpy(), atol=1e-5)


def test_neighbours_are_weighed_by_their_distance() -> None:
    combine = make_combine("knn", {"k": 2, "temperature": 0.5})
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    combine.restore(None, {"vectors.t": vectors, "labels.t": torch.eye(3)})  # type: ignore[arg-type]
    found = combine.near("t", torch.tensor([[0.6, 0.8]]))  # type: ignore[attr-defined]
    # squared distances 0.8 and 0.4, and a third row that is too far away
    shares = np.exp([-0.8 / 0.5, -0.4 / 0.5])
    assert found[0].tolist() == pytest.approx([*(shares / shares.sum()), 0])


@pytest.mark.parametrize("task", ["mood", "topics"])
def test_neighbours_mix_with_what_the_modules_say(task: str, library: Library, system: Routed) -> None:
    rows = library.tasks[task].splits["train"]
    found = {}
    for share in (0.0, 0.25, 1.0):
        combine = make_combine("knn", {"share": share, "k": 1})
        combine.fit(system.bank, rows_of(system, library), 0)
        other = Routed(system.model, system.members, system.router, combine, system.bank)
        (answers,) = list(other.answer(task, rows.inputs, scores=True))
        found[share] = np.asarray(answers.scores)
        if share == 1:
            assert np.array_equal(answers.predictions, rows.targets), "each row is its own neighbour"
    (plain,) = list(system.answer(task, rows.inputs, scores=True))
    assert np.allclose(found[0.0], plain.scores, atol=1e-6)
    assert np.allclose(found[0.25], 0.25 * found[1.0] + 0.75 * found[0.0], atol=1e-6)
