"""A model with one encoder as graphs in the ONNX format."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.core.files import write_json
from allround.core.outputs import output_folder
from allround.models.batch import Batch
from allround.models.encoder import CONFIG
from allround.models.encoders.onnx import FEATURES, Onnx
from allround.models.heads.ranking import Ranking
from allround.models.late import check_single
from allround.models.systems.multi_task_model import MultiTaskModel, open_model
from allround.tasks.modality import modality_of

#: The file of all graphs' weights, and the first graph's.
WEIGHTS, GRAPH = "model.onnx.data", "model.onnx"
#: Most by which a number of a graph may differ from the model's, relative to 1 or to the number where that is larger.
CLOSE = 1e-4
#: Bytes from which on a graph's tensor goes to the file of weights, and what its place there is a multiple of.
LARGE, ALIGNED = 1024, 4096
#: Rows and length of the batches that graphs are made and checked with.
SIZES = ((3, 5), (7, 2), (1, 11), (4, 1))


@dataclass(frozen=True)
class Exported:
    """What came of an export.

    graphs: of each file the tasks that it answers. bytes: of graphs and weights. furthest: how far a number of a graph
    lies from the model's on made-up rows, at most.
    """

    folder: Path
    graphs: dict[str, list[str]]
    bytes: int
    furthest: float


def export_onnx(
    model: MultiTaskModel | Path | str,
    out: Path | str,
    *,
    tasks: Sequence[str] | None = None,
    int8: bool = False,
    force: bool = False,
) -> Exported:
    """Write a model's encoder and heads as ONNX graphs, in a folder that answers as the model does.

    A graph reads what the encoder's rows become, such as `input_ids` (n, width) and `attention_mask`, and gives
    `features` (n, d) and for each task `outputs.<task>`: logits (n, labels), or numbers. Where rows are pairs, there
    are 2 n sequences, first the n first texts. Of a task that ranks passages there are features alone: queries and
    passages are each one sequence, and their cosines (or products) are the scores. Tasks that read rows in one way
    share a graph, and graphs share their weights. The folder is a model as any other: `allround.load`, `predict`,
    `evaluate` and `serve` take it.

    tasks: by default all. int8: weights of matrix products and embeddings as whole numbers of 8 bits, in the graphs
    alone; heads that the folder itself uses keep their numbers. Errors: an encoder or a head that no graph can hold; a
    graph that is further than 1e-4 from the model (not with int8, of which `Exported.furthest` says how far it is).
    """
    model = open_model(model) if not isinstance(model, MultiTaskModel) else model
    _check_installed()
    chosen = list(tasks or model.definitions)
    for task in chosen:
        check_single(model.definition(task), f"export task '{task}' to ONNX")
        if not _ranks(model, task):
            model.output_head(task)
    model = model.to("cpu").eval()
    with output_folder(out, "export", force=force) as folder:
        (folder / "encoder").mkdir()
        settings = _write_graphs(model, chosen, folder / "encoder", int8)
        made = MultiTaskModel(Onnx.load(folder / "encoder", settings), {})
        for task in chosen:
            made.add_task(model.definition(task), model.head(task).stored())
        furthest = max(map(difference, *zip(*_answers(model, made, chosen), strict=True)), default=0.0)
        if furthest > CLOSE and not int8:
            raise AllroundError(
                f"export {out}", f"its graph gives numbers that differ by {furthest:.1g} from the model's",
                "this is a fault of the export: please report it, with the base",
            )  # fmt: skip
        made.facts = {**model.facts, "exported": {"precision": "int8" if int8 else "float32", "furthest": furthest}}
        made.write_parts(folder)
        files = [*(folder / "encoder").glob("*.onnx"), folder / "encoder" / WEIGHTS]
        return Exported(Path(out), settings["graphs"], sum(file.stat().st_size for file in files), furthest)


def difference(one: Tensor, other: Tensor) -> float:
    """The largest difference of two tensors' numbers, relative to 1 or to the first's number where that is larger.

    >>> difference(torch.tensor([100.0, 0.0]), torch.tensor([101.0, 0.0]))
    0.009999999776482582
    """
    if not one.numel():
        return 0.0
    return float(((one - other).abs() / one.abs().clamp_min(1)).max())


def _ranks(model: MultiTaskModel, task: str) -> bool:
    """Whether a task compares vectors of queries and passages, and so reads nothing but features."""
    return isinstance(model.head(task), Ranking)


class _Graph(nn.Module):
    """Tensors of a batch in, features and the outputs of heads out. Those that rank passages have none."""

    def __init__(self, model: MultiTaskModel, tasks: Sequence[str], example: Batch) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.answered = [task for task in tasks if not _ranks(model, task)]
        self.heads = nn.ModuleList(model.head(task) for task in self.answered)
        self.tasks, self.names = list(tasks), list(example.tensors)
        first = example.tensors[self.names[0]]
        self.sides = len(first) // example.size

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        size = tensors[0].shape[0] // self.sides
        rows: dict[str, tuple[int, ...]] = dict.fromkeys(self.tasks, ())
        values = self.encoder(Batch(dict(zip(self.names, tensors, strict=True)), size, rows=rows)).values
        return values, *(head(values) for head in self.heads)


def _write_graphs(model: MultiTaskModel, tasks: Sequence[str], folder: Path, int8: bool) -> dict[str, Any]:
    """Write graphs, their weights and what reads rows; the settings of the encoder that the folder then holds."""
    together: dict[object, list[str]] = {}
    for task in tasks:
        names = tuple(example(model, task, *SIZES[0]).tensors)
        alone = task if model.encoder.by_task else None
        together.setdefault((names, model.width(task), alone), []).append(task)
    graphs: dict[str, list[str]] = {}
    with (folder / WEIGHTS).open("wb") as weights, tempfile.TemporaryDirectory() as scratch:
        places: dict[bytes, tuple[int, int]] = {}
        for some in together.values():
            file = GRAPH if not graphs else f"model-{some[0]}.onnx"
            made = _graph(model, some, Path(scratch), int8)
            _put_weights_apart(made, weights, places)
            (folder / file).write_bytes(made.SerializeToString())
            graphs[file] = some
    name, settings = model.encoder.write_rows(folder)
    about = {"rows": {"encoder": name, "settings": settings}, "graphs": graphs, "numbers": model.encoder.numbers,
             "by_task": model.encoder.by_task}  # fmt: skip
    write_json(folder / CONFIG, {"encoder": Onnx.name, "settings": about})
    return about


def _graph(model: MultiTaskModel, tasks: Sequence[str], scratch: Path, int8: bool) -> Any:
    """The graph of tasks that read rows in one way, as a protocol buffer with its weights in it."""
    import onnx

    first, second = (example(model, tasks[0], *size) for size in SIZES[:2])
    graph = _Graph(model, tasks, first).eval()
    with torch.no_grad(), _silent():
        program = torch.onnx.export(
            graph,
            tuple(first.tensors.values()),
            dynamo=True,
            dynamic_shapes=(_dimensions(first, second),),
            input_names=list(first.tensors),
            output_names=[FEATURES, *(f"outputs.{task}" for task in graph.answered)],
            verbose=False,
        )
        assert program is not None
        place = scratch / "graph.onnx"
        program.save(place)
        if int8:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            small = scratch / "small.onnx"
            quantize_dynamic(place, small, per_channel=True, weight_type=QuantType.QInt8)
            place = small
    return onnx.load(place)


def _dimensions(one: Batch, other: Batch) -> tuple[dict[int, Any], ...]:
    """Which dimensions of a batch's tensors may change, from two batches of other sizes."""
    rows = torch.export.Dim("rows", min=1, max=2**16)
    known: dict[tuple[int, int], Any] = {(one.size, other.size): rows, (2 * one.size, 2 * other.size): 2 * rows}
    found = []
    for name, tensor in one.tensors.items():
        sizes = list(zip(tensor.shape, other.tensors[name].shape, strict=True))
        for pair in sizes:
            if pair[0] != pair[1] and pair not in known:
                known[pair] = torch.export.Dim(f"length_{len(known)}", min=1, max=2**16)
        found.append({place: known[pair] for place, pair in enumerate(sizes) if pair[0] != pair[1]})
    return tuple(found)


def example(model: MultiTaskModel, task: str, rows: int, length: int) -> Batch:
    """A batch of made-up rows: texts and lists so many times as long as the modality's own example, numbers random."""
    definition = model.definition(task)
    row = modality_of(definition).example(len(definition.inputs)).row
    long = tuple(" ".join([v] * length) if isinstance(v, str) else v for v in row)
    long = tuple(v * length if isinstance(v, list) else v for v in long)
    prepared = model.encoder.prepare([long, *[row] * (rows - 1)], definition)
    batch = model.encoder.batch(prepared, definition)
    generator = torch.Generator().manual_seed(rows)
    tensors = {
        name: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in batch.tensors.items()
    }
    return replace(batch, tensors=tensors)


def _answers(one: MultiTaskModel, other: MultiTaskModel, tasks: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
    """What two models' heads give for the same made-up batches; of tasks that rank passages, the features."""
    with torch.inference_mode():
        for task in tasks:
            for size in SIZES:
                batch = example(one, task, *size)
                if _ranks(one, task):
                    yield one.features(batch).values, other.features(batch).values
                else:
                    yield one(task, batch), other(task, batch)


def _put_weights_apart(graph: Any, weights: Any, places: dict[bytes, tuple[int, int]]) -> None:
    """Move a graph's large tensors into the file of weights; what is there already is not written again.

    places: of each tensor's content, by hash, its start and length.
    """
    from hashlib import sha256

    from onnx import TensorProto
    from onnx.external_data_helper import set_external_data

    for tensor in graph.graph.initializer:
        if not tensor.HasField("raw_data") or len(tensor.raw_data) < LARGE:
            continue
        digest = sha256(tensor.raw_data).digest()
        if digest not in places:
            start = -(-weights.tell() // ALIGNED) * ALIGNED
            weights.write(b"\0" * (start - weights.tell()) + tensor.raw_data)
            places[digest] = start, len(tensor.raw_data)
        start, length = places[digest]
        set_external_data(tensor, WEIGHTS, offset=start, length=length)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the exporter's own notes from the screen."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _check_installed() -> None:
    import importlib.util

    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise AllroundError(
            "export a model to ONNX", f"{' and '.join(missing)} must be installed", "pip install 'allround[onnx]'"
        )
