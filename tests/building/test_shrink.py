"""`shrink`: sizes, the choice among them, what is taken up again, times, and what cannot be shrunk."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from allround.building import shrinking
from allround.building.jobs import shrink as jobs
from allround.building.shrink import shrink
from allround.building.shrinking import ShrinkOptions, default_ways
from allround.building.unlabelled import new_rows, read_unlabelled
from allround.building.workshop import Workshop
from allround.cli.shrink import unlabelled_files
from allround.core.errors import AllroundError
from allround.core.progress import Progress
from allround.evaluation.intervals import Interval
from allround.evaluation.smaller.pictures import plot_curve
from allround.evaluation.smaller.report import answer, plain, removed, sentences
from allround.evaluation.smaller.result import Shrunk, Size, Smaller, knee
from allround.evaluation.timing import RowTime, row_times
from allround.models.base import load_encoder
from allround.models.encoders.small_image import SmallImage
from allround.models.fitting import fit_head
from allround.models.systems.multi_task_model import MultiTaskModel, open_model
from allround.tasks.definition import Definition
from allround.tasks.suite import Suite
from allround.tasks.task import Task, row_key
from allround.tasks.values import Row
from allround.training import trainer, unfinished
from allround.training.settings import Settings

QUICK = Settings(epochs=1, learning_rate=1e-3, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    return dict(Suite.load("digits", only=["digit", "ink"], limit={"train": 60, "validation": 40, "test": 40}).tasks)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, small_image: SmallImage, tasks: dict[str, Task]) -> Path:
    made = MultiTaskModel(copy.deepcopy(small_image), {})
    for task in tasks.values():
        made.add_task(task.definition, fit_head(made.encoder, task).state)
    folder = tmp_path_factory.mktemp("given") / "model"
    made.save(folder)
    return folder


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs that were run, by name."""
    found: list[str] = []
    real = dict(vars(jobs))
    for name in ("study_model", "teach_rows", "shrink_by", "measure_times", "find_share"):

        def counted(*given: Any, _name: str = name, _job: Any = real[name], **more: Any) -> None:
            found.append(_name)
            _job(*given, **more)

        counted.__module__, counted.__qualname__ = jobs.__name__, name
        monkeypatch.setattr(jobs, name, counted)
    return found


def run(model: Path, tasks: Mapping[str, Task], out: Path, **more: Any) -> Shrunk:
    return shrink(model, Suite("mine", list(tasks.values())), out=out, options=ShrinkOptions(**more), settings=QUICK,
                  workers=1, progress=Progress(quiet=True))  # fmt: skip


def test_sizes_are_made_once_and_one_is_written(
    model: Path, tasks: dict[str, Task], tmp_path: Path, made: list[str]
) -> None:
    found = run(model, tasks, tmp_path / "out")
    assert made.count("shrink_by") == 1 and made.count("teach_rows") == made.count("study_model") == 1
    assert found.written.way == "units" and found.written.size.share <= 0.5
    assert [one.task for one in found.written.tasks] == ["digit", "ink"] and found.written.mean is not None
    best = open_model(tmp_path / "out" / "best")
    assert best.cost().parameters_stored == found.written.size.parameters < found.original.parameters
    assert best.definitions.keys() == tasks.keys() and best.calibration("digit") is not None
    assert load_encoder(tmp_path / "out" / "best" / "encoder").numbers == best.encoder.numbers
    about = json.loads((tmp_path / "out" / "shrink.json").read_text())
    assert about["answer"] == answer(found) and about["knee"] is None and about == json.loads(json.dumps(plain(found)))
    made.clear()
    again = run(model, tasks, tmp_path / "out")
    assert not made and plain(again)["sizes"] == plain(found)["sizes"]
    # Two sizes more; of the first nothing is done again but the timing, in which all have turns.
    several = run(model, tasks, tmp_path / "out", to=(0.3, 0.5, 0.8))
    assert sorted(made) == ["measure_times", "shrink_by", "shrink_by"]
    assert [one.asked for one in several.smaller] == ["80%", "50%", "30%"]
    assert several.smaller[1].tasks == found.written.tasks
    page = (tmp_path / "out" / "shrink.html").read_text()
    assert "<svg" in page and answer(several).split(".")[0] in page.replace("&#39;", "'")
    for one in several.smaller:
        assert f"of 8 parts of channels.0; {len(one.kept['channels.1'])} of 8 parts of channels.1" in removed(one)


def test_every_way_of_a_size_is_tried_and_the_best_taken(model: Path, tasks: dict[str, Task], tmp_path: Path) -> None:
    found = run(model, tasks, tmp_path / "out", to=(0.6,), ways=("units", "pagcp", "units:over=mean"))
    tried = {one.way: one.validation for one in found.written.tried}
    assert len(tried) == 3 and tried[found.written.way] == max(tried.values(), key=lambda kept: kept or 0.0)


def test_labels_alone_and_specialists(model: Path, tasks: dict[str, Task], tmp_path: Path, made: list[str]) -> None:
    alone = run(model, tasks, tmp_path / "alone", distilled=False)
    assert "teach_rows" not in made and alone.provenance["distillation"] is None
    taught = run(model, tasks, tmp_path / "taught", specialists=[model], distil={"anneal": True})
    assert taught.provenance["distillation"] == {"anneal": True} and taught.written.specialists is not None
    first = taught.written.tasks[0]
    assert first.specialist is not None and first.retention is not None
    assert first.specialist.value == first.retention.value, "here the specialist is the original"
    assert any("of the specialists' scores" in line for line in sentences(taught))


def test_unlabelled_rows_are_taught_by_the_teacher(
    model: Path, tasks: dict[str, Task], tmp_path: Path, made: list[str]
) -> None:
    """Rows that are there already are left out; the others have the teacher's answers, a specialist's where one knows
    the task, and nothing is answered twice."""
    every = [image for (image,) in Suite.load("digits", only=["digit"])["digit"].splits["train"].inputs[:90]]
    folder = tmp_path / "more"
    folder.mkdir()
    for number, image in enumerate(every):
        image.save(folder / f"{number}.png")  # type: ignore[union-attr]
    found = run(model, tasks, tmp_path / "out", unlabelled={"digit": folder})
    known = {row_key(row) for split in tasks["digit"].splits.values() for row in split.inputs}
    new = [(image,) for image in every if row_key((image,)) not in known]
    assert 30 < len(new) < 90 and f"120 train, {len(new)} unlabelled, " in found.facts["rows"]
    (kept,) = (tmp_path / "out" / "pieces").glob("unlabelled-digit-*")
    more = Task.load(kept)
    assert {row_key(row) for row in more.splits["train"].inputs[60:]} == {row_key(row) for row in new}
    teacher = open_model(model)
    assert list(more.splits["train"].targets[60:]) == list(
        teacher.answers("digit", more.splits["train"].inputs[60:]).predictions
    )
    assert more.splits["test"].inputs and len(more.splits["validation"]) == 40
    made.clear()
    run(model, tasks, tmp_path / "out", unlabelled={"digit": folder})
    assert not made
    known = {row_key(row) for split in tasks["ink"].splits.values() for row in split.inputs}
    count = len(new) + sum(row_key((image,)) not in known for image in every)
    both = run(
        model, tasks, tmp_path / "out", unlabelled=[{"image": image} for image in every], distil={"anneal": True}
    )
    assert sorted(made) == ["measure_times", "shrink_by", "teach_rows"], "the parts are scored by the rows with labels"
    assert f"120 train, {count} unlabelled, " in both.facts["rows"]


def test_what_unlabelled_rows_cannot_be(model: Path, tasks: dict[str, Task], tmp_path: Path) -> None:
    digit = tasks["digit"].definition
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.csv").write_text("text\nhello\n")
    (tmp_path / "broken.jsonl").write_text('{"image": "nowhere.png"}\n')
    text = Definition("mood", "classification", ("text",), "text", "accuracy", ("bad", "good"))
    for definition, source, words in ((digit, tmp_path / "empty", "there are none"), (digit, [], "there are none"),
                                      (digit, tmp_path / "words.csv", "there is no column image; there is text"),
                                      (digit, tmp_path / "broken.jsonl", r"row 0 \(counted from 0\): 'image'"),
                                      (text, tmp_path, "it is a folder"),
                                      (text, [{"text": "so"}, {"text": " "}], "row 1 .*'text' is empty"),
                                      (digit, tmp_path / "none.csv", "none.csv")):  # fmt: skip
        with pytest.raises(AllroundError, match=words):
            read_unlabelled(definition, source)
    (tmp_path / "lines.txt").write_text("so good\nhow sad\n")
    assert read_unlabelled(text, tmp_path / "lines.txt") == [("so good",), ("how sad",)]
    with pytest.raises(AllroundError, match="nothing teaches them"):
        ShrinkOptions(unlabelled=tmp_path, distilled=False)
    with pytest.raises(AllroundError, match="no task that is shrunk is called so"):
        run(model, tasks, tmp_path / "out", unlabelled={"digits": tmp_path})
    with pytest.raises(AllroundError, match="not each has a task of its own"):
        unlabelled_files(["a=x.csv", "y.csv"], ["a", "b"])


def test_a_killed_run_goes_on(
    model: Path, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[str]
) -> None:
    """Stopped before each piece of work once, and in the middle of each training, by an error where a signal would end
    it; `benchmarks/random_kills.py` sends signals."""
    asked: dict[str, Any] = {"to": (0.7, 0.5), "unlabelled": {"ink": [{"image": r[0]} for r in new_images(tasks)]}}
    whole = run(model, tasks, tmp_path / "whole", **asked)
    first, seen, steps = list(made), set[str](), [0]
    made.clear()
    do, step = Workshop.do, trainer.TrainingRun.one_step

    def dying(self: Workshop, title: str, work: Any) -> Any:
        key = f"{title} {[product.key for product, _ in work]}"
        if key not in seen:
            seen.add(key)
            raise KeyboardInterrupt
        return do(self, title, work)

    def stopping(self: Any) -> None:
        steps[0] += 1
        if steps[0] in (3, 12):
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(Workshop, "do", dying)
    monkeypatch.setattr(trainer.TrainingRun, "one_step", stopping)
    monkeypatch.setattr(unfinished, "SAVE_EVERY", 0.0)
    kills, again = 0, None
    while again is None:
        try:
            again = run(model, tasks, tmp_path / "out", **asked)
        except KeyboardInterrupt:
            kills += 1
            assert not (tmp_path / "out" / "best").exists()
    assert kills == len(seen) + 2 and sorted(made) == sorted([*first, "shrink_by", "shrink_by"]), "each is begun again"
    for path in (tmp_path / "whole/best").rglob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "out/best" / path.relative_to(tmp_path / "whole/best")).read_bytes()
    assert [(one.tasks, one.kept, one.validation) for one in again.smaller] == [
        (one.tasks, one.kept, one.validation) for one in whole.smaller
    ]


def new_images(tasks: Mapping[str, Task]) -> list[Row]:
    """Ten images that are in no split of the task."""
    return new_rows(tasks["ink"], Suite.load("digits", only=["ink"])["ink"].splits["train"].inputs)[:10]


def test_a_time_is_met_by_the_largest_share(
    model: Path, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock by which a row takes 10 ms times the work."""

    def clock(systems: list[MultiTaskModel], rows: Any, **_: Any) -> list[RowTime]:
        whole = 4737024
        return [RowTime(10 * one.encoder.anatomy(1.0).work({}) / whole, 1.0) for one in systems]

    monkeypatch.setattr(jobs, "row_times", clock)
    found = run(model, tasks, tmp_path / "out", latency=6.0)
    assert found.written.asked == "6 ms" and found.written.size.time.alone <= 6.0 and found.written.size.share > 0.5
    with pytest.raises(AllroundError, match=r"a row takes 10\.00 ms as it is"):
        run(model, tasks, tmp_path / "slow", latency=11.0)
    with pytest.raises(AllroundError, match="the smallest model by units takes"):
        run(model, tasks, tmp_path / "fast", latency=0.001)


def test_what_cannot_be_shrunk(model: Path, tasks: dict[str, Task], tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match="what has to stay has more, by units"):
        run(model, tasks, tmp_path / "a", to=(0.001,))
    with pytest.raises(AllroundError, match="knows none of its tasks: parity"):
        run(model, dict(Suite.load("digits", only=["parity"], limit={"train": 20}).tasks), tmp_path / "b")
    few = replace(tasks["ink"], splits={**tasks["ink"].splits, "test": tasks["ink"].splits["test"].take([])})
    with pytest.raises(AllroundError, match="'ink' has no test rows"):
        run(model, {"ink": few}, tmp_path / "c")
    with pytest.raises(AllroundError, match="all weights have to learn"):
        shrink(model, Suite("mine", list(tasks.values())), out=tmp_path / "d", settings=Settings(tune="lora"))
    for wrong, found in (({"to": (1.5,)}, "a share of 1.5"), ({"to": ()}, "no size"), ({"latency": 0.0}, "0 ms"),
                         ({"keep": 2.0}, "--keep is 2"), ({"ways": ("untis",)}, "did you mean 'units'")):  # fmt: skip
        with pytest.raises(AllroundError, match=found):
            ShrinkOptions(**wrong)  # type: ignore[arg-type]


def test_ways_by_default_are_those_that_fit(model: Path, hf_folder: Path) -> None:
    assert default_ways(open_model(model)) == ["units"]
    text = load_encoder(hf_folder)
    text.backbone.config.intermediate_size = text.backbone.config.hidden_size  # type: ignore[union-attr, assignment]
    assert default_ways(MultiTaskModel(text, {})) == ["layers"], "units cannot be told from what is as wide"
    assert shrinking.ORIGINAL != shrinking.SPECIALIST


# The curve.


def size(share: float, kept: float) -> Smaller:
    return Smaller(f"{share:.0%}", "units", Size(share, 10, 40, RowTime(share, share)), {}, {}, kept, [], [],
                   Interval(kept, kept - 0.01, kept + 0.01))  # fmt: skip


def test_the_knee_by_hand() -> None:
    """The line from (1, 1) to (.25, .4) is at .8 and .6 over .75 and .5; .99 is .19 above it, .9 is .3."""
    assert knee([(1.0, 1.0), (0.75, 0.99), (0.5, 0.9), (0.25, 0.4)]) == 2
    assert knee([(1.0, 1.0), (0.5, 0.5), (0.25, 0.4)]) is None, "the curve hangs below the line"
    found = Shrunk("m", Size(1.0, 20, 80, RowTime(1.0, 1.0)), [size(0.75, 0.99), size(0.5, 0.9), size(0.25, 0.4)], 1,
                   0.97, [], 1, 1.0)  # fmt: skip
    assert found.knee == 1 and plot_curve(found) is not None
    assert replace(found, smaller=found.smaller[:1], chosen=0).knee is None


def test_times_are_of_single_rows_and_of_batches() -> None:
    """The shortest of the rounds counts, row by row."""
    import time

    class Slow:
        def __init__(self, seconds: float) -> None:
            self.seconds, self.asked = seconds, list[int]()

        def answers(self, task: str, rows: Any) -> None:
            self.asked.append(len(rows))
            time.sleep(self.seconds)

    fast, slow = Slow(0.0), Slow(0.004)
    found = row_times([fast, slow], {"a": [("x",)] * 8, "b": [("y",)] * 4}, rounds=2, most=4)  # type: ignore[list-item]
    assert found[1].alone >= 4.0 > found[0].alone and 8 / 12 <= found[1].together < found[1].alone
    assert slow.asked == [1, 1] + [1] * 8 + [8, 8, 4, 4]
