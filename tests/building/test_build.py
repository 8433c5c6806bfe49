"""`build` from end to end on tiny suites: what it leaves, what it chooses, what it does again."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import allround
from allround.building import Build, Constraints, Options, build
from allround.building.jobs import start as jobs
from allround.building.stages.base import decide_precision
from allround.building.workshop import Workshop
from allround.core.errors import AllroundError
from allround.core.locks import LOCK
from allround.core.progress import Progress
from allround.evaluation.predictions import Predictions
from allround.evaluation.scoreboard import Scoreboard
from allround.models.encoders.module import Module
from allround.models.encoders.small_image import SmallImage
from allround.tasks.suite import Suite
from allround.training.settings import Settings

QUICK = Settings(epochs=2, batch_size=20)


def options(**changes: Any) -> Options:
    return Options(**{"settings": QUICK, "workers": 1, "trials": 3, "resamples": 200, **changes})


#: What tests leave out that look at something else: merges, further joint models and baselines.
BARE: dict[str, Any] = {"methods": (), "balance": (), "baselines": False}


def run(
    suite: Suite, out: Path, *, base: Any = None, encoder: Mapping[str, Any] | None = None, **changes: Any
) -> Build:
    return build(
        suite,
        out=out,
        base=base,
        encoder=encoder,
        options=options(**changes),
        progress=Progress(out / "log.txt", quiet=True),
    )


def made(log: str) -> list[str]:
    """What a run made, by the names of the pieces without their keys."""
    return [re.sub(r"-[0-9a-f]{12}$", "", line) for line in re.findall(r"made  (.+?)(?:  \(|$)", log, re.M)]


def last_log(out: Path) -> str:
    """The log of the last run in a folder."""
    return (out / "log.txt").read_text().split(" s  suite ")[-1]


@pytest.fixture(scope="module")
def base(small_image: SmallImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with random weights: pretraining one takes seconds, and these tests do not ask for good scores."""
    folder = tmp_path_factory.mktemp("base") / "small_image"
    folder.mkdir()
    small_image.save(folder)
    return folder


@pytest.fixture(scope="module")
def first(digits_suite: Suite, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    return run(digits_suite, tmp_path_factory.mktemp("run") / "a", base=base)


def test_it_leaves_a_scoreboard_a_report_predictions_and_the_best_model(first: Build, digits_suite: Suite) -> None:
    board = first.scoreboard
    names = [s.name for s in board.systems]
    fixed, learned = ["average", "task_arithmetic", "ties"], ["divmerge"]
    assert names[:-2] == ["floor", "base", "specialists", "joint", "linear", *fixed, *learned]
    assert names[-2] in [f"{name}+heads" for name in fixed] and names[-1] in [f"{name}+heads" for name in learned]
    assert Scoreboard.load(first.folder).fingerprint() == board.fingerprint()
    log = (first.folder / "log.txt").read_text()
    assert all(f"test predictions of {n.removesuffix('+heads')} and {n} (" in log for n in names[-2:]), "one encoder"
    report = first.report.read_text()
    assert "digits on small_image" in report
    assert f"<code>allround predict {first.best} --task digit picture.png\nallround predict" in report
    assert str(board.notes["choice"]) in html.unescape(report)
    for system in names:
        for task in digits_suite.tasks:
            kept = Predictions.load(first.folder / "predictions" / system / f"{task}.parquet")
            assert len(kept) == 30
    model = allround.load(first.best)
    split = digits_suite.tasks["digit"].splits["test"]
    answers = model.predict("digit", [row[0] for row in split.inputs])
    kept = Predictions.load(first.folder / "predictions" / str(board.best) / "digit.parquet")
    labels = kept.definition.labels
    assert answers == [labels[i] for i in kept.predictions], "the saved model answers as it was scored"
    assert model.facts["scores"]["digit"]["test"] == board.cells[str(board.best)]["digit"].score


def test_the_winner_is_the_best_single_model_on_validation(first: Build) -> None:
    board = first.scoreboard
    single = [s.name for s in board.systems if s.single and s.role in ("base", "joint", "merge")]
    means = {name: board.validation_mean(name) for name in single}
    assert board.best in single
    assert means[str(board.best)] == max(m for m in means.values() if m is not None)


def test_test_rows_are_predicted_once_for_each_finished_system_and_by_no_trial(first: Build) -> None:
    pieces = [p.name for p in (first.folder / "pieces").iterdir()]
    scored = [p for p in pieces if p.startswith("test-")]
    assert len(scored) == 10 * 3, "ten systems beside the floor, three tasks"
    tried = [p for p in pieces if p.startswith("try-")]
    assert len(tried) == 1 + 3 + 3
    for name in tried:
        facts = json.loads((first.folder / "pieces" / name / "piece.json").read_text())["facts"]
        assert set(facts) == {"validation", "seconds"}


def test_costs(first: Build) -> None:
    board = first.scoreboard
    base, specialists, joint, ties = (board.system(n).cost for n in ("base", "specialists", "joint", "ties"))
    encoder = sum(p.numel() for p in allround.load(first.best).encoder.parameters())
    heads = 129 * (10 + 1 + 7)
    assert base.parameters_stored == joint.parameters_stored == ties.parameters_stored == encoder + heads
    assert specialists.parameters_stored == 3 * encoder + heads
    assert ties.parameters_used == encoder + 129 * 10
    assert specialists.training_examples == joint.training_examples == 3 * 60 * 2, "the same budget of examples"
    assert (ties.search_choices, joint.search_choices) == (3, 0)
    assert ties.training_seconds == specialists.training_seconds > 0
    assert specialists.examples_per_second and specialists.examples_per_second > 0


def test_precision_is_decided_once_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "layer_seconds", lambda where: {"fp32": 0.046, "bf16": 0.0213})
    for decided in ("bf16", "fp32"):  # the second time the machine is busy, and would decide otherwise
        monkeypatch.setattr(jobs, "precision", lambda name, where, decided=decided: decided)
        with Workshop(tmp_path, Progress(quiet=True), workers=1) as shop:
            found = decide_precision(shop, QUICK)
        assert found.settings.precision == "bf16"
        assert found.words == "bfloat16, the faster here: a layer takes 21.3 ms, and 46 ms in float32"


def test_all_pieces_are_made_in_the_precision_that_was_decided(first: Build) -> None:
    (piece,) = (first.folder / "pieces").glob("precision-*/piece.json")
    decided = json.loads(piece.read_text())["facts"]["precision"]
    for name in ("specialist-digit", "joint"):
        (piece,) = (first.folder / "pieces").glob(f"{name}-*/piece.json")
        assert json.loads(piece.read_text())["made_from"]["settings"]["precision"] == decided
    assert "the faster here: a layer takes" in first.report.read_text()


def test_a_second_run_makes_nothing(first: Build, digits_suite: Suite, base: Path) -> None:
    again = run(digits_suite, first.folder, base=base)
    assert made(last_log(first.folder)) == []
    assert again.scoreboard.fingerprint() == first.scoreboard.fingerprint()


def test_another_seed_gives_another_scoreboard(first: Build, digits_suite: Suite, base: Path, tmp_path: Path) -> None:
    other = run(digits_suite, tmp_path / "b", base=base, seed=1, **BARE)
    assert other.scoreboard.cells["joint"] != first.scoreboard.cells["joint"]


def test_a_new_task_trains_only_what_is_new(digits_suite: Suite, base: Path, tmp_path: Path) -> None:
    two = Suite("digits", [digits_suite.tasks[n] for n in ("digit", "ink")])
    few = {**BARE, "methods": ("average",)}
    run(two, tmp_path / "run", base=base, **few)
    run(digits_suite, tmp_path / "run", base=base, **few)
    log = made(last_log(tmp_path / "run"))
    assert [line for line in log if line.startswith(("head-", "specialist-"))] == [
        "head-segments",
        "specialist-segments",
    ]
    assert "joint" in log and "merge-average" in log and "base" not in log


def test_lost_pieces_are_made_again_with_the_same_result(
    first: Build, digits_suite: Suite, base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(first.folder, out)
    for piece in [*out.glob("pieces/specialist-ink-*"), *out.glob("pieces/test-ties-digit-*")]:
        shutil.rmtree(piece)
    again = run(digits_suite, out, base=base)
    assert made(last_log(out)) == ["specialist-ink", "test predictions of ties (all 3 tasks)"]
    assert again.scoreboard.fingerprint() == first.scoreboard.fingerprint()


def test_damaged_pieces_are_made_again(first: Build, digits_suite: Suite, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(first.folder, out)
    weights = next(out.glob("pieces/specialist-ink-*/encoder/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    next(out.glob("pieces/head-digit-*/piece.json")).write_text("{}")
    next(out.glob("pieces/joint-*/heads.safetensors")).unlink()
    segments = next(out.glob("pieces/specialist-segments-*/encoder/model.safetensors"))
    segments.write_bytes(segments.read_bytes()[:4000] + bytes(segments.stat().st_size - 4000))
    answers = next(out.glob("pieces/test-joint-digit-*/predictions.parquet"))
    answers.write_bytes(answers.read_bytes()[:1000] + bytes(answers.stat().st_size - 1000))
    again = run(digits_suite, out, base=base)
    whole = ["head-digit", "joint", "specialist-ink", "specialist-segments", "test predictions of joint (all 3 tasks)"]
    assert sorted(made(last_log(out))) == whole
    assert f"note  {segments.parent.parent.name} is made again: encoder/model.safetensors is not" in last_log(out)
    assert again.scoreboard.fingerprint() == first.scoreboard.fingerprint()


def test_half_made_pieces_are_swept_and_not_taken(
    first: Build, digits_suite: Suite, base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(first.folder, out)
    half = out / "pieces" / ".specialist-digit-0.partial"
    (half / "new").mkdir(parents=True)
    (half / LOCK).touch()
    (half / "new" / "heads.safetensors").write_bytes(b"half")
    own = out / "pieces" / ".notes.partial"
    own.mkdir()
    (own / "notes.txt").write_text("the user's")
    run(digits_suite, out, base=base)
    assert not half.exists() and (own / "notes.txt").read_text() == "the user's"


def test_two_builds_in_one_folder_are_refused(first: Build, digits_suite: Suite, base: Path) -> None:
    import fcntl

    with open(first.folder / LOCK) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(AllroundError, match="another process is writing it"):
            run(digits_suite, first.folder, base=base)


def test_given_specialists_are_taken(first: Build, digits_suite: Suite, base: Path, tmp_path: Path) -> None:
    model = next((first.folder / "pieces").glob("specialist-digit-*"))
    encoder_only = next((first.folder / "pieces").glob("specialist-ink-*")) / "encoder"
    given = {"digit": str(model), "ink": str(encoder_only)}
    board = run(digits_suite, tmp_path / "run", base=base, specialists=given, joint=False, **BARE).scoreboard
    assert board.cells["specialists"]["digit"].score == first.scoreboard.cells["specialists"]["digit"].score
    assert board.cells["specialists"]["ink"].score > 0
    log = last_log(tmp_path / "run")
    assert "made  specialist-segments" in log
    assert board.system("specialists").cost.training_examples == 60 * 2, "only the third was trained here"


def test_a_given_specialist_is_known_by_all_of_it(
    first: Build, digits_suite: Suite, base: Path, tmp_path: Path
) -> None:
    """With another head in its folder it is another specialist, though its encoder is the same."""
    from allround.models.head_files import read_heads, write_heads

    given = tmp_path / "given"
    shutil.copytree(next((first.folder / "pieces").glob("specialist-digit-*")), given)
    suite = Suite("one", [digits_suite.tasks["digit"]])
    scores = []
    for _ in range(2):
        made_ = run(suite, tmp_path / "run", base=base, specialists={"digit": str(given)}, joint=False, **BARE)
        scores.append(made_.scoreboard.cells["specialists"]["digit"].score)
        heads = read_heads(given / "heads.safetensors")
        write_heads(given / "heads.safetensors", {"digit": {n: -v for n, v in heads["digit"].items()}})
    assert scores[0] > 0.5 > scores[1]
    assert "made  specialist-digit" in last_log(tmp_path / "run")


def test_a_network_of_ones_own_is_known_by_how_it_reads_rows(digits_suite: Suite, tmp_path: Path) -> None:
    """The same weights, given with another `to_tensor`, are another base."""
    suite = Suite("one", [digits_suite.tasks["digit"]])
    torch.manual_seed(0)
    network = Net()
    for size in (100, 200, 100):
        base = Module(network, dim=16, to_tensor=partial(bytes_of, size=size))
        run(suite, tmp_path / "run", base=base, joint=False, settings=QUICK.with_(epochs=1), **BARE)
    bases = {p.name for p in (tmp_path / "run" / "pieces").glob("base-*")}
    assert len(bases) == 2 and "have  specialist-digit" in last_log(tmp_path / "run"), "the first was taken up again"


def test_a_specialist_of_another_shape_is_refused(
    first: Build, digits_suite: Suite, base: Path, tmp_path: Path
) -> None:
    from allround.models.encoders.small_image import SmallImage

    (tmp_path / "other").mkdir()
    SmallImage(channels=3).save(tmp_path / "other")
    with pytest.raises(AllroundError, match=r"1 tensor differs in shape, layers.0.weight: \(32, 3, 3, 3\)"):
        run(digits_suite, tmp_path / "run", base=base, specialists={"digit": str(tmp_path / "other")})


def test_constraints_are_judged_on_validation(first: Build, digits_suite: Suite, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(first.folder, out)
    asked = run(digits_suite, out, base=base, constraints=Constraints(worst=1.5))
    choice = asked.scoreboard.notes["choice"]
    assert "every task retains at least 150%" in choice
    assert "No single model satisfies that on validation" in choice
    with pytest.raises(AllroundError, match="did you mean 'digit'"):
        run(digits_suite, out, base=base, constraints=Constraints(keep={"digits": 0.9}))


def test_heads_of_the_sort_that_is_asked_for(digits_suite: Suite, base: Path, tmp_path: Path) -> None:
    alone = Suite("alone", [digits_suite.tasks["digit"]])
    made_ = run(alone, tmp_path / "run", base=base, head="mlp_tanh", joint=False,
                settings=QUICK.with_(epochs=1), **BARE)  # fmt: skip
    assert made_.scoreboard.cells["base"]["digit"].score > made_.scoreboard.cells["floor"]["digit"].score
    assert allround.load(made_.best).head("digit").sort == "mlp_tanh"
    with pytest.raises(AllroundError, match="did you mean 'mlp_tanh'"):
        options(head="mlp_tan")


def test_one_task_alone(digits_suite: Suite, base: Path, tmp_path: Path) -> None:
    alone = Suite("alone", [digits_suite.tasks["digit"]])
    board = run(alone, tmp_path / "run", base=base).scoreboard
    assert [s.name for s in board.systems] == ["floor", "base", "specialists", "joint", "linear"]


def test_a_table_suite(table_suite: Suite, tmp_path: Path) -> None:
    made_ = run(table_suite, tmp_path / "run", base="small_table", **{**BARE, "methods": ("average",)})
    board = made_.scoreboard
    assert board.cells["specialists"]["species"].score > 0.6 > board.cells["floor"]["species"].score
    assert allround.load(made_.best).predict("species", [(5.1, 3.5, 1.4, "small")]) == ["0"]


@pytest.mark.slow
def test_a_text_suite_of_every_kind(text_suite: Suite, bert_folder: Path, tmp_path: Path) -> None:
    made_ = run(text_suite, tmp_path / "run", base=bert_folder, encoder={"max_length": 32},
                methods=("average", "ties"), trials=2, balance=())  # fmt: skip
    model = allround.load(made_.best)
    assert model.encoder.max_length == 32
    (tags,) = model.predict("names", [["the", "cat", "saw", "ada"]])
    assert len(tags) == 4
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    encoder = str(made_.best / "encoder")
    assert SentenceTransformer(encoder, device="cpu").encode(["the cat"]).shape == (1, 32)
    AutoModel.from_pretrained(encoder)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x.flatten(1)))


def bytes_of(row: tuple[Any, ...], size: float) -> torch.Tensor:
    return torch.tensor(list(row[0].tobytes())).float() / size


def test_a_network_of_the_users_own(digits_suite: Suite, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made_ = run(digits_suite, tmp_path / "run", base=Module(Net(), dim=16), **{**BARE, "methods": ("average",)})
    image = digits_suite.tasks["digit"].splits["test"].inputs[0][0]
    assert allround.load(made_.best, module=Net()).predict("digit", [image])[0] in "0123456789"


def test_every_specialist_reads_rows_by_its_own_settings(bert_folder: Path, text_suite: Suite, tmp_path: Path) -> None:
    """Whichever job ran first: texts cut after 8 pieces, and pairs read as one text."""
    from allround.building.jobs.predict import loaded_predictions, predict
    from allround.core.pieces import Pieces
    from allround.models.base import load_encoder
    from allround.models.systems.multi_task_model import MultiTaskModel

    task = text_suite.tasks["alike"]
    task.save(tmp_path / "data")
    settings: list[dict[str, Any]] = [{}, {"max_length": 8}, {"pairs": "joint"}, {"pairs": "joint", "max_length": 8}]
    expected = {}
    for number, given in enumerate(settings):
        torch.manual_seed(0)
        model = MultiTaskModel(load_encoder(bert_folder, **given), {"alike": task.definition})
        torch.nn.init.normal_(model.heads["alike"].weight, std=0.1)  # so that no answer is all but sure
        model.save(tmp_path / str(number))
        expected[number] = model.answers("alike", task.splits["test"].inputs).confidence
    pieces = Pieces(tmp_path / "pieces")
    for number in (0, 1, 2, 3, 0):
        piece = pieces.piece("test", number=number)
        folder = str(tmp_path / str(number))
        data = {"alike": str(tmp_path / "data")}
        predict([{"alike": piece}], f"{folder}/encoder", [{"alike": folder}], data, "test", "cpu")
        assert loaded_predictions(piece).confidence == expected[number]
    assert len({repr(found) for found in expected.values()}) == 4, "the settings matter to these rows"


def test_a_given_specialist_must_have_the_features_of_the_base(
    bert_folder: Path, text_suite: Suite, tmp_path: Path
) -> None:
    from allround.models.base import load_encoder

    (tmp_path / "joint").mkdir()
    load_encoder(bert_folder, pairs="joint").save(tmp_path / "joint")
    suite = Suite("one", [text_suite.tasks["alike"]])
    with pytest.raises(AllroundError, match=r"another way \(joint\) than this build \(separate\)"):
        run(suite, tmp_path / "run", base=bert_folder, specialists={"alike": str(tmp_path / "joint")}, methods=())


@pytest.mark.slow
def test_lora(digits_suite: Suite, base: Path, tmp_path: Path) -> None:
    made_ = run(digits_suite, tmp_path / "run", base=base, settings=QUICK.with_(tune="lora", lora_rank=4), joint=False,
                **{**BARE, "methods": ("average",)})  # fmt: skip
    adapter = next((made_.folder / "pieces").glob("specialist-digit-*")) / "adapter"
    assert (adapter / "adapter_model.safetensors").is_file()


def test_a_budget_scales_work_down_and_says_so(digits_suite: Suite, base: Path, tmp_path: Path) -> None:
    few = {**BARE, "methods": ("average",)}
    small = run(digits_suite, tmp_path / "run", base=base, budget=0.001, **few)
    words = small.scoreboard.notes["budget"]
    assert words.startswith("Budget 0.001 min, where the whole work was estimated at")
    assert "training took 1 epoch instead of 2" in words and "more than the budget" in words
    assert words in small.report.read_text().replace("&#39;", "'")
    assert small.scoreboard.system("specialists").cost.training_examples == 3 * 60, "one epoch"
    large = run(digits_suite, tmp_path / "run2", base=base, budget=60.0, **few)
    assert "nothing was cut" in large.scoreboard.notes["budget"]


def test_no_base_is_an_error(digits_suite: Suite, tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match="give --base"):
        run(Suite("x", list(digits_suite.tasks.values())), tmp_path / "run")


def test_a_full_disk_loses_nothing(
    first: Build, digits_suite: Suite, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up in the middle; with space again, the run goes on from what is finished, and ends as another one
    with the same seed."""
    import errno

    count = 0
    sync = os.fsync

    def full(handle: int) -> None:
        nonlocal count
        count += 1
        if count > 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AllroundError, match="the disk is full"):
        run(digits_suite, tmp_path / "run", base=base)
    monkeypatch.setattr(os, "fsync", sync)
    before = {p.name for p in (tmp_path / "run" / "pieces").iterdir()}
    assert before and not any(name.startswith(".") for name in before)
    again = run(digits_suite, tmp_path / "run", base=base)
    assert again.scoreboard.fingerprint() == first.scoreboard.fingerprint()
    assert not any(line == "base" for line in made(last_log(tmp_path / "run")))
