"""Single jobs: train a joint model, tune one specialist, evaluate a system."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from allround.building.benchmarks import Benchmark, by_metric, with_benchmarks
from allround.building.following import Following, what_happened
from allround.building.opening import open_for, with_demonstrations, with_own_words
from allround.building.prompts import answers_by_prompt, scores_by_prompt
from allround.building.saving import CONFIG, cell_facts
from allround.building.tracking import check_trackers, tracking
from allround.building.viewing import view_of
from allround.composition.shown_model import ShownModel
from allround.composition.systems.demonstrated import demonstrate
from allround.core.errors import AllroundError, suggestion
from allround.core.growing import remove_work
from allround.core.outputs import check_out, check_texts, output_folder, work_folder, write_texts
from allround.core.progress import Progress
from allround.core.seeds import seed_everything, seed_of
from allround.core.words import plural
from allround.evaluation.calibration import CalibrationFacts, calibrated, check_method, facts_of, fit
from allround.evaluation.calibrators import way_of
from allround.evaluation.error_files import check_error_files, write_error_files
from allround.evaluation.errors import errors_of
from allround.evaluation.measuring import words_of
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import Predictions, score
from allround.evaluation.scoreboard import FILES, Notes, Scoreboard, ScoredSystem
from allround.models.base import open_encoder
from allround.models.calibration import KEY, Calibration
from allround.models.device import pick_device
from allround.models.fitting import fit_head
from allround.models.system import System
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.untrained import untrained_head
from allround.models.widths import chosen_width
from allround.tasks.kind import kind
from allround.tasks.metric import better
from allround.tasks.roles import TRAIN
from allround.tasks.suite import Suite, as_suite
from allround.tasks.task import SPLITS, Task
from allround.training import trainer
from allround.training.callback import Callback
from allround.training.course import Course
from allround.training.preconditions import check_settings
from allround.training.processes import Processes
from allround.training.settings import Settings
from allround.training.sharing import shared_by, sharing_facts


def train(
    suite: Suite | str | Path,
    *,
    out: Path | str,
    base: str | Path | None = None,
    settings: Settings | None = None,
    seed: int = 0,
    encoder: Mapping[str, object] | None = None,
    progress: Progress | None = None,
    config: str | None = None,
    callbacks: Sequence[Callback] = (),
    track: Sequence[str] = (),
    calibrate: str = "temperature",
    demonstrations: str | None = None,
    force: bool = False,
) -> Scoreboard:
    """Train one joint model on all tasks of a suite, save it into the folder `out`, and score it on test.

    Heads are fitted on the frozen base first. suite: a suite, a suite file, or the name of a built-in one. base: a
    model folder, a Hub id or a built-in encoder; by default the suite's own. encoder: settings of the encoder, such as
    `{"max_length": 64}`. Unfinished training is kept in `out`.unfinished, so that the same call after a kill goes on
    there. Of several processes (`torchrun`) all train, and the first writes and speaks. A folder that is there is
    replaced only where `train` wrote it and nothing was changed since, or with `force`. config: what the command line
    was asked for, which is kept in `out`. callbacks: are told of steps, evaluations and the test scores. track: names
    of trackers (tensorboard, mlflow, wandb), which write into `out`.track. calibrate: how the model's scores are
    corrected on validation, as in a build. demonstrations: how training rows are chosen that a language model learns
    behind and is shown from then on, such as "similarity:count=2"; it is saved with them.
    """
    return _tune(as_suite(suite), base, Path(out), settings, seed, encoder, progress, "train", config, callbacks, track,
                 calibrate, demonstrations, force)  # fmt: skip


def tune(
    suite: Suite | str | Path,
    task: str | None = None,
    *,
    out: Path | str,
    base: str | Path | None = None,
    settings: Settings | None = None,
    seed: int = 0,
    encoder: Mapping[str, object] | None = None,
    progress: Progress | None = None,
    config: str | None = None,
    callbacks: Sequence[Callback] = (),
    track: Sequence[str] = (),
    calibrate: str = "temperature",
    demonstrations: str | None = None,
    force: bool = False,
) -> Scoreboard:
    """Tune one specialist: for the task of the suite that is named, or for the only one there is. Otherwise as `train`.

    Errors: no task of that name; none named where there are several.
    """
    suite = as_suite(suite)
    if task is None and len(suite.tasks) > 1:
        raise AllroundError(
            f"tune a specialist on '{suite.name}'",
            f"it has {len(suite.tasks)} tasks, and none is named",
            f"name one: {', '.join(suite.tasks)}; or train a joint model on all of them: train",
        )
    if task is None:
        task = next(iter(suite.tasks))
    if task in suite.tasks and not suite[task].definition.trained:
        raise AllroundError(
            f"tune a specialist for '{task}'",
            f"its role is {suite[task].definition.role}, so that nothing is trained on it",
            "give it `role: train`, or leave it out of `hold_out`",
        )
    if task not in suite.tasks:
        raise AllroundError(
            f"tune a specialist for '{task}'", f"'{suite.name}' has no such task", suggestion(task, suite.tasks)
        )
    chosen = suite.part([task])
    return _tune(chosen, base, Path(out), settings, seed, encoder, progress, "tune", config, callbacks, track,
                 calibrate, demonstrations, force)  # fmt: skip


def _tune(
    suite: Suite,
    base: str | Path | None,
    out: Path,
    settings: Settings | None,
    seed: int,
    encoder: Mapping[str, object] | None,
    progress: Progress | None,
    command: str,
    config: str | None,
    callbacks: Sequence[Callback],
    track: Sequence[str],
    calibrate: str,
    demonstrations: str | None,
    force: bool,
) -> Scoreboard:
    settings = settings or Settings()
    check_method(calibrate)
    base = str(suite.own_base(f"{command} on '{suite.name}'") if base is None else base)
    out = check_out(out, command, force=force, inputs=[base], data=suite.files)
    scratch = out.parent / f"{out.name}.unfinished"
    first = Processes(cpu=pick_device(settings.device).type == "cpu").number == 0
    progress = progress or Progress(quiet=not first)
    tasks = list(suite.to_train)
    check_settings(settings, tasks)
    check_trackers(track)
    following = Following(progress)
    with ExitStack() as stack:
        folder = None
        stack.callback(following.close)
        stack.enter_context(progress.watch())
        if first:
            stack.enter_context(work_folder(scratch, command, force=force))
            folder = stack.enter_context(output_folder(out, command, force=force))
        rows = sum(len(task.splits["train"]) for task in tasks)
        progress.say(f"suite {suite.name}: {plural(len(tasks), 'task')}, {plural(rows, 'training row')}; base {base}")
        seed_everything(seed_of(seed, "base"))
        made = open_encoder(base, tasks, seed_of(seed, "base"), encoder or {})
        for note in made.notes:
            progress.say(f"base: {note}", style="yellow")
        model = MultiTaskModel(made, {})
        for task in tasks:
            head = fit_head(made, task)
            model.add_task(task.definition, head.state)
            progress.say(f"head of {task.name} on the frozen base: validation {head.tried[head.chosen]:.3f}")
        for task in suite:
            if not task.definition.trained:
                model.add_task(task.definition, untrained_head(made, task.definition))
        model, settings = shared_by(model, settings, tasks, seed)
        adapter = folder / "adapter" if folder and settings.tune == "lora" else None
        config_of = {"base": base, "seed": seed, **settings.to_json()}
        tracked = tracking(track if first else (), out.parent / f"{out.name}.track", out.name, config_of)
        told = [following, *stack.enter_context(tracked), *callbacks]
        name = "joint" if command == "train" else f"specialist-{tasks[0].name}"
        learning = model if demonstrations is None else ShownModel(demonstrate(model, tasks, demonstrations, seed=seed))
        course = trainer.train(learning, tasks, settings, seed=seed, scratch=scratch, adapter=adapter, callbacks=told,
                               name=name)  # fmt: skip
        used = sharing_facts(model, tasks, name, settings)
        system: System = model  # what is scored and saved; its examples are chosen by the model as it is now
        if demonstrations is not None:
            system = demonstrate(model, tasks, demonstrations, seed=seed)
        for words in [*what_happened(course, settings), *(used.words if used is not None else ())]:
            progress.say(words)
        fitted = {t.name: fit(predict_split(system, t, "validation"), calibrate) for t in tasks}
        calibrations = {name: one for name, one in fitted.items() if one is not None}
        if calibrations:
            listed = ", ".join(f"{name} by {way_of(one)}" for name, one in calibrations.items())
            progress.say(f"scores calibrated on validation: {listed}")
        board = board_of(system, suite, "test", "tuned", course, calibrations=calibrations)
        for callback in told if first else ():
            callback.scored(board.scores())
        happened = {
            "rows": {task.name: len(task.splits["train"]) for task in tasks},
            "skipped": course.skipped_of,
            "restored": course.restored,
            "examples": course.examples,
        }
        system.facts = {"made_by": {"base": str(base), "settings": settings.to_json(), "seed": seed, **happened},
                       "scores": {n: cell_facts(d, board.cells["tuned"][n], "test")
                                  for n, d in board.definitions.items()}}  # fmt: skip
        if calibrations:
            system.facts[KEY] = {name: one.to_json() for name, one in calibrations.items()}
        if folder:
            system.write(folder)
            if used is not None:
                (folder / "sharing.csv").write_text(used.csv, encoding="utf-8")
                (folder / "sharing.svg").write_text(used.svg, encoding="utf-8")
            if config is not None:
                (folder / CONFIG).write_text(config, encoding="utf-8")
    if first:
        remove_work(scratch)
    return board


def evaluate(
    model: System | Path | str,
    suite: Suite | str | Path | None = None,
    *,
    tasks: Sequence[Benchmark] = (),
    split: str = "test",
    fit_heads: bool = False,
    demonstrations: str | None = None,
    measures: Sequence[str] = (),
    width: float | None = None,
    save: Path | str | None = None,
    out: Path | str | None = None,
    errors: Path | str | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> Scoreboard:
    """Score a model, or a saved one by its folder, on the tasks of a suite that it has heads for.

    model: what allround saved, or a folder or Hub id of transformers, sentence-transformers or PEFT: a classifier's
    head serves the tasks whose labels it has. fit_heads: fit heads on the suite's training rows for tasks without one;
    a line, and the notes of the scoreboard, say which is which. demonstrations: how training rows of the suite are
    chosen that a language model is shown before each question, such as "coverage:count=4". measures: of the family
    `measure`, with settings, such as "cross_task:tasks=digit+parity"; what they find stands in the notes of the board.
    width: of a model that was trained with the term `slimmable`, the share of its units that are used. save: keep the
    model as it was scored, with heads and demonstrations, in this folder. out: also write the
    scoreboard into this folder; files that are there are replaced only where `evaluate` wrote them and they are
    unchanged, or with `force`.
    errors: write what the model gets wrong into this folder, as CSV files. tasks: of the
    lm-evaluation-harness, beside those of the suite: `lm-eval:NAME`, `lm-eval:FILE.yaml`, a dictionary, or what
    `harness_task` made; language models answer them, and each of their metrics is a row of the scoreboard.
    """
    suite = with_benchmarks(suite, tasks)
    if errors is not None:
        check_error_files(Path(errors), "evaluate", force=force)
    if out is not None:
        out = Path(out)
        check_texts(out, FILES, "evaluate", force=force)
    if split not in SPLITS:
        raise AllroundError(f"evaluate on the split '{split}'", "there is no such split", suggestion(split, SPLITS))
    what = "the model" if isinstance(model, System) else str(model)
    said: list[str] = []
    if not isinstance(model, System):
        model = open_for(model, suite, fit_heads=fit_heads, say=said.append)
        progress = progress or Progress(quiet=True)
        for line in said:
            progress.say(line)
    model = with_own_words(chosen_width(model, width, what), suite, said.append)
    if demonstrations is not None:
        model = with_demonstrations(model, suite, demonstrations)
    lacking = [name for name in suite.tasks if name not in model.definitions]
    if lacking:
        shared = [name for name in suite.tasks if name in model.definitions]
        raise AllroundError(
            f"evaluate {what} on '{suite.name}'",
            f"the model has no head for {', '.join(lacking)}; it has: {', '.join(model.definitions)}",
            (f"evaluate what it can do: --only {','.join(shared)}" if shared else "use the suite it was made with")
            + "; or fit heads on the suite's training rows: --fit-heads (fit_heads=True)",
        )
    for task in suite.tasks.values():
        check_labels(model, task, what)
    predictions: dict[tuple[str, str], Predictions] = {}
    board = board_of(model, suite, split, "model", None, said, keep=predictions, each_metric=True)
    by_prompt = answers_by_prompt(model, suite, split, predictions)
    notes: Notes = {**board.notes}
    if by_prompt:
        notes["prompts"] = [one.words for one in scores_by_prompt(by_prompt)]
    if measures:
        notes["measures"] = words_of(measures, view_of(model, suite, split, predictions, by_prompt))
    board = replace(board, notes=notes)
    if save is not None:
        model.save(save, force=force)
    if errors is not None:
        found = {
            name: errors_of(task.as_defined(model.definition(name)), predictions["model", name])
            for name, task in suite.tasks.items()
        }
        write_error_files(Path(errors), found, "evaluate", force=force)
    if out is not None:
        write_texts(out, board.files(), "evaluate", force=force)
    return board


def judge_of(suite: Suite) -> Callable[[System, str], float]:
    """What scores a model on the validation rows of one task of a suite, by its metric; more is better."""

    def judge(model: System, name: str) -> float:
        if name not in suite.tasks:
            raise AllroundError(
                f"score the task '{name}' on validation",
                f"the suite '{suite.name}' has no such task",
                "give a suite with all tasks of the models, or leave it out",
            )
        check_labels(model, suite.tasks[name], "the specialist")
        found = score(predict_split(model, suite.tasks[name].as_defined(model.definition(name)), "validation"))
        return found if better(model.definition(name).metric) == "higher" else -found

    return judge


def check_labels(model: System, task: Task, what: str) -> None:
    """An error where a model's labels of a task are not those of its data. what: what messages call the model."""
    labels, name = model.definition(task.name).labels, task.name
    if labels != task.definition.labels:
        odd = sorted(set(task.definition.labels) ^ set(labels))
        raise AllroundError(
            f"evaluate '{name}' with {what}",
            f"the model's labels are not those of the suite: {', '.join(odd[:5])} differ",
            "use the suite that the model was made with, or map its labels (`labels:` in the suite file)",
        )


def board_of(
    model: System,
    suite: Suite,
    split: str,
    name: str,
    course: Course | None,
    said: Sequence[str] = (),
    *,
    keep: dict[tuple[str, str], Predictions] | None = None,
    calibrations: Mapping[str, Calibration] | None = None,
    each_metric: bool = False,
) -> Scoreboard:
    """The scoreboard of one model, called `name`, beside the floor. course: the training that it came from. said: of
    tasks, as `TASK: WORDS`. keep: takes the predictions, by system and task. calibrations: that the model does not have
    yet; the board says what they do. each_metric: a row for each metric of a task of the lm-evaluation-harness."""
    predictions: dict[tuple[str, str], Predictions] = {} if keep is None else keep
    facts: dict[str, CalibrationFacts] = {}
    for task_name, task in suite.tasks.items():
        # The model's own definition scales a regression target as it was trained.
        own = task.as_defined(model.definition(task_name))
        found = predict_split(model, own, split)
        if calibrations and task_name in calibrations:
            facts[task_name] = facts_of(found, calibrations[task_name])
            found = calibrated(found, calibrations[task_name])
        predictions[name, task_name] = found
        predictions["floor", task_name] = floor(own, split)
    rows = sum(len(p) for (s, _), p in predictions.items() if s == name)
    seconds = sum(p.seconds for (s, _), p in predictions.items() if s == name)
    cost = replace(
        model.cost(),
        parameters_used=model.cost(suite.tasks).parameters_used,
        training_seconds=course.seconds if course else 0.0,
        training_examples=sum(course.examples.values()) if course else 0,
        examples_per_second=rows / seconds if seconds else None,
    )
    systems = [
        ScoredSystem("floor", "floor", "majority class, or mean"),
        ScoredSystem(name, "joint", "the model", cost=cost),
    ]
    more = {n: [*t.notes, *(line.removeprefix(f"{n}: ") for line in said if line.startswith(f"{n}: "))]
            for n, t in suite.tasks.items()}  # fmt: skip
    notes: Notes = {"tasks": {n: lines for n, lines in more.items() if lines}}
    definitions = {n: model.definitions[n] for n in suite.tasks}
    shown: Mapping[tuple[str, str], Predictions] = predictions
    if each_metric:
        definitions, shown = by_metric(definitions, predictions)
    if not any(definition.trained for definition in definitions.values()):  # then none of them stands apart
        definitions = {n: replace(definition, role=TRAIN) for n, definition in definitions.items()}
    board = Scoreboard.make(definitions, systems, shown, reference=None, notes=notes)
    return replace(board, calibration={name: facts}) if facts else board


def floor(task: Task, split: str = "test") -> Predictions:
    """The trivial predictions of a task: the majority class of the training rows, or their mean; its scores are how
    often each label occurs in them."""
    rules = kind(task.definition.kind)
    targets = task.splits[split].targets
    lengths = [len(t) for t in targets] if rules.per_token else []
    found = rules.floor(task.splits["train"].targets, len(targets), lengths)
    shares = rules.shares(task.splits["train"].targets, len(task.definition.labels))
    scores = None if shares is None else np.tile(shares, (len(targets), 1))
    return Predictions(task.definition, split, targets, found, None, 0.0, scores)
