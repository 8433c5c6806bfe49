"""Systems that grow with a stream: how parts are weighed, and what each way to grow and to select computes."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from allround.continual import gaussians
from allround.continual.grow.allocate import Allocate, distance, means_of
from allround.continual.grow.expert import Expert
from allround.continual.grow.residual_others import OTHER
from allround.continual.grow.zoo import Zoo
from allround.continual.growing import GrowingLearner
from allround.continual.learner import begin
from allround.continual.outliers import tuned_head, virtual_outliers
from allround.continual.parts import PartHolder
from allround.continual.select.likelihood_ratio import LikelihoodRatio
from allround.continual.selecting import RowView
from allround.continual.strategy import strategy_of
from allround.continual.stream import Arrival, of_tasks, renamed, rotated, split_labels
from allround.core import registry
from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.models.encoder import Encoder
from allround.models.encoders.small_image import SmallImage
from allround.models.manifest import MANIFEST
from allround.models.running import features_of
from allround.models.system import load
from allround.tasks.suite import Suite
from allround.training.settings import Settings

#: Strategies for tasks with heads of their own.
OF_TASKS = [name for name in registry.names("strategy") if "task" in strategy_of(name).scenarios]
QUICK = Settings(epochs=1, batch_size=16, learning_rate=1e-3, device="cpu", precision="fp32")


def learned(name: str, encoder: Encoder, arrivals: tuple[Arrival, ...], **values: Any) -> GrowingLearner:
    plan = strategy_of(name, values)
    learner = begin(copy.deepcopy(encoder), plan)
    assert isinstance(learner, GrowingLearner)
    for arrival in arrivals:
        learner.learn(arrival, plan, QUICK)
    return learner


@pytest.fixture(scope="module")
def halves(digits_suite: Suite) -> tuple[Arrival, ...]:
    return split_labels(digits_suite["digit"], 5, "class").arrivals


@pytest.fixture(scope="module")
def seed(small_image: SmallImage, halves: tuple[Arrival, ...]) -> GrowingLearner:
    return learned("seed", small_image, halves)


def test_seed_answers_as_its_reference_code(
    seed: GrowingLearner, halves: tuple[Arrival, ...], digits_suite: Suite
) -> None:
    """`predict_class_bayes` of grypesc/SEED, with the densities of torch: softmax over the labels of each expert, and
    for each label the mean over the experts that know it."""
    system, rows = seed.grown, digits_suite["digit"].splits["test"].inputs
    assert [(part.arrival, part.body) for part in system.parts] == [(0, 0), (1, 0), (1, 1)]
    total, known = torch.zeros(len(rows), 10).double(), torch.zeros(10).double()
    for body, first in ((0, 0), (1, 1)):
        given = {one.name: one.tasks[0].splits["train"].inputs for one in halves} | {"test": rows}
        model, name = system.bodies[body], f"digit-{first}"
        features = {place: features_of(model.encoder, model.prepare(name, some), model.definition(name)).values.double()
                    for place, some in given.items()}  # fmt: skip
        columns, densities = [], []
        for number in range(first, 2):
            task = halves[number].tasks[0]
            for place, label in enumerate(task.definition.labels):
                x = features[halves[number].name][torch.as_tensor(task.splits["train"].targets) == place]
                covariance = torch.cov(x.T, correction=0)
                covariance = covariance + 0.01 * covariance.diagonal().mean() * torch.eye(len(covariance)).double()
                columns.append(digits_suite["digit"].definition.labels.index(label))
                densities.append(MultivariateNormal(x.mean(0), covariance).log_prob(features["test"]))
        total[:, columns] += (torch.stack(densities, 1) / 3).softmax(1)
        known[columns] += 1
    wanted = total / known
    scores = np.asarray(system.answers("digit", rows, scores=True).scores)
    np.testing.assert_allclose(scores, (wanted / wanted.sum(1, keepdim=True)).numpy(), atol=2e-3)


def test_divergences_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (gaussians.fit(torch.randn(20, 3, generator=generator) * scale, 0.1) for scale in (1.0, 2.0))
    given = [MultivariateNormal(g.mean, precision_matrix=g.root.T @ g.root) for g in (one, other)]
    assert gaussians.divergence(one, other) == pytest.approx(float(kl_divergence(*given)), rel=1e-9)
    assert gaussians.divergence(one, one) == pytest.approx(0, abs=1e-9)
    x = torch.randn(4, 3, generator=generator).double()
    gap = given[0].log_prob(x) - one.log_density(x)
    assert torch.allclose(gap, torch.full((4,), -1.5 * float(np.log(2 * np.pi))).double())


def test_the_expert_that_tells_new_labels_apart_is_tuned_and_held(
    small_image: SmallImage, halves: tuple[Arrival, ...]
) -> None:
    """Of an encoder, and of one that sees nothing, the former is taken; the loss on features keeps it near the old."""
    before = next(iter(small_image.parameters())).detach().clone()
    moved = {}
    for alpha in (0.0, 0.99):
        learner = learned("seed", small_image, halves[:1], experts=1, alpha=alpha, rate=1.0)
        assert isinstance(learner, Expert)
        blind = copy.deepcopy(learner.grown.bodies[0])
        with torch.no_grad():
            for parameter in blind.encoder.parameters():
                parameter.mul_(0.01)
        learner.grown.bodies.insert(0, blind)
        old = {name: value.clone() for name, value in learner.grown.bodies[1].encoder.state_dict().items()}
        kept = {name: value.clone() for name, value in blind.encoder.state_dict().items()}
        body, rows = learner.grown.bodies[1], halves[0].tasks[0].splits["train"].inputs
        was = features_of(body.encoder, body.prepare("digit-0", rows), body.definition("digit-0")).values.clone()
        arrived = {"digit": renamed(halves[1].tasks[0], "digit-1")}
        longer = QUICK.with_(epochs=4, keep="last")
        parts = learner.extend(arrived, 1, longer, seed=0, scratch=None)
        assert {part.body for part in parts} == {0, 1}
        assert all(torch.equal(value, kept[name]) for name, value in blind.encoder.state_dict().items())
        assert any(not torch.equal(value, old[name]) for name, value in body.encoder.state_dict().items())
        now = features_of(body.encoder, body.prepare("digit-0", rows), body.definition("digit-0")).values
        moved[alpha] = float((now - was).square().mean())
    assert moved[0.99] < moved[0.0] / 2
    assert torch.equal(before, next(iter(small_image.parameters()))), "experts are copies"


def test_models_of_a_zoo_are_never_changed_and_answer_together(small_image: SmallImage, digits_suite: Suite) -> None:
    digit = digits_suite["digit"]
    arrivals = of_tasks("three", [renamed(digit, name) for name in ("a", "b", "c")]).arrivals
    learner = learned("model_zoo", small_image, arrivals[:2], others=1)
    assert isinstance(learner, Zoo)
    first = {name: value.clone() for name, value in learner.grown.bodies[0].state_dict().items()}
    plan = strategy_of("model_zoo", {"others": 1})
    learner.learn(arrivals[2], plan, QUICK)
    system = learner.grown
    assert all(torch.equal(value, first[name]) for name, value in system.bodies[0].state_dict().items())
    assert [len(body.definitions) for body in system.bodies] == [1, 2, 2]
    assert 0 < learner.memory.bytes <= plan.bytes  # type: ignore[operator]
    rows = digit.splits["test"].inputs
    parts = [system.parts[part] for part in system.parts_of("a")]
    assert len(parts) > 1
    each = [np.asarray(system.bodies[part.body].answers(part.name, rows, scores=True).scores) for part in parts]
    np.testing.assert_allclose(np.asarray(system.answers("a", rows, scores=True).scores), np.mean(each, 0), atol=1e-6)


def test_past_tasks_are_drawn_by_how_badly_they_are_known(
    small_image: SmallImage, digits_suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    digit = digits_suite["digit"]
    learner = learned("model_zoo", small_image, of_tasks("two", [renamed(digit, n) for n in "ab"]).arrivals, others=1)
    assert isinstance(learner, Zoo)
    monkeypatch.setattr(learner, "loss", {"a": 0.01, "b": 30.0}.__getitem__)
    drawn = [learner.drawn({"c": digit}, seed)[0] for seed in range(60)]
    assert 0.7 < drawn.count("b") / 60 < 1  # by hand: e^1 against e^-1, 0.88
    monkeypatch.setattr(learner, "loss", {"a": 1.0, "b": 1.0}.__getitem__)
    assert 0.3 < [learner.drawn({"c": digit}, seed)[0] for seed in range(60)].count("b") / 60 < 0.7


def test_keys_are_means_of_labels_under_one_covariance(small_image: SmallImage, halves: tuple[Arrival, ...]) -> None:
    """By hand, with numpy; and in any order of arrivals."""
    system = learned("residual", small_image, halves, select="keys").grown
    rows = halves[0].tasks[0].splits["test"].inputs
    view = RowView(system, "digit", rows, (0, 1))
    with system.plain() as encoder:
        base = [features_of(encoder, encoder.prepare(one.tasks[0].splits["train"].inputs, one.tasks[0].definition),
                            one.tasks[0].definition).values.double().numpy() for one in halves]  # fmt: skip
    centred, keys = [], []
    for x, one in zip(base, halves, strict=True):
        y = one.tasks[0].splits["train"].targets
        keys.append(np.stack([x[y == label].mean(0) for label in range(5)]))
        centred.append(x - keys[-1][y])
    within = np.concatenate(centred).T @ np.concatenate(centred) / len(np.concatenate(centred))
    within += 0.01 * within.diagonal().mean() * np.eye(len(within))
    x = view.base.double().numpy()
    wanted = [-min((row - key) @ np.linalg.solve(within, row - key) for key in keys[part]) / 2
              for row in x for part in (0, 1)]  # fmt: skip
    np.testing.assert_allclose(system.select.scores(view).flatten().numpy(), wanted, rtol=1e-4)
    again = learned("residual", small_image, halves[::-1], select="keys").grown
    turned = again.select.scores(RowView(again, "digit", rows, (1, 0)))
    assert torch.allclose(system.select.scores(view), turned, rtol=1e-6)


def test_tpl_scores_as_its_reference_code(small_image: SmallImage, halves: tuple[Arrival, ...]) -> None:
    """`maha_score`, `TPLR` and `calibration` of linhaowei1/TPL, in numpy, with rows of the memory alone."""
    learner = learned("tpl", small_image, halves, neighbours=3, ridge=0.1)
    system, memory = learner.grown, learner.memory.tasks["digit"].splits["train"]
    select, definition = system.select, system.definitions["digit"]
    assert isinstance(select, LikelihoodRatio) and 0 < learner.memory.bytes <= 50_000
    assert system.definition_of(0).labels == tuple("01234"), "nothing is remembered when the first one comes"
    assert system.definition_of(1).labels == (*"56789", OTHER)
    rows = halves[0].tasks[0].splits["test"].inputs
    view, known = RowView(system, "digit", rows, (0, 1)), RowView(system, "digit", memory.inputs, (0, 1))
    labels = [definition.labels[int(target)] for target in memory.targets]
    scores, of_memory = [], []
    for part, arrival in enumerate(halves):
        split = arrival.tasks[0].splits["train"]
        own = RowView(system, "digit", split.inputs, (part,))
        x, y = own.features(part).double().numpy(), np.asarray(split.targets)
        means = np.stack([x[y == label].mean(0) for label in range(5)])
        within = np.cov((x - means[y]).T, bias=True)
        within += 0.1 * within.diagonal().mean() * np.eye(len(within))

        inverse = np.linalg.inv(within)

        def near(given: Any, means: Any = means, inverse: Any = inverse) -> Any:
            gaps = given[:, None] - means
            return (20 / np.einsum("ncd,de,nce->nc", gaps, inverse, gaps)).max(1)

        outside = [row for row, label in enumerate(labels) if label not in arrival.tasks[0].definition.labels]
        others = torch.nn.functional.normalize(known.features(part)[outside].double()).numpy()
        for seen, found in ((view, scores), (known, of_memory)):
            given = seen.features(part).double().numpy()
            unit = given / np.linalg.norm(given, axis=1, keepdims=True)
            far = np.sort(((unit[:, None] - others) ** 2).sum(2), 1)[:, 2]
            inside = near(given) / near(x).mean() + far
            output = seen.outputs(part)[:, :5].amax(1).double().numpy() / float(own.outputs(part)[:, :5].amax(1).mean())
            found.append(-np.logaddexp(-inside, -output))
    of = torch.tensor([0 if label in "01234" else 1 for label in labels])
    factors, shifts = torch.ones(2).double().requires_grad_(), torch.zeros(2).double().requires_grad_()
    optimiser = torch.optim.SGD([factors, shifts], lr=0.01, momentum=0.8)
    for _ in range(100):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(torch.tensor(np.stack(of_memory, 1)) * factors + shifts, of).backward()
        optimiser.step()
    wanted = (np.stack(scores, 1) * factors.detach().numpy() + shifts.detach().numpy()) / 0.05
    np.testing.assert_allclose(select.scores(view).numpy(), wanted, rtol=2e-3, atol=2e-2)


def test_keys_of_pp_tf_are_directions_in_the_base_without_prompts(bert_folder: Path, text_suite: Suite) -> None:
    """By hand; the features are those of an encoder that never had prompts, and old prompts are not touched."""
    mood = text_suite["mood"]
    arrivals = split_labels(mood, 1, "class").arrivals
    learner = learned("pp_tf", load_encoder(bert_folder), arrivals, length=3)
    system, encoder = learner.grown, load_encoder(bert_folder)

    def queries(rows: Any) -> np.ndarray:
        found = features_of(encoder, encoder.prepare(rows, mood.definition), mood.definition).values.double().numpy()
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    keys = [queries(one.tasks[0].splits["train"].inputs).sum(0) for one in arrivals]
    keys = [key / np.linalg.norm(key) for key in keys]
    rows = mood.splits["test"].inputs
    wanted = queries(rows) @ np.stack(keys).T / 0.01
    np.testing.assert_allclose(system.select.scores(RowView(system, "mood", rows, (0, 1))).numpy(), wanted, atol=1e-3)
    prompted = RowView(system, "mood", rows, (0, 1)).features(0)
    assert not np.allclose(prompted.numpy(), RowView(system, "mood", rows, (0, 1)).base.numpy(), atol=1e-3)
    turned = RowView(system, "mood", rows[:2], (0,)).features(0)
    assert torch.allclose(turned, prompted[:2], atol=1e-5), "prompts are back after the base was read"


def test_virtual_outliers_lie_away_from_rows_and_make_heads_less_sure() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(60, 4, generator=generator).double() + torch.tensor([6.0, 0, 0, 0])
    targets = (rows[:, 1] > 0).long()

    def farness(points: torch.Tensor) -> float:
        unit, base = (torch.nn.functional.normalize(x, dim=1) for x in (points, rows))
        return float(torch.cdist(unit, base).topk(5, 1, largest=False).values[:, -1].mean())

    for boundary in (True, False):
        found = virtual_outliers(rows, 40, torch.Generator().manual_seed(1), boundary=boundary, neighbours=5, points=10)
        assert found.shape == (40, 4) and farness(found) > 2 * farness(rows)
        if boundary:
            near = float((found.mean(0) - rows.mean(0)).norm())
    assert near < float((found.mean(0) - rows.mean(0)).norm()), "noise alone lies around the origin"
    head = {"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}
    energies = {}
    for weight in (0.0, 1.0):
        made = tuned_head(head, rows, targets, found, weight=weight, steps=300)
        sure = [torch.logsumexp(x.float() @ made["weight"].T + made["bias"], 1).mean() for x in (rows, found)]
        energies[weight] = float(sure[0] - sure[1])
        assert float(((rows.float() @ made["weight"].T + made["bias"]).argmax(1) == targets).float().mean()) > 0.9
    assert energies[1.0] > energies[0.0] + 0.5


def test_arrivals_of_ovor_share_their_modules_and_compete_as_one_head(
    small_image: SmallImage, halves: tuple[Arrival, ...]
) -> None:
    learner = learned("ovor", small_image, halves, steps=5)
    system, rows = learner.grown, halves[0].tasks[0].splits["test"].inputs
    (body,) = system.bodies
    assert {name.rpartition(".")[0].rpartition(".")[2] for name, _ in body.encoder.named_parameters()
            if name.startswith("parts.")} == {"@shared"}  # fmt: skip
    whole = torch.cat([body.outputs(part.name, rows).logits for part in system.parts], 1).double().softmax(1)
    np.testing.assert_allclose(np.asarray(system.answers("digit", rows, scores=True).scores), whole.numpy(), atol=1e-6)


def test_par_gives_near_tasks_to_one_model_and_far_ones_to_another(
    small_image: SmallImage, digits_suite: Suite
) -> None:
    """The same rows again are near, with all or few of them, and rows with other labels are far."""
    digit = digits_suite["digit"]
    low, high = (renamed(one.tasks[0], name) for one, name in zip(
        split_labels(digit, 5, "class").arrivals, ("low", "high"), strict=True))  # fmt: skip
    few = renamed(low, "few").limit({"train": 10})
    tasks = [low, renamed(low, "again"), few, high]
    learner = learned("par", small_image, of_tasks("four", tasks[:2]).arrivals, threshold=0.1)
    assert isinstance(learner, Allocate)
    weights = {name: value.clone() for name, value in learner.grown.bodies[0].encoder.state_dict().items()}
    plan = strategy_of("par", {"threshold": 0.1})
    learner.learn(Arrival("few", (few,)), plan, QUICK)
    kept = learner.grown.bodies[0].encoder.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in weights.items()), "few rows learn a head alone"
    learner.learn(Arrival("high", (high,)), plan, QUICK)
    assert [part.body for part in learner.grown.parts] == [0, 0, 0, 1] and learner.steps > 0
    assert learner.bytes == sum(4 * value.numel() for value in learner.prototypes.values()) > 0
    (x, groups), (z, others) = (learner.features(task) for task in (low, high))
    near, far = (distance(x, groups, means_of(*two)) for two in ((x, groups), (z, others)))
    assert near <= 0.1 < far
    doubled = distance(torch.cat([x, x]), torch.cat([groups, groups + 5]), means_of(z, others))
    assert doubled == pytest.approx(far), "twice as many labels are not twice as far"


def test_old_heads_of_par_are_held(small_image: SmallImage, digits_suite: Suite) -> None:
    digit = digits_suite["digit"]
    low, high = (renamed(one.tasks[0], name) for one, name in zip(
        split_labels(digit, 5, "class").arrivals, ("low", "high"), strict=True))  # fmt: skip
    moved = {}
    for weight in (0.0, 20.0):
        learner = learned("par", small_image, of_tasks("two", [low, high]).arrivals[:1], threshold=100.0)
        plan, rows = strategy_of("par", {"threshold": 100.0, "weight": weight}), high.splits["train"].inputs
        learner.weight = weight  # type: ignore[attr-defined]
        (body,) = learner.grown.bodies
        before = body.outputs("low-0", rows).logits.softmax(1)
        learner.learn(Arrival("high", (high,)), plan, QUICK.with_(epochs=4))
        moved[weight] = float((body.outputs("low-0", rows).logits.softmax(1) - before).abs().mean())
    assert moved[20.0] < 0.85 * moved[0.0]


def test_a_told_arrival_is_the_only_one_that_answers(small_image: SmallImage, halves: tuple[Arrival, ...]) -> None:
    system = learned("residual", small_image, halves).grown
    rows = halves[1].tasks[0].splits["test"].inputs
    system.told = 1
    scores = np.asarray(system.answers("digit", rows, scores=True).scores)
    assert (scores[:, :5] == 0).all() and (scores[:, 5:].sum(1) > 0.999).all() and system.picked("digit", rows) is None
    system.told = None
    weights = system.weights("digit", rows)
    assert weights.shape == (len(rows), 2) and np.allclose(weights.sum(1), 1)
    assert system.picked("digit", rows) == weights.argmax(1).tolist()


def test_arrivals_of_one_question_are_told_apart_too(small_image: SmallImage, digits_suite: Suite) -> None:
    """Turned images: of numbers the picked part answers, and labels have the sum over the parts."""
    ink, digit = digits_suite["ink"], digits_suite["digit"]
    system = learned("residual", small_image, rotated(ink, 2).arrivals).grown
    rows = [*ink.splits["test"].inputs, *rotated(ink, 2).arrivals[1].tasks[0].splits["test"].inputs]
    picked, (body,) = system.picked("ink", rows), system.bodies
    assert picked is not None and set(picked) == {0, 1}
    each = [np.asarray(body.answers(part.name, rows).predictions) for part in system.parts]
    wanted = np.where(np.array(picked) == 0, each[0], each[1])
    np.testing.assert_allclose(np.asarray(system.answers("ink", rows).predictions), wanted, atol=1e-5)
    system = learned("residual", small_image, rotated(digit, 2).arrivals).grown
    (body,), weights = system.bodies, system.weights("digit", rows)
    shares = [np.asarray(body.answers(part.name, rows, scores=True).scores) for part in system.parts]
    mixed = weights[:, [0]] * shares[0] + weights[:, [1]] * shares[1]
    np.testing.assert_allclose(np.asarray(system.answers("digit", rows, scores=True).scores), mixed, atol=1e-5)


def test_further_labels_of_rows_with_several_are_refused(small_image: SmallImage, digits_suite: Suite) -> None:
    segments = digits_suite["segments"]
    learner = learned("residual", small_image, (Arrival("one", (segments,)),))
    labels = (*segments.definition.labels[:-1], "another")
    changed = replace(segments, definition=replace(segments.definition, labels=labels))
    with pytest.raises(AllroundError, match="it is a task of the kind multilabel"):
        learner.learn(Arrival("two", (changed,)), strategy_of("residual"), QUICK)


def test_damaged_folders_of_grown_systems_are_refused(
    small_image: SmallImage, halves: tuple[Arrival, ...], tmp_path: Path
) -> None:
    learned("residual", small_image, halves).grown.save(tmp_path / "whole")

    def refused(words: str, **changed: Any) -> None:
        place = tmp_path / f"damaged {len(list(tmp_path.iterdir()))}"
        shutil.copytree(tmp_path / "whole", place)
        about = json.loads((place / MANIFEST).read_text())
        about["grown"] |= changed
        (place / MANIFEST).write_text(json.dumps(about))
        with pytest.raises(AllroundError, match=words):
            load(place)

    part = {"task": "digit", "arrival": 0, "body": 0, "name": "digit-0"}
    refused("damaged", parts="all")
    refused("have -1 bodies", bodies=-1)
    refused("have 7 bodies", bodies=7)
    refused("a part 'digit-0' that is not there", parts=[{**part, "body": 1}])
    refused("a part 'digit-9' that is not there", parts=[{**part, "name": "digit-9"}])
    refused("a part 'digit-0' that is not there", parts=[{**part, "task": "other"}])
    refused("does not hold what allround.json lists", state=["keys 0"])
    refused("there is no way to select", select="nothing")


def test_a_thread_waits_while_another_one_reads_the_base(
    small_image: SmallImage, halves: tuple[Arrival, ...], digits_suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts are taken out of the encoder then, also that of a task which has one part alone."""
    system = learned("residual", small_image, (*halves, Arrival("ink", (digits_suite["ink"],)))).grown
    rows, plain, done = halves[0].tasks[0].splits["test"].inputs, PartHolder.plain, []
    wanted = [np.asarray(system.answers(name, rows).predictions) for name in ("digit", "ink")]
    others: list[Future[Any]] = []

    @contextmanager
    def watched(self: PartHolder) -> Iterator[Encoder]:
        with plain(self) as encoder:
            others.append(pool.submit(system.answers, "ink", rows))
            wait(others, timeout=1)
            done.append(others[0].done())
            yield encoder

    monkeypatch.setattr(PartHolder, "plain", watched)
    with ThreadPoolExecutor(1) as pool:
        found = [system.answers("digit", rows).predictions, others[0].result().predictions]
    assert done == [False]
    assert all(np.array_equal(np.asarray(one), other) for one, other in zip(found, wanted, strict=True))


def test_what_cannot_grow_is_said(small_image: SmallImage, digits_suite: Suite, tmp_path: Path) -> None:
    for values, words in (
        ({"share": "mmoe"}, "its tasks share modules"),
        ({"share": "loraa"}, "there is no way to share"),
    ):
        with pytest.raises(AllroundError, match=words):
            learned("residual", small_image, (), **values)
    for values in ({"experts": 0}, {"alpha": 1.0}):
        with pytest.raises(AllroundError, match="make experts"):
            learned("seed", small_image, (), **values)
    from allround.building.stream import stream

    with pytest.raises(AllroundError, match="'model_zoo' is for the scenario task"):
        stream(digits_suite, out=tmp_path / "out", strategies=["model_zoo"], task="digit", labels=5)


@pytest.mark.parametrize("name", OF_TASKS)
def test_texts_and_pairs_of_texts_may_follow_each_other(name: str, bert_folder: Path, text_suite: Suite) -> None:
    """Their features differ in length."""
    mood, alike = (text_suite[task].limit({"train": 12, "validation": 8, "test": 4}) for task in ("mood", "alike"))
    assert not mood.definition.pair and alike.definition.pair
    arrivals = of_tasks("three", [mood, alike, renamed(mood, "again")]).arrivals
    plan = strategy_of(name, {})
    learner = begin(load_encoder(bert_folder), plan)
    for arrival in arrivals:
        base = load_encoder(bert_folder) if plan.from_base else None
        learner.learn(arrival, plan, QUICK, base=base)
    for arrival in arrivals:
        assert len(learner.system.answers(arrival.name, arrival.tasks[0].splits["test"].inputs)) == 4
