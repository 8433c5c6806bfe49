"""What every sort of head must hold, whichever there are: fitted it beats the floor, and it comes back from disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import hash_file
from allround.models.base import load_encoder
from allround.models.batch import Features
from allround.models.encoder import LINEAR, Encoder, hash_tensors
from allround.models.fitting import PENALTIES, fit_head
from allround.models.head import Head, HeadState, NotFinite, OutputHead, make_head
from allround.models.head_files import read_heads, write_heads
from allround.models.running import features_of
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.make import make_task
from allround.tasks.metric import metric
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.trainer import train as fit

#: The suites of the tests whose rows are real, and the encoders that read them.
REAL = {"digits_suite": "small_image", "table_suite": "small_table"}
SORTS = [
    e.name
    for e in registry.entries("head")
    if e.facts["reads"] == "vectors" and not (e.facts["pairs"] or e.facts["ranks"] or e.facts["bounded"])
]

DEFINITIONS = {
    "classification": Definition("t", "classification", ("x",), "text", "accuracy", ("a", "b", "c")),
    "multilabel": Definition("t", "multilabel", ("x",), "text", "macro_f1", ("a", "b", "c")),
    "ordinal": Definition("t", "ordinal", ("x",), "text", "quadratic_kappa", ("1", "2", "3")),
    "regression": Definition("t", "regression", ("x",), "text", "pearson", center=2.0, scale=3.0),
    "token_classification": Definition("t", "token_classification", ("x",), "text", "span_f1", ("O", "B-X", "I-X")),
}


@pytest.fixture(params=SORTS)
def sort(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=list(DEFINITIONS))
def definition(request: pytest.FixtureRequest) -> Definition:
    return DEFINITIONS[request.param]


@pytest.fixture(params=[("digits_suite", "digit"), ("digits_suite", "ink"), ("digits_suite", "segments"),
                        ("table_suite", "species"), ("table_suite", "petal")],
                ids=lambda pair: pair[1])  # fmt: skip
def real(request: pytest.FixtureRequest) -> tuple[Encoder, Task]:
    """Real rows, and an encoder that reads them."""
    suite, name = request.param
    encoder: Encoder = request.getfixturevalue(REAL[suite])
    found: Suite = request.getfixturevalue(suite)
    return encoder, found.tasks[name]


def random_head(sort: str, definition: Definition, width: int = 6, seed: int = 0) -> Head:
    made = make_head(sort, definition, width)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return made


def rows_for(definition: Definition, width: int = 6) -> tuple[Features, object]:
    """Features of four rows, and encoded targets for them."""
    generator = torch.Generator().manual_seed(1)
    if kind(definition.kind).per_token:
        lengths = (2, 0, 3, 1)
        targets = [np.arange(length, dtype=np.int64) % 3 for length in lengths]
        return Features(torch.randn(6, width, generator=generator), lengths), targets
    given = {"classification": ["a", "c", "b", "a"], "multilabel": [["a"], [], ["b", "c"], ["a"]],
             "ordinal": ["1", "3", "2", "1"], "regression": [1.0, 5.0, 2.0, -4.0]}  # fmt: skip
    targets_ = kind(definition.kind).encode(given[definition.kind], definition)
    return Features(torch.randn(4, width, generator=generator)), targets_


def scored(model_head: Head, encoder: Encoder, task: Task, split: str) -> float:
    definition = task.definition
    features = features_of(encoder, encoder.prepare(task.splits[split].inputs, definition), definition)
    with torch.no_grad():
        answers = model_head.answer(features)
    return metric(definition.metric).score(task.splits[split].targets, answers.predictions, definition)


def fits_alone(sort: str, encoder: Encoder, task: Task) -> bool:
    """Whether a sort of head can be fitted on a frozen encoder; one that cannot says so."""
    if registry.find("head", sort).load().fit is not Head.fit:  # type: ignore[attr-defined]
        return True
    with pytest.raises(AllroundError, match="cannot be fitted alone"):
        fit_head(encoder, task, sort)
    return False


def test_every_sort_says_what_it_is(sort: str) -> None:
    entry = registry.find("head", sort)
    made = entry.load()
    assert made.sort == sort, "as its file is called"
    assert entry.summary and entry.source and ">>>" in str(made.__doc__)


def test_linear_heads_are_what_a_task_gets_unasked() -> None:
    assert LINEAR in SORTS


def test_a_fitted_head_beats_the_floor(sort: str, real: tuple[Encoder, Task]) -> None:
    """On real rows; the encoder stays as it is, and the head is the best of those that were tried."""
    encoder, task = real
    if not fits_alone(sort, encoder, task):
        return
    before = hash_tensors(encoder)
    fitted = fit_head(encoder, task, sort)
    assert hash_tensors(encoder) == before and fitted.state.sort == sort
    assert set(fitted.tried) == set(PENALTIES)
    head = make_head(sort, task.definition, encoder.features(task.definition), fitted.state)
    validation = scored(head, encoder, task, "validation")
    assert validation == pytest.approx(fitted.tried[fitted.chosen], abs=1e-6)
    sign = -1 if task.definition.metric == "rmse" else 1
    assert all(sign * validation >= sign * other - 1e-6 for other in fitted.tried.values())
    targets = task.splits["test"].targets
    floor = kind(task.definition.kind).floor(task.splits["train"].targets, len(targets), [])
    trivial = metric(task.definition.metric).score(targets, floor, task.definition)
    assert sign * scored(head, encoder, task, "test") > sign * trivial + 0.1


def test_an_mlp_lowers_the_loss_that_it_began_with(real: tuple[Encoder, Task]) -> None:
    """And scores on validation at least as well as it did before it was fitted."""
    encoder, task = real
    definition, train = task.definition, task.splits["train"]
    width = encoder.features(definition)
    start = make_head("mlp", definition, width)
    fitted = make_head("mlp", definition, width, fit_head(encoder, task, "mlp").state)
    features = features_of(encoder, encoder.prepare(train.inputs, definition), definition)
    with torch.no_grad():
        losses = [head.loss(features, head.tensor(train.targets)).mean.item() for head in (start, fitted)]
    assert losses[1] < 0.9 * losses[0]
    sign = -1 if definition.metric == "rmse" else 1
    before, after = (scored(head, encoder, task, "validation") for head in (start, fitted))
    assert not sign * after < sign * before


def test_an_mlp_finds_what_is_not_linear() -> None:
    """Which of two numbers is the larger in size: by their sum and difference alike, so that a line cannot tell."""
    definition = DEFINITIONS["classification"]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 2, generator=generator)
    targets = (x[:, 0].abs() > x[:, 1].abs()).long().numpy()
    right = {}
    for sort in ("linear", "mlp"):
        head = make_head(sort, definition, 2)

        @torch.no_grad()
        def score(head: Head = head) -> float:
            return float((head.answer(Features(x[400:])).predictions == targets[400:]).mean())

        tried = head.fit(Features(x[:400]), targets[:400], score)
        right[sort] = score()
        assert right[sort] == max(tried.values()), "it is left as the best"
    assert right["linear"] < 0.7 and right["mlp"] > 0.9


def test_the_fit_is_the_same_each_time(sort: str, small_table: Encoder, table_suite: Suite) -> None:
    if not fits_alone(sort, small_table, table_suite.tasks["species"]):
        return
    first = fit_head(small_table, table_suite.tasks["species"], sort)
    torch.rand(3)
    again = fit_head(small_table, table_suite.tasks["species"], sort)
    assert first.tried == again.tried and first.chosen == again.chosen
    assert first.state.keys() == again.state.keys()
    assert all(torch.equal(value, again.state[name]) for name, value in first.state.items())


def test_an_untrained_head_is_always_the_same_and_answers_zeros(sort: str, definition: Definition) -> None:
    made = make_head(sort, definition, 6)
    torch.rand(3)
    features, _ = rows_for(definition)
    assert isinstance(made, OutputHead) and not made(features.values).any()
    other = random_head(sort, definition)
    assert hash_tensors(other) != hash_tensors(made)
    other.reset()
    assert hash_tensors(other) == hash_tensors(made) == hash_tensors(make_head(sort, definition, 6))


def test_the_loss_of_rows_is_that_of_their_parts(sort: str, definition: Definition) -> None:
    head, (features, targets) = random_head(sort, definition), rows_for(definition)
    whole = head.loss(features, head.tensor(targets))
    assert whole.count == len(features.values) and whole.mean.requires_grad
    total = torch.zeros(())
    for row in range(4):
        one = features.take([row], 4)
        if len(one.values):
            total = total + head.loss(one, head.tensor(targets[row : row + 1])).sum  # type: ignore[index]
    assert total.item() == pytest.approx(whole.sum.item(), rel=1e-5)
    whole.value.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_answers_are_of_each_row_alone(sort: str, definition: Definition) -> None:
    head, (features, targets) = random_head(sort, definition), rows_for(definition)
    labelled = bool(definition.labels)
    with torch.no_grad():
        whole = head.answer(features, scores=True)
        plain = head.answer(features)
        parts = [head.answer(features.take([row], 4), scores=True) for row in range(4)]
    assert plain.scores is None and (whole.scores is not None) == labelled
    assert (whole.confidence is not None) == labelled and len(whole) == 4
    for row, part in enumerate(parts):
        assert np.allclose(part.predictions[0], whole.predictions[row])
        assert np.shape(part.predictions[0]) == np.shape(targets[row])  # type: ignore[index]
        if labelled:
            assert part.confidence is not None and whole.confidence is not None
            assert part.confidence[0] == pytest.approx(whole.confidence[row], rel=1e-4)
            assert part.scores is not None and whole.scores is not None
            assert np.allclose(part.scores[0], whole.scores[row], atol=1e-6)


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_answers_that_are_not_finite_are_told_by_row(sort: str, definition: Definition, odd: float) -> None:
    head, (features, _) = random_head(sort, definition), rows_for(definition)
    values = features.values.clone()
    values[4 if features.lengths else 2, 0] = odd
    with pytest.raises(NotFinite) as caught, torch.no_grad():
        head.answer(Features(values, features.lengths))
    assert caught.value.rows == [2]


def test_heads_come_back_from_disk_by_sort_and_bytes(definition: Definition, tmp_path: Path) -> None:
    heads = {f"task-{sort}": random_head(sort, definition).stored() for sort in SORTS}
    heads["given"] = HeadState({"weight": torch.randn(2, 3), "bias": torch.randn(2)})
    write_heads(tmp_path / "one.safetensors", heads)
    read = read_heads(tmp_path / "one.safetensors")
    assert {name: state.sort for name, state in read.items()} == {name: state.sort for name, state in heads.items()}
    for name, state in heads.items():
        assert state.keys() == read[name].keys()
        assert all(torch.equal(value, read[name][part]) for part, value in state.items())
    write_heads(tmp_path / "two.safetensors", read)
    assert hash_file(tmp_path / "one.safetensors") == hash_file(tmp_path / "two.safetensors")


def test_a_model_with_heads_of_several_sorts_is_saved_and_loaded(
    small_table: Encoder, table_suite: Suite, tmp_path: Path
) -> None:
    tasks = table_suite.tasks
    model = MultiTaskModel(small_table, {})
    for task, sort in zip(tasks.values(), ("mlp", "linear"), strict=True):
        model.add_task(
            task.definition, random_head(sort, task.definition, small_table.features(task.definition)).stored()
        )
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert isinstance(loaded, MultiTaskModel)
    assert [loaded.head(name).sort for name in tasks] == ["mlp", "linear"]
    loaded.save(tmp_path / "again")
    file = "heads.safetensors"
    assert (tmp_path / "model" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    for name, task in tasks.items():
        rows = task.splits["test"].inputs
        assert torch.equal(model.outputs(name, rows).logits, loaded.outputs(name, rows).logits)
    assert loaded.cost().parameters_stored == sum(p.numel() for p in model.parameters())


def test_a_file_of_linear_heads_alone_says_nothing_of_sorts(tmp_path: Path) -> None:
    """So that it stays as it was before there were other sorts."""
    from allround.checkpoints.weights import Weights

    write_heads(tmp_path / "a.safetensors", {"t": random_head("linear", DEFINITIONS["regression"]).stored()})
    assert not Weights(tmp_path / "a.safetensors").metadata


def test_tensors_of_another_sort_are_refused() -> None:
    definition = DEFINITIONS["classification"]
    with pytest.raises(AllroundError, match="it holds 'hidden_"):
        make_head("linear", definition, 64, random_head("mlp", definition, 64).stored())
    with pytest.raises(AllroundError, match="hidden_weight is missing"):
        make_head("mlp", definition, 6, random_head("linear", definition).stored())
    with pytest.raises(AllroundError, match="did you mean 'linear'"):
        make_head("linar", definition, 6)


def test_a_head_that_cannot_be_fitted_says_so() -> None:
    class Other(Head):
        sort = "other"

        def reset(self) -> None: ...

        def tensor(self, encoded: object) -> torch.Tensor:
            return torch.zeros(1)

        def loss(self, features: Features, targets: torch.Tensor) -> None: ...  # type: ignore[override]

        def answer(self, features: Features, *, scores: bool = False) -> None: ...  # type: ignore[override]

    made = Other(DEFINITIONS["regression"], 3)
    with pytest.raises(AllroundError, match="cannot be fitted alone") as caught:
        made.fit(Features(torch.ones(2, 3)), np.zeros(2), lambda: 0.0)
    assert "'t'" in caught.value.asked and caught.value.do


# The head that compares the two texts of a pair.

PAIR = Definition("alike", "similarity", ("one", "other"), "score", "spearman", center=2.0, scale=0.5)


def alike_task(text_suite: Suite) -> Task:
    """Pairs of texts with a number: how many of their words are the same, of all."""
    pairs = text_suite["alike"]
    rows = {
        split: [
            {"one": a, "other": b, "score": len({*a.split()} & {*b.split()}) / len({*a.split()} | {*b.split()})}
            for a, b in part.inputs
        ]
        for split, part in pairs.splits.items()
    }
    return make_task("alike", kind="similarity", inputs=["one", "other"], target="score", data=rows)


def test_a_sigmoid_learns_by_binary_cross_entropy() -> None:
    """By hand: of the logits 0 and log 3 with the targets 0.9 and 0.25. Answers are in the task's own units, whatever
    its scale."""
    wanted = np.mean([np.log(2), -0.25 * np.log(0.75) - 0.75 * np.log(0.25)])
    for center, scale in ((0.0, 1.0), (0.6, 0.2)):
        definition = replace(PAIR, center=center, scale=scale)
        head = make_head("sigmoid", definition, 1, {"weight": torch.tensor([[np.log(3.0)]]), "bias": torch.zeros(1)})
        assert isinstance(head, OutputHead)
        encoded = kind("similarity").encode([0.9, 0.25], definition)
        features = Features(torch.tensor([[0.0], [1.0]]))
        with torch.no_grad():
            assert head.loss(features, head.tensor(encoded)).mean.item() == pytest.approx(wanted, abs=1e-5)
            answers = kind("similarity").decode(head.answer(features).predictions, definition)
        np.testing.assert_allclose(answers, [0.5, 0.75], atol=1e-6)
        with pytest.raises(AllroundError, match=r"a target is 1\.5") as caught:
            head.tensor(kind("similarity").encode([0.5, 1.5], definition))
        assert "from 0 to 1" in caught.value.do


def test_a_fitted_sigmoid_beats_one_that_is_not(bert_folder: Path, text_suite: Suite, tmp_path: Path) -> None:
    """On both texts read as one; its answers come back from disk."""
    encoder, task = load_encoder(bert_folder, pairs="joint"), alike_task(text_suite)
    fitted = fit_head(encoder, task, "sigmoid")
    assert set(fitted.tried) == set(PENALTIES)
    model = MultiTaskModel(encoder, {})
    model.add_task(encoder.headed(task.definition, "sigmoid"), fitted.state)
    rows = task.splits["train"]
    targets = np.array(kind("similarity").decode(rows.targets, task.definition))
    said = np.array(model.predict("alike", rows.inputs))
    assert said.min() > 0 and said.max() < 1
    assert np.square(said - targets).mean() < 0.8 * np.square(0.5 - targets).mean()
    model.save(tmp_path / "model")
    np.testing.assert_allclose(load(tmp_path / "model").predict("alike", rows.inputs), said, atol=1e-6)


def test_a_similarity_is_the_cosine_of_the_two_vectors() -> None:
    head = random_head("similarity", PAIR, width=12)
    values = rows_for(DEFINITIONS["regression"], 12)[0].values
    u, v = values[:, :3].double(), values[:, 3:6].double()
    cosines = (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1))
    weight, bias = (float(one.detach()) for one in head.parameters())
    wanted = weight * cosines + bias
    with torch.no_grad():
        found = head.answer(Features(values)).predictions
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-6)


def test_a_fitted_similarity_has_the_order_of_the_cosines(bert_folder: Path, text_suite: Suite) -> None:
    encoder, task = load_encoder(bert_folder), alike_task(text_suite)
    assert encoder.head(task.definition) == "similarity"
    fitted = fit_head(encoder, task)
    assert fitted.state["weight"].shape == (1, 1) and fitted.tried[fitted.chosen] > 0.2
    joint = load_encoder(bert_folder, pairs="joint")
    assert joint.head(task.definition) == LINEAR
    with pytest.raises(AllroundError, match="read as one"):
        joint.check(replace(task.definition, head="similarity"))
    with pytest.raises(AllroundError, match="have no two texts"):
        encoder.check(replace(text_suite["mood"].definition, head="similarity"))


def test_tuning_a_similarity_moves_the_vectors(bert_folder: Path, text_suite: Suite, tmp_path: Path) -> None:
    """Cosines of the tuned encoder's vectors have more of the targets' order than those of the base; as do those of
    sentence-transformers, which loads it."""
    from scipy.stats import spearmanr
    from sentence_transformers import SentenceTransformer

    task, encoder = alike_task(text_suite), load_encoder(bert_folder)
    train, held = task.splits["train"], task.splits["train"].inputs
    before = SentenceTransformer(str(bert_folder), device="cpu")

    def order(model: SentenceTransformer) -> float:
        one, other = (model.encode([row[side] for row in held], normalize_embeddings=True) for side in (0, 1))
        return float(spearmanr((one * other).sum(1), train.targets)[0])

    start = order(before)
    model = MultiTaskModel(encoder, {})
    model.add_task(task.definition, fit_head(encoder, task).state)
    fit(model, [task], Settings(epochs=8, batch_size=16, learning_rate=2e-3, precision="fp32", keep="last"))
    model.save(tmp_path / "model")
    after = SentenceTransformer(str(tmp_path / "model" / "encoder"), device="cpu")
    assert order(after) > start + 0.1
    answers = load(tmp_path / "model").answers("alike", held).predictions
    assert spearmanr(answers, train.targets)[0] == pytest.approx(order(after), abs=1e-3)
