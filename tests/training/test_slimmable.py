"""slimmable: weights at a width, the loss by hand, what training with it is good for, and the search for widths."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.models.encoder import Encoder
from allround.models.encoders.small_image import SmallImage
from allround.models.encoders.small_table import SmallTable
from allround.models.fitting import fit_head
from allround.models.shrinking.anatomy import put_in_order
from allround.models.systems.ensemble import Ensemble
from allround.models.systems.multi_task_model import MultiTaskModel, open_model
from allround.models.widths import at_width, chosen_width, first_units, scores_by_width, widths_within
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.terms.slimmable import Slimmable, weights_at
from allround.training.trainer import train

SETTINGS = Settings(epochs=6, keep="last", precision="fp32", device="cpu", heads="tuned")


@pytest.fixture(scope="module")
def digits() -> list[Task]:
    return list(Suite.load("digits", only=["digit", "ink"], limit={"train": 120, "validation": 60, "test": 20}))


@pytest.fixture(scope="module")
def texts() -> list[Task]:
    rows = [{"text": f"{word} {n}", "label": word} for n in range(8) for word in ("good", "bad")]
    data = dict.fromkeys(("train", "validation", "test"), rows)
    return [make_task("mood", kind="classification", inputs="text", target="label", data=data)]


def model_of(encoder: Encoder, tasks: Sequence[Task]) -> MultiTaskModel:
    made = MultiTaskModel(copy.deepcopy(encoder), {})
    for task in tasks:
        made.add_task(task.definition, fit_head(made.encoder, task).state)
    return made.eval()


@pytest.fixture(params=["image", "table", "text"])
def ready(
    request: pytest.FixtureRequest,
    small_image: SmallImage,
    small_table: SmallTable,
    table_suite: Suite,
    digits: list[Task],
    texts: list[Task],
) -> tuple[MultiTaskModel, list[Task]]:
    if request.param == "image":
        return model_of(small_image, digits), digits
    if request.param == "table":
        tables = list(table_suite.tasks.values())
        return model_of(small_table, tables), tables
    return model_of(load_encoder(request.getfixturevalue("hf_folder")), texts), texts


def test_another_order_changes_no_answer_and_weights_are_those_of_the_smaller(
    ready: tuple[MultiTaskModel, list[Task]],
) -> None:
    model, tasks = ready
    rows = tasks[0].splits["validation"].inputs[:6]
    before, encoder = model.outputs(tasks[0].name, rows).logits.clone(), model.encoder
    groups = encoder.anatomy(1.0).units()
    old = {name: value.detach().clone() for name, value in encoder.named_parameters()}
    for group in groups:
        put_in_order(encoder.backbone, group, list(reversed(range(group.count))))
    assert any(not torch.equal(value, old[name]) for name, value in encoder.named_parameters())
    torch.testing.assert_close(model.outputs(tasks[0].name, rows).logits, before, atol=1e-4, rtol=1e-4)
    kept = first_units(encoder.anatomy(1.0), 0.5)
    small, found = dict(encoder.smaller(kept).named_parameters()), weights_at(encoder, kept)
    assert small.keys() == found.keys()
    for name, value in small.items():
        torch.testing.assert_close(found[name], value)


def test_the_loss_by_hand(small_image: SmallImage, digits: list[Task]) -> None:
    """Beside a task's loss: that of the model at the width, and the distance of its features, over the mean square of
    the features of 64 rows of each task."""
    model, digit = model_of(small_image, digits), digits[0]
    term = Slimmable(widths=(0.5,), features=3.0)
    term.before(model, digits)
    split = digit.splits["train"].take([5, 2, 9])
    rows = model.prepare("digit", split.inputs, split.targets)
    batch = model.collate(rows, {"digit": range(3)}, {"digit": split.targets})
    whole = model.features(batch)
    found = term.task_loss(model, "digit", batch, whole)
    small = at_width(model, 0.5)
    narrow = small.features(batch)
    every = [model.features(model.collate(model.prepare(t.name, t.splits["train"].inputs[:64]), {t.name: range(64)}))
             for t in digits]  # fmt: skip
    square = torch.stack([one.values.square().mean() for one in every]).mean()
    expected = small.losses(batch, narrow)["digit"].mean + 3.0 * (narrow.values - whole.values).square().mean() / square
    assert found is not None and float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    # Its gradient reaches the units that are left alone, and nothing of the whole width is moved towards it.
    found.backward()
    second = model.encoder.get_submodule("layers.3").weight.grad
    assert second is not None and second[:64].abs().sum() > 0 and second[64:].abs().sum() == 0  # type: ignore[index]


def test_units_are_in_the_order_of_what_they_are_worth(small_image: SmallImage, digits: list[Task]) -> None:
    from allround.models.shrinking.study import study

    model = model_of(small_image, digits)
    Slimmable().before(model, digits)
    for group in model.encoder.anatomy(1.0).units():
        worth = study(model, digits).importance(group.name)
        assert worth.tolist() == pytest.approx(sorted(worth.tolist(), reverse=True), rel=1e-3)


def test_each_step_has_a_width_which_a_training_that_goes_on_has_too() -> None:
    term, again = Slimmable(), Slimmable()
    for one in (term, again):
        one.state = {"steps": {"": torch.tensor(0)}}
    drawn = []
    for _ in range(40):
        drawn.append(term.width)
        term.stepped(MultiTaskModel.__new__(MultiTaskModel))
    assert set(drawn) == {0.75, 0.5, 0.25}
    again.state = {"steps": {"": torch.tensor(17)}}
    assert again.width == drawn[17]


def test_narrow_models_are_better_with_it(small_image: SmallImage, digits: list[Task], tmp_path: Path) -> None:
    scores = {}
    for name, terms in (("slimmable", [Slimmable(widths=(0.5,))]), ("plain", [])):
        model = model_of(small_image, digits)
        train(model, digits, SETTINGS, seed=0, terms=terms)
        scores[name] = scores_by_width(model, digits, [0.5])
    assert list(scores["plain"]) == [1.0, 0.5]
    assert scores["slimmable"][0.5]["digit"] > scores["plain"][0.5]["digit"] + 0.2
    assert scores["slimmable"][1.0]["digit"] > scores["plain"][1.0]["digit"] - 0.1
    small = at_width(model, 0.5)
    small.save(tmp_path / "small")
    again = open_model(tmp_path / "small")
    assert again.facts["width"] == 0.5 and again.encoder.numbers < 0.6 * model.encoder.numbers
    rows = digits[0].splits["test"].inputs
    torch.testing.assert_close(again.outputs("digit", rows).logits, small.outputs("digit", rows).logits)


def test_widths_within_a_budget_are_the_best_of_all() -> None:
    """Beside all choices that there are; a task that is preferred more never scores less."""
    generator, tasks = np.random.default_rng(0), ["a", "b", "c", "d"]
    work = {1.0: 1.0, 0.5: 0.45, 0.25: 0.2}
    fine = [widths for widths in product(work, repeat=4) if sum(work[width] for width in widths) <= 4 * 0.5 + 1e-9]
    for _ in range(20):
        scores = {width: {task: float(generator.random()) for task in tasks} for width in work}
        before = -1.0
        for prefer in (0.2, 1.0, 3.0, 10.0):
            found = widths_within(scores, work, 0.5, {"a": prefer})
            factors = [prefer, 1.0, 1.0, 1.0]
            gains = {widths: sum(f * scores[w][t] for f, w, t in zip(factors, widths, tasks, strict=True))
                     for widths in fine}  # fmt: skip
            assert gains[tuple(found[task] for task in tasks)] == pytest.approx(max(gains.values()))
            assert scores[found["a"]]["a"] >= before
            before = scores[found["a"]]["a"]
    with pytest.raises(AllroundError, match="the least width takes 20%"):
        widths_within(scores, work, 0.1)
    with pytest.raises(AllroundError, match="'e' has the preference 2"):
        widths_within(scores, work, 0.5, {"e": 2})


def test_the_width_is_chosen_as_a_model_is_loaded(tmp_path: Path) -> None:
    rows = [part for limit in ("train=60", "validation=40", "test=40") for part in ("--limit", limit)]
    suite, runner = ["digits", "--only", "digit,ink", *rows], CliRunner()

    def run(*words: str) -> str:
        made = runner.invoke(app, list(words), catch_exceptions=False)
        assert made.exit_code == 0, made.output
        return made.output

    model, half = str(tmp_path / "wide"), str(tmp_path / "half")
    run("train", *suite, "--epochs", "1", "--term", "slimmable:widths=[0.5]", "-o", model)
    run("evaluate", model, *suite, "--width", "50%", "--save", half)
    saved = open_model(half)
    assert saved.encoder.numbers == at_width(open_model(model), 0.5).encoder.numbers
    image = Suite.load("digits", only=["digit"])["digit"].splits["test"].inputs[0][0]
    image.save(tmp_path / "one.png")  # type: ignore[union-attr]
    asked = ["--task", "digit", "--scores", "--json", str(tmp_path / "one.png")]
    assert (
        run("predict", model, "--width", "0.5", *asked) == run("predict", half, *asked) != run("predict", model, *asked)
    )


def test_what_has_no_widths(small_image: SmallImage, digits: list[Task]) -> None:
    model = model_of(small_image, digits)
    with pytest.raises(AllroundError, match="it is no share of its units"):
        at_width(model, 1.5)
    for wrong in ((), (1.5,), ("half",)):
        with pytest.raises(AllroundError, match="the widths are"):
            Slimmable(widths=wrong)  # type: ignore[arg-type]
    for system, words in ((model, "was not trained at several widths"), (Ensemble([model]), "was not trained at")):
        with pytest.raises(AllroundError, match=words):
            chosen_width(system, 0.5, "models/one")
    flat = MultiTaskModel(SmallTable(columns=[{"name": "a", "mean": 0.0, "scale": 1.0}], depth=1), {})
    with pytest.raises(AllroundError, match="parts of it cannot be removed"):
        at_width(flat, 0.5)
