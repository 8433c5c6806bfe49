"""Held-out tasks after training on a few of their rows: the scores, and what a scoreboard says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from allround.core.words import percent, plural, shown, span_text
from allround.evaluation.intervals import Bootstrap, Interval, verdict
from allround.evaluation.predictions import Predictions
from allround.evaluation.scoreboard.scores import AdaptedScore, Scores, Summary
from allround.tasks.metric import better

#: What the scores after adapting are called, and the table of them.
HEADING = "Held-out tasks after a few rows"
LEGEND = (
    "Each system was tuned further on the same few training rows of a task, by the recipe of the specialists. The "
    "state was chosen on validation rows of the task, at most as many, and the test rows were scored once. Gained: "
    "after less zero-shot. Over base: after, less the base that was adapted on the same rows. Differences are paired, "
    "with 95% intervals, and turned so that higher is better. Zero-shot none: the system has no head for the task "
    "before."
)


@dataclass(frozen=True)
class AdaptedPair:
    """A system's predictions on a task, before and after it was adapted to it. before: None where its head needs
    training. rows, held: that it was trained and chosen on."""

    before: Predictions | None
    after: Predictions
    rows: int
    held: int


def adapted_scores(
    pairs: Mapping[tuple[str, str], AdaptedPair], base: str, *, seed: int, resamples: int
) -> list[AdaptedScore]:
    """Score systems before and after, by system and task, each also against the base after the same rows.

    With several tasks whose metrics are higher where better there is a mean over them too.
    """
    systems = list(dict.fromkeys(system for system, _ in pairs))
    made: dict[tuple[str, str], Predictions] = {}
    for (system, task), pair in pairs.items():
        made[f"after {system}", task] = pair.after
        if pair.before is not None:
            made[f"before {system}", task] = pair.before
    drawn = Bootstrap.make(made, seed=seed, resamples=resamples)
    tasks = list(dict.fromkeys(task for _, task in pairs))
    found = [_of_tasks(drawn, pairs, system, task, [task], base) for task in tasks for system in systems]
    higher = [task for task in tasks if drawn.better[task] == "higher"]
    if len(higher) > 1:
        found += [_of_tasks(drawn, pairs, system, "", higher, base) for system in systems]
    return found


def _of_tasks(
    drawn: Bootstrap,
    pairs: Mapping[tuple[str, str], AdaptedPair],
    system: str,
    task: str,
    tasks: Sequence[str],
    base: str,
) -> AdaptedScore:
    """One row: of a task, or of the mean over several."""
    own = [pairs[system, one] for one in tasks]
    before, after, rival = f"before {system}", f"after {system}", f"after {base}"
    sign = 1.0 if drawn.better[tasks[0]] == "higher" else -1.0

    def difference(other: str) -> Summary:
        value, low, high = drawn.mean_score(after, tasks, other)
        ends = (low, high) if sign > 0 else (_minus(high), _minus(low))
        return Summary(sign * value, *ends)

    zero_shot = all(pair.before is not None for pair in own)
    gain = difference(before) if zero_shot else None
    over = difference(rival) if system != base else None
    return AdaptedScore(
        system,
        task,
        own[0].after.definition.metric if task else "",
        max(pair.rows for pair in own),
        max(pair.held for pair in own),
        sum(len(pair.after) for pair in own),
        Summary(*drawn.mean_score(after, tasks)),
        Summary(*drawn.mean_score(before, tasks)) if zero_shot else None,
        gain,
        _verdict(gain),
        over,
        _verdict(over),
    )


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def _verdict(difference: Summary | None) -> str | None:
    return None if difference is None else verdict(Interval(difference.value, difference.low, difference.high))


def adapted_table(board: Scores) -> tuple[list[str], list[list[str]]]:
    """Head and body of the table of scores after adapting: a row for each task and system."""
    found = board.adapted or []
    counts = sorted({one.rows for one in found})
    head = ["task", "metric", "system", "zero-shot", f"after {plural(counts[-1], 'row')}" if found else "after"]
    head += ["gained", "over base", *(["rows"] if len(counts) > 1 else [])]
    body = []
    for one in found:
        side = better(one.metric) if one.metric else "higher"
        scores = ["none" if one.before is None else _score(one.before, side), _score(one.after, side)]
        differences = [_difference(one.gain, one.change, side), _difference(one.over_base, one.verdict, side)]
        rows = [str(one.rows)] if len(counts) > 1 else []
        body.append([one.task or "mean", one.metric, one.system, *scores, *differences, *rows])
    return head, body


def _score(found: Summary, side: str) -> str:
    return f"{shown(found.value, side)}{span_text(found.low, found.high, better=side)}"


def _difference(found: Summary | None, words: str | None, side: str) -> str:
    return "" if found is None else f"{_signed(found, side)}: {words}"


def _signed(found: Summary, side: str) -> str:
    """A difference with its interval, in points or in the metric's own units."""
    if side == "higher":
        ends = span_text(found.low, found.high, signed=True)
        return f"{percent(found.value, signed=True)}{ends}"
    known = found.low is not None and found.high is not None
    return f"{found.value:+.3g}" + (f" [{found.low:+.3g}, {found.high:+.3g}]" if known else "")


def adapted_sentences(board: Scores) -> list[str]:
    """How the best system takes to held-out tasks, as a mean or on the only one, compared with the base adapted
    alike."""
    rows = [one for one in board.adapted or () if one.system == board.best]
    tasks = [one.task for one in rows if one.task]
    found = []
    for one in rows if len(rows) == 1 else [one for one in rows if not one.task]:
        side = better(one.metric) if one.metric else "higher"
        words = f"After {plural(one.rows, 'row')} of "
        words += f"the held-out task {one.task}" if one.task else f"each of {plural(len(tasks), 'held-out task')}"
        words += f", {one.system} scores {_score(one.after, side)}" + (" as a mean" if not one.task else "")
        words += f" (zero-shot: {_score(one.before, side)})" if one.before is not None else ""
        if one.over_base is not None:
            apart, points = _signed(one.over_base, side), " points" if side == "higher" else ""
            told = one.verdict if one.verdict == "no difference found" else f"{one.verdict} than"
            told = "no difference was found from" if told == one.verdict else told
            words += f": {told} the base adapted alike ({apart}{points})"
        found.append(f"{words}.")
    return found
