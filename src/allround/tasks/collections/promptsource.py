"""Promptsource: a file of templates in Jinja, each of which makes a prompt and an answer of a row of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from allround.core.documents import parse_documents
from allround.core.errors import AllroundError, suggestion
from allround.core.reading import read_text
from allround.core.registry import method
from allround.core.words import plural
from allround.tasks.collection import ImportedRow, ImportedTask, task_name
from allround.tasks.collections._jinja import Rendered, render
from allround.tasks.collections._rows import rows_of
from allround.tasks.spec import SourceSpec

#: The metrics of promptsource that are there under another name, for answers that are written.
METRICS = {"ROUGE": "rouge_l", "BLEU": "bleu", "Squad": "token_f1", "Trivia QA": "token_f1", "Accuracy": "exact_match"}
#: Bytes of a file of templates.
MAX_BYTES = 5 << 20


@dataclass(frozen=True)
class _Template:
    """A template: its name, its text, its choices (a text is a template too), and the metrics that it names."""

    name: str
    jinja: str
    choices: str | tuple[str, ...] | None
    metrics: tuple[str, ...]


@method(
    source="PromptSource (Bach et al., ACL 2022, arXiv:2202.01279): the form of its templates.yaml; prompts as those "
    "of T0 (Sanh et al., ICLR 2022, arXiv:2110.08207)",
    paper="Multitask Prompted Training Enables Zero-Shot Task Generalization",
)
def promptsource(
    paths: Sequence[Path], *, data: str = "", templates: tuple[str, ...] = (), together: bool = False
) -> list[ImportedTask]:
    """A task for each template, on the rows of a file or data set.

    paths: one templates.yaml. data: the rows: a path, or a Hub id. templates: the names of those to take; all, if none
    is named. together: make one task of them, with several prompts. With choices that are the same for all rows it is
    a classification; with choices of each row's own, multiple choice; else the kind is text. Rows for which a template
    gives no prompt or no answer are left out.
    """
    if len(paths) != 1:
        raise AllroundError("read templates", f"{len(paths)} files were given", "give one templates.yaml")
    path = paths[0]
    asked = f"read the templates '{path}'"
    if not data:
        raise AllroundError(asked, "there are no rows to apply them to", "give a file or a Hub id: --data")
    name, known = read_templates(path)
    for wanted in templates:
        if wanted not in known:
            raise AllroundError(asked, f"there is no template {wanted!r}", suggestion(wanted, known))
    rows = rows_of(SourceSpec(name=data), Path())
    made = [_apply(path, known[one], rows) for one in (templates or tuple(known))]
    if together:
        return [_joined(task_name(name), made, asked)]
    return [one.task(task_name(f"{name}_{one.template.name}"), f"use the template '{one.template.name}'")
            for one in made]  # fmt: skip


def read_templates(path: Path) -> tuple[str, dict[str, _Template]]:
    """The name of the data set, and its templates by name."""
    asked = f"read the templates '{path}'"
    do = "give a templates.yaml of promptsource"
    text = read_text(path, what="templates", max_bytes=MAX_BYTES)
    documents = parse_documents(text, asked=asked, plain_words=True, tags=("!Template", "!TemplateMetadata"))
    whole = documents[0] if len(documents) == 1 else None
    listed = whole.get("templates") if isinstance(whole, dict) else None
    if not isinstance(whole, dict) or not isinstance(listed, dict) or not listed:
        raise AllroundError(asked, "it has no `templates`", do)
    found: dict[str, _Template] = {}
    for key, one in listed.items():
        if not isinstance(one, dict) or not isinstance(one.get("jinja"), str):
            raise AllroundError(asked, f"the template {key} has no text under `jinja`", do)
        name, choices = str(one.get("name") or key), one.get("answer_choices")
        metadata = one.get("metadata")
        metrics = metadata.get("metrics") if isinstance(metadata, dict) else None
        if name in found:
            raise AllroundError(asked, f"two templates are called {name!r}", "rename one")
        if isinstance(choices, list):
            choices = tuple(str(choice) for choice in choices)
        elif choices is not None:
            choices = str(choices)
        listed_metrics = tuple(map(str, metrics)) if isinstance(metrics, list) else ()
        found[name] = _Template(name, one["jinja"], choices, listed_metrics)
    subset = whole.get("subset")
    return f"{whole.get('dataset') or path.parent.name}{f'_{subset}' if subset else ''}", found


@dataclass(frozen=True)
class _Applied:
    """What a template made of rows: for each split, (number of the row, prompt, answer, choices)."""

    template: _Template
    rows: Mapping[str, list[tuple[int, str, str, tuple[str, ...] | None]]]
    left_out: int

    @property
    def fixed(self) -> tuple[str, ...] | None:
        """The choices, where all rows have the same."""
        found = {choices for rows in self.rows.values() for *_, choices in rows}
        return found.pop() if len(found) == 1 else None

    def task(self, name: str, asked: str, prompts: Sequence[_Applied] = ()) -> ImportedTask:
        """The task that it makes. prompts: all templates that put the question, where there are several."""
        together = prompts or [self]
        columns = ["prompt"] if len(together) == 1 else [f"prompt_{number}" for number in range(1, len(together) + 1)]
        about: dict[str, object] = {"kind": "text", "inputs": columns, "target": "answer"}
        about["prompt" if len(columns) == 1 else "prompts"] = (
            f"{{{columns[0]}}}" if len(columns) == 1 else [f"{{{column}}}" for column in columns]
        )
        with_choices = any(choices is not None for rows in self.rows.values() for *_, choices in rows)
        if self.fixed is not None:
            answers = {answer for _, _, answer, _ in self.rows.get("train", ())}
            there = {choice: choice for choice in self.fixed if choice in answers}
            about |= {"kind": "classification", "labels": there, "choices": dict(there)}
        elif with_choices:
            about |= {"kind": "multiple_choice", "choices": "options", "inputs": [*columns, "options"]}
        elif metric := next((METRICS[one] for one in self.template.metrics if one in METRICS), None):
            about["metric"] = metric
        splits: dict[str, list[ImportedRow]] = {}
        for split, rows in self.rows.items():
            texts = [[text for _, text, *_ in one.rows[split]] for one in together]
            splits[split] = []
            for place, (_, _, answer, choices) in enumerate(rows):
                row: ImportedRow = {column: text[place] for column, text in zip(columns, texts, strict=True)}
                row["answer"] = answer
                if self.fixed is None and choices is not None:
                    row |= {"options": list(choices), "answer": choices.index(answer)}
                splits[split].append(row)
        if not splits.get("train"):
            raise AllroundError(asked, "it gives a prompt and an answer for no training row", "check the template")
        notes = [f"{plural(self.left_out, 'row')} without a prompt or an answer left out"] if self.left_out else []
        return ImportedTask(name, about, {split: rows for split, rows in splits.items() if rows}, tuple(notes))


def _apply(path: Path, template: _Template, rows: Mapping[str, list[ImportedRow]]) -> _Applied:
    asked = f"render the template '{template.name}' of '{path}'"
    every = [row for part in rows.values() for row in part]
    if "answer_choices" in (every[0] if every else {}):
        raise AllroundError(asked, "the rows have a column `answer_choices`, and templates have choices of that name",
                            "rename the column")  # fmt: skip
    made = iter(render(template.jinja, template.choices, every, asked))
    found: dict[str, list[tuple[int, str, str, tuple[str, ...] | None]]] = {}
    left_out = 0
    for split, part in rows.items():
        found[split] = []
        for number in range(len(part)):
            one = _parted(next(made), number, asked)
            if one is None:
                left_out += 1
            else:
                found[split].append((number, *one))
    return _Applied(template, found, left_out)


def _parted(made: Rendered, row: int, asked: str) -> tuple[str, str, tuple[str, ...] | None] | None:
    """Prompt, answer and choices of a row; None where it has no prompt or no answer."""
    parts = made["parts"]
    if not any(parts):
        return None
    if len(parts) != 2:
        raise AllroundError(asked, f"row {row} has {len(parts) - 1} bars '|||', which part prompt and answer",
                            "write one between prompt and answer")  # fmt: skip
    prompt, answer = parts
    if not prompt or not answer:
        return None
    choices = made["choices"]
    if choices is not None and answer not in choices:
        raise AllroundError(asked, f"the answer of row {row} is {answer!r}, which is none of its choices: "
                            f"{', '.join(choices)}", "correct the template")  # fmt: skip
    return prompt, answer, None if choices is None else tuple(choices)


def _joined(name: str, made: Sequence[_Applied], asked: str) -> ImportedTask:
    """One task of several templates."""
    first = made[0]
    for other in made[1:]:
        for split, rows in first.rows.items():
            if [(n, a, c) for n, _, a, c in rows] != [(n, a, c) for n, _, a, c in other.rows[split]]:
                raise AllroundError(
                    asked,
                    f"'{first.template.name}' and '{other.template.name}' give other answers, choices or rows",
                    "name templates of one question, or leave `together` out",
                )
    return first.task(name, asked, made)
