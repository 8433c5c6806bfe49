"""Comparing joint trainings from end to end on a tiny suite: what is chosen, what is kept, what is made again."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allround.building.compare import METHODS, compare_training
from allround.building.joint import (
    Joint,
    joint_settings,
    rate_factors,
    read_joint,
    specialist_settings,
    sweep_weights,
)
from allround.building.stages import baselines as stage
from allround.building.workshop import Tally, Workshop
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.locks import LOCK
from allround.core.progress import Progress
from allround.evaluation.training import TrainingComparison
from allround.models import boosting
from allround.models.encoders.small_table import SmallTable
from allround.models.model import parameters_of
from allround.tasks.suite import Suite
from allround.training.settings import Settings

QUICK = Settings(mix="all", epochs=1, batch_size=20, learning_rate=0.01, keep="last", precision="fp32")
GIVEN: dict[str, Any] = {
    "methods": ("tuned", "uw"),
    "seeds": 2,
    "trials": 2,
    "sweep": 3,
    "settings": QUICK,
    "workers": 1,
    "resamples": 100,
}


def run(suite: Suite, out: Path, base: Path, **changes: Any) -> TrainingComparison:
    progress = Progress(out / "log.txt", quiet=True)
    return compare_training(suite, out=out, base=base, progress=progress, **{**GIVEN, **changes})


def made(out: Path) -> list[str]:
    """What the last run in a folder made, by the names of the pieces without their keys."""
    log = (out / "log.txt").read_text().split(" s  suite ")[-1]
    return [re.sub(r"-[0-9a-f]{12}$", "", line) for line in re.findall(r"made  (.+?)(?:  \(|$)", log, re.M)]


def pieces(out: Path, name: str) -> list[Mapping[str, Any]]:
    """The finished pieces whose names begin so, with the folder of each."""
    found = []
    for folder in sorted((out / "pieces").glob(f"{name}*")):
        about = json.loads((folder / "piece.json").read_text())
        found.append({**about, "weights": (folder / "encoder").is_dir()})
    return found


@pytest.fixture(scope="module")
def base(small_table: SmallTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "small_table"
    folder.mkdir()
    small_table.save(folder)
    return folder


@pytest.fixture(scope="module")
def two(table_suite: Suite) -> Suite:
    """Two tasks with 60, 20 and 20 rows."""
    return Suite("two", [t.limit({"train": 60, "validation": 20, "test": 20}) for t in table_suite.tasks.values()])


@pytest.fixture(scope="module")
def first(two: Suite, base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingComparison, Path]:
    out = tmp_path_factory.mktemp("compared") / "a"
    found = run(two, out, base)
    (out / "first.txt").write_text("\n".join(made(out)))
    return found, out


def begun(out: Path, new: Path) -> Path:
    """A new run folder with the data, the base and the heads of another one, which take most of the time."""
    for name in ("data", "base", "head"):
        for folder in (out / "pieces").glob(f"{name}-*"):
            shutil.copytree(folder, new / "pieces" / folder.name)
    shutil.copy(out / LOCK, new)  # which says whose folder of work it is
    return new


# The whole run.


def test_it_leaves_numbers_words_figure_and_page(
    first: tuple[TrainingComparison, Path], small_table: SmallTable
) -> None:
    found, out = first
    for name in ("json", "md", "svg", "html"):
        assert (out / f"comparison.{name}").stat().st_size > 1000
    assert TrainingComparison.load(out).fingerprint() == found.fingerprint()
    assert [one.name for one in found.methods] == ["equal", "tuned", "uw"], "equal is always among them"
    assert found.rows == {"species": 20, "petal": 20} and found.seeds == (0, 1)
    assert found.provenance["machine"] and found.settings["mix"] == "all"
    head = 4 * (small_table.width + small_table.inputs + 1)
    assert found.method("uw").cost.further == head * (3 + 1) / 2, "a head, in the mean of three labels and a number"
    alone = found.reference.cost.further
    assert alone is not None and 0 < alone - 4 * parameters_of(small_table) < 10_000, "a model each"


def test_boosted_trees_stand_beside_ways_to_share_on_tables(
    first: tuple[TrainingComparison, Path], two: Suite, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (boosting, stage):
        monkeypatch.setattr(module, "ROUNDS", 10)
    assert not first[0].baselines, "no way to share was asked for"
    given = {"methods": (), "share": ("dtrn",), "trials": 1, "sweep": 0}
    found = run(two, begun(first[1], tmp_path), base, **given)
    (trees,) = found.baselines
    assert [one.name for one in found.methods] == ["equal", "dtrn"] and trees.name == "trees"
    alone, tried = boosting.fit_trees(two.tasks["species"], seed=0)
    rows = two.tasks["species"].splits["test"]
    right = float(np.mean(alone.answer(rows.inputs).predictions == rows.targets))
    assert trees.test.scores["species"].seeds == (right, right), "they do not depend on the seed"
    assert trees.cost.choices == 2 * len(tried) and trees.cost.further
    assert f"{2 * len(tried)} of boosted trees for each task." in " ".join(found.words())


def test_every_method_is_trained_alike_but_for_its_balance_and_rate(first: tuple[TrainingComparison, Path]) -> None:
    _, out = first
    joint = [p["made_from"]["settings"] for name in ("equal", "uw", "fixed") for p in pieces(out, f"compared-{name}")]
    own = ("balance", "balance_settings", "learning_rate")
    assert len({json.dumps({k: v for k, v in one.items() if k not in own}) for one in joint}) == 1
    assert {round(one["learning_rate"], 5) for one in joint} == {0.01, 0.00333}
    alone = [p["made_from"]["settings"] for p in pieces(out, "compared-specialist")]
    same = [{k: v for k, v in one.items() if k not in (*own, "mix")} for one in (*joint, *alone)]
    assert all(one == same[0] for one in same)


def test_specialists_see_the_same_rows_as_often(first: tuple[TrainingComparison, Path]) -> None:
    found, _ = first
    for one in found.methods:
        assert one.cost.examples == found.reference.cost.examples == {"species": 60, "petal": 60}
        assert (one.cost.steps, one.cost.backward_passes) == (3, 2)
    assert found.reference.cost.steps == 6 and found.reference.cost.backward_passes == 1
    assert not any("other numbers of rows" in note for note in found.notes)


def test_rates_and_weights_are_the_best_on_validation(first: tuple[TrainingComparison, Path]) -> None:
    found, _ = first
    for one in found.methods:
        means = [tried.mean for tried in one.tried]
        assert one.chosen.mean == max(means) and sum(tried.chosen for tried in one.tried) == 1
        assert one.learning_rate == one.chosen.learning_rate
    assert found.sweep[0].weights == {"species": 1.0, "petal": 1.0}
    tuned, equal = found.method("tuned"), found.method("equal")
    assert tuned.settings == {"weights": tuned.chosen.weights} and tuned.tried == found.sweep
    assert tuned.learning_rate == equal.learning_rate
    assert found.sweep[0].mean == equal.chosen.mean, "the first point of the sweep is the training with equal weights"
    for task, tried in found.reference.tried.items():
        assert max(tried.values()) == tried[f"{found.reference.rates[task]:.3g}"]
    # What specialists score on validation is 100%: a method's retention is its own score by theirs.
    facts = {task: max(tried.values()) for task, tried in found.reference.tried.items()}
    assert set(facts) == set(equal.chosen.retention)
    assert (equal.cost.choices, tuned.cost.choices, found.reference.cost.choices) == (2, 3, 4)


def test_test_rows_are_predicted_once_for_each_finished_model(first: tuple[TrainingComparison, Path]) -> None:
    found, out = first
    models = 3 + (len(set(found.method("tuned").settings["weights"].values())) > 1)
    assert len(pieces(out, "test-")) == models * 2 * 2, "specialists, equal, uw and tuned; tasks; seeds"
    assert not list((out / "pieces").glob("validation-*"))
    for piece in pieces(out, "compared-"):
        assert "test" not in piece["facts"]


def test_weights_are_kept_of_the_finished_models_of_the_first_seed_alone(
    first: tuple[TrainingComparison, Path],
) -> None:
    _, out = first
    kept = [p["made_from"]["settings"]["balance"] for p in pieces(out, "compared-") if p["weights"]]
    assert {"equal", "uw"} <= set(kept) and len(kept) == len(set(kept))
    assert all(p["made_from"]["seed"] == 0 for p in pieces(out, "compared-") if p["weights"])


def test_every_seed_of_every_method_is_a_training_of_its_own(first: tuple[TrainingComparison, Path]) -> None:
    found, out = first
    assert sorted(p["made_from"]["seed"] for p in pieces(out, "compared-uw")) == [0, 0, 1], "two rates, then a seed"
    uw = found.method("uw").test
    assert uw.mean is not None and len(set(uw.mean.seeds)) == 2, "seeds differ"
    assert uw.equal.mean is not None and uw.equal.mean.seeds == pytest.approx(
        [a - b for a, b in zip(uw.mean.seeds, found.method("equal").test.mean.seeds, strict=True)]  # type: ignore[union-attr]
    )


def test_costs(first: tuple[TrainingComparison, Path]) -> None:
    found, out = first
    seconds = [p["facts"]["seconds"] for p in pieces(out, "compared-uw")
               if p["made_from"]["settings"]["learning_rate"] == found.method("uw").learning_rate]  # fmt: skip
    assert found.method("uw").cost.seconds == pytest.approx(sum(seconds) / 2)
    peaks = [p["facts"]["peak_memory"] for p in pieces(out, "compared-uw")]
    assert all(peak is None or 2**26 < peak < 2**36 for peak in peaks)


def test_a_second_run_makes_nothing_and_gives_the_same(
    first: tuple[TrainingComparison, Path], two: Suite, base: Path
) -> None:
    found, out = first
    assert run(two, out, base).fingerprint() == found.fingerprint()
    assert made(out) == []


def test_a_kill_at_any_piece_is_taken_up(
    first: tuple[TrainingComparison, Path], two: Suite, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, out = first
    whole = [name for name in (out / "first.txt").read_text().splitlines() if not name.startswith(("base", "head"))]
    new = begun(out, tmp_path / "b")
    original, left = Workshop.do, [2]

    def stop_later(self: Workshop, title: str, work: Any) -> Tally:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return original(self, title, work)

    monkeypatch.setattr(Workshop, "do", stop_later)
    seen = []
    for stages in (3, 4, 5):  # of base, heads, rates, weights, seeds, predictions
        left[0] = stages
        with pytest.raises(KeyboardInterrupt):
            run(two, new, base)
        seen += made(new)
    monkeypatch.undo()
    again = run(two, new, base)
    seen += made(new)
    assert again.fingerprint() == found.fingerprint()
    assert sorted(seen) == sorted(whole), "nothing twice, nothing left out"


def test_another_method_or_seed_adds_only_what_is_new(
    first: tuple[TrainingComparison, Path], two: Suite, base: Path
) -> None:
    found, out = first
    more = run(two, out, base, methods=("tuned", "uw", "uw:flat=0.05"), seeds=3)
    names = [name for name in made(out) if name.startswith("compared-")]
    specialists = [name for name in names if "specialist" in name]
    assert sorted(specialists) == ["compared-specialist-petal", "compared-specialist-species"], "the third seed"
    assert names.count("compared-uw") == 1 + 2 + 2, "the third seed; two rates of the new one, and two more seeds"
    flat = more.method("uw:flat=0.05")
    assert flat.settings == {"flat": 0.05} and flat.cost.backward_passes == 4
    assert more.method("uw").tried == found.method("uw").tried


def test_weights_that_are_gone_are_made_anew_where_they_are_needed(
    first: tuple[TrainingComparison, Path], two: Suite, base: Path, tmp_path: Path
) -> None:
    begun(first[1], tmp_path)
    given = {"methods": ("equal",), "seeds": 1, "sweep": 0}
    found = run(two, tmp_path, base, **given)
    (lost,) = (tmp_path / "pieces").glob("test-specialists-0-petal*")
    for file in lost.iterdir():
        file.unlink()
    again = run(two, tmp_path, base, **given)
    assert [re.sub(" .*", "", name) for name in made(tmp_path)] == ["compared-specialist-petal", "test"]
    assert again.fingerprint() == found.fingerprint()
    assert again.sweep == [] and "one seed" in " ".join(again.words())


def test_trainings_that_never_got_better_are_told(
    first: tuple[TrainingComparison, Path], two: Suite, base: Path, tmp_path: Path
) -> None:
    begun(first[1], tmp_path)
    wild = QUICK.with_(learning_rate=30.0, keep="best")
    found = run(two, tmp_path, base, methods=("equal",), seeds=1, trials=1, sweep=0, settings=wild)
    assert found.method("equal").cost.unmoved == 1 and found.reference.cost.unmoved == 2
    told = "than the start with equal (1 of 1 seed) and the specialists (2 of 2 trainings); there the base"
    assert told in " ".join(found.words())


# Parts.


def test_the_default_methods_exist() -> None:
    assert METHODS[:2] == ("equal", "tuned")
    for name in METHODS:
        read_joint(name)


def test_a_method_is_read_with_its_settings() -> None:
    found = read_joint(" rlw : mix=2 ; flat=0.1;raw_scale=true;sample=uniform ")
    assert (found.balance, found.balance_settings) == ("rlw", {})
    assert found.changes == {"mix": "2", "flat": 0.1, "raw_scale": True, "sample": "uniform"}
    settings = joint_settings(found, QUICK.with_(sample="temperature", sample_settings={"temperature": 3.0}), rate=0.1)
    assert (settings.balance, settings.mix, settings.flat, settings.raw_scale) == ("rlw", "2", 0.1, True)
    assert (settings.sample, settings.sample_settings) == ("uniform", {}), "the other policy's settings are not its own"
    assert (settings.learning_rate, settings.epochs, settings.batch_size) == (0.1, 1, 20)
    weighted = read_joint("fixed:weights=[1, 2]")
    assert weighted.balance_settings == {"weights": [1, 2]} == weighted.differs
    assert joint_settings(Joint("equal", "equal"), QUICK) == QUICK


def test_a_specialist_has_what_means_something_for_one_task(table_suite: Suite) -> None:
    common = Settings(
        mix="all",
        sample="temperature",
        sample_settings={"temperature": 3.0},
        epochs=3,
        batch_sizes={"species": 4, "petal": 2, "classification": 8},
        task_rates={"petal": 2.0, "species": 0.5},
    )
    found = specialist_settings(common, table_suite.tasks["species"])
    assert (found.mix, found.sample, found.sample_settings, found.epochs) == ("one", "proportional", {}, 3)
    assert found.batch_sizes == {"species": 4, "classification": 8} and found.task_rates == {"species": 0.5}


def test_more_rates_and_weights_begin_with_the_same_ones() -> None:
    assert rate_factors(1) == [1.0] and rate_factors(3) == [1.0, 1 / 3, 3.0] and rate_factors(2) == rate_factors(3)[:2]
    short, long = sweep_weights(["a", "b", "c"], 4, 7), sweep_weights(["a", "b", "c"], 9, 7)
    assert long[:4] == short and sweep_weights(["a", "b", "c"], 4, 8)[1:] != short[1:]
    assert sweep_weights(["a"], 0, 7) == []
    for weights in long:
        assert sum(weights.values()) == pytest.approx(3, abs=1e-3) and min(weights.values()) >= 0
    spread = [max(w.values()) - min(w.values()) for w in sweep_weights(list("abcdefgh"), 61, 0)[1:]]
    near, far = sum(spread[2::3]) / 20, sum(spread[1::3]) / 20
    assert near < 1 < 2 < far, "some lie near equal weights, some far"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"methods": ("uww",)}, "did you mean 'uw'"),
        ({"methods": ("tunde",)}, "did you mean 'tuned'"),
        ({"methods": ("uw:gamma=1",)}, "'uw' has no parameter 'gamma'"),
        ({"methods": ("uw:flat",)}, "has no value"),
        ({"methods": ("uw:flat=-1",)}, "that is too small"),
        ({"methods": ("uw:mix=some",)}, "mix"),
        ({"methods": ("tuned:flat=1",)}, "take no settings"),
        ({"methods": ("uw", "uw")}, "'uw' is named twice"),
        ({"methods": ("fixed:weights=[1, 2, 3]",)}, "one number for each task"),
        ({"sweep": 0}, "must try at least 2 weights"),
        ({"sweep": -1}, "sweep must be at least 0"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"trials": 0}, "trials must be at least 1"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"base": None}, "no base was given"),
    ],
)
def test_bad_wishes_are_answered_before_anything_is_made(
    change: dict[str, Any], told: str, two: Suite, tmp_path: Path
) -> None:
    given = {**GIVEN, "base": "nowhere", **change}
    with pytest.raises(AllroundError, match=told):
        compare_training(two, out=tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_one_task_is_no_joint_training(table_suite: Suite, base: Path, tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match="it has only one task: petal"):
        compare_training(Suite("one", [table_suite.tasks["petal"]]), out=tmp_path / "out", base=base)


def test_the_names_that_are_known_are_those_of_the_registry() -> None:
    with pytest.raises(AllroundError) as caught:
        read_joint("zzz")
    for name in registry.names("balance"):
        assert name in str(caught.value)
