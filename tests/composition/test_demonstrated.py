"""Demonstrations: what is chosen follows hand computations, rows answer as alone, and folders come back."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer
from tests.models.language import save_model
from typer.testing import CliRunner

from allround.building import Options, build
from allround.building.single import evaluate, train
from allround.cli.app import app
from allround.composition.demonstrating import Demonstrations, make_demonstrations
from allround.composition.demonstrations.coverage import greedy
from allround.composition.demonstrations.learned import Learned, ranking_loss
from allround.composition.examples import EXAMPLES, row_text
from allround.composition.presenting import Presenter
from allround.composition.shown_model import ShownModel, others
from allround.composition.systems.demonstrated import LEARNED, Demonstrated, demonstrate
from allround.core import registry
from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.models.encoder import Encoder
from allround.models.encoders.small_image import SmallImage
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training.settings import Settings

WORDS = ["parcel", "late", "lost", "again", "seen", "question", "answer", "came"]
#: A cheap setting of each way.
WAYS = ["random", "similarity:count=2", "similarity:count=2;tasks=all", "bm25", "coverage", "coverage:together=false",
        "cross_task:count=2", "cross_task:pseudo=3;count=2", "learned:queries=8;candidates=2;rounds=2"]  # fmt: skip


def _task(name: str, targets: list[object], **facts: object) -> Task:
    rng = np.random.default_rng(len(name))
    rows = [{"m": f"{' '.join(rng.choice(WORDS, 4))} {n}", "t": one} for n, one in enumerate(targets)]
    splits = {"train": rows, "validation": rows[:2], "test": rows[:4]}
    return make_task(name, data=splits, inputs="m", target="t", **facts)


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return [
        _task("topic", ["a", "b"] * 5, kind="classification", prompt="Message: {m}\nTopic:",
              choices={"a": "late", "b": "lost"}, instruction="Sort it."),
        _task("say", ["12", "19", "7", "late"] * 2, kind="text", prompt="{m} =", max_new_tokens=4),
        _task("many", [["a"], ["b"], ["a", "b"], []], kind="multilabel", prompt="{m}?"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_encoder(save_model(tmp_path_factory.mktemp("demonstrated"), "llama"))


@pytest.fixture(scope="module")
def model(encoder: Encoder, tasks: list[Task]) -> MultiTaskModel:
    made = MultiTaskModel(encoder, {})
    for task in tasks:
        made.add_task(task.definition)
    return made


@pytest.fixture(scope="module")
def system(model: MultiTaskModel, tasks: list[Task]) -> Callable[[str], Demonstrated]:
    made: dict[str, Demonstrated] = {}
    return lambda way: made.setdefault(way, demonstrate(model, tasks, way))


def test_every_way_is_among_those_that_are_tested() -> None:
    assert {way.partition(":")[0] for way in WAYS} == set(registry.names("demonstrations"))


@pytest.mark.parametrize("way", WAYS)
def test_rows_answer_as_alone_and_folders_come_back(
    system: Callable[[str], Demonstrated], tasks: list[Task], way: str, tmp_path: Path
) -> None:
    made = system(way)
    made.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert isinstance(again, Demonstrated) and again.way.bank.examples == made.way.bank.examples
    for task in tasks:
        rows = task.splits["test"].inputs
        together = made.answers(task.name, rows, scores=task.name == "topic")
        alone = [made.answers(task.name, [row], scores=task.name == "topic") for row in rows]
        saved = again.answers(task.name, rows, scores=task.name == "topic")
        for row, one in enumerate(alone):
            assert np.array_equal(one.predictions[0], together.predictions[row])
            assert np.array_equal(saved.predictions[row], together.predictions[row])
        if task.name == "topic":
            np.testing.assert_allclose(together.scores, np.concatenate([one.scores for one in alone]), atol=1e-5)
            np.testing.assert_allclose(together.scores, saved.scores, atol=1e-5)
            assert made.chosen("topic", rows) == again.chosen("topic", rows)
            assert all(len(some) == made.way.count == len(set(some)) for some in made.chosen("topic", rows))


def test_an_answer_is_that_of_the_prompt_with_its_examples(
    system: Callable[[str], Demonstrated], model: MultiTaskModel, tasks: list[Task]
) -> None:
    made = system("similarity:count=2")
    row = ("the parcel came late",)
    shown = made.chosen("topic", [row])[0]
    said = "".join(f"Sort it.\nMessage: {one.text}\nTopic: {one.answer}\n\n" for one in reversed(shown))
    asked = make_task("topic", data={name: [{"m": "a", "t": "a"}, {"m": "b", "t": "b"}] for name in tasks[0].splits},
                      inputs="m", target="t", kind="classification", choices={"a": "late", "b": "lost"},
                      prompt=said + "Sort it.\nMessage: {m}\nTopic:")  # fmt: skip
    plain = MultiTaskModel(model.encoder, {"topic": asked.definition})
    np.testing.assert_allclose(made.answers("topic", [row], scores=True).scores,
                               plain.answers("topic", [row], scores=True).scores, atol=1e-5)  # fmt: skip
    bare = model.answers("topic", [row], scores=True).scores
    assert not np.allclose(bare, made.answers("topic", [row], scores=True).scores, atol=1e-3), "they make a difference"
    np.testing.assert_allclose(model.answers("many", [row]).predictions, made.answers("many", [row]).predictions)


def test_another_task_speaks_with_its_own_prompt(system: Callable[[str], Demonstrated]) -> None:
    made = system("cross_task:count=2")
    (shown,) = made.chosen("say", [("late again 3",)])
    assert {one.task for one in shown} == {"topic"}
    ids = made.presenter.prepared("say", [("late again 3",)], [shown])[0].prompts[0]
    text = made.model.encoder.tokenizer.decode(ids)
    assert text.count("Sort it.\nMessage: ") == 2 and text.endswith("late again 3 =")


def test_examples_that_do_not_fit_are_left_out_and_the_row_is_whole(
    system: Callable[[str], Demonstrated], encoder: Encoder
) -> None:
    made = system("similarity:count=2")
    row = ("parcel " * 45,)
    (shown,) = made.chosen("topic", [row])
    prepared = made.presenter.prepared("topic", [row], [list(shown) * 20])[0]
    assert not prepared.cut and 128 < prepared.length <= encoder.max_length
    best = made.presenter.prepared("topic", [row], [[shown[0]]])[0].texts[0]
    assert prepared.texts[0].endswith(best), "the best one stays, next to the question"


# -- the ways ----------------------------------------------------------------------------------------------------------


def test_cosines_are_those_of_the_mean_states(system: Callable[[str], Demonstrated], encoder: Encoder) -> None:
    made = system("similarity:count=2")

    @torch.inference_mode()
    def mean(text: str) -> torch.Tensor:
        ids = encoder.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        return encoder.backbone(ids, output_hidden_states=True).hidden_states[1][0].mean(0)  # of 2 layers

    text = "late parcel"
    numbers = made.way.bank.of("say")
    wanted = [float(torch.cosine_similarity(mean(text), mean(made.way.bank.examples[n].text), dim=0)) for n in numbers]
    order = sorted(numbers, key=lambda n: -wanted[numbers.index(n)])
    assert made.way.choose("say", [text]) == [order[:2]]


def test_bm25_is_its_formula(system: Callable[[str], Demonstrated]) -> None:
    made = system("bm25")
    texts = [one.text for one in made.way.bank.examples if one.task == "topic"]
    words = CountVectorizer(token_pattern=r"\w+").fit(texts)
    query = "late lost parcel nowhere"

    def score(text: str) -> float:
        counts, length = Counter(words.build_analyzer()(text)), len(text.split())
        mean = np.mean([len(one.split()) for one in texts])
        total = 0.0
        for word in query.split():
            inside = sum(word in one.split() for one in texts)
            rare = np.log(1 + (len(texts) - inside + 0.5) / (inside + 0.5))
            total += rare * counts[word] * 2.5 / (counts[word] + 1.5 * (0.25 + 0.75 * length / mean))
        return total

    found = [made.way.bank.examples[n].text for n in made.way.choose("topic", [query])[0]]
    wanted = sorted((score(text) for text in texts), reverse=True)[:4]
    np.testing.assert_allclose([score(text) for text in found], wanted, rtol=1e-4)


def test_coverage_takes_what_says_most_together() -> None:
    """By `decomposed_coverage_greedy` of Shivanshu-Gupta/icl-coverage, worked by hand: alone 1.0, 1.05, 0.9; with the
    second the others make 1.15 and 1.4, then nothing grows the set, and it is begun anew."""
    recall = np.array([[0.5, 0.5, 0.0], [0.35, 0.35, 0.35], [0.0, 0.2, 0.7]], dtype=np.float32)
    assert greedy(recall, 3) == [1, 2, 0]
    assert greedy(np.array([[1.0, 0.0], [0.9, 0.0], [0.0, 0.1]], dtype=np.float32), 3) == [0, 2, 1]
    rng = np.random.default_rng(0)
    values = rng.random((30, 8)).astype(np.float32)
    chosen = greedy(values, 6)
    sets = [values[chosen[:n]].max(0).sum() for n in range(1, 7)]
    gains = np.diff([0, *sets])
    assert (np.diff(gains) <= 1e-5).all(), "each one adds less than the one before"


def test_coverage_by_tokens(system: Callable[[str], Demonstrated]) -> None:
    way = system("coverage:together=false").way
    (own,) = way.reader.tokens(["late again"])
    numbers = way.bank.of("topic")
    recalls = [(own @ some.T).max(1).mean() for some in way.reader.tokens(way.bank.texts(numbers))]
    assert way.choose("topic", ["late again"])[0][0] == numbers[int(np.argmax(recalls))]
    np.testing.assert_allclose(np.linalg.norm(own, axis=1), 1, atol=1e-5)
    together = system("coverage").way.choose("topic", ["late again parcel seen"])
    alone = way.choose("topic", ["late again parcel seen"])
    assert together[0][0] == alone[0][0] and together != alone


def test_pseudo_labels_look_at_no_label_of_the_task(model: MultiTaskModel, tasks: list[Task]) -> None:
    flipped = [_task("topic", ["b", "a"] * 5, kind="classification", prompt="Message: {m}\nTopic:",
                     choices={"a": "late", "b": "lost"}, instruction="Sort it."), *tasks[1:]]  # fmt: skip
    one, other = (demonstrate(model, some, "cross_task:pseudo=4") for some in (tasks, flipped))
    assert [e for e in one.way.bank.examples if e.task == "topic"] == \
        [e for e in other.way.bank.examples if e.task == "topic"]  # fmt: skip
    assert {e.answer for e in one.way.bank.examples if e.task == "topic"} <= {"late", "lost"}
    with pytest.raises(AllroundError, match="two tasks or more"):
        demonstrate(model, tasks[:1], "cross_task")


# -- the learned retriever ---------------------------------------------------------------------------------------------


def test_the_ranking_loss_is_the_authors() -> None:
    """`lambda_mrr_loss` of KaiLv69/UDR on the same scores (labels 1, 1/2, 1/3), worked by hand: reciprocal ranks by the
    scores are 1/2, 1, 1/3."""
    pairs = [(1.0, 1 / 2), (-1.0, 1 / 2 - 1 / 3), (-2.0, 1 - 1 / 3)]  # lower minus higher, and difference of ranks
    wanted = np.mean([weight * np.log1p(np.exp(apart)) for apart, weight in pairs])
    assert float(ranking_loss(torch.tensor([[1.0, 2.0, 0.0]]))) == pytest.approx(wanted, abs=1e-6)
    right, wrong = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    assert float(ranking_loss(right)) < float(ranking_loss(wrong))


def test_likelihoods_are_those_of_the_right_answers(model: MultiTaskModel, tasks: list[Task]) -> None:
    presenter = Presenter(model)
    for task in tasks[:2]:
        split = task.splits["test"]
        found = presenter.log_likelihoods(task.name, split.inputs, split.targets, [[]] * len(split))
        for number in range(len(split)):
            one = split.take([number])
            if task.name == "topic":
                scores = model.answers(task.name, one.inputs, scores=True).scores
                wanted = float(np.log(scores[0][int(one.targets[0])]))
            else:
                prepared = model.prepare(task.name, one.inputs, one.targets)
                batch = model.collate(prepared, {task.name: [0]}, {task.name: one.targets})
                wanted = -float(model.losses(batch)[task.name].mean.detach())
            assert found[number] == pytest.approx(wanted, abs=1e-4)


def test_the_retriever_learns_what_helps_and_never_gets_worse(
    model: MultiTaskModel, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is helped by examples whose text has the word "late" teaches the retriever to prefer them."""

    def helped(self: Presenter, task: str, rows: object, targets: object, examples: list[list[object]]) -> np.ndarray:
        return np.array([sign * float("late" in some[0].text) for some in examples])  # type: ignore[attr-defined]

    monkeypatch.setattr(Presenter, "log_likelihoods", helped)
    rows = [_task("topic", ["a", "b"] * 30, kind="classification", prompt="{m}")]
    own = MultiTaskModel(model.encoder, {"topic": rows[0].definition})

    def share(way: Demonstrations) -> float:
        chosen = way.choose("topic", [f"seen {n}" for n in range(20)])
        return float(np.mean(["late" in way.bank.examples[n].text for some in chosen for n in some]))

    sign = 1.0
    before = share(demonstrate(own, rows, "similarity").way)
    after = demonstrate(own, rows, "learned:queries=40").way
    assert share(after) > max(before, 0.9)
    sign = 0.0  # nothing helps: then nothing is learned
    kept = demonstrate(own, rows, "learned:queries=40").way
    assert isinstance(kept, Learned) and torch.equal(kept.maps[0], torch.eye(32))


# -- what users do -----------------------------------------------------------------------------------------------------


def test_evaluate_shows_demonstrations(tmp_path: Path, tasks: list[Task]) -> None:
    folder = save_model(tmp_path / "model", "llama")
    suite = Suite("two", tasks[:2])
    plain = evaluate(folder, suite)
    shown = evaluate(folder, suite, demonstrations="coverage:count=2", save=tmp_path / "kept")
    assert set(shown.scores()) == set(plain.scores())
    kept = load(tmp_path / "kept")
    assert isinstance(kept, Demonstrated)
    rows = tasks[0].splits["test"]
    right = float(np.mean(np.asarray(kept.answers("topic", rows.inputs).predictions) == rows.targets))
    assert shown.scores()["model"]["topic"] == pytest.approx(right)
    with pytest.raises(AllroundError, match="did you mean 'coverage'"):
        evaluate(folder, suite, demonstrations="coverag")


def test_examples_are_put_by_the_prompt_of_the_question(tmp_path: Path) -> None:
    folder, way = save_model(tmp_path / "model", "llama"), "similarity:count=2"
    task = _task("say", ["12", "19", "7", "late"] * 2, kind="text", prompt=["{m} =", "Say {m}:"], max_new_tokens=4)
    suite = Suite("several", [task])
    board = evaluate(folder, suite, demonstrations=way)
    (said,) = board.notes["prompts"]
    prompt, alone = task.definition.prompt, []
    assert prompt is not None
    for place in range(2):
        one = replace(task, definition=replace(task.definition, prompt=prompt.using(place)))
        alone.append(evaluate(folder, Suite("one", [one]), demonstrations=way).scores()["model"]["say"])
    assert f"mean {100 * np.mean(alone):.1f}" in said


@pytest.mark.parametrize("way", ["random:count=3", "similarity:count=2;tasks=all", "bm25:count=2", "coverage:count=2"])
def test_a_row_is_never_shown_itself_while_it_is_learned(
    system: Callable[[str], Demonstrated], model: MultiTaskModel, tasks: list[Task], way: str
) -> None:
    made = system(way)
    split = tasks[1].splits["train"]
    found = others(made.way, "say", [*split.inputs, ("parcel late 99",)])
    *shown, new = [[one.text for one in some] for some in found]
    for text, some in zip([row_text(row) for row in split.inputs], shown, strict=True):
        assert text not in some and len(some) == len(set(some)) == made.way.count
        every = [made.way.bank.examples[n].text for n in _more(made.way).choose("say", [text])[0]]
        assert some == [one for one in every if one != text][: made.way.count], "the others stay in their order"
    assert new == [one.text for one in made.chosen("say", [("parcel late 99",)])[0]] or way.startswith("coverage")
    learning = ShownModel(made)
    (row,) = learning.prepare("say", split.inputs[:1], split.targets[:1])
    asked = made.presenter.prepared("say", split.inputs[:1], [found[0]], split.targets[:1])[0]
    assert row.prompts == asked.prompts and row.texts == asked.texts
    assert learning.preparation != model.preparation


def _more(way: Demonstrations) -> Demonstrations:
    more = copy.copy(way)
    more.count = way.count + 1
    return more


def test_a_model_is_trained_behind_demonstrations_and_saved_with_them(tmp_path: Path, tasks: list[Task]) -> None:
    base = save_model(tmp_path / "base", "llama")
    settings = Settings(epochs=1, batch_size=8, tune="lora", lora_rank=2, keep="last")
    shown = "similarity:count=2;tasks=all"
    board = train(Suite("two", tasks[:2]), out=tmp_path / "shown", base=base, settings=settings, demonstrations=shown)
    kept = load(tmp_path / "shown")
    assert isinstance(kept, Demonstrated) and kept.settings == {"count": 2, "tasks": "all"}
    rows = tasks[0].splits["test"]
    right = float(np.mean(np.asarray(kept.answers("topic", rows.inputs).predictions) == rows.targets))
    assert board.scores()["tuned"]["topic"] == pytest.approx(right)
    train(Suite("two", tasks[:2]), out=tmp_path / "plain", base=base, settings=settings)
    plain = load(tmp_path / "plain")
    assert isinstance(plain, MultiTaskModel)
    weights = [dict(one.encoder.named_parameters()) for one in (plain, kept.model)]
    assert any(not torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items()), "learned otherwise"


def test_a_build_has_systems_with_demonstrations(tmp_path: Path, tasks: list[Task]) -> None:
    base = save_model(tmp_path / "base", "llama")
    ways = ("similarity:count=2", "cross_task")
    options = Options(settings=Settings(epochs=1, batch_size=8, tune="lora", lora_rank=2), methods=(), joint=False,
                      demonstrations=ways, balance=(), baselines=False, workers=1, resamples=100)  # fmt: skip
    suite = Suite("three", [*tasks[:2], _task("later", ["a", "b"] * 3, kind="classification", prompt="{m}")])
    made = build(suite.holding_out("later"), out=tmp_path / "run", base=base, options=options)
    systems = {one.name: one for one in made.scoreboard.systems}
    for name in ("demonstrated-similarity-count=2", "demonstrated-cross_task"):
        assert set(made.scoreboard.cells[name]) == {"topic", "say", "later"}
        assert systems[name].cost.parameters_stored == systems["base"].cost.parameters_stored
    model = MultiTaskModel(load_encoder(base), {task.name: task.definition for task in suite})
    for way in ways:
        rows = suite["later"].splits["test"]
        shown = demonstrate(model, tasks[:2], way).answers("later", rows.inputs).predictions
        name = f"demonstrated-{way.replace(':', '-')}"
        right = float(np.mean(np.asarray(shown) == rows.targets))
        assert made.scoreboard.scores()[name]["later"] == pytest.approx(right), "no example is of a held-out task"


def test_other_models_are_refused(tasks: list[Task]) -> None:
    with pytest.raises(AllroundError, match="no language model"):
        demonstrate(MultiTaskModel(SmallImage(), {}), tasks, "random")
    with pytest.raises(AllroundError, match="at least"):
        make_demonstrations("random", {"count": 0})


@pytest.mark.parametrize("damage", ["task", "json", "state", "way"])
def test_damaged_folders_are_named(system: Callable[[str], Demonstrated], tmp_path: Path, damage: str) -> None:
    place = tmp_path / "saved"
    system("learned:queries=8;candidates=2;rounds=2").save(place)
    file = place / EXAMPLES
    if damage == "task":
        file.write_text(json.dumps({"task": "other", "inputs": ["a"], "answer": "b"}))
    elif damage == "json":
        file.write_text('{"task": "topic"}\n')
    elif damage == "state":
        (place / LEARNED).unlink()
    else:
        manifest = place / "allround.json"
        manifest.write_text(manifest.read_text().replace('"way": "learned"', '"way": "lerned"'))
    with pytest.raises(AllroundError, match="is damaged"):
        load(place)


def test_the_command_takes_a_way(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["methods", "list", "--family", "demonstrations"])
    assert result.exit_code == 0 and "coverage" in result.output
