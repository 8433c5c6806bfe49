"""Routed systems on language models: packed rows, choices and written answers, and logits of several models as one."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import log_softmax
from tests.composition.library import Library, make_library
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from language import make_network, make_tokenizer, save_model

from allround.building import Build, Options, build
from allround.checkpoints.weights import Weights
from allround.cli.app import app
from allround.composition.combine.dynamic_logits import DynamicLogits, factor
from allround.composition.systems.routed import LARGER, Routed
from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.models.model import parameters_of
from allround.models.system import load
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training.settings import Settings

TARGETS = ("q_proj", "v_proj", "down_proj")


def _task(name: str, targets: list[object], **facts: object) -> Task:
    rows = [{"m": f"parcel {n} of {name}" + " again" * (n % 3), "t": one} for n, one in enumerate(targets)]
    return make_task(name, data=dict.fromkeys(("train", "validation", "test"), rows), inputs="m", target="t", **facts)


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return [
        _task("topic", ["a", "b"] * 2, kind="classification", prompt="Message: {m}\nTopic:",
              choices={"a": "late", "b": "lost"}),
        _task("say", ["12", "19", "7", "late"], kind="text", prompt="{m} =", max_new_tokens=4),
        _task("many", [["a"], ["b"], ["a", "b"], []], kind="multilabel", prompt="{m}?"),
        _task("plain", ["a", "b"] * 2, kind="classification", prompt="{m} -"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def library(tasks: list[Task], tmp_path_factory: pytest.TempPathFactory) -> Library:
    """A tiny language model with modules for all tasks but the last."""
    place = tmp_path_factory.mktemp("language")
    save_model(place / "base", "llama")
    return make_library(place / "base", place / "modules", tasks, targets=TARGETS)


def numbers(system: Routed, task: str, rows: list[object]) -> np.ndarray | list[object]:
    found = system.answers(task, rows, scores=task != "say")
    return found.predictions if task == "say" else found.scores


ROUTES = [("task_id", "outputs"), ("uniform", "dynamic_logits"), ("classifier", "outputs"), ("classifier", "logits"),
          ("arrow", "outputs"), ("learned_gate", "pick"), ("scorer", "pick")]  # fmt: skip


@pytest.mark.parametrize(("router", "combine"), ROUTES)
def test_rows_of_a_batch_answer_as_alone(library: Library, router: str, combine: str) -> None:
    system = library.routed(router, combine)
    for name, task in library.tasks.items():
        rows = task.splits["train"].inputs
        together, alone = numbers(system, name, rows), [numbers(system, name, [row])[0] for row in rows]
        if name == "say":
            assert list(together) == alone
        else:
            assert np.abs(np.stack(alone) - together).max() < 1e-4, name


def test_packed_rows_with_one_set_of_weights_for_all_are_caught(library: Library) -> None:
    system = library.routed("classifier")
    rows = library.tasks["topic"].splits["train"].inputs
    alone = np.stack([numbers(system, "topic", [row])[0] for row in rows])
    system._batches = lambda prepared, weights, size: iter([list(range(len(prepared)))])  # type: ignore[method-assign]
    assert np.abs(numbers(system, "topic", rows) - alone).max() > 1e-3


# -- logits as one -------------------------------------------------------------------------------------------------


def merged(library: Library, member: int) -> torch.nn.Module:
    """The network with one adapter added to its weights."""
    network = copy.deepcopy(library.encoder.backbone)
    weights = Weights(library.members[member].folder)
    for name in weights:
        if ".lora_A." in name:
            layer = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            change = weights.get(name.replace("lora_A", "lora_B")) @ weights.get(name)
            network.get_submodule(layer).weight.data += change
    return network.eval()


def divergence(moved: np.ndarray, unmoved: np.ndarray) -> float:
    one, other = log_softmax(moved), log_softmax(unmoved)
    return float((np.exp(one) * (one - other)).sum())


def reach(logits: np.ndarray, change: np.ndarray, wanted: float) -> float:
    """The factor up to 2 that moves logits so far, by a search that the package does not use."""

    def over(by: float) -> float:
        return divergence(logits + by * change, logits) - wanted

    return 2.0 if over(2.0) < 0 else float(brentq(over, 0.0, 2.0, xtol=1e-12))


def by_hand(anchor: np.ndarray, base: np.ndarray, experts: list[np.ndarray]) -> np.ndarray:
    """Dynamic fusion of modules that have the same weight, of one distribution in float64."""
    changes = [one - base for one in experts]
    moves = [divergence(one, base) for one in experts]
    direction = sum(reach(anchor, c, m) * c for c, m in zip(changes, moves, strict=True))
    return anchor + reach(anchor, direction, sum(moves)) * direction


def even(anchor: np.ndarray, base: np.ndarray, experts: list[np.ndarray]) -> np.ndarray:
    return anchor + np.mean([one - base for one in experts], 0)


Fused = Callable[[np.ndarray, np.ndarray, list[np.ndarray]], np.ndarray]


@torch.no_grad()
def written(library: Library, networks: list[torch.nn.Module], row: object, fused: Fused) -> str:
    """What networks write together: the anchor, the base and the experts, each reading everything anew at each step."""
    definition, encoder = library.tasks["say"].definition, library.encoder
    (asked,) = encoder.prepare([row], definition)
    ids, said = list(asked.prompts[0]), []
    while len(said) < 4:
        logits = [one(input_ids=torch.tensor([ids + said])).logits[0, -1].double().numpy() for one in networks]
        said.append(int(fused(logits[0], logits[1], logits[2:]).argmax()))
        if said[-1] == encoder.tokenizer.eos_token_id:
            break
    return str(encoder.tokenizer.decode(said, skip_special_tokens=True)).strip()


@pytest.fixture(scope="module")
def larger(library: Library) -> Path:
    """A model of other weights and another size with the same tokenizer."""
    folder = library.base.parent / "larger"
    tokenizer = make_tokenizer()
    config = make_network("llama", len(tokenizer)).config
    config.hidden_size, config.intermediate_size, config.tie_word_embeddings = 48, 64, False
    torch.manual_seed(3)
    type(library.encoder.backbone)(config).eval().save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("with_larger", [False, True])
@pytest.mark.parametrize("combine", ["logits", "dynamic_logits"])
def test_logits_of_several_models_against_a_computation_by_hand(
    library: Library, larger: Path, combine: str, with_larger: bool
) -> None:
    system = library.routed("uniform", combine, combine_settings={"larger": str(larger)} if with_larger else {})
    base, experts = library.encoder.backbone.eval(), [merged(library, n) for n in range(3)]
    anchor = load_encoder(larger).eval().backbone if with_larger else base
    right, wrong = (by_hand, even) if combine == "dynamic_logits" else (even, by_hand)
    rows = library.tasks["say"].splits["train"].inputs
    found = [one[0] for one in system.answers("say", rows).predictions]
    networks = [anchor, base, *experts]
    assert found == [written(library, networks, row, right) for row in rows]
    assert found != [written(library, networks, row, wrong) for row in rows], "the rows tell the two apart"
    # Choices: the same of the scores of both texts, which are sums of log-probabilities.
    rows = library.tasks["topic"].splits["train"].inputs
    scores = []
    for network in networks:
        encoder = copy.deepcopy(library.encoder)
        encoder.net.network = network
        batch = encoder.batch(encoder.prepare(rows, system.definitions["topic"]), system.definitions["topic"])
        with torch.no_grad():
            scores.append(encoder(batch).values.double().numpy())
    wanted = np.stack([right(*(t[0][n], t[1][n], [e[n] for e in t[2:]])) for t in [scores] for n in range(len(rows))])
    assert np.abs(np.exp(log_softmax(wanted, -1)) - numbers(system, "topic", rows)).max() < 1e-4


def test_one_expert_alone_is_the_expert(library: Library) -> None:
    """The factor that moves the base as far as the expert moved it is one."""
    dynamic, plain = library.routed("task_id", "dynamic_logits"), library.routed("task_id")
    for name in ("topic", "say", "many", "plain"):
        rows = library.tasks[name].splits["train"].inputs
        one, other = numbers(dynamic, name, rows), numbers(plain, name, rows)
        assert list(one) == list(other) if name == "say" else np.abs(one - other).max() < 1e-4, name


def test_factors_reach_what_is_wanted() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, change = 3 * torch.randn(40, 50, generator=generator), 2 * torch.randn(40, 50, generator=generator)
    wanted = torch.rand(40, generator=generator)
    found = factor(logits, change, wanted, 2.0).numpy()
    by_search = [reach(a.double().numpy(), c.double().numpy(), float(w)) for a, c, w in zip(logits, change, wanted,
                                                                                         strict=True)]  # fmt: skip
    assert np.abs(found - by_search).max() < 1e-3
    assert factor(logits, change, wanted + 100, 1.5).tolist() == [1.5] * 40, "out of reach"
    with pytest.raises(AllroundError, match="must be above 0"):
        DynamicLogits(most=0.0)


def test_saved_with_its_larger_model_it_answers_the_same(library: Library, larger: Path, tmp_path: Path) -> None:
    system = library.routed("classifier", "dynamic_logits", combine_settings={"larger": str(larger), "most": 1.5})
    small = library.routed("classifier", "dynamic_logits")
    added = parameters_of(load_encoder(larger))
    assert system.cost().parameters_stored - small.cost().parameters_stored == added
    assert system.cost().parameters_used - small.cost().parameters_used == added
    system.save(tmp_path / "saved")
    manifest = json.loads((tmp_path / "saved" / "allround.json").read_text())["routed"]
    assert manifest["combine_settings"] == {"most": 1.5} and (tmp_path / "saved" / LARGER / "config.json").is_file()
    again = load(tmp_path / "saved")
    assert isinstance(again, Routed) and again.cost() == system.cost()
    for name in ("topic", "say"):
        rows = library.tasks[name].splits["train"].inputs
        one, other = numbers(system, name, rows), numbers(again, name, rows)
        assert list(one) == list(other) if name == "say" else np.array_equal(one, other)
    said = CliRunner().invoke(app, ["predict", str(tmp_path / "saved"), "--task", "say", rows[0][0]])
    assert said.exit_code == 0 and said.stdout.strip() == other[0][0].strip(), said.output


def test_larger_models_that_do_not_fit_are_refused(library: Library, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["zzz"])
    make_network("llama", len(tokenizer)).save_pretrained(str(tmp_path / "other"))
    tokenizer.save_pretrained(str(tmp_path / "other"))
    with pytest.raises(AllroundError, match="their tokenizers differ"):
        library.routed("uniform", "logits", combine_settings={"larger": str(tmp_path / "other")})
    save_model(tmp_path / "two", "t5")
    with pytest.raises(AllroundError, match="an encoder and a decoder"):
        library.routed("uniform", "logits", combine_settings={"larger": str(tmp_path / "two")})


def test_an_encoder_decoder_model_writes_by_several_modules(tasks: list[Task], tmp_path: Path) -> None:
    save_model(tmp_path / "base", "t5")
    made = make_library(tmp_path / "base", tmp_path / "modules", tasks[:3], targets=("q", "v", "wo"))
    rows = tasks[1].splits["train"].inputs
    told, plain = (made.routed("task_id", combine) for combine in ("dynamic_logits", "outputs"))
    assert numbers(told, "say", rows) == numbers(plain, "say", rows)
    mixed = made.routed("uniform", "dynamic_logits")
    assert numbers(mixed, "say", rows) == [numbers(mixed, "say", [row])[0] for row in rows]


# -- in a build ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(library: Library, tasks: list[Task], tmp_path_factory: pytest.TempPathFactory) -> Build:
    settings = Settings(tune="lora", epochs=1, batch_size=4, learning_rate=0.02, lora_rank=2, precision="fp32",
                        keep="last")  # fmt: skip
    routers = ("uniform", "arrow+outputs", "classifier:steps=20+dynamic_logits")
    options = Options(settings=settings, methods=(), routers=routers, joint=False, balance=(), baselines=False,
                      trials=1, workers=1, resamples=100)  # fmt: skip
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(library.base, folder / "base")
    return build(Suite("words", tasks[:2]), out=folder / "run", base=folder / "base", options=options)


def test_a_build_scores_routed_systems_of_a_language_model(built: Build) -> None:
    systems = {one.name: one for one in built.scoreboard.systems}
    routed = [name for name in systems if name.startswith("routed-")]
    assert len(routed) == 3 and all(set(built.scoreboard.cells[name]) == {"topic", "say"} for name in routed)
    base = systems["base"].cost.parameters_stored
    network = dict(load_encoder(built.folder.parent / "base").backbone.named_modules())
    sizes = sum(sum(layer.weight.shape) for name, layer in network.items() if name.split(".")[-1].endswith("_proj"))
    even = systems["routed-uniform"].cost
    assert even.parameters_stored - base == 2 * 2 * sizes, "two modules of rank 2 on all linear layers, and no router"
    assert even.parameters_used == even.parameters_stored, "each row uses both"
    learned = systems["routed-classifier-steps=20-dynamic_logits"].cost
    assert even.parameters_stored < learned.parameters_stored
