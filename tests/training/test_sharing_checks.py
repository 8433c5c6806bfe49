"""Every way to share holds the shared properties, and parts that do not are caught."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from allround.core import plugins, registry
from allround.models.base import load_encoder
from allround.models.encoder import Encoder
from allround.models.encoders.sharing import Sharing
from allround.models.fitting import fit_head
from allround.models.share.bank_base import Bank
from allround.models.share.further import further_task
from allround.models.share.gate_base import Gate
from allround.models.share.plan import Choice, Level, Mixing, Plan
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.sharing import plan_of, share, shared_by
from allround.training.trainer import train

#: A check says what is wrong with a model that shares, by an AssertionError.
Check = Callable[["Subject"], None]
SETTINGS = Settings(mix="all", batch_size=16, epochs=4, device="cpu", precision="fp32", keep="last", heads="tuned")
#: Scores of 60 rows differ by so much by chance.
SLACK = 0.02
#: Presets that the checks run on: all that share more than the encoder as it is.
PRESETS = [name for name in registry.names("share") if not plan_of(name).empty]
INSIDE = [name for name in PRESETS if plan_of(name).inserts]


class Subject:
    """A preset on a tiny encoder with three tasks, all of whose added parts were stirred."""

    def __init__(self, plan: Plan, encoder: Encoder, tasks: list[Task]) -> None:
        self.tasks, self.base = tasks, encoder
        self.names = [task.name for task in tasks]
        self.rows = [task.splits["test"].inputs[number] for number, task in enumerate(tasks * 2)]
        self.fresh = model_of(plan, encoder, tasks)
        self.model = copy.deepcopy(self.fresh)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in added(self.model):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))

    @property
    def sharing(self) -> Sharing:
        assert isinstance(self.model.encoder, Sharing)
        return self.model.encoder

    def alone(self, model: MultiTaskModel | None = None) -> list[Tensor]:
        """Features of each row by itself, for the task beside it."""
        model = model or self.model
        found = []
        for task, row in zip(self.names * 2, self.rows, strict=True):
            definition = model.definition(task)
            found.append(features(model, model.encoder.prepare([row], definition), {task: (0,)}, task)[0])
        return found


def model_of(plan: Plan, encoder: Encoder, tasks: list[Task]) -> MultiTaskModel:
    model = MultiTaskModel(copy.deepcopy(encoder), {task.name: task.definition for task in tasks})
    torch.manual_seed(0)
    return share(model, plan).eval()


def added(model: MultiTaskModel) -> Iterator[nn.Parameter]:
    known = model.added()
    return (p for p in model.parameters() if id(p) in known)


@torch.inference_mode()
def features(model: MultiTaskModel, prepared: list[Any], rows: dict[str, tuple[int, ...]], task: str) -> Tensor:
    model.eval()
    batch = model.collate(prepared, rows)
    return model.features(batch).take(rows[task], batch.size).of(task).values


# -- the checks ----------------------------------------------------------------------------------------------------


def rows_stand_alone(subject: Subject) -> None:
    """What a row gives does not depend on its batch, nor on the tasks of the rows beside it."""
    model, alone = subject.model, subject.alone()
    prepared = [
        model.encoder.prepare([row], model.definition(task))[0]
        for task, row in zip(subject.names * 2, subject.rows, strict=True)
    ]
    count = len(subject.names)
    mixed = {task: (n, n + count) for n, task in enumerate(subject.names)}
    for n, task in enumerate(subject.names):
        found = features(model, prepared, mixed, task)
        every = features(model, prepared, dict.fromkeys(subject.names, tuple(range(2 * count))), task)
        for place, row in enumerate((n, n + count)):
            assert alone[row].shape == found[place].shape == (model.width(task),), "a vector for each row"
            for other in (found[place], every[row]):
                apart = float((other - alone[row]).abs().max())
                assert apart <= 1e-5 * max(1.0, float(alone[row].abs().max())), f"{task}: {apart:.1e} apart"


def answers_are_the_same_again(subject: Subject) -> None:
    """In evaluation nothing is random, and nothing is remembered."""
    one = subject.alone()
    two = subject.alone()
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True)), "another answer to the same row"


def saving_keeps_everything(subject: Subject) -> None:
    """A saved model loads with each number, and is saved again as the same bytes."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as place:
        subject.model.save(Path(place) / "one")
        back = load(Path(place) / "one")
        assert isinstance(back, MultiTaskModel)
        back.save(Path(place) / "two")
        one, two = subject.model.state_dict(), back.state_dict()
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
        for a, b in zip(subject.alone(), subject.alone(back), strict=True):
            assert torch.equal(a, b), "the saved model gives something else"
        files = [f.relative_to(Path(place) / "one") for f in (Path(place) / "one").rglob("*.safetensors")]
        assert files and all(
            (Path(place) / "one" / f).read_bytes() == (Path(place) / "two" / f).read_bytes() for f in files
        )


def what_should_learn_moves(subject: Subject) -> None:
    """In training all that is added moves, and a frozen encoder stays as it is to the bit; then it can be copied."""
    model = copy.deepcopy(subject.fresh)
    known, before = model.added(), {n: p.detach().clone() for n, p in model.named_parameters()}
    train(model, subject.tasks, SETTINGS.with_(epochs=4), seed=0)
    assert isinstance(model.encoder, Sharing)
    inner = {id(p) for p in model.encoder.inner.parameters()} - set(known)
    still = [n for n, p in model.named_parameters() if id(p) in known and torch.equal(p, before[n])]
    assert not still, f"it did not move: {still[:4]}"
    moved = [n for n, p in model.named_parameters() if id(p) in inner and not torch.equal(p, before[n])]
    assert bool(moved) != model.encoder.plan.frozen, f"of the encoder moved: {moved[:4]}"
    assert further_task(copy.deepcopy(model)) == further_task(model)


def it_begins_near_the_base(subject: Subject) -> None:
    """Modules inside the encoder change almost nothing before they are trained."""
    base = MultiTaskModel(subject.base, {task.name: task.definition for task in subject.tasks})
    for a, b in zip(subject.alone(subject.fresh), subject.alone(base), strict=True):
        assert float((a - b).norm() / b.norm()) < 0.02


def a_further_task_leaves_the_others(subject: Subject) -> None:
    """What the others give stays the same to the bit, and the further task can be asked."""
    model = copy.deepcopy(subject.model)
    one = subject.alone(model)
    last = replace(model.definition(subject.names[0]), name="further")
    size = sum(tensor.nbytes for tensor in model.encoder.state_dict().values())
    expected = further_task(model)
    model.add_task(last)
    grown = sum(tensor.nbytes for tensor in model.encoder.state_dict().values())
    assert grown - size == expected.modules, f"it stores {grown - size} and not {expected.modules} bytes"
    assert all(torch.equal(a, b) for a, b in zip(one, subject.alone(model), strict=True)), "others are changed"
    assert model.outputs("further", subject.rows[:1]).logits.isfinite().all()


CHECKS: dict[str, Check] = {
    "alone": rows_stand_alone,
    "again": answers_are_the_same_again,
    "saved": saving_keeps_everything,
    "moves": what_should_learn_moves,
    "near_base": it_begins_near_the_base,
    "add_task": a_further_task_leaves_the_others,
}


def checks_of(preset: str) -> list[str]:
    exempt = registry.find("share", preset).facts["exempt"]
    assert isinstance(exempt, dict)
    behind = set() if plan_of(preset).inserts and not plan_of(preset).levels else {"near_base"}
    return [name for name in CHECKS if name not in exempt and name not in behind]


@pytest.fixture(scope="module")
def subject_of(bert_folder: Path, small_image: Encoder, text_suite: Suite, digits_suite: Suite) -> Any:
    texts = [text_suite.tasks[name].limit({"train": 16}) for name in ("mood", "warmth", "topics")]
    images = [task.limit({"train": 16}) for task in digits_suite.tasks.values()]

    @cache
    def of(preset: str) -> Subject:
        inside = preset in INSIDE
        return Subject(
            plan_of(preset), load_encoder(bert_folder) if inside else small_image, texts if inside else images
        )

    return of


@pytest.mark.parametrize(("preset", "check"), [(p, c) for p in PRESETS for c in checks_of(p)])
def test_preset(preset: str, check: str, subject_of: Any) -> None:
    CHECKS[check](subject_of(preset))


def test_exemptions_are_of_checks() -> None:
    for name in PRESETS:
        exempt = registry.find("share", name).facts["exempt"]
        assert set(exempt) <= {*CHECKS, "learns"}, name  # type: ignore[call-overload]


# -- training on real rows -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, dict[str, Any], list[Task]]:
    """A vision transformer with random weights, and heads that were fitted on digits."""
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("tiny") / "vit"
    config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
                       image_size=8, patch_size=4, num_channels=1, initializer_range=0.2)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ViTModel(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, "image_mean": [0.5], '
        '"image_std": [0.5]}'
    )
    suite = Suite.load("digits", only=["digit", "ink", "segments"], limit={"train": 240, "validation": 60, "test": 1})
    tasks = list(suite.tasks.values())
    encoder = load_encoder(folder)
    return encoder, {task.name: fit_head(encoder, task).state for task in tasks}, tasks


@pytest.mark.parametrize("preset", [p for p in PRESETS if "learns" not in registry.find("share", p).facts["exempt"]])
def test_training_does_not_end_below_its_start(preset: str, fitted: Any) -> None:
    encoder, heads, tasks = fitted
    model = MultiTaskModel(copy.deepcopy(encoder), {})
    for task in tasks:
        model.add_task(task.definition, heads[task.name])
    torch.manual_seed(0)
    made, settings = shared_by(model, replace(SETTINGS, share=preset, batch_size=32), tasks)
    course = train(made, tasks, settings, seed=0)
    first, last = (course.evaluations[n]["scores"] for n in (0, -1))
    assert sum(last.values()) >= sum(first.values()) - SLACK, f"{first} became {last}"


# -- parts that are wrong in one way each, and the check that must find it ------------------------------------------


class DrawsAlways(Gate):
    def __init__(self, gate: Gate) -> None:
        super().__init__(gate.count, gate.width, gate.own)
        self.gate = gate

    def forward(self, values: Tensor) -> Tensor:
        found: Tensor = self.gate(values)
        return found + 0.1 * torch.rand_like(found)


class Detached(DrawsAlways):
    def forward(self, values: Tensor) -> Tensor:
        return self.gate(values).detach()


class OfTheBatch(Bank):
    def __init__(self, bank: Bank) -> None:
        super().__init__(bank.count, bank.width, bank.outputs)
        self.bank = bank

    def forward(self, values: Tensor) -> Tensor:
        return self.bank(values - values.mean(0, keepdim=True))

    def mixed(self, values: Tensor, weights: Tensor) -> Tensor:
        return self.bank.mixed(values - values.mean(0, keepdim=True), weights)


FAULTS: list[tuple[str, str, str, type[nn.Module]]] = [
    ("mmoe", "again", "gates", DrawsAlways),
    ("mmoe", "moves", "gates", Detached),
    ("mmoe", "alone", "banks", OfTheBatch),
    ("poly", "again", "gates", DrawsAlways),
    ("poly", "alone", "banks", OfTheBatch),
]


@pytest.mark.parametrize(
    ("preset", "check", "part", "fault"), FAULTS, ids=[f"{p}-{f.__name__}" for p, _, _, f in FAULTS]
)
def test_a_fault_is_found(preset: str, check: str, part: str, fault: type[nn.Module], subject_of: Any) -> None:
    subject = copy.deepcopy(subject_of(preset))
    CHECKS[check](subject)
    for model in (subject.model, subject.fresh):
        assert isinstance(model.encoder, Sharing)
        for mixture in model.encoder.mixtures():
            modules = getattr(mixture, part)
            for name in list(modules):
                modules[name] = fault(modules[name])
    with pytest.raises(AssertionError):
        CHECKS[check](subject)


#: A bank with a tensor that is not in its state.
FORGETFUL = """
import torch

from allround.core.registry import method
from allround.models.share.bank.mlp import Mlp


@method(family="bank", source="a test")
class Forgetful(Mlp):
    \"\"\"Perceptrons whose scale is drawn.\"\"\"

    def __init__(self, count, width, outputs):
        super().__init__(count, width, outputs)
        self.scale = [torch.rand(())]

    def forward(self, values):
        return super().forward(values) * self.scale[0]
"""


def test_a_bank_that_loses_a_tensor_is_found(
    small_image: Encoder, digits_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "_named", {})
    (tmp_path / "forgetful.py").write_text(FORGETFUL)
    plugins.use_plugin(tmp_path / "forgetful.py")
    plan = Plan(levels=(Level(Mixing(Choice("forgetful"), Choice("linear"), shared=2)),))
    with pytest.raises(AssertionError, match="the saved model gives something else"):
        saving_keeps_everything(Subject(plan, small_image, list(digits_suite.tasks.values())))


def test_a_task_that_changes_the_others_is_found(subject_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of("ple")

    def add(sharing: Sharing, names: Any) -> None:
        with torch.no_grad():
            for parameter in sharing.network.parameters():  # type: ignore[union-attr]
                parameter.mul_(1.01)

    monkeypatch.setattr(Sharing, "add_tasks", add)
    with pytest.raises(AssertionError, match="others are changed"):
        a_further_task_leaves_the_others(subject)
