"""Contrastive losses and losses of scored pairs: properties of each that is found, and numbers from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from allround.core import checking, registry
from allround.core.errors import AllroundError
from allround.models.agreeing import PairLoss
from allround.models.contrasting import ContrastiveLoss

Loss = Callable[..., Tensor]
CONTRAST, AGREE = registry.names("contrast"), registry.names("agree")


def unit(rows: int, width: int, step: float) -> Tensor:
    """Vectors of length 1 that any machine computes alike: (rows, width) float64."""
    return F.normalize(torch.sin(step * torch.arange(1, rows * width + 1, dtype=torch.float64)).view(rows, width))


def cosines(rows: int, columns: int) -> Tensor:
    return unit(rows, 7, 1.3) @ unit(columns, 7, 0.7).T


#: Four queries, of which one has two relevant candidates, one shares its candidate and one has none; nothing is said of
#: some pairs.
SCORES = cosines(4, 9)
GRADES = torch.tensor(
    [
        [1, 2, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, -1, 0, 0, 0],
        [-1, 0, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
    ],
    dtype=torch.float64,
)
TEACHER = (5 * cosines(4, 9).flip(1)).masked_fill(torch.eye(4, 9).bool() & (GRADES <= 0), torch.nan)


# -- what every contrastive loss must be ----------------------------------------------------------------------------


def candidates_in_any_order(loss: Loss) -> None:
    """The order of candidates does not matter."""
    order = torch.tensor([4, 8, 1, 3, 0, 7, 2, 6, 5])
    assert torch.allclose(loss(SCORES[:, order], GRADES[:, order], TEACHER[:, order]), loss(SCORES, GRADES, TEACHER))


def queries_in_any_order(loss: Loss) -> None:
    """The order of queries does not matter."""
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(loss(SCORES[order], GRADES[order], TEACHER[order]), loss(SCORES, GRADES, TEACHER))


def what_nothing_is_said_of_counts_nowhere(loss: Loss) -> None:
    """Candidates and queries of which nothing is said change neither the loss nor the gradient."""
    scores = F.pad(SCORES, (0, 2, 0, 1), value=50.0).requires_grad_()
    grades = F.pad(GRADES, (0, 2, 0, 1), value=-1.0)
    found = loss(scores, grades, F.pad(TEACHER, (0, 2, 0, 1), value=9.0))
    plain = SCORES.clone().requires_grad_()
    expected = loss(plain, GRADES, TEACHER)
    assert torch.allclose(found, expected)
    found.backward(), expected.backward()
    assert torch.allclose(scores.grad, F.pad(plain.grad, (0, 2, 0, 1)))


def finite(loss: Loss) -> None:
    """Loss and gradient are finite numbers, whatever the scores are, in float32."""
    shapes = [(4, 9), (1, 1), (1, 2), (3, 1)]
    for rows, columns in shapes:
        grades = [GRADES[:rows, :columns].float(), *(torch.full((rows, columns), float(g)) for g in (-1, 0, 1))]
        steep = torch.linspace(1, -1, rows * columns).view(rows, columns)
        teachers = [TEACHER[:rows, :columns].float(), torch.full((rows, columns), torch.nan), 30 * steep]
        for scores in (steep, -steep, torch.ones(rows, columns), torch.zeros(rows, columns), 100 * steep):
            for grade in grades:
                for teacher in teachers:
                    given = scores.clone().requires_grad_()
                    found = loss(given, grade, teacher)
                    assert found.shape == () and math.isfinite(found.item()) and found.item() > -1e-5
                    found.backward()
                    assert given.grad is not None and bool(given.grad.isfinite().all())


def a_step_lowers_it(loss: Loss) -> None:
    """A small step against the gradient lowers the loss."""
    scores = SCORES.clone().requires_grad_()
    before = loss(scores, GRADES, TEACHER)
    (slope,) = torch.autograd.grad(before, scores)
    assert slope.norm() > 1e-9
    assert loss(SCORES - 1e-4 * slope / slope.norm(), GRADES, TEACHER) < before


def right_beats_wrong(loss: Loss) -> None:
    """Scores in the right order have a lower loss than those in the wrong order."""
    aimed = torch.tensor([[0.9, 0.2, 0.1, -0.8], [0.1, 0.7, -0.3, -0.9]], dtype=torch.float64)
    grades = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.float64)
    assert loss(aimed, grades, 3 * aimed) < loss(-aimed, grades, 3 * aimed) - 0.1


def half_precision_is_enough(loss: Loss) -> None:
    """Scores in bfloat16 give a loss in float32 that is close to that of their own values."""
    half = SCORES.bfloat16()
    found = loss(half, GRADES, TEACHER.float())
    assert found.dtype == torch.float32
    assert torch.allclose(found, loss(half.float(), GRADES, TEACHER.float()), rtol=1e-5)


CHECKS = {
    "order of candidates": candidates_in_any_order,
    "order of queries": queries_in_any_order,
    "nothing said": what_nothing_is_said_of_counts_nowhere,
    "finite": finite,
    "a step lowers it": a_step_lowers_it,
    "right beats wrong": right_beats_wrong,
    "half precision": half_precision_is_enough,
}


@pytest.mark.parametrize("name", CONTRAST)
def test_every_contrastive_loss_holds_what_all_hold(name: str) -> None:
    entry = registry.find("contrast", name)
    for _, check in checking.not_exempt(entry, {key: partial(check) for key, check in CHECKS.items()}):
        check(ContrastiveLoss.named(name))
    checking.documented(entry, ("Shapes:", "Formula:"), parameters=True, names={"torch": torch})


def test_a_relevant_candidate_is_pulled_and_others_are_pushed() -> None:
    for name in CONTRAST:
        if not registry.find("contrast", name).needs:
            scores = SCORES.clone().requires_grad_()
            (slope,) = torch.autograd.grad(ContrastiveLoss.named(name)(scores, GRADES), scores)
            assert (slope[GRADES > 0] < 0).all() and (slope[GRADES == 0] >= 0).all(), name


#: Faulty losses, and the check that each must fail.
FAULTS: dict[str, Loss] = {
    "order of candidates": lambda s, g, t: (s * torch.arange(s.shape[1])).square().sum(),
    "order of queries": lambda s, g, t: (s * torch.arange(len(s)).unsqueeze(1)).square().sum(),
    "nothing said": lambda s, g, t: (-s.log_softmax(1) * (g > 0)).sum(),
    "finite": lambda s, g, t: -((s / 0.01).exp() / (s / 0.01).exp().sum(1, keepdim=True)).log()[g > 0].sum(),
    "a step lowers it": lambda s, g, t: 2 * (s - 2).square().sum().detach() - (s - 2).square().sum(),
    "right beats wrong": lambda s, g, t: s.square().sum(),
    "half precision": lambda s, g, t: -(s / 0.05).log_softmax(1)[g > 0].sum(),
}


@pytest.mark.parametrize("check", FAULTS)
def test_a_planted_fault_is_found(check: str) -> None:
    with pytest.raises(AssertionError):
        CHECKS[check](FAULTS[check])


# -- numbers from elsewhere --------------------------------------------------------------------------------------------


def embeddings(negatives: int = 1) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Queries, what is relevant to each, and hard negatives."""
    return unit(3, 5, 1.3), unit(3, 5, 0.7), [unit(3, 5, 2.1 + n) for n in range(negatives)]


def losses_of(loss: str, **settings: object) -> Loss:
    module = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    made: Loss = getattr(module, loss)(None, **settings).compute_loss_from_embeddings
    return made


def test_infonce_is_multiple_negatives_ranking() -> None:
    queries, relevant, hard = embeddings(2)
    scores = queries @ torch.cat([relevant, *hard]).T
    theirs = losses_of("MultipleNegativesRankingLoss", scale=50.0)([queries, relevant, *hard], torch.zeros(3))
    assert torch.allclose(ContrastiveLoss.named("infonce:temperature=0.02")(scores, torch.eye(3, 9)), theirs)


def test_both_ways_is_the_symmetric_form() -> None:
    queries, relevant, hard = embeddings()
    theirs = losses_of("MultipleNegativesSymmetricRankingLoss")([queries, relevant, *hard], torch.zeros(3))
    ours = ContrastiveLoss.named("both_ways")(queries @ torch.cat([relevant, *hard]).T, torch.eye(3, 6))
    assert torch.allclose(ours, theirs)


def test_several_relevant_candidates_by_hand() -> None:
    scores, grades = torch.tensor([[2.0, 1.0, 0.0, 3.0]]).double(), torch.tensor([[1.0, 1.0, 0.0, -1.0]])
    by_hand = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    assert ContrastiveLoss.named("infonce:temperature=1")(scores, grades).item() == pytest.approx(by_hand)


def test_many_to_many_by_hand() -> None:
    """Query 1 has two relevant candidates, of which it shares the second with query 2; nothing is said of one pair."""
    scores = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 9.0]]).double()
    grades = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, -1.0]])
    e = math.exp
    of_queries = ((-math.log(e(2) / (e(2) + e(1) + 1)) - math.log(e(1) / (e(2) + e(1) + 1))) / 2
                  - math.log(e(3) / (1 + e(3)))) / 2  # fmt: skip
    of_candidates = (-math.log(e(2) / (e(2) + 1)) + (-math.log(e(1) / (e(1) + e(3)))
                     - math.log(e(3) / (e(1) + e(3)))) / 2) / 2  # fmt: skip
    found = ContrastiveLoss.named("many_to_many:temperature=1")(scores, grades)
    assert found.item() == pytest.approx(of_queries + of_candidates)


def test_many_to_many_of_one_to_one_is_twice_both_ways() -> None:
    queries, relevant, _ = embeddings()
    one, other = (
        ContrastiveLoss.named(name)(queries @ relevant.T, torch.eye(3)) for name in ("many_to_many", "both_ways")
    )
    assert torch.allclose(one, 2 * other)


def test_instructor_is_the_authors() -> None:
    """The number is what the loops of InstructorTrainer.compute_loss give for these vectors."""
    queries, relevant, hard = embeddings()
    scores = queries @ torch.cat([relevant, *hard]).T
    assert ContrastiveLoss.named("instructor")(scores, torch.eye(3, 6)).item() == pytest.approx(69.62673930912625)


def test_codiemb_is_the_authors() -> None:
    """The number is what their ContrastiveLoss gives for groups of two relevant candidates and two negatives."""
    scores = unit(3, 5, 1.3) @ unit(12, 5, 0.7).T
    grades = torch.zeros(3, 12)
    for query in range(3):
        grades[query, 4 * query : 4 * query + 2] = 1
    assert ContrastiveLoss.named("codiemb")(scores, grades).item() == pytest.approx(30.062189960259833)
    alone = grades.where(torch.arange(12) % 4 != 1, torch.tensor(-1.0))
    one, other = (ContrastiveLoss.named(f"{name}:temperature=0.02")(scores, alone) for name in ("codiemb", "infonce"))
    assert torch.allclose(one, other), "with one relevant candidate a query they are the same"


def test_llm_embedder_is_the_authors() -> None:
    """The numbers are what DenseRetriever._compute_loss gives for three queries with three keys each."""
    scores = unit(3, 5, 1.3) @ unit(9, 5, 0.7).T
    teacher = torch.full((3, 9), torch.nan, dtype=torch.float64)
    given = torch.tensor([[3, 1, -1], [2, 1.5, 0], [1, 0, -2]], dtype=torch.float64)
    grades = torch.zeros(3, 9)
    for query in range(3):
        teacher[query, 3 * query : 3 * query + 3] = given[query]
        grades[query, 3 * query] = 1
    assert ContrastiveLoss.named("llm_embedder")(scores, grades, teacher).item() == pytest.approx(65.2882776097062)
    alone = ContrastiveLoss.named("llm_embedder:contrast=0")(scores, grades, teacher)
    assert alone.item() == pytest.approx(53.925163311171225)
    with pytest.raises(AllroundError, match="there are none"):
        ContrastiveLoss.named("llm_embedder")(scores, grades)


@pytest.mark.parametrize("negatives", [1, 3])
def test_margin_mse_is_the_one_of_sentence_transformers(negatives: int) -> None:
    queries, relevant, hard = embeddings(negatives)
    candidates = torch.stack([relevant, *hard], 1)
    scores = (queries.unsqueeze(1) * candidates).sum(-1)
    teacher = 9 * unit(3, 1 + negatives, 0.3) + 20
    theirs = losses_of("MarginMSELoss")([queries, relevant, *hard], teacher)
    grades = F.pad(torch.ones(3, 1), (0, negatives))
    assert torch.allclose(ContrastiveLoss.named("margin_mse")(scores, grades, teacher), theirs)


def test_margin_mse_takes_all_pairs() -> None:
    """By hand: margins of 1 and 2 beside a teacher's of 4 and 0."""
    scores, grades = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    found = ContrastiveLoss.named("margin_mse")(-scores, grades, torch.tensor([[0.0, -4.0, 0.0]]))
    assert found.item() == pytest.approx(((2 - 0) ** 2 + (1 - 4) ** 2) / 2)


def test_kl_is_the_one_of_sentence_transformers() -> None:
    queries, relevant, hard = embeddings(2)
    scores = (queries.unsqueeze(1) * torch.stack([relevant, *hard], 1)).sum(-1)
    teacher = 4 * unit(3, 3, 0.3)
    theirs = losses_of("DistillKLDivLoss", student_temperature=0.1, teacher_temperature=2.0)(
        [queries, relevant, *hard], teacher
    )
    ours = ContrastiveLoss.named("kl:temperature=0.1;teacher_temperature=2")(scores, torch.zeros(3, 3), teacher)
    assert torch.allclose(ours * 0.1**2, theirs)
    at_teacher = ContrastiveLoss.named("kl")(teacher * 0.05, torch.zeros(3, 3), teacher)
    assert at_teacher.abs() < 1e-9, "the least value is where the two distributions are the same"


# -- losses of scored pairs --------------------------------------------------------------------------------------------

PAIRS, TARGETS = unit(1, 8, 1.3)[0], torch.tensor([0, 0.2, 1, 0.6, 0.2, 0.8, 0.4, 0.6], dtype=torch.float64)


def pairs_in_any_order(loss: Loss) -> None:
    """The order of pairs does not matter."""
    order = torch.tensor([3, 0, 7, 5, 1, 2, 6, 4])
    assert torch.allclose(loss(PAIRS[order], TARGETS[order]), loss(PAIRS, TARGETS))


def pairs_finite(loss: Loss) -> None:
    """Loss and gradient are finite numbers, whatever the cosines and targets are, in float32."""
    for size in (0, 1, 2, 8):
        line = torch.linspace(-1, 1, size)
        for given in (line, -line, torch.ones(size), torch.zeros(size), torch.cat([line[:1], torch.ones(size)[1:]])):
            for targets in (line, 5 * line, torch.ones(size), torch.zeros(size)):
                if size == 0 and loss.name == "mse":  # type: ignore[attr-defined]
                    continue
                values = given.clone().requires_grad_()
                found = loss(values, targets)
                assert found.shape == () and math.isfinite(found.item()) and found.item() > -1e-5
                found.backward()
                assert values.grad is not None and bool(values.grad.isfinite().all())


def pairs_step(loss: Loss) -> None:
    """A small step against the gradient lowers the loss."""
    values = PAIRS.clone().requires_grad_()
    before = loss(values, TARGETS)
    (slope,) = torch.autograd.grad(before, values)
    assert slope.norm() > 1e-9
    assert loss(PAIRS - 1e-4 * slope / slope.norm(), TARGETS) < before


def right_order_beats_wrong(loss: Loss) -> None:
    """Cosines in the order of the targets have a lower loss than those in the reverse order."""
    assert loss(TARGETS, TARGETS) < loss(1 - TARGETS, TARGETS) - 0.01


def half_precision_pairs(loss: Loss) -> None:
    """Cosines in bfloat16 give a loss in float32 that is close to that of their own values."""
    half = PAIRS.bfloat16()
    found = loss(half, TARGETS.float())
    assert found.dtype == torch.float32
    assert torch.allclose(found, loss(half.float(), TARGETS.float()), rtol=1e-4)


def the_unit_of_targets_does_not_matter(loss: Loss) -> None:
    """Targets may be in any unit, from any zero."""
    assert torch.allclose(loss(PAIRS, 5 * TARGETS - 3), loss(PAIRS, TARGETS))


PAIR_CHECKS = (pairs_in_any_order, pairs_finite, pairs_step, right_order_beats_wrong, half_precision_pairs)


@pytest.mark.parametrize("name", AGREE)
def test_every_loss_of_pairs_holds_what_all_hold(name: str) -> None:
    entry, loss = registry.find("agree", name), PairLoss.named(name)
    for check in PAIR_CHECKS:
        check(loss)
    if loss.reads == "cosines":
        the_unit_of_targets_does_not_matter(loss)
    checking.documented(entry, ("Shapes:", "Formula:"), parameters=True, names={"torch": torch})


#: Faulty losses of pairs, each of which one check must find.
PAIR_FAULTS: tuple[tuple[Loss, Loss], ...] = (
    (pairs_in_any_order, lambda s, t: (s * torch.arange(len(s))).sum()),
    (pairs_finite, lambda s, t: 1 - ((s - s.mean()) / (s - s.mean()).norm()) @ (t - t.mean())),
    (pairs_step, lambda s, t: s.square().sum().detach() * 2 - s.square().sum()),
    (right_order_beats_wrong, lambda s, t: (s + t).square().mean()),
    (half_precision_pairs, lambda s, t: (s / 0.05).logsumexp(0)),
    (the_unit_of_targets_does_not_matter, lambda s, t: (s - t).square().mean()),
)


@pytest.mark.parametrize("number", range(len(PAIR_FAULTS)))
def test_a_planted_fault_of_pairs_is_found(number: int) -> None:
    check, fault = PAIR_FAULTS[number]
    named = PairLoss("planted", fault, {}, "cosines")
    with pytest.raises(AssertionError):
        check(named)


def test_pairs_are_those_of_sentence_transformers() -> None:
    one, other = unit(8, 5, 1.3), unit(8, 5, 0.4)
    found = (one * other).sum(-1)
    theirs = losses_of("CoSENTLoss", scale=20.0)([one, other], TARGETS)
    assert torch.allclose(PairLoss.named("cosent")(found, TARGETS), theirs)
    theirs = losses_of("CosineSimilarityLoss")([one.float(), other.float()], TARGETS)
    assert torch.allclose(PairLoss.named("mse")(found.float(), TARGETS.float()), theirs)


def test_order_losses_are_the_authors() -> None:
    """The numbers are what PearsonCorrelationLoss, PROLoss and RankKLDivergenceLoss of CoDiEmb give for these pairs."""
    expected = {"pearson": 1.5087046291949582, "gaps": 6.1826177427215825, "rank_kl": 1.9681738980537287}
    for name, value in expected.items():
        assert PairLoss.named(name)(PAIRS, TARGETS).item() == pytest.approx(value)
    whole = 2 * expected["pearson"] + 0.5 * expected["gaps"] + 5 * expected["rank_kl"]
    assert PairLoss.named("codiemb")(PAIRS, TARGETS).item() == pytest.approx(whole)
