"""Classifiers of transformers: their heads as ours give the logits that transformers gives, and labels go by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from allround.models.base import load_encoder
from allround.models.classifier import LAYOUTS, Classifier, Match, match_labels, read_config
from allround.models.encoders.text import Text
from allround.models.network import open_network
from allround.models.systems.multi_task_model import MultiTaskModel, open_model
from allround.tasks.definition import Definition

TEXTS = ["the cat is fine", "a dog was very cold today", "not the harbour"]
LABELS = ("neg", "pos", "none")
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48,
         "max_position_embeddings": 66, "pad_token_id": 0, "type_vocab_size": 2}  # fmt: skip
#: Of DistilBERT, which has names of its own.
DISTIL = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 48, "max_position_embeddings": 66, "pad_token_id": 0}
MORE: dict[str, dict[str, Any]] = {"albert": {"embedding_size": 16}, "electra": {"embedding_size": 16},
                                   "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c"]}}  # fmt: skip


def saved(
    kind: str, folder: Path, tokenizer: Path, auto: str = "AutoModelForSequenceClassification",
    labels: tuple[str, ...] = LABELS, **config_of: Any,
) -> Any:  # fmt: skip
    """A classifier with random weights, as transformers saves it."""
    import transformers

    words = transformers.AutoTokenizer.from_pretrained(str(tokenizer))
    config = transformers.AutoConfig.for_model(
        kind, **(DISTIL if kind == "distilbert" else {**SMALL, **MORE.get(kind, {})}), vocab_size=len(words),
        id2label=dict(enumerate(labels)), label2id={label: n for n, label in enumerate(labels)}, **config_of,
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, auto).from_config(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.startswith(("classifier", "pre_classifier")) or "pooler" in name:
                value.normal_(std=0.5)  # biases begin at zero
    model.save_pretrained(str(folder))
    words.save_pretrained(str(folder))
    return model


@torch.no_grad()
def logits(model: Any, tokenizer: Path) -> torch.Tensor:
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(str(tokenizer))(TEXTS, padding=True, return_tensors="pt")
    given = {name: made[name] for name in ("input_ids", "attention_mask")}
    found: torch.Tensor = model(**given).logits
    return found


@pytest.mark.parametrize("kind", sorted(LAYOUTS))
def test_a_head_gives_what_transformers_gives(kind: str, hf_folder: Path, tmp_path: Path) -> None:
    model = saved(kind, tmp_path / "model", hf_folder)
    definition = Definition("t", "classification", ("text",), "text", "accuracy", ("pos", "none", "neg"))
    classifier = Classifier.of_config(read_config(tmp_path / "model"))
    assert classifier is not None
    source = open_network(tmp_path / "model", tmp_path / "model")
    match = classifier.match(definition, source)
    assert match.order == (1, 2, 0), match.words
    encoder = load_encoder(tmp_path / "model", first_token=["t"])
    assert isinstance(encoder, Text)
    ours = MultiTaskModel(encoder, {})
    ours.add_task(definition, classifier.head(definition, match.order, source, encoder.features(definition)))
    found = ours.outputs("t", [(text,) for text in TEXTS]).logits
    torch.testing.assert_close(found, logits(model, hf_folder)[:, [1, 2, 0]], rtol=1e-5, atol=1e-6)
    if kind == "bert":  # saved and loaded, it still reads the task at the first token
        ours.save(tmp_path / "ours")
        assert torch.equal(open_model(tmp_path / "ours").outputs("t", [(text,) for text in TEXTS]).logits, found)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_a_head_for_words_gives_what_transformers_gives(kind: str, hf_folder: Path, tmp_path: Path) -> None:
    model = saved(kind, tmp_path / "model", hf_folder, "AutoModelForTokenClassification")
    definition = Definition("t", "token_classification", ("words",), "text", "span_f1", ("none", "neg", "pos"))
    classifier = Classifier.of_config(read_config(tmp_path / "model"))
    assert classifier is not None
    source = open_network(tmp_path / "model", tmp_path / "model")
    match = classifier.match(definition, source)
    assert match.order == (2, 0, 1), match.words
    encoder = load_encoder(tmp_path / "model")
    ours = MultiTaskModel(encoder, {})
    ours.add_task(definition, classifier.head(definition, match.order, source, encoder.features(definition)))
    # All words of this row are whole in the vocabulary, so that they are tokens 1 to 4.
    found = ours.outputs("t", [(TEXTS[0].split(),)]).logits
    torch.testing.assert_close(found, logits(model, hf_folder)[0, 1:5][:, [2, 0, 1]], rtol=1e-5, atol=1e-6)


def test_a_head_that_gives_a_number_is_taken_with_its_scale(hf_folder: Path, tmp_path: Path) -> None:
    model = saved("bert", tmp_path / "model", hf_folder, labels=("LABEL_0",), problem_type="regression")
    definition = Definition("t", "regression", ("text",), "text", "mae", center=3.0, scale=0.25)
    classifier = Classifier.of_config(read_config(tmp_path / "model"))
    assert classifier is not None
    source = open_network(tmp_path / "model", tmp_path / "model")
    assert classifier.match(definition, source) == Match("it gives a number, which is taken as the task's", (0,))
    encoder = load_encoder(tmp_path / "model", first_token=["t"])
    ours = MultiTaskModel(encoder, {})
    ours.add_task(definition, classifier.head(definition, [0], source, encoder.features(definition)))
    wanted = logits(model, hf_folder)[:, 0]
    rows = [(text,) for text in TEXTS]
    torch.testing.assert_close(torch.tensor(ours.predict("t", rows)), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.outputs("t", rows).logits[:, 0], (wanted - 3) / 0.25, rtol=1e-5, atol=1e-5)

    unsaid = replace(classifier, problem=None).match(definition, source)
    assert unsaid.order is None and "does not say that it gives a number (problem_type: regression)" in unsaid.words
    topics = replace(definition, kind="classification", labels=("a", "b"))
    assert "it gives a number, and the task wants one label to a row" in classifier.match(topics, source).words
    two = saved("bert", tmp_path / "two", hf_folder, labels=("x", "y"), problem_type="regression")
    assert two.config.num_labels == 2
    several = classifier.match(definition, open_network(tmp_path / "two", tmp_path / "two"))
    assert several == Match("it gives 2 numbers, and the task wants one")


def test_labels_that_do_not_say_which_is_which_are_not_guessed() -> None:
    own = ("LABEL_0", "LABEL_1", "LABEL_2")
    assert match_labels(own, ("0", "1", "2")).order == (0, 1, 2)
    assert match_labels(own, ("1", "2", "0")).order == (1, 2, 0)
    for wanted in (("1", "2", "3"), ("a", "b", "c"), ("0", "1")):
        assert match_labels(own, wanted).order is None
    assert "those of the task (up, down)" in match_labels(("neg", "pos"), ("up", "down")).words
    assert match_labels(("A", "a"), ("a", "A")).order == (1, 0), "by name, where names differ by capitals alone"
    assert match_labels(("Aa", "aA"), ("aa", "AA")).order is None
