"""What every system must hold: scores, answers to rows of several tasks, and folders that come back as they were."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from allround.core.errors import AllroundError
from allround.core.files import hash_file
from allround.models.base import load_encoder
from allround.models.batch import Answers
from allround.models.encoder import Encoder
from allround.models.encoders.small_image import SmallImage
from allround.models.model import parameters_of
from allround.models.system import System, load, windows
from allround.models.systems.multi_task_model import MultiTaskModel, open_model
from allround.models.systems.zipped import Zipped, copies
from allround.tasks.kind import kind
from allround.tasks.suite import Suite
from allround.tasks.values import Row


def made_of(encoder: Encoder, suite: Suite, names: list[str], seed: int = 0) -> MultiTaskModel:
    """A model with random heads."""
    model = MultiTaskModel(encoder, {name: suite.tasks[name].definition for name in names})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in names:
            for parameter in model.head(name).parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture
def digits(small_image: SmallImage, digits_suite: Suite) -> MultiTaskModel:
    return made_of(copy.deepcopy(small_image), digits_suite, list(digits_suite.tasks))


@pytest.fixture
def texts(bert_folder: Path, text_suite: Suite) -> MultiTaskModel:
    return made_of(load_encoder(bert_folder), text_suite, list(text_suite.tasks))


def rows_of(suite: Suite, task: str, count: int = 12) -> list[Row]:
    return list(suite.tasks[task].splits["test"].inputs[:count])


def same(one: Answers, other: Answers) -> bool:
    pairs = list(zip(one.predictions, other.predictions, strict=True))
    sure = None if one.confidence is None else pytest.approx(one.confidence, 1e-4)
    return bool(other.confidence == sure) and all(np.allclose(a, b, atol=1e-4) for a, b in pairs)


# Scores.


def test_scores_are_of_every_label_the_most_probable_first(digits: MultiTaskModel, digits_suite: Suite) -> None:
    rows = rows_of(digits_suite, "digit")
    labels = digits.definitions["digit"].labels
    expected = digits.outputs("digit", rows).logits.softmax(-1)
    answers = digits.predict("digit", rows)
    found = digits.predict("digit", rows, scores=True)
    for scores, row, answer in zip(found, expected, answers, strict=True):
        assert set(scores) == set(labels) and sum(scores.values()) == pytest.approx(1, abs=1e-5)
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
        assert next(iter(scores)) == answer, "the answer is the most probable"
        assert [scores[label] for label in labels] == pytest.approx(row.tolist(), abs=1e-6)
        assert all(type(value) is float for value in scores.values()), "so that they can be written as JSON"
    few = digits.predict("digit", rows, scores=True, top=3)
    assert [list(one.items()) for one in few] == [list(one.items())[:3] for one in found]
    assert digits.predict("digit", rows, scores=True, top=99) == found


def test_scores_of_labels_that_do_not_exclude_each_other(digits: MultiTaskModel, digits_suite: Suite) -> None:
    rows = rows_of(digits_suite, "segments")
    expected = digits.outputs("segments", rows).logits.sigmoid()
    labels = digits.definitions["segments"].labels
    answers = digits.predict("segments", rows)
    for scores, row, answer in zip(digits.predict("segments", rows, scores=True), expected, answers, strict=True):
        assert [scores[label] for label in labels] == pytest.approx(row.tolist(), abs=1e-6)
        assert {label for label, value in scores.items() if value > 0.5} == set(answer)


def test_scores_of_tasks_per_word_are_a_list_for_each_row(texts: MultiTaskModel, text_suite: Suite) -> None:
    rows = [*rows_of(text_suite, "names", 5), ([],)]
    answers = texts.predict("names", rows)
    found = texts.predict("names", rows, scores=True, top=2)
    assert [len(one) for one in found] == [len(words) for (words,) in rows]
    for scores, tags in zip(found, answers, strict=True):
        assert [next(iter(one)) for one in scores] == tags
        assert all(len(one) == 2 for one in scores)


def test_equal_scores_come_in_the_order_of_the_labels(digits: MultiTaskModel, digits_suite: Suite) -> None:
    digits.head("digit").reset()
    (scores,) = digits.predict("digit", rows_of(digits_suite, "digit", 1), scores=True)
    assert list(scores) == list(digits.definitions["digit"].labels)
    assert list(scores.values()) == pytest.approx([0.1] * 10)


def test_scores_that_there_are_none_of(digits: MultiTaskModel, digits_suite: Suite) -> None:
    rows = rows_of(digits_suite, "ink", 2)
    with pytest.raises(AllroundError, match="a task of the kind regression has no labels to score"):
        digits.predict("ink", rows, scores=True)
    with pytest.raises(AllroundError, match="top must be at least 1"):
        digits.predict("digit", rows, scores=True, top=0)
    with pytest.raises(AllroundError, match="no scores are wanted") as caught:
        digits.predict("digit", rows, top=3)
    assert caught.value.do == "give scores=True and top=1 or more"
    assert digits.predict("digit", [], scores=True, top=3) == []
    with pytest.raises(AllroundError, match="did you mean 'digit'"):
        digits.predict("digits", rows, scores=True)


# Rows of one task, and of several.


def mixed(suite: Suite, names: list[str], each: int = 4) -> tuple[list[str], list[Row]]:
    """Rows of several tasks by turns."""
    pairs = [(name, rows_of(suite, name, each)[n]) for n in range(each) for name in names]
    return [name for name, _ in pairs], [row for _, row in pairs]


@pytest.mark.parametrize("suite", ["digits_suite", "text_suite"])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_rows_of_several_tasks_are_answered_as_each_alone(
    suite: str, batch_size: int, request: pytest.FixtureRequest
) -> None:
    model: MultiTaskModel = request.getfixturevalue("digits" if suite == "digits_suite" else "texts")
    found: Suite = request.getfixturevalue(suite)
    tasks, rows = mixed(found, list(found.tasks))
    answers = model.answer_mixed(tasks, rows, batch_size=batch_size)
    assert len(answers) == len(rows)
    for task, row, answer in zip(tasks, rows, answers, strict=True):
        alone = model.answers(task, [row])
        assert len(answer) == 1 and same(answer, alone)
        assert np.shape(answer.predictions[0]) == np.shape(alone.predictions[0])
        assert kind(model.definitions[task].kind).decode(alone.predictions, model.definitions[task])
    asked = {name: [n for n, other in enumerate(tasks) if other == name] for name in dict.fromkeys(tasks)}
    together = model.answer_asked(asked, rows, batch_size=batch_size)
    for name, one in System.answer_asked(model, asked, rows).items():
        assert same(one, together[name]), "as by what any system does"


def test_tasks_that_read_alike_share_batches(
    digits: MultiTaskModel, digits_suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    read = SmallImage.forward

    def forward(self: SmallImage, batch: object) -> object:
        sizes.append(batch.size)  # type: ignore[attr-defined]
        return read(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(SmallImage, "forward", forward)
    tasks, rows = mixed(digits_suite, list(digits_suite.tasks))
    digits.answer_mixed(tasks, rows)
    assert sizes == [12], "three tasks, one batch"


def test_wrong_rows_of_several_tasks_are_refused(digits: MultiTaskModel, digits_suite: Suite) -> None:
    (row,) = rows_of(digits_suite, "digit", 1)
    with pytest.raises(AllroundError, match="did you mean 'ink'"):
        digits.answer_mixed(["digit", "inc"], [row, row])
    with pytest.raises(AllroundError, match="has 2 parts"):
        digits.answer_mixed(["digit", "ink"], [row, row * 2])
    assert digits.answer_mixed([], []) == []


def test_a_task_need_not_be_named_where_there_is_one(
    small_image: SmallImage, digits: MultiTaskModel, digits_suite: Suite
) -> None:
    rows = rows_of(digits_suite, "digit")
    one = made_of(copy.deepcopy(small_image), digits_suite, ["digit"])
    assert same(Answers.join(list(one.answer(None, rows))), one.answers("digit", rows))
    with pytest.raises(AllroundError, match="cannot tell which one is meant") as caught:
        list(digits.answer(None, rows))
    assert all(name in caught.value.do for name in digits_suite.tasks)


def test_rows_come_a_window_at_a_time(
    digits: MultiTaskModel, digits_suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole files are read as they are answered, and never held."""
    rows, read = rows_of(digits_suite, "digit", 10), []
    monkeypatch.setattr(windows, "__defaults__", (4,))

    def given() -> object:
        for row in rows:
            read.append(row)
            yield row

    parts = digits.answer("digit", given())  # type: ignore[arg-type]
    first = next(parts)
    assert len(first) == 4 and len(read) == 4
    rest = list(parts)
    assert [len(part) for part in rest] == [4, 2]
    assert same(Answers.join([first, *rest]), digits.answers("digit", rows))


def test_a_batch_knows_its_tasks_and_targets(digits: MultiTaskModel, digits_suite: Suite) -> None:
    """The losses of a batch are those that each task has on its own rows."""
    tasks = digits_suite.tasks
    rows = rows_of(digits_suite, "digit", 6)
    prepared = digits.prepare("digit", rows)
    places = {"digit": [0, 2, 3], "ink": [1, 2, 5], "segments": [4]}
    targets = {name: tasks[name].splits["test"].take(where).targets for name, where in places.items()}
    batch = digits.collate(prepared, places, targets)
    assert batch.task is None and batch.size == 6
    assert batch.rows == {name: tuple(where) for name, where in places.items()}
    assert {name: one.rows for name, one in batch.targets.items()} == batch.rows
    alone = digits.collate(prepared, {"ink": range(6)})
    assert alone.task == "ink" and not alone.targets
    with torch.no_grad():
        features = digits.features(batch)
        losses = digits.losses(batch)
        again = digits.losses(batch, features)
    assert list(losses) == list(places)
    for name, where in places.items():
        head = digits.head(name)
        with torch.no_grad():
            expected = head.loss(features.take(where, 6), head.tensor(targets[name]))
        assert losses[name].count == expected.count == len(where)
        assert torch.equal(losses[name].mean, expected.mean) and torch.equal(again[name].mean, expected.mean)


def test_validation_gives_the_answers_and_the_mean_loss(texts: MultiTaskModel, text_suite: Suite) -> None:
    for name, task in text_suite.tasks.items():
        split = task.splits["validation"]
        prepared = texts.prepare(name, split.inputs)
        answers, loss = texts.validate(name, prepared, split.targets, 5)
        assert same(answers, texts.answers(name, split.inputs))
        outputs = texts.outputs(name, split.inputs).logits
        head = texts.head(name)
        expected = head.likelihood.loss(outputs, head.tensor(split.targets))  # type: ignore[union-attr, operator]
        assert loss == pytest.approx(float(expected), rel=1e-4)


# Models that share their first layers.


@pytest.fixture
def zipped(small_image: SmallImage, digits_suite: Suite) -> Zipped:
    torch.manual_seed(0)
    own = {"layers.7.weight": torch.randn(128, 128, 3, 3) / 30}
    encoders = copies(copy.deepcopy(small_image), [{}, own])
    pairs = zip(encoders, (["digit", "ink"], ["segments"]), strict=True)
    made = Zipped([made_of(one, digits_suite, names, seed) for seed, (one, names) in enumerate(pairs)])
    made.facts = {"made_by": {"zipped_by": "hand"}}
    return made


def shared_by(system: Zipped) -> set[str]:
    first, other = (dict(encoder.named_parameters()) for encoder in system.encoders)
    return {name for name, tensor in first.items() if tensor is other[name]}


def test_a_zipped_system_comes_back_with_what_it_shares(zipped: Zipped, digits_suite: Suite, tmp_path: Path) -> None:
    zipped.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert isinstance(loaded, Zipped) and loaded.definitions == zipped.definitions and loaded.facts == zipped.facts
    every = set(dict(zipped.encoders[0].named_parameters()))
    assert shared_by(zipped) == shared_by(loaded) == every - {"layers.7.weight"}
    for name in digits_suite.tasks:
        rows = rows_of(digits_suite, name)
        assert torch.equal(
            loaded.member(name).outputs(name, rows).logits, zipped.member(name).outputs(name, rows).logits
        )
        assert loaded.predict(name, rows) == zipped.predict(name, rows) == zipped.member(name).predict(name, rows)
    own = load_file(tmp_path / "model" / "tails.safetensors")
    assert list(own) == ["1.layers.7.weight"], "what is shared is kept once"
    one = parameters_of(zipped.encoders[0])
    heads = sum(parameters_of(zipped.member(name).head(name)) for name in digits_suite.tasks)
    assert zipped.cost().parameters_stored == loaded.parameters_stored == one + own["1.layers.7.weight"].numel() + heads
    assert zipped.cost(["segments"]).parameters_used == one + parameters_of(zipped.member("segments").head("segments"))
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_a_zipped_system_saves_as_the_same_bytes(zipped: Zipped, tmp_path: Path) -> None:
    zipped.save(tmp_path / "one")
    load(tmp_path / "one").save(tmp_path / "two")
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.safetensors")]
    assert len(files) == 3
    assert all(hash_file(tmp_path / "one" / file) == hash_file(tmp_path / "two" / file) for file in files)


def test_a_zipped_system_that_moves_keeps_what_it_shares(zipped: Zipped) -> None:
    before = shared_by(zipped)
    assert zipped.to("cpu") is zipped and shared_by(zipped) == before
    buffers = [dict(encoder.named_buffers()) for encoder in zipped.encoders]
    assert all(tensor is buffers[1][name] for name, tensor in buffers[0].items())


@pytest.mark.parametrize(("dtype", "close"), [("float16", 2e-3), ("bfloat16", 2e-2), ("float64", 1e-6)])
def test_a_zipped_system_is_read_in_float32_whatever_it_is_stored_as(
    zipped: Zipped, digits_suite: Suite, tmp_path: Path, dtype: str, close: float
) -> None:
    zipped.save(tmp_path / "model")
    for file in ("encoder/model.safetensors", "tails.safetensors"):
        tensors = load_file(tmp_path / "model" / file)
        save_file({name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()},
                  tmp_path / "model" / file, {"format": "pt"})  # fmt: skip
    loaded = load(tmp_path / "model")
    assert isinstance(loaded, Zipped)
    assert {tensor.dtype for encoder in loaded.encoders for tensor in encoder.parameters()} == {torch.float32}
    for name in digits_suite.tasks:
        rows = rows_of(digits_suite, name)
        found, expected = (one.member(name).outputs(name, rows).logits for one in (loaded, zipped))
        assert torch.allclose(found, expected, atol=close * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"1.layers.7.weight": torch.zeros(128, 128, 3, 3, dtype=torch.int8)}, "'1.layers.7.weight' in its tails"),
        ({"1.layers.7.weight": torch.zeros(2, 2)}, "'1.layers.7.weight' in its tails"),
        ({"2.layers.7.weight": torch.zeros(128, 128, 3, 3)}, "'2.layers.7.weight' in its tails"),
        ({"0.layers.7.weight": torch.zeros(128, 128, 3, 3)}, "'0.layers.7.weight' in its tails"),
        ({"1.layers.99.weight": torch.zeros(1)}, "'1.layers.99.weight' in its tails"),
        ({"weight": torch.zeros(1)}, "'weight' in its tails"),
    ],
    ids=["whole numbers", "shape", "no such member", "the first", "no such weight", "no member"],
)
def test_tails_of_something_else_are_refused(
    zipped: Zipped, tmp_path: Path, tensors: dict[str, torch.Tensor], words: str
) -> None:
    zipped.save(tmp_path / "model")
    save_file(tensors, tmp_path / "model" / "tails.safetensors", {"format": "pt"})
    with pytest.raises(AllroundError, match=words) as caught:
        load(tmp_path / "model")
    assert str(tmp_path / "model") in caught.value.asked and caught.value.do == "copy the folder again, whole"


@pytest.mark.parametrize(
    "members", [None, 3, [["digit"]], [["digit", "ink"], ["segments", "digit"]], [["digit", "ink"], [3]], ["digit"]],
    ids=str,
)  # fmt: skip
def test_members_that_do_not_answer_the_tasks_are_refused(zipped: Zipped, tmp_path: Path, members: object) -> None:
    import json

    zipped.save(tmp_path / "model")
    path = tmp_path / "model" / "allround.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "members": members}))
    with pytest.raises(AllroundError, match="does not say which member answers each task"):
        load(tmp_path / "model")


def test_a_system_of_an_unknown_sort_is_refused(digits: MultiTaskModel, tmp_path: Path) -> None:
    import json

    digits.save(tmp_path / "model")
    path = tmp_path / "model" / "allround.json"
    about = json.loads(path.read_text())
    assert "sort" not in about, "what has always been there is written as it always was"
    for sort, words in (("ziped", "did you mean 'zipped'"), ("../zipped", "of the sort '../zipped'"), (3, "damaged")):
        path.write_text(json.dumps({**about, "sort": sort}))
        with pytest.raises(AllroundError, match=words):
            load(tmp_path / "model")


def test_a_system_of_several_encoders_is_no_model_of_one(zipped: Zipped, tmp_path: Path) -> None:
    zipped.save(tmp_path / "model")
    with pytest.raises(AllroundError, match="a system of the sort 'zipped'"):
        open_model(tmp_path / "model")


def test_heads_of_a_name_that_modules_have(small_image: SmallImage, digits_suite: Suite) -> None:
    """`training` is a flag of every module, and may be the name of a task."""
    model = made_of(copy.deepcopy(small_image), digits_suite, ["digit"])
    assert isinstance(model.heads, nn.ModuleDict)
    assert model.train().heads.training and not model.eval().heads.training
