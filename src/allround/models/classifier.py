"""Classifiers as transformers saves them: their labels, and their heads as heads of ours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from allround.checkpoints.header import FLOATS
from allround.checkpoints.source import Source
from allround.core.files import read_settings
from allround.core.words import listed
from allround.tasks.definition import Definition

if TYPE_CHECKING:
    from torch import Tensor

    from allround.models.head import HeadState

#: What transformers calls classifiers: of texts, of words and of images.
_TEXTS, _WORDS, _IMAGES = "ForSequenceClassification", "ForTokenClassification", "ForImageClassification"
#: The kinds of tasks that each serves, by the `problem_type` in its config.json.
_KINDS = {
    (_TEXTS, None): "classification",
    (_TEXTS, "single_label_classification"): "classification",
    (_TEXTS, "multi_label_classification"): "multilabel",
    (_TEXTS, "regression"): "regression",
    (_WORDS, None): "token_classification",
    (_IMAGES, None): "classification",
    (_IMAGES, "single_label_classification"): "classification",
    (_IMAGES, "multi_label_classification"): "multilabel",
    (_IMAGES, "regression"): "regression",
}

#: What tasks of a kind want, in words.
_GIVES = {
    "classification": "one label to a row",
    "multilabel": "any number of labels to a row",
    "token_classification": "a label to each word",
    "regression": "a number",
    "ordinal": "a rating",
}


@dataclass(frozen=True)
class Layout:
    """Where a network keeps its head for rows: a layer, an activation, a layer; or one layer alone.

    dense, out: names of the layers; dense is empty where there is one layer. sort: the head of ours with that
    activation. first_token: whether the head reads what the network gives for the first token, and not the features
    of a row.
    """

    dense: str
    sort: str
    out: str
    first_token: bool = True


_BERT = Layout("pooler.dense", "mlp_tanh", "classifier")
_ROBERTA = Layout("classifier.dense", "mlp_tanh", "classifier.out_proj")
#: By `model_type`. Heads for words are one linear layer, called `classifier`, in all of these.
LAYOUTS: Mapping[str, Layout] = {
    "bert": _BERT,
    "albert": Layout("pooler", "mlp_tanh", "classifier"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "mpnet": _ROBERTA,
    "electra": Layout("classifier.dense", "mlp", "classifier.out_proj"),
    "distilbert": Layout("pre_classifier", "mlp_relu", "classifier"),
    "deberta": Layout("pooler.dense", "mlp", "classifier"),
    "deberta-v2": Layout("pooler.dense", "mlp", "classifier"),
}

_FIRST, _POOLED = Layout("", "linear", "classifier"), Layout("", "linear", "classifier", first_token=False)
_AFTER_FLATTEN = Layout("", "linear", "classifier.1", first_token=False)
#: The same of networks that read images.
IMAGE_LAYOUTS: Mapping[str, Layout] = {
    **dict.fromkeys(("vit", "deit"), _FIRST),
    **dict.fromkeys(("beit", "swin", "swinv2", "convnext", "convnextv2"), _POOLED),
    **dict.fromkeys(("resnet", "regnet"), _AFTER_FLATTEN),
}


@dataclass(frozen=True)
class Match:
    """Whether a classifier's head can serve a task, in words; and the numbers of its outputs in the order of the task's
    labels, where it can."""

    words: str
    order: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Classifier:
    """A classifier of transformers. name: its class. labels: by number, empty where the folder does not name them.
    problem: what its config.json says of how labels are chosen."""

    name: str
    model_type: str
    labels: tuple[str, ...]
    problem: str | None
    activation: str | None

    @property
    def per_token(self) -> bool:
        return self.name.endswith(_WORDS)

    @property
    def first_token(self) -> bool:
        """Whether its head reads what the network gives for the first token of a row."""
        layout = self._layout
        return layout is not None and layout.first_token and not self.per_token

    @property
    def _layout(self) -> Layout | None:
        return (IMAGE_LAYOUTS if self.name.endswith(_IMAGES) else LAYOUTS).get(self.model_type)

    @classmethod
    def of_config(cls, config: Mapping[str, object]) -> Classifier | None:
        """What a config.json describes; None where that is no classifier."""
        named = config.get("architectures")
        name = str(named[0]) if isinstance(named, list) and named else ""
        if not name.endswith((_TEXTS, _WORDS, _IMAGES)):
            return None
        given = config.get("id2label")
        labels = dict(given) if isinstance(given, Mapping) else {}
        numbered = tuple(str(labels[str(n)]) for n in range(len(labels))) if _numbered(labels) else ()
        problem, act = config.get("problem_type"), config.get("pooler_hidden_act")
        return cls(name, str(config.get("model_type")), numbered, str(problem) if problem else None,
                   str(act) if act else None)  # fmt: skip

    def match(self, definition: Definition, source: Source) -> Match:
        """Whether its head serves a task: it must be of the task's kind, and have its labels."""
        sort = next(sort for sort in (_TEXTS, _WORDS, _IMAGES) if self.name.endswith(sort))
        reads = "image" if sort == _IMAGES else "text"
        if definition.modality != reads:
            return Match(f"it reads {reads}s, and the task does not")
        own = _KINDS.get((sort, self.problem))
        if own == "classification" and len(self.labels) == 1:
            return Match("it has one output, and its config.json does not say that it gives a number (problem_type: "
                         "regression)")  # fmt: skip
        if own != definition.kind:
            gives, wants = (_GIVES.get(one or "", "something else") for one in (own, definition.kind))
            return Match(f"it gives {gives}, and the task wants {wants}")
        layout = self._layout
        if layout is None or ((self.activation or "gelu") != "gelu" and layout.sort == "mlp"):
            return Match(f"the form of its head ({self.model_type}) is not one that allround reads")
        lacking = [layer for layer in self._layers(layout) if not _holds(source, layer)]
        if lacking:
            return Match(f"its weights hold no {listed(lacking)}")
        if definition.instruction:
            return Match("the task has an instruction, with which it was not tuned")
        outputs = source.shape(_name(source, f"{self._layers(layout)[-1]}.weight"))[0]
        if own == "regression":
            return _match_number(outputs)
        if self.labels and outputs != len(self.labels):
            return Match(f"it has {outputs} outputs, and its config.json names {len(self.labels)} labels")
        return match_labels(self.labels or tuple(f"LABEL_{n}" for n in range(outputs)), definition.labels)

    def head(self, definition: Definition, order: Sequence[int], source: Source, features: int) -> HeadState:
        """Its head as one of ours, with its outputs in this order; a number in the units in which the task is trained.

        features: how many numbers the head of ours is given for a row. Its own are the last of them; it does not look
        at those before.
        """
        import torch

        from allround.models.head import HeadState

        layout = self._layout
        assert layout is not None
        (first, start), *more = [
            (_tensor(source, f"{layer}.weight"), _tensor(source, f"{layer}.bias")) for layer in self._layers(layout)
        ]
        first = torch.cat([torch.zeros(len(first), features - first.shape[1]), first], 1)
        weight, bias = (tensor[list(order)] for tensor in (more[0] if more else (first, start)))
        if definition.kind == "regression":
            weight, bias = weight / definition.scale, (bias - definition.center) / definition.scale
        chosen = {"weight": weight, "bias": bias}
        if not more:
            return HeadState(chosen)
        return HeadState({"hidden_weight": first, "hidden_bias": start, **chosen}, layout.sort)

    def _layers(self, layout: Layout) -> list[str]:
        return ["classifier"] if self.per_token else [layer for layer in (layout.dense, layout.out) if layer]


def _match_number(outputs: int) -> Match:
    if outputs != 1:
        return Match(f"it gives {outputs} numbers, and the task wants one")
    return Match("it gives a number, which is taken as the task's", (0,))


def match_labels(own: Sequence[str], wanted: Sequence[str]) -> Match:
    """Whether labels are the same, by name. Names such as LABEL_1 say nothing but a number, and match numbers alone.

    >>> match_labels(["neg", "pos"], ["pos", "neg"])
    Match(words='its labels are those of the task', order=(1, 0))
    >>> match_labels(["Neg", "Pos"], ["pos", "neg"])
    Match(words='its labels are those of the task but for capitals (Pos: pos, Neg: neg)', order=(1, 0))
    >>> match_labels(["LABEL_0", "LABEL_1"], ["0", "1"])
    Match(words="its labels LABEL_0, LABEL_1 are the task's numbers 0, 1", order=(0, 1))
    >>> match_labels(["LABEL_0", "LABEL_1"], ["no", "yes"]).order is None
    True
    """
    if sorted(own) == sorted(wanted):
        return Match("its labels are those of the task", tuple(own.index(label) for label in wanted))
    folded = [label.casefold() for label in own]
    if sorted(folded) == sorted(label.casefold() for label in wanted) and len(set(folded)) == len(folded):
        order = tuple(folded.index(label.casefold()) for label in wanted)
        pairs = [f"{own[n]}: {label}" for n, label in zip(order, wanted, strict=True) if own[n] != label]
        return Match(f"its labels are those of the task but for capitals ({_short(pairs)})", order)
    numbers = [str(n) for n in range(len(own))]
    if list(own) == [f"LABEL_{n}" for n in numbers]:
        if sorted(wanted) == sorted(numbers):
            order = tuple(int(label) for label in wanted)
            return Match(f"its labels {_short(own)} are the task's numbers {_short(wanted)}", order)
        return Match(f"its labels {_short(own)} do not say which is which; name them in its config.json (id2label) to "
                     "keep its head")  # fmt: skip
    return Match(f"its labels ({_short(own)}) are not those of the task ({_short(wanted)})")


def _short(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _numbered(labels: Mapping[object, object]) -> bool:
    return bool(labels) and set(labels) == {str(n) for n in range(len(labels))}


def _holds(source: Source, layer: str) -> bool:
    names = [_name(source, f"{layer}.{part}") for part in ("weight", "bias")]
    return all(name and source.dtype(name) in FLOATS for name in names) and len(source.shape(names[0])) == 2


def _name(source: Source, name: str) -> str:
    """What a source calls a tensor, whatever it puts before the name; empty where it has none."""
    found = [one for one in source if one == name or one.endswith(f".{name}")]
    return min(found, key=len, default="")


def _tensor(source: Source, name: str) -> Tensor:
    return source.get(_name(source, name)).float()


def read_config(folder: Path) -> Mapping[str, object]:
    """The config.json of a folder; empty where it holds no settings."""
    # os.path never raises, also where a name is too long for a file
    there = os.path.isfile(folder / "config.json")  # noqa: PTH113
    value = read_settings(folder / "config.json") if there else {}
    return value if isinstance(value, Mapping) else {}
