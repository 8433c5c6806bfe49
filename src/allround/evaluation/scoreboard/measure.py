"""Scores of systems from their predictions: retention, intervals and paired comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from allround.core.errors import AllroundError, suggestion
from allround.evaluation.intervals import Bootstrap, same_rows, verdict
from allround.evaluation.predictions import Predictions
from allround.evaluation.scoreboard.scores import (
    Cell,
    Comparison,
    Notes,
    Repeats,
    ScoredSystem,
    Scores,
    Summary,
    Transfer,
)
from allround.evaluation.scoreboard.simple import SIMPLE
from allround.tasks.definition import Definition
from allround.tasks.metric import better
from allround.tasks.roles import HELD_OUT


def measure(
    definitions: Mapping[str, Definition],
    systems: Iterable[ScoredSystem],
    predictions: Mapping[tuple[str, str], Predictions],
    *,
    reference: str | None = "specialists",
    validation: Mapping[tuple[str, str], float] | None = None,
    best: str | None = None,
    seed: int = 0,
    resamples: int = 1000,
    notes: Notes | None = None,
    provenance: Mapping[str, object] | None = None,
) -> Scores:
    """Score every system on every task; `Scoreboard.make` says more."""
    return measure_runs(
        {"": predictions},
        definitions,
        systems,
        reference=reference,
        validation=validation,
        best=best,
        seed=seed,
        resamples=resamples,
        notes=notes,
        provenance=provenance,
    )


def measure_runs(
    runs: Mapping[str, Mapping[tuple[str, str], Predictions]],
    definitions: Mapping[str, Definition],
    systems: Iterable[ScoredSystem],
    *,
    of: str = "seed",
    reference: str | None,
    validation: Mapping[tuple[str, str], float] | None,
    best: str | None,
    seed: int,
    resamples: int,
    notes: Notes | None,
    provenance: Mapping[str, object] | None,
) -> Scores:
    """Score every system on every task, as the mean over several runs. of: what they differ by."""
    systems = list(systems)
    names = [system.name for system in systems]
    reference = reference if reference in names else None
    for predictions in runs.values():
        _check(definitions, names, predictions, best)
    wanted = [{(s, t): made[s, t] for t in definitions for s in names} for made in runs.values()]
    splits = sorted({made.split for predictions in wanted for made in predictions.values()})
    if len(splits) > 1:
        raise AllroundError("make a scoreboard", f"it mixes the splits {', '.join(splits)}", "predict one split")
    # Runs on the same rows are resampled together, others apart.
    together = all(same_rows(made, wanted[0][key]) for predictions in wanted for key, made in predictions.items())
    parts = [
        Bootstrap.make(
            made,
            reference=reference,
            seed=seed if together else seed + number,
            resamples=resamples,
            counted=[task for task, definition in definitions.items() if definition.trained],
        )
        for number, made in enumerate(wanted)
    ]
    bootstrap = parts[0] if len(parts) == 1 else Bootstrap.pooled(parts, seed=seed)
    counted = wanted[:1] if together else wanted
    cells = {
        s: {t: _cell(bootstrap, s, t, sum(len(made[s, t]) for made in counted)) for t in definitions} for s in names
    }
    mean, worst = {}, {}
    for name in names:
        if found := bootstrap.mean_retention(name):
            mean[name] = Summary(*found)
        if least := bootstrap.worst_retention(name):
            worst[name] = Summary(*least[1], task=least[0])
    pairs = [(s, reference) for s in names if reference and s != reference]
    pairs += [(s, best) for s in names if best and reference != best and s not in (reference, best)]
    simple = [system.name for system in systems if system.role in SIMPLE]
    tuned = next((system.name for system in systems if system.role == "specialists"), None)
    pairs += [(s, tuned) for s in simple if reference and tuned and tuned not in (reference, best)]
    joint = next((system.name for system in systems if system.role == "joint"), None)
    grouped = [(system.name, joint) for system in systems if reference and joint and system.role == "groups"]
    pairs += [pair for pair in grouped if pair not in pairs]
    return Scores(
        definitions=dict(definitions),
        systems=systems,
        cells=cells,
        mean=mean,
        worst=worst,
        validation=_nested(validation or {}),
        comparisons=[_compare(bootstrap, s, other, definitions) for s, other in pairs],
        reference=reference,
        best=best,
        split=splits[0] if splits else "test",
        seed=seed,
        resamples=resamples,
        notes=Notes(**(notes or {})),
        provenance=dict(provenance or {}),
        repeats=_repeats(of, list(runs), parts, names, definitions) if len(parts) > 1 else None,
        transfer=_transfer(bootstrap, names, definitions),
    )


def _transfer(
    bootstrap: Bootstrap, systems: Sequence[str], definitions: Mapping[str, Definition]
) -> dict[str, dict[str, Transfer]] | None:
    """Each system on the held-out tasks, and on those of each category, whose metrics are higher where better."""
    held = {t: d for t, d in definitions.items() if d.role == HELD_OUT and better(d.metric) == "higher"}
    if not held:
        return None
    categories = sorted({d.category for d in held.values()} - {""})
    groups = {"": list(held), **{c: [t for t, d in held.items() if d.category == c] for c in categories}}
    found: dict[str, dict[str, Transfer]] = {}
    for group, tasks in groups.items():
        for system in systems:
            made = Transfer(Summary(*bootstrap.mean_score(system, tasks)))
            reference = bootstrap.reference
            if reference is not None:
                gain, kept = bootstrap.mean_score(system, tasks, reference), bootstrap.kept(system, tasks)
                made = Transfer(made.score, Summary(*kept) if kept else None, Summary(*gain), verdict(gain))
            found.setdefault(group, {})[system] = made
    return found


def _repeats(
    of: str, names: list[str], parts: Sequence[Bootstrap], systems: Iterable[str], tasks: Iterable[str]
) -> Repeats:
    scores = {s: {t: [part.points[s, t] for part in parts] for t in tasks} for s in systems}
    return Repeats(of, names, scores)


def _check(
    definitions: Mapping[str, Definition],
    names: list[str],
    predictions: Mapping[tuple[str, str], Predictions],
    best: str | None,
) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise AllroundError("make a scoreboard", f"two systems are called '{twice[0]}'", "name each system once")
    if best is not None and best not in names:
        raise AllroundError(f"call '{best}' the best system", "it is not among the systems", suggestion(best, names))
    missing = [(s, t) for s in names for t in definitions if (s, t) not in predictions]
    if missing:
        system, task = missing[0]
        raise AllroundError(
            f"compare {len(names)} systems on {len(definitions)} tasks",
            f"the system '{system}' did not answer the task '{task}'"
            + (f", nor {len(missing) - 1} other pairs" if len(missing) > 1 else ""),
            "predict every task with every system",
        )


def _cell(bootstrap: Bootstrap, system: str, task: str, n: int) -> Cell:
    kept = bootstrap.retention(system, task)
    return Cell(*bootstrap.score(system, task), n, *(kept or (None, None, None)))


def _compare(bootstrap: Bootstrap, system: str, other: str, tasks: Iterable[str]) -> Comparison:
    verdicts = {task: verdict(bootstrap.task_difference(system, other, task)) for task in tasks}
    found = bootstrap.difference(system, other)
    if found is None:
        return Comparison(system, other, None, None, None, "no difference found", verdicts)
    return Comparison(system, other, *found, verdict(found), verdicts)


def _nested(values: Mapping[tuple[str, str], float]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for (system, task), value in values.items():
        found.setdefault(system, {})[task] = float(value)
    return found
