"""Natural instructions: a file of a task's definition, worked examples, and instances with their accepted answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from allround.core.errors import AllroundError
from allround.core.reading import parse_json, read_bytes
from allround.core.registry import method
from allround.core.words import plural
from allround.tasks.collection import ImportedRow, ImportedTask, task_name

#: Most tokens that an answer is given, as Tk-Instruct has it.
MOST_TOKENS = 128
#: Fewest tokens that an answer is given, whatever the longest accepted answer.
LEAST_TOKENS = 16


@method(
    source="Super-NaturalInstructions (Wang et al., EMNLP 2022, arXiv:2204.07705): its task files; how "
    "Tk-Instruct puts definition and positive examples",
    paper="Super-NaturalInstructions: Generalization via Declarative Instructions on 1600+ NLP Tasks",
)
def natural_instructions(paths: Sequence[Path], *, shots: int = 0) -> list[ImportedTask]:
    """A task of the kind text for each file: the definition, positive examples, and the input are the prompt.

    paths: JSON files with the keys Definition, Positive Examples and Instances. shots: how many positive examples
    stand in the prompt. Every output of an instance is accepted; ROUGE-L is the metric.
    Differs: no full stop is added behind an input, and negative examples and explanations are left out.
    """
    return [_task(path, shots) for path in paths]


def _task(path: Path, shots: int) -> ImportedTask:
    asked = f"read the task file '{path}'"
    do = "give a file of Super-NaturalInstructions, with Definition, Positive Examples and Instances"
    try:
        given = parse_json(read_bytes(path, what="task file").decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise AllroundError(asked, f"it is not JSON: {error}", do) from None
    if not isinstance(given, dict):
        raise AllroundError(asked, "it does not hold an object", do)
    definition = "\n".join(text.strip() for text in _texts(given.get("Definition"), "Definition", asked, do)).strip()
    if not definition:
        raise AllroundError(asked, "its Definition is empty", do)
    rows, notes = _rows(given.get("Instances"), asked, do)
    longest = max(len(text) for row in rows for text in _answers(row))
    categories = _texts(given.get("Categories", []), "Categories", asked, do)
    about: dict[str, object] = {
        "kind": "text",
        "inputs": "input",
        "target": "output",
        "metric": "rouge_l",
        "prompt": _prompt(definition, _examples(given.get("Positive Examples", []), shots, asked, do)),
        "max_new_tokens": min(MOST_TOKENS, max(LEAST_TOKENS, longest)),
    }
    if categories and categories[0].strip():
        about["category"] = categories[0].strip()
    return ImportedTask(task_name(path.stem), about, {"train": rows}, tuple(notes))


def _rows(instances: object, asked: str, do: str) -> tuple[list[ImportedRow], list[str]]:
    """The instances that have an answer, each once; and notes of those that were left out."""
    if not isinstance(instances, list):
        raise AllroundError(asked, "its Instances are not a list", do)
    rows: list[ImportedRow] = []
    seen: dict[str, ImportedRow] = {}
    empty = twice = 0
    for number, one in enumerate(instances):
        if not isinstance(one, dict) or not isinstance(one.get("input"), str):
            raise AllroundError(asked, f"instance {number} has no text as its input", do)
        answers = [text for text in _texts(one.get("output"), f"the output of instance {number}", asked, do)
                   if text.strip()]  # fmt: skip
        row: ImportedRow = {"input": one["input"], "output": list(dict.fromkeys(answers))}
        known = seen.setdefault(one["id"], row) if isinstance(one.get("id"), str) else row
        if known is not row:
            if known != row:
                raise AllroundError(asked, f"two different instances have the id {one['id']!r}",
                                    "give each an id of its own, or leave the ids out")  # fmt: skip
            twice += 1
        elif not answers or not one["input"].strip():
            empty += 1
        else:
            rows.append(row)
    if not rows:
        raise AllroundError(asked, "no instance has an input and an answer", do)
    notes = [f"{plural(empty, 'instance')} without an input or an answer left out"] if empty else []
    return rows, [*notes, *([f"{plural(twice, 'instance')} with the id of an equal one left out"] if twice else [])]


def _answers(row: ImportedRow) -> list[str]:
    found = row["output"]
    return [str(text) for text in found] if isinstance(found, list) else []


def _examples(given: object, shots: int, asked: str, do: str) -> list[tuple[str, str]]:
    """The first positive examples."""
    if shots < 0:
        raise AllroundError(asked, f"shots is {shots}", "give a whole number of at least 0")
    listed = given if isinstance(given, list) else []
    if shots > len(listed):
        raise AllroundError(
            asked, f"it has {plural(len(listed), 'positive example')}, and {shots} were asked for", "give fewer shots"
        )
    found = []
    for one in listed[:shots]:
        if not isinstance(one, Mapping):
            raise AllroundError(asked, "a positive example is not an object", do)
        answers = _texts(one.get("output"), "the output of a positive example", asked, do)
        found.append((str(one.get("input", "")), answers[0] if answers else ""))
    return found


def _prompt(definition: str, examples: Sequence[tuple[str, str]]) -> str:
    """The template of the task."""
    parts = [f"Definition: {_escaped(definition)}"]
    for number, (question, answer) in enumerate(examples, 1):
        parts.append(f"Positive Example {number} -\nInput: {_escaped(question)}\nOutput: {_escaped(answer)}")
    return "\n\n".join([*parts, "Now complete the following example -\nInput: {input}\nOutput:"])


def _escaped(text: str) -> str:
    """A text whose braces are braces in a template too."""
    return text.strip().replace("{", "{{").replace("}", "}}")


def _texts(value: object, what: str, asked: str, do: str) -> list[str]:
    """One text or a list of texts, as a list."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or any(not isinstance(text, str) for text in listed):
        raise AllroundError(asked, f"{what} is neither a text nor a list of texts", do)
    return [str(text) for text in listed]
