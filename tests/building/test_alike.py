"""Likeness of tasks as the start of gates: numbers by hand, the gates that come of them, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from allround.building.alike import share_spelled
from allround.building.joint import joint_settings, read_share
from allround.core.errors import AllroundError
from allround.models.encoder import Encoder
from allround.models.encoders.sharing import Sharing
from allround.models.share.gate.free import Free
from allround.models.share.gate.skills import Skills
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.training.preconditions import check_settings
from allround.training.settings import Settings
from allround.training.sharing import plan_of, share
from allround.transfer.files import write_matrices
from allround.transfer.matrix import TaskMatrix

NAN = float("nan")
TASKS = ("digit", "segments", "ink")
#: digit and ink are as like to segments as one another: nothing tells them apart.
VALUES = [[NAN, 0.1, 0.9], [0.1, NAN, 0.1], [0.9, 0.1, NAN]]


def matrix(name: str, values: object = VALUES, tasks: tuple[str, ...] = TASKS, **about: object) -> TaskMatrix:
    return TaskMatrix(name, tasks, tasks, np.array(values), symmetric=True, **about)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def related(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `allround relate` makes it, as far as it is read."""
    folder = tmp_path_factory.mktemp("related")
    odd = matrix("sizes", [[NAN, 0.9, 0.1], [0.9, NAN, 0.1], [0.1, 0.1, NAN]])
    write_matrices(folder / "matrices.parquet", [odd, matrix("rank_sum")])
    return folder


def shared(encoder: Encoder, suite: Suite, text: str) -> Sharing:
    name, values = share_spelled(text)
    model = MultiTaskModel(copy.deepcopy(encoder), {name: suite[name].definition for name in TASKS})
    made = share(model, plan_of(name, values)).eval().encoder
    assert isinstance(made, Sharing)
    return made


def test_tasks_that_are_alike_use_the_same_modules(related: Path) -> None:
    # Two clusters by the tree, digit and ink, and segments; four modules are dealt out to them in turn.
    name, values = share_spelled(f"poly:skills=4;alike={related};rank=2")
    assert (name, values["skills"], values["rank"]) == ("poly", 4, 2)
    assert values["start"] == {"digit": [1, 0, 1, 0], "segments": [0, 1, 0, 1], "ink": [1, 0, 1, 0]}


def test_measured_transfer_counts_before_estimates(tmp_path: Path) -> None:
    odd = matrix("sizes", [[NAN, 0.9, 0.1], [0.9, NAN, 0.1], [0.1, 0.1, NAN]])
    file = tmp_path / "some.csv"
    write_matrices(file, [TaskMatrix(**{**vars(odd), "name": "rank_sum"}), matrix("pairs", kind="measured")])
    assert share_spelled(f"mhr:alike={file};skills=2")[1]["start"] == {
        "digit": [1, 0],
        "segments": [0, 1],
        "ink": [1, 0],
    }
    write_matrices(file, [odd])
    assert share_spelled(f"mhr:alike={file};skills=2")[1]["start"] == {
        "digit": [1, 0],
        "segments": [1, 0],
        "ink": [0, 1],
    }


@pytest.mark.parametrize("preset", ["poly", "mhr", "c_poly"])
def test_like_tasks_begin_with_equal_gates_and_others_do_not(
    preset: str, related: Path, small_image: Encoder, digits_suite: Suite
) -> None:
    made = shared(small_image, digits_suite, f"{preset}:alike={related};skills=2;rank=1")
    plain = shared(small_image, digits_suite, f"{preset}:skills=2;rank=1")
    assert list(made.mixtures())
    for mixture, usual in zip(made.mixtures(), plain.mixtures(), strict=True):
        digit, segments, ink = (mixture.gate(task)(torch.ones(1)) for task in TASKS)
        assert torch.equal(digit, ink) and not torch.allclose(digit, segments)
        # Probabilities 0.9 and 0.1, which sum to 1; a task's own skill weighs 1 beside them (c_poly).
        for task, found, wanted in (("digit", digit, [0.9, 0.1]), ("segments", segments, [0.1, 0.9])):
            own = mixture.gate(task).own
            rest = [place for place in range(found.shape[-1]) if place not in own]
            assert found[..., rest].reshape(-1, 2).tolist() == [pytest.approx(wanted)] * (
                found.numel() // found.shape[-1]
            )
        assert not torch.equal(usual.gate("digit")(torch.ones(1)), usual.gate("ink")(torch.ones(1)))


def test_gates_begin_as_they_are_told() -> None:
    uses, values, shares = [0.0, 0.3, 1.0], torch.ones(1), [1 / 13, 3 / 13, 9 / 13]
    for form, wanted in (("plain", [0.1, 0.3, 0.9]), ("sigmoid", [0.1, 0.3, 0.9]), ("softmax", shares)):
        gate = Free(3, 1, form=form)  # type: ignore[arg-type]
        gate.begin(uses)
        assert gate(values).tolist() == pytest.approx(wanted)
    beside = Free(4, 1, own=(1,), start="near_own", channels=2)
    beside.begin(uses)
    assert beside(values)[:, 0].tolist() == pytest.approx([0.1, 0.9, 0.3, 0.9])
    skills = Skills(4, 1, own=(3,), heads=2).eval()
    skills.begin(uses)
    assert skills(values).tolist() == [pytest.approx([*shares, 1.0])] * 2


def test_the_start_is_kept_with_the_model(
    related: Path, small_image: Encoder, digits_suite: Suite, tmp_path: Path
) -> None:
    made = shared(small_image, digits_suite, f"poly:alike={related};skills=2;rank=1")
    model = MultiTaskModel(made, {name: digits_suite[name].definition for name in TASKS})
    model.save(tmp_path / "model")
    back = load(tmp_path / "model")
    assert isinstance(back, MultiTaskModel) and isinstance(back.encoder, Sharing)
    for one, other in zip(back.encoder.mixtures(), made.mixtures(), strict=True):
        assert one.mixing.start == other.mixing.start
        assert torch.equal(one.gate("ink")(torch.ones(1)), other.gate("ink")(torch.ones(1)))


def test_what_cannot_be_begun_with_is_refused(related: Path, tmp_path: Path) -> None:
    wrong = {
        f"poly:alike={tmp_path / 'none'}": "there is no file .*none",
        f"mmoe:alike={related}": "gates of 'mmoe' do not begin from numbers of each task",
        f"poly:alike={related};start={{digit: [1]}}": "`alike` and `start` both say",
        "poly:alike=": "`alike` has no value",
        f"poly:alike={related};skils=3": "'poly' has no parameter 'skils'",
        f"poly:alike={related};skills=1": "its 3 tasks form one cluster",
    }
    write_matrices(tmp_path / "two.csv", [matrix("sizes"), matrix("cka")])
    wrong[f"poly:alike={tmp_path / 'two.csv'}"] = "it holds sizes, cka, and neither"
    write_matrices(tmp_path / "others.csv", [TaskMatrix("gain", ("a",), ("b",), np.ones((1, 1)))])
    wrong[f"poly:alike={tmp_path / 'others.csv'}"] = "its sources are not its targets"
    for text, words in wrong.items():
        with pytest.raises(AllroundError, match=words) as caught:
            share_spelled(text)
        assert caught.value.asked and caught.value.found and caught.value.do


def test_a_task_without_numbers_and_numbers_that_do_not_fit_are_refused(
    tmp_path: Path, related: Path, small_image: Encoder, digits_suite: Suite
) -> None:
    file = tmp_path / "matrices.parquet"
    write_matrices(file, [matrix("rank_sum", tasks=("digit", "segments", "mirrored"))])
    with pytest.raises(AllroundError, match="there are none for it, only for digit, segments, mirrored"):
        shared(small_image, digits_suite, f"poly:alike={file}")
    asked = joint_settings(read_share(f"poly:alike={file}"), Settings())
    with pytest.raises(AllroundError, match="begin the gates of task 'ink'"):
        check_settings(asked, list(digits_suite.tasks.values()))
    check_settings(joint_settings(read_share(f"poly:alike={related}"), Settings()), list(digits_suite.tasks.values()))
    for numbers in ([1.0], [0.5, 1.5], [0.5, NAN]):
        settings = Settings(share="poly", share_settings={"skills": 2, "start": dict.fromkeys(TASKS, numbers)})
        with pytest.raises(AllroundError, match="for 2 modules that tasks share"):
            check_settings(settings, list(digits_suite.tasks.values()))
