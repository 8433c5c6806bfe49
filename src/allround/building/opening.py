"""A model folder of any library, opened as a system that answers the tasks of a suite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from allround.checkpoints.adapter import Adapter
from allround.checkpoints.adapter_config import is_adapter
from allround.composition.systems.demonstrated import demonstrate
from allround.core.errors import AllroundError
from allround.core.words import listed
from allround.models.base import check_is_model, find_folder, load_encoder
from allround.models.classifier import Match
from allround.models.encoders.language_model import LanguageModel
from allround.models.fitting import fit_head
from allround.models.language.loading import is_language_model
from allround.models.manifest import MANIFEST
from allround.models.network import classifier_in, load_network, open_network
from allround.models.system import System, load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.untrained import needs_training
from allround.tasks.suite import Suite
from allround.tasks.task import Task


def open_for(model: Path | str, suite: Suite, *, fit_heads: bool, say: Callable[[str], None]) -> System:
    """A system for the tasks of a suite.

    model: what allround saved; or a folder or Hub id of another library, whose head is kept for the tasks whose labels
    it has. fit_heads: fit heads on the suite's training rows for the tasks that have none. say: told of each head
    that is not allround's where it comes from.
    Errors: tasks without a head where none may be fitted; systems that can have no further heads.
    """
    root = Path(model).expanduser()
    if (root / MANIFEST).is_file():
        found = load(root)
        found = with_own_words(found, suite, say)
        lacking = [task for name, task in suite.tasks.items() if name not in found.definitions]
        if lacking and fit_heads:
            if not isinstance(found, MultiTaskModel):
                raise AllroundError(
                    f"fit heads on {model}",
                    f"it is a system of the sort '{found.sort}', without one encoder for all tasks",
                    "evaluate it on the tasks that it answers: --only " + ",".join(found.definitions),
                )
            _fit(found, lacking, say)
        return found
    folder = find_folder(model, "model")
    home = folder
    if is_adapter(folder):
        home = find_folder(Adapter(folder).base_name or "", "base of the adapter")
    check_is_model(home)
    matches = _matches(folder, home, suite)
    lacking = [task for name, task in suite.tasks.items() if matches[name].order is None]
    if lacking and not fit_heads and not is_language_model(home):
        names = [task.name for task in lacking]
        kept = [name for name in suite.tasks if name not in names]
        only = f"; or evaluate what it can do: --only {','.join(kept)}" if kept else ""
        raise AllroundError(
            f"evaluate {model} on '{suite.name}'",
            f"it has no head for {listed(names)} ({'; '.join(dict.fromkeys(matches[n].words for n in names))})",
            f"fit heads on the suite's training rows: --fit-heads{only}",
        )
    found = _assembled(folder, home, suite, matches, say)
    lacking = [task for name, task in suite.tasks.items() if name not in found.definitions]
    if lacking and fit_heads:
        _fit(found, lacking, say)
    return found.eval()


def open_language_model(base: str | Path, asked: str, **settings: object) -> LanguageModel:
    """A base that must be a language model. asked: what it is for, in messages. settings: such as `max_length`.

    Errors: a base of another sort.
    """
    folder = find_folder(base)
    found = load_encoder(folder, **settings) if is_language_model(folder) else None
    if not isinstance(found, LanguageModel):
        raise AllroundError(asked, f"{base} is not a language model", "give one as the --base, such as smollm2-135m")
    return found.eval()


def _matches(folder: Path, home: Path, suite: Suite) -> dict[str, Match]:
    """Whether the head in a folder serves each task."""
    classifier = classifier_in(folder, home)
    if classifier is None:
        return dict.fromkeys(suite.tasks, Match("the folder holds no classifier"))
    source = open_network(folder, home)
    return {name: classifier.match(task.definition, source) for name, task in suite.tasks.items()}


def _assembled(
    folder: Path,
    home: Path,
    suite: Suite,
    matches: Mapping[str, Match],
    say: Callable[[str], None],
) -> MultiTaskModel:
    """The model of a folder, with the heads that it has and those that need no training."""
    definitions = {name: task.definition for name, task in suite.tasks.items()}
    kept = {name: match.order for name, match in matches.items() if match.order is not None}
    settings: dict[str, object] = {}
    classifier = classifier_in(folder, home)
    rows = list(kept) if classifier is not None and classifier.first_token else []
    settings |= {"first_token": rows} if rows else {}
    settings |= {"pairs": "joint"} if any(definitions[name].pair for name in kept) else {}
    encoder = load_encoder(home, **settings)
    for note in encoder.notes if not kept else ():
        say(f"the model: {note}")
    source = open_network(folder, home)
    if home != folder:
        load_network(encoder, folder, source)
    model = MultiTaskModel(encoder, {})
    for name, order in kept.items():
        assert classifier is not None
        head = classifier.head(definitions[name], order, source, encoder.features(definitions[name]))
        model.add_task(definitions[name], head)
        say(f"{name}: the head in the folder ({classifier.name}): {matches[name].words}")
    made = with_own_words(model, suite, say)
    assert isinstance(made, MultiTaskModel)
    return made


def with_own_words(system: System, suite: Suite, say: Callable[[str], None]) -> System:
    """A system that also answers the tasks of a suite for which a language model needs no trained head; the same system
    where there are none."""
    if not isinstance(system, MultiTaskModel) or not isinstance(system.encoder, LanguageModel):
        return system
    added = [task.definition for name, task in suite.tasks.items() if name not in system.definitions]
    added = [definition for definition in added if not needs_training(system.encoder, definition)]
    if not added:
        return system
    model = MultiTaskModel(system.encoder, {})
    model.add_heads(system.definitions, {name: system.head(name).stored() for name in system.definitions})
    model.facts = system.facts
    for definition in added:
        model.add_task(definition)
        say(f"{definition.name}: answered in the model's own words, as nothing was trained on it")
    return model.eval()


def with_demonstrations(system: System, suite: Suite, way: str) -> System:
    """A language model that is shown training rows of the suite before each question. way: of `demonstrate`.
    Errors: what is no language model."""
    if not isinstance(system, MultiTaskModel):
        raise AllroundError(
            f"show a model demonstrations by '{way}'",
            f"it is a system of the sort '{system.sort}'",
            "give a language model, such as smollm2-135m, or one that allround tuned or merged",
        )
    return demonstrate(system, list(suite), way)


def _fit(model: MultiTaskModel, tasks: Sequence[Task], say: Callable[[str], None]) -> None:
    for task in tasks:
        head = fit_head(model.encoder, task)
        model.add_task(task.definition, head.state)
        say(f"{task.name}: a head is fitted on its frozen encoder: validation {head.tried[head.chosen]:.3f}")
