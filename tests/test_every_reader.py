"""Every reader of files against what is no file, is damaged, deep, wide or of other types: it reads, or says why not.

All cases run in a process of their own, with limits of time and memory, so that none of them can harm the machine; a
process that dies is followed by another. What a case ended with is what its test compares.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.models.language import save_model

import allround
from allround.checkpoints.adapter import Adapter
from allround.checkpoints.tied import config_of
from allround.checkpoints.tokens import moved_tokens
from allround.checkpoints.weights import Weights
from allround.composition.examples import EXAMPLES, Bank, Example, read_examples, write_examples
from allround.composition.library.card import Card, TunedTask, read_card, write_card
from allround.composition.library.known import tasks_in
from allround.composition.library.library import Library
from allround.composition.library.likeness import read_sketch, write_sketch
from allround.composition.residuals.store import Store
from allround.composition.residuals.write import open_specialist, write_store
from allround.continual.kept_rows import KeptRows
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import MANIFEST, hash_file, read_json, write_json
from allround.core.outputs import read_listing
from allround.core.pieces import Piece
from allround.evaluation.predictions import Predictions
from allround.evaluation.scoreboard import Scoreboard
from allround.evaluation.training import TrainingComparison
from allround.merging.diff import Diff, diff
from allround.merging.finish import Configure
from allround.merging.folder import Done, encoder_settings
from allround.merging.layout import make_plan
from allround.merging.named_base import named_base
from allround.merging.preflight import compare_files
from allround.merging.recipe import Model, Recipe
from allround.merging.recipe_file import read_recipe
from allround.merging.save import finished
from allround.merging.statistics.file import check_made_for, transposed_in, write_statistic
from allround.merging.templates import chosen_template
from allround.merging.tokenizers import open_tokenizer
from allround.models import device
from allround.models.base import load_encoder
from allround.models.encoders.small_image import SmallImage
from allround.models.head_files import read_heads
from allround.models.indexed import ABOUT, TEXTS, IndexAbout, open_index, write_texts
from allround.models.manifest import read_manifest
from allround.models.network import classifier_in, modules_of, network_folder
from allround.models.system import load
from allround.models.systems.generative_retrieval import read_identifiers
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.collections.promptsource import read_templates
from allround.tasks.modalities.image import Image as ImageModality
from allround.tasks.passages import Passages
from allround.tasks.sources.load import load_raw
from allround.tasks.sources.stream import read_windows
from allround.tasks.spec import read_suite
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training.terms.candidate_scores import read_scores
from allround.training.unfinished import UnfinishedTraining
from allround.transfer.files import read_matrices, write_matrices
from allround.transfer.matrix import TaskMatrix
from allround.transfer.relations import matrices_of

sys.path.insert(0, str(Path(__file__).parent / "evaluation"))

from boards import board
from comparisons import comparison

#: Seconds of the processor that a case may take, seconds by the clock that guard against waiting, and bytes.
SECONDS, WAIT, BYTES = 10, 60, 500 << 20
DEEP, WIDE = 200_000, 1_000_000
ODD: list[Any] = [None, True, 0, -1, 7, 2**40, 2**70, 0.5, -1e308, float("nan"), float("inf"), "", "x", "\ud800", "1",
                  [], [1], [[]], {}, {"a": 1}, ["a", "a"], "../x", "-" * 300]  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """One kind of file. format: of the file; those that end in "-" are read by a function that another row tries with
    deep and wide files. make: fills an empty folder with a sample, and gives the file that is then replaced. read:
    reads it as its command does. of: the modules of the package that open it. quiet: it takes what it cannot read for
    absent. absent: it does without the file."""

    name: str
    format: str
    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    of: tuple[str, ...]
    quiet: bool = False
    absent: bool = False


@dataclass
class Shared:
    """What samples are made from."""

    hf: Path
    pipeline: Path
    image: SmallImage
    digits: Suite
    words: Suite


# Samples.


def text(name: str, content: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(content, encoding="utf-8")
        return folder / name

    return make


def parquet(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {"text": ["one", "two"], "label": [0, 1]}
    pq.write_table(pa.table(rows), folder / "a.parquet")
    return folder / "a.parquet"


def archive(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.zip", "w") as file:
        file.writestr("train.csv", "text,label\none,0\ntwo,1\n")
    return folder / "a.zip"


def picture(folder: Path) -> Path:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 20), dtype=np.uint8)).save(folder / "a.png")
    return folder / "a.png"


def pictures(folder: Path) -> Path:
    for label in ("cat", "dog"):
        for split in ("train", "validation", "test"):
            made = picture(folder / "set" / split / label)
    (folder / "suite.yml").write_text(
        "tasks:\n  pets: {source: {path: set}, kind: classification, inputs: image, target: label}\n"
    )
    return made


def weights(folder: Path) -> Path:
    save_file({"layer.weight": torch.eye(3), "layer.bias": torch.ones(3)}, folder / "model.safetensors")
    return folder / "model.safetensors"


def shards(folder: Path) -> Path:
    weights(folder).rename(folder / "model-00001-of-00001.safetensors")
    listed = dict.fromkeys(("layer.weight", "layer.bias"), "model-00001-of-00001.safetensors")
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 48}, "weight_map": listed}))
    return path


def adapter(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        about = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["layer"], "bias": "none",
                 "task_type": None, "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False}  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(about))
        factors = {"base_model.model.layer.lora_A.weight": torch.ones(2, 3),
                   "base_model.model.layer.lora_B.weight": torch.ones(3, 2)}  # fmt: skip
        save_file(factors, folder / "adapter_model.safetensors")
        return folder / name

    return make


def pickled(folder: Path) -> Path:
    torch.save({"layer.weight": torch.eye(3)}, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def training(folder: Path) -> Path:
    torch.save({"made_from": "x", "weights": {"a": torch.ones(3)}}, folder / "training.pt")
    return folder / "training.pt"


def statistics(folder: Path) -> Path:
    weights(folder)
    facts = {"statistic": "gram", "transposed": [], "rows": 3}
    write_statistic(folder / "gram.safetensors", {"layer.weight": (torch.eye(3),)}, (), facts)
    return folder / "gram.safetensors"


def read_statistics(path: Path) -> None:
    file, model = Weights(path), Weights(path.parent / "model.safetensors")
    check_made_for("gram", [file], [model], "merge")
    transposed_in(file)
    for name in file:
        file.get(name)


def read_all(path: Path, **how: Any) -> None:
    found = Weights(path, **how)
    for name in found:
        found.get(name)


def saved(made: Callable[[], Any], name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        made().save(folder / "out")
        return folder / "out" / name

    return make


def differences(folder: Path) -> Path:
    for name in ("base", "tuned"):
        (folder / name).mkdir()
        weights(folder / name)
    diff(str(folder / "base"), [str(folder / "tuned")]).save(folder / "out")
    return folder / "out" / "diff.json"


def pair(name: str) -> Callable[[Path], Path]:
    """Two models with files beside their weights; that of the second is replaced."""

    def make(folder: Path) -> Path:
        for part in ("base", "tuned"):
            (folder / part / "1_Pooling").mkdir(parents=True)
            weights(folder / part)
            (folder / part / name).write_text('{"model_type": "x", "hidden_size": 3}')
        return folder / "tuned" / name

    return make


def plan_of(path: Path) -> Any:
    folder = next(p for p in path.parents if (p / "base").is_dir())
    return make_plan(Recipe("average", (Model(str(folder / "tuned")),), Model(str(folder / "base"))))


def piece(folder: Path) -> Path:
    with Piece(folder / "p", {"a": 1}).make() as (inner, facts):
        (inner / "x").write_text("y")
        facts["b"] = 2
    return folder / "p" / "piece.json"


def read_piece(path: Path) -> None:
    made = Piece(path.parent, {"a": 1})
    if made.done:
        assert made.facts == {"b": 2}
    made._files()


def manifest(folder: Path) -> Path:
    (folder / MANIFEST).write_text(json.dumps({"format": 1, "files": {"a": {"command": "x", "bytes": 1}}}))
    return folder / MANIFEST


def library(folder: Path) -> Path:
    about = {"format": "allround library 1", "allround": "1", "base": "org/base", "path": None, "fingerprint": "x"}
    (folder / "library.json").write_text(json.dumps(about))
    return folder / "library.json"


def index_of_passages(folder: Path) -> Path:
    np.save(folder / "vectors.npy", np.eye(2, 3, dtype=np.float32))
    write_texts(Passages.of({"a": "one", "b": "two"}), folder / TEXTS)
    files = {name: hash_file(folder / name) for name in (TEXTS, "vectors.npy")}
    about = IndexAbout("find", "x", "y", 2, 3, "exact", {}, files, {})
    write_json(folder / ABOUT, about.to_json())
    return folder / ABOUT


def card(folder: Path) -> Path:
    write_card(folder, Card("x", "lora", "adapter", (4,), 2, 64, 300, 1.5, "y", {"mood": TunedTask("accuracy", 0.5)}))
    return folder / "card.json"


def examples(folder: Path) -> Path:
    write_examples(folder, Bank([Example("mood", ("fine",), "good"), Example("mood", ("bad",), "poor")]))
    return folder / EXAMPLES


def sketch(folder: Path) -> Path:
    write_sketch(folder, np.ones((32, 32), np.float32))
    return folder / "sketch.npy"


def transfer(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write_matrices(folder / name, [TaskMatrix("gain", ("a", "b"), ("t",), np.array([[1.0], [2.0]]))])
        return folder / name

    return make


def readers(shared: Shared) -> list[Reader]:
    """The table. Whoever adds a reader of files adds it here."""
    suite = "tasks:\n  mood: {source: mood.csv, kind: classification, inputs: text, target: label}\n"
    own = "method: ties\nbase: a\nmodels: [b, c]\nparameters: {keep: 0.2}\n"
    mergekit = (
        "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 0.5}}\n"
        "- {model: b, parameters: {weight: 0.5}}\ndtype: float32\n"
    )
    rows = "text,label\none,0\ntwo,1\n"

    def raw(path: Path) -> None:
        load_raw(path.name, base_dir=path.parent)
        load_raw(path.name, base_dir=path.parent, as_written=["label"])

    def answered(path: Path) -> None:
        for window in read_windows(path):
            list(window.objects())

    def copied(source: Path, name: str) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            shutil.copytree(source, folder / "model")
            return folder / "model" / name

        return make

    def encoder(path: Path) -> None:
        load_encoder(next(p for p in path.parents if p.name in ("model", "encoder")))

    def language_model(file: str) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            return save_model(folder / "model", "llama") / file

        return make

    def tokens(path: Path) -> None:
        moved_tokens(shared.hf, path.parent)
        open_tokenizer(path.parent)

    def vocabulary(name: str, content: bytes) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            for part in ("base", "tuned"):
                (folder / part).mkdir()
                (folder / part / name).write_bytes(content + (b"" if part == "base" else b"\n"))
            return folder / "tuned" / name

        return make

    def model(name: str) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            MultiTaskModel(shared.image, {"digit": shared.digits.tasks["digit"].definition}).save(folder / "m")
            return folder / "m" / name

        return make

    def store(name: str) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            (folder / "base").mkdir()
            shared.image.save(folder / "base")
            MultiTaskModel(shared.image, {"digit": shared.digits.tasks["digit"].definition}).save(folder / "digit")
            write_store(folder / "store", folder / "base", [open_specialist(folder / "digit")], codec="sparse")
            return folder / "store" / name

        return make

    def read_store(path: Path) -> None:
        opened = Store.open(next(p for p in path.parents if p.name == "store"))
        opened.residual(opened.file("digit"))

    def tasks(folder: Path) -> Path:
        about = [shared.digits.tasks["digit"].definition.to_json()]
        (folder / "tasks.json").write_text(json.dumps({"tasks": about, "facts": {}, "reading": None}))
        return folder / "tasks.json"

    def predictions(folder: Path) -> Path:
        task = shared.words.tasks["mood"]
        targets = task.splits["test"].targets
        Predictions(task.definition, "test", targets, targets, [0.5] * len(targets), 1.0).save(folder / "p.parquet")
        return folder / "p.parquet"

    def task(name: str) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            shared.digits.tasks["digit"].save(folder / "t")
            return folder / "t" / name

        return make

    def remembered(folder: Path) -> Path:
        digit = shared.digits.tasks["digit"].limit({"train": 10, "validation": 10, "test": 5})
        model = MultiTaskModel(shared.image, {"digit": digit.definition})
        KeptRows().with_tasks([digit], model, 10_000, seed=0).write(folder)
        return folder / "memory.json"

    def configured(path: Path) -> None:
        Configure({"vocab_size": 3})(path.parent)
        config_of(Weights(path.parent / "model.safetensors"))

    def collection(name: str) -> Callable[[Path], object]:
        return lambda path: registry.load("collection", name)([path])

    instructions = '{"Definition": ["a"], "Positive Examples": [], "Instances": [{"input": "a", "output": ["b"]}]}'
    templates = "dataset: a\ntemplates:\n  b: {name: c, jinja: 'd ||| e', answer_choices: f}\n"

    def annotated(folder: Path) -> Path:
        (folder / "rows.csv").write_text("b,c\nx,y\n")
        return text("a.yml", "a: {type: Classification, dataset_name: rows.csv, sentence1: b, labels: c}\n")(folder)

    done = '{"notes": [], "hashes": {"0": {"a": "b"}}, "reports": {"a": {"b": 1.5}}}'
    numbers = '{"a": {"fp32": 1.0}}'
    return [
        Reader("suite", "yaml", text("a.yml", suite), read_suite, ("tasks/spec.py",)),
        Reader("recipe", "yaml", text("a.yml", own), read_recipe, ("core/documents.py", "merging/recipe_file.py")),
        Reader("recipe of mergekit", "yaml-", text("a.yml", mergekit), read_recipe, ("merging/recipe_file.py",)),
        Reader("natural instructions", "json-", text("a.json", instructions), collection("natural_instructions"),
               ("tasks/collections/natural_instructions.py",)),
        Reader("templates", "yaml-", text("a.yaml", templates), read_templates,
               ("tasks/collections/promptsource.py",)),
        Reader("annotations", "yaml-", annotated, collection("tasksource"),
               ("tasks/collections/tasksource.py",)),
        Reader("csv", "csv", text("a.csv", rows), raw,
               ("tasks/sources/text_files.py", "tasks/sources/files.py")),
        Reader("tsv", "tsv", text("a.tsv", rows.replace(",", "\t")), raw,
               ("tasks/sources/text_files.py", "tasks/sources/sniff.py")),
        Reader("json rows", "rows", text("a.json", '[{"text": "a", "label": 0}]'), raw,
               ("tasks/sources/text_files.py",)),
        Reader("jsonl", "jsonl", text("a.jsonl", '{"text": "a", "label": 0}\n'), raw, ("tasks/sources/text_files.py",)),
        Reader("rows to answer", "csv", text("a.csv", rows), answered, ("tasks/sources/stream.py",)),
        Reader("objects to answer", "jsonl", text("a.jsonl", '{"text": 1}\n'), answered, ("tasks/sources/stream.py",)),
        Reader("batches to answer", "parquet", parquet, answered, ("tasks/sources/stream.py",)),
        Reader("lines to answer", "text", text("a.txt", "a\nb\n"), answered, ("tasks/sources/stream.py",)),
        Reader("parquet", "parquet", parquet, raw, ("tasks/sources/parquet.py",)),
        Reader("zip", "zip", archive, raw, ("tasks/sources/archive.py",)),
        Reader("image to answer", "image", picture, lambda path: ImageModality().parse(str(path), 0),
               ("tasks/modalities/image.py",)),
        Reader("folder of images", "image", pictures, lambda path: Suite.load(path.parents[3] / "suite.yml"),
               ("tasks/sources/image_folder.py",), absent=True),
        Reader("safetensors", "safetensors", weights, read_all, ("checkpoints/weights.py", "checkpoints/header.py")),
        Reader("index", "json", shards, lambda path: read_all(path.parent), ("checkpoints/weights.py",), absent=True),
        Reader("pickle", "bytes", pickled, lambda path: read_all(path, pickles=True), ("checkpoints/weights.py",)),
        Reader("adapter's config", "json", adapter("adapter_config.json"), lambda path: Adapter(path.parent),
               ("checkpoints/adapter_config.py",)),
        Reader("adapter's weights", "safetensors-", adapter("adapter_model.safetensors"),
               lambda path: Adapter(path.parent), ("checkpoints/weights.py",)),
        Reader("config of a base", "json", copied(shared.hf, "config.json"), encoder,
               ("models/base.py", "models/pretrained.py")),
        Reader("config of a language model", "json-", language_model("config.json"), encoder,
               ("models/language/loading.py",)),
        Reader("weights of a base", "safetensors-", copied(shared.hf, "model.safetensors"), encoder,
               ("models/pretrained.py",)),
        Reader("tokenizer of a base", "json-", copied(shared.hf, "tokenizer.json"), encoder, ("models/base.py",)),
        Reader("tokenizer's config of a base", "json", copied(shared.hf, "tokenizer_config.json"), encoder,
               ("models/pretrained.py",), absent=True),
        Reader("modules", "json", copied(shared.pipeline, "modules.json"), encoder, ("models/encoders/text.py",),
               absent=True),
        Reader("settings of a pipeline", "json", copied(shared.pipeline, "sentence_bert_config.json"), encoder,
               ("models/encoders/text.py",), absent=True),
        Reader("pooling", "json", copied(shared.pipeline, "1_Pooling/config.json"), encoder, ("models/base.py",)),
        Reader("settings of an encoder", "json", model("encoder/allround_encoder.json"), encoder, ("models/base.py",)),
        Reader("tokenizer of a model", "json", copied(shared.hf, "tokenizer.json"), tokens,
               ("checkpoints/tokens.py", "merging/tokenizers.py")),
        Reader("vocabulary", "text", vocabulary("vocab.txt", b"a\nb\nc"),
               lambda path: moved_tokens(path.parents[1] / "base", path.parent), ("checkpoints/tokens.py",),
               absent=True),
        Reader("pieces of a vocabulary", "bytes", vocabulary("spiece.model", b"\x0a\x05\x0a\x03abc"),
               lambda path: moved_tokens(path.parents[1] / "base", path.parent), ("checkpoints/tokens.py",),
               absent=True),
        Reader("config that is changed", "json", pair("config.json"), configured,
               ("merging/finish.py", "checkpoints/tied.py"), absent=True),
        Reader("chat template", "text", vocabulary("chat_template.jinja", b"{{ messages }}"),
               lambda path: chosen_template("auto", [SimpleNamespace(path=path.parent)]), ("merging/templates.py",),
               absent=True),
        Reader("config that is compared", "json", pair("config.json"), lambda path: compare_files(plan_of(path)),
               ("merging/preflight.py", "checkpoints/tied.py"), absent=True),
        Reader("pooling that is compared", "json", pair("1_Pooling/config.json"),
               lambda path: compare_files(plan_of(path)), ("merging/preflight.py",), absent=True),
        Reader("base that a model names", "json", pair("config.json"), lambda path: named_base(path.parent),
               ("merging/named_base.py",), absent=True),
        Reader("classifier", "json", pair("config.json"), lambda path: classifier_in(path.parent, path.parent),
               ("models/classifier.py",), absent=True),
        Reader("modules of a specialist", "json", copied(shared.pipeline, "modules.json"),
               lambda path: (network_folder(path.parent), modules_of(path.parent)), ("models/network.py",),
               absent=True),
        Reader("settings that are compared", "json", pair("allround_encoder.json"),
               lambda path: encoder_settings(plan_of(path)), ("merging/folder.py",), absent=True),
        Reader("tokenizer that is compared", "json", pair("tokenizer.json"),
               lambda path: diff(str(path.parents[1] / "base"), [str(path.parent)]), ("merging/diff/files.py",),
               absent=True),
        Reader("record of a merge", "json", pair("merge.json"), lambda path: finished(plan_of(path), path.parent),
               ("merging/save.py",), absent=True),
        Reader("notes of a shard", "json", text("a.json", done), Done.read, ("merging/folder.py",)),
        Reader("statistics", "safetensors-", statistics, read_statistics, ("checkpoints/header.py",)),
        Reader("scoreboard", "json", saved(board, "scoreboard.json"), lambda path: Scoreboard.load(path.parent),
               ("evaluation/scoreboard/board.py",)),
        Reader("comparison", "json", saved(comparison, "comparison.json"),
               lambda path: TrainingComparison.load(path.parent), ("evaluation/training/comparison.py",)),
        Reader("matrices of transfer", "csv", transfer("m.csv"), read_matrices, ("transfer/files.py",)),
        Reader("matrices of transfer as Parquet", "parquet", transfer("m.parquet"), read_matrices,
               ("transfer/files.py",)),
        Reader("matrices of relations", "parquet-", transfer("matrices.parquet"),
               lambda path: matrices_of(path.parent), ("transfer/files.py",)),
        Reader("diff", "json", differences, lambda path: Diff.load(path.parent), ("merging/diff/result.py",)),
        Reader("predictions", "parquet", predictions, Predictions.load, ("evaluation/predictions.py",)),
        Reader("model", "json", model("allround.json"), lambda path: read_manifest(path.parent),
               ("models/manifest.py",)),
        Reader("heads", "safetensors", model("heads.safetensors"), lambda path: load(path.parent),
               ("models/manifest.py",)),
        Reader("heads alone", "safetensors-", model("heads.safetensors"), read_heads, ("models/manifest.py",)),
        Reader("store", "json", store("allround.json"), read_store, ("models/manifest.py",)),
        Reader("residual", "safetensors", store("residuals/digit.safetensors"), read_store,
               ("checkpoints/header.py",)),
        Reader("library", "json", library, lambda path: Library.open(path.parent), ("composition/library/about.py",)),
        Reader("index of passages", "json", index_of_passages, lambda path: open_index(path.parent),
               ("models/indexed.py",)),
        Reader("card of a module", "json", card, lambda path: read_card(path.parent),
               ("composition/library/card.py",)),
        Reader("sketch of a module", "bytes", sketch, lambda path: read_sketch(path.parent),
               ("composition/library/likeness.py",)),
        Reader("examples to show", "jsonl", examples,
               lambda path: read_examples(path.parent, {"mood": shared.words["mood"].definition}),
               ("composition/examples.py",)),
        Reader("scores of candidates", "jsonl", text("scores.jsonl", '{"query": "a", "scores": {"p": 1.0}}\n'),
               read_scores, ("training/terms/candidate_scores.py",)),
        Reader("tasks of a module", "json", tasks, lambda path: tasks_in(path.parent),
               ("composition/library/known.py",), absent=True),
        Reader("task", "json", task("definition.json"), lambda path: Task.load(path.parent), ("tasks/task.py",)),
        Reader("rows of a task", "bytes", task("train.arrow"), lambda path: Task.load(path.parent),
               ("tasks/task.py",)),
        Reader("remembered rows", "json", remembered, lambda path: KeptRows.load(path.parent),
               ("continual/kept_rows.py",)),
        Reader("piece", "json", piece, read_piece, ("core/pieces.py",), quiet=True),
        Reader("manifest", "json", manifest, lambda path: read_listing(path.parent), ("core/outputs.py",),
               quiet=True),
        Reader("measured speeds", "json", text("a.json", numbers), device._read, ("models/device.py",), quiet=True),
        Reader("unfinished training", "bytes", training, lambda path: UnfinishedTraining(path, "x").read(),
               ("training/unfinished.py",), absent=True),
        Reader("json", "json-", text("a.json", "{}"), read_json, ("core/files.py",)),
        Reader("identifiers", "json-", text("identifiers.json", '{"a text": "0-0"}'),
               lambda path: read_identifiers(path.parent), ("models/systems/generative_retrieval.py",)),
        Reader("any file", "any", text("a", "b"), hash_file, ("core/files.py",)),
    ]  # fmt: skip


# Cases.


Write = Callable[[Path], Any]
NOT_A_FILE = ("pipe", "zero", "null", "folder", "missing")


def nothing(case: str) -> Write:
    return {
        "pipe": os.mkfifo,
        "zero": lambda path: path.symlink_to("/dev/zero"),
        "null": lambda path: path.symlink_to("/dev/null"),
        "folder": Path.mkdir,
        "missing": lambda path: None,
    }[case]


def put(data: bytes | str) -> Write:
    return lambda path: path.write_bytes(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)


def deep(format: str, sample: bytes) -> Iterator[Write]:
    lists, objects = "[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP
    if format in ("json", "yaml"):
        yield from (put(lists), put(objects), put("[" * DEEP), put('{"a":' * DEEP))
    if format == "json":
        value = json.loads(sample)
        for key in list(value)[:3] if isinstance(value, dict) else ():
            marked = json.dumps({**value, key: "HERE"})
            yield put(marked.replace('"HERE"', "[" * 60 + "]" * 60))
            yield put(marked.replace('"HERE"', lists))
    if format == "yaml":
        first = sample.decode().partition(":")[0]
        yield from (put("- " * DEEP), put("? " * DEEP), put(f"{first}: {lists}"), put(f"{first}: {'&a ' * DEEP}"))
    if format in ("jsonl", "rows"):
        row = '{"text": ' + lists + ', "label": 0}'
        yield put(f"[{row}]" if format == "rows" else f"{row}\n")
        yield put(lists if format == "rows" else f"{objects}\n")
    if format == "safetensors":
        yield from (put(headed(lists)), put(headed(objects)), put(headed('{"__metadata__": ' + objects + "}")))
    if format == "zip":
        yield lambda path: zipped(path, {"a/" * 1900 + "train.csv": "text,label\na,0\n"})
    if format == "parquet":
        yield nested


def headed(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def zipped(path: Path, members: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)


def nested(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    type_, value = pa.int64(), 1
    for _ in range(100):
        type_, value = pa.list_(type_), [value]  # type: ignore[assignment]
    pq.write_table(pa.table({"text": pa.array([value], type_), "label": [0]}), path)


def wide(format: str, sample: bytes) -> Iterator[Write]:
    keys = many_keys()
    if format in ("json", "yaml"):
        yield from (put("{" + keys + "}"), put("[" + "[], " * WIDE + "[]]"))
    if format == "json":
        value = json.loads(sample)
        yield put(json.dumps(value)[:-1].rstrip("{ ") + (", " if value else "{") + keys + "}")
        for key in list(value)[:1] if isinstance(value, dict) else ():
            marked = json.dumps({**value, key: "HERE"})
            yield put(marked.replace('"HERE"', "[" + "0, " * WIDE + "0]"))
            yield put(marked.replace('"HERE"', '"' + "x" * WIDE + '"'))
    if format == "yaml":
        yield from (put("- 0\n" * WIDE), put(f"{keys.replace(', ', chr(10)).replace(chr(34), '')}\n"))
        yield put("a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [{', '.join(['*a'] * 100)}]\n" for n in range(900)))
        yield put(f"{sample.decode().partition(':')[0]}: {'x' * WIDE}\n")
    if format in ("csv", "tsv"):
        separator = "," if format == "csv" else "\t"
        names = separator.join(f"k{n}" for n in range(WIDE))
        yield put(f"{names}\n{separator.join('0' * WIDE)}\n")
        yield put(f"text{separator}label\na{separator}0\n{separator * WIDE}\n")
        yield put(f'text{separator}label\na{separator}0\n"{"x" * (17 << 20)}')
        yield put(separator.join(f"k{n}" for n in range(10_000)) + "\n" + "0\n" * WIDE)
    if format in ("jsonl", "rows"):
        row = "{" + keys + "}"
        yield put(f"[{row}]" if format == "rows" else f"{row}\n")
        row = '{"text": [' + "0, " * WIDE + '0], "label": 0}'
        yield put(f"[{row}]" if format == "rows" else f"{row}\n")
        each = [f'{{"k{n}": 0}}' for n in range(9_000)]
        yield put(f"[{', '.join(each)}]" if format == "rows" else "\n".join(each) + "\n")
    if format == "safetensors":
        empty = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
        yield put(headed("{" + ",".join(f'"k{n}":{empty}' for n in range(WIDE // 20)) + "}"))
        yield put(headed('{"__metadata__": {' + keys + "}}"))
        yield put(headed('{"a": {"dtype": "F32", "shape": [' + "1, " * WIDE + '1], "data_offsets": [0, 4]}}') + b"abcd")
    if format == "text":
        yield put("a\n" * WIDE)
    if format == "zip":
        yield put(many_members(WIDE))
        yield lambda path: zipped(path, {"train.csv": ",".join(f"k{n}" for n in range(WIDE)) + "\n"})
    if format == "image":
        yield put(large_image(30_000))
        yield put(large_image(1_000_000))
    if format == "parquet":
        yield columns
        yield repeated
        yield repeated_text


@cache
def many_keys() -> str:
    return ", ".join(f'"k{n}": 0' for n in range(WIDE))


def many_members(count: int) -> bytes:
    """A zip file whose list names one member very often."""
    name = b"train.csv"
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0)
    listed = (entry + name) * count
    return listed + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count & 65535, count & 65535, len(listed), 0, 0)


def large_image(side: int) -> bytes:
    """A PNG that says that it is far larger than it is."""
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def columns(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({f"k{n}": [0] for n in range(12_000)}), path)


def repeated(path: Path) -> None:
    """A few hundred kilobytes that stand for a hundred million rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    part = pa.table({"text": pa.nulls(2_000_000, pa.string()), "label": pa.nulls(2_000_000, pa.int64())})
    with pq.ParquetWriter(path, part.schema) as writer:
        for _ in range(50):
            writer.write_table(part, row_group_size=2_000_000)
    assert path.stat().st_size < 1_000_000


def repeated_text(path: Path) -> None:
    """A few kilobytes that stand for very much text: a long cell that is stored once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), pa.array(["x" * 500_000]))
    table = pa.table({"text": cells, "label": np.zeros(20_000, np.int64)})
    pq.write_table(table.replace_schema_metadata(None), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 100_000


def types(format: str, sample: bytes) -> Iterator[Write]:
    draw, format = random.Random(0), format.rstrip("-")
    if format == "json":
        value = json.loads(sample)
        yield from (put(json.dumps(odd)) for odd in ODD[::3])
        for _ in range(25):
            yield put(json.dumps(changed(value, draw)))
    if format == "yaml":
        import yaml

        value = yaml.safe_load(sample)
        yield from (put(json.dumps(odd)) for odd in ODD)
        for _ in range(60):
            yield put(yaml.safe_dump(json.loads(json.dumps(changed(value, draw)).replace("\\ud800", ""))))
        for word in ("!!python/object/apply:os.getpid []", "!!binary x", "2001-02-03", "!!timestamp x", "!!set {a}",
                     "!!omap [a]", "!!int x", "!!float x", "0x" + "f" * 9000, "1" * 5000, "1:60:60", "=", "<<: 1",
                     "? [a]\n: b", "*a", "%TAG", "\x00", "\ufeffa"):  # fmt: skip
            yield put(word)
            yield put(f"{sample.decode().partition(':')[0]}: {word}\n")
    if format in ("csv", "tsv"):
        separator = "," if format == "csv" else "\t"
        for cell in ("x", "0.5", "1e400", "NA", "9" * 30, "true", "", "inf", '"a\nb"', "é", "2001-01-01"):
            yield put(f"text{separator}label\n" + f"1{separator}0\n" * 11_000 + f"{cell}{separator}{cell}\n")
    if format in ("jsonl", "rows"):
        for number, odd in enumerate(ODD):
            rows = ['{"text": 1, "label": 0}'] * (11_000 if number % 5 == 0 else 100)
            for last in ({"text": odd, "label": odd}, odd):
                rows.append(json.dumps(last))
                yield put("\n".join(rows) if format == "jsonl" else f"[{', '.join(rows)}]")
    if format == "safetensors":
        length = struct.unpack("<Q", sample[:8])[0]
        header = json.loads(sample[8 : 8 + length])
        for _ in range(60):
            yield put(headed(json.dumps(changed(header, draw))) + sample[8 + length :])
        for dtype in (torch.float64, torch.bfloat16, torch.int64, torch.bool):
            for shape in ((), (0,), (1,), (2, 3)):
                yield lambda path, d=dtype, s=shape: recast(path, sample, d, s)  # type: ignore[misc]
    if format == "parquet":
        for kind in range(8):
            yield lambda path, kind=kind: retyped(path, sample, kind)  # type: ignore[misc]
    if format in ("bytes", "image", "zip", "parquet", "safetensors", "text", "any"):
        for _ in range(60):
            data = bytearray(sample)
            for _ in range(draw.choice((1, 3, 9))):
                data[draw.randrange(len(data))] = draw.randrange(256)
            yield put(bytes(data))


def recast(path: Path, sample: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    from safetensors.torch import load as load_bytes

    save_file({name: torch.ones(shape, dtype=dtype) for name in load_bytes(sample)}, path, {"format": "pt"})


def retyped(path: Path, sample: bytes, kind: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(sample))
    count = len(table)
    values: Any = [
        pa.array([b"\xff"] * count), pa.array([{"a": 1}] * count), pa.array([[1]] * count), pa.array([None] * count),
        pa.array([2**62] * count), pa.array([float("nan")] * count), pa.array([True] * count),
        pa.array([{"bytes": b"x", "path": "/etc/hostname"}] * count),
    ][kind]  # fmt: skip
    made = pa.table(dict.fromkeys(table.column_names, values))
    pq.write_table(made.replace_schema_metadata(table.schema.metadata), path)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in plain data: what holds it, and its key or number there."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


def changed(value: Any, draw: random.Random) -> Any:
    """A copy of plain data in which a value is another, or two are exchanged; more often so near the top."""
    made = copy.deepcopy(value)
    known = list(places(made))
    if not known:
        return draw.choice(ODD)
    top = [(made, key) for key in (made if isinstance(made, dict) else range(len(made)))]
    holder, key = draw.choice(top if draw.random() < 0.5 else known)
    other, there = draw.choice(known)
    holder[key] = copy.deepcopy(draw.choice(ODD) if draw.random() < 0.8 else other[there])
    return made


CASES: dict[str, Callable[[str, bytes], Iterator[Write]]] = {
    "as it is": lambda format, sample: iter([put(sample)]),
    **{case: lambda format, sample, case=case: iter([nothing(case)]) for case in NOT_A_FILE},  # type: ignore[misc]
    "empty": lambda format, sample: iter([put(b"")]),
    "cut": lambda format, sample: iter([put(sample[: len(sample) // 2]), put(sample[:-1]), put(sample[:1])]),
    "not UTF-8": lambda format, sample: iter([put(b"\xff" + sample), put(sample[:-2] + b"\xff\xfe" + sample[-2:])]),
    "deep": deep,
    "wide": wide,
    "types": types,
}


# The process that runs them.


class OverTime(BaseException):
    """No reader may catch it."""


def _over_time(*_: object) -> None:
    raise OverTime


def resident(what: str) -> int:
    """Bytes of memory: now (VmRSS), or at most since `forget` (VmHWM)."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(f"{what}:"))
    return int(line.split()[1]) << 10


def forget() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def attempt(reader: Reader, path: Path, case: str) -> str:
    """How a reader ends with what stands at the path: "" where that is as it should be, else in words."""
    before = resident("VmRSS") if forget() else None
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WAIT)
    try:
        reader.read(path)
        ended = "read"
    except AllroundError as error:
        known = all(isinstance(part, str) and part.strip() for part in (error.asked, error.found, error.do))
        named = any(name in str(error) for name in (path.name, path.parent.name, path.parents[1].name))
        ended = "refused" if known and named else f"says too little: {error!r}"
        str(error).encode("utf-8", "surrogatepass")
    except OverTime:
        ended = f"more than {SECONDS} s of work, or {WAIT} s of waiting"
    except BaseException as error:
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else ""
        ended = f"{type(error).__name__}: {str(error)[:300]} ({where})"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    grown = resident("VmHWM") - before if before is not None else 0
    if grown > BYTES:
        return f"{grown >> 20} MB of memory ({ended})"
    if case == "as it is" and ended != "read":
        return f"the sample itself: {ended}"
    if ended == "read" and case in NOT_A_FILE and not reader.quiet and not reader.absent:
        return "it was read"
    return "" if ended in ("read", "refused") else ended


def work(table: list[Reader], samples: dict[str, Path], todo: list[tuple[int, str]], pipe: Connection) -> None:
    """Try cases one after the other, and send how each ends; before it begins, which it is."""
    signal.signal(signal.SIGPROF, _over_time)
    signal.signal(signal.SIGALRM, _over_time)
    space = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmSize:"))
    most = (int(space.split()[1]) << 10) + (1 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for number, case in todo:
            reader = table[number]
            path = samples[reader.name]
            sample = path.read_bytes()
            pipe.send((number, case, None))
            wrong = []
            for variant, write in enumerate(CASES[case](reader.format, sample)):
                remove(path)
                try:
                    write(path)
                    ended = attempt(reader, path, case)
                finally:
                    remove(path)
                    path.write_bytes(sample)
                wrong += [f"variant {variant}: {ended}"] if ended else []
            pipe.send((number, case, wrong))
    pipe.close()


@pytest.fixture(scope="module")
def ends(
    hf_folder: Path,
    bert_folder: Path,
    small_image: SmallImage,
    digits_suite: Suite,
    text_suite: Suite,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[str, str], list[str]]:
    """Reader and case -> what went wrong."""
    table = readers(Shared(hf_folder, bert_folder, small_image, digits_suite, text_suite))
    assert [reader.name for reader in table] == NAMES
    samples = {}
    for reader in table:
        samples[reader.name] = reader.make(tmp_path_factory.mktemp("reader"))
    todo = [(number, case) for number in range(len(table)) for case in CASES]
    found: dict[tuple[str, str], list[str]] = {}
    while todo:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(target=work, args=(table, samples, todo, theirs))
        process.start()
        theirs.close()
        now = todo[0]
        with contextlib.suppress(EOFError):
            while ours.poll(4 * WAIT):
                number, case, wrong = ours.recv()
                now = (number, case)
                if wrong is not None:
                    found[table[number].name, case] = wrong
                    todo.remove(now)
            process.kill()
        process.join()
        ours.close()
        if now in todo:
            todo.remove(now)
            found[table[now[0]].name, now[1]] = [f"the process ended with {process.exitcode}"]
    return found


NAMES = [
    str(node.args[0].value)
    for node in ast.walk(ast.parse(Path(__file__).read_text(encoding="utf-8")))
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "Reader" and isinstance(node.args[0], ast.Constant)
]


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("name", NAMES)
def test_a_reader_reads_or_says_why_not(name: str, case: str, ends: dict[tuple[str, str], list[str]]) -> None:
    assert ends[name, case] == []


#: Modules that read files by this package's own functions, and are in no row of the table: why not.
OTHERS = {
    "building/jobs/streams.py": "what the same job wrote after the arrival before, in its scratch folder",
    "tasks/harness/configuration.py": "a task file of the lm-evaluation-harness: tests/building/test_benchmarks.py",
    "models/language/gguf.py": "the first four bytes; all else is read by transformers, whose errors are caught",
    "composition/library/adding.py": "files of a module, which Adapter and read_heads read too, and what its card says",
    "cli/tasks.py": "a list of names, of which those are taken that are names of tasks",
    "cli/app.py": "the first lines of the files of commands, which lie in the package",
    "cli/methods.py": "it shows a method file, which the registry has read",
    "building/licences.py": "the card of a base, of which a name alone is taken; what is no card names none",
    "building/push.py": "the file of options that the command line wrote, by the reader of YAML",
    "cli/config.py": "a file of options, compared with the options of the command: tests/cli/test_config.py",
    "tasks/mteb/finding.py": "a folder that the package mteb reads, by datasets, whose errors are caught",
    "building/index.py": "how many vectors an earlier run of the same command made, in its folder of work",
    "models/index/hnswlib.py": "the first numbers of a file whose hash is right",
    "building/queries.py": "queries that the same command wrote, in pieces that have hashes",
    "building/repeats.py": "facts of reports that the same build wrote a moment ago",
    "building/runs/folder.py": "the lock and the last line of the log of a run folder, of which nothing is taken over",
    "building/runs/report.py": "facts of a report, which are compared with their type: tests/building/test_runs.py",
    "building/given.py": "settings of an encoder, which load_encoder reads as well",
    "models/cross_encoder.py": "the list of modules that the encoder wrote into the same folder a moment ago",
    "models/prompts.py": "settings that the encoder wrote into the same folder a moment ago",
    "models/adapted.py": "where the base of an adapter lies: tests/building/test_language.py",
    "core/growing.py": "what a half-made output was begun from, written by the same command",
    "core/locks.py": "the owner of a lock, for a message",
    "core/plugins.py": "a method file that the user names, to be run",
    "core/registry.py": "method files lie in the package alone",
    "serving/keys.py": "lines of a text, of which hashes alone are kept: tests/serving/test_api.py",
    "merging/layout.py": "settings of a classifier that a model was given with, which open_model reads as well",
    "merging/learn/run.py": "settings of an encoder, which load_encoder reads as well",
}
OPENERS = {"open_file", "check_file", "check_folder", "read_bytes", "read_text", "read_json", "read_settings",
           "read_documents", "hash_file", "read_header"}  # fmt: skip


def test_every_module_that_reads_is_in_the_table(
    hf_folder: Path, bert_folder: Path, small_image: SmallImage, digits_suite: Suite, text_suite: Suite
) -> None:
    """Whoever writes a new reader adds a row for it."""
    package = Path(allround.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in OPENERS
    }
    table = readers(Shared(hf_folder, bert_folder, small_image, digits_suite, text_suite))
    listed = {module for reader in table for module in reader.of}
    assert found - {"core/reading.py"} == listed | set(OTHERS)
