"""What every likelihood must hold, whichever kinds there are: probabilities that add up, losses that are theirs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from allround.core import registry
from allround.core.errors import AllroundError
from allround.models.likelihood import Likelihood, fisher_terms, likelihood
from allround.tasks.definition import Definition
from allround.tasks.kind import kind

#: Readable targets of five examples. A new kind adds its own here.
SAMPLES = {
    "classification": ["b", "a", "b", "b", "c"],
    "multilabel": [["a"], ["a", "c"], [], ["a", "b", "c"], ["a"]],
    "multiple_choice": ["B", "A", "B", "B", "C"],
    "ordinal": ["2", "10", "2", "1", "10"],
    "regression": [1.0, -2.0, 0.5, 4.0, 1.5],
    "similarity": [1.0, -2.0, 0.5, 4.0, 1.5],
    "token_classification": [["O", "B-X"], ["B-X"], ["O", "O", "I-X"], ["O"], ["O", "B-X"]],
}


def define(name: str) -> Definition:
    rules = kind(name)
    return Definition("t", name, ("x",), "text", rules.metric, **rules.facts(SAMPLES[name]))


@pytest.fixture(params=[name for name in registry.names("kind") if not (kind(name).written or kind(name).ranked)])
def name(request: pytest.FixtureRequest) -> str:
    assert request.param in SAMPLES, f"add sample targets of '{request.param}' to SAMPLES"
    return str(request.param)


@pytest.fixture
def definition(name: str) -> Definition:
    return define(name)


@pytest.fixture
def rules(definition: Definition) -> Likelihood:
    return likelihood(definition)


@pytest.fixture
def outputs(rules: Likelihood, definition: Definition) -> Tensor:
    return 2 * torch.randn(40, rules.outputs(definition), generator=torch.Generator().manual_seed(0))


def encoded(definition: Definition) -> object:
    return kind(definition.kind).encode(SAMPLES[definition.kind], definition)


def entries(definition: Definition) -> list[object]:
    """The encoded targets of single entries: rows, or words."""
    found = encoded(definition)
    return list(itertools.chain.from_iterable(found)) if kind(definition.kind).per_token else list(found)  # type: ignore[call-overload, arg-type]


def outcomes(definition: Definition) -> Tensor | None:
    """Every target that an entry can have, as losses take them; None where they are numbers."""
    count = len(definition.labels)
    if definition.kind == "multilabel":
        return torch.tensor(list(itertools.product((0.0, 1.0), repeat=count)))
    return torch.arange(count) if count else None


def density(rules: Likelihood, row: Tensor, target: Tensor) -> float:
    """The probability that `loss` stands for."""
    return math.exp(rules.log_likelihood(row[None], target[None]).item())


def test_every_likelihood_says_what_it_is_and_whose() -> None:
    found = registry.entries("likelihood")
    kinds = [kind for entry in found for kind in entry.facts["kinds"]]
    wanted = [name for name in registry.names("kind") if not (kind(name).written or kind(name).ranked)]
    assert sorted(kinds) == sorted(wanted), "each kind whose answers are neither written nor ranked has one likelihood"
    for entry in found:
        assert entry.summary and entry.source and ">>>" in str(entry.load().__doc__)


def test_predictions_have_the_shape_and_type_of_targets(rules: Likelihood, definition: Definition) -> None:
    targets = entries(definition)
    made = torch.randn(len(targets), rules.outputs(definition), generator=torch.Generator().manual_seed(0))
    predicted = rules.predict(made)
    assert len(predicted) == len(targets)
    for one, target in zip(predicted, targets, strict=True):
        assert np.shape(one) == np.shape(target)  # type: ignore[arg-type]
        assert np.asarray(one).dtype == np.asarray(target).dtype
    assert len(rules.tensor(encoded(definition))) == len(targets)


def right_outputs(rules: Likelihood, definition: Definition) -> tuple[Tensor, Tensor]:
    """Outputs that are sure of the sample targets, and the targets."""
    targets = rules.tensor(encoded(definition))
    if kind(definition.kind).ordered:
        return 20 * (torch.arange(rules.outputs(definition)) < targets[:, None]).float() - 10, targets
    if targets.dtype == torch.long:
        return 10 * torch.nn.functional.one_hot(targets, rules.outputs(definition)).float(), targets
    return (20 * targets - 10 if targets.ndim == 2 else targets[:, None]), targets


def test_right_outputs_are_predicted_and_cost_less(rules: Likelihood, definition: Definition) -> None:
    right, targets = right_outputs(rules, definition)
    predicted = rules.predict(right)
    assert np.allclose(predicted, np.array(entries(definition)), rtol=1e-5)
    assert rules.loss(right, targets) < rules.loss(right.roll(1, 0), targets)


def test_probabilities_of_all_outcomes_add_up_to_one(
    rules: Likelihood, definition: Definition, outputs: Tensor
) -> None:
    """Those that the loss stands for; of a density up to the square root of 2 pi, which its loss leaves out."""
    every = outcomes(definition)
    for row in outputs[:10].double():
        if every is not None:
            assert sum(density(rules, row, target) for target in every) == pytest.approx(1, abs=1e-5)
            continue
        step = 0.01
        grid = torch.arange(-12, 12, step) + row
        total = sum(density(rules, row, target) for target in grid) * step
        assert total == pytest.approx(math.sqrt(2 * math.pi), rel=1e-4)


def test_the_loss_is_the_mean_over_all_numbers_of_the_targets(
    rules: Likelihood, definition: Definition, outputs: Tensor
) -> None:
    targets = rules.tensor(encoded(definition))
    made = outputs[: len(targets)]
    single = [rules.loss(row[None], target[None]).item() for row, target in zip(made, targets, strict=True)]
    assert rules.loss(made, targets).item() == pytest.approx(sum(single) / len(single), rel=1e-5)
    together = rules.log_likelihood(made, targets).item()
    assert together == pytest.approx(sum(math.log(density(rules, *pair)) for pair in zip(made, targets, strict=True)),
                                     rel=1e-4)  # fmt: skip


def test_the_prediction_is_the_most_probable_outcome_or_the_median_and_confidence_its_probability(
    rules: Likelihood, definition: Definition, outputs: Tensor
) -> None:
    predicted, confidence, every = rules.predict(outputs), rules.confidence(outputs), outcomes(definition)
    if every is None:
        assert confidence is None and rules.scores(outputs) is None and rules.log_probabilities(outputs) is None
        assert torch.allclose(torch.tensor(predicted), outputs.squeeze(-1).double()), "where the density is highest"
        return
    assert confidence is not None and confidence.shape == (len(outputs),)
    for row, one, sure in zip(outputs, predicted, confidence.tolist(), strict=True):
        found = [density(rules, row, target) for target in every]
        place = int(np.searchsorted(np.cumsum(found), 0.5) if kind(definition.kind).ordered else np.argmax(found))
        assert np.array_equal(every[place].numpy(), one)
        assert sure == pytest.approx(found[place], rel=1e-4)


def test_kinds_decide_by_scores_as_likelihoods_do_by_outputs(
    rules: Likelihood, definition: Definition, outputs: Tensor
) -> None:
    scores = rules.scores(outputs)
    if scores is None:
        with pytest.raises(NotImplementedError):
            kind(definition.kind).decide(outputs.numpy())
        return
    assert scores.shape == (len(outputs), len(definition.labels)) and scores.min() >= 0 and scores.max() <= 1
    confidence = rules.confidence(outputs)
    assert confidence is not None
    if kind(definition.kind).per_token:
        lengths = [3, 0, 30, 7]
        answers, sure = kind(definition.kind).decide([part.numpy() for part in scores.split(lengths)])
        assert [len(tags) for tags in answers] == lengths
        assert np.array_equal(np.concatenate(answers), rules.predict(outputs))
        words = confidence.split(lengths)
        assert sure == pytest.approx([float(part.mean()) if len(part) else 1.0 for part in words], rel=1e-5)
        return
    answers, sure = kind(definition.kind).decide(scores.numpy())
    assert np.array_equal(answers, rules.predict(outputs)) and answers.dtype == rules.predict(outputs).dtype
    assert sure == pytest.approx(confidence.tolist(), rel=1e-4)


def test_log_probabilities_are_of_choices_that_exclude_each_other(
    rules: Likelihood, definition: Definition, outputs: Tensor
) -> None:
    logs, scores = rules.log_probabilities(outputs), rules.scores(outputs)
    if logs is None or scores is None:
        assert logs is None and scores is None and not definition.labels
        return
    assert torch.allclose(logs.exp().sum(-1), torch.ones(logs.shape[:2]), atol=1e-5)
    of_labels = logs.exp()[:, 0] if definition.kind != "multilabel" else logs.exp()[..., 1]
    assert torch.allclose(of_labels, scores, atol=1e-6)


def squares(rules: Likelihood, outputs: Tensor, terms: list[Tensor], count: int) -> Tensor:
    """The mean squared slope at the outputs of each of `count` equal entries."""
    slopes = [torch.autograd.grad(term, outputs, retain_graph=True)[0] for term in terms]
    return torch.stack([slope.square() for slope in slopes]).sum(0).sum(0) / count


def test_drawn_and_expected_targets_have_the_squares_of_the_fisher_information(
    rules: Likelihood, definition: Definition, outputs: Tensor
) -> None:
    """By hand: the mean over all outcomes, each by its probability, of the squared slope of its log-probability."""
    count, row, every = 40_000, outputs[0], outcomes(definition)
    by_hand = torch.ones_like(row)  # of a normal distribution of variance 1
    if every is not None:
        by_hand = torch.zeros_like(row)
        for target in every:
            one = row[None].clone().requires_grad_()
            (slope,) = torch.autograd.grad(rules.log_likelihood(one, target[None]), one)
            by_hand += density(rules, row, target) * slope[0].square()
    many = row.repeat(count, 1).requires_grad_()
    drawn = rules.draws(many, torch.Generator().manual_seed(0))
    assert not drawn.requires_grad
    found = squares(rules, many, [rules.log_likelihood(many, drawn)], count)
    assert torch.allclose(found, by_hand, atol=1e-2)
    exact = rules.expected(many)
    if exact is not None:
        assert torch.allclose(squares(rules, many, exact, count), by_hand, atol=1e-4)
    again = rules.draws(many, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again), "by the generator alone"


def test_the_words_of_a_row_are_drawn_and_few_labels_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    made = torch.randn(5, 3, generator=generator)
    for name, terms in (("classification", 3), ("token_classification", 1)):
        assert len(fisher_terms(made, torch.zeros(5, dtype=torch.long), define(name), "own", generator)) == terms
    many = torch.randn(5, 20, generator=generator)
    assert len(fisher_terms(many, torch.zeros(5, dtype=torch.long), define("classification"), "own", generator)) == 1


def test_a_kind_without_a_likelihood_is_refused() -> None:
    with pytest.raises(AllroundError) as caught:
        likelihood(Definition("t", "sorting", ("x",), "text", "accuracy", ("a", "b")))
    assert "no likelihood for tasks of the kind 'sorting'" in caught.value.found
    assert all(
        name in caught.value.do for name in registry.names("kind") if not (kind(name).written or kind(name).ranked)
    )
