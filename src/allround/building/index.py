"""`index`: the vectors of a collection of passages, made once, in a folder that `predict` and `serve` search."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import hash_file, hash_json, read_settings, write_json
from allround.core.growing import remove_work
from allround.core.outputs import check_out, output_folder, work_folder
from allround.core.progress import Progress
from allround.core.seeds import seed_of
from allround.core.words import plural
from allround.evaluation.intervals import Interval, mean_interval
from allround.models.heads.ranking import Ranking
from allround.models.index.exact import Exact
from allround.models.indexed import ABOUT, TEXTS, IndexAbout, model_content, named_index, write_texts
from allround.models.searching import MOST_KEPT, PASSAGES, VectorReader
from allround.models.system import System, load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.systems.reranked import Reranked
from allround.models.vector_index import VectorIndex
from allround.tasks.kind import kind
from allround.tasks.kinds.retrieval import MOST
from allround.tasks.passages import Passages
from allround.tasks.sources.passages import read_passages

#: Passages that recall is measured with, and how many of the first ones it looks at.
SAMPLE, FIRST = 200, 10
#: The file of unfinished work that says how many vectors there are.
_DONE = "done.json"


@dataclass(frozen=True)
class IndexResult:
    """What was written, and how it searches.

    recall: the share of the first 10 passages of an exact search that are among its own first 10, over `queries`
    passages that were read as queries, with a 95% interval; none for an exact index. milliseconds: of a query, by the
    index and by an exact search, encoding left out.
    """

    folder: Path
    about: IndexAbout
    bytes: int
    queries: int
    recall: Interval | None
    milliseconds: tuple[float, float]

    def lines(self) -> list[str]:
        """What was written, in words."""
        about, (own, exact) = self.about, self.milliseconds
        found = [f"index     {self.folder}", f"task      {about.task}", f"method    {about.method}",
                 f"passages  {about.count:,}, vectors of {about.width} numbers, {self.bytes:,} bytes",
                 f"time      {own:.2f} ms a query, without encoding it"]  # fmt: skip
        if self.recall is not None:
            found[-1] += f"; {exact:.2f} ms by exact search"
            found.append(f"recall    {_shown(self.recall)} of the first {FIRST} of an exact search, for "
                         f"{plural(self.queries, 'passage')} read as queries")  # fmt: skip
        elif about.count > MOST_KEPT:
            found.append(f"note      each query is compared with {about.count:,} vectors; --method faiss finds most of "
                         "the same passages sooner")  # fmt: skip
        return found


def index(
    model: Path | str,
    passages: Path | str | Passages,
    out: Path | str,
    *,
    task: str | None = None,
    method: str = "exact",
    settings: dict[str, Any] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
    force: bool = False,
) -> IndexResult:
    """Write the vectors of passages, as a task of a saved model makes them, with ids and texts into a folder.

    `allround.models.indexed.open_index` gives its passages, which are searched without being encoded. model: of two
    stages, the first makes the vectors. passages: a file of them, or such as `Passages.of` makes. task: may be left out
    where one task ranks passages. method, settings: of the family `index`. seed: of the passages that are read as
    queries, to measure how the index searches. Vectors that were made before a kill are kept in `out`.unfinished.

    Errors: a task that ranks no passages; a system without one encoder; a missing package.
    """
    progress = progress or Progress()
    made = named_index(method, settings or {})
    resolved = registry.find("index", method).resolve(settings or {})
    files = [] if isinstance(passages, Passages) else [passages]
    out = check_out(out, "index", force=force, inputs=[model], data=files)
    network, name = _ranking_model(load(model, device=device), task, model)
    whole = passages if isinstance(passages, Passages) else read_passages(Path(passages))
    definition, head = network.definition(name), network.head(name)
    assert isinstance(head, Ranking)
    reader, content = VectorReader(network.encoder, head, batch_size), model_content(network.encoder, definition)
    scratch = out.parent / f"{out.name}.unfinished"
    with ExitStack() as stack:
        stack.enter_context(progress.watch())
        stack.enter_context(work_folder(scratch, "index", force=force))
        folder = stack.enter_context(output_folder(out, "index", force=force))
        width = write_vectors(reader, whole, scratch, content, progress.say)
        texts = _sampled(whole, seed)
        queries = reader.queries(network.prepare(name, [(text, whole) for text in texts]))
        assert isinstance(queries, Tensor)  # as `model_content` made sure
        every = Exact()
        every.open(scratch, len(whole), width)
        exact, slow = _timed(lambda: every.search(queries, MOST))
        made.build(scratch / every.file, folder)
        made.open(folder, len(whole), width)
        found, quick = _timed(lambda: made.search(queries, MOST))
        approximate = registry.find("index", method).facts.get("approximate", False)
        recall = mean_interval(recalls(exact[0], found[0])) if approximate else None
        write_texts(whole, folder / TEXTS)
        per_query = (1000 * quick / len(texts), 1000 * slow / len(texts))
        measured = {"queries": len(texts), "first": FIRST, "recall": None if recall is None else list(recall)}
        about = _about(folder, name, content, whole, width, made, (method, resolved), measured)
        write_json(folder / ABOUT, about.to_json())
        size = sum((folder / file).stat().st_size for file in about.files)
    remove_work(scratch, [Exact.file, _DONE])
    return IndexResult(out, about, size, len(texts), recall, per_query)


def _ranking_model(system: System, task: str | None, place: object) -> tuple[MultiTaskModel, str]:
    """The network that makes the vectors, and the name of the task."""
    system = system.retriever if isinstance(system, Reranked) else system
    asked = f"index passages with {place}"
    ranked = [name for name, definition in system.definitions.items() if kind(definition.kind).ranked]
    if not isinstance(system, MultiTaskModel):
        raise AllroundError(asked, f"it is a system of the sort '{system.sort}', and vectors come from one encoder",
                            "give the folder of a model that allround tuned or merged")  # fmt: skip
    if not ranked:
        raise AllroundError(asked, "none of its tasks ranks passages",
                            "train it with a task of the kind retrieval")  # fmt: skip
    if task is None and len(ranked) > 1:
        raise AllroundError(asked, f"{len(ranked)} of its tasks rank passages",
                            f"name one with --task: {', '.join(ranked)}")  # fmt: skip
    name = ranked[0] if task is None else task
    if not kind(system.definition(name).kind).ranked:
        raise AllroundError(asked, f"task '{name}', of the kind {system.definition(name).kind}, ranks no passages",
                            f"name one of: {', '.join(ranked)}")  # fmt: skip
    return system, name


def write_vectors(
    reader: VectorReader, passages: Passages, folder: Path, made_by: str, say: Callable[[str], object] = lambda _: None
) -> int:
    """Write the vectors of passages as a .npy file into a folder of work, some at a time; those that are there from an
    earlier run with the same model and passages are kept. made_by: a hash of the model. How many numbers each has."""
    place, done = folder / Exact.file, folder / _DONE
    source = hash_json([made_by, passages.content])
    file, first = _begun(place, done, source)
    if first:
        say(f"{first:,} of {plural(len(passages), 'passage')} were encoded before")
    for start in range(first, len(passages), PASSAGES):
        vectors = reader.texts(passages.texts(start, start + PASSAGES))
        assert isinstance(vectors, Tensor)
        some = vectors.numpy()
        if file is None:
            done.unlink(missing_ok=True)
            shape = (len(passages), some.shape[1])
            file = np.lib.format.open_memmap(place, mode="w+", dtype=np.float32, shape=shape)
        file[start : start + len(some)] = some
        file.flush()  # type: ignore[attr-defined]
        write_json(done, {"source": source, "rows": start + len(some)})
        if len(passages) > PASSAGES:
            say(f"{start + len(some):,} of {plural(len(passages), 'passage')} are encoded")
    assert file is not None
    return int(file.shape[1])


def _begun(vectors: Path, done: Path, source: str) -> tuple[np.ndarray | None, int]:
    """The vectors of an earlier run, and how many of them there are; none where it was of other passages."""
    try:
        left = read_settings(done)
        if left["source"] == source:
            return np.load(vectors, mmap_mode="r+", allow_pickle=False), int(left["rows"])
    except (AllroundError, OSError, ValueError, TypeError, KeyError):
        pass  # nothing that can be used
    return None, 0


def recalls(exact: Tensor, found: Tensor) -> list[float]:
    """Of each query the share of the highest products that were found. exact, found: of each query the products of the
    passages that the exact search and an index give, the highest first. Of equal passages any is right.

    >>> import torch
    >>> recalls(torch.tensor([[0.9, 0.8]]), torch.tensor([[0.9, 0.5, 0.4]]))
    [0.5]
    """
    first = min(FIRST, exact.shape[1])
    least = exact[:, first - 1 : first] - 1e-5
    return [float(share) for share in (found[:, :first] >= least).sum(1) / first]


def _shown(share: Interval) -> str:
    low, high = (share.value if end is None else end for end in share[1:])
    return f"{share.value:.3f} ({max(low, 0.0):.3f} to {min(high, 1.0):.3f})"


def _sampled(passages: Passages, seed: int) -> list[str]:
    """Texts of some passages, drawn."""
    count = min(SAMPLE, len(passages))
    places = np.random.default_rng(seed_of(seed, "index")).choice(len(passages), count, replace=False)
    return [passages.texts(place, place + 1)[0] for place in sorted(places.tolist())]


def _timed(work: Callable[[], tuple[Tensor, Tensor]]) -> tuple[tuple[Tensor, Tensor], float]:
    begun = time.perf_counter()
    return work(), time.perf_counter() - begun


def _about(
    folder: Path, task: str, model: str, passages: Passages, width: int, made: VectorIndex,
    how: tuple[str, dict[str, Any]], measured: dict[str, Any],
) -> IndexAbout:  # fmt: skip
    files = {name: hash_file(folder / name) for name in (TEXTS, made.file)}
    return IndexAbout(task, model, passages.content, len(passages), width, *how, files, measured)


def plain(found: IndexResult) -> dict[str, object]:
    """Everything as plain data."""
    own, exact = found.milliseconds
    return {"index": found.folder, **found.about.to_json(), "bytes": found.bytes,
            "milliseconds": {"index": own, "exact": exact}}  # fmt: skip
