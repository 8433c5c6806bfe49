"""Different vocabularies: the rows of one tokenizer, and nothing but the rows that are needed is read."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from allround.checkpoints.weights import Weights
from allround.core.errors import AllroundError
from allround.merging.finish import Configure, SetTemplate
from allround.merging.layout import make_plan
from allround.merging.plan import Plan
from allround.merging.recipe import Model, Recipe, Token, Tokenizer
from allround.merging.recipe_file import read_recipe
from allround.merging.run import run_plan
from allround.merging.tokenizers import open_tokenizer
from allround.merging.vocabulary import align

pytest.importorskip("transformers")

WIDTH = 2
#: The words of each model, by their numbers.
WORDS = {
    "base": ["<unk>", "the", "cat", "sat"],
    "first": ["<unk>", "cat", "dog", "the"],
    "second": ["<unk>", "dog", "the", "ran", "bird"],
}


def write_tokenizer(path: Path, words: Sequence[str], special: Sequence[str] = ()) -> None:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    if special:
        fast.add_tokens([AddedToken(one, special=True) for one in special])
    fast.save_pretrained(path)


def rows(first: float, count: int) -> Tensor:
    """Row n is [first + n, -(first + n)]."""
    return torch.tensor([[first + n, -(first + n)] for n in range(count)], dtype=torch.float32)


def write_model(
    path: Path, first: float, words: Sequence[str], special: Sequence[str] = (), *, size: int | None = None,
    tied: bool = False, weights: Mapping[str, Tensor] | None = None,
) -> Path:  # fmt: skip
    path.mkdir()
    size = len(words) + len(special) if size is None else size
    tensors = {"model.embed_tokens.weight": rows(first, size), "model.norm.weight": torch.full((WIDTH,), float(first))}
    if not tied:
        tensors["lm_head.weight"] = rows(first + 1000, size)
    save_file(dict(weights) if weights is not None else tensors, path / "model.safetensors")
    config = {"vocab_size": size, "tie_word_embeddings": tied, "num_hidden_layers": 1}
    (path / "config.json").write_text(json.dumps(config))
    write_tokenizer(path, words, special)
    return path


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for number, (name, words) in enumerate(WORDS.items()):
        write_model(tmp_path / name, 10.0 * number, words)
    return tmp_path


def recipe(folder: Path, *names: str, base: str | None = "base", method: str = "average", **options: Any) -> Recipe:
    path = Model(str(folder / base)) if base else None
    return Recipe(method, tuple(Model(str(folder / name)) for name in names), path, **options)


def carry_out(plan: Plan, out: Path) -> dict[str, Tensor]:
    out.mkdir()
    run_plan(plan, out, workers=1)
    for step in plan.finish:
        step(out)
    return load_file(out / "model.safetensors")


def by_token(out: Path, tensor: Tensor) -> dict[str, float]:
    """Token -> the first number of its row; every second number must be the first, negated."""
    torch.testing.assert_close(tensor[:, 0], -tensor[:, 1], rtol=0, atol=1e-5)
    return {token: tensor[row, 0].item() for token, row in open_tokenizer(out).get_vocab().items()}


# --- Sources of the tokenizer

# Own rows: base 0.. (the 1, cat 2, sat 3), first 10.. (cat 11, dog 12, the 13), second 20.. (dog 21, the 22, ran 23,
# bird 24). dog: neither is the base, so models without it take the mean 16.5; sat, ran, bird have one owner each.
UNION = {
    "<unk>": (0 + 10 + 20) / 3,
    "the": (1 + 13 + 22) / 3,
    "cat": (2 + 11 + 2) / 3,  # the second takes the base's
    "sat": 3.0,
    "dog": (16.5 + 12 + 21) / 3,
    "ran": 23.0,
    "bird": 24.0,
}


def average_of_three(folder: Path, tokenizer: Tokenizer) -> Recipe:
    """base + mean over (base, first, second) of the changes: the mean of the three."""
    return recipe(folder, "base", "first", "second", tokenizer=tokenizer)


def test_union_by_hand(models: Path) -> None:
    plan = make_plan(average_of_three(models, Tokenizer("union")))
    merged = carry_out(plan, models / "out")
    found = by_token(models / "out", merged["model.embed_tokens.weight"])
    assert found == pytest.approx(UNION, abs=1e-5)
    head = by_token(models / "out", merged["lm_head.weight"])
    assert head == pytest.approx({token: value + 1000 for token, value in UNION.items()}, abs=1e-3)
    assert merged["model.norm.weight"].tolist() == [10.0, 10.0]
    assert json.loads((models / "out" / "config.json").read_text())["vocab_size"] == 7


def test_union_keeps_the_bases_numbers_and_adds_by_model(models: Path) -> None:
    carry_out(make_plan(average_of_three(models, Tokenizer("union"))), models / "out")
    tokens = sorted(open_tokenizer(models / "out").get_vocab().items(), key=lambda item: item[1])
    assert [token for token, _ in tokens] == ["<unk>", "the", "cat", "sat", "dog", "ran", "bird"]
    assert open_tokenizer(models / "out")("the dog sat")["input_ids"] == [1, 4, 3]


def test_base_by_hand(models: Path) -> None:
    plan = make_plan(average_of_three(models, Tokenizer("base")))
    merged = carry_out(plan, models / "out")
    found = by_token(models / "out", merged["model.embed_tokens.weight"])
    assert found == pytest.approx({token: UNION[token] for token in WORDS["base"]}, abs=1e-5)


def test_a_model_by_hand(models: Path) -> None:
    plan = make_plan(average_of_three(models, Tokenizer(Model(str(models / "second")))))
    merged = carry_out(plan, models / "out")
    found = by_token(models / "out", merged["model.embed_tokens.weight"])
    assert found == pytest.approx({token: UNION[token] for token in WORDS["second"]}, abs=1e-5)
    assert open_tokenizer(models / "out")("bird")["input_ids"] == [4]


def test_without_a_base_the_mean_of_the_owners(models: Path) -> None:
    plan = make_plan(recipe(models, "base", "first", "second", base=None, tokenizer=Tokenizer("union")))
    found = by_token(models / "out", carry_out(plan, models / "out")["model.embed_tokens.weight"])
    assert found == pytest.approx({**UNION, "cat": (2 + 11 + 6.5) / 3}, abs=1e-5)


def test_one_model_may_be_preferred_without_a_base(models: Path) -> None:
    wanted = Tokenizer("union", prefer=Model(str(models / "first")))
    plan = make_plan(recipe(models, "base", "first", "second", base=None, tokenizer=wanted))
    found = by_token(models / "out", carry_out(plan, models / "out")["model.embed_tokens.weight"])
    assert found == pytest.approx({**UNION, "cat": (2 + 11 + 11) / 3, "dog": (12 + 12 + 21) / 3}, abs=1e-5)


# --- Single tokens


def test_sources_of_single_tokens(models: Path) -> None:
    first, second = Model(str(models / "first")), Model(str(models / "second"))
    tokens = {
        "cat": Token(first, force=True),  # 11 for all
        "sat": Token(zero=True),  # the base keeps its own: (3 + 0 + 0) / 3
        "the": Token(zero=True, force=True),
        "dog": Token(second),  # the base takes 21: (21 + 12 + 21) / 3
        "ran": Token(first, "dog"),  # (12 + 12 + 23) / 3
        "new": Token(second, 4),  # 24 for all: nobody has it
    }
    plan = make_plan(average_of_three(models, Tokenizer("union", tokens)))
    found = by_token(models / "out", carry_out(plan, models / "out")["model.embed_tokens.weight"])
    wanted = {"cat": 11.0, "sat": 1.0, "the": 0.0, "dog": 18.0, "ran": 47 / 3, "new": 24.0}
    assert found == pytest.approx({**UNION, **wanted}, abs=1e-5)


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (Token(Model("elsewhere")), ("'dog'", "elsewhere", "not merged")),
        (Token(Model("base")), ("it has no token 'dog'",)),
        (Token(Model("base"), "none"), ("it has no token 'none'",)),
        (Token(Model("base"), 4), ("it has no token 4",)),
    ],
)
def test_sources_that_are_not_there(models: Path, token: Token, words: tuple[str, ...]) -> None:
    if token.source == Model("base"):
        token = Token(Model(str(models / "base")), token.token)
    with pytest.raises(AllroundError) as caught:
        make_plan(average_of_three(models, Tokenizer("union", {"dog": token})))
    for word in words:
        assert word in str(caught.value)


def test_rows_are_filled_up_with_the_mean(models: Path) -> None:
    plan = make_plan(average_of_three(models, Tokenizer("union", multiple_of=5)))
    merged = carry_out(plan, models / "out")["model.embed_tokens.weight"]
    assert merged.shape == (10, WIDTH)
    torch.testing.assert_close(merged[7:], merged[:7].mean(0).expand(3, -1))
    assert json.loads((models / "out" / "config.json").read_text())["vocab_size"] == 10


# --- Odd models


def test_special_tokens_come_last_with_their_settings(tmp_path: Path) -> None:
    write_model(tmp_path / "base", 0, ["<unk>", "a"], ["<s>"])
    write_model(tmp_path / "first", 10, ["<unk>", "b"], ["<x>", "<s>"])
    plan = make_plan(recipe(tmp_path, "first", tokenizer=Tokenizer("union")))
    found = by_token(tmp_path / "out", carry_out(plan, tmp_path / "out")["model.embed_tokens.weight"])
    assert found == {"<unk>": 10, "a": 1, "<s>": 13, "b": 11, "<x>": 12}
    added = open_tokenizer(tmp_path / "out").added_tokens_decoder
    assert {row: (str(t.content), t.special) for row, t in added.items()} == {
        0: ("<unk>", True),
        2: ("<s>", True),
        3: ("b", False),
        4: ("<x>", True),
    }


def test_a_token_after_one_that_is_missing_is_read(tmp_path: Path) -> None:
    # Row 0 of the model follows a row it has not: not the row before its first.
    write_model(tmp_path / "base", 0, ["<unk>", "a", "z"])
    write_model(tmp_path / "first", 10, ["z", "<unk>"])
    plan = make_plan(recipe(tmp_path, "first", tokenizer=Tokenizer("base")))
    found = by_token(tmp_path / "out", carry_out(plan, tmp_path / "out")["model.embed_tokens.weight"])
    assert found == {"<unk>": 11, "a": 1, "z": 10}


def test_rows_that_only_fill_up_a_model_are_left_behind(tmp_path: Path) -> None:
    write_model(tmp_path / "base", 0, ["<unk>", "a"], size=8)
    write_model(tmp_path / "first", 10, ["<unk>", "a", "b"], size=4)
    plan = make_plan(recipe(tmp_path, "first", tokenizer=Tokenizer("union")))
    found = by_token(tmp_path / "out", carry_out(plan, tmp_path / "out")["model.embed_tokens.weight"])
    assert found == {"<unk>": 10, "a": 11, "b": 12}


@pytest.mark.parametrize("source", ["base", "union"])
def test_rows_that_are_left_behind_are_said(tmp_path: Path, source: str) -> None:
    write_model(tmp_path / "base", 0, ["<unk>", "a"], size=8)
    write_model(tmp_path / "first", 10, ["<unk>", "a"], size=3)
    notes = make_plan(recipe(tmp_path, "first", tokenizer=Tokenizer(source))).notes
    assert [note.removeprefix(str(tmp_path)) for note in notes] == [
        "/base: the last 6 rows of its 8 for tokens belong to no token; the merged model has 2, without them",
        "/first: the last 1 row of its 3 for tokens belong to no token; the merged model has 2, without them",
    ]


def test_tokens_without_a_row_are_nobodys(tmp_path: Path) -> None:
    write_model(tmp_path / "base", 0, ["<unk>", "a", "b"], size=2)  # b has no row
    write_model(tmp_path / "first", 10, ["<unk>", "b", "c"], size=2)  # c has no row
    plan = make_plan(recipe(tmp_path, "first", tokenizer=Tokenizer("union")))
    found = by_token(tmp_path / "out", carry_out(plan, tmp_path / "out")["model.embed_tokens.weight"])
    assert found == {"<unk>": 10, "a": 1, "b": 11}


def test_tied_models_and_others(tmp_path: Path) -> None:
    write_model(tmp_path / "base", 0, ["<unk>", "a"])
    write_model(tmp_path / "first", 10, ["<unk>", "b"], tied=True)
    plan = make_plan(recipe(tmp_path, "first", tokenizer=Tokenizer("union")))
    merged = carry_out(plan, tmp_path / "out")
    # The tied model's embedding is its output, too; for `a` it takes what the base has there.
    assert by_token(tmp_path / "out", merged["model.embed_tokens.weight"]) == {"<unk>": 10, "a": 1, "b": 11}
    assert by_token(tmp_path / "out", merged["lm_head.weight"]) == {"<unk>": 10, "a": 1001, "b": 11}


def test_a_model_without_a_tokenizer_has_the_first_ones(models: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (models / "first" / name).unlink()
    plan = make_plan(recipe(models, "first", tokenizer=Tokenizer("base")))
    assert "has no tokenizer" in plan.notes[0]
    found = by_token(models / "out", carry_out(plan, models / "out")["model.embed_tokens.weight"])
    assert found == {"<unk>": 10, "the": 11, "cat": 12, "sat": 13}


def test_a_base_without_a_tokenizer_is_an_error(models: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (models / "base" / name).unlink()
    with pytest.raises(AllroundError, match="open the tokenizer of"):
        make_plan(recipe(models, "first", tokenizer=Tokenizer("base")))


def test_widths_must_agree(tmp_path: Path) -> None:
    write_model(tmp_path / "base", 0, ["<unk>", "a"])
    wide = {"model.embed_tokens.weight": torch.ones(2, 3)}
    write_model(tmp_path / "first", 0, ["<unk>", "a"], weights=wide)
    with pytest.raises(AllroundError, match="one width"):
        make_plan(recipe(tmp_path, "first", tokenizer=Tokenizer("union")))


def test_byte_pairs(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Fast
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    for name, pairs in {"base": [("a", "b")], "first": [("b", "c")]}.items():
        vocabulary = {token: n for n, token in enumerate(["a", "b", "c", *("".join(pair) for pair in pairs)])}
        write_model(tmp_path / name, 0.0 if name == "base" else 10.0, list(vocabulary))
        fast = PreTrainedTokenizerFast(tokenizer_object=Fast(kinds.BPE(vocabulary, pairs)))
        fast.save_pretrained(tmp_path / name)
    plan = make_plan(recipe(tmp_path, "first", tokenizer=Tokenizer("union")))
    found = by_token(tmp_path / "out", carry_out(plan, tmp_path / "out")["model.embed_tokens.weight"])
    assert found == {"a": 10, "b": 11, "c": 12, "ab": 3, "bc": 13}


# --- Reading


def test_any_stretch_is_the_same_as_the_whole(models: Path) -> None:
    named = [Model(str(models / name)) for name in WORDS]
    sources = [Weights(models / name) for name in WORDS]
    aligned, _, count = align(Tokenizer("union", multiple_of=4), named, sources, True, [])
    assert count == 8
    for source in [*aligned, pickle.loads(pickle.dumps(aligned[1]))]:
        for name in source:
            whole = source.read(name)
            size = whole.numel()
            assert size == source.numel(name)
            for start in range(size):
                for stop in range(start, size + 1):
                    assert torch.equal(source.read(name, start, stop), whole[start:stop])


def test_only_what_is_needed_is_read(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = [Model(str(models / name)) for name in ("base", "second")]
    aligned, _, _ = align(Tokenizer("base"), named, [Weights(m.path) for m in named], True, [])
    read: list[tuple[str, int, int]] = []
    plain = Weights.read

    def watched(self: Weights, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        assert stop is not None
        read.append((self.path.name, start, stop))
        return plain(self, name, start, stop)

    monkeypatch.setattr(Weights, "read", watched)
    aligned[1].read("model.embed_tokens.weight")
    # <unk> and `the` are its own rows 0 and 2; `cat` and `sat` are the base's rows 2 and 3.
    assert sorted(read) == [("base", 4, 6), ("base", 6, 8), ("second", 0, 2), ("second", 4, 6)]


def test_what_is_watched_is_what_is_merged(models: Path) -> None:
    named = [Model(str(models / name)) for name in ("base", "second")]
    aligned, _, _ = align(Tokenizer("base"), named, [Weights(m.path) for m in named], True, [])
    seen: list[tuple[str, int, list[float]]] = []
    aligned[1].watch = lambda name, start, values: seen.append((name, start, values.tolist()))
    aligned[1].read("model.embed_tokens.weight", 2, 5)
    aligned[1].read("model.norm.weight")
    assert seen == [("model.embed_tokens.weight", 2, [22, -22, 2]), ("model.norm.weight", 0, [20, 20])]


def test_the_files_of_the_base_are_kept_as_they_are(models: Path) -> None:
    weights = load_file(models / "base" / "model.safetensors")
    (models / "base" / "model.safetensors").unlink()
    parts = {"model-1.safetensors": ["lm_head.weight"], "model-2.safetensors": ["model.embed_tokens.weight",
                                                                               "model.norm.weight"]}  # fmt: skip
    for file, names in parts.items():
        save_file({name: weights[name] for name in names}, models / "base" / file)
    plan = make_plan(recipe(models, "first", tokenizer=Tokenizer("union")))
    assert {shard.file: [item.name for item in shard.items] for shard in plan.shards} == parts


# --- From recipe files


def test_in_a_recipe_file(models: Path) -> None:
    (models / "recipe.yml").write_text(
        "{base: base, models: [base, first, second], method: average, tokenizer: union, chat_template: chatml}"
    )
    (stage,) = read_recipe(models / "recipe.yml")
    found = by_token(models / "out", carry_out(stage.plan(), models / "out")["model.embed_tokens.weight"])
    assert found == pytest.approx(UNION, abs=1e-5)
    template = open_tokenizer(models / "out").apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert template == "<|im_start|>user\nhi<|im_end|>\n"


def test_in_a_recipe_of_mergekits(models: Path) -> None:
    (models / "recipe.yml").write_text(
        "{base_model: base, models: [{model: first}, {model: second}], merge_method: linear, parameters: {weight: 1},"
        " tokenizer_source: union}"
    )
    (stage,) = read_recipe(models / "recipe.yml", compat="mergekit")
    found = by_token(models / "out", carry_out(stage.plan(), models / "out")["model.embed_tokens.weight"])
    assert found == pytest.approx(UNION, abs=1e-5)


# --- Finishing


def test_the_template_that_most_models_have(models: Path) -> None:
    (models / "base" / "chat_template.jinja").write_text("{{ one }}")
    for name in ("first", "second"):
        config = json.loads((models / name / "tokenizer_config.json").read_text())
        listed = [{"name": "default", "template": "{{ two }}\n"}] if name == "first" else "{{ two }}"
        (models / name / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": listed}))
    plan = make_plan(recipe(models, "first", "second", chat_template="auto", on_mismatch="keep-base"))
    assert plan.finish == [SetTemplate("{{ two }}")]
    make_plan(recipe(models, "first", chat_template="{{ mine }}", on_mismatch="keep-base")).finish[0](models / "base")
    assert (models / "base" / "chat_template.jinja").read_text() == "{{ mine }}"


def test_a_template_stands_in_one_place(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "old", "other": 1}')
    SetTemplate("{{ new }}")(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == {"other": 1}
    SetTemplate(None)(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == "{{ new }}"


def test_configurations_are_changed_where_they_hold_a_value(tmp_path: Path) -> None:
    config = {"text": {"vocab_size": 1, "dtype": "x", "n": 1}, "torch_dtype": "x", "n": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    Configure({"vocab_size": 3, "dtype": "y", "n": 4, "text.n": 5, "none.n": 6, "new": 7})(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "text": {"vocab_size": 3, "dtype": "y", "n": 5},
        "torch_dtype": "y",
        "n": 4,
        "new": 7,
    }
    Configure({"n": 1})(tmp_path / "none")
