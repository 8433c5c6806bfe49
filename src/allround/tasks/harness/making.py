"""Tasks of the lm-evaluation-harness as tasks of a suite."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from allround.core.errors import AllroundError, suggestion
from allround.core.files import check_name
from allround.tasks.definition import Definition
from allround.tasks.harness.configuration import Source, build, fingerprint, is_file, plain_source, scorer
from allround.tasks.harness.finding import names_of
from allround.tasks.harness.library import harness
from allround.tasks.harness.requests import INPUT, SORTS, WRITING, Chat, asked_of
from allround.tasks.harness.scoring import spelled
from allround.tasks.harness.teaching import right_answer, taught_documents
from allround.tasks.roles import GUARD, HELD_OUT, ROLES, TRAIN
from allround.tasks.task import Split, Task, check_limit
from allround.tasks.values import Row

#: How a task of the harness is named on the command line.
PREFIX = "lm-eval:"


def harness_tasks(source: Source, **options: Any) -> list[Task]:
    """The task, or the tasks of a group or a tag, of the lm-evaluation-harness. options: as for `harness_task`.

    source: a name, with or without `lm-eval:`; the path of a YAML file; or a dictionary.
    """
    if isinstance(source, str):
        source = source.removeprefix(PREFIX)
    if isinstance(source, Mapping) or is_file(source):
        return [harness_task(None, source, **options)]
    return [harness_task(None, name, **options) for name in names_of(str(source))]


def harness_task(
    name: str | None,
    source: Source,
    *,
    metric: str | None = None,
    role: str = HELD_OUT,
    category: str = "",
    limit: int | Mapping[str, int] | None = None,
    shots: int | None = None,
    chat: str = "no",
    system: str = "",
    base_dir: Path | str = ".",
) -> Task:
    """A task of the lm-evaluation-harness: its documents, prompts, filters and metrics.

    name: what it is called here; by default as there. source: its name in the installed package, the path of a YAML
    file, or a dictionary of its configuration. metric: one of its metrics, by default the first; `METRIC,FILTER` where
    it has several filters. limit: the most rows, of test or by split. shots: worked examples before each document, by
    default as the task says. role: with `train` its training documents become training rows; other tasks have some
    where `limit` says how many of train. Without validation documents beside the test ones, a part of the training
    documents is set aside. chat: "yes" puts it as a chat, by the base's template. system: the first message.
    base_dir: where relative paths begin.
    Errors: no such task, data that cannot be had, or a task that shows images, samples its answers or runs code.
    """
    if role not in ROLES:
        raise AllroundError(f"make the task '{name or source}' of the lm-evaluation-harness", f"`role` is {role!r}",
                            suggestion(role, ROLES))  # fmt: skip
    limits = check_limit({"test": limit} if isinstance(limit, int) else limit)
    plain = plain_source(source, Path(base_dir).resolve())
    more = {} if shots is None else {"num_fewshot": _shots(shots)}
    made = build(plain, more)
    name = check_name(_name(name or str(made.config.task)), "task")
    asked = f"make the task '{name}' of the lm-evaluation-harness"
    if chat not in ("yes", "no"):
        raise AllroundError(asked, f"`chat` is {chat!r}", "give yes or no")
    chats = chat == "yes"
    splits = {"train": Split([], []), "validation": Split([], []), "test": _split(made, asked, chats, system)}
    taught = role == TRAIN or "train" in limits
    if made.has_test_docs() and made.has_validation_docs() and "class" not in made.config.__dict__:
        other = build(plain, {**more, "test_split": None})
        splits["validation"] = _split(other, asked, chats, system, taught=taught)
    notes: tuple[str, ...] = ()
    if taught and (documents := taught_documents(plain, more, limits, not len(splits["validation"]))) is not None:
        splits["train"] = _split(documents.task, asked, chats, system, documents.train, taught=True)
        if documents.validation and len(splits["train"]):
            splits["validation"] = _split(documents.task, asked, chats, system, documents.validation, taught=True)
            notes = (f"{len(splits['validation'])} of the training documents are set aside for validation: the task "
                     "has no validation documents beside those of its test",)  # fmt: skip
    if role == TRAIN and not (len(splits["train"]) and len(splits["validation"])):
        raise AllroundError(
            asked,
            "its role is train, and it has no training documents whose right answer is known",
            "leave `role` out, so that it is held out, or give it a `training_split`",
        )
    if role == GUARD and not len(splits["validation"]):
        raise AllroundError(
            asked,
            "its role is guard, and it has no validation rows beside its test rows, by which a guard judges",
            "give it `role: held_out`",
        )
    first = json.loads(splits["test"].targets[0][0])["document"]
    about = json.dumps({"task": plain, "first": first, "hash": fingerprint(plain)}, sort_keys=True)
    scorer(json.dumps(plain, sort_keys=True), json.dumps(first))  # an error now rather than after all answers
    definition = Definition(
        name, "lm_eval", (INPUT,), "text", _metric(made, metric, asked), role=role, category=category, harness=about
    )
    task = Task(definition, splits, notes)
    return task.limit(limits) if limits else task


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")


def _shots(shots: int) -> int:
    if isinstance(shots, bool) or not isinstance(shots, int) or shots < 0:
        raise AllroundError("use a task of the lm-evaluation-harness", f"`shots` is {shots!r}",
                            "give a whole number of at least 0")  # fmt: skip
    return shots


def _split(
    made: Any, asked: str, chat: bool, system: str, documents: Sequence[int] | None = None, *, taught: bool = False
) -> Split:
    """The rows of the documents that the harness evaluates on. documents: the numbers of those that are taken; None for
    all. taught: with the right answers, and without rows whose answer is not known."""
    if documents is not None and not documents:
        return Split([], [])
    chats: dict[str, Chat] = {}

    def template(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        one = Chat(tuple((said["role"], said["content"]) for said in messages), add_generation_prompt)
        return _stands_for(one, chats)

    with harness(asked):
        try:
            made.build_all_requests(
                samples=None if documents is None else list(documents),
                rank=0,
                world_size=1,
                system_instruction=system or None,
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
                chat_template=template if chat else None,
            )
        except Exception as error:  # whatever templates and functions of a task raise
            raise AllroundError(asked, f"its requests cannot be made: {type(error).__name__}: {str(error)[:300]}",
                                "correct the task") from error  # fmt: skip
    by_document: dict[int, list[Any]] = {}
    for instance in made.instances:
        by_document.setdefault(instance.doc_id, []).append(instance)
    rows: list[Row] = []
    targets: list[tuple[str]] = []
    for instances in by_document.values():
        instances.sort(key=lambda one: one.idx)
        sorts = {one.request_type for one in instances}
        if len(sorts) > 1 or not sorts <= set(SORTS):
            raise AllroundError(asked, f"it asks in several ways about one document: {', '.join(sorted(sorts))}",
                                "use the harness itself for it")  # fmt: skip
        (sort,) = sorts
        for one in instances:
            if sort == WRITING:
                _check_greedy(one.args[1], asked)
        about = asked_of(sort, [one.args for one in instances], chats)
        target = {"document": instances[0].doc, "sizes": about.sizes, "sort": sort}
        if taught:
            right = right_answer(made, instances[0].doc, about)
            if right is None:
                continue
            target["right"] = right
        try:
            targets.append((json.dumps(target, ensure_ascii=False, allow_nan=True),))
        except TypeError as error:
            raise AllroundError(asked, f"a document holds more than texts, numbers and lists: {error}",
                                "use the harness itself for it") from error  # fmt: skip
        rows.append((about.to_text(),))
    return Split(rows, targets)


def _stands_for(one: Chat, known: dict[str, Chat]) -> str:
    """A text that stands for a chat until the model is there that renders it."""
    text = json.dumps([one.messages, one.opened], ensure_ascii=False)
    known[text] = one
    return text


def _check_greedy(how: Mapping[str, Any], asked: str) -> None:
    """Errors: answers that are drawn, so that a row has another each time."""
    if how.get("do_sample") or float(how.get("temperature") or 0.0) > 0:
        raise AllroundError(
            asked,
            f"it draws its answers (temperature {how.get('temperature', 1.0)}), so that a row has another each time",
            "set `do_sample: false` in its generation_kwargs",
        )


def _metric(made: Any, asked_for: str | None, asked: str) -> str:
    """The metric as ours is spelled."""
    known = list(made.aggregation())
    filters = [one.name for one in getattr(made, "_filters", [])]
    name, _, named = (asked_for or known[0]).partition(",")
    if name not in known:
        raise AllroundError(asked, f"it has no metric '{name}'", suggestion(name, known))
    if named and named not in filters:
        raise AllroundError(asked, f"it has no filter '{named}'", suggestion(named, filters))
    filter = named or filters[0] if len(filters) > 1 else None
    return spelled(name, filter, made.higher_is_better().get(name, True))
