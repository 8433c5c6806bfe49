"""A comparison of trainings in plain sentences: the verdict, how it was measured, and what its signs mean."""

from __future__ import annotations

from allround.core.words import listed, percent, plural
from allround.evaluation.intervals import task_level
from allround.evaluation.training.results import EQUAL, SPECIALISTS, TrainingResults


def words(results: TrainingResults) -> list[str]:
    """The verdict in a few plain sentences."""
    lines = [*_beside_equal(results), _best_words(results), _specialist_words(results), _unmoved_words(results)]
    lines.append(_choice_words(results))
    edges = [one.name for one in results.methods if one.at_edge and one.name != "tuned"]
    if edges:
        lines.append(
            f"The best learning rate was the smallest or the largest that was tried for {listed(edges)}: more "
            "--trials may find a better one."
        )
    if len(results.seeds) == 1:
        lines.append("There is one seed only: the intervals cover the choice of test rows, not that of the seed.")
    return [line for line in lines if line]


def _beside_equal(results: TrainingResults) -> list[str]:
    """Each method compared with equal weights: those without a difference in one sentence, the others one by one."""
    others = [one for one in results.tested if one.name != EQUAL]
    twins = [one.name for one in others if results.is_equal(one)]
    lines, alike = [], []
    for one in others:
        beside = one.test.equal
        worse, better = beside.where("worse"), beside.where("better")
        if one.name in twins:
            continue
        if beside.verdict == "no difference found" and not worse and not better:
            alike.append(one.name)
            continue
        parts = []
        if beside.mean is not None:
            found = f"({beside.mean.points} points of mean retention)"
            said = "no difference found" if beside.verdict == "no difference found" else beside.verdict
            parts.append(f"{said} on the mean {found}")
        total = len(beside.tasks)
        parts += [f"{word} on {len(names)} of {plural(total, 'task')} ({', '.join(names)})"
                  for word, names in (("worse", worse), ("better", better)) if names]  # fmt: skip
        lines.append(f"{one.name} vs {EQUAL}: {'; '.join(parts)}.")
    if alike:
        lines.insert(0, f"No difference found between {EQUAL} and {' or '.join(listed(alike).rsplit(' and ', 1))}, "
                     f"on the mean of {plural(len(results.definitions), 'task')} or on any of them.")  # fmt: skip
    if twins:
        lines.append(
            f"Of the weights tried for tuned, equal ones were best on validation, so tuned is the same model as "
            f"{EQUAL}."
        )
    return lines


def _best_words(results: TrainingResults) -> str:
    best = results.best
    if len(results.methods) == 1:
        return ""
    alike = [one.name for one in results.methods if one.validation_mean == best.validation_mean]
    alike = [name for name in alike if name != best.name and not results.is_equal(results.method(name))]
    tie = f" (the same as {listed(alike)})" if alike else ""
    test = f"; on test it keeps {best.test.mean.share}%" if best.test.mean else ""
    return (
        f"Best on validation, of {len(results.methods)} methods: {best.name}{tie}, mean retention "
        f"{percent(best.validation_mean)}% (mean of {plural(len(results.seeds), 'seed')}){test}."
    )


def _specialist_words(results: TrainingResults) -> str:
    """Whether joint training loses against a model for each task."""
    groups: dict[str, list[str]] = {}
    for one in results.tested:
        if one.test.mean is not None and not results.is_equal(one):
            said = one.test.specialists.verdict
            found = f" ({one.test.mean.share}%)" if said != "no difference found" else ""
            groups.setdefault(said, []).append(one.name + found)
    if not groups:
        return f"Mean retention is undefined: no score of the {SPECIALISTS} is above zero."
    parts = []
    for said, text in (("worse", "mean retention is lower with"), ("better", "mean retention is higher with"),
                       ("no difference found", "no difference in mean retention was found with")):  # fmt: skip
        if said in groups:
            parts.append(f"{text} {listed(groups[said])}")
    return f"Compared with the {SPECIALISTS} (100%), {'; '.join(parts)}."


def _unmoved_words(results: TrainingResults) -> str:
    """Trainings that gave nothing: where they are the rule, methods are alike because none did anything."""
    runs = len(results.seeds)
    found: dict[int, list[str]] = {}
    for one in results.methods:
        if one.cost.unmoved and not results.is_equal(one):
            found.setdefault(one.cost.unmoved, []).append(one.name)
    parts = [f"{listed(names)} ({times} of {plural(runs, 'seed')})" for times, names in found.items()]
    if results.reference.cost.unmoved:
        total = runs * len(results.definitions)
        parts.append(f"the {SPECIALISTS} ({results.reference.cost.unmoved} of {plural(total, 'training')})")
    if not parts:
        return ""
    return (
        f"Training found no state that was better on validation than the start with {listed(parts)}; there the base "
        "with its heads is scored."
    )


def _choice_words(results: TrainingResults) -> str:
    tried = sum(one.cost.choices for one in results.methods)
    parts = [f"{tried} of joint training", f"{results.reference.cost.choices} of the {SPECIALISTS}"]
    parts += [f"{one.cost.choices} of {one.title}" for one in results.baselines]
    return f"{plural(results.choices, 'setting')} were compared on validation rows: {', '.join(parts)}."


def how(results: TrainingResults) -> str:
    """How it was measured, in words."""
    rows = sum(results.rows.values())
    several = len(results.seeds) > 1
    seeds = (
        f"Brackets are 95% intervals of means over {len(results.seeds)} seeds "
        f"({', '.join(str(seed) for seed in results.seeds)}). They cover two sources of noise: the seeds (Student's "
        f"distribution, {plural(len(results.seeds) - 1, 'degree')} of freedom) and the test rows (bootstrap, "
        f"{results.resamples} resamples, the same rows for all systems and seeds); the two half widths are combined as "
        "the root of the sum of their squares."
        if several
        else f"Brackets are 95% intervals over the test rows alone (bootstrap, {results.resamples} resamples, the "
        f"same rows for all systems): there is one seed ({results.seeds[0]})."
    )
    return (
        f"All trainings start from the same base with the same heads; seeds change the order of the rows and what "
        f"training draws at random. Learning rates and weights were chosen on validation rows with seed "
        f"{results.seeds[0]}, with the same number of learning rates for every method and for each specialist. "
        f"Specialists see the rows of their task as often as a joint training does, unless a note says otherwise. "
        f"Retention is the score divided by that of the {SPECIALISTS} of the same seed, on {rows:,} test rows, "
        f"which were used for no choice. {seeds} Verdicts on the mean are at 95% and not corrected for multiple "
        f"comparisons: of twenty methods that do not differ, about one is expected to appear different. Verdicts on "
        f"single tasks hold for all {len(results.definitions)} tasks of a method together (Bonferroni: each at "
        f"{100 * task_level(len(results.definitions)):.4g}%)."
    )


def memory_words(results: TrainingResults) -> str:
    """What the figures of memory are of."""
    if all(one.cost.peak_memory is None for one in results.methods):
        return "Peak memory was not measured on this machine."
    return (
        "Peak memory is the most that the training process held while it trained, libraries included (on a GPU: "
        "the tensors on it); of several seeds, the largest."
    )


def legend(results: TrainingResults) -> str:
    """What the numbers and marks mean."""
    parts = [
        f"Means over {plural(len(results.seeds), 'seed')}, on {sum(results.rows.values()):,} test rows; brackets are "
        f"95% intervals. Retention: score / score of the {SPECIALISTS}, in percent. 'vs {EQUAL}': the difference in "
        "mean retention, in points. Validation: mean retention on the validation rows. Choices: settings compared "
        "there. Training: one training; for the specialists, all of them."
    ]
    if any(one.cost.further is not None for one in results.methods):
        parts.append(
            "Further task: what one more task would store, its head and modules of its own beside the encoder as it "
            f"is; of the {SPECIALISTS}, a model of its own."
        )
    parts += [f"{one.name}: {one.title}." for one in results.baselines]
    if len(results.methods) > 1:
        parts.append("* best on validation.")
    return " ".join(parts)


def task_legend(results: TrainingResults) -> str:
    """What stands in the table of tasks."""
    return (
        f"Scores of the {SPECIALISTS} x 100 (where lower is better, in the metric's own units), retention of the "
        f"methods in percent, means over {plural(len(results.seeds), 'seed')}. - worse, + better than {EQUAL}: "
        f"the difference of scores lies on one side of 0, at a level that holds for all tasks together."
    )
