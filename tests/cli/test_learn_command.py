"""allround merge --learn: what it says, what it writes, what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import allround
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.core.files import hash_folder, read_json

SUITE = """\
tasks:
  species: {source: data.csv, inputs: [length, width], target: species, kind: classification}
  petal: {source: data.csv, inputs: [length, width], target: petal, kind: regression}
  broad: {source: data.csv, inputs: [length, width], target: broad, kind: classification}
"""


def invoke(*words: Any) -> Any:
    result = CliRunner().invoke(app, ["merge", *[str(w) for w in words]])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def cli(*words: Any) -> str:
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    return str(result.output)


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of three tasks on a table, a base with random weights, and a model of each task, three steps from it."""
    import torch

    from allround.models.base import load_encoder
    from allround.models.encoders.small_table import SmallTable
    from allround.models.fitting import fit_head
    from allround.models.likelihood import likelihood
    from allround.models.systems.multi_task_model import MultiTaskModel
    from allround.models.table_inputs import column_for
    from allround.tasks.suite import Suite

    folder = tmp_path_factory.mktemp("flowers")
    lines = ["length,width,species,petal,broad"]
    for i in range(90):
        length, width = 4 + i % 3 + i % 7 / 10, 3 - i % 3 / 2 + i % 5 / 10
        lines.append(
            f"{length:.1f},{width:.1f},s{i % 3},{1 + 2 * (i % 3) + i % 4 / 10:.1f},{'yes' if width > 2.6 else 'no'}"
        )
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    (folder / "suite.yml").write_text(SUITE)
    suite = Suite.load(folder / "suite.yml")
    task = suite.tasks["species"]
    columns = [
        column_for(n, [row[i] for row in task.splits["train"].inputs]) for i, n in enumerate(task.definition.inputs)
    ]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = SmallTable(columns=columns, width=16).eval()
    (folder / "base").mkdir()
    base.save(folder / "base")
    for name, task in suite.tasks.items():
        model = MultiTaskModel(load_encoder(folder / "base"), {})
        head = fit_head(model.encoder, task)
        model.add_task(task.definition, head.state)
        rows, rules = task.splits["train"], likelihood(task.definition)
        batch = model.encoder.batch(model.encoder.prepare(rows.inputs, task.definition), task.definition)
        optimiser = torch.optim.Adam(model.encoder.parameters(), lr=1e-2)
        for _ in range(3):
            optimiser.zero_grad()
            rules.loss(model(name, batch), rules.tensor(rows.targets)).backward()
            optimiser.step()
        model.eval().save(folder / name)
    return folder


def models(flowers: Path, *names: str) -> Sequence[Path]:
    return [flowers / name for name in ("base", *(names or ("species", "petal")))]


def test_it_learns_and_says_what(flowers: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = cli(
        *models(flowers), "--learn", "layer", "--objective", "divergence", "--rows", "20", "--steps", "4", "--seed=3",
        "--on", "train", "--suite", flowers / "suite.yml", "--device", "cpu", "-o", out,
    )  # fmt: skip
    assert "learned   layer (bound none), start scale 0.3" in said
    assert "by        divergence, with the specialists' answers; 4 steps of 16 rows of each task" in said
    assert "learned a merge of 2 models by layer: 4 steps, loss" in said and f"into {out}" in said
    record = read_json(out / "encoder" / "learned.json")
    assert record["rows"] == {"species": 20, "petal": 20} and record["seed"] == 3 and record["preset"] == "layer"
    assert record["base"] == str(flowers / "base") and record["models"] == [str(m) for m in models(flowers)[1:]]
    assert len(record["losses"]) == 4 and record["learning"]["objective"] == "divergence"
    answers = allround.load(out).predict("species", [(4.2, 3.0), (6.0, 2.1)])
    assert set(answers) <= {"s0", "s1", "s2"}
    assert "adapted to the test" not in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "said", "kept"),
    [
        (["supermerge", "--group", "2"], "tanh", {"parametrisation": "layer", "group": 2}),
        (["atlas"], "with labels", {"optimiser": "adamw", "weight_decay": 0.1, "scale": 0.0}),
        (["divmerge", "--measure", "kl", "--level=task"], "specialists' answers", {"parametrisation": "task"}),
        (["block", "--objective", "label", "--bound", "unit", "--batch", "8"], "of 8 rows", {"batch": 8}),
        (["layer", "--objective", "features", "--heads", "fitted"], "heads fitted anew", {"heads": "fitted"}),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else "",
)
def test_options_of_presets(words: list[str], said: str, kept: dict[str, Any], flowers: Path, tmp_path: Path) -> None:
    given = models(flowers, "species", "petal", "broad")
    found = cli(*given, "--learn", *words, "--steps", "2", "--suite", flowers / "suite.yml", "--device", "cpu",
                "-o", tmp_path / "out")  # fmt: skip
    assert said in found and "2 steps" in found
    learning = read_json(tmp_path / "out" / "encoder" / "learned.json")["learning"]
    assert {k: learning[k] for k in kept} == kept
    assert list(allround.load(tmp_path / "out").definitions) == ["species", "petal", "broad"]


def test_test_inputs_are_noted(flowers: Path, tmp_path: Path) -> None:
    given = models(flowers, "species", "broad")
    words = [*given, "--learn", "adamerging", "--steps", "1", "--suite", flowers / "suite.yml", "--on", "test"]
    said = cli(*words, "--device", "cpu", "-o", tmp_path / "out")
    assert "note      it adapts to the test inputs" in said and " test rows of " in said
    assert "adapted to the test inputs" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(AllroundError, match="then the test measures nothing"):
        cli(*given, "--learn", "atlas", "--suite", flowers / "suite.yml", "--on", "test", "-o", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_start_by_name(flowers: Path, tmp_path: Path) -> None:
    words = [*models(flowers), "--learn", "task", "--steps", "0", "--suite", flowers / "suite.yml", "--device", "cpu"]
    cli(*words, "--start", "average", "-o", tmp_path / "learned")
    cli(*models(flowers), "--method", "average", "-o", tmp_path / "fixed")
    import torch
    from safetensors.torch import load_file

    one, two = (load_file(tmp_path / n / "encoder" / "model.safetensors") for n in ("learned", "fixed"))
    assert all(torch.allclose(one[n], two[n], atol=1e-6) for n in two)


def test_a_dry_run_writes_nothing(flowers: Path, tmp_path: Path) -> None:
    before = hash_folder(flowers)
    for out in (["-o", tmp_path / "out"], []):
        said = cli(*models(flowers), "--learn", "tint", "--suite", flowers / "suite.yml", "--dry-run", *out)
        assert "learned   block (bound unit), start scale 0.3, and the heads" in said
        assert "by        pseudo, with the specialists' answers; 60 steps" in said and " train rows of 2 tasks" in said
    assert list(tmp_path.iterdir()) == [] and hash_folder(flowers) == before


def test_stopped(flowers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from allround.merging.learn.steps import LearningSteps

    def stop(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LearningSteps, "step", stop)
    result = invoke(*models(flowers), "--learn", "task", "--suite", flowers / "suite.yml", "--device", "cpu", "-o",
                    tmp_path / "out")  # fmt: skip
    assert result.exit_code == 130 and "stopped: nothing was written" in result.output
    assert list(tmp_path.iterdir()) == []


LEARN = ["--suite", "SUITE", "--device", "cpu", "-o", "OUT"]
BOTH = ["base", "species", "petal"]
WRONG: list[tuple[list[str], str]] = [
    ([*BOTH, "--learn", "adamergin", *LEARN], "did you mean 'adamerging'"),
    ([*BOTH, "--learn", "layr", *LEARN], "did you mean 'layer'"),
    ([*BOTH, "--learn", "adamerging", "--objective", "label", *LEARN], "that preset has its own"),
    ([*BOTH, "--learn", "layer", "--objective", "divergense", *LEARN], "did you mean 'divergence'"),
    ([*BOTH, "--learn", "layer", "--method", "ties", *LEARN], "an option of fixed merges"),
    ([*BOTH, "--learn", "layer", "--no-base", *LEARN], "an option of fixed merges"),
    ([*BOTH, "--learn", "layer", "--dtype", "bfloat16", *LEARN], "an option of fixed merges"),
    ([*BOTH, "--learn", "layer", "-o", "OUT"], "no data is given to learn on"),
    ([*BOTH, "--learn", "layer", "--rows", "0", *LEARN], "give at least 1"),
    ([*BOTH, "--learn", "layer", "--batch", "0", *LEARN], "give at least 1"),
    ([*BOTH, "--learn", "layer", "--steps", "few", *LEARN], "a whole number"),
    ([*BOTH, "--learn", "layer", "--stpes", "3", *LEARN], "did you mean 'steps'"),
    ([*BOTH, "--learn", "concrete", "--speed", "-1", *LEARN], "no positive number"),
    ([*BOTH, "--learn", "supermerge", "--group", "1", *LEARN], "a group of one is no merge"),
    ([*BOTH, "--learn", "atlas", "--on", "test", *LEARN], "then the test measures nothing"),
    ([*BOTH, "--learn", "atlas", "--on", "dev", *LEARN], "no such split"),
    ([*BOTH, "--learn", "atlas", "--start", "tise", *LEARN], "tise"),
    ([*BOTH, "--learn", "adamerging", *LEARN], "it is of the kind regression"),
    ([*BOTH, "--learn", "layer", "--suite", "SUITE", "--device", "tpux", "-o", "OUT"], "no such device"),
    ([*BOTH, "--learn", "layer", "--suite", "SUITE"], "no --out is given"),
    ([*BOTH, "--learn", "layer", "--suite", "SUITE", "--only", "species,broad", "-o", "OUT"], "a head for 'petal'"),
    ([*BOTH, "species", "--learn", "layer", *LEARN], "is in another of the models too"),
    (["base", "species", "petal/encoder", "--learn", "layer", *LEARN], "is a model that allround saved"),
    (["base", "species", "--learn", "layer", *LEARN], "the base and at least two models"),
    (["base", "--learn", "layer", *LEARN], "the base and at least two models"),
    (["base", "species", "nowhere", "--learn", "layer", *LEARN], "nowhere"),
    (["nowhere", "species", "petal", "--learn", "layer", *LEARN], "nowhere"),
    (["base", "species", "data.csv", "--learn", "layer", *LEARN], "data.csv"),
    (["small_table", "species", "petal", "--learn", "layer", *LEARN], "pretrains anew"),
    ([*BOTH, "--objective", "label", "-o", "OUT"], "nothing is learned"),
    ([*BOTH, "--rows", "5", "-o", "OUT"], "nothing is learned"),
    ([*BOTH, "--start", "ties", "-o", "OUT"], "nothing is learned"),
    ([*BOTH, "--learn", "layer", "--suite", "SUITE", "-o", "species"], "one must not lie within the other"),
    ([*BOTH, "--learn", "layer", "--suite", "SUITE", "-o", "petal/new"], "one must not lie within the other"),
]


@pytest.mark.parametrize(("words", "match"), WRONG, ids=[" ".join(words[1:-4]) for words, _ in WRONG])
def test_bad_input(words: list[str], match: str, flowers: Path, tmp_path: Path) -> None:
    before = hash_folder(flowers)

    def real(word: str) -> str:
        places = {"SUITE": flowers / "suite.yml", "OUT": tmp_path / "out", "nowhere": tmp_path / "nowhere"}
        own = flowers / word
        return str(places.get(word, own if own.exists() or word == "petal/new" else word))

    positional = [n for n, w in enumerate(words) if not w.startswith("--")]
    with pytest.raises(AllroundError, match=match):
        cli(*[real(w) if n in positional and w not in ("layer", "atlas") else w for n, w in enumerate(words)])
    assert list(tmp_path.iterdir()) == [] and hash_folder(flowers) == before


def test_labels_that_are_not_the_models(flowers: Path, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text((flowers / "data.csv").read_text().replace("s2", "s3"))
    (tmp_path / "suite.yml").write_text(SUITE)
    with pytest.raises(AllroundError, match="labels are not those of the suite: s2, s3 differ"):
        cli(*models(flowers), "--learn", "layer", "--suite", tmp_path / "suite.yml", "-o", tmp_path / "out")


def test_models_without_heads_take_the_tasks_in_the_order_in_which_they_are_named(
    flowers: Path, tmp_path: Path
) -> None:
    words = [flowers / "base", flowers / "petal" / "encoder", flowers / "species" / "encoder"]
    cli(*words, "--learn", "layer", "--objective", "features", "--steps", "1", "--device", "cpu",
        "--suite", flowers / "suite.yml", "--only", "petal,species", "-o", tmp_path / "out")  # fmt: skip
    record = read_json(tmp_path / "out" / "learned.json")
    assert list(record["rows"]) == ["petal", "species"] and record["models"] == [str(word) for word in words[1:]]
