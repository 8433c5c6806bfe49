"""Files of statistics: written beside a model, checked against the models of a merge."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from allround.checkpoints.fingerprint import fingerprint
from allround.checkpoints.header import FLOATS, dtype_name
from allround.checkpoints.source import Source
from allround.checkpoints.weights import Weights
from allround.checkpoints.write import weights_file
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.reading import parse_json
from allround.core.schema import fitted


def write_statistic(
    path: Path,
    tensors: Mapping[str, Sequence[Tensor]],
    parts: Sequence[str],
    facts: Mapping[str, object],
) -> None:
    """Write a statistic: tensor name -> one tensor for each part. Its facts are the file's metadata."""
    named = {stored(name, part): tensor for name, found in sorted(tensors.items())
             for part, tensor in zip(parts or ("",), found, strict=True)}  # fmt: skip
    layout = {name: (dtype_name(tensor.dtype), tuple(tensor.shape)) for name, tensor in named.items()}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    with weights_file(path, layout, {"format": "pt", **texts}) as file:
        for name, tensor in named.items():
            file.write(name, 0, tensor.contiguous().reshape(-1))


def stored(name: str, part: str) -> str:
    """The name under which a part of a weight's statistic lies in the file.

    >>> stored("layer.weight", ""), stored("layer.weight", "input")
    ('layer.weight', 'layer.weight.input')
    """
    return f"{name}.{part}" if part else name


def transposed_in(file: Source) -> frozenset[str]:
    """The weights that a file of statistics calls stored as (in, out)."""
    try:
        return frozenset(fitted(list[str], parse_json(getattr(file, "metadata", {}).get("transposed", "[]"))))
    except ValueError as error:
        raise AllroundError(
            f"read the statistics in {file.path}",
            f"what it says of weights stored as (in, out) is damaged: {error}",
            "compute them again: `allround stats`",
        ) from None


def check_made_for(kind: str, files: Sequence[Weights], models: Sequence[Source], asked: str) -> None:
    """An error unless each file is one of `kind`, and of its model. Files that do not say so are taken as they are."""
    marks: dict[int, str] = {}

    def mark(number: int) -> str:
        if number not in marks:
            marks[number] = fingerprint(models[number])
        return marks[number]

    for number, (file, model) in enumerate(zip(files, models, strict=True)):
        said = file.metadata.get("statistic")
        if said is not None and said != kind:
            raise AllroundError(
                asked,
                f"{file.path} holds statistics of the kind '{said}', and is given as '{kind}'",
                f"compute them: {command(kind, model.path)}",
            )
        _check_shapes(kind, file, model, asked)
        made_for = file.metadata.get("fingerprint")
        if made_for is None or made_for == mark(number):
            continue
        other = next((models[n].path for n in range(len(models)) if mark(n) == made_for), None)
        found = f"the {kind} statistics in {file.path} were made from " + (
            f"{other}, and are given for {model.path}" if other else
            f"{file.metadata.get('model', 'another model')} as it was then, which is not {model.path} as it is now"
        )  # fmt: skip
        do = (
            "give the files in the order of the models" if other else f"compute them again: {command(kind, model.path)}"
        )
        raise AllroundError(asked, found, do)


def _check_shapes(kind: str, file: Weights, model: Source, asked: str) -> None:
    """An error where a statistic of a weight has not the shape that its kind gives for a weight of that shape."""
    facts, turned = registry.find("statistic", kind).facts, transposed_in(file)
    for name in model:
        shape = model.shape(name)
        if not shape or (len(shape) != 2 and "parameters" not in facts["sees"]):
            continue
        out, width = shape[::-1] if name in turned else (shape[0], shape[-1])
        for part in facts["parts"] or ("",):
            key = stored(name, part)
            if key not in file:
                continue
            side = out if part == "output" else width
            known = [shape] if "parameters" in facts["sees"] else [(side, side), (shape[0],)]
            if "outputs" not in facts["sees"] and (file.shape(key) not in known or file.dtype(key) not in FLOATS):
                raise AllroundError(
                    asked,
                    f"'{key}' in {file.path} is {file.dtype(key)} {file.shape(key)}, which is not {kind} of {shape}",
                    f"compute them again: {command(kind, model.path)}",
                )


def command(kind: str, model: Path | str) -> str:
    """The command that computes a statistic of a model.

    >>> command("gram", "models/trec/encoder")
    'allround stats models/trec SUITE --kind gram -o trec.gram.safetensors'
    """
    folder = Path(model)
    folder = folder.parent if folder.name == "encoder" else folder
    return f"allround stats {shlex.quote(str(folder))} SUITE --kind {kind} -o {folder.name}.{kind}.safetensors"
