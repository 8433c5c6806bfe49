"""What relations between tasks come to, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from allround.core.words import listed, percent, plural
from allround.evaluation.intervals import LEVEL
from allround.tasks.metric import better
from allround.transfer.findings import Effect, Findings, Judged

#: What is measured, by the name of the measure: what a gain is of.
GAINS = {
    "pairs": "tuning on one task before another",
    "joint": "training two tasks together",
    "leave-one-out": "having one more task in a joint training of all",
    "subsets": "having one more task in a joint training of some",
}


def words(found: Findings) -> list[str]:
    """The advice: what helped, which tasks are alike, which estimates to trust."""
    lines = [*(_measured(found) if found.measured is not None else _estimated(found)), *_groups(found)]
    return lines + _trust(found)


def gain_text(found: Findings, effect: Effect) -> str:
    """A gain in points of a task's metric, or in its own unit where lower is better."""
    if better(found.metrics[effect.target]) == "higher":
        return percent(effect.gain, signed=True).replace("-", "−")
    return f"{effect.gain:+.3g}".replace("-", "−")


def marked(found: Findings, effect: Effect) -> str:
    """A gain, with a mark where it differs from 0."""
    return gain_text(found, effect) + ("" if effect.verdict == "none" else "*")


def legend(found: Findings) -> str:
    """What the numbers of measured gains are."""
    what = GAINS.get(found.measure or "", "training on another task too")
    return (
        f"What a target (column) gains by {what} (row), in points of its metric on validation rows; where lower is "
        f"better, in the metric's own unit. * marks gains that differ from 0 at a level of {LEVEL:.0%} that holds "
        f"for all {len(found.effects)} pairs together. One seed: another seed would give other numbers."
    )


def estimators_legend(found: Findings) -> str:
    """What the columns of the table of estimates are."""
    return (
        "Each estimate ranks the sources of each target; the scores compare its order with the measured one, a target "
        "at a time, and are means over targets. NDCG: 1 is the measured order. regret@1: what is lost, in points, by "
        "taking the first source and not the best; regret@3: by the mean of the first 3 against that of the best 3. "
        "Best found: targets whose first source is the best one measured, and the 95% interval of their share. 'vs "
        "random': the difference of NDCG, by a bootstrap over targets, at a level that holds for all estimates "
        "together. Blends that learn from measured transfer saw that to the other targets only."
    )


def _measured(found: Findings) -> list[str]:
    what = GAINS.get(found.measure or "", "training on another task too")
    sure = {side: [one for one in found.effects if one.verdict == side] for side in ("better", "worse", "none")}
    count = len(found.effects)
    if not count:
        return ["The time was too short to measure any pair of tasks."]
    lines = [
        f"Of {plural(count, 'measured pair')} of tasks, {what} helped in {len(sure['better'])} and hurt in "
        f"{len(sure['worse'])}; in {len(sure['none'])} no difference was found."
    ]
    for said, effects in (("Helped most", sure["better"][:5]), ("Hurt most", sure["worse"][::-1][:5])):
        if effects:
            parts = [f"{one.target} by {one.source} ({gain_text(found, one)})" for one in effects]
            lines.append(f"{said}: {listed(parts)}.")
    return lines


def _estimated(found: Findings) -> list[str]:
    firsts = [f"{task}: {', '.join(found.best(task, 3))}" for task in found.tasks]
    return [
        f"Nothing was trained: {plural(len(found.estimates), 'estimate')} say which pairs of tasks to try first, not "
        "what is gained. --measure pairs finds out, and says how good each estimate was.",
        f"To tune on first, by all estimates together: {'; '.join(firsts)}.",
    ]


def _groups(found: Findings) -> list[str]:
    several = [group for group in found.clusters if len(group) > 1]
    alone = [group[0] for group in found.clusters if len(group) == 1]
    if len(found.clusters) < 2 or not several:
        return []
    parts = [f"{listed(group)}" for group in several]
    rest = f"; {listed(alone)} {'stands' if len(alone) == 1 else 'stand'} alone" if alone else ""
    lines = [f"Closest to each other: {'; '.join(parts)}{rest}."]
    if found.effects and not any(one.verdict == "better" for one in found.effects):
        lines.append("These are groups of small differences: no task was found to help another one.")
    return lines


def _trust(found: Findings) -> list[str]:
    if found.measured is None or not found.effects:
        return []
    real = [one for one in found.judged if one.score.name not in ("random", "popularity")]
    if not real:
        return ["All sources of a target gain the same, so that no estimate can be judged by them."]
    first = real[0]
    lines = [
        f"Of {plural(len(real), 'estimate')}, {first.score.name} ordered the sources best (NDCG "
        f"{first.score.mean('ndcg'):.2f}); its first source was the best one measured for {first.hits} of "
        f"{plural(first.targets, 'target')}. It was picked out of {len(real)} on these same targets, so it looks "
        "better than it is."
    ]
    sure = _names([one for one in real if one.sure])
    if sure:
        lines.append(f"Better than a random order: {listed(sure)}; for the others no difference from it was found.")
    else:
        lines.append("No estimate was found to be better than a random order: with so few targets, take them as hints.")
    return lines


def _names(some: Sequence[Judged]) -> list[str]:
    return [one.score.name for one in some]
