"""Loops of tuning and merging: what a round is, what is kept, what is done again after a kill."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import allround
from allround.building.loops import Branch, Loop, Looped, plan_loop, run_loop
from allround.building.loops.convex import convex_search
from allround.building.loops.jobs import cosines, mixed
from allround.building.loops.rounds import Rounds
from allround.building.loops.run import carry_out
from allround.building.workshop import Workshop, run_folder
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import hash_folder
from allround.core.jobs import Job
from allround.core.pieces import Piece
from allround.core.progress import Progress
from allround.models.encoders.small_image import SmallImage
from allround.models.head import HeadState
from allround.models.head_files import read_heads
from allround.models.likelihood import likelihood
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.training.settings import Settings
from allround.training.trainer import train

QUICK = Settings(epochs=2, batch_size=20, precision="fp32")


@pytest.fixture(scope="module", autouse=True)
def _one_core() -> Iterator[None]:
    """One thread here too: a runner of one worker would take as many as there are cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("allround.core.jobs.available_cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def base(small_image: SmallImage, digits_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base; beside it lies what loops on `digits_suite` begin with, so that heads are fitted once."""
    folder = tmp_path_factory.mktemp("base") / "small_image"
    folder.mkdir()
    small_image.save(folder)
    begun = folder.parent / "begun"
    with run_folder(begun, "loop", force=False), Workshop(begun, Progress(quiet=True), workers=1) as shop:
        carry_out(shop, plan("atm", digits_suite, rounds=0), digits_suite, folder, QUICK, {})
    return folder


def go(loop: Loop, suite: Suite, base: Path, out: Path, settings: Settings = QUICK, seed: int = 0) -> Looped:
    work, begun = out.parent / f"{out.name}.unfinished", base.parent / "begun"
    if begun.exists() and not work.exists():
        shutil.copytree(begun, work)
    progress = Progress(out.parent / f"{out.name}.txt", quiet=True)
    return run_loop(loop, suite, out=out, base=base, settings=settings, seed=seed, workers=1, progress=progress)


def plan(name: str, suite: Suite, values: dict[str, Any] | None = None, **parameters: Any) -> Loop:
    return plan_loop(name, suite, parameters, values)


def made(out: Path) -> list[str]:
    """The pieces that runs into a folder made, without their keys."""
    lines = (out.parent / f"{out.name}.txt").read_text().splitlines()
    return [line.split("made  ")[1].split("  (")[0][:-13] for line in lines if "made  " in line]


@pytest.fixture(scope="module")
def atm(digits_suite: Suite, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Looped:
    return go(plan("atm", digits_suite, rounds=2), digits_suite, base, tmp_path_factory.mktemp("atm") / "model")


def test_it_leaves_a_model_that_loads_with_what_was_done(atm: Looped, digits_suite: Suite) -> None:
    model = allround.load(atm.folder)
    assert list(model.definitions) == list(digits_suite.tasks)
    facts = model.facts["made_by"]
    assert [entry["round"] for entry in facts["rounds"]] == [0, 1, 2] and facts["kept"] == atm.kept
    assert facts["rounds"] == atm.rounds
    for entry in facts["rounds"][1:]:
        assert list(entry["branches"]) == list(digits_suite.tasks)
        cosines = torch.tensor(entry["cosines"])
        assert cosines.shape == (3, 3) and torch.allclose(cosines.diagonal(), torch.ones(3))
    for name in digits_suite.tasks:
        assert model.facts["scores"][name]["test"] == atm.scoreboard.cells["loop"][name].score
    assert list(atm.folder.parent.glob("*.unfinished")) == []


def test_the_rounds_share_the_examples_of_one_training(atm: Looped, digits_suite: Suite) -> None:
    for name, task in digits_suite.tasks.items():
        taken = [entry["branches"][name]["examples"][name] for entry in atm.rounds[1:]]
        assert taken == [len(task.splits["train"])] * 2, "two epochs in two rounds: one each"
    assert atm.scoreboard.system("loop").cost.training_examples == 2 * 3 * 60


def test_the_round_that_is_kept_is_the_best_on_validation(digits_suite: Suite, base: Path, tmp_path: Path) -> None:
    wild = QUICK.with_(learning_rate=30.0, clip=1e6)
    found = go(plan("atm", digits_suite, rounds=2), digits_suite, base, tmp_path / "wild", wild)
    assert found.kept == 0, "ruined rounds are not kept"
    model = allround.load(tmp_path / "wild")
    kept = model.encoder.state_dict()
    assert all(torch.equal(kept[n], w) for n, w in SmallImage.load(base, {}).state_dict().items())


def test_one_full_step_of_each_task_averaged_is_one_step_on_the_mean_loss(
    digits_suite: Suite, small_image: SmallImage, base: Path, tmp_path: Path
) -> None:
    """Theorem 3.1 of Zhou et al., arXiv:2411.03055, for one epoch of full batches."""
    rate = 0.05
    settings = Settings(epochs=1, batch_size=60, precision="fp32", optimiser="sgd", learning_rate=rate, clip=1e9)
    loop = Loop(1, tuple(Branch(n, {n: 1.0}) for n in digits_suite.tasks), ("digit",), "task_arithmetic",
                {"scale": 0.9, "normalize": True})  # fmt: skip
    with Workshop(tmp_path, Progress(quiet=True), workers=1) as shop:
        before, after = carry_out(shop, loop, digits_suite, base, settings, {}).rounds
    merged = SmallImage.load(after.piece.folder / "encoder", {}).state_dict()
    heads = read_heads(before.piece.folder / "heads.safetensors")

    model = MultiTaskModel(copy.deepcopy(small_image), {})
    losses = []
    for name, task in digits_suite.tasks.items():
        model.add_task(task.definition, heads[name])
        prepared = model.encoder.prepare(task.splits["train"].inputs, task.definition)
        rules = likelihood(task.definition)
        logits = model(name, model.encoder.batch(prepared, task.definition))
        losses.append(rules.loss(logits, rules.tensor(task.splits["train"].targets)))
    parameters = dict(model.encoder.named_parameters())
    slopes = torch.autograd.grad(torch.stack(losses).mean(), list(parameters.values()))
    moved = 0.0
    for (name, start), slope in zip(parameters.items(), slopes, strict=True):
        wanted = start.detach() - 0.9 * rate * slope
        torch.testing.assert_close(merged[name], wanted, rtol=0, atol=2e-7)
        moved = max(moved, float((wanted - start.detach()).abs().max()))
    assert moved > 1e-3, "the step is far larger than the tolerance"


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    atm: Looped, digits_suite: Suite, base: Path, tmp_path: Path
) -> None:
    again = go(plan("atm", digits_suite, rounds=2), digits_suite, base, tmp_path / "again")
    other = go(plan("atm", digits_suite, rounds=2), digits_suite, base, tmp_path / "other", seed=1)
    assert timeless(again.rounds) == timeless(atm.rounds) != timeless(other.rounds)
    assert hash_folder(again.folder / "encoder") == hash_folder(atm.folder / "encoder")
    heads = "heads.safetensors"
    assert (again.folder / heads).read_bytes() == (atm.folder / heads).read_bytes()


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k != "seconds"}
    return [timeless(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("lost", ["round-2-ink", "round-1", "nothing"])
def test_killed_and_run_again_it_goes_on_with_what_is_not_there(
    lost: str, atm: Looped, digits_suite: Suite, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    merging = Rounds.merging

    def stop(*given: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    def stop_in_the_second_round(self: Rounds, piece: Piece, *given: Any) -> Job:
        return stop() if piece.key.startswith("round-2") else merging(self, piece, *given)  # type: ignore[return-value]

    with monkeypatch.context() as patch:
        patch.setattr("allround.building.loops.run.save_kept", stop)
        if lost == "round-2-ink":
            patch.setattr(Rounds, "merging", stop_in_the_second_round)
        with pytest.raises(KeyboardInterrupt):
            go(plan("atm", digits_suite, rounds=2), digits_suite, base, out)
    assert not out.exists()
    work = tmp_path / "model.unfinished" / "pieces"
    for folder in work.glob(f"{lost}-*"):
        shutil.rmtree(folder)
    before = len(made(out))
    again = go(plan("atm", digits_suite, rounds=2), digits_suite, base, out)
    new = made(out)[before:]
    branches = [f"round-1-{name}" for name in digits_suite.tasks]
    assert new == {"round-2-ink": ["round-2-ink", "round-2"], "round-1": [*branches, "round-1"], "nothing": []}[lost]
    assert timeless(again.rounds) == timeless(atm.rounds)
    assert hash_folder(out / "encoder") == hash_folder(atm.folder / "encoder")
    assert not work.exists()


def test_no_rounds_leave_the_base_with_its_heads(digits_suite: Suite, base: Path, tmp_path: Path) -> None:
    for name, more in {"atm": {}, "fork_merge": {"target": "ink"}, "cold_fusion": {"unseen": "ink"}}.items():
        found = go(plan(name, digits_suite, rounds=0, **more), digits_suite, base, tmp_path / name)
        assert found.kept == 0 and len(found.rounds) == 1
        assert hash_folder(found.folder / "encoder") == hash_folder(base)
        assert set(read_heads(found.folder / "heads.safetensors")) == set(digits_suite.tasks)
        assert found.scoreboard.system("loop").cost.training_examples == 0


def test_contributors_are_drawn_anew_for_each_round(digits_suite: Suite, base: Path, tmp_path: Path) -> None:
    loop = plan("cold_fusion", digits_suite, rounds=4, contributors=2)
    drawn = [tuple(b.name for b in loop.drawn(number, seed=0)) for number in range(1, 5)]
    assert all(len(set(names)) == 2 and set(names) <= set(digits_suite.tasks) for names in drawn)
    assert len(set(drawn)) > 1
    assert drawn != [tuple(b.name for b in loop.drawn(number, seed=1)) for number in range(1, 5)]
    found = go(loop, digits_suite, base, tmp_path / "model")
    assert [tuple(entry["branches"]) for entry in found.rounds[1:]] == drawn
    assert all(set(entry["validation"]) == set(digits_suite.tasks) for entry in found.rounds)


def test_unseen_tasks_are_scored_and_never_tuned_on(digits_suite: Suite, base: Path, tmp_path: Path) -> None:
    loop = plan("cold_fusion", digits_suite, rounds=1, unseen="ink")
    assert loop.judged == ("digit", "segments")
    found = go(loop, digits_suite, base, tmp_path / "model", QUICK.with_(heads="tuned"))
    assert list(found.rounds[1]["branches"]) == ["digit", "segments"]
    assert set(found.rounds[1]["validation"]) == set(digits_suite.tasks)
    assert "ink" in allround.load(found.folder).definitions


def test_fork_merge_logs_convex_coefficients_chosen_on_the_target(
    digits_suite: Suite, base: Path, tmp_path: Path
) -> None:
    loop = plan("fork_merge", digits_suite, target="digit", rounds=2, grid=2, weight=0.5)
    found = go(loop, digits_suite, base, tmp_path / "model", QUICK.with_(heads="tuned", learning_rate=2e-3))
    for entry in found.rounds[1:]:
        weights = entry["values"]["weights"]
        assert list(entry["branches"]) == ["digit", "digit-ink", "digit-segments"]
        assert all(w >= 0 for w in weights) and sum(weights) == pytest.approx(1)
        assert all(set(trial["validation"]) == {"digit"} for trial in entry["trials"])
        scores = [trial["validation"]["digit"] for trial in entry["trials"]]
        chosen = next(t for t in entry["trials"] if t["values"]["weights"] == weights)
        assert chosen["validation"]["digit"] == max(scores) == entry["validation"]["digit"]
    examples = [entry["branches"]["digit-ink"]["examples"] for entry in found.rounds[1:]]
    assert sum(e["ink"] for e in examples) < sum(e["digit"] for e in examples), "half as often, by its weight"
    assert loop.judged == ("digit",)


def test_forks_with_all_auxiliary_tasks_at_once(digits_suite: Suite) -> None:
    loop = plan("fork_merge", digits_suite, target="ink", branches="all", weight=0.5)
    assert [dict(b.tasks) for b in loop.branches] == [{"ink": 1.0}, {"ink": 1.0, "digit": 0.5, "segments": 0.5}]


def test_the_merge_method_and_its_settings_are_free(digits_suite: Suite, base: Path, tmp_path: Path) -> None:
    fixed = go(plan("atm", digits_suite, {"keep": 0.5}, rounds=1, method="ties"), digits_suite, base, tmp_path / "a")
    assert fixed.rounds[1]["method"] == "ties" and fixed.rounds[1]["values"] == {"keep": 0.5}
    searched = plan("atm", digits_suite, rounds=1, method="task_arithmetic", trials=3)
    found = go(searched, digits_suite, base, tmp_path / "b").rounds[1]
    assert len(found["trials"]) == 3
    assert found["values"] in [trial["values"] for trial in found["trials"]]


def test_convex_search_by_hand() -> None:
    """The rule of ForkMerge's code (thuml/ForkMerge, develop, forkmerge.py): the next branch's coefficient is a share
    of the mean of those before it, in the order of the branches' own scores; all are divided by their sum."""
    search = convex_search(3, grid=2)
    assert next(search) == [{"weights": w} for w in ([1, 0, 0], [0, 1, 0], [0, 0, 1])]
    assert search.send([0.5, 0.8, 0.6]) == [{"weights": [0, 2 / 3, 1 / 3]}, {"weights": [0, 0.5, 0.5]}]
    third = search.send([0.9, 0.7])  # the first of them: raw 0, 1, 0.5; the mean of the two before is 0.75
    assert third == [
        {"weights": pytest.approx([0.375 / 1.875, 1 / 1.875, 0.5 / 1.875])},
        {"weights": pytest.approx([0.75 / 2.25, 1 / 2.25, 0.5 / 2.25])},
    ]
    with pytest.raises(StopIteration) as stop:
        search.send([0.9, 0.9])
    assert stop.value.value == {"weights": [0, 2 / 3, 1 / 3]}, "on a tie the smaller share stays"


def test_cosines_by_hand(tmp_path: Path) -> None:
    for name, values in {"base": [1.0, 1.0], "a": [2.0, 1.0], "b": [2.0, 2.0], "same": [1.0, 1.0]}.items():
        (tmp_path / name).mkdir()
        save_file({"one": torch.tensor(values), "two": torch.ones(3)}, tmp_path / name / "model.safetensors")
    found = cosines(tmp_path / "base", [tmp_path / name for name in ("a", "b", "same")])
    half = 0.5**0.5
    assert torch.allclose(torch.tensor(found), torch.tensor([[1, half, 0], [half, 1, 0], [0, 0, 0]]))


def test_heads_are_mixed_as_the_merge_weighs_their_branches() -> None:
    one, two, before = (HeadState({"bias": torch.full((2,), value)}, "mlp") for value in (1.0, 2.0, 9.0))
    assert mixed(before, [one, two, None], [0.5, 0.25, 0.25])["bias"].tolist() == pytest.approx([4 / 3, 4 / 3])
    assert mixed(before, [one, two])["bias"].tolist() == [1.5, 1.5] and mixed(before, [one, two]).sort == "mlp"
    assert mixed(before, [None, two], [1.0, 0.0]) is before, "no branch that holds it counts"
    assert mixed(before, [None, None]) is before


@pytest.mark.parametrize(
    ("name", "parameters", "values", "words"),
    [
        ("atm", {"rounds": -1}, {}, "rounds must be 0 or more"),
        ("atm", {"method": "tie"}, {}, "did you mean 'ties'"),
        ("atm", {"round": 2}, {}, "did you mean 'rounds'"),
        ("atm", {}, {"scale": 1.0}, "no parameter 'scale'"),
        ("atn", {}, {}, "did you mean 'atm'"),
        ("fork_merge", {}, {}, "no value for target"),
        ("fork_merge", {"target": "inc"}, {}, "did you mean 'ink'"),
        ("fork_merge", {"target": "ink", "branches": "al"}, {}, "did you mean 'all'"),
        ("fork_merge", {"target": "ink", "weight": 0.0}, {}, "must be positive"),
        ("fork_merge", {"target": "ink", "grid": 0}, {}, "must be positive"),
        ("cold_fusion", {"unseen": "inc"}, {}, "did you mean 'ink'"),
        ("cold_fusion", {"unseen": "ink,digit"}, {}, "at least two tasks"),
        ("cold_fusion", {"contributors": 4}, {}, "give 1 to 3"),
        ("cold_fusion", {"contributors": -1}, {}, "give 1 to 3"),
    ],
)
def test_bad_input_is_answered_before_any_work(
    name: str, parameters: dict[str, Any], values: dict[str, Any], words: str, digits_suite: Suite
) -> None:
    with pytest.raises(AllroundError, match=words):
        plan_loop(name, digits_suite, parameters, values)


@pytest.mark.parametrize(("name", "parameters"), [("atm", {}), ("cold_fusion", {}), ("fork_merge", {"target": "ink"})])
def test_one_task_is_no_loop(name: str, parameters: dict[str, Any], digits_suite: Suite) -> None:
    with pytest.raises(AllroundError, match=r"at least (one|two) task"):
        plan_loop(name, Suite("one", [digits_suite.tasks["ink"]]), parameters)


def test_more_rounds_than_steps_and_settings_given_twice_are_errors(
    digits_suite: Suite, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(AllroundError, match="no steps between"):
        go(plan("atm", digits_suite, rounds=20), digits_suite, base, tmp_path / "a")
    twice = plan("fork_merge", digits_suite, {"weights": 2.0}, target="ink", rounds=1)
    with pytest.raises(AllroundError, match="this loop chooses weights on validation"):
        go(twice, digits_suite, base, tmp_path / "b")
    with pytest.raises(AllroundError, match="no base was given"):
        run_loop(plan("atm", digits_suite), Suite("x", list(digits_suite.tasks.values())), out=tmp_path / "c")
    assert not any((tmp_path / name).exists() for name in "abc")


def test_parts_of_a_training_one_after_the_other_are_the_whole(digits_suite: Suite, small_image: SmallImage) -> None:
    tasks = [digits_suite.tasks[n] for n in ("digit", "ink")]
    settings = Settings(epochs=3, batch_size=20, precision="fp32", optimiser="sgd", learning_rate=0.05, keep="last")

    def trained(*cuts: float) -> tuple[dict[str, torch.Tensor], int]:
        torch.manual_seed(0)
        model = MultiTaskModel(copy.deepcopy(small_image), {t.name: t.definition for t in tasks})
        for head in model.heads.values():
            torch.nn.init.normal_(head.weight)
        courses = [train(model, tasks, settings.with_(start=a, stop=b)) for a, b in pairwise(cuts)]
        return model.state_dict(), sum(sum(course.examples.values()) for course in courses)

    (whole, rows), (parts, as_many) = trained(0.0, 1.0), trained(0.0, 1 / 3, 0.5, 1.0)
    assert rows == as_many == 3 * 2 * 60
    assert all(torch.equal(parts[name], weight) for name, weight in whole.items())
    (first, _) = trained(0.0, 0.5)
    assert any(not torch.equal(first[name], weight) for name, weight in whole.items())


def test_text_models_in_folders_of_their_own_layout(text_suite: Suite, bert_folder: Path, tmp_path: Path) -> None:
    two = Suite("words", [text_suite.tasks[n] for n in ("mood", "warmth")])
    found = go(plan("atm", two, rounds=2), two, bert_folder, tmp_path / "model")
    assert all(
        abs(entry["cosines"][0][1]) < 1 and entry["cosines"][0][0] == pytest.approx(1) for entry in found.rounds[1:]
    )
    assert allround.load(found.folder).predict("mood", ["the cat is fine"])[0] in ("good", "bad")


def test_every_preset_is_a_loop_of_the_same_parts(digits_suite: Suite) -> None:
    for entry in registry.entries("loop"):
        given = {"target": "ink"} if any(p.name == "target" for p in entry.parameters) else {}
        loop = plan_loop(entry.name, digits_suite, given)
        tasks = {task for branch in loop.branches for task in branch.tasks}
        assert tasks | set(loop.unseen) == set(digits_suite.tasks) and set(loop.judged) <= tasks
        assert "Formula:" in str(entry.load().__doc__) and "Differs:" in str(entry.load().__doc__)
