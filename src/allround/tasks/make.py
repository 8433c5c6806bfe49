"""From rows to a task: the question is checked, columns are read, splits are made, targets are encoded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allround.core.errors import AllroundError, suggestion
from allround.core.files import check_name
from allround.core.problems import Problems
from allround.tasks.choices import read_choices
from allround.tasks.columns import Column, read_data
from allround.tasks.definition import Definition
from allround.tasks.draws import rule_of, split_keys
from allround.tasks.inputs import check_words, choose_modality, read_inputs
from allround.tasks.instructions import instructions_of
from allround.tasks.kind import kind as find_kind
from allround.tasks.metric import check as check_scorable
from allround.tasks.modality import modality as find_modality
from allround.tasks.modality import modality_of
from allround.tasks.passages import PASSAGES, Passages
from allround.tasks.prompt import letters
from allround.tasks.prompt_words import PromptWords, check_head, make_prompt, options_of
from allround.tasks.question import Question, check_kind, check_metric
from allround.tasks.relevance import check_relevance, with_passages, with_rest
from allround.tasks.roles import ROLES, TRAIN
from allround.tasks.searched import check_contrast, given_passages
from allround.tasks.splits import Part, finish_splits
from allround.tasks.targets import TargetReader, check_order, check_targets, names_of
from allround.tasks.task import SPLITS, Task, check_limit
from allround.tasks.values import Target

if TYPE_CHECKING:
    from typing_extensions import Unpack


def make_task(
    name: str,
    *,
    kind: str,
    inputs: str | Sequence[str],
    target: str | Sequence[str],
    data: Mapping[str, object],
    metric: str | None = None,
    modality: str | None = None,
    labels: Mapping[str | int | float | bool, str] | Sequence[str | int | float | bool] | None = None,
    instruction: str | Sequence[str] | None = None,
    limit: int | Mapping[str, int] | None = None,
    missing: str = "error",
    table: str | None = None,
    slices: str | Sequence[str] = (),
    types: Mapping[str, str] | None = None,
    stray: str = "error",
    split: Mapping[str, object] | None = None,
    head: str | None = None,
    role: str = TRAIN,
    category: str = "",
    passages: Passages | Mapping[str, str] | Sequence[str] | str | Path | None = None,
    negatives: str = "",
    contrast: str | Mapping[str, object] | None = None,
    **words: Unpack[PromptWords],
) -> Task:
    """Make a task from rows, and check them.

    data: split ("train", "validation", "test") -> rows: a list of dictionaries, a dictionary of columns, a
    pandas DataFrame or a `datasets.Dataset`. Splits that are not given are made from the others by a seeded
    draw, and a note of the task says so.
    inputs: one column, two text columns (a pair), or the columns of a table. Images are PIL images or uint8
    arrays (h, w) or (h, w, 3); words (token classification) are lists of strings.
    target: one column; for multilabel also a list of 0/1 columns, whose names become the labels.
    labels: raw value -> label name; of the kind ordinal in the order of the scale, where a list will do.
    instruction: words before each text; several say the same in different words: in training each row has one of them,
    drawn anew in each epoch, and everywhere else the first is used.
    limit: the most rows of each split (a number: of train).
    missing: what a row without a target is: an "error", or left out ("drop") after the splits are made, with a note.
    A target that is missing in part (one of several columns, one tag of a row) is missing. The same holds for a row
    without an input, except in a table, whose cells may be missing; with "drop", blank texts count as missing too.
    table: a name for these rows, the same for all tasks that label them. The splits of such tasks are drawn alike,
    whatever targets are missing, and their rows are numbered: first those of train, then validation, then test.
    slices: further columns that go with the rows as text, such as a language, by which results are broken down; models
    never see them.
    types: input column of a table -> "number", "category" or "date" ("date %d/%m/%Y" for a format of `strptime`), where
    it is not what `allround tasks check` says it was understood as. stray: what a cell of another type than its column
    is: an "error", or "missing", with a note.
    split: how splits that are not given are drawn: `by` a column whose values each stay in one split, or the latest
    rows of a column `time` for test, or with the shares of a column `stratify`; and the sizes `validation` and `test`.
    head: the sort of head that answers the task (linear, choices, generate, ...); by default the base chooses.
    role: train; held_out for a task that every system is scored on and nothing is trained or chosen by; guard for one
    whose validation score may also rule a system out. category: groups tasks in reports.
    passages: of the kind retrieval, where all rows have the same: a file with `_id` and `text` (and `title`), or texts
    by id. Otherwise `inputs` names two columns: queries, and lists of passages. negatives: a column of ids of passages
    that are known not to be relevant. contrast: how the head `ranking` learns, see `Contrast`; a text is its loss.
    words: how the task is put to a language model, see `PromptWords`.

    Raises `AllroundError` that names the column, the split, how many rows, and an example.

    >>> rows = [{"text": f"{word} {i}", "label": word} for i in range(10) for word in ("good", "bad")]
    >>> task = make_task("mood", kind="classification", inputs="text", target="label", data={"train": rows})
    >>> task.definition.labels, {name: len(split) for name, split in task.splits.items()}
    (('bad', 'good'), {'train': 16, 'validation': 2, 'test': 2})
    >>> task.notes
    ('only train was given: a seeded draw of the 20 train rows makes validation (2) and test (2)',)
    """
    check_name(name, "task")
    if role not in ROLES:
        raise AllroundError(f"make the task '{name}'", f"`role` is {role!r}", suggestion(str(role), ROLES))
    rules = find_kind(check_kind(kind))
    if metric is not None:
        check_metric(metric, kind)
    many = not isinstance(target, str)
    input_names = (inputs,) if isinstance(inputs, str) else tuple(inputs)
    target_names = (target,) if isinstance(target, str) else tuple(target)
    slice_names = (slices,) if isinstance(slices, str) else tuple(slices)
    first, others = instructions_of(name, instruction)
    rule = rule_of(split) if split else None
    if isinstance(rule, str):
        raise AllroundError(f"make the task '{name}'", f"`split`: {rule.partition('; ')[0]}", rule.partition("; ")[2])
    question = Question(
        name, kind, rules, input_names, target_names, many, missing, table, slice_names, types or {}, stray, rule,
        *options_of(words), shared=passages is not None, negatives=negatives,
    )  # fmt: skip
    labels = names_of(question, labels)
    question.check(modality, labels)

    notes: list[str] = []
    read = read_data(question, data, notes)
    if passages is not None:
        read = with_passages(question, read, given_passages(question, passages))
        input_names = (*input_names, PASSAGES)
        question = replace(question, inputs=input_names)
    modality = choose_modality(question, modality, read.columns["train"])
    if missing == "drop" and not find_modality(modality).gaps:
        read = read.without_gaps(question, notes)
    reader, problems = TargetReader(question, labels), Problems()
    targets: dict[str, list[Target | None]] = {}
    for given, columns in read.columns.items():
        with problems.gathered():
            targets[given] = reader.read(given, columns)
    definition = Definition(
        name=name,
        kind=kind,
        inputs=input_names,
        modality=modality,
        metric=metric or rules.metric,
        instruction=first,
        rewordings=others,
        role=role,
        category=category,
    )
    with problems.gathered():
        read_in = read_inputs(question, modality_of(definition), read.columns, notes)
    problems.check(f"make the task '{name}'")
    choices: tuple[str, ...] = ()
    if rules.own_choices:
        targets, most = read_choices(question, read_in.rows, targets, read.columns, notes)
        choices = letters(most)
    if rules.ranked:
        check_relevance(question, read_in.rows, targets, read.columns)
        targets = targets if question.shared else with_rest(question, read_in.rows, targets)
    question, keys = _with_keys(question, read.columns)
    beside = {split: _slices(question, columns) for split, columns in read.columns.items()}
    parts = {s: Part(rows, targets[s], read.numbers[s], beside[s], keys.get(s, ())) for s, rows in read_in.rows.items()}
    wordless = check_words(question, parts, notes) if rules.per_token else frozenset()
    check_targets(question, {split: part.targets for split, part in parts.items()})
    parts = finish_splits(question, parts, wordless, notes)

    if rules.ordered and labels:
        facts: dict[str, Any] = {"labels": tuple(dict.fromkeys(labels.values()))}
    else:
        check_order(question, parts["train"].targets)
        facts = rules.facts(parts["train"].targets)
    if rules.numeric and not all(math.isfinite(facts[key]) for key in ("center", "scale")):
        raise question.fail("the targets are too large to standardise", "give them in a larger unit")
    if many:
        facts = {"labels": target_names}  # in the order that they were given in
    if rules.own_choices:
        facts = {"labels": choices}  # of as many as a row of any split has
    prompt = make_prompt(question, words, facts.get("labels", ()), reader.named or {}, parts["train"])
    more = {"columns": read_in.facts(parts["train"].inputs), "prompt": prompt, "head": check_head(question, head),
            "contrast": check_contrast(question, contrast)}  # fmt: skip
    definition = definition.with_facts({**facts, **more})
    check_scorable(definition)
    splits = {s: parts[s].split(rules.encode(parts[s].targets, definition), table is not None) for s in SPLITS}
    task = Task(definition, splits, tuple(notes), table, question.rule)
    return task.limit(check_limit(limit)) if limit else task


def _slices(question: Question, columns: Mapping[str, Column]) -> dict[str, list[str | None]]:
    """The columns of slices as text; None where a value is missing."""
    return {
        name: [None if columns[name].is_gone(i) else label for i, label in enumerate(columns[name].labels())]
        for name in question.slices
    }


def _with_keys(
    question: Question, columns: Mapping[str, Mapping[str, Column]]
) -> tuple[Question, dict[str, list[str | float | None]]]:
    """The question with its rule of splits as it is meant, and what the rule goes by in each row of each split."""
    if question.rule is None or question.rule.column is None:
        return question, {}
    found = {split: part[question.rule.column] for split, part in columns.items()}
    try:
        rule, keys = split_keys(question.rule, [value for column in found.values() for value in column.values])
    except ValueError as error:
        words = f"the column '{question.rule.column}', which decides the splits, cannot be read as times: {error}"
        raise question.fail(words, "name a column of numbers, or of dates such as 2024-02-29") from None
    start, by_split = 0, {}
    for split, column in found.items():
        by_split[split] = keys[start : start + len(column.values)]
        start += len(column.values)
    return replace(question, rule=rule), by_split
