"""Answers for inputs from the command line, a file or standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import typer

from allround.cli.screen import says_nothing
from allround.core.errors import AllroundError
from allround.core.jobs import quiet_libraries
from allround.core.outputs import check_out_file
from allround.core.words import plural
from allround.models.indexed import open_index, search_in
from allround.models.prediction.answerer import Asking, own_inputs
from allround.models.prediction.answers import Answered, Counts, TaskAnswers
from allround.models.prediction.tables import line_name, output_format, window_rows, with_columns, write_answers
from allround.models.prediction.writers import text_writer
from allround.models.prompts import instructed
from allround.models.reusing import Reusing
from allround.models.searching import MOST_KEPT
from allround.models.system import WINDOW, System, load
from allround.models.widths import chosen_width
from allround.tasks.sources.passages import read_passages
from allround.tasks.sources.stream import STDIN, Lines, Objects, Window, format_of, read_windows


def answer_file(
    folder: Path,
    words: list[str],
    file: str | None,
    format: str | None,
    output: Path,
    asking: Asking,
    *,
    as_json: bool,
    force: bool,
    passages: Path | None = None,
    width: float | None = None,
    reuse: float | None = None,
) -> None:
    """Write the rows with their answers into a file, and say what came of them."""
    file = _source(words, file, format)
    check_out_file(output, "predict", force=force, inputs=[file])
    read = "jsonl" if file is None else format_of(file, format, f"read '{file}'")
    output_format(output, read)
    quiet_libraries()
    model = _opened(folder, width, passages, asking)
    windows, asking = _windows(model, words, file, format, asking)
    stream = None if reuse is None else Reusing(model, reuse)
    counts = write_answers(stream or model, windows, output, asking, source=_named(file), read=read, force=force)
    if as_json:
        reused = {} if stream is None else {"reused": asdict(stream.counts)}
        typer.echo(json.dumps({"output": str(output), **asdict(counts), **reused}, ensure_ascii=False))
        return
    typer.echo(f"{plural(counts.rows, 'row')} written to {output}")
    _say(counts, stream)


def answer_screen(
    folder: Path,
    words: list[str],
    file: str | None,
    format: str | None,
    asking: Asking,
    *,
    as_json: bool,
    passages: Path | None = None,
    width: float | None = None,
    reuse: float | None = None,
) -> None:
    """Print the answers: a line a row for lines and inputs given as words, else as the input is written; Parquet as
    JSONL. Ends of lines within answers to lines of a file are written as \\n."""
    file = _source(words, file, format)
    read = "txt" if file is None else format_of(file, format, f"read '{file}'")
    written = "jsonl" if as_json or read == "parquet" else read
    quiet_libraries()
    model = _opened(folder, width, passages, asking)
    windows, asking = _windows(model, words, file, format, asking)
    stream = None if reuse is None else Reusing(model, reuse)
    counts, writer = Counts(), None
    nested = written in ("txt", "jsonl")
    plain = written == "txt"
    for made, columns in with_columns(
        stream or model, windows, asking, _named(file), nested=nested, counts=counts, check=not plain
    ):
        if plain:
            for place in range(len(made.window)):
                line = _line(made, place, alone=columns.alone)
                typer.echo(line if file is None else line.replace("\n", "\\n"))
        else:
            writer = writer or text_writer(sys.stdout, written, columns)
            writer.write(made)
        sys.stdout.flush()
    _say(counts, stream)


def _source(words: list[str], file: str | None, format: str | None) -> str | None:
    """The file to read, or - for standard input; None where the words are the inputs."""
    if words == [STDIN] and file is None:
        return STDIN
    if (file is None) == (not words):
        found = "neither inputs nor a file was given" if file is None else "both inputs and a file were given"
        raise AllroundError(
            "answer tasks", found, "give the inputs as arguments, or --input FILE, or - for standard input"
        )
    if file is None and format is not None:
        raise AllroundError("answer tasks", "--format says how a file is read, and there is none", "leave it out")
    return file


def _named(file: str | None) -> str:
    return "the inputs" if file is None else "standard input" if file == STDIN else file


def _windows(
    model: System, words: list[str], file: str | None, format: str | None, asking: Asking
) -> tuple[Iterator[Window], Asking]:
    """The rows, and what is asked of them: of lines, and of a single input, the tasks that have one input."""
    if file is None:
        window, asking = _of_words(model, words, asking)
        return iter([window]), asking
    if format_of(file, format, f"read '{file}'") == "txt":
        asking = _of_one_input(model, asking, "lines of text")
    return read_windows(file, format, rows=window_rows(model, asking), line=line_name(model, asking)), asking


def _opened(folder: Path, width: float | None, passages: Path | None, asking: Asking) -> System:
    """The model, at a width, with what queries search and what stands before them."""
    model = chosen_width(load(folder), width, str(folder))
    _search(model, passages)
    return instructed(model, asking)


def _search(model: System, place: Path | None) -> None:
    """Let queries search the passages of a file, or of an index."""
    if place is None:
        return
    passages = open_index(place) if place.is_dir() else read_passages(place)
    search_in(model, passages)
    if len(passages) > MOST_KEPT and not place.is_dir() and not says_nothing():
        typer.echo(f"{len(passages):,} passages are encoded again for each {WINDOW:,} queries, and their vectors are "
                   "not kept: `allround index` encodes them once", err=True)  # fmt: skip


def _inputs(model: System, asking: Asking) -> dict[str, tuple[str, ...]]:
    """The input columns that rows need for the tasks that are asked for."""
    return {name: own_inputs(model, name) for name in (asking.tasks or model.definitions)}


def _of_one_input(model: System, asking: Asking, what: str) -> Asking:
    """All tasks that have one input, where none is named. Errors: others are named, or there are none."""
    wide = {name: inputs for name, inputs in _inputs(model, asking).items() if len(inputs) > 1}
    single = tuple(name for name in model.definitions if name not in wide)
    if wide and (asking.tasks is not None or not single):
        name, inputs = next(iter(wide.items()))
        raise AllroundError(
            f"answer task '{name}' for {what}",
            f"each example has {len(inputs)}: {', '.join(inputs)}",
            f"give {len(inputs)} inputs an example; or --input with a file (or - and --format csv, tsv or jsonl)",
        )
    for name, inputs in wide.items():
        typer.echo(f"task '{name}' is left out: it has {len(inputs)} inputs: {', '.join(inputs)}", err=True)
    return replace(asking, tasks=single) if wide else asking


def _of_words(model: System, words: list[str], asking: Asking) -> tuple[Window, Asking]:
    if len(words) == 1:
        asking = _of_one_input(model, asking, "one input")
    asked = _inputs(model, asking)
    if all(len(inputs) == 1 for inputs in asked.values()):
        return Lines(0, words, line_name(model, asking)), asking
    different = sorted(set(asked.values()))
    if len(different) > 1:
        raise AllroundError(
            "answer all tasks for these inputs",
            "their inputs differ: " + "; ".join(f"{name}: {', '.join(inputs)}" for name, inputs in asked.items()),
            "name tasks of equal inputs with --task, or give the columns in a file with --input",
        )
    (columns,) = different
    width = len(columns)
    if len(words) % width:
        named = " and ".join(f"'{name}'" for name in asked)
        raise AllroundError(
            f"answer {'task' if len(asked) == 1 else 'the tasks'} {named}",
            f"{len(words)} inputs were given, and each example has {width}: {', '.join(columns)}",
            f"give a multiple of {width} inputs; put quotation marks around texts with spaces",
        )
    rows = [dict(zip(columns, words[i : i + width], strict=True)) for i in range(0, len(words), width)]
    return Objects(0, rows), asking


def _line(made: Answered, place: int, *, alone: bool) -> str:
    """A row's answers in a line; those of several tasks are parted by tabs."""
    if made.notes[place] is not None and all(one.predictions[place] is None for one in made.tasks.values()):
        return f"no answer: {made.notes[place]}"
    if made.found is not None and (told := made.found[place]) is not None and told.task is not None:
        return f"{told.task} ({100 * told.confidence:.1f}%): {_answer(made.tasks[told.task], place)}"
    return "\t".join(("" if alone else f"{name}: ") + _answer(one, place) for name, one in made.tasks.items())


def _answer(one: TaskAnswers, place: int) -> str:
    answer = one.predictions[place]
    if answer is None:
        return "no answer"
    if one.scores is not None:
        ranked = one.scores[place]
        words = ranked if isinstance(ranked, list) else [ranked or {}]
        return " ".join(",".join(f"{label} {100 * p:.1f}%" for label, p in word.items()) for word in words)
    sure = one.confidence[place]
    shown = (
        f"{answer:.4g}" if isinstance(answer, float) else _joined(list(answer) if isinstance(answer, dict) else answer)
    )
    return shown if sure is None else f"{shown}  ({100 * sure:.1f}%)"


def _joined(answer: str | float | Sequence[str]) -> str:
    return str(answer) if isinstance(answer, (str, float)) else " ".join(answer)


def _say(counts: Counts, stream: Reusing | None) -> None:
    """What was left out, and what there is to say of the rows, and of the work that a stream of them took."""
    if says_nothing():
        return
    for name, why in counts.left_out.items():
        typer.echo(f"task '{name}' is left out: {why}", err=True)
    for words in [*counts.words(), *([] if stream is None else [stream.counts.words()])]:
        typer.echo(words, err=True)
