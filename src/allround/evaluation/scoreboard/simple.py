"""Whether the simple way would have done: what a scoreboard says of the base with fitted heads, and of baselines."""

from __future__ import annotations

from allround.core.words import duration, listed, percent, plural, shown
from allround.evaluation.scoreboard.scores import Comparison, ScoredSystem, Scores
from allround.tasks.metric import better

#: Roles of the systems that take no tuning of a network.
SIMPLE = ("base", "baseline", "trees")
#: The role and the name of what consists of the better of specialist and base on each task.
REFERENCE = "reference"
#: Most tasks that are listed with their scores.
MOST = 4


def simple_ways(board: Scores) -> str:
    """How the base with fitted heads and the baselines do beside the best; nothing where there are none.

    Times are those of their training.
    """
    phrases = []
    for system in board.systems:
        found = board.comparison(system.name, board.best or "")
        if system.role in SIMPLE and found is not None and found.difference is not None:
            phrases.append(f"{_subject(system)}: {_verdict(found)}")
    if not phrases:
        return ""
    return f"Would a simple way do as well, in mean retention? {'. '.join(phrases)}."


def _subject(system: ScoredSystem) -> str:
    title = system.title or system.name
    fitted = title == "heads on the frozen base"
    words = "The base with fitted heads" if fitted else f"{title[:1].upper()}{title[1:]}"
    took = system.cost.training_seconds
    return f"{words} ({duration(took)})" if took else words


def _verdict(found: Comparison) -> str:
    if found.verdict == "no difference found":
        return "as good, no difference found"
    assert found.difference is not None
    return f"{found.verdict} by {percent(abs(found.difference))} points"


def weak_specialists(board: Scores) -> list[str]:
    """The tasks on which the specialist scores below a simple system, and whether retention is too high there."""
    specialists = next((system.name for system in board.systems if system.role == "specialists"), None)
    simple = [system.name for system in board.systems if system.role in SIMPLE]
    if specialists is None or not simple or board.reference is None:
        return []
    sure: list[str] = []
    unsure: list[str] = []
    shares: dict[str, str] = {}
    inflated: list[str] = []
    for task, definition in board.trained.items():
        sign = 1 if better(definition.metric) == "higher" else -1
        mine = sign * board.cells[specialists][task].score
        rival = max(simple, key=lambda name: sign * board.cells[name][task].score)
        theirs = sign * board.cells[rival][task].score
        found = board.comparison(rival, specialists)
        if theirs <= mine or found is None:
            continue
        scores = [shown(sign * value, better(definition.metric)) for value in (mine, theirs)]
        shares[task] = f"{task} ({scores[0]}, {rival} {scores[1]})"
        if found.tasks[task] == "better":
            sure.append(task)
            if sign * board.cells[board.reference][task].score < theirs:
                inflated.append(task)
        else:
            unsure.append(task)
    said = []
    if sure:
        there = f" That inflates retention on {listed(inflated)}." if inflated else ""
        said.append(f"The specialist is worse than a simple system on {_listed(sure, shares)}.{there}")
    if unsure:
        said.append(f"It is no better than one on {_listed(unsure, shares)}: no difference was found."
                    if sure
                    else f"The specialist scores below a simple system on {_listed(unsure, shares)}; no difference was "
                    "found.")  # fmt: skip
    return said


def _listed(tasks: list[str], shares: dict[str, str]) -> str:
    if len(tasks) > MOST:
        return f"{plural(len(tasks), 'task')} ({', '.join(tasks)})"
    return listed([shares[task] for task in tasks])
