"""A scoreboard in plain sentences: the answer, how it was measured, and what its signs mean."""

from __future__ import annotations

from allround.core.words import count, duration, listed, percent, plural, shown, span_text
from allround.evaluation.intervals import widening
from allround.evaluation.scoreboard.adapted import adapted_sentences
from allround.evaluation.scoreboard.scores import MARKS, Repeats, ScoredSystem, Scores
from allround.evaluation.scoreboard.simple import REFERENCE, simple_ways, weak_specialists
from allround.evaluation.scoreboard.transfer import transfer_sentences
from allround.tasks.metric import better


def answer(board: Scores) -> list[str]:
    """The answer in a few plain sentences."""
    return [*_trained_answer(board), *transfer_sentences(board), *adapted_sentences(board)]


def _trained_answer(board: Scores) -> list[str]:
    """The answer on the tasks that training could see."""
    total = f"{plural(len(board.trained), 'task')} ({plural(board.trained_rows, board.split + ' row')})"
    if board.best is None:
        return [f"{listed([s.name for s in board.systems])} on {total}."]
    best, lines = board.system(board.best), []
    name = f"{best.name} ({best.title})" if best.title and best.title != best.name else best.name
    mean, worst = board.mean.get(board.best), board.worst.get(board.best)
    undefined = [t for t in board.trained if mean and board.cells[board.best][t].retention is None]
    if undefined:
        counted = [t for t in board.trained if t not in undefined]
        rows = sum(board.n(t) for t in counted)
        total = f"{plural(len(counted), 'task')} ({plural(rows, board.split + ' row')})"
    kind = "single model" if best.single else "system"
    if board.reference is None or mean is None:
        return [f"The best {kind}, chosen on validation rows, is {name}; measured on {total}."]
    if board.best == board.reference:
        lines.append(f"The best {kind}, chosen on validation rows, is {name}; measured on {total}.")
        lines += filter(None, [simple_ways(board), *weak_specialists(board), _rival_sentence(board)])
        return [*lines, *_other_sentences(board)]
    lines.append(
        f"The best {kind}, chosen on validation rows, is {name}. It keeps {percent(mean.value)}%"
        f"{span_text(mean.low, mean.high)} of the score of the {board.reference}, as a mean over {total}."
    )
    reference = board.system(board.reference)
    if reference.role == REFERENCE:
        lines.append(f"The reference is {reference.title}.")
    lines += filter(None, [simple_ways(board), *weak_specialists(board)])
    if undefined:
        lines.append(
            f"Retention is undefined on {listed(undefined)}, where the score of the {board.reference} is not above "
            "zero."
        )
    if worst and worst.task and percent(worst.value) != percent(1.0):
        cell, theirs = board.cells[board.best][worst.task], board.cells[board.reference][worst.task]
        metric = board.definitions[worst.task].metric
        lines.append(
            f"The worst task of {board.best} is {worst.task}: {percent(worst.value)}% retention, {metric} "
            f"{shown(cell.score, better(metric))} against {shown(theirs.score, better(metric))} on "
            f"{plural(cell.n, 'row')}."
        )
    if cost := _cost_sentence(board, best):
        lines.append(cost)
    if rivals := _rival_sentence(board):
        lines.append(rivals)
    lines += _other_sentences(board)
    return lines


def _cost_sentence(board: Scores, best: ScoredSystem) -> str:
    specialists = [system for system in board.systems if system.role == "specialists"]
    theirs = specialists[0] if specialists else board.system(board.reference or "")
    if not best.cost.parameters_stored or not theirs.cost.parameters_stored:
        return ""
    stored, before = (count(s.cost.parameters_stored) for s in (best, theirs))
    encoders = f"one encoder instead of {len(board.trained)}, " if best.single and not theirs.single else ""
    spent, before_spent = best.cost.training_seconds, theirs.cost.training_seconds
    time = f" Training took {duration(spent)}, against {duration(before_spent)}." if spent and before_spent else ""
    if spent and spent == before_spent:
        time = f" Training the {theirs.name} ({duration(spent)}) is all the training it needs."
        if best.cost.merge_rows:
            rows = plural(best.cost.merge_rows, "row")
            time = (
                f" After training the {theirs.name} ({duration(spent)}), merging took "
                f"{duration(best.cost.merge_seconds)}, on {rows}."
            )
    return f"It stores {encoders}{stored} parameters instead of {before}.{time}"


def _rival_sentence(board: Scores) -> str:
    """The best compared with each other single system."""
    found: dict[str, list[str]] = {}
    for c in board.comparisons:
        rival = board.system(c.system)
        if (
            c.other == board.best
            and rival.single
            and rival.role not in ("floor", "base", "specialists")
            and c.difference is not None
        ):
            found.setdefault(c.verdict, []).append(c.system)
    # A comparison says how the rival does against the best; the sentence says the reverse.
    phrases = [
        text.format(listed(found[said]))
        for said, text in (
            ("worse", "it is better than {}"),
            ("better", "it is worse than {}"),
            ("no difference found", "no difference from {} was found"),
        )
        if said in found
    ]
    return f"In mean retention {'; '.join(phrases)}." if phrases else ""


def _other_sentences(board: Scores) -> list[str]:
    """Baselines and ensembles beside the best, task by task: what somebody would otherwise take, or asked for."""
    found: list[str] = []
    for c in board.comparisons:
        other = board.system(c.system)
        if c.other != board.best or other.role not in ("baseline", "trees", "ensemble"):
            continue
        tasks = {said: [task for task, verdict in c.tasks.items() if verdict == said] for said in MARKS}
        verb, who = ("score", "they ") if other.role == "trees" else ("scores", "it ")
        phrases = [
            f"{text} on {listed(tasks[said])}"
            for said, text in (("better", f"{verb} higher than the best"), ("worse", f"{verb} lower"))
            if tasks[said]
        ]
        if phrases:
            phrases[0] = who + phrases[0]
        if tasks["no difference found"]:
            phrases.append(f"no difference was found on {listed(tasks['no difference found'])}")
        found.append(f"{other.title[:1].upper()}{other.title[1:]}: {'; '.join(phrases)}.")
    return found + _groups_sentences(board)


def _groups_sentences(board: Scores) -> list[str]:
    """Whether a joint model for each group of tasks does better than one for all."""
    found = []
    for c in board.comparisons:
        grouped, joint = board.system(c.system), board.system(c.other)
        if grouped.role == "groups" and joint.role == "joint":
            found.append(f"{grouped.title[:1].upper()}{grouped.title[1:]}. Against {joint.name}: {c.mean_words}.")
    return found


def method(board: Scores) -> str:
    """How scores and intervals were measured, in words."""
    if board.repeats is not None:
        return _method_of_runs(board, board.repeats)
    return (
        f"Scores are those on the {board.split} rows, {board.rows} in all, which no choice has used. Brackets are 95% "
        f"percentile intervals of a bootstrap over the rows of each task ({board.resamples} resamples, seed "
        f"{board.seed}), paired: all systems are scored on the same resamples. A difference is called better or "
        "worse where the 95% interval of the paired difference lies on one side of 0; otherwise no difference "
        "was found. Intervals cover the choice of rows, not the choice of training seed."
    )


def _method_of_runs(board: Scores, repeats: Repeats) -> str:
    """The same of a mean over several runs."""
    count, of = len(repeats.names), repeats.of
    return (
        f"Everything was done {count} times, once for each {of}. Scores are means over them, on the {board.split} "
        f"rows, {board.rows} in all, which no choice has used; retention is that of the mean scores. Brackets "
        f"are 95% intervals of a hierarchical bootstrap ({board.resamples} resamples, seed {board.seed}): each "
        f"resample draws {of}s with replacement, and then rows of each task, the same for all systems. What the drawn "
        f"{of}s differ from the mean of all is multiplied by {widening(count):.2f}, since {count} draws from {count} "
        f"vary too little; intervals are then as wide as those of Student's t. A difference is called better or worse "
        "where the 95% interval of the paired difference lies on one side of 0; otherwise no difference was found. "
        f"Intervals cover the choice of rows and that of the {of}. Costs are those of one run, as a mean."
    )


def legend(board: Scores) -> str:
    """What the numbers and marks of the tables mean."""
    parts = ["Scores x 100; where lower is better, scores are in the metric's own units."]
    if board.repeats is not None:
        parts.append(f"Means over {plural(len(board.repeats.names), board.repeats.of)}.")
    if board.reference:
        parts.append(f"Retention: score / score of {board.reference}, in percent (inverted where lower is better).")
        parts.append(f"- worse, + better than {board.reference} on the same rows.")
    if board.best:
        parts.append("* best, chosen on validation rows.")
    return " ".join(parts)
