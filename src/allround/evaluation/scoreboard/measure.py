"""Scores of systems from their predictions: retention, intervals and paired comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from allround.core.errors import AllroundError, suggestion
from allround.evaluation.intervals import Bootstrap, verdict
from allround.evaluation.predictions import Predictions
from allround.evaluation.scoreboard.scores import Cell, Comparison, Notes, ScoredSystem, Scores, Summary
from allround.tasks.definition import Definition


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
    systems = list(systems)
    names = [system.name for system in systems]
    reference = reference if reference in names else None
    _check(definitions, names, predictions, best)
    wanted = {(s, t): predictions[s, t] for t in definitions for s in names}
    splits = sorted({made.split for made in wanted.values()})
    if len(splits) > 1:
        raise AllroundError("make a scoreboard", f"it mixes the splits {', '.join(splits)}", "predict one split")
    bootstrap = Bootstrap.make(wanted, reference=reference, seed=seed, resamples=resamples)
    cells = {s: {t: _cell(bootstrap, s, t, len(wanted[s, t])) for t in definitions} for s in names}
    mean, worst = {}, {}
    for name in names:
        if found := bootstrap.mean_retention(name):
            mean[name] = Summary(*found)
        if least := bootstrap.worst_retention(name):
            worst[name] = Summary(*least[1], task=least[0])
    pairs = [(s, reference) for s in names if reference and s != reference]
    pairs += [(s, best) for s in names if best and reference != best and s not in (reference, best)]
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
    )


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
