"""What estimators compute from models' answers, maps of features, and the course of training, by hand; and traps."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from torch import nn

from allround.core.errors import AllroundError
from allround.models.encoder import LINEAR
from allround.models.encoders.module import Module
from allround.models.head import OutputHead, make_head
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.transfer.estimate.attribution import attributed
from allround.transfer.estimate.data_map import data_map, maps, trained
from allround.transfer.estimate.esm import esm, fitted
from allround.transfer.estimate.experts_retrieval import experts_retrieval
from allround.transfer.estimate.fute import embedding, fute
from allround.transfer.estimate.logme import logme
from allround.transfer.estimate.logme import score as evidence
from allround.transfer.estimating import estimate
from allround.transfer.headed_base import fisher, fit_linear
from allround.transfer.matrix import Values
from allround.transfer.task_rows import TaskRows
from allround.transfer.view import TransferView

#: A base whose features are the rows themselves.
BASE = Module(nn.Identity(), dim=2)


def asked(name: str, kind: str = "classification") -> Definition:
    labels = ("no", "yes") if kind == "classification" else ()
    return Definition(name, kind, ("a", "b"), "table", "accuracy" if labels else "rmse", labels)


def rows(name: str, points: Values | list[tuple[float, float]], classes: list[int] | None = None) -> TaskRows:
    inputs = [tuple(map(float, point)) for point in points]
    return TaskRows(asked(name), inputs, np.array(classes or [0] * len(inputs)), len(inputs))


def drawn(name: str, seed: int, way: tuple[float, float] = (1.0, 0.3), n: int = 60) -> TaskRows:
    x = np.random.default_rng(seed).normal(size=(n, 2)).round(3)
    return rows(name, x, (x @ way > 0).astype(int).tolist())


def linear(weights: list[list[float]], kind: str = "classification") -> OutputHead:
    head = make_head(LINEAR, asked("t", kind), 2)
    assert isinstance(head, OutputHead)
    head.load_state_dict({"weight": torch.tensor(weights), "bias": torch.zeros(len(weights))})
    return head


# -- ESM ---------------------------------------------------------------------------------------------------------------


def mapping(weights: list[list[float]]) -> MultiTaskModel:
    """A specialist whose features are a linear map of the base's."""
    network = nn.Linear(2, 2)
    network.load_state_dict({"weight": torch.tensor(weights), "bias": torch.tensor([0.5, -1.0])})
    return MultiTaskModel(Module(network, dim=2), {"t": asked("t")})


def test_a_map_by_hand() -> None:
    """For x = -1, 1 and y = 3 x + 2 the slope is (3 + penalty) / (1 + penalty)."""
    x, y = np.array([[-1.0], [1.0]]), np.array([[-1.0], [5.0]])
    for penalty in (1e-6, 0.5, 1.0, 1e6):
        weight, bias = fitted(x, y, penalty)
        assert weight[0, 0] == pytest.approx((3 + penalty) / (1 + penalty)) and bias[0] == pytest.approx(2)


def test_a_direction_that_no_row_has_is_passed_on() -> None:
    x = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    weight, _ = fitted(x, 3 * x, 1e-9)
    assert np.allclose(weight, np.diag([3, 1, 1]), atol=1e-6)


def test_each_source_has_a_map_of_its_own() -> None:
    """The trap of the authors' code, whose second map is never trained. Three specialists that each turn the base's
    features in another way: from the maps follows what LogME says of the specialists themselves."""
    ways = {"east": [[1.0, 0.0], [0.0, 0.0]], "north": [[0.0, 0.0], [0.0, 2.0]], "both": [[0.5, 1.0], [1.0, -1.0]]}
    models = {name: mapping(weights) for name, weights in ways.items()}
    view = TransferView({name: drawn(name, seed) for seed, name in enumerate(ways)}, BASE, models=models)
    np.testing.assert_allclose(esm(view, penalty=1e-9), logme(view), atol=1e-4)
    untrained = esm(view, penalty=1e9)
    for column, target in enumerate(ways):
        features, columns = view.features(target), view.columns(target)
        assert features is not None and columns is not None
        assert (np.abs(untrained[:, column] - logme(view)[:, column]).max()) > 0.01, "an untrained map would be found"
    with pytest.raises(AllroundError, match="must be above 0"):
        esm(view, penalty=0)


def test_untrained_maps_pass_features_on() -> None:
    view = TransferView({"t": drawn("t", 0)}, BASE, models={"t": mapping([[1.0, 2.0], [0.0, 1.0]])})
    features, columns = view.features("t"), view.columns("t")
    assert features is not None and columns is not None
    shifted = features + features.mean(0) @ [[1.0, 0.0], [2.0, 1.0]] + [0.5, -1.0] - features.mean(0)
    assert esm(view, penalty=1e9)[0, 0] == pytest.approx(evidence(shifted, columns), abs=1e-5)


def test_a_specialist_of_another_width_has_no_map() -> None:
    wide = MultiTaskModel(Module(nn.Linear(2, 3), dim=3), {"t": asked("t")})
    assert np.isnan(esm(TransferView({"t": drawn("t", 0)}, BASE, models={"t": wide}))).all()


# -- retrieval of experts ----------------------------------------------------------------------------------------------


def test_the_nearest_row_alone_decides() -> None:
    """As in the authors' code, where the majority of several nearest rows is overwritten. The one near row of `one` is
    nearer to two of the target's than the three of `many` are."""
    tasks = {
        "one": rows("one", [(2, 0), (-1, 0)]),
        "many": rows("many", [(3, 4), (6, 8), (3, -4)]),
        "new": rows("new", [(5, 0), (1, 0), (0, 1)]),
    }
    view = TransferView(tasks, BASE, targets=["new"])
    assert experts_retrieval(view)[:2, 0].tolist() == pytest.approx([(1 + 1 + 0) / 3, (0.6 + 0.6 + 0.8) / 3])
    assert estimate("experts_retrieval:votes=true", view).values[:2, 0].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_sources_that_are_equally_near_share_a_vote() -> None:
    points = [(1.0, 0.0), (0.0, 1.0)]
    view = TransferView({name: rows(name, points) for name in "abc"}, BASE)
    found = experts_retrieval(view, votes=True)
    assert np.isnan(found.diagonal()).all() and (found[~np.eye(3, dtype=bool)] == 0.5).all()


# -- TaskEmb and attributions ------------------------------------------------------------------------------------------


def test_observed_information_by_hand() -> None:
    """With p = sigmoid(a - b) the derivative of log p(y) is (y - p) (1, -1). Two rows at p = 0.5 with opposite answers,
    and one at p = 0.75. Squaring the mean of the first two, as a batch of them does in the code of Poth et al., gives
    zero."""
    head, points = linear([[0.0, 0.0], [1.0, -1.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0], [log(3), 0.0]])
    found = fisher(head, points, np.array([1, 0, 1]))
    assert found.tolist() == pytest.approx([(0.25 + 0.25 + 0.0625) / 3] * 2)
    two = fisher(head, points[:2], np.array([1, 0]))
    assert two.tolist() == pytest.approx([0.25, 0.25])
    assert torch.allclose((2 * two + fisher(head, points[2:], np.array([1]))) / 3, found), "each row counts by itself"


def test_observed_information_of_numbers_by_hand() -> None:
    """The derivative of -(w x - y)^2 / 2 is (y - w x) w: here (5 - 3) (1, 2) and (1 - 1) (1, 2)."""
    found = fisher(linear([[1.0, 2.0]], "regression"), torch.tensor([[1.0, 1.0], [1.0, 0.0]]), np.array([5.0, 1.0]))
    assert found.tolist() == pytest.approx([2.0, 8.0])


def test_attributions_by_hand() -> None:
    """p = sigmoid(a - b) is 0.75 of either answer: the derivative of the answer's log is +-0.25 (1, -1). What is the
    same in all rows, as b is, explains nothing."""
    head = linear([[0.0, 0.0], [1.0, -1.0]])
    found = attributed(head, torch.tensor([[5 + log(3), 5.0], [5 - log(3), 5.0]]))
    assert found.tolist() == pytest.approx([0.25 * log(3), 0.0], abs=1e-6)
    numbers = attributed(linear([[2.0, -1.0]], "regression"), torch.tensor([[1.0, 0.0], [3.0, 8.0]]))
    assert numbers.tolist() == pytest.approx([2.0, 4.0])


# -- FUTE --------------------------------------------------------------------------------------------------------------


def test_a_surrogate_by_hand() -> None:
    """Logs of the odds are 2.1972 x; the penalty of 1/3 beside a variance of 2/3 leaves 2/3 of them: weights of
    +-0.7324. The information of a row is then 4 q (1 - q) 0.7324^2, with q = 0.5 and twice 0.8123."""
    answers = np.array([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])
    found = embedding(np.array([[1.0], [0.0], [-1.0]]), answers, np.arange(3), 1 / 3)
    w = log(9) / 2 * 2 / 3
    q = 1 / (1 + np.exp(-2 * w))
    assert found[0] == pytest.approx(4 * w**2 * (0.25 + 2 * q * (1 - q)) / 3), "each row counts by itself"
    assert found[0] > 0.39 and abs(sum(np.sign(x) * 2 * w * q * (1 - q) for x in (1, -1))) < 1e-12, "means cancel"


def test_the_surrogate_of_a_linear_model_is_that_model() -> None:
    task = drawn("t", 3)
    x = np.array(task.inputs)
    head = fit_linear(task.definition, torch.from_numpy(x).float(), task.targets)
    answers = head(torch.from_numpy(x).float()).double().softmax(1).detach().numpy()
    some = np.arange(0, 60, 2)
    found = embedding(x, answers[some], some, 1e-12)
    assert found.tolist() == pytest.approx(fisher(head, torch.from_numpy(x)).tolist(), rel=1e-3)


def test_models_of_any_sort_are_compared() -> None:
    """One with other features than the base's has answers all the same."""
    torch.manual_seed(0)
    wide = MultiTaskModel(Module(nn.Linear(2, 5), dim=5), {"east": asked("east")})
    tasks = {"east": drawn("east", 0), "again": drawn("again", 1), "north": drawn("north", 2, (-0.3, 1.0))}
    view = TransferView(tasks, BASE)
    features = TransferView({"east": tasks["east"]}, wide).features("east")
    assert features is not None
    head = fit_linear(tasks["east"].definition, torch.from_numpy(features).float(), tasks["east"].targets)
    wide.head("east").load_state_dict(head.state_dict())
    for found in (fute(view), fute(TransferView(tasks, BASE, models={"east": wide}))):
        assert found[1, 0] > 0.9 > found[2, 0] > 0
    with pytest.raises(AllroundError, match="must be above 0"):
        fute(view, penalty=0)


# -- data maps ---------------------------------------------------------------------------------------------------------


def test_data_maps_are_those_of_the_authors_code() -> None:
    """`DataMapRecorder` of ammarSherif/STG-MTL (util/datamap.py), on these; NaN after the first epoch there."""
    found = maps(np.array([[0.2, 0.5, 0.9], [0.4, 0.5, 0.6], [0.9, 0.5, 0.8], [0.7, 0.1, 0.8]]))
    assert found[3, :, 0].tolist() == pytest.approx([0.55, 0.4, 0.775])
    spreads = [[0.1414213, 0, 0.2121320], [0.3605551, 0, 0.1527525], [0.3109126, 0.2, 0.1258306]]
    assert np.allclose(found[1:, :, 1], spreads, atol=1e-6)
    assert found[0].tolist() == [[0.2, 0], [0.5, 0], [0.9, 0]]


def test_the_course_of_a_head_by_hand() -> None:
    """For x = -1, 1 with classes 0, 1 the weights are -w, w, and each step adds 1 - sigmoid(2 w) to w."""
    slopes, constants = trained(np.array([[-1.0], [1.0]]), np.array([0, 1]), 2)
    w, course = 0.0, []
    for _ in range(20):
        w += 1 - 1 / (1 + np.exp(-2 * w))
        course.append(w)
    assert slopes[:, 0, 1].tolist() == pytest.approx([course[9], course[19]])
    assert (slopes[:, 0, 0] == -slopes[:, 0, 1]).all() and np.abs(constants).max() < 1e-12


def test_a_question_and_its_opposite_have_one_map() -> None:
    """Tasks with labels for the same rows: what counts is how sure a head is of the right answer, whatever it is."""
    task = drawn("a", 5)
    turned = rows("b", np.array(task.inputs), (1 - np.asarray(task.targets)).tolist())
    guessed = rows("c", np.array(task.inputs), np.random.default_rng(1).integers(0, 2, 60).tolist())
    found = data_map(TransferView({"a": task, "b": turned, "c": guessed}, BASE))
    assert found[0, 1] < 1e-6 and found[0, 2] > 0.1
    assert np.isfinite(data_map(TransferView({"a": task, "c": guessed}, BASE), epochs=1)).all()
    with pytest.raises(AllroundError, match="there must be 1 at least"):
        data_map(TransferView({"a": task}, BASE), epochs=0)
