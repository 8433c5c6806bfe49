"""Trans-Encoder: what each half learns, by hand; both forms on pairs without labels; and when nothing is learned."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch.nn import functional as F
from typer.testing import CliRunner

from allround.building.jobs import trans_encoder as jobs
from allround.building.jobs.rows import stored_task
from allround.building.pair_rows import read_pairs
from allround.building.trans_encoder import (
    BI_SETTINGS,
    CROSS_SETTINGS,
    Half,
    TransEncoded,
    _Run,
    enough_epochs,
    trans_encoder,
)
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.core.files import hash_files
from allround.core.pieces import Pieces
from allround.core.progress import Progress
from allround.models.base import load_encoder
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.tasks.values import Row
from allround.training.course import Course
from allround.training.settings import Settings
from allround.training.trainer import train

WORDS = ("soup", "bread", "plum", "cat", "dog", "owl")
PAIRS: list[Row] = [(f"the {a} is fine", f"a {b} was warm") for a in WORDS for b in WORDS[::2]]
#: Two short halves; so few held pairs say nothing of the best state.
QUICK = {name: Settings(epochs=1, learning_rate=1e-3, batch_size=8, heads=heads, keep="last", precision="fp32",
                        device="cpu")
         for name, heads in (("bi", "frozen"), ("cross", "tuned"))}  # fmt: skip
QUIET = Progress(quiet=True)


def run(out: Path, base: object, **given: object) -> TransEncoded:
    return trans_encoder(given.pop("pairs", PAIRS), base=base, out=out,  # type: ignore[arg-type]
                         **{"workers": 1, "progress": QUIET, "least": -1.0, **QUICK, **given})  # type: ignore[arg-type]  # fmt: skip


def labelled() -> Suite:
    """Pairs with the share of words that both texts have; in half of the test rows the label is another."""

    def score(one: str, other: str) -> float:
        return len({*one.split()} & {*other.split()}) / len({*one.split()} | {*other.split()})

    rows = [{"one": f"the {a} is fine", "other": f"the {b} is {c}", "score": 0.0} for a in WORDS for b in WORDS[:3]
            for c in ("fine", "cold")]  # fmt: skip
    for row in rows:
        row["score"] = score(str(row["one"]), str(row["other"]))
    data = {"train": rows[:16], "validation": rows[16:26], "test": rows[26:]}
    task = make_task("alike", kind="similarity", inputs=["one", "other"], target="score", data=data)
    return Suite("pairs", [task])


def scores_of(folder: Path, rows: Sequence[Row]) -> np.ndarray:
    model = load(folder)
    return np.array(model.predict(model.only_task(), rows))


# -- one half ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Pieces, str, list[str]]:
    """A place for pieces, the folder of some pairs, and two teachers that give other scores than each other."""
    place = tmp_path_factory.mktemp("half")
    read_pairs(PAIRS[:12], held=0.2).task.save(place / "pairs")
    pieces, teachers = Pieces(place / "pieces"), []
    for number, length in ((1, 64), (2, 4)):  # the second reads the beginnings of texts alone
        piece = pieces.piece(f"base-{number}")
        jobs.begin(piece, str(bert_folder), {"max_length": length}, str(place / "pairs"), "cpu")
        teachers.append(str(piece.folder))
    return pieces, str(place / "pairs"), teachers


def test_a_base_gives_the_cosines_of_its_vectors(begun: tuple[Pieces, str, list[str]], bert_folder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    _, pairs, teachers = begun
    rows = stored_task(pairs).splits["train"].inputs
    encoder = SentenceTransformer(str(bert_folder), device="cpu", local_files_only=True)
    u, v = (torch.as_tensor(encoder.encode([row[side] for row in rows])) for side in (0, 1))
    wanted = F.cosine_similarity(u, v).numpy()
    np.testing.assert_allclose(jobs.mean_scores(teachers[:1], "train"), wanted, atol=1e-5)
    both = jobs.mean_scores(teachers, "train")
    np.testing.assert_allclose(both, (wanted + jobs.mean_scores(teachers[1:], "train")) / 2, atol=1e-5)
    assert np.abs(both - wanted).max() > 1e-3


@pytest.mark.parametrize("joint", [True, False])
def test_a_half_learns_the_mean_of_its_teachers(
    joint: bool, begun: tuple[Pieces, str, list[str]], bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first step the loss over all that is learned is that by hand: both orders of each pair and binary
    cross-entropy, or half the squared error of the cosines."""
    pieces, pairs, teachers = begun
    seen: dict[str, Any] = {}

    def not_trained(model: MultiTaskModel, tasks: list[Task], settings: Settings, **_: object) -> Course:
        seen["model"], seen["task"] = model, tasks[0]
        return Course()

    monkeypatch.setattr(jobs, "train", not_trained)
    piece = pieces.piece(f"half-{joint}")
    jobs.learn(piece, str(bert_folder), {}, pairs, teachers, QUICK["cross"].to_json(), 0, joint)
    model, split = seen["model"], seen["task"].splits["train"]
    rows, mean = stored_task(pairs).splits["train"].inputs, jobs.mean_scores(teachers, "train")
    if joint:
        assert split.inputs == [pair for a, b in rows for pair in ((a, b), (b, a))]
        np.testing.assert_allclose(split.targets, np.repeat(mean.clip(0, 1), 2))
    else:
        assert split.inputs == rows
        np.testing.assert_allclose(split.targets, mean)
    model.eval()
    prepared = model.prepare("alike", split.inputs)
    batch = model.collate(prepared, {"alike": range(len(prepared))}, {"alike": split.targets})
    with torch.no_grad():
        loss = model.losses(batch)["alike"].mean.item()
    said = scores_of(piece.folder / "model", split.inputs)
    if joint:
        wanted = -(split.targets * np.log(said) + (1 - split.targets) * np.log(1 - said)).mean()
        assert model.head("alike").sort == "sigmoid" and model.encoder.pairs == "joint"
    else:
        wanted = 0.5 * np.square(said - split.targets).mean()
        assert model.head("alike").sort == "similarity" and model.encoder.pairs == "separate"
    assert loss == pytest.approx(wanted, abs=1e-5)
    np.testing.assert_allclose(jobs.mean_scores([piece.folder], "train"), scores_of(piece.folder / "model", rows),
                               atol=1e-5)  # fmt: skip


@pytest.mark.parametrize("joint", [True, False])
def test_a_half_comes_near_to_what_it_is_taught(
    joint: bool, begun: tuple[Pieces, str, list[str]], bert_folder: Path
) -> None:
    """A teacher that likes pairs whose first text tells of food; the answers of the base are elsewhere."""
    pieces, pairs, teachers = begun
    rows = stored_task(pairs)
    food = {split: np.array([0.9 if {"soup", "bread", "plum"} & {*str(row[0]).split()} else 0.1
                             for row in rows.splits[split].inputs]) for split in ("train", "validation")}  # fmt: skip
    teacher = pieces.piece("teacher")
    with teacher.make() as (folder, _):
        save_file({split: torch.tensor(values) for split, values in food.items()}, folder / jobs.SCORES)
    piece, settings = pieces.piece(f"near-{joint}"), QUICK["cross" if joint else "bi"].with_(epochs=20)
    jobs.learn(piece, str(bert_folder), {}, pairs, [str(teacher.folder)], settings.to_json(), 0, joint)
    near, far = (np.square(jobs.mean_scores([one], "train") - food["train"]).mean()
                 for one in (piece.folder, teachers[0]))  # fmt: skip
    assert near < 0.5 * food["train"].var() < 0.5 * far


# -- cycles ------------------------------------------------------------------------------------------------------------


def test_two_models_come_of_pairs_without_labels(bert_folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder, SentenceTransformer

    made = run(tmp_path / "alike", bert_folder, cycles=2)
    assert [(half.cycle, half.model) for half in made.halves] == [(1, "cross"), (1, "bi"), (2, "cross"), (2, "bi")]
    assert made.kept == 2 and not made.test and all(half.score is None for half in made.halves)
    assert made.folders == {"bi": tmp_path / "alike" / "bi", "cross": tmp_path / "alike" / "cross"}
    assert not (tmp_path / "alike.unfinished").exists()
    notes = json.loads((tmp_path / "alike" / "cycles.json").read_text())
    assert notes["kept"] == 2 and len(notes["halves"]) == 4 and notes["bases"] == [str(bert_folder)]
    # Both are ordinary models, which other libraries load.
    cross = CrossEncoder(str(tmp_path / "alike" / "cross"), device="cpu", local_files_only=True)
    found = scores_of(tmp_path / "alike" / "cross", PAIRS[:4])
    np.testing.assert_allclose(cross.predict(PAIRS[:4]), found, atol=1e-5)
    assert ((found > 0) & (found < 1)).all()
    bi = SentenceTransformer(str(tmp_path / "alike" / "bi" / "encoder"), device="cpu", local_files_only=True)
    u, v = (torch.as_tensor(bi.encode([pair[side] for pair in PAIRS[:4]])) for side in (0, 1))
    np.testing.assert_allclose(F.cosine_similarity(u, v), scores_of(tmp_path / "alike" / "bi", PAIRS[:4]), atol=1e-5)


def test_several_bases_learn_the_mean_of_all(bert_folder: Path, tmp_path: Path) -> None:
    """Two runs with the same seed are the same; each base has models of its own."""
    made = run(tmp_path / "one", [bert_folder, bert_folder], cycles=1)
    assert set(made.folders) == {"bi-1", "bi-2", "cross-1", "cross-2"}
    assert [(half.model, half.base) for half in made.halves] == [("cross", 0), ("cross", 1), ("bi", 0), ("bi", 1)]
    again = run(tmp_path / "two", [bert_folder, bert_folder], cycles=1)
    for name, folder in made.folders.items():
        weights = [{n: h for n, h in hash_files(place).items() if n.endswith(".safetensors")}
                   for place in (folder, again.folders[name])]  # fmt: skip
        assert weights[0] == weights[1] and weights[0], name
    one, two = (scores_of(made.folders[f"cross-{number}"], PAIRS) for number in (1, 2))
    assert np.abs(one - two).max() > 1e-6, "another order of the pairs"


def test_labels_are_for_scores_alone(bert_folder: Path, tmp_path: Path) -> None:
    """Other labels give other scores, and the same weights."""
    suite = labelled()
    made = run(tmp_path / "one", [bert_folder, bert_folder], pairs=suite, cycles=1)
    assert len(made.start) == 2 and all(half.score is not None for half in made.halves)
    means = {"mean of base", "mean of bi", "mean of cross"}
    assert set(made.test) == {f"{name}-{number}" for name in ("base", "bi", "cross") for number in (1, 2)} | means
    assert set(made.gains) == {name for name in made.test if "base" not in name}
    task = suite["alike"]
    for name in ("bi-1", "cross-2"):
        rows = task.splits["test"]
        found = spearmanr(scores_of(made.folders[name], rows.inputs), rows.targets).statistic
        assert made.test[name].value == pytest.approx(found, abs=1e-6)
    data = {
        name: [{"one": one, "other": two, "score": float(n % 3)} for n, (one, two) in enumerate(split.inputs)]
        for name, split in task.splits.items()
    }
    other = Suite("pairs", [make_task("alike", kind="regression", inputs=["one", "other"], target="score", data=data)])
    changed = run(tmp_path / "two", [bert_folder, bert_folder], pairs=other, cycles=1)
    assert changed.test["bi-1"].value != made.test["bi-1"].value
    files = [{n: h for n, h in hash_files(one.folders["bi-1"]).items() if n.endswith(".safetensors")}
             for one in (made, changed)]  # fmt: skip
    assert files[0] == files[1]


def test_what_agrees_too_little_teaches_nobody(bert_folder: Path, tmp_path: Path) -> None:
    """With the highest bar the cycles end after the first half: the bi-encoder is the base as it was."""
    log = tmp_path / "log.txt"
    made = run(tmp_path / "alike", bert_folder, least=1.0, progress=Progress(log, quiet=True))
    assert [(half.model, half.taken) for half in made.halves] == [("cross", False)] and made.kept == 0
    assert "nothing is learned from it; the bi-encoders are the bases as they were" in log.read_text()
    base = MultiTaskModel(load_encoder(bert_folder), {})
    bi = load(made.folders["bi"])
    assert isinstance(bi, MultiTaskModel)
    base.add_task(bi.definition("alike"), bi.head("alike").stored())
    np.testing.assert_allclose(bi.predict("alike", PAIRS), base.predict("alike", PAIRS), atol=1e-6)
    assert (made.folders["cross"] / "heads.safetensors").is_file()


def test_one_that_agrees_too_little_is_left_out_of_the_mean(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = _Run._judged

    def verdict(self: object, number: int, model: str, index: int, *more: object) -> Half:
        half = judged(self, number, model, index, *more)  # type: ignore[arg-type]
        return replace(half, taken=(model, index) not in {("cross", 0), ("bi", 1)})

    monkeypatch.setattr(_Run, "_judged", verdict)
    made = run(tmp_path / "alike", [bert_folder, bert_folder], cycles=1)
    assert made.kept == 1
    base = MultiTaskModel(load_encoder(bert_folder), {})
    first, second = load(made.folders["bi-1"]), load(made.folders["bi-2"])
    assert isinstance(first, MultiTaskModel)
    base.add_task(first.definition("alike"), first.head("alike").stored())
    was = np.array(base.predict("alike", PAIRS))
    np.testing.assert_allclose(second.predict("alike", PAIRS), was, atol=1e-6)  # kept as it was
    assert np.abs(np.array(first.predict("alike", PAIRS)) - was).max() > 1e-4


def test_a_killed_run_goes_on_with_the_unfinished_half(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = train, list[str]()

    def dies(model: MultiTaskModel, tasks: list[object], settings: Settings, **more: object) -> object:
        made.append(model.encoder.pairs)
        if len(made) == 2:
            raise KeyboardInterrupt
        return real(model, tasks, settings, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "train", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "alike", bert_folder, cycles=1)
    assert made == ["joint", "separate"] and not (tmp_path / "alike").exists()
    run(tmp_path / "alike", bert_folder, cycles=1)
    assert made == ["joint", "separate", "separate"], "the cross-encoder was there already"
    run(tmp_path / "whole", bert_folder, cycles=1)
    np.testing.assert_allclose(scores_of(tmp_path / "alike" / "bi", PAIRS), scores_of(tmp_path / "whole" / "bi", PAIRS),
                               atol=1e-6)  # fmt: skip


# -- what is read and refused ------------------------------------------------------------------------------------------


def test_pairs_of_a_file_come_once_and_some_are_held_back(tmp_path: Path) -> None:
    rows = [{"premise": a, "hypothesis": b, "note": 1} for a, b in [*PAIRS, *PAIRS[:5]]]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(AllroundError, match=r"there are 3 columns: premise, hypothesis and note"):
        read_pairs(tmp_path / "pairs.jsonl")
    read = read_pairs(tmp_path / "pairs.jsonl", columns=["premise", "hypothesis"], held=0.25)
    learned, held = (read.task.splits[name].inputs for name in ("train", "validation"))
    assert len(held) == round(0.25 * len(PAIRS)) and sorted([*learned, *held]) == sorted(PAIRS)
    assert read.labelled is None and read.files == [tmp_path / "pairs.jsonl"]


def test_rows_of_a_task_lose_their_labels() -> None:
    suite = labelled()
    read = read_pairs(suite)
    assert not read.task.splits["train"].targets.any() and not read.task.splits["validation"].targets.any()
    assert not len(read.task.splits["test"])
    assert read.labelled is not None
    task = suite["alike"]
    raw = np.asarray(task.splits["test"].targets) * task.definition.scale + task.definition.center
    np.testing.assert_allclose(read.labelled.splits["test"].targets, raw)


def refusals(bert_folder: Path, text_suite: Suite) -> Mapping[str, dict[str, object]]:
    return {
        "there are 4 different ones": {"pairs": PAIRS[:4]},
        "there are 0 cycles": {"cycles": 0},
        "the least agreement is 2": {"least": 2.0},
        "that is no share": {"held": 1.5},
        "no base is given": {"base": None},
        "does not read two texts as one sequence": {"base": "small_table"},
        "apart and as one in turns": {"encoder": {"pairs": "joint"}},
        "0 tasks of two texts and a number": {"pairs": text_suite.part(["mood"])},
        "nearest|names|alike": {"pairs": labelled(), "task": "alikes"},
        "the suite names the columns": {"pairs": labelled(), "columns": ["a", "b"]},
    }


def test_what_cannot_be_done_is_said(bert_folder: Path, text_suite: Suite, tmp_path: Path) -> None:
    for match, given in refusals(bert_folder, text_suite).items():
        with pytest.raises(AllroundError, match=match) as caught:
            run(tmp_path / "out", **{"base": bert_folder, **given})  # type: ignore[arg-type]
        assert caught.value.asked and caught.value.found and caught.value.do
    assert not list(tmp_path.iterdir()), "nothing was written"


def test_the_defaults_are_the_authors_where_pairs_are_many() -> None:
    """As train_self_distill.sh has them, but for the rate of the cross-encoder."""
    bi = BI_SETTINGS
    assert (bi.epochs, bi.learning_rate, bi.batch_size, bi.warmup) == (10, 5e-5, 128, 0.0)
    assert CROSS_SETTINGS.batch_size == 32 and CROSS_SETTINGS.heads == "tuned"
    assert [enough_epochs(pairs, 32) for pairs in (16, 1000, 3200, 3201)] == [200, 4, 1, 1]


def test_the_command(bert_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("one,other\n" + "".join(f"{a},{b}\n" for a, b in PAIRS[:12]))
    numbers = {"cycles": 1, "bi-epochs": 1, "bi-batch": 8, "cross-epochs": 1, "least": -1, "workers": 1}
    options = [word for name, value in numbers.items() for word in (f"--{name}", value)]
    words = ["trans-encoder", tmp_path / "pairs.csv", "--base", bert_folder, *options, "--out", tmp_path / "alike"]
    ran = CliRunner().invoke(app, [str(word) for word in words])
    assert ran.exit_code == 0, ran.output
    assert "agrees with its teachers" in ran.output and str(tmp_path / "alike" / "cross") in ran.output
    facts = json.loads((tmp_path / "alike" / "bi" / "allround.json").read_text())["made_by"]
    assert facts["settings"]["bi"]["batch_size"] == 8 and facts["settings"]["cross"]["batch_size"] == 32
