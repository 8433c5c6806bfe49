"""Ensembles: the mean of what the members answer, whatever they are, and what they cost."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from allround.core.errors import AllroundError
from allround.core.files import hash_file
from allround.models import boosting
from allround.models.base import load_encoder
from allround.models.boosting import fit_trees
from allround.models.encoder import Encoder
from allround.models.encoders.small_image import SmallImage
from allround.models.encoders.small_table import SmallTable
from allround.models.system import System, load
from allround.models.systems.ensemble import Ensemble
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.systems.trees import Trees
from allround.tasks.suite import Suite
from allround.tasks.values import Row


def made_of(encoder: Encoder, suite: Suite, names: list[str], seed: int) -> MultiTaskModel:
    """A model with random heads."""
    model = MultiTaskModel(encoder, {name: suite.tasks[name].definition for name in names})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in names:
            for parameter in model.head(name).parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture
def three(small_image: SmallImage, digits_suite: Suite) -> list[MultiTaskModel]:
    names = list(digits_suite.tasks)
    return [made_of(copy.deepcopy(small_image), digits_suite, names, seed) for seed in range(3)]


def rows_of(suite: Suite, task: str, count: int = 12) -> list[Row]:
    return list(suite.tasks[task].splits["test"].inputs[:count])


def scores_of(system: System, task: str, rows: list[Row]) -> np.ndarray:
    return np.asarray(system.answers(task, rows, scores=True).scores, dtype=np.float64)


# Means by hand.


def test_of_labels_the_mean_of_the_probabilities_decides(three: list[MultiTaskModel], digits_suite: Suite) -> None:
    rows = rows_of(digits_suite, "digit", 30)
    shares = [model.outputs("digit", rows).logits.double().softmax(-1).numpy() for model in three]
    mean = (shares[0] + shares[1] + shares[2]) / 3
    found = Ensemble(three).answers("digit", rows, scores=True)
    np.testing.assert_allclose(np.asarray(found.scores), mean, atol=1e-6)
    assert list(found.predictions) == mean.argmax(1).tolist()
    assert found.confidence == pytest.approx(mean.max(1).tolist(), abs=1e-6)
    votes = np.array([share.argmax(1) for share in shares])
    assert any(len(set(column)) == 3 for column in votes.T), "the members differ"
    labels = digits_suite.tasks["digit"].definition.labels
    assert Ensemble(three).predict("digit", rows) == [labels[place] for place in mean.argmax(1)]
    assert Ensemble(three).answers("digit", rows).scores is None, "scores are given where they are asked for"


def test_labels_that_do_not_exclude_each_other_are_averaged_one_by_one(
    three: list[MultiTaskModel], digits_suite: Suite
) -> None:
    rows = rows_of(digits_suite, "segments", 30)
    shares = [model.outputs("segments", rows).logits.double().sigmoid().numpy() for model in three]
    mean = (shares[0] + shares[1] + shares[2]) / 3
    found = Ensemble(three).answers("segments", rows, scores=True)
    np.testing.assert_allclose(np.asarray(found.scores), mean, atol=1e-6)
    assert np.array_equal(found.predictions, (mean > 0.5).astype(np.int8))
    assert found.confidence == pytest.approx(np.maximum(mean, 1 - mean).prod(1).tolist(), abs=1e-5)


def test_numbers_are_averaged(three: list[MultiTaskModel], digits_suite: Suite) -> None:
    rows = rows_of(digits_suite, "ink")
    definition = digits_suite.tasks["ink"].definition
    each = np.array([model.predict("ink", rows) for model in three])
    assert np.ptp(each, 0).min() > 0.01
    assert Ensemble(three).predict("ink", rows) == pytest.approx(each.mean(0).tolist(), rel=1e-5)
    found = Ensemble(three).answers("ink", rows)
    assert found.scores is None and found.confidence is None
    assert found.predictions * definition.scale + definition.center == pytest.approx(each.mean(0), rel=1e-5)


def test_tags_are_averaged_word_by_word(bert_folder: Path, text_suite: Suite) -> None:
    names = ["names"]
    members = [made_of(load_encoder(bert_folder), text_suite, names, seed) for seed in range(2)]
    rows: list[Row] = [*rows_of(text_suite, "names", 6), ([],), (["ada"],)]
    outputs = [model.outputs("names", rows) for model in members]
    shares = [found.logits.double().softmax(-1).numpy() for found in outputs]
    mean = (shares[0] + shares[1]) / 2
    found = Ensemble(members).answers("names", rows, scores=True, batch_size=3)
    assert isinstance(found.scores, list) and [len(one) for one in found.scores] == [len(row[0]) for row in rows]  # type: ignore[arg-type]
    np.testing.assert_allclose(np.concatenate(found.scores), mean, atol=1e-5)
    assert np.concatenate(found.predictions).tolist() == mean.argmax(1).tolist()
    tags = text_suite.tasks["names"].definition.labels
    told = [tag for row in Ensemble(members).predict("names", rows) for tag in row]
    assert told == [tags[place] for place in mean.argmax(1)]


def test_networks_and_trees_answer_together(
    small_table: SmallTable, table_suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boosting, "ROUNDS", 5)
    names = list(table_suite.tasks)
    network = made_of(copy.deepcopy(small_table), table_suite, names, 0)
    trees = Trees({name: fit_trees(table_suite.tasks[name])[0] for name in names})
    both = Ensemble([network, trees])
    rows = rows_of(table_suite, "species")
    mean = (scores_of(network, "species", rows) + scores_of(trees, "species", rows)) / 2
    np.testing.assert_allclose(scores_of(both, "species", rows), mean, atol=1e-7)
    numbers = (np.array(network.predict("petal", rows)) + np.array(trees.predict("petal", rows))) / 2
    assert both.predict("petal", rows) == pytest.approx(numbers.tolist(), rel=1e-6)


# Which members answer.


def test_one_member_is_that_member(three: list[MultiTaskModel], digits_suite: Suite) -> None:
    for name in digits_suite.tasks:
        rows = rows_of(digits_suite, name, 30)
        alone, made = (s.answers(name, rows, scores=True) for s in (three[0], Ensemble(three[:1])))
        assert np.array_equal(alone.predictions, made.predictions)
        assert (alone.scores is None) == (made.scores is None)
        assert alone.scores is None or np.array_equal(np.asarray(alone.scores), np.asarray(made.scores))
        assert alone.confidence is None or made.confidence == pytest.approx(alone.confidence, rel=1e-6)
        assert three[0].predict(name, rows) == Ensemble(three[:1]).predict(name, rows)


def test_a_task_is_answered_by_the_members_that_know_it(small_image: SmallImage, digits_suite: Suite) -> None:
    groups = [["digit", "ink"], ["segments"], ["ink"]]
    members = [made_of(copy.deepcopy(small_image), digits_suite, names, seed) for seed, names in enumerate(groups)]
    ensemble = Ensemble(members)
    assert list(ensemble.definitions) == ["digit", "ink", "segments"]
    for name, member in (("digit", members[0]), ("segments", members[1])):
        rows = rows_of(digits_suite, name)
        assert ensemble.predict(name, rows) == member.predict(name, rows)
    rows = rows_of(digits_suite, "ink")
    numbers = [(a + b) / 2 for a, b in zip(*(members[n].predict("ink", rows) for n in (0, 2)), strict=True)]
    assert ensemble.predict("ink", rows) == pytest.approx(numbers, rel=1e-5)
    mixed = ensemble.answer_mixed(["ink", "digit", "ink"], [rows[0], rows[1], rows[2]])
    assert [one.predictions[0] for one in mixed] == pytest.approx(
        [ensemble.answers(task, [row]).predictions[0] for task, row in zip(("ink", "digit", "ink"), rows, strict=False)]
    )
    with pytest.raises(AllroundError, match="did you mean 'digit'"):
        ensemble.predict("digits", rows)
    with pytest.raises(AllroundError, match="has 3 tasks and cannot tell which one is meant"):
        list(ensemble.answer(None, rows))
    only = Ensemble([members[1]])
    (found,) = only.answer(None, rows)
    assert np.array_equal(found.predictions, members[1].answers("segments", rows).predictions)


CHANGES: dict[str, tuple[str, dict[str, Any], str]] = {
    "other labels": ("digit", {"labels": tuple("abcdefghij")}, "its labels is"),
    "labels in another order": ("digit", {"labels": tuple("9876543210")}, "its labels is"),
    "another centre": ("ink", {"center": 0.25}, "its center is"),
    "another scale": ("ink", {"scale": 2.5}, "its scale is 1"),
    "other inputs": ("ink", {"inputs": ("photo",)}, "its inputs is"),
    "another kind": ("digit", {"kind": "multilabel", "metric": "macro_f1"}, "its kind is classification in one"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_members_that_know_a_task_otherwise_are_refused(
    change: str, three: list[MultiTaskModel], small_image: SmallImage, digits_suite: Suite
) -> None:
    task, changed, told = CHANGES[change]
    other = MultiTaskModel(copy.deepcopy(small_image), {task: replace(three[0].definitions[task], **changed)})
    with pytest.raises(AllroundError, match=f"they do not know the task '{task}' alike") as caught:
        Ensemble([three[0], other])
    if change != "another scale":
        assert told in caught.value.found
    assert caught.value.do == "use systems that were made with the same suite"
    with pytest.raises(AllroundError, match="alike"):
        Ensemble([Ensemble([other]), three[0]])


def test_what_does_not_change_answers_may_differ(three: list[MultiTaskModel], small_image: SmallImage) -> None:
    digit = three[0].definitions["digit"]
    other = MultiTaskModel(copy.deepcopy(small_image), {"digit": replace(digit, metric="macro_f1", instruction="Read")})
    assert Ensemble([three[0], other]).definitions["digit"] == digit, "that of the first"


def test_an_ensemble_of_nothing_is_refused() -> None:
    with pytest.raises(AllroundError, match="no member is given"):
        Ensemble([])


def test_ensembles_of_ensembles(three: list[MultiTaskModel], digits_suite: Suite, tmp_path: Path) -> None:
    rows = rows_of(digits_suite, "digit")
    a, b, c = (scores_of(model, "digit", rows) for model in three)
    nested = Ensemble([Ensemble(three[:2]), three[2]])
    np.testing.assert_allclose(scores_of(nested, "digit", rows), (a + b) / 4 + c / 2, atol=1e-6)
    deeper = Ensemble([nested])
    deeper.save(tmp_path / "deep")
    loaded = load(tmp_path / "deep")
    assert isinstance(loaded, Ensemble)
    np.testing.assert_array_equal(scores_of(loaded, "digit", rows), scores_of(nested, "digit", rows))
    assert loaded.cost() == nested.cost()


def test_rows_are_answered_alike_in_any_batch(three: list[MultiTaskModel], digits_suite: Suite) -> None:
    ensemble, rows = Ensemble(three), rows_of(digits_suite, "digit")
    expected = scores_of(ensemble, "digit", rows)
    for size in (1, 5):
        found = ensemble.answers("digit", rows, batch_size=size, scores=True)
        np.testing.assert_allclose(np.asarray(found.scores), expected, atol=1e-5)
    assert ensemble.predict("digit", []) == []
    assert ensemble.to("cpu") is ensemble


# Cost.


def test_the_cost_is_the_sum_of_the_members(three: list[MultiTaskModel], small_image: SmallImage,
                                             digits_suite: Suite) -> None:  # fmt: skip
    ensemble = Ensemble(three)
    each = [model.cost() for model in three]
    assert ensemble.cost().parameters_stored == ensemble.parameters_stored == sum(c.parameters_stored for c in each)
    assert ensemble.cost().parameters_used == sum(c.parameters_used for c in each)
    groups = [["digit", "ink"], ["segments"], ["ink"]]
    members = [made_of(copy.deepcopy(small_image), digits_suite, names, seed) for seed, names in enumerate(groups)]
    some = Ensemble(members)
    assert some.cost(["segments"]) == members[1].cost(["segments"])
    ink = [members[0].cost(["ink"]), members[2].cost(["ink"])]
    assert some.cost(["ink"]).parameters_stored == sum(c.parameters_stored for c in ink)
    assert some.cost(["ink"]).parameters_used == sum(c.parameters_used for c in ink)
    assert some.cost().parameters_used == some.cost(["ink"]).parameters_used, "the dearest task"
    assert some.cost().parameters_stored == sum(member.cost().parameters_stored for member in members)


# Folders.


def test_a_saved_ensemble_answers_alike_and_saves_as_the_same_bytes(
    three: list[MultiTaskModel], digits_suite: Suite, tmp_path: Path
) -> None:
    ensemble = Ensemble(three)
    ensemble.facts = {"made_by": {"system": "ensemble"}}
    ensemble.save(tmp_path / "one")
    loaded = load(tmp_path / "one")
    assert isinstance(loaded, Ensemble) and len(loaded.members) == 3
    assert loaded.definitions == ensemble.definitions and loaded.facts == ensemble.facts
    for name in digits_suite.tasks:
        rows = rows_of(digits_suite, name)
        assert loaded.predict(name, rows) == ensemble.predict(name, rows)
    loaded.save(tmp_path / "two")
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len([file for file in files if file.name == "allround.json"]) == 4
    for file in files:
        if file.suffix == ".safetensors" or file.name == "allround.json":
            assert hash_file(tmp_path / "one" / file) == hash_file(tmp_path / "two" / file)
    member = load(tmp_path / "one" / "members" / "1")
    rows = rows_of(digits_suite, "ink")
    assert member.predict("ink", rows) == three[1].predict("ink", rows), "a member is a system of its own"


def manifest(key: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        about = json.loads((folder / "allround.json").read_text())
        about[key] = value
        (folder / "allround.json").write_text(json.dumps(about))

    return change


def fewer_tasks(folder: Path) -> None:
    about = json.loads((folder / "allround.json").read_text())
    about["tasks"].pop()
    (folder / "allround.json").write_text(json.dumps(about))


def other_labels(folder: Path) -> None:
    about = json.loads((folder / "allround.json").read_text())
    about["tasks"][0]["labels"].reverse()
    (folder / "allround.json").write_text(json.dumps(about))


def members_that_differ(folder: Path) -> None:
    other_labels(folder / "members" / "1")


def within_itself(folder: Path) -> None:
    shutil.rmtree(folder / "members" / "0")
    (folder / "members" / "0").symlink_to(folder, target_is_directory=True)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no number of members": (manifest("members", None), "has None members"),
    "a number that is a text": (manifest("members", "2"), "has '2' members"),
    "a number that is a truth": (manifest("members", True), "has True members"),
    "no members": (manifest("members", 0), "has 0 members"),
    "less than none": (manifest("members", -1), "has -1 members"),
    "far too many": (manifest("members", 10**12), "has 1000000000000 members"),
    "one more than there are": (manifest("members", 3), "there is no such folder"),
    "fewer tasks": (fewer_tasks, "lists other tasks than its members have"),
    "other labels": (other_labels, "lists other tasks than its members have"),
    "members that differ": (members_that_differ, "do not know the task 'digit' alike"),
    "a member that is gone": (lambda f: shutil.rmtree(f / "members" / "0"), "there is no such folder"),
    "a member without a manifest": (lambda f: (f / "members" / "0" / "allround.json").unlink(), "has no allround.json"),
    "a member without weights": (lambda f: (f / "members" / "0" / "heads.safetensors").unlink(), "heads.safetensors"),
    "an ensemble within itself": (within_itself, "there is no such folder"),
    "a sort that is not there": (manifest("sort", "ensembles"), "of the sort 'ensembles'"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_ensemble_is_refused(damage: str, three: list[MultiTaskModel], tmp_path: Path) -> None:
    Ensemble(three[:2]).save(tmp_path / "bad")
    change, told = DAMAGE[damage]
    change(tmp_path / "bad")
    with pytest.raises(AllroundError) as caught:
        load(tmp_path / "bad")
    assert told in str(caught.value) and caught.value.do
