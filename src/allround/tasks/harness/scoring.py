"""Scores by the harness's own metrics: the value of each row, and the score of all rows."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from allround.core.errors import AllroundError, suggestion
from allround.tasks.definition import Definition
from allround.tasks.harness.configuration import fingerprint, scorer
from allround.tasks.harness.library import harness
from allround.tasks.harness.requests import LIKELIHOOD
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, Resampler

#: A metric of the harness, and the filter that the answers went through.
Key = tuple[str, str]
#: What a metric gives for a row: a number, or what its aggregation takes; None where it gives nothing.
Value = Any


def task_of(definition: Definition) -> Any:
    """The task of the harness that scores. Errors: a definition of another sort of task; a file that has changed."""
    asked = f"score the task '{definition.name}'"
    if not definition.harness:
        raise AllroundError(
            asked,
            f"its kind is {definition.kind}, and it is no task of the lm-evaluation-harness",
            "give it `source: {lm_eval: NAME}`, or another kind",
        )
    about = json.loads(definition.harness)
    if fingerprint(about["task"]) != about["hash"]:
        raise AllroundError(
            asked,
            "the task of the lm-evaluation-harness is not as it was when this was made",
            "install the version of lm-eval that was there, or make it again",
        )
    return scorer(json.dumps(about["task"], sort_keys=True), json.dumps(about["first"]))


def values(definition: Definition, targets: Encoded, predictions: Encoded) -> dict[Key, list[Value]]:
    """What each metric gives for each row. An empty answer is scored as the floor: by guessing."""
    return _values(definition, tuple(targets), tuple(predictions))


@lru_cache(maxsize=8)
def _values(
    definition: Definition, targets: tuple[tuple[str, ...], ...], predictions: tuple[tuple[str, ...], ...]
) -> dict[Key, list[Value]]:
    task = task_of(definition)
    documents = [json.loads(target[0]) for target in targets]
    # Of an empty answer there are several versions, whose values are averaged.
    versions = [
        [json.loads(said[0])] if said[0] else _guesses(task, document)
        for document, said in zip(documents, predictions, strict=True)
    ]
    flat = [(row, answer) for row, several in enumerate(versions) for answer in several]
    scored = _scored(task, [(documents[row]["document"], answer) for row, answer in flat], definition)
    found: dict[Key, list[Value]] = {}
    for key, given in scored.items():
        by_row: list[list[Value]] = [[] for _ in documents]
        for (row, _), value in zip(flat, given, strict=True):
            by_row[row].append(value)
        found[key] = [_mean(several) for several in by_row]
    return found


def _mean(several: list[Value]) -> Value:
    if len(several) == 1:
        return several[0]
    *sure, equal = several
    numbers = [value for value in sure if isinstance(value, (int, float, np.number))]
    return statistics.fmean(map(float, numbers)) if len(numbers) == len(sure) else equal


def _guesses(task: Any, document: dict[str, Any]) -> list[list[Any]]:
    """The answers of nobody: of several choices each in turn, and then all alike; otherwise texts as likely as bytes
    that are drawn, and nothing where a text is to be written."""
    sizes = document["sizes"]
    if document["sort"] != LIKELIHOOD:
        writes = not any(sizes)
        return [["" if writes else -size * math.log(256) for size in sizes]]
    if len(sizes) == 1:
        return [[[-sizes[0] * math.log(256), False]]]
    choices = len(sizes)
    if getattr(task.config, "doc_to_choice", None) is not None:
        choices = min(choices, len(task.doc_to_choice(document["document"])))
    sure = [[[0.0 if place == one else -1e6, False] for place in range(len(sizes))] for one in range(choices)]
    return [*sure, [[0.0, False] for _ in sizes]]


def _scored(task: Any, answered: Sequence[tuple[Any, list[Any]]], definition: Definition) -> dict[Key, list[Value]]:
    with harness(f"score the task '{definition.name}'") as package:
        from lm_eval.api.instance import Instance

        try:
            made = [
                [
                    Instance(
                        request_type=task.OUTPUT_TYPE,
                        doc=document,
                        arguments=("", ""),
                        idx=place,
                        metadata=(task.config.task, number, task.config.repeats),
                        resps=[tuple(said) if isinstance(said, list) else said] * (task.config.repeats or 1),
                    )
                    for place, said in enumerate(answer)
                ]
                for number, (document, answer) in enumerate(answered)
            ]
            task._instances = [instance for several in made for instance in several]
            task.apply_filters()
            found: dict[Key, list[Value]] = {}
            for number, ((document, _), several) in enumerate(zip(answered, made, strict=True)):
                for name in several[0].filtered_resps:
                    results = task.process_results(document, [one.filtered_resps[name] for one in several])
                    for metric, value in results.items():
                        rows = found.setdefault((metric, name), [None] * len(answered))
                        rows[number] = value
        except Exception as error:  # whatever a metric of the harness raises
            raise AllroundError(
                f"score the task '{definition.name}'",
                f"the harness fails: {type(error).__name__}: {str(error)[:300]}",
                f"look at the answers; lm-eval is of version {getattr(package, '__version__', 'unknown')}",
            ) from error
        finally:
            task._instances = None
    return found


def metrics_of(definition: Definition, targets: Encoded, predictions: Encoded) -> list[tuple[str, str]]:
    """The metrics that the task gives for these answers: in few words, and as ours are spelled."""
    found = values(definition, targets, predictions)
    higher = task_of(definition).higher_is_better()
    if len({name for _, name in found}) == 1:
        return [(metric, spelled(metric, None, higher.get(metric, True))) for metric, _ in found]
    return [(f"{metric},{name}", spelled(metric, name, higher.get(metric, True))) for metric, name in found]


def spelled(metric: str, filter: str | None, higher: bool) -> str:
    """A metric of the harness as ours are spelled. higher: whether higher is better.

    >>> spelled("perplexity", None, False)
    'lm_eval_loss:metric=perplexity'
    """
    return f"lm_eval{'' if higher else '_loss'}:metric={metric}" + (f";filter={filter}" if filter else "")


def chosen(definition: Definition, found: dict[Key, list[Value]], metric: str | None, name: str | None) -> Key:
    """The metric that is asked for; by default the first of the task, with its first filter."""
    wanted = [key for key in found if metric in (None, key[0]) and name in (None, key[1])]
    if not wanted:
        known = [f"metric={m};filter={f}" for m, f in found]
        raise AllroundError(
            f"score the task '{definition.name}' by {metric or 'its first metric'}{f' after {name}' if name else ''}",
            "the task has no such metric",
            suggestion(f"metric={metric};filter={name}", known),
        )
    return wanted[0]


def score(definition: Definition, key: Key, rows: Sequence[Value]) -> float:
    """The score of all rows, by the harness's own aggregation. Errors: it gives no number."""
    found = _aggregated(definition, _aggregation(definition, key[0]), [value for value in rows if value is not None])
    if math.isnan(found):
        raise AllroundError(
            f"score the task '{definition.name}' by {key[0]}",
            "the harness gives no number for these answers",
            "choose another `metric` of the task",
        )
    return found


def _aggregation(definition: Definition, metric: str) -> Callable[[list[Value]], float]:
    from lm_eval.api.metrics import mean

    found: Callable[[list[Value]], float] = task_of(definition).aggregation().get(metric, mean)
    return found


def _aggregated(definition: Definition, aggregate: Callable[[list[Value]], float], rows: list[Value]) -> float:
    try:
        with harness(f"score the task '{definition.name}'"):
            return min(float(aggregate(rows)), sys.float_info.max)
    except OverflowError:
        return sys.float_info.max


def resampler(definition: Definition, key: Key, rows: Sequence[Value]) -> Resampler:
    """Scores of resamples. What follows from sums over rows is summed; other aggregations see the rows themselves."""
    from lm_eval.api import metrics

    there = np.array([value is not None for value in rows])
    kept = [value for value in rows if value is not None]
    aggregate = _aggregation(definition, key[0])
    if aggregate in (metrics.mean, metrics.perplexity, metrics.weighted_perplexity, metrics.bits_per_byte):
        pairs = np.array([value if isinstance(value, (tuple, list)) else (value, 1.0) for value in kept], dtype=float)
        after: Callable[[Array], Array] = {
            metrics.mean: lambda mean: mean,
            metrics.perplexity: lambda mean: np.exp(-mean),
            metrics.weighted_perplexity: lambda mean: np.exp(-mean),
            metrics.bits_per_byte: lambda mean: -mean / math.log(2),
        }[aggregate]

        def summed(weights: Array) -> Array:
            sums = weights[:, there] @ pairs
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                found: Array = np.minimum(after(sums[:, 0] / sums[:, 1]), sys.float_info.max)
            return found

        return summed

    if (corpus := _corpus(aggregate)) is not None:
        references, said = metrics._sacreformat(*zip(*kept, strict=True))
        counts = np.array(corpus._extract_corpus_statistics(said, references), dtype=float)
        return lambda weights: np.array([corpus._compute_score_from_stats(row).score
                                         for row in (weights[:, there] @ counts).tolist()])  # fmt: skip

    def drawn(weights: Array) -> Array:
        times = weights[:, there].astype(int)
        several = [[kept[row] for row in np.repeat(np.arange(len(kept)), one)] for one in times]
        return np.array([_aggregated(definition, aggregate, some) if some else math.nan for some in several])

    return drawn


def _corpus(aggregate: Callable[[list[Value]], float]) -> Any:
    """What computes a score of texts from counts of their rows, where the harness takes such a one of sacrebleu."""
    from lm_eval.api import metrics
    from sacrebleu import metrics as texts

    known = {metrics.bleu: texts.BLEU, metrics.chrf: texts.CHRF, metrics.ter: texts.TER}
    if aggregate is metrics.chrfpp:
        return texts.CHRF(word_order=2)
    return known[aggregate]() if aggregate in known else None
