"""Text encoders: any transformers or sentence-transformers folder, with its own pooling."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.files import hash_json, read_json, write_json
from allround.core.locks import Lock
from allround.core.registry import method
from allround.models.encoder import CONFIG, Batch, Encoder
from allround.tasks.definition import Definition


@method(source="pair features u, v, |u - v|, u * v: Conneau et al., EMNLP 2017, arXiv:1705.02364")
class Text(Encoder):
    """A sentence-transformers pipeline; a plain transformers folder gets mean pooling.

    A text's feature is the pipeline's embedding (n, d), times sqrt(d) so that a normalised embedding has entries
    of about one. The two texts of a pair are read apart (`pairs="separate"`: features u, v, |u - v|, u * v, length
    4 d) or together as one sequence (`pairs="joint"`: length d). Words (token classification) are read at their
    first piece; a word cut off by `max_length` has a feature of zeros.

    The saved folder loads in plain sentence-transformers and in plain transformers.
    """

    name = "text"
    modalities = ("text",)
    learning_rate = 5e-5
    epochs = 3

    def __init__(self, pipeline: Any, *, max_length: int = 128, pairs: str = "separate") -> None:
        super().__init__()
        if pairs not in ("separate", "joint"):
            raise AllroundError(f"read pairs as '{pairs}'", "there is no such way", "use one of: joint, separate")
        self.pipeline = pipeline
        self.tokenizer = pipeline.tokenizer
        self._tokenizing = Lock()  # a tokenizer keeps how it cuts texts, and lets no other thread use it meanwhile
        self.max_length = min(max_length, pipeline.max_seq_length or max_length)
        self.pairs = pairs
        self.dim = int(pipeline.get_embedding_dimension())

    @property
    def backbone(self) -> torch.nn.Module:
        network: torch.nn.Module = self.pipeline[0].model
        return network

    def features(self, definition: Definition) -> int:
        return self.dim * (4 if definition.pair and self.pairs == "separate" else 1)

    @cached_property
    def preparation(self) -> Any:
        return [self.name, self.max_length, self.pairs, _of_tokenizer(self.tokenizer)]

    def prepare(self, inputs: Sequence[tuple[Any, ...]], definition: Definition) -> list[dict[str, Any]]:
        self.check(definition)
        if definition.kind == "token_classification":
            return self._prepare_words([list(words) for (words,) in inputs])
        texts = [[_instructed(definition, str(row[0])) for row in inputs]]
        if definition.pair:
            texts.append([str(row[1]) for row in inputs])
        elif len(definition.inputs) > 1:
            raise AllroundError(
                f"read {len(definition.inputs)} texts in each row of task '{definition.name}'",
                "an encoder reads one text, or a pair",
                "name one or two columns under 'inputs'",
            )
        if definition.pair and self.pairs == "joint":
            coded = self._tokenized(*texts)
            types = coded.get("token_type_ids")
            return [{"ids": [ids], "types": types[i] if types else None} for i, ids in enumerate(coded["input_ids"])]
        sides = [self._tokenized(side)["input_ids"] for side in texts]
        return [{"ids": list(ids)} for ids in zip(*sides, strict=True)]

    def _tokenized(self, *texts: Any, **options: Any) -> Any:
        with self._tokenizing:
            return self.tokenizer(*texts, truncation=True, max_length=self.max_length, padding=False, **options)

    def _prepare_words(self, rows: list[list[str]]) -> list[dict[str, Any]]:
        coded = self._tokenized(rows, is_split_into_words=True)
        prepared = []
        for i, words in enumerate(rows):
            first: dict[int, int] = {}
            for position, word in enumerate(coded.word_ids(i)):
                if word is not None:
                    first.setdefault(word, position)
            prepared.append({"ids": [coded["input_ids"][i]], "words": [first.get(w, -1) for w in range(len(words))]})
        return prepared

    def length(self, prepared: Any) -> int:
        return max(len(ids) for ids in prepared["ids"])

    def collate(self, prepared: Sequence[Any], definition: Definition) -> Batch:
        sides = len(prepared[0]["ids"])
        sequences = [p["ids"][side] for side in range(sides) for p in prepared]
        width = max(len(s) for s in sequences)
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.full((len(sequences), width), pad, dtype=torch.long)
        mask = torch.zeros((len(sequences), width), dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        tensors = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self.tokenizer.model_input_names:
            tensors["token_type_ids"] = torch.zeros_like(ids)
            for row, one in enumerate(prepared):
                if one.get("types") is not None:
                    tensors["token_type_ids"][row, : len(one["types"])] = torch.tensor(one["types"])
        lengths: tuple[int, ...] = ()
        if "words" in prepared[0]:
            lengths = tuple(len(p["words"]) for p in prepared)
            tensors["words"] = torch.tensor(
                [(row * width + w) if w >= 0 else -1 for row, p in enumerate(prepared) for w in p["words"]],
                dtype=torch.long,
            )
        return Batch(tensors, len(prepared), lengths)

    def forward(self, batch: Batch) -> Tensor:
        given = {k: v for k, v in batch.tensors.items() if k != "words"}
        found = self.pipeline(given)
        if "words" in batch.tensors:
            words = batch.tensors["words"]
            flat = found["token_embeddings"].reshape(-1, self.dim)
            gathered: Tensor = flat[words.clamp_min(0)] * (words >= 0).unsqueeze(-1)
            return gathered
        embedding: Tensor = found["sentence_embedding"] * self.dim**0.5
        if len(embedding) == batch.size:
            return embedding
        u, v = embedding[: batch.size], embedding[batch.size :]
        return torch.cat([u, v, (u - v).abs(), u * v], -1)

    def save(self, folder: Path) -> None:
        self.pipeline.save_pretrained(str(folder), create_model_card=False)
        settings = {"max_length": self.max_length, "pairs": self.pairs}
        write_json(folder / CONFIG, {"encoder": self.name, "settings": settings})

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> Text:
        from allround.core.jobs import quiet_libraries

        quiet_libraries()
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise AllroundError(
                f"load the text encoder in {folder}",
                "the package sentence-transformers is not installed",
                "pip install 'allround[text]'",
            ) from error
        _check_modules(folder)
        pipeline = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        return cls(pipeline, **settings)


def _of_tokenizer(tokenizer: Any) -> str:
    """A hash of what a tokenizer does with a text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        about = tokenizer.get_vocab()
    else:  # without what it was asked for in the last call
        about = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("truncation", "padding")}
    return hash_json([type(tokenizer).__name__, tokenizer.truncation_side, tokenizer.model_input_names, about])


def _instructed(definition: Definition, text: str) -> str:
    return f"{definition.instruction} {text}" if definition.instruction else text


def _check_modules(folder: Path) -> None:
    """Refuse pipelines that would import code from outside sentence-transformers, and pickled weights."""
    from allround.checkpoints.weights import Weights

    Weights(folder)
    listed = folder / "modules.json"
    modules = read_json(listed) if listed.is_file() else []
    if not isinstance(modules, list) or not all(isinstance(module, Mapping) for module in modules):
        raise AllroundError(
            f"load the encoder in {folder}", "modules.json is not a list of modules", "copy or download it again"
        )
    for module in modules:
        if not str(module.get("type", "")).startswith("sentence_transformers."):
            raise AllroundError(
                f"load the encoder in {folder}",
                f"modules.json names the class '{module.get('type')}', which is not of sentence-transformers",
                "allround runs no code that comes with a model; use a model made of standard modules",
            )
        if ".." in Path(str(module.get("path", ""))).parts or Path(str(module.get("path", ""))).is_absolute():
            raise AllroundError(
                f"load the encoder in {folder}",
                f"modules.json points outside the folder: '{module.get('path')}'",
                "get the model from a source you trust",
            )
        place = folder / str(module.get("path", ""))
        if list(place.glob("*.bin")) and not list(place.glob("*.safetensors")):
            raise AllroundError(
                f"load the encoder in {folder}",
                f"the weights of its module '{module.get('path')}' are pickled, and a pickle can run code",
                "save the model as safetensors where you trust it: SentenceTransformer(folder).save(new_folder)",
            )
