"""Models with different vocabularies: their embeddings by the rows of one tokenizer, which the output takes."""

from __future__ import annotations

import copy
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from allround.checkpoints.header import FLOATS, torch_dtype
from allround.checkpoints.source import Source
from allround.checkpoints.tied import EMBEDDING, OUTPUT, TIE, config_of
from allround.core.errors import AllroundError, suggestion
from allround.core.files import read_settings, write_json
from allround.core.reading import check_folder, read_text
from allround.evaluation.scoreboard import plural
from allround.merging.plan import Names
from allround.merging.recipe import Model, Recipe, Token, Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

#: Files of a folder that belong to its tokenizer.
_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model"),
)
_TEMPLATE = "chat_template.jinja"
#: Keys of a configuration that are set in all its parts, by all the names that they have.
_EVERYWHERE = {"dtype": ("dtype", "torch_dtype"), TIE: (TIE,)}
#: Chat formats by name.
TEMPLATES = {
    "chatml": (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
        "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "alpaca": (
        "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] | trim }}\n\n"
        "{% elif message['role'] == 'user' %}### Instruction:\n{{ message['content'] | trim }}\n\n"
        "{% elif message['role'] == 'assistant' %}### Response:\n{{ message['content'] | trim }}\n\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}"
    ),
}


def prepare(
    recipe: Recipe,
    base: Source | None,
    models: list[Source],
    finish: list[Callable[[Path], None]],
    notes: list[str],
) -> tuple[Source | None, list[Source]]:
    """The base and the models as they are merged: by one vocabulary, where the recipe says so.

    finish: gets what is to be done to the output folder: configuration, tokenizer, chat template.
    """
    config = dict(recipe.config)
    everyone = [base, *models] if base is not None else models
    if recipe.dtype:
        config.setdefault("dtype", str(torch_dtype(recipe.dtype)).removeprefix("torch."))
    save: list[Callable[[Path], None]] = []
    if recipe.tokenizer:
        named = [*([recipe.base] if recipe.base else []), *recipe.models]
        everyone, tokenizer, rows = align(recipe.tokenizer, named, everyone, base is not None, notes)
        config["vocab_size"] = rows
        save.append(SaveTokenizer(tokenizer))
    if recipe.chat_template:
        save.append(SetTemplate(_template(recipe.chat_template, everyone)))
    finish.extend([*([Configure(config)] if config else []), *save])
    return (everyone[0], everyone[1:]) if base is not None else (None, everyone)


@dataclass(frozen=True)
class Configure:
    """Sets values in the output's config.json: a `key` where it is found first, `part.key` there, `dtype` and
    `tie_word_embeddings` in all."""

    values: Mapping[str, Any]

    def __call__(self, folder: Path) -> None:
        path = folder / "config.json"
        config = read_settings(path) if path.is_file() else None
        if not isinstance(config, dict):
            return
        for key, value in self.values.items():
            self._set(config, key, value)
        write_json(path, config, allow_nan=True)

    def _set(self, config: dict[str, Any], key: str, value: Any) -> None:
        parts = [part for part in config.values() if isinstance(part, dict)]
        if key in _EVERYWHERE:
            holders = [(part, name) for part in (config, *parts) for name in _EVERYWHERE[key] if name in part]
            key = _EVERYWHERE[key][-1]
        elif "." in key:
            part, key = key.split(".", 1)
            holders = [(config[part], key)] if isinstance(config.get(part), dict) else [({}, key)]
        else:
            holders = [(part, key) for part in (config, *parts) if key in part][:1]
        for holder, name in holders or [(config, key)]:
            holder[name] = value


@dataclass(frozen=True)
class SaveTokenizer:
    """Puts a tokenizer into the output, in place of the base's."""

    tokenizer: Any

    def __call__(self, folder: Path) -> None:
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
        self.tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class SetTemplate:
    """Puts a chat template into the output."""

    template: str | None

    def __call__(self, folder: Path) -> None:
        if self.template is None:
            return
        (folder / _TEMPLATE).write_text(self.template, encoding="utf-8")
        path = folder / "tokenizer_config.json"
        config = read_settings(path) if path.is_file() else None
        if isinstance(config, dict) and config.pop("chat_template", None) is not None:
            write_json(path, config, allow_nan=True)


def check_template(template: str, where: str) -> None:
    """An error unless it is `auto`, a name, or a template itself."""
    if template != "auto" and template not in TEMPLATES and "{" not in template:
        raise AllroundError(
            f"set {where} to {template!r}",
            "that is neither the name of a template nor one itself (it would hold `{{ ... }}`)",
            f"{suggestion(template, ['auto', *TEMPLATES])}; or write the template there",
        )
    import jinja2

    try:
        jinja2.Environment().parse(template)  # parsed, not run
    except jinja2.TemplateError as error:
        raise AllroundError(
            f"set {where}", f"it is no template of Jinja: {error}", "correct it, or leave it out"
        ) from error


def _template(wanted: str, sources: Sequence[Source]) -> str | None:
    check_template(wanted, "the chat template")
    if wanted != "auto":
        return TEMPLATES.get(wanted, wanted)
    found = Counter(t.strip() for t in map(_template_of, sources) if t)
    return found.most_common(1)[0][0] if found else None


def _template_of(source: Source) -> str | None:
    if (source.path / _TEMPLATE).is_file():
        return read_text(source.path / _TEMPLATE, what="chat template")
    path = source.path / "tokenizer_config.json"
    config = read_settings(path) if path.is_file() else None
    found = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(found, list):
        found = next((t.get("template") for t in found if isinstance(t, dict) and t.get("name") == "default"), None)
    return found if isinstance(found, str) else None


@dataclass
class _Member:
    """One model: its tokens, how many rows its embeddings have by its configuration, and its weights."""

    model: Model
    source: Source
    vocabulary: dict[str, int]
    size: int
    #: For each row of the output: the model's own row, or -1.
    own: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


def align(
    wanted: Tokenizer, named: Sequence[Model], sources: Sequence[Source], has_base: bool, notes: list[str]
) -> tuple[list[Source], Any, int]:
    """The sources (the base first, if there is one) by the rows of one tokenizer, that tokenizer, and its rows."""
    tokenizers = _open_all(named, sources, notes)
    members = []
    for model, source, tokenizer in zip(named, sources, tokenizers, strict=True):
        vocabulary = tokenizer.get_vocab()
        members.append(_Member(model, source, vocabulary, _size(source) or len(vocabulary)))
    tokenizer = _output(wanted, members, tokenizers)
    vocabulary = tokenizer.get_vocab()
    filled = max(len(vocabulary), max(vocabulary.values(), default=-1) + 1)
    step = wanted.multiple_of or 1
    rows = -(-filled // step) * step
    for member in members:
        padding = member.size - 1 - max((row for row in member.vocabulary.values() if row < member.size), default=-1)
        if padding > 0:
            cut = plural(padding, "row")
            notes.append(
                f"{member.model}: the last {cut} of its {member.size} for tokens belong to no token; "
                f"the merged model has {rows}, without them"
            )
        member.own = np.full(rows, -1, np.int64)
        for token, row in vocabulary.items():
            there = member.vocabulary.get(token, -1)
            member.own[row] = there if there < member.size else -1
    if wanted.prefer is not None:
        preferred = next((n for n, model in enumerate(named) if model == wanted.prefer), None)
    else:
        preferred = 0 if has_base else None
    aligned = [_Aligned(member.source) for member in members]
    first = members[0]
    names = [Names(sources[0] if n else None, member.source) for n, member in enumerate(members)]
    for name in first.source:
        shape = first.source.shape(name) if first.source.dtype(name) in FLOATS else ()
        if (EMBEDDING.search(name) or OUTPUT.search(name)) and shape[:1] == (first.size,):
            _align_tensor(name, wanted, members, names, aligned, vocabulary, filled, rows, preferred)
    return list(aligned), tokenizer, rows


def _align_tensor(
    name: str,
    wanted: Tokenizer,
    members: Sequence[_Member],
    names: Sequence[Names],
    aligned: Sequence[_Aligned],
    vocabulary: Mapping[str, int],
    filled: int,
    rows: int,
    preferred: int | None,
) -> None:
    there = [(n, found) for n in range(len(members)) if (found := names[n].find(name)) is not None]
    width = members[0].source.shape(name)[1:]
    for n, found in there:
        source, other = members[n].source, members[n].source.shape(found)
        if other[1:] != width or source.dtype(found) not in FLOATS:
            raise AllroundError(
                f"align the vocabularies of '{name}'",
                f"{source.path} has {source.dtype(found)} {other}, and {members[0].source.path} has "
                f"{members[0].source.dtype(name)} {members[0].source.shape(name)}",
                "merge models of one width, with floating-point weights",
            )
    own = [np.where(members[n].own < members[n].source.shape(found)[0], members[n].own, -1) for n, found in there]
    donors = [(copy.copy(members[n].source), found) for n, found in there]
    lacking = np.flatnonzero(np.stack(own)[:, :filled].min(0) < 0).tolist()
    words = {row: token for token, row in vocabulary.items()}
    forced = [row for row in range(filled) if row in words and _token(wanted, words[row]).force]
    others: dict[int, tuple[tuple[Source, str, int], ...]] = {}
    for row in sorted({*lacking, *forced}):
        if row not in words:  # a hole between the tokens
            others[row] = ()
            continue
        about = _token(wanted, words[row])
        if about.zero:
            others[row] = ()
        elif about.source is not None:
            place = next((p for p, (n, _) in enumerate(there) if members[n].model == about.source), None)
            others[row] = (_row_of(words[row], about, members, there, own, donors, row, place),)
        else:
            owners = [p for p in range(len(there)) if own[p][row] >= 0]
            owners = [p for p in owners if there[p][0] == preferred] or owners
            others[row] = tuple((*donors[p], int(own[p][row])) for p in owners)
    for place, (n, found) in enumerate(there):
        mine = own[place].copy()
        mine[forced] = -1
        # A tied model has one tensor for two of the reference: the second under the name it has there.
        shown = name if OUTPUT.search(name) and EMBEDDING.search(found) else found
        dtype = members[n].source.dtype(found)
        aligned[n].tables[shown] = _Table(found, dtype, (rows, *width), mine, others, filled)


def _token(wanted: Tokenizer, token: str) -> Token:
    return wanted.tokens.get(token, _PLAIN)


_PLAIN = Token()


def _row_of(
    token: str,
    about: Token,
    members: Sequence[_Member],
    there: Sequence[tuple[int, str]],
    own: Sequence[np.ndarray],
    donors: Sequence[tuple[Source, str]],
    row: int,
    place: int | None,
) -> tuple[Source, str, int]:
    asked = f"give the token {token!r} the embedding of {about.source}"
    if place is None:
        raise AllroundError(asked, "that model is not merged, or has no such weights", "name one of the merged models")
    member = members[there[place][0]]
    if about.token is None:
        found = int(own[place][row])
    elif isinstance(about.token, str):
        found = member.vocabulary.get(about.token, -1)
    else:
        found = about.token
    if not 0 <= found < member.source.shape(there[place][1])[0]:
        raise AllroundError(
            asked, f"it has no token {about.token if about.token is not None else token!r}", "name a token that it has"
        )
    return (*donors[place], found)


@dataclass
class _Table:
    """How a tensor is put together: rows of the model's own, rows of others (their mean), and filling at the end."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    own: np.ndarray
    others: Mapping[int, tuple[tuple[Source, str, int], ...]]
    filled: int
    filling: Tensor | None = None


class _Aligned(Source):
    """A model by the rows of another tokenizer. Only the rows that are needed are read, whenever they are."""

    def __init__(self, inner: Source) -> None:
        self.inner = inner
        self.path = inner.path
        self._plain = copy.copy(inner)
        self.tables: dict[str, _Table] = {}

    @property
    def watch(self) -> Any:
        """As of any source; told what is merged, not what is read for it."""
        return self.inner.watch

    @watch.setter
    def watch(self, value: Any) -> None:
        self.inner.watch = value

    @property
    def metadata(self) -> dict[str, str]:
        return getattr(self.inner, "metadata", None) or {}

    @property
    def files(self) -> list[Path]:
        return self.inner.files

    def __iter__(self) -> Iterator[str]:
        yield from self.inner
        yield from (name for name in self.tables if name not in self.inner)

    def __contains__(self, name: object) -> bool:
        return name in self.tables or name in self.inner

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tables[name].shape if name in self.tables else self.inner.shape(name)

    def dtype(self, name: str) -> str:
        return self.tables[name].dtype if name in self.tables else self.inner.dtype(name)

    def announce(self, name: str) -> None:
        self.inner.announce(self.tables[name].name if name in self.tables else name)

    def change(self, name: str, start: int, stop: int, base: Tensor, out: Tensor) -> None:
        if name in self.tables:
            super().change(name, start, stop, base, out)
        else:
            self.inner.change(name, start, stop, base, out)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        if name not in self.tables:
            return self.inner.read(name, start, stop)
        table = self.tables[name]
        width = math.prod(table.shape[1:])
        stop = math.prod(table.shape) if stop is None else stop
        first, last = start // max(width, 1), -(-stop // max(width, 1))
        values = self._rows(table, first, last, width).reshape(-1)[start - first * width : stop - first * width]
        if self.watch is not None:
            self.watch(name, start, values.contiguous())
        return values

    def _rows(self, table: _Table, first: int, last: int, width: int) -> Tensor:
        import torch

        rows = torch.zeros(last - first, width, dtype=torch_dtype(table.dtype))
        end = min(last, table.filled)
        for start, stop, own in _runs(table.own, first, end):
            rows[start - first : stop - first] = self._plain.read(
                table.name, own * width, (own + stop - start) * width
            ).reshape(-1, width)
        for row in np.flatnonzero(table.own[first:end] < 0).tolist():
            parts = table.others.get(first + row, ())
            if parts:
                wide = torch.float64 if table.dtype == "F64" else torch.float32
                read = [source.read(name, at * width, (at + 1) * width).to(wide) for source, name, at in parts]
                rows[row] = torch.stack(read).mean(0)
        if last > table.filled:
            rows[max(table.filled - first, 0) :] = self._filling(table, width)
        return rows

    def _filling(self, table: _Table, width: int) -> Tensor:
        """The mean of all rows of tokens."""
        import torch

        if table.filling is None:
            total = torch.zeros(width, dtype=torch.float64)
            for start in range(0, table.filled, 4096):
                total += self._rows(table, start, min(start + 4096, table.filled), width).double().sum(0)
            table.filling = (total / max(table.filled, 1)).to(torch_dtype(table.dtype))
        return table.filling


def _runs(own: np.ndarray, first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """Stretches of rows that lie one after the other in the model, too: from, to, and where they begin there."""
    part = own[first:last]
    if not len(part):
        return
    cuts = [0, *(np.flatnonzero((np.diff(part) != 1) | (part[:-1] < 0)) + 1).tolist(), len(part)]
    for start, stop in pairwise(cuts):
        if part[start] >= 0:
            yield first + start, first + stop, int(part[start])


def _size(source: Source) -> int | None:
    """How many rows a model's embeddings have, by its configuration."""
    config = config_of(source)
    for part in (config, *(p for p in config.values() if isinstance(p, dict))):
        if isinstance(part.get("vocab_size"), int):
            return int(part["vocab_size"])
    return None


def _open_all(named: Sequence[Model], sources: Sequence[Source], notes: list[str]) -> list[Any]:
    """The tokenizer of each model; those of models without one are the first model's."""
    opened: dict[Path, Any] = {}
    first = sources[0].path
    for model, source in zip(named, sources, strict=True):
        has = any((source.path / name).is_file() for name in _FILES)
        if source.path in opened:
            continue
        if has or source is sources[0]:
            opened[source.path] = open_tokenizer(source.path)
        else:
            notes.append(f"{model} has no tokenizer: it is read as having that of {named[0]}")
            opened[source.path] = opened[first]
    return [opened[source.path] for source in sources]


def open_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a model folder."""
    asked = f"open the tokenizer of {folder}"
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise AllroundError(asked, "transformers is not installed", "pip install 'allround[text]'") from error
    if not folder.is_dir():
        raise AllroundError(asked, "that is no folder", "give the folder of a model with its tokenizer")
    check_folder(folder, asked=asked)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever its library raises over a broken or missing tokenizer
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise AllroundError(asked, f"its library refuses it: {first}", "copy the tokenizer's files there") from error
    if not getattr(tokenizer, "is_fast", False):
        raise AllroundError(
            asked, "it is no fast tokenizer (tokenizer.json)", "convert it: AutoTokenizer(...).save_pretrained"
        )
    return tokenizer


def _output(wanted: Tokenizer, members: Sequence[_Member], tokenizers: Sequence[Any]) -> Any:
    """The tokenizer of the output: a new one, which may be changed and saved."""
    if isinstance(wanted.source, Model):
        match = next((t for m, t in zip(members, tokenizers, strict=True) if m.model == wanted.source), None)
        tokenizer = copy.deepcopy(match if match is not None else open_tokenizer(_folder(wanted.source)))
    else:
        tokenizer = _stripped(members[0], tokenizers[0])
        if wanted.source == "union":
            _unite(tokenizer, members, tokenizers)
    known = set(tokenizer.get_vocab())
    added = [token for token in wanted.tokens if token not in known]
    if added:
        tokenizer.add_tokens(added)
    return tokenizer


def _folder(model: Model) -> Path:
    from allround.models.base import find_folder

    return find_folder(model.path)


def _unite(tokenizer: Any, members: Sequence[_Member], tokenizers: Sequence[Any]) -> None:
    """Add the tokens of all models: the ordinary ones first, each model's by their numbers."""
    known = set(tokenizer.get_vocab())
    plain: dict[str, None] = {}
    special: dict[str, Any] = {}
    for member, other in zip(members, tokenizers, strict=True):
        added = {row: about for row, about in other.added_tokens_decoder.items() if row < member.size}
        texts = {str(about.content) for about in other.added_tokens_decoder.values()}
        for token, row in sorted(member.vocabulary.items(), key=lambda item: item[1]):
            if row < member.size and token not in texts and token not in known:
                plain.setdefault(token)
        for _, about in sorted(added.items()):
            special.setdefault(str(about.content), about)
    if plain:
        tokenizer.add_tokens([token for token in plain if token not in special])
    if special:
        tokenizer.add_tokens(list(special.values()))


def _stripped(member: _Member, tokenizer: Any) -> Any:
    """A copy of a tokenizer without the tokens that its model has no rows for."""
    tokenizer = copy.deepcopy(tokenizer)
    unused = {token for token, row in member.vocabulary.items() if row >= member.size}
    if not unused:
        return tokenizer
    import tokenizers

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model = content["model"]
    if not isinstance(model.get("vocab"), dict):
        raise AllroundError(
            f"align the vocabularies of {member.source.path} and others",
            f"its tokenizer has {len(unused)} tokens that the model has no embeddings for, and is of a kind "
            f"({model.get('type')}) that they cannot be taken from",
            "name another model's tokenizer as the source",
        )
    content["added_tokens"] = [about for about in content["added_tokens"] if about["content"] not in unused]
    model["vocab"] = {token: row for token, row in model["vocab"].items() if token not in unused}
    if "merges" in model:
        pairs = ((merge, merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"])
        model["merges"] = [merge for merge, parts in pairs if not unused & {*parts, "".join(parts)}]
    tokenizer._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    return tokenizer
