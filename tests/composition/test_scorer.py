"""What the scorer learns and picks, beside scikit-learn and computations by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.composition.library import Library, make_library
from torch import Tensor

from allround.composition.combining import make_combine
from allround.composition.module_answers import ModuleAnswers, answer_text, module_answers
from allround.composition.route import scorer
from allround.composition.route.scorer import PENALTIES, SURE, Pairs, Scorer, agreement, bilinear, solved
from allround.composition.router import CannotRoute, RouteRows, Seen, make_router
from allround.composition.systems.routed import Routed
from allround.composition.text_reading import TextReader
from allround.core.errors import AllroundError
from allround.models.batch import Answers
from allround.models.encoders.small_image import SmallImage
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind
from allround.tasks.suite import Suite


@pytest.fixture(scope="module")
def library(bert_folder: Path, text_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Library:
    tasks = [text_suite.tasks[name] for name in ("mood", "topics", "warmth", "alike")]
    return make_library(bert_folder, tmp_path_factory.mktemp("library"), tasks)


@pytest.fixture(scope="module")
def system(library: Library) -> Routed:
    return library.routed("uniform")


def rows_of(system: Routed, library: Library, name: str) -> RouteRows:
    split = library.tasks[name].splits["train"]
    return RouteRows(system.model, name, system.module_of.get(name), split.inputs, split.targets)


def texts(definition: Definition, encoded: Encoded) -> list[str]:
    """Encoded answers as the scorer reads them."""
    return [answer_text(definition, value) for value in kind(definition.kind).decode(encoded, definition)]


# -- the regression ------------------------------------------------------------------------------------------------


def test_two_pairs_by_hand() -> None:
    # The products of the second pair with the first are 0, those of each with itself (1 + 1)(1 + 1) = 4.
    one, other = torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0])
    both = torch.stack([one, other])
    weight = solved(Pairs(both, both, torch.tensor([1.0, 0.0]), torch.tensor([0, 1])), 4.0)
    assert weight.tolist() == [[1 / 8] * 2] * 2
    assert float(one @ weight @ one) == 0.5 and float(other @ weight @ other) == 0


def made_pairs(count: int = 60) -> Pairs:
    """Rows with two answers each, of which that is right whose sign is that of the row's first number."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(count, 3, generator=generator).repeat_interleave(2, 0) + 5
    answers = torch.tensor([[1.0, 2.0], [-1.0, 2.0]]).repeat(count, 1)
    scores = ((rows[:, 0] - 5).sign() == answers[:, 0].sign()).float()
    return Pairs(rows, answers, scores, torch.arange(count).repeat_interleave(2))


def test_the_regression_is_that_of_scikit_learn_on_all_products() -> None:
    from sklearn.linear_model import Ridge

    pairs = made_pairs()

    def ready(values: Tensor) -> np.ndarray:
        centred = values.double().numpy() - values.double().numpy().mean(0)
        return np.hstack([np.ones((len(values), 1)), centred / np.sqrt((centred**2).sum(1).mean())])

    products = np.einsum("ni,nj->nij", ready(pairs.answers), ready(pairs.rows)).reshape(len(pairs.rows), -1)
    wanted = [Ridge(alpha=p, fit_intercept=False).fit(products, pairs.scores.numpy()) for p in PENALTIES]
    one = torch.ones(len(pairs.rows), 1)
    weight = bilinear(pairs, 0)
    found = (torch.cat([one, pairs.rows], 1) @ weight.T * torch.cat([one, pairs.answers], 1)).sum(1)
    gaps = [float(np.abs(found.numpy() - one.predict(products)).max()) for one in wanted]
    assert min(gaps) < 1e-4
    assert float((found.round() == pairs.scores).float().mean()) > 0.9, "which no function of one of the two could do"


@pytest.mark.parametrize(("answer", "target", "wanted"), [
    ("a", "a", 1.0), ("a", "b", 0.0), (["x", "o", "y", "o"], ["x", "o", "o", "o"], 0.75), ([], [], 1.0),
    ([], ["x"], 0.0), (["x"], ["x", "y"], 2 / 3), (3.0, 2.0, 0.5), (9.0, 2.0, 0.0),
    ("the cat sat", "the cat sat down", 6 / 7),
])  # fmt: skip
def test_agreement_by_hand(answer: object, target: object, wanted: float) -> None:
    assert agreement(answer, target, 2.0) == pytest.approx(wanted)  # type: ignore[arg-type]


def test_agreement_of_texts_is_rouge_l() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    for said, right in (("the dog ran home", "the small dog went home"), ("b a c", "a b c"), ("no", "yes")):
        assert agreement(said, right, 1.0) == pytest.approx(scorer.score(right, said)["rougeL"].fmeasure)


# -- what it is fitted on, and what it picks -----------------------------------------------------------------------


def test_pairs_are_the_right_answer_another_and_those_of_the_modules(library: Library, system: Routed) -> None:
    rows = rows_of(system, library, "topics")
    router = Scorer(rows=6)
    router.reader = TextReader(system.bank.encoder)
    pairs = router._pairs(system.bank, rows, 0)
    assert set(pairs.row.tolist()) == set(range(6))
    said = module_answers(system.model, system.bank, "topics", rows.inputs)
    for module, one in enumerate(said):
        with torch.inference_mode(), system.bank.using(torch.eye(3)[module : module + 1]):
            alone = system.model.answer_prepared("topics", rows.prepared)
        assert texts(rows.definition, alone.predictions) == one.texts
    assert len({tuple(one.texts) for one in said}) > 1, "modules that always agree would show nothing"
    assert 0 < float(pairs.scores.mean()) < 1
    for row in range(6):
        own = pairs.row == row
        assert float(pairs.scores[own].max()) == 1, "the right answer is there"
        assert len(torch.unique(pairs.answers[own], dim=0)) == int(own.sum()), "no pair stands there twice"


def said(*answers: tuple[str, float]) -> list[ModuleAnswers]:
    made = Answers(np.zeros(1))
    return [ModuleAnswers(made, [text], [f"mood: {text}"], [sure]) for text, sure in answers]


def test_the_best_answer_wins_and_confidence_between_equals(system: Routed) -> None:
    good, bad = torch.from_numpy(TextReader(system.bank.encoder).vectors(["mood: good", "mood: bad"]))
    weight = torch.zeros(33, 33)
    gap = good - bad
    weight[1:, 1] = gap / (gap @ gap)  # the first number of the row is what "good" has more than "bad"
    given = said(("bad", 0.95), ("good", 0.6), ("good", 0.7))
    for sure, first, module in ((0.5, 1.0, 2), (0.5, -1.0, 0), (5.0, 1.0, 0), (0.0, 1.0, 1)):
        router = make_router("scorer")
        router.restore(system.bank, {"weight": weight, "sure": torch.tensor([sure])})
        row = torch.zeros(1, 32)
        row[0, 0] = first
        assert int(router.weights(Seen(row, "mood", given)).argmax()) == module, (sure, first)


def test_it_picks_better_answers_than_any_one_module_on_its_own_rows(library: Library) -> None:
    system = library.routed("scorer", rows=24, sure=0.0)
    system = Routed(system.model, system.members, system.router, make_combine("pick"), system.bank)
    for name in ("mood", "topics"):
        split = library.tasks[name].splits["train"]
        definition = library.tasks[name].definition
        right = kind(definition.kind).decode(split.targets, definition)
        made = kind(definition.kind).decode(system.answers(name, split.inputs).predictions, definition)
        said = module_answers(system.model, system.bank, name, split.inputs)
        picked, *alone = (
            sum(agreement(value, target, 1.0) for value, target in zip(values, right, strict=True)) / len(right)
            for values in (made, *(one.values for one in said))
        )
        assert picked > max(alone) + 0.02, name


def test_the_weight_of_confidence_is_chosen_on_validation_rows(
    library: Library, system: Routed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two modules the first is always right and the second always wrong, with the confidence that is given."""
    held = rows_of(system, library, "mood")
    rows = replace(held, validation=held)
    right = kind(rows.definition.kind).decode(rows.targets, rows.definition)
    names = rows.definition.labels
    wrong = [names[(names.index(str(one)) + 1) % len(names)] for one in right]

    def chosen(sureness: tuple[float, float], **settings: float) -> float:
        def made(model: object, bank: object, task: str, some: list[object]) -> list[ModuleAnswers]:
            places = [rows.inputs.index(row) for row in some]  # type: ignore[arg-type]
            return [
                ModuleAnswers(Answers(np.zeros(len(places))), [said[n] for n in places],
                              [answer_text(rows.definition, said[n]) for n in places], [one] * len(places))
                for said, one in zip((right, wrong), sureness, strict=True)
            ]  # fmt: skip

        monkeypatch.setattr(scorer, "module_answers", made)
        monkeypatch.setattr(scorer, "bilinear", lambda *_: torch.zeros(33, 33))
        router = Scorer(rows=6, **settings)
        router.fit(system.bank, {"mood": rows}, 0)
        return router.sure

    assert chosen((0.9, 0.5)) == chosen((0.5, 0.9)) == SURE[0], "equal scores: the first module, which is right"

    def ahead(self: Scorer, vectors: Tensor, said: list[ModuleAnswers]) -> tuple[Tensor, Tensor]:
        scores = torch.tensor([[0.0, 0.3]]).expand(len(vectors), 2)
        return scores, torch.tensor([one.confidence for one in said]).T

    monkeypatch.setattr(Scorer, "_scores", ahead)
    assert chosen((0.9, 0.5)) == 1.0, "of those tried the first with which 0.4 of confidence outweighs 0.3"
    assert chosen((0.9, 0.5), sure=0.25) == 0.25


def test_a_picked_module_answers_once(library: Library) -> None:
    system = library.routed("scorer", "pick")
    rows = library.tasks["topics"].splits["train"].inputs[:5]
    passes: list[int] = []
    handle = system.model.encoder.register_forward_hook(lambda *_: passes.append(1))
    quick = system.answers("topics", rows, scores=True)
    assert len(passes) == 1 + len(system.bank), "for the base's vectors, and a pass for each module"
    handle.remove()
    system.combine.plain = False  # type: ignore[misc]
    slow = system.answers("topics", rows, scores=True)
    assert np.array_equal(quick.predictions, slow.predictions)
    np.testing.assert_allclose(quick.scores, slow.scores, atol=1e-5)


def test_all_modules_count_as_used(library: Library) -> None:
    asked, other = (library.routed(name, "pick") for name in ("scorer", "regressed_loss"))
    apart = asked.router.parameters - other.router.parameters
    modules = [asked.bank.numbers(module) for module in range(3)]
    used = asked.cost().parameters_used - other.cost().parameters_used
    assert used == apart + sum(modules) - max(modules)


def test_numbers_and_refusals(text_suite: Suite) -> None:
    assert answer_text(text_suite.tasks["warmth"].definition, 12.3456) == "warmth: 12.3"
    with pytest.raises(CannotRoute, match="reads no texts"):
        make_router("scorer").check(SmallImage())
    for settings in ({"rows": 1}, {"sure": -1.0}):
        with pytest.raises(AllroundError, match="at least"):
            make_router("scorer", settings)
