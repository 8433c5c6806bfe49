"""What every sort of system holds: answers depend on their row alone, folders come back, costs add up."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.models.language import save_model

from allround.building.generative import identifiers_of, ngram_task, writing_task
from allround.building.rerank import judging_task
from allround.composition.residuals.write import open_specialist, write_store
from allround.composition.routing import make_routed
from allround.composition.systems.demonstrated import demonstrate
from allround.composition.systems.residual_store import ResidualStore
from allround.composition.systems.routed import Member
from allround.continual.learner import begin
from allround.continual.strategy import strategy_of
from allround.continual.stream import Arrival, of_labels
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import MANIFEST
from allround.models.base import load_encoder
from allround.models.batch import Answers
from allround.models.boosting import fit_trees
from allround.models.calibration import confidence
from allround.models.encoders.small_image import SmallImage
from allround.models.encoders.small_table import SmallTable
from allround.models.head import make_head
from allround.models.plain.fit import fit_linear
from allround.models.plain.linear import TaskLinear
from allround.models.robust_boosting import RobustSettings, fit_robust
from allround.models.system import System, load
from allround.models.systems.ensemble import Ensemble
from allround.models.systems.generative_retrieval import GenerativeRetrieval
from allround.models.systems.linear_models import LinearModels
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.systems.ngram_retrieval import NgramRetrieval
from allround.models.systems.reranked import Reranked
from allround.models.systems.rmtgb import Rmtgb
from allround.models.systems.trees import Trees
from allround.models.systems.zipped import Zipped, copies
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.tasks.values import Row
from allround.training.settings import Settings


@dataclass
class Given:
    """What systems are made of in these tests."""

    digits: Suite
    tables: Suite
    texts: Suite
    image: SmallImage
    table: SmallTable
    folder: Path
    bert: Path


@pytest.fixture
def given(
    digits_suite: Suite,
    table_suite: Suite,
    text_suite: Suite,
    small_image: SmallImage,
    small_table: SmallTable,
    tmp_path: Path,
    bert_folder: Path,
) -> Given:
    return Given(digits_suite, table_suite, text_suite, small_image, small_table, tmp_path, bert_folder)


def model(encoder: SmallImage | SmallTable, suite: Suite, names: list[str], seed: int = 0) -> MultiTaskModel:
    """A model with random heads, of every sort in turn."""
    made, generator = MultiTaskModel(encoder, {}), torch.Generator().manual_seed(seed)
    sorts = [entry.name for entry in registry.entries("head") if entry.facts["reads"] == "vectors"]
    for name, sort in zip(names, itertools.cycle(sorts)):
        definition = suite.tasks[name].definition
        head = make_head(sort, definition, encoder.features(definition))
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        made.add_task(definition, head.stored())
    return made.eval()


def multi_task_model(given: Given) -> tuple[System, Suite]:
    return model(copy.deepcopy(given.image), given.digits, list(given.digits.tasks)), given.digits


def zipped(given: Given) -> tuple[System, Suite]:
    torch.manual_seed(0)
    encoders = copies(copy.deepcopy(given.image), [{}, {"layers.7.weight": torch.randn(128, 128, 3, 3) / 30}])
    names = list(given.digits.tasks)
    halves = zip(encoders, (names[:1], names[1:]), strict=True)
    return Zipped([model(one, given.digits, some, seed) for seed, (one, some) in enumerate(halves)]), given.digits


def trees(given: Given) -> tuple[System, Suite]:
    return Trees({name: fit_trees(task)[0] for name, task in given.tables.tasks.items()}), given.tables


#: Linear models by task: fitted once, and changed by no test.
LINEAR: dict[str, TaskLinear] = {}


def linear_models(given: Given) -> tuple[System, Suite]:
    texts = [given.texts.tasks[name] for name in ("alike", "topics", "names")]
    suite = Suite("mixed", [given.tables.tasks["petal"], given.digits.tasks["segments"], *texts])
    for name, task in suite.tasks.items():
        if name not in LINEAR:
            LINEAR[name] = fit_linear(task)[0]
    return LinearModels(LINEAR), suite


def ensemble(given: Given) -> tuple[System, Suite]:
    forest, suite = trees(given)
    first = list(suite.tasks)[:1]
    return Ensemble([forest, model(given.table, suite, list(suite.tasks)), model(given.table, suite, first, 1)]), suite


def residual_store(given: Given) -> tuple[System, Suite]:
    base = given.folder / "base"
    model(copy.deepcopy(given.image), given.digits, list(given.digits.tasks)[:1]).save(base)
    folders = []
    for seed, name in enumerate(given.digits.tasks):
        encoder = copy.deepcopy(given.image)
        with torch.no_grad():
            for parameter in encoder.parameters():
                torch.manual_seed(seed)
                parameter.add_(0.02 * torch.randn(parameter.shape))
        folders.append(given.folder / name)
        model(encoder, given.digits, [name], seed).save(folders[-1])
    specialists = [open_specialist(folder) for folder in folders]
    write_store(given.folder / "store", base, specialists, codec="low_rank")
    return load(given.folder / "store"), given.digits


def routed(given: Given) -> tuple[System, Suite]:
    base = given.folder / "routed-base"
    base.mkdir()
    given.image.save(base)
    members, heads = [], {}
    for seed, name in enumerate(given.digits.tasks):
        encoder = copy.deepcopy(given.image)
        with torch.no_grad():
            for parameter in encoder.parameters():
                torch.manual_seed(seed)
                parameter.add_(0.02 * torch.randn(parameter.shape))
        folder = given.folder / f"module-{name}"
        folder.mkdir()
        encoder.save(folder)
        members.append(Member(name, folder, (name,)))
        heads[name] = model(encoder, given.digits, [name], seed).head(name).stored()
    made = make_routed(base, members, given.digits.tasks, heads, router="classifier", router_settings={"steps": 20})
    return made, given.digits


def grown(given: Given) -> tuple[System, Suite]:
    """Two parts of one task, each with half of its labels, and one of another."""
    learner, digit = begin(copy.deepcopy(given.image), strategy_of("residual")), given.digits["digit"]
    learner.strategy = replace(learner.strategy, changes="heads")  # type: ignore[attr-defined]
    for name, labels in (("low", "01234"), ("high", "56789")):
        further = [given.digits["ink"]] if name == "high" else []
        arrival = Arrival(name, (of_labels(digit, list(labels)), *further))
        learner.learn(arrival, learner.strategy, Settings())  # type: ignore[attr-defined]
    return learner.system, Suite("two", [digit, given.digits["ink"]])


def rmtgb(given: Given) -> tuple[System, Suite]:
    petal = given.tables.tasks["petal"]
    suite = Suite("two", [petal, replace(petal, definition=petal.definition.with_facts({"name": "again"}))])
    return Rmtgb(fit_robust(list(suite), settings=RobustSettings(shared=6, grouped=2, own=2))[0]), suite


def demonstrated(given: Given) -> tuple[System, Suite]:
    data = {"train": [{"m": f"parcel {n}", "t": "ab"[n % 2]} for n in range(6)],
            "test": [{"m": f"late parcel {n} again", "t": "a"} for n in range(12)]}  # fmt: skip
    tasks = [make_task(name, kind="classification", data=data, inputs="m", target="t") for name in ("one", "two")]
    encoder = load_encoder(save_model(given.folder / "language", "llama"))
    made = MultiTaskModel(encoder, {task.name: task.definition for task in tasks})
    return demonstrate(made, tasks, "coverage:count=2"), Suite("texts", tasks)


def reranked(given: Given) -> tuple[System, Suite]:
    """Passages found by a tiny encoder of texts, and judged by another that reads them together with the query."""
    passages = {f"p{n}": f"the {animal} {verb} at the {place}" for n, (animal, verb, place) in enumerate(
        itertools.product(("cat", "dog", "owl"), ("saw", "was"), ("harbour", "valley")))}  # fmt: skip
    rows = [{"query": f"{text} today", "relevant": [one]} for one, text in passages.items()]
    task = make_task("find", kind="retrieval", data=dict.fromkeys(("train", "validation", "test"), rows),
                     inputs="query", target="relevant", passages=passages)  # fmt: skip
    finding = MultiTaskModel(load_encoder(given.bert), {"find": task.definition})
    made = judging_task(task, finding, candidates=4)
    judge = MultiTaskModel(load_encoder(given.bert, pairs="joint"), {})
    head = make_head("linear", made.definition, judge.encoder.features(made.definition))
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(0)))  # type: ignore[operator, union-attr, arg-type]
    judge.add_task(made.definition, head.stored())
    for name, one in (("finding", finding), ("judge", judge)):
        one.save(given.folder / name)  # what libraries write of a base is another file than what they write of that
    return Reranked(load(given.folder / "finding"), load(given.folder / "judge"), 4), Suite("search", [task])


def search_of_twelve() -> Task:
    """A search for twelve short passages."""
    passages = {f"p{n}": f"{animal} {verb} again" for n, (animal, verb) in enumerate(
        itertools.product(("parcel", "question", "answer"), ("saw", "was", "is", "came")))}  # fmt: skip
    rows = [{"query": f"Where is {text}?", "relevant": [one]} for one, text in passages.items()]
    return make_task("find", kind="retrieval", data=dict.fromkeys(("train", "validation", "test"), rows),
                     inputs="query", target="relevant", passages=passages)  # fmt: skip


def speaker(given: Given, written: Definition) -> MultiTaskModel:
    """A tiny language model that answers one task."""
    model = load_encoder(save_model(given.folder / "speaker", "llama"))
    MultiTaskModel(model, {written.name: written}).save(given.folder / "taught")
    return load(given.folder / "taught")  # type: ignore[return-value]


def generative_retrieval(given: Given) -> tuple[System, Suite]:
    """A tiny language model that writes the first words of passages."""
    task = search_of_twelve()
    identifiers = identifiers_of([task], None)
    taught = speaker(given, writing_task(task, identifiers).definition)
    return GenerativeRetrieval({"find": task.definition}, taught, identifiers, 5), Suite("search", [task])


def ngram_retrieval(given: Given) -> tuple[System, Suite]:
    """A tiny language model that writes n-grams of passages."""
    task = search_of_twelve()
    taught = speaker(given, ngram_task(task).definition)
    return NgramRetrieval({"find": task.definition}, taught, 5, 4), Suite("search", [task])


MADE: dict[str, Callable[[Given], tuple[System, Suite]]] = {
    "multi_task_model": multi_task_model,
    "zipped": zipped,
    "trees": trees,
    "linear_models": linear_models,
    "ensemble": ensemble,
    "rmtgb": rmtgb,
    "residual_store": residual_store,
    "routed": routed,
    "demonstrated": demonstrated,
    "reranked": reranked,
    "generative_retrieval": generative_retrieval,
    "ngram_retrieval": ngram_retrieval,
    "grown": grown,
}


def test_every_sort_is_here() -> None:
    assert sorted(MADE) == registry.names("system"), "a new sort of system is added to MADE, and so gets these tests"
    for name in MADE:
        made: type[System] = registry.load("system", name)  # type: ignore[assignment]
        assert issubclass(made, System) and made.sort == name


@pytest.fixture(params=sorted(MADE))
def case(request: pytest.FixtureRequest, given: Given) -> tuple[System, Suite]:
    return MADE[request.param](given)


def rows_of(suite: Suite, task: str, count: int = 10) -> list[Row]:
    return list(suite.tasks[task].splits["test"].inputs[:count])


def assert_same(one: Answers, other: Answers) -> None:
    """Equal answers; probabilities up to what sums in another order make of them."""
    for a, b in zip(one.predictions, other.predictions, strict=True):
        if isinstance(a, tuple):  # passages by their ids
            assert a == b
        else:
            np.testing.assert_allclose(a, b, atol=2e-4)
    assert (one.confidence is None) == (other.confidence is None)
    if one.confidence is not None:
        assert one.confidence == pytest.approx(other.confidence, abs=2e-4)


def test_an_answer_depends_on_its_row_alone(case: tuple[System, Suite]) -> None:
    system, suite = case
    for task in system.definitions:
        rows = rows_of(suite, task)
        whole = system.answers(task, rows)
        for number, row in enumerate(rows):
            assert_same(system.answers(task, [row]), whole.take([number]))
        for batch_size in (1, 3):
            assert_same(system.answers(task, rows, batch_size=batch_size), whole)
        assert_same(system.answers(task, rows[::-1]), whole.take(range(len(rows) - 1, -1, -1)))


def test_an_answer_is_the_same_among_rows_of_other_tasks(case: tuple[System, Suite]) -> None:
    system, suite = case
    names = list(system.definitions)
    tasks = [names[number % len(names)] for number in range(12)]
    rows = [rows_of(suite, task, 12)[number] for number, task in enumerate(tasks)]
    mixed = system.answer_mixed(tasks, rows)
    assert len(mixed) == len(rows)
    alike = [task for task in names if system.definition(task).inputs == system.definition(names[0]).inputs]
    together = system.answer_tasks(alike, rows_of(suite, names[0]), scores=True)
    assert list(together) == alike
    own = rows_of(suite, names[0])
    for task, found in together.items():
        assert_same(found, system.answers(task, own))
    asked = {task: range(number % 2, len(own), number % 3 + 1)[::-1] for number, task in enumerate(alike)}
    for task, found in system.answer_asked(asked, own, batch_size=3, scores=True).items():
        assert_same(found, system.answers(task, [own[number] for number in asked[task]]))
    for task, row, found in zip(tasks, rows, mixed, strict=True):
        assert_same(found, system.answers(task, [row]))


def test_a_saved_system_comes_back(case: tuple[System, Suite], tmp_path: Path) -> None:
    system, suite = case
    system.facts = {**system.facts, "made_by": {"hand": "test"}}
    system.save(tmp_path / "one")
    again = load(tmp_path / "one")
    assert type(again) is type(system) and again.definitions == system.definitions
    for task in system.definitions:
        rows = rows_of(suite, task)
        one, other = system.answers(task, rows, scores=True), again.answers(task, rows, scores=True)
        for a, b in zip(one.predictions, other.predictions, strict=True):
            assert np.array_equal(a, b)
        assert one.confidence == other.confidence
        assert (one.scores is None) == (other.scores is None)
        if one.scores is not None and other.scores is not None:
            assert all(np.array_equal(a, b) for a, b in zip(one.scores, other.scores, strict=True))
    again.save(tmp_path / "two")
    files = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert files == {path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*") if path.is_file()}
    for file in files:
        if file.name != MANIFEST:
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    if not isinstance(system, ResidualStore):
        assert again.facts["made_by"] == {"hand": "test"}


def test_costs_add_up(case: tuple[System, Suite]) -> None:
    system, _ = case
    names = list(system.definitions)
    whole, single = system.cost(), {name: system.cost([name]) for name in names}
    assert (
        system.cost(names).parameters_used == whole.parameters_used == max(c.parameters_used for c in single.values())
    )
    assert system.parameters_stored == whole.parameters_stored
    # What is shared counts once; what is a task's own adds up.
    shared = {name: sum(c.parameters_stored for c in single.values()) for name in names}
    assert (
        max(c.parameters_stored for c in single.values())
        <= whole.parameters_stored
        <= max(shared.values()) + len(names)
    )
    for count in range(1, len(names) + 1):
        for some in itertools.combinations(names, count):
            rest = [name for name in names if name not in some]
            assert system.cost(some).parameters_stored <= system.cost([*some, *rest[:1]]).parameters_stored
            assert all(single[name].parameters_used <= system.cost(some).parameters_used for name in some)


@pytest.mark.parametrize("sort", ["multi_task_model", "zipped"])
def test_costs_are_what_lies_on_disk(sort: str, given: Given, tmp_path: Path) -> None:
    system, _ = MADE[sort](given)
    system.save(tmp_path / "saved")
    stored = sum(t.numel() for file in (tmp_path / "saved").rglob("*.safetensors") for t in load_file(file).values())
    assert system.parameters_stored == stored


def test_scores_agree_with_the_answers(case: tuple[System, Suite]) -> None:
    system, suite = case
    for task, definition in system.definitions.items():
        if not kind(definition.kind).labelled:
            continue
        rows = rows_of(suite, task)
        best = system.predict(task, rows, scores=True, top=1)
        if definition.kind == "classification":
            assert [next(iter(one)) for one in best] == system.predict(task, rows)
        every = system.predict(task, rows, scores=True)
        if definition.kind == "token_classification":
            assert [len(one) for one in every] == [len(row[0]) for row in rows]  # type: ignore[arg-type]
            every = [one for row in every for one in row]
        assert all(set(one) == set(definition.labels) and all(0 <= p <= 1 for p in one.values()) for one in every)


def test_tasks_that_a_system_does_not_have_are_refused(case: tuple[System, Suite]) -> None:
    system, suite = case
    task = next(iter(system.definitions))
    with pytest.raises(AllroundError, match="answer task 'nothing'"):
        system.answers("nothing", rows_of(suite, task))
    with pytest.raises(AllroundError, match="input 0 has"):
        system.answers(task, [(1.0,) * 99])


def test_calibration_corrects_scores_and_confidences_and_leaves_answers(
    case: tuple[System, Suite], tmp_path: Path
) -> None:
    """Also of a saved folder, and whether or not scores are asked for."""
    system, suite = case
    tasks = [name for name in suite.tasks if kind(system.definition(name).kind).labelled]
    plain = {name: system.answers(name, rows_of(suite, name), scores=True) for name in tasks}
    fitted = {name: {"temperature": 0.5 + number, "noise": 0.1} for number, name in enumerate(tasks)}
    system.facts["calibration"] = fitted
    system.save(tmp_path / "saved")
    for one in (system, load(tmp_path / "saved")):
        for name, before in plain.items():
            definition, rules = system.definition(name), kind(system.definition(name).kind)
            after = one.answers(name, rows_of(suite, name), scores=True)
            even = 0.5 if definition.kind == "multilabel" else 1 / len(definition.labels)
            parts = before.scores if isinstance(before.scores, list) else [np.asarray(before.scores)]
            tables = [0.9 * rules.tempered(part, fitted[name]["temperature"]) + 0.1 * even for part in parts]
            wanted = tables if isinstance(before.scores, list) else tables[0]
            for got, table in zip(after.scores if rules.per_token else [after.scores], tables, strict=True):
                np.testing.assert_allclose(np.asarray(got), table, atol=1e-5)
            assert list(map(np.ndarray.tolist, map(np.asarray, after.predictions))) == [
                one.tolist() for one in map(np.asarray, before.predictions)
            ]
            sure = confidence(wanted, before.predictions, definition)
            unasked = one.answers(name, rows_of(suite, name))
            assert unasked.scores is None
            (together,) = one.answer_tasks([name], rows_of(suite, name)).values()
            for found in (after, unasked, together, *one.answer_mixed([name], rows_of(suite, name)[:1])):
                assert found.confidence == pytest.approx(sure[: len(found)], abs=1e-5)
