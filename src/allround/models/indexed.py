"""Passages with their vectors in a folder: what a fixed collection is searched by, without reading its texts again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import check_files, hash_json, is_inside, read_settings
from allround.models.encoder import Encoder
from allround.models.late import check_single
from allround.models.vector_index import VectorIndex
from allround.tasks.contrast import Contrast
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.passages import Passages

if TYPE_CHECKING:
    from pyarrow import Array

    from allround.models.system import System

FORMAT = 1
#: The manifest of an index, and the file of its ids and texts.
ABOUT, TEXTS = "allround_index.json", "passages.arrow"
_MAKE = "make it again: allround index MODEL PASSAGES --task TASK --out FOLDER"


@dataclass(frozen=True)
class IndexAbout:
    """What an index was made from. task: whose vectors they are. model: a hash of the encoder. passages: of ids and
    texts. count, width: of vectors, and of their numbers. method, settings: of the family `index`. files: a hash of
    each. measured: how it was found to search, as `allround index` says."""

    task: str
    model: str
    passages: str
    count: int
    width: int
    method: str
    settings: Mapping[str, Any]
    files: Mapping[str, str]
    measured: Mapping[str, Any]

    def __post_init__(self) -> None:
        texts = (self.task, self.model, self.passages, self.method)
        if not all(isinstance(one, str) for one in texts):
            raise TypeError("a name or a hash is not a text")
        if not all(isinstance(one, int) and not isinstance(one, bool) and one > 0 for one in (self.count, self.width)):
            raise TypeError("a count is not a whole number above 0")
        if not all(isinstance(one, Mapping) for one in (self.settings, self.files, self.measured)):
            raise TypeError("settings, files and measured must be objects")
        if TEXTS not in self.files or not all(is_inside(name) and isinstance(h, str) for name, h in self.files.items()):
            raise ValueError("its list of files is not one")

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}


class IndexedPassages(Passages):
    """Passages of which an index knows the vectors, for one task of one model. Texts stay in their file.

    An approximate index finds other passages than an exact one, so two are equal only where their indexes are.
    """

    def __init__(self, ids: Array, texts: Array, about: IndexAbout, index: VectorIndex, folder: Path) -> None:
        super().__init__(ids, texts)
        self.about, self.index, self.folder = about, index, folder
        self._known: Encoder | None = None

    @cached_property
    def content(self) -> str:
        return hash_json(self.about.to_json())

    def check(self, encoder: Encoder, definition: Definition) -> None:
        """An error where the vectors are not those that a task's head makes with this encoder.

        The weights of an encoder are looked at once.
        """
        asked = f"search the index {self.folder} for task '{definition.name}'"
        if definition.name != self.about.task:
            raise AllroundError(asked, f"it was made for task '{self.about.task}'",
                                f"give --task {self.about.task}, or make an index for the other task")  # fmt: skip
        if self._known is not encoder:
            if model_content(encoder, definition) != self.about.model:
                raise AllroundError(asked, "it was made with another model, or with other weights", _MAKE)
            self._known = encoder

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """As `VectorIndex.search`."""
        return self.index.search(queries, count)


def model_content(encoder: Encoder, definition: Definition) -> str:
    """A hash of what the vectors of a task's passages depend on: the encoder, what stands before passages, and how
    vectors are compared. Errors: a task that compares the vectors of tokens."""
    check_single(definition, f"index passages for task '{definition.name}'")
    contrast = definition.contrast or Contrast()
    told = [contrast.passage_instruction] if contrast.passage_instruction else []
    return hash_json([encoder.content(), contrast.compare, *told])


def named_index(method: str, settings: Mapping[str, Any]) -> VectorIndex:
    """An index by its name in the family `index`, and its settings. Errors: no such one, or a missing package."""
    entry = registry.find("index", method)
    made: VectorIndex = entry.load()(**entry.resolve(settings))
    return made


def is_index(path: Path | str) -> bool:
    """Whether a folder holds an index of passages."""
    return (Path(path) / ABOUT).is_file()


def open_index(folder: Path | str) -> IndexedPassages:
    """The passages of an index that `allround index` made, to be searched in place of `read_passages`.

    All files are read once, and compared with their hashes. Vectors of an exact index, and texts, are mapped into
    memory; other indexes are read into it. Errors: no index, a damaged or cut one, a missing package.
    """
    folder = Path(folder)
    asked = f"open the index {folder}"
    if not is_index(folder):
        found = f"the folder has no {ABOUT}" if folder.is_dir() else "there is no such folder"
        raise AllroundError(asked, found, _MAKE)
    about = _read_about(folder, asked)
    index = named_index(about.method, about.settings)
    if index.file not in about.files:
        raise AllroundError(asked, f"{ABOUT} does not list {index.file}", _MAKE)
    try:
        check_files(folder, about.files, asked, _MAKE)
        index.open(folder, about.count, about.width)
        ids, texts = _read_texts(folder / TEXTS)
        if len(ids) != about.count:
            raise ValueError(f"it has {len(ids)} texts for {about.count} vectors")
        return IndexedPassages(ids, texts, about, index, folder)
    except (ValueError, OSError, EOFError) as error:
        raise AllroundError(asked, f"it is damaged: {error}", _MAKE) from error


def _read_about(folder: Path, asked: str) -> IndexAbout:
    value = read_settings(folder / ABOUT)
    try:
        if value["format"] > FORMAT:
            raise AllroundError(asked, f"it has format {value['format']}, and this version reads up to {FORMAT}",
                                "upgrade: pip install -U allround")  # fmt: skip
        return IndexAbout(**{name: one for name, one in value.items() if name != "format"})
    except (KeyError, TypeError, ValueError) as error:
        raise AllroundError(asked, f"{ABOUT} is damaged: {error}", _MAKE) from error


def write_texts(passages: Passages, path: Path) -> None:
    """Write ids and texts as an Arrow file, which can be mapped into memory."""
    import pyarrow as pa

    ids, texts = passages.arrays
    table = pa.table({"id": ids.cast(pa.large_string()), "text": texts.cast(pa.large_string())})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _read_texts(path: Path) -> tuple[Array, Array]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    table.validate(full=True)  # the lengths in a damaged file may point outside it
    if table.column_names != ["id", "text"] or set(table.schema.types) != {pa.large_string()}:
        raise ValueError(f"{path.name} has not the columns id and text")
    ids, texts = (column.chunk(0) if column.num_chunks == 1 else column.combine_chunks() for column in table.columns)
    return ids, texts


def search_in(system: System, passages: Passages) -> None:
    """Let the queries of a system's tasks search these passages, where they come alone: of an index those of its task,
    else of all tasks that rank passages. Errors: there is no such task; an index of another model."""
    ranked = [name for name, definition in system.definitions.items() if kind(definition.kind).ranked]
    asked = "search the passages that were given"
    if isinstance(passages, IndexedPassages):
        asked = f"search the index {passages.folder}"
        if passages.about.task not in ranked:
            raise AllroundError(asked, f"it was made for task '{passages.about.task}', and the {system.noun} has "
                                f"{_these(ranked)}", _MAKE)  # fmt: skip
        ranked = [passages.about.task]
    if not ranked:
        raise AllroundError(asked, f"the {system.noun} has {_these(ranked)}", "leave the passages out")
    system.passages = {**system.passages, **dict.fromkeys(ranked, passages)}


def _these(ranked: list[str]) -> str:
    return f"of tasks that rank passages: {', '.join(ranked)}" if ranked else "no task that ranks passages"
