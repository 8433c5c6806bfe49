"""Routed systems that rank passages: whose vectors they compare, and how often passages are encoded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.composition.library import Library, make_library

from allround.checkpoints.adapted import Adapted
from allround.checkpoints.adapter import Adapter
from allround.checkpoints.weights import Weights
from allround.composition.router import CannotRoute, RouteRows, plain_vectors
from allround.composition.search_weights import SearchWeights
from allround.composition.systems import routed
from allround.composition.systems.routed import Routed
from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.models.encoders.text import Text
from allround.models.pretrained import saved_names
from allround.models.searching import Searcher, VectorReader
from allround.models.system import load, windows
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.make import make_task
from allround.tasks.task import Task

TEXT = Definition("t", "classification", ("text",), "text", "accuracy", ("a", "b"))
ANIMALS = {f"a{i}": text for i, text in enumerate(("cat river", "dog film", "owl good", "bad cat", "the dog"))}
FOODS = {f"f{i}": text for i, text in enumerate(("soup was bad", "bread is good", "a plum", "film soup"))}


def search(name: str, passages: dict[str, str], **more: object) -> Task:
    rows = [
        {"query": f"{word} {text.split()[0]}", "relevant": [one]}
        for word in ("the", "was")
        for one, text in passages.items()
    ]
    return make_task(name, kind="retrieval", data={"train": rows}, inputs="query", target="relevant",
                     passages=passages, **more)  # type: ignore[arg-type]  # fmt: skip


@pytest.fixture(scope="module")
def library(hf_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Two searches with a module each, and one without."""
    tasks = [search("animals", ANIMALS), search("foods", FOODS), search("rest", ANIMALS)]
    return make_library(hf_folder, tmp_path_factory.mktemp("searches"), tasks)


def rows_of(library: Library, task: str) -> list[Any]:
    return list(library.tasks[task].splits["train"].inputs)


def weights_of(library: Library, number: int) -> dict[str, torch.Tensor]:
    """The weights of the encoder with one module merged into it, by parameter."""
    encoder = load_encoder(library.base)
    source = Adapted(Weights(library.base), Adapter(library.members[number].folder))
    names = saved_names(encoder.backbone)
    return {name: source.get(stored) for name, stored in names.items() if stored in source.edits}


def model_with(library: Library, weights: dict[str, torch.Tensor]) -> MultiTaskModel:
    model = MultiTaskModel(load_encoder(library.base), {n: t.definition for n, t in library.tasks.items()})
    state = dict(model.encoder.backbone.named_parameters())
    for name, tensor in weights.items():
        state[name].data.copy_(tensor)
    return model.eval()


def ranked(model: MultiTaskModel, task: str, rows: list[Any]) -> list[dict[str, float]]:
    return Searcher().ranked(VectorReader.of(model.encoder, model.head(task)), model.prepare(task, rows))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The texts of passages that are encoded."""
    seen: list[str] = []
    before = Text.prepare_passages

    def count(self: Text, texts: Any, definition: Any) -> Any:
        seen.extend(texts)
        return before(self, texts, definition)

    monkeypatch.setattr(Text, "prepare_passages", count)
    yield seen


def test_a_router_that_is_told_searches_as_the_specialists(library: Library, encoded: list[str]) -> None:
    system = library.routed("task_id")
    for number, task in enumerate(("animals", "foods")):
        own = model_with(library, weights_of(library, number)).answers(task, rows_of(library, task)).predictions
        assert system.answers(task, rows_of(library, task)).predictions == own
    base = model_with(library, {})
    rest = base.answers("rest", rows_of(library, "rest")).predictions
    assert system.answers("rest", rows_of(library, "rest")).predictions == rest, "it has no module"
    other = model_with(library, weights_of(library, 0)).answers("rest", rows_of(library, "rest")).predictions
    assert other != rest, "a module changes the order"


def test_each_query_has_the_module_that_it_is_given(library: Library) -> None:
    system = library.routed("embedding_retrieval")
    models = [model_with(library, weights_of(library, number)) for number in (0, 1)]
    rows = [(query, rows_of(library, "animals")[0][1]) for query in ("the cat", "was bread", "soup", "owl dog")]
    chosen = system.row_weights("animals", rows).argmax(1).tolist()
    assert set(chosen) == {0, 1}
    found = system.answers("animals", rows).predictions
    for row, module, ids in zip(rows, chosen, found, strict=True):
        assert [ids] == models[module].answers("animals", [row]).predictions
        assert [ids] == system.answers("animals", [row]).predictions, "whatever is asked beside it"


def test_even_weights_are_those_of_a_merged_model(library: Library, encoded: list[str]) -> None:
    system = library.routed("uniform")
    assert torch.equal(system.search_weights.tensor[0], torch.tensor([0.5, 0.5]))  # type: ignore[union-attr]
    one, other = weights_of(library, 0), weights_of(library, 1)
    merged = model_with(library, {name: (one[name] + other[name]) / 2 for name in one})
    rows = rows_of(library, "animals")
    kept = merged.answers("animals", rows).predictions
    encoded.clear()
    assert system.answers("animals", rows).predictions == kept
    assert len(encoded) == len(ANIMALS), "all queries have one set of weights"


@pytest.mark.parametrize("router", ["classifier", "learned_gate"])
def test_passages_are_encoded_once_for_each_module_at_most(
    library: Library, encoded: list[str], monkeypatch: pytest.MonkeyPatch, router: str
) -> None:
    system = library.routed(router)
    weights = system.row_weights("foods", rows_of(library, "foods"))
    assert len(torch.unique(weights, dim=0)) > 2, "a query has weights of its own"
    assert system.search_weights is not None
    monkeypatch.setattr(routed, "windows", lambda rows: windows(rows, 2))
    encoded.clear()
    rows = rows_of(library, "foods") + [(query, rows_of(library, "foods")[0][1]) for query, _ in
                                        rows_of(library, "animals")]  # fmt: skip
    found = system.answers("foods", rows).predictions
    assert 0 < len(encoded) <= 2 * len(FOODS)
    assert [system.answers("foods", [row]).predictions[0] for row in rows] == found


def test_scores_of_modules_are_averaged(library: Library, encoded: list[str]) -> None:
    """Against the scores of models with one module each; what is left of the weights is the base's."""
    system = library.routed("uniform", "logits")
    rows = rows_of(library, "animals")
    models = [model_with(library, {}), *(model_with(library, weights_of(library, n)) for n in (0, 1))]
    scores = [ranked(model, "animals", rows) for model in models]
    shares = torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.1, 0.9]]).repeat(len(rows) // 2, 1)
    wanted = [
        {one: sum(float(s) * part[row][one] for s, part in zip(share, scores, strict=True)) for one in ANIMALS}
        for row, share in enumerate(shares)
    ]
    ready = system.model.prepare("animals", rows)
    encoded.clear()
    found = system.combine.rank(system.model, system.bank, "animals", ready, shares[:, 1:])
    assert len(encoded) == len(ANIMALS), "prepared once for the base and all modules"
    for ids, own in zip(found.predictions, wanted, strict=True):
        assert [own[one] for one in ids] == pytest.approx(sorted(own.values(), reverse=True), abs=1e-5)
    even = system.answers("animals", rows).predictions
    mean = [{one: scores[1][row][one] + scores[2][row][one] for one in ANIMALS} for row in range(len(rows))]
    for ids, own in zip(even, mean, strict=True):
        assert [own[one] for one in ids] == pytest.approx(sorted(own.values(), reverse=True), abs=1e-5)


@pytest.mark.parametrize(
    ("router", "combine"),
    [("classifier", "outputs"), ("classifier", "logits"), ("learned_gate", "pick"), ("arrow", "outputs"),
     ("phatgoose", "outputs"), ("average_activation", "pick"), ("regressed_loss", "factors")],
)  # fmt: skip
def test_saved_and_read_again_it_ranks_the_same(library: Library, tmp_path: Path, router: str, combine: str) -> None:
    system = library.routed(router, combine)
    rows = rows_of(library, "foods")
    before = system.answers("foods", rows).predictions
    assert all(sorted(ids) == sorted(FOODS) for ids in before)
    assert [system.answers("foods", [row]).predictions[0] for row in rows] == before
    system.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert isinstance(again, Routed)
    assert again.answers("foods", rows).predictions == before
    assert (tmp_path / "saved" / SearchWeights.file).exists() == (router in ("classifier", "learned_gate"))


def test_modules_are_found_by_the_query_alone(library: Library) -> None:
    definition = library.tasks["foods"].definition
    (query, passages), other = rows_of(library, "foods")[0], rows_of(library, "animals")[0][1]
    one, two = plain_vectors(library.encoder, definition, [(query, passages), (query, other)])
    assert torch.equal(one, two)
    (vector,) = library.encoder(library.encoder.batch(library.encoder.prepare([(query,)], TEXT), TEXT)).values
    assert torch.allclose(one, vector, atol=1e-6)


def test_the_losses_of_queries_are_apart(library: Library) -> None:
    """Their mean is the loss of the batch, and each is that of its query beside all passages of the batch."""
    system = library.routed("uniform")
    split = library.tasks["animals"].splits["train"]
    rows = RouteRows(system.model, "animals", 0, split.inputs, split.targets)
    apart = rows.apart([0, 2, 3]).detach()
    assert float(apart.mean()) == pytest.approx(float(rows.losses([0, 2, 3]).mean.detach()), rel=1e-5)
    assert float(apart.max()) > float(apart.min()) > 0
    spread = rows.spread(torch.eye(3), rows.batch([0, 2, 3], targets=True))
    assert spread.tolist() == np.eye(3).repeat(2, 0).tolist(), "a query and its relevant passage"


def test_an_instruction_of_the_user(library: Library) -> None:
    system = library.routed("task_id")
    told = system.instructed("foods", "find the bread")
    assert told.definitions["foods"].instruction == "find the bread" and system.definitions["foods"].instruction is None
    rows = rows_of(library, "foods")
    own = model_with(library, weights_of(library, 1)).instructed("foods", "find the bread")
    assert told.answers("foods", rows).predictions == own.answers("foods", rows).predictions


def test_what_cannot_be_routed_is_said(library: Library, tmp_path: Path) -> None:
    with pytest.raises(CannotRoute, match="an answer to task 'animals' is a list of passages"):
        library.routed("scorer")
    system = library.routed("classifier")
    system.save(tmp_path / "saved")
    save_file({"weights": torch.ones(3, 2)}, tmp_path / "saved" / SearchWeights.file)
    with pytest.raises(AllroundError, match=r"search_weights\.safetensors is damaged"):
        load(tmp_path / "saved")


def test_vectors_of_tokens_have_no_mean_of_scores(hf_folder: Path, tmp_path: Path) -> None:
    tasks = [search("animals", ANIMALS, contrast={"compare": "tokens"}), search("foods", FOODS)]
    made = make_library(hf_folder, tmp_path / "modules", tasks)
    rows = rows_of(made, "animals")
    by_layers = made.routed("task_id").answers("animals", rows).predictions
    assert by_layers == model_with(made, weights_of(made, 0)).answers("animals", rows).predictions
    with pytest.raises(AllroundError, match="average the scores of modules for task 'animals'"):
        made.routed("task_id", "logits").answers("animals", rows)
