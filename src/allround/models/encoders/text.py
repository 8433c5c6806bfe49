"""Text encoders: any transformers or sentence-transformers folder, with its own pooling."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from allround.core.errors import AllroundError
from allround.core.files import is_inside, read_settings, write_json
from allround.core.registry import method
from allround.models.batch import Batch, Features
from allround.models.cross_encoder import can_write, write_cross_encoder
from allround.models.encoder import CONFIG, LINEAR, Encoder, try_out
from allround.models.pretrained import LOADING, check_config, check_size, check_tokenizer, whole
from allround.models.shrinking.anatomy import Anatomy, Kept
from allround.models.shrinking.transformer import anatomy_of, remove
from allround.models.text_rows import TextRows, paired
from allround.tasks.contrast import TOKENS
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind
from allround.tasks.values import Row

#: Modules of sentence-transformers that may come after the network.
_MODULES = ("Pooling", "Dense", "Normalize", "LayerNorm", "Dropout", "WeightedLayerPooling")
#: Files with which sentence-transformers loads the network, and what they may pass on to transformers for it.
_SETTINGS = "sentence_*_config.json"
_PASSED_ON = ("attn_implementation", "dtype", "torch_dtype", "trust_remote_code")
#: Most tokens of a text where nobody asks for more: attention over longer ones takes too long for a default.
LONGEST = 512
#: The kind of tasks on how alike two texts are, and the head that compares their vectors.
SIMILARITY = "similarity"
#: Whether vectors are pooled over the words of instructions too.
INSTRUCTIONS = ("pooled", "masked")
#: The head of tasks that rank passages.
RANKING = "ranking"
#: What an encoder is tried out with when it is loaded.
_TRIAL = Definition("trial", "classification", ("one", "other"), "text", "accuracy", ("no", "yes"))


@method(source="pair features u, v, |u - v|, u * v: Conneau et al., EMNLP 2017, arXiv:1705.02364")
class Text(TextRows, Encoder):
    """A sentence-transformers pipeline; a plain transformers folder gets mean pooling.

    A text's feature is the pipeline's embedding (n, d), times sqrt(d) so that a normalised embedding has entries
    of about one (at a smaller size too). The two texts of a pair are read apart (`pairs="separate"`: features u, v,
    |u - v|, u * v, length 4 d) or together as one sequence (`pairs="joint"`: length d). Words (token classification)
    are read at their first piece; a word cut off by `max_length` has a feature of zeros. Of the tasks in `first_token`
    the features are followed by what the network gives for the first token (length d more), which classifiers of
    transformers read; a pair is then read as one sequence. Of tasks that compare tokens, the features are what the
    network gives for each token of each text, as it is. `instructions="masked"` leaves the tokens of a task's
    instruction out of the vector, though the others attend to them (INSTRUCTOR: Su et al., Findings of ACL 2023,
    arXiv:2212.09741).

    The saved folder loads in plain sentence-transformers and in plain transformers. A vector has as many numbers as
    `truncate_dim` of sentence-transformers says, its first ones; `at_size` gives an encoder of shorter vectors.
    """

    name = "text"
    modalities = ("text",)
    learning_rate = 5e-5
    epochs = 3

    def __init__(
        self,
        pipeline: Any,
        *,
        max_length: int | None = None,
        pairs: str = "separate",
        first_token: Sequence[str] = (),
        instructions: str | None = None,
    ) -> None:
        network = pipeline[0].model
        if pairs not in ("separate", "joint"):
            raise AllroundError(f"read pairs as '{pairs}'", "there is no such way", "use one of: joint, separate")
        super().__init__(
            pipeline.tokenizer,
            max_length=_length(max_length, pipeline, joint=pairs == "joint"),
            dim=int(pipeline.get_embedding_dimension()),
            hidden=int(network.config.hidden_size),
            tokens=_tokens(network),
            pairs=pairs,
            first_token=first_token,
            masked=_masks_instructions(pipeline, instructions),
        )
        self.pipeline = pipeline
        self._at_once = 0
        with pipeline.truncate_embeddings(None):
            self._whole = int(pipeline.get_embedding_dimension())

    @property
    def backbone(self) -> torch.nn.Module:
        network: torch.nn.Module = self.pipeline[0].model
        return network

    def default_head(self, definition: Definition) -> str:
        if kind(definition.kind).ranked:
            return RANKING
        return SIMILARITY if definition.kind == SIMILARITY and self.reads_apart(definition) else LINEAR

    def prepare(
        self, inputs: Sequence[Row], definition: Definition, targets: Encoded | None = None
    ) -> list[dict[str, Any]]:
        self.check(definition)
        return super().prepare(inputs, definition, targets)

    def collate(self, prepared: Sequence[Any], definition: Definition, targets: Encoded | None = None) -> Batch:
        batch = super().collate(prepared, definition, targets)
        if definition.contrast is None or definition.contrast.compare != TOKENS:
            return batch
        return replace(batch, tensors={**batch.tensors, TOKENS: torch.empty(0)})  # that they are asked for, and no more

    def forward(self, batch: Batch) -> Features:
        asked = {"words", TOKENS} & batch.tensors.keys()
        given = {k: v for k, v in batch.tensors.items() if k not in asked}
        chunked = 0 < self._at_once < len(given["input_ids"]) and torch.is_grad_enabled()
        whole = not chunked or bool(asked) or bool(batch.rows.keys() & set(self.first_token))
        found = self._piped(given) if whole else {"sentence_embedding": self._in_chunks(given)}
        if "words" in batch.tensors:
            words = batch.tensors["words"]
            flat = found["token_embeddings"].flatten(0, 1)[:, : self.dim]
            gathered: Tensor = flat[words.clamp_min(0)] * (words >= 0).unsqueeze(-1)
            return Features(gathered, batch.lengths)
        if TOKENS in asked:
            kept = found["attention_mask"].bool()
            counts = iter(kept.sum(1).tolist())
            tokens = tuple(tuple(islice(counts, texts)) for texts in batch.lengths or (1,) * batch.size)
            values = found["token_embeddings"][kept][:, : self.dim]
            return Features(values, tuple(map(sum, tokens)), tokens=tokens)
        embedding: Tensor = found["sentence_embedding"][:, : self.dim] * self._whole**0.5
        if batch.lengths:  # queries, each with passages
            return Features(embedding, batch.lengths)
        if embedding.shape[0] == batch.size:
            if not batch.rows.keys() & set(self.first_token):
                return Features(embedding)
            return Features(torch.cat([embedding, found["token_embeddings"][:, 0]], -1))
        return Features(paired(embedding[: batch.size], embedding[batch.size :]))

    def chunk(self, rows: int) -> None:
        self._at_once = rows

    def _in_chunks(self, given: Mapping[str, Tensor]) -> Tensor:
        """The vectors of sequences, (n, dim), of which only so many keep what the gradient needs at a time: those of
        like length together, without the padding that only longer ones need."""
        lengths = given["attention_mask"].sum(1)
        order = lengths.argsort(stable=True)
        found = []
        for rows in order.split(self._at_once):
            longest = int(lengths[rows[-1]])
            part = {
                name: tensor[rows] if tensor.dim() == 1 else tensor[rows, :longest] for name, tensor in given.items()
            }
            found.append(checkpoint(self._vectors, part, use_reentrant=False))
        return torch.cat(found)[order.argsort()]

    def _vectors(self, given: Mapping[str, Tensor]) -> Tensor:
        made: Tensor = self._piped(dict(given))["sentence_embedding"]  # modules write into what they are given
        return made

    def at_size(self, size: int) -> Text:
        if not 1 <= size <= self.dim:
            raise AllroundError(
                f"read texts as vectors of {size} numbers",
                f"the encoder gives {self.dim}",
                f"give a size from 1 to {self.dim}, such as one that it was trained at by the term matryoshka",
            )
        made = copy.copy(self)
        made.dim = size
        return made

    def anatomy(self, length: float) -> Anatomy:
        return anatomy_of(self.backbone, length)

    def smaller(self, kept: Kept) -> Text:
        made = copy.deepcopy(self)
        anatomy_of(made.backbone, 1.0).check(kept)
        remove(made.backbone, kept)
        return made.eval()

    def _piped(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the pipeline makes of sequences; where vectors leave instructions out, pooling does not see them."""
        if "instructed" not in given:
            found: dict[str, Tensor] = self.pipeline(given)
            return found
        instructed = given.pop("instructed")
        first, *rest = self.pipeline
        found = first(given)
        places = torch.arange(found["attention_mask"].shape[1], device=instructed.device)
        found["attention_mask"] = found["attention_mask"].masked_fill(places < instructed.unsqueeze(1), 0)
        for module in rest:
            found = module(found)
        return found

    def save(self, folder: Path) -> None:
        with self.pipeline.truncate_embeddings(self.dim if self.dim < self._whole else None):
            self.pipeline.save_pretrained(str(folder), create_model_card=False)
        settings: dict[str, object] = {"max_length": self.max_length, "pairs": self.pairs}
        settings |= {"first_token": list(self.first_token)} if self.first_token else {}
        write_json(folder / CONFIG, {"encoder": self.name, "settings": settings})

    def save_beside(self, folder: Path, encoder: str, heads: Sequence[torch.nn.Module]) -> None:
        """A model of one task that reads its pairs together is also a `CrossEncoder` of sentence-transformers."""
        if self.pairs == "joint" and len(heads) == 1 and can_write(heads[0], self.dim):
            write_cross_encoder(folder, heads[0], encoder, self.dim**0.5)

    def write_rows(self, folder: Path) -> tuple[str, dict[str, object]]:
        if self.masked:
            return Encoder.write_rows(self, folder)  # which refuses
        self.tokenizer.save_pretrained(str(folder))
        names = ("max_length", "dim", "hidden", "tokens", "pairs", "first_token")
        return self.name, {name: getattr(self, name) for name in names}

    @classmethod
    def rows_from(cls, folder: Path, settings: Mapping[str, Any]) -> TextRows:
        from transformers import AutoTokenizer

        check_tokenizer(folder)
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        return TextRows(AutoTokenizer.from_pretrained(str(folder), **options), **settings)

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
        place = _check_modules(folder)
        check_config(place)
        check_tokenizer(place)
        check_size(place)
        options: dict[str, Any] = {"device": "cpu", "local_files_only": True, "trust_remote_code": False}
        pipeline: Any = SentenceTransformer(str(folder), model_kwargs=dict(LOADING), **options)
        check_tokenizer(place, pipeline.tokenizer)
        pipeline[0].model, notes = whole(place, pipeline[0].model)
        encoder = cls(pipeline, **settings)
        encoder.notes = notes
        try_out(encoder, _TRIAL, ("a", "a"))
        return encoder


def _masks_instructions(pipeline: Any, asked: str | None) -> bool:
    """Whether vectors leave out the tokens of instructions, which pooling is told here where it was asked for.

    asked: "pooled" or "masked"; None for as the base does it.
    """
    pooling = [module for module in pipeline if hasattr(module, "include_prompt")]
    if asked is not None:
        if asked not in INSTRUCTIONS or not pooling:
            found = f"there is no such way: {asked!r}" if pooling else "the base has no module that pools tokens"
            raise AllroundError("pool the words of instructions", found, f"use one of: {', '.join(INSTRUCTIONS)}")
        for module in pooling:
            module.include_prompt = asked == "pooled"
    return any(not module.include_prompt for module in pooling)


def _length(asked: int | None, pipeline: Any, *, joint: bool) -> int:
    """How many tokens of a text are read: as many as asked for, if the tokenizer and the network can take them.

    asked: None is as many as the model was made for (`max_seq_length` of sentence-transformers, else what tokenizer and
    network can take), up to `LONGEST`. joint: whether two texts are read as one sequence.
    """
    network = pipeline[0].model
    limits = [pipeline.max_seq_length, getattr(network.config, "max_position_embeddings", None)]
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Embedding) and "position" in name.rpartition(".")[2]:
            # Some count positions from behind the padding's own row.
            limits.append(module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1))
    most = min((limit for limit in limits if limit is not None and limit != -1), default=None)
    special = pipeline.tokenizer.num_special_tokens_to_add(pair=joint)
    for words, length in (("the base can read", most), ("asked for are", asked)):
        if length is not None and (isinstance(length, bool) or not length >= special + 1):
            raise AllroundError(
                "read texts" if asked is None else f"read texts of up to {asked} tokens",
                f"{words} {length} tokens, and {special} of a text's tokens are marks such as its end",
                f"give a --max-length of at least {special + 1}; check max_position_embeddings in the base's "
                "config.json and model_max_length in its tokenizer_config.json",
            )
    return int(min(limit for limit in (LONGEST if asked is None else asked, most) if limit is not None))


def _tokens(network: Any) -> int | None:
    """How many tokens a network knows; None where it reads letters or bytes by other means than a table."""
    try:
        table = network.get_input_embeddings()
    except NotImplementedError:
        return None
    return table.num_embeddings if isinstance(table, torch.nn.Embedding) else None


def _check_modules(folder: Path) -> Path:
    """The folder of the network. Refuses what is not a known pipeline, what would run code, and pickled weights."""
    from allround.checkpoints.header import FLOATS
    from allround.checkpoints.quantised import UNPACK
    from allround.checkpoints.weights import Weights

    asked = f"load the encoder in {folder}"
    weights = Weights(folder)
    if not (folder / "modules.json").is_file():
        return folder
    modules = read_settings(folder / "modules.json")
    if not isinstance(modules, list) or not modules or not all(isinstance(module, Mapping) for module in modules):
        raise AllroundError(asked, "modules.json is not a list of modules", "copy or download it again")
    for number, module in enumerate(modules):
        kind, path = str(module.get("type", "")), str(module.get("path", ""))
        known = _MODULES if number else ("Transformer",)
        if not kind.startswith("sentence_transformers."):
            raise AllroundError(
                asked,
                f"modules.json names the class '{kind}', which is not of sentence-transformers",
                "allround runs no code that comes with a model; use a model made of standard modules",
            )
        if kind.rpartition(".")[2] not in known:
            raise AllroundError(
                asked,
                f"module {number} in modules.json is of the kind '{kind}'",
                f"use a model that begins with Transformer, and goes on with {', '.join(_MODULES)}",
            )
        if not is_inside(path):
            raise AllroundError(
                asked, f"modules.json points outside the folder: '{path}'", "get the model from a source you trust"
            )
        if list((folder / path).glob("*.bin")) and not list((folder / path).glob("*.safetensors")):
            raise AllroundError(
                asked,
                f"the weights of its module '{path}' are pickled, and a pickle can run code",
                "save the model as safetensors where you trust it: SentenceTransformer(folder).save(new_folder)",
            )
        odd = [n for n in weights if number and path and n.startswith(f"{path}/") and weights.dtype(n) not in FLOATS]
        if odd:
            raise AllroundError(asked, f"'{odd[0]}' is stored as {weights.dtype(odd[0])}", UNPACK)
    place = folder / str(modules[0].get("path", ""))
    for file in place.glob(_SETTINGS):
        _check_settings(asked, file)
    return place


def _check_settings(asked: str, file: Path) -> None:
    """Refuse settings of sentence-transformers under which it would read other files than those of the folder."""
    settings = read_settings(file)
    if not isinstance(settings, Mapping):
        raise AllroundError(asked, f"{file.name} holds no settings", "copy or download it again")
    for key, value in settings.items():
        passed = value if key.endswith(("_args", "_kwargs")) and isinstance(value, Mapping) else {}
        odd = [k for k in passed if key.startswith("model_") and k not in _PASSED_ON]
        odd += [k for k, v in passed.items() if not isinstance(v, bool | int | float | str) or "/" in str(v)]
        if key in ("backend", "tokenizer_name_or_path") or odd:
            raise AllroundError(
                asked,
                f"{file.name} sets '{'.'.join([key, *odd[:1]])}', by which other files or code could be read",
                f"remove it from {file.name} if the model works without it",
            )
