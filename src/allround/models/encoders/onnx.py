"""An encoder whose work an exported graph does, run by onnxruntime."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import hash_folder, hash_json, write_json
from allround.core.locks import Lock
from allround.core.registry import method
from allround.models.batch import Batch, Features
from allround.models.encoder import CONFIG, Encoder, RowReader
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.values import Row

#: What a graph calls the vectors that heads read.
FEATURES = "features"


@method(source="ONNX graphs, as `allround export` writes them; run by onnxruntime on processors")
class Onnx(Encoder):
    """Features from graphs in the ONNX format, of rows that are read as the exported encoder read them.

    folder: holds the graphs. rows: what reads rows. graphs: of each file the tasks that it answers. numbers: how many
    the exported encoder had. Features are computed on the processor, whatever device is asked for; nothing of it can be
    tuned.
    """

    name = "onnx"
    tunable = False

    def __init__(self, folder: Path, rows: RowReader, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.folder, self.settings = folder, dict(settings)
        self._rows = (rows,)  # where it is a network, its weights are not this one's
        self.file_of = {task: file for file, tasks in settings["graphs"].items() for task in tasks}
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # says which device features go to
        self._sessions: dict[str, Any] = {}
        self._opening = Lock()

    @property
    def rows(self) -> RowReader:
        """What makes batches of rows."""
        return self._rows[0]

    @property
    def modalities(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.rows.modalities

    @property
    def numbers(self) -> int:
        return int(self.settings["numbers"])

    @property
    def preparation(self) -> object:
        return self.rows.preparation

    def reads_apart(self, definition: Definition) -> bool:
        return self.rows.reads_apart(definition)

    def features(self, definition: Definition) -> int:
        return self.rows.features(definition)

    def prepare(self, inputs: Sequence[Row], definition: Definition, targets: Encoded | None = None) -> list[Any]:
        self.check(definition)
        return self.rows.prepare(inputs, definition, targets)

    def prepare_passages(self, texts: Sequence[str], definition: Definition) -> list[Any]:
        return self.rows.prepare_passages(texts, definition)

    def content(self) -> str:
        return hash_json([self.name, hash_folder(self.folder)])

    def collate(self, prepared: Sequence[Any], definition: Definition, targets: Encoded | None = None) -> Batch:
        made = self.rows.collate(prepared, definition, targets)
        return replace(made, rows={definition.name: tuple(range(len(prepared)))})

    def length(self, prepared: Any) -> int:
        return self.rows.length(prepared)

    def common(self, values: Tensor) -> Tensor:
        return self.rows.common(values)

    def cut(self, inputs: Sequence[Row], definition: Definition) -> int:
        return self.rows.cut(inputs, definition)

    @property
    def by_task(self) -> bool:  # type: ignore[override]
        """Whether each task has a graph of its own, and so features of its own."""
        return bool(self.settings["by_task"])

    def forward(self, batch: Batch) -> Features:
        files = {self.file_of[task]: task for task in batch.rows}
        given = {name: value.cpu().numpy() for name, value in batch.tensors.items()}
        found = [torch.from_numpy(self.session(file).run([FEATURES], given)[0]) for file in files]
        asked = tuple(files.values()) if len(files) > 1 else ()
        return Features(torch.cat(found, -1).to(self.place.device), batch.lengths, tasks=asked)

    def session(self, file: str) -> Any:
        """What runs a graph; it is opened when it is asked for first, with as many threads as torch has then."""
        with self._opening:
            if file not in self._sessions:
                from onnxruntime import InferenceSession, SessionOptions

                options = SessionOptions()
                options.intra_op_num_threads = torch.get_num_threads()
                options.log_severity_level = 3
                self._sessions[file] = InferenceSession(
                    str(self.folder / file), options, providers=["CPUExecutionProvider"]
                )
            return self._sessions[file]

    def save(self, folder: Path) -> None:
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        write_json(folder / CONFIG, {"encoder": self.name, "settings": self.settings})

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> Onnx:
        try:
            import onnxruntime  # noqa: F401
        except ImportError as error:
            raise AllroundError(
                f"load the exported encoder in {folder}",
                "the package onnxruntime is not installed",
                "pip install 'allround[onnx]'",
            ) from error
        reader: Any = registry.find("encoder", settings["rows"]["encoder"]).load()
        for file in settings["graphs"]:
            if Path(file).name != file or not (folder / file).is_file():
                raise AllroundError(
                    f"load the exported encoder in {folder}", f"it has no graph {file}", "copy or export it again"
                )
        made = cls(folder, reader.rows_from(folder, settings["rows"]["settings"]), settings)
        for file in settings["graphs"]:
            made.session(file)
        return made
