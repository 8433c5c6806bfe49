"""MultiTab: against a computation with one attention matrix and a mask, and what its masks promise."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from allround.core.errors import AllroundError
from allround.models.base import create_encoder, load_encoder
from allround.models.encoders.multitab import Multitab
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.make import make_task
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.sharing import plan_of, share
from allround.training.trainer import train

#: Two columns: a number (its standardised value, and whether it is missing), and a category of three.
COLUMNS = [{"name": "x", "mean": 1.0, "scale": 2.0}, {"name": "c", "categories": ["a", "b", "d"]}]


def tasks() -> list[Task]:
    """What a and b say together with the sign of x: no column alone says it."""
    rng = np.random.default_rng(0)
    rows = [
        {"x": x, "c": c, "odd": "yes" if (x > 0) != (c == "a") else "no", "twice": 2 * x}
        for x, c in zip(rng.normal(size=240).tolist(), rng.choice(["a", "b"], 240).tolist(), strict=True)
    ]
    data = {"train": rows[:160], "validation": rows[160:200], "test": rows[200:]}
    known = {"inputs": ["x", "c"], "data": data, "table": "made"}
    return [make_task("odd", kind="classification", target="odd", **known),
            make_task("twice", kind="regression", target="twice", **known)]  # fmt: skip


@pytest.fixture(scope="module")
def two() -> list[Task]:
    return tasks()


@pytest.fixture(scope="module")
def stirred() -> Multitab:
    torch.manual_seed(0)
    encoder = Multitab(columns=COLUMNS, tasks=["odd", "twice"], width=4, depth=2, heads=2)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return encoder.eval()


def in_numpy(encoder: Multitab, rows: list[tuple[float | None, str]]) -> np.ndarray:
    """The features of both tasks, (n, tasks, width): all tokens in one sequence, with the mask of the paper."""
    w = {name: value.double().numpy() for name, value in encoder.state_dict().items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    found = []
    for x, c in rows:
        number = (0.0 if x is None else (x - 1.0) / 2.0) * w["values"][0] + (x is None) * w["values"][1]
        category = w["values"][2 + "abd".index(c)] if c in "abd" else 0.0
        tokens = np.stack([number + w["places"][0], category + w["places"][1], w["tokens.0"], w["tokens.1"]])
        mask = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]], bool)
        for block in ("blocks.0", "blocks.1"):
            read = norm(tokens, f"{block}.before") @ w[f"{block}.read.weight"].T + w[f"{block}.read.bias"]
            heads = []
            for head in (slice(0, 2), slice(2, 4)):
                query, key, value = (read[:, start : start + 4][:, head] for start in (0, 4, 8))
                scores = np.where(mask, query @ key.T / math.sqrt(2), -np.inf)
                powers = np.exp(scores - scores.max(1, keepdims=True))
                heads.append(powers / powers.sum(1, keepdims=True) @ value)
            tokens = tokens + np.concatenate(heads, 1) @ w[f"{block}.write.weight"].T + w[f"{block}.write.bias"]
            wide = norm(tokens, f"{block}.between") @ w[f"{block}.wide.weight"].T + w[f"{block}.wide.bias"]
            wide = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
            tokens = tokens + wide @ w[f"{block}.narrow.weight"].T + w[f"{block}.narrow.bias"]
        found.append(norm(tokens[2:], "last"))
    return np.stack(found)


def test_features_are_those_of_masked_attention(stirred: Multitab, two: list[Task]) -> None:
    rows = [(3.0, "a"), (None, "d"), (-1.0, "?")]
    definition = two[0].definition
    batch = MultiTaskModel(stirred, {t.name: t.definition for t in two}).collate(
        stirred.prepare(rows, definition), {"odd": [0, 1, 2], "twice": [0, 1, 2]}
    )
    with torch.no_grad():
        found = stirred(batch)
    wanted = in_numpy(stirred, rows)
    assert found.tasks == ("odd", "twice")
    assert np.allclose(found.of("odd").values.numpy(), wanted[:, 0], atol=1e-4)
    assert np.allclose(found.of("twice").values.numpy(), wanted[:, 1], atol=1e-4)
    assert not np.allclose(wanted[:, 0], wanted[:, 1], atol=0.1)


def test_a_row_depends_on_itself_and_its_task_alone(stirred: Multitab, two: list[Task]) -> None:
    model = MultiTaskModel(copy.deepcopy(stirred), {t.name: t.definition for t in two})
    for name in ("odd", "twice"):  # heads that tell features apart
        torch.nn.init.normal_(model.head(name).weight)  # type: ignore[arg-type]
    rows = two[0].splits["test"].inputs[:8]
    mixed = model.answer_mixed(["odd", "twice"] * 4, rows)
    for place, (row, answer) in enumerate(zip(rows, mixed, strict=True)):
        alone = model.answers(("odd", "twice")[place % 2], [row])
        assert np.allclose(alone.predictions, answer.predictions, atol=1e-5)
    before = model.answers("odd", rows, scores=True)
    both = model.answer_tasks(["odd", "twice"], rows, scores=True)["odd"]
    assert np.array_equal(before.scores, both.scores)  # type: ignore[arg-type]
    model.add_task(two[1].definition.with_facts({"name": "third"}))
    assert model.encoder.tasks == ["odd", "twice", "third"]  # type: ignore[attr-defined]
    assert np.array_equal(before.scores, model.answers("odd", rows, scores=True).scores)  # type: ignore[arg-type]


def test_tokens_belong_to_their_tasks(stirred: Multitab, two: list[Task]) -> None:
    model = MultiTaskModel(copy.deepcopy(stirred), {t.name: t.definition for t in two})
    assert [n for n in model.own("odd") if "tokens" in n] == ["encoder.tokens.0"]
    assert not [name for name in model.shared() if "tokens" in name]
    ready = model.prepare("odd", two[0].splits["train"].inputs[:6])
    targets = {"odd": two[0].splits["train"].targets[:6]}
    torch.nn.init.normal_(model.head("odd").weight)  # type: ignore[arg-type]
    model.losses(model.collate(ready, {"odd": range(6)}, targets))["odd"].value.backward()
    own, other = (model.get_parameter(f"encoder.tokens.{place}") for place in (0, 1))
    assert own.grad is not None and own.grad.abs().sum() > 0 and other.grad is None


def test_it_learns_what_no_column_says_alone(two: list[Task], tmp_path: Path) -> None:
    encoder = create_encoder("multitab", two, 0, {"width": 16, "dropout": 0.0, "stretches": 4})
    assert isinstance(encoder, Multitab) and encoder.tasks == ["odd", "twice"]
    model = MultiTaskModel(encoder, {t.name: t.definition for t in two})
    course = train(
        model, two, Settings(epochs=30, learning_rate=5e-3, heads="tuned", mix="all", batch_size=32, device="cpu")
    )
    assert course.evaluations[-1]["scores"]["odd"] > 0.9
    (tmp_path / "e").mkdir()
    encoder.save(tmp_path / "e")
    back = load_encoder(tmp_path / "e")
    (tmp_path / "f").mkdir()
    back.save(tmp_path / "f")
    for name in ("model.safetensors", "allround_encoder.json"):
        assert (tmp_path / "e" / name).read_bytes() == (tmp_path / "f" / name).read_bytes()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 6}, "it must divide the width, 6"),
        ({"depth": 0}, "it must be a whole number of at least 1"),
        ({"dropout": 1}, "below 1"),
    ],
)
def test_impossible_sizes(two: list[Task], settings: dict[str, object], words: str) -> None:
    with pytest.raises(AllroundError, match=words):
        create_encoder("multitab", two, 0, settings)


def test_it_does_not_share_in_a_second_way(stirred: Multitab, two: list[Task]) -> None:
    with pytest.raises(AllroundError, match="it shares in one way already"):
        share(MultiTaskModel(stirred, {t.name: t.definition for t in two}), plan_of("mmoe"))
