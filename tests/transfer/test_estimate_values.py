"""What estimators compute, against hand computations, dense algebra and reference code; and traps of the latter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from allround.transfer.estimate.cka import score as cka
from allround.transfer.estimate.delta_cosine import cosines
from allround.transfer.estimate.delta_overlap import signs
from allround.transfer.estimate.divergence import coral, jensen_shannon, mmd, wasserstein
from allround.transfer.estimate.h_score import score as h_score
from allround.transfer.estimate.inpca import distance, embedding, imprinted
from allround.transfer.estimate.leep import score as leep
from allround.transfer.estimate.logme import score as logme
from allround.transfer.estimate.nce import score as nce
from allround.transfer.estimate.task2vec import distance as task2vec
from allround.transfer.estimate.transrate import score as transrate
from allround.transfer.headed_base import fisher, fit_linear
from allround.transfer.matrix import Values
from allround.transfer.task_rows import Classes

RNG = np.random.default_rng(11)


def rows(n: int, d: int, classes: int = 3, seed: int = 0) -> tuple[Values, Classes]:
    """Features of n rows whose class moves one of them, and the class of each."""
    draw = np.random.default_rng(seed)
    y = draw.integers(0, classes, n)
    x = draw.normal(size=(n, d))
    x[:, 0] += y
    return x, y


# -- LogME -------------------------------------------------------------------------------------------------------------


def dense_evidence(logs: Values, x: Values, y: Values) -> float:
    """log N(y; 0, X X' / a + I / b) / n by a dense covariance."""
    a, b = np.exp(logs)
    return float(multivariate_normal(np.zeros(len(x)), x @ x.T / a + np.eye(len(x)) / b).logpdf(y)) / len(x)


@pytest.mark.parametrize(("n", "d"), [(12, 40), (12, 12), (40, 12), (30, 3)])
def test_logme_is_the_largest_evidence(n: int, d: int) -> None:
    x, y = rows(n, d, seed=n + d)
    target = (y == 1).astype(float)
    found = logme(x, target[:, None])
    best = max(
        -minimize(lambda logs: -dense_evidence(logs, x, target), start, method="Nelder-Mead",
                  options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 2000}).fun
        for start in ([0.0, 0.0], [3.0, 2.0])
    )  # fmt: skip
    assert found == pytest.approx(best, abs=1e-6)


def test_logme_of_columns_is_their_mean() -> None:
    x, y = rows(30, 4)
    columns = (y[:, None] == np.arange(3)).astype(float)
    assert logme(x, columns) == pytest.approx(np.mean([logme(x, columns[:, [k]]) for k in range(3)]))


def test_logme_with_fewer_rows_than_features() -> None:
    """The authors' later code leaves (d - k) / 2 * log(alpha) unpaid, k being the rank: many nats a row too much."""
    x, y = rows(50, 384, classes=2)
    target = y[:, None].astype(float)
    assert logme(x, target) < 0
    left, lengths, _ = np.linalg.svd(x, full_matrices=False)
    assert logme(left * lengths, target) == pytest.approx(logme(x, target), abs=1e-9), "directions no row has are free"


# -- the reference code of the Transfer-Learning-Library and of LogME --------------------------------------------------

#: Twelve rows with four features, of three classes, and a source's probabilities of three labels. The numbers below
#: came from the functions of the same names in thuml/Transfer-Learning-Library (tllib/ranking), run on these.
ROW, COLUMN = np.mgrid[:12, :4]
FEATURES = (3 * ROW + 5 * COLUMN) % 7 - 3 + (0.1 * ROW * (COLUMN + 1)) % 1.3
CLASSES = np.arange(12) % 3
POWERS = np.exp(FEATURES[:, :3] / 2)
PROBABILITIES = POWERS / POWERS.sum(1, keepdims=True)


def test_the_numbers_of_the_reference_code() -> None:
    assert h_score(FEATURES, CLASSES, shrunk=False) == pytest.approx(0.674084102581961)
    assert leep(PROBABILITIES, CLASSES) == pytest.approx(-1.0705844937774378)
    assert nce(PROBABILITIES.argmax(1), CLASSES) == pytest.approx(-1.0607767324412265)
    assert transrate(FEATURES, CLASSES, 1e-4) == pytest.approx(0.5464209531204958)


@pytest.mark.parametrize(
    ("n", "d", "reference"), [(50, 384, -0.8510438), (300, 384, -0.8294307), (600, 40, -0.7734727)]
)
def test_logme_is_above_the_first_code_of_its_authors_and_near(n: int, d: int, reference: float) -> None:
    """`_fit_icml` of thuml/LogME, which stops when the ratio of precisions changes by less than 1 %."""
    draw = np.random.default_rng(n)
    y = draw.integers(0, 3, n)
    x = draw.normal(size=(n, d))
    x[:, 0] += y
    found = logme(x, (y[:, None] == np.arange(3)).astype(float))
    assert 0 <= found - reference < 0.01


# -- traps -------------------------------------------------------------------------------------------------------------


def test_a_label_of_the_source_that_no_row_gets_changes_nothing() -> None:
    """The reference code divides zero by zero there, and LEEP is NaN."""
    more = np.column_stack([PROBABILITIES, np.zeros(12)])
    assert leep(more, CLASSES) == pytest.approx(leep(PROBABILITIES, CLASSES), abs=1e-12)


def test_a_class_that_no_row_has_changes_nothing() -> None:
    """The reference code counts classes up to the largest: LogME gains 1.55 for a column of zeros."""
    skipped = np.array([0, 2, 5])[CLASSES]
    for score in (
        lambda y: h_score(FEATURES, y, shrunk=True),
        lambda y: leep(PROBABILITIES, y),
        lambda y: nce(PROBABILITIES.argmax(1), y),
        lambda y: transrate(FEATURES, y, 1e-4),
    ):
        assert score(skipped) == score(CLASSES)


def test_h_score_of_few_rows_needs_shrinkage() -> None:
    """With at least as many features as rows, the plain score is the number of classes less one, whatever they are."""
    x, y = rows(20, 60, classes=3)
    guessed = np.random.default_rng(5).permutation(y)
    assert h_score(x, guessed, shrunk=False) == pytest.approx(2) == h_score(x, y, shrunk=False)
    assert h_score(x, y, shrunk=True) < 1


# -- between the inputs of two tasks -----------------------------------------------------------------------------------


def test_divergences_by_hand() -> None:
    apart = np.array([[-1.0], [1.0]]), np.array([[1.0], [5.0]])
    assert coral(*apart) == pytest.approx((1 - 4) ** 2 / 4)
    assert wasserstein(*apart) == pytest.approx(np.sqrt(3**2 + (1 - 2) ** 2)), "of N(0, 1) and N(3, 4)"
    low, high = np.linspace(0, 1, 20)[:, None], np.linspace(5, 6, 20)[:, None]
    assert jensen_shannon(low, high) == pytest.approx(1), "one bit where they have nothing in common"
    assert jensen_shannon(low, low) == 0 == mmd(low, low)


def test_mmd_is_that_of_whole_kernels() -> None:
    x, y = RNG.normal(size=(7, 3)), 1 + RNG.normal(size=(5, 3))
    both = np.concatenate([x, y])
    squares = np.square(both[:, None] - both[None]).sum(-1)
    kernel = np.exp(-squares / squares.mean())
    found = kernel[:7, :7].mean() + kernel[7:, 7:].mean() - 2 * kernel[:7, 7:].mean()
    assert mmd(x, y) == pytest.approx(np.sqrt(found))


def test_wasserstein_with_fewer_rows_than_features_knows_what_is_the_same() -> None:
    x = RNG.normal(size=(6, 20))
    assert wasserstein(x, x) < 1e-6 < 1 < wasserstein(x, x + 1)


def test_cka_is_that_of_whole_kernels() -> None:
    x, y = RNG.normal(size=(9, 4)), RNG.normal(size=(9, 20))

    def hsic(a: Values, b: Values) -> float:
        k, m, n = a @ a.T, b @ b.T, len(a)
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        return float(np.trace(k @ m) + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * k.sum(0) @ m.sum(0) / (n - 2))

    assert cka(x, y) == pytest.approx(hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y)))


def test_cka_of_unrelated_features_is_near_zero() -> None:
    """The plain estimate is near one where there are more features than rows."""
    found = [cka(np.random.default_rng(s).normal(size=(12, 100)), np.random.default_rng(99 + s).normal(size=(12, 100)))
             for s in range(20)]  # fmt: skip
    assert abs(np.mean(found)) < 0.1


# -- models' answers ---------------------------------------------------------------------------------------------------

#: Four models' probabilities of three classes for two rows.
ANSWERS = np.array([
    [[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]],
    [[0.6, 0.2, 0.2], [0.1, 0.8, 0.1]],
    [[0.0, 0.0, 1.0], [0.3, 0.3, 0.4]],
    [[0.3, 0.3, 0.4], [0.25, 0.5, 0.25]],
])  # fmt: skip


def test_inpca_is_that_of_the_authors_code() -> None:
    """`compute_inpca_h5` of grasp-lyrl/picture_of_space_of_tasks, on these, with the mean over rows."""
    found = np.array([[distance(one, other) for other in ANSWERS] for one in ANSWERS])
    assert found[0].tolist() == pytest.approx([0, 0.144411612, 6.91168943, 0.201586519])
    places, lengths = embedding(found, 3)
    assert lengths.tolist() == pytest.approx([3.45829127, -1.47652086, 0.0244976926])
    assert np.abs(places[:, 0]).tolist() == pytest.approx([1.30208244, 0.0406441769, 1.32701690, 0.0157097103])
    squares = np.square(places[:, None] - places[None]) @ np.sign(lengths)
    assert np.allclose(squares, found, atol=1e-7), "with its imaginary axes the picture is exact"


def test_heads_of_class_means_by_hand() -> None:
    found = imprinted(np.array([[0.0], [2.0], [5.0], [7.0]]), np.array([0, 0, 1, 1]), 1.0)
    assert found[1, 0] == pytest.approx(1 / (1 + np.exp(-(16 - 1) / 1))), "the means are 1 and 6, the spread is 1"


# -- Task2Vec ----------------------------------------------------------------------------------------------------------


def test_the_distance_of_task2vec_is_that_of_the_authors_code() -> None:
    """`cosine` in task_similarity.py of awslabs/aws-cv-task2vec."""
    one, other = np.array([1, 4, 0.5, 2]), np.array([2, 1, 0.5, 0.1])
    assert task2vec(one, other) == pytest.approx(0.4285181061436083, abs=1e-7)


def test_the_information_of_features_is_that_of_a_softmax() -> None:
    """By algebra: diag(W' (diag(p) - p p') W), mean over rows; and the mean over answers drawn from the model."""
    from allround.tasks.definition import Definition

    x, y = rows(30, 4)
    task = Definition("t", "classification", ("x",), "table", "accuracy", ("a", "b", "c"))
    head = fit_linear(task, torch.from_numpy(x).float(), y)
    weight = head.state_dict()["weight"].double().numpy()
    p = head(torch.from_numpy(x).float()).softmax(1).detach().double().numpy()
    expected = np.mean([np.diag(weight.T @ (np.diag(row) - np.outer(row, row)) @ weight) for row in p], 0)
    found = fisher(head, torch.from_numpy(x))
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    halves = [fisher(head, torch.from_numpy(part)) for part in (x[:10], x[10:])]
    assert torch.allclose((halves[0] * 10 + halves[1] * 20) / 30, found), "each row counts by itself"


# -- changes of weights ------------------------------------------------------------------------------------------------


def test_changes_by_hand() -> None:
    changes = torch.tensor([[3.0, -1.0, 0.5, 0.0], [3.0, 1.0, 0.0, 0.1]]).double()
    assert cosines((changes @ changes.T).numpy())[0, 1] == pytest.approx(8 / np.sqrt(10.25 * 10.01))
    kept = signs(changes, 0.5)
    assert kept.tolist() == [[1, -1, 0, 0], [1, 1, 0, 0]], "of two entries one is shared, the other has another sign"
    assert signs(torch.zeros(1, 3), 1.0).tolist() == [[0, 0, 0]], "what was not changed is no change"
