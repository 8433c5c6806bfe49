"""Models of which only the first units of each layer are left, as the term `slimmable` trains them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from allround.core.errors import AllroundError
from allround.models.calibration import KEY
from allround.models.shrinking.anatomy import Anatomy, Kept
from allround.models.shrinking.choosing import rounded
from allround.models.sizes import scores_of
from allround.models.system import System
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task


def first_units(anatomy: Anatomy, width: float) -> Kept:
    """The first units of each layer, or channels of each convolution, that a width keeps. Errors: no such width, and a
    network without units.

    >>> from allround.models.shrinking.anatomy import Group
    >>> first_units(Anatomy((Group("units.0", 4, ("b",), ("a",)),), lambda kept: 1.0), 0.5)
    {'units.0': (0, 1)}
    """
    if not 0 < width <= 1:
        raise AllroundError(f"run a model at the width {width:g}", "it is no share of its units",
                            "give a share above 0 and up to 1, or such as 50%")  # fmt: skip
    groups = anatomy.units()
    if not groups:
        raise AllroundError(f"run a model at the width {width:.0%}", "its network has no units that can be told apart",
                            "use a transformer, small_image or small_table as the base")  # fmt: skip
    return {one.name: tuple(range(rounded(round(one.count * width), one.count))) for one in groups}


def without(model: MultiTaskModel, kept: Kept) -> MultiTaskModel:
    """A copy of a model whose encoder has some parts alone, with the same heads."""
    made = MultiTaskModel(model.encoder.smaller(kept), {})
    for name, definition in model.definitions.items():
        made.add_task(definition, model.head(name).stored())
    return made.to(model.device).eval()


def at_width(model: MultiTaskModel, width: float) -> MultiTaskModel:
    """A model with the first share of the units of each layer, or of the channels of each convolution, and the same
    heads. What the others did is lost where the term `slimmable` did not train it. Calibrated scores were so at the
    whole width, and are left out. Errors: as `first_units`."""
    made = without(model, first_units(model.encoder.anatomy(1.0), width))
    made.facts = {**{name: value for name, value in model.facts.items() if name != KEY}, "width": width}
    return made


def chosen_width(system: System, width: float | None, shown: str) -> System:
    """A saved system at a width, or as it is where none is chosen. Errors: one that was not trained so."""
    if width is None:
        return system
    made_by = system.facts.get("made_by")
    settings = made_by.get("settings") if isinstance(made_by, Mapping) else None
    terms = settings.get("terms") if isinstance(settings, Mapping) else None
    if not isinstance(system, MultiTaskModel) or not isinstance(terms, Mapping) or "slimmable" not in terms:
        raise AllroundError(f"use {shown} at the width {width:.0%}", "it was not trained at several widths",
                            "train it with --term slimmable, or make a smaller model by `allround shrink`")  # fmt: skip
    return at_width(system, width)


def scores_by_width(
    model: MultiTaskModel, tasks: Sequence[Task], widths: Sequence[float], split: str = "validation"
) -> dict[float, dict[str, float]]:
    """The scores of the tasks at each width, and at the whole one, which comes first: width -> task -> score."""
    found = {}
    for width in (1.0, *sorted({*widths} - {1.0}, reverse=True)):
        found[width] = scores_of(model if width == 1 else at_width(model, width), tasks, split)
    return found


def widths_within(
    scores: Mapping[float, Mapping[str, float]],
    work: Mapping[float, float],
    budget: float,
    preferences: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """The width of each task with which the weighed mean of scores is highest, where the mean work for a row of each
    task is at most a budget. A task that is preferred more never scores less.

    scores: by width and task, on validation rows. work: of each width, as a share of all. preferences: by task, 1 where
    there is none.

    >>> scores = {1.0: {"a": 0.9, "b": 0.9}, 0.5: {"a": 0.8, "b": 0.7}, 0.25: {"a": 0.5, "b": 0.6}}
    >>> work = {1.0: 1.0, 0.5: 0.5, 0.25: 0.25}
    >>> widths_within(scores, work, 0.5), widths_within(scores, work, 0.65, {"b": 5})
    ({'a': 0.5, 'b': 0.5}, {'a': 0.25, 'b': 1.0})
    """
    preferences = preferences or {}
    for name, value in preferences.items():
        if name not in next(iter(scores.values())) or value < 0:
            raise AllroundError("choose widths by preference", f"{name!r} has the preference {value!r}",
                                "name tasks that have scores, with numbers of 0 or more")  # fmt: skip
    tasks = list(next(iter(scores.values())))
    # Of all choices for the tasks so far, those that no other one beats in work and score: (work, score, widths).
    best: list[tuple[float, float, tuple[float, ...]]] = [(0.0, 0.0, ())]
    for task in tasks:
        prefer = preferences.get(task, 1.0)
        more = [(used + work[width], gained + prefer * scores[width][task], (*widths, width))
                for used, gained, widths in best for width in scores]  # fmt: skip
        best, highest = [], float("-inf")
        for one in sorted(more, key=lambda choice: (choice[0], -choice[1])):
            if one[1] > highest and one[0] <= budget * len(tasks) + 1e-9:
                best.append(one)
                highest = one[1]
        if not best:
            least = f"the least width takes {min(work.values()):.0%}"
            raise AllroundError(
                f"choose widths for {budget:.0%} of the work", least, "allow more, or train narrower ones"
            )
    return dict(zip(tasks, best[-1][2], strict=True))
