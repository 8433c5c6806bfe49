"""What a diff says: numbers computed by hand, and words that follow from them."""

from __future__ import annotations

import io
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from allround.core.errors import AllroundError
from allround.merging.diff import Diff, Part, compare, diff
from allround.merging.diff.groups import group_of
from allround.merging.recipe import Model

#: A matrix with orthogonal rows of length 1, and one of rank 1.
ORTHOGONAL = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))[0]
RANK_ONE = torch.outer(torch.arange(1.0, 33), torch.linspace(-1, 1, 32))


def folder(path: Path, tensors: dict[str, Tensor], **files: Any) -> str:
    path.mkdir(parents=True)
    save_file({name: t.contiguous() for name, t in tensors.items()}, path / "model.safetensors")
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    return str(path)


def compared(tmp_path: Path, base: dict[str, Tensor], *changes: dict[str, Tensor], **options: Any) -> Diff:
    """The diff of models that differ from the base by these changes; they are called m1, m2, ..."""
    tuned = []
    for number, change in enumerate(changes, 1):
        tensors = {name: t + change[name] if name in change else t for name, t in base.items()}
        tuned.append(folder(tmp_path / f"m{number}", tensors))
    return diff(folder(tmp_path / "base", base), tuned, **options)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def part(found: Diff, name: str) -> Part:
    return next(p for p in (*found.tensors, *found.groups) if p.name == name)


def lines_with(found: Diff, word: str) -> list[str]:
    return [line for line in found.verdict() if word in line]


# Numbers.


def test_norms_shares_and_cosines_by_hand(tmp_path: Path) -> None:
    base = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.0, 12.0])}
    found = compared(tmp_path, base, {"a": torch.tensor([1.0, 0.0])},
                     {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([0.0, -2.0])})  # fmt: skip
    a, total = part(found, "a"), found.total
    assert a.base_norm == 5 and a.norm == pytest.approx([1, math.sqrt(2)])
    assert a.relative == pytest.approx([0.2, math.sqrt(2) / 5])
    assert a.changed == [0.5, 1.0] and a.largest == [1, 1]
    assert a.cosine == pytest.approx(1 / math.sqrt(2))
    assert total.base_norm == pytest.approx(13) and total.entries == 4 and total.tensors == 2
    assert total.relative == pytest.approx([1 / 13, math.sqrt(6) / 13])
    assert total.changed == [0.25, 0.75] and total.largest == [1, 2]
    assert total.cosine == pytest.approx(1 / math.sqrt(6))
    assert found.cosines == [pytest.approx([1, 1 / math.sqrt(6)]), pytest.approx([1 / math.sqrt(6), 1])]
    # The average is (1, 1/2, 0, -1): along (1, 0, 0, 0) it is 1, and along (1, 1, 0, -2) it is (1 + 1/2 + 2) / 6.
    assert found.kept == pytest.approx([1.0, 3.5 / 6])
    assert found.likeness[0] == pytest.approx((169 + 3) / 13 / math.sqrt(169 + 6 + 1))
    assert found.base == "base" and found.models == ["m1", "m2"]


def test_conflicts_by_hand(tmp_path: Path) -> None:
    # The root mean squares are 2 and 1, so what counts is above 0.2 and 0.1.
    one = torch.tensor([2.0, 2.0, 2.0, 2.0, 0.1, 4.0, 0.0, 0.0])
    two = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0, 0.05, 0.0, 0.0])
    found = compared(tmp_path, {"w": torch.ones(8)}, {"w": one}, {"w": two})
    w = part(found, "w")
    assert w.conflict == 0.5  # two of the first four
    assert w.chance == 0.5
    assert w.shared == pytest.approx(4 / 6)
    assert w.cancelled == pytest.approx(1 - (3 + 1 + 3 + 1 + 2.1 + 4.05) / (3 * 4 + 2.1 + 4.05), abs=1e-6)
    assert w.cosine == pytest.approx(0.4 / math.sqrt(32.01 * 8.0025), abs=1e-6)


def test_conflicts_of_three_models_compare_with_random_signs_of_those_that_change_an_entry(tmp_path: Path) -> None:
    one, two, three = torch.tensor([1.0, 1, 1, 0]), torch.tensor([1.0, -1, 0, 1]), torch.tensor([1.0, 0, -1, 1])
    w = part(compared(tmp_path, {"w": torch.ones(4)}, {"w": one}, {"w": two}, {"w": three}), "w")
    assert w.conflict == 0.5 and w.shared == 1
    assert w.chance == pytest.approx((0.75 + 3 * 0.5) / 4)


def test_conflicts_of_each_pair_by_hand(tmp_path: Path) -> None:
    # The root mean squares are sqrt(17/5), 1, 1, sqrt(1/5): of the first only what is above 0.18 counts, so not 0.1.
    one, two = torch.tensor([4.0, 1.0, 0.1, 0.0, 0.0]), torch.tensor([1.0, -1.0, -1.0, 1.0, 1.0])
    three, four = torch.tensor([-1.0, -1.0, 1.0, 1.0, -1.0]), torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0])
    base = {"w": torch.ones(5), "v": torch.ones(2)}
    found = compared(tmp_path, base, {"w": one}, {"w": two, "v": torch.ones(2)},
                     {"w": three, "v": torch.tensor([1.0, -1.0])}, {"w": four})  # fmt: skip
    # 1 and 2 share two entries of w and oppose in one; 2 and 3 share five of w and two of v, and oppose in 3 and 1.
    wanted = [[None, 1 / 2, 2 / 2, None], [1 / 2, None, 4 / 7, 0.0], [2 / 2, 4 / 7, None, 1.0], [None, 0.0, 1.0, None]]
    assert found.conflicts == [pytest.approx(row) for row in wanted]
    assert found.to_json()["conflicts"] == found.conflicts
    assert found.cosines[1][2] == pytest.approx((-1 + 1 - 1 + 1 - 1 + 1 - 1) / 7)
    # Above the diagonal the cosine, below it the conflict, on the page and on the console.
    text = io.StringIO()
    found.print(Console(file=text, width=80))
    row = next(line for line in text.getvalue().split("below the diagonal")[1].splitlines() if line.strip()[:1] == "3")
    assert row.split() == ["3", "100%", "57%", "1.00", "-0.38"]
    assert '<th scope="row">3</th><td>100%</td><td>57%</td><td>1.00</td><td>-0.38</td>' in found.html()


def test_rank_of_a_rank_one_and_of_an_orthogonal_change(tmp_path: Path) -> None:
    found = compared(tmp_path, {"w": torch.ones(32, 32)}, {"w": 0.01 * RANK_ONE}, {"w": 0.1 * ORTHOGONAL})
    w = part(found, "w")
    assert w.rank == pytest.approx([1, 32], rel=1e-3)
    assert w.held_by == [1, 29] and w.side == [32, 32]  # 29 of 32 is the first over 90%


@pytest.mark.parametrize("shape", [(40, 24), (24, 40)])
def test_the_spectrum_is_that_of_the_singular_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    change = random(*shape)
    shares = torch.linalg.svdvals(change.double()).square()
    shares /= shares.sum()
    w = part(compared(tmp_path, {"w": torch.zeros(shape)}, {"w": change}), "w")
    assert w.rank == pytest.approx([math.exp(-float((shares * shares.log()).sum()))], rel=1e-5)
    assert w.held_by == [int((shares.cumsum(0) < 0.9).sum()) + 1]
    assert w.relative == [None]  # there is nothing to compare it with


def test_no_spectrum_where_it_is_not_asked_for_and_a_note_where_a_matrix_is_too_large(tmp_path: Path) -> None:
    base, change = {"w": torch.ones(32, 32)}, {"w": ORTHOGONAL}
    found = compared(tmp_path / "a", base, change, spectrum=False)
    assert found.total.rank == [] and found.notes == [] and not lines_with(found, "rank")
    found = compared(tmp_path / "b", base, change, largest=31)
    assert found.total.rank == [] and "The spectrum of 1 matrix is left out" in found.notes[0]


def test_identical_models_give_zeros_and_no_nan(tmp_path: Path) -> None:
    base = {"layers.0.w": random(4, 4), "none": torch.empty(0, 3), "zero": torch.zeros(3), "one": torch.tensor(1.0)}
    found = compared(tmp_path, base, {}, {})
    assert found.total.norm == [0, 0] and found.total.relative == [0, 0] and found.total.changed == [0, 0]
    assert found.total.cosine is None and found.total.conflict is None and found.total.cancelled is None
    assert found.cosines == [[None, None], [None, None]] and found.kept == [None, None]
    assert found.verdict() == ["m1 and m2 have the same weights as base."]
    assert "none" not in {p.name for p in found.tensors}
    found.save(tmp_path / "out")
    assert "NaN" not in (tmp_path / "out" / "diff.json").read_text()


def test_one_model_alone(tmp_path: Path) -> None:
    found = compared(tmp_path, {"w": torch.ones(4)}, {"w": torch.tensor([0.5, 0, 0, 0])})
    assert found.verdict()[0] == "m1 changes the weights by 25% of their norm, in 25% of the entries."
    assert found.total.shared is None and found.cosines == [[pytest.approx(1)]]
    assert "Cosine" not in found.svg()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    base, tuned = torch.tensor([1.0, -3.0, 0.5]).to(dtype), torch.tensor([1.5, -3.0, 1.0]).to(dtype)
    found = diff(folder(tmp_path / "a", {"w": base}), [folder(tmp_path / "b", {"w": tuned})])
    assert found.total.norm == pytest.approx([math.sqrt(0.5)]) and found.total.changed == pytest.approx([2 / 3])
    assert found.differences == []


def test_a_small_change_of_float64_is_seen(tmp_path: Path) -> None:
    base = {"w": torch.ones(2, dtype=torch.float64)}
    found = compared(tmp_path, base, {"w": torch.tensor([0, 2.0**-40], dtype=torch.float64)})
    assert found.total.largest == [2.0**-40]


def test_blocks_give_what_the_whole_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = {"w": random(50, 40, seed=1), "v": random(700, seed=2)}
    changes = [{"w": random(50, 40, seed=s), "v": random(700, seed=s + 9)} for s in (3, 4, 5)]
    whole = compared(tmp_path, base, *changes).to_json()
    monkeypatch.setattr(compare, "stretches", lambda size, length: [(s, min(s + 40, size)) for s in range(0, size, 40)])
    blocks = diff(str(tmp_path / "base"), [str(tmp_path / f"m{n}") for n in (1, 2, 3)], workers=3).to_json()

    def flat(value: Any) -> list[Any]:
        if isinstance(value, dict):
            value = list(value.values())
        return [x for item in value for x in flat(item)] if isinstance(value, list) else [value]

    for one, other in zip(flat(whole), flat(blocks), strict=True):
        assert one == (pytest.approx(other, rel=1e-5, abs=1e-8) if isinstance(other, float) else other)


def test_large_values_are_no_trouble(tmp_path: Path) -> None:
    # The square of the mask's value is more than float32 holds.
    base = {"mask": torch.tensor([0.0, torch.finfo(torch.float32).min]), "w": torch.ones(2)}
    found = compared(tmp_path, base, {"w": torch.ones(2)})
    assert part(found, "mask").norm == [0] and found.total.norm == pytest.approx([math.sqrt(2)])
    found.save(tmp_path / "out")


def test_infinity_that_all_share_counts_as_unchanged(tmp_path: Path) -> None:
    base = {"w": torch.tensor([[0.0, -math.inf], [math.nan, 1.0]])}
    tuned = {"w": torch.tensor([[2.0, -math.inf], [math.nan, 1.0]])}
    found = diff(folder(tmp_path / "a", base), [folder(tmp_path / "b", tuned)])
    assert found.total.norm == [2] and found.total.base_norm == 1 and found.total.changed == [0.25]


@pytest.mark.parametrize(("model", "who"), [("second", "second holds NaN"), ("base", "the base base holds NaN")])
def test_nan_in_one_model_is_an_error_that_names_it(tmp_path: Path, model: str, who: str) -> None:
    paths = [
        folder(tmp_path / name, {"ok": torch.ones(2), "w": torch.tensor([1.0, math.nan if name == model else 2.0])})
        for name in ("base", "first", "second")
    ]
    with pytest.raises(AllroundError, match=who) as caught:
        diff(paths[0], paths[1:])
    assert "'w'" in caught.value.asked


def test_no_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match="no model was given"):
        diff("base", [])


# What belongs together, and what else differs.


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("model.layers.0.mlp.up_proj.weight", "layer 0"),
        ("transformer.h.11.attn.0.weight", "layer 11"),
        ("0_Transformer/encoder.layer.3.bias", "layer 3"),
        ("7.weight", "layer 7"),
        ("model.embed_tokens.weight", "embeddings"),
        ("embeddings.position_embeddings.weight", "embeddings"),
        ("transformer.wpe.weight", "embeddings"),
        ("lm_head.weight", "head and other"),
        ("embed_out.weight", "head and other"),
        ("2_Dense/linear.weight", "head and other"),
        ("conv1.weight", "head and other"),
    ],
)
def test_groups(name: str, group: str) -> None:
    assert group_of(name) == group


def test_groups_are_in_the_order_of_the_model_and_add_up(tmp_path: Path) -> None:
    names = ["head.weight", "layers.10.w", "layers.2.w", "layers.2.v", "embed.weight"]
    base = {name: torch.ones(4) for name in names}
    found = compared(tmp_path, base, {"layers.2.w": torch.full((4,), 3.0), "layers.2.v": torch.full((4,), 4.0)})
    assert [g.name for g in found.groups] == ["embeddings", "layer 2", "layer 10", "head and other"]
    assert part(found, "layer 2").norm == [10] and part(found, "layer 2").tensors == 2


def test_two_stacks_are_told_to_be_counted_together(tmp_path: Path) -> None:
    base = {f"{stack}.block.{n}.w": torch.ones(2) for stack in ("encoder", "decoder") for n in range(2)}
    assert "decoder.block and encoder.block are counted together" in compared(tmp_path, base, {}).notes[0]


def test_what_does_not_fit_is_listed_and_the_rest_compared(tmp_path: Path) -> None:
    base = {"w": torch.ones(4), "gone": torch.ones(2), "rows": torch.ones(3, 2), "ids": torch.arange(3)}
    first = {"w": torch.full((4,), 2.0), "rows": torch.ones(4, 2), "new": torch.ones(1), "ids": torch.arange(3)}
    second = {
        "w": torch.ones(4).bfloat16(),
        "gone": torch.zeros(2),
        "rows": torch.ones(3, 2),
        "ids": torch.arange(1, 4),
    }
    paths = [folder(tmp_path / n, t) for n, t in (("base", base), ("first", first), ("second", second))]
    found = diff(paths[0], paths[1:])
    assert {(d.what, d.name): d.models for d in found.differences} == {
        ("missing", "gone"): {"first": None},
        ("extra", "new"): {"first": "[1]"},
        ("shape", "rows"): {"first": "[4, 2]"},
        ("dtype", "weights that are F32 in the base"): {"second": "BF16"},
        ("values", "ids"): {"second": "other values"},
    }
    assert part(found, "gone").norm == [None, pytest.approx(math.sqrt(2))]
    assert found.total.norm == pytest.approx([2, math.sqrt(2)])
    # They have no changed weight in common, and the norms are of what both have.
    assert found.cosines[0][1] is None
    assert "1 missing, 1 not in the base, 1 of another shape" in lines_with(found, "fit")[0]
    text = io.StringIO()
    found.print(Console(file=text, width=80))
    assert "rows: [3, 2] in the base, [4, 2] in first" in text.getvalue()


def test_names_under_a_prefix_and_tied_layers_fit(tmp_path: Path) -> None:
    base = {"embed_tokens.weight": torch.ones(3, 2), "layers.0.weight": torch.ones(2)}
    tuned = {f"model.{n}": t + 1 for n, t in base.items()} | {"lm_head.weight": torch.full((3, 2), 2.0)}
    found = diff(folder(tmp_path / "a", base), [folder(tmp_path / "b", tuned, config={"tie_word_embeddings": True})])
    assert found.differences == [] and found.total.norm == pytest.approx([math.sqrt(8)])


def test_settings_and_tokenizers(tmp_path: Path) -> None:
    def tokenizer(*words: str, added: str = "[X]") -> dict[str, Any]:
        vocab = {word: n for n, word in enumerate(words)}
        return {"model": {"vocab": vocab}, "added_tokens": [{"content": added, "id": 9}]}

    tensors = {"w": torch.ones(2)}
    base = folder(tmp_path / "base", tensors, tokenizer=tokenizer("a", "b"),
                  config={"hidden": 8, "rope": {"theta": 1.0}, "transformers_version": "5.0", "old": 1})  # fmt: skip
    first = folder(tmp_path / "first", tensors, tokenizer=tokenizer("b", "c", "d"),
                   config={"hidden": 8, "rope": {"theta": 2.0}, "transformers_version": "4.0", "new": [1]})  # fmt: skip
    second = folder(tmp_path / "second", tensors, config={"hidden": 8, "rope": {"theta": 1.0}, "old": 1})
    found = diff(base, [first, second])
    assert {(d.what, d.name): (d.base, d.models) for d in found.differences} == {
        ("setting", "config.json: rope.theta"): ("1.0", {"first": "2.0"}),
        ("setting", "config.json: old"): ("1", {"first": None}),
        ("setting", "config.json: new"): (None, {"first": "[1]"}),
        ("tokenizer", "tokenizer.json"): (
            None, {"first": "2 tokens more, 1 tokens fewer, 1 tokens at other ids", "second": "not there"},
        ),
    }  # fmt: skip
    assert lines_with(found, "tokenizers differ")


def test_adapters_are_changes_of_the_base(tmp_path: Path) -> None:
    weight = random(32, 32).bfloat16()
    base = folder(tmp_path / "base", {"layers.0.q.weight": weight, "w": torch.ones(4)}, config={"model_type": "llama"})
    (tmp_path / "lora").mkdir()
    key = "base_model.model.layers.0.q.lora_{}.weight"
    factors = {key.format("A"): random(2, 32, seed=1), key.format("B"): random(32, 2, seed=2)}
    save_file(factors, tmp_path / "lora" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config))
    change = 2 * factors[key.format("B")] @ factors[key.format("A")]
    alone = diff(base, [str(tmp_path / "lora")])
    assert alone.total.norm == pytest.approx([float(change.norm())])
    assert alone.total.most[0] in (1, 2) and part(alone, "w").changed == [0] and alone.differences == []
    both = diff(base, [Model(base, (str(tmp_path / "lora"),))])
    assert both.models == ["lora"] and both.total.norm == pytest.approx(alone.total.norm, rel=1e-4)


def test_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [folder(tmp_path / n / "model", {"w": torch.ones(2)}) for n in ("a", "b", "c")]
    found = diff(paths[0], paths[1:])
    assert [found.base, *found.models] == ["a/model", "b/model", "c/model"]
    assert diff(paths[0], [paths[1], paths[1]]).models == ["b/model (1)", "b/model (2)"]


# Words.


def test_words_for_orthogonal_aligned_and_opposed_changes(tmp_path: Path) -> None:
    base = {"w": torch.ones(64, 64)}
    one, two = random(64, 64, seed=1) / 50, random(64, 64, seed=2) / 50
    found = compared(tmp_path / "a", base, {"w": one}, {"w": two})
    assert lines_with(found, "m1 and m2 are nearly orthogonal: cosine") and lines_with(
        found, "Expect averaging to weaken"
    )
    found = compared(tmp_path / "b", base, {"w": one}, {"w": one + two / 10})
    assert lines_with(found, "m1 and m2 are aligned: cosine 1.00") or lines_with(
        found, "m1 and m2 are aligned: cosine 0.99"
    )
    assert lines_with(found, "averaging to lose little")
    found = compared(tmp_path / "c", base, {"w": one}, {"w": -1.5 * one})
    assert lines_with(found, "m1 and m2 are opposed: cosine -1.00") and lines_with(found, "averaging to undo m1")
    assert lines_with(found, "conflict in 100% (50% if signs were random)")
    found = compared(tmp_path / "d", base, {"w": one}, {"w": two}, {"w": -one})
    assert lines_with(found, "range from opposed (m1 and m3: cosine -1.00) to nearly orthogonal (")


def test_words_for_changes_of_different_weights_and_sizes(tmp_path: Path) -> None:
    left, right = torch.zeros(20), torch.zeros(20)
    left[:11], right[10:] = 1, 5
    found = compared(tmp_path, {"w": torch.full((20,), 100.0)}, {"w": left}, {"w": right})
    assert lines_with(found, "mostly in different weights") and lines_with(found, "5% are by more than one model")
    assert lines_with(found, "m2 changes 4.8 times as much as m1")


def test_words_for_where_the_change_is(tmp_path: Path) -> None:
    base = {f"layers.{n}.w": torch.ones(16) for n in range(8)} | {"embed.weight": torch.ones(16)}
    one = torch.ones(16)
    found = compared(tmp_path / "a", base, {"layers.5.w": one, "layers.6.w": one, "layers.1.w": one / 8})
    assert lines_with(found, "of the change is in layers 5 to 6, of 8 layers")
    found = compared(tmp_path / "b", base, {name: one for name in base if "layers" in name})
    assert lines_with(found, "spread over the depth: three quarters of its squared norm take 6 of 8 layers")
    found = compared(tmp_path / "c", base, {"embed.weight": one, "layers.1.w": one / 8})
    assert lines_with(found, "of the squared change is in the embeddings (11% of the entries)")


def test_words_for_rank(tmp_path: Path) -> None:
    base = {"w": torch.ones(32, 32)}
    low = {"w": RANK_ONE / 100}
    assert lines_with(compared(tmp_path / "a", base, low), "The change is low-rank: in the median matrix 1 of 32")
    found = compared(tmp_path / "b", base, low, {"w": ORTHOGONAL})
    assert lines_with(found, "m1 is low-rank") and lines_with(found, "m2 is not low-rank")


def test_a_model_without_a_common_base_is_called_unrelated(tmp_path: Path) -> None:
    found = diff(
        folder(tmp_path / "a", {"w": random(40, 40, seed=1)}), [folder(tmp_path / "b", {"w": random(40, 40, seed=2)})]
    )
    assert lines_with(found, "b has little in common with a")
    assert not lines_with(compared(tmp_path, {"w": torch.ones(4)}, {"w": torch.full((4,), 0.01)}), "in common")


# Files.


def some(tmp_path: Path, models: int = 3, layers: int = 4, name: str = "m{}") -> Diff:
    base = {f"layers.{n}.w": random(20, 20, seed=n) for n in range(layers)} | {"embed.weight": random(30, 20)}
    paths = [
        folder(tmp_path / name.format(m), {n: t + random(*t.shape, seed=m + 50) / 50 for n, t in base.items()})
        for m in range(models)
    ]
    return diff(folder(tmp_path / "base", base), paths)


def test_json_there_and_back(tmp_path: Path) -> None:
    found = some(tmp_path)
    text = json.dumps(found.to_json(), allow_nan=False)
    assert Diff.from_json(json.loads(text)) == found
    found.save(tmp_path / "out")
    assert Diff.load(tmp_path / "out") == found
    assert sorted(p.name for p in (tmp_path / "out").glob("[!.]*")) == ["diff.html", "diff.json", "diff.svg"]
    with pytest.raises(AllroundError, match="not what `allround diff` writes"):
        Diff.from_json({"format": "other"})


@pytest.mark.parametrize(("models", "layers"), [(1, 0), (1, 1), (2, 2), (8, 3), (12, 50)])
def test_the_picture_is_xml_that_needs_nothing_from_outside(tmp_path: Path, models: int, layers: int) -> None:
    svg = some(tmp_path, models, layers).svg()
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not re.search(r"nan|inf\b|href|url\(|<script", svg)
    assert svg.count("http") == 1  # the name of SVG itself


def test_the_picture_is_the_same_each_time_and_names_what_the_reader_points_at(tmp_path: Path) -> None:
    found = some(tmp_path)
    text = found.svg()
    assert text == found.svg()
    titles = [e.text for e in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}title")]
    first = 100 * (next(g for g in found.groups if g.name == "layer 1").relative[0] or 0)
    assert f"m0, layer 1: {first:.3g}" in titles
    assert f"m0 and m2: {found.cosines[0][2]:.2f}" in titles


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    found = some(tmp_path, name='<b>&"{}[red]')
    svg, html = found.svg(), found.html()
    texts = [e.text for e in ElementTree.fromstring(svg).iter() if e.text]
    assert any('<b>&"1[red]' in text for text in texts)
    assert "<b>" not in svg and "<b>" not in html and "&lt;b&gt;&amp;" in html
    text = io.StringIO()
    found.print(Console(file=text, width=200))
    assert '<b>&"1[red]' in text.getvalue()


@pytest.mark.parametrize("models", [1, 3, 9])
def test_printing_fits_the_console_in_ascii(tmp_path: Path, models: int) -> None:
    text = io.StringIO()
    some(tmp_path, models).print(Console(file=text, width=80))
    said = text.getvalue()
    assert said.isascii() and max(map(len, said.splitlines())) <= 80
    assert "layer 3" in said and "embeddings" in said and "..." not in said
