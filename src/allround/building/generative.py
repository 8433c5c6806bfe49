"""`generative`: a language model that writes the identifiers of the passages that answer a query."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from allround.building.following import Following, what_happened
from allround.building.mining import vectors_of
from allround.building.opening import open_language_model
from allround.building.single import board_of
from allround.core.errors import AllroundError, suggestion
from allround.core.growing import remove_work
from allround.core.outputs import check_out, output_folder, work_folder
from allround.core.progress import Progress
from allround.core.seeds import seed_everything, seed_of
from allround.core.words import plural
from allround.evaluation.scoreboard import Scoreboard
from allround.models.base import find_folder, load_encoder
from allround.models.fitting import fit_head
from allround.models.identifiers import sample_ngrams, semantic_ids, word_ids
from allround.models.systems.generative_retrieval import GenerativeRetrieval
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.systems.ngram_retrieval import NgramRetrieval
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.passages import Passages
from allround.tasks.prompt import Prompt
from allround.tasks.suite import Suite, as_suite
from allround.tasks.task import Split, Task
from allround.tasks.values import Row
from allround.training import trainer
from allround.training.settings import Settings

#: What a model can be taught to write.
IDENTIFIERS = WORDS, SEMANTIC, NGRAMS = ("words", "semantic", "ngrams")
#: Tokens that a word of an n-gram may have, on average.
_ROOM = 4


def generative(
    suite: Suite | str | Path,
    *,
    out: Path | str,
    base: str | Path | None = None,
    identifiers: str | None = None,
    embedder: str | Path | None = None,
    levels: int = 2,
    size: int | None = None,
    length: int = 10,
    samples: int = 3,
    beams: int = 10,
    settings: Settings | None = None,
    seed: int = 0,
    encoder: Mapping[str, object] | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> Scoreboard:
    """Teach a language model to write identifiers of passages, save it as a system that ranks, and score it on test.

    suite: its tasks of the kind retrieval; each has its own prompt, its instruction, and all share the model.
    base: a language model; by default the suite's own. identifiers: "words", the first words of a passage, as by
    default; "semantic", as with an embedder, a text encoder such as a joint model of these tasks, whose vectors are
    quantised, `levels` times into `size` clusters; or "ngrams", all runs of up to `length` tokens of a passage.
    The model learns the identifier of each relevant passage from its query, and that of every passage from its text,
    so that passages without a query are known as well; of n-grams, `samples` of `length` words of each passage.
    beams: of the search, and so the passages of an answer, except with n-grams. Unfinished training is kept in
    `out`.unfinished.
    """
    suite = as_suite(suite)
    settings, progress = settings or Settings(), progress or Progress()
    asked = f"write identifiers for '{suite.name}'"
    base = str(suite.own_base(asked) if base is None else base)
    tasks = [task for task in suite.to_train if kind(task.definition.kind).ranked]
    if not tasks:
        raise AllroundError(asked, "it has no task of the kind retrieval", "give a suite with such a task")
    identifiers = _sort_of(asked, identifiers, embedder)
    if levels < 1 or (size is not None and size < 1):
        raise AllroundError(asked, f"{levels} levels of {size} clusters are asked for", "give 1 or more of each")
    if length < 1 or samples < 1:
        raise AllroundError(asked, f"{samples} n-grams of {length} words are asked for", "give 1 or more of each")
    out = check_out(out, "generative", force=force, inputs=[base, embedder], data=suite.files)
    scratch = out.parent / f"{out.name}.unfinished"
    following = Following(progress)
    with ExitStack() as stack:
        stack.callback(following.close)
        stack.enter_context(progress.watch())
        stack.enter_context(work_folder(scratch, "generative", force=force))
        folder = stack.enter_context(output_folder(out, "generative", force=force))
        ids: dict[str, str] = {}
        if identifiers == NGRAMS:
            writing = [ngram_task(task, length, samples, seed) for task in tasks]
            progress.say(f"{plural(sum(len(task.splits['train']) for task in writing), 'n-gram')} to learn")
        else:
            ids = identifiers_of(tasks, embedder, levels, size, seed)
            writing = [writing_task(task, ids) for task in tasks]
            progress.say(f"{plural(len(ids), 'passage')}, such as {next(iter(ids.values()))!r}")
        seed_everything(seed_of(seed, "base"))
        made = open_language_model(base, asked, **(encoder or {}))
        speaker = MultiTaskModel(made, {})
        for task in writing:
            speaker.add_task(task.definition, fit_head(made, task).state)
        course = trainer.train(speaker, writing, settings, seed=seed, scratch=scratch, callbacks=[following],
                               name="speaker")  # fmt: skip
        for words in what_happened(course, settings):
            progress.say(words)
        definitions = {task.name: task.definition for task in tasks}
        system = (NgramRetrieval(definitions, speaker, beams, length) if identifiers == NGRAMS
                  else GenerativeRetrieval(definitions, speaker, ids, beams))  # fmt: skip
        board = board_of(system, Suite(suite.name, tasks, files=suite.files), "test", "generative", course)
        used = {"length": length, "samples": samples} if identifiers == NGRAMS else {"levels": levels, "size": size}
        system.facts = {"made_by": {"base": base, "identifiers": identifiers,
                                    "embedder": None if embedder is None else str(embedder), **used,
                                    "settings": settings.to_json(), "seed": seed}}  # fmt: skip
        system.write(folder)
    remove_work(scratch)
    return board


def _sort_of(asked: str, identifiers: str | None, embedder: str | Path | None) -> str:
    """Which identifiers are asked for."""
    found = identifiers if identifiers is not None else WORDS if embedder is None else SEMANTIC
    if found not in IDENTIFIERS:
        raise AllroundError(f"{asked} of the sort '{found}'", "there are none", suggestion(found, IDENTIFIERS))
    if (found == SEMANTIC) != (embedder is not None):
        raise AllroundError(
            f"{asked} of the sort '{found}'",
            "no embedder is given" if embedder is None else "an embedder is given",
            "give the embedder whose vectors become identifiers" if embedder is None
            else f"leave the embedder out, or choose '{SEMANTIC}'",
        )  # fmt: skip
    return found


def identifiers_of(
    tasks: Sequence[Task], embedder: str | Path | None, levels: int = 2, size: int | None = None, seed: int = 0
) -> dict[str, str]:
    """The identifier of the text of each passage that a row of the tasks has."""
    texts = _texts(tasks)
    if embedder is None:
        return dict(zip(texts, word_ids(texts), strict=True))
    vectors = vectors_of(load_encoder(find_folder(embedder)), texts).numpy()
    return dict(zip(texts, semantic_ids(vectors, levels=levels, size=size, seed=seed), strict=True))


def writing_task(task: Task, identifiers: Mapping[str, str]) -> Task:
    """The task of writing the identifier of a passage that answers a query; its labels are all identifiers.

    What is learned is the probability of the identifier's tokens; validation compares those of all identifiers.
    Training rows: each query with each relevant passage, and each passage with itself. Of validation and test queries
    the first relevant passage counts; systems are scored on the retrieval task.
    """
    labels = tuple(identifiers.values())
    prompt = Prompt((_question(task, "Identifier"),), choices=labels, chat="no")
    definition = Definition(task.name, "classification", ("query",), "text", "accuracy", labels, prompt=prompt)
    places = {text: place for place, text in enumerate(identifiers)}
    splits = {}
    for name, split in task.splits.items():
        rows: list[Row] = []
        targets: list[int] = []
        for query, passages, relevant in _relevant(split):
            for one in relevant if name == "train" else relevant[:1]:
                rows.append((query,))
                targets.append(places[passages[one]])
        if name == "train":
            texts = _texts([task])
            rows += [(text,) for text in texts]
            targets += [places[text] for text in texts]
        splits[name] = Split(rows, np.asarray(targets, dtype=np.int64))
    return Task(definition, splits)


def ngram_task(task: Task, length: int = 10, samples: int = 3, seed: int = 0) -> Task:
    """The task of writing an n-gram of a passage that answers a query, and behind a part of a passage another one.

    length: of n-grams, in words. samples: for each query and relevant passage, and for each passage. What is written
    to a validation query, of whatever words, is compared with all such n-grams of the relevant passages, and the most
    similar one counts. Systems are scored on the retrieval task.
    """
    generator = np.random.default_rng(seed_of(seed, f"n-grams of {task.name}"))
    draw = partial(sample_ngrams, length=length, generator=generator)
    splits = {}
    for name, split in task.splits.items():
        rows: list[Row] = []
        targets: list[tuple[str, ...]] = []
        for query, passages, relevant in _relevant(split):
            texts = [text for one in relevant if (text := passages[one]).strip()]
            if not texts:
                continue
            said: list[tuple[str, ...]]
            if name == "train":
                said = [(one,) for text in texts for one in draw(text, query, count=samples)]
            else:
                said = [tuple(dict.fromkeys(one for text in texts for one in draw(text, None, count=len(text))))]
            rows += [(query,)] * len(said)
            targets += said
        if name == "train":
            for text in filter(str.strip, _texts([task])):
                said = [(one,) for one in draw(text, None, count=samples)]
                rows += [(draw(text, None, count=1)[0],) for _ in said]
                targets += said
        splits[name] = Split(rows, targets)
    prompt = Prompt((_question(task, "Passage"),), chat="no", max_new_tokens=_ROOM * length)
    return Task(Definition(task.name, "text", ("query",), "text", "token_f1", prompt=prompt), splits)


def _question(task: Task, answer: str) -> str:
    """The prompt of a task whose answer is to be written."""
    given = task.definition
    before = (given.instruction or f"{given.name}:").replace("{", "{{").replace("}", "}}")
    return f"{before} {{query}}\n{answer}:"


def _relevant(split: Split) -> Iterator[tuple[str, Passages, list[str]]]:
    """The query of each row, its passages, and the ids of those that are relevant."""
    for (query, passages), grades in zip(split.inputs, split.targets, strict=True):
        assert isinstance(passages, Passages)
        yield str(query), passages, [one for one, grade in grades.items() if grade > 0 and one in passages]


def _texts(tasks: Sequence[Task]) -> list[str]:
    """The text of each passage that a row of the tasks has, once."""
    rows = (row for task in tasks for split in task.splits.values() for row in split.inputs)
    every = {id(row[1]): row[1] for row in rows}
    return list(dict.fromkeys(text for one in every.values() if isinstance(one, Passages) for text in one.texts()))
